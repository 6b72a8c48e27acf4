"""One answer as it is kept: the schema of a line in rows.jsonl, of an import and of a comparison; judged and written. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict, cast

from gistdemo.generation import FinishReason
from gistdemo.metrics import Assessment, Task, TaskVerdict, Verdict, assess
from gistdemo.metrics.flags import Finding
from gistdemo.prompts import Example

ROWS_FILE, EXAMPLES_FILE = "rows.jsonl", "examples.jsonl"


class Said(TypedDict):
    """What came of a prompt. None: not known, as with answers of other programs. kv_bytes: of the prompt.

    Times (s, tokens/s) are not kept beside the rest but in timings.jsonl: the same request does not give them again.
    """

    text: str
    finish_reason: FinishReason | None
    kv_bytes: int | None
    tokens: int | None
    first_token_seconds: NotRequired[float | None]
    tokens_per_second: NotRequired[float | None]


class Generated(Said):
    """An answer that is not judged yet. k: 0 where the condition does not depend on it. row: number of its example, from 0.

    blind: its instruction was never read.
    """

    checkpoint: str
    condition: str
    k: int
    row: int
    prompt_tokens: int | None
    instruction_tokens: int | None
    kept_tokens: int | None
    blind: bool


class TaskRecord(TypedDict):
    """A `gistdemo.metrics.task.Task` in JSON."""

    verdict: TaskVerdict
    gain: float | None
    rank: int | None
    of: int | None
    reason: str
    judge: str


class Judgement(TypedDict):
    """What `assess` says about an answer.

    scores: by name, 0 to 100; empty without a reference. verdict: None where there is nothing to judge.
    flags: codes of the findings that warn or fail. findings, facts: flags in full. task: None where it was not judged.
    """

    scores: dict[str, float]
    verdict: Verdict | None
    flags: list[str]
    findings: list[Finding]
    facts: list[Finding]
    task: TaskRecord | None


class Answer(Generated, Judgement):
    """An answer with what is to be said about it."""


def judged(answers: Sequence[Generated], examples: Sequence[Example], tasks: Sequence[Task | None] = ()) -> list[Answer]:
    """Each answer judged by its example, given the answers of the same checkpoint beside it. tasks: of each answer; none: not asked."""
    beside = {(a["checkpoint"], a["condition"], a["row"]): a["text"] for a in answers if a["condition"] in ("full", "none")}
    asked = tasks or [None] * len(answers)
    return [
        {**answer, **judgement(_assessed(answer, examples[answer["row"]], beside, task))}
        for answer, task in zip(answers, asked, strict=True)
    ]


def _assessed(answer: Generated, example: Example, beside: Mapping[tuple[str, str, int], str], task: Task | None) -> Assessment:
    condition = answer["condition"]
    others = {name: beside.get((answer["checkpoint"], name, answer["row"])) for name in ("full", "none") if name != condition}
    return assess(
        answer["text"],
        example,
        finish_reason=answer["finish_reason"],
        blind=answer["blind"],
        full_text=others.get("full"),
        none_text=others.get("none"),
        task=task,
    )


def judgement(found: Assessment | None) -> Judgement:
    """What was found, as plain values. None: nothing was judged."""
    return {
        "scores": found.scores if found else {},
        "verdict": found.verdict if found else None,
        "flags": found.codes if found else [],
        "findings": [flag.to_dict() for flag in (found.flags if found else ())],
        "facts": [flag.to_dict() for flag in (found.facts if found else ())],
        "task": cast(TaskRecord, vars(found.task)) if found and found.task else None,
    }
