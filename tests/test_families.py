"""Model families, each as a tiny random model: served, trained, saved and compared as the stock model has it, or refused in one line."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
import transformers
from lab import EXAMPLES, Lab
from lessons import lesson
from oracle import greedy, lay_out
from refusals import refusal
from toy import save_toy, toy_model, toy_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from gistdemo.checkpoint.pool import ModelPool
from gistdemo.checkpoint.registry import find_checkpoint, find_row
from gistdemo.compare import compare
from gistdemo.errors import BackboneError, UsageError
from gistdemo.generation import Sampling
from gistdemo.grid import CompareRequest
from gistdemo.model import backbone as backbones
from gistdemo.model.architecture import check_architecture
from gistdemo.model.attention import attention_of
from gistdemo.model.backbone import load
from gistdemo.model.gist_model import GistModel
from gistdemo.model.lora_targets import ALL_LINEAR, ATTENTION, choose_targets
from gistdemo.model.probe import check_model
from gistdemo.model.window import ONE_MASK
from gistdemo.prompts import CHATML
from gistdemo.train.run import train

CLOSE = 2e-5  # of fp32 sums; logits here are of size 0.3 to 10
SIZES = {
    "vocab_size": 259, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 1024, "initializer_range": 0.2, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
}  # fmt: skip
HEAD = {"head_dim": 12}  # not hidden_size / heads, where a family allows that
MIXED = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 512}
EXPERTS = {"num_experts_per_tok": 2, "num_local_experts": 4}
FAMILIES = {
    "llama": {},
    "qwen2": MIXED | {"use_sliding_window": True},
    "qwen3": HEAD,
    "mistral": {"sliding_window": 512},
    "gemma": HEAD,
    "gemma2": HEAD | MIXED | {"query_pre_attn_scalar": 12, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 1.5},
    "gemma3_text": HEAD | MIXED | {"query_pre_attn_scalar": 12, "final_logit_softcapping": 1.5},
    "phi3": {"sliding_window": 512},
    "olmo2": {},
    "granite": {"logits_scaling": 3.0, "residual_multiplier": 0.7, "embedding_multiplier": 2.0, "attention_multiplier": 0.4},
    "stablelm": {"use_qkv_bias": True},
    "smollm3": {"no_rope_layers": [1, 0]},
    "glm4": HEAD,
    "cohere2": MIXED | {"logit_scale": 0.5},
    "mixtral": EXPERTS,
    "qwen3_moe": HEAD | EXPERTS | {"moe_intermediate_size": 16, "mlp_only_layers": [0]},
    "starcoder2": {"sliding_window": 512},
    "exaone4": MIXED,
}
ONE_KIND = ["mistral", "phi3", "mixtral", "qwen3_moe", "starcoder2"]  # served with one window for all layers or none, not with a mix
LORA = {  # layers that LoRA goes on when the usual seven are asked for, where these are others
    "phi3": "down_proj gate_up_proj o_proj qkv_proj",
    "glm4": "down_proj gate_up_proj k_proj o_proj q_proj v_proj",
    "starcoder2": "c_fc c_proj k_proj o_proj q_proj v_proj",
    "mixtral": "k_proj o_proj q_proj v_proj",
    "qwen3_moe": "k_proj o_proj q_proj v_proj",
}


def config_of(kind: str, **more):
    return AutoConfig.for_model(kind, **(SIZES | FAMILIES.get(kind, {}) | more))


def model_of(kind: str, **more):
    config = config_of(kind, **more)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention_of(config)).eval().requires_grad_(False)


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, tmp_path_factory) -> Path:
    """The backbone folder of each family, one after the other."""
    path = tmp_path_factory.mktemp(request.param)
    model_of(request.param).save_pretrained(path)
    toy_tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def loaded(folder, settings) -> Lab:
    """The family as a user's backbone: found in its folder, checked, probed."""
    backbone = load(str(folder), settings)
    return Lab(CHATML, backbone.tokenizer, GistModel(backbone.model))


# --- served and trained alike ------------------------------------------------------------------------------------------------


