"""Who asks for something."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Caller:
    """name: for people. folders: those whose files and folders may be named by path; None: all of this machine."""

    name: str
    folders: tuple[Path, ...] | None

    @property
    def is_local(self) -> bool:
        """Whether the machine is the caller's own."""
        return self.folders is None

    def may_open(self, path: str) -> bool:
        """Whether a path leads to where the caller may read, links followed."""
        if self.folders is None:
            return True
        real = Path(os.path.realpath(path))
        return any(real.is_relative_to(os.path.realpath(folder)) for folder in self.folders)


LOCAL = Caller("local", None)


def visitor(*folders: Path) -> Caller:
    """Somebody on another machine. folders: where their uploads lie."""
    return Caller("visitor", folders)
