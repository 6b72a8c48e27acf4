"""`gistdemo jobs`: what runs, what waits, what has ended."""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path

from gistdemo.cli.output import Commands, log_to_stderr
from gistdemo.jobs.progress import ProgressReader, tail
from gistdemo.jobs.queue import OUTPUT, Jobs
from gistdemo.jobs.record import Job
from gistdemo.services import LOCAL, Services
from gistdemo.settings import Settings


def add(commands: Commands) -> None:
    p = commands.add_parser("jobs", help="background jobs: list, show, logs, stop, resume, delete")
    actions = p.add_subparsers(required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="all jobs: running, queued in order, ended")
    listing.add_argument("--json", action="store_true", help="print the records as JSON")
    listing.set_defaults(command=_jobs_list)
    for name, what in (("show", "state, progress and cause of one job"), ("stop", "let a job save its state and end; or leave the queue"),
                       ("resume", "put an ended job back into the queue"), ("delete", "remove an ended job and its files")):  # fmt: skip
        one = actions.add_parser(name, help=what)
        one.add_argument("id")
        one.set_defaults(command=_job_show if name == "show" else _job_change, action=name)
    logs = actions.add_parser("logs", help="the last lines a job printed")
    logs.add_argument("id")
    logs.add_argument("--lines", type=int, default=50)
    logs.set_defaults(command=_job_logs)
    run = actions.add_parser("run", help="run the job of a folder in this process (used by the queue itself)")
    run.add_argument("folder", type=Path)
    run.set_defaults(command=_job_run)


def _jobs_list(args: argparse.Namespace, settings: Settings) -> int:
    jobs = Services(settings).jobs
    jobs.tick()
    found = jobs.list()
    if args.json:
        print(json.dumps([dataclasses.asdict(job) for job in found], ensure_ascii=False, indent=2))
        return 0
    for job in found:
        print(f"{job.id:<44} {job.state:<10} {job.kind:<9} {_progress_text(jobs, job)}")
    if not found:
        print("No job yet. Start one with: python -m gistdemo train --queue --preset quick --name NAME --data FILE")
    return 0


def _job_show(args: argparse.Namespace, settings: Settings) -> int:
    jobs = Services(settings).jobs
    jobs.tick()
    job = jobs.get(args.id)
    print(f"{job.id}: {job.state}, {_progress_text(jobs, job)}")
    if job.cause:
        print(job.cause)
    for when, state in job.history:
        print(f"  {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(when))}  {state}")
    return 0


def _progress_text(jobs: Jobs, job: Job) -> str:
    progress = ProgressReader(jobs.folder(job.id)).read(job.settings.get("steps"))
    text = f"step {progress.steps_done} of {progress.steps or '?'}"
    left = progress.seconds_left()
    return f"{text}, about {left / 60:.0f} min left" if job.state == "running" and left is not None else text


def _job_change(args: argparse.Namespace, settings: Settings) -> int:
    services = Services(settings)
    if args.action == "delete":
        services.delete_job(args.id, LOCAL)
        print(f"{args.id}: deleted")
    else:
        print(f"{args.id}: {services.change_job(args.action, args.id, LOCAL).state}")
    return 0


def _job_logs(args: argparse.Namespace, settings: Settings) -> int:
    jobs = Services(settings).jobs
    jobs.get(args.id)
    print(tail(jobs.folder(args.id) / OUTPUT, args.lines))
    return 0


def _job_run(args: argparse.Namespace, settings: Settings) -> int:
    from gistdemo.jobs.runner import run_job

    log_to_stderr()
    return run_job(args.folder, Jobs(args.folder.parent), settings)