@torch.inference_mode()
def test_logits_of_training_of_serving_and_of_the_stock_model_are_the_same(loaded):
    ids, prompt, among = list(range(3, 60)), 40, torch.tensor([70, 5, 258])
    stock = loaded.model.model(input_ids=torch.tensor([ids])).logits[0]
    rows = [(ids[:prompt], ids[prompt:]), (ids[:30], ids[30:35])]
    right = torch.cat([stock[prompt - 1 : -1], stock[29:34]])
    for part in (None, among):
        ours, targets = loaded.model.answer_logits(loaded.model.empty(2), *zip(*rows, strict=True), None, part)
        assert targets.tolist() == [*ids[prompt:], *ids[30:35]]
        torch.testing.assert_close(ours, right if part is None else right[:, part], atol=CLOSE, rtol=CLOSE)
    mask, positions = torch.ones(1, len(ids), dtype=torch.long), torch.arange(len(ids))[None]
    cache = loaded.model.empty(1).to_dynamic_cache(loaded.model.config)
    served = loaded.model.next_logits([None], torch.tensor([ids]), mask, positions, cache)[0]
    torch.testing.assert_close(served, stock[-1].float(), atol=CLOSE, rtol=CLOSE)


def test_greedy_answers_after_two_phases_are_those_of_one_pass(loaded):
    """Batched rows of unequal length, with and without gist, against one sequence, one pass, one mask over the stock model."""
    cases = [("gist", EXAMPLES[1], 4), ("full", EXAMPLES[0], 0), ("gist", EXAMPLES[3], 2)]
    rows = [loaded.row(condition, example, k) for condition, example, k in cases]
    spelt = [lay_out(loaded.encoder.encode(example), condition, loaded.slots[:k]) for condition, example, k in cases]
    assert loaded.ids(rows, Sampling(6)) == [greedy(loaded.model.model, one, 6) for one in spelt]


def test_two_steps_make_a_checkpoint_that_is_attached_and_compared(folder, settings, tmp_path):
    kind = AutoConfig.from_pretrained(folder).model_type
    short = {"steps": 2, "evaluate_every": 2, "evaluate_rows": 2, "sample_rows": 0, "answer_tokens": 4, "rank": 4, "ks": (4,)}
    out = settings.data_dir / "checkpoints" / "made"
    train(lesson(tmp_path, "joint", backbone=str(folder), name="made", **short), tmp_path / "run", settings, out)
    assert find_checkpoint("made", settings.checkpoint_dirs).manifest.training["steps"] == 2
    request = CompareRequest(EXAMPLES[1], ("made", str(folder)), ("full", "gist"), 4, Sampling(4))
    pool = ModelPool(settings)
    cells = list(compare(request, pool, threading.Event()))[-1].cells
    shown = [cell for cell in cells if cell.note is None]
    assert len(shown) == 3, "a backbone as it is has no gist"
    assert all(cell.error is None and cell.finish_reason in ("eos", "limit") and cell.answer_tokens <= 4 for cell in shown)
    adapters = pool.row(find_row("made", settings))[0].model.adapters
    (name,) = adapters.names
    learnt = adapters.parameters(name)
    assert sorted({path.split(".lora_")[0].rpartition(".")[2] for path in learnt}) == LORA.get(kind, " ".join(sorted(ALL_LINEAR))).split()
    assert all(weight.abs().sum() > 0 for weight in learnt.values()), "PEFT starts B at zero: every layer has learnt"


# --- by which attention ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "more", "attention"),
    [
        ("llama", {}, "sdpa"),
        ("gemma3_text", {}, "sdpa"),
        ("gemma3_text", {"attn_logit_softcapping": 2.0}, "eager"),
        ("gemma2", {"attn_logit_softcapping": None}, "eager"),
        ("gpt_oss", {}, "eager"),
    ],
)
def test_attention_is_the_fast_one_unless_it_would_leave_something_out(kind, more, attention):
    assert attention_of(config_of(kind, **more)) == attention


def test_a_loaded_model_caps_its_scores(settings, tmp_path):
    model_of("gemma2").save_pretrained(tmp_path)
    toy_tokenizer().save_pretrained(tmp_path)
    model, ids = load(str(tmp_path), settings).model, torch.tensor([[5, 70, 71, 72]])
    assert model.config._attn_implementation == "eager"
    capped = model(ids).logits
    model.config.attn_logit_softcapping = None
    for layer in model.model.layers:
        layer.self_attn.attn_logit_softcapping = None
    assert not torch.allclose(model(ids).logits, capped, atol=1e-3), "another cap would show, or this test proves little"


# --- refused -------------------------------------------------------------------------------------------------------------------

