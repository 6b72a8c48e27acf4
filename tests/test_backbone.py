"""Backbones: what is found, how it is loaded, and what is refused with which words."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from refusals import refusal
from toy import save_toy, toy_model, toy_tokenizer
from transformers import AutoConfig, GPT2Config, LlamaConfig, MambaConfig, MistralConfig, T5Config

from gistdemo.model import backbone as module
from gistdemo.model.architecture import check_architecture
from gistdemo.model.attention import IN_FP32
from gistdemo.model.backbone import fingerprint, load
from gistdemo.model.embedded import SMOLLM2

# --- local folders ---------------------------------------------------------------------------------------------------


def test_a_local_folder_loads_frozen_on_fp32_with_left_padding(tmp_path, settings):
    folder = save_toy(tmp_path / "toy")
    seen = []
    backbone = load(str(folder), settings, lambda message, fraction: seen.append(fraction))
    assert (backbone.name, backbone.path, backbone.kind) == (str(folder), folder, "instruct")
    assert backbone.model.dtype == torch.float32 and backbone.model.config._attn_implementation == "sdpa"
    assert not backbone.model.training and not any(p.requires_grad for p in backbone.model.parameters())
    assert (
        backbone.tokenizer.padding_side == "left"
        and backbone.tokenizer("hi").input_ids == toy_tokenizer()("hi", add_special_tokens=False).input_ids
    )
    assert backbone.digest == fingerprint(toy_model())
    assert seen == sorted(seen) and seen[-1] == 1.0


def test_attention_of_16_bits_on_a_cpu_is_computed_in_fp32(tmp_path, settings):
    """The same answers and gradients as torch's own kernel for it, which takes seven times as long."""
    model = load(str(save_toy(tmp_path / "toy")), settings, dtype=torch.bfloat16).model
    assert model.dtype == torch.bfloat16 and model.config._attn_implementation == IN_FP32
    ids, mask = torch.tensor([[0, 0, 3, 4, 5, 6], [9, 8, 7, 6, 5, 4]]), torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])
    embedded = model.get_input_embeddings()(ids).detach()
    found = []
    for attention in (IN_FP32, "sdpa"):
        model.set_attn_implementation(attention)
        x = embedded.clone().requires_grad_(True)
        logits = model(inputs_embeds=x, attention_mask=mask).logits[:, -1]
        logits.logsumexp(-1).sum().backward()
        found.append((logits.detach(), x.grad))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=0.03, rtol=0.03)


def test_kind_is_base_without_a_chat_template(tmp_path, settings):
    assert load(str(save_toy(tmp_path / "toy", chat=False)), settings).kind == "base"


def test_a_missing_pad_token_becomes_the_end_token(tmp_path, settings):
    folder = save_toy(tmp_path / "toy")
    change_json(folder / "tokenizer_config.json", lambda c: c.pop("pad_token"))
    tokenizer = load(str(folder), settings).tokenizer
    assert tokenizer.pad_token_id == tokenizer.eos_token_id is not None


def test_sampling_leftovers_are_dropped_and_end_tokens_kept(tmp_path, settings):
    folder = save_toy(tmp_path / "toy")
    (folder / "generation_config.json").write_text(
        json.dumps({"do_sample": True, "temperature": 0.2, "top_p": 0.5, "eos_token_id": [2, 0]})
    )
    generation = load(str(folder), settings).model.generation_config
    assert generation.do_sample is False and generation.eos_token_id == [2, 0]
    assert generation.temperature is None and generation.top_p is None


def test_an_explicit_dtype_is_used(tmp_path, settings):
    assert load(str(save_toy(tmp_path / "toy")), settings, dtype=torch.bfloat16).model.dtype == torch.bfloat16


def change_json(file: Path, change) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "is not known"),
        ("gpt2", "Backbone 'gpt2' is not known. Use 'smollm2-135m-instruct', 'gemma-3-270m', a hub id"),
        ("./nowhere", "Backbone folder './nowhere' does not exist"),
        ("/nowhere/at/all", "does not exist"),
        ("x" * 5000, "has 5,000 characters"),
    ],
)
def test_names_that_lead_nowhere_are_refused(name, words, settings):
    assert words in refusal(name, settings)


@pytest.mark.parametrize(
    ("change", "first"), [({"num_hidden_layers": 3}, "model.layers.2."), ({"intermediate_size": 65}, "model.layers.0.mlp.")]
)
def test_weights_that_do_not_fill_the_model_are_refused_not_made_up(change, first, tmp_path, settings):
    folder = save_toy(tmp_path / "toy")
    change_json(folder / "config.json", lambda c: c.update(change))
    assert f"have another shape than config.json says, first '{first}" in refusal(folder, settings)


