"""LoRA adapters on one backbone, and which rows of a batch they act on. Files and layers are PEFT's.

PEFT keeps the choice of adapter on the modules, so every forward pass that depends on it runs inside `AdapterHost.lock` and
makes the choice itself: concurrent requests cannot see each other's.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor
from torch.nn import Linear, Module, ModuleList
from torch.nn.functional import linear

from gistdemo.model.adapter_files import key, lora_config, read_adapter, write_adapter
from gistdemo.model.lora_targets import FEED_FORWARD, choose_targets, in_attention, last_part

Route = slice | list[int]  # rows of a batch


def routes(rows: Sequence[str | None]) -> list[tuple[Route, str]]:
    """Rows of each adapter: a slice where they stand together (no copy), else their numbers."""
    found = []
    for name in dict.fromkeys(name for name in rows if name is not None):
        at = [n for n, other in enumerate(rows) if other == name]
        found.append((slice(at[0], at[-1] + 1) if at[-1] - at[0] + 1 == len(at) else at, name))
    return found


def linear_layers(model: Any) -> dict[str, tuple[int, int]]:
    """(out, in) of the linear layers that LoRA may go on, by path: none of the head, none whose name something else bears as well.

    Of a model whose experts are stacked in one tensor, those of attention alone: PEFT takes the usual names of the others for the experts.
    """
    modules, head = dict(model.named_modules()), model.get_output_embeddings()
    linear_ones = {path: m.weight for path, m in modules.items() if isinstance(m, Linear) and m is not head}
    found = {path: (weight.shape[0], weight.shape[1]) for path, weight in linear_ones.items()}
    others = {last_part(path) for path in modules if path not in found}
    stacked = any(last_part(path) == "experts" and not isinstance(module, ModuleList) for path, module in modules.items())
    if stacked:
        found = {path: shape for path, shape in found.items() if in_attention(path) and last_part(path) not in FEED_FORWARD}
    return {path: shape for path, shape in found.items() if last_part(path) not in others}


class AdapterHost:
    """A causal LM and the adapters attached to it. `None` as an adapter name means the plain weights.

    layers: as `linear_layers` finds them before any adapter is on.
    """

    def __init__(self, model: Any):
        self.model = model
        self.layers = linear_layers(model)
        self.lock = threading.RLock()
        self._peft: Any = None  # a PeftModel while adapters are on; torch's types know nothing of the methods it passes on
        self._active: str | None = None  # how PEFT's modules stand now; read and changed under the lock
        self._routes: list[tuple[Route, str]] = []  # rows and their adapter, during one mixed forward pass
        self._hooked: weakref.WeakSet[Any] = weakref.WeakSet()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._peft.peft_config) if self._peft is not None else ()

    def attach(self, name: str, folder: Path) -> None:
        """Load a saved adapter under a name. Does nothing when the name is already there.

        Raises: what `read_adapter` raises, before anything of the model is touched.
        """
        with self.lock:
            if name in self.names:
                return
            config, tensors = read_adapter(folder, self.layers)
            self._add(name, config, seed=0)
            with torch.no_grad():
                for path, part, weight in self._weights(name):
                    weight.copy_(tensors[key(path, part)])

    def create(self, name: str, rank: int, alpha: int, targets: Sequence[str], seed: int) -> None:
        """Add a new adapter that changes nothing yet (PEFT starts B at zero); A is drawn from `seed`.

        targets: names of layers, see `choose_targets`, which raises UsageError where there are none.
        """
        with self.lock:
            self._add(name, lora_config(rank, alpha, choose_targets(self.layers, targets)), seed)

    def parameters(self, name: str) -> dict[str, Any]:
        """Parameters of one adapter by their full name."""
        return {n: p for n, p in self.model.named_parameters() if f".{name}." in n and "lora_" in n}

    def tensors(self, name: str) -> dict[str, tuple[Tensor, Tensor]]:
        """A (in, rank) and B (rank, out), the latter scaled, of every layer that has this adapter, by its path: x gets x @ A @ B added."""
        self._require([name])
        down, up = (
            {path: weight.detach().T for path, part, weight in self._weights(name) if part == wanted} for wanted in ("lora_A", "lora_B")
        )
        return {path: (down[path], up[path] * self.model.get_submodule(path).scaling[name]) for path in down}

    def save(self, name: str, folder: Path) -> None:
        """Write one adapter in PEFT's format, directly in `folder`, as fp16."""
        write_adapter(folder, self._peft.peft_config[name], {key(path, part): weight for path, part, weight in self._weights(name)})

    @contextlib.contextmanager
    def using(self, name: str | None) -> Iterator[None]:
        """Let one adapter (or the plain weights) act on every row of the forward passes inside; then as before.

        Before means before: PEFT lets gradients reach an adapter only while it is the active one, so a training step that
        ends with plain weights must find its adapter active again when it goes backward.
        """
        with self.lock:
            before = self._active
            self._activate(name)
            try:
                yield
            finally:
                self._activate(before)

    def forward(self, rows: Sequence[str | None], head: bool = True, **inputs: Any) -> Any:
        """Run the causal LM on a batch in which each row names the adapter that acts on it.

        rows: B adapter names or None. head: false leaves the vocabulary layer out, where only keys and values are wanted.
        inputs: as for the stock model. Returns the stock model's output.
        """
        run = self.model if head else self.model.base_model
        with self.lock:
            self._require(rows)
            if len(set(rows)) == 1:
                self._activate(rows[0])
                return run(**inputs)
            self._activate(None)
            self._routes = routes(rows)
            try:
                return run(**inputs)
            finally:
                self._routes = []

    def _require(self, rows: Sequence[str | None]) -> None:
        """Raises: ValueError: a row names an adapter that is not attached."""
        if unknown := set(rows) - {None, *self.names}:
            raise ValueError(f"No adapter '{unknown.pop()}' is attached. Attached are: {', '.join(self.names) or 'none'}.")

    def _weights(self, name: str) -> Iterator[tuple[str, str, Tensor]]:
        """Path of every layer with this adapter, "lora_A" or "lora_B", and its weight."""
        for path in self.layers:
            layer = self.model.get_submodule(path)
            if isinstance(layer, LoraLayer) and name in layer.lora_A:
                yield path, "lora_A", layer.lora_A[name].get_parameter("weight")
                yield path, "lora_B", layer.lora_B[name].get_parameter("weight")

    def _add_rows(self, layer: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Forward hook of every LoRA layer: add each adapter's part to the rows that named it, in place.

        PEFT has mixed batches too (`adapter_names`); they cost 17 ms of a 91 ms step of six rows on two cores, this 3 ms.
        """
        for at, name in self._routes:
            if name in layer.lora_A:
                down, up = layer.lora_A[name].weight, layer.lora_B[name].weight  # fp32 also where the backbone is bf16
                added = linear(linear(args[0][at].to(down.dtype), down), up) * layer.scaling[name]
                output[at] += added.to(output.dtype)
        return output

    def _activate(self, name: str | None) -> None:
        """Switch PEFT's modules, unless they stand that way already: walking all modules costs as much as a third of a step."""
        if self._peft is None or name == self._active:
            return
        if name is None:
            self._peft.base_model.disable_adapter_layers()
        else:
            self._peft.set_adapter(name)  # first: an unknown name raises here, with nothing switched yet
            if self._active is None:
                self._peft.base_model.enable_adapter_layers()
        self._active = name

    def _settle(self, name: str) -> None:
        """Start from a known state after PEFT changed the modules: eval mode, our hook on all LoRA layers, `name` active."""
        self._peft.eval()
        modules: Iterator[Module] = self.model.modules()
        for module in modules:
            if isinstance(module, LoraLayer) and module not in self._hooked:
                module.register_forward_hook(self._add_rows)
                self._hooked.add(module)
        self._active = None
        self._activate(name)

    def _add(self, name: str, config: LoraConfig, seed: int) -> None:
        """Put a fresh adapter on the model; its random part is drawn from `seed`, nobody else's random numbers move."""
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message=".*is_gradient_checkpointing", category=FutureWarning
            )  # PEFT asks transformers by an old name
            torch.manual_seed(seed)
            if self._peft is None:
                self._peft = get_peft_model(self.model, config, adapter_name=name)
            else:
                self._peft.add_adapter(name, config)
        self._settle(name)
