"""A forward pass of our own for models of Llama's shape: the stock model's arithmetic without what its forward pass does around it.

With few rows on a processor the stock model spends a third of its time on copying a cache that grows, on masks and on objects. Here keys
and values have room to grow, and every layer is a list of tensors and products found once. Products that read the same input are one,
packed or not (`gistdemo.model.packed`); the embedding and the rotary positions are the model's own.

Letters as in `gistdemo.model`; H heads, KV key-value heads, G = H / KV; N = B * T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from gistdemo.model.adapters import Route, routes
from gistdemo.model.gist_cache import GistCache, side_by_side
from gistdemo.model.head import finished
from gistdemo.model.packed import Packed, can_be_packed
from gistdemo.model.window import window_of

FAMILIES = ("gemma3_text", "llama", "mistral", "qwen2", "qwen3")  # read in transformers 5.23; tests compare each with the stock model
ROOM = 64  # places by which a cache grows
# what an adapter adds: its A's side by side (in, ranks); of each layer that has one, its number and its B (rank, out), scaled
Added = tuple[Tensor, list[tuple[int, Tensor]]]
Lora = dict[tuple[str, ...], Added]  # by paths of layers


def fits(model: Any) -> bool:
    """Whether `LlamaPass` serves this model: its type, plain attention, and fp32, for norms and softmax are computed as the rest is."""
    return model.config.model_type in FAMILIES and model.config._attn_implementation == "sdpa" and model.dtype == torch.float32


class _Products:
    """Linear layers that read the same input. paths: their names in the model, by which adapters find them."""

    def __init__(self, paths: tuple[str, ...], layers: Sequence[torch.nn.Linear], join: int = 1):
        """join: how many of the first layers give their outputs side by side."""
        self.paths = paths
        self.packed = Packed(*layers) if all(map(can_be_packed, layers)) else None
        self._layers, self._sizes = layers, [layer.out_features for layer in layers]
        self._parts = [sum(self._sizes[:join]), *self._sizes[join:]]

    def __call__(self, x: Tensor, lora: Sequence[tuple[Route, Lora]]) -> Sequence[Tensor]:
        """x: (N, in) -> (N, out) each, adapters added to the tokens of rows that named them."""
        whole = self.packed(x) if self.packed else torch.cat([layer(x) for layer in self._layers], -1)
        for at, adapter in lora:
            if self.paths in adapter:
                down, ups = adapter[self.paths]
                parts = torch.split(x[at] @ down, [up.shape[0] for _, up in ups], -1)
                for part, (n, up) in zip(parts, ups, strict=True):
                    start = sum(self._sizes[:n])
                    whole[at, start : start + self._sizes[n]] += part @ up
        return torch.split(whole, self._parts, -1) if len(self._parts) > 1 else (whole,)


class _Norm:
    """Root mean square norm over the last dimension, in a third of the time of torch's own."""

    def __init__(self, weight: Tensor, eps: float):
        """weight: (E,), or (heads, D)."""
        width = weight.shape[-1]
        self._weight, self._floor = weight * width**0.5, weight.new_tensor((width * eps) ** 0.5)

    def __call__(self, x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        normed: Tensor = (x * self._weight).div_(torch.hypot(length, self._floor))
        return normed


Norms = tuple[_Norm, _Norm | None, _Norm, _Norm | None]


@dataclass(frozen=True)
class _Layer:
    """norms: before attention, after it, before the feed-forward, after it. query_key: of each of their heads. None: there is none."""

    kind: str
    attention: _Products
    output: _Products
    gate_up: _Products
    down: _Products
    norms: Norms
    query_key: _Norm | None
    scale: float
    act: Callable[[Tensor], Tensor]

    @property
    def products(self) -> tuple[_Products, ...]:
        return (self.attention, self.output, self.gate_up, self.down)


class LlamaPass:
    """The layers of one model. Holds no state of any request; adapters are read when first asked for and kept."""

    def __init__(self, model: Any, adapters: Any):
        """adapters: the `AdapterHost` of the model. Raises: AttributeError: the model has not the shape that its type promises."""
        self._inner, self._adapters, self._config = model.base_model, adapters, model.config
        head = model.get_output_embeddings()
        self._head: Any = Packed(head) if can_be_packed(head) else head
        self._window = window_of(model.config)
        self._paths = {module: path for path, module in model.named_modules()}
        self._eps, self._gemma = model.config.rms_norm_eps, model.config.model_type == "gemma3_text"
        self._layers = [self._layer(layer) for layer in self._inner.layers]
        self._kinds = dict.fromkeys(layer.kind for layer in self._layers)
        self._norm = self._normed(self._inner.norm)
        self._lora: dict[str, Lora] = {}

    def prepare(self) -> None:
        """Make the packed copies that greedy answers need in the current precision."""
        for layer in self._layers:
            for products in layer.products:
                if products.packed:
                    products.packed.prepare()
        if isinstance(self._head, Packed):
            self._head.prepare(greedy=True)

    @property
    def is_packed(self) -> bool:
        return isinstance(self._head, Packed)

    def _normed(self, norm: Any) -> _Norm:
        return _Norm(self._weight_of(norm), self._eps)

    def _weight_of(self, norm: Any) -> Tensor:
        weight: Tensor = norm.weight.detach()
        return weight + 1.0 if self._gemma else weight

    def _of_heads(self, attention: Any) -> _Norm:
        """The norms of all queries and keys as one, (H + KV, D)."""
        keys, each = self._config.num_key_value_heads, self._config.num_attention_heads // self._config.num_key_value_heads
        norms = [(attention.q_norm, keys * each), (attention.k_norm, keys)]
        return _Norm(torch.cat([self._weight_of(norm).expand(heads, -1) for norm, heads in norms]), self._eps)

    def _layer(self, layer: Any) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        first, second = self._normed(layer.input_layernorm), self._normed(layer.post_attention_layernorm)
        norms: Norms = (first, None, second, None)
        if self._gemma:
            norms = (first, second, self._normed(layer.pre_feedforward_layernorm), self._normed(layer.post_feedforward_layernorm))
        sliding = self._window is not None and getattr(attention, "sliding_window", self._window) is not None
        return _Layer(
            kind="sliding_attention" if sliding else "full_attention",
            attention=self._products(attention.q_proj, attention.k_proj, attention.v_proj, join=2),
            output=self._products(attention.o_proj),
            gate_up=self._products(mlp.gate_proj, mlp.up_proj),
            down=self._products(mlp.down_proj),
            norms=norms,
            query_key=self._of_heads(attention) if hasattr(attention, "q_norm") else None,
            scale=attention.scaling,
            act=mlp.act_fn,
        )

    def _products(self, *layers: Any, join: int = 1) -> _Products:
        """Adapters are added here: what PEFT has put around a layer is left out."""
        plain: list[Any] = [layer.get_base_layer() if isinstance(layer, LoraLayer) else layer for layer in layers]
        return _Products(tuple(self._paths[layer] for layer in layers), plain, join)

    def embedded(self, ids: Tensor) -> Tensor:
        """Ids (B, T) -> (B, T, E), as the layers receive them."""
        found: Tensor = self._inner.embed_tokens(ids)
        return found

    def logits(self, hidden: Tensor, greedy: bool) -> Tensor:
        """(B, V) fp32 of last hidden states (B, E). greedy: see `Packed.greedy`."""
        product = self._head.greedy if greedy and self.is_packed else self._head
        return finished(product(hidden), self._config).float()

    def hidden(self, rows: LlamaRows, x: Tensor, last: int = 1) -> Tensor:
        """Read T tokens of each row, embedded as x (B, T, E), into the newest places; return the hidden states of the `last` ones of each
        (B * last, E), normed."""
        size, new, _ = x.shape
        x = x.flatten(0, 1)
        turns = {kind: self._turn(x, rows.positions[:, rows.length - new : rows.length], kind) for kind in self._kinds}
        masks = self._masks(rows, new, x.dtype)
        lora = [(_tokens(at, new), self._lora_of(name)) for at, name in routes(rows.adapters)]
        for n, layer in enumerate(self._layers):
            before, after, before_feed, after_feed = layer.norms
            added = self._attend(rows, n, before(x), turns[layer.kind], masks[layer.kind], lora)
            x = x + (after(added) if after else added)
            gate, up = layer.gate_up(before_feed(x), lora)
            (added,) = layer.down(layer.act(gate).mul_(up), lora)
            x = x + (after_feed(added) if after_feed else added)
        return self._norm(x.view(size, new, -1)[:, -last:].flatten(0, 1))

    def _turn(self, x: Tensor, positions: Tensor, kind: str) -> tuple[Tensor, Tensor]:
        """Cosines (N, 1, D), and sines with the sign that `_rotated` needs."""
        cos, sin = self._inner.rotary_emb(x, positions, kind) if self._gemma else self._inner.rotary_emb(x, positions)
        half = sin.shape[-1] // 2
        return cos.flatten(0, 1)[:, None], torch.cat([-sin[..., :half], sin[..., half:]], -1).flatten(0, 1)[:, None]

    def _masks(self, rows: LlamaRows, new: int, dtype: torch.dtype) -> dict[str, Tensor]:
        """By kind of layer, to add to the scores: (B * KV, 1, P + 1) for one new token, else (B, 1, T, P + T). See `gistdemo.model.window`."""
        first, positions = rows.length - new, rows.positions[:, : rows.length]
        places = torch.arange(rows.length, device=positions.device)
        seen = rows.mask[:, None, : rows.length].bool() & (places <= places[first:, None])  # (B, T, P + T)
        found = {"full_attention": seen}
        if self._window is not None:
            found["sliding_attention"] = seen & (positions[:, None] > positions[:, first:, None] - self._window)
        smallest = torch.finfo(dtype).min
        heads = rows.keys[0].shape[0] // len(seen)
        added = {kind: torch.where(found[kind], 0.0, smallest).to(dtype) for kind in self._kinds}
        return {kind: mask.repeat_interleave(heads, 0) if new == 1 else mask[:, None] for kind, mask in added.items()}

    def _attend(
        self, rows: LlamaRows, n: int, x: Tensor, turn: tuple[Tensor, Tensor], mask: Tensor, lora: Sequence[tuple[Route, Lora]]
    ) -> Tensor:
        layer, size, depth = self._layers[n], len(rows.adapters), rows.keys[n].shape[-1]
        asked, value = layer.attention(x, lora)
        both = asked.view(len(x), -1, depth)  # (N, H + KV, D): queries, then keys
        both = _rotated(layer.query_key(both) if layer.query_key else both, turn)
        query, key = both[:, : -value.shape[1] // depth], both[:, -value.shape[1] // depth :]
        attend = self._attend_one if len(x) == size else self._attend_many
        (found,) = layer.output(attend(rows, n, query, key, value, mask), lora)
        return found

    def _attend_one(self, rows: LlamaRows, n: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """One new token of each row: queries and keys (B, heads, D), values (B, KV * D) -> (B, H * D)."""
        keys, values, now = rows.keys[n], rows.values[n], rows.length - 1
        both, _, depth = keys.shape
        keys[:, now], values[:, now] = key.reshape(both, depth), value.reshape(both, depth)
        grouped = query.reshape(both, -1, depth)  # the G heads that share a key stand together
        scores = torch.baddbmm(mask, grouped, keys[:, : rows.length].mT, alpha=self._layers[n].scale)  # (B * KV, G, P + 1)
        return torch.bmm(scores.softmax(-1), values[:, : rows.length]).view(len(rows.adapters), -1)

    def _attend_many(self, rows: LlamaRows, n: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """T new tokens of each row: queries and keys (N, heads, D), values (N, KV * D) -> (N, H * D)."""
        size, depth = len(rows.adapters), query.shape[-1]
        new = len(query) // size
        whole = [t.view(size, -1, t.shape[1], depth) for t in (rows.keys[n], rows.values[n])]  # (B, KV, room, D)
        for kept, t in zip(whole, (key, value), strict=True):
            kept[:, :, rows.length - new : rows.length] = t.reshape(size, new, -1, depth).transpose(1, 2)
        asked = query.reshape(size, new, -1, depth).transpose(1, 2)
        group = asked.shape[1] // whole[0].shape[1]
        keys, values = (t[:, :, : rows.length].repeat_interleave(group, 1) for t in whole)
        found = scaled_dot_product_attention(asked, keys, values, mask, scale=self._layers[n].scale)
        return found.transpose(1, 2).reshape(size * new, -1)

    def _lora_of(self, name: str) -> Lora:
        if name not in self._lora:
            tensors = self._adapters.tensors(name)
            groups = [products for layer in self._layers for products in layer.products]
            self._lora[name] = {g.paths: found for g in groups if (found := _together(g.paths, tensors))}
        return self._lora[name]


def _rotated(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary positions of (N, heads, D)."""
    cos, sin = turn
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


def _tokens(rows: Route, each: int) -> Route:
    """The tokens of rows that have so many each."""
    if isinstance(rows, slice):
        return slice(rows.start * each, rows.stop * each)
    return [row * each + n for row in rows for n in range(each)]


def _together(paths: Sequence[str], tensors: dict[str, tuple[Tensor, Tensor]]) -> Added | None:
    """What an adapter adds to layers that read the same input. None: nothing."""
    there = [(n, *tensors[path]) for n, path in enumerate(paths) if path in tensors]
    if not there:
        return None
    return torch.cat([down for _, down, _ in there], 1), [(n, up) for n, _, up in there]


class LlamaRows:
    """Rows that are read and answered by a `LlamaPass`. keys, values: per layer (B * KV, room, D), `length` places of them filled."""

    def __init__(self, net: LlamaPass, adapters: Sequence[str | None], caches: Sequence[GistCache], room: int = ROOM):
        """caches: of the rows, in their order, which this one does not change."""
        self._net, self.adapters = net, list(adapters)
        self.length = max(cache.length for cache in caches)
        self.keys, self.values = (
            [side_by_side([t[n] for t in tensors], self.length, room).flatten(0, 1) for n in range(len(tensors[0]))]
            for tensors in ([c.keys for c in caches], [c.values for c in caches])
        )
        self.mask = torch.cat([pad(pad(c.mask, (self.length - c.length, 0)), (0, room), value=1) for c in caches])
        self.positions = torch.cat([pad(c.all_positions(), (self.length - c.length, room)) for c in caches])
        self._next = torch.cat([cache.next_position for cache in caches])

    def read(self, x: Tensor, mask: Tensor, positions: Tensor | None = None, last: int = 1) -> Tensor:
        """Read T tokens of each row, embedded as x (B, T, E) and padded on the left. mask: (B, T) int64. positions: (B, T) int64; None:
        they follow what the row has read. Returns the hidden states of the `last` ones of each (B * last, E), normed."""
        if positions is None:
            positions = (self._next[:, None] + mask.cumsum(1) - 1).clamp(min=0)
        first = self.length
        self._make_room(mask.shape[1])
        self.mask[:, first : self.length], self.positions[:, first : self.length] = mask, positions
        self._next = positions[:, -1] + 1
        return self._net.hidden(self, x, last)

    def next_logits(self, ids: Tensor, greedy: bool) -> Tensor:
        self._make_room(1)
        self.positions[:, self.length - 1] = self._next
        self._next = self._next + 1
        return self._net.logits(self._net.hidden(self, self._net.embedded(ids[:, None])), greedy)

    def _make_room(self, new: int) -> None:
        """Let `length` be so many places more."""
        missing = self.length + new - self.mask.shape[1]
        if missing > 0:
            more = -(-missing // ROOM) * ROOM
            self.keys, self.values = ([pad(t, (0, 0, 0, more)) for t in tensors] for tensors in (self.keys, self.values))
            self.mask, self.positions = pad(self.mask, (0, more), value=1), pad(self.positions, (0, more))
        self.length += new

    def held(self) -> GistCache:
        def filled(tensors: list[Tensor]) -> tuple[Tensor, ...]:
            return tuple(t[:, : self.length].view(len(self.adapters), -1, self.length, t.shape[-1]) for t in tensors)

        return GistCache(filled(self.keys), filled(self.values), self.mask[:, : self.length], self._next, self.positions[:, : self.length])
