"""Packed weights: the same answers, gradients as before; and engines that take turns."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
import torch
from lab import EXAMPLES, Lab, add_random_adapter
from toy import save_toy, toy_gemma, toy_model

from gistdemo.checkpoint.pool import ModelPool
from gistdemo.checkpoint.registry import ModelRow
from gistdemo.generation import Sampling
from gistdemo.memory import page_out
from gistdemo.model.gist_model import GistModel
from gistdemo.model.packed import EXACT_KERNEL, Packed, pack

needs_onednn = pytest.mark.skipif(not EXACT_KERNEL, reason="this build of torch has no oneDNN")
IDS = torch.arange(3, 90).view(3, 29)


def packed_layers(model: torch.nn.Module) -> list[str]:
    return [name for name, layer in model.named_modules() if isinstance(getattr(layer, "forward", None), Packed)]


@needs_onednn
@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("make", [toy_model, lambda: toy_gemma(window=8)], ids=["llama", "gemma"])
def test_packed_weights_give_the_same_logits(make, rows):
    model = make()
    with torch.inference_mode():
        plain = model(IDS[:rows]).logits
        pack(model)
        assert len(packed_layers(model)) % 7 == 1  # seven in each layer, and the head
        torch.testing.assert_close(model(IDS[:rows]).logits, plain, atol=1e-4, rtol=1e-4)


@needs_onednn
def test_packed_weights_are_what_is_multiplied_with():
    model = toy_model()
    pack(model)
    with torch.inference_mode():
        before = model(IDS).logits
        model.model.layers[0].mlp.up_proj.weight.mul_(2)  # the plain weight, which is not looked at any more
        assert torch.equal(model(IDS).logits, before)
    assert not torch.allclose(model(IDS).logits, before, atol=1e-3)


@needs_onednn
def test_gradients_flow_as_without_packing():
    grads = []
    for packing in (False, True):
        model = toy_model()
        if packing:
            pack(model)
        embedded = model.get_input_embeddings()(IDS).detach().requires_grad_()
        model(inputs_embeds=embedded).logits.square().mean().backward()
        grads.append(embedded.grad)
    assert torch.equal(*grads)


@needs_onednn
def test_adapters_act_on_packed_weights():
    plain, fast = GistModel(toy_model()), GistModel(toy_model())
    pack(fast.model)
    for model in (plain, fast):
        add_random_adapter(model, "one", seed=3)
    with torch.inference_mode():
        for rows in (["one"] * 3, [None, "one", None], [None] * 3):
            expected, found = (m.adapters.forward(rows, input_ids=IDS).logits for m in (plain, fast))
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@needs_onednn
def test_packing_twice_packs_once():
    model = toy_model()
    pack(model)
    first = model.lm_head.forward
    pack(model)
    assert model.lm_head.forward is first


def test_other_precisions_are_left_alone():
    model = toy_model().bfloat16()
    pack(model)
    assert packed_layers(model) == []


@needs_onednn
def test_rows_are_packed_and_what_is_trained_on_is_not(settings, tmp_path):
    folder = str(save_toy(tmp_path / "toy"))
    trained, served = ModelPool(settings).backbone(folder).model, ModelPool(settings).row(ModelRow(folder, folder))[0].model
    assert packed_layers(trained.model) == [] and not trained.is_final and trained._pass is None
    assert served.is_final and served._pass.is_packed


def test_paging_out_loses_nothing():
    for tensor in (torch.arange(100_000.0), torch.arange(3.0), torch.empty(0)):
        before = tensor.clone()
        page_out(tensor)
        assert torch.equal(tensor, before)


def test_models_step_in_turn_and_one_thread_computes_for_all(monkeypatch):
    labs, order = [Lab(), Lab()], []

    def watched(number, real):
        return lambda *given: order.append((number, threading.current_thread().name)) or real(*given)

    for number, lab in enumerate(labs):
        monkeypatch.setattr(lab.model, "next_logits", watched(number, lab.model.next_logits))
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda lab: lab.ids([lab.row("full", EXAMPLES[0])], Sampling(20)), labs))
    switches = sum(a != b for (a, _), (b, _) in pairwise(order))
    assert len(order) == 40 and switches >= 25, order
    assert {thread for _, thread in order} == {"compute_0"}


def test_a_request_that_fails_leaves_the_next_one_its_turn(monkeypatch):
    lab = Lab()
    with monkeypatch.context() as broken:
        broken.setattr(lab.model, "compress", lambda rows: 1 / 0)
        assert lab.generate([lab.row("gist", EXAMPLES[0])])[0].reason == "error"
    assert lab.generate([lab.row("gist", EXAMPLES[0])])[0].reason == "limit"
