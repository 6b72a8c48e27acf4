"""Results of other programs, read into our format and judged by our metrics, so that anybody's outputs can be audited. No torch.

Read: a folder or .zip with any of metrics.json, eval_results.json, sample_outputs.json (the names of an earlier experiment, see
`earlier_format`), a .csv of predictions with the columns x, y_pred, y_true (Mu et al. 2023), or a .jsonl of objects with instruction and text, and
where they are known input, reference, checkpoint, condition and k.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from gistdemo.conditions import CONDITIONS
from gistdemo.errors import DataError, one_line
from gistdemo.files import write_json, write_lines
from gistdemo.metrics import Task
from gistdemo.prompts import Example
from gistdemo.results.answer import EXAMPLES_FILE, ROWS_FILE, Answer, Generated, judged
from gistdemo.results.earlier_format import NAMES
from gistdemo.results.evaluation import RESULTS_FILE, Results, new_results
from gistdemo.results.summary import summarise

MOST_BYTES = 100 * 2**20  # per file
MOST_ROWS = 20_000
Asking = Callable[[Sequence[Generated], Sequence[Example]], Sequence[Task | None]]
FILES = ("sample_outputs.json", "eval_results.json", "metrics.json")
FRAMES = (("Instruction:", "\nInput:", "\nOutput:"), ("### Instruction:", "### Input:", "### Response:"))


@dataclass
class Foreign:
    """What was read: rows, answers, what looks wrong, in sentences, and the ROUGE-L (0 to 1) that is claimed, by condition."""

    examples: list[Example] = field(default_factory=list)
    generated: list[Generated] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    claimed: dict[str, float] = field(default_factory=dict)

    @cached_property
    def answers(self) -> list[Answer]:
        """The answers, judged, once all are there. Whether they are about what was asked: see `import_results`."""
        return judged(self.generated, self.examples)


def read_foreign(path: Path, name: str) -> Foreign:
    """Read results of another program. name: stands where ours has the checkpoint.

    Raises: DataError: nothing to read, too large, not UTF-8, not JSON or CSV, or a field of the wrong type; nothing is kept then.
    """
    if path.suffix.lower() == ".jsonl":
        found = _from_lines(_bounded(path, path.name), path.name, name)
    elif path.suffix.lower() == ".csv":
        found = _from_csv(_bounded(path, path.name), path.name, name)
    else:
        found = _from_files(_files(path), path.name, name)
    if not found.generated:
        raise DataError(
            f"'{path.name}' has no answers to judge. Give a sample_outputs.json, a .csv with the columns x, y_pred and y_true, or a .jsonl of "
            "objects with instruction and text."
        )
    _audit(found)
    return found


def import_results(path: Path, folder: Path, title: str, on_task: Asking = lambda generated, examples: []) -> Results:
    """Judge results of another program and write them as an evaluation into a new folder, whole or not at all. Returns the results.

    on_task: tells of every answer whether it is about what was asked; nothing: nobody can tell.

    Raises: DataError: see `read_foreign`; or the folder exists.
    """
    if folder.exists():
        raise DataError(f"There is an evaluation '{folder.name}' already. Give the file another name, or delete that folder.")
    found = read_foreign(path, path.stem)
    answers = judged(found.generated, found.examples, on_task(found.generated, found.examples))
    results = new_results(title, "imported", {"checkpoints": [path.stem], "data": path.name}, found.examples, answers)
    results["notes"], results["claimed"] = found.notes, found.claimed
    building = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(building, ignore_errors=True)
    try:
        building.mkdir(parents=True)
        write_lines(building / EXAMPLES_FILE, map(dataclasses.asdict, found.examples))
        write_lines(building / ROWS_FILE, answers)
        write_json(building / RESULTS_FILE, results)
        os.replace(building, folder)
    except OSError as error:
        raise DataError(f"The import cannot be written ({one_line(error)}). Free disk space and import again.") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return results


# --- bytes ----------------------------------------------------------------------------------------------------------------


def _files(path: Path) -> dict[str, str]:
    """The texts of the known files in a folder or zip, by name."""
    if path.is_dir():
        found = {name: _bounded(path / name, name) for name in FILES if (path / name).is_file()}
    elif path.suffix.lower() == ".zip" and path.is_file():
        found = _from_zip(path)
    elif not path.exists():
        raise DataError(f"'{path.name}' does not exist. Give a folder, a .zip, a .csv or a .jsonl file.")
    else:
        raise DataError(f"'{path.name}' is not a folder, a .zip, a .csv or a .jsonl file.")
    if not found:
        raise DataError(f"'{path.name}' holds none of {', '.join(FILES)}.")
    return found


def _from_zip(path: Path) -> dict[str, str]:
    """Known files at any depth of a zip; nothing is unpacked to disk, so names of entries cannot lead anywhere."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {info.filename.rsplit("/", 1)[-1]: info for info in archive.infolist()}
            texts = {}
            for name in FILES:
                if name in entries:
                    with archive.open(entries[name]) as file:
                        texts[name] = _text(file.read(MOST_BYTES + 1), name)  # bounded: a header may lie about the size
            return texts
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError) as error:
        raise DataError(f"'{path.name}' is not a zip file that can be read ({one_line(error)[:100]}).") from error


