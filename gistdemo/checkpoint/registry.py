"""Finds the gist checkpoints of this installation. Broken ones are listed with their reason; they never hide the others."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gistdemo.checkpoint.manifest import MODES, Manifest, read_json, read_manifest
from gistdemo.errors import CheckpointError, one_line

EVALUATION_FILE = "evaluation.json"


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


def list_checkpoints(folders: Sequence[Path]) -> list[Entry]:
    """Every sub-folder of the given folders: folder by folder, within one by mode as in MODES (backbones, gist vectors alone, tuned
    with their gist, compressors), then by name; broken ones last. The first of a name wins. Reads files, loads no model."""
    found: dict[str, Entry] = {}
    for parent in folders:
        folders_here = [p for p in parent.iterdir() if p.is_dir() and not p.name.startswith(".")] if parent.is_dir() else []
        for entry in sorted((_entry(folder) for folder in folders_here), key=_rank):
            found.setdefault(entry.name, entry)
    return list(found.values())


def _rank(entry: Entry) -> tuple[int, str]:
    return (MODES.index(entry.manifest.mode) if entry.manifest else len(MODES), entry.name)


def find_checkpoint(name: str, folders: Sequence[Path]) -> Entry:
    """The usable checkpoint of a name (or a path to one).

    Raises: CheckpointError: there is none of that name, or it is broken (with the reason).
    """
    entries = {entry.name: entry for entry in list_checkpoints(folders)}
    entry = entries.get(name) or (_entry(Path(name)) if os.path.isdir(name) else None)  # isdir: False for names no path can have
    if entry is None:
        known = ", ".join(n for n, e in entries.items() if e.manifest and e.manifest.max_k) or "none"
        raise CheckpointError(
            f"There is no checkpoint '{name}'. Available: {known}. Give one of these names or the path of a checkpoint folder."
        )
    if entry.manifest is None:
        raise CheckpointError(f"Checkpoint {entry.problem}")
    return entry


def _entry(folder: Path) -> Entry:
    try:
        return Entry(folder.name, folder, read_manifest(folder), None)
    except CheckpointError as error:
        return Entry(folder.name, folder, None, one_line(error))
