"""An evaluation as one HTML file that needs no network. No torch.

Whatever comes from files or models goes through `escape`; figures escape on their own (`figures.plain`), and plotly writes "<" in
its JSON as \\u003c, so that no text can end a script. The page also forbids itself every request.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gistdemo.evaluate import figures
from gistdemo.evaluate.figures import by_checkpoint, condition_title, title_of, visible
from gistdemo.evaluate.paper_table import SCORES, TARGETS, interval_of, markdown_table, number, provenance, recovery_of, share_of
from gistdemo.metrics import FLAGS
from gistdemo.settings import PROJECT_DIR

__all__ = ["best_and_worst", "html_report", "markdown_table"]

MOST = 10  # best and worst rows shown
PREFERRED_K = 4  # the budget shown where one has to be chosen; if it was not measured, the largest
MARKS = {"healthy": "●", "warning": "▲", "degenerate": "■"}  # a shape beside every colour
MEANINGS = {
    "healthy": "no flag warns or fails",
    "warning": "one flag warns at least, none fails",
    "degenerate": "one flag fails at least; not a judgement of whether the answer is right",
}
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:"
# On paper everything is shown, and figures are as wide as the paper.
SCRIPT = """
addEventListener("beforeprint", () => {
  document.querySelectorAll("details").forEach(d => { d.dataset.open = d.open; d.open = true; });
  document.querySelectorAll(".js-plotly-plot").forEach(p => Plotly.relayout(p, {width: 680}));
});
addEventListener("afterprint", () => {
  document.querySelectorAll("details").forEach(d => { d.open = d.dataset.open === "true"; });
  document.querySelectorAll(".js-plotly-plot").forEach(p => Plotly.relayout(p, {width: null, autosize: true}));
});
"""
Row = Mapping[str, Any]


class Markup(str):
    """HTML made here; any other string is escaped where it enters a table."""


def escape(value: Any) -> Markup:
    """Foreign text as HTML.

    >>> escape("<script>")
    '&lt;script&gt;'
    """
    if isinstance(value, Markup):
        return value
    return Markup(html.escape(visible(value), quote=True))


# --- which rows to look at --------------------------------------------------------------------------------------------


def best_and_worst(rows: Sequence[Row], checkpoint: str, condition: str, k: int, most: int = MOST) -> tuple[list[int], list[int]]:
    """Numbers (from 0) of the rows where a condition gains most, and loses most, ROUGE-L against the full prompt.

    Best and worst first, equal ones in the order of the rows. Gains only among the best, losses only among the worst; a row without
    a score in either condition is in neither.
    """
    gains = sorted(_gains(rows, checkpoint, condition, k).items(), key=lambda item: (-item[1], item[0]))
    losses = sorted(gains, key=lambda item: (item[1], item[0]))
    return [n for n, gain in gains if gain > 0][:most], [n for n, gain in losses if gain < 0][:most]


def _gains(rows: Sequence[Row], checkpoint: str, condition: str, k: int) -> dict[int, float]:
    scored = [r for r in rows if r["checkpoint"] == checkpoint and r["rougeL"] is not None]
    full = {r["row"]: r["rougeL"] for r in scored if r["condition"] == "full"}
    return {r["row"]: r["rougeL"] - full[r["row"]] for r in scored if r["condition"] == condition and r["k"] in (0, k) and r["row"] in full}


def _chosen_k(entries: Sequence[Row]) -> int | None:
    """The budget to show; None where nothing depends on one."""
    ks = {e["k"] for e in entries if e["condition"] == "gist"} or {e["k"] for e in entries if e["k"]}
    return PREFERRED_K if PREFERRED_K in ks else max(ks, default=None)


# --- HTML -------------------------------------------------------------------------------------------------------------


def html_report(
    results: Mapping[str, Any], rows: Sequence[Row], examples: Sequence[Mapping[str, str]], references: Sequence[Row] = ()
) -> str:
    """The whole evaluation as one self-contained page.

    results, rows, examples: as in an evaluation's files; rows and examples may be empty where only the figures were kept.
    references: figures of others, with source, model, split, condition, k, rougeL, normalised and note.
    """
    pictures = _Pictures()
    parts = [
        f"<h1>{escape(results['title'])}</h1><p class='dim'>{escape(_summary(results))}</p>",
        _notes(results),
        f"<h2>Figures</h2>{_scores_table(results)}{_paired_table(results)}",
        f"<h2>Pictures</h2>{_overview(results, pictures)}",
        f"<h2>Verdicts and flags</h2>{_verdicts_table(results)}{_meanings()}" if results["answers"] else "",
        *_row_by_row(results, rows, examples, pictures),
        f"<h2>Figures of others</h2>{_references_table(references)}" if references else "",
        f"<h2>How to reproduce</h2>{_reproduce(results)}",
    ]
    style = (PROJECT_DIR / "assets" / "report.css").read_text(encoding="utf-8")
    meta = "<meta charset='utf-8'><meta name='viewport' content='width=device-width, initial-scale=1'>"
    meta += f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    head = f"{meta}<title>{escape(results['title'])}</title><style>{style}</style>"
    body = f"{''.join(parts)}<script>{SCRIPT}</script>"
    return f"<!doctype html>\n<html lang='en'><head>{head}</head><body>{body}</body></html>\n"


class _Pictures:
    """Draws figures into one page: the first brings plotly.js along, which is most of the file."""

    def __init__(self) -> None:
        self.count = 0

    def draw(self, title: str, figure: Any) -> str:
        self.count += 1
        figure.update_layout(dragmode=False)  # a finger on a figure scrolls the page
        drawn = figure.to_html(
            full_html=False,
            include_plotlyjs="inline" if self.count == 1 else False,
            div_id=f"figure-{self.count}",  # not a random one: the same results give the same page
            config={"displaylogo": False, "responsive": True, "modeBarButtons": [["toImage"]]},
        )
        return f"<figure><figcaption>{escape(title)}</figcaption>{drawn}</figure>"


def _summary(results: Mapping[str, Any]) -> str:
    """What was measured, in two sentences; a third where rows were trained on."""
    request, entries = results.get("request", {}), results["answers"]
    names = ", ".join(by_checkpoint(results) or request.get("checkpoints", ())) or "no checkpoint"
    rows = f"{results['rows']:,} rows of {request.get('data', '?')}"
    if entries:
        imported = results.get("source") == "imported"
        by = "outputs of another program" if imported else "greedy answers"
        limit = f", at most {request['max_new_tokens']} tokens each" if request.get("max_new_tokens") and not imported else ""
        conditions = ", ".join(dict.fromkeys(condition_title(e["condition"]).lower() for e in entries))
        ks = ", ".join(map(str, dict.fromkeys(e["k"] for e in entries if e["k"])))
        first = f"{rows}, {by} of {names}{limit}, under these conditions: {conditions}" + (f", with k = {ks}." if ks else ".")
        second = "Answers are scored by ROUGE against the references and searched for signs of degeneration"
    else:
        first, second = f"{rows}: {names}.", "No answers were generated"
    second += ", and recovery says how much of the instruction's effect on known answers a gist keeps." if results.get("recovery") else "."
    trained = results.get("rows_trained_on")
    return f"{first} {second}" + (
        f" {trained} of the rows were trained on: no figure here speaks of unseen instructions." if trained else ""
    )


def _notes(results: Mapping[str, Any]) -> str:
    lines = "".join(f"<li>{escape(note)}</li>" for note in results.get("notes") or ())
    return f"<h2>What stands out</h2><ul>{lines}</ul>" if lines else ""


def _table(names: Sequence[Any], groups: Mapping[str, Sequence[Sequence[Any]]]) -> str:
    """A table whose lines stand under the name of their group (none where it is ""); a line's first cell is its head."""
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = ""
    for group, lines in groups.items():
        title = f"<tr class='group'><th colspan='{len(names)}'>{escape(group)}</th></tr>" if group else ""
        made = "".join(f"<tr><th>{escape(first)}</th>{''.join(f'<td>{escape(v)}</td>' for v in rest)}</tr>" for first, *rest in lines)
        body += f"<tbody>{title}{made}</tbody>"
    return f"<div class='scroll'><table><thead><tr>{head}</tr></thead>{body}</table></div>"


