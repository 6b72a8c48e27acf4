"""An evaluation as one HTML file that needs no network.

Figures escape on their own (`figures.plain`), and plotly writes "<" in its JSON as \\u003c, so that no text can end a script. The page also
forbids itself every request.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from gistdemo.metrics import MAIN
from gistdemo.present import figures
from gistdemo.present.answer_table import gains
from gistdemo.present.entries import by_checkpoint, name_of, provenance
from gistdemo.present.markup import draw
from gistdemo.present.tables import by_source, view_of
from gistdemo.results.answer import Answer
from gistdemo.results.evaluation import Results
from gistdemo.results.references import Reference
from gistdemo.results.summary import Entry

MOST = 10  # best and worst rows shown
PREFERRED_K = 4  # the budget shown where one has to be chosen; if it was not measured, the largest
Picture = tuple[str, Any]  # title, figure


def html_report(
    results: Results, rows: Sequence[Answer], examples: Sequence[Mapping[str, str]], references: Sequence[Reference] = ()
) -> Markup:
    """The whole evaluation as one self-contained page.

    results, rows, examples: as in an evaluation's files; rows and examples may be empty where only the figures were kept.
    references: figures of others.
    """
    numbers = itertools.count(1)

    def drawn(pictures: Iterable[Picture]) -> list[tuple[str, Markup]]:
        return [(title, _drawn(figure, next(numbers))) for title, figure in pictures]

    views = {view: view_of(results, view) for view in ("Overview", "Scores", "Flags")}
    overview = drawn(_overview(results))
    sections = [(name, k, drawn(found), extremes) for name, k, found, extremes in _sections(results, rows, examples)]
    facts = dict(provenance(results))
    others = by_source(references)
    return draw("report.page", results, _summary(results), views, overview, sections, others, facts.pop("command", ""), facts)


def _drawn(figure: Any, number: int) -> Markup:
    """The figure of that number on its page; the first brings plotly.js along, which is most of the file."""
    figure.update_layout(dragmode=False)  # a finger on a figure scrolls the page
    drawn = figure.to_html(
        full_html=False,
        include_plotlyjs="inline" if number == 1 else False,
        div_id=f"figure-{number}",  # not a random one: the same results give the same page
        config={"displaylogo": False, "responsive": True, "modeBarButtons": [["toImage"]]},
    )
    return Markup(drawn)


def _summary(results: Results) -> str:
    """What was measured, in two sentences; a third where rows were trained on."""
    request, entries = results["request"], results["answers"]
    names = ", ".join(by_checkpoint(results) or request.get("checkpoints", ())) or "no checkpoint"
    rows = f"{results['rows']:,} rows of {request.get('data', '?')}"
    if entries:
        imported = results.get("source") == "imported"
        by = "outputs of another program" if imported else "greedy answers"
        limit = f", at most {request['max_new_tokens']} tokens each" if request.get("max_new_tokens") and not imported else ""
        conditions = ", ".join(dict.fromkeys(name_of(e["condition"]).lower() for e in entries))
        ks = ", ".join(map(str, dict.fromkeys(e["k"] for e in entries if e["k"])))
        first = f"{rows}, {by} of {names}{limit}, under these conditions: {conditions}" + (f", with k = {ks}." if ks else ".")
        second = "Answers are scored by ROUGE against the references and searched for signs of degeneration"
    else:
        first, second = f"{rows}: {names}.", "No answers were generated"
    second += ", and recovery says how much of the instruction's effect on known answers a gist keeps." if results.get("recovery") else "."
    if trained := results.get("rows_trained_on"):
        second += f" {trained} of the rows were trained on: no figure here speaks of unseen instructions."
    return f"{first} {second}"


# --- pictures and rows ------------------------------------------------------------------------------------------------


def _overview(results: Results) -> Iterator[Picture]:
    k = _chosen_k(results["answers"])
    at = f", k = {k}" if k else ""
    yield f"{MAIN.label} by condition{at}", figures.score_bars(results, k)
    yield "Quality against k", figures.quality_by_k(results)
    if results.get("recovery"):
        yield "Recovery against k", figures.recovery_by_k(results)
    yield f"Verdicts{at}", figures.verdict_shares(results, k)
    if any(e["tasks"] for e in results["answers"]):
        yield f"On task{at}", figures.task_shares(results, k)


def _chosen_k(entries: Sequence[Entry]) -> int | None:
    """The budget to show; None where nothing depends on one."""
    ks = {e["k"] for e in entries if e["condition"] == "gist"} or {e["k"] for e in entries if e["k"]}
    return PREFERRED_K if PREFERRED_K in ks else max(ks, default=None)


def _sections(
    results: Results, rows: Sequence[Answer], examples: Sequence[Mapping[str, str]]
) -> Iterator[tuple[str, int, list[Picture], dict[str, list[Any]]]]:
    """(checkpoint, k, pictures, best and worst rows) of each checkpoint whose gist's answers are here."""
    for name, entries in by_checkpoint(results).items():
        k = _chosen_k([e for e in entries if e["condition"] == "gist"])
        if k is None or not any(r["checkpoint"] == name and r["condition"] == "gist" for r in rows):
            continue
        scatter = "Gist against full prompt, one point per row", figures.gist_against_full(rows, examples, name, k)
        lengths = f"{MAIN.label} by length of the instruction", figures.score_by_length(rows, name, k)
        yield name, k, [scatter, lengths], _extremes(rows, examples, name, k)


def _extremes(rows: Sequence[Answer], examples: Sequence[Mapping[str, str]], checkpoint: str, k: int) -> dict[str, list[Any]]:
    """Best and worst rows: number, gain, example, its full and its gist answer each."""
    gained = gains(rows, checkpoint, "gist", k)
    answers = {(r["row"], r["condition"]): r for r in rows if r["checkpoint"] == checkpoint and r["k"] in (0, k)}
    return {
        title: [(n, gained[n], examples[n], [answers[n, "full"], answers[n, "gist"]]) for n in numbers if n < len(examples)]
        for title, numbers in zip(("gains most over", "loses most against"), best_and_worst(rows, checkpoint, "gist", k), strict=True)
    }


def best_and_worst(rows: Sequence[Answer], checkpoint: str, condition: str, k: int, most: int = MOST) -> tuple[list[int], list[int]]:
    """Numbers (from 0) of the rows where a condition gains most, and loses most, of the `MAIN` score against the full prompt.

    Best and worst first, equal ones in the order of the rows. Gains only among the best, losses only among the worst; a row without
    a score in either condition is in neither.
    """
    best_first = sorted(gains(rows, checkpoint, condition, k).items(), key=lambda item: (-item[1], item[0]))
    worst_first = sorted(best_first, key=lambda item: (item[1], item[0]))
    return [n for n, gain in best_first if gain > 0][:most], [n for n, gain in worst_first if gain < 0][:most]
