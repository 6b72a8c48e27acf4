"""The toy backbone at work: what most tests need to go from an instruction to logits, caches and generated tokens."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from toy import toy_model, toy_tokenizer

from gistdemo.conditions import CONDITIONS
from gistdemo.generation import RowReady, Sampling, TokenEvent
from gistdemo.model.answering import EngineRow
from gistdemo.model.engine import Engine
from gistdemo.model.gist_model import Compression, GistModel
from gistdemo.prompts import CHATML, Example, PromptEncoder, PromptPlan, Template, plan

ADAPTERS = ("one", "two")
EXAMPLES = (
    Example("Name a colour.", "", "Blue."),
    Example("Translate the sentence into French, please.", "good day", "bonjour"),
    Example("Add.", "1 2 3", "6"),
    Example("Write a haiku about the rain that fell last night.", "", "Drops on the window."),
)
NEVER: frozenset[int] = frozenset()  # stop ids of rows that run to their limit


def lively_model(seed: int = 0):
    """The toy model with stronger attention, so that greedy answers vary with the prompt instead of repeating one token."""
    model = toy_model(seed)
    factors = {"q_proj": 2.0, "k_proj": 2.0, "v_proj": 3.0, "o_proj": 3.0}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(next((f for part, f in factors.items() if part in name), 1.0))
    return model


def add_random_adapter(model: GistModel, name: str, seed: int) -> None:
    """Create an adapter and give it an effect: PEFT starts B at zero. Values are exact in fp16, so that saving loses nothing."""
    model.adapters.create(name, rank=4, alpha=8, targets=("q_proj", "v_proj", "down_proj"), seed=seed)
    generator = torch.Generator().manual_seed(100 + seed)
    with torch.no_grad():
        for parameter in model.adapters.parameters(name).values():
            parameter.copy_((torch.randn(parameter.shape, generator=generator) * 0.1).half())


@dataclass
class Answer:
    """What a row's events add up to."""

    ids: list[int] = field(default_factory=list)
    text: str = ""
    reason: str | None = None
    error: str | None = None
    kv_bytes: int | None = None


class Lab:
    """A lively toy backbone with everything on top of it. slots: (16, E), far from zero and from each other."""

    def __init__(self, template: Template = CHATML, tokenizer: Any = None, model: GistModel | None = None):
        self.tokenizer = tokenizer or toy_tokenizer()
        self.model = model or GistModel(lively_model())
        self.encoder = PromptEncoder(self.tokenizer, template)
        self.engine = Engine(self.model, self.tokenizer)
        self.slots = 0.3 * torch.randn(16, self.model.config.hidden_size, generator=torch.Generator().manual_seed(7))

    def plan(self, condition: str, example: Example, k: int = 4) -> PromptPlan:
        return plan(self.encoder.encode(example), CONDITIONS[condition], k)

    def row(
        self,
        condition: str,
        example: Example,
        k: int = 4,
        adapter: str | None = None,
        decode_adapter: str | None = None,
        stop_ids: frozenset[int] = NEVER,
    ) -> EngineRow:
        """An engine row; `adapter` acts in phase 1 only. Runs to its limit unless stop ids are given."""
        return EngineRow(self.plan(condition, example, k), stop_ids, self.slots[:k], adapter, decode_adapter)

    def generate(self, rows: Sequence[EngineRow], sampling: Sampling | None = None, stop: threading.Event | None = None) -> list[Answer]:
        """Run rows together and gather their events."""
        answers = [Answer() for _ in rows]
        for event in self.engine.stream(rows, sampling or Sampling(12), stop):
            answer = answers[event.row]
            if isinstance(event, RowReady):
                answer.kv_bytes = event.kv_bytes
                continue
            assert isinstance(event, TokenEvent) and answer.reason is None, "a row that has ended reports nothing"
            answer.ids += [] if event.token_id is None else [event.token_id]
            answer.text += event.text
            answer.reason, answer.error = event.finish_reason, event.error
        return answers

    def ids(self, rows: Sequence[EngineRow], sampling: Sampling | None = None) -> list[list[int]]:
        """New tokens of rows that must all succeed."""
        answers = self.generate(rows, sampling)
        assert not (failed := [answer.error for answer in answers if answer.reason == "error"]), failed
        return [answer.ids for answer in answers]

    def start(self, plans: Sequence[PromptPlan], adapter: str | None = None):
        """Phase 1 of plans of one kind: the compressed rows, or rows that hold nothing where all is text."""
        if plans[0].compress_ids is None:
            return self.model.empty(len(plans))
        return self.model.compress([Compression(p.compress_ids or (), self.slots[: p.k], adapter) for p in plans])

    @torch.no_grad()
    def answer_logits(
        self, condition: str, examples: Sequence[Example], answers: Sequence[Sequence[int]], k: int = 4, adapter=None, decode_adapter=None
    ) -> list[Tensor]:
        """Both phases with known answers, as in training: per row, the logits (answer tokens, V) that predict its answer."""
        plans = [self.plan(condition, example, k) for example in examples]
        logits, targets = self.model.answer_logits(self.start(plans, adapter), [p.prompt_ids for p in plans], answers, decode_adapter)
        assert targets.tolist() == [token for answer in answers for token in answer]
        return list(logits.split([len(answer) for answer in answers]))

    @torch.no_grad()
    def prefilled(self, condition: str, example: Example, more: Sequence[int] = (), k: int = 4, adapter=None, decode_adapter=None):
        """Both phases of one row, then `more` ids: the whole transformers cache and the last logits (V,)."""
        made = self.plan(condition, example, k)
        cache = self.start([made], adapter)
        ids = torch.tensor([[*made.prompt_ids, *more]])
        whole = cache.to_dynamic_cache(self.model.config)
        mask = torch.cat([cache.mask, torch.ones_like(ids)], 1)
        position = cache.next_position[:, None] + torch.arange(ids.shape[1])[None]
        return whole, self.model.next_logits([decode_adapter], ids, mask, position, whole)[0]


class Calls:
    """Records what reaches the decoder layers while it is open: masks, positions, ids and cache length of every forward pass."""

    def __init__(self, lab: Lab):
        self.seen: list[dict[str, Any]] = []
        self._layers = lab.model.model.model

    def __enter__(self) -> Calls:
        self._hook = self._layers.register_forward_pre_hook(self._note, with_kwargs=True)
        return self

    def __exit__(self, *error) -> None:
        self._hook.remove()

    def _note(self, module, args, kwargs) -> None:
        cache = kwargs.get("past_key_values")
        kept = {name: kwargs.get(name) for name in ("input_ids", "inputs_embeds", "attention_mask", "position_ids")}
        copied = {name: None if value is None else value.clone() for name, value in kept.items()}
        self.seen.append(copied | {"cached": cache.get_seq_length() if cache else 0})

    @property
    def decoding(self) -> list[dict[str, Any]]:
        """Phase 2 calls: those that read ids."""
        return [call for call in self.seen if call["input_ids"] is not None]
