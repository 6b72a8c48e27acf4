"""The entries of an evaluation's results (see `gistdemo.results.summary`) in words and numbers, the same on the page, in the report and in
its tables. Names of conditions and checkpoints may be others' own: what is returned is foreign text."""

from __future__ import annotations

from gistdemo.conditions import CONDITIONS
from gistdemo.present.markup import Value, number
from gistdemo.results.evaluation import RecoveryAt, Results
from gistdemo.results.summary import Entry

TARGETS = {"references": "ref", "own_answers": "own"}  # whose answers recovery is measured on


class Shown(Entry):
    """An entry with the recovery measured at its k, by kind of answers; only a gist has some."""

    recovery: dict[str, RecoveryAt]


def entries_of(results: Results) -> list[Shown]:
    """The entries in their order."""

    def recovery(e: Entry) -> dict[str, RecoveryAt]:
        targets = (results.get("recovery") or {}).get(e["checkpoint"], {}) if e["condition"] == "gist" else {}
        return {target: found["by_k"][str(e["k"])] for target, found in targets.items() if str(e["k"]) in found["by_k"]}

    return [{**e, "recovery": recovery(e)} for e in results.get("answers") or ()]


def by_checkpoint(results: Results) -> dict[str, list[Shown]]:
    """The same by checkpoint, in order of first appearance."""
    groups: dict[str, list[Shown]] = {}
    for entry in entries_of(results):
        groups.setdefault(entry["checkpoint"], []).append(entry)
    return groups


def name_of(name: str) -> str:
    """Name of a condition as the page shows it; unknown ones keep their own."""
    return CONDITIONS[name].title if name in CONDITIONS else name


def title_of(entry: Entry) -> str:
    """Name of a condition and its budget."""
    return name_of(entry["condition"]) + (f", k={entry['k']}" if entry["k"] else "")


def mean_of(e: Entry, name: str, strong: bool = False) -> Value:
    """The mean of a score and, in brackets, its interval."""
    found = e["scores"].get(name)
    return Value(f"{found['mean']:.1f}", "[{low:.1f}, {high:.1f}]".format(**found), strong) if found else Value()


def gap_of(e: Entry, other: str) -> Value:
    """Mean difference to another condition, row by row, and its interval."""
    gap = e["paired"].get(other)
    return Value(f"{gap['mean']:+.1f}", "[{low:+.1f}, {high:+.1f}]".format(**gap)) if gap else Value()


def share_of(e: Entry, verdict: str, digits: int = 1) -> str:
    """Answers with a verdict, in percent of an entry's answers."""
    return f"{100 * e['verdicts'][verdict] / e['n']:.{digits}f} %" if e["n"] else "-"


def recovery_of(e: Shown, target: str, form: str = "({:.2f})") -> Value:
    """Recovery and, where there is one, its control: another row's gist. form: of the control."""
    found = e["recovery"].get(target)
    return Value(number(found["recovery"], "{:.2f}"), number(found["swapped"], form, unknown="")) if found else Value()


def provenance(results: Results) -> list[tuple[str, str]]:
    """What reproduces the figures, by name; what is not known is left out."""
    seed = results["request"].get("seed")
    known = {
        "command": results.get("command"),
        "rows": f"{results['rows']:,}",
        "rows trained on": results.get("rows_trained_on"),
        "digest of the rows": results.get("digest"),
        "seed": None if seed is None else str(seed),
        "versions": ", ".join(f"{name} {value}" for name, value in (results.get("versions") or {}).items()),
        "date": results.get("created"),
    }
    return [(name, str(value)) for name, value in known.items() if value]
