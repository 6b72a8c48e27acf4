"""The grid of a comparison as plain values: what is asked, its cells, and a snapshot of them. No torch, no threads, no widgets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import cast

from gistdemo.conditions import CONDITIONS
from gistdemo.errors import PromptError, UsageError
from gistdemo.generation import FinishReason, Precision, Sampling
from gistdemo.metrics import Assessment
from gistdemo.prompts import Example
from gistdemo.results.answer import judgement
from gistdemo.results.comparison import Comparison, LiveAnswer, Model, Status, comparison_record
from gistdemo.settings import Settings


@dataclass(frozen=True)
class CompareRequest:
    """What to compare. k: gist tokens, and the budget of `truncated`. checkpoints: what the rows show (see `find_row`): names or folder
    paths of checkpoints, or backbones."""

    example: Example
    checkpoints: tuple[str, ...]
    conditions: tuple[str, ...]
    k: int
    sampling: Sampling

    def check(self, settings: Settings) -> None:
        """Raise PromptError or UsageError for what can be told before any model is loaded."""
        if not self.example.instruction.strip():
            raise PromptError("Instruction is empty. Type what the model should do, or choose an example.")
        problems = []
        if not self.checkpoints:
            problems.append("no checkpoint is chosen; choose at least one")
        if not self.conditions:
            problems.append("no condition is chosen; choose at least one")
        unknown = [c for c in self.conditions if c not in CONDITIONS]
        if unknown:
            problems.append(f"condition '{unknown[0]}' is not known; allowed are {', '.join(CONDITIONS)}")
        if self.k < 1:
            problems.append(f"k is {self.k}; at least 1 gist token is needed")
        if problems:
            raise UsageError("Comparison: " + "; ".join(problems) + ".")
        self.sampling.check(settings.max_new_tokens)

    def record(self, cells: Iterable[Cell], models: Mapping[str, Model]) -> Comparison:
        """This comparison as JSON. models: what answered, by name; see `comparison_record`."""
        answers = [cell.to_dict(self.k if CONDITIONS[cell.condition].depends_on_k else 0) for cell in cells]
        return comparison_record(self.example, self.k, self.sampling, models, answers)


@dataclass(frozen=True)
class Piece:
    """A run of prompt tokens and what happened to it, with their texts, for display."""

    kind: str
    fate: str
    tokens: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """One checkpoint under one condition. Numbers are None until known; text grows while `status` is "running".

    prompt_tokens: all the decoder attends to when the answer starts. kv_bytes: their keys and values. instruction_tokens ->
    kept_tokens: the compression of the instruction. first_token_seconds: from the start of this generation, model loaded.
    normalised: the `MAIN` score between `none` (0) and `full` (100) of the same checkpoint.
    gist_reused: its instruction had been compressed for an earlier answer.
    note: why there is nothing to see: how far the model is that this cell waits for, or (status "done") that its row has no gist.
    """

    checkpoint: str
    condition: str
    status: Status = "waiting"
    text: str = ""
    prompt_tokens: int | None = None
    instruction_tokens: int | None = None
    kept_tokens: int | None = None
    kv_bytes: int | None = None
    gist_reused: bool = False
    answer_tokens: int = 0
    first_token_seconds: float | None = None
    tokens_per_second: float | None = None
    finish_reason: FinishReason | None = None
    error: str | None = None
    note: str | None = None
    normalised: float | None = None
    diagnosis: Assessment | None = None
    pieces: tuple[Piece, ...] = field(default=(), repr=False)
    blind: bool = False  # its instruction was never read
    precision: Precision = "exact"  # of what a CPU computes, as it was done

    @property
    def scores(self) -> dict[str, float]:
        """Against the reference, by name; empty where there is none, or nothing was judged yet."""
        return self.diagnosis.scores if self.diagnosis else {}

    @property
    def ratio(self) -> float | None:
        """Instruction tokens per kept token, None where nothing is kept."""
        return self.instruction_tokens / self.kept_tokens if self.instruction_tokens and self.kept_tokens else None

    def to_dict(self, k: int) -> LiveAnswer:
        """Plain values for JSON: everything that is measured, nothing about display. k: 0 where the condition does not depend on it."""
        mine = {name: getattr(self, name) for name in LiveAnswer.__annotations__ if hasattr(self, name)}  # what has the same name here
        return cast(LiveAnswer, mine | {"k": k, "row": 0, "tokens": self.answer_tokens} | judgement(self.diagnosis))


@dataclass(frozen=True)
class Snapshot:
    """The grid at one moment. message and fraction tell how far loading is, for people; finished: no cell will change any more."""

    cells: tuple[Cell, ...]
    message: str
    fraction: float | None
    finished: bool
