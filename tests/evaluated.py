"""A small evaluation made by hand: two checkpoints, four rows, scores that can be followed on paper."""

from __future__ import annotations

from typing import Any

from gistdemo.results.migrations import FORMAT

INSTRUCTIONS = ("List three primary colours.", "Name a river.", "Write a haiku about rain that mentions a garden gate.", "Say why")
TOKENS = (6, 4, 12, 31)  # of each instruction: two of the shortest kind, none of 16 to 29
SCORES = {  # checkpoint -> (condition, k) -> ROUGE-L per row
    "joint": {
        ("full", 0): (50.0, 40.0, 30.0, 20.0),
        ("gist", 1): (30.0, 20.0, 10.0, 0.0),
        ("gist", 4): (60.0, 35.0, 30.0, 0.0),
        ("truncated", 4): (20.0, 20.0, 10.0, 10.0),
        ("none", 0): (5.0, 5.0, 5.0, 5.0),
        ("blind", 4): (4.0, 4.0, 4.0, 4.0),
    },
    "base": {("full", 0): (8.0, 8.0, 8.0, 8.0), ("gist", 4): (4.0, 4.0, 4.0, 4.0)},
}
DEGENERATE = {("joint", "gist", 4): (3,), ("base", "full", 0): (0, 1, 2, 3)}  # row numbers; all other answers are healthy


def examples() -> list[dict[str, str]]:
    return [{"instruction": text, "input": "", "output": f"reference {n}"} for n, text in enumerate(INSTRUCTIONS)]


def rows() -> list[dict[str, Any]]:
    """One record per answer."""
    return [
        {
            "checkpoint": checkpoint,
            "condition": condition,
            "k": k,
            "row": row,
            "text": f"{checkpoint} {condition} {k} says {row}",
            "instruction_tokens": TOKENS[row],
            "scores": {"rougeL": score},
            **_verdict(row in DEGENERATE.get((checkpoint, condition, k), ())),
        }
        for checkpoint, conditions in SCORES.items()
        for (condition, k), scores in conditions.items()
        for row, score in enumerate(scores)
    ]


def _verdict(degenerate: bool) -> dict[str, Any]:
    task = {"verdict": "off task" if degenerate else "on task", "gain": 0.5, "rank": 1, "of": 6, "reason": "", "judge": "base-joint"}
    return {"verdict": "degenerate" if degenerate else "healthy", "flags": ["F3"] if degenerate else [], "task": task}


def results() -> dict[str, Any]:
    """Figures of `rows`, with intervals of the mean ± 2 for ROUGE-L."""
    entries = [_entry(checkpoint, *key, scores) for checkpoint, found in SCORES.items() for key, scores in found.items()]
    by_k = {"1": {"recovery": 0.5, "swapped": None}, "4": {"recovery": 0.875, "swapped": -0.25}}
    own = {"4": {"recovery": None, "swapped": None}}
    return {
        "format": FORMAT,
        "title": "Four rows",
        "source": "ours",
        "request": {"checkpoints": list(SCORES), "data": "held_out.jsonl", "seed": 7, "max_new_tokens": 64},
        "rows": 4,
        "rows_trained_on": 0,
        "digest": "sha256:0123abcd",
        "command": "python -m gistdemo eval joint base --k 1 4",
        "versions": {"gistdemo": "0.1.0", "torch": "2.13.0"},
        "created": "2026-11-23T05:00:00+00:00",
        "seconds": 12.5,
        "answers": entries,
        "recovery": {"joint": {"references": {"rows": 3, "by_k": by_k}, "own_answers": {"rows": 3, "by_k": own}}},
    }


def _interval(mean: float, half: float) -> dict[str, Any]:
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": 4}


def _entry(checkpoint: str, condition: str, k: int, scores: tuple[float, ...]) -> dict[str, Any]:
    mean, bad = sum(scores) / len(scores), len(DEGENERATE.get((checkpoint, condition, k), ()))
    paired = {"full": {"mean": -3.75, "low": -15.0, "high": 6.25, "n": 4}} if (checkpoint, condition, k) == ("joint", "gist", 4) else {}
    return {
        "checkpoint": checkpoint,
        "condition": condition,
        "k": k,
        "n": 4,
        "scores": {"rouge1": _interval(mean + 1, 1), "rougeL": _interval(mean, 2)},
        "normalised": None,
        "paired": paired,
        "verdicts": {"healthy": 4 - bad, "warning": 0, "degenerate": bad},
        "flags": {"F3": bad} if bad else {},
        "tasks": {"on task": 4 - bad, "off task": bad},
        "instruction_blind": 4 if condition == "blind" else 0,
        "identical": None,
        "prompt_tokens": 20.5,
    }
