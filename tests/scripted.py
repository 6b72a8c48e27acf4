"""A model pool without a model: its engine says what a script tells it to, with the events, prompts and errors of the real one.

For tests of the comparison, the command line and the page. Prompts are real (`PromptEncoder` on the toy tokenizer), and so is the
check of k; only the tokens are given instead of computed.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file
from toy import toy_tokenizer

from gistdemo.checkpoint.manifest import GIST_FILE, Manifest, describe_files
from gistdemo.checkpoint.registry import ModelRow
from gistdemo.checkpoint.store import LoadedCheckpoint
from gistdemo.generation import Precision, RowReady, Sampling, TokenEvent
from gistdemo.model.text_stream import TextStream
from gistdemo.prompts import CHATML, PLAIN, PromptEncoder, PromptPlan
from gistdemo.settings import Settings

SLOTS = 16
KV_BYTES_PER_TOKEN = 64
LOOP = "Output: www.google.com\n"
NAMES = ("base", "instruct")


@dataclass(frozen=True)
class Line:
    """What one cell says. It ends by itself, unless the answer limit is reached first or `error` is given."""

    text: str
    error: str | None = None


@dataclass(frozen=True)
class ScriptedRow:
    """What the engine needs of a cell."""

    checkpoint: str
    plan: PromptPlan
    encoder: PromptEncoder


Says = Callable[[ScriptedRow, str], Line | str]


def echo(row: ScriptedRow, instruction: str) -> str:
    """The default script: every cell names itself and its instruction."""
    return f"{row.checkpoint} {row.plan.condition} k={row.plan.k} heard: {instruction}"


class ScriptedPool:
    """Stands where `ModelPool` does. Every field may be changed between comparisons.

    script: (checkpoint, condition) -> text or Line; what is not in it is said by `says`. delay: seconds per step.
    gate: loading waits until it is set; gated: backbones that wait for it (None: all). refuse: row name -> the error that loading it
    raises.
    crash: raised by the engine after `crash_after` steps. samplings, stops: what each stream was given.
    """

    def __init__(self, settings: Settings, script: dict[tuple[str, str], Line | str] | None = None, says: Says = echo, delay: float = 0.0):
        self.settings = settings
        self.script = script or {}
        self.says = says
        self.delay = delay
        self.gate = threading.Event()
        self.gate.set()
        self.gated: set[str] | None = None
        self.refuse: dict[str, Exception] = {}
        self.crash: Exception | None = None
        self.crash_after = 0
        self.loaded: list[str] = []
        self.samplings: list[Sampling] = []
        self.stops: list[threading.Event] = []
        self._running = 0
        self._changed = threading.Condition()
        self.tokenizer = toy_tokenizer()

    def reset(self) -> None:
        """Back to the state at the start, with all models loaded."""
        self.script, self.says, self.delay, self.refuse, self.crash, self.crash_after = {}, echo, 0.0, {}, None, 0
        self.gate.set()
        self.gated = None

    def row(self, row: ModelRow, progress: Callable[[str, float], None] | None = None) -> tuple[Any, Any]:
        if row.backbone not in self.loaded:
            if progress:
                progress(f"Reading the weights of {row.backbone}", 0.4)
            if self.gated is None or row.backbone in self.gated:
                assert self.gate.wait(60), "the gate was never opened"
            self.loaded.append(row.backbone)
        if row.name in self.refuse:
            raise self.refuse[row.name]
        model = SimpleNamespace(precision=lambda asked: asked)
        base = SimpleNamespace(engine=ScriptedEngine(self), tokenizer=self.tokenizer, model=model)
        template = row.manifest.template if row.manifest else PLAIN if row.kind == "base" else CHATML
        encoder = PromptEncoder(self.tokenizer, template, self.settings.max_instruction_tokens, self.settings.max_input_tokens)
        slots = torch.zeros(row.manifest.max_k if row.manifest else 0, 4)
        real = LoadedCheckpoint(row.name, row.manifest, None, encoder, slots)  # type: ignore[arg-type]

        def made(plan: PromptPlan) -> ScriptedRow:
            return ScriptedRow(row.name, plan, encoder)

        return base, SimpleNamespace(encoder=encoder, plan=real.plan, is_blind=real.is_blind, row=made)

    @property
    def running(self) -> int:
        """Engine streams that have begun and not ended."""
        return self._running

    def count(self, change: int) -> None:
        with self._changed:
            self._running += change
            self._changed.notify_all()

    def wait_until_idle(self, timeout: float = 10.0) -> bool:
        """Wait until no engine stream is running; False if one still is."""
        with self._changed:
            return self._changed.wait_for(lambda: self._running == 0, timeout)


class ScriptedEngine:
    """Same promises as `gistdemo.model.engine.Engine.stream`."""

    def __init__(self, pool: ScriptedPool):
        self.pool = pool

    def prepare(self, precision: Precision) -> None:
        """There are no weights."""

    def stream(
        self, rows: Sequence[ScriptedRow], sampling: Sampling, stop: threading.Event | None = None
    ) -> Iterator[RowReady | TokenEvent]:
        began, pool = time.perf_counter(), self.pool
        lines = [self._line(row) for row in rows]
        queues = [iter((*row.encoder.text_ids(line.text), row.encoder.end_id)) for row, line in zip(rows, lines, strict=True)]
        texts, counts = [TextStream(pool.tokenizer) for _ in rows], [0] * len(rows)
        pool.samplings.append(sampling)
        pool.stops.append(stop)  # type: ignore[arg-type]
        pool.count(1)
        try:
            for n, row in enumerate(rows):
                yield RowReady(n, KV_BYTES_PER_TOKEN * row.plan.prompt_tokens, time.perf_counter() - began)
            going = list(range(len(rows)))
            for step in range(10**9):
                if not going:
                    return
                if stop is not None and stop.is_set():
                    for n in going:
                        yield TokenEvent(n, None, texts[n].rest(), "stopped", time.perf_counter() - began)
                    return
                if pool.crash is not None and step >= pool.crash_after:
                    raise pool.crash
                time.sleep(pool.delay)
                seconds = time.perf_counter() - began
                for n in list(going):
                    token, row = next(queues[n]), rows[n]
                    counts[n] += 1
                    if token == row.encoder.end_id and lines[n].error is not None:
                        yield TokenEvent(n, None, texts[n].rest(), "error", seconds, lines[n].error)
                    elif token in row.encoder.stop_ids:
                        yield TokenEvent(n, token, texts[n].rest(), "eos", seconds)
                    elif counts[n] == sampling.max_new_tokens:
                        yield TokenEvent(n, token, texts[n].push(token) + texts[n].rest(), "limit", seconds)
                    else:
                        yield TokenEvent(n, token, texts[n].push(token), None, seconds)
                        continue
                    going.remove(n)
        finally:
            pool.count(-1)

    def _line(self, row: ScriptedRow) -> Line:
        instruction = self.pool.tokenizer.decode([i for kind, _, ids in row.plan.pieces if kind == "instruction" for i in ids])
        said = self.pool.script.get((row.checkpoint, row.plan.condition))
        said = self.pool.says(row, instruction.strip()) if said is None else said
        return said if isinstance(said, Line) else Line(said)


def write_checkpoint(folder: Path, **changes: Any) -> Path:
    """Write a small valid checkpoint folder; `changes` are fields of its manifest."""
    folder.mkdir(parents=True)
    values: dict[str, Any] = {
        "name": folder.name,
        "title": f"Toy {folder.name}",
        "summary": f"What {folder.name} is, in a sentence.",
        "mode": "embeddings",
        "backbone": "toy",
        "backbone_digest": "sha256:" + "ab" * 32,
        "template": CHATML,
        "max_k": SLOTS,
        "trained_k": (1, 2, 4, 8, 16),
        "has_compressor": False,
        "has_backbone_adapter": False,
        "files": {},
        "training": {"steps": 100, "seconds": 120.0, "device": "cpu"},
        "recovery": {"references": {"rows": 64, "by_k": {"4": {"recovery": 0.5, "swapped": 0.01}}}},
    }
    manifest = Manifest(**(values | changes))
    save_file({"slots": torch.zeros(manifest.max_k, 4).half()}, folder / GIST_FILE)
    manifest = dataclasses.replace(manifest, files=describe_files(folder))
    (folder / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")
    return folder


def write_two_checkpoints(settings: Settings, backbone: str = "toy") -> Settings:
    """A base model with the plain template and an instruct model with ChatML, in the folder of shipped checkpoints, on one backbone."""
    write_checkpoint(settings.shipped_checkpoints_dir / NAMES[0], backbone=backbone, template=PLAIN)
    write_checkpoint(settings.shipped_checkpoints_dir / NAMES[1], backbone=backbone)
    return settings
