"""The header, the status line and small notices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from markupsafe import Markup

from gistdemo import __version__
from gistdemo.model.embedded import EMBEDDED
from gistdemo.present.markup import draw


def header() -> Markup:
    """Name, purpose and version of the page."""
    return draw("panels.header", __version__)


def status(message: str, fraction: float | None = None, kind: str = "info") -> Markup:
    """The status line, announced to screen readers. fraction: done, 0 to 1. kind: info, busy, error."""
    return draw("panels.status", message, fraction, kind)


def models(states: Sequence[tuple[str, float | None, str]]) -> Markup:
    """One line per model that is not ready: how far it is, or why it is not there. Empty where all are ready."""
    return draw("panels.models", states)


def note(text: str, kind: str = "hint") -> Markup:
    """A sentence of its own. kind: hint, error, notice."""
    return draw("panels.note", text, kind)


def notices(backbones: Iterable[str]) -> Markup:
    """What the licences of these models ask to show, each once; empty where they ask for nothing."""
    texts = [EMBEDDED[name].notice for name in backbones if name in EMBEDDED]
    return draw("panels.notices", dict.fromkeys(filter(None, texts)))
