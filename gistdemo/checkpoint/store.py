"""Checkpoint folder <-> tensors on a model. Saving is atomic: a folder is complete or not there."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gistdemo.checkpoint.manifest import (
    BACKBONE_ADAPTER_DIR,
    COMPRESSOR_DIR,
    GIST_FILE,
    ROWS_FILE,
    WEIGHTS_FILE,
    Manifest,
    describe_files,
    read_manifest,
)
from gistdemo.conditions import Condition
from gistdemo.errors import CheckpointError, first_line
from gistdemo.files import write_text
from gistdemo.model.adapter_files import CONFIG_FILE
from gistdemo.model.adapter_files import WEIGHTS_FILE as ADAPTER_FILE
from gistdemo.model.answering import EngineRow
from gistdemo.model.gist_model import GistModel
from gistdemo.prompts import Example, PromptEncoder, PromptPlan, plan

# other instructions, to see whether one would change anything: two, without a first or last token in common, for the prompts of small k
CONTROLS = ("Describe the weather on a winter morning.", "Name three large rivers")


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A checkpoint attached to its backbone, ready to make engine rows; or (manifest None) the backbone as it is, without slots.

    slots: (K, E) fp32, K = 0 without a gist.
    """

    name: str
    manifest: Manifest | None
    model: GistModel
    encoder: PromptEncoder
    slots: Tensor
    compress_adapter: str | None = None
    decode_adapter: str | None = None

    @property
    def anchored(self) -> bool:
        return self.manifest is not None and self.manifest.anchored

    def plan(self, example: Example, condition: Condition, k: int) -> PromptPlan:
        """What a condition gives to the model for an example.

        Raises: CheckpointError: a gist of more tokens than the checkpoint has, or of a backbone. PromptError: see `PromptEncoder.encode`.
        """
        if condition.gist_from and self.manifest is None:
            raise CheckpointError(
                f"'{self.name}' is a backbone and has no gist tokens. Choose full, truncated or none, or train a gist for it."
            )
        if condition.gist_from and k > len(self.slots):
            raise CheckpointError(
                f"Checkpoint '{self.name}' has {len(self.slots)} gist tokens but {k} were asked for. "
                f"Choose k up to {len(self.slots)}, or train one with more."
            )
        return plan(self.encoder.encode(example), condition, k, self.anchored)

    def is_blind(self, planned: PromptPlan, example: Example, condition: Condition, k: int) -> bool:
        """Whether something stands in the instruction's place that would be the same for another instruction. planned: of this example."""
        if not condition.holds_instruction:
            return False
        others = [dataclasses.replace(example, instruction=text) for text in CONTROLS if text != example.instruction.strip()]
        controls = [self.plan(other, condition, k) for other in others]
        return all((planned.compress_ids, planned.prompt_ids) == (c.compress_ids, c.prompt_ids) for c in controls)

    def row(self, plan: PromptPlan) -> EngineRow:
        """The engine row of a plan made by `plan`."""
        slots = None if plan.compress_ids is None else self.slots[: plan.k]
        return EngineRow(plan, self.encoder.stop_ids, slots, self.compress_adapter, self.decode_adapter)


def bare(name: str, model: GistModel, encoder: PromptEncoder) -> LoadedCheckpoint:
    """A backbone as it is, as a row of its own."""
    return LoadedCheckpoint(name, None, model, encoder, torch.zeros(0, model.config.hidden_size))


def attach(manifest: Manifest, folder: Path, model: GistModel, encoder: PromptEncoder, digest: str) -> LoadedCheckpoint:
    """Put a checkpoint's adapters on its backbone and load its slots.

    Raises: CheckpointError: the backbone has another digest, or the tensors do not fit it.
    """
    if manifest.backbone_digest != digest:
        raise CheckpointError(
            f"Checkpoint '{manifest.name}' was trained on '{manifest.backbone}' with digest {manifest.backbone_digest[:19]}..., "
            f"but the backbone found has {digest[:19]}.... Get that backbone, or train a gist for this one."
        )
    width = model.config.hidden_size
    try:
        slots = load_file(folder / GIST_FILE)["slots"].float()
    except (SafetensorError, KeyError, OSError) as error:
        raise CheckpointError(
            f"Checkpoint '{manifest.name}': {GIST_FILE} cannot be read ({error}). Copy the checkpoint folder again."
        ) from error
    if slots.shape != (manifest.max_k, width):
        raise CheckpointError(
            f"Checkpoint '{manifest.name}': gist vectors have shape {tuple(slots.shape)}, expected {(manifest.max_k, width)}. Copy the folder again."
        )
    compress, decode = _attach_adapters(manifest, folder, model)
    return LoadedCheckpoint(manifest.name, manifest, model, encoder, slots.to(model.device), compress, decode)


