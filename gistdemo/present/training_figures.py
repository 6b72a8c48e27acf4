"""Plotly figures of training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gistdemo.present.figures import COLOURS, INK, empty, new_figure, styled

MOST_POINTS = 600  # more than a screen is wide; every point beyond costs time and shows nothing
SMOOTHING = 0.9  # share of the old value in the running mean
SERIES = (("loss", "loss", "#2a9187"), ("kl", "KL", "#c07a1c"), ("cross_entropy", "cross-entropy", "#8a8375"))
FLOOR = -0.5  # of recovery as drawn


def smooth(values: Sequence[float], share: float = SMOOTHING) -> list[float]:
    """Running mean that starts without bias: the first value is itself.

    >>> smooth([1.0, 1.0, 1.0])
    [1.0, 1.0, 1.0]
    """
    means, total, weight = [], 0.0, 0.0
    for value in values:
        total, weight = share * total + (1 - share) * value, share * weight + (1 - share)
        means.append(total / weight)
    return [round(mean, 10) for mean in means]


def thin(points: Sequence[Any], most: int = MOST_POINTS) -> list[Any]:
    """At most `most` points, evenly taken, the last one always kept."""
    if len(points) <= most:
        return list(points)
    step = len(points) / most
    return [*(points[int(n * step)] for n in range(most - 1)), points[-1]]


def loss_figure(points: Sequence[dict[str, Any]], log_scale: bool = False) -> Any:
    """Loss, KL and cross-entropy by step: raw thin, smoothed on top. points: step records of metrics.jsonl."""
    if not points:
        return empty("The loss shows here from the first step on.")
    figure = new_figure()
    for name, label, colour in SERIES:
        found = thin([(p["step"], p[name]) for p in points if isinstance(p.get(name), (int, float))])
        if not found:
            continue
        steps, values = zip(*found, strict=True)
        pale = {"opacity": 0.25, "showlegend": False, "hoverinfo": "skip"}
        figure.add_scatter(x=steps, y=values, mode="lines", line={"color": colour, "width": 1}, **pale)
        figure.add_scatter(x=steps, y=smooth(values), mode="lines", line={"color": colour, "width": 2}, name=label)
    figure.update_yaxes(type="log" if log_scale else "linear", title="nats per token")
    return _over_steps(figure)


def recovery_figure(evaluations: Sequence[dict[str, Any]]) -> Any:
    """Recovery on held-out rows by step, beside its control. evaluations: evaluation records of metrics.jsonl."""
    if not evaluations:
        return empty("Recovery on held-out rows shows here at every evaluation.")
    figure = new_figure()
    lines: dict[tuple[str, str], list[tuple[int, float, float]]] = {}
    for record in evaluations:
        for target, figures in record["evaluation"].items():
            for k, row in (figures.get("by_k", {}) if isinstance(figures, dict) else {}).items():
                if row.get("recovery") is not None:
                    lines.setdefault((target, k), []).append((record["step"], row["recovery"], row["swapped"]))
    for number, ((target, k), found) in enumerate(lines.items()):
        steps, own, swapped = zip(*found, strict=True)
        colour, label = COLOURS[number % len(COLOURS)], f"{target.replace('_', ' ')}, k = {k}"
        figure.add_scatter(**_from_floor(steps, own), line={"color": colour}, name=label)
        dotted = {"color": colour, "dash": "dot", "width": 1}
        figure.add_scatter(**_from_floor(steps, swapped), line=dotted, marker={"size": 4}, name=f"{label}: another row's gist")
    figure.add_hline(y=1, line={"color": INK, "width": 1})
    ticks = [FLOOR, 0, 0.5, 1]
    figure.update_yaxes(title="recovery", range=[FLOOR - 0.1, 1.15], tickvals=ticks, ticktext=[f"≤ {FLOOR}", *map(str, ticks[1:])])
    figure.update_xaxes(rangemode="tozero")
    return _over_steps(figure)


def _from_floor(steps: Sequence[int], values: Sequence[float]) -> dict[str, Any]:
    """A line that lies on FLOOR where its value is lower (an untrained gist may cost ten times what it could save); hovering tells the value."""
    shown = [max(value, FLOOR) for value in values]
    return {"x": steps, "y": shown, "customdata": values, "hovertemplate": "%{customdata:.2f}", "mode": "lines+markers"}


def _over_steps(figure: Any) -> Any:
    figure.update_layout(hovermode="x unified")
    return styled(figure, "step", height=280)
