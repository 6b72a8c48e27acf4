"""The rows of a run: read, encoded, kept apart from what judges them, and drawn step by step.

Two pools: all rows as they are, and long text to compress (a long instruction, or instruction and input as one text).
Each has reference answers, and for some rows the teacher's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gistdemo.data.alpaca import Rows, instruction_mark, read_marks, read_rows, rows_digest, split
from gistdemo.errors import DataError, PromptError
from gistdemo.evaluate.recovery import Judged
from gistdemo.prompts import EncodedPrompt, Example, PromptEncoder
from gistdemo.train.batches import StepOrder, draw
from gistdemo.train.config import TrainConfig
from gistdemo.train.modes import MODES

LONG_TOKENS = 30  # compressed text from here on counts as long
LONG_LEAST_K = 4  # budgets below are not asked to hold long text
Answers = Callable[[Sequence[EncodedPrompt]], list[tuple[int, ...]]]


@dataclass(frozen=True)
class Encoded:
    """Examples with their prompts and reference answers, position by position."""

    examples: list[Example]
    rows: list[Judged]


class TrainingRows:
    """What a gist run learns from and what it is judged by.

    train, long: rows to learn from, long text apart. held, held_long: rows to be judged by, never trained on; held_examples: those of held.
    own: the teacher's own answer by prompt ids, for rows of train and long that have one. marks: of all instructions trained on.
    """

    def __init__(self, config: TrainConfig, encoder: PromptEncoder):
        self.config, self._encoder = config, encoder
        source = read_rows(config.data)
        train, held, held_name = self._apart(source)
        self._train = self._encode(train)
        self._long = self._encode_long(train) if config.long_share else Encoded([], [])
        held_all = self._encode(held)
        count = config.evaluate_rows
        self.train, self.long = self._train.rows, self._long.rows
        self.held = held_all.rows[:count]
        self.held_long = self._encode_long(held).rows[:count] if config.long_share else []
        if not self.train or len(self.held) < 2:
            text = f"'{source.name}' leaves {len(self.train)} rows to train on and {len(self.held)} to judge by"
            raise DataError(f"{text}; at least 1 and 2 are needed.")
        if config.long_share and (not self.long or len(self.held_long) < 2):
            text = f"long_share is {config.long_share}, but only {len(self.long)} rows to train on and {len(self.held_long)} to judge by"
            raise DataError(f"{text} have {LONG_TOKENS} tokens to compress; at least 1 and 2 are needed. Set long_share to 0.")
        self.marks = {instruction_mark(example) for example in train}
        self.own: dict[tuple[int, ...], tuple[int, ...]] = {}
        self._orders: dict[str, StepOrder] = {}  # of pools that have rows
        self._pools: dict[str, list[Judged]] = {}
        self._offer("reference", self.train)
        self._offer("long reference", self.long)
        too_long = len(train) - len(self.train)
        self.held_examples = held_all.examples[:count]
        self._described = {
            "train": {"name": source.name, "rows": len(self.train), "digest": rows_digest(self._train.examples)},
            "rejected": dict(source.rejected) | ({"longer than max_prompt_tokens or not encodable": too_long} if too_long else {}),
            "validation": {"name": held_name, "rows": len(self.held), "digest": rows_digest(self.held_examples)},
        }
        if config.long_share:
            self._described["long"] = {"rows": len(self.long), "held_out_rows": len(self.held_long)}

    def add_own_answers(self, answers: Answers) -> None:
        """Have the teacher answer `teacher_answers` prompts, long ones in their share, and let the steps draw from them."""
        config = self.config
        wanted_long = min(len(self.long), round(config.teacher_answers * config.long_share))
        for name, rows, wanted in (("long", self.long, wanted_long), ("", self.train, config.teacher_answers - wanted_long)):
            chosen = list(rows)
            draw(config.seed, f"teacher rows {name}".strip(), 0).shuffle(chosen)
            prompts = [row.encoded for row in chosen[:wanted]]
            self.own |= dict(zip([p.ids() for p in prompts], answers(prompts), strict=True)) if prompts else {}
        for name, rows in (("own", self.train), ("long own", self.long)):
            own = [Judged(row.encoded, self.own[row.encoded.ids()]) for row in rows if row.encoded.ids() in self.own]
            self._offer(name, own)

    def batch(self, step: int) -> tuple[list[Judged], str]:
        """Rows of a batch, with the answers to learn from, and the name of their pool: reference, own, long reference or long own."""
        config = self.config
        long = config.long_share and draw(config.seed, "long", step).random() < config.long_share
        share = {"references": 0.0, "both": config.teacher_share, "own": 1.0}[MODES[config.mode].answers]
        own = draw(config.seed, "answers", step).random() < share
        wanted = ("long " if long else "") + ("own" if own else "reference")
        others = ("own", "long own") if share == 1 else ("long reference",) if long else ("reference",)
        name = next(name for name in (wanted, *others) if name in self._orders)
        return [self._pools[name][n] for n in self._orders[name].rows(step)], name

    def budget(self, step: int, pool: str) -> int:
        """k of a batch: drawn from the settings, the two smallest twice as often, for they have most to learn; long text is not
        squeezed into them."""
        ks = self.config.ks
        enough = [k for k in ks if k >= LONG_LEAST_K] if pool.startswith("long") else []
        return draw(self.config.seed, "k", step).choice(enough or (*ks, *ks[:2]))

    def describe(self) -> dict[str, Any]:
        """Names, counts and digests for the manifest."""
        return self._described | {"teacher_answers": len(self.own)}

    def _apart(self, source: Rows) -> tuple[list[Example], list[Example], str]:
        """Examples to train on, examples to judge by, and the latter's name. No instruction stands on both sides."""
        config = self.config
        if config.validation:
            parts = [read_rows(part) for part in config.validation.split("+")]
            held = [example for part in parts for example in part.examples]
            instructions = {example.instruction for example in held}
            train = [example for example in source.examples if example.instruction not in instructions]
            name = "+".join(Path(part.name).name for part in parts)
        else:
            train, held = split(source.examples, max(config.evaluate_rows, 2), config.seed)
            name = f"split of {source.name}"
        kept_out = read_marks(Path(config.held_out)) if config.held_out else frozenset()
        train = [example for example in train if instruction_mark(example) not in kept_out]
        if config.samples:
            draw(config.seed, "samples", 0).shuffle(train)
            train = train[: config.samples]
        return train, held, name

    def _encode(self, examples: Iterable[Example], least: int = 0) -> Encoded:
        kept = Encoded([], [])
        for example in examples:
            try:
                encoded = self._encoder.encode(example)
            except PromptError:
                continue  # counted by the caller: what is not kept was not usable
            if len(encoded.ids()) <= self.config.max_prompt_tokens and encoded.count("instruction") >= least:
                kept.examples.append(example)
                kept.rows.append(Judged(encoded, self._encoder.answer_ids(example.output, self.config.answer_tokens)))
        return kept

    def _encode_long(self, examples: Iterable[Example]) -> Encoded:
        return self._encode((self._encoder.joined(example) for example in examples), LONG_TOKENS)

    def _offer(self, name: str, rows: list[Judged]) -> None:
        """Let the steps draw from a pool."""
        self._pools[name] = rows
        if rows:
            lengths = [len(row.encoded.ids()) + len(row.answer) for row in rows]
            self._orders[name] = StepOrder(lengths, self.config.batch_size, self.config.seed)
