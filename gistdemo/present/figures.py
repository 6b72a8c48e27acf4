"""Plotly figures of an evaluation: results and rows in (see `gistdemo.results.evaluation`), figures out.

Colour means the checkpoint where several are drawn, line and marker mean the condition; the legend names each of them once.
Input without anything to draw gives a figure with a short note; values that are None are left out.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any, Literal

from gistdemo.conditions import CONDITIONS
from gistdemo.metrics import MAIN
from gistdemo.present.answer_table import scored_answers
from gistdemo.present.entries import Shown, by_checkpoint, entries_of, name_of, title_of
from gistdemo.present.markup import visible
from gistdemo.results.answer import Answer
from gistdemo.results.evaluation import Recoveries, Results
from gistdemo.results.summary import Entry

INK, GRID = "#8a8375", "rgba(138,131,117,.25)"  # readable on light and on dark
# Told apart with every kind of colour blindness, and 3 : 1 against light and dark paper; tests/test_figures.py computes both.
COLOURS = ("#2a9187", "#c07a1c", "#7a4df5", "#b52ab0", "#5a7339")
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star", "hexagon")  # a second cue, and for more checkpoints than colours
VERDICTS = {"healthy": "#2a9d74", "warning": "#cc7f05", "degenerate": "#c0262e"}  # between the page's light and dark ones
TASK_COLOURS = {"on task": "#2a9d74", "unsure": "#8d8778", "off task": "#c0262e"}
VERDICT_SYMBOLS = {"healthy": "circle", "warning": "triangle-up", "degenerate": "square"}
LENGTHS = ((1, 7, "1-7"), (8, 15, "8-15"), (16, 29, "16-29"), (30, 10**9, "30+"))  # instruction tokens: lowest, highest, label
DASHES = {"gist": "solid", "truncated": "dot", "full": "dash", "none": "dashdot"}
OTHER_DASH = "longdash"  # of conditions that are not named there
TARGETS = {"references": "circle", "own_answers": "diamond-open"}  # whose answers recovery is measured on
Gist = Literal["recovery", "swapped"]
GISTS: dict[Gist, str] = {"recovery": "own gist", "swapped": "another row's gist"}
USUAL_BUDGETS = (1, 2, 4, 8, 16)  # on every axis of k, so that figures can be held side by side
NARROW = 32  # characters of a name on one line, so that a phone shows them all
SHOWN_CHARACTERS = 80  # of an instruction, on hover


def styled(figure: Any, x_title: str = "", y_title: str = "", height: int = 500) -> Any:
    """Transparent ground, grey ink, legend above: for a page of any theme and width."""
    figure.update_layout(
        height=height,
        margin={"l": 50, "r": 16, "t": 30, "b": 40},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": INK, "size": 12},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
        hoverlabel={"align": "left"},
    )
    for update, title in ((figure.update_xaxes, x_title), (figure.update_yaxes, y_title)):
        update(gridcolor=GRID, zeroline=False, automargin=True, **({"title": title} if title else {}))
    figure.update_traces(marker_line_width=0, selector={"type": "bar"})  # plotly's own outline is white
    return figure


def new_figure() -> Any:
    """A figure without anything; plotly is imported at the first one."""
    import plotly.graph_objects as go

    return go.Figure()


def empty(text: str) -> Any:
    """A figure that says why there is nothing to see."""
    figure = styled(new_figure(), height=160)
    figure.add_annotation(text="<br>".join(textwrap.wrap(text, 40)), showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper")
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    return figure


def plain(text: object) -> str:
    """Foreign text for a figure, where plotly would read tags and entities.

    >>> plain("<b>k</b> & more")
    '&lt;b&gt;k&lt;/b&gt; &amp; more'
    """
    return html.escape(visible(text), quote=False)


def score_bars(results: Results, k: int | None = None) -> Any:
    """Mean `MAIN` score by condition with 95 % intervals, a colour per checkpoint. k: of one budget only."""
    figure, drawn = new_figure(), list[int]()
    for number, (name, entries) in enumerate(by_checkpoint(results).items()):
        bars = [(e, score) for e in _at(entries, k) if (score := e["scores"].get(MAIN.name))]
        error = {"array": [s["high"] - s["mean"] for _, s in bars], "arrayminus": [s["mean"] - s["low"] for _, s in bars]}
        hover = [plain(title_of(e)) + ": {mean:.1f} [{low:.1f}, {high:.1f}], n = {n}".format(**score) for e, score in bars]
        look = _look(name, number) | {"hovertext": hover, "error_y": error | {"thickness": 1.2, "color": INK}}
        if bars:
            figure.add_bar(x=[_narrow(e) for e, _ in bars], y=[score["mean"] for _, score in bars], **look)
        drawn += [score["n"] for _, score in bars]
    if not drawn:
        return empty("No answer has a reference: there is no score.")
    figure.update_xaxes(type="category")
    figure.update_layout(showlegend=True)  # it names the checkpoint, be there only one
    return styled(figure, y_title=f"{MAIN.label}, {_n(drawn)}")


def quality_by_k(results: Results) -> Any:
    """`MAIN` score of gist and truncation against k; what does not depend on k, such as the full prompt, as level lines."""
    figure = new_figure()
    dashes = {name: DASHES.get(name, OTHER_DASH) for name, c in CONDITIONS.items() if c.gist_from != "nothing"}  # a blind gist is no choice
    known = [(e, score) for e in entries_of(results) if (score := e["scores"].get(MAIN.name)) and e["condition"] in dashes]
    by_k = [(e, score) for e, score in known if e["k"]]
    if not by_k:
        return empty("No gist or truncation was measured against references.")
    ticks = _ticks(e["k"] for e, _ in by_k)
    for number, name in enumerate(dict.fromkeys(e["checkpoint"] for e, _ in known)):
        first = True
        for condition, dash in dashes.items():
            mine = [(e, score) for e, score in known if (e["checkpoint"], e["condition"]) == (name, condition)]
            line = sorted(mine, key=lambda pair: pair[0]["k"])
            if not line:
                continue
            hover = [f"{plain(title_of(e))}: {s['mean']:.1f}, n = {s['n']}" for e, s in line]
            xs, ys = [e["k"] for e, _ in line], [s["mean"] for _, s in line]
            level = not CONDITIONS[condition].depends_on_k
            if level:
                xs, ys, hover = [ticks[0], ticks[-1]], ys[:1] * 2, hover[:1] * 2
            stroke = {"color": _colour(number), "dash": dash, "width": 1 if level else 2}
            look = _look(name, number, symbol=True) | {"line": stroke, "mode": "lines" if level else "lines+markers"}
            figure.add_scatter(x=xs, y=ys, hovertext=hover, showlegend=first, **look)
            first = False
    present = {e["condition"] for e, _ in known}
    _explain(figure, "lines", {name_of(c): {"dash": dash} for c, dash in dashes.items() if c in present})
    return _over_budgets(styled(figure, "k", f"{MAIN.label}, {_n(s['n'] for _, s in by_k)}", 400), ticks)


def recovery_by_k(results: Results) -> Any:
    """Recovery (1 = as good as the full prompt) against k on both kinds of answers, beside another row's gist."""
    figure, rows, drawn = new_figure(), [], set()
    recovery = results.get("recovery") or {}
    for number, name in enumerate(recovery):
        for target, which, points in _recovery_lines(recovery[name]):
            n, own = recovery[name][target]["rows"], which == "recovery"
            title = f"{plain(target.replace('_', ' '))}, {GISTS[which]}"
            hover = [f"{title}, k = {k}: {value:.2f}, n = {n}" for k, value in points]
            stroke = {"color": _colour(number), "dash": "solid" if own else "dot", "width": 2 if own else 1}
            marker = {"color": _colour(number), "symbol": TARGETS.get(target, "star"), "size": 8 if own else 4}
            look = _look(name, number) | {"mode": "lines+markers", "line": stroke, "marker": marker, "showlegend": name not in drawn}
            figure.add_scatter(x=[k for k, _ in points], y=[value for _, value in points], hovertext=hover, **look)
            drawn.add(name)
            rows.append(n)
    if not rows:
        return empty("Recovery was not measured.")
    measured = {target for targets in recovery.values() for target in targets}
    markers = {target.replace("_", " "): {"symbol": symbol, "size": 8} for target, symbol in TARGETS.items() if target in measured}
    _explain(figure, "markers", markers)
    _explain(figure, "lines", {GISTS["recovery"]: {"dash": "solid"}, GISTS["swapped"]: {"dash": "dot", "width": 1}})
    figure.add_hline(y=1, line={"color": INK, "width": 1})
    ticks = _ticks(k for trace in figure.data for k in trace.x if k is not None)
    return _over_budgets(styled(figure, "k", f"recovery, {_n(rows)}", 420), ticks)


