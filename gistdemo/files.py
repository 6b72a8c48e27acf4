"""Text files that are replaced whole, and files of one JSON value per line that grow, which a kill may leave half-written. No torch."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Replace a file in one move: a reader sees the old one or the new one, whole."""
    building = path.with_name(f".{path.name}.{os.getpid()}")
    building.write_text(text, encoding="utf-8")
    os.replace(building, path)


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file in one move."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_lines(path: Path, values: Iterable[Mapping[str, object]]) -> None:
    """Replace a file of one JSON value per line in one move."""
    write_text(path, "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values))


def read(path: Path) -> list[Any]:
    """The values of a file that nobody is writing, in order; lines that cannot be read are passed over. [] where there is none."""
    if not path.exists():
        return []
    return [value for line in path.read_text(encoding="utf-8", errors="replace").split("\n") if (value := _value(line)) is not None]


def _value(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def recover(path: Path, keep: Callable[[Any], bool] = lambda value: True) -> list[Any]:
    """Return the values of a file, in order; cut what cannot be read, and what is not to be kept, out of the file itself.

    After that appending is safe: a half-written last line would otherwise swallow the next one. A file that is not there has
    no values.
    """
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")  # a kill may fall within a character
    kept = [(line, value) for line in text.split("\n") if (value := _value(line)) is not None and keep(value)]
    mended = "".join(line + "\n" for line, _ in kept)
    if mended != text:
        write_text(path, mended)
    return [value for _, value in kept]
