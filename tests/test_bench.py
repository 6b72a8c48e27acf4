"""The bench on toy models: what it times is what it says, and its table holds every figure."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from lessons import lesson
from toy import save_toy

from gistdemo.bench import cells, long_instruction, many, run, visitors
from gistdemo.bench.figure import Figure, table
from gistdemo.bench.ground import Ground, together
from gistdemo.cli import main
from gistdemo.errors import UsageError
from gistdemo.generation import Sampling
from gistdemo.settings import Settings
from gistdemo.train.run import train

MADE = {"base": ("embeddings", 0), "base-joint": ("joint", 0), "instruct": ("compressor", 1)}  # mode, and which toy it stands on


@pytest.fixture(scope="module")
def shipped(tmp_path_factory) -> Settings:
    """The checkpoints of the first screen, on two toy backbones."""
    place = tmp_path_factory.mktemp("bench")
    settings = Settings(cache_dir=place / "cache", data_dir=place / "data", shipped_checkpoints_dir=place / "none")
    for name, (mode, seed) in MADE.items():
        folder = save_toy(place / f"toy{seed}", seed=seed)
        config = lesson(place / name, mode, backbone=str(folder), name=name, steps=1, ks=(1, 4, 8))
        train(config, place / f"run-{name}", settings, settings.data_dir / "checkpoints" / name)
    return settings


@pytest.fixture
def ground(shipped) -> Ground:
    return Ground(shipped, tokens=4, rounds=1, tell=lambda text: None)


def test_all_cells_of_both_backbones_answer_to_their_limit(ground):
    nine = cells.grids(ground)["nine"]
    assert len(nine) == 9 and len({id(cell.base) for cell in nine}) == 2
    answered = together(nine, Sampling(5))
    assert [len(tokens) for tokens in answered.tokens] == [5] * 9
    assert 0 < min(answered.first) <= max(answered.first) <= max(answered.last) <= answered.seconds


def test_six_cells_are_six_distinct_prompts(ground):
    six = cells.grids(ground)["six"]
    assert len({cell.row.key() for cell in six}) == 6 and len({id(cell.base) for cell in six}) == 1


def test_the_calls_answer_what_the_cells_do(ground):
    nine = [cell for cell in cells.grids(ground)["nine"] if cell.row.decode_adapter is None]
    said = ground.calls(nine, 6)
    assert len(nine) == 6 and together(nine, Sampling(6)).tokens == said
    shorter = [replace(cell, row=replace(cell.row, plan=replace(cell.row.plan, prompt_ids=cell.row.plan.prompt_ids[1:]))) for cell in nine]
    assert ground.calls(shorter, 6) != said


def test_calls_end_where_the_rows_end(ground):
    (cell,) = ground.cells(("instruct",), conditions=("full",))
    said = ground.calls([cell], 8)[0]
    ends = replace(cell, row=replace(cell.row, stop_ids=frozenset(said[2:3])))
    assert ground.calls([ends], 8)[0] == said[: said.index(said[2]) + 1]


def test_a_cell_that_fails_is_no_figure(ground):
    broken = [replace(cell, row=replace(cell.row, decode_adapter="nobody")) for cell in ground.cells(("base",), conditions=("full",))]
    with pytest.raises(RuntimeError, match="Adapter 'nobody' is not attached"):
        together(broken, Sampling(3))


def test_cells_are_held_against_their_calls_in_both_precisions(ground):
    figures = {figure.what: figure for figure in cells.measure(ground)}
    assert set(figures) == {
        f"{grid} cells, {precision}{which}"
        for grid in ("six", "nine")
        for precision in ("exact", "fast")
        for which in ("", ": first token", ": all first tokens")
    }
    assert figures["six cells, exact"].target == 5 and "6 of 6 answers the same" in figures["six cells, exact"].details
    assert "6 of 6 answers the same" in figures["nine cells, exact"].details, "the calls know nothing of an adapter in both phases"
    assert all(figure.value > 0 for figure in figures.values())


def test_five_clients_ask_for_as_much_as_the_one_they_are_held_against(ground):
    at_once, apart, again = visitors.measure(ground)
    assert at_once.target == 0.85 and at_once.details.startswith("15 rows") and apart.value >= 1
    assert "passes to compress: 0 and 1" in again.details


def test_a_gist_that_is_not_found_again_is_no_figure(ground, monkeypatch):
    engine = ground.cells(("instruct",))[0].base.engine
    monkeypatch.setattr(engine.gists, "get", lambda key: None)
    with pytest.raises(RuntimeError, match="was found 0 times; once was expected"):
        list(visitors._again(ground))


def test_three_ways_to_ask_about_a_long_instruction_give_two_answers(ground, monkeypatch):
    """The full prompt's cache is the full prompt; a gist is not."""
    monkeypatch.setattr(long_instruction, "TOKENS", 120)
    from gistdemo.checkpoint.registry import find_row
    from gistdemo.prompts import Example

    _, loaded = ground.pool.row(find_row("instruct", ground.settings))
    text = long_instruction.instruction_of(loaded, 120, ground)
    assert 60 < loaded.encoder.encode(Example(text)).count("instruction") <= 120
    full, cached, gist = long_instruction.ways_of(loaded, Example(text))
    assert len(full.read) == cached.kept.length + len(cached.read) and gist.read == cached.read and gist.kept.length == 9
    full_work, cached_work = (long_instruction.flops(loaded.model, way.kept.length, len(way.read)) for way in (full, cached))
    assert full_work > cached_work > 0
    figures = list(long_instruction.measure(ground))
    assert [figure.target for figure in figures] == [3.0, None, 1.4, None, 60.0, None] and all(figure.value > 0 for figure in figures)


