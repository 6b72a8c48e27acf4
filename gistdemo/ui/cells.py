"""Snapshot -> HTML of the grid. Pure; imports no gradio. Every string that is not ours goes through `escape`."""

from __future__ import annotations

import html
import itertools
from collections.abc import Sequence

from gistdemo.checkpoint.registry import ModelRow
from gistdemo.conditions import CONDITIONS
from gistdemo.grid import Cell, Snapshot
from gistdemo.metrics import Diagnosis, Flag

MARKS = {"healthy": "●", "warning": "▲", "degenerate": "■"}  # a shape beside every colour
SEVERITY_MARKS = {"fail": "■", "warn": "▲", "info": "○"}
FINISH = {"eos": "ended by itself", "limit": "cut at the answer limit", "stopped": "stopped by you", "error": "failed"}
NAMES = {
    "empty": "empty answer",
    "hit_limit": "reached the limit",
    "loop": "loop",
    "repetitive": "repetitive",
    "prompt_echo": "echoes the prompt",
    "template_leak": "prompt labels leak into the answer",
    "instruction_blind": "blind to the instruction",
    "garbled": "garbled",
    "wrong_language": "other script than asked",
    "identical_to_full": "same as the full prompt's answer",
    "identical_to_dropped": "same as without the instruction",
}


def escape(text: str) -> str:
    """The one place where foreign text becomes HTML. Control characters that browsers drop are shown as symbols."""
    visible = "".join(chr(0x2400 + ord(c)) if ord(c) < 32 and c not in "\n\t" else c for c in text)
    return html.escape(visible, quote=True)


def grid(snapshot: Snapshot, shown: dict[str, ModelRow]) -> str:
    """The whole grid: one row per checkpoint or backbone, one card per condition. shown: what is known of the rows, by name."""
    rows = []
    for checkpoint in dict.fromkeys(cell.checkpoint for cell in snapshot.cells):
        cells = [cell for cell in snapshot.cells if cell.checkpoint == checkpoint]
        cards = "".join(card(cell) for cell in cells)
        rows.append(
            f'<section class="gd-row">{row_head(checkpoint, shown.get(checkpoint))}<div class="gd-cards gd-n{len(cells)}">{cards}</div></section>'
        )
    return f'<div class="gd-grid" data-finished="{str(snapshot.finished).lower()}">{"".join(rows)}</div>'


def row_head(name: str, row: ModelRow | None) -> str:
    """Title, kind, model and one line about a row."""
    if row is None:
        return f'<header class="gd-rowhead"><h3>{escape(name)}</h3></header>'
    model = row.embedded.title if row.embedded else row.backbone
    chips = f'<span class="gd-chip gd-kind">{row.kind}</span>' if row.kind else ""
    chips += f'<span class="gd-chip">{escape(row.mode)}</span><span class="gd-chip">{escape(model)}</span>'
    return f'<header class="gd-rowhead"><h3>{escape(row.title)}</h3>{chips}<p>{escape(row.summary)}</p></header>'


def card(cell: Cell) -> str:
    """One cell: verdict, numbers, text, flags."""
    condition = CONDITIONS[cell.condition]
    verdict = _state(cell)
    if verdict == "absent":
        return (
            f'<article class="gd-card gd-absent" data-checkpoint="{escape(cell.checkpoint)}" data-condition="{cell.condition}" data-status="absent">'
            f'<header><h4 title="{escape(condition.explanation)}">{condition.title}</h4></header><p class="gd-hint">{escape(cell.note or "")}</p></article>'
        )
    body = f'<p class="gd-error" role="alert">{escape(cell.error)}</p>' if cell.error else text_block(cell)
    return (
        f'<article class="gd-card gd-{verdict}" data-checkpoint="{escape(cell.checkpoint)}" data-condition="{cell.condition}" data-status="{cell.status}">'
        f'<header><h4 title="{escape(condition.explanation)}">{condition.title}</h4>{badge(cell)}</header>'
        f"{numbers(cell)}{body}{flags(cell.diagnosis)}</article>"
    )


