"""Steps of decoding of our own: the stock model's tokens and logits, whatever the rows, their adapters and their lengths."""

from __future__ import annotations

import pytest
import torch
from lab import ADAPTERS, EXAMPLES, Lab, add_random_adapter
from test_families import model_of
from toy import save_toy, toy_gemma, toy_model, toy_tokenizer

from gistdemo.checkpoint.pool import ModelPool
from gistdemo.generation import Sampling
from gistdemo.model import llama_pass
from gistdemo.model.gist_model import GistModel
from gistdemo.model.llama_pass import FAMILIES, LlamaRows, fits
from gistdemo.model.packed import FAST_KERNEL, Packed, computing, fast_kernel
from gistdemo.prompts import CHATML

CLOSE = 1e-4  # two orders of fp32 sums; logits here are of size 1 to 10
PROMPTS = [[3, 4, 5, 6, 7], [9, 8, 7], list(range(40, 60)), [1]]  # one longer than the windows here
MAKES = {
    "llama": toy_model,
    "qwen2": lambda: model_of("qwen2", sliding_window=8),
    "qwen3": lambda: model_of("qwen3"),
    "mistral": lambda: model_of("mistral", sliding_window=8),
    "gemma3_text": lambda: toy_gemma(window=8),
}
CONDITIONS = ("full", "gist", "truncated", "none", "blind")


def pair(make) -> tuple[GistModel, GistModel]:
    """A model as it is, and an equal one made ready to answer fast; two adapters on each, put on after that."""
    plain, quick = GistModel(make()), GistModel(make())
    quick.quicken()
    for model in (plain, quick):
        for seed, name in enumerate(ADAPTERS):
            add_random_adapter(model, name, seed)
    return plain, quick


def started(model: GistModel, adapters, greedy: bool = False):
    """The prompts read: what goes on from there, and the first logits."""
    logits, decoding = model.read(adapters, [model.empty(len(adapters))], PROMPTS[: len(adapters)], greedy)
    return decoding, logits


def test_every_family_that_is_served_is_tried_here():
    assert set(MAKES) == set(FAMILIES)


@torch.inference_mode()
@pytest.mark.parametrize("adapters", [[None], [None, "one", "two", "one"], ["two", "two", "two"], ["one", "one", None, None]])
@pytest.mark.parametrize("kind", MAKES)
def test_logits_are_those_of_the_stock_model(kind, adapters, monkeypatch):
    """Over more steps than there is room at first, past the window, with padding on the left."""
    monkeypatch.setattr(llama_pass, "ROOM", 5)
    plain, quick = pair(MAKES[kind])
    (stock, logits), (ours, found) = started(plain, adapters), started(quick, adapters)
    assert isinstance(ours, LlamaRows)
    for _ in range(24):
        torch.testing.assert_close(found, logits, atol=CLOSE, rtol=0)
        ids = logits.argmax(-1)
        logits, found = stock.next_logits(ids, False), ours.next_logits(ids, False)


@torch.inference_mode()
@pytest.mark.parametrize("adapter", [None, "one"])
@pytest.mark.parametrize("kind", MAKES)
def test_known_answers_have_the_logits_of_the_stock_model(kind, adapter):
    """On top of nothing, and of what has been read before."""
    found = []
    for model in pair(MAKES[kind]):
        read = model.read([adapter] * 4, [model.empty(4)], PROMPTS, False)[1].held()
        for cache in (model.empty(4), read):
            logits, targets = model.answer_logits(cache, PROMPTS[::-1], [[7, 8, 9], [3], [4, 5], [9] * 12], adapter)
            found.append((logits, targets))
    for (stock, targets), (ours, same) in zip(found[:2], found[2:], strict=True):
        torch.testing.assert_close(ours, stock, atol=CLOSE, rtol=0)
        assert targets.tolist() == same.tolist()


@torch.inference_mode()
@pytest.mark.parametrize("kind", MAKES)
def test_rows_that_end_and_rows_that_join_leave_the_others_as_they_are(kind):
    """Rows of two batches of unequal length put together, less and less of them; the stock model never saw them apart."""
    plain, quick = pair(MAKES[kind])
    adapters = [None, "one", "two", "one"]
    (stock, logits), (ours, _) = started(plain, adapters), started(quick, adapters)
    late, first = started(quick, adapters)
    for kept in ([0, 1, 2, 3], [0, 2, 3], [1, 2], [1]):
        ids = logits.argmax(-1)[kept]
        stock = plain.decoding([stock.adapters[n] for n in kept], [stock.held().row(n) for n in kept])
        both = [ours.held().row(n) for n in kept] + [late.held().row(n) for n in range(4)]
        ours = quick.decoding([*(ours.adapters[n] for n in kept), *adapters], both)
        logits, found = stock.next_logits(ids, False), ours.next_logits(torch.cat([ids, first.argmax(-1)]), False)
        torch.testing.assert_close(found[: len(kept)], logits, atol=CLOSE, rtol=0)


