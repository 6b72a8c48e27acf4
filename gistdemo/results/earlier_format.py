"""Results under the file and field names of an earlier public gist experiment, so that both can be laid side by side. No torch.

metrics.json: the training run. eval_results.json: scores of full text, gist and truncation. sample_outputs.json: the first
answers with their prompts. Source of the names: the result files of SujeethJinesh/LatentWire, November 2025. ROUGE is F1 from
0 to 1 there, and mean prompt tokens are the whole prompt's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gistdemo.prompts import Example
from gistdemo.results.answer import Answer
from gistdemo.results.summary import Entry

SAMPLES = 10
ROUGE = ("rouge1", "rouge2", "rougeL")
NAMES = {"full": "full_text", "gist": "gist", "truncated": "truncated"}


def training_metrics(training: Mapping[str, Any], max_k: int, backbone: str, final_loss: float) -> dict[str, object]:
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


def eval_results(checkpoint: str, k: int, entries: Sequence[Entry], seconds: float | None) -> dict[str, object]:
    """eval_results.json for one budget; conditions that were not run are None."""
    found = {NAMES[e["condition"]]: e for e in entries if e["condition"] in NAMES and e["k"] in (0, k)}
    tokens, gist_tokens = (found[name]["prompt_tokens"] if name in found else None for name in ("full_text", "gist"))

    scores = {name: {r: e["scores"][r]["mean"] / 100 for r in ROUGE if r in e["scores"]} for name, e in found.items()}

    def relative(name: str) -> float | None:
        score, whole = (scores.get(one, {}).get("rougeL") for one in (name, "full_text"))
        return score / whole if score is not None and whole else None

    return {
        "checkpoint": checkpoint,
        "num_samples": max((e["n"] for e in entries), default=0),
        "num_gist_tokens": k,
        "compression_ratio": tokens / gist_tokens if tokens and gist_tokens else None,
        "avg_full_tokens": tokens,
        "avg_gist_tokens": gist_tokens,
        "rouge_scores": {name: scores.get(name) or None for name in NAMES.values()},
        "relative_performance": {"gist_vs_full": relative("gist"), "truncated_vs_full": relative("truncated")},
        "eval_time_seconds": seconds,
    }


def sample_outputs(
    answers: Sequence[Answer], examples: Sequence[Example], prompts: Sequence[Mapping[str, str]], k: int
) -> list[dict[str, object]]:
    """sample_outputs.json: the first rows. prompts: per row, the text of each condition's prompt."""
    texts = {(a["condition"], a["row"]): a["text"] for a in answers if a["condition"] in NAMES and a["k"] in (0, k)}
    return [
        {NAMES[c]: texts.get((c, n)) for c in NAMES} | {"reference": examples[n].output, "prompts": prompts[n]}
        for n in range(min(SAMPLES, len(examples)))
    ]
