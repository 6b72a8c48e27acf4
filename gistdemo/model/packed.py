"""Matrix products of few rows on a CPU: every weight laid out once in the order the kernel reads it.

A step of decoding multiplies every weight with a handful of rows, and takes as long as reading the weights does. Given a plain weight,
the library reads it in an order that wastes the memory bus, or copies it first, every time. Packed ones are read by these kernels:

    exact   oneDNN, weights in fp32: the plain product up to the order of its sums
    fast    weights in 16 bits, half the bytes: bf16 with bf16 inputs by oneDNN, where the processor multiplies it natively and that is
            faster; else fp16 by FBGEMM, sums in fp32, where a weight is off by 1/2048 of itself at most
    greedy  oneDNN, weights in 8 bits, to see which few outputs can be the largest; these are then computed exactly

docs/PERFORMANCE.md has the times.
"""

from __future__ import annotations

import contextlib
import threading
import timeit
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import linear

from gistdemo.generation import Precision
from gistdemo.memory import page_out

ROWS = 16  # the layout is chosen for so many; measured, every number from 2 to 64 is served equally well by it
EXACT_KERNEL = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # torch gives it no types
FAST_KERNEL = "fbgemm" in torch.backends.quantized.supported_engines  # processors with AVX2
LEVELS = 63  # of an input's absolute value in 8 bits: with so few no kernel's sums of two products leave 16 bits
FINER = 2 * LEVELS  # what is left over by that is looked at so many times larger
PART = 16_384  # outputs that are rounded at a time
MOST_EXACT = 256  # outputs of each row, on average, that are worth computing exactly one by one
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


def prepare(model: Any) -> None:
    """Make the copies that a packed model's products need in the current precision."""
    for module in model.modules():
        if isinstance(module.forward, Packed):
            module.forward.prepare()


def can_be_packed(module: Any) -> bool:
    return type(module) is torch.nn.Linear and module.weight.device.type == "cpu" and module.weight.dtype == torch.float32


@lru_cache(maxsize=1)
def fast_kernel() -> Literal["bf16", "fp16"]:
    """Which of the two kernels for 16 bits is the faster one here, by a short measurement."""
    native = torch.cpu.get_capabilities()
    if not (EXACT_KERNEL and (native.get("avx512_bf16") or native.get("amx_bf16"))):
        return "fp16"
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        packed, x = Packed(torch.nn.Linear(2048, 2048, bias=False)), torch.randn(ROWS, 2048)
        times = {kind: min(timeit.repeat(partial(multiply, x), number=3, repeat=5)) for kind, multiply in packed.kernels.items()}
    return min(packed.kernels, key=times.__getitem__)


