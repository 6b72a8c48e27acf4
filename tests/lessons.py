"""Small data, settings and ground for training tests: eight rows to learn by heart, four to be judged by, on the toy backbone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lab import Lab
from toy import toy_model

from gistdemo.model.gist_model import GistModel
from gistdemo.model.lora_targets import ALL_LINEAR
from gistdemo.prompts import CHATML
from gistdemo.settings import Settings
from gistdemo.train.config import TrainConfig
from gistdemo.train.loop import Loop
from gistdemo.train.objectives import GistLearning, Ground

ROWS = [
    ("Name a colour.", "Blue."),
    ("Add one and two.", "3"),
    ("Say hello.", "Hello!"),
    ("Translate cat.", "chat"),
    ("Name a fruit.", "Apple"),
    ("Name a river.", "Nile"),
    ("Opposite of hot?", "cold"),
    ("First letter?", "A"),
]
HELD = [(f"Do the thing named {name}.", f"Done: {name}") for name in "abcd"]


def write_rows(path: Path, rows) -> str:
    path.write_text("".join(json.dumps({"instruction": i, "input": "", "output": o}) + "\n" for i, o in rows))
    return str(path)


def lesson(folder: Path, mode: str, **changes: Any) -> TrainConfig:
    """Settings of a short run whose data lie in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {
        "mode": mode,
        "name": "lesson",
        "data": write_rows(folder / "train.jsonl", ROWS),
        "validation": write_rows(folder / "held.jsonl", HELD),
        "steps": 12,
        "batch_size": 4,
        "learning_rate": 2e-2,
        "gist_learning_rate": 5e-2,
        "warmup_steps": 3,
        "ks": (1, 4),
        "rank": 8,
        "alpha": 8,
        "targets": ALL_LINEAR,
        "answer_tokens": 8,
        "teacher_answers": 4,
        "evaluate_every": 6,
        "evaluate_rows": 4,
        "sample_rows": 1,
        "sample_tokens": 4,
        "save_every": 4,
    }
    return TrainConfig(**(values | changes))


def toy_ground() -> Ground:
    """A backbone as a new process would have it: equal weights, no adapter yet. The quiet toy model learns faster than the lively one."""
    made = Lab(CHATML, model=GistModel(toy_model()))
    return Ground(made.model, made.engine, made.encoder, "sha256:toy")


def objective(config: TrainConfig, settings: Settings, ground: Ground | None = None) -> GistLearning:
    return GistLearning(config, ground or toy_ground(), settings)


def run(config: TrainConfig, settings: Settings, folder: Path, learner=None):
    """Run a lesson to its end. Returns the objective and what the loop returned."""
    folder.mkdir(parents=True, exist_ok=True)
    learner = learner or objective(config, settings)
    return learner, Loop(config, learner, folder).run()


def records(folder: Path, part: str = "loss") -> list[dict[str, Any]]:
    """Records of metrics.jsonl that hold `part`, without what depends on the clock and the machine."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    clock = ("seconds", "memory_gib", "evaluation_seconds", "samples_per_second", "tokens_per_second", "time")
    return [{name: value for name, value in record.items() if name not in clock} for record in found if part in record]
