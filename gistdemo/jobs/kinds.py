"""What a job can be: one record per kind says what it runs, what it counts and which models it holds on to. No torch at import."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gistdemo.errors import JobError
from gistdemo.jobs.progress import Reporter
from gistdemo.jobs.record import Job
from gistdemo.settings import Settings

ShouldStop = Callable[[], bool]
Values = Mapping[str, Any]


@dataclass(frozen=True)
class Kind:
    """One kind of job.

    run: does the work of a job in its folder. unit: what its progress counts. makes: name of the checkpoint it writes, "" if none.
    needs: names or folders of the checkpoints and backbones it reads.
    """

    name: str
    unit: str
    run: Callable[[Job, Path, Settings, ShouldStop], None]
    makes: Callable[[Values], str] = lambda settings: ""
    needs: Callable[[Values], tuple[str, ...]] = lambda settings: ()


def _train(job: Job, folder: Path, settings: Settings, should_stop: ShouldStop) -> None:
    from gistdemo.train.config import TrainConfig
    from gistdemo.train.run import train

    config = TrainConfig.from_dict(job.settings)
    train(config, folder, settings, settings.checkpoint_dirs[-1] / config.name, should_stop)


def _evaluate(job: Job, folder: Path, settings: Settings, should_stop: ShouldStop) -> None:
    from gistdemo.evaluate.request import EvaluationRequest
    from gistdemo.evaluate.run import evaluate

    evaluate(EvaluationRequest.from_dict(job.settings), folder, settings, job.title, Reporter(folder), should_stop)


TRAIN = Kind("train", "step", _train, lambda s: s.get("name", ""), lambda s: (s.get("backbone", ""),))
EVALUATE = Kind("evaluate", "answer", _evaluate, needs=lambda s: tuple(s.get("checkpoints", ())))
KINDS = {kind.name: kind for kind in (TRAIN, EVALUATE)}


def kind_of(job: Job) -> Kind:
    """Raises: JobError: the job was made by a version that knows more kinds."""
    if job.kind not in KINDS:
        raise JobError(f"Job '{job.id}' is of kind '{job.kind}', which this version does not know. Update gistdemo, or delete the job.")
    return KINDS[job.kind]
