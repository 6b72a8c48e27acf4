"""How long a run will take and how much memory, told before it starts: from runs that were made here, else from figures measured elsewhere. No torch."""

from __future__ import annotations

from dataclasses import dataclass

import psutil

from gistdemo.jobs.progress import ProgressReader
from gistdemo.jobs.queue import Jobs
from gistdemo.jobs.record import Job
from gistdemo.model.embedded import SMOLLM2
from gistdemo.train.config import TrainConfig
from gistdemo.train.modes import MODES

WEIGHTS_GIB = 1.5  # of a mode's peak: libraries and the backbone, whatever the batch
SECONDS_PER_OWN_ANSWER = 0.16
SECONDS_TO_LOAD = 10
SECONDS_PER_EVALUATED_ANSWER = 0.05  # one row, one budget or condition, on the way
SECONDS_PER_SAMPLES = 4  # the sample answers of an evaluation
SECONDS_PER_JUDGED_ANSWER = 0.17  # one row, one budget or condition, at the end of a run


@dataclass(frozen=True)
class Estimate:
    """seconds: of the whole run, memory_gib: its peak; None where nothing is known. basis: where they come from, in words."""

    seconds: float | None
    memory_gib: float | None
    basis: str

    def memory_text(self) -> str:
        """The memory in words, with a warning where it is not free at the moment; empty where nothing is known."""
        if self.memory_gib is None:
            return ""
        free = psutil.virtual_memory().available / 2**30
        short = "" if self.memory_gib < free else f", but only {free:.1f} GiB are free: use a smaller batch or close other programs"
        return f"Up to {self.memory_gib:.0f} GiB of memory{short}."


def estimate(config: TrainConfig, jobs: Jobs) -> Estimate:
    """Loading, steps, own answers, the evaluations on the way and the final figures of a run."""
    rows = config.steps * config.batch_size * config.accumulation
    mode = MODES[config.mode]
    per_row, memory, basis = _made_here(config, jobs)
    if per_row is None and config.backbone == SMOLLM2.name and config.weights == "lora":
        per_row, basis = mode.seconds_per_row, "measured on two cores with native bf16; older processors take about twice as long"
        memory = WEIGHTS_GIB + (mode.peak_gib - WEIGHTS_GIB) * config.batch_size / 8
    if per_row is None:
        return Estimate(None, None, "no run of this mode on this backbone was made here yet: the first steps will tell")
    seconds = SECONDS_TO_LOAD + rows * per_row * (1 + 0.3 * config.long_share)
    if mode.own_answers:
        seconds += (config.teacher_answers + config.evaluate_rows) * SECONDS_PER_OWN_ANSWER
    sets = 2 * (2 if config.long_share else 1)
    evaluations = 1 + -(-config.steps // config.evaluate_every)
    passes = 3 * sets * config.evaluate_rows  # the prompt into slots, then the answer with its own and with another row's
    seconds += evaluations * (passes * SECONDS_PER_EVALUATED_ANSWER + SECONDS_PER_SAMPLES)
    seconds += sets * config.evaluate_rows * 2 * (1 + len(config.ks)) * SECONDS_PER_JUDGED_ANSWER
    return Estimate(seconds, memory, basis)


def _made_here(config: TrainConfig, jobs: Jobs) -> tuple[float | None, float | None, str]:
    """Seconds per row and peak memory of the latest training job like this one."""
    for job in _latest(jobs):
        same = all(job.settings.get(name) == getattr(config, name) for name in ("mode", "backbone", "weights"))
        if job.kind != "train" or not same:
            continue
        progress = ProgressReader(jobs.folder(job.id)).read(job.settings.get("steps"))
        speed = progress.seconds_per_step()
        if speed is not None:
            size = job.settings["batch_size"] * job.settings["accumulation"]
            memory = max((p["memory_gib"] for p in progress.points if "memory_gib" in p), default=None)
            return speed / size, memory, f"as '{job.title}' here"
    return None, None, ""


def _latest(jobs: Jobs) -> list[Job]:
    return sorted(jobs.list(), key=lambda job: -job.created)
