"""Which answers the table of the Evaluate tab lists, in which order and with which columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gistdemo.metrics import MAIN, SCORES
from gistdemo.results.answer import Answer

COLUMNS = (  # head, kind and width, as the page's table takes them; `_values` says what stands in them
    ("#", "number", "46px"),
    ("instruction", "str", "46%"),
    *((score.label, "number", "92px") for score in SCORES.values() if score.listed),
    ("− full", "number", "76px"),
    ("verdict", "str", "110px"),
    ("task", "str", "84px"),
    ("flags", "str", "14%"),
    ("prompt", "number", "80px"),
    ("answer", "number", "80px"),
)
ORDERS = {  # by which value; its sign says whether the lowest or the highest comes first
    "as in the source": ("#", 1),
    "best against full": ("− full", -1),
    "worst against full": ("− full", 1),
    f"highest {MAIN.label}": (MAIN.label, -1),
    f"lowest {MAIN.label}": (MAIN.label, 1),
    "longest instruction": ("instruction tokens", -1),
}
MOST = 300  # lines at a time; search and filters narrow them


@dataclass(frozen=True)
class Filter:
    """What to list. k: for conditions that depend on it. verdict: on the text or on the task; "" for any. order: a key of ORDERS. text: in texts and flags."""

    checkpoint: str
    condition: str
    k: int
    verdict: str = ""
    order: str = "as in the source"
    text: str = ""


def answer_rows(rows: Sequence[Answer], examples: Sequence[Mapping[str, str]], wanted: Filter) -> list[list[Any]]:
    """Lines of the table, at most MOST: a value per column. Rows count from 1."""
    gained = gains(rows, wanted.checkpoint, wanted.condition, wanted.k)
    found: list[dict[str, Any]] = []
    for r in rows:
        if (r["checkpoint"], r["condition"]) != (wanted.checkpoint, wanted.condition) or r["k"] not in (0, wanted.k):
            continue
        texts = " ".join((*examples[r["row"]].values(), r["text"], *r["flags"]))
        if wanted.text.lower() in texts.lower() and wanted.verdict in ("", r["verdict"], r["task"] and r["task"]["verdict"]):
            found.append(_values(r, examples[r["row"]]) | {"− full": gained.get(r["row"])})
    name, sign = ORDERS[wanted.order]
    found.sort(key=lambda r: (r[name] is None, sign * (r[name] or 0), r["#"]))  # unknown values last, equal ones as in the source
    return [[round(r[head], 1) if isinstance(r[head], float) else r[head] for head, *_ in COLUMNS] for r in found[:MOST]]


def _values(answer: Answer, example: Mapping[str, str]) -> dict[str, Any]:
    """What is shown of an answer, and what it is sorted by."""
    return {score.label: answer["scores"].get(score.name) for score in SCORES.values()} | {
        "#": answer["row"] + 1,
        "instruction": example["instruction"] + (f" | {example['input'][:60]}" if example["input"] else ""),
        "instruction tokens": answer["instruction_tokens"],
        "verdict": answer["verdict"],
        "task": answer["task"]["verdict"] if answer["task"] else "",
        "flags": " ".join(answer["flags"]),
        "prompt": answer["prompt_tokens"],
        "answer": answer["tokens"],
    }


def gains(rows: Sequence[Answer], checkpoint: str, condition: str, k: int) -> dict[int, float]:
    """`MAIN` score over that of the full prompt, by row (from 0); rows without a score in either condition are left out."""
    scored = scored_answers(rows, checkpoint, k)
    full, wanted = ({r["row"]: score for r, score in scored if r["condition"] == name} for name in ("full", condition))
    return {row: score - full[row] for row, score in wanted.items() if row in full}


def scored_answers(rows: Sequence[Answer], checkpoint: str | None, k: int) -> list[tuple[Answer, float]]:
    """The answers of a checkpoint at a budget that have a reference, with their `MAIN` score."""
    mine = (r for r in rows if r["checkpoint"] == checkpoint and r["k"] in (0, k))
    return [(r, r["scores"][MAIN.name]) for r in mine if MAIN.name in r["scores"]]