def _state(cell: Cell) -> str:
    if cell.error:
        return "failed"
    if cell.status == "done" and cell.note:
        return "absent"
    return cell.diagnosis.verdict if cell.diagnosis else cell.status


def badge(cell: Cell) -> str:
    """Verdict in shape, word and colour; while the answer grows, what is known so far."""
    if cell.error:
        return '<span class="gd-badge gd-b-failed">✕ failed</span>'
    if cell.diagnosis is None:
        words = {"waiting": "waiting", "running": "reading"}.get(cell.status, "")
        return f'<span class="gd-badge gd-b-busy">{words}</span>'
    verdict = cell.diagnosis.verdict
    busy = " gd-live" if cell.status == "running" else ""
    so_far = " so far" if cell.status == "running" else ""
    return f'<span class="gd-badge gd-b-{verdict}{busy}">{MARKS[verdict]} {verdict}{so_far}</span>'


def numbers(cell: Cell) -> str:
    """The measured numbers as a small table; what is not known yet shows as a dash."""
    kept = "–"
    if cell.instruction_tokens is not None:
        ratio = f" <small>{cell.ratio:.1f}×</small>" if cell.ratio else ""
        kept = f"{cell.instruction_tokens} → {cell.kept_tokens}{ratio}"
    speed = f"{cell.tokens_per_second:.0f}/s" if cell.tokens_per_second else "–"
    first = f"{cell.first_token_seconds:.2f} s" if cell.first_token_seconds is not None else "–"
    kv = f"{cell.kv_bytes / 1024:,.0f} KiB" if cell.kv_bytes is not None else "–"
    items = [
        (
            "prompt",
            f"{cell.prompt_tokens} tok" if cell.prompt_tokens is not None else "–",
            "tokens the decoder can attend to when the answer starts",
        ),
        ("instruction", kept, "instruction tokens → tokens kept of it"),
        ("KV cache", kv, "keys and values of the prompt kept in memory"),
        ("answer", f"{cell.answer_tokens} tok", "tokens generated"),
        ("first token", first, "from the start of this generation, model already loaded"),
        ("speed", speed, "answer tokens per second, all cells running together"),
    ]
    cells = "".join(f'<div title="{hint}"><dt>{name}</dt><dd>{value}</dd></div>' for name, value, hint in items)
    return f'<dl class="gd-numbers">{cells}</dl>{rouge_line(cell)}'


def rouge_line(cell: Cell) -> str:
    """ROUGE-L as bar and number, 1 and 2 beside it; nothing without a reference."""
    if not cell.rouge:
        return ""
    value = cell.rouge["rougeL"]
    normalised = f" · {cell.rouge_normalised:.0f} of full" if cell.rouge_normalised is not None else ""
    return (
        '<div class="gd-rouge" title="F1 × 100 against the reference. One example is an anecdote, not a score.">'
        f'<span>ROUGE-L</span><i><b style="width:{min(100.0, value):.1f}%"></b></i><strong>{value:.1f}</strong>'
        f"<small>R-1 {cell.rouge['rouge1']:.1f} · R-2 {cell.rouge['rouge2']:.1f}{normalised}</small></div>"
    )


def text_block(cell: Cell) -> str:
    """The raw answer with flagged places marked, and why it ended."""
    if not cell.text:
        words = escape(cell.note or "…") if cell.status in ("waiting", "running") else "(the model said nothing)"
        return f'<div class="gd-text gd-none" tabindex="0">{words}</div>{_finish(cell)}'
    marked = highlight(cell.text, cell.diagnosis.flags if cell.diagnosis else ())
    caret = '<span class="gd-caret" aria-hidden="true"></span>' if cell.status == "running" else ""
    return f'<div class="gd-text" dir="auto" tabindex="0">{marked}{caret}</div>{_finish(cell)}'


