"""What many answers add up to, per condition and budget. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from gistdemo.metrics import instruction_blind, normalised_score, rouge
from gistdemo.prompts import Example

ROUGE = ("rouge1", "rouge2", "rougeL")


def summarise(records: Sequence[dict[str, Any]], examples: Sequence[Example]) -> list[dict[str, Any]]:
    """One entry per (condition, k), in order of first appearance.

    records: as `gistdemo.evaluate.answers.answer_rows` returns them, of one checkpoint. An entry: condition, k, n, means of
    rouge1/2/L over the rows that have a reference, rougeL_own (against the checkpoint's own full answer), normalised (rougeL
    between `none` 0 and `full` 100), verdicts and flags by count, instruction_blind (answers equal although instructions
    differ), prompt_tokens, instruction_tokens and kept_tokens (means). None where it cannot be told.
    """
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault((record["condition"], record["k"]), []).append(record)
    own = {record["row"]: record["text"] for record in groups.get(("full", 0), ())}
    means = {key: _mean(r["rougeL"] for r in group) for key, group in groups.items()}
    entries = []
    for (condition, k), group in groups.items():
        entry: dict[str, Any] = {"checkpoint": group[0].get("checkpoint", ""), "condition": condition, "k": k, "n": len(group)}
        entry |= {name: _mean(r[name] for r in group) for name in ROUGE}
        against_own = condition != "full" and own
        entry["rougeL_own"] = _mean(rouge(r["text"], own[r["row"]])["rougeL"] for r in group) if against_own else None
        scale = (means[condition, k], means.get(("none", 0)), means.get(("full", 0)))
        entry["normalised"] = normalised_score(*scale) if None not in scale else None
        entry["verdicts"] = {name: sum(r["verdict"] == name for r in group) for name in ("healthy", "warning", "degenerate")}
        entry["flags"] = dict(Counter(flag for r in group for flag in r["flags"]).most_common())
        items = [(examples[r["row"]].instruction, examples[r["row"]].input, r["text"]) for r in group]
        entry["instruction_blind"] = sum(len(flag.members) for flag in instruction_blind(items))
        entry |= {name: _mean(r[name] for r in group) for name in ("prompt_tokens", "instruction_tokens", "kept_tokens", "tokens")}
        entries.append(entry)
    return entries


def _mean(values) -> float | None:
    found = [value for value in values if value is not None]
    return fmean(found) if found else None


def as_table(entries: Sequence[dict[str, Any]]) -> str:
    """Markdown, one line per entry."""
    lines = [
        "| condition | k | n | ROUGE-L | normalised | ROUGE-L to own full | healthy | warning | degenerate | blind | prompt tokens | flags |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for e in entries:
        numbers = ("-" if e[name] is None else f"{e[name]:.1f}" for name in ("rougeL", "normalised", "rougeL_own"))
        verdicts = " | ".join(str(count) for count in e["verdicts"].values())
        flags = ", ".join(f"{code} {count}" for code, count in e["flags"].items()) or "none"
        lines.append(
            f"| {e['condition']} | {e['k'] or '-'} | {e['n']} | {' | '.join(numbers)} | {verdicts} | {e['instruction_blind']} | "
            f"{e['prompt_tokens']:.1f} | {flags} |"
        )
    return "\n".join(lines)
