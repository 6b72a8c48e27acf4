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

from gistdemo.checkpoint.manifest import BACKBONE_ADAPTER_DIR, COMPRESSOR_DIR, Manifest, read_manifest
from gistdemo.checkpoint.pool import ModelPool
from gistdemo.checkpoint.registry import find_row, list_checkpoints
from gistdemo.checkpoint.store import describe, save_checkpoint
from gistdemo.errors import TrainingError
from gistdemo.evaluate.recoveries import all_recoveries
from gistdemo.memory import keep_freed_memory
from gistdemo.model.embedded import EMBEDDED
from gistdemo.prompts import template_for
from gistdemo.results.earlier_format import training_metrics
from gistdemo.settings import Settings
from gistdemo.train.card import write_card
from gistdemo.train.config import TrainConfig
from gistdemo.train.loop import Loop, recent_loss
from gistdemo.train.modes import MODES
from gistdemo.train.objectives import TRAINED, GistLearning, Ground
from gistdemo.train.presets import recipe_of

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
    ground = open_ground(config, settings)
    log.info("backbone in %s on %s", ground.model.dtype, ground.model.device)
    objective = GistLearning(config, ground, settings, should_stop)
    last = Loop(config, objective, run_dir, should_stop).run()
    folder = out or run_dir / "checkpoint"
    _export(config, objective, ground, settings, last, folder)
    _write_metrics(run_dir, read_manifest(folder))
    held = {"": objective.rows.held} | ({"long": objective.rows.held_long} if objective.rows.held_long else {})
    _judge(folder, held, config, settings)
    log.info("checkpoint written: %s", folder)
    return folder


def training_dtype(config: TrainConfig, device: str) -> torch.dtype:
    """Precision of the frozen weights during training. Weights that are trained themselves stay in float32."""
    if config.weights == "all" and MODES[config.mode].adapts == "both phases":
        return torch.float32
    if config.dtype != "auto":
        chosen: torch.dtype = getattr(torch, config.dtype)
        return chosen
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    able = torch.cpu.get_capabilities()
    return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else torch.float32


def open_ground(config: TrainConfig, settings: Settings) -> Ground:
    """Load the backbone a run stands on.

    Raises: TrainingError, CheckpointError: the name is a checkpoint's, a broken one's. BackboneError: it cannot be had.
    """
    name = config.backbone
    if name in {entry.name for entry in list_checkpoints(settings.checkpoint_dirs)} or os.path.isfile(os.path.join(name, "manifest.json")):
        row = find_row(name, settings)
        raise TrainingError(f"'{row.name}' is a checkpoint; a gist is trained on a backbone. Choose its backbone '{row.backbone}'.")
    base = ModelPool(settings, training_dtype(config, settings.device)).backbone(name)
    return Ground(base.model, base.engine, base.encoder(template_for(base.tokenizer, base.kind), settings), base.digest)


def _claim(run_dir: Path, config: TrainConfig) -> None:
    """Write the settings, or check that the directory's settings are these."""
    path = run_dir / "config.json"
    if path.exists() and path.read_text(encoding="utf-8") != config.to_json():
        raise TrainingError(
            f"Run directory '{run_dir.name}' was started with other settings. Use its own settings to resume, or a new directory."
        )
    path.write_text(config.to_json(), encoding="utf-8")


def _export(config: TrainConfig, objective: GistLearning, ground: Ground, settings: Settings, last: dict[str, Any], out: Path) -> None:
    whole = objective.decoder_moves and config.weights == "all"
    places = {"nothing": {}, "compression": {COMPRESSOR_DIR: TRAINED}, "both phases": {} if whole else {BACKBONE_ADAPTER_DIR: TRAINED}}
    adapters = places[objective.mode.adapts]
    manifest = Manifest(
        name=config.name,
        title=config.title or config.name,
        summary=config.summary,
        mode=config.mode,
        backbone=config.backbone,
        backbone_digest=ground.digest,
        template=ground.encoder.template,
        max_k=config.ks[-1],
        trained_k=config.ks,
        has_compressor=COMPRESSOR_DIR in adapters,
        has_backbone_adapter=BACKBONE_ADAPTER_DIR in adapters,
        files={},
        anchored=config.anchored,
        has_weights=whole,
        recipe=recipe_of(config, settings),
        training={
            "command": config.command(),
            "settings": config.recipe(),
            "data": objective.rows.describe(),
            "steps": last["steps"],
            "seconds": last["seconds"],
            "device": ground.model.device.type,
            "dtype": str(ground.model.dtype).removeprefix("torch."),
            "torch": torch.__version__,
        },
        recovery={"gist_shift": last["gist_shift"]} if "gist_shift" in last else {},
    )
    texts = licence_texts(config.backbone, settings)
    save_checkpoint(out, manifest, ground.model, objective.slots, adapters, write_card(manifest), objective.rows.marks, texts)


def licence_texts(backbone: str, settings: Settings) -> dict[str, str]:
    """Files that must travel with what is made from an embedded model: its licence, and the notice that licence asks for."""
    model = EMBEDDED.get(backbone)
    if model is None:
        return {}
    texts = {"LICENCE.txt": (settings.assets_dir / "licences" / model.licence_file).read_text(encoding="utf-8")}
    return texts | ({"NOTICE.txt": f"{model.notice}\n"} if model.notice else {})


def _write_metrics(run_dir: Path, manifest: Manifest) -> None:
    """RUN/metrics.json: the run in the field names of an earlier experiment."""
    metrics = training_metrics(manifest.training, manifest.max_k, manifest.backbone, recent_loss(run_dir / "metrics.jsonl"))
    (run_dir / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")


def _judge(folder: Path, held: dict[str, Any], config: TrainConfig, settings: Settings) -> None:
    """Measure the saved checkpoint and write the figures into its manifest and card."""
    base, loaded = ModelPool(settings).row(find_row(str(folder), settings))
    figures = all_recoveries(base, loaded, held, config.ks, config.answer_tokens, settings)
    manifest = read_manifest(folder)
    manifest = dataclasses.replace(manifest, recovery=manifest.recovery | figures)
    describe(folder, manifest, write_card(manifest))
    log.info("recovery of the saved checkpoint: %s", json.dumps(figures))
