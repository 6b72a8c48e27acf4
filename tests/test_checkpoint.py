"""Checkpoint folders: what is saved comes back, what is damaged is refused with its reason, and broken folders hide no good ones."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from lab import EXAMPLES, Lab, add_random_adapter

from gistdemo.checkpoint.manifest import BACKBONE_ADAPTER_DIR, COMPRESSOR_DIR, GIST_FILE, Manifest, describe_files, read_manifest
from gistdemo.checkpoint.store import LoadedCheckpoint, attach, bare, save_checkpoint
from gistdemo.conditions import CONDITIONS
from gistdemo.errors import CheckpointError
from gistdemo.prompts import CHATML

DIGEST = "sha256:" + "ab" * 32
ANSWER = (70, 71, 72)
SLOTS = torch.randn(8, 32, generator=torch.Generator().manual_seed(3)).half().float()  # exact in fp16: saving loses nothing


def manifest(**changes) -> Manifest:
    """The manifest of a compressor with eight slots."""
    values = {
        "name": "demo",
        "title": "Demo",
        "summary": "",
        "mode": "compressor",
        "backbone": "toy",
        "backbone_digest": DIGEST,
        "template": CHATML,
        "max_k": 8,
        "trained_k": (1, 8),
        "has_compressor": True,
        "has_backbone_adapter": False,
        "files": {},
    }
    return Manifest(**(values | changes))


def save(folder: Path, lab: Lab | None = None, **changes) -> Path:
    """Save a checkpoint with adapter "one" as its compressor and, where asked for, "two" as its backbone adapter."""
    if lab is None:
        lab = Lab()
        add_random_adapter(lab.model, "one", 0)
        add_random_adapter(lab.model, "two", 1)
    record = manifest(name=folder.name, **changes)
    adapters = {COMPRESSOR_DIR: "one"} if record.has_compressor else {}
    adapters |= {BACKBONE_ADAPTER_DIR: "two"} if record.has_backbone_adapter else {}
    save_checkpoint(folder, record, lab.model, SLOTS, adapters, "# card\n")
    return folder


def load(folder: Path, lab: Lab | None = None) -> LoadedCheckpoint:
    lab = lab or Lab()
    return attach(read_manifest(folder), folder, lab.model, lab.encoder, DIGEST)


def refusal(folder: Path, lab: Lab | None = None) -> str:
    """The text with which a folder is refused."""
    with pytest.raises(CheckpointError) as caught:
        load(folder, lab)
    assert folder.name in str(caught.value) and str(caught.value).endswith(".") and "Traceback" not in str(caught.value)
    return str(caught.value)


def rewrite(folder: Path, change) -> None:
    """Edit the manifest; `change` gets it as plain values."""
    file = folder / "manifest.json"
    record = json.loads(file.read_text(encoding="utf-8"))
    change(record)
    file.write_text(json.dumps(record), encoding="utf-8")


# --- there and back ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("compressor", "backbone_adapter"), [(True, False), (False, False), (False, True)])
def test_a_saved_checkpoint_comes_back_with_the_same_logits(tmp_path, compressor, backbone_adapter):
    folder = save(tmp_path / "demo", has_compressor=compressor, has_backbone_adapter=backbone_adapter)
    lab = Lab()
    loaded = load(folder, lab)
    assert torch.equal(loaded.slots, SLOTS) and loaded.slots.dtype == torch.float32
    assert loaded.manifest.template == CHATML and loaded.manifest.trained_k == (1, 8)
    lab.slots = loaded.slots
    ours = lab.answer_logits("gist", EXAMPLES, [ANSWER] * 4, 8, loaded.compress_adapter, loaded.decode_adapter)
    source = Lab()
    for seed, name in enumerate(("one", "two")):
        add_random_adapter(source.model, name, seed)
    source.slots = SLOTS
    decode = "two" if backbone_adapter else None
    compress = "one" if compressor else decode
    theirs = source.answer_logits("gist", EXAMPLES, [ANSWER] * 4, 8, compress, decode)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(ours, theirs, strict=True))


def test_equal_adapters_of_two_checkpoints_are_attached_once(tmp_path):
    lab = Lab()
    first, second = load(save(tmp_path / "a"), lab), load(save(tmp_path / "b"), lab)
    assert first.compress_adapter == second.compress_adapter and len(lab.model.adapters.names) == 1


def test_saving_again_replaces_the_folder_and_leaves_no_other(tmp_path):
    folder = save(tmp_path / "demo")
    (folder / "left-over").write_text("x")
    save(folder, title="Second")
    assert read_manifest(folder).title == "Second" and not (folder / "left-over").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["demo"]


def test_a_save_that_fails_leaves_the_older_folder(tmp_path):
    folder = save(tmp_path / "demo")
    with pytest.raises(CheckpointError, match="wrong form"):
        save(folder, max_k=0)
    assert read_manifest(folder).mode == "compressor" and [p.name for p in tmp_path.iterdir()] == ["demo"]


def test_asking_for_more_gist_tokens_than_there_are_is_refused(tmp_path):
    lab = Lab()
    loaded = load(save(tmp_path / "demo"), lab)
    assert torch.equal(loaded.row(loaded.plan(EXAMPLES[0], CONDITIONS["gist"], 3)).slots, SLOTS[:3]), "budget k uses the first k slots"
    assert torch.equal(loaded.row(loaded.plan(EXAMPLES[0], CONDITIONS["gist"], 8)).slots, SLOTS)
    with pytest.raises(CheckpointError) as caught:
        loaded.plan(EXAMPLES[0], CONDITIONS["gist"], 9)
    assert str(caught.value) == "Checkpoint 'demo' has 8 gist tokens but 9 were asked for. Choose k up to 8, or train one with more."
    assert loaded.row(loaded.plan(EXAMPLES[0], CONDITIONS["truncated"], 9)).slots is None


# --- damage --------------------------------------------------------------------------------------------------------------


def test_a_missing_a_truncated_and_a_foreign_file_are_told_apart(tmp_path):
    folder = save(tmp_path / "demo")
    weights = folder / COMPRESSOR_DIR / "adapter_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1])
    sizes = f"{len(content) - 1:,} bytes instead of {len(content):,}"
    assert f"adapter_model.safetensors has {sizes} (truncated or replaced)" in refusal(folder)
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "adapter_model.safetensors is not the file this checkpoint was saved with (sha256 differs)" in refusal(folder)
    (folder / GIST_FILE).unlink()
    text = refusal(folder)
    assert "gist.safetensors is missing" in text and "sha256 differs" in text, "all problems at once"
    weights.unlink()
    weights.mkdir()
    assert "adapter/adapter_model.safetensors is missing" in refusal(folder)


@pytest.mark.parametrize("path", ["../x", "adapter/../../x", "/etc/hostname"])
def test_a_path_that_leaves_the_folder_is_refused(tmp_path, path):
    folder = save(tmp_path / "demo")
    (tmp_path / "x").write_bytes(b"secret")
    outside = next(iter(describe_files(tmp_path / "demo").values()))
    rewrite(folder, lambda record: record["files"].update({path: outside}))
    assert f"{path} lies outside the folder" in refusal(folder)


def test_a_link_that_leaves_the_folder_is_refused(tmp_path):
    folder = save(tmp_path / "demo")
    moved = tmp_path / "elsewhere"
    (folder / GIST_FILE).rename(moved)
    (folder / GIST_FILE).symlink_to(moved)
    assert "gist.safetensors lies outside the folder" in refusal(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1, 2", b"nul", b"[" * 10**5, b'"\\ud800"'])
def test_a_manifest_that_is_not_json_is_refused(tmp_path, content):
    folder = save(tmp_path / "demo")
    (folder / "manifest.json").write_bytes(content)
    assert "'demo': manifest.json cannot be read" in refusal(folder)


def test_a_folder_without_a_manifest_is_refused(tmp_path):
    folder = save(tmp_path / "demo")
    (folder / "manifest.json").unlink()
    assert refusal(folder) == "'demo' has no manifest.json. Copy the whole checkpoint folder again."


@pytest.mark.parametrize("found", [2, None, "1", "list"])
def test_another_format_is_refused_with_both_numbers(tmp_path, found):
    folder = save(tmp_path / "demo")
    if found == "list":
        (folder / "manifest.json").write_text("[]")
    else:
        rewrite(folder, lambda record: record.update(format=found))
    assert f"manifest format is {found!r}; this version reads format 1. Train it again or update gistdemo." in refusal(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: (r.pop("mode"), r.pop("max_k")), "manifest.json lacks mode, max_k"),
        (lambda r: r.update(trained_k=[float("inf")]), "a field of the wrong form"),
        (lambda r: r["files"].update({"x" * 300: r["files"]["gist.safetensors"]}), "a file cannot be read"),
        (lambda r: r.update(mode=7), "mode is 7"),
        (lambda r: r.update(max_k=0), "max_k is 0, allowed are 1 to 1024"),
        (lambda r: r.update(has_backbone_adapter=True), "it has both a compressor and a tuned backbone; one of them is allowed"),
        (lambda r: r.update(max_k="8"), "max_k is '8'"),
        (lambda r: r.update(recipe="../mine"), "recipe is '../mine', allowed are up to 60 letters"),
        (lambda r: r.update(recipe=None), "recipe is None"),
        (lambda r: r.update(max_k=None), "max_k is None"),
        (lambda r: r.update(trained_k=4), "field of the wrong form"),
        (lambda r: r.update(template="chatml"), "field of the wrong form"),
        (lambda r: r["template"].pop("suffix"), "field of the wrong form"),
        (lambda r: r["template"].update(colour="red"), "field of the wrong form"),
        (lambda r: r["files"].pop(GIST_FILE), "files does not list gist.safetensors"),
        (lambda r: r["files"].pop("adapter/adapter_config.json"), "files does not list adapter/adapter_config.json"),
        (lambda r: r.update(files=[GIST_FILE]), "field of the wrong form"),
        (lambda r: r.update(files=None), "field of the wrong form"),
        (lambda r: r["files"].update({GIST_FILE: "sha"}), "field of the wrong form"),
        (lambda r: r["files"].update({GIST_FILE: {}}), "field of the wrong form"),
        (lambda r: r["files"].update({"a\0b": {"sha256": "", "bytes": 1}}), "field of the wrong form"),
        (lambda r: r.update(backbone_digest=None), "backbone_digest is None"),
        (lambda r: r.update(name=["demo"]), "name is ['demo']"),
        (lambda r: r.update(has_compressor="no"), "has_compressor is 'no'"),
        (lambda r: r["template"].update(head=""), "template is Template(name='chatml', head=''"),
        (lambda r: r["template"].update(suffix=5), "suffix=5"),
    ],
)
def test_a_manifest_with_a_missing_or_wrong_field_is_refused(tmp_path, change, words):
    folder = save(tmp_path / "demo")
    rewrite(folder, change)
    assert words in refusal(folder)


@pytest.mark.parametrize("fields", [{"mode": "lm", "max_k": 0}, {"stand_in": True}])
def test_what_belonged_to_the_stand_in_of_earlier_versions_is_refused_in_one_line(tmp_path, fields):
    folder = save(tmp_path / "demo")
    rewrite(folder, lambda record: record.update(fields))
    text = refusal(folder)
    assert text.startswith("'demo' belongs to the stand-in for a base model that earlier versions had. Use the checkpoint 'base'")
    assert text.endswith("and delete this folder.") and "\n" not in text


def test_a_manifest_of_an_earlier_version_that_was_no_stand_in_is_still_read(tmp_path):
    folder = save(tmp_path / "demo")
    rewrite(folder, lambda record: record.update(stand_in=False))
    assert read_manifest(folder) == dataclasses.replace(read_manifest(save(tmp_path / "other")), name="demo")


def test_a_manifest_that_names_no_recipe_is_still_read(tmp_path):
    folder = save(tmp_path / "demo", recipe="mine")
    assert read_manifest(folder).recipe == "mine"
    rewrite(folder, lambda record: record.pop("recipe"))
    assert read_manifest(folder).recipe == ""


def test_texts_are_kept_beside_the_weights_and_listed(tmp_path):
    lab = Lab()
    record = manifest(has_compressor=False, mode="embeddings")
    save_checkpoint(tmp_path / "demo", record, lab.model, SLOTS, {}, "# card\n", texts={"LICENCE.txt": "Lizenz für alle 🎉\n"})
    assert (tmp_path / "demo" / "LICENCE.txt").read_text(encoding="utf-8") == "Lizenz für alle 🎉\n"
    assert set(read_manifest(tmp_path / "demo").files) == {GIST_FILE, "LICENCE.txt"}


# --- a backbone as it is -------------------------------------------------------------------------------------------------


def test_a_backbone_as_it_is_has_no_gist_and_shows_the_rest():
    lab = Lab()
    loaded = bare("org/name", lab.model, lab.encoder)
    assert (loaded.name, loaded.manifest, loaded.anchored, loaded.slots.shape) == ("org/name", None, False, (0, 32))
    for condition in ("full", "truncated", "none"):
        row = loaded.row(loaded.plan(EXAMPLES[1], CONDITIONS[condition], 4))
        assert (row.slots, row.compress_adapter, row.decode_adapter) == (None, None, None)
        assert row.plan == lab.plan(condition, EXAMPLES[1])
    for condition in ("gist", "blind"):
        with pytest.raises(CheckpointError, match=r"^'org/name' is a backbone and has no gist tokens\. Choose full, truncated or none"):
            loaded.plan(EXAMPLES[1], CONDITIONS[condition], 4)
