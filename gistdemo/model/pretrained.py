"""A pretrained model, first as a folder, then as an object: whether its files are there in full, and what its weights are.

    checked_folder(), weight_files(), count_values()  the folder that save_pretrained writes, judged from file headers alone
    make_generation_plain(), fingerprint()            the model that transformers makes of it

Does not fetch, convert or load: `embedded` and `backbone` do, and share this. Never changes weights.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers

from gistdemo.errors import BackboneError, one_line


def checked_folder(folder: Path, name: str) -> Path:
    """Return the folder if config and all weights are there in full."""
    if not folder.is_dir():
        raise BackboneError(
            f"Backbone '{name}' is a file; a folder is needed that holds config.json, safetensors and tokenizer. Pass the folder."
        )
    if not (folder / "config.json").is_file():
        hint = " It holds an adapter: name the model the adapter was made for." if (folder / "adapter_config.json").is_file() else ""
        raise BackboneError(
            f"Backbone folder '{name}' has no config.json, so it is not a model folder.{hint} Pass a folder saved with save_pretrained."
        )
    for file in weight_files(folder, name):
        count_values(file)
    return folder


def weight_files(folder: Path, name: str) -> list[Path]:
    """Return the safetensors files of a model folder. Raises: BackboneError: there are none, or some are missing."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        if not (folder / "model.safetensors").is_file():
            raise BackboneError(
                f"Backbone folder '{name}' has no model.safetensors. Only safetensors are read, other weight formats can run code. "
                "Save the model again with save_pretrained."
            )
        return [folder / "model.safetensors"]
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BackboneError(f"Backbone '{name}': {index.name} cannot be read ({one_line(error)}). Fetch the model again.") from error
    missing = [n for n in names if not (folder / n).is_file()]
    if missing:
        raise BackboneError(
            f"Backbone '{name}' lacks {len(missing)} of {len(names)} weight files, first '{missing[0]}'. Fetch the model again."
        )
    return [folder / n for n in names]


def count_values(file: Path) -> int:
    """Return how many numbers a safetensors file holds, from its header alone.

    Raises: BackboneError: the file ends early, or its header is broken.
    """
    size = file.stat().st_size
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(length)) if 8 + length <= size else None
        tensors = [] if header is None else [entry for key, entry in header.items() if key != "__metadata__"]
        expected = 8 + length + max((entry["data_offsets"][1] for entry in tensors), default=0)
        values: int = sum(math.prod(entry["shape"]) for entry in tensors)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise BackboneError(f"Weight file '{file}' cannot be read as safetensors ({one_line(error)}). Fetch the model again.") from error
    if header is None or expected != size:
        raise BackboneError(
            f"Weight file '{file}' is incomplete: it has {size:,} bytes, its header asks for {expected:,}. "
            "Fetch the model again (from a git checkout: git lfs pull)."
        )
    return values


def make_generation_plain(model: Any, tokenizer: Any) -> None:
    """Make greedy decoding the model's only default; keep which tokens end an answer, drop sampling leftovers."""
    ends = model.generation_config.eos_token_id if model.generation_config is not None else None
    model.generation_config = transformers.GenerationConfig(
        do_sample=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id if ends is None else ends,
        pad_token_id=tokenizer.pad_token_id,
    )


@contextlib.contextmanager
def no_bars() -> Iterator[None]:
    """Keep transformers from drawing progress bars on stderr."""
    shown = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers.utils.logging.enable_progress_bar()


def fingerprint(model: Any) -> str:
    """Return "sha256:..." over the model's type and sizes and 64 evenly spaced values of every parameter.

    Values are rounded to bfloat16 first, so the same weights give the same digest in float32 and bfloat16, on CPU and
    GPU. Not a proof of equality: a change that misses all sampled values is not seen. Take it before adapters are added.
    """
    config = model.config
    sizes = ("model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    digest = hashlib.sha256(json.dumps([getattr(config, size, None) for size in sizes]).encode())
    with torch.inference_mode():
        for name, parameter in sorted(model.named_parameters()):
            values = parameter.detach().reshape(-1)
            count = min(64, values.numel())
            at = torch.arange(count, device=values.device) * (values.numel() - 1) // max(1, count - 1)
            digest.update(f"{name}{tuple(parameter.shape)}".encode())
            digest.update(values[at].to(torch.bfloat16).view(torch.int16).cpu().numpy().astype("<i2").tobytes())
    return f"sha256:{digest.hexdigest()}"
