"""One training run: a directory that tells all, a loop that can be killed at any step and resumed, a checkpoint at the end.

RUN/config.json     the settings          RUN/metrics.jsonl   one JSON object per step and per evaluation
RUN/log.txt         what happened         RUN/state.pt        weights being trained, optimizer, step (replaced atomically)
RUN/best.pt         weights of the best evaluation            RUN/checkpoint/     the gist checkpoint, once done
RUN/metrics.json    the run in the field names of an earlier experiment, once done
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from gistdemo.checkpoint.manifest import BACKBONE_ADAPTER_DIR, COMPRESSOR_DIR, Manifest
from gistdemo.checkpoint.pool import ModelPool
from gistdemo.checkpoint.registry import Entry, find_checkpoint, list_checkpoints
from gistdemo.checkpoint.store import describe, save_checkpoint
from gistdemo.errors import TrainingError
from gistdemo.evaluate.earlier_format import training_metrics
from gistdemo.evaluate.judge import judge
from gistdemo.memory import keep_freed_memory
from gistdemo.prompts import PLAIN, template_for
from gistdemo.settings import Settings
from gistdemo.train.card import write_card
from gistdemo.train.config import TrainConfig
from gistdemo.train.loop import Loop, recent_loss
from gistdemo.train.objectives import TRAINED, GistLearning, Ground, LanguageModeling

log = logging.getLogger(__name__)


def train(
    config: TrainConfig, run_dir: Path, settings: Settings, out: Path | None = None, should_stop: Callable[[], bool] = lambda: False
) -> Path:
    """Run (or resume) one training to its end and return the checkpoint folder (out, or RUN/checkpoint).

    should_stop: asked after every step.
    Raises: WorkStopped: it said so; the state is saved. TrainingError: the run directory belongs to other settings, the
    loss is not finite or leaves for good, memory or disk are full. BackboneError, DataError, CheckpointError: what the run
    stands on cannot be had.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    _claim(run_dir, config)
    keep_freed_memory()
    if config.threads:
        torch.set_num_threads(config.threads)
    if config.device != "auto":
        settings = dataclasses.replace(settings, device=config.device)
    ground, manifest, folders = open_ground(config, settings)
    log.info("backbone in %s on %s", ground.model.dtype, ground.model.device)
    objective = GistLearning(config, ground, settings, should_stop) if config.gist else LanguageModeling(config, ground)
    last = Loop(config, objective, run_dir, should_stop).run()
    folder = out or run_dir / "checkpoint"
    _export(config, objective, ground, manifest, folders, last, folder)
    _write_metrics(run_dir, find_checkpoint(str(folder), settings.checkpoint_dirs).manifest)
    if config.gist:
        held = {"": objective.rows.held} | ({"long": objective.rows.held_long} if objective.rows.held_long else {})
        _judge(folder, held, config, settings)
    log.info("checkpoint written: %s", folder)
    return folder


def training_dtype(config: TrainConfig, device: str) -> torch.dtype:
    """Precision of the frozen weights during training. Weights that are trained themselves stay in float32."""
    if config.weights == "all" and config.mode == "joint":
        return torch.float32
    if config.dtype != "auto":
        return getattr(torch, config.dtype)
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    able = torch.cpu.get_capabilities()
    return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else torch.float32


def open_ground(config: TrainConfig, settings: Settings) -> tuple[Ground, dict[str, Any], dict[str, Path]]:
    """Load what the run stands on: a backbone, or a checkpoint of mode `lm` (a tuned or stand-in backbone).

    Returns the ground, the manifest fields that follow from it, and adapter folders that the new checkpoint must carry along.
    """
    pool = ModelPool(settings, training_dtype(config, settings.device))
    entry = _named_checkpoint(config.backbone, settings)
    if entry is None:
        base = pool.backbone(config.backbone)
        template = template_for(base.tokenizer, base.kind) if config.gist else PLAIN
        encoder, adapter, folders, stand_in, name = base.encoder(template, settings), None, {}, not config.gist, config.backbone
    else:
        if entry.manifest.mode != "lm" or config.mode not in ("embeddings", "joint"):
            raise TrainingError(
                f"Mode {config.mode} cannot be trained on '{config.backbone}', a checkpoint of mode {entry.manifest.mode}. Choose its "
                f"backbone '{entry.manifest.backbone}'; modes embeddings and joint are trained on checkpoints of mode lm too."
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


def _claim(run_dir: Path, config: TrainConfig) -> None:
    """Write the settings, or check that the directory's settings are these."""
    path = run_dir / "config.json"
    if path.exists() and path.read_text(encoding="utf-8") != config.to_json():
        raise TrainingError(
            f"Run directory '{run_dir.name}' was started with other settings. Use its own settings to resume, or a new directory."
        )
    path.write_text(config.to_json(), encoding="utf-8")


def _export(
    config: TrainConfig, objective: Any, ground: Ground, fields: dict[str, Any], folders: dict[str, Path], last: dict[str, Any], out: Path
) -> None:
    adapters: dict[str, Any] = dict(folders)
    whole = config.mode == "joint" and config.weights == "all"
    if config.mode == "lm" or (config.mode == "joint" and not whole):
        adapters[BACKBONE_ADAPTER_DIR] = TRAINED
    elif config.mode == "compressor":
        adapters[COMPRESSOR_DIR] = TRAINED
    settings = {k: v for k, v in json.loads(config.to_json()).items() if k not in ("data", "validation")}
    manifest = Manifest(
        name=config.name,
        title=config.title or config.name,
        summary=config.summary,
        mode=config.mode,
        max_k=config.ks[-1] if config.gist else 0,
        trained_k=config.ks if config.gist else (),
        has_compressor=COMPRESSOR_DIR in adapters,
        has_backbone_adapter=BACKBONE_ADAPTER_DIR in adapters,
        files={},
        anchored=config.gist and config.anchored,
        has_weights=whole,
        training={
            "command": config.command(),
            "settings": settings,
            "data": objective.describe_data(),
            "steps": last["steps"],
            "seconds": last["seconds"],
            "device": ground.model.device.type,
            "dtype": str(ground.model.dtype).removeprefix("torch."),
            "torch": torch.__version__,
        },
        recovery={name: last[name] for name in ("held_out_nll", "gist_shift") if name in last},
        **fields,
    )
    slots, marks = (objective.slots, objective.rows.marks) if config.gist else (None, ())
    save_checkpoint(out, manifest, ground.model, slots, adapters, write_card(manifest), marks)


def _write_metrics(run_dir: Path, manifest: Manifest) -> None:
    """RUN/metrics.json: the run in the field names of an earlier experiment."""
    metrics = training_metrics(manifest.training, manifest.max_k, manifest.backbone, recent_loss(run_dir / "metrics.jsonl"))
    (run_dir / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")


def _judge(folder: Path, held: dict[str, Any], config: TrainConfig, settings: Settings) -> None:
    """Measure the saved checkpoint and write the figures into its manifest and card."""
    entry = find_checkpoint(str(folder), settings.checkpoint_dirs)
    base, loaded = ModelPool(settings).checkpoint(entry)
    figures = judge(base, loaded, held, config.ks, config.answer_tokens, settings)
    manifest = dataclasses.replace(loaded.manifest, recovery=loaded.manifest.recovery | figures)
    describe(folder, manifest, write_card(manifest))
    log.info("recovery of the saved checkpoint: %s", json.dumps(figures))
