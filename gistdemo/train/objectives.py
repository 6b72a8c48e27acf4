"""What a step minimises, and how progress is judged. The loop that runs it knows nothing of it.

Every objective is causal because the stock model is: answer tokens see the cache and the tokens before them, nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from gistdemo.conditions import CONDITIONS
from gistdemo.evaluate.answers import generate, judged
from gistdemo.evaluate.own_answers import own_answers
from gistdemo.evaluate.recovery import Judged, measure_recovery
from gistdemo.model.engine import Engine, EngineRow
from gistdemo.model.gist_model import GistModel, gist_row
from gistdemo.prompts import Example, PromptEncoder, plan
from gistdemo.settings import Settings
from gistdemo.train.batches import draw
from gistdemo.train.config import TrainConfig
from gistdemo.train.rows import TrainingRows
from gistdemo.train.vocabulary import Part, Vocabulary

log = logging.getLogger(__name__)
TRAINED = "trained"  # name of the adapter being trained


@dataclass(frozen=True)
class Ground:
    """What a run stands on: the backbone in memory and its encoder."""

    model: GistModel
    engine: Engine
    encoder: PromptEncoder
    digest: str

    @property
    def teacher_key(self) -> str:
        """Names weights, their precision and the template: what a stored answer depends on."""
        return f"{self.digest}/{str(self.model.dtype).removeprefix('torch.')}/{self.encoder.template.name}"


class GistLearning:
    """Gist vectors: alone (`embeddings`), with a compressor taught by the full prompt (`compressor`), or with weights that are
    on in both phases (`joint`).

    Loss: `compressor`: KL to the full prompt + a share of cross-entropy; the others: cross-entropy on reference answers.
    """

    def __init__(self, config: TrainConfig, ground: Ground, settings: Settings, should_stop: Callable[[], bool] = lambda: False):
        self.config, self.ground, self._should_stop = config, ground, should_stop
        self.distils = config.mode == "compressor"
        model = ground.model
        self.slots = Parameter(initial_slots(model, ground.encoder, config))
        self.initial = self.slots.detach().clone()
        self.compress_adapter: str | None = None
        self.decode_adapter: str | None = None
        self._weights: list[Parameter] = []
        if config.mode == "joint":
            self._tune_both_phases()
        elif self.distils:
            model.adapters.create(TRAINED, config.rank, config.alpha, config.targets, config.seed)
            self.compress_adapter = TRAINED
            self._weights = list(model.adapters.parameters(TRAINED).values())
        self.rows = TrainingRows(config, ground.encoder)
        self.judged = {"references": self.rows.held}
        self._known: dict[str, dict[str, Any]] = {}
        if self.distils:
            self._generate_own(settings)
        if self.rows.held_long:
            self.judged["long_references"] = self.rows.held_long
        answers = [*(row.answer for row in (*self.rows.train, *self.rows.long)), *self.rows.own.values()]
        self.vocabulary = Vocabulary(model.config.vocab_size, answers, config.sampled_vocabulary, config.seed, model.device)

    def _tune_both_phases(self) -> None:
        """Mode joint: one adapter in both phases, or all weights."""
        config, adapters = self.config, self.ground.model.adapters
        if config.weights == "all":
            self._weights = [p.requires_grad_(True) for p in self.ground.model.model.parameters()]
            return
        adapters.create(TRAINED, config.rank, config.alpha, config.targets, config.seed)
        self.compress_adapter = self.decode_adapter = TRAINED
        self._weights = list(adapters.parameters(TRAINED).values())

    def _generate_own(self, settings: Settings) -> None:
        """The teacher's own answers: of some rows to learn from, of all held-out rows to judge by."""
        ground = self.ground

        def answers(prompts):
            return own_answers(
                ground.engine,
                ground.encoder.stop_ids,
                prompts,
                None,
                self.config.answer_tokens,
                ground.teacher_key,
                settings.cache_dir,
                self._should_stop,
            )

        held = self.rows.held
        own = answers([row.encoded for row in held])
        self.judged["own_answers"] = [Judged(row.encoded, answer) for row, answer in zip(held, own, strict=True)]
        if self.config.teacher_answers:
            self.rows.add_own_answers(answers)

    def groups(self) -> list[dict[str, Any]]:
        groups = [{"params": [self.slots], "lr": self.config.gist_learning_rate}]
        if self._weights:
            groups.append({"params": self._weights, "lr": self.config.learning_rate})
        return groups

    def loss(self, batch: int) -> tuple[Tensor, dict[str, float]]:
        config = self.config
        rows, pool = self.rows.batch(batch)
        part = self.vocabulary.of(batch)
        if config.mode == "joint" and draw(config.seed, "condition", batch).random() < config.full_share:
            logits, targets = self._full_logits(rows, part)
            hard = cross_entropy(logits, targets)
            return hard, {"full": 1.0, "cross_entropy": hard.item(), "tokens": float(len(targets))}
        k = self.rows.budget(batch, pool)
        logits, targets = self._gist_logits(rows, k, part)
        hard = cross_entropy(logits, targets)
        numbers = {"k": float(k), "cross_entropy": hard.item(), "tokens": float(len(targets))}
        if not (self.distils or config.distillation_weight):
            return hard, numbers
        with torch.no_grad():
            teacher = log_softmax(self._full_logits(rows, part)[0], -1)
        soft = kl_div(log_softmax(logits, -1), teacher, log_target=True, reduction="batchmean")
        numbers |= {"kl": soft.item()}
        if not self.distils:
            return hard + config.distillation_weight * soft, numbers
        numbers |= {"own": float(pool.endswith("own")), "long": float(pool.startswith("long"))}
        return soft + config.cross_entropy_weight * hard, numbers

    def _gist_logits(self, rows: Sequence[Judged], k: int, part: Part) -> tuple[Tensor, Tensor]:
        """Logits over a part of the vocabulary, fp32, and the places of the targets in it; the same in `_full_logits`."""
        plans = [plan(row.encoded, CONDITIONS["gist"], k, self.config.anchored) for row in rows]
        cache = self.ground.model.compress([gist_row(p, self.slots, self.compress_adapter) for p in plans])
        answers = [r.answer for r in rows]
        return part.seen(*self.ground.model.answer_logits(cache, [p.prompt_ids for p in plans], answers, self.decode_adapter, part.ids))

    def _full_logits(self, rows: Sequence[Judged], part: Part) -> tuple[Tensor, Tensor]:
        model, prompts, answers = self.ground.model, [r.encoded.ids() for r in rows], [r.answer for r in rows]
        return part.seen(*model.answer_logits(model.empty(len(rows)), prompts, answers, self.decode_adapter, part.ids))

    def evaluate(self) -> dict[str, Any]:
        """Recovery at `watched_k` on every set of held-out rows; how far the vectors have moved from where they started."""
        config = self.config
        result: dict[str, Any] = {}
        for name, rows in self.judged.items():
            adapters = (self.compress_adapter, self.decode_adapter)
            known = self._known.get(name) if config.mode != "joint" else None  # a frozen decoder's own NLLs stay
            result[name] = self._known[name] = measure_recovery(
                self.ground.model, rows, self.slots.detach(), (config.watched_k,), *adapters, config.anchored, known
            )
        result["gist_shift"] = (self.slots.detach() - self.initial).norm(dim=1).mean().item()
        return result

    def samples(self) -> list[dict[str, Any]]:
        """Answers to the first held-out rows from the full prompt and from the gist at `watched_k`, with their verdicts."""
        config, encoder = self.config, self.ground.encoder
        examples = self.rows.held_examples[: config.sample_rows]
        slots, rows = self.slots.detach()[: config.watched_k], []
        for example in examples:
            for name in ("full", "gist"):
                made = plan(encoder.encode(example), CONDITIONS[name], config.watched_k, config.anchored)
                given = slots if name == "gist" else None
                rows.append(EngineRow(made, encoder.stop_ids, given, self.compress_adapter, self.decode_adapter))
        return _samples(self.ground.engine, rows, [e for e in examples for _ in range(2)], config.sample_tokens)

    def score(self, evaluation: dict[str, Any]) -> float | None:
        """Mean recovery over the sets of rows; for `joint`, whose scale moves with the weights, minus the NLL with the gist."""
        k = str(self.config.watched_k)
        if self.config.mode == "joint":
            return -evaluation["references"]["by_k"][k]["nll_gist"]
        found = [evaluation[name]["by_k"][k]["recovery"] for name in self.judged]
        return None if None in found else sum(found) / len(found)

    def describe_data(self) -> dict[str, Any]:
        return self.rows.describe()


def _samples(engine: Engine, rows: Sequence[EngineRow], examples: Sequence[Example], limit: int) -> list[dict[str, Any]]:
    if not rows:
        return []
    kept = []
    for row, example, made in zip(rows, examples, generate(engine, rows, limit), strict=True):
        found = judged(made, example)
        words = {"instruction": example.instruction, "input": example.input, "condition": row.plan.condition, "text": made["text"]}
        kept.append(words | {"tokens": made["tokens"], "verdict": found["verdict"], "flags": found["flags"]})
    return kept


def initial_slots(model: GistModel, encoder: PromptEncoder, config: TrainConfig) -> Tensor:
    """(K, E) fp32 with a little noise, so that slots differ: around zero where stretches of the instruction are added, else around
    the newline embedding. A real separator beats the vocabulary mean on a frozen backbone (docs/LOG.md)."""
    start = model.embedding_of(encoder.text_ids("\n")[-1]).float()
    noise = torch.randn(config.ks[-1], len(start), generator=torch.Generator().manual_seed(config.seed))
    return (0.0 if config.anchored else 1.0) * start + 0.01 * noise.to(start)
