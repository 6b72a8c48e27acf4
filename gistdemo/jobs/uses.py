"""Which jobs hold on to a checkpoint. No torch."""

from __future__ import annotations

from gistdemo.jobs.queue import Jobs
from gistdemo.jobs.record import Job


def users_of(checkpoint: str, jobs: Jobs) -> list[Job]:
    """Jobs that run or wait and need a checkpoint: they train on it, write it, or measure it."""
    return [job for job in jobs.list() if not job.is_final and checkpoint in _needed(job)]


def _needed(job: Job) -> set[str]:
    settings = job.settings
    if job.kind == "train":
        return {settings.get("name", ""), settings.get("backbone", "")}
    return set(settings.get("checkpoints", ())) if job.kind == "evaluate" else set()
