"""Reads a GGUF file: its metadata as plain values, its tensors as float32 arrays, one at a time.

The `gguf` package knows the block formats and does the arithmetic. Its own reader is not used: it wraps every value of a list in
an array, which takes 10 s for a vocabulary of 262,144 entries; this takes half a second.
Source: the GGUF specification, version 3 (little endian). Knows no model: `conversion` does.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

# GGUF value types by number: struct letters, and two that are not of one size
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies: shape with the slowest axis first, block format, first byte."""

    shape: tuple[int, ...]
    format: GGMLQuantizationType
    start: int

    @property
    def row_bytes(self) -> int:
        values, size = GGML_QUANT_SIZES[self.format]
        return self.shape[-1] // values * size

    @property
    def bytes(self) -> int:
        return math.prod(self.shape[:-1]) * self.row_bytes


class GgufFile:
    """An open GGUF file. metadata: key -> number, text, or list of them.

    Raises: ValueError: not a GGUF file of version 2 or 3, one that ends early, or one with values or blocks of an unknown format.
    """

    def __init__(self, path: Path):
        if path.stat().st_size == 0:  # mmap refuses it in words that name no file
            raise ValueError(f"'{path.name}' is empty")
        with path.open("rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._at = 0
        try:
            self.metadata, self._places = self._header()
        except struct.error as error:
            raise ValueError(f"'{path.name}' ends inside its header") from error
        except (ValueError, ZeroDivisionError) as error:
            raise ValueError(f"'{path.name}' cannot be read: {error}") from error
        for name, place in self._places.items():
            if place.start + place.bytes > len(self._bytes):
                raise ValueError(f"'{path.name}' ends inside the tensor '{name}'")

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the tensors, in file order."""
        return tuple(self._places)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, slowest axis first, as torch counts it."""
        return self._places[name].shape

    def tensor(self, name: str) -> np.ndarray:
        """A tensor's values, float32, in its shape; blocks are expanded exactly as llama.cpp does. What is float32 in the file is
        not copied, and cannot be written to."""
        place = self._places[name]
        raw = np.frombuffer(self._bytes, np.uint8, place.bytes, place.start).reshape(*place.shape[:-1], place.row_bytes)
        return dequantize(raw, place.format).astype(np.float32, copy=False)

    def _header(self) -> tuple[dict[str, Any], dict[str, _Place]]:
        magic, version, tensors, keys = self._take("4sIQQ")
        if magic != b"GGUF" or version not in (2, 3):
            raise ValueError("it is no GGUF file of version 2 or 3")
        metadata = {self._string(): self._value(self._take("I")[0]) for _ in range(keys)}
        found = {}
        for _ in range(tensors):
            name, (axes,) = self._string(), self._take("I")
            shape = self._take(f"{axes}Q")[::-1]  # the file counts the fastest axis first
            found[name] = (shape, *self._take("IQ"))
        align = metadata.get("general.alignment", 32)
        data = -(-self._at // align) * align
        return metadata, {n: _Place(shape, GGMLQuantizationType(kind), data + offset) for n, (shape, kind, offset) in found.items()}

    def _take(self, letters: str) -> tuple[Any, ...]:
        """The next values, of fixed size."""
        values = struct.unpack_from(f"<{letters}", self._bytes, self._at)
        self._at += struct.calcsize(f"<{letters}")
        return values

    def _string(self) -> str:
        (length,) = self._take("Q")
        text = self._bytes[self._at : self._at + length]
        self._at += length
        if len(text) < length:
            raise struct.error("text ends early")
        return text.decode("utf-8")

    def _value(self, kind: int) -> Any:
        if kind == STRING:
            return self._string()
        if kind in NUMBERS:
            return self._take(NUMBERS[kind])[0]
        if kind != ARRAY:
            raise ValueError(f"a value has the unknown type {kind}")
        item, length = self._take("IQ")
        if item not in NUMBERS:
            return [self._value(item) for _ in range(length)]
        return list(self._take(f"{length}{NUMBERS[item]}"))
