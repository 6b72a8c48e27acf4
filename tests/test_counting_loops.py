"""F3 sees loops whose copies differ in numbers only, empty items, counting without an end and lines in turns; F4 sees near copies."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from gistdemo.metrics import Diagnosis, Flag, diagnose
from gistdemo.metrics.near_loops import runs

DESCRIBE = "Describe a dog in a few sentences."
KINDS = ["noun", "verb", "noun", "noun", "verb", "noun", "noun", "verb"]
BASE_ANSWERS = [
    json.loads(line) for line in (Path(__file__).parent / "golden/base_answers.jsonl").read_text(encoding="utf-8").splitlines() if line
]


def count(start: int, stop: int, step: int = 1, sign: str = ", ") -> str:
    """Count from start to stop, both included."""
    return sign.join(map(str, range(start, stop + (1 if step > 0 else -1), step)))


def items(text: str, amount: int, start: int = 1) -> str:
    return "".join(text.replace("N", str(n)) for n in range(start, start + amount))


BAD = {
    "empty numbers": items("N.\n", 26),
    "empty steps": items("Step N:\n", 19),
    "empty steps, blank lines between": items("Step N:\n\n", 14),
    "four empty items are enough": "Here they are:\n1.\n2.\n3.\n4.",
    "empty letters": "".join(f"{letter})\n" for letter in "abcdefgh"),
    "empty roman numbers": "I.\nII.\nIII.\nIV.\nV.\nVI.\nVII.\n",
    "empty bold steps": items("**Step N:**\n", 11),
    "empty questions": items("QN:\n", 8),
    "empty bullets": "Here is the list:\n" + "* \n\n" * 7,
    "an item that becomes empty": "1. Apples\n" + items("N.\n", 12, 2),
    "one item again and again": items("N. I am a haiku\n", 14),
    "under letters": "".join(f"{letter}) The area of the triangle\n" for letter in "abcdefghijkl"),
    "under roman numbers": "".join(f"{n}. I am a haiku\n" for n in ("I", "II", "III", "IV", "V", "VI", "VII")),
    "a label": items("N. Color:\n", 17),
    "one word": items("N. Καλημέρα\n", 8),
    "numbers side by side": "".join(f"{n}. {n + 9}.00\n" for n in range(1, 20)),
    "a sum": items("Step N: 2 + 3 = 5\n", 6),
    "a number inside the item": items("N. The answer is N.\n", 12),
    "one paragraph": items("N. The answer is N. ", 12),
    "number words": "The first step is to go home. The second step is to go home. The third step is to go home. The fourth step is to go home.",
    "another number": "".join(f"{n}. What is the weather like in the next {n * n + 7} hours?\n" for n in range(1, 7)),
    "counting by fives": count(10, 100, 5),
    "counting line by line": count(1, 39, 1, "\n"),
    "counting in words": ", ".join("one two three four five six seven eight nine ten eleven twelve".split()),
    "counting down": "Sure: " + count(60, 21, -1, " "),
    "counting below zero": count(5, -30, -1),
    "counting in tenths": ", ".join(f"{n / 10}" for n in range(1, 15)),
    "counting sections": "See " + items("4.N, ", 18),
    "counting places": " ".join(f"{n}th" for n in range(4, 30)),
    "lines in turns": "The word is a noun.\n" + "".join(f"{n}. The word is a {kind}.\n" for n, kind in enumerate(KINDS, 2)),
    "sentences in turns": "The sky is blue. The sea is green. The sky is blue. The sky is blue. The sea is green. The sea is green. "
    "The sky is blue. The sea is green. The sea is green. The sky is blue.",
}
CHORUS = "Sing with me tonight\nOver hill and stone\nLanterns burning bright\nNobody alone\nEvery window lit\nUntil morning comes\n"
MAY_BE_VERSE = ("one paragraph", "number words", "lines in turns", "sentences in turns")  # where a poem was asked for
GOOD = {
    "numbered list": ("List the planets.", "1. Mercury\n2. Venus\n3. Earth\n4. Mars\n5. Jupiter\n6. Saturn\n7. Uranus\n8. Neptune"),
    "short list": ("Name fruit.", "1. Apples\n2. Pears"),
    "three items still empty": ("Name fruit.", "1.\n2.\n3."),
    "one word each": ("Answer the questions.", "1. Yes\n2. Yes\n3. No\n4. Yes\n5. Yes\n6. Yes\n7. No\n8. Yes"),
    "missions": ("Which Apollo missions flew?", "\n".join(f"Apollo {n}" for n in range(7, 18))),
    "versions": ("Name versions of Windows.", "Windows 95, Windows 98, Windows 2000, Windows 7, Windows 8, Windows 10, Windows 11"),
    "changes": ("What changed?", "Version 1.1 fixed bugs. Version 1.2 added search. Version 1.3 added themes. Version 1.4 fixed printing."),
    "steps": (
        "How do I change a tyre?",
        "Step 1: Park the car.\nStep 2: Loosen the nuts.\nStep 3: Lift the car.\nStep 4: Swap the wheels.",
    ),
    "steps over text": (
        "How do I change a tyre?",
        "Step 1:\nPark the car.\n\nStep 2:\nLoosen the nuts.\n\nStep 3:\nLift it.\n\nStep 4:\nSwap.",
    ),
    "recipe": (
        "Write a recipe for pancakes.",
        "Ingredients:\n- 2 cups of flour\n- 2 cups of milk\n- 2 eggs\n- 1 teaspoon of salt\n- 1 teaspoon of sugar\n- 1 teaspoon of oil\n\n"
        "1. Mix the flour and the salt.\n2. Add the milk and the eggs.\n3. Heat the oil in a pan.\n4. Fry for 2 minutes on each side.",
    ),
    "week": ("Plan a week.", "Monday: 5 km run\nTuesday: rest\nWednesday: 8 km run\nThursday: rest\nFriday: 5 km run\nSaturday: rest"),
    "dates": ("List the Fridays in March 2024.", "1 March 2024\n8 March 2024\n15 March 2024\n22 March 2024\n29 March 2024"),
    "scores": ("Report the scores.", "Ann scored 12 points in 3 games. Bob scored 9 points in 4 games. Cy scored 20 points in 5 games."),
    "quiz": ("Write a quiz question.", "How often is it?\nA. Every 10 years\nB. Every 4 years\nC. Every 8 years\nD. Every 5 years"),
    "table": ("Compare days.", "| Day | Degrees |\n|---|---|\n" + "".join(f"| Day {n} | {n * 7 % 30} C |\n" for n in range(1, 11))),
    "csv": ("Make a CSV of sales.", "day,sales\n" + "".join(f"{n},{n * 13 % 50}\n" for n in range(1, 15))),
    "json": ("Give users as JSON.", json.dumps([{"id": i, "name": name} for i, name in enumerate(["Ann", "Bob", "Cy", "Di"])], indent=1)),
    "code": ("Write a Python loop by hand.", items("print(N)\n", 5)),
    "switch": (
        "Write a JavaScript switch.",
        "switch (day) {\n"
        + "".join(f"  case {n}:\n    return '{day}';\n" for n, day in enumerate(["Mon", "Tue", "Wed", "Thu", "Fri"]))
        + "}",
    ),
    "verse": (
        "Write some lines about the sea.",
        "The sea is wide, the sea is deep,\nRow on, my boat, row on.\nThe gulls cry out, the sailors sleep,\nRow on, my boat, row on.\n"
        "The moon comes up, the lanterns glow,\nRow on, my boat, row on.\nAnd homeward through the night we go,\nRow on, my boat, row on.",
    ),
    "rhyme": (
        "Recite a rhyme.",
        "One, two, buckle my shoe,\nThree, four, knock at the door,\nFive, six, pick up sticks,\nSeven, eight, lay them straight",
    ),
    "chorus": (
        "Sing!",
        "We walked along the river when the frost was on the reeds\nAnd carried all our baskets full of apples, bread and seeds\n"
        + CHORUS
        + "My brother brought a fiddle and my sister brought a drum\nThe miller left his mill to ask which village we were from\n"
        + CHORUS,
    ),
    "dialogue": ("Write a dialogue.", "A: Hello!\nB: Hello!\nA: How are you?\nB: Fine. And you?\nA: Fine.\nB: Good.\nA: Bye!\nB: Bye!"),
}
ASKED = {
    "count": ("Count to 20.", count(1, 20)),
    "count down": ("Count down from twelve to one.", count(12, 1, -1)),
    "even numbers": ("List the first 15 even numbers.", count(2, 30, 2)),
    "even numbers as a list": ("List the even numbers between 1 and 40.", "".join(f"{n}. {2 * n}\n" for n in range(1, 20))),
    "multiples": ("What are the multiples of 5 up to 100?", count(5, 100, 5)),
    "to be continued": ("Continue: 10, 15, 20", count(10, 100, 5)),
    "a sum": ("Add 1 to 12.", count(1, 12, 1, " + ") + " = 78"),
    "times table": ("Write the multiplication table of 7.", "".join(f"{n} times 7 is {7 * n}.\n" for n in range(1, 13))),
    "an array": ("Create an array with twenty values.", f"[{count(1, 20)}]"),
}


def flag_of(diagnosis: Diagnosis, code: str = "F3") -> Flag:
    (found,) = [flag for flag in diagnosis.flags if flag.code == code]
    return found


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("instruction", [None, DESCRIBE, "Make a list of three dogs.", "Write a poem about a dog."])
def test_what_goes_round_is_degenerate(name, instruction):
    text = BAD[name]
    if "poem" in (instruction or "") and name in MAY_BE_VERSE:
        return
    assert flag_of(diagnose(text, instruction)).severity == "fail"


@pytest.mark.parametrize("name", GOOD)
def test_text_that_counts_and_says_something_is_healthy(name):
    instruction, text = GOOD[name]
    assert diagnose(text, instruction).verdict == "healthy"
    assert not [flag for flag in diagnose(text).flags if flag.code == "F3" and flag.severity == "fail"]


@pytest.mark.parametrize("name", ASKED)
def test_counting_that_was_asked_for_is_healthy(name):
    instruction, text = ASKED[name]
    assert diagnose(text, instruction).verdict == "healthy"
    assert diagnose(text, DESCRIBE).verdict == "degenerate"


@pytest.mark.parametrize(
    ("instruction", "text", "verdict"),
    [
        ("Count to 10.", count(1, 40), "degenerate"),
        ("Count to ten.", count(1, 40), "degenerate"),
        ("Count to 10.", count(1, 10), "healthy"),
        ("Count to 100.", count(1, 40), "healthy"),  # on its way
        ("Count to 1,000.", count(1, 40), "healthy"),
        ("Count up.", count(1, 40), "healthy"),  # no end was asked for
        ("Count down from 20 to 1.", count(20, -20, -1), "degenerate"),
        ("Write the numbers between 1 and 12.", count(1, 40), "degenerate"),
        ("List the first five multiples of 5.", count(5, 200, 5), "degenerate"),
        ("Count to 5.", items("N.\n", 26), "degenerate"),
        ("What is the number of planets?", count(1, 40), "degenerate"),
        ("When did it happen?", count(1, 40), "degenerate"),  # years may be listed, but not until the limit
        ("When were the Summer Olympics held?", count(1960, 2016, 4), "warning"),  # only for its few letters
    ],
)
def test_counting_ends_where_it_was_asked_to(instruction, text, verdict):
    assert diagnose(text, instruction).verdict == verdict


@pytest.mark.parametrize(
    ("instruction", "text", "severity"),
    [
        ("Make a blank list with five lines.", items("N.\n", 5), None),
        ("Make a blank list with five lines.", items("N.\n", 25), "fail"),  # five were asked for
        ("Make a blank list with fifteen lines.", items("N.\n", 15), None),
        ("Write SQL that adds rows.", items("INSERT INTO t VALUES (N, 'row N');\n", 8) + "COMMIT; -- all is written\n", None),
        ("Write SQL that adds rows.", items("INSERT INTO t VALUES (N, 'row N');\n", 8), None),
        (
            "Show how to set up channels.",
            items("channel N { volume = N; }\n", 8) + "Then play them all.",
            None,
        ),  # data, though nobody said so
        ("Show how to set up channels.", items("channel N { volume = N; }\n", 8), None),
        ("Write a script for a movie.", items("N. Write a script for the opening scene.\n", 8), "fail"),  # no code
        ("Write a song about sheep.", items("N sheep are on the hill and N sheep are in the barn.\n", 5) + "And now they sleep.", None),
        ("Write a song about sheep.", items("N. The song is about sheep.\n", 5), "fail"),
        ("Repeat: I am here.", items("N. I am here.\n", 9), None),
    ],
)
def test_what_excuses_a_near_loop(instruction, text, severity):
    found = [flag.severity for flag in diagnose(text, instruction).flags if flag.code == "F3"]
    assert found == ([severity] if severity else [])


@pytest.mark.parametrize(
    ("text", "shown", "evidence"),
    [
        ("Sure!\n" + items("N. The word is a\n", 11), items("N. The word is a\n", 11), "'N. The word is a' x 11, only the number changes"),
        (
            items("N. The answer is N. ", 12),
            items("N. The answer is N. ", 12).strip(),
            "'N. The answer is N.' x 12, only the numbers change",
        ),
        (
            "Step list\n" + items("Step N: 2 + 3 = 5\n", 6),
            items("Step N: 2 + 3 = 5\n", 6),
            "'Step N: 2 + 3 = 5' x 6, only the number changes",
        ),
        ("Well:\n" + items("N.\n", 26) + "Done", items("N.\n", 26).strip(), "'1.', '2.' … '26.': 26 items in a row with nothing in them"),
        ("It is " + count(10, 100, 5) + ".", count(10, 100, 5), "counts 10, 15, 20 … 100: 19 numbers in steps of 5"),
        ("See " + items("4.N, ", 18) + "end", items("4.N, ", 18)[:-2], "counts 4.1, 4.2, 4.3 … 4.18: 18 numbers in steps of 1"),
    ],
)
def test_span_covers_the_loop_and_evidence_says_what_varies(text, shown, evidence):
    loop = flag_of(diagnose(text, DESCRIBE))
    assert text[slice(*loop.span)].strip() == shown.strip()
    assert loop.evidence.removesuffix(", to the end of the text") == evidence
    assert loop.value == pytest.approx((loop.span[1] - loop.span[0]) / len(text))


def test_lines_in_turns_are_shown_from_the_first_to_the_last():
    text = "A word about words.\n" + BAD["lines in turns"] + "And so on it goes, until nobody listens."
    loop = flag_of(diagnose(text, DESCRIBE))
    assert loop.evidence == "9 lines say the same 2 things in turns, such as 'The word is a noun'"
    assert text[slice(*loop.span)].startswith("The word is a noun.") and text[slice(*loop.span)].endswith("The word is a verb")


def test_a_near_loop_says_whether_it_ever_ends():
    assert flag_of(diagnose(items("N. I am a haiku\n", 14) + "15. I")).evidence.endswith("to the end of the text")
    assert "to the end" not in flag_of(diagnose(items("N. I am a haiku\n", 14) + "Now something new begins.")).evidence


def test_equal_copies_are_reported_before_near_ones():
    text = "I am a haiku\n" * 9 + items("N. I am a haiku\n", 9)
    assert flag_of(diagnose(text)).evidence.startswith("'I am a haiku' x 9")


@pytest.mark.parametrize(
    ("text", "severity"),
    [
        (items("N. The robots are good for work and for all of society.\n", 2) + "3. The robots are good for", "warn"),
        (items("N. The robots are good for work and for all of society.\n", 2) + "3. They", None),
        (items("N. The robots are good for work and for all of society.\n", 2), None),
    ],
)
def test_a_third_copy_that_breaks_off_is_worth_a_warning(text, severity):
    found = [flag.severity for flag in diagnose(text, DESCRIBE).flags if flag.code == "F3"]
    assert found == ([severity] if severity else [])


def test_f4_sees_copies_with_small_changes_and_new_numbers():
    text = (
        "The racket is a complex machine that is made of steel.\nExplanation 1: The racket is a machine that is made of steel and wood "
        "and gives power to the player.\nExplanation 2: The racket is a complex machine that gives power to the player.\n"
        "Explanation 3: The racket is a complex machine that is made of steel and gives power to the player."
    )
    assert flag_of(diagnose(text, DESCRIBE), "F4").severity == "fail"
    assert "numbers and signs apart" in flag_of(diagnose(text, DESCRIBE), "F4").evidence
    assert not [flag for flag in diagnose(text[:200], DESCRIBE).flags if flag.code == "F4"]


def test_runs_of_numbers():
    assert [run for run, _ in runs("1, 2, 3, 5, 7, 9; 10 11 12")] == [(1, 2, 3), (3, 5, 7, 9), (10, 11, 12)]
    assert not list(runs("1 apple, 2 pears, 3 plums, 7, 7, 7, 2x, v3.4.5"))
    assert [run for run, _ in runs("1.8, 1.9, 1.10, 1.11", sections=True)] == [(8, 9, 10, 11)]


@pytest.mark.parametrize("text", [" " * 20000 + "x", "1. " * 5000, "a " * 20000, "1.\n" * 5000, "word." * 5000, ",".join("12" * 9000)])
def test_long_odd_text_takes_no_long_time(text):
    start = time.perf_counter()
    diagnose(text)
    assert time.perf_counter() - start < 5


def test_real_answers_of_the_base_model():
    """57 greedy answers of Gemma 3 270M, up to 8 of each kind seen among 200, with labels given by eye (scripts/calibrate_flags.py)."""
    verdicts = [(row["label"], diagnose(row["text"], row["instruction"], row["input"]).verdict) for row in BASE_ANSWERS]
    bad = [verdict for label, verdict in verdicts if label == "degenerate"]
    assert len(bad) == 52 and bad.count("degenerate") >= 50 and "healthy" not in bad
    assert not [verdict for label, verdict in verdicts if label == "healthy" and verdict == "degenerate"]
