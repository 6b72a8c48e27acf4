"""One pass of a few tokens through a model just loaded: does it do what is assumed of it here?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gistdemo.errors import BackboneError, one_line
from gistdemo.model.gist_cache import empty_cache, keys_and_values
from gistdemo.model.head import logits_of
from gistdemo.model.window import growing_cache

TOKENS = 4
TOLERANCE = 1e-4  # of the largest logit, in fp32; what is narrower may be off by two of its own steps


@torch.inference_mode()
def check_model(model: Any, name: str) -> None:
    """Compare the stock model's logits and cache with what training and serving take them for. Changes nothing.

    Raises: BackboneError: the model does not run or computes no numbers, its logits are not what `logits_of` makes of its last hidden
    state, or it caches keys and values in another form than (B, H, P, D) for every layer.
    """
    what = f"Backbone '{name}' ({model.config.model_type})"
    try:
        hidden, logits, shapes = _run(model)
        ours, expected = logits_of(model, hidden), _shapes(model)
    except Exception as error:  # whatever a model's own code, or a head that is none, raises
        raise BackboneError(f"{what} cannot be run on {TOKENS} tokens ({one_line(error)[:200]}). Use another model.") from error
    if logits.isnan().any():
        raise BackboneError(f"{what} computes values that are not numbers. Fetch the model again, or use another one.")
    if ours.shape != logits.shape or not _close(ours, logits):
        raise BackboneError(
            f"{what} changes its logits after the head in a way that is not known here, so it could not be trained as it is served. "
            "Allowed are a scale (logit_scale, logits_scaling) and a cap (final_logit_softcapping). Use another model."
        )
    if shapes != expected:
        raise BackboneError(
            f"{what} caches keys and values in a form of its own, so a gist could not be put in their place. Allowed is one of "
            f"{expected[0][1]} heads of {expected[0][3]} values in every layer. Use another model."
        )


def _run(model: Any) -> tuple[Tensor, Tensor, list[tuple[int, ...]]]:
    """Last hidden state (TOKENS, E), logits (TOKENS, V), shapes of all keys, then of all values."""
    seen: list[Tensor] = []
    hook = model.base_model.register_forward_hook(lambda module, given, output: seen.append(output.last_hidden_state[0]))
    try:
        ids, cache = torch.arange(TOKENS, device=model.device)[None], growing_cache(model.config)
        logits = model(input_ids=ids, past_key_values=cache, use_cache=True).logits[0]
    finally:
        hook.remove()
    keys, values = keys_and_values(cache)
    return seen[0], logits, [tuple(t.shape) for t in (*keys, *values)]


def _shapes(model: Any) -> list[tuple[int, ...]]:
    """What the shapes of all keys, then of all values, have to be."""
    nothing = empty_cache(model.config, 1, model.dtype, model.device)
    return [(*t.shape[:2], TOKENS, t.shape[3]) for t in (*nothing.keys, *nothing.values)]


def _close(a: Tensor, b: Tensor) -> bool:
    tolerance = max(TOLERANCE, 2 * torch.finfo(a.dtype).eps)
    return bool((a.float() - b.float()).abs().max() <= tolerance * b.float().abs().max())
