"""Plotly figures of an evaluation. Pure: results and rows in (see `gistdemo.evaluate.results`), figures out. plotly is imported at first use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from gistdemo.conditions import CONDITIONS

INK, GRID = "#8a8375", "rgba(138,131,117,.25)"  # readable on light and on dark
COLOURS = ("#2a9187", "#c07a1c", "#4c8fd0", "#a05fb4", "#cf4b43", "#6f8f2f")
VERDICTS = {"healthy": "#2a9d5c", "warning": "#d9a21b", "degenerate": "#cf4b43"}
LENGTHS = ((1, 7), (8, 15), (16, 29), (30, 100_000))  # instruction tokens
Entry = Mapping[str, Any]
Row = Mapping[str, Any]


def styled(figure: Any, x_title: str = "", y_title: str = "", height: int = 320) -> Any:
    """Transparent ground, grey ink, legend above: for a page of any theme and width."""
    figure.update_layout(
        height=height,
        margin={"l": 50, "r": 10, "t": 30, "b": 40},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": INK, "size": 12},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        hoverlabel={"align": "left"},
    )
    for update, title in ((figure.update_xaxes, x_title), (figure.update_yaxes, y_title)):
        update(gridcolor=GRID, zeroline=False, automargin=True, **({"title": title} if title else {}))
    return figure


def empty(text: str, height: int = 320) -> Any:
    """A figure that says why there is nothing to see."""
    import plotly.graph_objects as go

    figure = styled(go.Figure(), height=height)
    figure.add_annotation(text=text, showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper")
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    return figure


def title_of(entry: Entry) -> str:
    """Name of a condition and its budget."""
    name = CONDITIONS[entry["condition"]].title if entry["condition"] in CONDITIONS else entry["condition"]
    return f"{name}, k={entry['k']}" if entry["k"] else name


def _by_checkpoint(results: Mapping[str, Any]) -> dict[str, list[Entry]]:
    groups: dict[str, list[Entry]] = {}
    for entry in results["answers"]:
        groups.setdefault(entry["checkpoint"], []).append(entry)
    return groups


def _at(entries: Sequence[Entry], k: int | None) -> list[Entry]:
    return [e for e in entries if k is None or e["k"] in (0, k)]


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def rouge_bars(results: Mapping[str, Any], k: int | None = None) -> Any:
    """Mean ROUGE-L by condition with 95 % intervals, a colour per checkpoint. k: of one budget only."""
    import plotly.graph_objects as go

    figure, drawn = go.Figure(), False
    for number, (name, entries) in enumerate(_by_checkpoint(results).items()):
        known = [e for e in _at(entries, k) if e["rougeL"] is not None]
        means = [e["rougeL"] for e in known]
        ends = [e.get("intervals", {}).get("rougeL", (e["rougeL"], e["rougeL"])) for e in known]
        error = {"array": [high - m for m, (_, high) in zip(means, ends, strict=True)], "thickness": 1.2, "color": INK}
        error["arrayminus"] = [m - low for m, (low, _) in zip(means, ends, strict=True)]
        hover = [
            f"{title_of(e)}: {e['rougeL']:.1f} [{low:.1f}, {high:.1f}], n = {e['scored']}"
            for e, (low, high) in zip(known, ends, strict=True)
        ]
        figure.add_bar(
            x=[title_of(e) for e in known],
            y=means,
            error_y=error,
            name=name,
            marker_color=_colour(number),
            hovertext=hover,
            hoverinfo="text+name",
        )
        drawn = drawn or bool(known)
    return styled(figure, y_title=f"ROUGE-L, n = {results['rows']}") if drawn else empty("No references, no ROUGE.")


def quality_by_k(results: Mapping[str, Any]) -> Any:
    """ROUGE-L of gist and truncation against k; full prompt and no instruction as level lines."""
    import plotly.graph_objects as go

    figure, drawn = go.Figure(), False
    for number, (name, entries) in enumerate(_by_checkpoint(results).items()):
        for condition, dash in (("gist", "solid"), ("truncated", "dot")):
            line = sorted((e for e in entries if e["condition"] == condition and e["rougeL"] is not None), key=lambda e: e["k"])
            if line:
                style = {"color": _colour(number), "dash": dash}
                label = f"{name}, {CONDITIONS[condition].title.lower()}"
                hover = [f"k = {e['k']}: {e['rougeL']:.1f}, n = {e['scored']}" for e in line]
                figure.add_scatter(
                    x=[e["k"] for e in line],
                    y=[e["rougeL"] for e in line],
                    mode="lines+markers",
                    line=style,
                    name=label,
                    hovertext=hover,
                    hoverinfo="text+name",
                )
                drawn = True
        for condition, dash in (("full", "dash"), ("none", "dashdot")):
            level = next((e["rougeL"] for e in entries if e["condition"] == condition and e["rougeL"] is not None), None)
            if level is not None and drawn:
                style = {"color": _colour(number), "dash": dash, "width": 1}
                label = f"{name}, {CONDITIONS[condition].title.lower()}"
                ks = sorted({e["k"] for e in results["answers"] if e["k"]})
                figure.add_scatter(x=[ks[0], ks[-1]], y=[level, level], mode="lines", line=style, name=label, opacity=0.8)
    if not drawn:
        return empty("No gist or truncation was measured.")
    return _budgets(styled(figure, "k", f"ROUGE-L, n = {results['rows']}", 380))


def recovery_by_k(results: Mapping[str, Any]) -> Any:
    """Recovery (1 = as good as the full prompt) against k on both kinds of answers, beside another row's gist."""
    import plotly.graph_objects as go

    figure, number = go.Figure(), 0
    for name, targets in results.get("recovery", {}).items():
        for target, found in targets.items():
            points = [(int(k), row["recovery"], row["swapped"]) for k, row in found.get("by_k", {}).items() if row["recovery"] is not None]
            if not points:
                continue
            ks, own, swapped = zip(*sorted(points), strict=True)
            label, colour = f"{name}, {target.replace('_', ' ')}", _colour(number)
            figure.add_scatter(x=ks, y=own, mode="lines+markers", line={"color": colour}, name=label)
            figure.add_scatter(x=ks, y=swapped, mode="lines", line={"color": colour, "dash": "dot", "width": 1}, name=f"{label}, swapped")
            number += 1
    if not number:
        return empty("Recovery was not measured.")
    figure.add_hline(y=1, line={"color": INK, "width": 1})
    return _budgets(styled(figure, "k", f"recovery, n = {results['rows']}", 420))


