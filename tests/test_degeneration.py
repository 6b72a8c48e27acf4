"""Every flag fires on what it is for and not on its near miss; ordinary text of many kinds is not degenerate."""

from __future__ import annotations

import json
import random
import statistics
import time
from itertools import pairwise

import pytest

from gistdemo.metrics import Diagnosis, diagnose, find_loop, instruction_blind, tail_loop
from gistdemo.metrics.repetition import compression_ratio, seq_rep, split_units

LOOPING = "Output:www.google.com\n" * 14
PROSE = (
    "The lighthouse keeper counted seven ships before breakfast. Each carried timber from the northern ports, and none of them "
    "answered his signal. By noon the fog had eaten the horizon, so he lit the lamp early and wrote down the hour in a careful hand."
)
POEM = """The river runs, the river sings,
  O carry me down to the sea.
It wears the hills to little things,
  O carry me down to the sea.
The heron stands on one thin leg
And waits for what the waters bring."""
HEALTHY = {
    "prose": ("Write the opening of a story.", PROSE),
    "one word": ("Is water wet?", "Yes"),
    "one digit": ("What is 2 + 2?", "4"),
    "numbered list": (
        "How do I brew tea?",
        "1. Boil fresh water.\n2. Warm the pot.\n3. Add one spoon of leaves per cup.\n4. Pour and wait four minutes.\n5. Strain and serve.",
    ),
    "refrain": ("Write some lines about a river.", POEM),
    "table": (
        "Compare three metals.",
        "| Metal | Symbol | Melts at |\n|-------|--------|---------|\n"
        "| Iron | Fe | 1538 °C |\n| Tin | Sn | 232 °C |\n| Gold | Au | 1064 °C |",
    ),
    "wide table": ("Make a table of the week.", "| Mo | Tu | We | Th | Fr |\n|---|---|---|---|---|\n| 1 | 4 | 2 | 8 | 5 |"),
    "code": (
        "Write a function that finds primes.",
        "def primes(n):\n    sieve = [True] * (n + 1)\n    for i in range(2, n + 1):\n        if sieve[i]:\n            yield i\n"
        "            for j in range(i * i, n + 1, i):\n                sieve[j] = False\n\nprint(list(primes(30)))\n# Output: [2, 3, 5, 7]",
    ),
    "blanks to fill in": ("Make a short form.", "Name: " + "_" * 24 + "\nStreet: " + "_" * 24 + "\nTown: " + "_" * 24),
    "ruled line": ("Write a note.", "Dear all,\n" + "-" * 72 + "\nThe office is closed on Friday."),
    "emoji": ("Cheer me up!", "You can do it! 🎉🎉🎉 Keep going 💪🏽 ❤️❤️❤️❤️❤️❤️❤️❤️ 👨‍👩‍👧 are proud of you 🥳"),
    "arabic": ("اكتب جملة عن البحر.", "البحر واسع وأزرق، وفيه أسماك كثيرة، ويذهب الناس إليه في الصيف ليسبحوا ويستريحوا من حر المدينة."),
    "hebrew": ("כתוב משפט על הים.", "הים רחב וכחול, ויש בו דגים רבים, ובקיץ אנשים באים אליו כדי לשחות ולנוח מחום העיר הגדולה."),
    "hindi": ("समुद्र के बारे में लिखिए।", "समुद्र बहुत विशाल और नीला होता है, उसमें अनेक मछलियाँ रहती हैं, और गर्मियों में लोग वहाँ तैरने तथा विश्राम करने जाते हैं।"),
    "japanese": (
        "海について短い文章を書いてください。",
        "海は広くて青い。夏になると多くの人が訪れ、泳いだり、砂浜で休んだりする。夕方には空が赤く染まり、漁船が静かに港へ戻ってくる。"
        "波の音を聞いていると、都会の忙しさを忘れてしまう。",
    ),
    "thai": ("เขียนเกี่ยวกับทะเล", "ทะเลกว้างใหญ่และเป็นสีฟ้า ในฤดูร้อนผู้คนมากมายมาว่ายน้ำและพักผ่อนบนชายหาด ตอนเย็นท้องฟ้าเปลี่ยนเป็นสีแดงสวยงามมาก"),
}


