"""Whole runs from a backbone folder to a checkpoint that loads and answers, each mode as a user would start it."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path

import pytest
from lab import EXAMPLES, NEVER
from lessons import HELD, ROWS, lesson, objective
from toy import save_toy

from gistdemo.checkpoint.pool import ModelPool
from gistdemo.checkpoint.registry import find_checkpoint
from gistdemo.conditions import CONDITIONS
from gistdemo.data.alpaca import rows_digest
from gistdemo.errors import BackboneError, CheckpointError, DataError, TrainingError
from gistdemo.generation import Sampling, TokenEvent
from gistdemo.prompts import CHATML, PLAIN, Example
from gistdemo.train.run import train


@pytest.fixture
def toy_folder(tmp_path) -> Path:
    return save_toy(tmp_path / "toy")


def answers(settings, name: str, condition: str = "gist", k: int = 4) -> list[list[int]]:
    """Greedy answers of a checkpoint, read from disk by a pool of its own."""
    base, loaded = ModelPool(settings).checkpoint(find_checkpoint(name, settings.checkpoint_dirs))
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
    assert (manifest.template, manifest.stand_in, manifest.has_compressor) == (CHATML, False, mode == "compressor")
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


def test_a_stand_in_carries_its_adapter_into_the_gist_that_is_trained_on_it(tmp_path, settings, toy_folder):
    """Mode lm makes a backbone adapter; a gist trained on that checkpoint keeps it on in both phases."""
    shelf = settings.data_dir / "checkpoints"
    train(lesson(tmp_path / "a", "lm", backbone=str(toy_folder), name="base", steps=4), tmp_path / "run-a", settings, shelf / "base")
    base = find_checkpoint("base", settings.checkpoint_dirs).manifest
    assert (base.mode, base.max_k, base.stand_in, base.template, base.has_backbone_adapter) == ("lm", 0, True, PLAIN, True)
    assert base.recovery["held_out_nll"] > 0
    train(lesson(tmp_path / "b", "embeddings", backbone="base", name="gist", steps=4), tmp_path / "run-b", settings, shelf / "gist")
    entry = find_checkpoint("gist", settings.checkpoint_dirs)
    assert (entry.manifest.stand_in, entry.manifest.template, entry.manifest.backbone) == (True, PLAIN, str(toy_folder))
    assert entry.manifest.has_backbone_adapter and not entry.manifest.has_compressor
    pool = ModelPool(settings)
    _, loaded = pool.checkpoint(entry)
    assert loaded.compress_adapter == loaded.decode_adapter is not None
    assert answers(settings, "gist", "full", 0) == answers(settings, "base", "full", 0), "the same stand-in decodes"
    backbone, again = pool.checkpoint(find_checkpoint("base", settings.checkpoint_dirs))
    assert again.decode_adapter == loaded.decode_adapter and len(backbone.model.adapters.names) == 1


@pytest.mark.parametrize(("first", "second"), [("embeddings", "embeddings"), ("embeddings", "lm"), ("compressor", "lm"), ("lm", "lm")])
def test_a_checkpoint_that_is_no_backbone_is_refused_before_the_first_step(tmp_path, settings, toy_folder, first, second):
    """And not when the finished run is exported."""
    out = settings.data_dir / "checkpoints" / "first"
    train(lesson(tmp_path / "a", first, backbone=str(toy_folder), name="first", steps=1), tmp_path / "run-a", settings, out)
    with pytest.raises(TrainingError, match=f"^Mode {second} cannot be trained on 'first', a checkpoint of mode {first}. Choose"):
        train(lesson(tmp_path / "b", second, backbone="first", name="second", steps=1), tmp_path / "run-b", settings)
    assert not (tmp_path / "run-b" / "metrics.jsonl").exists()


def test_a_backbone_checkpoint_that_is_broken_is_refused_with_its_own_reason(tmp_path, settings, toy_folder):
    shelf = settings.data_dir / "checkpoints"
    train(lesson(tmp_path / "a", "lm", backbone=str(toy_folder), name="base", steps=1), tmp_path / "run-a", settings, shelf / "base")
    (shelf / "base" / "backbone_adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors is missing"):
        train(lesson(tmp_path / "b", "embeddings", backbone="base", steps=1), tmp_path / "run-b", settings)


def test_a_compressor_on_a_tuned_backbone_is_refused(tmp_path, settings, toy_folder):
    shelf = settings.data_dir / "checkpoints"
    train(lesson(tmp_path / "a", "lm", backbone=str(toy_folder), name="base", steps=1), tmp_path / "run-a", settings, shelf / "base")
    with pytest.raises(TrainingError, match="Choose its backbone"):
        train(lesson(tmp_path / "b", "compressor", backbone="base", steps=1), tmp_path / "run-b", settings)


def test_what_a_run_stands_on_is_checked_before_the_first_step(tmp_path, settings, toy_folder):
    with pytest.raises(BackboneError):
        train(lesson(tmp_path / "a", "embeddings", backbone=str(tmp_path / "nowhere")), tmp_path / "run-a", settings)
    with pytest.raises(DataError, match="does not exist"):
        train(lesson(tmp_path / "b", "embeddings", backbone=str(toy_folder), data="gone.jsonl"), tmp_path / "run-b", settings)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "does not exist"),
        ('{"text": "short"}\n', "blocks of 32 tokens; at least 4 are needed"),
        ('{"text": "fine"}\n{"text": \n', "line 2"),
        ('{"body": "fine"}\n', "line 1"),
        ('["fine"]\n', "line 1"),
        ('{"text": 3}\n', "not text"),
    ],
)
def test_raw_text_that_cannot_be_used_is_refused(tmp_path, settings, toy_folder, content, words):
    path = tmp_path / "raw.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=words):
        train(lesson(tmp_path, "lm", backbone=str(toy_folder), data=str(path)), tmp_path / "run", settings)


def test_held_out_text_is_not_trained_on(tmp_path, settings):
    documents = [" ".join(str(random.randrange(10**6)) for _ in range(8)) for _ in range(200)]
    path = tmp_path / "raw.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    learner = objective(lesson(tmp_path, "lm", data=str(path)), settings)
    stream = [i for text in documents for i in (*learner.ground.encoder.text_ids(text), learner.ground.encoder.end_id)]
    count = len(stream) // 32
    held = count // 50
    assert learner.blocks.flatten().tolist() == stream[: (count - held) * 32], "documents joined by the end token, cut into blocks"
    assert learner.held.flatten().tolist() == stream[(count - held) * 32 : count * 32]
