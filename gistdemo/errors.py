"""The errors a user can meet. Every message says what failed, the value received, what is allowed and what to do next.

    GistDemoError
    ├── UsageError        an argument or a form field is wrong (all problems in one message)
    ├── BackboneError     a model cannot be found, fetched, verified or used
    ├── PromptError       an instruction or an input cannot be made into a prompt
    ├── CheckpointError   a gist checkpoint is broken, or made for another backbone
    ├── DataError         a data file or dataset cannot be read
    ├── TrainingError     a run cannot start, go on or be resumed
    ├── WorkStopped   not a fault: somebody asked a run to stop, and it has saved its state
    └── JobError          a background job cannot be found or changed as asked

Borders (CLI, page) catch GistDemoError and show its text in one line; anything else is a bug and goes to the log.
This module imports nothing of ours.
"""


class GistDemoError(Exception):
    """Base of all errors with a text made for users."""


class UsageError(GistDemoError):
    """An argument or a form field has a value that is not allowed."""


class BackboneError(GistDemoError):
    """A backbone cannot be found, fetched, verified, loaded or used."""


class PromptError(GistDemoError):
    """An instruction or an input cannot be made into a prompt."""


class CheckpointError(GistDemoError):
    """A gist checkpoint is missing, broken, or belongs to another backbone."""


class DataError(GistDemoError):
    """A data file or dataset cannot be read as Alpaca rows."""


class TrainingError(GistDemoError):
    """A training run cannot start, go on or be resumed."""


class WorkStopped(GistDemoError):
    """A run was asked to stop and has saved its state."""


class JobError(GistDemoError):
    """A background job cannot be found, or cannot be changed as asked."""


def one_line(error: BaseException) -> str:
    """Return the text of an error on one line, with its type in front where it is not one of ours.

    >>> one_line(PromptError("Instruction is empty.\\nType one."))
    'Instruction is empty. Type one.'
    >>> one_line(ValueError("bad"))
    'ValueError: bad'
    """
    text = " ".join(str(error).split())
    if isinstance(error, GistDemoError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def first_line(error: BaseException) -> str:
    """Return the first line of a foreign error's text, cut to a readable length, to be quoted in a message of ours.

    >>> first_line(OSError("cannot open\\nmany details"))
    'cannot open'
    >>> first_line(MemoryError())
    'MemoryError'
    """
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]
