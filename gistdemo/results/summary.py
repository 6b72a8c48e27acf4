"""What many answers add up to, per checkpoint, condition and budget. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Literal, TypedDict, cast, get_args

from gistdemo.metrics import MAIN, SCORES, TASK_VERDICTS, VERDICTS, instruction_blind, normalised_score
from gistdemo.prompts import Example
from gistdemo.results.answer import Answer
from gistdemo.results.statistics import Interval, mean_interval, paired_difference

LEAST_GAP = 2.0  # ROUGE points between no instruction and the full prompt; below, normalising divides noise by noise
Key = tuple[str, str, int]  # checkpoint, condition, k
Size = Literal["prompt_tokens", "instruction_tokens", "kept_tokens", "tokens", "kv_bytes", "first_token_seconds", "tokens_per_second"]
SIZES: tuple[Size, ...] = get_args(Size)
OWN = f"{MAIN.name}_own"  # the `MAIN` score against the checkpoint's own answer to the full prompt


class Identical(TypedDict):
    """The most frequent answer, where it is given to more than one instruction."""

    text: str
    count: int


class Entry(TypedDict):
    """What the answers of one checkpoint under one condition at one k add up to. None: unknown.

    n: answers. scores: mean, 0 to 100, of those with a reference, by name of the score and for OWN; what no answer has is left out.
    normalised: the `MAIN` score between `none` 0 and `full` 100. paired: of a gist, `MAIN` minus that of `full` and of `truncated` at the
    same k, row by row. verdicts, flags, tasks: counts; tasks empty where nobody asked. instruction_blind: answers that are equal although
    instructions differ. The rest are means.
    """

    checkpoint: str
    condition: str
    k: int
    n: int
    scores: dict[str, Interval]
    normalised: float | None
    paired: dict[str, Interval]
    verdicts: dict[str, int]
    flags: dict[str, int]
    tasks: dict[str, int]
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
    scores = {name: mean_interval(a["scores"].get(name) for a in group) for name in SCORES} | {OWN: mean_interval(own.values())}
    items = [(examples[a["row"]].instruction, examples[a["row"]].input, a["text"]) for a in group]
    entry = {
        "checkpoint": checkpoint,
        "condition": condition,
        "k": k,
        "n": len(group),
        "scores": {name: found for name, found in scores.items() if found},
        "normalised": _normalised(group, checkpoint, groups),
        "paired": _paired(group, checkpoint, k, groups) if condition == "gist" else {},
        "verdicts": {name: sum(a["verdict"] == name for a in group) for name in VERDICTS},
        "flags": dict(Counter(flag for a in group for flag in a["flags"]).most_common()),
        "tasks": {name: found for name in TASK_VERDICTS if (found := sum(bool(a["task"] and a["task"]["verdict"] == name) for a in group))},
        "instruction_blind": sum(len(flag.members) for flag in instruction_blind(items)),
        "identical": _identical(items),
    }
    return cast(Entry, entry | {size: _mean(a.get(size) for a in group) for size in SIZES})


def _own_scores(group: Sequence[Answer], full: Sequence[Answer]) -> dict[int, float]:
    """Score of each row's answer against the same checkpoint's answer to the full prompt."""
    own = {a["row"]: a["text"] for a in full}
    return {a["row"]: MAIN.of(a["text"], own[a["row"]]) for a in group if a["row"] in own}


def _normalised(group: Sequence[Answer], checkpoint: str, groups: dict[Key, list[Answer]]) -> float | None:
    ends = (groups.get((checkpoint, name, 0), ()) for name in ("none", "full"))
    score, none, full = (_mean(a["scores"].get(MAIN.name) for a in answers) for answers in (group, *ends))
    if score is None or none is None or full is None or full - none < LEAST_GAP:
        return None
    return normalised_score(score, none, full)


def _paired(group: Sequence[Answer], checkpoint: str, k: int, groups: dict[Key, list[Answer]]) -> dict[str, Interval]:
    mine, found = {a["row"]: a["scores"].get(MAIN.name) for a in group}, {}
    for name, budget in (("full", 0), ("truncated", k)):
        other = {a["row"]: a["scores"].get(MAIN.name) for a in groups.get((checkpoint, name, budget), ()) if a["row"] in mine}
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