HYBRID = {
    "qwen3_next": "layers without a key-value cache (linear_attention)",
    "bamba": "layers without a key-value cache",
    "jamba": "no rotary positions",
    "mamba2": "no rotary positions",
    "falcon_h1": "layers without a key-value cache",
}
OTHER = {
    "gpt_neox": "does not say how many key-value heads it caches (num_key_value_heads)",
    "gpt2": "no rotary positions",
    "t5": "encoder-decoder",
    "bart": "encoder-decoder",
    "deepseek_v3": "(kv_lora_rank)",
    "gemma3n_text": "(hidden_size_per_layer_input)",
    "modernbert": "is no causal language model that transformers",
}


@pytest.mark.parametrize("kind", HYBRID | OTHER)
def test_what_cannot_be_served_is_refused_in_one_line_before_anything_is_loaded(kind, settings, tmp_path, monkeypatch):
    def loads(*args):
        raise AssertionError("something was loaded")

    AutoConfig.for_model(kind).save_pretrained(save_toy(tmp_path))
    monkeypatch.setattr(backbones, "_load_tokenizer", loads)
    monkeypatch.setattr(backbones, "_load_model", loads)
    text = refusal(tmp_path, settings)
    assert f"({kind})" in text and (HYBRID | OTHER)[kind] in text and "\n" not in text
    assert text.endswith("Allowed are decoder-only models with rotary positions, such as Llama, Qwen or SmolLM2.")


def test_layers_that_share_a_cache_are_refused():
    sizes = {"hidden_size_per_layer_input": 0, "num_hidden_layers": 4, "layer_types": MIXED["layer_types"] * 2}
    check_architecture(config_of("gemma4_text", **sizes), "name")
    with pytest.raises(BackboneError, match=r"layers that read the cache of others \(num_kv_shared_layers\)"):
        check_architecture(config_of("gemma4_text", **sizes, num_kv_shared_layers=2), "name")


@pytest.mark.parametrize("kind", ONE_KIND)
@pytest.mark.parametrize("layers", [MIXED["layer_types"], ["full_attention"] * 2])
def test_layer_types_that_the_model_would_not_heed_are_refused(kind, layers):
    """With layer types, cache and masks would slide in some layers; the model takes one mask for all."""
    config = config_of(kind, use_sliding_window=True, sliding_window=512)
    check_architecture(config, "name")
    config.layer_types = layers
    with pytest.raises(BackboneError, match=r"mixes layers with and without a sliding window, .* by one mask only"):
        check_architecture(config, "name")


def test_layer_types_of_a_family_that_knows_none_are_refused():
    with pytest.raises(BackboneError, match="mixes layers with and without a sliding window"):
        check_architecture(config_of("llama", **MIXED), "name")


def test_the_list_of_types_with_one_mask_is_what_transformers_has():
    """Types that make a sliding mask and do not look for a dictionary of masks. Read from the sources that are installed."""
    models = Path(transformers.__file__).parent / "models"
    sources = {path.parent.name: path.read_text(encoding="utf-8") for path in models.glob("*/modeling_*.py")}
    sliding = {name for name, text in sources.items() if "create_sliding_window_causal_mask(" in text and "ForCausalLM(" in text}
    sliding |= {name for name, text in sources.items() if "else create_sliding_window_causal_mask" in text and "ForCausalLM(" in text}
    assert {name for name in sliding if "attention_mask, dict)" not in sources[name]} == set(ONE_MASK)


# --- the probe -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["logits_scaling", "logit_scale", "final_logit_softcapping"])
def test_logits_that_are_not_made_as_expected_are_refused(field, settings, tmp_path):
    """Llama heeds none of these: what training would do with them is not what is served."""
    toy_model().save_pretrained(tmp_path)
    toy_tokenizer().save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    setattr(config, field, 3.0)
    config.save_pretrained(tmp_path)
    assert "(llama) changes its logits after the head in a way that is not known here" in refusal(tmp_path, settings)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_in_half_precision_passes(dtype):
    """Its logits are rounded, but in the same way on both sides."""
    for kind in ("llama", "gemma2", "granite", "cohere2", "mixtral"):
        check_model(model_of(kind).to(dtype), "name")


def test_a_scale_that_multiplies_under_the_name_of_one_that_divides():
    model = model_of("hyperclovax", logits_scaling=3.0)
    check_model(model, "name")
    model.config.model_type = "granite"
    with pytest.raises(BackboneError, match="changes its logits"):
        check_model(model, "name")


