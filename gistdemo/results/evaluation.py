"""The results of evaluations as files: found, read, exported. No torch.

eval_results.json, format 1: title, source ("ours" or "imported"), request, command, rows, rows_trained_on, digest (of the rows),
answers (entries of `summarise`), recovery (checkpoint -> target -> `measure_recovery`), versions, created, seconds; and the field
names of an earlier experiment for the first checkpoint and budget (see `earlier_format`).
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gistdemo import __version__
from gistdemo.errors import DataError, one_line
from gistdemo.json_lines import read
from gistdemo.results.answer import EXAMPLES_FILE, ROWS_FILE, read_records

if TYPE_CHECKING:
    from pandas import DataFrame

RESULTS_FILE = "eval_results.json"
FORMAT = 1


@dataclass(frozen=True)
class Evaluation:
    """One finished evaluation. id: names its folder. results: as in eval_results.json."""

    id: str
    folder: Path
    results: dict[str, Any]

    @property
    def title(self) -> str:
        title: str = self.results["title"]
        return title

    @property
    def has_rows(self) -> bool:
        """Whether the answers are here, and not only what they add up to."""
        return (self.folder / ROWS_FILE).exists()

    def rows(self) -> list[dict[str, Any]]:
        """Records of all answers; empty where only the figures were kept."""
        return read_records(self.folder)

    def examples(self) -> list[dict[str, str]]:
        """instruction, input and output of every row; empty where only the figures were kept."""
        return read(self.folder / EXAMPLES_FILE)


def read_results(folder: Path) -> Evaluation:
    """Read the evaluation of a folder.

    Raises: DataError: there is none, or it is of another format.
    """
    path = folder / RESULTS_FILE
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        if results.get("format") != FORMAT:
            raise ValueError(f"format is {results.get('format')!r}, this version reads {FORMAT}")
        if not isinstance(results["answers"], list) or not isinstance(results["title"], str):
            raise ValueError("answers or title are of the wrong form")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise DataError(
            f"'{folder.name}' holds no results of an evaluation ({one_line(error)}). Evaluate again, or import them."
        ) from error
    return Evaluation(folder.name, folder, results)


def find_evaluations(parents: Sequence[Path]) -> list[Evaluation]:
    """Every folder with readable results in the given folders, newest first. Folders of unfinished evaluations are left out."""
    found = []
    for parent in parents:
        for path in parent.glob(f"*/{RESULTS_FILE}") if parent.is_dir() else ():
            try:
                found.append(read_results(path.parent))
            except DataError:
                continue  # another program's file of that name
    return sorted(found, key=lambda e: (str(e.results.get("created", "")), e.id), reverse=True)


def of_checkpoint(results: dict[str, Any], name: str) -> dict[str, Any]:
    """The part of results that is about one checkpoint, to be kept beside it."""
    kept = ("format", "title", "source", "request", "command", "rows", "rows_trained_on", "digest", "versions", "created", "seconds")
    answers = [entry for entry in results["answers"] if entry["checkpoint"] == name]
    recovery = {name: results["recovery"][name]} if name in results["recovery"] else {}
    return {key: results[key] for key in kept} | {"answers": answers, "recovery": recovery}


def keep_beside(results: dict[str, Any], name: str, path: Path) -> None:
    """Write one checkpoint's part of results into the file kept beside it. What was not measured this time stays: answers and recovery
    each carry the command that measured them."""
    part = of_checkpoint(results, name)
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = {}
    measured = {"recovery": part["recovery"], "recovery_command": part["command"]} if part["recovery"] else {}
    if not part["answers"]:
        part = before or part
    kept = {key: before[key] for key in ("recovery", "recovery_command") if key in before}
    write_json(path, part | kept | measured)


def table(rows: Sequence[dict[str, Any]], examples: Sequence[dict[str, str]]) -> DataFrame:
    """All answers with their instructions and references, one line each, as a pandas DataFrame."""
    import pandas

    names = ("instruction", "input", "output")
    inner = ("findings", "facts", "blind")
    rows = [{key: value for key, value in row.items() if key not in inner} for row in rows]
    lines = [{**row, "flags": " ".join(row["flags"]), **{name: examples[row["row"]][name] for name in names}} for row in rows]
    return pandas.DataFrame(lines).rename(columns={"text": "answer", "output": "reference"})


def export(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Write rows.csv and rows.parquet into a folder; returns their paths.

    Raises: DataError: only the figures of this evaluation were kept.
    """
    rows = evaluation.rows()
    if not rows:
        raise DataError(f"The answers of '{evaluation.title}' are not here, only its figures. Evaluate again to have them.")
    frame, paths = table(rows, evaluation.examples()), [folder / "rows.csv", folder / "rows.parquet"]
    frame.to_csv(paths[0], index=False)
    frame.to_parquet(paths[1], index=False)
    return paths


def versions() -> dict[str, str]:
    """Of what a figure rests on."""
    libraries = {name: version(name) for name in ("torch", "transformers", "rouge-score")}
    return {"gistdemo": __version__, "python": platform.python_version()} | libraries


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file in one move."""
    building = path.with_name(f".{path.name}.{os.getpid()}")
    building.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(building, path)
