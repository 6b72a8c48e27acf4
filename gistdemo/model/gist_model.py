"""Compress and decode: the one code path of training, evaluation and the app.

Phase 1, `compress`: run [sink + instruction + gist slots] once, keep keys and values of the sink and the slots only.
Phase 2, `decode`: run [input + suffix + answer] on top. There is no gist attention mask to get wrong: after phase 1 the
instruction is not in the cache. Causality comes from the stock model; positions are explicit, per row. Models with sliding windows
get their masks from `gistdemo.model.window`.

Letters as in `gistdemo.model`. Differentiable: call under torch.inference_mode() where gradients are not wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from gistdemo.generation import Precision
from gistdemo.model.adapters import AdapterHost
from gistdemo.model.decoding import Decoding, StockDecoding
from gistdemo.model.gist_cache import GistCache, empty_cache, keys_and_values
from gistdemo.model.head import logits_of
from gistdemo.model.llama_pass import ROOM, LlamaPass, LlamaRows, fits
from gistdemo.model.packed import FAST_KERNEL, Packed, pack, prepare
from gistdemo.model.window import attention_masks, growing_cache
from gistdemo.prompts import PromptPlan


@dataclass(frozen=True)
class Compression:
    """One row of phase 1. ids: prompt before the slots. slots: (K, E) vectors, K >= 1. adapter: acts on this row.

    anchored: 0: slots are appended to the prompt, at the positions after it. N > 0: the last N ids (the instruction) are cut
    into K equal stretches, K <= N; slot i starts from its vector + the mean embedding of stretch i and sits at the position of that
    stretch's last token, so that what follows stands exactly where it stands in the full prompt.
    """

    ids: Sequence[int]
    slots: Tensor
    adapter: str | None
    anchored: int = 0

    @property
    def next_position(self) -> int:
        """Position of the first token after the compressed prompt."""
        return len(self.ids) if self.anchored else len(self.ids) + len(self.slots)

    def stretches(self) -> list[tuple[int, int]]:
        """Where the stretch of each slot starts and ends, counted in the anchored ids."""
        n, k = self.anchored, len(self.slots)
        return [(i * n // k, (i + 1) * n // k) for i in range(k)]

    def positions(self) -> list[int]:
        """Position of every id and every slot."""
        before = len(self.ids) - self.anchored
        places = [before + end - 1 for _, end in self.stretches()] if self.anchored else range(len(self.ids), self.next_position)
        return [*range(len(self.ids)), *places]


def gist_row(plan: PromptPlan, slots: Tensor, adapter: str | None) -> Compression:
    """Phase 1 of a plan that has one. slots: (K, E), K >= plan.k; the first plan.k are used."""
    return Compression(plan.compress_ids or (), slots[: plan.k], adapter, plan.anchored_tokens)


WIDTHS = 8  # batches are padded to multiples: kernels are prepared per shape, and few shapes keep memory in few sizes


def pad_left(rows: Sequence[Sequence[int]], device: torch.device | str, multiple: int = 1) -> tuple[Tensor, Tensor]:
    """Left-pad id lists to the longest, rounded up to a multiple.

    Returns ids (B, T) int64 with 0 as filler and mask (B, T) int64; only the mask tells padding.
    """
    width = -(-max(len(row) for row in rows) // multiple) * multiple
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for n, row in enumerate(rows):
        if len(row):
            ids[n, width - len(row) :] = torch.as_tensor(row)
            mask[n, width - len(row) :] = 1
    return ids.to(device), mask.to(device)


class GistModel:
    """A backbone with its adapters, run in two phases. Holds no state of any request."""

    def __init__(self, model: Any):
        self.model = model
        self.config = model.config
        self.adapters = AdapterHost(model)
        self._pass: LlamaPass | None = None
        self.is_final = False  # whether its weights have their last value, so that what was computed with them stays true

    def quicken(self) -> None:
        """Make a model whose weights have their last value ready to answer fast: packed products and, where it fits, a pass of our own.

        Packed copies are made when a precision is first asked for, so that a server holds those of no other."""
        self.is_final = True
        if fits(self.model):
            self._pass = LlamaPass(self.model, self.adapters)
        else:
            pack(self.model)

    def prepare(self) -> None:
        """Make the copies that greedy answers need in the current precision (see `computing`). Call it after `quicken`."""
        if self._pass:
            self._pass.prepare()
        else:
            prepare(self.model)

    def precision(self, asked: Precision) -> Precision:
        """How products are computed when this is asked for: exactly where the weights or the processor allow nothing else."""
        packed = self._pass.is_packed if self._pass else isinstance(self.model.get_output_embeddings().forward, Packed)
        return asked if packed and FAST_KERNEL else "exact"

    def decoding(self, adapters: Sequence[str | None], caches: Sequence[GistCache]) -> Decoding:
        """Rows whose prompts are in these caches, ready to be answered. adapters: of each row."""
        return LlamaRows(self._pass, adapters, caches) if self._pass else StockDecoding(self, adapters, caches)

    def read(
        self, adapters: Sequence[str | None], caches: Sequence[GistCache], prompts: Sequence[Sequence[int]], greedy: bool
    ) -> tuple[Tensor, Decoding]:
        """Read prompts (B id lists) on top of what is in these caches. Returns the last position's logits (B, V) in fp32, and the rows, ready
        to be answered. greedy: only the largest of each row will be looked at."""
        ids, mask = pad_left(prompts, self.device)
        if self._pass is None:
            stock = StockDecoding(self, adapters, caches)
            return stock.read(ids, mask), stock
        rows = LlamaRows(self._pass, adapters, caches, room=mask.shape[1] + ROOM)
        return self._pass.logits(rows.read(self._pass.embedded(ids), mask), greedy), rows

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.model.dtype
        return dtype

    def empty(self, rows: int) -> GistCache:
        """The cache of rows without a compressed part."""
        return empty_cache(self.config, rows, self.dtype, self.device)

    def embedding_of(self, token_id: int) -> Tensor:
        """(E,) copy of one input embedding, as the layers receive it: some models scale inside the embedding module (Gemma by sqrt(E))."""
        with torch.no_grad():
            made: Tensor = self.model.get_input_embeddings()(torch.tensor([token_id], device=self.device))
            return made[0].clone()

    def compress(self, rows: Sequence[Compression]) -> GistCache:
        """Run each prompt once with its slots; keep keys and values of its first token (the sink) and of its slots.

        Rows may differ in length, number of slots and adapter. Returns a cache of B rows, P = 1 + largest K; row b goes on
        at its `next_position`. Source: Mu et al. 2023, gist caching; unlike their code rows may be batched, and the sink is
        kept. Anchored slots: Mean-pooled inputs and the position layout of the text they stand for (docs/LOG.md has the gain).
        """
        lengths = [len(row.ids) + len(row.slots) for row in rows]
        position, mask = pad_left([row.positions() for row in rows], self.device, WIDTHS)
        width, most = mask.shape[1], max(len(row.slots) for row in rows)
        parts = [torch.nn.functional.pad(self._embedded(row), (0, 0, width - n, 0)) for row, n in zip(rows, lengths, strict=True)]
        names, x = [row.adapter for row in rows], torch.stack(parts)
        if self._pass is None:
            cache = growing_cache(self.config)
            masks = self._masks(mask, position, width)
            self.adapters.forward(
                names, head=False, inputs_embeds=x, attention_mask=masks, position_ids=position, past_key_values=cache, use_cache=True
            )
            whole = keys_and_values(cache)
        else:
            read = LlamaRows(self._pass, names, [self.empty(len(rows))], room=width)
            read.read(x, mask, position)
            held = read.held()
            whole = held.keys, held.values
        return self._keep_sink_and_slots(whole, position, rows, lengths, most)

    def _masks(self, mask: Tensor, positions: Tensor, new: int) -> Tensor | dict[str, Tensor]:
        return attention_masks(self.config, mask, positions, new, self.dtype)

    def _embedded(self, row: Compression) -> Tensor:
        """(len(ids) + K, E): embeddings of the ids, then the slots, in the model's dtype."""
        words = self.model.get_input_embeddings()(torch.as_tensor(list(row.ids), device=self.device))
        if not row.anchored:
            return torch.cat([words, row.slots.to(words)])
        start, end = torch.tensor(row.stretches(), device=self.device).T
        sums = torch.nn.functional.pad(words[len(row.ids) - row.anchored :].float().cumsum(0), (0, 0, 1, 0))  # (N + 1, E)
        means = (sums[end] - sums[start]) / (end - start)[:, None]
        return torch.cat([words, (row.slots + means).to(words)])

    def _keep_sink_and_slots(
        self,
        whole: tuple[tuple[Tensor, ...], tuple[Tensor, ...]],
        position: Tensor,
        rows: Sequence[Compression],
        lengths: list[int],
        most: int,
    ) -> GistCache:
        """Gather [padding | sink | slots] from the right end of each row. whole: keys and values. position: (B, T) int64."""
        width = position.shape[1]
        kept = torch.zeros(len(rows), 1 + most, dtype=torch.long)
        mask = torch.zeros(len(rows), 1 + most, dtype=torch.long)
        for n, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            k = len(row.slots)
            kept[n, most - k] = width - length  # the row's first real token
            kept[n, 1 + most - k :] = torch.arange(width - k, width)
            mask[n, most - k :] = 1
        kept = kept.to(self.device)
        index = kept[:, None, :, None]

        def pick(t: Tensor) -> Tensor:  # (B, H, T, D) -> (B, H, 1 + most, D)
            return t.gather(2, index.expand(-1, t.shape[1], -1, t.shape[3]))

        keys, values = whole
        return GistCache(
            tuple(map(pick, keys)),
            tuple(map(pick, values)),
            mask.to(self.device),
            torch.tensor([row.next_position for row in rows], device=self.device),
            position.gather(1, kept),
        )

    def answer_logits(
        self,
        cache: GistCache,
        prompts: Sequence[Sequence[int]],
        answers: Sequence[Sequence[int]],
        adapter: str | None,
        among: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Phase 2 with known answers: logits at exactly the positions that predict an answer token.

        See `answer_hidden`. among: (C,) ids of the part of the vocabulary whose logits are wanted; None: all V. Returns logits (N, V or C)
        and targets (N,), which are ids.
        """
        hidden, targets = self.answer_hidden(cache, prompts, answers, adapter)
        return logits_of(self.model, hidden, among), targets

    def answer_hidden(
        self, cache: GistCache, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], adapter: str | None
    ) -> tuple[Tensor, Tensor]:
        """The last hidden states (N, E) from which an answer token is predicted, and these tokens (N,), N = all answer tokens, row after row.

        cache: B rows (use `empty` for prompts that are all text). prompts, answers: B id lists, each not empty.
        """
        ids, mask = pad_left([[*p, *a] for p, a in zip(prompts, answers, strict=True)], self.device, WIDTHS)
        width, hidden = ids.shape[1], self._hidden(cache, ids, mask, adapter)
        predicts = torch.zeros_like(mask, dtype=torch.bool)
        for n, answer in enumerate(answers):
            predicts[n, width - len(answer) - 1 : width - 1] = True
        targets = torch.cat([torch.as_tensor(list(answer)) for answer in answers]).to(self.device)
        return hidden[predicts], targets

    def _hidden(self, cache: GistCache, ids: Tensor, mask: Tensor, adapter: str | None) -> Tensor:
        """(B, T, E): last hidden states of ids (B, T), padded on the left, read on top of a cache."""
        width = ids.shape[1]
        if self._pass is not None and torch.is_inference_mode_enabled():
            rows = LlamaRows(self._pass, [adapter] * len(ids), [cache], room=width)
            return rows.read(self._pass.embedded(ids), mask, last=width).view(len(ids), width, -1)
        whole_mask, positions = cache.followed_by(mask)
        with self.adapters.using(adapter):
            hidden: Tensor = self.model.base_model(
                input_ids=ids,
                attention_mask=self._masks(whole_mask, positions, width),
                position_ids=positions[:, -width:],
                past_key_values=cache.to_dynamic_cache(self.config),
                use_cache=True,
            ).last_hidden_state
        return hidden

    def next_logits(self, adapters: Sequence[str | None], ids: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache) -> Tensor:
        """Phase 2 by the stock model, one stretch: append ids (B, T) to the cache and return the last position's logits (B, V) in fp32.

        mask, positions: (B, P + T) int64 over cache and ids; without sliding layers the last T positions are enough. The cache
        grows in place.
        """
        width = ids.shape[1]
        output = self.adapters.forward(
            adapters,
            head=False,
            input_ids=ids,
            attention_mask=self._masks(mask, positions, width),
            position_ids=positions[:, -width:],
            past_key_values=cache,
            use_cache=True,
        )
        hidden: Tensor = output.last_hidden_state[:, -1]
        return logits_of(self.model, hidden).float()
