"""Checks F1 empty, F6 template_leak, F8 garbled and F9 wrong_language: what the text is like.

Where a comment gives a false positive rate, it was measured on the reference answers named in repetition_checks.py.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from gistdemo.metrics.flags import ASKS_FOR_CODE, ASKS_FOR_NUMBERS, ASKS_FOR_PATTERN, ASKS_FOR_SERIES, NAMES_A_LANGUAGE, Answer, Flag
from gistdemo.metrics.repetition import without_rules

# F6. False positives 0-0.2% of references.
LABEL = re.compile(r"^[^\S\n]*((?:#+[^\S\n]*)?(instruction|input|output|response)[^\S\n]*:)", re.IGNORECASE | re.MULTILINE)
SPECIAL_TOKEN = re.compile(
    r"<\|[a-z0-9_]+\|>|<GIST>|</s>|<(?:bos|eos|pad|unk)>|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>", re.IGNORECASE
)

# F8. False positives 1.2-2%: code and tables of numbers that the instruction did not announce.
GARBLED_MIN_CHARACTERS = 40
GARBLED_LETTERS = 0.5  # letters and blanks / characters
PROSE_LETTERS = 0.7  # the same for the prompt; below it the answer need not be prose either
ENDLESS_WORD = re.compile(r"[^\W_\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3000-\U0003ffff]{41,}")  # not in scripts without spaces
LONG_CHUNK = re.compile(r"\S{41,}")
URL = re.compile(r"://|www\.|data:", re.IGNORECASE)

# F9. False positives 0.4-0.8% before the exemption of instructions that name a language. A test on English stop words has
# 4.4% on Human and is not used.
FOREIGN_SHARE = 0.3  # of letters
FOREIGN_LETTER = re.compile(r"[^\W\d_\u0000-\u024f\u1e00-\u1eff]")  # 1E00-1EFF: Vietnamese and other Latin
FOREIGN_MIN_LETTERS = 5  # a symbol such as an omega is no language


def empty(answer: Answer) -> Iterator[Flag]:
    """F1: no visible text. Short is not empty. Value: characters."""
    if any(letter.isprintable() and not letter.isspace() for letter in answer.text):
        return
    blanks = len(answer.text)
    evidence = f"only blank or invisible characters ({blanks})" if blanks else "no text: the model ended its answer at once"
    yield Flag("F1", "empty", "fail", (0, blanks) if blanks else None, evidence, float(blanks))


def template_leak(answer: Answer) -> Iterator[Flag]:
    """F6: a prompt label at the start of a line, or the text of a special token. Value: how many.

    A warning only where each leak may belong to the answer: the prompt holds it too, or the instruction asks for code, whose
    comments say "# Output: 42". The span is the first leak; whoever scores the answer may cut there, but should show all of it.
    """
    prompt = answer.prompt.lower()
    code = ASKS_FOR_CODE.search(answer.instruction or "") is not None
    leaks = []  # (start, stop, whether it may belong to an answer)
    for match in LABEL.finditer(answer.text):
        label = match[2].lower()
        excusable = (code and label in ("input", "output")) or re.search(rf"\b{label}\s*:", prompt) is not None
        leaks.append((*match.span(1), excusable))
    for match in SPECIAL_TOKEN.finditer(answer.text):
        leaks.append((*match.span(), match[0].lower() in prompt))
    if not leaks:
        return
    excused = all(leak[2] for leak in leaks)
    start, stop, _ = min(leak for leak in leaks if excused or not leak[2])
    evidence = f"'{' '.join(answer.text[start:stop].split())}' is part of a prompt, not of an answer"
    if len(leaks) > 1:
        evidence += f" ({len(leaks)} such places)"
    if excused:
        evidence += ", though this prompt may ask for it"
    yield Flag("F6", "template_leak", "warn" if excused else "fail", (start, stop), evidence, float(len(leaks)))


def garbled(answer: Answer) -> Iterator[Flag]:
    """F8: broken characters, few letters where prose was due, or endless words. The span is the first. Value: none."""
    findings = [finding for finding in (_broken(answer), _endless_word(answer), _few_letters(answer)) if finding]
    if findings:
        yield Flag("F8", "garbled", "warn", findings[0][0], "; ".join(evidence for _, evidence in findings))


def _broken(answer: Answer) -> tuple[tuple[int, int], str] | None:
    text = answer.text.rstrip("\ufffd")  # where an answer was cut it may end inside a character, and is not to blame for that
    count = text.count("\ufffd")
    if not count:
        return None
    first = text.index("\ufffd")
    return (first, first + 1), f"{count} broken character{'s' if count > 1 else ''} (U+FFFD)"


def _endless_word(answer: Answer) -> tuple[tuple[int, int], str] | None:
    for chunk in LONG_CHUNK.finditer(answer.text):
        word = None if URL.search(chunk[0]) else ENDLESS_WORD.search(chunk[0])
        if word:
            start = chunk.start() + word.start()
            return (start, start + len(word[0])), f"a word of {len(word[0])} characters"
    return None


def _few_letters(answer: Answer) -> tuple[tuple[int, int], str] | None:
    text = without_rules(answer.text)
    if answer.instruction is None or len(text) < GARBLED_MIN_CHARACTERS or _letters(answer.prompt) < PROSE_LETTERS:
        return None
    share = _letters(text)
    announced = (ASKS_FOR_CODE, ASKS_FOR_NUMBERS, ASKS_FOR_PATTERN, ASKS_FOR_SERIES)
    if share >= GARBLED_LETTERS or any(kind.search(answer.instruction) for kind in announced):
        return None
    return (0, len(answer.text)), f"only {share:.0%} letters and blanks"


def _letters(text: str) -> float:
    """Share (0-1) of letters, vowel signs and blanks among the characters; 1 for no text."""
    if not text:
        return 1.0
    good = sum(map(str.isalpha, text)) + sum(map(str.isspace, text))
    if not text.isascii():
        good += sum(unicodedata.category(character)[0] == "M" for character in text)
    return good / len(text)


def wrong_language(answer: Answer) -> Iterator[Flag]:
    """F9: another script than the prompt's, though no language was named. Value: share (0-1) of letters outside Latin.

    Knows scripts, not languages: French in answer to English stays unnoticed.
    """
    if not answer.instruction or answer.text.isascii():
        return
    foreign = list(FOREIGN_LETTER.finditer(answer.text))
    share = len(foreign) / max(1, sum(map(str.isalpha, answer.text)))
    if len(foreign) < FOREIGN_MIN_LETTERS or share <= FOREIGN_SHARE:
        return
    if FOREIGN_LETTER.search(answer.prompt) or NAMES_A_LANGUAGE.search(answer.instruction):
        return
    evidence = f"{share:.0%} of its letters are not Latin, the instruction's are"
    yield Flag("F9", "wrong_language", "warn", (foreign[0].start(), foreign[-1].end()), evidence, share)
