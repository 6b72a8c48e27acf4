"""HTML of the Checkpoints tab and of small notices. Pure; imports no gradio."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from gistdemo.checkpoint.manifest import Manifest
from gistdemo.checkpoint.registry import Entry
from gistdemo.conditions import CONDITIONS
from gistdemo.model.embedded import EMBEDDED
from gistdemo.ui.cells import MARKS, escape


def status(message: str, fraction: float | None = None, kind: str = "info") -> str:
    """The status line, announced to screen readers. kind: info, busy, error."""
    bar = "" if fraction is None else f'<i class="gd-bar"><b style="width:{100 * fraction:.0f}%"></b></i>'
    return f'<div id="gd-status" class="gd-status gd-s-{kind}" role="status" aria-live="polite"><span>{escape(message)}</span>{bar}</div>'


def models(states: Sequence[tuple[str, float | None, str]]) -> str:
    """One line per model that is not ready: how far it is, or why it is not there. Empty where all are ready."""
    lines = ""
    for message, fraction, kind in states:
        bar = "" if fraction is None else f'<i class="gd-bar"><b style="width:{100 * fraction:.0f}%"></b></i>'
        lines += f'<p class="gd-model gd-s-{"error" if kind == "failed" else "busy"}"><span>{escape(message)}</span>{bar}</p>'
    return lines


def checkpoints(entries: Sequence[Entry]) -> str:
    """Every checkpoint folder with its health; broken ones with the reason."""
    if not entries:
        return '<p class="gd-hint">No checkpoint found.</p>'
    return '<div class="gd-checkpoints">' + "".join(_entry(entry) for entry in entries) + "</div>"


def _entry(entry: Entry) -> str:
    if entry.manifest is None:
        return (
            f'<article class="gd-ck gd-degenerate"><header><h4>{escape(entry.name)}</h4><span class="gd-badge gd-b-failed">✕ broken</span></header>'
            f'<p class="gd-error">{escape(entry.problem or "")}</p></article>'
        )
    m = entry.manifest
    size = sum(f["bytes"] for f in m.files.values()) / 1e6
    facts = [
        ("mode", m.mode),
        ("backbone", EMBEDDED[m.backbone].title if m.backbone in EMBEDDED else m.backbone),
        ("gist tokens", _slots(m)),
        ("size", f"{size:.1f} MB"),
        ("training", _training(m.training)),
    ]
    rows = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    return (
        f'<article class="gd-ck"><header><h4>{escape(m.title)}</h4><span class="gd-badge gd-b-healthy">● usable</span></header>'
        f'<p>{escape(m.summary)}</p><dl class="gd-numbers">{rows}</dl>{_verdicts(entry)}{_recovery(entry)}{notices([m.backbone])}</article>'
    )


def notices(backbones: Iterable[str]) -> str:
    """What the licences of these models ask to show, each once; empty where they ask for nothing."""
    found = dict.fromkeys(EMBEDDED[name].notice for name in backbones if name in EMBEDDED and EMBEDDED[name].notice)
    return "".join(f'<p class="gd-notice">{escape(text)}</p>' for text in found)


SHOWN_K = 4  # where one budget has to stand for all
TARGETS = {
    "references": "reference answers",
    "own_answers": "the model's own full-prompt answers",
    "long_references": "long text, reference answers",
    "long_own_answers": "long text, the model's own answers",
}


def _slots(m: Manifest) -> str:
    return f"{m.max_k}, {'each anchored to a stretch of the instruction' if m.anchored else 'appended to the instruction'}"


# training and recovery are notes: another trainer may write others, and an imported checkpoint anything
NOT_OURS = (KeyError, TypeError, ValueError, AttributeError, ArithmeticError)


def _training(record: dict[str, Any]) -> str:
    try:
        return f"{record['steps']} steps, {record['seconds'] / 60:.0f} min on {record['device']}"
    except NOT_OURS:
        return "not recorded"


def _verdicts(entry: Entry) -> str:
    """Verdicts per condition, from the evaluation kept beside the checkpoint."""
    try:
        found = entry.evaluation() or {}
        lines = ""
        for e in found["answers"]:
            if e["k"] not in (0, SHOWN_K):
                continue
            title = CONDITIONS[e["condition"]].title + (f", k = {e['k']:d}" if e["k"] else "")
            cells = "".join(f"<td>{100 * e['verdicts'][v] / e['n']:.0f} %</td>" for v in MARKS)
            score = f"{e['rougeL']:.1f}" if e.get("rougeL") is not None else "–"
            lines += f"<tr><th>{escape(title)}</th><td>{score}</td>{cells}</tr>"
        heads = "".join(f"<th>{mark} {verdict}</th>" for verdict, mark in MARKS.items())
        head = f"<tr><th></th><th>ROUGE-L</th>{heads}</tr>"
        return f"<table class='gd-table'><caption>Greedy answers to {found['rows']:d} rows not trained on</caption>{head}{lines}</table>"
    except NOT_OURS:
        return ""


def _recovery(entry: Entry) -> str:
    """Recovery per budget beside its control, for both kinds of answers."""
    tables = []
    for target, title in TARGETS.items():
        try:
            tables.append(_recovery_table(entry.recovery()[target], title))
        except NOT_OURS:
            continue
    return "".join(tables)


def _recovery_table(figures: dict[str, Any], title: str) -> str:
    head = "".join(f"<th>k={escape(k)}</th>" for k in figures["by_k"])
    lines = ""
    for name, label in (("recovery", "own gist"), ("swapped", "another row's gist")):
        values = "".join(f"<td>{row[name]:.2f}</td>" if row[name] is not None else "<td>–</td>" for row in figures["by_k"].values())
        lines += f"<tr><th>{label}</th>{values}</tr>"
    rows = escape(str(figures["rows"]))
    return f"<table class='gd-table'><caption>Recovery, {title}, n = {rows} held-out rows</caption><tr><th></th>{head}</tr>{lines}</table>"
