"""The figures of an evaluation as a Markdown table for a paper or a model card."""

from __future__ import annotations

from functools import partial

from gistdemo.present.entries import SCORES, TARGETS, Shown, entries_of, mean_of, provenance, recovery_of, share_of
from gistdemo.present.markup import Value, number, visible
from gistdemo.results.evaluation import Results

_number = partial(number, unknown="-")


def markdown_table(results: Results) -> str:
    """Figures with intervals, and what reproduces them."""
    names = ["checkpoint", "condition", "k", "n", *SCORES.values(), "normalised", "recovery (swapped)", "degenerate", "prompt tokens"]
    lines = [f"| {' | '.join(names)} |", f"|{' --- |' * len(names)}"]
    found = entries_of(results)
    for e in found:
        values = [e["checkpoint"], e["condition"], e["k"] or "-", e["n"], *(_joined(mean_of(e, name)) for name in SCORES)]
        values += [_number(e["normalised"]), _recoveries(e), share_of(e, "degenerate"), _number(e["prompt_tokens"])]
        lines.append(f"| {' | '.join(map(_cell, values))} |")
    lines += ["", "ROUGE: F1 x 100 with stemmer, in brackets the 95 % bootstrap interval of the mean over n answers."]
    lines[-1] += " Normalised: ROUGE-L with no instruction 0, with the full prompt 100."
    if any(_recoveries(e) != "-" for e in found):
        lines[-1] += " Recovery, on reference and on own full-prompt answers: 0 no instruction, 1 full prompt; swapped: another row's gist."
    facts = [f"- {name}: {_code(value) if name == 'command' else _cell(value)}" for name, value in provenance(results)]
    return "\n".join([*lines, "", *facts, ""])


def _cell(value: object) -> str:
    """One line without anything that would end a cell or begin a tag."""
    return " ".join(visible(value).split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def _code(command: str) -> str:
    fence = "``" if "`" in command else "`"
    pad = " " if "`" in command else ""
    return f"{fence}{pad}{' '.join(visible(command).split())}{pad}{fence}"


def _recoveries(e: Shown) -> str:
    found = {label: recovery_of(e, target) for target, label in TARGETS.items()}
    return ", ".join(f"{label} {_joined(value)}" for label, value in found.items() if value != Value()) or "-"


def _joined(value: Value) -> str:
    return "-" if value == Value() else f"{value.text} {value.small}".strip()
