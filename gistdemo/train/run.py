"""One training run: a directory that tells all, a loop that can be killed at any step and resumed, a checkpoint at the end.

RUN/config.json     the settings          RUN/metrics.jsonl   one JSON object per step and per evaluation
RUN/log.txt         what happened         RUN/state.pt        weights being trained, optimizer, step (replaced atomically)
RUN/checkpoint/     the gist checkpoint, once done
"""

from __future__ import annotations

import ctypes
import json
import logging
import math
import os
import platform
import resource
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gistdemo.checkpoint.manifest import BACKBONE_ADAPTER_DIR, COMPRESSOR_DIR, Manifest
from gistdemo.checkpoint.pool import ModelPool
from gistdemo.checkpoint.registry import Entry, find_checkpoint, list_checkpoints
from gistdemo.checkpoint.store import save_checkpoint
from gistdemo.errors import TrainingError, one_line
from gistdemo.prompts import PLAIN, template_for
from gistdemo.settings import Settings
from gistdemo.train.card import write_card
from gistdemo.train.config import TrainConfig
from gistdemo.train.objectives import TRAINED, GistLearning, Ground, LanguageModeling

log = logging.getLogger(__name__)
LEAK_LOSS = 0.3  # nats; a frozen model starts near 3 on references: less than this so early means that answers see themselves
LEAK_STEPS = 20


def train(config: TrainConfig, run_dir: Path, settings: Settings, out: Path | None = None) -> Path:
    """Run (or resume) one training to its end and return the checkpoint folder (out, or RUN/checkpoint).

    Raises: TrainingError: the run directory belongs to other settings, the loss is not finite, or the disk is full.
    BackboneError, DataError, CheckpointError: what the run stands on cannot be had.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    _claim(run_dir, config)
    keep_freed_memory()
    if config.threads:
        torch.set_num_threads(config.threads)
    ground, manifest, folders = open_ground(config, settings)
    objective = LanguageModeling(config, ground) if config.mode == "lm" else GistLearning(config, ground, settings)
    last = Loop(config, objective, run_dir).run()
    return _export(config, objective, ground, manifest, folders, last, out or run_dir / "checkpoint")


def keep_freed_memory() -> None:
    """Ask glibc to reuse freed blocks instead of returning each large tensor to the kernel (docs/LOG.md has what it saves)."""
    if platform.system() != "Linux":
        return
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:  # another libc: nothing to tune
        return
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD, M_MMAP_MAX of malloc.h
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, 2**31 - 1)


def open_ground(config: TrainConfig, settings: Settings) -> tuple[Ground, dict[str, Any], dict[str, Path]]:
    """Load what the run stands on: a backbone, or a checkpoint of mode `lm` (a tuned or stand-in backbone).

    Returns the ground, the manifest fields that follow from it, and adapter folders that the new checkpoint must carry along.
    """
    pool = ModelPool(settings)
    entry = _named_checkpoint(config.backbone, settings)
    if entry is None:
        base = pool.backbone(config.backbone)
        template = PLAIN if config.mode == "lm" else template_for(base.tokenizer, base.kind)
        encoder, adapter, folders, stand_in, name = base.encoder(template, settings), None, {}, config.mode == "lm", config.backbone
    else:
        if entry.manifest.mode != "lm" or config.mode == "lm":
            raise TrainingError(
                f"Mode {config.mode} cannot be trained on '{config.backbone}', a checkpoint of mode {entry.manifest.mode}. "
                f"Choose its backbone '{entry.manifest.backbone}'; only embeddings are trained on a checkpoint, and only on one of mode lm."
            )
        base, loaded = pool.checkpoint(entry)
        encoder, adapter, stand_in, name = loaded.encoder, loaded.decode_adapter, entry.manifest.stand_in, entry.manifest.backbone
        folders = {BACKBONE_ADAPTER_DIR: entry.folder / BACKBONE_ADAPTER_DIR}
    ground = Ground(base.model, base.engine, encoder, base.digest, adapter)
    return ground, {"backbone": name, "backbone_digest": base.digest, "stand_in": stand_in, "template": encoder.template}, folders


def _named_checkpoint(name: str, settings: Settings) -> Entry | None:
    """The checkpoint of that name or path; None where the name is not a checkpoint's, so that it must be a backbone's.

    Raises: CheckpointError: the checkpoint is broken.
    """
    names = {entry.name for entry in list_checkpoints(settings.checkpoint_dirs)}
    if name not in names and not os.path.isfile(os.path.join(name, "manifest.json")):
        return None
    return find_checkpoint(name, settings.checkpoint_dirs)


class Loop:
    """Steps, schedule, evaluation, saving. Knows nothing of what is being learnt."""

    def __init__(self, config: TrainConfig, objective: Any, run_dir: Path):
        self.config, self.objective, self.run_dir = config, objective, run_dir
        groups = objective.groups()
        self.peaks = [group["lr"] for group in groups]
        self.parameters = [p for group in groups for p in group["params"]]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
        self.seconds = 0.0
        self.evaluation: dict[str, Any] = {}

    def run(self) -> dict[str, Any]:
        """Run the remaining steps. Returns the last evaluation with steps and seconds."""
        first = self._restore()
        _cut_metrics(self.run_dir / "metrics.jsonl", first)
        if first == 0:
            self._evaluate(0, complete=False)
        for step in range(first, self.config.steps):
            began = time.perf_counter()
            numbers = self._step(step)
            self.seconds += time.perf_counter() - began
            self._write({"step": step + 1, **numbers, "seconds": round(self.seconds, 2), "memory_gib": _peak_memory()})
            done = step + 1 == self.config.steps
            if done or (step + 1) % self.config.evaluate_every == 0:
                self._evaluate(step + 1, complete=done)
            if done or (step + 1) % self.config.save_every == 0:
                self._save(step + 1)
        return self.evaluation | {"steps": self.config.steps, "seconds": round(self.seconds, 1)}

    def rate(self, step: int) -> float:
        """Share of the peak learning rate: linear warmup, then cosine down to final_rate_share."""
        warm = min(1.0, (step + 1) / (self.config.warmup_steps + 1))
        floor = self.config.final_rate_share
        return warm * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * step / self.config.steps)))

    def _step(self, step: int) -> dict[str, float]:
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * self.rate(step)
        loss, numbers = self.objective.loss(step)
        _require_number("Loss", loss, step)
        if step < LEAK_STEPS and loss.item() < LEAK_LOSS and self.config.mode != "lm" and numbers.get("cross_entropy", 1.0) < LEAK_LOSS:
            log.warning("loss is %.3f at step %d: suspected label leak (or data already known by heart)", loss.item(), step + 1)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.gradient_clip)
        _require_number("Gradient norm", norm, step)  # before the weights are touched: a later save would keep them broken
        self.optimizer.step()
        return {"loss": loss.item(), **numbers, "gradient_norm": norm.item(), "rate": self.optimizer.param_groups[0]["lr"]}

    def _evaluate(self, step: int, complete: bool) -> None:
        began = time.perf_counter()
        self.evaluation = self.objective.evaluate(complete)
        self._write({"step": step, "evaluation": self.evaluation, "evaluation_seconds": round(time.perf_counter() - began, 2)})
        log.info("step %d: %s", step, json.dumps(self.evaluation))

    def _write(self, record: dict[str, Any]) -> None:
        with (self.run_dir / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
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
        }
        building = self.run_dir / f".state.{os.getpid()}"
        try:
            torch.save(state, building)
            os.replace(building, self.run_dir / "state.pt")
        except OSError as error:
            raise TrainingError(
                f"The state of step {step} cannot be saved ({error}). Free disk space and resume; the last save is kept."
            ) from error
        finally:
            building.unlink(missing_ok=True)

    def _restore(self) -> int:
        path = self.run_dir / "state.pt"
        if not path.exists():
            return 0
        try:
            state = torch.load(path, weights_only=True, map_location="cpu")
            with torch.no_grad():
                for parameter, saved in zip(self.parameters, state["parameters"], strict=True):
                    parameter.copy_(saved)
            self.optimizer.load_state_dict(state["optimizer"])
        except Exception as error:
            text = f"The saved state of this run cannot be used ({one_line(error)[:160]}). Start again in a new run directory."
            raise TrainingError(text) from error
        self.seconds, self.evaluation = state["seconds"], state["evaluation"]
        log.info("resumed at step %d of %d", state["step"], self.config.steps)
        return state["step"]


def _require_number(name: str, value: Tensor, step: int) -> None:
    if not torch.isfinite(value):
        raise TrainingError(
            f"{name} is {value.item()} at step {step + 1}. The state of the last save is kept; lower the learning rate and resume."
        )


def _claim(run_dir: Path, config: TrainConfig) -> None:
    """Write the settings, or check that the directory's settings are these."""
    path = run_dir / "config.json"
    if path.exists() and path.read_text(encoding="utf-8") != config.to_json():
        raise TrainingError(
            f"Run directory '{run_dir.name}' was started with other settings. Use its own settings to resume, or a new directory."
        )
    path.write_text(config.to_json(), encoding="utf-8")