def _scores_table(results: Mapping[str, Any]) -> str:
    if not results["answers"]:
        return "<p class='dim'>No answers were generated.</p>"
    measured = [target for target in TARGETS if any(target in found for found in (results.get("recovery") or {}).values())]
    names = ["condition", "n", *SCORES.values(), "normalised", "to own full", *(f"recovery,\n{TARGETS[t]}" for t in measured)]
    names += [*(f"{mark}\n{verdict}" for verdict, mark in MARKS.items()), "prompt\ntokens"]

    def line(e: Row) -> list[Any]:
        scores = [_small(interval_of(e, name)) for name in (*SCORES, "rougeL_own")]
        recovery = [_small(recovery_of(results, e, target)) for target in measured]
        shares = [share_of(e, verdict, 0) for verdict in MARKS]
        return [
            title_of(e),
            e["n"],
            *scores[:3],
            number(e["normalised"], ".0f"),
            scores[3],
            *recovery,
            *shares,
            number(e["prompt_tokens"]),
        ]

    said = "ROUGE: F1 × 100 with stemmer; in brackets the 95 % bootstrap interval of the mean over n answers. "
    said += "Normalised: no instruction 0, full prompt 100. To own full: ROUGE-L against the same checkpoint's answer to the full prompt."
    if measured:
        said += " Recovery, on reference (ref) and own full-prompt answers (own): no instruction 0, full prompt 1; in brackets another row's gist."
    return _table(names, {name: [line(e) for e in es] for name, es in by_checkpoint(results).items()}) + f"<p class='dim'>{said}</p>"


