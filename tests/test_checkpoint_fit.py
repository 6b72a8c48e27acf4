"""A sound checkpoint on the wrong backbone, and the registry that lists broken folders beside good ones."""

from __future__ import annotations

import re

import pytest
import torch
from lab import EXAMPLES, Lab, add_random_adapter
from safetensors.torch import load_file, save_file
from test_checkpoint import SLOTS, load, manifest, refusal, rewrite, save
from toy import toy_config, toy_model
from transformers import LlamaForCausalLM

from gistdemo.checkpoint.manifest import COMPRESSOR_DIR, GIST_FILE, WEIGHTS_FILE, describe_files, read_manifest
from gistdemo.checkpoint.registry import find_checkpoint, list_checkpoints
from gistdemo.checkpoint.store import attach, load_weights, save_checkpoint
from gistdemo.errors import CheckpointError
from gistdemo.model.gist_model import GistModel


def refresh(folder) -> None:
    """Make the manifest agree with the files again, as a checkpoint that was saved so."""
    rewrite(folder, lambda record: record.update(files=describe_files(folder)))


def test_another_backbone_is_refused_with_both_digests(tmp_path):
    lab, folder = Lab(), save(tmp_path / "demo")
    with pytest.raises(CheckpointError) as caught:
        attach(read_manifest(folder), folder, lab.model, lab.encoder, "sha256:" + "cd" * 32)
    text = str(caught.value)
    assert "was trained on 'toy' with digest sha256:abababababab..., but the backbone found has sha256:cdcdcdcdcdcd..." in text
    assert text.endswith("Get that backbone, or train a gist for this one.") and lab.model.adapters.names == ()


@pytest.mark.parametrize("shape", [(8, 31), (7, 32), (32,), (1, 8, 32)])
def test_gist_vectors_of_another_shape_are_refused(tmp_path, shape):
    folder = save(tmp_path / "demo")
    save_file({"slots": torch.zeros(shape)}, folder / GIST_FILE)
    refresh(folder)
    assert f"gist vectors have shape {shape}, expected (8, 32)" in refusal(folder)


@pytest.mark.parametrize("content", [None, b"not safetensors at all"])
def test_a_gist_file_without_slots_is_refused(tmp_path, content):
    folder = save(tmp_path / "demo")
    save_file({"other": torch.zeros(8, 32)}, folder / GIST_FILE)
    if content:
        (folder / GIST_FILE).write_bytes(content)
    refresh(folder)
    assert "gist.safetensors cannot be read" in refusal(folder)


def wrong_width(folder):
    return {name: torch.zeros(t.shape[0] + 1, *t.shape[1:]) for name, t in weights(folder).items()}


def half_of_it(folder):
    return {name: t for name, t in weights(folder).items() if "layers.0." in name}


def other_names(folder):
    return {name.replace("q_proj", "k_proj"): t for name, t in weights(folder).items()}


def weights(folder):
    return load_file(folder / COMPRESSOR_DIR / "adapter_model.safetensors")


@pytest.mark.parametrize("damage", [wrong_width, half_of_it, other_names])
@pytest.mark.parametrize("attached_before", [False, True])
def test_an_adapter_that_does_not_fit_is_refused_every_time_and_leaves_no_trace(tmp_path, damage, attached_before):
    """A failed adapter must not stay behind half loaded, to be taken for a good one by the next request."""
    good, folder, lab = save(tmp_path / "good"), save(tmp_path / "demo"), Lab()
    save_file(damage(folder), folder / COMPRESSOR_DIR / "adapter_model.safetensors")
    refresh(folder)
    before = [load(good, lab).compress_adapter] if attached_before else []
    answers = lab.ids([lab.row("full", example) for example in EXAMPLES])
    for _ in range(2):
        assert "its adapter cannot be used" in refusal(folder, lab)
        assert list(lab.model.adapters.names) == before
        assert lab.ids([lab.row("full", example) for example in EXAMPLES]) == answers
    fresh = Lab()
    add_random_adapter(fresh.model, "one", 0)
    ours = lab.ids([lab.row("gist", example, 4, load(good, lab).compress_adapter) for example in EXAMPLES])
    assert ours == fresh.ids([fresh.row("gist", example, 4, "one") for example in EXAMPLES])


# --- all weights of a backbone ------------------------------------------------------------------------------------------------


def whole(folder, model):
    """A checkpoint that holds all weights of a model, and its manifest."""
    lab = Lab(model=GistModel(model))
    record = manifest(name="demo", mode="joint", has_compressor=False, has_weights=True)
    save_checkpoint(folder, record, lab.model, SLOTS, {}, "# card\n")
    return read_manifest(folder)


def untied():
    config = toy_config()
    config.tie_word_embeddings = False
    return LlamaForCausalLM(config).requires_grad_(False)


