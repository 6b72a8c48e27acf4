"""How far a job is, by its metrics.jsonl. Cheap to ask often: only what was added since the last time is read. No torch."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from gistdemo.files import recover

METRICS = "metrics.jsonl"
WINDOW = 30  # steps the speed is taken from
PAUSE = 20.0  # times the usual step: a longer gap was a stop and a resume, or an evaluation, and says nothing about speed
TAIL_BYTES = 40_000


@dataclass
class Progress:
    """What a run has written so far. steps_done: last step on record. steps: of the whole run, None where unknown.

    A step is an optimizer step of a training run, or an answer of an evaluation.
    """

    steps: int | None = None
    points: list[dict[str, Any]] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)

    @property
    def steps_done(self) -> int:
        return self.points[-1]["step"] if self.points else 0

    @property
    def fraction(self) -> float:
        """0 to 1."""
        return min(1.0, self.steps_done / self.steps) if self.steps else 0.0

    def seconds_per_step(self) -> float | None:
        """Median over the last WINDOW steps, pauses left out; None before there are two."""
        gaps = _gaps(self.points[-WINDOW - 1 :])
        return median(gaps) if gaps else None

    def seconds_left(self) -> float | None:
        """Remaining steps at the mean speed of the window, evaluations within it included; None where it cannot be told."""
        gaps = _gaps(self.points[-WINDOW - 1 :])
        if not gaps or not self.steps:
            return None
        usual = median(gaps)
        kept = [gap for gap in gaps if gap < PAUSE * usual] or gaps
        return (self.steps - self.steps_done) * sum(kept) / len(kept)

    def samples(self) -> list[dict[str, Any]]:
        """Answers of the last evaluation that has some."""
        return next((e["samples"] for e in reversed(self.evaluations) if e.get("samples")), [])


def _gaps(points: Sequence[dict[str, Any]]) -> list[float]:
    """Seconds per step between records; a record of an evaluation stands for many."""
    timed = [p for p in points if "time" in p]
    return [(b["time"] - a["time"]) / (b["step"] - a["step"]) for a, b in pairwise(timed) if b["time"] > a["time"]]


class Reporter:
    """Writes the progress of a job that counts its work as it goes. Called with what is done, of how much."""

    def __init__(self, folder: Path):
        self._path = folder / METRICS
        recover(self._path)

    def __call__(self, done: int, of: int) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": done, "of": of, "time": round(time.time(), 2)}) + "\n")


class ProgressReader:
    """Reads one metrics.jsonl again and again. A file that became shorter (a resumed run cuts it) is read from its start."""

    def __init__(self, folder: Path):
        self._path = folder / METRICS
        self._offset, self._inode = 0, 0
        self.progress = Progress()

    def read(self, steps: int | None = None) -> Progress:
        """Take in what was added. A half-written last line is left for the next time. steps: of the whole run."""
        try:
            state = self._path.stat()
        except FileNotFoundError:
            self.progress = Progress(steps)
            return self.progress
        if state.st_size < self._offset or state.st_ino != self._inode:
            self._offset, self._inode, self.progress = 0, state.st_ino, Progress(steps)
        self.progress.steps = steps or self.progress.steps
        with self._path.open("rb") as file:
            file.seek(self._offset)
            added = file.read()
        whole = added[: added.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            self._take(line)
        return self.progress

    def _take(self, line: bytes) -> None:
        try:
            record = json.loads(line)
            step = record["step"]
        except (ValueError, KeyError, TypeError):
            return  # a line broken by a kill; the run cuts it when it goes on
        self.progress.steps = record.get("of", self.progress.steps)
        if "evaluation" in record:
            self.progress.evaluations.append(record)
        elif not self.progress.points or step > self.progress.steps_done:
            self.progress.points.append(record)


def tail(path: Path, lines: int = 200) -> str:
    """The last lines of a text file that may be growing; "" where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
