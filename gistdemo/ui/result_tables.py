"""HTML of the Evaluate tab: figures, one row in all its answers, references of others, the leaderboard. Pure; imports no gradio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gistdemo.conditions import CONDITIONS
from gistdemo.evaluate.results import Evaluation
from gistdemo.metrics import diagnose, shared_words
from gistdemo.ui import cells
from gistdemo.ui.cells import escape

VERDICTS = ("healthy", "warning", "degenerate")


def figures(results: Mapping[str, Any]) -> str:
    """Every checkpoint x condition x k of an evaluation with its numbers, n always beside them."""
    heads = "<th></th><th>k</th><th>n</th><th>ROUGE-L</th><th>normalised</th><th>own full</th><th>− truncated</th>"
    heads += (
        "".join(f"<th>{cells.MARKS[v]} {v}</th>" for v in VERDICTS) + "<th>blind</th><th>prompt tok</th><th>KV KiB</th><th>recovery</th>"
    )
    blocks = ""
    for name in dict.fromkeys(entry["checkpoint"] for entry in results["answers"]):
        lines = "".join(_figure_line(e, results) for e in results["answers"] if e["checkpoint"] == name)
        blocks += f"<tbody><tr class='gd-group'><th colspan='14'>{escape(name)}</th></tr>{lines}</tbody>"
    return (
        f"<div class='gd-scroll'><table class='gd-table gd-figures'><thead><tr>{heads}</tr></thead>{blocks}</table></div>{_legend(results)}"
    )


def _figure_line(e: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    gap = e.get("paired", {}).get("truncated")
    values = [
        str(e["k"] or "–"),
        str(e["n"]),
        _with_interval(e["rougeL"], e.get("intervals", {}).get("rougeL")),
        _number(e["normalised"], ".0f"),
        _number(e.get("rougeL_own")),
        f"{gap['mean']:+.1f} <small>[{gap['low']:+.1f}, {gap['high']:+.1f}]</small>" if gap else "–",
        *(f"{100 * e['verdicts'][v] / e['n']:.0f} % <small>{e['verdicts'][v]}</small>" for v in VERDICTS),
        str(e["instruction_blind"]),
        _number(e["prompt_tokens"]),
        _number(e["kv_bytes"] / 1024 if e.get("kv_bytes") is not None else None, ",.0f"),
        _recovery(e, results),
    ]
    title = CONDITIONS[e["condition"]].title if e["condition"] in CONDITIONS else e["condition"]
    return f"<tr data-condition='{escape(e['condition'])}'><th>{escape(title)}</th>{''.join(f'<td>{value}</td>' for value in values)}</tr>"


def _recovery(e: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """On references, with the swapped control; only the gist has one."""
    try:
        found = results["recovery"][e["checkpoint"]]["references"]["by_k"][str(e["k"])] if e["condition"] == "gist" else {}
        return f"{found['recovery']:.2f} <small>swapped {found['swapped']:.2f}</small>" if found else "–"
    except (KeyError, TypeError):
        return "–"


def _number(value: float | None, form: str = ".1f") -> str:
    return "–" if value is None else f"{value:{form}}"


def _with_interval(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None:
        return "–"
    return f"<b>{value:.1f}</b>" + (f" <small>[{interval[0]:.1f}, {interval[1]:.1f}]</small>" if interval else "")


def _legend(results: Mapping[str, Any]) -> str:
    request = results["request"]
    facts = [f"{results['rows']:,} rows of {request.get('data', '?')}"]
    if results.get("rows_trained_on"):
        facts.append(f"{results['rows_trained_on']} OF THEM TRAINED ON: these figures say nothing about unseen instructions")
    facts.append(f"rows {str(results.get('digest', ''))[7:19]}")
    facts.append("ROUGE: F1 × 100, in brackets 95 % bootstrap interval; normalised: without instruction 0, full prompt 100")
    facts.append("− truncated: ROUGE-L of the gist minus truncation to as many tokens, row by row")
    notes = "".join(f"<li>{escape(str(note))}</li>" for note in results.get("notes", ()))
    return f"<p class='gd-hint'>{escape(' · '.join(facts))}</p>" + (f"<ul class='gd-notes'>{notes}</ul>" if notes else "")


def row_detail(number: int, example: Mapping[str, str], answers: Sequence[Mapping[str, Any]]) -> str:
    """One example: instruction, input, reference and the chosen answers side by side, flagged places marked."""
    if not answers:
        return "<p class='gd-hint'>Choose a row: its answers then stand here side by side.</p>"
    parts = [("Instruction", example["instruction"]), ("Input", example["input"]), ("Reference", example["output"])]
    head = "".join(f"<div><h5>{name}</h5><p>{escape(text)}</p></div>" for name, text in parts if text)
    order = list(CONDITIONS)
    cards = "".join(_answer(a, example) for a in sorted(answers, key=lambda a: order.index(a["condition"])))
    legend = "<p class='gd-hint'><span class='gd-same'>Green words</span> are what ROUGE-L counts: the reference has them too, in the same order.</p>"
    return (
        f"<div class='gd-detail' data-row='{number}'><h4>Row {number + 1}</h4><div class='gd-asked'>{head}</div>"
        f"<div class='gd-cards'>{cards}</div>{legend if example['output'] else ''}</div>"
    )


def _answer(record: Mapping[str, Any], example: Mapping[str, str]) -> str:
    found = diagnose(record["text"], (), example["instruction"], example["input"], record["finish_reason"])
    title = CONDITIONS[record["condition"]].title + (f", k = {record['k']}" if record["k"] else "")
    score = f"ROUGE-L {record['rougeL']:.1f}" if record["rougeL"] is not None else "no reference"
    verdict = record["verdict"]
    text = cells.highlight(record["text"], found.flags, shared_words(record["text"], example["output"]))
    return (
        f"<article class='gd-card gd-{verdict}'><header><h4>{escape(title)}</h4>"
        f"<span class='gd-badge gd-b-{verdict}'>{cells.MARKS[verdict]} {verdict}</span></header>"
        f"<p class='gd-hint'>{escape(record['checkpoint'])} · {score} · {record['tokens'] if record['tokens'] is not None else '?'} tokens"
        f"{' · ' + escape(' '.join(record['flags'])) if record['flags'] else ''}</p>"
        f"<div class='gd-text' dir='auto' tabindex='0'>{text or '(empty)'}</div></article>"
    )


def references(found: Sequence[Mapping[str, Any]]) -> str:
    """Figures of others beside ours: theirs, as published, with what differs."""
    head = "".join(f"<th>{name}</th>" for name in ("", "model", "rows", "condition", "k", "ROUGE-L", "normalised"))
    lines, notes = "", {}
    for r in found:
        values = (r["model"], r["split"], r["condition"], r["k"] or "–", _number(r["rougeL"]), _number(r["normalised"], ".0f"))
        lines += f"<tr><th>{escape(r['source'])}</th>{''.join(f'<td>{escape(str(v))}</td>' for v in values)}</tr>"
        notes.setdefault(r["source"], r["note"])
    said = "".join(f"<li><b>{escape(source)}</b>: {escape(note)}</li>" for source, note in notes.items() if note)
    return (
        "<p class='gd-hint'>Figures of others, as they published them: another model, other rows, another ROUGE. "
        f"Only differences within one source can be compared.</p><div class='gd-scroll'><table class='gd-table'><thead><tr>{head}</tr></thead>"
        f"<tbody>{lines}</tbody></table></div><ul class='gd-notes'>{said}</ul>"
    )


def leaderboard(evaluations: Sequence[Evaluation]) -> str:
    """Gist figures of all evaluations, those on the same rows together."""
    groups: dict[str, list[tuple[Evaluation, Mapping[str, Any]]]] = {}
    for evaluation in evaluations:
        for entry in evaluation.results["answers"]:
            if entry["condition"] == "gist":
                groups.setdefault(str(evaluation.results.get("digest", "")), []).append((evaluation, entry))
    if not groups:
        return "<p class='gd-hint'>No evaluation with a gist condition yet.</p>"
    head = "".join(f"<th>{n}</th>" for n in ("", "evaluation", "k", "n", "ROUGE-L", "normalised", "degenerate", "prompt tok"))
    blocks = ""
    for digest, found in groups.items():
        found.sort(key=lambda pair: -(pair[1]["rougeL"] or 0))
        lines = "".join(_rank(evaluation, e) for evaluation, e in found)
        words = f"{found[0][0].results['rows']} rows of {found[0][0].results['request'].get('data', '?')} ({digest[7:19]})"
        blocks += f"<tbody><tr class='gd-group'><th colspan='8'>{escape(words)}</th></tr>{lines}</tbody>"
    return (
        "<p class='gd-hint'>Lines of one group were measured on the same rows and can be compared; lines of different groups cannot.</p>"
        f"<div class='gd-scroll'><table class='gd-table gd-figures'><thead><tr>{head}</tr></thead>{blocks}</table></div>"
    )


def _rank(evaluation: Evaluation, e: Mapping[str, Any]) -> str:
    values = [
        escape(evaluation.title),
        str(e["k"] or "–"),
        str(e["n"]),
        _with_interval(e["rougeL"], e.get("intervals", {}).get("rougeL")),
        _number(e["normalised"], ".0f"),
        f"{100 * e['verdicts']['degenerate'] / e['n']:.0f} %",
        _number(e["prompt_tokens"]),
    ]
    return f"<tr><th>{escape(e['checkpoint'])}</th>{''.join(f'<td>{value}</td>' for value in values)}</tr>"
