"""Results of other programs: read in full or not at all, judged by our metrics, and what is wrong with them said."""

from __future__ import annotations

import json
import zipfile

import pytest

from gistdemo.errors import DataError
from gistdemo.metrics.scores import scores_of
from gistdemo.results import imported
from gistdemo.results.evaluation import read_results
from gistdemo.results.imported import import_results, read_foreign

LOOP = "Output:www.google.com\n" * 12


def sample(n: int, **changes):
    full = f"Instruction: Name fruit number {n}.\nOutput:"
    prompts = {"full": full, "gist": "<GIST>\nOutput:", "truncated": full + "\nOutput:"}
    return {
        "full_text": f"Fruit {n} is an apple.",
        "gist": LOOP,
        "truncated": "Yes.",
        "reference": f"Fruit {n}",
        "prompts": prompts,
    } | changes


def write(folder, samples, results=None):
    folder.mkdir(exist_ok=True)
    (folder / "sample_outputs.json").write_text(json.dumps(samples))
    if results is not None:
        (folder / "eval_results.json").write_text(json.dumps(results))
    return folder


def test_what_is_wrong_with_the_earlier_experiment_is_said(tmp_path):
    scores = {"full_text": {"rougeL": 0.0517}, "gist": {"rougeL": 0.027}, "truncated": {"rougeL": float("nan")}}
    found = read_foreign(write(tmp_path / "run", [sample(n) for n in range(5)], {"rouge_scores": scores, "num_gist_tokens": 10}), "run")
    notes = "\n".join(found.notes)
    assert "5 of 5 gist outputs are identical: the instruction never reached the model." in notes
    assert "The truncated prompt holds the whole full prompt in 5 of 5 rows: nothing was truncated." in notes
    assert "5 of 5 gist prompts are the same text: they cannot hold the instruction." in notes
    assert "5 of 5 gist outputs are degenerate." in notes and "metrics.json is missing." in notes
    assert "ROUGE-L of full: claimed 5.2," in notes and "truncated is nan, which is not a number" in notes
    assert found.examples[3].instruction == "Name fruit number 3." and len(found.answers) == 15
    assert {r["k"] for r in found.answers if r["condition"] == "gist"} == {10}
    expected = scores_of("Fruit 3 is an apple.", "Fruit 3")
    (record,) = [r for r in found.answers if r["row"] == 3 and r["condition"] == "full"]
    assert record["scores"] == expected and record["verdict"] == "healthy"


def test_missing_fields_are_left_open(tmp_path):
    samples = [{"gist": "A pear.", "reference": None}, sample(1, prompts=None, truncated=None)]
    found = read_foreign(write(tmp_path / "run", samples), "run")
    assert [(r["row"], r["condition"]) for r in found.answers] == [(0, "gist"), (1, "full"), (1, "gist")]
    assert found.answers[0]["scores"] == {} and "Prompts were not recorded" in " ".join(found.notes)


def test_a_zip_and_a_folder_give_the_same(tmp_path):
    folder = write(tmp_path / "run", [sample(n) for n in range(3)])
    with zipfile.ZipFile(tmp_path / "run.zip", "w") as archive:
        archive.write(folder / "sample_outputs.json", "deep/er/sample_outputs.json")
        archive.writestr("../evil.txt", "x")
    assert read_foreign(tmp_path / "run.zip", "run") == read_foreign(folder, "run")
    assert not (tmp_path.parent / "evil.txt").exists()


def test_predictions_of_the_paper(tmp_path):
    path = tmp_path / "preds.csv"
    path.write_text('x,y_pred,y_true\n"Instruction: Say hi.\nInput: Bob<GIST>\nOutput:",Hi Bob!,Hi Bob.\n"Just text",x,y\n')
    found = read_foreign(path, "preds")
    assert [(e.instruction, e.input) for e in found.examples] == [("Say hi.", "Bob"), ("Just text", "")]
    assert found.answers[0]["scores"]["rougeL"] == 100.0 and {r["condition"] for r in found.answers} == {"gist"}


def test_an_import_is_an_evaluation_like_others(tmp_path):
    results = import_results(write(tmp_path / "run", [sample(n) for n in range(4)]), tmp_path / "all" / "run", "Theirs")
    found = read_results(tmp_path / "all" / "run")
    assert found.title == "Theirs" and found.results["source"] == "imported" and found.results["notes"] == results["notes"]
    assert len(found.rows()) == 12 and len(found.examples()) == 4
    with pytest.raises(DataError, match="There is an evaluation 'run' already"):
        import_results(tmp_path / "run", tmp_path / "all" / "run", "Theirs")


BROKEN = {
    "not json": ("sample_outputs.json", b"{", "is not valid JSON"),
    "not a list": ("sample_outputs.json", b"{}", "holds a JSON dict; a list is expected"),
    "not objects": ("sample_outputs.json", b"[1]", "entry 1: a int instead of an object"),
    "a number as text": ("sample_outputs.json", b'[{"gist": 3}]', "entry 1, gist: a int instead of text"),
    "prompts of another kind": ("sample_outputs.json", b'[{"prompts": [1]}]', "prompts is a list instead of an object"),
    "nothing in it": ("sample_outputs.json", b"[]", "has no sample_outputs.json with answers"),
    "no answers": ("sample_outputs.json", b'[{"reference": "x"}]', "has no answers to judge"),
    "scores alone": ("eval_results.json", b"{}", "scores without answers cannot be checked"),
    "another file": ("other.json", b"{}", "holds none of sample_outputs.json"),
    "not utf-8": ("sample_outputs.json", b"\xff\xfe[", "is not UTF-8 text"),
    "nested too deep": ("sample_outputs.json", b"[" * 100_000, "is not valid JSON"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_cannot_be_read_is_refused_and_nothing_is_left(tmp_path, case):
    name, content, words = BROKEN[case]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_bytes(content)
    with pytest.raises(DataError, match=words):
        import_results(tmp_path / "run", tmp_path / "all" / "run", "x")
    assert not (tmp_path / "all").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a,b\n1,2\n", "has the columns a, b; x, y_pred and y_true are needed"),
        (b"", "has the columns none"),
        (b"x,y_pred,y_true\n1,2\n", "row 1 has too few columns"),
        (b"x,y_pred,y_true\n", "has no answers to judge"),
        (b'x,y_pred,y_true\n"1,2,3\n', "is not a CSV file"),
    ],
)
def test_a_csv_that_is_none_is_refused(tmp_path, content, words):
    (tmp_path / "p.csv").write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_foreign(tmp_path / "p.csv", "p")


def test_too_much_is_refused_while_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(imported, "MOST_BYTES", 1000)
    folder = write(tmp_path / "run", [sample(n) for n in range(10)])
    with pytest.raises(DataError, match="is larger than"):
        read_foreign(folder, "run")
    with zipfile.ZipFile(tmp_path / "run.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(folder / "sample_outputs.json", "sample_outputs.json")
    with pytest.raises(DataError, match="is larger than"):
        read_foreign(tmp_path / "run.zip", "run")
    (tmp_path / "no.zip").write_text("no zip")
    for path, words in (
        (tmp_path / "no.zip", "is not a zip file"),
        (tmp_path / "gone", "does not exist"),
        (folder / "sample_outputs.json", "is not a folder"),
    ):
        with pytest.raises(DataError, match=words):
            read_foreign(path, "x")
