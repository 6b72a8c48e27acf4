"""One step of decoding for models of Llama's shape: the stock model's arithmetic without what its forward pass does around it.

With few rows on a processor a step of the stock model spends a third of its time on copying a cache that grows by one place, on masks
and on objects. Here keys and values have room to grow, and every layer is a list of tensors and products found once. The products are
the model's own layers, packed or not (`gistdemo.model.packed`); so are its embedding and its rotary positions.

Letters as in `gistdemo.model`; H heads, KV key-value heads, G = H / KV.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor
from torch.nn.functional import pad

from gistdemo.model.adapters import Route, routes
from gistdemo.model.gist_cache import GistCache, side_by_side
from gistdemo.model.head import finished
from gistdemo.model.packed import Packed, current
from gistdemo.model.window import window_of

FAMILIES = ("gemma3_text", "llama", "mistral", "qwen2", "qwen3")  # read in transformers 5.23; tests compare each with the stock model
ROOM = 64  # places by which a cache grows
Product = Callable[[Tensor], Tensor]
# what an adapter adds: its A's side by side (in, ranks); of each layer that has one, its number and its B (rank, out), scaled
Added = tuple[Tensor, list[tuple[int, Tensor]]]
Lora = dict[tuple[str, ...], Added]  # by paths of layers


def fits(model: Any) -> bool:
    """Whether `LlamaStep` serves this model: its type, plain attention, and fp32, for norms and softmax are computed as the rest is."""
    return model.config.model_type in FAMILIES and model.config._attn_implementation == "sdpa" and model.dtype == torch.float32


@dataclass(frozen=True)
class _Products:
    """Linear layers that read the same input. paths: their names in the model, by which adapters find them."""

    paths: tuple[str, ...]
    products: tuple[Product, ...]

    def __call__(self, x: Tensor, lora: Sequence[tuple[Route, Lora]]) -> list[Tensor]:
        """x: (B, in) -> (B, out) each, adapters added to the rows that named them."""
        found = [product(x) for product in self.products]
        for at, adapter in lora:
            if self.paths in adapter:
                down, ups = adapter[self.paths]
                parts = torch.split(x[at] @ down, [up.shape[0] for _, up in ups], -1)
                for part, (n, up) in zip(parts, ups, strict=True):
                    found[n][at] += part @ up
        return found


class _Norm:
    """Root mean square norm of (N, E), in half the passes of torch's own."""

    def __init__(self, weight: Tensor, eps: float):
        width = weight.shape[0]
        self._weight, self._floor = weight * width**0.5, weight.new_full((1, 1, 1), width * eps)

    def __call__(self, x: Tensor) -> Tensor:
        squares = torch.baddbmm(self._floor, x[:, None], x[:, :, None])  # (N, 1, 1)
        normed: Tensor = (x * self._weight).mul_(squares[:, 0].rsqrt_())
        return normed


Norms = tuple[_Norm, _Norm | None, _Norm, _Norm | None]


@dataclass(frozen=True)
class _Layer:
    """norms: before attention, after it, before the feed-forward, after it. query, key: their norms. None: there is none."""

    kind: str
    attention: _Products
    output: _Products
    gate_up: _Products
    down: _Products
    norms: Norms
    query: _Norm | None
    key: _Norm | None
    scale: float
    act: Callable[[Tensor], Tensor]


