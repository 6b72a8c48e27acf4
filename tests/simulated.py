"""A simulated trainer: the files and the behaviour of a training run without any weights, to try the queue and the page on.

`python -m tests.simulated` is the command line with one more kind of job; tests have the queue start their jobs with it.
"""

from __future__ import annotations

import json
import math
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gistdemo.errors import TrainingError, WorkStopped
from gistdemo.files import recover, write_json
from gistdemo.jobs.kinds import KINDS, Kind
from gistdemo.jobs.launcher import LOCAL

PROGRAM = (sys.executable, "-m", "tests.simulated")
DEFAULTS = {"steps": 60, "seconds_per_step": 0.1, "fail_at": 0, "evaluate_every": 10, "save_every": 5, "seed": 0}


def simulate(settings: dict[str, Any], folder: Path, should_stop: Callable[[], bool]) -> None:
    """Write metrics.jsonl step by step, with evaluations; go on from simulated.json; stop when asked.

    settings: of DEFAULTS; fail_at: step at which it fails (0: never).
    Raises: WorkStopped: asked to stop, state saved. TrainingError: at fail_at.
    """
    values = DEFAULTS | settings
    rng = random.Random(values["seed"])
    noise = [rng.gauss(0, 0.05) for _ in range(values["steps"])]
    state = folder / "simulated.json"
    first = json.loads(state.read_text())["step"] if state.exists() else 0
    recover(folder / "metrics.jsonl", lambda record: 0 < first >= record["step"])
    for step in range(first + 1, values["steps"] + 1):
        time.sleep(values["seconds_per_step"])
        if step == values["fail_at"]:
            raise TrainingError(f"Loss is nan at step {step}. The state of the last save is kept; lower the learning rate and resume.")
        fall = math.exp(-3 * step / values["steps"])
        record = {"step": step, "loss": 0.4 + 2 * fall + noise[step - 1] * fall, "rate": 1e-3 * (1 - step / values["steps"])}
        records = [record | {"samples_per_second": 8 / max(values["seconds_per_step"], 1e-3), "memory_gib": 0.1}]
        if step % values["evaluate_every"] == 0:
            by_k = {"4": {"recovery": 1 - fall, "swapped": 0.02}}
            records.append({"evaluation": {"references": {"rows": 64, "by_k": by_k}}, "step": step})
        with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(one | {"time": time.time()}) + "\n" for one in records)
        asked = should_stop()
        if asked or step % values["save_every"] == 0 or step == values["steps"]:
            write_json(state, {"step": step})
        if asked:
            raise WorkStopped(f"Stopped after step {step} of {values['steps']}. Resume goes on from there.")


def install() -> None:
    """Let this process know the kind `simulate`, and start jobs in processes that know it."""
    KINDS["simulate"] = Kind("simulate", "step", lambda job, folder, settings, should_stop: simulate(job.settings, folder, should_stop))
    LOCAL.program = PROGRAM


if __name__ == "__main__":
    from gistdemo.cli import main

    install()
    sys.exit(main())
