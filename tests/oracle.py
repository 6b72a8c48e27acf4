"""An independent account of the gist method: one sequence, one pass, one 4-D mask over the stock model. For comparison only.

Written from the method's description, not from the code under test: it shares no line with compress and decode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from lab import lively_model
from torch import Tensor

from gistdemo.model.gist_model import GistModel
from gistdemo.prompts import EncodedPrompt


@dataclass(frozen=True)
class OneRow:
    """One row as one sequence: text before the slots, the slots (K, E), text after them (suffix and answer)."""

    before: tuple[int, ...]
    slots: Tensor
    after: tuple[int, ...]

    @property
    def first_slot(self) -> int:
        return len(self.before)

    @property
    def length(self) -> int:
        return len(self.before) + len(self.slots) + len(self.after)


def lay_out(encoded: EncodedPrompt, condition: str, slots: Tensor, answer: Sequence[int] = ()) -> OneRow:
    """Spell out a condition by hand, from the segments: what stands before the slots, and what after."""
    at = [s.kind for s in encoded.segments].index("instruction")
    head = tuple(i for s in encoded.segments[:at] for i in s.ids)
    words = encoded.segments[at].ids
    tail = (*(i for s in encoded.segments[at + 1 :] for i in s.ids), *answer)
    shown = {"full": words, "gist": words, "truncated": words[: len(slots)], "none": (), "blind": ()}[condition]
    return OneRow(head + shown, slots if condition in ("gist", "blind") else slots[:0], tail)


def may_attend(row: OneRow, width: int) -> Tensor:
    """(T, T) bool, True = may attend: causal, and not padding (on the left), and the gist rule.

    Rows after the last slot see the sink, the slots and what follows. For s a b g g x y (s = sink, g = slots), no padding:

        s a b g g x y
      s 1
      a 1 1
      b 1 1 1
      g 1 1 1 1
      g 1 1 1 1 1
      x 1     1 1 1
      y 1     1 1 1 1
    """
    start = width - row.length
    query, key = torch.arange(width)[:, None], torch.arange(width)[None]
    allowed = (key <= query) & (key >= start)
    if len(row.slots):
        slots_from, slots_to = start + row.first_slot, start + row.first_slot + len(row.slots)
        allowed &= ~((query >= slots_to) & (key > start) & (key < slots_from))
    return allowed


def additive(allowed: Tensor) -> Tensor:
    """Turn (.., T, T) bool into the float mask that is added to attention scores: 0 or the smallest number."""
    return torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)


@dataclass(frozen=True)
class OnePass:
    """Per row, without padding: logits (T, V); keys and values, L tensors (H, T, D)."""

    logits: list[Tensor]
    keys: list[list[Tensor]]
    values: list[list[Tensor]]


@torch.no_grad()
def one_pass(model, rows: Sequence[OneRow], mask: Tensor | None = None) -> OnePass:
    """Run whole sequences in one batch. mask: (B, 1, T, T) to use in place of the right one."""
    width = max(row.length for row in rows)
    embed = model.get_input_embeddings()
    parts, positions = [], []
    for row in rows:
        filler = embed(torch.zeros(width - row.length, dtype=torch.long))
        parts.append(torch.cat([filler, embed(torch.tensor(row.before)), row.slots, embed(torch.tensor(row.after, dtype=torch.long))]))
        positions.append((torch.arange(width) - (width - row.length)).clamp(min=0))
    if mask is None:
        mask = additive(torch.stack([may_attend(row, width) for row in rows])[:, None])
    out = model(inputs_embeds=torch.stack(parts), attention_mask=mask, position_ids=torch.stack(positions), use_cache=True)
    starts = [width - row.length for row in rows]
    return OnePass(
        [out.logits[n, start:] for n, start in enumerate(starts)],
        [[layer.keys[n, :, start:] for layer in out.past_key_values.layers] for n, start in enumerate(starts)],
        [[layer.values[n, :, start:] for layer in out.past_key_values.layers] for n, start in enumerate(starts)],
    )


def greedy(model, row: OneRow, tokens: int) -> list[int]:
    """Greedy answer, everything computed anew for every token."""
    answer: list[int] = []
    for _ in range(tokens):
        longer = OneRow(row.before, row.slots, (*row.after, *answer))
        answer.append(int(one_pass(model, [longer]).logits[0][-1].argmax()))
    return answer


def merged(adapted: GistModel, *names: str):
    """A fresh lively model whose weights are W + scale * B @ A for each named adapter, multiplied out by hand."""
    model = lively_model()
    modules = dict(model.named_modules())
    with torch.no_grad():
        for name in names:
            factors = adapted.adapters.parameters(name)
            for path, a in factors.items():
                if ".lora_A." in path:
                    b = factors[path.replace(".lora_A.", ".lora_B.")]
                    modules[path.partition(".lora_A.")[0]].weight += (8 / 4) * b @ a  # alpha / rank of lab.add_random_adapter
    return model
