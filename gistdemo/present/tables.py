"""What the Evaluate tab shows of evaluations: figures, one row in all its answers, references of others, the leaderboard."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Concatenate, Literal, ParamSpec

from markupsafe import Markup

from gistdemo.conditions import CONDITIONS
from gistdemo.metrics import FLAGS, MAIN, SCORES, Flag, TaskVerdict, shared_words
from gistdemo.present.cells import card_state, highlight
from gistdemo.present.entries import Shown, by_checkpoint, entries_of, gap_of, mean_of, name_of, recovery_of, share_of
from gistdemo.present.markup import MARKS, TASK_MARKS, Line, Value, draw, number
from gistdemo.present.panels import note
from gistdemo.results.answer import Answer
from gistdemo.results.evaluation import Evaluation, Results
from gistdemo.results.references import Reference
from gistdemo.results.summary import OWN, Entry, Size

P = ParamSpec("P")
Column = Callable[[Shown], Any]  # an entry -> what stands in its cell (see `Line`)
Table = tuple[list[str], list[tuple[str, list[Line]]]]  # heads, lines by group


def figures(results: Results, view: str = "Overview") -> Markup:
    """Every checkpoint x condition x k of an evaluation with its numbers, n always beside them. view: a key of VIEWS."""
    return draw("tables.figures", *view_of(results, view), _facts(results, view), results.get("notes", ()))


def view_of(results: Results, view: str) -> Table:
    """The columns of a view, a line per entry. view: a key of VIEWS."""
    columns = VIEWS[view]

    def line(e: Shown) -> Line:
        return Line(name_of(e["condition"]), [column(e) for column in columns.values()], e["condition"])

    return ["", *columns], [(name, list(map(line, entries))) for name, entries in by_checkpoint(results).items()]


def _facts(results: Results, view: str) -> list[str]:
    facts = [f"{results['rows']:,} rows of {results['request'].get('data', '?')}"]
    if results.get("rows_trained_on"):
        facts.append(f"{results['rows_trained_on']} OF THEM TRAINED ON: these figures say nothing about unseen instructions")
    facts.append(f"rows {str(results.get('digest', ''))[7:19]}")
    if view == "Flags":
        met = {code for entry in results["answers"] for code in entry["flags"]}
        facts += [f"{kind.code} {kind.words}: {kind.more}" for kind in FLAGS if kind.code in met]
    return facts


def _mean(e: Entry, name: Literal[Size, "normalised"], form: str = "{:.1f}", unit: float = 1) -> str:
    return number(e.get(name), form, unit)


def _share(e: Entry, verdict: str) -> Value:
    return Value(share_of(e, verdict, 0), str(e["verdicts"][verdict]))


def _on_task(e: Entry, verdict: TaskVerdict) -> Value:
    """Of the answers that were judged."""
    judged = sum(e["tasks"].values())
    return Value(f"{100 * e['tasks'].get(verdict, 0) / judged:.0f} %", str(e["tasks"].get(verdict, 0))) if judged else Value()


def _recovery(e: Shown, target: str) -> Value:
    """With the swapped control, never without."""
    found = recovery_of(e, target, "swapped {:.2f}")
    return found if found.small else Value()


def _flag_counts(e: Entry) -> Any:
    return [Value(code, str(count)) for code, count in e["flags"].items()] or Value()


def _kept(e: Entry) -> str:
    if e.get("instruction_tokens") is None or e.get("kept_tokens") is None:
        return number(None)
    return f"{e['instruction_tokens']:.1f} → {e['kept_tokens']:.1f}"


def _as(written: Callable[Concatenate[Shown, P], Any], *what: P.args, **named: P.kwargs) -> Column:
    return lambda e: written(e, *what, **named)


SIZE: dict[str, Column] = {"k": lambda e: e["k"] or number(None), "n": lambda e: e["n"]}
SCORED = {score.label: _as(mean_of, name, score is MAIN) for name, score in SCORES.items()}
KIB = _as(_mean, "kv_bytes", "{:,.0f}", 1024)
SHARES = {f"{mark} {verdict}": _as(_share, verdict) for verdict, mark in MARKS.items()}
TASKS = {f"{mark} {verdict}": _as(_on_task, verdict) for verdict, mark in TASK_MARKS.items()}
ON_TASK = f"{TASK_MARKS['on task']} on task"
VIEWS: dict[str, dict[str, Column]] = {
    "Overview": SIZE
    | {MAIN.label: SCORED[MAIN.label], "normalised": _as(_mean, "normalised", "{:.0f}"), "own full": lambda e: mean_of(e, OWN).text}
    | {"− truncated": _as(gap_of, "truncated")}
    | SHARES
    | {ON_TASK: TASKS[ON_TASK]}
    | {"prompt tok": _as(_mean, "prompt_tokens"), "KV KiB": KIB, "recovery": _as(_recovery, "references")},
    "Scores": SIZE
    | SCORED
    | {"own full": _as(mean_of, OWN), "− truncated": _as(gap_of, "truncated"), "− full": _as(gap_of, "full")}
    | {"recovery, references": _as(_recovery, "references"), "recovery, own answers": _as(_recovery, "own_answers")},
    "Flags": SIZE | SHARES | TASKS | {"blind": lambda e: e["instruction_blind"], "answers with": _flag_counts},
    "Cost": SIZE
    | {"prompt tok": _as(_mean, "prompt_tokens"), "instruction → kept": _kept, "KV KiB": KIB, "answer tok": _as(_mean, "tokens")}
    | {"first token, s": _as(_mean, "first_token_seconds", "{:.2f}"), "tokens/s": _as(_mean, "tokens_per_second")},
}
RANKED = {
    head: VIEWS["Overview"][head]
    for head in ("k", "n", MAIN.label, "normalised", f"{MARKS['degenerate']} degenerate", ON_TASK, "prompt tok")
}


def no_row(evaluation: Evaluation | None) -> Markup:
    """What stands in the place of a row: that one is to be chosen, or that this evaluation has none to choose from."""
    if evaluation is not None and not evaluation.has_rows:
        return note(
            "Only the figures of this evaluation are here: its rows and answers are not handed on with the app. "
            "Evaluate rows of your own, or choose another evaluation above, to see answers one by one."
        )
    return note("Choose a row: its answers then stand here side by side.")


def row_detail(number: int, example: Mapping[str, str], answers: Sequence[Answer]) -> Markup:
    """One example: instruction, input, reference and the chosen answers side by side, flagged places marked. number: from 0."""
    order = list(CONDITIONS)
    shown = [
        (
            answer,
            _state(answer),
            highlight(answer["text"], list(map(Flag.from_dict, answer["findings"])), shared_words(answer["text"], example["output"])),
        )
        for answer in sorted(answers, key=lambda answer: order.index(answer["condition"]))
    ]
    return draw("tables.row", number, example, shown)


def _state(answer: Answer) -> str:
    return card_state(answer["verdict"] or "healthy", answer["task"]["verdict"] if answer["task"] else None)


def references(found: Sequence[Reference]) -> Markup:
    """Figures of others beside ours: theirs, as published, with what differs."""
    return draw("tables.references", *by_source(found))


def by_source(found: Sequence[Reference]) -> tuple[Table, dict[str, str]]:
    """Published figures by source, and the note of each."""
    groups: dict[str, list[Line]] = {}
    for r in found:
        scores = [number(r["rougeL"]), number(r["normalised"], "{:.0f}")]
        groups.setdefault(r["source"], []).append(Line(r["model"], [r["split"], name_of(r["condition"]), r["k"] or number(None), *scores]))
    return (["", "rows", "condition", "k", "ROUGE-L", "normalised"], list(groups.items())), {
        r["source"]: r["note"] for r in found if r["note"]
    }


def leaderboard(evaluations: Sequence[Evaluation]) -> Markup:
    """Gist figures of all evaluations, those on the same rows together."""
    groups: dict[str, list[tuple[Evaluation, Shown]]] = {}
    for evaluation in evaluations:
        for entry in entries_of(evaluation.results):
            if entry["condition"] == "gist":
                groups.setdefault(str(evaluation.results.get("digest", "")), []).append((evaluation, entry))
    if not groups:
        return note("No evaluation with a gist condition yet.")
    return draw("tables.leaderboard", ["", "evaluation", *RANKED], [_ranking(digest, found) for digest, found in groups.items()])


def _ranking(digest: str, found: Sequence[tuple[Evaluation, Shown]]) -> tuple[str, list[Line]]:
    results = found[0][0].results
    best_first = sorted(found, key=lambda pair: -(score["mean"] if (score := pair[1]["scores"].get(MAIN.name)) else 0))
    lines = [Line(e["checkpoint"], [one.title, *(column(e) for column in RANKED.values())]) for one, e in best_first]
    return f"{results['rows']} rows of {results['request'].get('data', '?')} ({digest[7:19]})", lines