def _cut_metrics(path: Path, step: int) -> None:
    """Drop records after the step that training goes on from (and a half-written last line), so that no step is there twice."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if record["step"] <= step and step > 0:
            kept.append(line)
    path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


def _export(
    config: TrainConfig, objective: Any, ground: Ground, fields: dict[str, Any], folders: dict[str, Path], last: dict[str, Any], out: Path
) -> Path:
    gist = config.mode != "lm"
    adapters: dict[str, Any] = dict(folders)
    if config.mode == "lm":
        adapters[BACKBONE_ADAPTER_DIR] = TRAINED
    elif config.mode == "compressor":
        adapters[COMPRESSOR_DIR] = TRAINED
    settings = {k: v for k, v in json.loads(config.to_json()).items() if k not in ("data", "validation")}
    manifest = Manifest(
        name=config.name,
        title=config.title or config.name,
        summary=config.summary,
        mode=config.mode,
        max_k=config.ks[-1] if gist else 0,
        trained_k=config.ks if gist else (),
        has_compressor=COMPRESSOR_DIR in adapters,
        has_backbone_adapter=BACKBONE_ADAPTER_DIR in adapters,
        files={},
        training={
            "command": config.command(),
            "settings": settings,
            "data": objective.describe_data(),
            "steps": last.pop("steps"),
            "seconds": last.pop("seconds"),
            "device": ground.model.device.type,
            "torch": torch.__version__,
        },
        recovery=last,
        **fields,
    )
    save_checkpoint(out, manifest, ground.model, objective.slots if gist else None, adapters, write_card(manifest))
    log.info("checkpoint written: %s", out)
    return out


def _peak_memory() -> float:
    """Peak resident memory of this process in GiB (Linux counts in KiB)."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
