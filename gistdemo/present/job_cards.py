"""Jobs: one watched, its line in a list, the answers of a training run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from gistdemo.jobs.kinds import KINDS
from gistdemo.jobs.progress import Progress
from gistdemo.jobs.record import Job
from gistdemo.present.markup import draw
from gistdemo.present.panels import note

SIGNS = {"queued": "○", "starting": "◔", "running": "◑", "stopping": "◕", "done": "●", "failed": "■", "cancelled": "▢", "lost": "▲"}
BADGES = {"done": "healthy", "failed": "degenerate", "lost": "warning", "cancelled": "warning"}
MEASURED = {"loss": ("loss", "{:.3f}"), "samples_per_second": ("samples/s", "{:.1f}"), "memory_gib": ("memory", "{:.1f} GiB")}


def label(job: Job, progress: Progress) -> str:
    """One line of the list of jobs."""
    share = f" {100 * progress.fraction:.0f} %" if job.is_active and progress.steps else ""
    return f"{SIGNS[job.state]} {job.title}: {job.state}{share}"


def watched(job: Job | None, progress: Progress) -> Markup:
    """State, progress bar, numbers and cause of one job."""
    if job is None:
        return note("No job yet. What is started here goes on when this page is closed.")
    badge = BADGES.get(job.state, "running")
    return draw("job_cards.watched", job, badge, SIGNS[job.state], 100 * progress.fraction, _facts(job, progress))


def _facts(job: Job, progress: Progress) -> list[tuple[str, str]]:
    unit = KINDS[job.kind].unit if job.kind in KINDS else "step"
    facts = [(unit, f"{progress.steps_done:,}" + (f" of {progress.steps:,}" if progress.steps else ""))]
    speed, left = progress.seconds_per_step(), progress.seconds_left()
    if speed is not None:
        facts.append(("speed", f"{speed:.2f} s/{unit}"))
    if job.state == "running" and left is not None:
        facts.append(("time left", f"{duration(left)}, until {time.strftime('%H:%M', time.localtime(time.time() + left))}"))
    last = progress.points[-1] if progress.points else {}
    return facts + [(title, form.format(last[name])) for name, (title, form) in MEASURED.items() if isinstance(last.get(name), int | float)]


def samples(found: Sequence[dict[str, Any]], step: int | None) -> Markup:
    """The answers of the last evaluation, full beside gist, with their verdicts."""
    if not found:
        return note("Answers to a few held-out instructions appear here at every evaluation.")
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for sample in found:
        groups.setdefault((sample["instruction"], sample.get("input", "")), []).append(sample)
    return draw("job_cards.samples", groups, step)


def duration(seconds: float) -> str:
    """A length of time as people say it.

    >>> [duration(s) for s in (5, 65, 3720, 90000)]
    ['5 s', '1 min', '1 h 02 min', '25 h 00 min']
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
