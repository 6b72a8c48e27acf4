"""Alpaca rows from a file or a hub dataset: read, checked one by one, counted by reason where they are turned away.

Imports no torch; pandas and datasets only inside the function that needs them.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gistdemo.errors import DataError, one_line
from gistdemo.prompts import Example

PLACEHOLDERS = {"<noinput>", "noinput", "no input", "n/a", "none", "nan"}
MARK = re.compile("[0-9a-f]{8}")
HALF_PAIR = re.compile("[\ud800-\udfff]")  # JSON can spell it, no tokenizer can read it
EMBEDDED_FILE = "assets/examples.jsonl"  # from the project's folder: the examples written for it
HELD_OUT_FILE = "assets/recipes/held-out.txt"  # the same for the list of rows that no shipped recipe trains on
FILE_TYPES = (".json", ".jsonl", ".parquet")


@dataclass(frozen=True)
class Rows:
    """Accepted examples in file order and how many rows were turned away, by reason."""

    name: str
    examples: tuple[Example, ...]
    rejected: Counter[str] = field(default_factory=Counter)

    @property
    def digest(self) -> str:
        """sha256 over all fields of all accepted rows, in order."""
        return rows_digest(self.examples)


def rows_digest(examples: Iterable[Example]) -> str:
    """sha256 over all fields of the rows, in order; tells whether two figures were measured on the same rows."""
    state = hashlib.sha256()
    for example in examples:
        state.update(json.dumps([example.instruction, example.input, example.output], ensure_ascii=False).encode())
    return f"sha256:{state.hexdigest()}"


def source_name(source: str) -> str:
    """A source (or several, joined by +) without the folders of its files: they say something about one machine only.
    What comes with the project keeps its place there, where everybody has it."""
    return "+".join(_without_folders(part.replace("\\", "/")) for part in source.split("+"))


def _without_folders(part: str) -> str:
    for ours in (EMBEDDED_FILE, HELD_OUT_FILE):
        if f"/{part}".endswith(f"/{ours}"):
            return ours
    return part.rsplit("/", 1)[-1] if "." in part else part


def instruction_mark(example: Example) -> str:
    """Eight hex digits that stand for an instruction, case and blanks ignored: enough to tell training rows among thousands again."""
    return hashlib.sha256(" ".join(example.instruction.casefold().split()).encode()).hexdigest()[:8]


def read_marks(path: Path) -> frozenset[str]:
    """The marks in a file, one per line.

    Raises: DataError: the file cannot be read, or holds something else.
    """
    try:
        marks = path.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"List of marks '{path}' cannot be read ({one_line(error)}). Give a text file with one mark per line.") from error
    wrong = next((mark for mark in marks if not MARK.fullmatch(mark)), None)
    if wrong is not None:
        raise DataError(f"List of marks '{path.name}' holds '{wrong[:40]}'. Allowed are marks of 8 hex digits, one per line.")
    return frozenset(marks)


def read_rows(source: str | Path, need_output: bool = True) -> Rows:
    """Read an Alpaca source: a .json, .jsonl or .parquet file, or a hub dataset id such as "tatsu-lab/alpaca".

    Raises: DataError: the file is missing, of another type, cannot be parsed, has no usable row; or the hub is unreachable.
    """
    path = Path(source).expanduser()
    if path.suffix.lower() in FILE_TYPES or path.exists():
        records: Iterable[Any] = _read_file(path)
        name = path.name
    else:
        records, name = _read_hub(str(source)), str(source)
    examples: list[Example] = []
    rejected: Counter[str] = Counter()
    for record in records:
        example, reason = check_row(record, need_output)
        if example is None:
            rejected[reason] += 1
        else:
            examples.append(example)
    if not examples:
        why = "; ".join(f"{count} x {reason}" for reason, count in rejected.most_common(3)) or "it is empty"
        raise DataError(f"'{name}' has no usable Alpaca row ({why}). Rows need the fields instruction, input and output, as text.")
    return Rows(name, tuple(examples), rejected)


def check_row(record: Any, need_output: bool = True) -> tuple[Example | None, str]:
    """Turn one record into an Example, or say why not: (example, "") or (None, reason)."""
    if not isinstance(record, dict):
        return None, "not an object"
    if "instruction" not in record:
        return None, "no field 'instruction'"
    texts = ["" if _is_null(record.get(name)) else record[name] for name in ("instruction", "input", "output")]
    if not all(isinstance(text, str) for text in texts):
        return None, "a field is not text"
    if any(HALF_PAIR.search(text) for text in texts):
        return None, "a field has a broken character"
    instruction, given, output = (text.strip() for text in texts)
    if not instruction:
        return None, "empty instruction"
    if given.lower() in PLACEHOLDERS:
        given = ""
    if need_output and (not output or output.lower() in PLACEHOLDERS):
        return None, "no reference answer"
    return Example(instruction, given, output), ""


def _is_null(value: Any) -> bool:
    """True for JSON's null and for NaN, which is how parquet's null arrives."""
    return value is None or (isinstance(value, float) and value != value)


def split(examples: Sequence[Example], validation_rows: int, seed: int) -> tuple[list[Example], list[Example]]:
    """Shuffle with a seed and split so that no instruction stands on both sides. Returns (train, validation)."""
    instructions = sorted({example.instruction for example in examples})
    random.Random(seed).shuffle(instructions)
    held: set[str] = set()
    by_instruction = Counter(example.instruction for example in examples)
    count = 0
    for instruction in instructions:
        if count >= validation_rows:
            break
        held.add(instruction)
        count += by_instruction[instruction]
    train = [e for e in examples if e.instruction not in held]
    validation = [e for e in examples if e.instruction in held]
    return train, validation


def _read_file(path: Path) -> list[Any]:
    if path.is_dir():
        raise DataError(f"'{path}' is a folder. Give the path of a .json, .jsonl or .parquet file.")
    if not path.is_file():
        raise DataError(f"Data file '{path}' does not exist. Give the path of a .json, .jsonl or .parquet file.")
    try:
        if path.suffix.lower() == ".parquet":
            import pandas

            return pandas.read_parquet(path).to_dict("records")
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".jsonl" or (path.suffix.lower() != ".json" and not text.lstrip().startswith("[")):
            return [_json_line(line, number, path) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        loaded = json.loads(text)
    except DataError:
        raise
    except UnicodeDecodeError as error:
        raise DataError(f"'{path.name}' is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from error
    except json.JSONDecodeError as error:
        raise DataError(f"'{path.name}' is not valid JSON at line {error.lineno}: {error.msg}. Expected a list of rows.") from error
    except Exception as error:  # pyarrow has many kinds of its own
        raise DataError(f"'{path.name}' cannot be read: {one_line(error)}") from error
    if not isinstance(loaded, list):
        raise DataError(f"'{path.name}' holds a JSON {type(loaded).__name__}; expected a list of rows.")
    return loaded


def _json_line(line: str, number: int, path: Path) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"'{path.name}' line {number} is not valid JSON: {error.msg}. Mend or remove that line.") from error


def _read_hub(name: str) -> Iterable[Any]:
    if name.count("/") != 1:
        raise DataError(
            f"'{name}' is neither a file nor a hub dataset id. Give a path to .json, .jsonl or .parquet, or an id such as tatsu-lab/alpaca."
        )
    import datasets

    try:
        rows: Iterable[Any] = datasets.load_dataset(name, split="train")
        return rows
    except Exception as error:
        raise DataError(
            f"Hub dataset '{name}' cannot be loaded ({one_line(error)[:200]}). Check the id and the network, or give a local file."
        ) from error
