"""The project as something to install: what travels in the wheel, versions said once, what importing costs, and commands in the texts."""

from __future__ import annotations

import argparse
import ast
import importlib.metadata
import os
import re
import shlex
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripted import write_checkpoint, write_two_checkpoints

from gistdemo import __version__
from gistdemo.cli import build_parser, main
from gistdemo.jobs.queue import Jobs
from gistdemo.settings import PROJECT_DIR, Settings, shipped_dir

PROJECT = tomllib.loads((PROJECT_DIR / "pyproject.toml").read_text(encoding="utf-8"))
IMPORTS = {"huggingface-hub": "huggingface_hub"}  # requirement -> module, where a dash became something else


def python(*arguments: str, folder: Path = PROJECT_DIR, path: Path = PROJECT_DIR) -> str:
    """What another Python prints that works in a folder and imports from a path."""
    environment = os.environ | {"PYTHONPATH": str(path)}
    found = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=300, cwd=folder, env=environment)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


# --- the wheel -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Iterator[zipfile.ZipFile]:
    pytest.importorskip("hatchling", reason="hatchling is not installed; it is in requirements-dev.txt")
    out = tmp_path_factory.mktemp("wheel")
    python("-m", "hatchling", "build", "-t", "wheel", "-d", str(out))
    with zipfile.ZipFile(next(out.glob("*.whl"))) as opened:
        yield opened


