"""Sources of examples to choose from: the set written for this project, a file, or a hub dataset. No torch."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from gistdemo.data.alpaca import read_rows
from gistdemo.prompts import Example
from gistdemo.settings import Settings

EMBEDDED, OWN_EXAMPLES = "embedded", "embedded examples"  # what command line and forms call those written for this project


@dataclass(frozen=True)
class Listed:
    """One example in a list: its number (1, 2, ...) there, and its category ("" where the source has none)."""

    number: int
    category: str
    example: Example


class ExampleSources:
    """Reads each source once and keeps it. Thread-safe."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._lock = threading.Lock()
        self._known: dict[str, tuple[Listed, ...]] = {}

    def load(self, source: str) -> tuple[Listed, ...]:
        """All examples of a source: the file of the embedded ones, or what `read_rows` takes.

        Raises: DataError: see `read_rows`.
        """
        with self._lock:
            if source not in self._known:
                self._known[source] = self._embedded() if source == str(self._settings.examples_file) else _numbered(source)
            return self._known[source]

    def _embedded(self) -> tuple[Listed, ...]:
        lines = self._settings.examples_file.read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines if line.strip()]
        return tuple(Listed(n, r["category"], Example(r["instruction"], r["input"], r["output"])) for n, r in enumerate(records, 1))


def _numbered(source: str) -> tuple[Listed, ...]:
    rows = read_rows(source, need_output=False)
    return tuple(Listed(n, "", example) for n, example in enumerate(rows.examples, 1))


def search(listed: Sequence[Listed], text: str = "", category: str = "", has_input: bool | None = None) -> list[Listed]:
    """Examples whose instruction, input or category contains every word of `text` (case ignored), in list order.

    category: "" for any. has_input: None for any.
    """
    words = text.casefold().split()

    def fits(item: Listed) -> bool:
        if (category and item.category != category) or (has_input is not None and bool(item.example.input) != has_input):
            return False
        where = f"{item.example.instruction} {item.example.input} {item.category}".casefold()
        return all(word in where for word in words)

    return [item for item in listed if fits(item)]


def surprise(listed: Sequence[Listed]) -> Listed:
    """One of the examples, at random."""
    return random.choice(listed)