def test_an_evaluation_is_held_against_a_call_per_answer(ground, monkeypatch):
    for name, value in (("ROWS", 3), ("CALLS", 4), ("FEW", 5), ("MANY", 9)):
        monkeypatch.setattr(many, name, value)
    speed, flat = many.measure(ground)
    assert speed.details.startswith("12 answers") and speed.value > 0 and (flat.target, flat.at_least) == (1.1, False)


FIGURES = [Figure("six", "calls", 5.5, 5.0, details="1 s"), Figure("memory", "weights", 1.7, 1.6, False), Figure("again", "first", 3.0)]


def test_the_table_says_what_was_reached():
    assert [figure.is_reached for figure in FIGURES] == [True, False, None]
    lines = table(FIGURES).splitlines()
    assert lines[2:] == [
        "| six | calls | 5.50 | ≥ 5 ✓ | 1 s |",
        "| memory | weights | 1.70 | ≤ 1.6 ✕ |  |",
        "| again | first | 3.00 | - |  |",
    ]


def test_the_command_prints_and_writes_it(shipped, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "measure", lambda *given: FIGURES)
    page = tmp_path / "PERFORMANCE.md"
    page.write_text("# Speed\n<!-- bench -->\nold\n<!-- /bench -->\nend\n")
    assert main(["bench", "--quick", "--json", str(tmp_path / "bench.json"), "--page", str(page)]) == 0
    assert "| six | calls | 5.50 |" in capsys.readouterr().out
    record = json.loads((tmp_path / "bench.json").read_text())
    assert (record["tokens"], record["rounds"], record["figures"][1]["reached"]) == (16, 1, False)
    text = page.read_text()
    assert "old" not in text and "| again | first | 3.00 | - |  |\n<!-- /bench -->\nend" in text
    page.write_text("nothing here")
    assert main(["bench", "--quick", "--page", str(page)]) != 0
    assert "has 0 places" in capsys.readouterr().err


def test_all_measurements_run_or_those_that_are_named(shipped, monkeypatch):
    monkeypatch.setattr(run, "MEASUREMENTS", {"a": lambda ground: iter(FIGURES[:1]), "b": lambda ground: iter(FIGURES[1:])})
    assert run.measure(shipped, 2, 1) == FIGURES and run.measure(shipped, 2, 1, only=["b"]) == FIGURES[1:]


@pytest.mark.parametrize(
    ("wrong", "says"), [({"tokens": 1}, "at least 2 and 1"), ({"rounds": 0}, "at least 2 and 1"), ({"only": ["x"]}, "'x' is not measured")]
)
def test_what_cannot_be_measured_is_refused(settings, wrong, says):
    with pytest.raises(UsageError, match=says):
        run.measure(settings, **({"tokens": 2, "rounds": 1} | wrong))
