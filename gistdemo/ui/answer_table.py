"""Which answers the table of the Evaluate tab lists, and in which order. Pure; imports no gradio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

HEADERS = ["#", "instruction", "ROUGE-L", "− full", "verdict", "flags", "prompt", "answer"]
ORDERS = {
    "as in the source": None,
    "best against full": -1,
    "worst against full": 1,
    "highest ROUGE-L": -1,
    "lowest ROUGE-L": 1,
    "longest instruction": -1,
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


def answer_rows(rows: Sequence[Mapping[str, Any]], examples: Sequence[Mapping[str, str]], wanted: Filter) -> list[list[Any]]:
    """Lines of the table, at most MOST: number from 1, instruction, ROUGE-L, gain over the full prompt, verdict, flags, tokens."""
    mine = [r for r in rows if r["checkpoint"] == wanted.checkpoint]
    full = {r["row"]: r["rougeL"] for r in mine if r["condition"] == "full"}
    found = []
    for r in mine:
        if r["condition"] != wanted.condition or r["k"] not in (0, wanted.k) or wanted.verdict not in ("", r["verdict"]):
            continue
        example = examples[r["row"]]
        if wanted.text.lower() in " ".join((*example.values(), r["text"], *r["flags"])).lower():
            found.append((r, _gain(r, full), example))
    found.sort(key=lambda item: _rank(item, wanted.order))
    return [_line(*item) for item in found[:MOST]]


def _gain(record: Mapping[str, Any], full: Mapping[int, float | None]) -> float | None:
    of = full.get(record["row"])
    return None if record["rougeL"] is None or of is None else record["rougeL"] - of


def _rank(item: tuple[Mapping[str, Any], float | None, Mapping[str, str]], order: str) -> tuple[bool, float, int]:
    """Unknown values come last, equal ones in the order of the source."""
    record, gain, _ = item
    values = {"best": gain, "worst": gain, "highest": record["rougeL"], "lowest": record["rougeL"], "longest": record["instruction_tokens"]}
    value = values.get(order.split()[0])
    sign = ORDERS.get(order)
    return (sign is not None and value is None, (sign or 0) * (value or 0), record["row"])


def _line(record: Mapping[str, Any], gain: float | None, example: Mapping[str, str]) -> list[Any]:
    def shown(value: float | None) -> float | None:
        return None if value is None else round(value, 1)

    text = example["instruction"] + (f" | {example['input'][:60]}" if example["input"] else "")
    numbers = [record["prompt_tokens"], record["tokens"]]
    return [record["row"] + 1, text, shown(record["rougeL"]), shown(gain), record["verdict"], " ".join(record["flags"]), *numbers]
