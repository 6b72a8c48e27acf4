"""How likely one model finds texts after prompts. Letters as in `gistdemo.model`.

Prompts that are asked about again stay read: those that every answer is held against, and those of the last few examples.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import linear

from gistdemo.checkpoint.pool import LoadedBackbone
from gistdemo.checkpoint.store import LoadedCheckpoint
from gistdemo.conditions import CONDITIONS
from gistdemo.errors import PromptError
from gistdemo.judge.calibration import Calibration
from gistdemo.metrics.task import Likelihoods
from gistdemo.model.gist_cache import GistCache
from gistdemo.model.head import finished
from gistdemo.prompts import Example

KEPT = 4  # examples whose prompts stay read


@dataclass(frozen=True)
class _Read:
    """Prompts that were read but for their last tokens. cache: of B rows. last: B ids."""

    cache: GistCache
    last: list[int]


class Reader:
    """The judge's model. What it computes is computed between the steps of answers, one text at a time."""

    def __init__(self, base: LoadedBackbone, loaded: LoadedCheckpoint, calibration: Calibration):
        self._base, self._loaded, self._calibration = base, loaded, calibration
        self._own: OrderedDict[tuple[str, str], _Read] = OrderedDict()

    def likelihoods(self, example: Example, text: str) -> Likelihoods:
        """Of the first tokens of a text. Raises: PromptError: the prompt cannot be read, or the text has no token."""
        readable = text.encode("utf-8", "replace").decode("utf-8")
        ids = self._loaded.encoder.answer_ids(readable, self._calibration.tokens + 1)[:-1]  # without the end: an answer may have been cut
        if not ids:
            raise PromptError("The answer has no token that the judge knows. Nothing is to be judged.")
        return self._base.engine.apart(self._calibration.precision, self._likelihoods, example, ids)

    def _likelihoods(self, example: Example, ids: Sequence[int]) -> Likelihoods:
        own, without, *same_input = self._sums(self._prompts_of(example), ids)
        elsewhere = self._sums(self._elsewhere, ids)
        other = [prompt.instruction != example.instruction.strip() for prompt in self._calibration.prompts]
        return Likelihoods(len(ids), own, without, tuple(same_input), tuple(itertools.compress(elsewhere, other)))

    def _prompts_of(self, example: Example) -> _Read:
        """The own prompt, the prompt without the instruction, and other instructions before the same input."""
        given = example.input.strip()[: self._calibration.input_characters]
        key = (example.instruction, given)
        if key not in self._own:
            own = Example(example.instruction, given, "")
            different = [text for text in self._calibration.instructions if text != example.instruction.strip()]
            others = [Example(text, given, "") for text in different] if given else []
            self._own[key] = self._read([(own, "full"), (own, "none"), *((other, "full") for other in others)])
            while len(self._own) > KEPT:
                self._own.popitem(last=False)
        self._own.move_to_end(key)
        return self._own[key]

    @cached_property
    def _elsewhere(self) -> _Read:
        return self._read([(prompt, "full") for prompt in self._calibration.prompts])

    def _read(self, prompts: Sequence[tuple[Example, str]]) -> _Read:
        model = self._base.model
        ids = [self._loaded.plan(example, CONDITIONS[condition], 0).prompt_ids for example, condition in prompts]
        adapters = [self._loaded.decode_adapter] * len(ids)
        _, read = model.read(adapters, [model.empty(len(ids))], [one[:-1] for one in ids], greedy=True)
        return _Read(read.held(), [one[-1] for one in ids])

    def _sums(self, prompts: _Read, ids: Sequence[int]) -> list[float]:
        """Log-probability of the ids (T,) after each of B prompts, nats, summed."""
        size, before = len(prompts.last), [[last] for last in prompts.last]
        hidden, targets = self._base.model.answer_hidden(prompts.cache, before, [ids] * size, self._loaded.decode_adapter)
        found: list[float] = self._log_probabilities(hidden, targets).view(size, -1).sum(1).tolist()
        return found

    def _log_probabilities(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """(N,): of each target among the first tokens of the vocabulary and itself. hidden: (N, E). targets: (N,) ids."""
        model, first = self._base.model.model, self._calibration.vocabulary
        head = model.get_output_embeddings()
        common = finished(linear(hidden, head.weight[:first], None if head.bias is None else head.bias[:first]), model.config)
        own = (hidden * head.weight[targets]).sum(-1)
        said = finished(own if head.bias is None else own + head.bias[targets], model.config).float()
        whole = common.float().logsumexp(-1)
        return said - torch.where(targets < first, whole, torch.logaddexp(whole, said))
