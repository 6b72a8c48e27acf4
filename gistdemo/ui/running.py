"""Which comparison each open page is watching."""

from __future__ import annotations

import threading


class Running:
    """The comparison that each open page is watching, so that Stop and a newer request can end it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: dict[str, threading.Event] = {}

    def start(self, page: str) -> threading.Event:
        """End the page's earlier comparison and return the stop event of the new one."""
        event = threading.Event()
        with self._lock:
            earlier, self._events[page] = self._events.get(page), event
        if earlier:
            earlier.set()
        return event

    def is_current(self, page: str, event: threading.Event) -> bool:
        with self._lock:
            return self._events.get(page) is event

    def has(self, page: str) -> bool:
        with self._lock:
            return page in self._events

    def stop(self, page: str) -> bool:
        """Returns whether there was something to stop."""
        with self._lock:
            event = self._events.get(page)
        if event:
            event.set()
        return event is not None

    def finish(self, page: str, event: threading.Event) -> None:
        with self._lock:
            if self._events.get(page) is event:
                del self._events[page]