@pytest.mark.parametrize("make", [toy_model, untied])
def test_all_weights_come_back_and_a_missing_one_is_refused(tmp_path, make):
    """A head of its own is a weight like others; one that is tied is stored once."""
    source, other = make(), make()
    other.model.norm.weight.zero_()
    record = whole(tmp_path / "demo", source)
    load_weights(record, tmp_path / "demo", other)
    assert all(torch.equal(weight.half(), other.state_dict()[name].half()) for name, weight in source.state_dict().items())
    stored = load_file(tmp_path / "demo" / WEIGHTS_FILE)
    for name in stored:
        save_file({n: t for n, t in stored.items() if n != name}, tmp_path / "demo" / WEIGHTS_FILE)
        with pytest.raises(CheckpointError, match=f"1 weights are missing or have no place, first '{re.escape(name)}'"):
            load_weights(record, tmp_path / "demo", other)


def test_what_a_model_keeps_beside_its_weights_need_not_be_stored(tmp_path):
    model = toy_model()
    model.model.layers[0].register_buffer("bias_of_experts", torch.ones(4))
    load_weights(whole(tmp_path / "demo", model), tmp_path / "demo", model)


# --- registry ------------------------------------------------------------------------------------------------------------


def test_broken_folders_are_listed_with_their_reason_beside_good_ones(tmp_path):
    first, second = tmp_path / "shipped", tmp_path / "own"
    for parent, name in ((first, "a"), (first, "b"), (second, "b"), (second, "c")):
        save(parent / name, title=f"{name} of {parent.name}")
    (first / "b" / GIST_FILE).unlink()
    (first / "empty").mkdir()
    (first / ".hidden").mkdir()
    (first / "a file").write_text("x")
    entries = list_checkpoints([first, second, tmp_path / "nowhere"])
    titles = [(e.name, e.manifest.title if e.manifest else None) for e in entries]
    assert titles == [("a", "a of shipped"), ("b", None), ("empty", None), ("c", "c of own")]
    assert entries[1].problem.startswith("'b': gist.safetensors is missing") and "has no manifest.json" in entries[2].problem
    assert entries[0].problem is None


def test_a_folder_of_the_stand_in_that_earlier_versions_had_is_listed_as_broken_with_its_one_line(tmp_path):
    save(tmp_path / "own" / "good")
    for name, fields in (("standin", {"mode": "lm", "max_k": 0}), ("base-standin", {"stand_in": True})):
        rewrite(save(tmp_path / "own" / name), lambda record, fields=fields: record.update(fields))
    entries = {entry.name: entry for entry in list_checkpoints([tmp_path / "own"])}
    assert next(iter(entries)) == "good" and entries["good"].manifest
    for name in ("standin", "base-standin"):
        assert entries[name].manifest is None
        assert entries[name].problem.startswith(f"'{name}' belongs to the stand-in for a base model") and "\n" not in entries[name].problem
    with pytest.raises(
        CheckpointError, match=r"^Checkpoint 'standin' belongs to the stand-in .* Use the checkpoint 'base' or the backbone"
    ):
        find_checkpoint("standin", [tmp_path / "own"])


def test_checkpoints_stand_by_mode_then_by_name_and_broken_ones_last(tmp_path):
    """Gist vectors alone, then tuned with their gist, then compressors: the order in which a page shows them."""
    none = {"has_compressor": False, "has_backbone_adapter": False}
    for name, fields in (
        ("a", {}),
        ("b", none | {"mode": "joint", "has_backbone_adapter": True}),
        ("z", none | {"mode": "embeddings"}),
        ("c", none | {"mode": "embeddings"}),
    ):
        save(tmp_path / name, **fields)
    (tmp_path / "0-broken").mkdir()
    assert [entry.name for entry in list_checkpoints([tmp_path])] == ["c", "z", "b", "a", "0-broken"]


def test_a_checkpoint_is_found_by_name_or_path_and_refused_with_its_reason(tmp_path):
    folder = save(tmp_path / "own" / "good")
    bad = save(tmp_path / "own" / "bad")
    (bad / GIST_FILE).unlink()
    assert find_checkpoint("good", [tmp_path / "own"]).folder == folder
    assert find_checkpoint(str(folder), []).folder == folder
    with pytest.raises(CheckpointError, match=r"^Checkpoint 'bad': gist\.safetensors is missing"):
        find_checkpoint("bad", [tmp_path / "own"])
    with pytest.raises(CheckpointError, match=r"^There is no checkpoint 'gone'\. Available: good\. Give one of these names, the path of a"):
        find_checkpoint("gone", [tmp_path / "own"])


@pytest.mark.parametrize("name", ["", ".", "x" * 300, "a\0b", "../.."])
def test_a_name_that_is_none_is_refused_as_one(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError):
        find_checkpoint(name, [tmp_path])
