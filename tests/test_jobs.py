"""The queue with real processes and simulated training: nothing is lost, nothing runs twice, every end has a cause."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from simulated import PROGRAM
from toy import save_toy

from gistdemo.errors import JobError
from gistdemo.jobs import launcher
from gistdemo.jobs.launcher import LOCAL, Local
from gistdemo.jobs.queue import OUTPUT, STOP, Jobs
from gistdemo.jobs.record import FOLLOWS, Job, read_job, write_job
from gistdemo.settings import PROJECT_DIR
from gistdemo.train.config import TrainConfig

QUICK = {"steps": 5, "seconds_per_step": 0.01}
LONG = {"steps": 100_000, "seconds_per_step": 0.01, "save_every": 20}


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    """A queue whose processes know the kind `simulate` (simulated.py)."""
    monkeypatch.setattr(LOCAL, "program", PROGRAM)
    home = tmp_path / "home"
    made = Jobs(home / "data" / "runs", grace=5.0, environment={"GISTDEMO_HOME": str(home)})
    yield made
    for job in made.list():
        if job.is_active and job.process:
            LOCAL.end(job.process, force=True)
    wait(lambda: not any(LOCAL.is_alive(job.process) for job in made.list()))


@pytest.fixture
def product_jobs(jobs, monkeypatch):
    """The same queue with the processes that the product starts."""
    monkeypatch.setattr(LOCAL, "program", Local.program)
    return jobs


def wait(condition, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def reaches(jobs: Jobs, job: Job, *states: str, seconds: float = 20.0) -> Job:
    """Tick until a job is in one of the states."""

    def there() -> bool:
        jobs.tick()
        return jobs.get(job.id).state in states

    found = wait(there, seconds)
    now = jobs.get(job.id)
    assert found, f"{job.id} is {now.state}: {now.cause}\n{(jobs.folder(job.id) / OUTPUT).read_text()[-2000:]}"
    return now


def steps(jobs: Jobs, job: Job) -> list[int]:
    path = jobs.folder(job.id) / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [record["step"] for line in lines if "loss" in (record := json.loads(line))]


# --- the way of a job ----------------------------------------------------------------------------------------------------


def test_a_job_is_queued_started_run_and_done(jobs):
    job = jobs.submit("simulate", QUICK, "First try!")
    assert job.state == "queued" and job.id.endswith("-first-try") and jobs.get(job.id) == job
    done = reaches(jobs, job, "done")
    assert [state for _, state in done.history] == ["queued", "starting", "running", "done"]
    assert steps(jobs, job) == [1, 2, 3, 4, 5] and done.started <= done.ended and done.cause == ""
    assert not LOCAL.is_alive(done.process) or wait(lambda: not LOCAL.is_alive(done.process))


def test_a_job_that_fails_says_why(jobs):
    failed = reaches(jobs, jobs.submit("simulate", QUICK | {"fail_at": 3}, "bad"), "failed")
    assert failed.cause == "Loss is nan at step 3. The state of the last save is kept; lower the learning rate and resume."


def test_an_internal_error_is_named_and_its_details_are_in_the_output(jobs):
    failed = reaches(jobs, jobs.submit("simulate", {"steps": "many"}, "odd"), "failed")
    assert failed.cause.startswith("Internal error (TypeError") and "details" in failed.cause
    assert "Traceback" in (jobs.folder(failed.id) / OUTPUT).read_text()


def test_a_kind_that_is_not_known_fails(product_jobs):
    first, second = (product_jobs.submit(kind, {}, "x") for kind in ("dream", "simulate"))
    assert "is of kind 'dream'" in reaches(product_jobs, first, "failed").cause
    assert wait(lambda: product_jobs.get(second.id).is_final), "the first one has started it when it ended"
    assert "is of kind 'simulate'" in product_jobs.get(second.id).cause


def test_a_row_that_is_not_json_fails_the_job_and_names_its_line(product_jobs, tmp_path):
    rows = [json.dumps({"instruction": f"Say {n}.", "input": "", "output": str(n)}) for n in range(1000)]
    rows[899] = rows[899][:20]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    config = TrainConfig("compressor", "mine", str(tmp_path / "rows.jsonl"), backbone=str(save_toy(tmp_path / "toy")))
    job = reaches(product_jobs, product_jobs.submit("train", dataclasses.asdict(config), "mine"), "failed", seconds=60)
    assert job.cause.startswith("'rows.jsonl' line 900 is not valid JSON") and "Mend or remove that line." in job.cause


def test_a_full_disk_fails_the_job_and_loses_nothing_that_was_saved(jobs):
    """The processes of this queue may write files of 20 kB at most; the disk gets room again before the job is resumed."""
    job = jobs.submit("simulate", {"steps": 300, "seconds_per_step": 0.0, "save_every": 10}, "large")
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)); "
    code = f"from pathlib import Path; from gistdemo.jobs.queue import Jobs; Jobs(Path({str(jobs.runs_dir)!r})).tick()"
    code = f"from tests.simulated import install; install(); {code}"
    subprocess.run([sys.executable, "-c", limit + code], cwd=PROJECT_DIR, check=True)
    failed = reaches(jobs, job, "failed")
    assert "File too large" in failed.cause and "Free disk space" in failed.cause
    assert 18_000 < (jobs.folder(job.id) / "metrics.jsonl").stat().st_size <= 20_000
    jobs.resume(job.id)
    reaches(jobs, job, "done")
    assert steps(jobs, job) == list(range(1, 301))


def test_a_job_runs_at_low_priority(jobs):
    job = reaches(jobs, jobs.submit("simulate", LONG, "long"), "running")
    assert wait(lambda: psutil.Process(job.process["pid"]).nice() >= min(19, os.nice(0) + launcher.LOW_PRIORITY))


# --- stop, resume, delete ------------------------------------------------------------------------------------------------


def test_stop_saves_and_resume_goes_on_from_there(jobs):
    job = reaches(jobs, jobs.submit("simulate", LONG | {"steps": 400}, "long"), "running")
    assert wait(lambda: len(steps(jobs, job)) > 5)
    assert jobs.stop(job.id).state == "stopping"
    stopped = reaches(jobs, job, "cancelled")
    reached = steps(jobs, job)[-1]
    assert stopped.cause == f"Stopped after step {reached} of 400. Resume goes on from there." and 5 < reached < 400
    assert jobs.resume(job.id).state == "queued" and not (jobs.folder(job.id) / STOP).exists()
    assert reaches(jobs, job, "done").cause == ""
    assert steps(jobs, job) == list(range(1, 401)), "no step is missing, none is there twice"


def test_a_job_that_does_not_stop_is_ended_by_force_and_is_cancelled(jobs):
    jobs.grace = 0.1
    job = reaches(jobs, jobs.submit("simulate", LONG | {"seconds_per_step": 600}, "stuck"), "running")
    assert jobs.stop(job.id).state == jobs.stop(job.id).state == "stopping", "asking twice changes nothing"
    time.sleep(0.3)
    jobs.tick()  # SIGTERM, which a job in the middle of a step only notes
    assert jobs.get(job.id).state == "stopping"
    late = Jobs(jobs.runs_dir, grace=0.1, clock=lambda: time.time() + 30)
    assert wait(lambda: late.tick() or late.get(job.id).state == "cancelled")
    assert not LOCAL.is_alive(job.process)


def test_a_queued_job_is_taken_out_at_once_and_can_come_back(jobs):
    first, second = jobs.submit("simulate", LONG, "a"), jobs.submit("simulate", QUICK, "b")
    reaches(jobs, first, "running")
    assert jobs.stop(second.id).state == "cancelled" and jobs.resume(second.id).state == "queued"
    jobs.stop(first.id)
    reaches(jobs, second, "done")


@pytest.mark.parametrize("state", sorted(FOLLOWS))
def test_only_what_makes_sense_may_follow(state):
    job = Job("x", "simulate", "x", {}, state=state)
    for other in FOLLOWS:
        if other in FOLLOWS[state]:
            assert job.moved(other, 1.0).state == other
        else:
            with pytest.raises(JobError, match=f"Job 'x' is {state} and cannot become {other}"):
                job.moved(other, 1.0)


def test_a_running_job_is_not_deleted_and_an_ended_one_is(jobs):
    job = reaches(jobs, jobs.submit("simulate", LONG, "a"), "running")
    with pytest.raises(JobError, match=r"is running\. Stop it first"):
        jobs.delete(job.id)
    jobs.stop(job.id)
    reaches(jobs, job, "cancelled")
    jobs.delete(job.id)
    assert jobs.list() == [] and not jobs.folder(job.id).exists()
    with pytest.raises(JobError, match="There is no job"):
        jobs.delete(job.id)


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", ".lock", "x" * 200])
def test_an_id_that_is_no_id_is_refused(jobs, name):
    with pytest.raises(JobError):
        jobs.get(name)


# --- crashes -------------------------------------------------------------------------------------------------------------


def test_a_killed_job_is_lost_within_five_seconds_and_can_go_on(jobs):
    job = reaches(jobs, jobs.submit("simulate", LONG | {"steps": 300}, "victim"), "running")
    assert wait(lambda: len(steps(jobs, job)) > 25)
    os.kill(job.process["pid"], signal.SIGKILL)
    lost = reaches(jobs, job, "lost", seconds=5)
    assert "killed from outside, or out of memory" in lost.cause
    jobs.resume(job.id)
    reaches(jobs, job, "done")
    assert steps(jobs, job) == list(range(1, 301))


def test_a_job_outlives_the_server_that_started_it_and_is_adopted(jobs, tmp_path):
    """The server is a process that submits, starts and is killed; another one, here this process, watches on."""
    code = (
        "import sys, time; from pathlib import Path; from gistdemo.jobs.queue import Jobs\n"
        "from tests.simulated import install; install()\n"
        f"jobs = Jobs(Path(sys.argv[1]), environment={{'GISTDEMO_HOME': sys.argv[2]}})\n"
        f"jobs.submit('simulate', {LONG!r}, 'survivor')\n"
        "while True: jobs.tick(); time.sleep(0.05)"
    )
    server = subprocess.Popen([sys.executable, "-c", code, str(jobs.runs_dir), str(tmp_path / "home")], cwd=PROJECT_DIR)
    assert wait(lambda: any(job.state == "running" for job in jobs.list()))
    server.kill()
    server.wait()
    job = jobs.list()[0]
    before = len(steps(jobs, job))
    assert wait(lambda: len(steps(jobs, job)) > before + 10) and reaches(jobs, job, "running").state == "running"
    jobs.stop(job.id)
    reaches(jobs, job, "cancelled")


def test_after_a_restart_of_the_machine_a_job_is_lost_and_says_so(jobs):
    job = reaches(jobs, jobs.submit("simulate", LONG, "old"), "running")
    LOCAL.end(job.process, force=True)
    write_job(jobs.folder(job.id), dataclasses.replace(job, process=job.process | {"boot": "another"}))
    assert "The machine was restarted" in reaches(jobs, job, "lost", seconds=5).cause


def test_a_stranger_with_the_same_number_is_not_taken_for_the_job(jobs):
    mine = LOCAL.own()
    assert LOCAL.is_alive(mine) and not LOCAL.is_alive(mine | {"start": mine["start"] - 100})
    assert not LOCAL.is_alive(None) and not LOCAL.is_alive({"pid": "x", "boot": launcher.boot(), "start": 0})


def test_the_queue_goes_on_without_any_server(jobs):
    """A job starts the next one when it ends."""
    queued = [jobs.submit("simulate", QUICK, f"job {n}") for n in range(3)]
    jobs.tick()
    assert wait(lambda: all(jobs.get(job.id).state == "done" for job in queued), 30)


def test_a_broken_record_hides_no_other_job_and_can_be_deleted(jobs):
    good = jobs.submit("simulate", QUICK, "good")
    bad = jobs.submit("simulate", QUICK, "bad")
    (jobs.folder(bad.id) / "job.json").write_text('{"id": ')
    assert [job.id for job in jobs.list()] == [good.id]
    with pytest.raises(JobError, match="cannot be read"):
        jobs.get(bad.id)
    jobs.delete(bad.id)
    assert not jobs.folder(bad.id).exists()


# --- many at once --------------------------------------------------------------------------------------------------------


def test_jobs_from_many_threads_run_once_each_in_order_and_one_at_a_time(jobs):
    instant = {"steps": 1, "seconds_per_step": 0.0}
    barrier = threading.Barrier(5)

    def submit(name: str) -> None:
        barrier.wait()
        for n in range(4):
            Jobs(jobs.runs_dir).submit("simulate", instant, f"{name} {n}")

    threads = [threading.Thread(target=submit, args=(name,)) for name in "abcde"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    order = [job.id for job in jobs.queued()]
    assert len(order) == 20
    most = 0

    def all_done() -> bool:
        nonlocal most
        jobs.tick()
        found = jobs.list()
        most = max(most, sum(job.is_active for job in found))
        return all(job.state == "done" for job in found)

    assert wait(all_done, 300) and most == 1
    assert sorted(order, key=lambda n: jobs.get(n).started) == order
    assert all([state for _, state in jobs.get(n).history].count("running") == 1 for n in order)


def test_the_order_of_the_queue_can_be_changed(jobs):
    blocker = jobs.submit("simulate", LONG, "blocker")
    reaches(jobs, blocker, "running")
    a, b, c = (jobs.submit("simulate", QUICK, name) for name in "abc")
    jobs.move(c.id, -2)
    assert [job.id for job in jobs.queued()] == [c.id, a.id, b.id]
    jobs.move(c.id, 1)
    jobs.move(b.id, 9)
    assert [job.id for job in jobs.queued()] == [a.id, c.id, b.id]
    with pytest.raises(JobError, match="only queued jobs have a place"):
        jobs.move(blocker.id, 1)
    assert jobs.list()[0].id == blocker.id
    for job in (b, c, a, blocker):
        jobs.stop(job.id)


def test_two_hundred_starts_and_stops_leave_no_process_and_no_memory_behind(jobs):
    """Every tenth is let run first; the others are stopped while they start."""
    before = 0
    for n in range(200):
        job = reaches(jobs, jobs.submit("simulate", LONG, f"cycle {n}"), *(("running",) if n % 10 == 0 else ("starting", "running")))
        jobs.stop(job.id)
        reaches(jobs, job, "cancelled")
        jobs.delete(job.id)
        before = before or (psutil.Process().memory_info().rss if n == 20 else 0)
    assert psutil.Process().memory_info().rss - before < 16 * 2**20
    assert wait(lambda: not [p for p in psutil.Process().children(recursive=True) if p.is_running() and p.status() != psutil.STATUS_ZOMBIE])


def test_a_record_is_never_seen_half_written(tmp_path):
    folder = tmp_path / "x"
    folder.mkdir()
    write_job(folder, Job("x", "simulate", "x", {"text": "y" * 100_000}))
    stop = threading.Event()

    def rewrite() -> None:
        while not stop.is_set():
            write_job(folder, Job("x", "simulate", "x", {"text": "z" * 100_000}))

    thread = threading.Thread(target=rewrite)
    thread.start()
    try:
        assert all(len(read_job(folder).settings["text"]) == 100_000 for _ in range(200))
    finally:
        stop.set()
        thread.join()
    assert not [path for path in Path(folder).iterdir() if path.name.startswith(".")]
