"""The figures of an evaluation as Markdown tables: for a terminal, and for a paper or a model card."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from gistdemo.metrics import MAIN, SCORES
from gistdemo.present.entries import TARGETS, Shown, entries_of, mean_of, provenance, recovery_of, share_of
from gistdemo.present.markup import Value, number, visible
from gistdemo.present.tables import VIEWS
from gistdemo.results.evaluation import Results


def markdown_table(results: Results) -> str:
    """Figures with intervals, and what reproduces them."""
    names = ["checkpoint", "condition", "k", "n", *(score.label for score in SCORES.values())]
    names += ["normalised", "recovery (swapped)", "degenerate", "prompt tokens"]
    values, found = [], entries_of(results)
    for e in found:
        scores = [*(mean_of(e, name) for name in SCORES), number(e["normalised"])]
        figures = [*scores, _recoveries(e), share_of(e, "degenerate"), number(e["prompt_tokens"])]
        values.append([e["checkpoint"], e["condition"], e["k"] or Value(), e["n"], *figures])
    note = "ROUGE: F1 x 100 with stemmer, in brackets the 95 % bootstrap interval of the mean over n answers."
    note += f" Normalised: {MAIN.label} with no instruction 0, with the full prompt 100."
    if any(map(_recoveries, found)):
        note += " Recovery, on reference and on own full-prompt answers: 0 no instruction, 1 full prompt; swapped: another row's gist."
    facts = [f"- {name}: {_code(value) if name == 'command' else _cell(value)}" for name, value in provenance(results)]
    return "\n".join([*_table(names, values), "", note, "", *facts, ""])


def flags_table(results: Results) -> str:
    """Figures and flags, as the page shows them."""
    columns = VIEWS["Overview"] | VIEWS["Flags"]
    lines = [[e["checkpoint"], e["condition"], *(column(e) for column in columns.values())] for e in entries_of(results)]
    return "\n".join(_table(["checkpoint", "condition", *columns], lines))


def _table(heads: Sequence[str], lines: Iterable[Sequence[Any]]) -> list[str]:
    return [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}", *(f"| {' | '.join(map(_cell, line))} |" for line in lines)]


def _cell(value: Any) -> str:
    """One line without anything that would end a cell or begin a tag. value: as in a `Line`."""
    return " ".join(visible(_text(value)).split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def _code(command: str) -> str:
    fence = "``" if "`" in command else "`"
    pad = " " if "`" in command else ""
    return f"{fence}{pad}{' '.join(visible(command).split())}{pad}{fence}"


def _recoveries(e: Shown) -> list[str]:
    found = {label: recovery_of(e, target) for target, label in TARGETS.items()}
    return [f"{label} {_text(value)}" for label, value in found.items() if value != Value()]


def _text(value: Any) -> str:
    if value in (Value(), number(None), []):
        return "-"
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return f"{value.text} {value.small}".strip() if isinstance(value, Value) else str(value)
