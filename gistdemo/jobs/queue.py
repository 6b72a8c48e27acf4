"""The queue: jobs are added, ordered, started one at a time, stopped, resumed and deleted here, and nowhere else. No torch.

Any number of processes may use it at once (pages, servers, command lines, the jobs themselves): every change happens under one
file lock, and whoever calls `tick` does what is due.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from gistdemo.errors import JobError
from gistdemo.jobs.launcher import LOCAL, Launcher
from gistdemo.jobs.record import Job, State, read_job, write_job

STOP, OUTPUT = "stop", "output.txt"
LOCK_SECONDS = 20.0  # changes take milliseconds; a lock held longer belongs to a process that hangs
START_SECONDS = 60.0  # from launch to the first sign of life; importing torch on a busy machine takes its time
TERM_SECONDS = 10.0  # from SIGTERM to SIGKILL


class Jobs:
    """All jobs of one installation.

    runs_dir: holds one folder per job. at_once: heavy jobs that may run together. grace: seconds a job gets to save its state
    after it was asked to stop. environment: added to that of the jobs' processes. launcher: where these run.
    """

    def __init__(
        self,
        runs_dir: Path,
        at_once: int = 1,
        grace: float = 60.0,
        environment: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.time,
        launcher: Launcher = LOCAL,
    ):
        self.runs_dir, self.at_once, self.grace = runs_dir, at_once, grace
        self._environment, self._clock, self._launcher = dict(environment or {}), clock, launcher

    # --- read ---------------------------------------------------------------------------------------------------------

    def folder(self, job_id: str) -> Path:
        """Where a job lives. Raises JobError: the id is not one."""
        if not re.fullmatch(r"[\w.-]{1,120}", job_id) or job_id.startswith("."):
            raise JobError(f"'{job_id[:40]}' is not the id of a job. `python -m gistdemo jobs list` shows all.")
        return self.runs_dir / job_id

    def get(self, job_id: str) -> Job:
        """Raises JobError: there is no such job, or its record is broken."""
        return read_job(self.folder(job_id))

    def list(self) -> list[Job]:
        """Running ones first, then the queue in its order, then what has ended, newest first. Broken records are left out."""
        jobs = []
        for folder in self.runs_dir.iterdir() if self.runs_dir.is_dir() else ():
            if (folder / "job.json").is_file():
                with contextlib.suppress(JobError):
                    jobs.append(read_job(folder))
        return sorted(
            jobs,
            key=lambda j: (
                (1, j.order, j.id) if j.state == "queued" else (0 if j.is_active else 2, -(j.ended or j.started or j.created), j.id)
            ),
        )

    def queued(self) -> Sequence[Job]:
        """The queue, next one first."""
        return [job for job in self.list() if job.state == "queued"]

    # --- change -------------------------------------------------------------------------------------------------------

    def submit(self, kind: str, settings: dict[str, Any], title: str) -> Job:
        """Put a job at the end of the queue. Starts nothing; `tick` does."""
        with self._locked():
            now = self._clock()
            last = max((job.order for job in self.list()), default=0.0)
            folder = self._new_folder(title, now)
            job = Job(folder.name, kind, title, settings, order=last + 1, created=now, changed=now, history=((now, "queued"),))
            write_job(folder, job)
        return job

    def stop(self, job_id: str) -> Job:
        """Ask a job to save its state and end; take a queued one out of the queue. Asking again changes nothing.

        Raises: JobError: the job has ended.
        """
        with self._locked():
            job, now = self.get(job_id), self._clock()
            if job.state == "queued":
                return self._write(job.moved("cancelled", now, ended=now, cause="Taken out of the queue. Resume puts it back."))
            if job.state == "stopping":
                return job
            moved = job.moved("stopping", now)
            (self.folder(job_id) / STOP).touch()
            return self._write(moved)

    def resume(self, job_id: str) -> Job:
        """Put a cancelled, failed or lost job at the end of the queue; it goes on from its last saved state.

        Raises: JobError: it is in another state.
        """
        with self._locked():
            job = self.get(job_id)
            last = max((other.order for other in self.list()), default=0.0)
            moved = job.moved("queued", self._clock(), order=last + 1, cause="", ended=None, process=None)
            (self.folder(job_id) / STOP).unlink(missing_ok=True)
            return self._write(moved)

    def move(self, job_id: str, places: int) -> None:
        """Move a queued job: -1 is one place nearer to its turn. Raises JobError: it is not queued."""
        with self._locked():
            waiting = [*self.queued()]
            at = next((n for n, job in enumerate(waiting) if job.id == job_id), None)
            if at is None:
                raise JobError(f"Job '{job_id}' is {self.get(job_id).state}; only queued jobs have a place in the queue.")
            orders = [job.order for job in waiting]
            waiting.insert(min(max(at + places, 0), len(waiting) - 1), waiting.pop(at))
            for job, order in zip(waiting, orders, strict=True):
                if job.order != order:
                    self._write(dataclasses.replace(job, order=order))

    def delete(self, job_id: str) -> None:
        """Remove a job and all its files. Raises JobError: it has not ended."""
        with self._locked():
            folder = self.folder(job_id)
            try:
                job = read_job(folder)
            except JobError:
                if not (folder / "job.json").is_file():
                    raise
            else:
                if job.is_active:
                    raise JobError(f"Job '{job_id}' is {job.state}. Stop it first, then delete it.")
            shutil.rmtree(folder)

    def finish(self, job_id: str, state: State, cause: str = "") -> Job:
        """Called by the job's own process at its end."""
        with self._locked():
            now = self._clock()
            (self.folder(job_id) / STOP).unlink(missing_ok=True)
            return self._write(self.get(job_id).moved(state, now, ended=now, cause=cause))

    def begin(self, job_id: str) -> Job:
        """Called by the job's own process at its start. A job that is to stop already stays so. Raises JobError: it is not its turn."""
        with self._locked():
            job, now = self.get(job_id), self._clock()
            if job.state == "stopping":
                return job
            return self._write(job.moved("running", now, started=now, process=self._launcher.own()))

    # --- what is due --------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Notice processes that are gone, end what does not end by itself, start what may start. Quick; safe from anywhere.

        A lock that somebody holds for long is left alone: the next tick does the work.
        """
        self._launcher.tidy()
        try:
            with self._locked(timeout=1.0):
                for job in self.list():
                    if job.is_active:
                        self._look_after(job)
                running = sum(job.is_active for job in self.list())
                for job in self.queued()[: max(0, self.at_once - running)]:
                    self._start(job)
        except Timeout:
            return

    def _look_after(self, job: Job) -> None:
        now = self._clock()
        if not self._launcher.is_alive(job.process):
            if job.state == "starting" and job.process is None and now - job.changed < START_SECONDS:
                return  # between the record and the launch
            state: State = "cancelled" if job.state == "stopping" else "lost"
            why = "Stopped." if state == "cancelled" else self._launcher.why_gone(job.process)
            self._write(job.moved(state, now, ended=now, cause=f"{why} Resume goes on from the last saved state."))
            return
        if job.state == "stopping":
            waited = now - job.changed
            if waited > self.grace + TERM_SECONDS:
                self._launcher.end(job.process, force=True)
            elif waited > self.grace:
                self._launcher.end(job.process)

    def _start(self, job: Job) -> None:
        folder, now = self.folder(job.id), self._clock()
        (folder / STOP).unlink(missing_ok=True)
        job = self._write(job.moved("starting", now))
        try:
            started = self._launcher.launch(folder, folder / OUTPUT, self._environment)
        except OSError as error:
            self._write(
                job.moved("failed", now, ended=now, cause=f"The process could not be started ({error.strerror}). Free memory and resume.")
            )
            return
        self._write(dataclasses.replace(job, process=started))

    # --- files --------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _locked(self, timeout: float = LOCK_SECONDS) -> Iterator[None]:
        self.runs_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(self.runs_dir / ".lock", timeout=timeout):
            yield

    def _write(self, job: Job) -> Job:
        write_job(self.folder(job.id), job)
        return job

    def _new_folder(self, title: str, now: float) -> Path:
        """A folder nobody else has: time, words of the title, and a number where that is taken."""
        words = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40] or "job"
        stem = f"{time.strftime('%Y%m%d-%H%M%S', time.localtime(now))}-{words}"
        for number in range(1, 1000):
            folder = self.runs_dir / (stem if number == 1 else f"{stem}-{number}")
            with contextlib.suppress(FileExistsError):
                folder.mkdir(parents=True)
                return folder
        raise JobError(f"A thousand jobs were named '{title}' in this second. Give another name.")