def flags_of(diagnosis: Diagnosis) -> dict[str, str]:
    return {flag.code: flag.severity for flag in diagnosis.flags}


def flag_of(diagnosis: Diagnosis, code: str):
    (found,) = [flag for flag in diagnosis.flags if flag.code == code]
    return found


# ---- whole answers


def test_the_famous_loop_is_degenerate_and_its_span_covers_it():
    text = "Sure.\n" + LOOPING
    diagnosis = diagnose(text, instruction="Write an email to my landlord.", finish_reason="limit")
    assert diagnosis.verdict == "degenerate"
    assert flags_of(diagnosis) == {"F3": "fail", "F4": "fail", "F6": "fail", "F2": "info"}
    loop = flag_of(diagnosis, "F3")
    assert text[slice(*loop.span)] in (LOOPING, "\n" + LOOPING)
    assert "'Output:www.google.com' x 14" in loop.evidence
    assert loop.evidence.endswith("until the limit (runaway)")
    leak = flag_of(diagnosis, "F6")
    assert (text[slice(*leak.span)], leak.value) == ("Output:", 14)


@pytest.mark.parametrize("name", HEALTHY)
@pytest.mark.parametrize("finish_reason", ["eos", "limit", None])
def test_ordinary_text_is_not_degenerate(name, finish_reason):
    instruction, text = HEALTHY[name]
    with_prompt = diagnose(text, instruction=instruction, finish_reason=finish_reason)
    alone = diagnose(text, finish_reason=finish_reason)
    limit = {"F2": "info"} if finish_reason == "limit" else {}
    assert with_prompt.verdict == "healthy" or (name, flags_of(with_prompt)) == ("code", {"F6": "warn"} | limit)
    assert alone.verdict == "healthy" or name == "code"  # "# Output:" counts as a leak where nobody says that code was asked for


def test_verdict_is_the_worst_severity_and_flags_come_worst_first():
    assert diagnose("All fine.", finish_reason="limit").verdict == "healthy"  # F2 alone is a remark
    assert diagnose("All f\ufffdne.", finish_reason="limit").verdict == "warning"
    diagnosis = diagnose(LOOPING + "\ufffd!", finish_reason="limit")
    assert [flag.severity for flag in diagnosis.flags] == sorted((f.severity for f in diagnosis.flags), key=["fail", "warn", "info"].index)
    assert {flag.severity for flag in diagnosis.flags} == {"fail", "warn", "info"}


def test_to_dict_is_plain_json():
    diagnosis = diagnose("Output\t: \ud800" * 20, finish_reason="limit")
    assert json.loads(json.dumps(diagnosis.to_dict())) == diagnosis.to_dict()
    assert all(flag.evidence.isprintable() for flag in diagnosis.flags) and "F6" in flags_of(diagnosis)
    assert diagnosis.to_dict()["flags"][0]["span"] == list(diagnosis.flags[0].span)
    assert diagnose("Fine.").to_dict() == {"verdict": "healthy", "flags": []}


@pytest.mark.parametrize("seed", range(40))
def test_any_text_is_diagnosed_and_spans_stay_inside(seed):
    rng = random.Random(seed)
    alphabet = "a|www| |\n|\t|日|本|é|e\u0301|\u200d|😀|\ufe0f|\ufffd|\ud800|\x00|_|ا|ि|Output:|1".split("|")
    pieces = rng.choices(alphabet[: rng.randint(1, 20)], k=rng.randint(0, 200)) * rng.choice([1, 1, 4])
    text = "".join(pieces)
    ids = [alphabet.index(piece) for piece in pieces]
    offsets = []
    for piece in pieces:
        start = offsets[-1][1] if offsets else 0
        offsets.append((start, start + len(piece)))
    for keywords in ({}, {"ids": ids}, {"ids": ids, "token_offsets": offsets}):
        for flag in diagnose(text, instruction="Say something.", input=text[:50], finish_reason="limit", none_text=text, **keywords).flags:
            assert flag.evidence and flag.evidence.isprintable()
            assert flag.span is None or 0 <= flag.span[0] < flag.span[1] <= len(text)


