"""One example through checkpoints x conditions: a grid of cells that fills while it is watched. No torch at import, no widgets.

All cells on one backbone are one batch; each backbone has a worker thread, which sends plain events through a queue. The
caller's thread folds them into cells, scores and flags them, and hands out snapshots at a bounded rate.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from gistdemo.checkpoint.registry import ModelRow, find_row
from gistdemo.conditions import CONDITIONS
from gistdemo.errors import GistDemoError, one_line
from gistdemo.generation import Precision, RowReady, TokenEvent
from gistdemo.grid import Cell, CompareRequest, Piece, Snapshot
from gistdemo.metrics import MAIN, Task, assess, normalised_score
from gistdemo.prompts import PromptPlan
from gistdemo.settings import Settings

if TYPE_CHECKING:
    from gistdemo.checkpoint.pool import LoadedBackbone, ModelPool
    from gistdemo.judge.judge import Judge
    from gistdemo.model.answering import EngineRow
    from gistdemo.model.engine import Engine

log = logging.getLogger(__name__)
ASSESS_SECONDS = 1.0  # between two looks at an answer that is still growing
STOP_SECONDS = 0.1  # how soon `stop` is noticed while nothing else happens


@dataclass(frozen=True)
class _Loading:
    """How far a model is, and the cells that wait for it."""

    cells: tuple[int, ...]
    message: str
    fraction: float


@dataclass(frozen=True)
class _Planned:
    cell: int
    plan: PromptPlan
    pieces: tuple[Piece, ...]
    blind: bool
    precision: Precision


@dataclass(frozen=True)
class _Failed:
    cell: int
    error: str


@dataclass(frozen=True)
class _Event:
    cell: int
    event: RowReady | TokenEvent


class _WorkerDone:
    pass


_Change = _Loading | _Planned | _Failed | _Event
_Events = queue.SimpleQueue[_Change | _WorkerDone]
ASKING = "Are the answers about what was asked?"
NO_GIST = "A backbone has no gist: Train makes one."


def reusable(cells: Iterable[Cell], before: CompareRequest, now: CompareRequest) -> tuple[Cell, ...]:
    """Finished cells of an earlier comparison that `now` would only compute again: same example, same sampling, same prompt."""
    if (before.example, before.sampling) != (now.example, now.sampling):
        return ()
    complete = (cell for cell in cells if cell.finish_reason in ("eos", "limit"))
    return tuple(cell for cell in complete if before.k == now.k or not CONDITIONS[cell.condition].depends_on_k)


def compare(
    request: CompareRequest,
    pool: ModelPool,
    stop: threading.Event,
    seconds_between: float = 0.6,
    kept: Iterable[Cell] = (),
    judge: Judge | None = None,
) -> Iterator[Snapshot]:
    """Run a comparison. kept: cells that are taken over as they are (see `reusable`) instead of being generated. judge: is asked, once all
    answers are there, whether they are about what was asked.

    Yields a first snapshot at once (all cells waiting), then at most one per `seconds_between` (first words sooner), then a last one with
    finished True. Setting `stop` ends all cells with what they have; models that are being loaded then go on loading in the background.
    Closing the generator early stops the work as well.
    Raises: PromptError, UsageError: before anything is loaded. What fails later fails in its cells.
    """
    request.check(pool.settings)
    grid = _Grid(request, kept)
    yield grid.snapshot("Starting", None)
    events: _Events = queue.SimpleQueue()
    groups = _group_by_backbone(request, pool.settings, grid)
    workers = [
        threading.Thread(target=_work, args=(request, cells, pool, stop, events), name="compare", daemon=True) for cells in groups.values()
    ]
    for worker in workers:
        worker.start()
    working, shown, pause = len(workers), 0.0, seconds_between / 8
    try:
        while working and not (stop.is_set() and events.empty() and not grid.is_running):
            due = max(0.01, shown + pause - time.monotonic()) if grid.changed else STOP_SECONDS
            try:
                event = events.get(timeout=due)
                if isinstance(event, _WorkerDone):
                    working -= 1
                else:
                    grid.apply(event)
            except queue.Empty:
                pass
            if grid.changed and time.monotonic() - shown >= pause:
                shown, pause = time.monotonic(), min(2 * pause, seconds_between)
                yield grid.snapshot()
    finally:
        if working:  # the generator is closed early
            stop.set()
    if not working:  # all have said goodbye: a process that ends next must not find one in the middle of torch's code
        for worker in workers:
            worker.join()
    grid.stop_open_cells()
    if judge and judge.is_at_hand():
        yield from _second_judgement(grid, judge, stop)
    yield grid.snapshot("Stopped" if grid.was_stopped else "Done", None, finished=True)


def _second_judgement(grid: _Grid, judge: Judge, stop: threading.Event) -> Iterator[Snapshot]:
    """Ask of every answer whether it is about what was asked. Ends early when the comparison is stopped."""
    yield grid.snapshot(ASKING, 0.0)
    answers = grid.unjudged()
    for number, at in enumerate(answers, 1):
        if stop.is_set():
            return
        grid.put_task(at, judge.judge(grid.request.example, grid.cells[at].text))
        yield grid.snapshot(f"{ASKING} {number} of {len(answers)}", number / len(answers))


class _Grid:
    """Folds events into cells. Owned by one thread."""

    def __init__(self, request: CompareRequest, kept: Iterable[Cell] = ()):
        self.request = request
        known = {(cell.checkpoint, cell.condition): cell for cell in kept}
        places = [(checkpoint, condition) for checkpoint in request.checkpoints for condition in request.conditions]
        self.cells = [known.get(place) or Cell(*place) for place in places]
        self.changed = False
        self._dirty: set[int] = set()
        self._first: dict[int, float] = {}
        self._assessed_at: dict[int, float] = {}
        self._tasks = {at: cell.diagnosis.task for at, cell in enumerate(self.cells) if cell.diagnosis}
        self._loading: _Loading | None = None

    @property
    def was_stopped(self) -> bool:
        return any(cell.finish_reason == "stopped" for cell in self.cells)

    @property
    def is_running(self) -> bool:
        return any(cell.status == "running" for cell in self.cells)

    def stop_open_cells(self) -> None:
        for at, cell in enumerate(self.cells):
            if cell.status != "done":
                self._update(at, status="done", finish_reason="stopped", note=None)

    def leave_out(self, at: int, why: str) -> None:
        """A cell that has nothing to show."""
        self._update(at, status="done", note=why)

    def unjudged(self) -> list[int]:
        """Numbers of cells with whole answers of which nobody has asked yet whether they are about what was asked."""
        return [
            at
            for at, cell in enumerate(self.cells)
            if cell.diagnosis and cell.finish_reason in ("eos", "limit") and not self._tasks.get(at)
        ]

    def put_task(self, at: int, task: Task | None) -> None:
        self._tasks[at] = task
        self._dirty.add(at)

    def apply(self, event: _Change) -> None:
        self.changed = True
        if isinstance(event, _Loading):
            self._loading = event
            for at in event.cells:
                if self.cells[at].status == "waiting":
                    self._update(at, note=event.message)
        elif isinstance(event, _Failed):
            self._update(event.cell, status="done", finish_reason="error", error=event.error, note=None)
        elif isinstance(event, _Planned):
            p = event.plan
            counts = {"prompt_tokens": p.prompt_tokens, "instruction_tokens": p.instruction_tokens, "kept_tokens": p.kept_tokens}
            self._update(event.cell, pieces=event.pieces, blind=event.blind, precision=event.precision, **counts)
        elif isinstance(event.event, RowReady):
            if self._loading and event.cell in self._loading.cells:
                self._loading = None
            ready = event.event
            self._update(event.cell, status="running", kv_bytes=ready.kv_bytes, gist_reused=ready.gist_reused, note=None)
        else:
            self._token(event.cell, event.event)

    def _token(self, at: int, event: TokenEvent) -> None:
        cell = self.cells[at]
        text = cell.text + event.text
        tokens = cell.answer_tokens + (event.token_id is not None and event.finish_reason != "eos")
        if event.token_id is not None:
            self._first.setdefault(at, event.seconds)
        elapsed = event.seconds - self._first.get(at, event.seconds)
        self._update(
            at,
            status="done" if event.finish_reason else "running",
            text=text,
            answer_tokens=tokens,
            first_token_seconds=self._first.get(at),
            tokens_per_second=(tokens - 1) / elapsed if tokens > 1 and elapsed > 0 else cell.tokens_per_second,
            finish_reason=event.finish_reason,
            error=event.error,
        )

    def _update(self, at: int, **changes: Any) -> None:
        self.cells[at] = replace(self.cells[at], **changes)
        self._dirty.add(at)

    def snapshot(self, message: str | None = None, fraction: float | None = None, finished: bool = False) -> Snapshot:
        """Score what changed and hand out the grid."""
        self.changed = False
        changed = range(len(self.cells)) if finished else sorted(self._dirty)
        for at in changed:
            if self._worth_assessing(self.cells[at]) and self._is_due(at):
                self.cells[at] = self._assessed(at, finished)
        if finished:
            self.cells = [self._normalised(cell) for cell in self.cells]
        self._dirty.clear()
        if message is None:
            running = [c for c in self.cells if c.status != "done"]
            message = f"Generating: {len(self.cells) - len(running)} of {len(self.cells)} answers finished"
            if self._loading:
                message, fraction = self._loading.message, self._loading.fraction
        return Snapshot(tuple(self.cells), message, fraction, finished)

    def _is_due(self, at: int) -> bool:
        """Whether an answer is to be assessed now: one that has ended, and one that grows now and then."""
        now = time.monotonic()
        if self.cells[at].status != "done" and now < self._assessed_at.get(at, -math.inf) + ASSESS_SECONDS:
            return False
        self._assessed_at[at] = now
        return True

    @staticmethod
    def _worth_assessing(cell: Cell) -> bool:
        if cell.error or (cell.status == "done" and cell.note):
            return False
        return bool(cell.text.strip()) or cell.finish_reason in ("eos", "limit")  # nothing said yet is not an empty answer

    def _assessed(self, at: int, finished: bool) -> Cell:
        cell, task = self.cells[at], self._tasks.get(at)
        full, none = (self._text(cell, name) if finished else None for name in ("full", "none"))
        example, reason = self.request.example, cell.finish_reason
        found = assess(cell.text, example, finish_reason=reason, blind=cell.blind, full_text=full, none_text=none, task=task)
        return replace(cell, diagnosis=found)

    def _finished(self, cell: Cell, condition: str) -> Cell | None:
        """The finished answer of the same checkpoint under a condition."""
        found = (c for c in self.cells if c.checkpoint == cell.checkpoint and c.condition == condition)
        return next((c for c in found if c.status == "done" and not c.error), None)

    def _text(self, cell: Cell, condition: str) -> str | None:
        other = self._finished(cell, condition)
        return other.text if other and condition != cell.condition else None

    def _normalised(self, cell: Cell) -> Cell:
        three = [cell, *(self._finished(cell, name) for name in ("none", "full"))]
        scores = [c.scores[MAIN.name] for c in three if c and c.scores]
        return replace(cell, normalised=normalised_score(*scores) if len(scores) == len(three) else None)


def _group_by_backbone(request: CompareRequest, settings: Settings, grid: _Grid) -> dict[str, list[tuple[int, ModelRow]]]:
    """(cell number, its row) by the weights they need. Rows that cannot be used fail in their own cells."""
    groups: dict[str, list[tuple[int, ModelRow]]] = {}
    for at, name in enumerate(request.checkpoints):
        numbers = range(at * len(request.conditions), (at + 1) * len(request.conditions))
        try:
            row = find_row(name, settings)
        except GistDemoError as error:
            for number in numbers:
                grid.apply(_Failed(number, one_line(error)))
            continue
        for number in numbers:
            if not row.has_gist and CONDITIONS[grid.cells[number].condition].gist_from:
                grid.leave_out(number, NO_GIST)
        open_cells = [(number, row) for number in numbers if grid.cells[number].status != "done"]
        if open_cells:
            groups.setdefault(row.model_key, []).extend(open_cells)
    return groups


def _work(request: CompareRequest, cells: list[tuple[int, ModelRow]], pool: ModelPool, stop: threading.Event, events: _Events) -> None:
    """Worker thread: load, plan, generate the cells of one backbone. Every failure becomes an event."""
    unfinished = {number for number, _ in cells}
    try:
        numbers, rows, engine = _prepare(request, cells, pool, events, unfinished)
        if engine and rows and not stop.is_set():
            with closing(engine.stream(rows, request.sampling, stop)) as stream:
                for event in stream:
                    events.put(_Event(numbers[event.row], event))
                    if isinstance(event, TokenEvent) and event.finish_reason:
                        unfinished.discard(numbers[event.row])
        for number in sorted(unfinished):
            events.put(_Event(number, TokenEvent(number, None, "", "stopped", 0.0)))
    except Exception as error:
        if not isinstance(error, GistDemoError):
            log.exception("comparison failed")
        for number in sorted(unfinished):
            events.put(_Failed(number, one_line(error)))
    finally:
        events.put(_WorkerDone())


def _prepare(
    request: CompareRequest, cells: list[tuple[int, ModelRow]], pool: ModelPool, events: _Events, unfinished: set[int]
) -> tuple[list[int], list[EngineRow], Engine | None]:
    """Load the rows' models and make the engine rows. Returns cell numbers, rows and the engine; failed cells are left out."""
    numbers: list[int] = []
    rows: list[EngineRow] = []
    base: LoadedBackbone | None = None
    problems: dict[int, str] = {}  # by the row they belong to: two folders may have one name
    waiting = tuple(number for number, _ in cells)
    for number, shown in cells:
        at = number // len(request.conditions)
        try:
            if at in problems:
                raise GistDemoError(problems[at])
            base, loaded = pool.row(shown, lambda message, fraction: events.put(_Loading(waiting, message, fraction)))
        except GistDemoError as error:
            problems[at] = one_line(error)
            events.put(_Failed(number, one_line(error)))
            unfinished.discard(number)
            continue
        condition = CONDITIONS[request.conditions[number % len(request.conditions)]]
        try:
            planned = loaded.plan(request.example, condition, request.k)
            row = loaded.row(planned)
            blind = loaded.is_blind(planned, request.example, condition, request.k)
        except GistDemoError as error:
            events.put(_Failed(number, one_line(error)))
            unfinished.discard(number)
            continue
        decode = base.tokenizer.decode
        pieces = tuple(Piece(kind, fate, tuple(decode([i]) for i in ids)) for kind, fate, ids in planned.pieces)
        events.put(_Planned(number, planned, pieces, blind, base.model.precision(request.sampling.precision)))
        numbers.append(number)
        rows.append(row)
    return numbers, rows, base.engine if base else None
