"""What is asked of a generation and what it reports: plain values, shared by engine, comparison, CLI and page. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from gistdemo.errors import UsageError

FinishReason = Literal["eos", "limit", "stopped", "error"]
Precision = Literal["exact", "fast"]  # of what a CPU computes, see `gistdemo.model.packed`
# Of comparisons: 99.3 % of 2,000 answers have the verdict that exact ones have, ROUGE-L -0.14 [-0.32, 0.04] (docs/LOG.md)
LIVE: Precision = "fast"


@dataclass(frozen=True)
class Sampling:
    """How tokens are computed and chosen, complete: nothing is taken from a model's own generation config.

    temperature 0 is greedy (top_p and seed then have no effect). Each row draws from its own generator started at `seed`,
    so a row's text does not depend on which other rows are in the batch.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    precision: Precision = "exact"

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0

    def check(self, limit: int) -> None:
        """Raise UsageError naming every field whose value is not allowed; `limit` is the largest max_new_tokens."""
        problems = []
        if not 1 <= self.max_new_tokens <= limit:
            problems.append(f"answer limit is {self.max_new_tokens}; allowed are 1 to {limit} tokens")
        if not 0 <= self.temperature <= 5:
            problems.append(f"temperature is {self.temperature}; allowed are 0 (greedy) to 5")
        if not 0 < self.top_p <= 1:
            problems.append(f"top-p is {self.top_p}; allowed is more than 0, up to 1")
        if not 0 <= self.seed < 2**63:
            problems.append(f"seed is {self.seed}; allowed are 0 to 2^63 - 1")
        if self.precision not in get_args(Precision):
            problems.append(f"precision is '{self.precision}'; allowed are {', '.join(get_args(Precision))}")
        if problems:
            raise UsageError("Generation settings: " + "; ".join(problems) + ".")


@dataclass(frozen=True)
class RowReady:
    """The prompt of a row has been read. kv_bytes: keys and values that its answer attends to. seconds: since the request.

    waited: seconds of these before its turn came. gist_reused: its instruction had been compressed before, so no pass was needed for it.
    """

    row: int
    kv_bytes: int
    seconds: float
    waited: float = 0.0
    gist_reused: bool = False


@dataclass(frozen=True)
class TokenEvent:
    """One new token of a row, or its end.

    token_id: None where the event ends a row without a token (stopped, error). A stop token is reported with its id and
        finish_reason "eos", and adds no text.
    text: characters that became certain with this token; never half a character; may be "".
    finish_reason: None while the row goes on; exactly one event per row has one.
    seconds: since the request. error: one line, with finish_reason "error".
    """

    row: int
    token_id: int | None
    text: str
    finish_reason: FinishReason | None
    seconds: float
    error: str | None = None
