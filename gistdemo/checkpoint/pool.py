"""Keeps backbones in memory, each once, with the checkpoints attached to it. Thread-safe.

Each backbone has a lock of its own: while one is fetched, converted or loaded, the others serve. torch and transformers are imported
at the first load, not with this module: the page is painted before.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gistdemo.checkpoint.registry import ModelRow
from gistdemo.prompts import PromptEncoder, Template, template_for
from gistdemo.settings import Settings

if TYPE_CHECKING:
    from gistdemo.checkpoint.store import LoadedCheckpoint
    from gistdemo.model.engine import Engine
    from gistdemo.model.gist_model import GistModel

Progress = Callable[[str, float], None]
ASK_AGAIN = 0.3  # seconds between two looks at how far another thread is with the same model


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
        positions: int = self.model.config.max_position_embeddings
        return positions

    def encoder(self, template: Template, settings: Settings) -> PromptEncoder:
        """A prompt encoder for this tokenizer, with limits that leave room for slots and answer."""
        room = self.context - settings.max_new_tokens - 128
        instruction = min(settings.max_instruction_tokens, room // 2)
        return PromptEncoder(self.tokenizer, template, instruction, min(settings.max_input_tokens, room - instruction))


@dataclass
class _Place:
    """Where one set of weights goes: who loads it, how far that is, what it becomes, and the rows that stand on it."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    message: str = "Waiting for another request to load this model"
    fraction: float = 0.0
    backbone: LoadedBackbone | None = None
    encoders: dict[Template, PromptEncoder] = field(default_factory=dict)
    rows: dict[Any, LoadedCheckpoint] = field(default_factory=dict)

    def told(self, progress: Progress | None) -> Progress:
        """Progress for the one who loads, seen by those who wait."""

        def report(message: str, fraction: float) -> None:
            self.message, self.fraction = message, fraction
            if progress is not None:
                progress(message, fraction)

        return report

    @contextlib.contextmanager
    def held(self, progress: Progress | None) -> Iterator[None]:
        """Hold the lock; until then tell how far its holder is."""
        while not self.lock.acquire(timeout=ASK_AGAIN):
            if progress is not None and self.backbone is None:
                progress(self.message, self.fraction)
        try:
            yield
        finally:
            self.lock.release()


class ModelPool:
    """Loads on first use; a second request for the same backbone waits for the first, one for another backbone does not.

    dtype: torch dtype of the weights; None: as `gistdemo.model.backbone.load` chooses.
    """

    def __init__(self, settings: Settings, dtype: Any = None):
        self.settings, self._dtype = settings, dtype
        self._lock = threading.Lock()  # of the dictionary only
        self._places: dict[str, _Place] = {}

    @property
    def loaded(self) -> tuple[str, ...]:
        """Keys of the weights in memory: names of backbones, or of checkpoints' own weights."""
        return tuple(key for key, place in self._places.items() if place.backbone is not None)

    def backbone(self, name: str, progress: Progress | None = None) -> LoadedBackbone:
        """Raises: BackboneError: see `gistdemo.model.backbone.load`."""
        place = self._place(name)
        with place.held(progress):
            if place.backbone is None:
                place.backbone = self._load(name, place.told(progress))
            return place.backbone

    def row(self, row: ModelRow, progress: Progress | None = None) -> tuple[LoadedBackbone, LoadedCheckpoint]:
        """Load a row and its backbone, made ready to answer fast; `backbone` leaves the weights as training needs them.

        Raises: BackboneError, CheckpointError: the backbone cannot be had, or the checkpoint does not fit it.
        """
        place = self._place(row.model_key)
        with place.held(progress):
            if place.backbone is None:
                place.backbone = self._weights_of(row, place.told(progress))
            base = place.backbone
            files = row.manifest.files if row.manifest else {}
            key = (row.name, str(row.entry.folder if row.entry else ""), repr(sorted((name, f["sha256"]) for name, f in files.items())))
            if key not in place.rows:
                place.rows[key] = self._attached(row, base, self._encoder(row, base, place.encoders))
            return base, place.rows[key]

    def _place(self, key: str) -> _Place:
        with self._lock:
            return self._places.setdefault(key, _Place())

    def _load(self, name: str, progress: Progress) -> LoadedBackbone:
        from gistdemo.model import backbone as backbones
        from gistdemo.model.engine import Engine
        from gistdemo.model.gist_model import GistModel

        found = backbones.load(name, self.settings, progress, self._dtype)
        model = GistModel(found.model)
        return LoadedBackbone(name, model, found.tokenizer, Engine(model, found.tokenizer), found.digest, found.kind)

    def _weights_of(self, row: ModelRow, progress: Progress) -> LoadedBackbone:
        """The backbone of a row, or a copy of it with the checkpoint's own weights, made ready to answer fast."""
        from gistdemo.model.threads import send_home

        base = self._load(row.backbone, progress)
        if row.entry and row.entry.manifest and row.entry.manifest.has_weights:
            from gistdemo.checkpoint.store import load_weights

            load_weights(row.entry.manifest, row.entry.folder, base.model.model)
        base.model.quicken()
        send_home()
        return base

    def _encoder(self, row: ModelRow, base: LoadedBackbone, made: dict[Template, PromptEncoder]) -> PromptEncoder:
        """The prompt encoder of a row; one per template, for each keeps a copy of the tokenizer."""
        template = row.manifest.template if row.manifest else template_for(base.tokenizer, base.kind)
        if template not in made:
            made[template] = base.encoder(template, self.settings)
        return made[template]

    def _attached(self, row: ModelRow, base: LoadedBackbone, encoder: PromptEncoder) -> LoadedCheckpoint:
        from gistdemo.checkpoint.store import attach, bare

        if row.entry is None or row.entry.manifest is None:
            return bare(row.name, base.model, encoder)
        return attach(row.entry.manifest, row.entry.folder, base.model, encoder, base.digest)