def test_a_broken_config_or_tokenizer_is_refused(tmp_path, settings):
    folder = save_toy(tmp_path / "toy")
    (folder / "tokenizer.json").write_text("{}")
    assert "its tokenizer cannot be loaded" in refusal(folder, settings)
    change_json(folder / "config.json", lambda c: c.update(model_type="nobody-knows-it"))
    assert "config.json cannot be used" in refusal(folder, settings)
    (folder / "config.json").write_text("{")
    assert "config.json cannot be used" in refusal(folder, settings)


def test_a_model_that_brings_code_is_refused(tmp_path, settings):
    folder = save_toy(tmp_path / "toy")
    (folder / "evil.py").write_text("raise SystemExit('code of a model ran')")
    change_json(
        folder / "config.json", lambda c: c.update(model_type="own", auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"})
    )
    assert "needs code of its own to run" in refusal(folder, settings)


def test_a_tokenizer_without_end_token_or_of_another_model_is_refused(tmp_path, settings):
    folder = save_toy(tmp_path / "toy")
    change_json(folder / "tokenizer_config.json", lambda c: c.pop("eos_token"))
    assert "names no end token" in refusal(folder, settings)
    tokenizer = toy_tokenizer()
    tokenizer.add_tokens(["one too many"])
    tokenizer.save_pretrained(folder)
    assert "260 tokens but the model only 259 embeddings" in refusal(folder, settings)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (T5Config(), "(t5) is an encoder-decoder model"),
        (GPT2Config(), "(gpt2) has no rotary positions"),
        (AutoConfig.for_model("opt"), "(opt) has no rotary positions"),
        (AutoConfig.for_model("falcon", alibi=True), "(falcon) has no rotary positions"),
        (AutoConfig.for_model("gemma3"), "has parts for other inputs than text"),
        (MambaConfig(), "(mamba) has no rotary positions"),
        (AutoConfig.for_model("lfm2", layer_types=["conv"] * 32), "layers without a key-value cache (conv)"),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_models_whose_cache_cannot_stand_for_text_are_refused(config, words, tmp_path, settings):
    folder = save_toy(tmp_path / "toy")
    config.save_pretrained(folder)
    assert words in refusal(folder, settings)


def test_models_with_rotary_positions_pass():
    """GPT-NeoX has them, but does not say what it caches: see the tests of families."""
    for config in (
        LlamaConfig(),
        MistralConfig(),
        MistralConfig(sliding_window=512),
        AutoConfig.for_model("gemma3_text"),
        AutoConfig.for_model("qwen3"),
        AutoConfig.for_model("smollm3"),
    ):
        check_architecture(config, "name")


def test_a_device_that_is_not_there_is_refused_before_anything_is_fetched(settings):
    assert "Device 'warp' cannot be used" in refusal(SMOLLM2.name, replace(settings, device="warp"))
    if not torch.cuda.is_available():
        assert "Device 'cuda' cannot be used" in refusal(SMOLLM2.name, replace(settings, device="cuda"))
    assert not settings.cache_dir.exists()


def test_a_model_larger_than_memory_is_refused(tmp_path, settings, monkeypatch):
    folder = save_toy(tmp_path / "toy")
    monkeypatch.setattr(module.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 1000}))
    assert "GB of memory as float32" in refusal(folder, settings)


def test_a_config_that_describes_more_than_memory_holds_is_refused_before_room_is_made_for_it(tmp_path, settings):
    folder = save_toy(tmp_path / "toy")  # tiny weights
    LlamaConfig(vocab_size=259, hidden_size=65536, num_hidden_layers=100, intermediate_size=262144).save_pretrained(folder)
    assert "GB of memory as float32" in refusal(folder, settings)


def test_models_are_built_one_at_a_time_whatever_threads_ask_for_them(tmp_path, settings, monkeypatch):
    """Building two at once leaves one of them without its tied head: transformers patches global state meanwhile."""
    folders = [save_toy(tmp_path / name) for name in ("one", "two", "three")]
    inside, most, lock = 0, 0, threading.Lock()
    build = module._load_model

    def slow(*args):
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        time.sleep(0.05)
        try:
            return build(*args)
        finally:
            with lock:
                inside -= 1

    monkeypatch.setattr(module, "_load_model", slow)
    threads = [threading.Thread(target=load, args=(str(folder), settings)) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