class LlamaStep:
    """The layers of one model. Holds no state of any request; adapters are read when first asked for and kept."""

    def __init__(self, model: Any, adapters: Any):
        """adapters: the `AdapterHost` of the model. Raises: AttributeError: the model has not the shape that its type promises."""
        self._inner, self._adapters, self._config = model.base_model, adapters, model.config
        self._head = model.get_output_embeddings().forward
        self._window = window_of(model.config)
        self._paths = {module: path for path, module in model.named_modules()}
        self._eps, self._gemma = model.config.rms_norm_eps, model.config.model_type == "gemma3_text"
        self._layers = [self._layer(layer) for layer in self._inner.layers]
        self._kinds = dict.fromkeys(layer.kind for layer in self._layers)
        self._norm = self._normed(self._inner.norm)
        self._lora: dict[str, Lora] = {}

    def _normed(self, norm: Any) -> _Norm:
        return _Norm(norm.weight.detach() + (1.0 if self._gemma else 0.0), self._eps)

    def _layer(self, layer: Any) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        first, second = self._normed(layer.input_layernorm), self._normed(layer.post_attention_layernorm)
        norms: Norms = (first, None, second, None)
        if self._gemma:
            norms = (first, second, self._normed(layer.pre_feedforward_layernorm), self._normed(layer.post_feedforward_layernorm))
        sliding = self._window is not None and getattr(attention, "sliding_window", self._window) is not None
        return _Layer(
            kind="sliding_attention" if sliding else "full_attention",
            attention=self._products(attention.q_proj, attention.k_proj, attention.v_proj),
            output=self._products(attention.o_proj),
            gate_up=self._products(mlp.gate_proj, mlp.up_proj),
            down=self._products(mlp.down_proj),
            norms=norms,
            query=self._normed(attention.q_norm) if hasattr(attention, "q_norm") else None,
            key=self._normed(attention.k_norm) if hasattr(attention, "k_norm") else None,
            scale=attention.scaling,
            act=mlp.act_fn,
        )

    def _products(self, *layers: Any) -> _Products:
        """Adapters are added here: what PEFT has put around a layer is left out."""
        plain = [layer.get_base_layer() if isinstance(layer, LoraLayer) else layer for layer in layers]
        return _Products(tuple(self._paths[layer] for layer in layers), tuple(layer.forward for layer in plain))

    def logits(self, hidden: Tensor, greedy: bool) -> Tensor:
        """(B, V) fp32 of last hidden states (B, E). greedy: see `Packed.greedy`."""
        product = self._head.greedy if greedy and isinstance(self._head, Packed) and current() == "exact" else self._head
        return finished(product(hidden), self._config).float()

    def hidden(self, rows: LlamaDecoding, ids: Tensor) -> Tensor:
        """Read one token of each row, ids (B,), into the newest place, and return its last hidden state (B, E), after the last norm."""
        x = self._inner.embed_tokens(ids)
        turns = {kind: self._turn(x, rows.positions[:, rows.length - 1 : rows.length], kind) for kind in self._kinds}
        masks = self._masks(rows, x.dtype)
        lora = [(at, self._lora_of(name)) for at, name in routes(rows.adapters)]
        for n, layer in enumerate(self._layers):
            before, after, before_feed, after_feed = layer.norms
            added = self._attend(rows, n, before(x), turns[layer.kind], masks[layer.kind], lora)
            x = x + (after(added) if after else added)
            gate, up = layer.gate_up(before_feed(x), lora)
            (added,) = layer.down(layer.act(gate).mul_(up), lora)
            x = x + (after_feed(added) if after_feed else added)
        return self._norm(x)

    def _turn(self, x: Tensor, positions: Tensor, kind: str) -> tuple[Tensor, Tensor]:
        """Cosines (B, 1, D), and sines with the sign that `_rotated` needs."""
        cos, sin = self._inner.rotary_emb(x, positions, kind) if self._gemma else self._inner.rotary_emb(x, positions)
        half = sin.shape[-1] // 2
        return cos, torch.cat([-sin[..., :half], sin[..., half:]], -1)

    def _masks(self, rows: LlamaDecoding, dtype: torch.dtype) -> dict[str, Tensor]:
        """By kind of layer: (B * KV, 1, P + T) to add to the scores. See `gistdemo.model.window`."""
        seen = rows.mask[:, : rows.length].bool()
        found = {"full_attention": seen}
        if self._window is not None:
            positions = rows.positions[:, : rows.length]
            found["sliding_attention"] = seen & (positions > positions[:, -1:] - self._window)
        smallest = torch.finfo(dtype).min
        heads = rows.keys[0].shape[0] // len(seen)
        return {kind: torch.where(found[kind], 0.0, smallest).to(dtype).repeat_interleave(heads, 0)[:, None] for kind in self._kinds}

    def _attend(
        self, rows: LlamaDecoding, n: int, x: Tensor, turn: tuple[Tensor, Tensor], mask: Tensor, lora: Sequence[tuple[Route, Lora]]
    ) -> Tensor:
        layer, keys, values, now = self._layers[n], rows.keys[n], rows.values[n], rows.length - 1
        size, (both, _, depth) = len(x), keys.shape
        query, key, value = layer.attention(x, lora)
        query, key = query.view(-1, depth), key.view(-1, depth)
        if layer.query and layer.key:
            query, key = layer.query(query), layer.key(key)
        keys[:, now], values[:, now] = _rotated(key.view(size, -1, depth), turn).view(both, depth), value.view(both, depth)
        grouped = _rotated(query.view(size, -1, depth), turn).view(both, -1, depth)  # the G heads that share a key stand together
        scores = torch.baddbmm(mask, grouped, keys[:, : rows.length].mT, alpha=layer.scale)  # (B * KV, G, P + T)
        (found,) = layer.output(torch.bmm(scores.softmax(-1), values[:, : rows.length]).view(size, -1), lora)
        return found

    def _lora_of(self, name: str) -> Lora:
        if name not in self._lora:
            tensors = self._adapters.tensors(name)
            groups = [g for layer in self._layers for g in (layer.attention, layer.output, layer.gate_up, layer.down)]
            self._lora[name] = {g.paths: found for g in groups if (found := _together(g.paths, tensors))}
        return self._lora[name]


