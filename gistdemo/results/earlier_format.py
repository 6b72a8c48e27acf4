"""Results under the file and field names of an earlier public gist experiment, so that both can be laid side by side. No torch.

metrics.json: the training run. eval_results.json: scores of full text, gist and truncation. sample_outputs.json: the first
answers with their prompts. Source of the names: the result files of SujeethJinesh/LatentWire, November 2025. ROUGE is F1 from
0 to 1 there, and mean prompt tokens are the whole prompt's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gistdemo.prompts import Example

SAMPLES = 10
NAMES = {"full": "full_text", "gist": "gist", "truncated": "truncated"}


def training_metrics(training: dict[str, Any], max_k: int, backbone: str, final_loss: float) -> dict[str, Any]:
    """metrics.json of a run. training: the manifest's record of the run."""
    settings, rows = training["settings"], training["data"]["train"]["rows"]
    batch = settings["batch_size"] * settings["accumulation"]
    return {
        "num_gist_tokens": max_k,
        "num_samples": rows,
        "num_epochs": round(training["steps"] * batch / rows, 3),
        "batch_size": batch,
        "world_size": 1,
        "learning_rate": settings["gist_learning_rate"],
        "final_loss": final_loss,
        "total_steps": training["steps"],
        "total_time_minutes": training["seconds"] / 60,
        "model_id": backbone,
    }


def eval_results(checkpoint: str, k: int, entries: Sequence[dict[str, Any]], seconds: float | None) -> dict[str, Any]:
    """eval_results.json for one budget. entries: of `summarise`; conditions that were not run are None."""
    found = {NAMES[e["condition"]]: e for e in entries if e["condition"] in NAMES and e["k"] in (0, k)}
    full, gist, truncated = (found.get(name) for name in NAMES.values())

    def scores(entry: dict[str, Any] | None) -> dict[str, float] | None:
        return None if entry is None or entry["rougeL"] is None else {name: entry[name] / 100 for name in ("rouge1", "rouge2", "rougeL")}

    def relative(entry: dict[str, Any] | None) -> float | None:
        return entry["rougeL"] / full["rougeL"] if entry and full and entry["rougeL"] is not None and full["rougeL"] else None

    return {
        "checkpoint": checkpoint,
        "num_samples": max((e["n"] for e in entries), default=0),
        "num_gist_tokens": k,
        "compression_ratio": full["prompt_tokens"] / gist["prompt_tokens"] if full and gist else None,
        "avg_full_tokens": full["prompt_tokens"] if full else None,
        "avg_gist_tokens": gist["prompt_tokens"] if gist else None,
        "rouge_scores": {name: scores(found.get(name)) for name in NAMES.values()},
        "relative_performance": {"gist_vs_full": relative(gist), "truncated_vs_full": relative(truncated)},
        "eval_time_seconds": seconds,
    }


def sample_outputs(
    records: Sequence[dict[str, Any]], examples: Sequence[Example], prompts: Sequence[dict[str, str]], k: int
) -> list[dict[str, Any]]:
    """sample_outputs.json: the first rows. prompts: per row, the text of each condition's prompt."""
    texts = {(r["condition"], r["row"]): r["text"] for r in records if r["condition"] in NAMES and r["k"] in (0, k)}
    return [
        {NAMES[c]: texts.get((c, n)) for c in NAMES} | {"reference": examples[n].output, "prompts": prompts[n]}
        for n in range(min(SAMPLES, len(examples)))
    ]