def _bounded(path: Path, name: str) -> str:
    try:
        with path.open("rb") as file:
            return _text(file.read(MOST_BYTES + 1), name)
    except OSError as error:
        raise DataError(f"'{name}' cannot be read ({error.strerror}).") from error


def _text(content: bytes, name: str) -> str:
    if len(content) > MOST_BYTES:
        raise DataError(f"'{name}' is larger than {MOST_BYTES // 2**20} MB, the most that is read. Give a part of it.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"'{name}' is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from error


def _json(text: str, name: str, kind: type) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"'{name}' is not valid JSON ({one_line(error)[:120]}).") from error
    if not isinstance(value, kind):
        raise DataError(f"'{name}' holds a JSON {type(value).__name__}; a {kind.__name__} is expected.")
    return value


# --- the earlier experiment's files ---------------------------------------------------------------------------------------


def _from_files(texts: Mapping[str, str], source: str, name: str) -> Foreign:
    found = Foreign()
    results = _json(texts["eval_results.json"], "eval_results.json", dict) if "eval_results.json" in texts else {}
    metrics = _json(texts["metrics.json"], "metrics.json", dict) if "metrics.json" in texts else {}
    found.notes += [f"{missing} is missing." for missing in FILES if missing not in texts]
    found.claimed = _claims(results, found.notes)
    k = next((v for v in (results.get("num_gist_tokens"), metrics.get("num_gist_tokens")) if isinstance(v, int) and v > 0), 1)
    samples = _json(texts["sample_outputs.json"], "sample_outputs.json", list) if "sample_outputs.json" in texts else []
    if not samples:
        raise DataError(f"'{source}' has no sample_outputs.json with answers; scores without answers cannot be checked.")
    _limit(samples, source)
    for number, sample in enumerate(samples):
        _add_sample(found, sample, number, name, k)
    _compare_prompts(found, samples)
    return found


def _add_sample(found: Foreign, sample: Any, number: int, name: str, k: int) -> None:
    where = f"sample_outputs.json, entry {number + 1}"
    if not isinstance(sample, dict):
        raise DataError(f"{where}: a {type(sample).__name__} instead of an object.")
    prompts = sample.get("prompts") or {}
    if not isinstance(prompts, dict):
        raise DataError(f"{where}: prompts is a {type(prompts).__name__} instead of an object.")
    reference = _string(sample.get("reference"), f"{where}, reference")
    instruction, given = _unframed(_string(prompts.get("full"), f"{where}, prompts.full"))
    example = Example(instruction, given, reference)
    found.examples.append(example)
    for condition, field_name in NAMES.items():
        if sample.get(field_name) is not None:
            text = _string(sample[field_name], f"{where}, {field_name}")
            found.generated.append(_answer(name, condition, k if condition != "full" else 0, number, text))


