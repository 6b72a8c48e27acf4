"""Golden values of the converted models: what llama.cpp makes of the same GGUF files. Writes tests/golden/llamacpp.json.

    python scripts/golden_llamacpp.py smollm2-135m-instruct=FILE.gguf gemma-3-270m=FILE.gguf

Needs llama-cpp-python, which the project does not: run it with an environment of its own. To be run again when assets/examples.jsonl,
tests/golden/texts.py or an embedded model changes. User text is literal: llama.cpp is asked for special=False.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import llama_cpp
import numpy as np

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path.insert(0, str(TESTS))

from golden.texts import LOOKALIKES, PROMPTS, STRUCK, texts  # noqa: E402

WHOLE = 37  # of one text in WHOLE, and of those like special tokens, the ids themselves are kept, to be read when a test fails
TOP = 10


def main(arguments: list[str]) -> int:
    files = dict(argument.split("=", 1) for argument in arguments)
    if not files:
        print(__doc__, file=sys.stderr)
        return 2
    every = texts()
    record = {
        "llama_cpp_python": llama_cpp.__version__,
        "texts_sha256": hashlib.sha256(json.dumps(every).encode()).hexdigest(),
        "models": {name: _model(Path(file), every) for name, file in files.items()},
    }
    target = TESTS / "golden" / "llamacpp.json"
    target.write_text(json.dumps(record, separators=(",", ":")).replace('"models"', '\n"models"') + "\n", encoding="utf-8")
    print(f"{target}: {target.stat().st_size:,} bytes, {len(every)} texts, {len(PROMPTS)} prompts, {len(files)} models")
    return 0


def _model(file: Path, every: list[str]) -> dict:
    model = llama_cpp.Llama(str(file), n_ctx=512, logits_all=True, verbose=False, n_threads=2)
    ids = [model.tokenize(text.encode(), add_bos=False, special=False) for text in every]
    return {
        "gguf_sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "digests": [hashlib.sha256(json.dumps(found).encode()).hexdigest()[:8] for found in ids],
        "ids": {str(n): found for n, found in enumerate(ids) if n % WHOLE == 0 or every[n] in (*LOOKALIKES, STRUCK)},
        "next": [_next(model, prompt) for prompt in PROMPTS],
    }


def _next(model: llama_cpp.Llama, prompt: str) -> dict:
    """The most probable next tokens, with their natural logarithms. The model's own file says whether a prompt starts with BOS."""
    ids = model.tokenize(prompt.encode(), add_bos=model.metadata.get("tokenizer.ggml.add_bos_token") == "true", special=False)
    model.reset()
    model.eval(ids)
    logits = np.array(model.scores[len(ids) - 1], dtype=np.float64)
    logs = logits - np.logaddexp.reduce(logits)
    top = np.argsort(-logs)[:TOP]
    return {"ids": ids, "top": [[int(n), round(float(logs[n]), 4)] for n in top]}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
