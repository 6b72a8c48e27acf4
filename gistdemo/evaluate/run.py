"""One evaluation: rows, answers, recovery, and the files they leave in a folder of their own.

DIR/request.json        what was asked, with the digest of the rows: a folder answers one request
DIR/examples.jsonl      the rows themselves; records point at them by number
DIR/rows.jsonl          the answers (see `gistdemo.results.answer`)
DIR/tasks.jsonl         whether each of them is about what was asked (see `gistdemo.judge`)
DIR/recovery.jsonl      one line per checkpoint: what `all_recoveries` found
DIR/eval_results.json   all figures (see `gistdemo.results.evaluation`), with the names of an earlier experiment beside ours
DIR/sample_outputs.json the first answers under the names of that experiment
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from gistdemo.checkpoint.pool import ModelPool
from gistdemo.checkpoint.registry import find_row
from gistdemo.checkpoint.store import trained_marks
from gistdemo.conditions import CONDITIONS
from gistdemo.data.alpaca import rows_digest
from gistdemo.errors import UsageError, WorkStopped
from gistdemo.evaluate.answers import TIMINGS_FILE, Subject, answer, batches, without_timings
from gistdemo.evaluate.recoveries import all_recoveries
from gistdemo.evaluate.recovery import Judged
from gistdemo.evaluate.request import EvaluationRequest, evaluation_rows, model_name
from gistdemo.evaluate.tasks import TASKS_FILE, judge_answers
from gistdemo.files import recover, write_json, write_lines
from gistdemo.judge.judge import Judge, load_judge
from gistdemo.memory import keep_freed_memory
from gistdemo.model.packed import fast_kernel
from gistdemo.prompts import Example
from gistdemo.results import earlier_format
from gistdemo.results.answer import EXAMPLES_FILE, ROWS_FILE, Answer, judged
from gistdemo.results.evaluation import RESULTS_FILE, Asked, Recoveries, Results, new_results
from gistdemo.settings import Settings

log = logging.getLogger(__name__)
RECOVERY_TOKENS = 48  # answers are judged by their first tokens, as in training: there the instruction matters most
REQUEST_FILE, RECOVERY_FILE = "request.json", "recovery.jsonl"
Report = Callable[[int, int], None]


def evaluate(
    request: EvaluationRequest,
    folder: Path,
    settings: Settings,
    title: str = "",
    report: Report = lambda done, of: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Results:
    """Measure, write the files into `folder` and return the results. Goes on where an interrupted evaluation stopped.

    report: told how much of the work is done, counted in answers. should_stop: asked after every answer.
    Raises: CheckpointError, BackboneError, DataError: what is measured cannot be had. UsageError: the folder holds another
    request, or a checkpoint has fewer gist tokens than asked for. WorkStopped: should_stop said so; the batches of answers that were whole are kept.
    """
    keep_freed_memory()
    pool = ModelPool(settings)
    subjects, marks = _subjects(request, pool)
    if request.precision != "exact" and any(s.base.model.precision(request.precision) == "exact" for s in subjects):
        raise UsageError(f"Precision is '{request.precision}', which this machine has no kernel for; allowed is exact. Leave it out.")
    examples, trained_on = evaluation_rows(request, [s.loaded.encoder for s in subjects], marks)
    work = batches(request, examples, subjects)
    with_gist = [subject for subject in subjects if request.recovery and subject.loaded.manifest is not None]
    if not work and not with_gist:
        raise UsageError(f"None of {', '.join(s.name for s in subjects)} has a gist, so nothing would be measured. Add a condition.")
    _claim(folder, request, examples)
    judging = _judging(request, examples)
    second, prompts = _second_judge(request, pool), sum(len(batch.prompts) for batch in work)
    total = prompts + (sum(len(batch.keys()) for batch in work) if second else 0) + judging * len(with_gist)
    generated = answer(work, request.sampling(), folder, lambda done: report(done, total), should_stop)
    tasks = judge_answers(second, generated, examples, folder, lambda done: report(prompts + done, total), should_stop) if second else []
    answers = judged(generated, examples, tasks)
    write_lines(folder / ROWS_FILE, map(without_timings, answers))
    order = {key: n for n, key in enumerate((s.name, *setting) for s in subjects for setting in request.settings())}  # as asked for
    answers.sort(key=lambda a: (order[a["checkpoint"], a["condition"], a["k"]], a["row"]))
    recovery: dict[str, Recoveries] = {}
    for number, subject in enumerate(with_gist, 1):
        recovery[subject.name] = _recovery(subject, examples, request, folder, settings)
        report(total - judging * (len(with_gist) - number), total)
        if should_stop() and number < len(with_gist):
            raise WorkStopped(f"Stopped after the recovery of '{subject.name}', which is kept. Resume goes on from there.")
    named = request.named()
    results = new_results(
        title or f"{', '.join(s.name for s in subjects)} on {named.data}",
        "ours",
        cast(Asked, dataclasses.asdict(named)),
        examples,
        answers,
        command=named.command(),
        trained_on=trained_on,
        recovery=recovery,
        seconds=_seconds(folder),
    )
    if request.precision == "fast":
        results["versions"] |= {"products": fast_kernel()}
    _write(folder, results, answers, examples, request, subjects[0])
    return results


def _subjects(request: EvaluationRequest, pool: ModelPool) -> tuple[list[Subject], frozenset[str]]:
    """The checkpoints, loaded, and the marks of all instructions they were trained on."""
    subjects: list[Subject] = []
    marks: frozenset[str] = frozenset()
    for name in request.checkpoints:
        row = find_row(name, pool.settings)
        base, loaded = pool.row(row)
        if row.has_gist and request.needs_gist and max(request.ks) > len(loaded.slots):
            raise UsageError(
                f"Checkpoint '{name}' has {len(loaded.slots)} gist tokens but k = {max(request.ks)} was asked for. "
                "Ask for fewer, or for conditions full, truncated and none without recovery."
            )
        subjects.append(Subject(model_name(loaded.name), base, loaded))
        marks |= trained_marks(row.entry.folder) if row.entry else frozenset()
    return subjects, marks


def _claim(folder: Path, request: EvaluationRequest, examples: Sequence[Example]) -> None:
    """Write the request with the digest of its rows, or check that the folder's is this one."""
    record = dataclasses.asdict(request.named()) | {"digest": rows_digest(examples), "rows_measured": len(examples)}
    path = folder / REQUEST_FILE
    if path.exists() and _asked(path) != json.loads(json.dumps(record)):
        raise UsageError(f"Folder '{folder.name}' holds the answers of another request. Give another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, record)
    write_lines(folder / EXAMPLES_FILE, map(dataclasses.asdict, examples))


def _asked(path: Path) -> dict[str, Any]:
    """What a request file holds; one of before there was a choice of precision, or a judge, has asked for exact answers and is judged. {}: nothing of ours."""
    try:
        found: dict[str, Any] = {"precision": "exact", "judge": True} | json.loads(path.read_text(encoding="utf-8"))
        return found
    except (ValueError, TypeError):
        return {}


def _second_judge(request: EvaluationRequest, pool: ModelPool) -> Judge | None:
    """Who says whether answers are about what was asked; None where nobody wants to know, or the judge is not here."""
    found = load_judge(pool, pool.settings) if request.judge else None
    return found if found and found.is_at_hand() else None


def _judging(request: EvaluationRequest, examples: Sequence[Example]) -> int:
    """Work of one checkpoint's recovery in answers: judging one known answer with two prompts takes about as long as generating one."""
    return 2 * len(examples) * (1 + len(request.ks)) if request.recovery else 0


def _recovery(subject: Subject, examples: Sequence[Example], request: EvaluationRequest, folder: Path, settings: Settings) -> Recoveries:
    """Recovery of one checkpoint, from the file where it is there already."""
    path = folder / RECOVERY_FILE
    known: dict[str, Recoveries] = {record["checkpoint"]: record["recovery"] for record in recover(path)}
    if subject.name in known:
        return known[subject.name]
    began = time.perf_counter()
    encoder = subject.loaded.encoder
    held = [Judged(encoder.encode(e), encoder.answer_ids(e.output, RECOVERY_TOKENS)) for e in examples if e.output]
    found = all_recoveries(subject.base, subject.loaded, {"": held}, request.ks, RECOVERY_TOKENS, settings) if len(held) > 1 else {}
    with path.open("a", encoding="utf-8") as file:
        seconds = round(time.perf_counter() - began, 1)
        file.write(json.dumps({"checkpoint": subject.name, "recovery": found, "seconds": seconds}) + "\n")
        file.flush()
        os.fsync(file.fileno())
    return found


def _write(
    folder: Path, results: Results, answers: Sequence[Answer], examples: Sequence[Example], request: EvaluationRequest, first: Subject
) -> None:
    """What sums the folder up; an earlier experiment's names are those of the first checkpoint and budget."""
    k = request.ks[0]
    own = [entry for entry in results["answers"] if entry["checkpoint"] == first.name]
    write_json(folder / RESULTS_FILE, results | earlier_format.eval_results(first.name, k, own, results["seconds"]))
    shown = [name for name in earlier_format.NAMES if name in request.conditions and first.can(name)]
    prompts = [_prompt_texts(first, example, shown, k) for example in examples[: earlier_format.SAMPLES]]
    mine = [answer for answer in answers if answer["checkpoint"] == first.name]
    write_json(folder / "sample_outputs.json", earlier_format.sample_outputs(mine, examples, prompts, k))


def _seconds(folder: Path) -> float | None:
    """What all batches and recoveries took, those before an interruption included; None where a part was not timed."""
    timed = ((TIMINGS_FILE, "share_seconds"), (TASKS_FILE, "seconds"), (RECOVERY_FILE, "seconds"))
    parts = [line.get(name) for file, name in timed for line in recover(folder / file)]
    return None if None in parts else round(sum(parts), 1)


def _prompt_texts(subject: Subject, example: Example, conditions: Sequence[str], k: int) -> dict[str, str]:
    """What the decoder reads in each condition; gist slots, which have no text, as <GIST>."""
    texts = {}
    for name in conditions:
        made = subject.loaded.plan(example, CONDITIONS[name], k)
        text = subject.base.tokenizer.decode(list(made.prompt_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        texts[name] = ("" if made.compress_ids is None else "<GIST>" * made.k) + text
    return texts
