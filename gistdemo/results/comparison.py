"""A comparison as JSON: what was asked, of which models, and their answers in the schema of an evaluation's. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from gistdemo.generation import Sampling
from gistdemo.prompts import Example
from gistdemo.results.answer import Answer
from gistdemo.results.evaluation import versions

FORMAT = 2
Status = Literal["waiting", "running", "done"]


class LiveAnswer(Answer):
    """An answer of a comparison, which may still grow, have failed or have nothing to show (see `gistdemo.grid.Cell`).

    ratio: instruction tokens per kept token. normalised: the `MAIN` score between that of `none` 0 and of `full` 100, in this comparison.
    """

    status: Status
    error: str | None
    note: str | None
    ratio: float | None
    normalised: float | None


class Model(TypedDict):
    """What answered. backbone_digest: of the weights that a checkpoint was made for; None: a backbone as it is."""

    mode: str
    backbone: str
    backbone_digest: str | None


class Comparison(TypedDict):
    """The file. k: gist tokens, and the budget of `truncated`. checkpoints: by the names that the answers carry."""

    format: int
    instruction: str
    input: str
    reference: str
    k: int
    sampling: dict[str, Any]
    checkpoints: dict[str, Model]
    versions: dict[str, str]
    answers: list[LiveAnswer]


def comparison_record(
    example: Example, k: int, sampling: Sampling, models: Mapping[str, Model], answers: Sequence[LiveAnswer]
) -> Comparison:
    """models: by the names that the answers carry; a name that stands for none, whose cells failed as such, is left out."""
    names = dict.fromkeys(answer["checkpoint"] for answer in answers)
    return {
        "format": FORMAT,
        "instruction": example.instruction,
        "input": example.input,
        "reference": example.output,
        "k": k,
        "sampling": vars(sampling),
        "checkpoints": {name: models[name] for name in names if name in models},
        "versions": versions(),
        "answers": list(answers),
    }
