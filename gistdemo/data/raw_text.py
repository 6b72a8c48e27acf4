"""Raw text for language modelling: a .jsonl file with a field `text` per line. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from gistdemo.errors import DataError, first_line


def read_texts(path: Path) -> Iterator[str]:
    """Yield the text of every line that is not blank, in order.

    Raises: DataError: the file does not exist, is not UTF-8, or a line has no text; the line's number is named.
    """
    if not path.is_file():
        raise DataError(f"Raw text '{path}' does not exist. Give a .jsonl file with a field 'text' per line.")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"'{path.name}' is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"'{path.name}' line {number} has no field 'text' ({first_line(error)}). Mend or remove that line.") from error
        if not isinstance(text, str):
            raise DataError(f"'{path.name}' line {number}: its text is {type(text).__name__}, not text. Mend or remove that line.")
        yield text