@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
def test_the_engine_gives_the_same_answers(kind):
    """All conditions and adapters in one batch, after gists; greedy and sampled."""
    plain, quick = (Lab(CHATML, toy_tokenizer(), model) for model in pair(MAKES[kind]))
    for sampling in (Sampling(40), Sampling(20, temperature=0.8, top_p=0.9, seed=3)):
        answers = [
            lab.ids([lab.row(c, e, 4, a, d) for c in CONDITIONS for e in EXAMPLES for a, d in ((None, None), ("one", "two"))], sampling)
            for lab in (plain, quick)
        ]
        assert answers[0] == answers[1] and len({tuple(ids) for ids in answers[0]}) > 10


def test_other_models_take_the_stock_forward_pass():
    for kind in ("olmo2", "gemma2", "granite"):
        model = GistModel(model_of(kind))
        model.quicken()
        assert not isinstance(started(model, [None])[0], LlamaRows), kind
    assert not fits(model_of("gemma3_text", attn_logit_softcapping=2.0)), "scores that are capped need eager attention"
    assert fits(model_of("gemma3_text")) and not fits(toy_model().bfloat16()), "norms are computed in the precision of the rest"


def test_what_is_trained_on_takes_the_stock_forward_pass(settings, tmp_path):
    """Its weights move, and tensors that were found once would not."""
    model = ModelPool(settings).backbone(str(save_toy(tmp_path / "toy"))).model
    assert not isinstance(started(model, [None])[0], LlamaRows)


# --- kernels -------------------------------------------------------------------------------------------------------------

needs_fast = pytest.mark.skipif(not FAST_KERNEL, reason="this processor has no kernel for 16-bit weights")


def layer(out: int = 4000, width: int = 64, bias: bool = False, seed: int = 0) -> torch.nn.Linear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torch.nn.Linear(width, out, bias).requires_grad_(False)


@torch.inference_mode()
@pytest.mark.parametrize("bias", [False, True])
def test_greedy_finds_the_largest_and_its_value(bias):
    plain = layer(bias=bias)
    x = torch.randn(50, 64, generator=torch.Generator().manual_seed(1)) * torch.logspace(-3, 3, 50)[:, None]
    exact, found = plain(x), Packed(plain).greedy(x)
    assert torch.equal(found.argmax(-1), exact.argmax(-1))
    torch.testing.assert_close(found.amax(-1), exact.amax(-1))


@torch.inference_mode()
def test_greedy_tells_apart_what_rounded_numbers_cannot():
    """Every weight row is nearly the first, the difference lost in 8 bits: without its bound greedy chooses wrongly, with it never."""
    plain, generator = layer(200), torch.Generator().manual_seed(2)
    plain.weight.copy_(plain.weight[:1] * (1 + 1e-3 * torch.rand(200, 64, generator=generator)))
    x, packed = torch.randn(50, 64, generator=generator), Packed(plain)
    exact = plain(x).argmax(-1)
    assert torch.equal(packed.greedy(x).argmax(-1), exact)
    object.__setattr__(packed._eighths, "per_norm", 0.0)
    object.__setattr__(packed._eighths, "per_largest", 0.0)
    assert not torch.equal(packed.greedy(x).argmax(-1), exact)


@torch.inference_mode()
@pytest.mark.parametrize("shape", ["plain", "one large input", "one large weight", "one large output", "zeros", "constant"])
@pytest.mark.parametrize("size", [1e-6, 1e-20, 1.0, 1e6, 1e15])
def test_no_output_that_can_be_the_largest_is_left_out(shape, size):
    """The bound: what a rough product leaves below the largest is below it exactly, whatever weights and inputs look like."""
    plain, generator = layer(3000), torch.Generator().manual_seed(5)
    x = torch.randn(40, 64, generator=generator) * size
    match shape:
        case "one large input":
            x[:, 7] *= 1e4
        case "one large weight":
            plain.weight[11, 3] = 50.0
        case "one large output":
            plain.weight[2] *= 30
        case "zeros":
            plain.weight[:, 5], plain.weight[17], x[3] = 0, 0, 0
        case "constant":
            plain.weight.copy_(torch.ones_like(plain.weight))
    before = plain.weight.clone()
    exact, found = plain(x), Packed(plain).greedy(x)
    torch.testing.assert_close(found.amax(-1), exact.amax(-1), rtol=1e-4, atol=0)
    chosen = exact.gather(1, found.argmax(-1, keepdim=True))[:, 0]
    torch.testing.assert_close(chosen, exact.amax(-1), rtol=1e-5, atol=0)
    assert torch.equal(plain.weight, before)


