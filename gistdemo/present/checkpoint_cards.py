"""The checkpoints of an installation: what each is and how good it is, the broken ones with the reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from markupsafe import Markup

from gistdemo.checkpoint.manifest import Manifest
from gistdemo.checkpoint.registry import Entry
from gistdemo.errors import DataError
from gistdemo.metrics import MAIN
from gistdemo.model.embedded import EMBEDDED
from gistdemo.present.entries import mean_of, name_of, share_of
from gistdemo.present.markup import MARKS, draw, number
from gistdemo.present.panels import note, notices
from gistdemo.results.migrations import Content, lifted

SHOWN_K = 4  # where one budget has to stand for all
TARGETS = {
    "references": "reference answers",
    "own_answers": "the model's own full-prompt answers",
    "long_references": "long text, reference answers",
    "long_own_answers": "long text, the model's own answers",
}
# training and recovery are notes: another trainer may write others, and an imported checkpoint anything
NOT_OURS = (DataError, KeyError, TypeError, ValueError, AttributeError, ArithmeticError)
Table = tuple[str, list[str], list[tuple[str, list[str]]]]  # caption, heads, lines of a head and values


def checkpoints(entries: Sequence[Entry]) -> Markup:
    """Every checkpoint folder with its health; broken ones with the reason."""
    if not entries:
        return note("No checkpoint found.")
    found = [(e, _facts(e.manifest), _tables(e), notices([e.manifest.backbone])) if e.manifest else (e, (), (), ()) for e in entries]
    return draw("checkpoint_cards.checkpoints", found)


def _facts(manifest: Manifest) -> list[tuple[str, str]]:
    anchored = "each anchored to a stretch of the instruction" if manifest.anchored else "appended to the instruction"
    return [
        ("mode", manifest.mode),
        ("backbone", EMBEDDED[manifest.backbone].title if manifest.backbone in EMBEDDED else manifest.backbone),
        ("gist tokens", f"{manifest.max_k}, {anchored}"),
        ("size", f"{sum(file['bytes'] for file in manifest.files.values()) / 1e6:.1f} MB"),
        ("training", _training(manifest.training)),
    ]


def _training(record: dict[str, Any]) -> str:
    try:
        return f"{record['steps']} steps, {record['seconds'] / 60:.0f} min on {record['device']}"
    except NOT_OURS:
        return "not recorded"


def _tables(entry: Entry) -> Iterator[Table]:
    """Verdicts, then recovery for each kind of answers; what cannot be read is left out."""
    try:
        yield _verdicts(lifted(Content(entry.evaluation() or {}), entry.name).results)
    except NOT_OURS:
        pass
    for target, title in TARGETS.items():
        try:
            yield _recovery(entry.recovery()[target], title)
        except NOT_OURS:
            continue


def _verdicts(found: dict[str, Any]) -> Table:
    """Shares of verdicts per condition, from the evaluation kept beside a checkpoint."""
    lines = []
    for e in found["answers"]:
        if e["k"] in (0, SHOWN_K):
            title = name_of(e["condition"]) + (f", k = {e['k']:d}" if e["k"] else "")
            lines.append((title, [mean_of(e, MAIN.name).text, *(share_of(e, verdict, 0) for verdict in MARKS)]))
    heads = ["", MAIN.label, *(f"{mark} {verdict}" for verdict, mark in MARKS.items())]
    return f"Greedy answers to {found['rows']:d} rows not trained on", heads, lines


def _recovery(figures: dict[str, Any], title: str) -> Table:
    """Recovery per budget beside its control."""
    rows = {"own gist": "recovery", "another row's gist": "swapped"}
    lines = [(label, [number(row[name], "{:.2f}") for row in figures["by_k"].values()]) for label, name in rows.items()]
    return f"Recovery, {title}, n = {figures['rows']} held-out rows", ["", *(f"k={k}" for k in figures["by_k"])], lines
