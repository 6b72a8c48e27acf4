"""The one place where values become HTML: macros of `templates/`, with everything escaped that no template made.

Whatever stands in a template's {{ }} is foreign text: it is made visible, then escaped. Only `Markup`, which is what a macro returns, goes
through as it is. A name that a template does not know is an error (jinja2.UndefinedError).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from gistdemo.conditions import CONDITIONS
from gistdemo.metrics import FLAGS, MAIN, SCORES, TaskVerdict

MARKS = {"healthy": "●", "warning": "▲", "degenerate": "■"}  # a shape beside every colour
TASK_MARKS: dict[TaskVerdict, str] = {"on task": "✓", "unsure": "?", "off task": "✗"}
SEVERITY_MARKS = {"fail": "■", "warn": "▲", "info": "○"}
_SYMBOLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"}


class Value(NamedTuple):
    """What stands in a cell of a table: a text, and what qualifies it in small print. Alone: nothing is known."""

    text: str = "–"
    small: str = ""
    strong: bool = False


class Line(NamedTuple):
    """A line of a table. values: str, int, Value or a list of Values each. condition: whose line it is, for scripts and tests."""

    head: str
    values: list[Any]
    condition: str = ""


def visible(text: Any) -> str:
    """Foreign text as UTF-8 can hold it: control characters, which browsers drop, as symbols, halves of characters as "?".

    >>> visible("bell \\x07, half \\ud800")
    'bell ␇, half ?'
    """
    return str(text).translate(_SYMBOLS).encode("utf-8", "replace").decode("utf-8")


def number(value: float | None, form: str = "{:.1f}", unit: float = 1, unknown: str = "–") -> str:
    """A number in units of `unit`, or a dash where it is not known.

    >>> number(2048, "{:,.0f} KiB", 1024), number(None)
    ('2 KiB', '–')
    """
    return unknown if value is None else form.format(value if unit == 1 else value / unit)


def draw(macro: str, *values: Any, **named: Any) -> Markup:
    """What a macro makes of values. macro: "FILE.NAME", of templates/FILE.html."""
    file, name = macro.split(".")
    return Markup(getattr(_ENVIRONMENT.get_template(f"{file}.html").module, name)(*values, **named))


_ENVIRONMENT = Environment(
    loader=PackageLoader("gistdemo.present"),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=lambda value: value if isinstance(value, Markup) else visible(value),
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
)
_ENVIRONMENT.globals.update(
    MARKS=MARKS, TASK_MARKS=TASK_MARKS, SEVERITY_MARKS=SEVERITY_MARKS, FLAGS=FLAGS, FLAG_WORDS={kind.name: kind.words for kind in FLAGS}
)
_ENVIRONMENT.globals.update(SCORES=SCORES, MAIN=MAIN, CONDITIONS=CONDITIONS)
_ENVIRONMENT.filters["number"] = number
