"""Named settings for common purposes. A preset fills in what was not set by hand. No torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gistdemo.errors import UsageError, first_line
from gistdemo.model.lora_targets import ALL_LINEAR
from gistdemo.settings import Settings
from gistdemo.train.config import TrainConfig


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
        "one gist vector on a frozen model, learning rate 2e-5, 2,000 rows twice: a setting that hardly moves the vector",
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


def read_recipe(name: str, settings: Settings) -> dict[str, Any]:
    """The settings in a recipe: a JSON file, or the name of one in assets/recipes. Files it names are meant from the project's folder.

    Raises: UsageError: there is no such recipe, or it is not a JSON object.
    """
    folder = _recipes(settings)
    path = Path(name) if name.endswith(".json") else folder / f"{name}.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        known = ", ".join(sorted(file.stem for file in folder.glob("*.json"))) or "none"
        raise UsageError(
            f"Recipe '{name}' cannot be read ({first_line(error)}). Give one of {known}, or the path of a JSON file."
        ) from error
    if not isinstance(values, dict):
        raise UsageError(f"Recipe '{name}' holds a JSON {type(values).__name__}; an object of settings is needed.")
    if values.get("held_out"):
        values["held_out"] = str(settings.assets_dir.parent / values["held_out"])
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def recipe_of(config: TrainConfig, settings: Settings) -> str:
    """Name of the recipe in assets/recipes whose settings these are, whatever rows they are used on; "" where one differs.

    Found by comparing, not remembered: settings given by hand on top of a recipe are another run, those of a form may be a recipe's.
    """
    rows = {"data": config.data, "validation": config.validation}
    for path in sorted(_recipes(settings).glob("*.json")):
        recipe = TrainConfig.from_dict(read_recipe(path.stem, settings) | rows)
        if recipe.recipe() == config.recipe():
            return path.stem
    return ""


def _recipes(settings: Settings) -> Path:
    return settings.assets_dir / "recipes"


def with_preset(name: str, given: dict[str, Any]) -> TrainConfig:
    """Settings of a preset, with what was given by hand on top. name: "" for no preset.

    Raises: UsageError: there is no such preset, or the settings do not hold together.
    """
    if name and name not in PRESETS:
        raise UsageError(f"Preset '{name}' is not known. Choose one of {', '.join(PRESETS)}.")
    return TrainConfig.from_dict((PRESETS[name].values if name else {}) | given)
