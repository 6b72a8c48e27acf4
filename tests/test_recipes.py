"""Recipes: every shipped checkpoint names the one it was trained by, a script runs it, and a run by its settings is told from others."""

from __future__ import annotations

import dataclasses
import json
import os
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest
from lab import Lab
from lessons import lesson
from toy import save_toy

from gistdemo.checkpoint.manifest import read_manifest
from gistdemo.cli import build_parser
from gistdemo.prompts import Example
from gistdemo.settings import PROJECT_DIR, Settings
from gistdemo.train.card import write_card
from gistdemo.train.config import TrainConfig
from gistdemo.train.presets import read_recipe, recipe_of, with_preset
from gistdemo.train.run import train

SCRIPTS = PROJECT_DIR / "scripts" / "recipes"
SHIPPED = sorted(folder.name for folder in (PROJECT_DIR / "checkpoints").iterdir())
ROWS = {"data": "d.jsonl", "validation": "v.jsonl"}


def recipe(name: str, settings: Settings, **given) -> TrainConfig:
    return with_preset("", read_recipe(name, settings) | ROWS | given)


# --- the recipes of shipped checkpoints ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_checkpoint_names_its_recipe_and_was_trained_by_its_settings(name, settings):
    manifest = read_manifest(PROJECT_DIR / "checkpoints" / name)
    config = recipe(manifest.recipe, settings)
    assert config.name == name and recipe_of(config, settings) == manifest.recipe
    assert TrainConfig.from_dict(manifest.training["settings"] | ROWS).recipe() == config.recipe()
    card = (PROJECT_DIR / "checkpoints" / name / "README.md").read_text(encoding="utf-8")
    assert card == write_card(manifest) and f"`scripts/recipes/{name}.sh DATA`" in card


def test_every_recipe_has_a_script_that_can_be_run():
    assert {path.stem for path in SCRIPTS.glob("*.sh")} == {path.stem for path in (PROJECT_DIR / "assets" / "recipes").glob("*.json")}
    assert all(os.access(path, os.X_OK) for path in SCRIPTS.glob("*.sh"))


def called(name: str, tmp_path: Path, *arguments: str, **environment: str) -> tuple[subprocess.CompletedProcess[str], list[list[str]]]:
    """What a script says, and the words of each call of its Python: a stand-in that writes them down. Run in a copy, from another folder."""
    shutil.copytree(SCRIPTS, tmp_path / "project" / "scripts" / "recipes")
    stub = tmp_path / "project" / ".venv" / "bin" / "python"
    stub.parent.mkdir(parents=True)
    stub.write_text('#!/bin/sh\nprintf "%s\\n" "$0" "$PWD" "$@" "" >> ' + f'"{tmp_path}/calls"\n')
    stub.chmod(0o755)
    script = tmp_path / "project" / "scripts" / "recipes" / f"{name}.sh"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHON"} | environment
    found = subprocess.run([script, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    calls = tmp_path / "calls"
    return found, [part.split("\n") for part in calls.read_text().removesuffix("\n\n").split("\n\n")] if calls.exists() else []


@pytest.mark.parametrize("name", SHIPPED)
def test_a_script_trains_by_its_recipe_from_any_folder(name, tmp_path, settings):
    (tmp_path / "my rows").mkdir()
    found, calls = called(name, tmp_path, "my rows")
    assert found.returncode == 0, found.stderr
    *_, (python, folder, *words) = calls
    assert (python, folder) == (".venv/bin/python", str(tmp_path / "project")) and words[:2] == ["-m", "gistdemo"]
    args = build_parser().parse_args(words[2:])
    given = {f.name: getattr(args, f.name) for f in dataclasses.fields(TrainConfig) if hasattr(args, f.name)}
    assert recipe_of(with_preset("", read_recipe(args.recipe, settings) | given), settings) == name
    assert (args.run, args.out) == (Path("runs") / name, Path("checkpoints") / name)
    assert args.data == str(tmp_path / "my rows" / "train.jsonl")
    assert args.validation.split("+")[0] == str(tmp_path / "my rows" / "validation_unseen.jsonl")


def test_the_rows_that_instruct_keeps_out_are_written_before_it_trains(tmp_path):
    (tmp_path / "rows").mkdir()
    _, ((_, _, *first), (_, _, *second)) = called("instruct", tmp_path, "rows")
    source, out = first[1:]
    assert first[0] == "scripts/recipes/long_held.py" and source == str(tmp_path / "rows" / "train.jsonl")
    assert second[-1].endswith(f"+{out}") and (tmp_path / "project" / out).parent.is_dir()


def test_a_script_takes_the_interpreter_it_is_given_and_says_what_is_missing(tmp_path):
    found, calls = called("base", tmp_path, PYTHON="/bin/false")
    assert found.returncode != 0 and "Give the folder DATA with train.jsonl" in found.stderr and calls == []
    shutil.rmtree(tmp_path / "project")
    found, calls = called("base", tmp_path, str(tmp_path), PYTHON="/bin/false")
    assert (found.returncode, found.stderr, calls) == (1, "", [])


def test_long_rows_are_kept_out_by_length_and_the_same_each_time():
    """With an input, and 60 to 200 tokens in all; 50 of them."""
    script = runpy.run_path(str(SCRIPTS / "long_held.py"))
    encoder = Lab().encoder
    one = len(encoder.text_ids(" word"))
    rows = [Example("Count.", " ".join(["word"] * n), str(n)) for n in range(1, 400 // one)]
    rows += [Example(" ".join(["word"] * (100 // one)), "", "no input")]
    found = script["long_held"](rows, encoder)
    tokens = [encoder.encode(encoder.joined(row)).count("instruction") for row in rows]
    fits = [row for row, count in zip(rows, tokens, strict=True) if row.input and 60 <= count <= 200]
    assert len(found) == min(50, len(fits)) and set(found) <= set(fits) and found == script["long_held"](rows, encoder)
    assert 0 < len(fits) < len(rows) - 1, "there were shorter and longer ones, or this proves little"


# --- which recipe a run was ------------------------------------------------------------------------------------------------


def test_a_run_is_a_recipes_only_with_all_of_its_settings(settings):
    config = recipe("base", settings)
    assert recipe_of(dataclasses.replace(config, data="other.jsonl", validation=""), settings) == "base", "on whatever rows"
    for change in ({"steps": 151}, {"name": "mine"}, {"backbone": "org/name"}, {"held_out": ""}):
        assert recipe_of(dataclasses.replace(config, **change), settings) == ""


def test_a_checkpoint_says_by_which_recipe_it_was_trained(tmp_path, settings):
    config = lesson(tmp_path / "rows", "embeddings", backbone=str(save_toy(tmp_path / "toy")), name="mine", steps=1)
    folder = tmp_path / "assets" / "recipes"
    folder.mkdir(parents=True)
    (folder / "mine.json").write_text(json.dumps(config.recipe()))
    settings = dataclasses.replace(settings, assets_dir=tmp_path / "assets")
    by_recipe, by_hand = (train(one, tmp_path / f"run {one.seed}", settings) for one in (config, dataclasses.replace(config, seed=1)))
    assert (read_manifest(by_recipe).recipe, read_manifest(by_hand).recipe) == ("mine", "")
    texts = [(made / "README.md").read_text() for made in (by_recipe, by_hand)]
    assert ["scripts/recipes/mine.sh DATA" in text for text in texts] == [True, False] and "Recipe" not in texts[1]