def _budgets(figure: Any) -> Any:
    figure.update_xaxes(type="log", tickvals=[1, 2, 4, 8, 16], ticktext=["1", "2", "4", "8", "16"])
    return figure


def verdict_shares(results: Mapping[str, Any], k: int | None = None) -> Any:
    """Healthy, warning and degenerate answers in percent, one bar per checkpoint, condition and k. k: of one budget only."""
    import plotly.graph_objects as go

    entries = list(reversed(_at(results["answers"], k)))
    if not entries:
        return empty("No answers were generated.")
    several = len({e["checkpoint"] for e in entries}) > 1
    labels = [(f"{e['checkpoint']}: " if several else "") + title_of(e) for e in entries]
    figure = go.Figure()
    for verdict, colour in VERDICTS.items():
        shares = [100 * e["verdicts"][verdict] / e["n"] for e in entries]
        hover = [f"{verdict}: {e['verdicts'][verdict]} of {e['n']}" for e in entries]
        figure.add_bar(y=labels, x=shares, orientation="h", name=verdict, marker_color=colour, hovertext=hover, hoverinfo="text")
    figure.update_layout(barmode="stack", bargap=0.25, legend_traceorder="normal")
    figure.update_xaxes(range=[0, 100])
    return styled(figure, "% of answers", height=90 + 22 * len(entries))


def rouge_by_length(rows: Sequence[Row], checkpoint: str | None, k: int) -> Any:
    """Mean ROUGE-L by length of the instruction, a line per condition, of one checkpoint at one budget."""
    import plotly.graph_objects as go

    figure, number = go.Figure(), 0
    mine = [r for r in rows if r["checkpoint"] == checkpoint and r["k"] in (0, k) and r["rougeL"] is not None and r["instruction_tokens"]]
    for condition in dict.fromkeys(r["condition"] for r in mine):
        buckets = {
            ends: [r["rougeL"] for r in mine if r["condition"] == condition and ends[0] <= r["instruction_tokens"] <= ends[1]]
            for ends in LENGTHS
        }
        found = {ends: values for ends, values in buckets.items() if values}
        labels = [f"{low}-{high}" if high < 1000 else f"{low} or more" for low, high in found]
        hover = [f"{condition}, {label} tokens: {fmean(v):.1f}, n = {len(v)}" for label, v in zip(labels, found.values(), strict=True)]
        means = [fmean(values) for values in found.values()]
        figure.add_scatter(
            x=labels,
            y=means,
            mode="lines+markers",
            name=f"{CONDITIONS[condition].title}",
            line={"color": _colour(number)},
            hovertext=hover,
            hoverinfo="text",
        )
        number += 1
    if not number:
        return empty("The answers themselves are not here, or have no reference.")
    labels = [f"{low}-{high}" if high < 1000 else f"{low} or more" for low, high in LENGTHS]
    figure.update_xaxes(categoryorder="array", categoryarray=labels)
    return styled(figure, f"instruction tokens ({checkpoint}, k = {k})", "ROUGE-L")


def gist_against_full(rows: Sequence[Row], examples: Sequence[Mapping[str, str]], checkpoint: str | None, k: int) -> Any:
    """ROUGE-L of the gist against that of the full prompt, a point per example; customdata holds its number."""
    import plotly.graph_objects as go

    scores: dict[str, dict[int, Row]] = {"full": {}, "gist": {}}
    for r in rows:
        if r["checkpoint"] == checkpoint and r["condition"] in scores and r["k"] in (0, k) and r["rougeL"] is not None:
            scores[r["condition"]][r["row"]] = r
    both = [n for n in scores["gist"] if n in scores["full"]]
    if not both:
        return empty("Both the gist's and the full prompt's answers are needed, with references.")
    figure = go.Figure()
    for verdict, colour in VERDICTS.items():
        at = [n for n in both if scores["gist"][n]["verdict"] == verdict]
        hover = [f"#{n + 1} {_short(examples[n]['instruction'])}" for n in at]
        x, y = ([scores[name][n]["rougeL"] for n in at] for name in ("full", "gist"))
        marker = {"color": colour, "size": 8, "opacity": 0.75}
        figure.add_scatter(
            x=x, y=y, mode="markers", marker=marker, customdata=at, name=f"gist {verdict}", hovertext=hover, hoverinfo="text+x+y"
        )
    figure.add_shape(type="line", x0=0, y0=0, x1=100, y1=100, line={"color": INK, "width": 1, "dash": "dot"})
    return styled(figure, f"ROUGE-L, full prompt ({checkpoint})", f"ROUGE-L, gist k = {k}, n = {len(both)}", 400)


def _short(text: str, most: int = 80) -> str:
    return (text if len(text) <= most else text[: most - 1] + "…").replace("<", "&lt;")
