"""The command line and app.py: help, errors in one line, output for people and for programs, and what importing costs."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys

import pytest
from scripted import NAMES, Line, ScriptedPool, write_checkpoint, write_two_checkpoints

from gistdemo import __version__
from gistdemo.cli import build_parser, main
from gistdemo.errors import CheckpointError
from gistdemo.generation import LIVE, Sampling
from gistdemo.model.embedded import SMOLLM2
from gistdemo.settings import PROJECT_DIR, Settings

COMMANDS = next(a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction)).choices
TRAIN = ("train", "--run", "unused", "--mode", "compressor", "--name", "demo", "--data", "rows.jsonl")


@pytest.fixture
def home(settings, monkeypatch) -> Settings:
    """The command line works on this installation, which has two checkpoints."""
    monkeypatch.setattr(Settings, "from_env", classmethod(lambda cls: settings))
    return write_two_checkpoints(settings)


@pytest.fixture
def pool(home, monkeypatch) -> ScriptedPool:
    """What `compare` loads models from."""
    pool = ScriptedPool(home)
    monkeypatch.setattr("gistdemo.services.services.ModelPool", lambda settings: pool)
    return pool


@pytest.fixture
def refused(capsys):
    """Run a command that must fail; return the one line on stderr."""

    def run(*arguments: str) -> str:
        assert main(arguments) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.endswith("\n") and err.count("\n") == 1 and err.startswith("gistdemo: "), (out, err)
        return err.strip()

    return run


def python(*arguments: str) -> subprocess.CompletedProcess:
    """Another Python, with nothing imported."""
    environment = os.environ | {"PYTHONPATH": str(PROJECT_DIR)}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120, cwd=PROJECT_DIR, env=environment)


# --- help ------------------------------------------------------------------------------------------------------------


def test_the_package_runs_as_a_command():
    found = python("-m", "gistdemo", "--help")
    assert found.returncode == 0 and not found.stderr
    assert found.stdout.startswith("usage: python -m gistdemo ") and all(f"\n    {name}" in found.stdout for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_and_all_its_options(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: python -m gistdemo {command} ")
    assert all(option in text for action in COMMANDS[command]._actions for option in action.option_strings)


def test_the_version_is_the_packages(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.strip() == f"gistdemo {__version__}"


# --- compare ---------------------------------------------------------------------------------------------------------


def test_compare_prints_every_cell_with_numbers_and_flags(pool, capsys):
    pool.script = {("instruct", "full"): "Two.", ("instruct", "gist"): "It is two. " * 9}
    assert main(["compare", "Add 1 and 1.", "--reference", "Two.", "--k", "2"]) == 0
    out, err = capsys.readouterr()
    assert [line for line in out.splitlines() if line.startswith("== ")] == [
        *(f"== {NAMES[0]} / {condition}: healthy" for condition in ("full", "gist", "truncated")),
        "== instruct / full: healthy",
        "== instruct / gist: degenerate",
        "== instruct / truncated: healthy",
    ]
    assert "instruction 12 -> 2" in out and "answer 4 tokens (eos)" in out and "ROUGE-1 100.0, ROUGE-2 0.0, ROUGE-L 100.0" in out
    assert "fail: loop: 'It is two.' x 9" in out
    assert "40% Reading the weights of toy" in err


def test_compare_prints_json_for_programs(pool, capsys):
    assert main(["compare", "Add.", "--checkpoint", "instruct", "--conditions", "full, none", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["instruction"], list(printed["checkpoints"])) == ("Add.", ["instruct"])
    records = printed["answers"]
    assert [(r["checkpoint"], r["condition"], r["verdict"]) for r in records] == [("instruct", c, "healthy") for c in ("full", "none")]
    assert records[0]["text"] == "instruct full k=4 heard: Add."


def test_compare_passes_every_setting_on(pool, capsys):
    pool.says = lambda row, instruction: "a b c d e f g h"
    options = ["--max-new-tokens", "3", "--temperature", "0.5", "--top-p", "0.9", "--seed", "7", "--input", "1 2", "--k", "2", "--json"]
    assert main(["compare", "Add.", *options]) == 0
    assert pool.samplings == [Sampling(3, 0.5, 0.9, 7, LIVE)]
    for record in json.loads(capsys.readouterr().out)["answers"]:
        assert (record["finish_reason"], record["tokens"]) == ("limit", 3)
        assert record["kept_tokens"] == {"full": record["instruction_tokens"], "gist": 2, "truncated": 2}[record["condition"]]
        assert record["prompt_tokens"] > len("1 2")


def test_compare_shows_a_backbone_as_it_is(pool, capsys):
    assert main(["compare", "Add.", "--checkpoint", SMOLLM2.name]) == 0
    out = capsys.readouterr().out
    assert f"== {SMOLLM2.name} / gist: nothing to show\nA backbone has no gist" in out
    assert f"{SMOLLM2.name} full k=4 heard: Add." in out and "== instruct" not in out


def test_compare_succeeds_while_one_cell_at_least_does(pool, capsys):
    pool.script = {("instruct", "gist"): Line("", error="The model produced a value that is not a number for this row.")}
    assert main(["compare", "Add.", "--checkpoint", "instruct"]) == 0
    assert "== instruct / gist: error\nThe model produced a value" in capsys.readouterr().out
    pool.refuse = {"instruct": CheckpointError("It does not fit.")}
    assert main(["compare", "Add.", "--checkpoint", "instruct"]) == 2
    assert capsys.readouterr().out.count("It does not fit.") == 3


# --- errors ----------------------------------------------------------------------------------------------------------


def test_an_unknown_checkpoint_is_one_line_with_the_names_that_exist(pool, refused):
    line = refused("compare", "Add.", "--checkpoint", "instruct", "--checkpoint", "nobody")
    assert line.startswith("gistdemo: There is no checkpoint 'nobody'. Available: base, instruct.")
    assert not pool.loaded


def test_a_broken_checkpoint_is_one_line_with_its_reason(home, pool, refused):
    (home.shipped_checkpoints_dir / "instruct" / "manifest.json").unlink()
    assert "'instruct' has no manifest.json" in refused("compare", "Add.", "--checkpoint", "instruct")


@pytest.mark.parametrize("k", ["0", "-3"])
def test_a_bad_k_is_one_line(pool, refused, k):
    assert f"k is {k}; at least 1 gist token is needed" in refused("compare", "Add.", "--k", k)


@pytest.mark.parametrize("instruction", ["", "  \n "])
def test_an_empty_instruction_is_one_line(pool, refused, instruction):
    assert "Instruction is empty." in refused("compare", instruction)


def test_all_bad_generation_settings_are_reported_at_once(pool, refused):
    line = refused("compare", "Add.", "--max-new-tokens", "0", "--temperature", "-1", "--top-p", "2", "--seed", "-1")
    assert all(part in line for part in ("answer limit is 0", "temperature is -1.0", "top-p is 2.0", "seed is -1"))


def test_bad_conditions_are_named_with_those_that_exist(pool, refused):
    line = refused("compare", "Add.", "--conditions", "full,sideways")
    assert "condition 'sideways' is not known; allowed are full, gist, truncated, none, blind" in line
    assert "no condition is chosen" in refused("compare", "Add.", "--conditions", ",")


def test_without_any_checkpoint_compare_says_so(settings, monkeypatch, refused):
    monkeypatch.setattr(Settings, "from_env", classmethod(lambda cls: settings))
    assert "no checkpoint is chosen" in refused("compare", "Add.")


def test_all_bad_training_settings_are_reported_at_once(home, refused):
    line = refused(*TRAIN[:6], "a/b", "--data", "rows", "--steps", "0", "--learning-rate", "20", "--ks", "4,2", "--evaluate-rows", "1")
    for part in ("name is 'a/b'", "steps is 0", "learning_rate is 20.0", "ks is (4, 2)", "evaluate_rows is 1"):
        assert part in line


def test_a_run_directory_that_cannot_be_written_is_one_line(home, refused, tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        line = refused(*TRAIN[:2], str(folder), *TRAIN[3:])
        assert f"Run directory '{folder}' cannot be written" in line


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ((*TRAIN, "--ks", "1,x"), "argument --ks: '1,x' is not a list of int"),
        ((*TRAIN[:4], "sideways", *TRAIN[5:]), "argument --mode: invalid choice: 'sideways'"),
        (("compare", "Add.", "--k", "four"), "argument --k: invalid int value: 'four'"),
        (("compare",), "the following arguments are required: instruction"),
        ((), "the following arguments are required: COMMAND"),
        (("fly",), "invalid choice: 'fly'"),
    ],
)
def test_arguments_that_cannot_be_read_end_with_code_2_and_their_name(arguments, part, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert part in capsys.readouterr().err.splitlines()[-1]


def test_an_interruption_is_no_traceback(pool, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    pool.row = interrupted
    monkeypatch.setattr("gistdemo.services.services.compare", interrupted)
    assert main(["compare", "Add."]) == 130
    assert capsys.readouterr().err == "gistdemo: stopped\n"


# --- checkpoints -----------------------------------------------------------------------------------------------------


def test_checkpoints_lists_good_and_broken_ones(home, capsys):
    (home.shipped_checkpoints_dir / "half-copied").mkdir()
    write_checkpoint(home.data_dir / "checkpoints" / "earlier", mode="lm")
    write_checkpoint(home.data_dir / "checkpoints" / "odd", recovery={"references": ["of another trainer"]})
    assert main(["checkpoints"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:6] == ["base", "ok", "embeddings", "k", "1..16", "on"]
    assert lines[1].strip() == "recovery on references: k=4 0.50 (swapped 0.01)"
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == [NAMES[0], "instruct", "half-copied", "odd", "earlier"]
    assert any(line.startswith("half-copied") and "BROKEN  'half-copied' has no manifest.json" in line for line in lines)
    assert any(line.startswith("earlier") and "BROKEN  'earlier' belongs to the stand-in for a base model" in line for line in lines)


def test_checkpoints_shows_the_verdicts_of_an_evaluation_kept_beside_them(home, capsys):
    answers = [{"condition": name, "k": k, "n": 4, "verdicts": {"degenerate": 1}} for name, k in (("full", 0), ("gist", 4))]
    for name, content in ((NAMES[0], {"rows": 4, "answers": answers}), (NAMES[1], {"rows": 4})):
        (home.shipped_checkpoints_dir / name / "evaluation.json").write_text(json.dumps(content))
    assert main(["checkpoints"]) == 0
    found = [line.strip() for line in capsys.readouterr().out.splitlines() if "degenerate" in line]
    assert found == ["degenerate of 4 rows: full 25 %, gist k=4 25 %"]


def test_checkpoints_as_json_parse_and_hold_the_manifests(home, capsys):
    (home.shipped_checkpoints_dir / "half-copied").mkdir()
    assert main(["checkpoints", "--json"]) == 0
    records = {record["name"]: record for record in json.loads(capsys.readouterr().out)}
    assert records["half-copied"]["manifest"] is None and "no manifest.json" in records["half-copied"]["problem"]
    assert records["instruct"]["problem"] is None and records["instruct"]["manifest"]["max_k"] == 16


def test_without_checkpoints_the_folders_that_were_searched_are_named(settings, monkeypatch, capsys):
    monkeypatch.setattr(Settings, "from_env", classmethod(lambda cls: settings))
    assert main(["checkpoints"]) == 0
    assert str(settings.shipped_checkpoints_dir) in capsys.readouterr().out


def test_the_home_folder_comes_from_the_environment(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GISTDEMO_HOME", str(tmp_path))
    write_checkpoint(tmp_path / "data" / "checkpoints" / "from-home")
    assert main(["checkpoints"]) == 0
    assert "from-home" in capsys.readouterr().out


# --- what importing costs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("gistdemo.cli", ("torch", "transformers", "peft", "gradio", "pandas", "datasets")),
        ("gistdemo.ui.build", ("torch", "transformers", "peft", "datasets")),
        ("gistdemo.compare", ("torch", "transformers", "gradio", "rouge_score")),
    ],
)
def test_importing_loads_nothing_heavy(module, unwanted):
    found = python("-c", f"import {module}, sys; print([m for m in {unwanted!r} if m in sys.modules])")
    assert found.stdout.strip() == "[]", found.stdout + found.stderr


def test_the_apps_help_is_quick():
    """Told by what it imports, because a clock depends on the machine."""
    found = python("-X", "importtime", "app.py", "--help")
    assert found.returncode == 0 and found.stdout.startswith("usage: python -m gistdemo app ")
    imported = {line.split("|")[-1].strip() for line in found.stderr.splitlines()}
    assert "argparse" in imported and not imported & {"gradio", "torch", "transformers", "pandas"}


# --- app.py ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def app(home, monkeypatch):
    """`app.main` with the given arguments."""
    import app

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["app.py", *arguments])
        return app.main()

    return run


def test_the_app_refuses_examples_it_cannot_read_in_one_line(app, capsys, tmp_path):
    assert app("--data", str(tmp_path / "missing.json")) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("gistdemo: ") and "missing.json" in err


class Launched:
    """Stands where the page does; remembers how it was launched."""

    def __init__(self, error: Exception | None = None):
        self.error, self.arguments = error, {}

    def launch(self, **arguments) -> None:
        self.arguments = arguments
        if self.error:
            raise self.error


def test_the_app_says_which_port_is_taken(app, monkeypatch, capsys):
    monkeypatch.setattr("gistdemo.ui.build.build_app", lambda *_, **__: (Launched(OSError("address in use")), {}))
    assert app("--port", "7999") == 2
    assert capsys.readouterr().err == "gistdemo: cannot listen on 127.0.0.1:7999 (address in use). Choose another port with --port.\n"


@pytest.mark.parametrize(("arguments", "host", "local"), [((), "127.0.0.1", True), (("--host", "0.0.0.0"), "0.0.0.0", False)])
def test_files_may_be_named_only_where_the_page_stays_on_this_machine(app, monkeypatch, arguments, host, local):
    page, asked = Launched(), {}
    monkeypatch.delenv("SPACE_ID", raising=False)
    monkeypatch.setattr("gistdemo.ui.build.build_app", lambda *_, **options: (page, asked.update(options) or {}))
    assert app(*arguments) == 0
    assert page.arguments["server_name"] == host and asked["local"] is local and page.arguments["ssr_mode"] is False


# --- jobs ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def quiet_queue(monkeypatch):
    """A queue that starts nothing: its jobs stay where they are put."""
    monkeypatch.setattr("gistdemo.jobs.queue.Jobs.tick", lambda self: None)


def test_a_run_can_be_queued_and_shown_and_taken_out_and_put_back(home, tmp_path, capsys, quiet_queue):
    data = tmp_path / "rows.jsonl"
    data.write_text(json.dumps({"instruction": "Say hi.", "input": "", "output": "Hi."}) + "\n")
    assert main(["train", "--queue", "--preset", "quick", "--steps", "7", "--name", "mine", "--data", str(data)]) == 0
    job = capsys.readouterr().out.split()[0]
    assert main(["jobs", "list"]) == 0
    assert f"{job} " in (printed := capsys.readouterr().out) and "queued" in printed and "step 0 of 7" in printed
    for action, state in (("stop", "cancelled"), ("resume", "queued"), ("stop", "cancelled"), ("delete", "deleted")):
        assert main(["jobs", action, job]) == 0 and f"{job}: {state}" in capsys.readouterr().out
        if action == "stop":
            assert main(["jobs", "show", job]) == 0 and "Taken out of the queue" in capsys.readouterr().out
            assert main(["jobs", "logs", job]) == 0 and capsys.readouterr().out == "\n"
    assert main(["jobs", "list"]) == 0 and "No job yet" in capsys.readouterr().out
    assert main(["jobs", "show", job]) == 2 and "There is no job" in capsys.readouterr().err


def test_settings_that_are_not_allowed_do_not_reach_the_queue(home, capsys, quiet_queue):
    assert main(["train", "--queue", "--mode", "compressor", "--name", "x", "--data", "d.jsonl", "--steps", "0"]) == 2
    assert "steps is 0" in capsys.readouterr().err and not home.runs_dir.exists()