def test_wrong_calls_say_what_is_allowed():
    with pytest.raises(ValueError, match=r"finish_reason is 'length'; allowed are None, 'eos', 'limit', 'stopped', 'error'"):
        diagnose("x", finish_reason="length")
    with pytest.raises(ValueError, match="1 token_offsets for 2 ids"):
        diagnose("ab", [1, 2], token_offsets=[(0, 1)])
    with pytest.raises(ValueError, match="at least 2 copies"):
        find_loop([1, 1], min_repeats=1)


# ---- F1 and F2


@pytest.mark.parametrize(
    ("text", "finish_reason", "severity", "span"),
    [
        ("", "eos", "fail", None),
        (None, None, "fail", None),
        (" \n\t", "eos", "fail", (0, 3)),
        ("\u200b\ufeff", "eos", "fail", (0, 2)),
        ("", "stopped", "info", None),
        ("", "error", "info", None),
        (".", "eos", None, None),
        ("0", "limit", None, None),
    ],
)
def test_f1_empty(text, finish_reason, severity, span):
    diagnosis = diagnose(text, finish_reason=finish_reason)
    assert flags_of(diagnosis).get("F1") == severity
    if severity:
        assert flag_of(diagnosis, "F1").span == span


@pytest.mark.parametrize(
    ("finish_reason", "expected"), [("limit", "info"), ("eos", None), ("stopped", None), ("error", None), (None, None)]
)
def test_f2_hit_limit(finish_reason, expected):
    assert flags_of(diagnose(PROSE, finish_reason=finish_reason)).get("F2") == expected


# ---- F3


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([9, 8] + [1, 2, 3, 4, 5, 6] * 3 + [7], True),  # 3 copies, 18 tokens, in the middle
        ([9, 8] + [1, 2, 3, 4, 5, 6] * 3, True),
        ([1, 2, 3, 4, 5, 6] * 2 + [1, 2, 3, 4, 5], False),  # 2.83 copies
        ([1] * 16, True),
        ([1] * 15, False),
        ([1, 2, 3, 4, 5] * 3, False),  # 3 copies, but 15 tokens
        ([1, 2, 3, 4, 5] * 3 + [1], True),  # the incomplete copy counts
        ([1, 2, 3, 4, 5] * 3 + [2], False),
        (list(range(64)) * 3, True),
        (list(range(65)) * 3, False),  # longer than the longest period searched
        (list(range(128)), False),
        ([], False),
    ],
)
def test_f3_loop_thresholds_on_ids(ids, expected):
    assert ("F3" in flags_of(diagnose("some text of no interest", ids))) == expected
    assert (find_loop(ids) is not None) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("No, " * 8, True),
        ("No, " * 7, False),
        ("I think that we should go. " * 3, True),
        ("I think that we should go. " * 2, False),
        ("はい、" * 8, True),
        ("はい、" * 5, False),
        ("ha" * 60, True),
        ("ha" * 20, False),
        ("\n" * 20 + "end", True),
        ("end" + "." * 100, False),
    ],
)
def test_f3_loop_works_on_text_alone(text, expected):
    assert ("F3" in flags_of(diagnose(text))) == expected


