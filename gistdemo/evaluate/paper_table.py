"""The figures of an evaluation as a Markdown table for a paper or a model card, and how each of them is written. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gistdemo.evaluate.figures import visible

SCORES = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}
TARGETS = {"references": "ref", "own_answers": "own"}  # whose answers recovery is measured on
Entry = Mapping[str, Any]


def markdown_table(results: Mapping[str, Any]) -> str:
    """Figures with intervals, and what reproduces them."""
    names = ["checkpoint", "condition", "k", "n", *SCORES.values(), "normalised", "recovery (swapped)", "degenerate", "prompt tokens"]
    lines = [f"| {' | '.join(names)} |", f"|{' --- |' * len(names)}"]
    for e in results["answers"]:
        values = [e["checkpoint"], e["condition"], e["k"] or "-", e["n"], *(_joined(interval_of(e, name)) for name in SCORES)]
        values += [number(e["normalised"]), _recoveries(results, e), share_of(e, "degenerate"), number(e["prompt_tokens"])]
        lines.append(f"| {' | '.join(map(_markdown, values))} |")
    lines += ["", "ROUGE: F1 x 100 with stemmer, in brackets the 95 % bootstrap interval of the mean over n answers."]
    lines[-1] += " Normalised: ROUGE-L with no instruction 0, with the full prompt 100."
    if any(_recoveries(results, e) != "-" for e in results["answers"]):
        lines[-1] += " Recovery, on reference and on own full-prompt answers: 0 no instruction, 1 full prompt; swapped: another row's gist."
    facts = [f"- {name}: {_code(value) if name == 'command' else _markdown(value)}" for name, value in provenance(results)]
    return "\n".join([*lines, "", *facts, ""])


def _markdown(value: Any) -> str:
    """One line without anything that would end a cell or begin a tag."""
    return " ".join(visible(value).split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def _code(command: str) -> str:
    fence = "``" if "`" in command else "`"
    pad = " " if "`" in command else ""
    return f"{fence}{pad}{' '.join(visible(command).split())}{pad}{fence}"


def _recoveries(results: Mapping[str, Any], e: Entry) -> str:
    found = {label: recovery_of(results, e, target) for target, label in TARGETS.items()}
    return ", ".join(f"{label} {_joined(pair)}" for label, pair in found.items() if pair) or "-"


def _joined(pair: tuple[str, str] | None) -> str:
    return " ".join(pair).strip() if pair else "-"


def provenance(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What reproduces the figures, by name; what is not known is left out."""
    seed = results.get("request", {}).get("seed")
    known = {
        "command": results.get("command"),
        "rows": f"{results['rows']:,}",
        "rows trained on": results.get("rows_trained_on"),
        "digest of the rows": results.get("digest"),
        "seed": None if seed is None else str(seed),
        "versions": ", ".join(f"{name} {value}" for name, value in (results.get("versions") or {}).items()),
        "date": results.get("created"),
    }
    return [(name, str(value)) for name, value in known.items() if value]


def interval_of(e: Entry, name: str) -> tuple[str, str] | None:
    """A mean and, in brackets, its interval where there is one; None where the mean is not known."""
    if e.get(name) is None:
        return None
    ends = e.get("intervals", {}).get(name)
    return f"{e[name]:.1f}", f"[{ends[0]:.1f}, {ends[1]:.1f}]" if ends else ""


def number(value: float | None, form: str = ".1f") -> str:
    """A number, or a dash where it is not known."""
    return "-" if value is None else f"{value:{form}}"


def share_of(e: Entry, verdict: str, digits: int = 1) -> str:
    """Answers with a verdict, in percent of an entry's answers."""
    return f"{100 * e['verdicts'][verdict] / e['n']:.{digits}f} %" if e["n"] else "-"


def recovery_of(results: Mapping[str, Any], e: Entry, target: str) -> tuple[str, str] | None:
    """Recovery and, in brackets, its control; None where an entry is no gist's or has none."""
    targets = (results.get("recovery") or {}).get(e["checkpoint"], {}) if e["condition"] == "gist" else {}
    found = targets.get(target, {}).get("by_k", {}).get(str(e["k"]), {})
    if found.get("recovery") is None:
        return None
    return f"{found['recovery']:.2f}", "" if found.get("swapped") is None else f"({found['swapped']:.2f})"