def _recovery_lines(targets: Recoveries) -> Iterator[tuple[str, Gist, list[tuple[int, float]]]]:
    """(target, which gist, [(k, value), ...]) per line of one checkpoint; lines without any value are left out."""
    for target, found in targets.items():
        by_k = sorted(((int(k), values) for k, values in found["by_k"].items()), key=lambda pair: pair[0])
        for which in GISTS:
            points = [(k, value) for k, values in by_k if (value := values[which]) is not None]
            if points:
                yield target, which, points


def verdict_shares(results: Results, k: int | None = None) -> Any:
    """Healthy, warning and degenerate answers in percent, one bar per checkpoint, condition and k. k: of one budget only."""
    return _shares(results, k, VERDICTS, lambda e: e["verdicts"])


def task_shares(results: Results, k: int | None = None) -> Any:
    """Answers on and off task, in percent of those that were judged, drawn alike."""
    return _shares(results, k, TASK_COLOURS, lambda e: e["tasks"])


def _shares(results: Results, k: int | None, colours: Mapping[str, str], counts: Callable[[Entry], Mapping[str, int]]) -> Any:
    lines: list[tuple[str, Shown | None]] = []  # a checkpoint's name over its bars, so that a narrow screen keeps room for these
    for name, entries in by_checkpoint(results).items():
        bars: list[tuple[str, Shown | None]] = [(title_of(e), e) for e in _at(entries, k) if sum(counts(e).values())]
        lines += [*((part, None) for part in textwrap.wrap(name, NARROW)), *bars] if bars else []
    if not lines:
        return empty("No answers were judged.")
    figure = new_figure()
    bars_at = [(at, label, e) for at, (label, e) in enumerate(lines) if e is not None]
    for verdict, colour in colours.items():
        found = [(label, counts(e).get(verdict, 0), sum(counts(e).values())) for _, label, e in bars_at]
        shares = [100 * count / of for _, count, of in found]
        hover = [f"{plain(label)}, {verdict}: {count} of {of}" for label, count, of in found]
        text = [f"{share:.0f}" if share >= 5 else "" for share in shares]
        inside = {"text": text, "textposition": "inside", "insidetextanchor": "middle", "textangle": 0}
        inside["insidetextfont"] = {"color": "#fff" if verdict in ("degenerate", "off task") else "#000"}
        y = [at for at, _, _ in bars_at]
        figure.add_bar(y=y, x=shares, orientation="h", name=verdict, marker_color=colour, hovertext=hover, hoverinfo="text", **inside)
    for at, (label, e) in enumerate(lines):
        if e is None:
            figure.add_annotation(text=f"<b>{plain(label)}</b>", x=0, y=at, xanchor="left", showarrow=False)
    figure.update_layout(barmode="stack", bargap=0.2)
    figure.update_xaxes(range=[0, 100], dtick=25)
    ticks = {"tickvals": [at for at, _, _ in bars_at], "ticktext": [plain(label) for _, label, _ in bars_at]}
    figure.update_yaxes(range=[len(lines) - 0.4, -0.6], showgrid=False, **ticks)
    return styled(figure, f"% of answers, {_n(e['n'] for _, _, e in bars_at)}", height=110 + 23 * len(lines))