def brute_force_loop(values, min_repeats, min_span):
    """Try every stretch and period; the longest span wins, then the shortest period, then the earliest start."""
    best = None
    for period in range(1, 65):
        for start in range(len(values)):
            for stop in range(start + max(min_span, min_repeats * period), len(values) + 1):
                if all(values[i] == values[i - period] for i in range(start + period, stop)):
                    if best is None or (stop - start, -period) > (best[1] - best[0], -best[2]):
                        best = (start, stop, period)
    return best


@pytest.mark.parametrize("seed", range(60))
def test_find_loop_agrees_with_brute_force(seed):
    rng = random.Random(seed)
    values = rng.choices(range(rng.randint(1, 3)), k=rng.randint(0, 14))
    values += rng.choices(range(3), k=rng.randint(1, 5)) * rng.randint(0, 5) + rng.choices(range(2), k=rng.randint(0, 8))
    for min_repeats, min_span in ((3, 16), (3, 6), (2, 4), (4, 1)):
        found = find_loop(values, min_repeats=min_repeats, min_span=min_span)
        assert (found and (found.start, found.stop, found.period)) == brute_force_loop(values, min_repeats, min_span)


def test_f3_span_through_token_offsets_is_exact():
    pieces = ["Well", ","] + [" go", " on", " and", "\n", ""] * 5 + [" stop", "."]
    text, edges = "".join(pieces), [0]
    for piece in pieces:
        edges.append(edges[-1] + len(piece))
    ids = [sorted(set(pieces)).index(piece) for piece in pieces]
    offsets = [place if place[0] < place[1] else (0, 0) for place in pairwise(edges)]  # special tokens stand for no characters
    loop = flag_of(diagnose(text, ids, token_offsets=offsets), "F3")
    assert text[slice(*loop.span)] == " go on and\n" * 5
    assert loop.evidence == "'go on and' x 5, 25 of 29 tokens"
    assert loop.value == pytest.approx(25 / 29)


def test_f3_on_ids_without_offsets_counts_tokens_and_finds_the_place_in_the_text():
    text = "Hello there. " + "go on and " * 6
    loop = flag_of(diagnose(text, [7, 8, 9] + [1, 2, 3, 4] * 6), "F3")
    assert text[slice(*loop.span)] == "go on and " * 5 + "go on and"
    assert loop.evidence == "'go on and' x 6, 24 of 27 tokens"
    nowhere = flag_of(diagnose("never the same", [5] * 20), "F3")
    assert (nowhere.span, nowhere.evidence) == (None, "one token x 20, 20 of 20 tokens")


@pytest.mark.parametrize(
    ("text", "block"),
    [
        ("\n" * 40 + "x", r"'\n' x 40,"),
        ("a b c d e f\n" * 3, "'a b c d e f' x 3,"),
        ("a b c d e f\n" * 3 + "a b", "'a b c d e f' x 3.3,"),
        ("starts.com\n" + "Output: starts.com\n" * 6, "'Output: starts.com' x 6.7,"),  # shown from the start of a line
        ("one two\nthree " * 6, r"'three one two' x 6,"),
        ("The quick brown fox jumps over the lazy dog again. " * 4, "'The quick brown fox jumps over the lazy…' x 4,"),
    ],
)
def test_f3_evidence_shows_the_block_on_one_line(text, block):
    assert flag_of(diagnose(text), "F3").evidence.startswith(block)


@pytest.mark.parametrize(
    ("text", "finish_reason", "runaway"),
    [
        ("go on and " * 10, "limit", True),
        ("go on and " * 10 + "g", "limit", True),  # the limit cut a word
        ("go on and " * 10, "eos", False),
        ("go on and " * 10 + "then it recovered", "limit", False),
    ],
)
def test_f3_says_runaway_only_where_the_loop_reaches_the_limit(text, finish_reason, runaway):
    assert ("runaway" in flag_of(diagnose(text, finish_reason=finish_reason), "F3").evidence) == runaway


