"""Keeps backbones in memory, each once, with the checkpoints attached to it. Thread-safe.

torch and transformers are imported at the first load, not with this module: the page is painted before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gistdemo.checkpoint.registry import Entry
from gistdemo.prompts import PromptEncoder, Template
from gistdemo.settings import Settings

if TYPE_CHECKING:
    from gistdemo.checkpoint.store import LoadedCheckpoint
    from gistdemo.model.engine import Engine
    from gistdemo.model.gist_model import GistModel

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class LoadedBackbone:
    """A backbone in memory. digest: of its weights. kind: "instruct" or "base". context: positions it can tell apart."""

    name: str
    model: GistModel
    tokenizer: Any
    engine: Engine
    digest: str
    kind: str

    @property
    def context(self) -> int:
        return self.model.config.max_position_embeddings

    def encoder(self, template: Template, settings: Settings) -> PromptEncoder:
        """A prompt encoder for this tokenizer, with limits that leave room for slots and answer."""
        room = self.context - settings.max_new_tokens - 128
        instruction = min(settings.max_instruction_tokens, room // 2)
        return PromptEncoder(self.tokenizer, template, instruction, min(settings.max_input_tokens, room - instruction))


class ModelPool:
    """Loads on first use; a second request for the same backbone waits for the first.

    dtype: torch dtype of the weights; None: as `gistdemo.model.backbone.load` chooses.
    """

    def __init__(self, settings: Settings, dtype: Any = None):
        self.settings, self._dtype = settings, dtype
        self._lock = threading.RLock()
        self._backbones: dict[str, LoadedBackbone] = {}
        self._checkpoints: dict[tuple[str, str], LoadedCheckpoint] = {}

    @property
    def loaded(self) -> tuple[str, ...]:
        """Names of the backbones in memory."""
        return tuple(self._backbones)

    def backbone(self, name: str, progress: Progress | None = None) -> LoadedBackbone:
        """Raises: BackboneError: see `gistdemo.model.backbone.load`."""
        with self._lock:
            if name not in self._backbones:
                self._backbones[name] = self._load(name, progress)
            return self._backbones[name]

    def _load(self, name: str, progress: Progress | None) -> LoadedBackbone:
        from gistdemo.model import backbone as backbones
        from gistdemo.model.engine import Engine
        from gistdemo.model.gist_model import GistModel

        found = backbones.load(name, self.settings, progress, self._dtype)
        model = GistModel(found.model)
        return LoadedBackbone(name, model, found.tokenizer, Engine(model, found.tokenizer), found.digest, found.kind)

    def _model_of(self, entry: Entry, progress: Progress | None) -> LoadedBackbone:
        """The backbone of a checkpoint, or a copy of it with the checkpoint's own weights."""
        manifest = entry.manifest
        if not manifest.has_weights:
            return self.backbone(manifest.backbone, progress)
        if manifest.model_key not in self._backbones:
            from gistdemo.checkpoint.store import load_weights

            base = self._load(manifest.backbone, progress)
            load_weights(manifest, entry.folder, base.model.model)
            self._backbones[manifest.model_key] = base
        return self._backbones[manifest.model_key]

    def checkpoint(self, entry: Entry, progress: Progress | None = None) -> tuple[LoadedBackbone, LoadedCheckpoint]:
        """Load a usable registry entry and its backbone.

        Raises: BackboneError, CheckpointError: the backbone cannot be had, or the checkpoint does not fit it.
        """
        manifest = entry.manifest
        assert manifest is not None, "find_checkpoint returns usable entries only"
        with self._lock:
            base = self._model_of(entry, progress)
            from gistdemo.checkpoint.store import attach

            key = (str(entry.folder), repr(sorted((name, f["sha256"]) for name, f in manifest.files.items())))
            if key not in self._checkpoints:
                encoder = base.encoder(manifest.template, self.settings)
                self._checkpoints[key] = attach(manifest, entry.folder, base.model, encoder, base.digest)
            return base, self._checkpoints[key]
