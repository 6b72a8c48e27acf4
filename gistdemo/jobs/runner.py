"""The job's own process: takes its turn, does the work, and says how it ended, whatever happens."""

from __future__ import annotations

import logging
import os
import signal
import threading
import traceback
from pathlib import Path

from gistdemo.errors import GistDemoError, JobError, WorkStopped, one_line
from gistdemo.jobs.kinds import ShouldStop, kind_of
from gistdemo.jobs.launcher import LOW_PRIORITY
from gistdemo.jobs.queue import STOP, Jobs
from gistdemo.jobs.record import Job, State
from gistdemo.settings import Settings

log = logging.getLogger(__name__)


def run_job(folder: Path, jobs: Jobs, settings: Settings) -> int:
    """Run the job of a folder to its end. Returns 0, or 1 where it failed. Afterwards the next in the queue is started."""
    job = jobs.begin(folder.name)
    if job.state == "stopping":
        jobs.finish(job.id, "cancelled", "Stopped before the first step. Resume starts it.")
        return 0
    os.nice(LOW_PRIORITY)
    asked = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked.set())
    state, cause = _work(job, folder, settings, lambda: asked.is_set() or (folder / STOP).exists())
    try:
        jobs.finish(job.id, state, cause)
    except JobError:
        log.exception("the end of job %s could not be recorded", job.id)
    jobs.tick()
    return int(state == "failed")


def _work(job: Job, folder: Path, settings: Settings, should_stop: ShouldStop) -> tuple[State, str]:
    """Do the work. Returns the state it ends in, and the cause."""
    try:
        kind_of(job).run(job, folder, settings, should_stop)
    except WorkStopped as stopped:
        return "cancelled", one_line(stopped)
    except GistDemoError as error:
        return "failed", one_line(error)
    except MemoryError:
        traceback.print_exc()
        return "failed", "Out of memory. Use a smaller batch or a smaller model, or close other programs."
    except OSError as error:
        traceback.print_exc()
        return "failed", f"The system refused ({one_line(error)}). Free disk space or memory and resume."
    except Exception as error:
        traceback.print_exc()
        return "failed", f"Internal error ({one_line(error)[:200]}). The output of the job has the details."
    return "done", ""
