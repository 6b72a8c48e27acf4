"""Operating-system processes, told apart for good: a number may be given to a stranger, the number with its start time may not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

LOW_PRIORITY = 10  # niceness of a job, so that comparing stays quick while it runs
START_TOLERANCE = 1.0  # seconds; clocks that count from boot and from 1970 drift apart a little


def identity(pid: int | None = None) -> dict[str, Any]:
    """pid, start and boot time of a process (default: this one). Raises psutil.NoSuchProcess."""
    process = psutil.Process(pid)
    return {"pid": process.pid, "start": process.create_time(), "boot": boot()}


def boot() -> str:
    """Names this run of the machine: another value after a restart."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else str(round(psutil.boot_time() / 10))


def is_alive(process: dict[str, Any] | None) -> bool:
    """Whether the very process of an identity still runs. A zombie does not."""
    if not process or process.get("boot") != boot():
        return False
    try:
        found = psutil.Process(process["pid"])
        return abs(found.create_time() - process["start"]) < START_TOLERANCE and found.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, ValueError, TypeError):
        return False


def launch(arguments: list[str], output: Path, environment: dict[str, str]) -> dict[str, Any]:
    """Start `python -m gistdemo ARGUMENTS` in a session of its own, at low priority, printing into a file. Returns its identity.

    Never a pipe: a reader that goes away would block the writer. Raises OSError.
    """
    with output.open("ab") as file:
        started = subprocess.Popen(
            [sys.executable, "-m", "gistdemo", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | environment,
            cwd=Path(__file__).resolve().parents[2],
        )
    _CHILDREN.append(started)
    return identity(started.pid)


_CHILDREN: list[subprocess.Popen] = []  # started by this process; asked now and then, so that none stays a zombie


def reap() -> None:
    """Collect ended children of this process."""
    _CHILDREN[:] = [child for child in _CHILDREN if child.poll() is None]


def end(process: dict[str, Any], force: bool = False) -> None:
    """Ask a process and all it started to end, or end them by force. Does nothing where it has ended already."""
    if not is_alive(process):
        return
    try:
        os.killpg(process["pid"], signal.SIGKILL if force else signal.SIGTERM)
    except (ProcessLookupError, PermissionError):
        return
