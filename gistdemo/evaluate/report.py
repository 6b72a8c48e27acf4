"""An evaluation as one HTML file that needs no network, and as a Markdown table for a paper or a model card. No torch."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from gistdemo.evaluate import figures
from gistdemo.evaluate.figures import title_of
from gistdemo.metrics import FLAGS
from gistdemo.settings import PROJECT_DIR

MOST = 10  # best and worst rows shown
Row = Mapping[str, Any]


def best_and_worst(rows: Sequence[Row], checkpoint: str, k: int, most: int = MOST) -> tuple[list[int], list[int]]:
    """Numbers of the rows whose gist gains most, and loses most, ROUGE-L against the full prompt; best and worst first. Gains only
    among the best, losses only among the worst."""
    scores: dict[str, dict[int, float]] = {"full": {}, "gist": {}}
    for r in rows:
        if r["checkpoint"] == checkpoint and r["condition"] in scores and r["k"] in (0, k) and r["rougeL"] is not None:
            scores[r["condition"]][r["row"]] = r["rougeL"]
    gains = sorted(
        ((score - scores["full"][n], n) for n, score in scores["gist"].items() if n in scores["full"]), key=lambda g: (-g[0], g[1])
    )
    return [n for gain, n in gains if gain > 0][:most], [n for gain, n in reversed(gains) if gain < 0][:most]


def markdown_table(results: Mapping[str, Any]) -> str:
    """Figures with intervals, and what reproduces them."""
    names = (
        "checkpoint",
        "condition",
        "k",
        "n",
        "ROUGE-1",
        "ROUGE-2",
        "ROUGE-L",
        "normalised",
        "recovery (swapped)",
        "degenerate",
        "prompt tokens",
    )
    lines = [f"| {' | '.join(names)} |", f"|{' --- |' * len(names)}"]
    for e in results["answers"]:
        scores = [_interval(e, name) for name in ("rouge1", "rouge2", "rougeL")]
        share = f"{100 * e['verdicts']['degenerate'] / e['n']:.1f} %"
        values = (
            e["checkpoint"],
            e["condition"],
            e["k"] or "-",
            e["n"],
            *scores,
            _number(e["normalised"]),
            _recovery(results, e),
            share,
            _number(e["prompt_tokens"]),
        )
        lines.append("| " + " | ".join(str(value).replace("|", "\\|") for value in values) + " |")
    lines += [
        "",
        "ROUGE: F1 x 100 with stemmer, 95 % bootstrap intervals in brackets. Normalised: ROUGE-L with no instruction 0, with the full prompt 100.",
    ]
    return "\n".join([*lines, "", *(f"- {name}: {value}" for name, value in _facts(results)), ""])


def html_report(
    results: Mapping[str, Any], rows: Sequence[Row], examples: Sequence[Mapping[str, str]], references: Sequence[Row] = ()
) -> str:
    """The whole evaluation as one self-contained page. rows and examples may be empty where only figures were kept."""
    gists = [e for e in results["answers"] if e["condition"] == "gist"]
    shown = next((e for e in reversed(gists) if e["k"] == 4), gists[-1] if gists else None)
    parts = [
        f"<h1>{escape(results['title'])}</h1><p class='dim'>{escape(_summary(results))}</p>",
        _notes(results),
        f"<h2>Figures</h2>{_figures_table(results)}",
        _pictures(results, rows, examples, shown),
        f"<h2>What the flags mean</h2>{_flags_table(results)}",
        _extremes(rows, examples, shown) if shown else "",
        f"<h2>Figures of others</h2>{_references_table(references)}" if references else "",
        f"<h2>How to reproduce</h2><pre>{escape(results.get('command') or 'imported from ' + str(results['request'].get('data')))}</pre>{_facts_list(results)}",
    ]
    style = (PROJECT_DIR / "assets" / "report.css").read_text(encoding="utf-8")
    meta = "<meta charset='utf-8'><meta name='viewport' content='width=device-width, initial-scale=1'>"
    head = f"{meta}<title>{escape(results['title'])}</title><style>{style}</style>"
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{''.join(parts)}</body></html>\n"


def escape(value: Any) -> str:
    """Foreign text as HTML."""
    return html.escape(str(value), quote=True)


def _summary(results: Mapping[str, Any]) -> str:
    names = ", ".join(dict.fromkeys(e["checkpoint"] for e in results["answers"])) or ", ".join(results["request"]["checkpoints"])
    source = "Outputs of another program, judged by gistdemo. " if results.get("source") == "imported" else ""
    trained = (
        f" {results['rows_trained_on']} of the rows were trained on: no figure here speaks of unseen instructions."
        if results.get("rows_trained_on")
        else ""
    )
    return f"{source}{results['rows']:,} rows of {results['request'].get('data', '?')}, answered by {names}, greedy.{trained}"


def _notes(results: Mapping[str, Any]) -> str:
    lines = "".join(f"<li>{escape(note)}</li>" for note in results.get("notes", ()))
    return f"<h2>What stands out</h2><ul>{lines}</ul>" if lines else ""


def _figures_table(results: Mapping[str, Any]) -> str:
    names = (
        "",
        "condition",
        "n",
        "ROUGE-1",
        "ROUGE-2",
        "ROUGE-L",
        "normalised",
        "to own full",
        "recovery (swapped)",
        "healthy",
        "warning",
        "degenerate",
        "prompt tokens",
    )
    lines = []
    for e in results["answers"]:
        scores = [_interval(e, name) for name in ("rouge1", "rouge2", "rougeL")]
        verdicts = [f"{100 * e['verdicts'][v] / e['n']:.0f} %" for v in ("healthy", "warning", "degenerate")]
        own = _interval(e, "rougeL_own")
        lines.append(
            [
                e["checkpoint"],
                title_of(e),
                e["n"],
                *scores,
                _number(e["normalised"], ".0f"),
                own,
                _recovery(results, e),
                *verdicts,
                _number(e["prompt_tokens"]),
            ]
        )
    said = (
        "ROUGE: F1 × 100 with stemmer; in brackets the 95 % bootstrap interval of the mean. Normalised: no instruction 0, full prompt 100."
    )
    return _table(names, lines) + f"<p class='dim'>{said}</p>"


def _table(names: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join("<tr>" + "".join(f"<td>{escape(value)}</td>" for value in line) + "</tr>" for line in lines)
    return f"<div class='scroll'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _pictures(results, rows, examples, shown: Row | None) -> str:
    made = [
        ("ROUGE-L by condition", figures.rouge_bars(results, shown and shown["k"])),
        ("Quality against k", figures.quality_by_k(results)),
    ]
    made += [("Recovery against k", figures.recovery_by_k(results))] if results.get("recovery") else []
    made += [("Verdicts", figures.verdict_shares(results, shown and shown["k"]))]
    if rows and shown:
        made.append(("ROUGE-L by length of the instruction", figures.rouge_by_length(rows, shown["checkpoint"], shown["k"])))
        made.append(("Gist against full prompt, row by row", figures.gist_against_full(rows, examples, shown["checkpoint"], shown["k"])))
    parts = []
    for number, (title, figure) in enumerate(made):
        library = "inline" if number == 0 else False  # once: it is most of the file
        drawn = figure.to_html(full_html=False, include_plotlyjs=library, config={"displaylogo": False, "responsive": True})
        parts.append(f"<h3>{escape(title)}</h3>{drawn}")
    return "<h2>Pictures</h2>" + "".join(parts)


def _flags_table(results: Mapping[str, Any]) -> str:
    counts: dict[str, int] = {}
    for e in results["answers"]:
        for code, count in e["flags"].items():
            counts[code] = counts.get(code, 0) + count
    if not counts:
        return "<p class='dim'>No answer was flagged.</p>"
    return _table(("flag", "answers", "meaning"), [(code, counts[code], FLAGS.get(code, "")) for code in sorted(counts)])


def _extremes(rows: Sequence[Row], examples: Sequence[Mapping[str, str]], shown: Row) -> str:
    best, worst = best_and_worst(rows, shown["checkpoint"], shown["k"])
    texts = {(r["row"], r["condition"]): r for r in rows if r["checkpoint"] == shown["checkpoint"] and r["k"] in (0, shown["k"])}
    blocks = ""
    for title, numbers in (("gains most over the full prompt", best), ("loses most against the full prompt", worst)):
        if numbers:
            blocks += f"<h2>Where the gist {title}</h2><p class='dim'>{escape(shown['checkpoint'])}, k = {shown['k']}</p>"
            blocks += "".join(_row_block(n, examples[n], texts) for n in numbers)
    return blocks


def _row_block(number: int, example: Mapping[str, str], texts: Mapping[tuple[int, str], Row]) -> str:
    parts = [("Instruction", example["instruction"]), ("Input", example["input"]), ("Reference", example["output"])]
    for condition in ("full", "gist", "truncated"):
        if record := texts.get((number, condition)):
            score = "" if record["rougeL"] is None else f", ROUGE-L {record['rougeL']:.1f}"
            parts.append((f"{condition.capitalize()} ({record['verdict']}{score})", record["text"]))
    lines = "".join(f"<p><b>{escape(name)}:</b> {escape(text.strip() or '(empty)')}</p>" for name, text in parts if text or "(" in name)
    return f"<div class='row'><b>Row {number + 1}</b>{lines}</div>"


def _references_table(references: Sequence[Row]) -> str:
    names = ("source", "model", "rows", "condition", "k", "ROUGE-L", "normalised")
    lines = [
        (r["source"], r["model"], r["split"], r["condition"], r["k"] or "-", _number(r["rougeL"]), _number(r["normalised"], ".0f"))
        for r in references
    ]
    notes = "".join(
        f"<li><b>{escape(source)}</b>: {escape(note)}</li>" for source, note in {r["source"]: r["note"] for r in references}.items()
    )
    return f"<p class='dim'>As published. Other models and other rows: compare within one source only.</p>{_table(names, lines)}<ul>{notes}</ul>"


def _facts(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = [("command", f"`{results['command']}`")] if results.get("command") else []
    facts += [
        ("rows", str(results["rows"])),
        ("digest of the rows", str(results.get("digest", ""))),
        ("seed", str(results["request"].get("seed", "-"))),
    ]
    facts += [("versions", ", ".join(f"{name} {value}" for name, value in results.get("versions", {}).items()))]
    return [
        *facts,
        ("date", str(results.get("created", ""))),
        *([("rows trained on", str(results["rows_trained_on"]))] if results.get("rows_trained_on") else []),
    ]


def _facts_list(results: Mapping[str, Any]) -> str:
    return "<ul>" + "".join(f"<li>{escape(name)}: {escape(value)}</li>" for name, value in _facts(results) if name != "command") + "</ul>"


def _interval(e: Row, name: str) -> str:
    if e.get(name) is None:
        return "-"
    ends = e.get("intervals", {}).get(name)
    return f"{e[name]:.1f}" + (f" [{ends[0]:.1f}, {ends[1]:.1f}]" if ends else "")


def _number(value: float | None, form: str = ".1f") -> str:
    return "-" if value is None else f"{value:{form}}"


def _recovery(results: Mapping[str, Any], e: Row) -> str:
    """On references and on own answers, with the control in brackets; a gist's only."""
    targets = results.get("recovery", {}).get(e["checkpoint"], {}) if e["condition"] == "gist" else {}
    parts = []
    for target, label in (("references", "ref"), ("own_answers", "own")):
        row = targets.get(target, {}).get("by_k", {}).get(str(e["k"]))
        if row and row["recovery"] is not None:
            parts.append(f"{label} {row['recovery']:.2f} ({row['swapped']:.2f})")
    return ", ".join(parts) or "-"
