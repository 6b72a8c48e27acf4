"""A LoRA adapter as files in PEFT's format, taken in with distrust: they may come from anyone.

PEFT would do what adapter_config.json says, which is more than loading tensors: match layers by a regular expression, make room for
any rank, rewrite the backbone. So its settings are made here, of values that were checked, and every tensor is known beforehand.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from gistdemo.model.lora_targets import last_part

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
MOST_RANK = 256
MOST_ALPHA = 1e6
USED = ("r", "lora_alpha", "target_modules")
IDLE = (  # tell where an adapter comes from and how it was trained: nothing depends on them once it is
    "auto_mapping", "base_model_name_or_path", "inference_mode", "lora_dropout", "peft_version", "revision", "task_type",
)  # fmt: skip
DTYPES = ("F16", "BF16", "F32")


def key(path: str, part: str) -> str:
    """Name in the file of the tensor of a layer. part: "lora_A" or "lora_B"."""
    return f"base_model.model.{path}.{part}.weight"


def read_adapter(folder: Path, layers: Mapping[str, tuple[int, int]]) -> tuple[LoraConfig, dict[str, Tensor]]:
    """Settings and tensors of a saved adapter; the tensors by `key`, A (r, in) and B (out, r), fp16, bf16 or fp32.

    layers: (out, in) of every linear layer it may go on, by path. Raises: ValueError: a setting that is not allowed, tensors that are
    missing, left over or of another shape. OSError, SafetensorError: a file cannot be read.
    """
    config = _checked_config(_read_json(folder / CONFIG_FILE), {last_part(path) for path in layers})
    targets = set(config.target_modules or ())
    chosen = {path: shape for path, shape in layers.items() if last_part(path) in targets}
    expected = {key(path, "lora_A"): (config.r, width) for path, (_, width) in chosen.items()}
    expected |= {key(path, "lora_B"): (out, config.r) for path, (out, _) in chosen.items()}
    _check_tensors(folder / WEIGHTS_FILE, expected)
    return config, load_file(folder / WEIGHTS_FILE)


def write_adapter(folder: Path, config: LoraConfig, tensors: Mapping[str, Tensor]) -> None:
    """Write settings and tensors (by `key`, as fp16) directly into a folder, which is made where it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.detach().half().cpu().contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS_FILE)
    values = config.to_dict() | {"base_model_name_or_path": None, "inference_mode": True}
    plain = {name: sorted(value) if isinstance(value, set) else getattr(value, "value", value) for name, value in values.items()}
    (folder / CONFIG_FILE).write_text(json.dumps(plain, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def lora_config(rank: int, alpha: float, targets: list[str]) -> LoraConfig:
    """Settings of an adapter on the linear layers of these names; everything else as PEFT has it."""
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # PEFT says int, takes any number
        target_modules=targets,
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is not JSON that can be read ({type(error).__name__})") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path.name} holds {_shown(values)}, a JSON object is needed")
    return values


def _checked_config(values: dict[str, Any], names: set[str]) -> LoraConfig:
    """names: of the linear layers of the model."""
    rank, alpha, targets = (values.get(name) for name in USED)
    if type(rank) is not int or not 1 <= rank <= MOST_RANK:
        raise ValueError(f"r is {_shown(rank)}, allowed are whole numbers from 1 to {MOST_RANK}")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not -MOST_ALPHA <= alpha <= MOST_ALPHA:  # neither holds for NaN
        raise ValueError(f"lora_alpha is {_shown(alpha)}, allowed are numbers up to {MOST_ALPHA:,.0f}")
    if not isinstance(targets, list) or not targets or not all(isinstance(t, str) and t in names for t in targets):
        raise ValueError(f"target_modules is {_shown(targets)}, allowed is a list of these names: {', '.join(sorted(names))}")
    usual = LoraConfig().to_dict() | {"peft_type": "LORA"}
    for name in sorted((values.keys() | {"peft_type"}) - {*USED, *IDLE}):
        if not _is_usual(values.get(name), usual.get(name)):
            raise ValueError(f"{_shown(name)} is {_shown(values.get(name))}, allowed is {json.dumps(usual.get(name))} alone")
    return lora_config(rank, alpha, sorted(set(targets)))


def _is_usual(value: Any, usual: Any) -> bool:
    """Whether a setting is as if it were not there; null, {} and [] all say nothing, and so does false where nothing is said by default."""
    return (type(value), value) == (type(usual), usual) or not (value or usual)


def _check_tensors(path: Path, expected: dict[str, tuple[int, int]]) -> None:
    """Compare the header of a safetensors file, in which tensors fill the file to the byte, with what has to be there."""
    with safe_open(path, framework="pt") as file:
        found = {name: file.get_slice(name) for name in file.keys()}
        shapes = {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in found.items()}
    missing, left = expected.keys() - shapes.keys(), shapes.keys() - expected.keys()
    if missing or left:
        raise ValueError(f"{len(missing)} weights are missing and {len(left)} have no place, first {_shown(min(missing or left))}")
    for name, (shape, dtype) in shapes.items():
        if shape != expected[name] or dtype not in DTYPES:
            raise ValueError(f"{name} is {dtype} of shape {shape}, needed is one of {', '.join(DTYPES)} of shape {expected[name]}")


def _shown(value: Any) -> str:
    """A foreign value for a message: on one line, not longer than is read."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