class Packed:
    """Stands for the forward pass of layers that read the same input: x (..., in) fp32 -> (..., out) fp32, outputs side by side.

    A copy is made when its kernel is first asked for.
    """

    def __init__(self, *layers: torch.nn.Linear):
        """Raises: ValueError: some have a bias and others do not."""
        self._weights = [layer.weight.detach() for layer in layers]
        biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
        if len(biases) not in (0, len(layers)):
            raise ValueError("some of these layers have a bias and others do not; they cannot be one product")
        self._layers, self._bias = layers, torch.cat(biases) if biases else None
        self.kernels: dict[Literal["bf16", "fp16"], Callable[[Tensor], Tensor]] = {"bf16": self._by_bf16, "fp16": self._by_fp16}

    def prepare(self, greedy: bool = False) -> None:
        """Make the copy that products need in the current precision, so that the first one need not wait for it. greedy: see `greedy`."""
        if greedy and EXACT_KERNEL:
            _ = self._eighths
        else:
            self(self._weights[0].new_zeros(1, self._weights[0].shape[1]))

    def __call__(self, x: Tensor) -> Tensor:
        if not torch.is_inference_mode_enabled() or x.dtype != torch.float32:
            return self._plain(x)
        return self.fast(x) if current() == "fast" else self.exact(x)

    def _plain(self, x: Tensor) -> Tensor:
        found = [linear(x, layer.weight, layer.bias) for layer in self._layers]
        return found[0] if len(found) == 1 else torch.cat(found, -1)

    def exact(self, x: Tensor) -> Tensor:
        return _by_onednn(x, self._exact, self._bias) if EXACT_KERNEL else self._plain(x)

    def fast(self, x: Tensor) -> Tensor:
        """As `exact`, where there is no kernel for it or fp16 cannot hold the weight."""
        if not FAST_KERNEL or (fast_kernel() == "fp16" and not self._fits_fp16):
            return self.exact(x)
        return self.kernels[fast_kernel()](x)

    def _by_bf16(self, x: Tensor) -> Tensor:
        found = _by_onednn(x.bfloat16(), self._bf16, None).float()
        return found if self._bias is None else found + self._bias

    def _by_fp16(self, x: Tensor) -> Tensor:
        product: Tensor = torch.ops.quantized.linear_dynamic_fp16(x, self._fp16)
        return product

    def greedy(self, x: Tensor) -> Tensor:
        """x: (B, in) -> (B, out) whose largest value in each row is where and what `exact` has it, at a fraction of the price.

        A product of rounded numbers is off by a known share at most, so it tells which outputs can be the largest; these are computed
        exactly. The other values stay as rounded numbers have them, and below the largest. For one layer.
        """
        if not EXACT_KERNEL:
            return self._plain(x)
        rounded = self._eighths
        scaled = x * rounded.columns
        largest = scaled.abs().amax(-1, keepdim=True)
        steps = scaled / largest.clamp(min=torch.finfo(x.dtype).tiny) * LEVELS
        coarse = steps.round()
        given = (torch.cat([coarse, ((steps - coarse) * FINER).round()]) + (LEVELS + 1)).to(torch.uint8)
        found = torch.ops.onednn.qlinear_pointwise(
            given, 1.0, LEVELS + 1, rounded.weight, rounded.scale, rounded.zero, None, 1.0, 0, torch.float32, "none", [], ""
        )
        rough = torch.add(*found.chunk(2), alpha=1 / FINER).mul_(largest / LEVELS)
        rough = rough if self._bias is None else rough.add_(self._bias)
        off = rounded.per_norm * scaled.norm(dim=-1, keepdim=True) + rounded.per_largest * largest
        rows, outputs = (rough >= rough.amax(-1, keepdim=True) - 2 * off).nonzero(as_tuple=True)
        if len(rows) > MOST_EXACT * len(x):  # gathering so many weights costs more than it saves
            return self.exact(x)
        exact = (self._weights[0][outputs] * x[rows]).sum(-1)
        rough[rows, outputs] = exact if self._bias is None else exact + self._bias[outputs]
        return rough

    @cached_property
    def _fits_fp16(self) -> bool:
        """FBGEMM would cut larger weights down, in the plain tensor as well."""
        return all(bool(weight.abs().max() <= torch.finfo(torch.float16).max) for weight in self._weights)

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
    def _bf16(self) -> Any:
        return self._laid_out(lambda weight: torch.ops.mkldnn._reorder_linear_weight(weight.bfloat16(), ROWS))

    @cached_property
    def _fp16(self) -> Any:
        return self._laid_out(lambda weight: torch.ops.quantized.linear_prepack_fp16(weight, self._bias))

    @cached_property
    def _eighths(self) -> _Rounded:
        return self._laid_out(_rounded)


@dataclass(frozen=True)
class _Rounded:
    """A weight (out, in) in 8 bits, packed, with a scale per output, and what a product with it is off by at most.

    columns: (in,) what an input is multiplied with first, and the weight was divided by: inputs whose weights are large anywhere would cost
    all others their precision. Of the input after that: per_norm: per unit of its Euclidean norm, for the weights are rounded
    (Cauchy-Schwarz) and sums are made in another order; per_largest: per unit of its largest absolute value, for it is rounded itself.
    """

    weight: Any
    scale: Tensor
    zero: Tensor
    columns: Tensor
    per_norm: float
    per_largest: float


def _rounded(weight: Tensor) -> _Rounded:
    tiny = torch.finfo(torch.float32).tiny
    columns = weight.abs().amax(0)
    columns = (columns / columns.mean().clamp(min=tiny)).clamp(min=1e-3)
    whole, scale = torch.empty_like(weight, dtype=torch.int8), torch.empty(len(weight))
    lost = largest = 0.0
    for n in range(0, len(weight), PART):  # the weight may be most of a model, and a few copies of it most of the memory
        part = weight[n : n + PART] / columns
        scale[n : n + PART] = (part.abs().amax(1) / 127).clamp(min=tiny)
        rounded = (part / scale[n : n + PART, None]).round()
        whole[n : n + PART] = rounded.to(torch.int8)
        lost = max(lost, float((part - rounded * scale[n : n + PART, None]).norm(dim=1).max()))
        largest = max(largest, float(part.norm(dim=1).max()))
    width = weight.shape[1]
    sums = 3 * width * torch.finfo(torch.float32).eps * largest
    step = 1 / (LEVELS * FINER)  # of an input whose largest value is 1; rounding is off by half of it
    packed, zero = torch.ops.onednn.qlinear_prepack(whole, None), torch.zeros(len(weight), dtype=torch.int32)
    return _Rounded(packed, scale, zero, columns, lost + sums, 0.51 * step * width**0.5 * (largest + lost))


def _by_onednn(x: Tensor, packed: Any, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return product
