"""Progress read from a growing file: incremental, robust against half lines and cuts, honest about time left."""

from __future__ import annotations

import json

import pytest

from gistdemo.jobs.progress import ProgressReader, tail


def write(folder, records, mode: str = "a") -> None:
    with (folder / "metrics.jsonl").open(mode) as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


def step(n: int, time: float) -> dict:
    return {"step": n, "loss": 1.0 / n, "time": time}


def test_a_job_that_has_written_nothing_is_at_its_start(tmp_path):
    progress = ProgressReader(tmp_path).read(100)
    assert (progress.steps_done, progress.fraction, progress.seconds_left(), progress.seconds_per_step()) == (0, 0.0, None, None)


def test_only_what_was_added_is_read_and_a_half_line_waits(tmp_path):
    reader = ProgressReader(tmp_path)
    write(tmp_path, [step(n, n * 2.0) for n in range(1, 11)])
    assert reader.read(20).steps_done == 10
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 11, "loss": 0.')
    assert reader.read(20).steps_done == 10
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('5, "time": 22.0}\n')
    progress = reader.read(20)
    assert progress.steps_done == 11 and [p["step"] for p in progress.points] == list(range(1, 12))
    assert progress.fraction == 0.55 and progress.seconds_per_step() == 2.0 and progress.seconds_left() == pytest.approx(18.0)


def test_a_file_that_was_cut_by_a_resume_is_read_anew(tmp_path):
    reader = ProgressReader(tmp_path)
    write(tmp_path, [step(n, n) for n in range(1, 31)])
    assert reader.read(40).steps_done == 30
    write(tmp_path, [step(n, n) for n in range(1, 21)], "w")
    assert reader.read(40).steps_done == 20
    write(tmp_path, [step(21, 100.0), step(22, 101.0)])
    assert reader.read(40).steps_done == 22


def test_a_pause_does_not_spoil_the_time_left(tmp_path):
    """Ten hours between two steps were a stop and a resume."""
    times = [float(n) for n in range(10)] + [36000.0 + n for n in range(10)]
    write(tmp_path, [step(n + 1, time) for n, time in enumerate(times)])
    assert ProgressReader(tmp_path).read(30).seconds_left() == pytest.approx(10.0)


def test_time_spent_on_evaluations_is_part_of_what_is_left(tmp_path):
    """Every fifth step takes six seconds more: not 15 x 1 s are left, but more."""
    times, now = [], 0.0
    for n in range(1, 16):
        now += 7.0 if n % 5 == 1 else 1.0
        times.append(step(n, now))
    write(tmp_path, times)
    assert 25 < ProgressReader(tmp_path).read(30).seconds_left() < 36


def test_evaluations_and_the_last_samples_are_kept_apart(tmp_path):
    evaluations = [{"step": n, "evaluation": {"x": n}, "samples": [{"text": str(n)}] if n < 20 else []} for n in (0, 10, 20)]
    write(tmp_path, [evaluations[0], *(step(n, n) for n in range(1, 11)), *evaluations[1:]])
    progress = ProgressReader(tmp_path).read(20)
    assert progress.steps_done == 10 and [e["step"] for e in progress.evaluations] == [0, 10, 20] and progress.samples() == [{"text": "10"}]


def test_broken_lines_are_passed_over(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1, "loss": 2}\n\xff\xfe{\n[]\n{"loss": 1}\n{"step": 2, "loss": 1}\n')
    assert ProgressReader(tmp_path).read(3).steps_done == 2


def test_the_tail_of_a_long_file_is_its_last_lines(tmp_path):
    path = tmp_path / "output.txt"
    assert tail(path) == ""
    path.write_text("".join(f"line {n}\n" for n in range(20_000)))
    assert tail(path, 3) == "line 19997\nline 19998\nline 19999" and len(tail(path, 10**6)) <= 40_000