def test_all_that_comes_with_the_project_travels_in_the_wheel(wheel):
    inside = set(wheel.namelist())
    shipped = [path.relative_to(PROJECT_DIR) for folder in ("assets", "checkpoints") for path in (PROJECT_DIR / folder).rglob("*")]
    expected = {f"gistdemo/_shipped/{path.as_posix()}" for path in shipped if (PROJECT_DIR / path).is_file()}
    package = [path for path in (PROJECT_DIR / "gistdemo").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    expected |= {path.relative_to(PROJECT_DIR).as_posix() for path in package}
    assert not expected - inside
    assert {name.split("/")[0] for name in inside} == {"gistdemo", f"gistdemo-{__version__}.dist-info"}


def test_the_wheel_says_what_it_is(wheel):
    about = f"gistdemo-{__version__}.dist-info"
    facts = wheel.read(f"{about}/METADATA").decode()
    for fact in (f"Version: {__version__}", "License-Expression: Apache-2.0", "Requires-Dist: torch==", "Provides-Extra: dev"):
        assert f"\n{fact}" in facts
    assert "gistdemo = gistdemo.cli:main" in wheel.read(f"{about}/entry_points.txt").decode()
    assert wheel.read(f"{about}/licenses/LICENSE") == (PROJECT_DIR / "LICENSE").read_bytes()


def test_what_is_installed_works_in_any_folder(wheel, tmp_path):
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    wheel.extractall(site)
    elsewhere.mkdir()
    listed = python("-m", "gistdemo", "checkpoints", folder=elsewhere, path=site)
    assert all(f"\n{folder.name} " in f"\n{listed}" for folder in (PROJECT_DIR / "checkpoints").iterdir()) and "BROKEN" not in listed
    where = (
        "from gistdemo.settings import shipped_dir; from gistdemo.train.presets import read_recipe; from gistdemo.settings import Settings"
    )
    held_out = "read_recipe('base', Settings.from_env())['held_out']"
    found = python("-c", f"{where}; print(shipped_dir(), {held_out}, sep='\\n')", folder=elsewhere, path=site).splitlines()
    assert found[0] == str(site / "gistdemo" / "_shipped") and Path(found[1]).is_file() and Path(found[1]).is_relative_to(site)


def test_a_checkout_uses_its_own_folders():
    assert shipped_dir() == PROJECT_DIR and Settings.from_env({}).examples_file == PROJECT_DIR / "assets" / "examples.jsonl"


# --- versions --------------------------------------------------------------------------------------------------------


def requirements(name: str) -> list[str]:
    lines = (PROJECT_DIR / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_versions_are_pinned_and_installed(name):
    for line in requirements(name):
        package, _, version = line.partition("==")
        assert version, f"{line}: no version"
        assert importlib.metadata.version(package).partition("+")[0] == version, f"{line}: another version is installed"


def test_every_package_that_is_imported_is_required():
    listed = {IMPORTS.get(name := line.partition("==")[0].lower(), name.replace("-", "_")) for line in requirements("requirements.txt")}
    imported = set()
    for path in (PROJECT_DIR / "gistdemo").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").partition(".")[0])
    assert not imported - sys.stdlib_module_names - {"gistdemo"} - listed


def test_the_versions_of_python_are_said_alike():
    lowest, end = (int(part) for part in re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PROJECT["project"]["requires-python"]).groups())
    named = [line for line in PROJECT["project"]["classifiers"] if line.startswith("Programming Language :: Python :: 3.")]
    assert named == [f"Programming Language :: Python :: 3.{minor}" for minor in range(lowest, end)]
    assert PROJECT["tool"]["ruff"]["target-version"] == f"py3{lowest}"


# --- what importing costs, and where nothing can run ----------------------------------------------------------------


@pytest.mark.parametrize("module", ["gistdemo", "gistdemo.cli"])
def test_importing_starts_no_thread_and_loads_no_torch(module):
    code = f"import sys, threading, {module}; print(threading.active_count(), [m for m in ('torch', 'gradio') if m in sys.modules])"
    assert python("-c", code).strip() == "1 []"


def test_windows_is_told_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr("platform.system", lambda: "Windows")
    assert main(["checkpoints"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "Windows is not supported" in err and "WSL 2" in err


def test_the_command_line_loads_where_windows_lacks_modules():
    """Else nobody there would read that line. psutil and filelock have ports of their own."""
    absent = "import sys, filelock, psutil; sys.modules |= dict.fromkeys(('resource', 'fcntl', 'pwd', 'grp', 'termios'))"
    assert python("-c", f"{absent}; import gistdemo.cli; print('loaded')").strip() == "loaded"


def test_a_queued_job_finds_files_named_from_any_folder(tmp_path, monkeypatch, settings, capsys):
    monkeypatch.setattr("gistdemo.jobs.queue.Jobs.tick", lambda self: None)
    monkeypatch.setattr(Settings, "from_env", classmethod(lambda cls: settings))
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text('{"instruction": "Add 1 and 1.", "input": "", "output": "2"}\n')
    write_two_checkpoints(settings)
    write_checkpoint(Path("instruct"))  # a checkpoint's name stays a name
    for command in (
        ["train", "--mode", "joint", "--name", "n", "--data", "rows.jsonl", "--validation", "rows.jsonl+org/name"],
        ["eval", "--checkpoint", "instruct", "--checkpoint", "./instruct", "--data", "rows.jsonl+absent.jsonl"],
    ):
        assert main([*command, "--queue"]) == 0, capsys.readouterr().err
    evaluated, trained = sorted((job.settings for job in Jobs(settings.runs_dir).list()), key=lambda values: "steps" in values)
    assert trained["data"] == str(tmp_path / "rows.jsonl") and trained["validation"] == f"{tmp_path / 'rows.jsonl'}+org/name"
    assert trained["backbone"] == "smollm2-135m-instruct"
    assert evaluated["data"] == f"{tmp_path / 'rows.jsonl'}+absent.jsonl" and evaluated["checkpoints"] == [
        "instruct",
        str(tmp_path / "instruct"),
    ]


# --- commands in the texts -------------------------------------------------------------------------------------------

TEXTS = [PROJECT_DIR / "README.md", *sorted((PROJECT_DIR / "docs").glob("*.md")), PROJECT_DIR / "assets" / "about.md"]
COMMAND = re.compile(r"(?:[A-Z_]+=\S+ )*(make|python -m gistdemo|gistdemo|python app\.py|python scripts/\w+\.py)(?: |$)(.*)")
GONE = "--mode lm"  # the log keeps commands of its day
TARGETS = set(re.findall(r"^([a-z][\w-]*):", (PROJECT_DIR / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def commands(text: str) -> Iterator[str]:
    """Command lines in a Markdown text: lines of code blocks, long ones joined, and what stands between backticks."""
    blocks = re.compile(r"^ *```\w*\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
    for block in blocks.findall(text):
        yield from block.replace("\\\n", " ").splitlines()
    for span in re.findall(r"`([^`\n]+)`", blocks.sub("", text)):
        yield from span.split(" && ")


def problem(line: str) -> str:
    """Why a command line would not be understood; "" where it would, and where it is none of ours."""
    found = COMMAND.match(line.strip())
    if found is None or GONE in line:
        return ""
    program, words = found[1], shlex.split(found[2], comments=True)
    if program == "make":
        wrong = [word for word in words if "=" not in word and word not in TARGETS]
        return f"no target {wrong}" if wrong else ""
    if program.startswith("python scripts/"):
        return "" if (PROJECT_DIR / program.split()[1]).is_file() else "no such script"
    return _not_parsed(["app", *words] if program.endswith("app.py") else words)


def _not_parsed(words: list[str]) -> str:
    words = ["1" if word == "N" else word for word in words]  # a number of one's own
    parser = build_parser()
    given = list(words)
    while given and (known := _parts(parser)) and given[0] in known:
        parser = known[given.pop(0)]
    if not given:
        return ""  # a command is named, not called
    if "..." in given:
        options = [word for word in given if word.startswith("--")]
        wrong = [word for word in options if word not in parser._option_string_actions]
        return f"no option {wrong}" if wrong else ""
    try:
        build_parser().parse_args(words)
    except SystemExit as ended:
        return "" if ended.code == 0 else "not understood (reason above)"
    return ""


def _parts(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return next((a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction)), {})


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_every_command_in_the_texts_is_understood(path):
    wrong = {line.strip(): why for line in commands(path.read_text(encoding="utf-8")) if (why := problem(line))}
    assert not wrong


@pytest.mark.parametrize(
    "line",
    [
        "make runn",
        "GISTDEMO_HOME=here make nothing PYTHON=python3.12",
        "python -m gistdemo compar x",
        "gistdemo train --recipee base ...",
        "python -m gistdemo eval --data rows.jsonl",
        "python app.py --prot 8000",
        "python scripts/gone.py",
    ],
)
def test_a_command_that_is_none_is_noticed(line):
    assert list(commands(f"so `{line}`\n\n```sh\n{line}\n```\n")) == [line, line] and problem(line)