def load_weights(manifest: Manifest, folder: Path, model: Any) -> None:
    """Replace all weights of a stock model by a checkpoint's own.

    Raises: CheckpointError: the file does not fit the model.
    """
    try:
        found = model.load_state_dict(load_file(folder / WEIGHTS_FILE), strict=False)
        stored = {name for name, _ in model.named_parameters()}  # as `save_checkpoint` has them: tied ones once, no buffers
        wrong = [*(name for name in found.missing_keys if name in stored), *found.unexpected_keys]
        if wrong:
            raise ValueError(f"{len(wrong)} weights are missing or have no place, first '{wrong[0]}'")
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        text = f"Checkpoint '{manifest.name}': {WEIGHTS_FILE} does not fit the backbone ({first_line(error)}). Copy the folder again."
        raise CheckpointError(text) from error


def _attach_adapters(manifest: Manifest, folder: Path, model: GistModel) -> tuple[str | None, str | None]:
    """Names of the adapters of phase 1 and phase 2. Named by content, so that equal adapters are attached once.

    A checkpoint has one at most: a compressor, on in phase 1 only, or a tuned backbone's, on in both.
    """

    def attach_one(sub: str) -> str:
        content = "".join(manifest.files[f"{sub}/{file}"]["sha256"] for file in (CONFIG_FILE, ADAPTER_FILE))
        name = "a" + hashlib.sha256(content.encode()).hexdigest()[:16]
        try:
            model.adapters.attach(name, folder / sub)
        except (OSError, ValueError, SafetensorError) as error:
            raise CheckpointError(
                f"Checkpoint '{manifest.name}': its {sub} cannot be used ({first_line(error)}). Copy the folder again, or train it here."
            ) from error
        return name

    if manifest.has_compressor:
        return attach_one(COMPRESSOR_DIR), None
    tuned = attach_one(BACKBONE_ADAPTER_DIR) if manifest.has_backbone_adapter else None
    return tuned, tuned


def save_checkpoint(
    folder: Path,
    manifest: Manifest,
    model: GistModel,
    slots: Tensor,
    adapters: dict[str, str],
    card: str,
    marks: Collection[str] = (),
    texts: Mapping[str, str] | None = None,
) -> Manifest:
    """Write a checkpoint folder and check it by reading it back.

    slots: (K, E), stored as fp16. adapters: sub-folder name -> adapter name on the model. marks: of the instructions trained on.
    texts: file name -> text, such as the licence of the backbone. manifest.has_weights: the model's own weights are stored too, as
    fp16. manifest.files is filled in here.
    Replaces an older folder of that name only once the new one is complete.
    """
    building = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        save_file({"slots": slots.detach().half().cpu().contiguous()}, building / GIST_FILE)
        if manifest.has_weights:
            weights = {name: p.detach().half().cpu().contiguous() for name, p in model.model.named_parameters()}  # tied ones once
            save_file(weights, building / WEIGHTS_FILE)
        if marks:
            (building / ROWS_FILE).write_text("".join(f"{mark}\n" for mark in sorted(marks)), encoding="ascii")
        for sub, adapter in adapters.items():
            model.adapters.save(adapter, building / sub)
        for name, text in (texts or {}).items():
            (building / name).write_text(text, encoding="utf-8")
        complete = dataclasses.replace(manifest, files=describe_files(building))
        describe(building, complete, card)
        read_manifest(building)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(building, folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return complete


def trained_marks(folder: Path) -> frozenset[str]:
    """Marks of the instructions a checkpoint was trained on; empty where it does not say."""
    path = folder / ROWS_FILE
    return frozenset(path.read_text(encoding="ascii").split()) if path.is_file() else frozenset()


def describe(folder: Path, manifest: Manifest, card: str) -> None:
    """Write what a folder says about itself: manifest and card, each replaced in one move."""
    for name, text in (("README.md", card), ("manifest.json", manifest.to_json())):
        write_text(folder / name, text)
