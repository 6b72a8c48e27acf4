"""Which answers the table of the Evaluate tab lists, and in which order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gistdemo.results.answer import Answer

HEADERS = ["#", "instruction", "ROUGE-L", "− full", "verdict", "flags", "prompt", "answer"]
ORDERS: dict[
    str, tuple[Literal["row", "gain", "rougeL", "instruction_tokens"], int]
] = {  # by which value of an answer; its sign says whether the lowest or the highest comes first
    "as in the source": ("row", 1),
    "best against full": ("gain", -1),
    "worst against full": ("gain", 1),
    "highest ROUGE-L": ("rougeL", -1),
    "lowest ROUGE-L": ("rougeL", 1),
    "longest instruction": ("instruction_tokens", -1),
}
MOST = 300  # lines at a time; search and filters narrow them


@dataclass(frozen=True)
class Filter:
    """What to list. k: for conditions that depend on it. verdict: "" for any. order: a key of ORDERS. text: in texts and flags."""

    checkpoint: str
    condition: str
    k: int
    verdict: str = ""
    order: str = "as in the source"
    text: str = ""


class _Listed(Answer):
    """An answer with its ROUGE-L over that of the full prompt."""

    gain: float | None


def answer_rows(rows: Sequence[Answer], examples: Sequence[Mapping[str, str]], wanted: Filter) -> list[list[Any]]:
    """Lines of the table, at most MOST: number from 1, instruction, ROUGE-L, gain over the full prompt, verdict, flags, tokens."""
    gained = gains(rows, wanted.checkpoint, wanted.condition, wanted.k)
    found: list[_Listed] = []
    for r in rows:
        if (r["checkpoint"], r["condition"]) != (wanted.checkpoint, wanted.condition) or r["k"] not in (0, wanted.k):
            continue
        texts = " ".join((*examples[r["row"]].values(), r["text"], *r["flags"]))
        if wanted.text.lower() in texts.lower() and wanted.verdict in ("", r["verdict"]):
            found.append({**r, "gain": gained.get(r["row"])})
    name, sign = ORDERS[wanted.order]
    found.sort(key=lambda r: (r[name] is None, sign * (r[name] or 0), r["row"]))  # unknown values last, equal ones as in the source
    return [_line(r, examples[r["row"]]) for r in found[:MOST]]


def gains(rows: Sequence[Answer], checkpoint: str, condition: str, k: int) -> dict[int, float]:
    """ROUGE-L over that of the full prompt, by row (from 0); rows without a score in either condition are left out."""
    scored = [(r, score) for r in rows if r["checkpoint"] == checkpoint and (score := r["rougeL"]) is not None]
    full = {r["row"]: score for r, score in scored if r["condition"] == "full"}
    wanted = ((r["row"], score) for r, score in scored if r["condition"] == condition and r["k"] in (0, k))
    return {row: score - full[row] for row, score in wanted if row in full}


def _line(answer: _Listed, example: Mapping[str, str]) -> list[Any]:
    text = example["instruction"] + (f" | {example['input'][:60]}" if example["input"] else "")
    scores = [None if value is None else round(value, 1) for value in (answer["rougeL"], answer["gain"])]
    return [answer["row"] + 1, text, *scores, answer["verdict"], " ".join(answer["flags"]), answer["prompt_tokens"], answer["tokens"]]
