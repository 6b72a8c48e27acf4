"""The README card of a checkpoint, written from its manifest: no number that is not in there. No torch."""

from __future__ import annotations

from typing import Any

from gistdemo.checkpoint.manifest import Manifest
from gistdemo.model.embedded import EMBEDDED
from gistdemo.train.modes import MODES

ANCHORED = (
    "Slots are anchored: each starts from its vector plus the mean embedding of its stretch of the instruction, at that stretch's position. "
    "Only the keys and values of the slots (and of one constant sink token) reach the decoder."
)
TARGETS = {
    "references": "reference answers",
    "own_answers": "the checkpoint's own greedy full-prompt answers",
    "long_references": "text of 30 tokens or more compressed as a whole, reference answers",
    "long_own_answers": "text of 30 tokens or more compressed as a whole, the checkpoint's own greedy full-prompt answers",
}


def write_card(manifest: Manifest) -> str:
    """Markdown: what it is, how well it compresses, how it was made, licence."""
    lines = [f"# {manifest.title}", "", manifest.summary or MODES[manifest.mode].card, "", MODES[manifest.mode].card, ""]
    lines += [f"- Backbone: `{manifest.backbone}` (`{manifest.backbone_digest[:19]}...`)"]
    lines += [
        f"- Mode: `{manifest.mode}`; gist tokens: {manifest.max_k} (trained budgets {', '.join(map(str, manifest.trained_k)) or 'none'})",
    ]
    if weight := manifest.training.get("settings", {}).get("distillation_weight"):
        lines.append(f"- Unlike the paper, the gist is also taught by the full prompt under the same weights: KL, weight {weight:g}.")
    if weight := manifest.training.get("settings", {}).get("unlikelihood_weight"):
        lines.append(f"- Unlike the paper, repeating its own words is made unlikely (Welleck et al. 2020): weight {weight:g}.")
    lines += [f"- {ANCHORED}", ""] if manifest.anchored else [""]
    for target, title in TARGETS.items():
        if target in manifest.recovery:
            lines += _recovery_table(manifest.recovery[target], title)
    training = manifest.training
    lines += [
        "## Training",
        "",
        f"{training['steps']} steps in {training['seconds'] / 60:.1f} min on {training['device']}. All settings and the digests of the rows: manifest.json.",
        "",
    ]
    if manifest.recipe:
        command = f"`scripts/recipes/{manifest.recipe}.sh DATA`"
        lines += [
            f"Recipe: `{manifest.recipe}`. {command} trains it anew; DATA: a folder with train.jsonl and validation_unseen.jsonl.",
            "",
        ]
    if "command" in training:
        lines += ["```sh", training["command"], "```", ""]
    lines += ["## Licence", "", *_licence(manifest)]
    return "\n".join(lines) + "\n"


def _licence(manifest: Manifest) -> list[str]:
    model = EMBEDDED.get(manifest.backbone)
    lines = [
        f"Backbone: {model.title}, {model.licence} (LICENCE.txt)." if model else f"Backbone: `{manifest.backbone}`, under its own licence."
    ]
    if model and model.notice:
        changed = "The files here are changes to that model: " + (
            "its weights were tuned." if manifest.has_backbone_adapter or manifest.has_weights else "what is added to it."
        )
        lines += [f"{model.notice}. {changed}"]
    return [*lines, "The training rows are in part CC BY-NC 4.0 (Alpaca): treat this checkpoint as non-commercial."]


def _recovery_table(figures: dict[str, Any], title: str) -> list[str]:
    """Recovery per budget beside its control (another row's gist)."""
    lines = [
        f"Recovery on {figures['rows']} held-out rows, {title} (0 = blind, 1 = lossless; `swapped` = another row's gist, should be near 0):",
        "",
    ]
    lines += ["| k | recovery | swapped | NLL gist |", "| --- | --- | --- | --- |"]
    for k, row in figures["by_k"].items():
        recovery, swapped = (f"{row[name]:.2f}" if row[name] is not None else "-" for name in ("recovery", "swapped"))
        lines.append(f"| {k} | {recovery} | {swapped} | {row['nll_gist']:.3f} |")
    return [*lines, "", f"NLL full prompt {figures['nll_full']:.3f}, no instruction {figures['nll_none']:.3f} nats per token.", ""]
