"""How long a run will take and how much memory, told before it starts: from runs that were made here, else from figures measured elsewhere. No torch."""

from __future__ import annotations

from dataclasses import dataclass

import psutil

from gistdemo.jobs.progress import ProgressReader
from gistdemo.jobs.queue import Jobs
from gistdemo.model.embedded import GEMMA, SMOLLM2
from gistdemo.train.config import TrainConfig
from gistdemo.train.modes import MODES

Known = tuple[float, float | None, str]  # seconds per row, peak memory in GiB, where they come from
ALIKE = ("mode", "backbone", "weights", "sampled_vocabulary")  # settings that make runs equally fast, row by row
WEIGHTS_GIB = 1.5  # of a peak: libraries and the backbone, whatever the batch
SECONDS_PER_OWN_ANSWER = 0.16
SECONDS_TO_LOAD = 10
SECONDS_PER_EVALUATED_ANSWER = 0.05  # one row, one budget or condition, on the way
SECONDS_PER_SAMPLES = 4  # the sample answers of an evaluation
SECONDS_PER_JUDGED_ANSWER = 0.17  # one row, one budget or condition, at the end of a run
SLOWER_ANSWERS = {GEMMA.name: 1.6}  # times SmolLM2's, whose figures stand above
SAMPLED = 4096  # sampled_vocabulary of the runs that had one


@dataclass(frozen=True)
class Measured:
    """A run in batches of 8 on two cores. seconds_per_row: of its steps. peak_gib: of its memory, None where the run was given up early.
    bf16: whether the processor multiplied it natively."""

    seconds_per_row: float
    peak_gib: float | None
    bf16: bool

    @property
    def basis(self) -> str:
        if self.bf16:
            return "measured on two cores with native bf16; older processors take about twice as long"
        return "measured on two cores without native bf16; newer processors may be faster"


# mode, backbone, whether the vocabulary was sampled; weights frozen or LoRA
MEASURED = {
    ("embeddings", SMOLLM2.name, False): Measured(0.15, 4.1, True),
    ("joint", SMOLLM2.name, False): Measured(0.2, 5.8, True),
    ("compressor", SMOLLM2.name, False): Measured(0.3, 5.0, True),
    ("embeddings", GEMMA.name, False): Measured(0.6, 4.9, False),
    ("embeddings", GEMMA.name, True): Measured(0.3, 3.9, False),
    ("joint", GEMMA.name, False): Measured(1.0, None, False),
    ("joint", GEMMA.name, True): Measured(0.56, 6.8, False),
}


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
    known = _made_here(config, jobs) or _measured(config)
    if known is None:
        return Estimate(None, None, "no run of this mode on this backbone was made here yet: the first steps will tell")
    per_row, memory, basis = known
    learning = rows * per_row * (1 + 0.3 * config.long_share)
    return Estimate(SECONDS_TO_LOAD + learning + _answering(config) * SLOWER_ANSWERS.get(config.backbone, 1.0), memory, basis)


def _answering(config: TrainConfig) -> float:
    """Seconds for own answers, the evaluations on the way and the final figures, with SmolLM2."""
    own = (config.teacher_answers + config.evaluate_rows) * SECONDS_PER_OWN_ANSWER if MODES[config.mode].answers != "references" else 0.0
    sets = 2 * (2 if config.long_share else 1)
    evaluations = 1 + -(-config.steps // config.evaluate_every)
    passes = 3 * sets * config.evaluate_rows  # the prompt into slots, then the answer with its own and with another row's
    on_the_way = evaluations * (passes * SECONDS_PER_EVALUATED_ANSWER + SECONDS_PER_SAMPLES)
    return own + on_the_way + sets * config.evaluate_rows * 2 * (1 + len(config.ks)) * SECONDS_PER_JUDGED_ANSWER


def _measured(config: TrainConfig) -> Known | None:
    """The figures of a run like this one that was made elsewhere."""
    if MODES[config.mode].adapts == "both phases" and config.weights == "all":
        return None
    sampled = 0 < config.sampled_vocabulary <= SAMPLED
    # without a run that sampled, one on the whole vocabulary says at most how long it takes
    found = MEASURED.get((config.mode, config.backbone, sampled)) or MEASURED.get((config.mode, config.backbone, False))
    if found is None:
        return None
    memory = None if found.peak_gib is None else WEIGHTS_GIB + (found.peak_gib - WEIGHTS_GIB) * config.batch_size / 8
    return found.seconds_per_row, memory, found.basis


def _made_here(config: TrainConfig, jobs: Jobs) -> Known | None:
    """The figures of the latest training job like this one."""
    for job in sorted(jobs.list(), key=lambda job: -job.created):
        # a job of an earlier version lacks settings that are newer; it ran with what is now their default
        same = all(job.settings.get(name, getattr(TrainConfig, name, None)) == getattr(config, name) for name in ALIKE)
        if job.kind != "train" or not same:
            continue
        progress = ProgressReader(jobs.folder(job.id)).read(job.settings.get("steps"))
        speed = progress.seconds_per_step()
        if speed is not None:
            size = job.settings["batch_size"] * job.settings["accumulation"]
            memory = max((p["memory_gib"] for p in progress.points if "memory_gib" in p), default=None)
            return speed / size, memory, f"as '{job.title}' here"
    return None
