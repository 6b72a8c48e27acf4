"""Files that grow: what a kill leaves behind is mended, and nothing whole is lost."""

from __future__ import annotations

import json

import pytest

from gistdemo.files import recover

WHOLE = [{"step": n, "text": "ü🎉\u2028"} for n in range(5)]


def written(path, cut: int = 0):
    content = "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in WHOLE).encode()
    path.write_bytes(content[: len(content) - cut])
    return path


@pytest.mark.parametrize("cut", range(30))
def test_a_file_cut_anywhere_keeps_its_whole_lines_and_can_be_appended_to(tmp_path, cut):
    path = written(tmp_path / "a.jsonl", cut)
    found = recover(path)
    assert found == WHOLE[: len(found)] and len(found) >= 4
    with path.open("a", encoding="utf-8") as file:
        file.write('{"step": 9}\n')
    assert recover(path) == [*found, {"step": 9}]


def test_a_whole_file_is_not_touched(tmp_path):
    path = written(tmp_path / "a.jsonl")
    before = path.stat()
    assert recover(path) == WHOLE and (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


def test_what_is_not_kept_leaves_the_file(tmp_path):
    path = written(tmp_path / "a.jsonl")
    assert recover(path, lambda value: value["step"] < 2) == WHOLE[:2] == recover(path)


def test_no_file_has_no_values(tmp_path):
    assert recover(tmp_path / "gone.jsonl") == [] and not (tmp_path / "gone.jsonl").exists()