@pytest.mark.parametrize(
    ("instruction", "text", "finish_reason", "severity"),
    [
        ("Describe a dog.", "a good dog " * 8, "eos", "fail"),
        ("Repeat 'a good dog' as often as you can.", "a good dog " * 8, "limit", "warn"),
        ("Write 'a good dog' eight times.", "a good dog " * 8, "eos", "warn"),
        ("Describe a dog without repeating yourself; do not repeat words.", "a good dog " * 8, "eos", "fail"),
        ("Describe a dog that keeps repeating its tricks.", "a good dog " * 8, "eos", "fail"),
        ("Write a poem about a dog.", "a good dog " * 8, "eos", "warn"),
        ("Write a poem about a dog.", "a good dog " * 8, "limit", "fail"),
        ("List some dogs.", "a good dog " * 8, "eos", "warn"),
        ("List some dogs.", "a good dog " * 8, "limit", "fail"),
        ("Give the truth values.", "| 0 | 1 " * 8 + "|", "eos", "warn"),
        ("Give the truth values.", "| no | yes " * 8 + "|", "eos", "fail"),
    ],
)
def test_f3_is_a_warning_where_repetition_was_asked_for_or_the_text_is_symbols(instruction, text, finish_reason, severity):
    assert flags_of(diagnose(text, instruction=instruction, finish_reason=finish_reason))["F3"] == severity


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([5, 6] + [1, 2, 3, 4, 5, 6, 7, 8] * 4, True),
        ([1, 2, 3, 4, 5, 6, 7, 8] * 4 + [5], False),  # not at the tail
        ([1, 2, 3, 4, 5, 6, 7] * 4, False),  # 28 tokens
        ([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11] * 3, False),  # 3 copies
        ([1] * 32, True),
        ([1] * 31, False),
        ([2] + [1] * 31, False),
        (list(range(64)) * 4, True),
        ([], False),
    ],
)
def test_tail_loop_is_the_strict_rule_at_the_tail(ids, expected):
    assert tail_loop(ids) == expected


@pytest.mark.parametrize("seed", range(20))
def test_tail_loop_agrees_with_brute_force(seed):
    rng = random.Random(seed)
    values = rng.choices(range(3), k=rng.randint(0, 6)) + rng.choices(range(3), k=rng.randint(1, 4)) * rng.randint(0, 6)
    repeated = any(
        values[len(values) - span :] == (values[len(values) - span :][:period] * span)[:span]
        for period in range(1, 65)
        for span in range(max(8, 4 * period), len(values) + 1)
    )
    assert tail_loop(values, min_span=8) == repeated


# ---- F4


def novel(count: int) -> str:
    rng = random.Random(count)
    return " ".join("".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(count))


def test_repetition_measures_by_hand():
    assert seq_rep([1, 2, 3, 1, 2, 3], 2) == pytest.approx(1 - 3 / 5)
    assert seq_rep([1, 2], 4) == 0
    assert compression_ratio("") == 0
    assert compression_ratio("abc " * 100) > 8
    assert compression_ratio("x  \n y") == compression_ratio("x y")
    for name in ("prose", "japanese", "hindi", "arabic", "thai"):
        assert 0.8 < compression_ratio(HEALTHY[name][1]) < 2.0


NEAR_LOOP = (
    "The sky is a quilt of light; the sky is a dome of dust; the sky is a roof of stars; the sky is a sea of glow; "
    "the sky is a cloak of ink; "
)


@pytest.mark.parametrize(
    ("text", "instruction", "severity"),
    [
        (NEAR_LOOP * 2, "Describe the sky.", "fail"),  # no loop of three copies, but more than half came before
        (NEAR_LOOP * 2, "Write a poem on the sky.", "warn"),
        ("the sky is a quilt and " * 2 + "the sea is a mirror and " * 2 + novel(4), "Describe it.", "warn"),
        (NEAR_LOOP, "Describe the sky.", None),
        (PROSE, "Tell a story.", None),
        ("to be or not to be", "Quote Hamlet.", None),
        (novel(300), "Invent words.", None),
    ],
)
def test_f4_repetitive(text, instruction, severity):
    assert flags_of(diagnose(text, instruction=instruction)).get("F4") == severity


