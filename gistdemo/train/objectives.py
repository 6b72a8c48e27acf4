"""What a step minimises, and how progress is judged. The loop that runs it knows nothing of it.

Every objective is causal because the stock model is: answer tokens see the cache and the tokens before them, nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from gistdemo.conditions import CONDITIONS
from gistdemo.evaluate.answers import generate
from gistdemo.evaluate.own_answers import own_answers
from gistdemo.evaluate.recovery import Judged, measure_recovery
from gistdemo.generation import Sampling
from gistdemo.metrics import assess
from gistdemo.model.answering import EngineRow
from gistdemo.model.engine import Engine
from gistdemo.model.gist_cache import GistCache
from gistdemo.model.gist_model import GistModel, gist_row
from gistdemo.prompts import EncodedPrompt, Example, PromptEncoder, plan
from gistdemo.results.evaluation import Recovery
from gistdemo.settings import Settings
from gistdemo.train.config import TrainConfig
from gistdemo.train.modes import MODES
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


@dataclass(frozen=True)
class Seen:
    """What the model said to the answers of some rows. logits: (N, C) over `part`, fp32; targets: (N,) places in it.

    pool: which rows they are (see `TrainingRows.batch`), "" where they were not drawn. numbers: what is recorded of it.
    """

    rows: Sequence[Judged]
    part: Part
    logits: Tensor
    targets: Tensor
    pool: str = ""
    numbers: dict[str, float] = field(default_factory=dict)

    @cached_property
    def cross_entropy(self) -> Tensor:
        """Mean over the answer tokens, nats."""
        return cross_entropy(self.logits, self.targets)

    @cached_property
    def unlikelihood(self) -> Tensor:
        """-log(1 - p), nats, of every earlier token of the answer that does not come next, each once; summed, mean over the answer tokens.

        Source: Welleck et al. 2020, "Neural text generation with unlikelihood training" (token level).
        """
        total, lengths = self.logits.new_zeros(()), [len(row.answer) for row in self.rows]
        for logits, said in zip(torch.split(self.logits, lengths), torch.split(self.targets, lengths), strict=True):
            same = said == said[:, None]
            again = same.tril(-1).any(1)  # said before: counted where it stood first
            wrong = torch.ones_like(same).tril(-1) & ~again & ~same  # (n, n): of position i, token j
            log_share = log_softmax(logits, -1)[:, said]
            total = total - torch.log1p(-log_share.exp().clamp(max=1 - 1e-5))[wrong].sum()
        return total / len(self.targets)


class GistLearning:
    """Gist vectors, and whatever the mode trains beside them, learning from rows; the mode's `loss` puts the pieces here together."""

    def __init__(self, config: TrainConfig, ground: Ground, settings: Settings, should_stop: Callable[[], bool] = lambda: False):
        self.config, self.ground, self._should_stop = config, ground, should_stop
        self.mode = MODES[config.mode]
        model = ground.model
        self.slots = Parameter(initial_slots(model, ground.encoder, config))
        self.initial = self.slots.detach().clone()
        self.compress_adapter: str | None = None
        self.decode_adapter: str | None = None
        self._weights: list[Parameter] = []
        if self.mode.adapts != "nothing":
            self._tune()
        self.rows = TrainingRows(config, ground.encoder)
        self.judged = {"references": self.rows.held}
        self._known: dict[str, Recovery] = {}
        if self.mode.answers != "references":
            self._generate_own(settings)
        if self.rows.held_long:
            self.judged["long_references"] = self.rows.held_long
        answers = [*(row.answer for row in (*self.rows.train, *self.rows.long)), *self.rows.own.values()]
        self.vocabulary = Vocabulary(model.config.vocab_size, answers, config.sampled_vocabulary, config.seed, model.device)

    @property
    def decoder_moves(self) -> bool:
        """Whether training changes how the full prompt is answered."""
        return self.mode.adapts == "both phases"

    def _tune(self) -> None:
        """One adapter, while compressing or in both phases; or all weights."""
        config, adapters = self.config, self.ground.model.adapters
        if self.decoder_moves and config.weights == "all":
            self._weights = [p.requires_grad_(True) for p in self.ground.model.model.parameters()]
            return
        adapters.create(TRAINED, config.rank, config.alpha, config.targets, config.seed)
        self.compress_adapter, self.decode_adapter = TRAINED, TRAINED if self.decoder_moves else None
        self._weights = list(adapters.parameters(TRAINED).values())

    def _generate_own(self, settings: Settings) -> None:
        """The teacher's own answers: of some rows to learn from, of all held-out rows to judge by."""
        ground = self.ground

        def answers(prompts: Sequence[EncodedPrompt]) -> list[tuple[int, ...]]:
            return own_answers(
                ground.engine,
                ground.encoder.stop_ids,
                prompts,
                None,
                self.config.answer_tokens,
                ground.digest,
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
        """What the step minimises (scalar, nats per token), and what is recorded of it."""
        return self.mode.loss(self, batch)

    def with_gist(self, batch: int) -> Seen:
        """The answers of a batch after its rows' gists, of a budget drawn for the batch."""
        rows, pool = self.rows.batch(batch)
        k = self.rows.budget(batch, pool)
        seen = self.after_gist(rows, k, self.vocabulary.of(batch))
        return replace(seen, pool=pool, numbers={"k": float(k)} | seen.numbers)

    def with_full_prompt(self, batch: int) -> Seen:
        """The answers of a batch after its rows' full prompts."""
        rows, pool = self.rows.batch(batch)
        return replace(self.after_full_prompt(rows, self.vocabulary.of(batch)), pool=pool)

    def divergence(self, seen: Seen) -> Tensor:
        """KL of what was seen to the full prompt under the weights of the moment, nats per token; no gradient reaches the full prompt."""
        with torch.no_grad():
            teacher = log_softmax(self.after_full_prompt(seen.rows, seen.part).logits, -1)
        return kl_div(log_softmax(seen.logits, -1), teacher, log_target=True, reduction="batchmean")

    def after_gist(self, rows: Sequence[Judged], k: int, part: Part) -> Seen:
        """The answers of rows after their gists of k tokens, over a part of the vocabulary."""
        plans = [plan(row.encoded, CONDITIONS["gist"], k, self.config.anchored) for row in rows]
        cache = self.ground.model.compress([gist_row(p, self.slots, self.compress_adapter) for p in plans])
        return self._seen(rows, part, cache, [p.prompt_ids for p in plans])

    def after_full_prompt(self, rows: Sequence[Judged], part: Part) -> Seen:
        """The answers of rows after their full prompts, over a part of the vocabulary."""
        return self._seen(rows, part, self.ground.model.empty(len(rows)), [row.encoded.ids() for row in rows])

    def _seen(self, rows: Sequence[Judged], part: Part, cache: GistCache, prompts: Sequence[Sequence[int]]) -> Seen:
        answers = [row.answer for row in rows]
        logits, targets = part.seen(*self.ground.model.answer_logits(cache, prompts, answers, self.decode_adapter, part.ids))
        seen = Seen(rows, part, logits, targets)
        return replace(seen, numbers={"cross_entropy": seen.cross_entropy.item(), "tokens": float(len(targets))})

    def evaluate(self) -> dict[str, Any]:
        """Recovery at `watched_k` on every set of held-out rows; how far the vectors have moved from where they started."""
        config = self.config
        result: dict[str, Any] = {}
        for name, rows in self.judged.items():
            adapters = (self.compress_adapter, self.decode_adapter)
            known = None if self.decoder_moves else self._known.get(name)  # a frozen decoder's own NLLs stay
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
        """Mean recovery over the sets of rows; where the decoder moves, and the scale of recovery with it, minus the NLL with the gist."""
        k = str(self.config.watched_k)
        if self.decoder_moves:
            return -float(evaluation["references"]["by_k"][k]["nll_gist"])
        found = [evaluation[name]["by_k"][k]["recovery"] for name in self.judged]
        return None if None in found else sum(found) / len(found)


def _samples(engine: Engine, rows: Sequence[EngineRow], examples: Sequence[Example], limit: int) -> list[dict[str, Any]]:
    if not rows:
        return []
    kept = []
    for row, example, made in zip(rows, examples, generate(engine, rows, Sampling(limit)), strict=True):
        found = assess(made["text"], example)
        words = {"instruction": example.instruction, "input": example.input, "condition": row.plan.condition, "text": made["text"]}
        kept.append(words | {"tokens": made["tokens"], "verdict": found.verdict, "flags": found.codes})
    return kept


def initial_slots(model: GistModel, encoder: PromptEncoder, config: TrainConfig) -> Tensor:
    """(K, E) fp32 with a little noise, so that slots differ: around zero where stretches of the instruction are added, else around
    the newline embedding. A real separator beats the vocabulary mean on a frozen backbone (docs/LOG.md)."""
    start = model.embedding_of(encoder.text_ids("\n")[-1]).float()
    noise = torch.randn(config.ks[-1], len(start), generator=torch.Generator().manual_seed(config.seed))
    return (0.0 if config.anchored else 1.0) * start + 0.01 * noise.to(start)
