"""One ratio of a bench, and the table of many. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """what is so many times (value) as fast, or as much, as `against`. target: None: only reported. at_least: whether more is better.

    details: the measured values behind it, with their units, in words.
    """

    what: str
    against: str
    value: float
    target: float | None = None
    at_least: bool = True
    details: str = ""

    @property
    def is_reached(self) -> bool | None:
        """Whether the target is; None where there is none."""
        if self.target is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target


HEADS = ("what", "against", "ratio", "target", "measured")


def table(figures: Sequence[Figure]) -> str:
    """Markdown."""
    rows = [(f.what, f.against, f"{f.value:.2f}", _target(f), f.details) for f in figures]
    return "\n".join(f"| {' | '.join(row)} |" for row in (HEADS, ["---"] * len(HEADS), *rows))


def _target(figure: Figure) -> str:
    if figure.target is None:
        return "-"
    bound = "≥" if figure.at_least else "≤"
    return f"{bound} {figure.target:g} {'✓' if figure.is_reached else '✕'}"
