"""How a job's process is started, watched and ended. `Local` is the first launcher: processes of this machine.

A launcher gives a handle, plain values that are kept in the job's record, and answers questions about it from any process.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import psutil

from gistdemo.settings import shipped_dir

LOW_PRIORITY = 10  # niceness of a job, so that comparing stays quick while it runs
START_TOLERANCE = 1.0  # seconds; clocks that count from boot and from 1970 drift apart a little
Handle = dict[str, Any]


class Launcher(Protocol):
    """Where jobs run."""

    def launch(self, folder: Path, output: Path, environment: Mapping[str, str]) -> Handle:
        """Start the job of a folder, printing into a file. Raises OSError."""

    def own(self) -> Handle:
        """The handle of the process that asks, which is a job's own."""

    def is_alive(self, handle: Handle | None) -> bool:
        """Whether the very process of a handle still runs."""

    def end(self, handle: Handle | None, force: bool = False) -> None:
        """Ask a process and all it started to end, or end them by force. Does nothing where it has ended already."""

    def why_gone(self, handle: Handle | None) -> str:
        """What is known of a process that ended without a word, in a sentence."""

    def tidy(self) -> None:
        """Collect what has ended."""


class Local:
    """Processes of this machine, told apart for good: a number may be given to a stranger, the number with its start time may not.

    program: the command line that runs a job.
    """

    program: Sequence[str] = (sys.executable, "-m", "gistdemo")

    def __init__(self) -> None:
        self._children: list[subprocess.Popen[bytes]] = []  # started by this process; asked now and then, so that none stays a zombie

    def launch(self, folder: Path, output: Path, environment: Mapping[str, str]) -> Handle:
        """Start `PROGRAM jobs run FOLDER` in a session of its own.

        Never a pipe: a reader that goes away would block the writer.
        """
        with output.open("ab") as file:
            started = subprocess.Popen(
                [*self.program, "jobs", "run", str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **environment},
                cwd=shipped_dir(),  # holds the package in a checkout, and what comes with it everywhere
            )
        self._children.append(started)
        return _identity(started.pid)

    def own(self) -> Handle:
        return _identity(None)

    def is_alive(self, handle: Handle | None) -> bool:
        """A zombie is not alive."""
        if not handle or handle.get("boot") != boot():
            return False
        try:
            found = psutil.Process(handle["pid"])
            return abs(found.create_time() - handle["start"]) < START_TOLERANCE and found.status() != psutil.STATUS_ZOMBIE
        except (psutil.Error, ValueError, TypeError):
            return False

    def end(self, handle: Handle | None, force: bool = False) -> None:
        if handle is None or not self.is_alive(handle):
            return
        try:
            os.killpg(handle["pid"], signal.SIGKILL if force else signal.SIGTERM)
        except (ProcessLookupError, PermissionError):
            return

    def why_gone(self, handle: Handle | None) -> str:
        if handle and handle.get("boot") != boot():
            return "The machine was restarted while the job ran."
        return "The process ended without a word: killed from outside, or out of memory."

    def tidy(self) -> None:
        self._children[:] = [child for child in self._children if child.poll() is None]


def boot() -> str:
    """Names this run of the machine: another value after a restart."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else str(round(psutil.boot_time() / 10))


def _identity(pid: int | None) -> Handle:
    process = psutil.Process(pid)
    return {"pid": process.pid, "start": process.create_time(), "boot": boot()}


LOCAL = Local()
