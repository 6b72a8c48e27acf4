"""What a step minimises, and how progress is judged: one class per family of modes, all run by the same loop.

Every objective is causal because the stock model is: answer tokens see the cache and the tokens before them, nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from gistdemo.conditions import CONDITIONS
from gistdemo.data.alpaca import Rows, read_rows, rows_digest, split
from gistdemo.data.raw_text import read_texts
from gistdemo.errors import DataError, PromptError
from gistdemo.model.engine import Engine
from gistdemo.model.gist_model import Compression, GistModel
from gistdemo.prompts import EncodedPrompt, Example, PromptEncoder, plan
from gistdemo.settings import Settings
from gistdemo.train.batches import StepOrder, draw
from gistdemo.train.config import TrainConfig
from gistdemo.train.recovery import Judged, measure_recovery
from gistdemo.train.teacher import own_answers

log = logging.getLogger(__name__)
TRAINED = "trained"  # name of the adapter being trained


@dataclass(frozen=True)
class Ground:
    """What a run stands on: the backbone in memory, its encoder, and the adapter that is on in both phases (if any)."""

    model: GistModel
    engine: Engine
    encoder: PromptEncoder
    digest: str
    decode_adapter: str | None


class Objective(Protocol):
    """The part of a run that differs between modes."""

    def groups(self) -> list[dict[str, Any]]: ...  # optimizer groups: params and peak lr
    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]: ...  # loss with graph, numbers to log
    def evaluate(self, complete: bool) -> dict[str, Any]: ...  # held-out numbers; complete: all of them, at the end
    def describe_data(self) -> dict[str, Any]: ...


class LanguageModeling:
    """Causal LM loss on raw text, with a LoRA adapter on: trains a base stand-in's habits into a backbone."""

    def __init__(self, config: TrainConfig, ground: Ground):
        self.config, self.ground = config, ground
        ground.model.adapters.create(TRAINED, config.rank, config.alpha, config.targets, config.seed)
        self.blocks, self.held = self._blocks(Path(config.data))
        self._order = StepOrder([1] * len(self.blocks), config.batch_size, config.seed)

    def _blocks(self, path: Path) -> tuple[Tensor, Tensor]:
        """Documents joined by the end-of-text token, cut into blocks (N, sequence_tokens); the last 2 % are held out."""
        end = self.ground.encoder.end_id
        stream: list[int] = []
        for text in read_texts(path):
            stream += [*self.ground.encoder.text_ids(text), end]
        size = self.config.sequence_tokens
        count = len(stream) // size
        if count < 4:
            raise DataError(f"'{path.name}' gives {count} blocks of {size} tokens; at least 4 are needed.")
        blocks = torch.tensor(stream[: count * size]).view(count, size)
        held = max(1, count // 50)
        return blocks[:-held], blocks[-held:]

    def groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.ground.model.adapters.parameters(TRAINED).values()), "lr": self.config.learning_rate}]

    def _nll(self, blocks: Tensor) -> Tensor:
        with self.ground.model.adapters.using(TRAINED):
            logits = self.ground.model.model(input_ids=blocks.to(self.ground.model.device), use_cache=False).logits
        return cross_entropy(logits[:, :-1].flatten(0, 1).float(), blocks[:, 1:].flatten().to(logits.device))

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        loss = self._nll(self.blocks[self._order.rows(step)])
        return loss, {"tokens": float(self.config.batch_size * self.config.sequence_tokens)}

    @torch.inference_mode()
    def evaluate(self, complete: bool) -> dict[str, Any]:
        parts = [self._nll(part).item() for part in self.held[:64].split(8)]
        return {"held_out_nll": sum(parts) / len(parts)}

    def describe_data(self) -> dict[str, Any]:
        return {"name": Path(self.config.data).name, "blocks": len(self.blocks), "held_out_blocks": len(self.held)}


