"""Adapters that came from elsewhere: what is in their files is checked before anything of it is done, and the backbone stays what it is."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from lab import EXAMPLES, Lab, add_random_adapter
from safetensors.torch import load_file, save_file
from test_checkpoint import load, refusal, save
from test_checkpoint_fit import refresh
from toy import toy_model
from transformers import AutoConfig, AutoModelForCausalLM

from gistdemo.checkpoint.manifest import COMPRESSOR_DIR
from gistdemo.model.adapter_files import CONFIG_FILE, MOST_RANK, WEIGHTS_FILE, lora_config, read_adapter, write_adapter
from gistdemo.model.adapters import AdapterHost, linear_layers
from gistdemo.settings import PROJECT_DIR


def fingerprint(lab: Lab) -> str:
    """Over every value of every weight and buffer of the backbone, adapters left out."""
    digest = hashlib.sha256()
    for name, value in sorted(lab.model.model.state_dict().items()):
        if "lora_" not in name:
            digest.update(name.replace(".base_layer", "").encode() + value.numpy().tobytes())
    return digest.hexdigest()


def settings_of(folder: Path, **changes) -> Path:
    """A checkpoint whose adapter_config.json is edited, as its own manifest would have it. A value of ... takes a field out."""
    path = folder / COMPRESSOR_DIR / CONFIG_FILE
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in values.items() if value is not ...}))
    refresh(folder)
    return folder


def tensors_of(folder: Path, change) -> Path:
    path = folder / COMPRESSOR_DIR / WEIGHTS_FILE
    save_file(change(load_file(path)), path)
    refresh(folder)
    return folder


def refused(folder: Path, monkeypatch, lab: Lab | None = None) -> str:
    """The one line with which a checkpoint is refused, before PEFT has seen anything of it."""
    lab = lab or Lab()
    before, names = fingerprint(lab), lab.model.adapters.names
    with monkeypatch.context() as patch:
        patch.setattr(AdapterHost, "_add", lambda *args: pytest.fail("the adapter got as far as PEFT"))
        text = refusal(folder, lab)
    assert fingerprint(lab) == before and lab.model.adapters.names == names
    assert text.startswith("Checkpoint 'demo': its adapter cannot be used (") and "\n" not in text and len(text) < 500
    return text


# --- attacks -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", [r".*_proj", r"((\w+\.?)+)+!", "all-linear", "q_proj"])
def test_layers_are_never_matched_by_a_pattern(tmp_path, monkeypatch, pattern):
    """The second one would be matched until the end of time, and again at every start."""
    text = refused(settings_of(save(tmp_path / "demo"), target_modules=pattern), monkeypatch)
    assert f"target_modules is {pattern!r}, allowed is a list of these names: down_proj, gate_proj, k_proj" in text


@pytest.mark.parametrize("name", ["olora", "pissa", "pissa_niter_4", "loftq", "eva", "corda", "orthogonal", False, 1, None])
def test_weights_are_never_initialised_by_the_backbone_nor_the_backbone_by_them(tmp_path, monkeypatch, name):
    text = refused(settings_of(save(tmp_path / "demo"), init_lora_weights=name), monkeypatch)
    assert f"'init_lora_weights' is {name!r}, allowed is true alone" in text


@pytest.mark.parametrize("rank", [20_000, MOST_RANK + 1, 0, -4, True, "4", 4.0, None, ..., [4], 10**30])
def test_no_room_is_made_for_a_rank_that_is_none(tmp_path, monkeypatch, rank):
    text = refused(settings_of(save(tmp_path / "demo"), r=rank), monkeypatch)
    assert f"r is {None if rank is ... else rank!r}, allowed are whole numbers from 1 to 256" in text


@pytest.mark.parametrize("rank", [1, 5, MOST_RANK])
def test_a_rank_that_is_not_that_of_the_tensors_is_refused(tmp_path, monkeypatch, rank):
    text = refused(settings_of(save(tmp_path / "demo"), r=rank), monkeypatch)
    assert f"is F16 of shape (4, 64), needed is one of F16, BF16, F32 of shape ({rank}, 64)" in text


OPTIONS = {
    "use_rslora": True,
    "use_dora": True,
    "use_qalora": True,
    "lora_bias": True,
    "fan_in_fan_out": True,
    "bias": "all",
    "rank_pattern": {"q_proj": 20_000},
    "alpha_pattern": {"(a+)+$": 4},
    "modules_to_save": ["lm_head"],
    "target_parameters": ["weight"],
    "trainable_token_indices": [1],
    "exclude_modules": "(a+)+$",
    "layers_to_transform": [0],
    "layers_pattern": "(a+)+$",
    "layer_replication": [[0, 2], [0, 2]],
    "loftq_config": {"loftq_bits": 4},
    "eva_config": {"rho": 2.0},
    "megatron_core": "os",
    "ensure_weight_tying": True,
    "qalora_group_size": 0,
    "peft_type": "IA3",
    "an_option_to_come": 3,
}


@pytest.mark.parametrize("option", OPTIONS)
def test_options_that_change_anything_are_refused(tmp_path, monkeypatch, option):
    assert f"{option!r} is {OPTIONS[option]!r}, allowed is " in refused(
        settings_of(save(tmp_path / "demo"), **{option: OPTIONS[option]}), monkeypatch
    )


@pytest.mark.parametrize("alpha", [float("nan"), float("inf"), -float("inf"), 1e7, 10**400, "8", True, None, ...])
def test_alpha_is_a_number_that_can_be_multiplied_with(tmp_path, monkeypatch, alpha):
    assert "lora_alpha is " in refused(settings_of(save(tmp_path / "demo"), lora_alpha=alpha), monkeypatch)


@pytest.mark.parametrize(
    "targets",
    [
        [],
        {"q_proj": 1, "v_proj": 1, "down_proj": 1},
        ["lm_head"],
        ["embed_tokens"],
        ["q_proj", 5],
        ["q_proj", ["v_proj"]],
        ["self_attn.q_proj"],
        ["norm"],
        [""],
        {},
        None,
        ...,
    ],
)
def test_targets_are_linear_layers_of_the_model_by_name(tmp_path, monkeypatch, targets):
    text = refused(settings_of(save(tmp_path / "demo"), target_modules=targets), monkeypatch)
    assert (
        "target_modules is " in text
        and "allowed is a list of these names: down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj" in text
    )


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\xff", b"[" * 10**5, b'{"r": ' + b"9" * 5000 + b"}"])
def test_settings_that_cannot_be_read_are_refused(tmp_path, monkeypatch, content):
    folder = save(tmp_path / "demo")
    (folder / COMPRESSOR_DIR / CONFIG_FILE).write_bytes(content)
    refresh(folder)
    assert "adapter_config.json " in refused(folder, monkeypatch)


def test_a_file_without_its_type_is_refused(tmp_path, monkeypatch):
    assert "'peft_type' is None, allowed is \"LORA\" alone" in refused(settings_of(save(tmp_path / "demo"), peft_type=...), monkeypatch)


Q = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: {name: one for name, one in t.items() if name != Q}, f"1 weights are missing and 0 have no place, first '{Q}'"),
        (lambda t: t | {"model.norm.weight": torch.zeros(32)}, "0 weights are missing and 1 have no place, first 'model.norm.weight'"),
        (lambda t: t | {Q.replace("q_proj", "k_proj"): t[Q].clone()}, "0 weights are missing and 1 have no place"),
        (lambda t: t | {Q: t[Q].T.contiguous()}, f"{Q} is F16 of shape (32, 4), needed is one of F16, BF16, F32 of shape (4, 32)"),
        (lambda t: t | {Q: t[Q].to(torch.int8)}, f"{Q} is I8 of shape (4, 32), needed is one of"),
    ],
)
def test_tensors_that_are_not_those_expected_are_refused(tmp_path, monkeypatch, change, words):
    assert words in refused(tensors_of(save(tmp_path / "demo"), change), monkeypatch)


def test_weights_that_are_no_safetensors_are_refused(tmp_path, monkeypatch):
    folder = save(tmp_path / "demo")
    (folder / COMPRESSOR_DIR / WEIGHTS_FILE).write_bytes(b"\x80\x04 a pickle")
    refresh(folder)
    refused(folder, monkeypatch)


def test_a_refused_adapter_leaves_the_one_that_is_there(tmp_path, monkeypatch):
    lab, good = Lab(), save(tmp_path / "good")
    name = load(good, lab).compress_adapter
    rows = [lab.row("gist", example, 4, name) for example in EXAMPLES]
    before = lab.ids(rows)
    refused(settings_of(save(tmp_path / "demo"), use_rslora=True), monkeypatch, lab)
    assert lab.model.adapters.names == (name,) and lab.ids(rows) == before


# --- what is taken in ----------------------------------------------------------------------------------------------------------


def test_a_backbone_is_the_same_to_the_last_value_before_and_after_adapters_are_attached(tmp_path):
    lab = Lab()
    before = fingerprint(lab)
    load(save(tmp_path / "one"), lab)
    load(save(tmp_path / "two", has_compressor=False, has_backbone_adapter=True, mode="joint"), lab)
    assert len(lab.model.adapters.names) == 2 and fingerprint(lab) == before
    next(iter(lab.model.model.parameters())).data[3, 5] += 1e-6
    assert fingerprint(lab) != before, "the smallest change would show"


def test_notes_about_where_it_comes_from_and_how_it_was_trained_change_nothing(tmp_path):
    notes = {"base_model_name_or_path": "/x/y", "revision": "main", "lora_dropout": 0.1, "peft_version": "0.9", "task_type": None}
    notes |= {
        "inference_mode": False,
        "auto_mapping": {"base_model_class": "X"},
        "an_option_to_come": None,
        "corda_config": ...,
        "loftq_config": None,
    }
    plain, noted = Lab(), Lab()
    first = load(save(tmp_path / "demo"), plain).compress_adapter
    second = load(settings_of(save(tmp_path / "other"), **notes), noted).compress_adapter
    assert noted.ids([noted.row("gist", e, 4, second) for e in EXAMPLES]) == plain.ids([plain.row("gist", e, 4, first) for e in EXAMPLES])


def test_equal_tensors_with_another_alpha_are_another_adapter(tmp_path):
    lab = Lab()
    names = [
        load(folder, lab).compress_adapter for folder in (save(tmp_path / "demo"), settings_of(save(tmp_path / "other"), lora_alpha=80))
    ]
    answers = [lab.ids([lab.row("gist", example, 4, name) for example in EXAMPLES]) for name in names]
    assert len(set(names)) == 2 and answers[0] != answers[1]


def test_what_is_written_is_read_back(tmp_path):
    lab = Lab()
    add_random_adapter(lab.model, "one", 0)
    lab.model.adapters.save("one", tmp_path)
    config, tensors = read_adapter(tmp_path, linear_layers(toy_model()))
    assert (config.r, config.lora_alpha, config.target_modules) == (4, 8, {"q_proj", "v_proj", "down_proj"})
    learnt = lab.model.adapters.parameters("one")
    assert len(tensors) == len(learnt) == 2 * 2 * 3
    for name, tensor in tensors.items():
        assert torch.equal(tensor.float(), learnt[name.removeprefix("base_model.model.").replace(".weight", ".one.weight")])


def test_the_largest_rank_fits(tmp_path):
    layers = {"layers.0.att.q_proj": (6, 5)}
    tensors = {"base_model.model.layers.0.att.q_proj.lora_A.weight": torch.ones(MOST_RANK, 5, dtype=torch.bfloat16)}
    tensors |= {"base_model.model.layers.0.att.q_proj.lora_B.weight": torch.ones(6, MOST_RANK)}
    write_adapter(tmp_path, lora_config(MOST_RANK, 0.5, ["q_proj"]), tensors)
    config, found = read_adapter(tmp_path, layers)
    assert (config.r, config.lora_alpha) == (MOST_RANK, 0.5) and len(found) == 2


# sizes of the embedded models, whose weights these tests do without
SMOLLM2 = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3}
GEMMA = {"hidden_size": 640, "intermediate_size": 2048, "num_hidden_layers": 18, "num_attention_heads": 4, "num_key_value_heads": 1}
SHIPPED = {
    "instruct/adapter": ("llama", SMOLLM2),
    "base-joint/backbone_adapter": ("gemma3_text", GEMMA | {"head_dim": 256}),
}


def test_every_shipped_adapter_is_listed_here():
    assert {
        path.parent.relative_to(PROJECT_DIR / "checkpoints").as_posix() for path in PROJECT_DIR.glob("checkpoints/*/*/adapter_config.json")
    } == set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_adapter_is_read_as_it_is(name):
    kind, sizes = SHIPPED[name]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes))
    folder = PROJECT_DIR / "checkpoints" / name
    config, tensors = read_adapter(folder, linear_layers(model))
    written = json.loads((folder / CONFIG_FILE).read_text())
    assert (config.r, config.lora_alpha, sorted(config.target_modules)) == tuple(written[n] for n in ("r", "lora_alpha", "target_modules"))
    assert {n: v for n, v in config.to_dict().items() if n not in ("inference_mode", "target_modules")} == {
        n: v for n, v in written.items() if n not in ("inference_mode", "target_modules")
    }, "the settings made here are those that PEFT would have read"
    whole = load_file(folder / WEIGHTS_FILE)
    assert tensors.keys() == whole.keys() and all(torch.equal(tensors[key], whole[key]) for key in whole)
