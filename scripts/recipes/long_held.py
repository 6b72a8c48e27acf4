"""Rows with long text to compress that `instruct` is judged by and never trained on: 50 of those with an input and 60 to 200 tokens.

    python scripts/recipes/long_held.py DATA/train.jsonl OUT.jsonl

The tokens are SmolLM2's, of instruction and input as one text. The same rows give the same 50.
"""

from __future__ import annotations

import dataclasses
import json
import random
import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from gistdemo.data.alpaca import read_rows
from gistdemo.errors import GistDemoError, PromptError, one_line
from gistdemo.model.backbone import resolve
from gistdemo.model.embedded import SMOLLM2
from gistdemo.prompts import CHATML, Example, PromptEncoder
from gistdemo.settings import Settings

COUNT, LEAST, MOST = 50, 60, 200


def long_held(examples: Iterable[Example], encoder: PromptEncoder) -> list[Example]:
    """COUNT of the examples whose input and instruction have LEAST to MOST tokens together, drawn with a fixed seed."""
    long = [example for example in examples if example.input and LEAST <= _tokens(example, encoder) <= MOST]
    random.Random(0).shuffle(long)
    return long[:COUNT]


def _tokens(example: Example, encoder: PromptEncoder) -> int:
    """0 where the example cannot be read: training leaves it out as well."""
    try:
        return encoder.encode(encoder.joined(example)).count("instruction")
    except PromptError:
        return 0


def main(source: str, out: str) -> int:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(resolve(SMOLLM2.name, Settings.from_env()))
        rows = long_held(read_rows(source).examples, PromptEncoder(tokenizer, CHATML))
    except GistDemoError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    Path(out).write_text("".join(json.dumps(dataclasses.asdict(row), ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
