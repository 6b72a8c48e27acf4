"""assets/judge.json: who judges, the prompts that answers are held against, and the bounds that were calibrated with them. No torch.

`scripts/calibrate_judge.py` writes it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from gistdemo.checkpoint.manifest import Manifest
from gistdemo.files import write_json
from gistdemo.generation import Precision
from gistdemo.metrics.task import Bounds
from gistdemo.prompts import Example

FILE = "judge.json"


@dataclass(frozen=True)
class Calibration:
    """checkpoint, digest: who judges, and of its weights: bounds hold for these alone ("": for want of better ones). precision: of its products.

    tokens: of an answer that are judged. vocabulary: the first so many ids share the probability with the answer's own. input_characters: of an
    input that the judge reads. instructions: held against the own one before the same input. prompts: held against the own one. bounds: of
    prompts, of instructions.
    """

    checkpoint: str
    digest: str
    precision: Precision
    tokens: int
    vocabulary: int
    input_characters: int
    instructions: tuple[str, ...]
    prompts: tuple[Example, ...]
    bounds: tuple[Bounds, Bounds]

    @classmethod
    def read(cls, assets: Path) -> Calibration:
        """Raises: OSError, ValueError, KeyError, TypeError: the file is missing or not what `write` wrote."""
        found = json.loads((assets / FILE).read_text(encoding="utf-8"))
        return cls(
            **found
            | {
                "instructions": tuple(found["instructions"]),
                "prompts": tuple(Example(**prompt, output="") for prompt in found["prompts"]),
                "bounds": tuple(Bounds(**found["bounds"][name]) for name in ("prompts", "instructions")),
            }
        )

    def write(self, assets: Path) -> None:
        prompts = [{"instruction": prompt.instruction, "input": prompt.input} for prompt in self.prompts]
        bounds = {name: vars(bound) for name, bound in zip(("prompts", "instructions"), self.bounds, strict=True)}
        write_json(assets / FILE, vars(self) | {"prompts": prompts, "bounds": bounds})


def digest_of(manifest: Manifest) -> str:
    """Tells the weights of a checkpoint from others: of its backbone, and of every tensor file of its own."""
    tensors = {name: file["sha256"] for name, file in sorted(manifest.files.items()) if name.endswith(".safetensors")}
    return "sha256:" + hashlib.sha256(json.dumps([manifest.backbone_digest, tensors]).encode()).hexdigest()