@pytest.mark.parametrize(("ids", "severity"), [(list(range(20)) * 3, "fail"), (list(range(20)) * 2, None), (list(range(60)), None)])
def test_f4_fails_where_half_of_the_sequences_came_before(ids, severity):
    ids = ids[:50]  # 50 ids of a block of 20: 47 sequences of 4, 20 of them new
    assert flags_of(diagnose("short text", ids)).get("F4") == severity


def test_f4_judges_long_text_by_its_worst_window():
    text = f"{novel(128)} {NEAR_LOOP * 3} {novel(300)}"
    repeated = flag_of(diagnose(text), "F4")
    assert "sky" in text[slice(*repeated.span)]
    assert repeated.span[1] - repeated.span[0] < len(text) / 2
    assert "F4" not in flags_of(diagnose(" ".join(novel(60).split() + PROSE.split() + novel(60).split())))


# ---- F5

RECIPE = "Write a detailed recipe for a vegetarian lasagna with spinach, ricotta and a crisp top that serves six hungry people."


@pytest.mark.parametrize(
    ("instruction", "given", "text", "severity"),
    [
        (RECIPE, "", RECIPE, "warn"),
        (RECIPE, "", RECIPE.upper() + " Heat the oven.", "warn"),
        (RECIPE, "", f"{RECIPE} {novel(18)}", "warn"),  # 22 of 40 words and signs
        (RECIPE, "", f"{RECIPE} {novel(24)}", None),  # 22 of 46
        # Half of the instruction again, but never six words in a row.
        (RECIPE, "", "A detailed recipe for good lasagna with spinach, ricotta but a crisp top that serves just six hungry people.", None),
        ("Repeat after me: " + RECIPE, "", RECIPE, "info"),
        ("Correct the text.", PROSE, PROSE.replace("careful", "shaky"), "info"),
        (
            "Correct the text.",
            PROSE,
            PROSE[:130] + "He lit no lamp and never wrote down a single thing that day, they say, but slept.",
            None,
        ),
        ("Name the capital city of sunny Italy", "", "The capital city of sunny Italy is Rome", None),  # fewer than 12 words
    ],
)
def test_f5_prompt_echo(instruction, given, text, severity):
    assert flags_of(diagnose(text, instruction=instruction, input=given)).get("F5") == severity


def test_f5_span_covers_the_copy():
    text = "Sure! " + RECIPE + " Enjoy."
    assert text[slice(*flag_of(diagnose(text, instruction=RECIPE), "F5").span)] == RECIPE


# ---- F6


@pytest.mark.parametrize(
    ("text", "leak"),
    [
        ("Paris\n### Response: Paris", "### Response:"),
        ("Paris.\n  Input : France", "Input :"),
        ("instruction: write", "instruction:"),
        ("Paris<|im_end|>", "<|im_end|>"),
        ("<|eot_id|>", "<|eot_id|>"),
        ("Paris <GIST> Rome", "<GIST>"),
        ("Paris</s>", "</s>"),
        ("[INST] Rome", "[INST]"),
        ("The output: Paris", None),
        ("Outputs: Paris", None),
        ("Response time: 3 s\nInput\nOutput", None),
        ("a <b> <|> |> [INSTALL] <s/>", None),
    ],
)
def test_f6_template_leak(text, leak):
    diagnosis = diagnose(text, instruction="Name a city.")
    assert flags_of(diagnosis).get("F6") == ("fail" if leak else None)
    if leak:
        assert text[slice(*flag_of(diagnosis, "F6").span)] == leak


