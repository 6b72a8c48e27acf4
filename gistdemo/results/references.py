"""Figures that others published, as they published them, with their source and with what differs from ours. No torch.

Sources: Mu, Li and Goodman, "Learning to Compress Prompts with Gist Tokens", NeurIPS 2023, Table 1 (arXiv:2304.08467);
SujeethJinesh/LatentWire on GitHub, results of 2 November 2025.
"""

from __future__ import annotations

from typing import TypedDict

from gistdemo.conditions import CONDITIONS
from gistdemo.metrics import normalised_score

PAPER, EARLIER = "Mu et al. 2023, Table 1", "LatentWire, November 2025"
PAPER_NOTE = (
    "every weight of the model was fine-tuned, for gist and instruction following together; Alpaca+ rows, answers of 512 tokens at most; "
    "ROUGE-L as here (F1 x 100, stemmer); seen: instructions of the training data, unseen: other ones, human: written by people"
)
EARLIER_NOTE = (
    "one gist vector on a frozen base model, published as F1 from 0 to 1; the gist's prompt held no instruction, training let tokens see "
    "what follows them, truncation kept up to 60 tokens of prompts that had 33, padding stood on the wrong side, positions froze while "
    "decoding, and the first tokens of answers were cut off: the figures say little about gist tokens or base models"
)

# model -> condition and k -> ROUGE-L on seen, unseen, human
_PAPER: dict[str, dict[tuple[str, int], tuple[float, float, float]]] = {
    "LLaMA-7B": {
        ("full", 0): (58.0, 48.1, 27.0),
        ("gist", 1): (57.8, 46.6, 23.9),
        ("gist", 2): (57.6, 46.5, 24.9),
        ("gist", 5): (57.6, 46.4, 24.9),
        ("gist", 10): (56.9, 47.7, 24.8),
        ("none", 0): (31.5, 31.4, 14.4),
    },
    "FLAN-T5-XXL": {("full", 0): (50.6, 45.7, 23.9), ("gist", 1): (48.9, 43.8, 21.7), ("none", 0): (25.5, 29.1, 12.4)},
}


# the earlier experiment's run as published: mean loss of its two epochs, ROUGE-L as F1 from 0 to 1, prompt tokens of full and gist
EARLIER_LOSS, EARLIER_TOKENS = (0.217, 0.157), (33.3, 12.4)
EARLIER_ROUGE = {"full": 0.0517, "gist": 0.0270, "truncated": 0.0290}


class Reference(TypedDict):
    """One published figure. rougeL: 0 to 100. normalised: 0 is no instruction, 100 the full prompt; None where unknown."""

    source: str
    model: str
    split: str
    condition: str
    k: int
    rougeL: float
    normalised: float | None
    note: str


def reference_table() -> list[Reference]:
    """All of them, source by source."""
    lines = []
    for model, figures in _PAPER.items():
        for at, split in enumerate(("seen", "unseen", "human")):
            for (condition, k), scores in figures.items():
                ends = figures["none", 0][at], figures["full", 0][at]
                lines.append(_line(PAPER, model, split, condition, k, scores[at], normalised_score(scores[at], *ends), PAPER_NOTE))
    for condition, score in EARLIER_ROUGE.items():
        k = int(CONDITIONS[condition].depends_on_k)
        lines.append(_line(EARLIER, "Llama-3.1-8B base", "Alpaca, last 200 rows", condition, k, 100 * score, None, EARLIER_NOTE))
    return lines


def _line(source: str, model: str, split: str, condition: str, k: int, score: float, normalised: float | None, note: str) -> Reference:
    return {
        "source": source,
        "model": model,
        "split": split,
        "condition": condition,
        "k": k,
        "rougeL": score,
        "normalised": normalised,
        "note": note,
    }
