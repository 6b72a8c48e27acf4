"""A pretrained model: folders that lack something are refused, and fingerprints tell weights apart."""

from __future__ import annotations

import pytest
import torch
from refusals import refusal
from toy import save_toy, toy_model, toy_tokenizer

from gistdemo.model.backbone import load
from gistdemo.model.pretrained import fingerprint


def test_a_file_or_a_folder_without_a_model_is_refused(tmp_path, settings):
    assert "has no config.json" in refusal(tmp_path, settings)
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "It holds an adapter" in refusal(tmp_path, settings)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert "is a file; a folder is needed" in refusal(tmp_path / "model.gguf", settings)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    assert "Only safetensors are read" in refusal(tmp_path, settings)


@pytest.mark.parametrize("kept_bytes", [0, 4, 40, 2000, -1])
def test_truncated_safetensors_are_refused(kept_bytes, tmp_path, settings):
    weights = save_toy(tmp_path / "toy") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept_bytes])
    assert str(weights) in refusal(weights.parent, settings)


def test_a_missing_shard_is_refused(tmp_path, settings):
    folder = tmp_path / "toy"
    toy_model().save_pretrained(folder, max_shard_size="20KB")
    toy_tokenizer().save_pretrained(folder)
    assert load(str(folder), settings).digest == fingerprint(toy_model())
    next(folder.glob("model-00002-*")).unlink()
    assert "lacks 1 of" in refusal(folder, settings)


def test_a_fingerprint_is_the_same_in_fp32_and_bf16():
    assert fingerprint(toy_model()) == fingerprint(toy_model().to(torch.bfloat16))
    assert fingerprint(toy_model()).startswith("sha256:")


def test_a_fingerprint_changes_with_weights_shapes_and_seeds():
    changed = toy_model()
    with torch.no_grad():
        changed.model.layers[1].mlp.down_proj.weight.mul_(1.01)
    others = [changed, toy_model(seed=1), toy_model(vocab_size=260)]
    assert len({fingerprint(model) for model in [toy_model(), *others]}) == 4