@pytest.mark.parametrize(
    ("instruction", "given", "text", "severity"),
    [
        ("Answer in the form 'Output: number'.", "", "Output: 4", "warn"),
        ("Continue the text.", "Input: rain", "Input: snow", "warn"),
        ("Answer in the form 'Output: number'.", "", "Output: 4\nInput: 5", "fail"),  # only one of two was asked for
        ("What does <|im_end|> mean?", "", "<|im_end|> ends a turn", "warn"),
        ("Write a Python function.", "", "f(2)\n# Output: 4", "warn"),
        ("Write a Python function.", "", "f(2)\n### Response: 4", "fail"),
        ("What is the output of the device?", "", "Output: 4", "fail"),  # the word without its colon
    ],
)
def test_f6_is_a_warning_where_the_prompt_may_ask_for_it(instruction, given, text, severity):
    assert flags_of(diagnose(text, instruction=instruction, input=given))["F6"] == severity


# ---- F7

SAME = "I'm sorry, I do not know what to say about that at all."


@pytest.mark.parametrize(
    ("items", "members"),
    [
        ([("a", "", SAME), ("b", "", SAME), ("c", "", PROSE), ("d", "", SAME)], [(0, 1, 3)]),
        ([("a", None, SAME), ("b", "", "  " + SAME.upper() + "\n")], [(0, 1)]),  # case and blanks do not count
        ([("a", "x", SAME), ("b", "y", SAME)], []),  # different inputs
        ([("a", "", SAME), ("A ", "", SAME)], []),  # the same instruction
        ([("a", "", "Yes."), ("b", "", "Yes.")], []),
        ([("a", "", "x" * 30), ("b", "", "x" * 30)], [(0, 1)]),
        ([("a", "", "x" * 29), ("b", "", "x" * 29)], []),
        ([("a", "x", SAME), ("b", "x", SAME), ("a", "y", PROSE), ("b", "y", PROSE)], [(0, 1), (2, 3)]),
        ([("a", "", None), ("b", "", None)], []),
        ([], []),
    ],
)
def test_f7_instruction_blind(items, members):
    assert [flag.members for flag in instruction_blind(items)] == members


def test_f7_evidence_counts_instructions_not_rows():
    (flag,) = instruction_blind([("a", "", "y" * 435), ("b", "", "y" * 435), ("c", "", "y" * 435), ("a", "", "y" * 435)])
    assert (flag.code, flag.name, flag.severity, flag.value) == ("F7", "instruction_blind", "fail", 3)
    assert flag.evidence == "3 different instructions gave the same 435-character output"
    assert flag.to_dict()["members"] == [0, 1, 2, 3]


# ---- F8, F9 and F10


@pytest.mark.parametrize(
    ("text", "instruction", "finish_reason", "expected"),
    [
        ("caf\ufffd au lait", None, "eos", True),
        ("good 🎉\ufffd", "Cheer!", "limit", False),  # cut inside a character
        ("good \ufffd", "Cheer!", "eos", True),
        ("x" * 41, None, "eos", True),
        ("x" * 40 + ".", None, "eos", False),
        ("see https://example.com/" + "x" * 60, None, "eos", False),
        ("one_very_long_identifier_" * 2, None, "eos", False),
        ("12 #4 @@ 99 %% 3 && 5 !! 7 ?? 8 ** 11 (((( 4 =6 ~8 <9 >1 ]2 [0 ;7", "Describe the sea.", "eos", True),
        ("12 #4 @@ 99 %% 3 && 5 !! 7 ?? 8 ** 11 (((( 4 =6 ~8 <9 >1 ]2 [0 ;7", None, "eos", False),  # nobody knows whether prose was due
        ("12 #4 @@ 99 %% 3 && 5 !! 7 ?? 8 ** 11 (((( 4 =6 ~8 <9 >1 ]2 [0 ;7", "Write a regex.", "eos", False),
        ("12 #4 @@ 99 %% 3 && 5 !! 7 ?? 8 ** 11 (((( 4 =6 ~8 <9 >1 ]2 [0 ;7", "1+1=2, 2+2=4, 3+3=?", "eos", False),
        ("12 #4 @@ 99 %% 3", "Describe the sea.", "eos", False),  # too short to tell
    ],
)
def test_f8_garbled(text, instruction, finish_reason, expected):
    assert flags_of(diagnose(text, instruction=instruction, finish_reason=finish_reason)).get("F8") == ("warn" if expected else None)