def _finish(cell: Cell) -> str:
    return f'<p class="gd-finish">{FINISH[cell.finish_reason]}</p>' if cell.finish_reason else ""


def highlight(text: str, found: Sequence[Flag], shared: Sequence[tuple[int, int]] = ()) -> str:
    """Escape text, with the span of every failing or warning flag marked; where spans overlap the more severe wins.

    shared: places (start, stop) that another text has as well; set in the colour of agreement.
    """
    order = {"fail": 2, "warn": 1}
    spans = [(flag.span[0], flag.span[1], flag) for flag in found if flag.span and flag.severity in order]
    borders = sorted({0, len(text), *(b for start, stop, _ in spans for b in (start, stop)), *itertools.chain(*shared)})
    parts = []
    last: Flag | None = None
    for start, stop in itertools.pairwise(borders):
        over = [flag for a, b, flag in spans if a <= start and stop <= b]
        flag = max(over, key=lambda f: (order[f.severity], f.name == "loop"), default=None)
        piece = escape(text[start:stop])
        if any(a <= start and stop <= b for a, b in shared):
            piece = f'<span class="gd-same">{piece}</span>'
        if flag is not None and flag is last:
            parts[-1] = parts[-1].removesuffix("</mark>") + piece + "</mark>"
        elif flag is not None:
            parts.append(
                f'<mark class="gd-m-{flag.severity}" title="{escape(NAMES.get(flag.name, flag.name))}: {escape(flag.evidence)}">{piece}</mark>'
            )
        else:
            parts.append(piece)
        last = flag
    return "".join(parts)


def flags(diagnosis: Diagnosis | None) -> str:
    """Findings in words with their evidence, the most severe first."""
    if diagnosis is None or not diagnosis.flags:
        return ""
    items = "".join(
        f'<li class="gd-f-{f.severity}"><b>{SEVERITY_MARKS[f.severity]} {escape(NAMES.get(f.name, f.name))}</b> '
        f"<span>{escape(f.evidence)}</span> <code>{f.code}</code></li>"
        for f in diagnosis.flags
    )
    return f'<ul class="gd-flags">{items}</ul>'


def seen_by_model(snapshot: Snapshot) -> str:
    """What the model is shown under each condition: every prompt token, coloured by its fate, of the first checkpoint of each template."""
    blocks, shown = [], set()
    for cell in snapshot.cells:
        if not cell.pieces:
            continue
        key = (cell.condition, cell.pieces)
        if key in shown:
            continue
        shown.add(key)
        tokens = "".join(_tokens(piece.kind, piece.fate, piece.tokens, cell.kept_tokens or 0) for piece in cell.pieces)
        blocks.append(
            f'<div class="gd-seen"><h5>{CONDITIONS[cell.condition].title} <small>{escape(cell.checkpoint)}</small></h5>'
            f'<p class="gd-tokens" dir="ltr">{tokens}</p></div>'
        )
    if not blocks:
        return '<p class="gd-hint">Press Compare: every token of each prompt then shows here, with what became of it.</p>'
    legend = "".join(
        f'<span class="gd-t gd-t-{fate}">{word}</span>'
        for fate, word in (
            ("shown", "read as text"),
            ("compressed", "compressed, then out of sight"),
            ("slot", "gist token"),
            ("dropped", "dropped"),
        )
    )
    return f'<div class="gd-legend">{legend}</div>{"".join(blocks)}'


def _tokens(kind: str, fate: str, tokens: Sequence[str], slots: int) -> str:
    if fate == "slot":
        return "".join(f'<span class="gd-t gd-t-slot" title="gist token {n}">g{n}</span>' for n in range(1, slots + 1))
    return "".join(f'<span class="gd-t gd-t-{fate}" title="{kind}">{escape(_visible(token))}</span>' for token in tokens)


def _visible(token: str) -> str:
    return token.replace("\n", "⏎").replace("\t", "⇥") or "·"
