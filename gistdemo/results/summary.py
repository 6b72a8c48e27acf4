"""What many answers add up to, per checkpoint, condition and budget. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from gistdemo.metrics import ROUGE, VERDICTS, instruction_blind, normalised_score, rouge
from gistdemo.prompts import Example
from gistdemo.results.statistics import mean_interval, paired_difference

MEANS = ("prompt_tokens", "instruction_tokens", "kept_tokens", "tokens", "kv_bytes", "first_token_seconds", "tokens_per_second")
LEAST_GAP = 2.0  # ROUGE points between no instruction and the full prompt; below, normalising divides noise by noise
Key = tuple[str, str, int]  # checkpoint, condition, k


def summarise(records: Sequence[dict[str, Any]], examples: Sequence[Example]) -> list[dict[str, Any]]:
    """One entry per (checkpoint, condition, k), in order of first appearance.

    records: judged ones (see `records`). An entry: checkpoint, condition, k, n, scored (rows with a
    reference), means of rouge1/2/L (0..100), rougeL_own (against the checkpoint's own full answer), normalised (rougeL between `none`
    0 and `full` 100), intervals (95 %, by name of the score), paired (of a gist: rougeL minus that of `full` and of `truncated` at
    the same k, row by row), verdicts and flags by count, instruction_blind (answers equal although instructions differ), identical
    (the most frequent answer, where it is given to more than one instruction), and means of the names in MEANS. None: unknown.
    """
    groups: dict[Key, list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault((record["checkpoint"], record["condition"], record["k"]), []).append(record)
    return [_entry(key, groups, examples) for key in groups]


def _entry(key: Key, groups: dict[Key, list[dict[str, Any]]], examples: Sequence[Example]) -> dict[str, Any]:
    checkpoint, condition, k = key
    group = groups[key]
    own = _own_scores(group, groups.get((checkpoint, "full", 0), ())) if condition != "full" else {}
    scores = {name: mean_interval(r[name] for r in group) for name in ROUGE} | {"rougeL_own": mean_interval(own.values())}
    entry: dict[str, Any] = {"checkpoint": checkpoint, "condition": condition, "k": k, "n": len(group)}
    entry["scored"] = scores["rougeL"].n if scores["rougeL"] else 0
    entry |= {name: found.mean if found else None for name, found in scores.items()}
    entry["normalised"] = _normalised(entry["rougeL"], checkpoint, groups)
    entry["intervals"] = {name: [found.low, found.high] for name, found in scores.items() if found}
    entry["paired"] = _paired(group, checkpoint, k, groups) if condition == "gist" else {}
    entry["verdicts"] = {name: sum(r["verdict"] == name for r in group) for name in VERDICTS}
    entry["flags"] = dict(Counter(flag for r in group for flag in r["flags"]).most_common())
    items = [(examples[r["row"]].instruction, examples[r["row"]].input, r["text"]) for r in group]
    entry["instruction_blind"] = sum(len(flag.members) for flag in instruction_blind(items))
    entry["identical"] = _identical(items)
    return entry | {name: _mean(r.get(name) for r in group) for name in MEANS}


def _own_scores(group: Sequence[dict[str, Any]], full: Sequence[dict[str, Any]]) -> dict[int, float]:
    """ROUGE-L of each row's answer against the same checkpoint's answer to the full prompt."""
    own = {r["row"]: r["text"] for r in full}
    return {r["row"]: rouge(r["text"], own[r["row"]])["rougeL"] for r in group if r["row"] in own}


def _normalised(score: float | None, checkpoint: str, groups: dict[Key, list[dict[str, Any]]]) -> float | None:
    none, full = (_mean(r["rougeL"] for r in groups.get((checkpoint, name, 0), ())) for name in ("none", "full"))
    if score is None or none is None or full is None or full - none < LEAST_GAP:
        return None
    return normalised_score(score, none, full)


def _paired(group: Sequence[dict[str, Any]], checkpoint: str, k: int, groups: dict[Key, list[dict[str, Any]]]) -> dict[str, Any]:
    mine, found = {r["row"]: r["rougeL"] for r in group}, {}
    for name, budget in (("full", 0), ("truncated", k)):
        other = {r["row"]: r["rougeL"] for r in groups.get((checkpoint, name, budget), ()) if r["row"] in mine}
        difference = paired_difference([mine[row] for row in other], list(other.values()))
        if difference:
            found[name] = difference.to_dict()
    return found


def _identical(items: Sequence[tuple[str, str, str]]) -> dict[str, Any] | None:
    instructions: dict[str, set[tuple[str, str]]] = {}
    for instruction, given, text in items:
        instructions.setdefault(text.strip(), set()).add((instruction, given))
    text, asked = max(instructions.items(), key=lambda item: len(item[1]))
    return {"text": text, "count": sum(t.strip() == text for _, _, t in items)} if len(asked) > 1 else None


def _mean(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return fmean(found) if found else None


def as_table(entries: Sequence[dict[str, Any]]) -> str:
    """Markdown, one line per entry; in brackets 95 % intervals."""
    names = ("condition", "k", "n", "ROUGE-L", "normalised", "ROUGE-L to own full", "healthy", "warning", "degenerate", "blind")
    several = len({e["checkpoint"] for e in entries}) > 1
    head = [*(["checkpoint"] if several else []), *names, "prompt tokens", "flags"]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for e in entries:
        values = [e["checkpoint"]] if several else []
        values += [e["condition"], e["k"] or "-", e["n"], _with_interval(e, "rougeL")]
        values += ["-" if e["normalised"] is None else f"{e['normalised']:.1f}", _with_interval(e, "rougeL_own")]
        values += [*e["verdicts"].values(), e["instruction_blind"], "-" if e["prompt_tokens"] is None else f"{e['prompt_tokens']:.1f}"]
        values.append(", ".join(f"{code} {count}" for code, count in e["flags"].items()) or "none")
        lines.append(f"| {' | '.join(map(str, values))} |")
    return "\n".join(lines)


def _with_interval(entry: dict[str, Any], name: str) -> str:
    if entry[name] is None:
        return "-"
    low, high = entry["intervals"][name]
    return f"{entry[name]:.1f} [{low:.1f}, {high:.1f}]"
