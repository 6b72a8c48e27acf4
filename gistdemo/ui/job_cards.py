"""HTML of the Train tab: one job watched, its samples, an estimate. Pure; imports no gradio."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from gistdemo.jobs.progress import Progress
from gistdemo.jobs.record import Job
from gistdemo.ui.cells import escape

SIGNS = {"queued": "○", "starting": "◔", "running": "◑", "stopping": "◕", "done": "●", "failed": "■", "cancelled": "▢", "lost": "▲"}
KINDS = {"done": "healthy", "failed": "degenerate", "lost": "warning", "cancelled": "warning"}


def label(job: Job, progress: Progress) -> str:
    """One line of the list of jobs."""
    share = f" {100 * progress.fraction:.0f} %" if job.is_active and progress.steps else ""
    return f"{SIGNS[job.state]} {job.title}: {job.state}{share}"


def watched(job: Job | None, progress: Progress) -> str:
    """State, progress bar, numbers and cause of one job."""
    if job is None:
        return '<p class="gd-hint">No job yet. What is started here goes on when this page is closed.</p>'
    last = progress.points[-1] if progress.points else {}
    unit = "answer" if job.kind == "evaluate" else "step"
    facts = [(unit, f"{progress.steps_done:,} of {progress.steps:,}" if progress.steps else f"{progress.steps_done:,}")]
    speed, left = progress.seconds_per_step(), progress.seconds_left()
    if speed is not None:
        facts.append(("speed", f"{speed:.2f} s/{unit}"))
    if job.state == "running" and left is not None:
        facts.append(("time left", f"{duration(left)}, until {time.strftime('%H:%M', time.localtime(time.time() + left))}"))
    for name, title, form in (("loss", "loss", ".3f"), ("samples_per_second", "samples/s", ".1f"), ("memory_gib", "memory", ".1f")):
        value = last.get(name)
        if isinstance(value, (int, float)):
            facts.append((title, f"{value:{form}}" + (" GiB" if name == "memory_gib" else "")))
    rows = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    kind = KINDS.get(job.state, "running")
    cause = f'<p class="{"gd-error" if job.state in ("failed", "lost") else "gd-hint"}">{escape(job.cause)}</p>' if job.cause else ""
    percent = 100 * progress.fraction
    return (
        f'<article class="gd-ck gd-job" data-state="{job.state}"><header><h4>{escape(job.title)}</h4>'
        f'<span class="gd-badge gd-b-{kind}">{SIGNS[job.state]} {job.state}</span></header>'
        f'<div class="gd-progress" role="progressbar" aria-valuenow="{percent:.0f}" aria-valuemin="0" aria-valuemax="100" aria-label="steps done">'
        f'<b style="width:{percent:.1f}%"></b></div><dl class="gd-numbers">{rows}</dl>{cause}<p class="gd-hint">{escape(job.id)}</p></article>'
    )


def samples(found: Sequence[dict[str, Any]], step: int | None) -> str:
    """The answers of the last evaluation, full beside gist, with their verdicts."""
    if not found:
        return '<p class="gd-hint">Answers to a few held-out instructions appear here at every evaluation.</p>'
    marks = {"healthy": "● healthy", "warning": "▲ warning", "degenerate": "■ degenerate"}
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for sample in found:
        groups.setdefault((sample["instruction"], sample.get("input", "")), []).append(sample)
    blocks = ""
    for (instruction, given), answers in groups.items():
        cells = "".join(
            f'<div class="gd-sample"><span class="gd-badge gd-b-{a["verdict"]}">{marks[a["verdict"]]}</span> <b>{escape(a["condition"])}</b>'
            f"<p>{escape(a['text'].strip() or '(empty)')}</p></div>"
            for a in answers
        )
        more = f" <i>{escape(given[:200])}</i>" if given else ""
        blocks += f'<section><h5>{escape(instruction)}{more}</h5><div class="gd-samples">{cells}</div></section>'
    return f'<div class="gd-sample-list"><p class="gd-hint">Greedy answers after step {step}</p>{blocks}</div>'


def duration(seconds: float) -> str:
    """A length of time as people say it.

    >>> [duration(s) for s in (5, 65, 3720, 90000)]
    ['5 s', '1 min', '1 h 02 min', '25 h 00 min']
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
