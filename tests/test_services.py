"""Who may name which place, and that page and command line keep to it: the rule itself, and every function of `Services` that takes one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from scripted import ScriptedPool, write_two_checkpoints

from gistdemo.data.alpaca import EMBEDDED_FILE
from gistdemo.errors import CheckpointError, UsageError
from gistdemo.evaluate.request import EvaluationRequest
from gistdemo.generation import Sampling
from gistdemo.grid import CompareRequest
from gistdemo.jobs.queue import Jobs
from gistdemo.prompts import Example
from gistdemo.services import LOCAL, Services, visitor
from gistdemo.services.places import resolve
from gistdemo.train.config import TrainConfig

ROW = '{"instruction": "Add 1 and 2.", "input": "", "output": "3"}\n'


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A working folder with rows, a folder of uploads with rows, and a link in it that leads out."""
    for path in ("rows.jsonl", "uploads/mine.jsonl"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(ROW)
    (tmp_path / "uploads/link.jsonl").symlink_to(tmp_path / "rows.jsonl")
    (tmp_path / "word").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def services(settings) -> Services:
    return Services(write_two_checkpoints(settings), ScriptedPool(settings), Jobs(settings.runs_dir, at_once=0))


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("rows.jsonl", "{here}/rows.jsonl"),
        ("~/rows.jsonl", "{here}/rows.jsonl"),
        ("./word/../rows.jsonl", "{here}/rows.jsonl"),
        (" rows.jsonl + uploads/mine.jsonl", "{here}/rows.jsonl+{here}/uploads/mine.jsonl"),
        ("rows.jsonl+org/name", "{here}/rows.jsonl+org/name"),
        ("word", "word"),  # a name, whatever lies here under it
        ("gone.jsonl", "gone.jsonl"),  # whoever reads it says so
        ("~nobody-of-that-name/x.jsonl", "~nobody-of-that-name/x.jsonl"),
        ("a\0b.jsonl", "a\0b.jsonl"),
        ("org/name", "org/name"),
        ("", ""),
    ],
)
def test_what_is_typed_on_the_own_machine_becomes_a_full_path_or_stays(here, settings, typed, expected):
    found = resolve(typed, LOCAL, settings)
    assert found == expected.format(here=here) and resolve(found, LOCAL, settings) == found


@pytest.mark.parametrize("caller", [LOCAL, visitor()])
def test_the_embedded_examples_have_a_name_for_everybody(here, settings, caller):
    for typed in ("embedded", "embedded examples", EMBEDDED_FILE, str(settings.examples_file)):
        assert resolve(typed, caller, settings) == str(settings.examples_file)


REFUSED = [
    "rows.jsonl",
    "~/rows.jsonl",
    "./rows.jsonl",
    "{here}/rows.jsonl",
    "gone.jsonl",
    "/etc/passwd",
    "org/name+{here}/rows.jsonl",
    "x\0y",
]
REFUSED += [
    "{here}/uploads/link.jsonl",
    "{here}/uploads/../rows.jsonl",
    "other/x.parquet",
    ".",
    "..",
    "a/b/c",
    "a\\b",
    "{here}/uploads2/x.jsonl",
]


@pytest.mark.parametrize("typed", REFUSED)
def test_a_visitor_names_no_place_on_the_server_and_does_not_learn_what_is_there(here, settings, typed):
    with pytest.raises(UsageError, match="is a file of the server; visitors cannot open it"):
        resolve(typed.format(here=here), visitor(here / "uploads"), settings)


@pytest.mark.parametrize("typed", ["org/name", "smollm2-135m-instruct", "word", "{here}/uploads/mine.jsonl", ""])
def test_a_visitor_names_models_hub_ids_and_own_uploads(here, settings, typed):
    assert resolve(typed.format(here=here), visitor(here / "uploads"), settings) == typed.format(here=here)


def test_a_hub_id_that_is_also_a_folder_here_is_a_place(here, settings):
    os.makedirs("org/name")
    assert resolve("org/name", LOCAL, settings) == str(here / "org/name")
    with pytest.raises(UsageError, match="is a file of the server"):
        resolve("org/name", visitor(), settings)


def config(**values) -> TrainConfig:
    return TrainConfig.from_dict({"mode": "embeddings", "name": "mine", "data": "rows.jsonl", "backbone": "smollm2-135m-instruct"} | values)


ASKED = {
    "examples": lambda s, c: s.examples("rows.jsonl", c),
    "read_rows": lambda s, c: s.read_rows("rows.jsonl", c),
    "import_results": lambda s, c: s.import_results("rows.jsonl", c),
    "train": lambda s, c: s.start_training(config(), c),
    "train, held out": lambda s, c: s.start_training(config(data="embedded", held_out="rows.jsonl"), c),
    "train, backbone": lambda s, c: s.start_training(config(data="embedded", backbone="./word"), c),
    "evaluate": lambda s, c: s.start_evaluation(EvaluationRequest(("instruct",), "rows.jsonl"), "", c),
    "evaluate, model": lambda s, c: s.start_evaluation(EvaluationRequest(("./word",), "embedded"), "", c),
}


@pytest.mark.parametrize("asked", ASKED)
def test_no_function_reads_a_file_of_the_server_for_a_visitor(here, services, asked):
    with pytest.raises(UsageError, match="is a file of the server"):
        ASKED[asked](services, visitor(here / "uploads"))
    assert services.jobs.list() == [] and services.evaluations() == Services(services.settings).evaluations()


def test_the_same_files_are_read_for_who_owns_the_machine(here, services):
    assert len(services.examples("~/rows.jsonl", LOCAL)) == len(services.read_rows("rows.jsonl", LOCAL).examples) == 1
    job = services.start_training(config(validation="uploads/mine.jsonl"), LOCAL)
    assert (job.settings["data"], job.settings["validation"]) == (str(here / "rows.jsonl"), str(here / "uploads/mine.jsonl"))
    assert job.settings["backbone"] == "smollm2-135m-instruct" and job.settings["held_out"] == ""


@pytest.mark.parametrize("name", ["org/name", "nobody", "../instruct"])
def test_a_visitor_compares_and_measures_what_is_offered_only(services, name):
    request = CompareRequest(Example("Add."), ("instruct", name), ("full",), 4, Sampling())
    with pytest.raises(UsageError, match=r"is not offered here\. Choose of base, instruct"):
        next(services.compare(request, visitor()))
    with pytest.raises(UsageError, match=r"is not offered here|is a file of the server"):
        services.start_evaluation(EvaluationRequest((name,), "embedded"), "", visitor())


def test_a_name_that_is_none_is_refused_before_a_job_waits_for_it(services):
    with pytest.raises(CheckpointError, match="There is no checkpoint 'nobody'"):
        services.start_evaluation(EvaluationRequest(("nobody",), "embedded"), "", LOCAL)
    assert services.jobs.list() == []