def _paired_table(results: Mapping[str, Any]) -> str:
    """The gist against full and truncated, row by row: narrower intervals than those of two means."""

    def line(e: Row) -> list[Any]:
        found = [e.get("paired", {}).get(name) for name in ("truncated", "full")]
        return [
            title_of(e),
            *(_small((f"{d['mean']:+.1f}", f"[{d['low']:+.1f}, {d['high']:+.1f}], n = {d['n']}") if d else None) for d in found),
        ]

    groups = {name: [line(e) for e in entries if e.get("paired")] for name, entries in by_checkpoint(results).items()}
    groups = {name: lines for name, lines in groups.items() if lines}
    title = "<h3>Gist minus others, row by row (ROUGE-L)</h3>"
    return title + _table(("", "minus truncated\nto as many tokens", "minus full prompt"), groups) if groups else ""


def _overview(results: Mapping[str, Any], pictures: _Pictures) -> str:
    k = _chosen_k(results["answers"])
    at = f", k = {k}" if k else ""
    made = [(f"ROUGE-L by condition{at}", figures.rouge_bars(results, k)), ("Quality against k", figures.quality_by_k(results))]
    made += [("Recovery against k", figures.recovery_by_k(results))] if results.get("recovery") else []
    made += [(f"Verdicts{at}", figures.verdict_shares(results, k))]
    return "".join(pictures.draw(title, figure) for title, figure in made)


def _verdicts_table(results: Mapping[str, Any]) -> str:
    codes = sorted({code for e in results["answers"] for code in e["flags"]} - {"F7"}, key=lambda code: (len(code), code))

    def line(e: Row) -> list[Any]:
        blind = max(e["flags"].get("F7", 0), e.get("instruction_blind") or 0)  # F7 is found in a set of answers, not in one
        verdicts = [_small((str(e["verdicts"][verdict]), share_of(e, verdict, 0))) for verdict in MARKS]
        return [title_of(e), e["n"], *verdicts, *(e["flags"].get(code, 0) or "–" for code in codes), blind or "–"]

    names = ("condition", "answers", *(f"{mark}\n{verdict}" for verdict, mark in MARKS.items()), *codes, "F7")
    return _table(names, {name: [line(e) for e in entries] for name, entries in by_checkpoint(results).items()})


