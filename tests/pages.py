"""What a browser would make of HTML, and text that must not become a part of it."""

from __future__ import annotations

from html.parser import HTMLParser

ATTACKS = (
    "<img src=x onerror=window.hacked=1>",
    "</div></script><script>window.hacked=2</script>",
    "</title></style><svg onload='window.hacked=3'>",
    "\"'> &lt;b&gt; &amp; &#60;i&#62; ' onmouseover='alert(1)",
    "${7*7} {{ 7*7 }} {% if %} {{{y}}} `${alert(1)}`",
    "<!-- <mark> -->",
    "nul \x00 bell \x07 escape \x1b[31m return \r half \ud800 end",
    "\u202eright to left override, \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
)
NASTY = " ".join(ATTACKS)
VOID = {"meta", "br"}


def shown(text: str) -> str:
    """What a reader sees of foreign text: itself, with control characters as symbols and halves of characters as "?"."""
    return "".join("?" if "\ud800" <= c < "\ue000" else chr(0x2400 + ord(c)) if ord(c) < 32 and c not in "\n\t" else c for c in text)


def infected(value, end: str):
    """The same value with every text that a file, a model or a person can choose followed by `end`."""
    if isinstance(value, str):
        return value + end if value else value
    if isinstance(value, list | tuple):
        return [infected(part, end) for part in value]
    if isinstance(value, dict):
        kept = ("condition", "verdict", "source", "flags")  # read by name; what they may be is tested apart
        return {name: part if name in kept or name == "recovery" else infected(part, end) for name, part in value.items()}
    return value


class Page(HTMLParser):
    """found: elements with their attributes. said: pieces of text between them. letters: (character, class of the mark around it).

    Raises: AssertionError: elements do not nest.
    """

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str]]] = []
        self.said: list[str] = []
        self.letters: list[tuple[str, str]] = []
        self.scripts: list[str] = []
        self.open: list[str] = []
        self.mark = ""
        self.feed(html)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, {name: value or "" for name, value in attributes}))
        self.open += [] if tag in VOID else [tag]
        self.mark = dict(attributes)["class"] if tag == "mark" else self.mark

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes something else"
        self.mark = "" if tag == "mark" else self.mark

    def handle_data(self, data):
        inside = self.open[-1] if self.open else ""
        if inside == "script":
            self.scripts.append(data)
        elif inside != "style":
            self.said.append(data)
            self.letters += [(letter, self.mark) for letter in data]

    @property
    def text(self) -> str:
        return "".join(self.said)

    @property
    def words(self) -> str:
        """The text as a reader takes it in: a blank between any two pieces."""
        return " ".join(" ".join(self.said).split())

    @property
    def strings(self) -> str:
        """Text and attribute values together: everywhere where foreign text may stand."""
        return "\n".join([self.text, *(value for _, attributes in self.found for value in attributes.values())])

    def with_class(self, name: str) -> list[dict[str, str]]:
        return [attributes for _, attributes in self.found if name in attributes.get("class", "").split()]