@torch.inference_mode()
def test_greedy_keeps_values_that_are_not_numbers():
    x = torch.ones(3, 64)
    x[1, 5] = torch.nan
    assert Packed(layer()).greedy(x).sum(-1).isfinite().tolist() == [True, False, True]


NATIVE_BF16 = any(torch.cpu.get_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16"))


@torch.inference_mode()
@needs_fast
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("kernel", "share"), [("fp16", 2.0**-11), ("bf16", 2.0**-8)])
def test_fast_products_are_off_by_the_rounding_of_numbers_and_no_more(kernel, share, bias):
    """By Cauchy-Schwarz; in bf16 weights, inputs and outputs are rounded, by half of `share` each."""
    if kernel == "bf16" and not NATIVE_BF16:
        pytest.skip("this processor does not multiply bf16")
    plain, other = layer(bias=bias), layer(500, bias=bias, seed=1)
    x, packed = torch.randn(9, 64, generator=torch.Generator().manual_seed(4)), Packed(plain, other)
    exact = torch.cat([plain(x), other(x)], -1)
    off, most = (packed.kernels[kernel](x) - exact).abs(), x.norm(dim=-1, keepdim=True) * plain.weight.norm(dim=1).max()
    assert 0 < off.max() and (off <= 1.05 * share * most + 1e-6).all()
    torch.testing.assert_close(packed.exact(x), exact, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
@needs_fast
@pytest.mark.parametrize("size", [1e6, 1e8])
def test_what_fp16_cannot_hold_is_computed_exactly(size, monkeypatch):
    monkeypatch.setattr("gistdemo.model.packed.fast_kernel", lambda: "fp16")
    plain = layer()
    plain.weight.mul_(size)
    x, packed, before = torch.randn(20, 64), Packed(plain), plain.weight.clone()
    assert torch.equal(packed.fast(x), packed.exact(x)) and torch.equal(plain.weight, before)


def test_the_choice_of_a_kernel_moves_nobodys_random_numbers():
    before = torch.random.get_rng_state()
    fast_kernel.cache_clear()
    assert fast_kernel() in ("fp16", "bf16") and torch.equal(torch.random.get_rng_state(), before)


@torch.inference_mode()
@needs_fast
def test_the_precision_is_that_of_the_thread():
    x, packed = torch.randn(2, 64), Packed(layer())
    with computing("fast"):
        assert torch.equal(packed(x), packed.fast(x))
        with computing("exact"):
            assert torch.equal(packed(x), packed.exact(x))
        assert torch.equal(packed(x), packed.fast(x))
    assert torch.equal(packed(x), packed.exact(x)) and not torch.equal(packed(x), packed.fast(x))


@needs_fast
def test_a_fast_answer_is_computed_fast_from_the_first_token_on(monkeypatch):
    used = []
    monkeypatch.setattr(Packed, "exact", lambda self, x: used.append("exact"))
    model = GistModel(toy_model())
    model.quicken()
    lab = Lab(CHATML, toy_tokenizer(), model)
    assert len(lab.ids([lab.row(c, EXAMPLES[0]) for c in CONDITIONS], Sampling(12, precision="fast"))[0]) == 12 and not used


@needs_fast
@pytest.mark.parametrize("precision", ["exact", "fast"])
@pytest.mark.parametrize("kind", ["llama", "olmo2"])
def test_an_engine_is_prepared_for_one_precision_and_holds_no_copies_for_another(kind, precision, monkeypatch):
    """The head of a model with a pass of our own is looked at in 8 bits; elsewhere it is multiplied as it is."""
    made, kernels = [], {"_exact", "_bf16", "_fp16", "_eighths"}
    plain = Packed._laid_out
    monkeypatch.setattr(Packed, "_laid_out", lambda self, make: made.append(self) or plain(self, make))
    model = GistModel(MAKES[kind]() if kind in MAKES else model_of(kind))
    model.quicken()
    assert not made, "none before it is known which"
    lab = Lab(CHATML, toy_tokenizer(), model)
    lab.engine.prepare(precision)
    product = "_exact" if precision == "exact" else f"_{fast_kernel()}"
    found = {tuple(kernels & set(packed.__dict__)) for packed in made}
    assert found == ({("_eighths",), (product,)} if kind == "llama" else {(product,)})
    before = len(made)
    assert before == 1 + (4 if kind == "llama" else 7) * model.config.num_hidden_layers, "layers that read the same input are one product"
    lab.ids([lab.row("full", EXAMPLES[0]), lab.row("gist", EXAMPLES[0])], Sampling(8, precision=precision))
    assert len(made) == before, "and no answer makes another copy"
