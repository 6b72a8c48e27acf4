"""Where a condition leaves the full prompt's answer: the same answer read under both, token by token. Letters as in `gistdemo.model`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gistdemo.checkpoint.pool import LoadedBackbone
from gistdemo.checkpoint.store import LoadedCheckpoint
from gistdemo.conditions import CONDITIONS
from gistdemo.model.head import logits_of
from gistdemo.prompts import Example
from gistdemo.results.divergence import Divergence

MOST = 128  # tokens of the answer that are read
AT_ONCE = 32  # tokens whose distributions are held: the vocabulary may have a quarter of a million


def divergences(
    base: LoadedBackbone, loaded: LoadedCheckpoint, example: Example, conditions: Sequence[str], k: int, answer: str
) -> list[Divergence]:
    """Of each condition, held against the full prompt. answer: the full prompt's. Call it under torch.inference_mode().

    Raises: CheckpointError: a condition that needs a gist, and there is none of that size. PromptError: see `PromptEncoder.encode`.
    """
    ids = loaded.encoder.answer_ids(answer, MOST + 1)[:-1]  # without the end: it may have been cut
    tokens = tuple(base.tokenizer.decode([one]) for one in ids)
    full = _hidden(base, loaded, example, "full", k, ids)
    found = []
    for condition in conditions:
        other = _hidden(base, loaded, example, condition, k, ids)
        parts = list(_compared(base, full, other, torch.tensor(ids, device=full.device)))
        kl, difference, differs = (torch.cat(column).tolist() for column in zip(*parts, strict=True))
        first = next((n for n, yes in enumerate(differs) if yes), None)
        found.append(Divergence(loaded.name, condition, tokens, tuple(kl), tuple(difference), first))
    return found


def _hidden(base: LoadedBackbone, loaded: LoadedCheckpoint, example: Example, condition: str, k: int, ids: Sequence[int]) -> Tensor:
    """(T, E): what the tokens of the answer are predicted from under a condition."""
    row = loaded.row(loaded.plan(example, CONDITIONS[condition], k))
    cache = base.model.empty(1) if row.plan.compress_ids is None else base.model.compress([row.compression()])
    return base.model.answer_hidden(cache, [row.plan.prompt_ids], [ids], loaded.decode_adapter)[0]


def _compared(base: LoadedBackbone, full: Tensor, other: Tensor, ids: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """A few tokens at a time: KL (nats) of the condition's distribution from the full prompt's, the difference of the token's
    log-probability, and whether another token is the likeliest."""
    for start in range(0, len(ids), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        ours, theirs = (logits_of(base.model.model, hidden[part]).float().log_softmax(-1) for hidden in (full, other))
        said = ids[part, None]
        kl = (ours.exp() * (ours - theirs)).sum(-1).clamp(min=0.0)
        yield kl, (theirs.gather(1, said) - ours.gather(1, said))[:, 0], ours.argmax(-1) != theirs.argmax(-1)
