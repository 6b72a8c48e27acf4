"""Files of one JSON value per line that grow while a process runs, and that a killed process may leave half-written. No torch."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def recover(path: Path, keep: Callable[[Any], bool] = lambda value: True) -> list[Any]:
    """Return the values of a file, in order; cut what cannot be read, and what is not to be kept, out of the file itself.

    After that appending is safe: a half-written last line would otherwise swallow the next one. A file that is not there has
    no values.
    """
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")  # a kill may fall within a character
    values, lines = [], []
    for line in text.split("\n"):
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if keep(value):
            values.append(value)
            lines.append(line + "\n")
    mended = "".join(lines)
    if mended != text:
        building = path.with_name(f".{path.name}.{os.getpid()}")
        building.write_text(mended, encoding="utf-8")
        os.replace(building, path)
    return values
