"""Named settings for common purposes. A preset fills in what was not set by hand. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gistdemo.errors import UsageError
from gistdemo.train.config import ALL_LINEAR, TrainConfig


@dataclass(frozen=True)
class Preset:
    """Settings under a name. purpose: one line for people. values: fields of `TrainConfig`."""

    purpose: str
    values: dict[str, Any]


PRESETS = {
    "quick": Preset(
        "a working gist in five to six minutes on two cores",
        {"mode": "compressor", "steps": 60, "evaluate_every": 20, "evaluate_rows": 24},
    ),
    "standard": Preset(
        "the shipped instruct gist, 75 to 90 minutes on two cores",
        {
            "mode": "compressor",
            "steps": 1500,
            "warmup_steps": 30,
            "targets": ALL_LINEAR,
            "teacher_answers": 2400,
            "teacher_share": 0.55,
            "long_share": 0.3,
            "evaluate_every": 250,
        },
    ),
    "paper": Preset(
        "Mu et al. 2023: all weights, gist and instruction tuning together, reference answers, slots appended to the prompt",
        {
            "mode": "joint",
            "anchored": False,
            "weights": "all",
            "steps": 3000,
            "batch_size": 8,
            "accumulation": 4,
            "learning_rate": 1e-4,
            "gist_learning_rate": 1e-4,
            "warmup_steps": 90,
            "full_share": 0.0,
            "ks": (1,),
        },
    ),
    "earlier-experiment": Preset(
        "one gist vector, nothing else, learning rate 2e-5, 2,000 rows twice: a setting that cannot move the vector",
        {
            "mode": "embeddings",
            "anchored": False,
            "ks": (1,),
            "samples": 2000,
            "steps": 500,
            "batch_size": 8,
            "learning_rate": 2e-5,
            "gist_learning_rate": 2e-5,
            "evaluate_every": 100,
        },
    ),
}


def with_preset(name: str, given: dict[str, Any]) -> TrainConfig:
    """Settings of a preset, with what was given by hand on top. name: "" for no preset.

    Raises: UsageError: there is no such preset, or the settings do not hold together.
    """
    if name and name not in PRESETS:
        raise UsageError(f"Preset '{name}' is not known. Choose one of {', '.join(PRESETS)}.")
    return TrainConfig.from_dict((PRESETS[name].values if name else {}) | given)
