"""What a row can show: checkpoints and backbones, found by name, path or hub id, and what each says about itself."""

from __future__ import annotations

import dataclasses
import json

import pytest
from scripted import write_checkpoint, write_two_checkpoints
from toy import save_toy

from gistdemo.checkpoint.registry import ModelRow, find_row, list_rows
from gistdemo.errors import CheckpointError
from gistdemo.model.embedded import EMBEDDED, GEMMA, SMOLLM2
from gistdemo.prompts import PLAIN


def test_usable_checkpoints_stand_before_embedded_models(settings):
    write_two_checkpoints(settings)
    (settings.shipped_checkpoints_dir / "broken").mkdir()
    rows = list_rows(settings)
    assert [row.name for row in rows] == ["base", "instruct", *EMBEDDED]
    assert [row.has_gist for row in rows] == [True, True, False, False]
    assert [row.backbone for row in rows] == ["toy", "toy", *EMBEDDED]


def test_embedded_models_that_are_switched_off_are_not_listed(settings):
    assert [row.name for row in list_rows(dataclasses.replace(settings, embedded=(GEMMA.name,)))] == [GEMMA.name]
    assert list_rows(dataclasses.replace(settings, embedded=())) == []


def test_a_checkpoint_named_as_an_embedded_model_stands_in_its_place(settings):
    """One name is one row, in the list and in the search."""
    write_checkpoint(settings.data_dir / "checkpoints" / GEMMA.name)
    assert [row.name for row in list_rows(settings)] == [GEMMA.name, SMOLLM2.name]
    assert find_row(GEMMA.name, settings).has_gist


def test_a_checkpoint_is_found_by_name_and_by_path(settings, tmp_path):
    write_two_checkpoints(settings)
    elsewhere = write_checkpoint(tmp_path / "elsewhere" / "mine")
    assert find_row("instruct", settings) == next(row for row in list_rows(settings) if row.name == "instruct")
    assert find_row(str(elsewhere), settings).entry.folder == elsewhere


@pytest.mark.parametrize("name", [*EMBEDDED, "org/name", "meta-llama/Llama-3.1-8B"])
def test_a_backbone_is_found_by_its_name_without_being_fetched(settings, name):
    assert find_row(name, settings) == ModelRow(name, name) and not settings.cache_dir.exists()


def test_a_model_folder_is_a_backbone(settings, tmp_path):
    folder = str(save_toy(tmp_path / "toy"))
    assert find_row(folder, settings) == ModelRow(folder, folder)


@pytest.mark.parametrize("name", ["", ".", "nobody", "./nowhere", "a/b/c", "x" * 300, "a\0b"])
def test_what_is_neither_is_told_with_all_that_could_be_given(settings, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_two_checkpoints(settings)
    with pytest.raises(CheckpointError) as caught:
        find_row(name, settings)
    text = str(caught.value)
    if name != ".":
        assert text.startswith(f"There is no checkpoint '{name}'. Available: base, instruct.")
        assert SMOLLM2.name in text and GEMMA.name in text and "'org/name'" in text


def test_a_broken_checkpoint_is_told_with_its_reason_and_not_taken_for_a_backbone(settings, tmp_path, monkeypatch):
    """Also where its path could be a hub id."""
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "org" / "name").joinpath("gist.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"^Checkpoint 'name': gist\.safetensors is missing"):
        find_row("org/name", settings)


# --- what a row says -----------------------------------------------------------------------------------------------------


def test_rows_on_the_same_weights_share_one_model(settings):
    """A checkpoint with weights of its own does not."""
    write_two_checkpoints(settings)
    base, instruct, *_ = list_rows(settings)
    assert base.model_key == instruct.model_key == ModelRow("toy", "toy").model_key
    files = {"weights.safetensors": {"sha256": "ab" * 32, "bytes": 1}}
    own = dataclasses.replace(base.manifest, has_weights=True, files=files)
    assert dataclasses.replace(base, entry=dataclasses.replace(base.entry, manifest=own)).model_key == f"toy with {'ab' * 8}"


def test_a_row_says_its_title_kind_mode_and_model(settings):
    write_checkpoint(settings.shipped_checkpoints_dir / "made", backbone=GEMMA.name, template=PLAIN, mode="joint")
    rows = {row.name: row for row in list_rows(settings)}
    made, smollm2 = rows["made"], rows[SMOLLM2.name]
    assert (made.title, made.kind, made.mode, made.embedded) == ("Toy made", "base", "joint", GEMMA)
    assert (smollm2.title, smollm2.kind, smollm2.mode, smollm2.embedded) == (SMOLLM2.title, "instruct", "no gist", SMOLLM2)
    other = ModelRow("org/name", "org/name")
    assert (other.title, other.kind, other.mode, other.embedded) == ("name", "", "no gist", None)


def test_figures_measured_later_stand_for_those_in_the_manifest(settings):
    folder = write_checkpoint(settings.shipped_checkpoints_dir / "made")
    entry = find_row("made", settings).entry
    assert entry.recovery() == entry.manifest.recovery
    (folder / "evaluation.json").write_text(json.dumps({"recovery": {"made": {"references": {"rows": 1}}, "other": {}}}))
    assert entry.recovery() == {"references": {"rows": 1}}
