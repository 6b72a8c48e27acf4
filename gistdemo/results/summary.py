"""What many answers add up to, per checkpoint, condition and budget. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Literal, TypedDict, cast, get_args

from gistdemo.metrics import VERDICTS, instruction_blind, normalised_score, rouge
from gistdemo.prompts import Example
from gistdemo.results.answer import SCORES, Answer, Score
from gistdemo.results.statistics import Interval, mean_interval, paired_difference

LEAST_GAP = 2.0  # ROUGE points between no instruction and the full prompt; below, normalising divides noise by noise
Key = tuple[str, str, int]  # checkpoint, condition, k
Size = Literal["prompt_tokens", "instruction_tokens", "kept_tokens", "tokens", "kv_bytes", "first_token_seconds", "tokens_per_second"]
SIZES: tuple[Size, ...] = get_args(Size)
Mean = Literal[Score, "rougeL_own"]  # of scores: those with an interval
Number = Literal[Mean, Size, "normalised"]


class Identical(TypedDict):
    """The most frequent answer, where it is given to more than one instruction."""

    text: str
    count: int


class Entry(TypedDict):
    """What the answers of one checkpoint under one condition at one k add up to. None: unknown.

    n: answers. scored: those with a reference. rouge1, rouge2, rougeL: means, 0 to 100. rougeL_own: against the checkpoint's own answer to
    the full prompt. normalised: rougeL between `none` 0 and `full` 100. intervals: [low, high] at 95 %, by `Mean`. paired: of a gist, rougeL
    minus that of `full` and of `truncated` at the same k, row by row. verdicts, flags: counts. instruction_blind: answers that are equal
    although instructions differ. The rest are means.
    """

    checkpoint: str
    condition: str
    k: int
    n: int
    scored: int
    rouge1: float | None
    rouge2: float | None
    rougeL: float | None
    rougeL_own: float | None
    normalised: float | None
    intervals: dict[str, list[float]]
    paired: dict[str, Interval]
    verdicts: dict[str, int]
    flags: dict[str, int]
    instruction_blind: int
    identical: Identical | None
    prompt_tokens: float | None
    instruction_tokens: float | None
    kept_tokens: float | None
    tokens: float | None
    kv_bytes: float | None
    first_token_seconds: float | None
    tokens_per_second: float | None


def summarise(answers: Sequence[Answer], examples: Sequence[Example]) -> list[Entry]:
    """One entry per (checkpoint, condition, k), in order of first appearance."""
    groups: dict[Key, list[Answer]] = {}
    for answer in answers:
        groups.setdefault((answer["checkpoint"], answer["condition"], answer["k"]), []).append(answer)
    return [_entry(key, groups, examples) for key in groups]


def _entry(key: Key, groups: dict[Key, list[Answer]], examples: Sequence[Example]) -> Entry:
    checkpoint, condition, k = key
    group = groups[key]
    own = _own_scores(group, groups.get((checkpoint, "full", 0), ())) if condition != "full" else {}
    scores = {name: mean_interval(a[name] for a in group) for name in SCORES} | {"rougeL_own": mean_interval(own.values())}
    means = {name: found["mean"] if found else None for name, found in scores.items()}
    items = [(examples[a["row"]].instruction, examples[a["row"]].input, a["text"]) for a in group]
    entry = {
        "checkpoint": checkpoint,
        "condition": condition,
        "k": k,
        "n": len(group),
        "scored": scores["rougeL"]["n"] if scores["rougeL"] else 0,
        **means,
        "normalised": _normalised(means["rougeL"], checkpoint, groups),
        "intervals": {name: [found["low"], found["high"]] for name, found in scores.items() if found},
        "paired": _paired(group, checkpoint, k, groups) if condition == "gist" else {},
        "verdicts": {name: sum(a["verdict"] == name for a in group) for name in VERDICTS},
        "flags": dict(Counter(flag for a in group for flag in a["flags"]).most_common()),
        "instruction_blind": sum(len(flag.members) for flag in instruction_blind(items)),
        "identical": _identical(items),
    }
    return cast(Entry, entry | {size: _mean(a.get(size) for a in group) for size in SIZES})


def _own_scores(group: Sequence[Answer], full: Sequence[Answer]) -> dict[int, float]:
    """ROUGE-L of each row's answer against the same checkpoint's answer to the full prompt."""
    own = {a["row"]: a["text"] for a in full}
    return {a["row"]: rouge(a["text"], own[a["row"]])["rougeL"] for a in group if a["row"] in own}


def _normalised(score: float | None, checkpoint: str, groups: dict[Key, list[Answer]]) -> float | None:
    none, full = (_mean(a["rougeL"] for a in groups.get((checkpoint, name, 0), ())) for name in ("none", "full"))
    if score is None or none is None or full is None or full - none < LEAST_GAP:
        return None
    return normalised_score(score, none, full)


def _paired(group: Sequence[Answer], checkpoint: str, k: int, groups: dict[Key, list[Answer]]) -> dict[str, Interval]:
    mine, found = {a["row"]: a["rougeL"] for a in group}, {}
    for name, budget in (("full", 0), ("truncated", k)):
        other = {a["row"]: a["rougeL"] for a in groups.get((checkpoint, name, budget), ()) if a["row"] in mine}
        difference = paired_difference([mine[row] for row in other], list(other.values()))
        if difference:
            found[name] = difference
    return found


def _identical(items: Sequence[tuple[str, str, str]]) -> Identical | None:
    instructions: dict[str, set[tuple[str, str]]] = {}
    for instruction, given, text in items:
        instructions.setdefault(text.strip(), set()).add((instruction, given))
    text, asked = max(instructions.items(), key=lambda item: len(item[1]))
    return {"text": text, "count": sum(t.strip() == text for _, _, t in items)} if len(asked) > 1 else None


def _mean(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return fmean(found) if found else None


def as_table(entries: Sequence[Entry]) -> str:
    """Markdown, one line per entry; in brackets 95 % intervals."""
    names = ("condition", "k", "n", "ROUGE-L", "normalised", "ROUGE-L to own full", "healthy", "warning", "degenerate", "blind")
    several = len({e["checkpoint"] for e in entries}) > 1
    head = [*(["checkpoint"] if several else []), *names, "prompt tokens", "flags"]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for e in entries:
        values: list[object] = [e["checkpoint"]] if several else []
        values += [e["condition"], e["k"] or "-", e["n"], _with_interval(e, "rougeL")]
        values += ["-" if e["normalised"] is None else f"{e['normalised']:.1f}", _with_interval(e, "rougeL_own")]
        values += [*e["verdicts"].values(), e["instruction_blind"], "-" if e["prompt_tokens"] is None else f"{e['prompt_tokens']:.1f}"]
        values.append(", ".join(f"{code} {count}" for code, count in e["flags"].items()) or "none")
        lines.append(f"| {' | '.join(map(str, values))} |")
    return "\n".join(lines)


def _with_interval(entry: Entry, name: Mean) -> str:
    if entry[name] is None:
        return "-"
    low, high = entry["intervals"][name]
    return f"{entry[name]:.1f} [{low:.1f}, {high:.1f}]"
