"""What older versions wrote, lifted step by step to what this one reads: in memory, never on disk. No torch.

MIGRATIONS is append-only: its n-th function lifts the content of a folder from format n to n + 1. Whoever changes what an evaluation
keeps appends one, and everything that reads evaluations goes on knowing one format only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from gistdemo.errors import DataError, one_line
from gistdemo.prompts import Example
from gistdemo.results.answer import judged


@dataclass(frozen=True)
class Content:
    """What a folder holds, as JSON of whichever format. answers, examples: empty where they were not kept, or are not wanted."""

    results: Any
    answers: list[Any] = field(default_factory=list)
    examples: list[Any] = field(default_factory=list)


def _whole_answers(content: Content) -> Content:
    """1 -> 2: every answer has findings with their places, facts, and whether it was blind.

    Format 1 began with the codes of flags alone, which tell no place: such answers are judged anew. Whether the instruction was read
    was not always kept; where it was not, a finding of it (F7) is what is known.
    """
    answers = [a | {"blind": a.get("blind", any(fact["code"] == "F7" for fact in a.get("facts", ())))} for a in content.answers]
    if any("findings" not in answer for answer in answers):
        answers = [*judged(answers, [Example(**example) for example in content.examples])]
    return replace(content, answers=answers)


def _scores_by_name(content: Content) -> Content:
    """2 -> 3: an answer has its scores, and an entry their means with interval and n, by name, where each had fields of its own."""
    flat = ("rouge1", "rouge2", "rougeL")
    means = (*flat, "rougeL_own")

    def of_answer(answer: dict[str, Any]) -> dict[str, Any]:
        scores = {name: answer[name] for name in flat if answer.get(name) is not None}
        return {"scores": scores} | {key: value for key, value in answer.items() if key not in flat}  # judged anew, it has some already

    def of_entry(entry: dict[str, Any]) -> dict[str, Any]:
        scores = {}
        for name in means:
            if (mean := entry.get(name)) is not None:
                low, high = entry["intervals"].get(name, (mean, mean))
                scores[name] = {"mean": mean, "low": low, "high": high, "n": entry["n" if name == "rougeL_own" else "scored"]}
        return {key: value for key, value in entry.items() if key not in (*means, "intervals", "scored")} | {"scores": scores}

    results = content.results | {"answers": [of_entry(entry) for entry in content.results["answers"]]}
    return replace(content, results=results, answers=[of_answer(answer) for answer in content.answers])


def _with_tasks(content: Content) -> Content:
    """3 -> 4: whether an answer is about what was asked, and how many are; of older ones nobody asked."""
    results = content.results | {"answers": [{"tasks": {}} | entry for entry in content.results["answers"]]}
    return replace(content, results=results, answers=[{"task": None} | answer for answer in content.answers])


MIGRATIONS: tuple[Callable[[Content], Content], ...] = (_whole_answers, _scores_by_name, _with_tasks)
FORMAT = 1 + len(MIGRATIONS)


def lifted(content: Content, name: str) -> Content:
    """The content in the format of this version. name: of what holds it, for the message.

    Raises: DataError: it is of a later format, or of none. ValueError: it is not what its format says.
    """
    found = content.results.get("format")
    if type(found) is not int or not 1 <= found <= FORMAT:
        raise DataError(
            f"'{name}' holds results of format {found!r}; this version reads formats 1 to {FORMAT}. "
            "Update gistdemo to open them, or evaluate again."
        )
    try:
        for migration in MIGRATIONS[found - 1 :]:
            content = migration(content)
    except (AttributeError, LookupError, TypeError) as error:
        raise ValueError(f"they are not as format {found} has them: {one_line(error)}") from error
    return replace(content, results=content.results | {"format": FORMAT})