def score_by_length(rows: Sequence[Answer], checkpoint: str | None, k: int) -> Any:
    """Mean `MAIN` score by length of the instruction, a line per condition, of one checkpoint at one budget."""
    figure, most = new_figure(), dict.fromkeys((label for *_, label in LENGTHS), 0)
    mine = [(r["condition"], r["instruction_tokens"], score) for r, score in scored_answers(rows, checkpoint, k) if r["instruction_tokens"]]
    if not mine:
        return empty("The answers themselves are not here, or have no reference.")
    for number, condition in enumerate(dict.fromkeys(name for name, _, _ in mine)):
        groups = {
            label: [score for name, tokens, score in mine if name == condition and low <= tokens <= high] for low, high, label in LENGTHS
        }
        found = {label: scores for label, scores in groups.items() if scores}
        most |= {label: max(most[label], len(scores)) for label, scores in found.items()}
        title = plain(name_of(condition))
        hover = [f"{title}, {label} tokens: {fmean(scores):.1f}, n = {len(scores)}" for label, scores in found.items()]
        look = _look(name_of(condition), number, symbol=True) | {"mode": "lines+markers", "hoverinfo": "text"}
        figure.add_scatter(x=list(found), y=[fmean(scores) for scores in found.values()], hovertext=hover, **look)
    ticks = {"tickvals": list(most), "ticktext": [f"{label}<br>n = {count}" for label, count in most.items()]}
    figure.update_xaxes(type="category", categoryorder="array", categoryarray=list(most), **ticks)
    return styled(figure, f"instruction tokens ({plain(checkpoint)}, k = {k})", MAIN.label, 340)


