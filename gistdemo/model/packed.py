"""Matrix products of few rows on a CPU, exact and up to four times as fast: weights laid out once in the order oneDNN reads them.

A step of decoding multiplies every weight with a handful of rows. Given a plain weight, the library reads it in an order that wastes
the memory bus, or copies it first, every time. docs/LOG.md has the times.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from gistdemo.memory import page_out

ROWS = 16  # the layout is chosen for so many; measured, every number from 2 to 64 is served equally well by it


def pack(model: Any) -> None:
    """Let every nn.Linear of a model on the CPU in fp32 use a packed copy of its weight under torch.inference_mode().

    Elsewhere, gradients included, the plain weight is used as before: it stays, as pages of its file where transformers mapped it,
    which the kernel takes back when memory is short. Call it after weights have their last value; a second call packs what is new.
    Does nothing where torch has no oneDNN, on other devices and for other precisions.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]  # torch gives it no types
        return
    for module in model.modules():
        if _to_be_packed(module):
            module.forward = _Packed(module)
            page_out(module.weight.detach())


def _to_be_packed(module: Any) -> bool:
    if type(module) is not torch.nn.Linear or isinstance(module.forward, _Packed):
        return False
    return module.weight.device.type == "cpu" and module.weight.dtype == torch.float32


class _Packed:
    """Stands for the forward pass of one layer: x (..., in) fp32 -> (..., out) fp32."""

    def __init__(self, layer: torch.nn.Linear):
        self._weight, self._bias = layer.weight, layer.bias
        with torch.inference_mode():
            self._packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), ROWS)

    def __call__(self, x: Tensor) -> Tensor:
        if torch.is_inference_mode_enabled() and x.dtype == torch.float32:
            product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self._bias, "none", [], "")
            return product
        return linear(x, self._weight, self._bias)
