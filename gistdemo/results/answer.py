"""Records of answers as an evaluation keeps them, line by line in rows.jsonl: judged, written, read and brought up to date. No torch.

A record: checkpoint, condition, k, row (number of its example), text, tokens, finish_reason, blind (its instruction was never read),
prompt_tokens, instruction_tokens, kept_tokens, kv_bytes (None: unknown); and of `assess` rouge1, rouge2, rougeL (0..100, None without
reference), verdict, flags (codes of the findings that warn or fail), findings and facts (whole flags).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gistdemo.json_lines import read
from gistdemo.metrics import ROUGE, Assessment, assess
from gistdemo.prompts import Example

ROWS_FILE, EXAMPLES_FILE = "rows.jsonl", "examples.jsonl"
Record = dict[str, Any]


def judged(records: Sequence[Record], examples: Sequence[Example]) -> list[Record]:
    """The records with what is to be said about each answer, given the answers of the same checkpoint beside it."""
    beside = {(r["checkpoint"], r["condition"], r["row"]): r["text"] for r in records if r["condition"] in ("full", "none")}
    return [record | _as_values(_assessed(record, examples[record["row"]], beside)) for record in records]


def _assessed(record: Record, example: Example, beside: Mapping[tuple[str, str, int], str]) -> Assessment:
    condition = record["condition"]
    others = {name: beside.get((record["checkpoint"], name, record["row"])) for name in ("full", "none") if name != condition}
    return assess(
        record["text"],
        example,
        finish_reason=record["finish_reason"],
        blind=record.get("blind", False),  # not kept before 2026-11-24, nor known of answers of other programs
        full_text=others.get("full"),
        none_text=others.get("none"),
    )


def _as_values(found: Assessment) -> Record:
    return {
        **(found.scores or dict.fromkeys(ROUGE)),
        "verdict": found.verdict,
        "flags": found.codes,
        "findings": [flag.to_dict() for flag in found.flags],
        "facts": [flag.to_dict() for flag in found.facts],
    }


def write_lines(path: Path, values: Iterable[Mapping[str, Any]]) -> None:
    """Replace a file of JSON lines in one move."""
    building = path.with_name(f".{path.name}.{os.getpid()}")
    building.write_text("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values), encoding="utf-8")
    os.replace(building, path)


def read_examples(folder: Path) -> list[Example]:
    """The rows that were measured; empty where only the figures were kept."""
    return [Example(e["instruction"], e["input"], e["output"]) for e in read(folder / EXAMPLES_FILE)]


def read_records(folder: Path) -> list[Record]:
    """All records; empty where only the figures were kept. Those of older versions are judged anew: their findings had no places."""
    records = read(folder / ROWS_FILE)
    if records and any("findings" not in record for record in records):
        return judged(records, read_examples(folder))
    return records