def _string(value: Any, where: str) -> str:
    """Text; nothing and NaN count as empty."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if not isinstance(value, str):
        raise DataError(f"{where}: a {type(value).__name__} instead of text ({str(value)[:40]!r}).")
    return value


def _unframed(prompt: str) -> tuple[str, str]:
    """Instruction and input of a whole prompt, where its frame is a known one; else the whole prompt as the instruction.

    >>> _unframed("Instruction: Say hi.\\nInput: Bob\\nOutput:")
    ('Say hi.', 'Bob')
    """
    for before, between, after in FRAMES:
        if before in prompt:
            text = prompt.split(before, 1)[1].split(after, 1)[0]
            instruction, _, given = text.partition(between)
            return instruction.strip(), given.strip()
    return prompt.strip(), ""


def _claims(results: Mapping[str, Any], notes: list[str]) -> dict[str, float]:
    """ROUGE as the other program reports it (F1, 0 to 1), by condition."""
    scores = results.get("rouge_scores")
    if not isinstance(scores, dict):
        return {}
    claimed = {}
    for condition, name in NAMES.items():
        value = scores.get(name, {}).get("rougeL") if isinstance(scores.get(name), dict) else None
        if isinstance(value, (int, float)) and math.isfinite(value):
            claimed[condition] = value
        elif value is not None:
            notes.append(f"Its own ROUGE-L of {name} is {value!r}, which is not a number.")
    return claimed


def _compare_prompts(found: Foreign, samples: list[Any]) -> None:
    prompts = [sample.get("prompts") or {} for sample in samples]
    known = [p for p in prompts if isinstance(p.get("full"), str)]
    if not known:
        found.notes.append("Prompts were not recorded: what each condition was shown cannot be checked.")
        return
    cut = [p for p in known if isinstance(p.get("truncated"), str)]
    whole = sum(p["truncated"].startswith(p["full"]) for p in cut)
    if whole:
        found.notes.append(f"The truncated prompt holds the whole full prompt in {whole} of {len(cut)} rows: nothing was truncated.")
    gist = [p["gist"] for p in known if isinstance(p.get("gist"), str)]
    if len(gist) > 1 and len(set(gist)) < len(gist):
        most = max(gist.count(text) for text in set(gist))
        found.notes.append(f"{most} of {len(gist)} gist prompts are the same text: they cannot hold the instruction.")


# --- predictions of the paper ---------------------------------------------------------------------------------------------


def _from_csv(text: str, source: str, name: str) -> Foreign:
    csv.field_size_limit(MOST_BYTES)
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        if not {"x", "y_pred", "y_true"} <= set(reader.fieldnames or ()):
            raise DataError(f"'{source}' has the columns {', '.join(reader.fieldnames or ()) or 'none'}; x, y_pred and y_true are needed.")
        lines = list(reader)
    except csv.Error as error:
        raise DataError(f"'{source}' is not a CSV file that can be read ({error}).") from error
    _limit(lines, source)
    found = Foreign()
    for number, line in enumerate(lines):
        if None in (line["x"], line["y_pred"], line["y_true"]):
            raise DataError(f"'{source}' row {number + 1} has too few columns.")
        instruction, given = _unframed(line["x"].replace("<GIST>", ""))
        example = Example(instruction, given, line["y_true"].strip())
        found.examples.append(example)
        found.generated.append(_answer(name, "gist", 0, number, line["y_pred"]))
    return found


# --- any outputs, one JSON object a line ----------------------------------------------------------------------------------


def _from_lines(text: str, source: str, name: str) -> Foreign:
    lines = [line for line in text.split("\n") if line.strip()]  # splitlines() would cut texts at U+2028
    _limit(lines, source)
    found = Foreign()
    rows: dict[Example, int] = {}
    for number, line in enumerate(lines, 1):
        where = f"'{source}' line {number}"
        values = _json(line, where, dict)
        if missing := [field for field in ("instruction", "text") if field not in values]:
            raise DataError(f"{where} has no {missing[0]}; each line needs an instruction and the text that answers it.")
        example = Example(*(_string(values.get(field), f"{where}, {field}") for field in ("instruction", "input", "reference")))
        if example not in rows:
            rows[example] = len(found.examples)
            found.examples.append(example)
        condition = _string(values.get("condition"), f"{where}, condition") or "full"
        if condition not in CONDITIONS:
            raise DataError(f"{where}: condition is {condition[:40]!r}; allowed are {', '.join(CONDITIONS)}.")
        k = values.get("k") or 0
        if type(k) is not int or not 0 <= k <= MOST_ROWS:
            raise DataError(f"{where}: k is {str(k)[:40]!r}; a whole number is needed.")
        checkpoint = _string(values.get("checkpoint"), f"{where}, checkpoint") or name
        found.generated.append(_answer(checkpoint, condition, k, rows[example], _string(values["text"], f"{where}, text")))
    return found


def _limit(rows: list[Any], source: str) -> None:
    if len(rows) > MOST_ROWS:
        raise DataError(f"'{source}' has {len(rows):,} rows; at most {MOST_ROWS:,} are read. Give a part of them.")


# --- our judgement --------------------------------------------------------------------------------------------------------


def _answer(name: str, condition: str, k: int, row: int, text: str) -> Generated:
    return {
        "checkpoint": name,
        "condition": condition,
        "k": k,
        "row": row,
        "text": text,
        "finish_reason": None,
        "kv_bytes": None,
        "tokens": None,
        "prompt_tokens": None,
        "instruction_tokens": None,
        "kept_tokens": None,
        "blind": False,
    }


def _audit(found: Foreign) -> None:
    """What our metrics say against what was claimed, and whether the instruction can have reached the model."""
    for entry in summarise(found.answers, found.examples):
        condition, same = entry["condition"], entry["identical"]
        if same and same["count"] > 1:
            why = (
                "the instruction never reached the model"
                if same["count"] > entry["n"] / 2
                else "different instructions got the same answer"
            )
            words = why if same["text"] else "nothing was said"
            found.notes.append(f"{same['count']} of {entry['n']} {condition} outputs are identical: {words}.")
        if entry["verdicts"]["degenerate"]:
            found.notes.append(f"{entry['verdicts']['degenerate']} of {entry['n']} {condition} outputs are degenerate.")
        claim, score = found.claimed.get(condition), entry["scores"].get("rougeL")
        if claim is not None and score:
            found.notes.append(
                f"ROUGE-L of {condition}: claimed {100 * claim:.1f}, {score['mean']:.1f} on the {score['n']} answers that are here."
            )