@pytest.mark.parametrize(
    ("instruction", "given", "text", "expected"),
    [
        ("Describe the sea.", "", "海は広くて青い。", True),
        ("Describe the sea.", "", "Море широкое и синее.", True),
        ("Décrivez la mer.", "", "البحر واسع وأزرق", True),
        ("Translate 'sea' for me.", "", "Море широкое и синее.", False),
        ("Describe the sea in Russian.", "", "Море широкое и синее.", False),
        ("Summarise this.", "Море широкое и синее.", "Море синее.", False),
        ("海について書いて。", "", "海は広くて青い。", False),
        ("Describe the sea.", "", "The sea (море, θάλασσα) is wide and blue, and nobody owns it.", False),  # below 30%
        ("What is the unit of resistance?", "", "Ω", False),
        ("Describe the sea.", "", "“Ça alors” – naïve café, Việt Nam biển rộng…", False),
        (None, "", "海は広くて青い。", False),
    ],
)
def test_f9_wrong_language(instruction, given, text, expected):
    assert flags_of(diagnose(text, instruction=instruction, input=given)).get("F9") == ("warn" if expected else None)


@pytest.mark.parametrize(
    ("text", "full", "none", "names"),
    [
        ("An answer.", " An  answer.\n", None, ["identical_to_full"]),
        ("An answer.", "Another.", "An answer.", ["identical_to_dropped"]),
        ("An answer.", "An answer.", "An answer.", ["identical_to_full", "identical_to_dropped"]),
        ("An answer.", "an answer.", "An answer", []),
        ("", "", "", []),
    ],
)
def test_f10_identical(text, full, none, names):
    found = [flag for flag in diagnose(text, full_text=full, none_text=none).flags if flag.code == "F10"]
    assert [flag.name for flag in found] == names
    assert all(flag.severity == "info" for flag in found)


# ---- units and speed


@pytest.mark.parametrize(
    ("text", "ids"),
    [(PROSE * 2, [i * 7919 % 50021 for i in range(128)]), (LOOPING, [1, 2, 3, 4, 5, 6, 7, 8] * 16), (PROSE * 2, None)],
    ids=["prose", "loop", "text alone"],
)
def test_a_diagnosis_of_128_tokens_is_quick(text, ids):
    seconds = []
    for _ in range(20):
        start = time.perf_counter()
        diagnose(text, ids, RECIPE, PROSE, "limit", full_text=text, none_text=text)
        seconds.append(time.perf_counter() - start)
    print(f"diagnose: {statistics.median(seconds) * 1000:.2f} ms")
    assert statistics.median(seconds) < 0.010


def test_words_of_many_scripts_are_units():
    assert split_units("snake_case __init__ हिन्दी e\u0301a 海だ ❤️❤️ -----").values == (
        *("snake_case", "__", "init", "__", "हिन्दी", "e\u0301a", "海", "だ", "❤️❤️", "-----"),
    )


def test_a_list_as_the_task_does_not_excuse_prose_that_repeats_until_the_limit():
    sentences = [
        f"The new policy will be implemented by the department, which is responsible for the new policy{end}" for end in (".", ", too.")
    ]
    text = " ".join(sentences * 6)
    asked = "List five ways a library could attract readers."
    assert diagnose(text, instruction=asked, finish_reason="limit").verdict == "degenerate"
    assert diagnose(text, instruction="Repeat this sentence many times.", finish_reason="limit").verdict == "warning"
