"""Results of every format that was ever written open as those of today; later ones are refused; records hold what their schemas promise."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import measured
import pytest
from records import required

from gistdemo.errors import DataError
from gistdemo.files import read, write_json
from gistdemo.metrics import assess
from gistdemo.prompts import Example
from gistdemo.results import migrations
from gistdemo.results.answer import Answer, Finding
from gistdemo.results.evaluation import Asked, Results, find_evaluations, keep_beside, read_results
from gistdemo.results.migrations import FORMAT, Content, lifted
from gistdemo.results.summary import Entry
from gistdemo.settings import PROJECT_DIR

OLDEST = Path(__file__).parent / "data" / "old_evaluation"
ROUGE = ("rouge1", "rouge2", "rougeL")
SHIPPED = sorted((PROJECT_DIR / "assets" / "evaluations").iterdir())


def change(path: Path, **values) -> None:
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | values)


def change_lines(path: Path, changed) -> None:
    path.write_text("".join(json.dumps(changed(line)) + "\n" for line in read(path)), encoding="utf-8")


def known_then(record: dict) -> dict:
    """An answer or an entry with the scores that there were up to format 2."""
    return record | {"scores": {name: score for name, score in record["scores"].items() if name in (*ROUGE, "rougeL_own")}}


def flat(line: dict, *others: str) -> dict:
    """An answer as formats 1 and 2 have it. others: keys to be left out besides."""
    scores = dict.fromkeys(ROUGE) | known_then(line)["scores"]
    return {key: value for key, value in line.items() if key not in ("scores", *others)} | scores


def flat_entry(entry: dict) -> dict:
    """An entry as formats 1 and 2 have it."""
    found = known_then(entry)["scores"]
    means = {name: found[name]["mean"] if name in found else None for name in (*ROUGE, "rougeL_own")}
    intervals = {name: [one["low"], one["high"]] for name, one in found.items()}
    rest = {key: value for key, value in entry.items() if key not in ("scores", "tasks")}
    return rest | means | {"intervals": intervals, "scored": found["rougeL"]["n"]}


# --- formats -------------------------------------------------------------------------------------------------------------


def test_answers_of_the_oldest_format_are_judged_anew_with_places():
    """It began with the codes of flags alone."""
    found, kept = read_results(OLDEST), read(OLDEST / "rows.jsonl")
    assert all("findings" not in line for line in kept)
    answers, examples = found.rows(), [Example(**example) for example in found.examples()]
    assert {frozenset(answer) for answer in answers} == {frozenset(required(Answer))}
    for answer, before in zip(answers, kept, strict=True):
        expected = assess(answer["text"], examples[answer["row"]])
        assert (answer["verdict"], answer["flags"]) == (expected.verdict, expected.codes) and not answer["blind"]
        assert [finding["code"] for finding in answer["findings"]] == [flag.code for flag in expected.flags]
        same = ("checkpoint", "condition", "k", "row", "text", "tokens", "prompt_tokens")
        assert {key: answer[key] for key in same} == {key: before[key] for key in same}
        assert known_then(answer)["scores"] == pytest.approx({name: before[name] for name in ROUGE})
    assert any(finding["span"] for answer in answers for finding in answer["findings"])


@pytest.mark.parametrize("folder", [OLDEST, *SHIPPED], ids=lambda folder: folder.name)
def test_figures_of_any_format_stay_as_they_were_measured(folder):
    found, kept = read_results(folder), json.loads((folder / "eval_results.json").read_text(encoding="utf-8"))
    assert {**found.results, "answers": 0} == {**kept, "answers": 0, "format": FORMAT}
    flat_ones = list(map(flat_entry, found.results["answers"])) if kept["format"] < 3 else found.results["answers"]
    assert flat_ones == [({"tasks": {}} if kept["format"] == 3 else {}) | entry for entry in kept["answers"]]
    assert all(
        {*ROUGE, "rougeL_own"} - set(e["scores"]) == ({"rougeL_own"} if e["condition"] == "full" else set())
        for e in found.results["answers"]
    )
    assert [a["text"] for a in found.rows()] == [line["text"] for line in read(folder / "rows.jsonl")]
    assert found.examples() == read(folder / "examples.jsonl")


def test_answers_and_figures_without_a_reference_have_no_score(tmp_path):
    folder = measured.write(tmp_path / "one", format=2)
    change_lines(folder / "rows.jsonl", lambda line: flat(line | {"scores": {}}))
    entry = dict.fromkeys((*ROUGE, "rougeL_own")) | {"rougeL": 5.0, "scored": 1, "n": 2, "intervals": {}}
    change(folder / "eval_results.json", answers=[entry, entry | {"rougeL": None, "rougeL_own": 7.0}])
    found = read_results(folder)
    assert all(answer["scores"] == {} and not {*ROUGE} & set(answer) for answer in found.rows())
    assert [e["scores"] for e in found.results["answers"]] == [
        {"rougeL": {"mean": 5.0, "low": 5.0, "high": 5.0, "n": 1}},
        {"rougeL_own": {"mean": 7.0, "low": 7.0, "high": 7.0, "n": 2}},
    ]


def test_answers_of_format_1_that_have_their_findings_stay_as_they_are(tmp_path):
    """Where it was not kept whether the instruction was read, a finding of it tells."""
    folder = measured.write(tmp_path / "one", format=1)
    fact, kept = {"code": "F7", "evidence": "as it was worded then"}, read(folder / "rows.jsonl")
    change_lines(folder / "rows.jsonl", lambda line: flat(line, "blind") | {"facts": [fact] if line["condition"] == "none" else []})
    change(folder / "eval_results.json", answers=[])
    kept = [known_then(line) | {"facts": [fact] if line["condition"] == "none" else []} for line in kept]
    assert read_results(folder).rows() == [line | {"blind": line["condition"] == "none"} for line in kept]
    change_lines(folder / "rows.jsonl", lambda line: line | {"blind": line["row"] == 0})
    assert read_results(folder).rows() == [line | {"blind": line["row"] == 0} for line in kept]


def test_what_has_todays_format_is_read_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(migrations, "judged", lambda *_: pytest.fail("judged again"))
    folder = measured.write(tmp_path / "one")
    assert read_results(folder).rows() == read(folder / "rows.jsonl")


def test_only_the_migrations_that_are_due_run_in_their_order(monkeypatch):
    def step(n: int):
        return lambda content: dataclasses.replace(content, answers=[*content.answers, n])

    monkeypatch.setattr(migrations, "MIGRATIONS", tuple(map(step, (1, 2, 3))))
    monkeypatch.setattr(migrations, "FORMAT", 4)
    for found, applied in ((1, [1, 2, 3]), (3, [3]), (4, [])):
        content = lifted(Content({"format": found, "title": "x"}), "x")
        assert content.answers == applied and content.results == {"format": 4, "title": "x"}


@pytest.mark.parametrize("found", [FORMAT + 1, 0, -1, "1", 1.0, True, None, [1]])
def test_any_other_format_is_refused_in_one_line(tmp_path, found):
    folder = measured.write(tmp_path / "later", format=found)
    change(folder / "eval_results.json", answers={"of": "another form"})
    with pytest.raises(DataError) as refused:
        read_results(folder)
    line = str(refused.value)
    assert line.startswith(f"'later' holds results of format {found!r}; this version reads formats 1 to {FORMAT}.")
    assert "Update gistdemo" in line and "\n" not in line
    measured.write(tmp_path / "of today")
    assert [one.id for one in find_evaluations([tmp_path])] == ["of today"], "one that cannot be read hides no other"


ODD = 3, {"rougeL": 1.0, "intervals": 3}, {"rougeL": 1.0, "intervals": {"rougeL": 3}}, {"rougeL": 1.0, "scored": 1}
FORMS = [{"format": 2, "answers": [entry], "title": "x"} for entry in ODD]
FORMS += [{}, {"format": 1}, {"format": 2, "answers": {"of": "another form"}, "title": "x"}]
FORMS += [{"format": FORMAT}, {"format": FORMAT, "answers": [], "title": 3}, {"format": FORMAT, "answers": {}, "title": "x"}]


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '"format"', *map(json.dumps, FORMS)])
def test_a_file_that_holds_no_results_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "eval_results.json").write_text(content)
    with pytest.raises(
        DataError, match=rf"^'{tmp_path.name}' holds no results of an evaluation \(.*\)\. Evaluate again, or import them\.$"
    ):
        read_results(tmp_path)


# --- beside a checkpoint -------------------------------------------------------------------------------------------------


def kept_by(path: Path, **changes) -> dict:
    keep_beside(measured.results(**changes), "healthy", path)
    return json.loads(path.read_text(encoding="utf-8"))


def test_what_is_kept_beside_a_checkpoint_is_lifted_when_it_is_added_to(tmp_path):
    path = tmp_path / "evaluation.json"
    whole = kept_by(path)
    assert {entry["checkpoint"] for entry in whole["answers"]} == {"healthy"} and set(whole["recovery"]) == {"healthy"}
    change(path, format=2, answers=[flat_entry(entry) for entry in whole["answers"]])
    added = kept_by(path, answers=[], command="another")
    assert added == whole | {"answers": list(map(known_then, whole["answers"])), "recovery_command": "another"}
    assert added["format"] == FORMAT


def test_figures_of_a_later_format_are_not_written_over(tmp_path):
    path = tmp_path / "evaluation.json"
    kept_by(path)
    change(path, format=FORMAT + 1)
    before = path.read_bytes()
    with pytest.raises(DataError, match=rf"evaluation\.json' holds results of format {FORMAT + 1}"):
        kept_by(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"recovery": {"of": "another"}}', '{"format": 2, "answers": [3]}'])
def test_what_is_none_of_ours_is_replaced(tmp_path, content):
    path = tmp_path / "evaluation.json"
    path.write_text(content)
    assert kept_by(path, recovery={})["recovery"] == {}


# --- schemas -------------------------------------------------------------------------------------------------------------


def test_records_hold_what_their_schemas_promise_and_no_more():
    results, answers = measured.results(), measured.rows()
    assert set(results) == required(Results) and required(Asked) <= set(results["request"])
    assert {frozenset(entry) for entry in results["answers"]} == {frozenset(required(Entry))}
    assert {frozenset(answer) for answer in answers} == {frozenset(required(Answer))}
    findings = [finding for answer in answers for finding in answer["findings"]]
    assert findings and {frozenset(finding) for finding in findings} == {frozenset(required(Finding))}
