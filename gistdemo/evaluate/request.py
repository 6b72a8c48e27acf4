"""What an evaluation measures, as a value, and the rows it measures on. No torch."""

from __future__ import annotations

import dataclasses
import logging
import os
import random
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from gistdemo.conditions import CONDITIONS
from gistdemo.data.alpaca import instruction_mark, read_rows, source_name
from gistdemo.errors import DataError, PromptError, UsageError
from gistdemo.generation import Precision, Sampling
from gistdemo.model.fetching import HUB_ID
from gistdemo.prompts import Example, PromptEncoder

log = logging.getLogger(__name__)
DEFAULT_CONDITIONS = ("full", "gist", "truncated", "none")


def model_name(name: str) -> str:
    """A checkpoint or backbone without the folders it lies in, which say something about one machine only; a hub id stays whole."""
    if HUB_ID.fullmatch(name) and not os.path.isdir(name):
        return name
    return name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1] or name


@dataclass(frozen=True)
class EvaluationRequest:
    """What to measure. checkpoints: names or folders. data: Alpaca sources joined by +. rows: how many, drawn with `seed`; 0: all.

    conditions: to answer in; none where recovery alone is wanted. max_new_tokens: answer limit. recovery: measure NLL recovery too.
    allow_trained: measure rows whose instruction a checkpoint was trained on as well, and say so.
    precision: of the answers; recovery is always exact. judge: ask of every answer whether it is about what was asked.
    joined: compress instruction and input as one text. least_tokens, most_tokens: keep rows whose compressed text is that long.
    """

    checkpoints: tuple[str, ...]
    data: str
    rows: int = 200
    seed: int = 0
    conditions: tuple[str, ...] = DEFAULT_CONDITIONS
    ks: tuple[int, ...] = (4,)
    max_new_tokens: int = 64
    joined: bool = False
    least_tokens: int = 0
    most_tokens: int = 100_000
    allow_trained: bool = False
    recovery: bool = True
    precision: Precision = "exact"
    judge: bool = True

    def __post_init__(self) -> None:
        problems = []
        if not self.checkpoints or len(set(self.checkpoints)) < len(self.checkpoints):
            problems.append(f"checkpoints is {self.checkpoints}; one or more different names are needed")
        if not self.data.strip():
            problems.append("data is empty; an Alpaca file or a hub dataset id is needed")
        if unknown := [name for name in self.conditions if name not in CONDITIONS]:
            problems.append(f"condition '{unknown[0]}' is not known, allowed are {', '.join(CONDITIONS)}")
        if not self.ks or min(self.ks) < 1:
            problems.append(f"ks is {self.ks}; at least one k, from 1 on, is needed")
        if self.rows < 0 or self.max_new_tokens < 1:
            problems.append(f"rows is {self.rows} and max_new_tokens {self.max_new_tokens}; allowed are 0 or more, and 1 or more")
        if not self.conditions and not self.recovery:
            problems.append("neither conditions nor recovery are asked for; nothing would be measured")
        if self.precision not in get_args(Precision):
            problems.append(f"precision is '{self.precision}'; allowed are {', '.join(get_args(Precision))}")
        if problems:
            raise UsageError("Evaluation: " + "; ".join(problems) + ".")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EvaluationRequest:
        """The request of a record made by `dataclasses.asdict`, also after a trip through JSON.

        Raises: UsageError: unknown fields, or values that are not allowed.
        """
        fields = {f.name for f in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - fields):
            raise UsageError(f"Evaluation: unknown {', '.join(unknown)}. Allowed are {', '.join(sorted(fields))}.")
        given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        return cls(**given)

    @property
    def needs_gist(self) -> bool:
        return self.recovery or any(CONDITIONS[name].gist_from for name in self.conditions)

    def sampling(self) -> Sampling:
        """How every answer is computed: greedily."""
        return Sampling(self.max_new_tokens, precision=self.precision)

    def settings(self) -> list[tuple[str, int]]:
        """Every (condition, k) to generate; k is 0 where the condition does not depend on it."""
        return [(name, k) for name in self.conditions for k in (self.ks if CONDITIONS[name].depends_on_k else (0,))]

    def named(self) -> EvaluationRequest:
        """The same without folders: they say something about one machine only."""
        return dataclasses.replace(self, checkpoints=tuple(model_name(name) for name in self.checkpoints), data=source_name(self.data))

    def command(self, out: str = "results") -> str:
        """The command line that measures this."""
        parts = ["python -m gistdemo eval"]
        parts += [f"--checkpoint {shlex.quote(name)}" for name in self.checkpoints]
        parts.append(f"--data {shlex.quote(self.data)} --rows {self.rows}")
        parts.append(f"--conditions {shlex.quote(','.join(self.conditions))} --k {','.join(map(str, self.ks))}")
        for name in ("seed", "max_new_tokens", "least_tokens", "most_tokens", "precision"):
            value = getattr(self, name)
            parts += [f"--{name.replace('_', '-')} {value}"] if value != getattr(EvaluationRequest, name) else []
        parts += ["--joined"] if self.joined else []
        parts += ["--allow-trained"] if self.allow_trained else []
        parts += [] if self.recovery else ["--no-recovery"]
        parts += [] if self.judge else ["--no-judge"]
        return " ".join([*parts, f"--out {shlex.quote(out)}"])


def evaluation_rows(
    request: EvaluationRequest, encoders: Sequence[PromptEncoder], marks: frozenset[str] = frozenset()
) -> tuple[list[Example], int]:
    """The rows of a request, in the order of the source, and how many of them were trained on.

    encoders: of the checkpoints; a row must be readable for all, the first counts tokens and joins. marks: of the instructions
    the checkpoints were trained on. Raises: DataError: the source cannot be read, no row is left, or rows were trained on and
    that is not allowed.
    """
    kept = []
    for part in request.data.split("+"):
        for original in read_rows(part, need_output=False).examples:
            example = encoders[0].joined(original) if request.joined else original
            try:
                first, *_ = [encoder.encode(example) for encoder in encoders]
            except PromptError as error:
                log.info("row left out: %s", error)
                continue
            if request.least_tokens <= first.count("instruction") <= request.most_tokens:
                kept.append((example, instruction_mark(original) in marks))
    if not kept:
        raise DataError(f"'{request.data}' has no row of {request.least_tokens} to {request.most_tokens} tokens to compress.")
    if request.rows and request.rows < len(kept):
        kept = [kept[n] for n in sorted(random.Random(request.seed).sample(range(len(kept)), request.rows))]
    trained_on = sum(seen for _, seen in kept)
    if trained_on and not request.allow_trained:
        raise DataError(
            f"'{', '.join(request.checkpoints)}' was trained on the instructions of {trained_on} of {len(kept)} rows of '{request.data}'. "
            "Give rows it has not seen, or allow training rows; every figure then says so."
        )
    return [example for example, _ in kept], trained_on
