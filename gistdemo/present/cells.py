"""The grid of a comparison: one row per checkpoint or backbone, one card per condition, and what the model was shown."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from markupsafe import Markup

from gistdemo.checkpoint.registry import ModelRow
from gistdemo.grid import Cell, Snapshot
from gistdemo.metrics import Assessment, Flag, TaskVerdict, Verdict
from gistdemo.present.markup import draw
from gistdemo.results.divergence import Divergence


def empty_grid() -> Markup:
    """What stands in the place of a grid before the first comparison."""
    return draw("cells.empty")


def grid(snapshot: Snapshot, shown: dict[str, ModelRow]) -> Markup:
    """The whole grid. shown: what is known of the rows, by name; of the others, their names are shown."""
    cards: dict[str, list[Markup]] = {}
    for cell in snapshot.cells:
        cards.setdefault(cell.checkpoint, []).append(card(cell))
    return draw("cells.grid", [(name, shown.get(name), found) for name, found in cards.items()], snapshot.finished)


def changes(before: Snapshot, now: Snapshot) -> Markup:
    """The cards that are not what they were, one after another: a grid that grows many times a minute is not drawn anew each time."""
    return draw("cells.changes", [card(cell) for earlier, cell in zip(before.cells, now.cells, strict=True) if cell != earlier])


def card(cell: Cell) -> Markup:
    """One cell: verdict, numbers, text, flags; what is not known yet shows as a dash."""
    found = cell.diagnosis
    if cell.status == "done" and cell.note and not cell.error:
        return draw("cells.absent", cell)
    return draw("cells.card", cell, _state(cell), highlight(cell.text, found.flags if found else ()))


STEPS = (0.1, 0.5, 1.5, 3.0)  # nats, from which on a token is coloured one step deeper


def diverging(found: Sequence[Divergence], problems: Sequence[str], shown: dict[str, ModelRow]) -> Markup:
    """Each full answer under the other conditions, its tokens coloured by how far the condition leads away from them."""
    lines: dict[str, list[tuple[Divergence, list[tuple[str, int, float, float]]]]] = {}
    for one in found:
        tokens = [(t, sum(kl >= step for step in STEPS), kl, d) for t, kl, d in zip(one.tokens, one.kl, one.difference, strict=True)]
        lines.setdefault(one.checkpoint, []).append((one, tokens))
    return draw("cells.diverging", [(shown.get(name), name, each) for name, each in lines.items()], problems)


def judged(text: str, found: Assessment) -> Markup:
    """A text of any origin with everything that is to be said about it."""
    state = card_state(found.verdict, found.task.verdict if found.task else None)
    return draw("cells.judged", found, state, highlight(text, found.flags))


def _state(cell: Cell) -> str:
    """What the colour of a card says: the worse of both judgements."""
    if cell.error or cell.diagnosis is None:
        return "failed" if cell.error else cell.status
    return card_state(cell.diagnosis.verdict, cell.diagnosis.task.verdict if cell.diagnosis.task else None)


def card_state(verdict: Verdict, task: TaskVerdict | None) -> str:
    """The verdict on the text; of healthy text, whether it is about something else."""
    return task.replace(" ", "-") if verdict == "healthy" and task in ("off task", "unsure") else verdict


def highlight(text: str, found: Sequence[Flag], shared: Sequence[tuple[int, int]] = ()) -> Markup:
    """The text with the span of every failing or warning flag marked; where spans overlap the more severe wins.

    shared: places (start, stop) that another text has as well; set in the colour of agreement.
    """
    order = {"fail": 2, "warn": 1}
    spans = [(*flag.span, flag) for flag in found if flag.span and flag.severity in order]
    borders = sorted({0, len(text), *(b for start, stop, _ in spans for b in (start, stop)), *itertools.chain(*shared)})
    pieces: list[tuple[Flag | None, bool, str]] = []
    for start, stop in itertools.pairwise(borders):
        over = [flag for a, b, flag in spans if a <= start and stop <= b]
        flag = max(over, key=lambda f: (order[f.severity], f.name == "loop"), default=None)
        pieces.append((flag, any(a <= start and stop <= b for a, b in shared), text[start:stop]))
    runs = [(flag, [piece[1:] for piece in run]) for flag, run in itertools.groupby(pieces, key=lambda piece: piece[0])]
    return draw("cells.marked", runs)


def seen_by_model(snapshot: Snapshot) -> Markup:
    """What the model is shown under each condition: every prompt token, coloured by its fate, of the first checkpoint of each template."""
    firsts: dict[object, Cell] = {}
    for cell in snapshot.cells:
        if cell.pieces:
            firsts.setdefault((cell.condition, cell.pieces), cell)
    return draw("cells.seen", list(firsts.values()))
