"""Every flag fires on what it is for and not on its near miss; ordinary text of many kinds is not degenerate."""

from __future__ import annotations

import json
import random
import statistics
import time

import pytest

from gistdemo.metrics import Diagnosis, Flag, assess, diagnose, instruction_blind
from gistdemo.metrics.repetition import compression_ratio, find_loop, seq_rep, split_units
from gistdemo.prompts import Example

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
    diagnosis = diagnose(text, instruction="Write an email to my landlord.")
    assert diagnosis.verdict == "degenerate"
    assert flags_of(diagnosis) == {"F3": "fail", "F4": "fail", "F6": "fail"}
    loop = flag_of(diagnosis, "F3")
    assert text[slice(*loop.span)] in (LOOPING, "\n" + LOOPING)
    assert "'Output:www.google.com' x 14" in loop.evidence
    assert loop.evidence.endswith("to the end of the text")
    leak = flag_of(diagnosis, "F6")
    assert (text[slice(*leak.span)], leak.value) == ("Output:", 14)


@pytest.mark.parametrize("name", HEALTHY)
def test_ordinary_text_is_not_degenerate(name):
    instruction, text = HEALTHY[name]
    with_prompt = diagnose(text, instruction)
    assert with_prompt.verdict == "healthy" or (name, flags_of(with_prompt)) == ("code", {"F6": "warn"})
    assert diagnose(text).verdict == "healthy" or name == "code"  # "# Output:" counts as a leak where nobody says that code was asked for


def test_verdict_is_the_worst_severity_and_flags_come_worst_first():
    assert diagnose("All fine.").verdict == "healthy"
    assert diagnose("All f\ufffdne.").verdict == "warning"
    diagnosis = diagnose(LOOPING + "\ufffd!", "", input=LOOPING)
    assert [flag.severity for flag in diagnosis.flags] == sorted((f.severity for f in diagnosis.flags), key=["fail", "warn", "info"].index)
    assert {flag.severity for flag in diagnosis.flags} == {"fail", "warn", "info"}


def test_flags_survive_json():
    flags = diagnose("Output\t: \ud800" * 20).flags
    assert [Flag.from_dict(json.loads(json.dumps(flag.to_dict()))) for flag in flags] == list(flags)
    assert all(flag.evidence.isprintable() for flag in flags) and "F6" in [flag.code for flag in flags]


@pytest.mark.parametrize("seed", range(40))
def test_any_text_is_diagnosed_and_spans_stay_inside(seed):
    rng = random.Random(seed)
    alphabet = "a|www| |\n|\t|日|本|é|e\u0301|\u200d|😀|\ufe0f|\ufffd|\ud800|\x00|_|ا|ि|Output:|1".split("|")
    pieces = rng.choices(alphabet[: rng.randint(1, 20)], k=rng.randint(0, 200)) * rng.choice([1, 1, 4])
    text = "".join(pieces)
    for flag in diagnose(text, "Say something.", text[:50]).flags:
        assert flag.evidence and flag.evidence.isprintable()
        assert flag.span is None or 0 <= flag.span[0] < flag.span[1] <= len(text)


def test_a_loop_has_two_copies_at_least():
    with pytest.raises(ValueError, match="at least 2 copies"):
        find_loop([1, 1], min_repeats=1)


# ---- F1


@pytest.mark.parametrize(
    ("text", "severity", "span"),
    [("", "fail", None), (" \n\t", "fail", (0, 3)), ("\u200b\ufeff", "fail", (0, 2)), (".", None, None), ("0", None, None)],
)
def test_f1_empty(text, severity, span):
    diagnosis = diagnose(text)
    assert flags_of(diagnosis).get("F1") == severity
    if severity:
        assert flag_of(diagnosis, "F1").span == span


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
def test_loop_thresholds(ids, expected):
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
    ("text", "endless"),
    [
        ("go on and " * 10, True),
        ("go on and " * 10 + "g", True),  # a limit cut a word
        ("go on and " * 10 + "then it recovered", False),
    ],
)
def test_f3_says_whether_the_loop_ever_ends(text, endless):
    assert flag_of(diagnose(text), "F3").evidence.endswith("to the end of the text") == endless


