"""What the ways to fetch a backbone share: how progress is told, how a full disk is known, what else a user can do.

Fetches nothing itself: `embedded` and `hub` do. Imports nothing of ours, and no torch.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable

Progress = Callable[[str, float], None]

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
PASS_A_PATH = "If you have the model on this machine, pass the path of its folder instead."


def rising(progress: Progress | None) -> Progress:
    """Wrap a progress callback so that its fraction stays within 0..1 and never falls."""
    highest = 0.0

    def report(message: str, fraction: float) -> None:
        nonlocal highest
        highest = max(highest, min(1.0, fraction))
        if progress is not None:
            progress(message, highest)

    return report


def is_disk_full(error: BaseException) -> bool:
    """Whether an error means that no space is left; safetensors and the hub's transfer library say so as text only."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
