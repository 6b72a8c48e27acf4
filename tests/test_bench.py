"""The bench on toy models: what it times is what it says, and its table holds every figure."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from lessons import lesson
from toy import save_toy

from gistdemo import bench
from gistdemo.checkpoint.pool import ModelPool
from gistdemo.cli import main
from gistdemo.errors import UsageError
from gistdemo.generation import Sampling
from gistdemo.settings import Settings
from gistdemo.train.run import train


@pytest.fixture
def rows(settings, tmp_path, monkeypatch):
    """Two checkpoints on one backbone, one on another; the second has weights of its own in both phases."""
    for name, mode, seed in (("one", "embeddings", 0), ("two", "joint", 0), ("three", "compressor", 1)):
        folder = save_toy(tmp_path / f"toy{seed}", seed=seed)
        config = lesson(tmp_path / name, mode, backbone=str(folder), name=name, steps=1)
        train(config, tmp_path / f"run-{name}", settings, settings.data_dir / "checkpoints" / name)
    monkeypatch.setattr(Settings, "from_env", classmethod(lambda cls: settings))
    return settings


def test_all_cells_of_both_backbones_answer_to_their_limit(rows):
    cells = bench.cells_of(("one", "two", "three"), ModelPool(rows))
    assert len(cells) == 9 and len({id(cell.base) for cell in cells}) == 2
    answered = bench.together(cells, Sampling(5))
    assert [len(tokens) for tokens in answered.tokens] == [5] * 9
    assert 0 < answered.first <= answered.all_first <= answered.seconds


def test_the_calls_answer_what_the_cells_do(rows):
    cells = bench.cells_of(("one", "three"), ModelPool(rows))
    said = bench.Calls(rows).run(cells, 6)
    assert bench.together(cells, Sampling(6)).tokens == said
    shorter = [replace(cell, row=replace(cell.row, plan=replace(cell.row.plan, prompt_ids=cell.row.plan.prompt_ids[1:]))) for cell in cells]
    assert bench.Calls(rows).run(shorter, 6) != said


def test_a_cell_that_fails_is_no_figure(rows, monkeypatch):
    cells = bench.cells_of(("one",), ModelPool(rows))
    broken = [replace(cells[0], row=replace(cells[0].row, decode_adapter="nobody")), *cells[1:]]
    with pytest.raises(RuntimeError, match="Adapter 'nobody' is not attached"):
        bench.together(broken, Sampling(3))


def test_the_table_has_a_line_per_grid_and_precision(rows):
    lines = bench.measure(rows, tokens=3, rounds=2, tell=lambda text: None, grids=(("one", "three"), ("one", "two")))
    assert [(m.cells, m.precision) for m in lines] == [(6, "exact"), (6, "fast")] * 2
    assert all(m.ratio == pytest.approx(m.calls / m.seconds) and m.tokens_per_second * m.seconds == pytest.approx(18) for m in lines)
    assert lines[0].same_answers == "6 of 6" and lines[2].same_answers == "3 of 3", "the calls know nothing of an adapter in both phases"
    text = bench.table(lines)
    assert len(text.splitlines()) == 6 and "| 6 | one, three | exact |" in text


def test_the_command_prints_and_writes_it(rows, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "measure", lambda *given: [bench.Measured(("one",), 3, "exact", 2.0, 24, 8.0, 4.0, 5.0, 1.5, 2.5, "3 of 3")])
    assert main(["bench", "--quick", "--json", str(tmp_path / "bench.json")]) == 0
    assert "| 3 | one | exact | 2.00 | 24 | 8.00 | 4.0 | 5 | 1.5 | 2.5 | 3 of 3 |" in capsys.readouterr().out
    record = json.loads((tmp_path / "bench.json").read_text())
    assert (record["tokens"], record["rounds"], record["lines"][0]["ratio"]) == (16, 1, 4.0)


@pytest.mark.parametrize("wrong", [{"tokens": 1}, {"rounds": 0}])
def test_too_little_is_refused(settings, wrong):
    with pytest.raises(UsageError, match="at least 2 and 1 are needed"):
        bench.measure(settings, **({"tokens": 2, "rounds": 1} | wrong))
