"""Whole runs from a backbone folder to a checkpoint that loads and answers, each mode as a user would start it."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
from lab import EXAMPLES, NEVER
from lessons import HELD, ROWS, lesson
from scripted import write_checkpoint
from toy import save_toy, toy_model

from gistdemo.checkpoint.pool import ModelPool
from gistdemo.checkpoint.registry import find_checkpoint, find_row
from gistdemo.conditions import CONDITIONS
from gistdemo.data.alpaca import rows_digest
from gistdemo.errors import BackboneError, CheckpointError, DataError, TrainingError
from gistdemo.generation import Sampling, TokenEvent
from gistdemo.model import embedded
from gistdemo.model.backbone import fingerprint
from gistdemo.model.embedded import EMBEDDED, GEMMA
from gistdemo.prompts import CHATML, PLAIN, Example
from gistdemo.train.config import TrainConfig
from gistdemo.train.run import licence_texts, open_ground, train


@pytest.fixture
def toy_folder(tmp_path) -> Path:
    return save_toy(tmp_path / "toy")


def answers(settings, name: str, condition: str = "gist", k: int = 4) -> list[list[int]]:
    """Greedy answers of a checkpoint, read from disk by a pool of its own."""
    base, loaded = ModelPool(settings).row(find_row(name, settings))
    plans = [loaded.plan(example, CONDITIONS[condition], k) for example in EXAMPLES]
    rows = [dataclasses.replace(loaded.row(one), stop_ids=NEVER) for one in plans]
    ids: list[list[int]] = [[] for _ in rows]
    for event in base.engine.stream(rows, Sampling(8)):
        if isinstance(event, TokenEvent):
            assert event.error is None
            ids[event.row].append(event.token_id)
    return ids


@pytest.mark.parametrize("mode", ["embeddings", "compressor", "joint"])
def test_a_run_makes_a_checkpoint_that_says_how_it_was_made_and_answers(tmp_path, settings, toy_folder, mode):
    config = lesson(tmp_path, mode, backbone=str(toy_folder), name="made", title="Made here", steps=4)
    out = settings.data_dir / "checkpoints" / "made"
    assert train(config, tmp_path / "run", settings, out) == out
    manifest = find_checkpoint("made", settings.checkpoint_dirs).manifest
    assert (manifest.mode, manifest.title, manifest.max_k, manifest.trained_k) == (mode, "Made here", 4, (1, 4))
    assert (manifest.template, manifest.has_compressor) == (CHATML, mode == "compressor")
    assert manifest.has_backbone_adapter == (mode == "joint") and manifest.backbone == str(toy_folder)
    assert manifest.training["data"]["train"]["digest"] == rows_digest([Example(i, "", o) for i, o in ROWS])
    assert manifest.training["data"]["validation"]["digest"] == rows_digest([Example(i, "", o) for i, o in HELD])
    assert manifest.training["steps"] == 4 and manifest.recovery["gist_shift"] > 0
    assert all(set(manifest.recovery[target]["by_k"]) == {"1", "4"} for target in ("references", "own_answers"))
    assert config.data not in json.dumps(manifest.training) and config.validation not in json.dumps(manifest.training)
    assert "Made here" in (out / "README.md").read_text()
    assert {p.name for p in (tmp_path / "run").iterdir()} >= {"config.json", "metrics.jsonl", "metrics.json", "state.pt"}
    made = answers(settings, "made")
    assert len({tuple(ids) for ids in made}) == len(EXAMPLES)
    train(config, tmp_path / "run", settings, out)
    assert answers(settings, "made") == made, "a finished run can be exported again"


def test_what_a_run_stands_on_is_checked_before_the_first_step(tmp_path, settings, toy_folder):
    with pytest.raises(BackboneError):
        train(lesson(tmp_path / "a", "embeddings", backbone=str(tmp_path / "nowhere")), tmp_path / "run-a", settings)
    with pytest.raises(DataError, match="does not exist"):
        train(lesson(tmp_path / "b", "embeddings", backbone=str(toy_folder), data="gone.jsonl"), tmp_path / "run-b", settings)


@pytest.mark.parametrize("mode", ["embeddings", "compressor", "joint"])
def test_a_checkpoint_is_no_backbone_and_is_refused_before_the_first_step(tmp_path, settings, toy_folder, mode):
    out = settings.data_dir / "checkpoints" / "first"
    train(lesson(tmp_path / "a", "embeddings", backbone=str(toy_folder), name="first", steps=1), tmp_path / "run-a", settings, out)
    words = f"^'first' is a checkpoint; a gist is trained on a backbone. Choose its backbone '{re.escape(str(toy_folder))}'.$"
    with pytest.raises(TrainingError, match=words):
        train(lesson(tmp_path / "b", mode, backbone="first", name="second", steps=1), tmp_path / "run-b", settings)
    assert not (tmp_path / "run-b" / "metrics.jsonl").exists()


def test_a_broken_checkpoint_as_a_backbone_is_refused_with_its_own_reason(tmp_path, settings):
    write_checkpoint(settings.data_dir / "checkpoints" / "first").joinpath("gist.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"gist\.safetensors is missing"):
        train(lesson(tmp_path, "embeddings", backbone="first"), tmp_path / "run", settings)


# --- what travels with a checkpoint ----------------------------------------------------------------------------------------


def test_the_ground_of_a_run_is_its_backbone_with_the_template_of_its_kind(tmp_path, settings, toy_folder):
    plain = save_toy(tmp_path / "plain", chat=False)
    for folder, template in ((toy_folder, CHATML), (plain, PLAIN)):
        ground = open_ground(lesson(tmp_path, "embeddings", backbone=str(folder)), settings)
        assert ground.encoder.template == template and ground.digest == fingerprint(toy_model()) and not ground.model.adapters.names


def test_the_licence_of_an_embedded_model_travels_with_what_is_made_from_it(tmp_path, settings, toy_folder, monkeypatch):
    """The toy stands in the place of Gemma, whose terms ask for a notice as well."""
    made = settings.cache_dir / "backbones" / GEMMA.name
    shutil.copytree(toy_folder, made)
    monkeypatch.setattr(embedded, "fetch", lambda model, *_: made)
    out = settings.data_dir / "checkpoints" / "made"
    train(lesson(tmp_path, "embeddings", backbone=GEMMA.name, name="made", steps=1), tmp_path / "run", settings, out)
    assert (out / "LICENCE.txt").read_text() == (settings.assets_dir / "licences" / GEMMA.licence_file).read_text()
    assert (out / "NOTICE.txt").read_text() == f"{GEMMA.notice}\n"
    manifest = find_checkpoint("made", settings.checkpoint_dirs).manifest
    assert {"LICENCE.txt", "NOTICE.txt"} <= set(manifest.files), "so an archive of the checkpoint holds them too"
    card = (out / "README.md").read_text()
    assert GEMMA.notice in card and GEMMA.licence in card and GEMMA.title in card


@pytest.mark.parametrize("model", EMBEDDED.values(), ids=EMBEDDED)
def test_every_embedded_model_has_its_licence_and_a_notice_where_it_asks_for_one(model, settings):
    texts = licence_texts(model.name, settings)
    assert len(texts["LICENCE.txt"]) > 1000 and ("NOTICE.txt" in texts) == bool(model.notice)
    assert licence_texts("org/name", settings) == {}


def test_the_recipe_in_a_manifest_starts_another_run(tmp_path, settings):
    """All settings but the sources of rows, which belong to one machine; the marks that were held out are named without their folder."""
    config = lesson(tmp_path, "joint", held_out=str(tmp_path / "marks.txt"), distillation_weight=0.5, sampled_vocabulary=50)
    recipe = json.loads(json.dumps(config.recipe()))
    assert "data" not in recipe and "validation" not in recipe and recipe["held_out"] == "marks.txt"
    again = TrainConfig.from_dict(recipe | {"data": config.data, "validation": config.validation, "held_out": config.held_out})
    assert again == config
