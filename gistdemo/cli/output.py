"""What several commands print alike."""

from __future__ import annotations

import argparse
import logging
from typing import TypeAlias

from gistdemo.jobs.record import Job

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def tell_queued(job: Job) -> int:
    """Say how to watch a job that was put into the queue. Returns the exit status."""
    print(f"{job.id}\nWatch it with: python -m gistdemo jobs show {job.id}")
    return 0


def log_to_stderr(*more: logging.Handler) -> None:
    """What a run says while it goes on, to stderr and to further places."""
    for handler in (*more, logging.StreamHandler()):
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logging.getLogger("gistdemo").addHandler(handler)
    logging.getLogger("gistdemo").setLevel(logging.INFO)
    logging.getLogger("gistdemo").propagate = False
