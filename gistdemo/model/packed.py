"""Matrix products of few rows on a CPU: every weight laid out once in the order the kernel reads it.

A step of decoding multiplies every weight with a handful of rows, and takes as long as reading the weights does. Given a plain weight,
the library reads it in an order that wastes the memory bus, or copies it first, every time. Two kernels read packed ones:

    exact   oneDNN, weights in fp32: the plain product up to the order of its sums
    fast    FBGEMM, weights in fp16, everything else in fp32: half the bytes; a weight is off by 1/2048 of itself at most

docs/LOG.md has the times.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from gistdemo.generation import Precision
from gistdemo.memory import page_out

ROWS = 16  # the layout is chosen for so many; measured, every number from 2 to 64 is served equally well by it
EXACT_KERNEL = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # torch gives it no types
FAST_KERNEL = "fbgemm" in torch.backends.quantized.supported_engines  # processors with AVX2
ROUNDING, STEP = 2.0**-11, 2.0**-25  # what fp16 is off by at most: of a weight, and where it is too small for that
_now = threading.local()


@contextlib.contextmanager
def computing(precision: Precision) -> Iterator[None]:
    """Let packed layers use this kernel, where there is one, in the products that this thread makes inside."""
    before = current()
    _now.precision = precision
    try:
        yield
    finally:
        _now.precision = before


def current() -> Precision:
    """The kernel that packed layers use in this thread."""
    return getattr(_now, "precision", "exact")


def pack(model: Any) -> None:
    """Let every nn.Linear of a model on the CPU in fp32 use packed copies of its weight under torch.inference_mode().

    A copy is made when its kernel is first asked for. Elsewhere, gradients included, the plain weight is used as before: it stays, as pages
    of its file where transformers mapped it, which the kernel takes back when memory is short. Call it after weights have their last
    value; a second call packs what is new. Other devices and precisions are left alone.
    """
    for module in model.modules():
        if _to_be_packed(module):
            module.forward = Packed(module)


def _to_be_packed(module: Any) -> bool:
    if type(module) is not torch.nn.Linear or isinstance(module.forward, Packed):
        return False
    return module.weight.device.type == "cpu" and module.weight.dtype == torch.float32


class Packed:
    """Stands for the forward pass of one layer: x (..., in) fp32 -> (..., out) fp32."""

    def __init__(self, layer: torch.nn.Linear):
        self.weight, self.bias = layer.weight, layer.bias

    def prepare(self, greedy: bool) -> None:
        """Make the copies that exact answers need, so that the first one need not wait for them. greedy: see `greedy`."""
        if greedy and self._can_be_fast:
            _ = self._fast, self._error
        elif EXACT_KERNEL:
            _ = self._exact

    def __call__(self, x: Tensor) -> Tensor:
        if not torch.is_inference_mode_enabled() or x.dtype != torch.float32:
            return linear(x, self.weight, self.bias)
        return self.fast(x) if current() == "fast" else self.exact(x)

    def exact(self, x: Tensor) -> Tensor:
        if not EXACT_KERNEL:
            return linear(x, self.weight, self.bias)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._exact, self.bias, "none", [], "")
        return product

    def fast(self, x: Tensor) -> Tensor:
        """As `exact`, where there is no kernel for it or fp16 cannot hold the weight."""
        if not self._can_be_fast:
            return self.exact(x)
        product: Tensor = torch.ops.quantized.linear_dynamic_fp16(x, self._fast)
        return product

    def greedy(self, x: Tensor) -> Tensor:
        """x: (B, in) -> (B, out) whose largest value in each row is where and what `exact` has it, at the price of `fast`.

        The fast product tells which outputs can be the largest, for it is off by a known share at most; these are computed exactly.
        The other values stay as the fast product has them, and below the largest.
        """
        if not self._can_be_fast:
            return self.exact(x)
        rough = self.fast(x)
        off = self._error * x.norm(dim=-1, keepdim=True)
        rows, outputs = (rough >= rough.amax(-1, keepdim=True) - 2 * off).nonzero(as_tuple=True)
        if len(rows) > x.shape[1]:  # gathering so many weights costs more than it saves
            return self.exact(x)
        found = (self.weight[outputs] * x[rows]).sum(-1)
        rough[rows, outputs] = found if self.bias is None else found + self.bias[outputs]
        return rough

    @cached_property
    def _can_be_fast(self) -> bool:
        """FBGEMM would cut larger weights down, in the plain tensor as well."""
        return FAST_KERNEL and bool(self.weight.detach().abs().max() <= torch.finfo(torch.float16).max)

    @cached_property
    def _exact(self) -> Any:
        with torch.inference_mode():
            packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach(), ROWS)
        page_out(self.weight.detach())
        return packed

    @cached_property
    def _fast(self) -> Any:
        packed = torch.ops.quantized.linear_prepack_fp16(self.weight.detach(), self.bias)
        page_out(self.weight.detach())
        return packed

    @cached_property
    def _error(self) -> float:
        """What a fast product can be off by, per unit of its input's norm: rounded weights (Cauchy-Schwarz), and the order of sums."""
        width = self.weight.shape[1]
        sums = 2 * width * torch.finfo(torch.float32).eps
        largest = float(self.weight.detach().norm(dim=1).max())
        return (ROUNDING + sums) * largest + float(STEP * width**0.5)
