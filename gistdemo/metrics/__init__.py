"""Numbers and findings about one answer: ROUGE against a reference, and flags for degenerate text.

    rouge.py         ROUGE-1/2/L, and the score normalised between two conditions
    scores.py        SCORES, all scores there are, and MAIN, the one that others are made of
    repetition.py    loops and repetition measures on any sequence of units
    near_loops.py    loops whose copies differ in numbers only, empty items, counting, lines in turns
    flags.py         Flag, what is known about an answer, what its instruction asks for
    *_checks.py      one check per flag, with its thresholds
    task.py          Task, whether an answer is about what was asked, of likelihoods that `gistdemo.judge` finds
    degeneration.py  FLAGS, all kinds of findings; diagnose() one text, instruction_blind() (F7) for a set of answers
    assess.py        assess() one answer: the only place that judges, for the page, evaluations, reports and imports alike

Pure functions on text and integers: no torch, no transformers; rouge_score is imported at the first call of rouge().
"""

from gistdemo.metrics.assess import Assessment, assess
from gistdemo.metrics.degeneration import FLAGS, VERDICTS, Diagnosis, Verdict, diagnose, instruction_blind
from gistdemo.metrics.flags import Flag
from gistdemo.metrics.rouge import normalised_score, rouge, shared_words
from gistdemo.metrics.scores import MAIN, SCORES
from gistdemo.metrics.task import TASK_VERDICTS, Task, TaskVerdict

__all__ = [
    "FLAGS",
    "MAIN",
    "SCORES",
    "TASK_VERDICTS",
    "VERDICTS",
    "Assessment",
    "Diagnosis",
    "Flag",
    "Task",
    "TaskVerdict",
    "Verdict",
    "assess",
    "diagnose",
    "instruction_blind",
    "normalised_score",
    "rouge",
    "shared_words",
]
