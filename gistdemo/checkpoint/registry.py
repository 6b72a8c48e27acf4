"""Finds what a row can show: the gist checkpoints of this installation, and backbones as they are.

Broken checkpoints are listed with their reason; they never hide the others.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gistdemo.checkpoint.manifest import Manifest, read_json, read_manifest
from gistdemo.errors import CheckpointError, one_line
from gistdemo.model.embedded import EMBEDDED, EmbeddedModel, chosen
from gistdemo.model.fetching import HUB_ID
from gistdemo.results.comparison import Model
from gistdemo.settings import Settings

EVALUATION_FILE = "evaluation.json"
BACKBONE_SUMMARY = "The model as it is, without a gist."


@dataclass(frozen=True)
class Entry:
    """One folder: its manifest, or the reason why it cannot be used."""

    name: str
    folder: Path
    manifest: Manifest | None
    problem: str | None

    def evaluation(self) -> dict[str, Any] | None:
        """The summary of an evaluation kept beside the checkpoint (see `gistdemo.evaluate.run`); None where there is none to read."""
        try:
            found = read_json(self.folder / EVALUATION_FILE)
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def recovery(self) -> dict[str, Any]:
        """Recovery by kind of answers: of the evaluation beside the checkpoint where it has some, else as measured after training."""
        measured = (self.evaluation() or {}).get("recovery")
        later = measured.get(self.name) if isinstance(measured, dict) else None
        return (self.manifest.recovery if self.manifest else {}) | (later if isinstance(later, dict) else {})


@dataclass(frozen=True)
class ModelRow:
    """What one row shows: a usable checkpoint, or (entry None) a backbone as it is, which has no gist.

    name: the checkpoint's or the backbone's. backbone: an embedded model, a hub id or a folder.
    """

    name: str
    backbone: str
    entry: Entry | None = None

    @property
    def manifest(self) -> Manifest | None:
        return self.entry.manifest if self.entry else None

    @property
    def model_key(self) -> str:
        """Names the weights that must be in memory: rows with equal keys share one model, and one batch."""
        return self.manifest.model_key if self.manifest else self.backbone

    @property
    def embedded(self) -> EmbeddedModel | None:
        """The record of its backbone, where that is an embedded model."""
        return EMBEDDED.get(self.backbone)

    @property
    def has_gist(self) -> bool:
        return self.manifest is not None

    @property
    def title(self) -> str:
        if self.manifest:
            return self.manifest.title
        return self.embedded.title if self.embedded else Path(self.backbone).name

    @property
    def summary(self) -> str:
        return self.manifest.summary if self.manifest else BACKBONE_SUMMARY

    @property
    def mode(self) -> str:
        return self.manifest.mode if self.manifest else "no gist"

    def described(self) -> Model:
        """What is told of it in the JSON of a comparison."""
        return {"mode": self.mode, "backbone": self.backbone, "backbone_digest": self.manifest.backbone_digest if self.manifest else None}

    @property
    def kind(self) -> str:
        """ "base" or "instruct"; "" for a backbone that tells only when it is loaded."""
        if self.manifest:
            return "base" if self.manifest.template.name == "plain" else "instruct"
        return self.embedded.kind if self.embedded else ""


def list_rows(settings: Settings) -> list[ModelRow]:
    """Usable checkpoints, in the order of `list_checkpoints`, then the embedded models as they are."""
    made = [ModelRow(e.name, e.manifest.backbone, e) for e in list_checkpoints(settings.checkpoint_dirs) if e.manifest]
    names = {row.name for row in made}
    return [*made, *(ModelRow(model.name, model.name) for model in chosen(settings) if model.name not in names)]


def find_row(name: str, settings: Settings) -> ModelRow:
    """The checkpoint of a name or path, else the backbone of that name: an embedded model, a folder, a hub id.

    Raises: CheckpointError: there is neither, or the checkpoint is broken (with the reason).
    """
    entries = {entry.name: entry for entry in list_checkpoints(settings.checkpoint_dirs)}
    if name not in entries:
        is_folder = os.path.isfile(os.path.join(name, "config.json"))  # False for names no path can have
        if name in EMBEDDED or is_folder or (HUB_ID.fullmatch(name) and not os.path.isdir(name)):
            return ModelRow(name, name)
    entry, manifest = _usable(name, settings.checkpoint_dirs)
    return ModelRow(entry.name, manifest.backbone, entry)


def list_checkpoints(folders: Sequence[Path]) -> list[Entry]:
    """Every sub-folder of the given folders: folder by folder, within one gist vectors alone, then decoders tuned with
    their gist, then compressors, each by name; broken ones last. The first of a name wins. Reads files, loads no model."""
    found: dict[str, Entry] = {}
    for parent in folders:
        folders_here = [p for p in parent.iterdir() if p.is_dir() and not p.name.startswith(".")] if parent.is_dir() else []
        for entry in sorted((_entry(folder) for folder in folders_here), key=_rank):
            found.setdefault(entry.name, entry)
    return list(found.values())


def budgets(settings: Settings) -> list[int]:
    """Every k that a checkpoint here was trained for, rising; the usual ones where there is no checkpoint."""
    trained = {k for entry in list_checkpoints(settings.checkpoint_dirs) if entry.manifest for k in entry.manifest.trained_k}
    return sorted(trained) or [1, 2, 4, 8, 16]


def _rank(entry: Entry) -> tuple[int, str]:
    m = entry.manifest
    return (3 if m is None else 2 if m.has_compressor else int(m.has_backbone_adapter or m.has_weights), entry.name)


def find_checkpoint(name: str, folders: Sequence[Path]) -> Entry:
    """The usable checkpoint of a name (or a path to one).

    Raises: CheckpointError: there is none of that name, or it is broken (with the reason).
    """
    return _usable(name, folders)[0]


def _usable(name: str, folders: Sequence[Path]) -> tuple[Entry, Manifest]:
    entries = {entry.name: entry for entry in list_checkpoints(folders)}
    entry = entries.get(name) or (_entry(Path(name)) if os.path.isdir(name) else None)  # isdir: False for names no path can have
    if entry is None:
        known = ", ".join(n for n, e in entries.items() if e.manifest) or "none"
        raise CheckpointError(
            f"There is no checkpoint '{name}'. Available: {known}. Give one of these names, the path of a checkpoint folder, or, for a "
            f"model as it is, {' or '.join(EMBEDDED)}, a hub id such as 'org/name' or a model folder."
        )
    if entry.manifest is None:
        raise CheckpointError(f"Checkpoint {entry.problem}")
    return entry, entry.manifest


def _entry(folder: Path) -> Entry:
    try:
        return Entry(folder.name, folder, read_manifest(folder), None)
    except CheckpointError as error:
        return Entry(folder.name, folder, None, one_line(error))
