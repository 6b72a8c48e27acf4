"""The loop of every run: steps, schedule, evaluation, saving, going on after a kill. Knows nothing of what is being learnt."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from gistdemo.errors import TrainingError, WorkStopped, one_line
from gistdemo.files import recover
from gistdemo.memory import peak_memory, return_freed_memory
from gistdemo.train.config import TrainConfig

log = logging.getLogger(__name__)
LEAK_LOSS = 0.3  # nats; a frozen model starts near 3 on references: less than this so early means that answers see themselves
LEAK_STEPS = 20
WINDOW = 20  # steps whose mean loss is watched
HELD = 3.0  # GiB that are kept from one step to the next; a step of `standard` needs about 2 more
DIVERGED = 3.0  # times the mean loss of the first WINDOW steps
STATE, BEST = "state.pt", "best.pt"


class Loop:
    """One run of an objective in a run directory.

    Step s uses the batches s x accumulation, s x accumulation + 1, ... of the objective, so a resumed run sees what the
    unbroken one saw. should_stop is asked after every step. The parameters with the best evaluation are kept beside the state and are the run's result.
    """

    def __init__(self, config: TrainConfig, objective: Any, run_dir: Path, should_stop: Callable[[], bool] = lambda: False):
        self.config, self.objective, self.run_dir, self._should_stop = config, objective, run_dir, should_stop
        groups = objective.groups()
        self.peaks = [group["lr"] for group in groups]
        self.parameters = [p for group in groups for p in group["params"]]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
        self.seconds = 0.0
        self.evaluation: dict[str, Any] = {}
        self.best: tuple[float, int] | None = None  # score and step
        self._losses: list[float] = []

    def run(self) -> dict[str, Any]:
        """Run the remaining steps. Returns the best evaluation with its step, and steps and seconds of the whole run."""
        first = self._restore()
        kept = recover(self.run_dir / "metrics.jsonl", lambda record: 0 < first >= record["step"])  # no step is there twice
        self._losses = [record["loss"] for record in kept if "loss" in record]
        if first == 0:
            self._evaluate(0)
        for step in range(first, self.config.steps):
            self._write(self._timed_step(step))
            self._require_course(step)
            done = step + 1 == self.config.steps
            if done or (step + 1) % self.config.evaluate_every == 0:
                self._evaluate(step + 1)
            if done or (step + 1) % self.config.save_every == 0:
                self._save(step + 1)
            return_freed_memory(HELD)
            if not done and self._should_stop():
                self._save(step + 1)
                raise WorkStopped(f"Stopped after step {step + 1} of {self.config.steps}, state saved. Resume goes on from there.")
        self._take_best()
        return self.evaluation | {"steps": self.config.steps, "seconds": round(self.seconds, 1)}

    def rate(self, step: int) -> float:
        """Share of the peak learning rate: linear warmup, then cosine down to final_rate_share."""
        warm = min(1.0, (step + 1) / (self.config.warmup_steps + 1))
        floor = self.config.final_rate_share
        return warm * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * step / self.config.steps)))

    def _timed_step(self, step: int) -> dict[str, Any]:
        began = time.perf_counter()
        try:
            numbers = self._step(step)
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error):
                raise TrainingError(_out_of_memory(self.config, step)) from error
            raise
        took = time.perf_counter() - began
        self.seconds += took
        self._losses.append(numbers["loss"])
        samples = self.config.batch_size * self.config.accumulation
        speed = {"samples_per_second": round(samples / took, 2), "tokens_per_second": round(numbers["tokens"] / took, 2)}
        return {"step": step + 1, **numbers, **speed, "seconds": round(self.seconds, 2), "memory_gib": peak_memory()}

    def _step(self, step: int) -> dict[str, float]:
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * self.rate(step)
        self.optimizer.zero_grad(set_to_none=True)
        parts = self.config.accumulation
        totals: dict[str, float] = {}
        for batch in range(step * parts, (step + 1) * parts):
            loss, numbers = self.objective.loss(batch)
            _require_number("Loss", loss, step)
            (loss / parts).backward()
            for name, value in ({"loss": loss.item()} | numbers).items():
                totals[name] = totals.get(name, 0.0) + (value if name == "tokens" else value / parts)
        if step < LEAK_STEPS and totals["loss"] < LEAK_LOSS and totals.get("cross_entropy", 1.0) < LEAK_LOSS:
            log.warning("loss is %.3f at step %d: suspected label leak (or data already known by heart)", totals["loss"], step + 1)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.gradient_clip)
        _require_number("Gradient norm", norm, step)  # before the weights are touched: a later save would keep them broken
        self.optimizer.step()
        return totals | {"gradient_norm": norm.item(), "rate": self.optimizer.param_groups[-1]["lr"]}

    def _require_course(self, step: int) -> None:
        """Stop a run whose loss has left for good: what it would save from here on is worse than what it has."""
        if len(self._losses) < 2 * WINDOW:
            return
        first, last = fmean(self._losses[:WINDOW]), fmean(self._losses[-WINDOW:])
        if last > DIVERGED * first + 0.5:
            raise TrainingError(
                f"Training diverged: the mean loss of {WINDOW} steps rose from {first:.3g} to {last:.3g} at step {step + 1}. "
                "The best state so far is kept; start again with a lower learning rate."
            )

    def _evaluate(self, step: int) -> None:
        began = time.perf_counter()
        self.evaluation = self.objective.evaluate()
        samples = self.objective.samples()
        record = {"step": step, "evaluation": self.evaluation, "samples": samples}
        self._write(record | {"evaluation_seconds": round(time.perf_counter() - began, 2)})
        log.info("step %d: %s", step, json.dumps(self.evaluation))
        score = self.objective.score(self.evaluation)
        if score is not None and step > 0 and (self.best is None or score >= self.best[0]):
            self.best = (score, step)
            self._store(BEST, {"evaluation": self.evaluation, "parameters": [p.detach() for p in self.parameters], "step": step})

    def _take_best(self) -> None:
        """Put the best evaluation's parameters in place, where later steps made things worse."""
        if self.best is None or self.best[1] == self.config.steps:
            return
        best = self._load(BEST)
        self._set_parameters(best["parameters"])
        self.evaluation = best["evaluation"]
        log.info("the parameters of step %d scored best and are kept", best["step"])

    def _write(self, record: dict[str, Any]) -> None:
        with (self.run_dir / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record | {"time": round(time.time(), 2)}) + "\n")
        if "loss" in record and (record["step"] % 10 == 0 or record["step"] < 4):
            log.info(
                "step %d of %d: loss %.4f, %.2f s/step", record["step"], self.config.steps, record["loss"], self.seconds / record["step"]
            )

    def _save(self, step: int) -> None:
        state = {
            "step": step,
            "seconds": self.seconds,
            "parameters": [p.detach() for p in self.parameters],
            "optimizer": self.optimizer.state_dict(),
            "evaluation": self.evaluation,
            "best": self.best,
        }
        self._store(STATE, state)

    def _store(self, name: str, state: dict[str, Any]) -> None:
        """Replace a file of the run directory in one move: it is whole, or it is the one before."""
        building = self.run_dir / f".{name}.{os.getpid()}"
        try:
            torch.save(state, building)
            os.replace(building, self.run_dir / name)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            raise TrainingError(
                f"The state of step {state['step']} cannot be saved ({one_line(error)[:160]}). Free disk space and resume; the last save is kept."
            ) from error
        finally:
            building.unlink(missing_ok=True)

    def _load(self, name: str) -> dict[str, Any]:
        state: dict[str, Any] = torch.load(self.run_dir / name, weights_only=True, map_location="cpu")
        return state

    def _set_parameters(self, values: list[Tensor]) -> None:
        with torch.no_grad():
            for parameter, value in zip(self.parameters, values, strict=True):
                parameter.copy_(value)

    def _restore(self) -> int:
        if not (self.run_dir / STATE).exists():
            return 0
        try:
            state = self._load(STATE)
            self._set_parameters(state["parameters"])
            self.optimizer.load_state_dict(state["optimizer"])
        except Exception as error:
            text = f"The saved state of this run cannot be used ({one_line(error)[:160]}). Start again in a new run directory."
            raise TrainingError(text) from error
        self.seconds, self.evaluation = state["seconds"], state["evaluation"]
        self.best = tuple(state["best"]) if state["best"] else None
        step: int = state["step"]
        log.info("resumed at step %d of %d", step, self.config.steps)
        return step


def _out_of_memory(config: TrainConfig, step: int) -> str:
    return (
        f"Out of memory at step {step + 1} with batch_size {config.batch_size}. Start again with batch_size {max(1, config.batch_size // 2)} "
        f"and accumulation {config.accumulation * 2}, or lower answer_tokens ({config.answer_tokens}) or max_prompt_tokens ({config.max_prompt_tokens})."
    )


def _require_number(name: str, value: Tensor, step: int) -> None:
    if not torch.isfinite(value):
        raise TrainingError(
            f"{name} is {value.item()} at step {step + 1}. The state of the last save is kept; lower the learning rate and resume."
        )


def recent_loss(path: Path, steps: int = 10) -> float:
    """Mean loss of the last steps of a metrics.jsonl."""
    records = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    losses: list[float] = [record["loss"] for record in records if "loss" in record][-steps:]
    return sum(losses) / len(losses)