def test_a_cache_of_another_form_is_refused():
    model = model_of("mimo_v2_flash", head_dim=8, v_head_dim=4, n_routed_experts=4, num_experts_per_tok=2, n_group=1, topk_group=1)
    with pytest.raises(BackboneError, match=r"caches keys and values in a form of its own.* Allowed is one of 2 heads of 8 values"):
        check_model(model, "name")


def test_a_model_that_fails_or_computes_no_numbers_is_refused():
    model = toy_model()
    model.lm_head.weight[5, 3] = float("nan")
    with pytest.raises(BackboneError, match="computes values that are not numbers"):
        check_model(model, "name")
    model.model.layers[0].mlp.up_proj = torch.nn.Linear(3, 3)
    with pytest.raises(BackboneError, match=r"cannot be run on 4 tokens \(RuntimeError: "):
        check_model(model, "name")


def test_the_probe_leaves_no_trace():
    model = toy_model()
    before, random = {name: p.clone() for name, p in model.state_dict().items()}, torch.random.get_rng_state()
    check_model(model, "name")
    assert all(torch.equal(before[name], p) for name, p in model.state_dict().items())
    assert (
        torch.equal(torch.random.get_rng_state(), random) and not model.base_model._forward_hooks and not torch.is_inference_mode_enabled()
    )


def test_a_config_no_model_can_be_built_from_is_refused(settings, tmp_path):
    config = AutoConfig.from_pretrained(save_toy(tmp_path))
    config.hidden_act = "nobody-knows-it"
    config.save_pretrained(tmp_path)
    assert "no model can be built from config.json" in refusal(tmp_path, settings)


# --- what LoRA goes on ---------------------------------------------------------------------------------------------------------

NEOX = ["layers.0.attention.query_key_value", "layers.0.attention.dense", "layers.0.mlp.dense_h_to_4h", "layers.0.mlp.dense_4h_to_h"]
FUSED = ["layers.0.self_attn.qkv_proj", "layers.0.self_attn.o_proj", "layers.0.mlp.gate_up_proj", "layers.0.mlp.down_proj"]


@pytest.mark.parametrize(
    ("paths", "asked", "found"),
    [
        (FUSED, ATTENTION, ["qkv_proj", "o_proj"]),
        (FUSED, ("down_proj",), ["down_proj"]),
        (FUSED, ("up_proj",), ["gate_up_proj", "down_proj"]),
        (FUSED, ("qkv_proj",), ["qkv_proj"]),
        (NEOX, ATTENTION, ["query_key_value", "dense"]),
        (NEOX, ALL_LINEAR, ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"]),
        (FUSED[:2], ALL_LINEAR, ["qkv_proj", "o_proj"]),
    ],
)
def test_layers_of_the_model_stand_for_usual_names_it_does_not_have(paths, asked, found):
    assert choose_targets(paths, asked) == found


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("w1",), "LoRA targets are w1, but this model has no linear layer w1. Choose from those it has: qkv_proj, o_proj"),
        (("o_proj", "w1", "w2"), "but this model has no linear layer w1, w2. "),
        (("gate_proj",), "but this model has no linear layer gate_proj. "),
        ((), "LoRA targets are none, but this model has no linear layer asked for. "),
    ],
)
def test_names_that_nothing_stands_for_are_refused(asked, words):
    with pytest.raises(UsageError) as caught:
        choose_targets(FUSED[:2], asked)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_refused_target_leaves_the_model_as_it_is():
    model = GistModel(model_of("phi3"))
    with pytest.raises(UsageError, match="no linear layer lm_head"):
        model.adapters.create("new", 4, 4, ("lm_head",), 0)
    assert model.adapters.names == () and not [name for name, _ in model.model.named_parameters() if "lora" in name]


def test_experts_in_one_tensor_get_no_adapter():
    """PEFT takes gate_proj and its like for the experts of such a model, even where a layer of that name is there."""
    model = GistModel(model_of("qwen2_moe", moe_intermediate_size=16, shared_expert_intermediate_size=16, num_experts=4))
    assert [path for path, _ in model.model.named_modules() if path.endswith("shared_expert.gate_proj")]
    model.adapters.create("new", 4, 4, ALL_LINEAR, 0)
    assert {path.split(".lora_")[0].rpartition(".")[2] for path in model.adapters.parameters("new")} == set(ATTENTION)
