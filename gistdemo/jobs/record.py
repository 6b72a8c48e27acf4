"""One job as a value: what it is, which state it is in, and which states may follow. No torch."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from gistdemo.errors import JobError
from gistdemo.files import write_json

State = Literal["queued", "starting", "running", "stopping", "done", "failed", "cancelled", "lost"]
FILE = "job.json"

ACTIVE: frozenset[State] = frozenset({"starting", "running", "stopping"})  # a process exists, or is about to
FINAL: frozenset[State] = frozenset({"done", "failed", "cancelled", "lost"})  # final until a person resumes the job
FOLLOWS: dict[State, frozenset[State]] = {
    "queued": frozenset({"starting", "cancelled"}),
    "starting": frozenset({"running", "stopping", "failed", "lost", "cancelled"}),
    "running": frozenset({"stopping", "done", "failed", "cancelled", "lost"}),
    "stopping": frozenset({"cancelled", "done", "failed"}),
    "done": frozenset(),
    "failed": frozenset({"queued"}),
    "cancelled": frozenset({"queued"}),
    "lost": frozenset({"queued"}),
}


@dataclass(frozen=True)
class Job:
    """One job. Times are seconds since 1970.

    kind: `train` or `evaluate`. settings: of the kind. order: place in the queue, lower first.
    cause: why it ended as it did, one line with what to do next. process: pid, start and boot of the process that runs or ran it.
    """

    id: str
    kind: str
    title: str
    settings: dict[str, Any]
    state: State = "queued"
    order: float = 0.0
    created: float = 0.0
    changed: float = 0.0
    started: float | None = None
    ended: float | None = None
    cause: str = ""
    process: dict[str, Any] | None = None
    history: tuple[tuple[float, str], ...] = field(default=())

    @property
    def is_active(self) -> bool:
        return self.state in ACTIVE

    @property
    def is_final(self) -> bool:
        return self.state in FINAL

    def moved(self, state: State, now: float, **changes: Any) -> Job:
        """The job in another state.

        Raises: JobError: that state cannot follow this one.
        """
        if state not in FOLLOWS[self.state]:
            allowed = ", ".join(sorted(FOLLOWS[self.state])) or "none: it is final"
            raise JobError(f"Job '{self.id}' is {self.state} and cannot become {state}. Possible: {allowed}.")
        return dataclasses.replace(self, state=state, changed=now, history=(*self.history, (now, state)), **changes)


def read_job(folder: Path) -> Job:
    """Read a job's record.

    Raises: JobError: there is none, or it cannot be read.
    """
    try:
        record = json.loads((folder / FILE).read_text(encoding="utf-8"))
        record["history"] = tuple((float(when), str(state)) for when, state in record["history"])
        job = Job(**record)
        if job.state not in FOLLOWS or job.id != folder.name:
            raise ValueError(f"state is {job.state!r}, id is {job.id!r}")
    except FileNotFoundError as error:
        raise JobError(f"There is no job '{folder.name}'. `python -m gistdemo jobs list` shows all.") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise JobError(
            f"The record of job '{folder.name}' cannot be read ({error}). Its files are kept; delete the job or mend {FILE}."
        ) from error
    return job


def write_job(folder: Path, job: Job) -> None:
    """Replace a job's record in one move: a reader sees the old one or the new one."""
    write_json(folder / FILE, dataclasses.asdict(job))
