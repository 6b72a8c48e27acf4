"""The part of the vocabulary that a training step compares an answer with: all of it, or a sample where the head is most of the work.

Gemma-3-270M spends 168 of its 268 million weights on 262,144 tokens, of which Alpaca answers use some 20,000. The sample holds every
token of the answers and, drawn anew for each step, some of the others, which stand for all of the others: so what the model gives to
tokens that no answer has is still pushed down. Evaluations always use the whole vocabulary.
Source: Jean et al. 2015, "On using very large target vocabulary for neural machine translation" (sampled softmax).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

NOTHING = torch.empty(0)


@dataclass(frozen=True)
class Part:
    """The tokens of one step. ids: (C,) token ids, None for the whole vocabulary. weight: (C,) logarithm of how many tokens each stands
    for. place: (V,) where a token stands in ids; meaningless for those that are not there. Without ids both are empty."""

    ids: Tensor | None = None
    weight: Tensor = NOTHING
    place: Tensor = NOTHING

    def seen(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, C) in fp32, those of drawn tokens raised for the tokens they stand for, and the places of the targets (N,)."""
        if self.ids is None:
            return logits.float(), targets
        return logits.float() + self.weight, self.place[targets]


class Vocabulary:
    """Parts of a vocabulary of `size` tokens: every token of `answers`, and `sampled` others; sampled 0: always the whole."""

    def __init__(self, size: int, answers: Iterable[Sequence[int]], sampled: int, seed: int, device: torch.device):
        self._sampled, self._seed, self._device = sampled, seed, device
        used = torch.zeros(size, dtype=torch.bool)
        used[torch.tensor(sorted({token for answer in answers for token in answer}))] = True
        self._used, self._others = used.nonzero()[:, 0], (~used).nonzero()[:, 0]
        self._place = torch.zeros(size, dtype=torch.long)
        self._place[self._used] = torch.arange(len(self._used))

    def of(self, step: int) -> Part:
        """The part of a step; the same for the same seed and step, so that a resumed run sees what the unbroken one saw."""
        if not 0 < self._sampled < len(self._others):
            return Part()
        generator = torch.Generator().manual_seed(hash((self._seed, step)) & 0x7FFFFFFF)
        drawn = self._others[torch.randint(len(self._others), (self._sampled,), generator=generator)]
        weight = torch.zeros(len(self._used) + self._sampled)
        weight[len(self._used) :] = math.log(len(self._others) / self._sampled)
        return Part(torch.cat([self._used, drawn]).to(self._device), weight.to(self._device), self._place.to(self._device))
