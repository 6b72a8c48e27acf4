"""Everything that page and command line can do, with the rules that hold for it. No torch at import."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gistdemo.checkpoint.archive import delete, pack, unpack
from gistdemo.checkpoint.pool import ModelPool
from gistdemo.checkpoint.registry import ModelRow, find_checkpoint, find_row, list_checkpoints, list_rows
from gistdemo.compare import compare, reusable
from gistdemo.conditions import CONDITIONS
from gistdemo.data.alpaca import Rows, read_rows
from gistdemo.data.examples import OWN_EXAMPLES, ExampleSources, Listed
from gistdemo.errors import GistDemoError, UsageError, one_line
from gistdemo.evaluate.request import EvaluationRequest
from gistdemo.grid import Cell, CompareRequest, Snapshot
from gistdemo.jobs.kinds import EVALUATE, KINDS, TRAIN
from gistdemo.jobs.queue import Jobs
from gistdemo.jobs.record import Job
from gistdemo.judge.judge import load_judge
from gistdemo.metrics import Assessment, Task, assess
from gistdemo.prompts import Example
from gistdemo.results.answer import Answer, Generated, judged
from gistdemo.results.divergence import Divergence
from gistdemo.results.evaluation import Evaluation, Results, find_evaluations
from gistdemo.results.imported import Foreign, import_results, read_foreign
from gistdemo.services.caller import Caller
from gistdemo.services.places import resolve
from gistdemo.settings import Settings
from gistdemo.train.config import TrainConfig

Compared = tuple[CompareRequest, tuple[Cell, ...]]  # a finished comparison
DISPUTED = "disputed.jsonl"  # verdicts that somebody found wrong
MOST_CHARACTERS = 20_000  # of a text that somebody pastes
MOST_JUDGED = 500  # answers of an import that are asked whether they are about what was asked
PLACES = ("data", "validation", "held_out", "backbone", "checkpoints")  # fields of settings that may name files or folders


class Services:
    """One installation. Methods are told who asks (`caller`); what they raise is for people to read.

    pool: where models come from. jobs: the queue of background jobs. judge: tells answers about what was asked from others; None: there is
    none.
    """

    def __init__(self, settings: Settings, pool: ModelPool | None = None, jobs: Jobs | None = None):
        self.settings = settings
        self.pool = pool or ModelPool(settings)
        self.jobs = jobs or Jobs(settings.runs_dir)
        self.judge = load_judge(self.pool, settings)
        self._sources = ExampleSources(settings)
        self._added: list[ModelRow] = []

    # --- models and rows of data --------------------------------------------------------------------------------------

    def rows(self) -> list[ModelRow]:
        """What can be compared: usable checkpoints, embedded models, and backbones that were added by hand."""
        offered = list_rows(self.settings)
        names = {row.name for row in offered}
        return [*offered, *(row for row in self._added if row.name not in names)]

    def row(self, name: str, caller: Caller) -> ModelRow:
        """The row of a name, or of a place that a local caller names.

        Raises: UsageError: it is not offered to the caller. CheckpointError: there is none.
        """
        self._check_offered([name], caller)
        return find_row(name, self.settings)

    def add_row(self, name: str, caller: Caller) -> ModelRow:
        """Offer a backbone by hub id or folder. It is fetched when it is first compared.

        Raises: UsageError: the caller may not. CheckpointError: there is no such model.
        """
        if not caller.is_local:
            raise UsageError("Other models can be added only on your own machine.")
        row = find_row(name.strip(), self.settings)
        if row.name not in {known.name for known in self.rows()}:
            self._added.append(row)
        return row

    def source(self, typed: str, caller: Caller) -> str:
        """Where the rows are that a form means; nothing typed: the embedded examples. Raises: UsageError: see `resolve`."""
        return resolve(typed.strip() or OWN_EXAMPLES, caller, self.settings)

    def examples(self, typed: str, caller: Caller) -> tuple[Listed, ...]:
        """Examples to choose from, each source read once. Raises: UsageError: see `resolve`. DataError: see `read_rows`."""
        return self._sources.load(self.source(typed, caller))

    def read_rows(self, typed: str, caller: Caller) -> Rows:
        """Rows to train on, checked one by one. Raises: UsageError: see `resolve`. DataError: see `read_rows`."""
        return read_rows(self.source(typed, caller))

    # --- comparing, training, evaluating ------------------------------------------------------------------------------

    def compare(
        self, request: CompareRequest, caller: Caller, stop: threading.Event | None = None, earlier: Compared | None = None
    ) -> Iterator[Snapshot]:
        """Run a comparison (see `gistdemo.compare.compare`). earlier: one whose cells are kept where this one would only compute them again.

        Raises: PromptError, UsageError: before anything is loaded. What fails later fails in its cells.
        """
        self._check_offered(request.checkpoints, caller)
        kept = reusable(earlier[1], earlier[0], request) if earlier else ()
        yield from compare(request, self.pool, stop or threading.Event(), kept=kept, judge=self.judge)

    def divergences(self, compared: Compared, caller: Caller) -> tuple[list[Divergence], list[str]]:
        """Where each condition of a finished comparison leaves the answer of the full prompt; and, in sentences, of which row that cannot
        be told."""
        from gistdemo.evaluate.divergence import divergences

        request, cells = compared
        self._check_offered(request.checkpoints, caller)
        found: list[Divergence] = []
        problems = []
        answers = {cell.checkpoint: cell.text for cell in cells if cell.condition == "full" and cell.text.strip() and not cell.error}
        for name in request.checkpoints:
            others = [
                c for c in request.conditions if c != "full" and any((n.checkpoint, n.condition) == (name, c) and not n.note for n in cells)
            ]
            if name not in answers or not others:
                problems.append(f"{name}: there is no answer of the full prompt to hold another against")
                continue
            try:
                base, loaded = self.pool.row(find_row(name, self.settings))
                found += base.engine.apart(
                    request.sampling.precision, divergences, base, loaded, request.example, others, request.k, answers[name]
                )
            except GistDemoError as error:
                problems.append(f"{name}: {one_line(error)}")
        return found, problems

    def dispute(self, compared: Compared, checkpoint: str, condition: str, caller: Caller) -> tuple[Path, int]:
        """Note that a person finds the verdict of a cell wrong: a line in a file of this installation, as `judge` reads it. Returns the file and
        how many lines it has now.

        Raises: UsageError: the caller may not, or there is no such answer.
        """
        if not caller.is_local:
            raise UsageError("Verdicts can be noted as wrong only on your own machine.")
        request, cells = compared
        cell = next((c for c in cells if (c.checkpoint, c.condition) == (checkpoint, condition) and c.diagnosis), None)
        if cell is None:
            raise UsageError(f"There is no judged answer of '{checkpoint}' under '{condition}' in this comparison. Compare again.")
        asked = {"instruction": request.example.instruction, "input": request.example.input, "reference": request.example.output}
        found = cell.to_dict(request.k if CONDITIONS[condition].depends_on_k else 0)
        judged_as = {name: found[name] for name in ("verdict", "flags", "task")}
        line = asked | {name: found[name] for name in ("checkpoint", "condition", "k", "text")} | judged_as
        path = self.settings.data_dir / DISPUTED
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        return path, path.read_text(encoding="utf-8").count("\n")

    def start_training(self, config: TrainConfig, caller: Caller) -> Job:
        """Queue a training run.

        Raises: UsageError: its name is taken, or see `resolve`. DataError: its rows cannot be read.
        """
        if config.name in self._taken_names() or any(job.title == config.name for job in self._open_jobs()):
            raise UsageError(f"There is a checkpoint or a job named '{config.name}' already. Give another name, or delete that one.")
        values = self._resolved(dataclasses.asdict(config), caller)
        read_rows(values["data"])
        return self._submit(TRAIN.name, values, config.name)

    def train(self, config: TrainConfig, run: Path, out: Path | None, caller: Caller) -> Path:
        """Train in this process (see `gistdemo.train.run.train`); returns the checkpoint's folder."""
        from gistdemo.train.run import train

        return train(config, run, self.settings, out)  # places as they were typed: a run goes on with exactly its own settings

    def start_evaluation(self, request: EvaluationRequest, title: str, caller: Caller) -> Job:
        """Queue an evaluation. Raises: UsageError: see `resolve`. UsageError, CheckpointError: see `row`."""
        values = self._resolved(dataclasses.asdict(request), caller)
        for name in values["checkpoints"]:
            self.row(name, caller)
        return self._submit(EVALUATE.name, values, title or ", ".join(request.checkpoints))

    def evaluate(self, request: EvaluationRequest, folder: Path, title: str, caller: Caller) -> Results:
        """Evaluate in this process (see `gistdemo.evaluate.run.evaluate`)."""
        from gistdemo.evaluate.run import evaluate

        return evaluate(EvaluationRequest.from_dict(self._resolved(dataclasses.asdict(request), caller)), folder, self.settings, title)

    def change_job(self, action: str, job_id: str, caller: Caller) -> Job:
        """Stop a job, resume it, or move it up in the queue: action "stop", "resume" or "sooner".

        Raises: JobError: there is no such job, or its state does not allow it.
        """
        changes: dict[str, Callable[[str], Any]] = {"stop": self.jobs.stop, "resume": self.jobs.resume}
        changes["sooner"] = lambda job: self.jobs.move(job, -1)
        changes[action](job_id)
        self.jobs.tick()
        return self.jobs.get(job_id)

    def delete_job(self, job_id: str, caller: Caller) -> None:
        """Remove an ended job and its files. Raises: JobError: it runs, or there is none."""
        self.jobs.delete(job_id)
        self.jobs.tick()

    # --- checkpoints and evaluations ----------------------------------------------------------------------------------

    def import_checkpoint(self, archive: Path, caller: Caller) -> str:
        """Take a checkpoint in from a zip, beside those made here. Returns its name.

        Raises: CheckpointError: see `unpack`; a name that a job is about to write is taken as well.
        """
        return unpack(archive, self.settings.checkpoint_dirs[-1], self._taken_names())

    def pack_checkpoint(self, name: str, into: Path) -> Path:
        """Write a checkpoint as NAME.zip into a folder; returns the zip. Raises: CheckpointError: there is none, or it is broken."""
        return pack(find_checkpoint(name, self.settings.checkpoint_dirs).folder, into)

    def delete_checkpoint(self, name: str, caller: Caller) -> None:
        """Remove a checkpoint made or imported here that no job needs.

        Raises: CheckpointError: a job that runs or waits needs it (named by its title); see `delete` for the others.
        """
        own = self.settings.checkpoint_dirs[-1]
        delete(name, own, self.settings.shipped_checkpoints_dir, [job.title for job in self.users_of(name, own / name)])

    def users_of(self, checkpoint: str, folder: Path | None = None) -> list[Job]:
        """Jobs that run or wait and need a checkpoint: they write it, train on it or measure it, under its name or (where given) as its
        folder."""
        return [job for job in self._open_jobs() if any(_is(value, checkpoint, folder) for value in _held(job))]

    def evaluations(self) -> list[Evaluation]:
        """Finished evaluations, newest first: jobs', imported ones and those that come with the app."""
        return find_evaluations((self.settings.runs_dir, self.settings.evaluations_dir, self.settings.assets_dir / "evaluations"))

    def import_results(self, typed: str, caller: Caller) -> Evaluation:
        """Judge results of another program (folder, .zip or .csv) and keep them as an evaluation.

        Raises: UsageError: nothing was typed, or see `resolve`. DataError: see `read_foreign`.
        """
        if not typed.strip():
            raise UsageError("No path is given. Type the path of a folder, a .zip or a .csv file.")
        source = Path(resolve(typed, caller, self.settings))
        folder = self.settings.evaluations_dir / _free_name(source.stem, self.settings.evaluations_dir)
        return Evaluation(folder.name, folder, import_results(source, folder, source.name, self._on_task))

    def judge_outputs(self, path: Path, caller: Caller) -> tuple[Foreign, list[Answer]]:
        """Judge every output in a file as an import does, and keep nothing. Raises: UsageError: see `resolve`. DataError: see `read_foreign`."""
        found = read_foreign(Path(resolve(str(path), caller, self.settings)), path.stem)
        return found, judged(found.generated, found.examples, self._on_task(found.generated, found.examples, len(found.generated)))

    def judge_text(self, example: Example, text: str) -> Assessment:
        """Everything that can be said of any text as an answer to an example. Raises: UsageError: it is too long."""
        if len(text) > MOST_CHARACTERS:
            raise UsageError(f"The text has {len(text):,} characters; at most {MOST_CHARACTERS:,} are judged. Shorten it.")
        return assess(text, example, task=self.judge.judge(example, text) if self.judge and self.judge.is_at_hand() else None)

    def _on_task(self, answers: Sequence[Generated], examples: Sequence[Example], most: int = MOST_JUDGED) -> list[Task | None]:
        """Whether the first `most` answers are about what was asked: it takes a fraction of a second each."""
        if self.judge is None or not self.judge.is_at_hand():
            return []
        asked = [self.judge.judge(examples[answer["row"]], answer["text"]) for answer in answers[:most]]
        return asked + [None] * (len(answers) - len(asked))

    # --- rules --------------------------------------------------------------------------------------------------------

    def _check_offered(self, names: Iterable[str], caller: Caller) -> None:
        offered = [row.name for row in self.rows()]
        unknown = [name for name in names if name not in offered]
        if unknown and not caller.is_local:
            raise UsageError(f"Model '{unknown[0]}' is not offered here. Choose of {', '.join(offered)}.")

    def _taken_names(self) -> set[str]:
        """Names of checkpoints, those that jobs are about to write included."""
        written = {KINDS[job.kind].makes(job.settings) for job in self._open_jobs() if job.kind in KINDS}
        return {entry.name for entry in list_checkpoints(self.settings.checkpoint_dirs)} | written - {""}

    def _open_jobs(self) -> list[Job]:
        return [job for job in self.jobs.list() if not job.is_final]

    def _resolved(self, values: dict[str, Any], caller: Caller) -> dict[str, Any]:
        """Settings whose places are found by a job that runs elsewhere."""

        def one(value: Any) -> Any:
            return resolve(value, caller, self.settings) if isinstance(value, str) else tuple(one(part) for part in value)

        return values | {name: one(values[name]) for name in PLACES if name in values}

    def _submit(self, kind: str, values: dict[str, Any], title: str) -> Job:
        job = self.jobs.submit(kind, values, title)
        self.jobs.tick()
        return self.jobs.get(job.id)


def _held(job: Job) -> tuple[str, ...]:
    kind = KINDS.get(job.kind)
    return (kind.makes(job.settings), *kind.needs(job.settings)) if kind else ()


def _is(value: str, checkpoint: str, folder: Path | None) -> bool:
    if value == checkpoint:
        return True
    # isdir is False, where samefile would raise, for what is not there and for names that no path can have
    return folder is not None and os.path.isdir(value) and os.path.isdir(folder) and os.path.samefile(value, folder)


def _free_name(stem: str, parent: Path) -> str:
    """A folder's name made of a file's, with a number behind it where that is taken."""
    wanted = re.sub(r"[^\w.-]", "-", stem).strip("-.")[:60] or "imported"
    return next(name for name in (wanted, *(f"{wanted}-{n}" for n in range(2, 10_000))) if not (parent / name).exists())
