"""Compress and decode: the one code path of training, evaluation and the app.

Phase 1, `compress`: run [sink + instruction + gist slots] once, keep keys and values of the sink and the slots only.
Phase 2, `decode`: run [input + suffix + answer] on top. There is no gist attention mask to get wrong: after phase 1 the
instruction is not in the cache. Causality comes from the stock model; positions are explicit, per row.

Letters as in `gistdemo.model`. Differentiable: call under torch.inference_mode() where gradients are not wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from gistdemo.model.adapters import AdapterHost
from gistdemo.model.gist_cache import GistCache, empty_cache


@dataclass(frozen=True)
class Compression:
    """One row of phase 1. ids: prompt before the slots. slots: (K, E) vectors, K >= 1. adapter: acts on this row."""

    ids: Sequence[int]
    slots: Tensor
    adapter: str | None


def pad_left(rows: Sequence[Sequence[int]], device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Left-pad id lists. Returns ids (B, T) int64 with 0 as filler and mask (B, T) int64; only the mask tells padding."""
    width = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for n, row in enumerate(rows):
        if len(row):
            ids[n, width - len(row) :] = torch.as_tensor(row)
            mask[n, width - len(row) :] = 1
    return ids.to(device), mask.to(device)


class GistModel:
    """A backbone with its adapters, run in two phases. Holds no state of any request."""

    def __init__(self, model):
        self.model = model
        self.config = model.config
        self.adapters = AdapterHost(model)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    def empty(self, rows: int) -> GistCache:
        """The cache of rows without a compressed part."""
        return empty_cache(self.config, rows, self.dtype, self.device)

    def embedding_of(self, token_id: int) -> Tensor:
        """(E,) copy of one input embedding."""
        return self.model.get_input_embeddings().weight[token_id].detach().clone()

    def compress(self, rows: Sequence[Compression]) -> GistCache:
        """Run each prompt once with its slots; keep keys and values of its first token (the sink) and of its slots.

        Rows may differ in length, number of slots and adapter. Returns a cache of B rows, P = 1 + largest K; row b goes on
        at len(ids) + K. Source: Mu et al. 2023, gist caching; unlike their code rows may be batched, and the sink is kept.
        """
        lengths = [len(row.ids) + len(row.slots) for row in rows]
        width, most = max(lengths), max(len(row.slots) for row in rows)
        embed = self.model.get_input_embeddings()
        parts = []
        for row, length in zip(rows, lengths, strict=True):
            words = embed(torch.as_tensor(list(row.ids), device=self.device))
            whole = torch.cat([words, row.slots.to(words)])  # (len(ids) + K, E)
            parts.append(torch.nn.functional.pad(whole, (0, 0, width - length, 0)))
        position = torch.arange(width, device=self.device)[None] - torch.tensor([[width - n] for n in lengths], device=self.device)
        mask = (position >= 0).long()
        whole_cache = DynamicCache(config=self.config)
        self.adapters.forward(
            [row.adapter for row in rows],
            inputs_embeds=torch.stack(parts),
            attention_mask=mask,
            position_ids=position.clamp(min=0),
            past_key_values=whole_cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return self._keep_sink_and_slots(whole_cache, rows, lengths, width, most)

    def _keep_sink_and_slots(self, whole: DynamicCache, rows, lengths: list[int], width: int, most: int) -> GistCache:
        """Gather [padding | sink | slots] from the right end of each row."""
        kept = torch.zeros(len(rows), 1 + most, dtype=torch.long)
        mask = torch.zeros(len(rows), 1 + most, dtype=torch.long)
        for n, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            k = len(row.slots)
            kept[n, most - k] = width - length  # the row's first real token
            kept[n, 1 + most - k :] = torch.arange(width - k, width)
            mask[n, most - k :] = 1
        index = kept.to(self.device)[:, None, :, None]

        def pick(t: Tensor) -> Tensor:  # (B, H, T, D) -> (B, H, 1 + most, D)
            return t.gather(2, index.expand(-1, t.shape[1], -1, t.shape[3]))

        return GistCache(
            tuple(pick(layer.keys) for layer in whole.layers),
            tuple(pick(layer.values) for layer in whole.layers),
            mask.to(self.device),
            torch.tensor(lengths, device=self.device),
        )

    def answer_logits(
        self, cache: GistCache, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], adapter: str | None
    ) -> tuple[Tensor, Tensor]:
        """Phase 2 with known answers: logits at exactly the positions that predict an answer token.

        cache: B rows (use `empty` for prompts that are all text). prompts, answers: B id lists, each not empty.
        Returns logits (N, V) and targets (N,), N = all answer tokens, row after row.
        """
        ids, mask = pad_left([[*p, *a] for p, a in zip(prompts, answers, strict=True)], self.device)
        width = ids.shape[1]
        start = (width - mask.sum(1))[:, None]
        position = cache.next_position[:, None] + torch.arange(width, device=self.device)[None] - start
        with self.adapters.using(adapter):
            hidden = self.model.model(
                input_ids=ids,
                attention_mask=torch.cat([cache.mask, mask], 1),
                position_ids=position.clamp(min=0),
                past_key_values=cache.to_dynamic_cache(self.config),
                use_cache=True,
            ).last_hidden_state  # (B, T, E)
        predicts = torch.zeros_like(mask, dtype=torch.bool)
        for n, answer in enumerate(answers):
            predicts[n, width - len(answer) - 1 : width - 1] = True
        targets = torch.cat([torch.as_tensor(list(answer)) for answer in answers]).to(self.device)
        return self.model.lm_head(hidden[predicts]), targets

    def next_logits(self, adapters: Sequence[str | None], ids: Tensor, mask: Tensor, position_ids: Tensor, cache: DynamicCache) -> Tensor:
        """Phase 2, one stretch of decoding: append ids (B, T) to the cache and return the last position's logits (B, V) in fp32.

        mask: (B, P + T) int64 over cache and ids. position_ids: (B, T). The cache grows in place.
        """
        output = self.adapters.forward(
            adapters,
            input_ids=ids,
            attention_mask=mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1].float()
