"""What the schemas of records promise, to be held against records."""

from __future__ import annotations

from typing import NotRequired, get_origin, get_type_hints

TIMES = {"first_token_seconds", "tokens_per_second"}  # of an answer that was timed


def required(kind: type) -> set[str]:
    """The keys that a record of this kind must have."""
    return {key for key, hint in get_type_hints(kind, include_extras=True).items() if get_origin(hint) is not NotRequired}
