"""The job's own process: takes its turn, does the work, and says how it ended, whatever happens."""

from __future__ import annotations

import logging
import os
import signal
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

from gistdemo.errors import GistDemoError, JobError, WorkStopped, one_line
from gistdemo.jobs.process import LOW_PRIORITY
from gistdemo.jobs.progress import Reporter
from gistdemo.jobs.queue import STOP, Jobs
from gistdemo.jobs.record import Job
from gistdemo.settings import Settings

log = logging.getLogger(__name__)
ShouldStop = Callable[[], bool]


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


def _work(job: Job, folder: Path, settings: Settings, should_stop: ShouldStop) -> tuple[str, str]:
    """Do the work. Returns the state it ends in, and the cause."""
    try:
        _run(job, folder, settings, should_stop)
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


def _run(job: Job, folder: Path, settings: Settings, should_stop: ShouldStop) -> None:
    if job.kind == "simulate":
        from gistdemo.jobs.simulate import simulate

        simulate(job.settings, folder, should_stop)
    elif job.kind == "train":
        from gistdemo.train.config import TrainConfig
        from gistdemo.train.run import train

        config = TrainConfig.from_dict(job.settings)
        train(config, folder, settings, settings.checkpoint_dirs[-1] / config.name, should_stop)
    elif job.kind == "evaluate":
        from gistdemo.evaluate.request import EvaluationRequest
        from gistdemo.evaluate.run import evaluate

        evaluate(EvaluationRequest.from_dict(job.settings), folder, settings, job.title, Reporter(folder), should_stop)
    else:
        raise JobError(f"Job '{job.id}' is of kind '{job.kind}', which this version does not know. Update gistdemo, or delete the job.")
