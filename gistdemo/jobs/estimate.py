"""How long a run will take, told before it starts: from runs that were made here, else from figures measured elsewhere. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gistdemo.jobs.progress import ProgressReader
from gistdemo.jobs.queue import Jobs
from gistdemo.train.config import TrainConfig

EMBEDDED = "smollm2-135m-instruct"
# seconds per row of a batch on two cores with native bf16 (docs/LOG.md), long text not counted
MEASURED = {"lm": 0.4, "embeddings": 0.15, "compressor": 0.19, "joint": 0.2}
SECONDS_PER_OWN_ANSWER = 0.16
SECONDS_PER_JUDGED_ANSWER = 0.17  # one row, one budget or condition, at the end of a run


@dataclass(frozen=True)
class Estimate:
    """seconds: of the whole run, None where nothing is known. basis: where it comes from, in words."""

    seconds: float | None
    basis: str


def estimate(config: TrainConfig, jobs: Jobs) -> Estimate:
    """Steps, own answers and the final figures of a run."""
    rows = config.steps * config.batch_size * config.accumulation
    per_row, basis = _made_here(config, jobs)
    if per_row is None and config.backbone == EMBEDDED and config.weights == "lora":
        per_row, basis = MEASURED[config.mode], "measured on two cores with native bf16; older processors take about twice as long"
    if per_row is None:
        return Estimate(None, "no run of this mode on this backbone was made here yet: the first steps will tell")
    seconds = rows * per_row * (1 + 0.3 * config.long_share)
    if config.mode == "compressor":
        seconds += (config.teacher_answers + config.evaluate_rows) * SECONDS_PER_OWN_ANSWER
    if config.gist:
        sets = 2 * (2 if config.long_share else 1)
        seconds += sets * config.evaluate_rows * 2 * (1 + len(config.ks)) * SECONDS_PER_JUDGED_ANSWER
    return Estimate(seconds, basis)


def _made_here(config: TrainConfig, jobs: Jobs) -> tuple[float | None, str]:
    """Seconds per row of the latest training job like this one."""
    for job in _latest(jobs):
        same = all(job.settings.get(name) == getattr(config, name) for name in ("mode", "backbone", "weights"))
        if job.kind != "train" or not same:
            continue
        speed = ProgressReader(jobs.folder(job.id)).read(job.settings.get("steps")).seconds_per_step()
        if speed is not None:
            size = job.settings["batch_size"] * job.settings["accumulation"]
            return speed / size, f"as fast as '{job.title}' here"
    return None, ""


def _latest(jobs: Jobs) -> Sequence:
    return sorted(jobs.list(), key=lambda job: -job.created)
