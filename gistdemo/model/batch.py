"""All answers that one model is giving at this moment, whoever asked: they join and leave between two steps.

A turn of the computing thread is one of two: prompts of those who wait are read and join, or every answer that is on its way gets its next
token. Models take turns. Letters as in `gistdemo.model`.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from gistdemo.errors import one_line
from gistdemo.generation import Precision, Sampling
from gistdemo.memory import return_freed_memory
from gistdemo.model.answering import Answer, EngineRow, Request
from gistdemo.model.decoding import Decoding
from gistdemo.model.gist_cache import GistCache
from gistdemo.model.gist_model import GistModel
from gistdemo.model.gist_store import GistStore
from gistdemo.model.packed import computing
from gistdemo.model.sampling import draw
from gistdemo.model.threads import send_home

log = logging.getLogger(__name__)
ROWS = 32  # answers at a time; more wait
DROP = 8  # an eighth
REFILL = 4  # a batch that is full waits for so many places: reading one prompt takes nearly as long as reading four

# One thread computes for all requests of this process: each pass uses all cores, and see `gistdemo.model.threads`.
COMPUTE = ThreadPoolExecutor(1, "compute")


class Batch:
    """Answers of one model in one precision. All of it happens in the computing thread, so nothing is locked."""

    def __init__(self, model: GistModel, tokenizer: Any, gists: GistStore, precision: Precision):
        self._model, self._tokenizer, self._gists, self._precision = model, tokenizer, gists, precision
        self._known: dict[Hashable, Answer] = {}  # on their way or waiting, by what makes two of them one
        self._waiting: list[Answer] = []
        self._rows: list[Answer | None] = []  # of `_decoding`; None: its answer has ended, and it goes when rows are next put together
        self._decoding: Decoding | None = None
        self._last = torch.empty(0, dtype=torch.long)  # (B,): what every row said last
        self._read_last, self._in_line = False, False

    def add(self, request: Request, rows: Sequence[EngineRow], sampling: Sampling) -> None:
        """Take rows in. Equal ones, of other requests as well, are one answer."""
        for number, row in enumerate(rows):
            key = (row.key(), sampling)
            if key not in self._known:
                self._known[key] = Answer(row, sampling, self._tokenizer)
                self._waiting.append(self._known[key])
            self._known[key].told_to(request, number)
        self._get_in_line()

    def _get_in_line(self) -> None:
        if not self._known:  # nobody is left: keys, values and helper threads go
            self._put_together([])
            send_home()
            return_freed_memory()
        elif not self._in_line:
            self._in_line = True
            COMPUTE.submit(self._turn)

    @torch.inference_mode()
    def _turn(self) -> None:
        self._in_line = False
        try:
            with computing(self._precision):
                self._part_with_the_gone()
                if coming := self._next_in_line():
                    self._read(coming)
                elif self._decoding is not None:
                    self._step(self._decoding)
        except Exception as error:
            log.exception("decoding failed")
            self._fail(list(self._known.values()), one_line(error))
        self._get_in_line()

    def _part_with_the_gone(self) -> None:
        gone = [answer for answer in self._known.values() if not answer.take_leave()]
        self._forget(gone)
        if self._decoding is not None:
            self._put_together([])

    def _forget(self, ended: Sequence[Answer]) -> None:
        if not ended:
            return
        self._known = {key: answer for key, answer in self._known.items() if answer not in ended}
        self._waiting = [answer for answer in self._waiting if answer not in ended]
        self._rows = [None if answer in ended else answer for answer in self._rows]

    def _fail(self, failed: Sequence[Answer], error: str) -> None:
        for answer in failed:
            answer.fail(error)
        self._forget(failed)

    # --- prompts ---------------------------------------------------------------------------------------------------

    def _next_in_line(self) -> list[Answer]:
        """Whose prompts are read now: those of requests that have fewest answers on their way. A request's first answers begin before
        prompts of it are compressed. Between two such turns there is a step."""
        going = [answer for answer in self._rows if answer]
        room = ROWS - len(going)
        if room < min(len(self._waiting), REFILL) or (going and self._read_last):
            self._read_last = False
            return []
        shares = Counter(id(answer.callers[0][0]) for answer in going)
        places: list[tuple[int, int]] = []
        for n, answer in enumerate(self._waiting):
            asker = id(answer.callers[0][0])
            places.append((shares[asker], n))
            shares[asker] += 1
        coming = [self._waiting[n] for _, n in sorted(places)[:room]]
        at_once = [answer for answer in coming if answer.row.plan.compress_ids is None]
        is_first = not any(request.has_begun for answer in coming for request, _ in answer.callers)
        self._read_last = bool(coming)
        return at_once if at_once and is_first else coming

    def _read(self, coming: list[Answer]) -> None:
        """Compress, read the prompts, give first tokens, and let those that go on join."""
        turn = time.perf_counter()
        self._waiting = [answer for answer in self._waiting if answer not in coming]
        known = {None, *self._model.adapters.names}
        for answer in coming:
            if answer.row.decode_adapter not in known:
                self._fail([answer], f"Adapter '{answer.row.decode_adapter}' is not attached.")
        gists = self._gists_of([answer for answer in coming if answer.row.decode_adapter in known])
        coming = list(gists)
        if not coming:
            return
        adapters, greedy = [answer.row.decode_adapter for answer in coming], all(answer.sampling.is_greedy for answer in coming)
        try:
            logits, read = self._model.read(
                adapters, [gist for gist, _ in gists.values()], [answer.row.plan.prompt_ids for answer in coming], greedy
            )
        except Exception as error:
            log.exception("reading the prompts failed")
            self._fail(coming, one_line(error))
            return
        cache = read.held()
        per_place = cache.bytes // cache.mask.numel()
        for answer, places in zip(coming, cache.mask.sum(1).tolist(), strict=True):
            answer.ready(per_place * places, turn, gists[answer][1])
        last, going = self._say(coming, logits)
        self._put_together([(coming[n], cache, n) for n in going], last[going])

    def _gists_of(self, answers: Sequence[Answer]) -> dict[Answer, tuple[GistCache, bool]]:
        """The gist of every answer, nothing where its prompt is all text, and whether it was there already. Failed ones are left out."""
        found: dict[Answer, tuple[GistCache, bool]] = {}
        todo: dict[Hashable, list[Answer]] = {}
        for answer in answers:
            key = answer.row.gist_key()
            if key is None:
                found[answer] = (self._model.empty(1), False)
            elif kept := self._gists.get((key, self._precision)):
                found[answer] = (kept, True)
            else:
                todo.setdefault(key, []).append(answer)
        made, failed = self._compressed({key: of[0] for key, of in todo.items()})
        for key, error in failed.items():
            self._fail(todo[key], error)
        for key, gist in made.items():
            if self._model.is_final:
                self._gists.put((key, self._precision), gist, todo[key][0].row.slots)
            found |= {answer: (gist, answer is not todo[key][0]) for answer in todo[key]}
        return {answer: found[answer] for answer in answers if answer in found}

    def _compressed(self, todo: dict[Hashable, Answer]) -> tuple[dict[Hashable, GistCache], dict[Hashable, str]]:
        """Phase 1, in one batch; or one by one when the batch fails, to find out whose fault it is. Returns gists, and errors of the others."""
        if not todo:
            return {}, {}
        try:
            together = self._model.compress([answer.row.compression() for answer in todo.values()])
            return {key: together.row(n).copied() for n, key in enumerate(todo)}, {}
        except Exception as error:
            log.exception("compressing %d prompts failed", len(todo))
            if len(todo) == 1:
                return {}, dict.fromkeys(todo, one_line(error))
        made: dict[Hashable, GistCache] = {}
        failed: dict[Hashable, str] = {}
        for key, answer in todo.items():
            one, none = self._compressed({key: answer})
            made |= one
            failed |= none
        return made, failed

    # --- steps -----------------------------------------------------------------------------------------------------

    def _step(self, decoding: Decoding) -> None:
        """One more token of every answer."""
        greedy = all(answer.sampling.is_greedy for answer in self._rows if answer)
        logits = decoding.next_logits(self._last.to(self._model.device), greedy)
        self._last, _ = self._say(self._rows, logits)

    def _say(self, rows: Sequence[Answer | None], logits: Tensor) -> tuple[Tensor, list[int]]:
        """Tell every answer its next token. logits: (B, V). Returns the tokens (B,), and which rows go on."""
        finite = torch.isfinite(logits.sum(-1)).tolist()  # one pass over what may be 262,144 values per row; isfinite() takes five
        answers = [(n, answer) for n, answer in enumerate(rows) if answer]
        usable = logits if all(finite) else logits.nan_to_num(0.0)
        tokens = usable.argmax(-1).cpu()
        for n, answer in answers:
            if not answer.sampling.is_greedy:
                tokens[n] = draw(usable[n], answer.sampling, answer.generator)
        going = [n for n, answer in answers if answer.say(int(tokens[n]) if finite[n] else None)]
        self._forget([answer for n, answer in answers if n not in going])
        return tokens, going

    def _put_together(self, coming: Sequence[tuple[Answer, GistCache, int]], last: Tensor | None = None) -> None:
        """Let answers join, each with the cache it is a row of, and drop those that have ended. last: (B,) what those who come said.

        Moving keys and values takes time: rows that have ended stay until others join or an eighth of the batch is such.
        """
        going = [(n, answer) for n, answer in enumerate(self._rows) if answer]
        ended = len(self._rows) - len(going)
        if not coming and going and ended * DROP < len(self._rows):
            return
        index = [n for n, _ in going]
        held = self._decoding.held() if self._decoding and going else None
        rows = [held.row(n) for n in index] if held else []
        self._last = torch.cat([self._last[index], last]) if last is not None else self._last[index]
        self._rows = [*(answer for _, answer in going), *(answer for answer, _, _ in coming)]
        rows += [cache.row(n) for _, cache, n in coming]
        adapters = [answer.row.decode_adapter for answer in self._rows if answer]
        self._decoding = self._model.decoding(adapters, rows) if rows else None