class GistLearning:
    """Gist vectors, alone (`embeddings`: cross-entropy on references) or with a compressor (KL to the full prompt + cross-entropy)."""

    def __init__(self, config: TrainConfig, ground: Ground, settings: Settings):
        self.config, self.ground = config, ground
        self.distils = config.mode == "compressor"
        model = ground.model
        self.slots = Parameter(initial_slots(model, ground.encoder, config.ks[-1], config.seed))
        self.initial = self.slots.detach().clone()
        self.compress_adapter = ground.decode_adapter
        if self.distils:
            if ground.decode_adapter is not None:
                raise DataError("Mode compressor needs a backbone without an adapter of its own. Choose a plain backbone.")
            model.adapters.create(TRAINED, config.rank, config.alpha, config.targets, config.seed)
            self.compress_adapter = TRAINED
        self._read_data(settings)

    def _read_data(self, settings: Settings) -> None:
        config = self.config
        rows = read_rows(config.data)
        if config.validation:
            held = list(read_rows(config.validation).examples)
            instructions = {e.instruction for e in held}
            train = [e for e in rows.examples if e.instruction not in instructions]
        else:
            train, held = split(rows.examples, max(config.evaluate_rows, 2), config.seed)
        self.train, kept, too_long = self._encode(train)
        self.held, held_kept, _ = self._encode(held[: config.evaluate_rows * 2])
        self.held, held_kept = self.held[: config.evaluate_rows], held_kept[: config.evaluate_rows]
        if not self.train or len(self.held) < 2:
            raise DataError(
                f"'{rows.name}' leaves {len(self.train)} rows to train on and {len(self.held)} to judge by; at least 1 and 2 are needed."
            )
        self._data = _described(rows, kept, held_kept, too_long, config)
        self.judged = {"references": self.held}
        self._known: dict[str, dict[str, Any]] = {}
        self.own: dict[int, tuple[int, ...]] = {}
        if self.distils:
            self._generate_own(settings)
        self._order = StepOrder([len(r.encoded.ids()) + len(r.answer) for r in self.train], config.batch_size, config.seed)
        self._own_rows = sorted(self.own)
        own_lengths = [len(self.train[n].encoded.ids()) + len(self.own[n]) for n in self._own_rows]
        self._own_order = StepOrder(own_lengths, config.batch_size, config.seed) if own_lengths else None

    def _encode(self, examples: Sequence[Example]) -> tuple[list[Judged], list[Example], int]:
        judged, kept = [], []
        for example in examples:
            try:
                encoded = self.ground.encoder.encode(example)
            except PromptError:
                continue
            if len(encoded.ids()) <= self.config.max_prompt_tokens:
                judged.append(Judged(encoded, self.ground.encoder.answer_ids(example.output, self.config.answer_tokens)))
                kept.append(example)
        return judged, kept, len(examples) - len(kept)

    def _generate_own(self, settings: Settings) -> None:
        """The teacher's own answers: of the first rows for training, of all held-out rows for judging."""
        config, ground = self.config, self.ground

        def answers(prompts: Sequence[EncodedPrompt]) -> list[tuple[int, ...]]:
            key = f"{ground.digest}/{ground.encoder.template.name}"
            return own_answers(ground.engine, ground.encoder.stop_ids, prompts, None, config.answer_tokens, key, settings.cache_dir)

        own_held = answers([row.encoded for row in self.held])
        self.judged["own_answers"] = [Judged(row.encoded, answer) for row, answer in zip(self.held, own_held, strict=True)]
        chosen = list(range(len(self.train)))
        draw(config.seed, "teacher rows", 0).shuffle(chosen)
        chosen = sorted(chosen[: config.teacher_answers])
        if chosen:
            self.own = dict(zip(chosen, answers([self.train[n].encoded for n in chosen]), strict=True))

    def groups(self) -> list[dict[str, Any]]:
        groups = [{"params": [self.slots], "lr": self.config.gist_learning_rate}]
        if self.distils:
            groups.append({"params": list(self.ground.model.adapters.parameters(TRAINED).values()), "lr": self.config.learning_rate})
        return groups

    def _batch(self, step: int) -> tuple[list[Judged], str]:
        """Rows of a step with the answers to learn from: the teacher's own in a share of the steps, else references."""
        if self._own_order and draw(self.config.seed, "answers", step).random() < self.config.teacher_share:
            at = [self._own_rows[n] for n in self._own_order.rows(step)]
            return [Judged(self.train[n].encoded, self.own[n]) for n in at], "own"
        return [self.train[n] for n in self._order.rows(step)], "reference"

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        config, model = self.config, self.ground.model
        rows, kind = self._batch(step)
        answers = [row.answer for row in rows]
        k = draw(config.seed, "k", step).choice(config.ks)
        gist = [plan(row.encoded, CONDITIONS["gist"], k) for row in rows]
        cache = model.compress([Compression(p.compress_ids or (), self.slots[:k], self.compress_adapter) for p in gist])
        logits, targets = model.answer_logits(cache, [p.prompt_ids for p in gist], answers, self.ground.decode_adapter)
        hard = cross_entropy(logits.float(), targets)
        numbers = {"k": float(k), "own_answers": float(kind == "own"), "cross_entropy": hard.item(), "tokens": float(len(targets))}
        if not self.distils:
            return hard, numbers
        with torch.no_grad():
            full = [plan(row.encoded, CONDITIONS["full"], 0) for row in rows]
            teacher, _ = model.answer_logits(model.empty(len(rows)), [p.prompt_ids for p in full], answers, self.ground.decode_adapter)
        soft = kl_div(log_softmax(logits.float(), -1), log_softmax(teacher.float(), -1), log_target=True, reduction="batchmean")
        return soft + config.cross_entropy_weight * hard, numbers | {"kl": soft.item()}

    def evaluate(self, complete: bool) -> dict[str, Any]:
        """Recovery on held-out rows: of every k when complete, else of `watched_k`; on references and, with a teacher, its own answers."""
        result: dict[str, Any] = {name: self._recovery(name, rows, complete) for name, rows in self.judged.items()}
        result["gist_shift"] = (self.slots.detach() - self.initial).norm(dim=1).mean().item()
        return result

    def _recovery(self, name: str, rows: Sequence[Judged], complete: bool) -> dict[str, Any]:
        ks = self.config.ks if complete else (self.config.watched_k,)
        adapters = (self.compress_adapter, self.ground.decode_adapter)
        measured = measure_recovery(self.ground.model, rows, self.slots.detach(), ks, *adapters, known=self._known.get(name))
        self._known[name] = measured  # the decoder is frozen: its own NLLs stay
        return measured

    def describe_data(self) -> dict[str, Any]:
        return self._data | {"teacher_answers": len(self.own)}


def initial_slots(model: GistModel, encoder: PromptEncoder, count: int, seed: int) -> Tensor:
    """(K, E) fp32: the newline embedding plus a little noise, so that slots differ. A real separator beats the vocabulary mean
    on a frozen backbone (docs/LOG.md)."""
    start = model.embedding_of(encoder.text_ids("\n")[-1]).float()
    noise = torch.randn(count, len(start), generator=torch.Generator().manual_seed(seed))
    return start + 0.01 * noise.to(start)


def _described(rows: Rows, train: Sequence[Example], held: Sequence[Example], too_long: int, config: TrainConfig) -> dict[str, Any]:
    return {
        "train": {"name": rows.name, "rows": len(train), "digest": rows_digest(train)},
        "rejected": dict(rows.rejected) | ({"longer than max_prompt_tokens or not encodable": too_long} if too_long else {}),
        "validation": {
            "name": config.validation.rsplit("/", 1)[-1] or f"split of {rows.name}",
            "rows": len(held),
            "digest": rows_digest(held),
        },
    }