@pytest.mark.parametrize(
    ("instruction", "text", "severity"),
    [
        ("Describe a dog.", "a good dog " * 8, "fail"),
        ("Repeat 'a good dog' as often as you can.", "a good dog " * 8, "warn"),
        ("Write 'a good dog' eight times.", "a good dog " * 8, "warn"),
        ("Describe a dog without repeating yourself; do not repeat words.", "a good dog " * 8, "fail"),
        ("Describe a dog that keeps repeating its tricks.", "a good dog " * 8, "fail"),
        ("Write a poem about a dog.", "a good dog " * 8 + "is all I ever wanted", "warn"),
        ("Write a poem about a dog.", "a good dog " * 8, "fail"),
        ("List some dogs.", "a good dog " * 8 + "and a bad one", "warn"),
        ("List some dogs.", "a good dog " * 8, "fail"),
        ("Give the truth values.", "| 0 | 1 " * 8 + "|, so it is true", "warn"),
        ("Give the truth values.", "| no | yes " * 8 + "|", "fail"),
    ],
)
def test_f3_is_a_warning_where_repetition_was_asked_for_or_the_text_is_symbols(instruction, text, severity):
    assert flags_of(diagnose(text, instruction))["F3"] == severity


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
        (NEAR_LOOP * 2 + "and so it ends", "Write a poem on the sky.", "warn"),
        ("the sky is a quilt and " * 2 + "the sea is a mirror and " * 2 + novel(4), "Describe it.", "warn"),
        (NEAR_LOOP, "Describe the sky.", None),
        (PROSE, "Tell a story.", None),
        ("to be or not to be", "Quote Hamlet.", None),
        (novel(300), "Invent words.", None),
    ],
)
def test_f4_repetitive(text, instruction, severity):
    assert flags_of(diagnose(text, instruction=instruction)).get("F4") == severity


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


# ---- F8 and F9


@pytest.mark.parametrize(
    ("text", "instruction", "expected"),
    [
        ("caf\ufffd au lait", None, True),
        ("good 🎉\ufffd", "Cheer!", False),  # cut inside a character
        ("good \ufffd morning", "Cheer!", True),
        ("x" * 41, None, True),
        ("x" * 40 + ".", None, False),
        ("see https://example.com/" + "x" * 60, None, False),
        ("one_very_long_identifier_" * 2, None, False),
        ("12 #4 @@ 99 %% 3 && 5 !! 7 ?? 8 ** 11 (((( 4 =6 ~8 <9 >1 ]2 [0 ;7", "Describe the sea.", True),
        ("12 #4 @@ 99 %% 3 && 5 !! 7 ?? 8 ** 11 (((( 4 =6 ~8 <9 >1 ]2 [0 ;7", None, False),  # nobody knows whether prose was due
        ("12 #4 @@ 99 %% 3 && 5 !! 7 ?? 8 ** 11 (((( 4 =6 ~8 <9 >1 ]2 [0 ;7", "Write a regex.", False),
        ("12 #4 @@ 99 %% 3 && 5 !! 7 ?? 8 ** 11 (((( 4 =6 ~8 <9 >1 ]2 [0 ;7", "1+1=2, 2+2=4, 3+3=?", False),
        ("12 #4 @@ 99 %% 3", "Describe the sea.", False),  # too short to tell
    ],
)
def test_f8_garbled(text, instruction, expected):
    assert flags_of(diagnose(text, instruction)).get("F8") == ("warn" if expected else None)


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


# ---- what stands beside the verdict

ASKED = Example("Describe the sea.", "", "The sea is wide and blue.")


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
    assert [fact.name for fact in assess(text, ASKED, full_text=full, none_text=none).facts] == names


@pytest.mark.parametrize(("finish_reason", "names"), [("limit", ["hit_limit"]), ("eos", []), ("stopped", []), (None, [])])
def test_f2_hit_limit(finish_reason, names):
    assert [fact.name for fact in assess(PROSE, ASKED, finish_reason=finish_reason).facts] == names


@pytest.mark.parametrize("text", ["", PROSE, LOOPING, "caf\ufffd au lait", "the sea " * 12])
def test_the_verdict_rests_on_the_text_and_its_prompt_alone(text):
    """Whatever else is known adds facts and changes neither verdict nor findings."""
    alone = assess(text, ASKED)
    for finish_reason in ("eos", "limit", "stopped", None):
        for blind in (False, True):
            found = assess(text, ASKED, finish_reason=finish_reason, blind=blind, full_text=text, none_text=LOOPING)
            assert (found.verdict, found.flags, found.scores) == (alone.verdict, alone.flags, alone.scores)
            assert [fact.code for fact in found.facts if fact.code == "F7"] == (["F7"] if blind else [])
    assert (alone.verdict, alone.flags) == (diagnose(text, ASKED.instruction).verdict, diagnose(text, ASKED.instruction).flags)


def test_scores_need_a_reference():
    assert assess("The sea is wide and blue.", ASKED).scores["rougeL"] == 100
    assert assess("The sea.", Example("Describe the sea.", "", "  ")).scores == {}


# ---- units and speed


@pytest.mark.parametrize("text", [PROSE * 2, LOOPING], ids=["prose", "loop"])
def test_an_answer_of_128_tokens_is_judged_quickly(text):
    seconds = []
    for _ in range(20):
        start = time.perf_counter()
        diagnose(text, RECIPE, PROSE)
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
    assert diagnose(text, instruction=asked).verdict == "degenerate"
    assert diagnose(text, instruction="Repeat this sentence many times.").verdict == "warning"
