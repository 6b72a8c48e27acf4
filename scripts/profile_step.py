"""Where the time of one step of decoding goes, as a picture: docs/step.svg.

    python scripts/profile_step.py [--out docs/step.svg]

torch's profiler over 20 steps of six rows and of one, on both embedded models, in both precisions, answering greedily. "Around": what passed
outside of any operation, Python for the most part. The profiler itself makes small operations look a little larger.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch.profiler import ProfilerActivity, profile

from gistdemo.checkpoint.pool import ModelPool
from gistdemo.checkpoint.registry import find_row
from gistdemo.memory import keep_freed_memory
from gistdemo.model.packed import computing
from gistdemo.settings import Settings

STEPS, PROMPT = 20, tuple(range(300, 340))
PARTS = {  # operations by the part of a step they belong to; all others are "norms, positions, copies"
    "products of the layers": ("mkldnn::_linear_pointwise", "quantized::linear_dynamic_fp16"),
    "vocabulary": ("onednn::qlinear_pointwise", "aten::nonzero", "aten::amax", "aten::argmax", "aten::index", "aten::ge"),
    "attention": ("aten::baddbmm", "aten::bmm", "aten::_softmax"),
}
OTHERS, AROUND = "norms, positions, copies", "around"
COLOURS = dict(zip((*PARTS, OTHERS, AROUND), ("#0f5f5c", "#5aa9a3", "#c98b2b", "#9a9384", "#d9d2c3"), strict=True))


def profiled(name: str, rows: int, precision: str, pool: ModelPool) -> dict[str, float]:
    """Milliseconds of a step by its parts."""
    model = pool.row(find_row(name, pool.settings))[0].model
    with torch.inference_mode(), computing(precision):  # type: ignore[arg-type]
        logits, decoding = model.read([None] * rows, [model.empty(rows)], [PROMPT] * rows, True)
        token = logits.argmax(-1)
        for _ in range(5):
            token = decoding.next_logits(token, True).argmax(-1)
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            began = time.perf_counter()
            for _ in range(STEPS):
                token = decoding.next_logits(token, True).argmax(-1)
            lasted = time.perf_counter() - began
    found = dict.fromkeys((*PARTS, OTHERS), 0.0)
    for event in seen.key_averages():
        part = next((part for part, names in PARTS.items() if event.key in names), OTHERS)
        found[part] += event.self_cpu_time_total / 1000 / STEPS
    return found | {AROUND: max(0.0, 1000 * lasted / STEPS - sum(found.values()))}


def picture(bars: dict[str, dict[str, float]]) -> str:
    """SVG: a bar per measurement, milliseconds to the right."""
    widest, left, height = max(sum(parts.values()) for parts in bars.values()), 215, 30
    lines = []
    for n, (name, parts) in enumerate(bars.items()):
        y, x = 44 + n * height, float(left)
        lines.append(f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{name}</text>')
        for part, value in parts.items():
            width = 480 * value / widest
            lines.append(
                f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="20" fill="{COLOURS[part]}"><title>{part}: {value:.1f} ms</title></rect>'
            )
            x += width
        lines.append(f'<text x="{x + 6:.1f}" y="{y + 14}">{sum(parts.values()):.0f} ms</text>')
    for n, (part, colour) in enumerate(COLOURS.items()):
        x = 10 + sum(22 + 6.6 * len(other) for other in list(COLOURS)[:n])
        lines.append(f'<rect x="{x:.0f}" y="12" width="12" height="12" fill="{colour}"/><text x="{x + 17:.0f}" y="22">{part}</text>')
    size = f'width="780" height="{54 + height * len(bars)}"'
    style = "<style>text{font:12px system-ui,sans-serif;fill:#23211d}</style>"
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}><rect {size} fill="#fffdf8"/>{style}\n' + "\n".join(lines) + "\n</svg>\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent.parent / "docs" / "step.svg")
    args = parser.parse_args()
    keep_freed_memory()
    pool = ModelPool(Settings.from_env())
    bars = {
        f"{title}, {rows} row{'s' * (rows > 1)}, {precision}": profiled(name, rows, precision, pool)
        for name, title in (("instruct", "SmolLM2-135M"), ("base", "Gemma-3-270M"))
        for rows in (1, 6)
        for precision in ("exact", "fast")
    }
    for name, parts in bars.items():
        print(name, {part: round(value, 1) for part, value in parts.items()}, flush=True)
    args.out.write_text(picture(bars), encoding="utf-8")


if __name__ == "__main__":
    main()
