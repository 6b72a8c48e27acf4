"""Judge: one answer and its example -> whether it is about what was asked. Imports no torch: the model is loaded when it is first needed."""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from gistdemo.checkpoint.pool import ModelPool
from gistdemo.checkpoint.registry import find_row
from gistdemo.errors import CheckpointError, GistDemoError, one_line
from gistdemo.judge.calibration import Calibration, digest_of
from gistdemo.metrics.task import Task, judge_task, judged_part, told_at_once
from gistdemo.model.embedded import EMBEDDED, is_ready
from gistdemo.prompts import Example
from gistdemo.settings import Settings

if TYPE_CHECKING:
    from gistdemo.judge.reader import Reader

log = logging.getLogger(__name__)
REMEMBERED = 20_000  # answers that are not judged twice


class Judge:
    """One judge for all who ask. It reads the text, not what wrote it, so the same answer is judged alike wherever it stands."""

    def __init__(self, pool: ModelPool, settings: Settings, calibration: Calibration):
        self._pool, self._settings, self.calibration = pool, settings, calibration
        self._known: OrderedDict[tuple[Example, str], Task] = OrderedDict()

    def of(self, name: str) -> Judge:
        """Another model with the same bounds, which were not calibrated for it."""
        return Judge(self._pool, self._settings, replace(self.calibration, checkpoint=name, digest=""))

    def is_at_hand(self) -> bool:
        """Whether it can be loaded without fetching anything."""
        try:
            row = find_row(self.calibration.checkpoint, self._settings)
        except CheckpointError:
            return False
        return row.backbone not in EMBEDDED or is_ready(EMBEDDED[row.backbone], self._settings)

    @cached_property
    def reader(self) -> Reader:
        """Raises: CheckpointError, BackboneError: the judge cannot be had, or is not the one that was calibrated."""
        from gistdemo.judge.reader import Reader

        name = self.calibration.checkpoint
        base, loaded = self._pool.row(find_row(name, self._settings))
        wanted = self.calibration.digest
        if wanted and (loaded.manifest is None or digest_of(loaded.manifest) != wanted):
            raise CheckpointError(
                f"'{name}' is not the checkpoint that the judge was calibrated with. Run scripts/calibrate_judge.py anew."
            )
        return Reader(base, loaded, self.calibration)

    def judge(self, example: Example, text: str) -> Task | None:
        """The second judgement of an answer. None where it is not judged: the judge is not to be had, or cannot read the prompt; the log
        says which."""
        if at_once := told_at_once(text, example.instruction, example.input):
            return at_once
        key = (replace(example, output=""), text)
        if key not in self._known:
            try:
                found = self.reader.likelihoods(example, judged_part(text))
            except GistDemoError as error:
                log.info("not judged: %s", one_line(error))
                return None
            except Exception:
                log.exception("judging failed")
                return None
            self._known[key] = judge_task(found, self.calibration.bounds, self.calibration.checkpoint)
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return self._known[key]


def load_judge(pool: ModelPool, settings: Settings) -> Judge | None:
    """The judge that comes with the app; None where none was calibrated."""
    try:
        return Judge(pool, settings, Calibration.read(settings.assets_dir))
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("no answer is judged: %s", one_line(error))
        return None
