"""HTML of the Evaluate tab: figures, one row in all its answers, references of others, the leaderboard. Pure; imports no gradio."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gistdemo.conditions import CONDITIONS
from gistdemo.evaluate.results import Evaluation
from gistdemo.metrics import FLAGS, diagnose, shared_words
from gistdemo.ui import cells
from gistdemo.ui.cells import escape

VERDICTS = ("healthy", "warning", "degenerate")
Column = Callable[[Mapping[str, Any], Mapping[str, Any]], str]  # a figure (entry of `summarise`), its results -> HTML


def figures(results: Mapping[str, Any], view: str = "Overview") -> str:
    """Every checkpoint x condition x k of an evaluation with its numbers, n always beside them. view: a key of VIEWS."""
    columns = VIEWS[view]
    heads = "<th></th>" + "".join(f"<th>{head}</th>" for head in columns)
    blocks = ""
    for name in dict.fromkeys(entry["checkpoint"] for entry in results["answers"]):
        lines = "".join(_figure_line(e, results, columns) for e in results["answers"] if e["checkpoint"] == name)
        blocks += f"<tbody><tr class='gd-group'><th colspan='{len(columns) + 1}'>{escape(name)}</th></tr>{lines}</tbody>"
    return f"<div class='gd-scroll'><table class='gd-table gd-figures'><thead><tr>{heads}</tr></thead>{blocks}</table></div>{_legend(results, view)}"


def _figure_line(e: Mapping[str, Any], results: Mapping[str, Any], columns: Mapping[str, Column]) -> str:
    title = CONDITIONS[e["condition"]].title if e["condition"] in CONDITIONS else e["condition"]
    values = "".join(f"<td>{value(e, results)}</td>" for value in columns.values())
    return f"<tr data-condition='{escape(e['condition'])}'><th>{escape(title)}</th>{values}</tr>"


def _mean(name: str, form: str = ".1f", unit: float = 1.0) -> Column:
    return lambda e, results: _number(None if e.get(name) is None else e[name] / unit, form)


def _score(name: str, strong: bool = False) -> Column:
    def value(e: Mapping[str, Any], results: Mapping[str, Any]) -> str:
        shown, interval = _number(e.get(name)), e.get("intervals", {}).get(name)
        if strong and e.get(name) is not None:
            shown = f"<b>{shown}</b>"
        return shown + (f" <small>[{interval[0]:.1f}, {interval[1]:.1f}]</small>" if interval else "")

    return value


def _paired(other: str) -> Column:
    def value(e: Mapping[str, Any], results: Mapping[str, Any]) -> str:
        gap = e.get("paired", {}).get(other)
        return f"{gap['mean']:+.1f} <small>[{gap['low']:+.1f}, {gap['high']:+.1f}]</small>" if gap else "–"

    return value


def _share(verdict: str) -> Column:
    return lambda e, results: f"{100 * e['verdicts'][verdict] / e['n']:.0f} % <small>{e['verdicts'][verdict]}</small>"


def _recovery(target: str) -> Column:
    """With the swapped control; only the gist has one."""

    def value(e: Mapping[str, Any], results: Mapping[str, Any]) -> str:
        try:
            found = results["recovery"][e["checkpoint"]][target]["by_k"][str(e["k"])] if e["condition"] == "gist" else {}
            return f"{found['recovery']:.2f} <small>swapped {found['swapped']:.2f}</small>" if found else "–"
        except (KeyError, TypeError):
            return "–"

    return value


def _flag_counts(e: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    return " · ".join(f"{escape(code)} <small>{count}</small>" for code, count in e["flags"].items()) or "–"


def _kept(e: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    if e.get("instruction_tokens") is None or e.get("kept_tokens") is None:
        return "–"
    return f"{e['instruction_tokens']:.1f} → {e['kept_tokens']:.1f}"


def _number(value: float | None, form: str = ".1f") -> str:
    return "–" if value is None else f"{value:{form}}"


def _legend(results: Mapping[str, Any], view: str) -> str:
    request = results["request"]
    facts = [f"{results['rows']:,} rows of {request.get('data', '?')}"]
    if results.get("rows_trained_on"):
        facts.append(f"{results['rows_trained_on']} OF THEM TRAINED ON: these figures say nothing about unseen instructions")
    facts.append(f"rows {str(results.get('digest', ''))[7:19]}")
    if view == "Flags":
        met = {code for entry in results["answers"] for code in entry["flags"]}
        facts += [f"{code} {said}" for code, said in FLAGS.items() if code in met]
    facts.append("ROUGE: F1 × 100, in brackets 95 % bootstrap interval; normalised: without instruction 0, full prompt 100")
    facts.append("own full: ROUGE-L against the checkpoint's own full-prompt answer")
    facts.append("− truncated, − full: ROUGE-L of the gist minus truncation to as many tokens, or minus full, row by row")
    facts.append("blind: answers equal to another instruction's; times: of one answer within its batch")
    notes = "".join(f"<li>{escape(str(note))}</li>" for note in results.get("notes", ()))
    return f"<p class='gd-hint'>{escape(' · '.join(facts))}</p>" + (f"<ul class='gd-notes'>{notes}</ul>" if notes else "")


SIZE: dict[str, Column] = {"k": lambda e, results: str(e["k"] or "–"), "n": lambda e, results: str(e["n"])}
SHARES: dict[str, Column] = {f"{cells.MARKS[v]} {v}": _share(v) for v in VERDICTS}
VIEWS: dict[str, dict[str, Column]] = {
    "Overview": SIZE
    | {"ROUGE-L": _score("rougeL", strong=True), "normalised": _mean("normalised", ".0f"), "own full": _mean("rougeL_own")}
    | {"− truncated": _paired("truncated")}
    | SHARES
    | {"prompt tok": _mean("prompt_tokens"), "KV KiB": _mean("kv_bytes", ",.0f", 1024), "recovery": _recovery("references")},
    "Scores": SIZE
    | {"ROUGE-1": _score("rouge1"), "ROUGE-2": _score("rouge2"), "ROUGE-L": _score("rougeL", strong=True), "own full": _score("rougeL_own")}
    | {"− truncated": _paired("truncated"), "− full": _paired("full")}
    | {"recovery, references": _recovery("references"), "recovery, own answers": _recovery("own_answers")},
    "Flags": SIZE | SHARES | {"blind": lambda e, results: str(e["instruction_blind"]), "answers with": _flag_counts},
    "Cost": SIZE
    | {"prompt tok": _mean("prompt_tokens"), "instruction → kept": _kept, "KV KiB": _mean("kv_bytes", ",.0f", 1024)}
    | {"answer tok": _mean("tokens"), "first token, s": _mean("first_token_seconds", ".2f"), "tokens/s": _mean("tokens_per_second")},
}

RANKED = {
    head: VIEWS["Overview"][head] for head in ("k", "n", "ROUGE-L", "normalised", f"{cells.MARKS['degenerate']} degenerate", "prompt tok")
}


def no_row(evaluation: Evaluation | None) -> str:
    """What stands in the place of a row: that one is to be chosen, or that this evaluation has none to choose from."""
    if evaluation is not None and not evaluation.has_rows:
        return (
            "<p class='gd-hint'>Only the figures of this evaluation are here: its rows and answers are not handed on with the app. "
            "Evaluate rows of your own, or choose another evaluation above, to see answers one by one.</p>"
        )
    return "<p class='gd-hint'>Choose a row: its answers then stand here side by side.</p>"


def row_detail(number: int, example: Mapping[str, str], answers: Sequence[Mapping[str, Any]]) -> str:
    """One example: instruction, input, reference and the chosen answers side by side, flagged places marked."""
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
    head = "".join(f"<th>{n}</th>" for n in ("", "evaluation", *RANKED))
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
    values = [escape(evaluation.title), *(RANKED[head](e, evaluation.results) for head in RANKED)]
    return f"<tr><th>{escape(e['checkpoint'])}</th>{''.join(f'<td>{value}</td>' for value in values)}</tr>"
