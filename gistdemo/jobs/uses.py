"""Which jobs hold on to a checkpoint, and what may be done to checkpoints in view of them. No torch."""

from __future__ import annotations

import os
from pathlib import Path

from gistdemo.checkpoint.archive import delete, unpack
from gistdemo.checkpoint.registry import list_checkpoints
from gistdemo.jobs.queue import Jobs
from gistdemo.jobs.record import Job
from gistdemo.settings import Settings


def users_of(checkpoint: str, jobs: Jobs, folder: Path | None = None) -> list[Job]:
    """Jobs that run or wait and need a checkpoint: they write it, train on it or measure it, under its name or (where given) as its folder."""
    return [job for job in jobs.list() if not job.is_final and any(_is(value, checkpoint, folder) for value in _needed(job))]


def import_checkpoint(archive: Path, settings: Settings, jobs: Jobs) -> str:
    """Take a checkpoint in from a zip, beside those made here. Returns its name.

    Raises: CheckpointError: see `unpack`; a name that a job is about to write is taken as well.
    """
    taken = {entry.name for entry in list_checkpoints(settings.checkpoint_dirs)}
    taken |= {job.settings.get("name", "") for job in jobs.list() if job.kind == "train" and not job.is_final}
    return unpack(archive, settings.checkpoint_dirs[-1], taken)


def delete_checkpoint(name: str, settings: Settings, jobs: Jobs) -> None:
    """Remove a checkpoint made or imported here that no job needs.

    Raises: CheckpointError: a job that runs or waits needs it (named by its title); see `delete` for the others.
    """
    own = settings.checkpoint_dirs[-1]
    delete(name, own, settings.shipped_checkpoints_dir, [job.title for job in users_of(name, jobs, own / name)])


def _needed(job: Job) -> list[str]:
    if job.kind == "train":
        return [job.settings.get("name", ""), job.settings.get("backbone", "")]
    return list(job.settings.get("checkpoints", ())) if job.kind == "evaluate" else []


def _is(value: str, checkpoint: str, folder: Path | None) -> bool:
    if value == checkpoint:
        return True
    # isdir is False, where samefile would raise, for what is not there and for names that no path can have
    return folder is not None and os.path.isdir(value) and os.path.isdir(folder) and os.path.samefile(value, folder)
