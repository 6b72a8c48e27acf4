"""Keeps an eye on the jobs of an installation for as long as a process lives: how far they are, and what is due in the queue. No torch."""

from __future__ import annotations

import logging
import threading

from gistdemo.jobs.progress import Progress, ProgressReader
from gistdemo.jobs.queue import Jobs
from gistdemo.jobs.record import Job

log = logging.getLogger(__name__)


class Watch:
    """Reads every job's files once for all pages, and does what is due in the queue, also while no page is open."""

    def __init__(self, jobs: Jobs):
        self.jobs = jobs
        self._readers: dict[str, ProgressReader] = {}
        self._lock = threading.Lock()
        threading.Thread(target=self._tick_for_ever, name="jobs", daemon=True).start()

    def progress(self, job: Job) -> Progress:
        with self._lock:
            reader = self._readers.setdefault(job.id, ProgressReader(self.jobs.folder(job.id)))
            return reader.read(job.settings.get("steps"))

    def _tick_for_ever(self) -> None:
        pause = threading.Event()
        while not pause.wait(1.0):
            try:
                self.jobs.tick()
            except Exception:
                log.exception("looking after the jobs failed; trying again")
