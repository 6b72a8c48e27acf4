"""The one rule for what was typed as a place: rows to read, a model, a checkpoint."""

from __future__ import annotations

import os

from gistdemo.data.alpaca import EMBEDDED_FILE, FILE_TYPES
from gistdemo.data.examples import EMBEDDED, OWN_EXAMPLES
from gistdemo.errors import UsageError
from gistdemo.services.caller import Caller
from gistdemo.settings import Settings


def resolve(typed: str, caller: Caller, settings: Settings) -> str:
    """What was typed, as the rest of the program takes it, wherever that runs; several places joined by + one by one.

    A name of the embedded examples becomes their file, what is on this machine its full path; names, hub ids and what is not there stay as
    they are. Resolving twice changes nothing.
    Raises: UsageError: it is a path, and the caller may not open what is there.
    """
    return "+".join(_resolved(part.strip(), caller, settings) for part in typed.split("+"))


def _resolved(part: str, caller: Caller, settings: Settings) -> str:
    examples = str(settings.examples_file)
    if part in (EMBEDDED, OWN_EXAMPLES, EMBEDDED_FILE, examples):
        return examples
    path = os.path.expanduser(part)
    # a bare word is a name, whatever lies here under it
    is_here = ("/" in part or "." in part) and os.path.exists(path)
    if not is_here and (caller.is_local or not _looks_like_path(part)):
        return part
    if "\0" in part or not caller.may_open(path):
        raise UsageError(
            f"'{part}' is a file of the server; {caller.name}s cannot open it. Upload a file, or give a hub id such as tatsu-lab/alpaca."
        )
    return os.path.abspath(path)


def _looks_like_path(part: str) -> bool:
    return part.startswith(("/", "~", ".")) or part.lower().endswith(FILE_TYPES) or "\\" in part or "\0" in part or part.count("/") > 1
