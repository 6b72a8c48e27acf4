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
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, TypeVar

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
T = TypeVar("T")


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

    Elsewhere, gradients included, the plain weight is used as before: it stays, as pages of its file where transformers mapped it, which
    the kernel takes back when memory is short. Call it after weights have their last value; a second call packs what is new. Other
    devices and precisions are left alone.
    """
    for module in model.modules():
        if can_be_packed(module) and not isinstance(module.forward, Packed):
            module.forward = Packed(module)
            module.forward.prepare()


def can_be_packed(module: Any) -> bool:
    return type(module) is torch.nn.Linear and module.weight.device.type == "cpu" and module.weight.dtype == torch.float32


class Packed:
    """Stands for the forward pass of layers that read the same input: x (..., in) fp32 -> (..., out) fp32, outputs side by side.

    A copy is made when its kernel is first asked for.
    """

    def __init__(self, *layers: torch.nn.Linear):
        """Raises: ValueError: some have a bias and others do not."""
        self._weights = [layer.weight.detach() for layer in layers]
        self._biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
        if len(self._biases) not in (0, len(layers)):
            raise ValueError("some of these layers have a bias and others do not; they cannot be one product")
        self._layers = layers
        self._bias = torch.cat(self._biases) if self._biases else None

    def prepare(self, greedy: bool = False) -> None:
        """Make the copies that exact answers need, so that the first one need not wait for them. greedy: see `greedy`."""
        if greedy and self._can_be_fast:
            _ = self._fast, self._error
        elif EXACT_KERNEL:
            _ = self._exact

    def __call__(self, x: Tensor) -> Tensor:
        if not torch.is_inference_mode_enabled() or x.dtype != torch.float32:
            return self._plain(x)
        return self.fast(x) if current() == "fast" else self.exact(x)

    def _plain(self, x: Tensor) -> Tensor:
        found = [linear(x, layer.weight, layer.bias) for layer in self._layers]
        return found[0] if len(found) == 1 else torch.cat(found, -1)

    def exact(self, x: Tensor) -> Tensor:
        if not EXACT_KERNEL:
            return self._plain(x)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._exact, self._bias, "none", [], "")
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
        The other values stay as the fast product has them, and below the largest. For one layer.
        """
        if not self._can_be_fast:
            return self.exact(x)
        rough = self.fast(x)
        off = self._error * x.norm(dim=-1, keepdim=True)
        rows, outputs = (rough >= rough.amax(-1, keepdim=True) - 2 * off).nonzero(as_tuple=True)
        if len(rows) > x.shape[1]:  # gathering so many weights costs more than it saves
            return self.exact(x)
        found = (self._weights[0][outputs] * x[rows]).sum(-1)
        rough[rows, outputs] = found if self._bias is None else found + self._bias[outputs]
        return rough

    @cached_property
    def _can_be_fast(self) -> bool:
        """FBGEMM would cut larger weights down, in the plain tensor as well."""
        return FAST_KERNEL and all(bool(weight.abs().max() <= torch.finfo(torch.float16).max) for weight in self._weights)

    def _laid_out(self, make: Callable[[Tensor], T]) -> T:
        """A copy of the weights, made from one tensor of all of them."""
        with torch.inference_mode():
            packed = make(self._weights[0] if len(self._weights) == 1 else torch.cat(self._weights))
        for weight in self._weights:
            page_out(weight)
        return packed

    @cached_property
    def _exact(self) -> Any:
        return self._laid_out(lambda weight: torch.ops.mkldnn._reorder_linear_weight(weight, ROWS))

    @cached_property
    def _fast(self) -> Any:
        return self._laid_out(lambda weight: torch.ops.quantized.linear_prepack_fp16(weight, self._bias))

    @cached_property
    def _error(self) -> float:
        """What a fast product can be off by, per unit of its input's norm: rounded weights (Cauchy-Schwarz), and the order of sums."""
        (weight,) = self._weights
        width = weight.shape[1]
        sums = 2 * width * torch.finfo(torch.float32).eps
        largest = float(weight.norm(dim=1).max())
        return (ROUNDING + sums) * largest + float(STEP * width**0.5)