def gist_against_full(rows: Sequence[Answer], examples: Sequence[Mapping[str, str]], checkpoint: str | None, k: int) -> Any:
    """`MAIN` score of the gist against that of the full prompt, a point per example; customdata holds its number (from 0)."""
    scored = scored_answers(rows, checkpoint, k)
    full, gist = ({r["row"]: score for r, score in scored if r["condition"] == condition} for condition in ("full", "gist"))
    verdicts = {r["row"]: r["verdict"] for r, _ in scored if r["condition"] == "gist"}
    both = [n for n in gist if n in full]
    if not both:
        return empty("Both the gist's and the full prompt's answers are needed, with references.")
    figure = new_figure()
    for verdict, colour in VERDICTS.items():
        at = [n for n in both if verdicts[n] == verdict]
        hover = [f"#{n + 1} {_instruction(examples, n)}<br>full {full[n]:.1f}, gist {gist[n]:.1f}" for n in at]
        marker = {"color": colour, "symbol": VERDICT_SYMBOLS[verdict], "size": 9, "opacity": 0.85}
        x, y = [full[n] for n in at], [gist[n] for n in at]
        figure.add_scatter(x=x, y=y, mode="markers", marker=marker, customdata=at, name=verdict, hovertext=hover, hoverinfo="text")
    top = min(100.0, 10 + max(scores[n] for scores in (full, gist) for n in both))
    figure.add_shape(type="line", x0=0, y0=0, x1=top, y1=top, line={"color": INK, "width": 1, "dash": "dot"})
    figure.update_xaxes(range=[-2, top + 2])
    figure.update_yaxes(range=[-2, top + 2])
    return styled(figure, f"{MAIN.label}, full prompt ({plain(checkpoint)})", f"{MAIN.label}, gist k = {k}, n = {len(both)}", 420)


def _narrow(entry: Shown) -> str:
    """Title of an entry on several short lines, to stand under a bar."""
    lines = textwrap.wrap(name_of(entry["condition"]), 11) + ([f"k={entry['k']}"] if entry["k"] else [])
    return "<br>".join(map(plain, lines))


def _at(entries: Sequence[Shown], k: int | None) -> list[Shown]:
    return [e for e in entries if k is None or e["k"] in (0, k)]


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _look(name: str, number: int, symbol: bool = False) -> dict[str, Any]:
    """What all traces of one checkpoint (or condition) share; one click in the legend hides them together."""
    marker = {"color": _colour(number)} | ({"symbol": SYMBOLS[number % len(SYMBOLS)], "size": 7} if symbol else {})
    wrapped = "<br>".join(map(plain, textwrap.wrap(name, NARROW)))
    return {"name": wrapped, "legendgroup": str(number), "marker": marker, "hoverinfo": "text+name"}


def _explain(figure: Any, mode: str, looks: Mapping[str, Mapping[str, Any]]) -> None:
    """Add to the legend what a kind of line or marker means, once instead of once per checkpoint. mode: lines, markers."""
    for label, look in looks.items():
        figure.add_scatter(x=[None], y=[None], mode=mode, name=label, hoverinfo="skip", **{mode.removesuffix("s"): {"color": INK, **look}})


def _ticks(ks: Iterable[int]) -> list[int]:
    return sorted({*USUAL_BUDGETS, *ks})


def _over_budgets(figure: Any, ticks: Sequence[int]) -> Any:
    figure.update_xaxes(type="log", tickvals=ticks, ticktext=[str(k) for k in ticks])
    return figure


def _n(counts: Iterable[int]) -> str:
    """How many values the means of a figure rest on.

    >>> _n([40, 40]), _n([38, 40])
    ('n = 40', 'n = 38 to 40')
    """
    known = sorted(counts)
    least, most = known[0], known[-1]
    return f"n = {least}" if least == most else f"n = {least} to {most}"


def _instruction(examples: Sequence[Mapping[str, str]], number: int) -> str:
    text = examples[number]["instruction"] if number < len(examples) else ""
    return plain(text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…")
