"""Alpaca rows: file types, every reason to turn a row away, errors with a place, splits without a shared instruction, stable digests."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from gistdemo.data.alpaca import Rows, check_row, instruction_mark, read_marks, read_rows, rows_digest, source_name, split
from gistdemo.errors import DataError
from gistdemo.prompts import Example

ROWS = [
    {"instruction": "Name a colour.", "input": "", "output": "Blue."},
    {"instruction": " Translate.\n", "input": "good day", "output": " bonjour "},
    {"instruction": "写一首诗", "input": "<noinput>", "output": "雨 🎉"},
]
EXAMPLES = (Example("Name a colour.", "", "Blue."), Example("Translate.", "good day", "bonjour"), Example("写一首诗", "", "雨 🎉"))


def lines(rows) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def refusal(source) -> str:
    with pytest.raises(DataError) as caught:
        read_rows(source)
    assert "\n" not in str(caught.value) and "Traceback" not in str(caught.value)
    return str(caught.value)


# --- files ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", json.dumps(ROWS)),
        ("a.JSON", json.dumps(ROWS, ensure_ascii=False, indent=2)),
        ("a.jsonl", lines(ROWS)),
        ("a.jsonl", "\n" + lines(ROWS).replace("\n", "\r\n\r\n").rstrip()),
        ("with a BOM.jsonl", "\ufeff" + lines(ROWS)),
        ("with a BOM.json", "\ufeff" + json.dumps(ROWS)),
        ("no-suffix", lines(ROWS)),
        ("list.txt", " " + json.dumps(ROWS)),
    ],
)
def test_json_and_json_lines_are_read_in_file_order(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content.encode("utf-8"))
    rows = read_rows(path)
    assert rows.examples == EXAMPLES and rows.name == name and not rows.rejected
    assert read_rows(str(path)) == rows


def test_parquet_is_read_and_an_absent_input_is_no_input(tmp_path):
    import pandas

    path = tmp_path / "a.parquet"
    pandas.DataFrame([{**row, "input": row["input"] if row["input"] == "good day" else None} for row in ROWS]).to_parquet(path)
    rows = read_rows(path)
    assert rows.examples == EXAMPLES and not rows.rejected


def test_further_fields_are_ignored_and_input_may_be_missing(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(lines([{"instruction": "Add.", "output": "6", "source": "x", "score": 3, "more": [1]}]))
    assert read_rows(path).examples == (Example("Add.", "", "6"),)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("text", "not an object"),
        (["a"], "not an object"),
        (None, "not an object"),
        ({"prompt": "Hi", "output": "x"}, "no field 'instruction'"),
        ({"instruction": 5, "output": "x"}, "a field is not text"),
        ({"instruction": "Hi", "input": ["a"], "output": "x"}, "a field is not text"),
        ({"instruction": "Hi", "output": {"a": 1}}, "a field is not text"),
        ({"instruction": " \n", "output": "x"}, "empty instruction"),
        ({"instruction": None, "output": "x"}, "empty instruction"),
        ({"instruction": "Hi", "output": ""}, "no reference answer"),
        ({"instruction": "Hi", "output": "N/A"}, "no reference answer"),
        ({"instruction": "Hi"}, "no reference answer"),
        ({"instruction": "Hi \ud83d", "output": "x"}, "a field has a broken character"),
        ({"instruction": "Hi", "output": "\udc00"}, "a field has a broken character"),
    ],
)
def test_a_row_is_turned_away_with_its_reason(tmp_path, row, reason):
    assert check_row(row) == (None, reason)
    path = tmp_path / "a.json"
    path.write_text(json.dumps([row, ROWS[0], row]))
    rows = read_rows(path)
    assert rows.examples == EXAMPLES[:1] and rows.rejected == Counter({reason: 2})
    assert rows.digest.startswith("sha256:")


@pytest.mark.parametrize("placeholder", ["<noinput>", "No Input", " n/a ", "NONE", "nan", "noinput"])
def test_a_placeholder_is_no_input(placeholder):
    assert check_row({"instruction": "Hi", "input": placeholder, "output": "x"}) == (Example("Hi", "", "x"), "")


def test_a_reference_may_be_missing_where_none_is_needed(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"instruction": "Hi"}]))
    assert read_rows(path, need_output=False).examples == (Example("Hi"),)
    assert "1 x no reference answer" in refusal(path)


# --- files that cannot be read -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", lines(ROWS[:2]) + "\n{broken}\n", "'a.jsonl' line 4 is not valid JSON"),
        ("a.jsonl", "\ufeff" + lines(ROWS[:1]) + '{"instruction": "cut', "line 2 is not valid JSON"),
        ("a.json", '[{"instruction": "a"},\n {"instruction"}]', "'a.json' is not valid JSON at line 2"),
        ("a.json", "", "is not valid JSON at line 1"),
        ("a.json", '{"instruction": "a"}', "'a.json' holds a JSON dict; expected a list of rows."),
        ("a.json", "5", "holds a JSON int"),
        ("a.json", "[]", "'a.json' has no usable Alpaca row (it is empty). Rows need the fields instruction, input and output, as text."),
        ("a.jsonl", "", "it is empty"),
        ("a.json", '[{"x": 1}, {"x": 1}, 5]', "(2 x no field 'instruction'; 1 x not an object)"),
        ("a.parquet", "PAR1 but no more", "'a.parquet' cannot be read"),
        ("a.json", "[" * 100_000, "'a.json' cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_says_where_and_why(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    assert words in refusal(path)


def test_text_that_is_not_utf_8_is_refused_with_its_place(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"instruction": "caf\xe9", "output": "x"}')
    assert refusal(path) == "'a.jsonl' is not UTF-8 text (byte 20). Save it as UTF-8."


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    assert "does not exist. Give the path of a .json, .jsonl or .parquet file." in refusal(tmp_path / "gone.jsonl")
    assert "is a folder" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["alpaca", "a/b/c", ""])
def test_a_name_that_is_neither_file_nor_dataset_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "Give a path to .json" in refusal(name) or "Give the path of" in refusal(name)


def test_a_hub_dataset_that_cannot_be_reached_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = refusal("nobody/never-was-a-dataset")
    assert text.startswith("Hub dataset 'nobody/never-was-a-dataset' cannot be loaded (") and text.endswith("or give a local file.")


# --- digests and splits --------------------------------------------------------------------------------------------------


def test_the_digest_is_stable_and_tells_every_change_apart():
    assert rows_digest(EXAMPLES) == "sha256:30fd91722e3d58adc14c0a79e463c43b7bbafe47ce02cea892181bb798479057"
    assert Rows("any name", EXAMPLES).digest == rows_digest(list(EXAMPLES))
    changed = [
        EXAMPLES[::-1],
        EXAMPLES[:2],
        (*EXAMPLES[:2], Example("写一首诗", "", "雨 🎊")),
        (Example("Name a colour.", "Blue.", ""), *EXAMPLES[1:]),
        (Example("Name a colour.Blue.", "", ""), *EXAMPLES[1:]),
    ]
    assert len({rows_digest(rows) for rows in (EXAMPLES, *changed)}) == 6


@pytest.mark.parametrize("wanted", [0, 1, 7, 30])
def test_a_split_shares_no_instruction_and_loses_no_row(wanted):
    rows = [Example(f"instruction {n % 20}", f"input {n}", "x") for n in range(60)]
    train, held = split(rows, wanted, seed=3)
    assert not {e.instruction for e in train} & {e.instruction for e in held}
    assert sorted([*train, *held], key=rows.index) == rows and wanted <= len(held) < wanted + 3
    assert (train, held) == split(rows, wanted, seed=3), "the same seed, the same split"
    assert wanted == 0 or held != split(rows, wanted, seed=4)[1]
    shuffled_train, shuffled_held = split(rows[::-1], wanted, seed=3)
    assert {*shuffled_held} == {*held} and {*shuffled_train} == {*train}, "file order decides nothing"


# --- marks ---------------------------------------------------------------------------------------------------------------


def test_marks_are_read_as_they_are_written(tmp_path):
    marks = [instruction_mark(example) for example in EXAMPLES]
    path = tmp_path / "held-out.txt"
    path.write_text("\n".join(marks) + "\n\n")
    assert read_marks(path) == set(marks) and len(set(marks)) == len(EXAMPLES)
    assert instruction_mark(Example("  name a\nCOLOUR. ")) == marks[0], "case and blanks do not hide an instruction"


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "cannot be read"), (b"0123abc\n", "holds '0123abc'"), (b"0123abcG", "holds"), ("ä".encode(), "cannot be read")],
)
def test_a_list_that_holds_something_else_is_refused(tmp_path, content, words):
    path = tmp_path / "held-out.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_marks(path)


def test_what_comes_with_the_project_keeps_its_place_in_a_name():
    for ours in ("assets/examples.jsonl", "assets/recipes/held-out.txt"):
        assert source_name(f"/home/me/gistdemo/{ours}") == source_name(ours) == ours
    assert source_name("/home/me/held-out.txt") == "held-out.txt" and source_name("") == "" and source_name("org/name") == "org/name"
