"""Write docs/FIGURES.md from the evaluations and checkpoints that come with the app: python scripts/write_figures.py"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gistdemo.checkpoint.registry import list_checkpoints
from gistdemo.evaluate.paper_table import markdown_table
from gistdemo.evaluate.results import find_evaluations
from gistdemo.settings import PROJECT_DIR, Settings

HEAD = """# All figures

Written by `python scripts/write_figures.py` from `assets/evaluations/` and `checkpoints/`; do not edit. Each table names the command that measured it; DATA is a
folder with Alpaca rows. Machine: two CPU cores, fp32. What to read from them: README.md and the About tab.
"""
TARGETS = {"references": "reference answers", "own_answers": "own full-prompt answers"}
ENDING = """
Above 1: part of what was learnt is how such answers sound. In brackets the control, another row's gist: near 0 it tells nothing about the row, below 0 it
misleads, and a high value means that the vectors learnt how answers sound and little of what was asked.
"""


def recovery_lines(settings: Settings) -> list[str]:
    """One line per checkpoint and kind of answers, as kept beside it."""
    lines = ["| checkpoint | answers | rows | k=1 | k=2 | k=4 | k=8 | k=16 |", "| --- |" + " --- |" * 7]
    for entry in list_checkpoints((settings.shipped_checkpoints_dir,)):
        found = entry.recovery()
        for target, title in TARGETS.items():
            if target in found:
                by_k = found[target]["by_k"]
                cells = [f"{by_k[k]['recovery']:.2f} ({by_k[k]['swapped']:.2f})" if k in by_k else "-" for k in ("1", "2", "4", "8", "16")]
                lines.append(f"| `{entry.name}` | {title} | {found[target]['rows']} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    settings = Settings.from_env()
    parts = [HEAD, "## Recovery\n", *recovery_lines(settings), ENDING]
    for evaluation in sorted(find_evaluations([settings.assets_dir / "evaluations"]), key=lambda e: e.id):
        parts += [f"## {evaluation.title}\n", markdown_table(evaluation.results)]
    (PROJECT_DIR / "docs" / "FIGURES.md").write_text("\n".join(parts).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