def _meanings() -> str:
    verdicts = [(f"{MARKS[verdict]} {verdict}", meaning) for verdict, meaning in MEANINGS.items()]
    lines = "".join(f"<dt>{escape(name)}</dt><dd>{escape(meaning)}</dd>" for name, meaning in [*verdicts, *FLAGS.items()])
    return f"<h3>What they mean</h3><dl>{lines}</dl>"


def _row_by_row(
    results: Mapping[str, Any], rows: Sequence[Row], examples: Sequence[Mapping[str, str]], pictures: _Pictures
) -> Iterable[str]:
    """One section per checkpoint whose gist's answers are here."""
    for name, entries in by_checkpoint(results).items():
        k = _chosen_k([e for e in entries if e["condition"] == "gist"])
        if k is None or not any(r["checkpoint"] == name and r["condition"] == "gist" for r in rows):
            continue
        yield f"<h2>Row by row: {escape(name)}, k = {k}</h2>"
        yield pictures.draw("Gist against full prompt, one point per row", figures.gist_against_full(rows, examples, name, k))
        yield pictures.draw("ROUGE-L by length of the instruction", figures.rouge_by_length(rows, name, k))
        yield _extremes(rows, examples, name, k)


def _extremes(rows: Sequence[Row], examples: Sequence[Mapping[str, str]], checkpoint: str, k: int) -> str:
    gains = _gains(rows, checkpoint, "gist", k)
    texts = {(r["row"], r["condition"]): r for r in rows if r["checkpoint"] == checkpoint and r["k"] in (0, k)}
    blocks = ""
    for title, numbers in zip(("gains most over", "loses most against"), best_and_worst(rows, checkpoint, "gist", k), strict=True):
        shown = "".join(_row_block(n, gains[n], examples[n], texts) for n in numbers if n < len(examples))
        blocks += f"<details><summary>Where the gist {title} the full prompt</summary>{shown}</details>" if shown else ""
    return blocks


def _row_block(number: int, gain: float, example: Mapping[str, str], texts: Mapping[tuple[int, str], Row]) -> str:
    parts = [("Instruction", example["instruction"]), ("Input", example["input"]), ("Reference", example["output"])]
    lines = [f"<dt>{name}</dt><dd>{escape(text.strip())}</dd>" for name, text in parts if text.strip()]
    for condition in ("full", "gist"):
        record = texts[number, condition]
        head = f"{condition_title(condition)}<br><small>{record['rougeL']:.1f} {MARKS[record['verdict']]} {record['verdict']}</small>"
        lines.append(f"<dt>{head}</dt><dd>{escape(record['text'].strip() or '(empty)')}</dd>")
    return f"<section class='row'><h4>Row {number + 1} <small>ROUGE-L {gain:+.1f}</small></h4><dl>{''.join(lines)}</dl></section>"


def _references_table(references: Sequence[Row]) -> str:
    groups: dict[str, list[list[Any]]] = {}
    for r in references:
        line = [
            r["model"],
            r["split"],
            condition_title(r["condition"]),
            r["k"] or "–",
            number(r["rougeL"]),
            number(r["normalised"], ".0f"),
        ]
        groups.setdefault(r["source"], []).append(line)
    notes = dict.fromkeys((r["source"], r["note"]) for r in references if r.get("note"))
    said = "".join(f"<li><b>{escape(source)}</b>: {escape(note)}</li>" for source, note in notes)
    warning = "<p class='dim'>As published. Other models and other rows: compare within one source only.</p>"
    return f"{warning}{_table(('model', 'rows', 'condition', 'k', 'ROUGE-L', 'normalised'), groups)}<ul class='dim'>{said}</ul>"


def _reproduce(results: Mapping[str, Any]) -> str:
    facts = dict(provenance(results))
    command = facts.pop("command", None)
    shown = f"<pre>{escape(command)}</pre>" if command else f"<p>Imported from {escape(results.get('request', {}).get('data', '?'))}.</p>"
    return shown + "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items()) + "</dl>"


def _small(pair: tuple[str, str] | None) -> Markup:
    """A number with what qualifies it in small print."""
    return Markup(f"{escape(pair[0])} <small>{escape(pair[1])}</small>" if pair else "–")
