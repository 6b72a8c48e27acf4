"""What several commands print alike."""

from __future__ import annotations

import logging
from typing import Any

from gistdemo.jobs.queue import Jobs
from gistdemo.settings import Settings


def enqueue(settings: Settings, kind: str, values: dict[str, Any], title: str) -> int:
    jobs = Jobs(settings.runs_dir)
    job = jobs.submit(kind, values, title)
    jobs.tick()
    print(f"{job.id}\nWatch it with: python -m gistdemo jobs show {job.id}")
    return 0


def log_to_stderr(*more: logging.Handler) -> None:
    """What a run says while it goes on, to stderr and to further places."""
    for handler in (*more, logging.StreamHandler()):
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logging.getLogger("gistdemo").addHandler(handler)
    logging.getLogger("gistdemo").setLevel(logging.INFO)
    logging.getLogger("gistdemo").propagate = False
