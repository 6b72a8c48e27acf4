"""Recovery figures of a finished checkpoint, measured on the files as they were saved, in the precision the app uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gistdemo.checkpoint.pool import LoadedBackbone
from gistdemo.checkpoint.store import LoadedCheckpoint
from gistdemo.evaluate.own_answers import own_answers
from gistdemo.evaluate.recovery import Judged, measure_recovery
from gistdemo.results.evaluation import Recoveries
from gistdemo.settings import Settings


def all_recoveries(
    base: LoadedBackbone,
    loaded: LoadedCheckpoint,
    held: Mapping[str, Sequence[Judged]],
    ks: Sequence[int],
    answer_tokens: int,
    settings: Settings,
) -> Recoveries:
    """Recovery of every budget in `ks` on every set of held-out rows, against two kinds of answers.

    held: sets of rows with reference answers, by name ("" for rows as they are, "long" for long text). Returns, per set,
    "references" and "own_answers" (behind the set's name). own_answers: the checkpoint's own greedy full-prompt answers, at most
    `answer_tokens` each.
    """
    adapters = (loaded.compress_adapter, loaded.decode_adapter)
    figures = {}
    for name, rows in held.items():
        prompts = [row.encoded for row in rows]
        answers = own_answers(
            base.engine, loaded.encoder.stop_ids, prompts, loaded.decode_adapter, answer_tokens, base.digest, settings.cache_dir
        )
        own = [Judged(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
        for target, judged in (("references", rows), ("own_answers", own)):
            label = f"{name}_{target}" if name else target
            figures[label] = measure_recovery(loaded.model, judged, loaded.slots, ks, *adapters, loaded.anchored)
    return figures