def _rotated(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary positions of (B, heads, D)."""
    cos, sin = turn
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


def _together(paths: Sequence[str], tensors: dict[str, tuple[Tensor, Tensor]]) -> Added | None:
    """What an adapter adds to layers that read the same input. None: nothing."""
    there = [(n, *tensors[path]) for n, path in enumerate(paths) if path in tensors]
    if not there:
        return None
    return torch.cat([down for _, down, _ in there], 1), [(n, up) for n, _, up in there]


class LlamaDecoding:
    """Rows that are being answered by `LlamaStep`. keys, values: per layer (B * KV, room, D), `length` places of them filled."""

    def __init__(self, step: LlamaStep, adapters: Sequence[str | None], caches: Sequence[GistCache]):
        """caches: of the rows, in their order, which this one does not change."""
        self._step, self.adapters = step, list(adapters)
        self.length = max(cache.length for cache in caches)
        self.keys, self.values = (
            [side_by_side([t[n] for t in tensors], self.length, ROOM).flatten(0, 1) for n in range(len(tensors[0]))]
            for tensors in ([c.keys for c in caches], [c.values for c in caches])
        )
        self.mask = torch.cat([pad(pad(c.mask, (self.length - c.length, 0)), (0, ROOM), value=1) for c in caches])
        self.positions = torch.cat([pad(c.all_positions(), (self.length - c.length, ROOM)) for c in caches])

    def next_logits(self, ids: Tensor, greedy: bool) -> Tensor:
        self.add_place()
        return self._step.logits(self._step.hidden(self, ids), greedy)

    def add_place(self) -> None:
        """Make room for one more token of every row, at the next position."""
        if self.length == self.mask.shape[1]:
            self.keys, self.values = ([pad(t, (0, 0, 0, ROOM)) for t in tensors] for tensors in (self.keys, self.values))
            self.mask = pad(self.mask, (0, ROOM), value=1)
            self.positions = pad(self.positions, (0, ROOM))
        self.positions[:, self.length] = self.positions[:, self.length - 1] + 1
        self.length += 1

    def held(self) -> GistCache:
        def filled(tensors: list[Tensor]) -> tuple[Tensor, ...]:
            return tuple(t[:, : self.length].view(len(self.adapters), -1, self.length, t.shape[-1]) for t in tensors)

        mask, positions = self.mask[:, : self.length], self.positions[:, : self.length]
        return GistCache(filled(self.keys), filled(self.values), mask, positions[:, -1] + 1, positions)
