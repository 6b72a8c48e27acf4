"""What may be done, and under which rules: page and command line start and change things through these functions. No torch.

start_training, start_evaluation, start_simulation   put a job into the queue
import_checkpoint, delete_checkpoint                 checkpoints made or taken in here
"""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import Any

from gistdemo.checkpoint.archive import delete, unpack
from gistdemo.checkpoint.registry import list_checkpoints
from gistdemo.data.alpaca import read_rows
from gistdemo.errors import UsageError
from gistdemo.evaluate.request import EvaluationRequest
from gistdemo.jobs.kinds import EVALUATE, KINDS, SIMULATE, TRAIN
from gistdemo.jobs.queue import Jobs
from gistdemo.jobs.record import Job
from gistdemo.settings import Settings
from gistdemo.train.config import TrainConfig

PLACES = ("data", "validation", "held_out", "backbone", "checkpoints")  # fields of settings that may name files or folders


def start_training(config: TrainConfig, settings: Settings, jobs: Jobs) -> Job:
    """Queue a training run.

    Raises: UsageError: its name is taken. DataError: its rows cannot be read.
    """
    require_free_name(config.name, settings, jobs)
    values = _with_full_paths(dataclasses.asdict(config))
    read_rows(values["data"])
    return _submit(TRAIN.name, values, config.name, jobs)


def start_evaluation(request: EvaluationRequest, title: str, jobs: Jobs) -> Job:
    """Queue an evaluation."""
    return _submit(EVALUATE.name, _with_full_paths(dataclasses.asdict(request)), title or ", ".join(request.checkpoints), jobs)


def start_simulation(values: dict[str, Any], title: str, settings: Settings, jobs: Jobs) -> Job:
    """Queue a run without weights, to try the queue on. values: see `simulate`. Raises: UsageError: its name is taken."""
    require_free_name(title, settings, jobs)
    return _submit(SIMULATE.name, values, title, jobs)


def require_free_name(name: str, settings: Settings, jobs: Jobs) -> None:
    """Raises: UsageError: a checkpoint, or a job that has not ended, has that name."""
    if name in _taken(settings, jobs) or any(job.title == name and not job.is_final for job in jobs.list()):
        raise UsageError(f"There is a checkpoint or a job named '{name}' already. Give another name, or delete that one.")


def import_checkpoint(archive: Path, settings: Settings, jobs: Jobs) -> str:
    """Take a checkpoint in from a zip, beside those made here. Returns its name.

    Raises: CheckpointError: see `unpack`; a name that a job is about to write is taken as well.
    """
    return unpack(archive, settings.checkpoint_dirs[-1], _taken(settings, jobs))


def delete_checkpoint(name: str, settings: Settings, jobs: Jobs) -> None:
    """Remove a checkpoint made or imported here that no job needs.

    Raises: CheckpointError: a job that runs or waits needs it (named by its title); see `delete` for the others.
    """
    own = settings.checkpoint_dirs[-1]
    delete(name, own, settings.shipped_checkpoints_dir, [job.title for job in users_of(name, jobs, own / name)])


def users_of(checkpoint: str, jobs: Jobs, folder: Path | None = None) -> list[Job]:
    """Jobs that run or wait and need a checkpoint: they write it, train on it or measure it, under its name or (where given) as its folder."""
    return [job for job in jobs.list() if not job.is_final and any(_is(value, checkpoint, folder) for value in _held(job))]


def _taken(settings: Settings, jobs: Jobs) -> set[str]:
    """Names of checkpoints, those that jobs are about to write included."""
    written = (KINDS[job.kind].makes(job.settings) for job in jobs.list() if not job.is_final and job.kind in KINDS)
    return {entry.name for entry in list_checkpoints(settings.checkpoint_dirs)} | {name for name in written if name}


def _submit(kind: str, values: dict[str, Any], title: str, jobs: Jobs) -> Job:
    job = jobs.submit(kind, values, title)
    jobs.tick()
    return jobs.get(job.id)


def _held(job: Job) -> tuple[str, ...]:
    kind = KINDS.get(job.kind)
    return (kind.makes(job.settings), *kind.needs(job.settings)) if kind else ()


def _is(value: str, checkpoint: str, folder: Path | None) -> bool:
    if value == checkpoint:
        return True
    # isdir is False, where samefile would raise, for what is not there and for names that no path can have
    return folder is not None and os.path.isdir(value) and os.path.isdir(folder) and os.path.samefile(value, folder)


def _with_full_paths(values: dict[str, Any]) -> dict[str, Any]:
    """Settings whose files, named from the working folder, are found by a job that runs elsewhere."""
    return values | {name: _absolute(values[name]) for name in PLACES if name in values}


def _absolute(named: Any) -> Any:
    """Files and folders that exist here, several joined by +, with their full path; names and hub ids as they are."""
    if not isinstance(named, str):
        return tuple(_absolute(one) for one in named)
    return "+".join(str(Path(part).absolute()) if re.search("[./]", part) and os.path.exists(part) else part for part in named.split("+"))
