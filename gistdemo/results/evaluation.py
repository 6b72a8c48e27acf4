"""Evaluations as files: their figures made, found, read, exported. No torch.

A folder has eval_results.json (`Results`) and, where the answers were kept, rows.jsonl (`Answer`) and examples.jsonl. The format in the first
is that of the whole folder; what is older is lifted while it is read (see `migrations`).
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict

from gistdemo import __version__
from gistdemo.data.alpaca import rows_digest
from gistdemo.errors import DataError, one_line
from gistdemo.files import read, write_json
from gistdemo.metrics import SCORES
from gistdemo.prompts import Example
from gistdemo.results.answer import EXAMPLES_FILE, ROWS_FILE, Answer
from gistdemo.results.migrations import FORMAT, Content, lifted
from gistdemo.results.summary import Entry, summarise

if TYPE_CHECKING:
    from pandas import DataFrame

RESULTS_FILE = "eval_results.json"
Source = Literal["ours", "imported"]


class RecoveryAt(TypedDict):
    """Recovery at one k, beside its control: another row's gist. None where full prompt and no instruction do not differ. NLL: nats per token."""

    recovery: float | None
    swapped: float | None
    nll_gist: float
    nll_swapped: float


class Recovery(TypedDict):
    """Recovery on known answers to some rows. by_k: by str(k)."""

    rows: int
    answer_tokens: int
    nll_full: float
    nll_none: float
    by_k: dict[str, RecoveryAt]


Recoveries = dict[str, Recovery]  # by whose answers they are measured on: "references", "own_answers"


class Asked(TypedDict):
    """What was measured, without folders: an `EvaluationRequest` with all its fields, or what is known of an import."""

    checkpoints: Sequence[str]
    data: str
    seed: NotRequired[int]
    max_new_tokens: NotRequired[int]


class Results(TypedDict):
    """The figures of an evaluation. In its file the field names of an earlier experiment stand beside them (see `earlier_format`).

    command: "" where none measured them. digest: of the rows. recovery: by checkpoint. seconds: None where not all was timed.
    notes: what looks wrong; claimed: ROUGE-L (0 to 1) that an import reports of itself, by condition. recovery_command: of the file
    beside a checkpoint, where recovery was measured at another time than the answers.
    """

    format: int
    title: str
    source: Source
    request: Asked
    command: str
    rows: int
    rows_trained_on: int
    digest: str
    answers: list[Entry]
    recovery: dict[str, Recoveries]
    versions: dict[str, str]
    created: str
    seconds: float | None
    notes: NotRequired[list[str]]
    claimed: NotRequired[dict[str, float]]
    recovery_command: NotRequired[str]


def new_results(
    title: str,
    source: Source,
    request: Asked,
    examples: Sequence[Example],
    answers: Sequence[Answer],
    *,
    command: str = "",
    trained_on: int = 0,
    recovery: dict[str, Recoveries] | None = None,
    seconds: float | None = 0.0,
) -> Results:
    """The figures of answers, made now. trained_on: how many of the rows a checkpoint was trained on."""
    return {
        "format": FORMAT,
        "title": title,
        "source": source,
        "request": request,
        "command": command,
        "rows": len(examples),
        "rows_trained_on": trained_on,
        "digest": rows_digest(examples),
        "answers": summarise(answers, examples),
        "recovery": recovery or {},
        "versions": versions(),
        "created": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
        "seconds": seconds,
    }


@dataclass(frozen=True)
class Evaluation:
    """One finished evaluation. id: names its folder."""

    id: str
    folder: Path
    results: Results

    @property
    def title(self) -> str:
        return self.results["title"]

    @property
    def has_rows(self) -> bool:
        """Whether the answers are here, and not only what they add up to."""
        return (self.folder / ROWS_FILE).exists()

    def rows(self) -> list[Answer]:
        """All answers; empty where only the figures were kept."""
        return _content(self.folder, ROWS_FILE, EXAMPLES_FILE).answers

    def examples(self) -> list[dict[str, str]]:
        """instruction, input and output of every row; empty where only the figures were kept."""
        return _content(self.folder, EXAMPLES_FILE).examples


def read_results(folder: Path) -> Evaluation:
    """Read the evaluation of a folder.

    Raises: DataError: there is none, or it is of a later format.
    """
    results: Results = _content(folder).results
    return Evaluation(folder.name, folder, results)


def _content(folder: Path, *wanted: str) -> Content:
    """Figures, and answers and examples where their files are wanted, in the format of this version."""
    answers, examples = (read(folder / name) if name in wanted else [] for name in (ROWS_FILE, EXAMPLES_FILE))
    try:
        content = lifted(Content(_of_any_format(folder / RESULTS_FILE), answers, examples), folder.name)
        if not isinstance(content.results.get("answers"), list) or not isinstance(content.results.get("title"), str):
            raise ValueError("answers or title are of the wrong form")
    except (OSError, ValueError) as error:
        raise DataError(
            f"'{folder.name}' holds no results of an evaluation ({one_line(error)}). Evaluate again, or import them."
        ) from error
    return content


def _of_any_format(path: Path) -> dict[str, Any]:
    """The results in a file. Raises: OSError, ValueError: it cannot be read, or holds something else."""
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or "format" not in found:
        raise ValueError("no format is named")
    return found


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


def keep_beside(results: Results, name: str, path: Path) -> None:
    """Write one checkpoint's part of results into the file kept beside it. What was not measured this time stays: answers and recovery
    each carry the command that measured them.

    Raises: DataError: what is kept there is of a later format.
    """
    part, before = _of_checkpoint(results, name), _kept(path)
    kept: Results = {**(before if before and not part["answers"] else part)}
    if part["recovery"]:
        kept["recovery"], kept["recovery_command"] = part["recovery"], part["command"]
    elif before:
        kept["recovery"] = before["recovery"]
        if "recovery_command" in before:
            kept["recovery_command"] = before["recovery_command"]
    write_json(path, kept)


def _of_checkpoint(results: Results, name: str) -> Results:
    """The part of results that is about one checkpoint."""
    answers = [entry for entry in results["answers"] if entry["checkpoint"] == name]
    recovery = {name: results["recovery"][name]} if name in results["recovery"] else {}
    return {**results, "answers": answers, "recovery": recovery}


def _kept(path: Path) -> Results | None:
    """What a file beside a checkpoint holds; None where it holds nothing of ours."""
    try:
        results: Results = lifted(Content(_of_any_format(path)), f"{path.parent.name}/{path.name}").results
    except (OSError, ValueError):
        return None
    return results


def table(rows: Sequence[Answer], examples: Sequence[Mapping[str, str]]) -> DataFrame:
    """All answers with their instructions and references, one line each, as a pandas DataFrame."""
    import pandas

    inner = ("scores", "findings", "facts", "blind", "task")
    lines = []
    for row in rows:
        line = {key: value for key, value in row.items() if key not in inner} | {"flags": " ".join(row["flags"])}
        texts = {name: examples[row["row"]][name] for name in ("instruction", "input", "output")}
        task = {name: row["task"][name] if row["task"] else None for name in ("verdict", "gain", "rank")}
        line |= {"task": task["verdict"], "task_gain": task["gain"], "task_rank": task["rank"]}
        lines.append(line | dict.fromkeys(SCORES) | row["scores"] | texts)
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
