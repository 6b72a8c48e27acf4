"""What a gist checkpoint folder must hold, read and checked without torch.

checkpoints/NAME/
  manifest.json        this module's record: backbone digest, template, slots, files with sha256, training, recovery
  gist.safetensors     "slots": (K, E), the gist vectors
  adapter/             optional LoRA in PEFT's format, on in phase 1 only (the compressor)
  weights.safetensors  optional: all weights of a backbone that was trained whole, instead of the backbone's own
  backbone_adapter/    optional LoRA in PEFT's format, on in both phases (a backbone tuned together with its gist)
  trained_rows.txt     marks of the instructions trained on (see `instruction_mark`), one per line
  LICENCE*.txt, NOTICE.txt  terms of the backbone that must travel with what is made from it
  README.md            the card
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from gistdemo.errors import CheckpointError
from gistdemo.prompts import Template

FORMAT = 1
GIST_FILE = "gist.safetensors"
WEIGHTS_FILE = "weights.safetensors"
ROWS_FILE = "trained_rows.txt"
COMPRESSOR_DIR = "adapter"
BACKBONE_ADAPTER_DIR = "backbone_adapter"
NAME = re.compile(r"\w[\w.-]{0,59}")  # a name is a folder's name as well, and file systems stop at 255 bytes: 60 letters of up to 4
NAME_RULE = "up to 60 letters, digits, '-', '_' and '.' (not '-' or '.' in front)"


@dataclass(frozen=True)
class Manifest:
    """One checkpoint.

    backbone / backbone_digest: which weights it was trained on. max_k: number of slots; trained_k: the budgets seen in training.
    anchored: slots start from the mean embeddings of stretches of the instruction (see `Compression`), not from their vector alone.
    files: relative path -> {"sha256", "bytes"}. training, recovery: as written by the trainer, for people and for the page.
    recipe: the recipe it was trained by, assets/recipes/RECIPE.json; "" where its settings are those of none.
    """

    name: str
    title: str
    summary: str
    mode: str
    backbone: str
    backbone_digest: str
    template: Template
    max_k: int
    trained_k: tuple[int, ...]
    has_compressor: bool
    has_backbone_adapter: bool
    files: dict[str, dict[str, Any]]
    anchored: bool = False
    has_weights: bool = False
    recipe: str = ""
    training: dict[str, Any] = field(default_factory=dict)
    recovery: dict[str, Any] = field(default_factory=dict)

    @property
    def model_key(self) -> str:
        """Names the weights that must be in memory: checkpoints with equal keys share one model."""
        return f"{self.backbone} with {self.files[WEIGHTS_FILE]['sha256'][:16]}" if self.has_weights else self.backbone

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=2, ensure_ascii=False) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """Read and check a checkpoint folder, file hashes included.

    Raises: CheckpointError: the manifest is missing, not JSON, of another format, incomplete, or a file is missing, truncated or foreign.
    """
    path = folder / "manifest.json"
    try:
        record = read_json(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"'{folder.name}' has no manifest.json. Copy the whole checkpoint folder again.") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"'{folder.name}': manifest.json cannot be read ({error}). Copy the checkpoint folder again.") from error
    manifest = _parse(record, folder.name)
    try:
        problems = [problem for name, expected in manifest.files.items() if (problem := _file_problem(folder, name, expected))]
    except OSError as error:
        raise CheckpointError(f"'{folder.name}': a file cannot be read ({error}). Copy the checkpoint folder again.") from error
    if problems:
        raise CheckpointError(f"'{folder.name}': {'; '.join(problems)}. Copy the checkpoint folder again.")
    return manifest


def read_json(path: Path) -> Any:
    """The value in a JSON file that came from elsewhere.

    Raises: OSError: it cannot be read. ValueError: it is not JSON, is nested too deep to be read, or has text with half a
    character (a lone surrogate), which could be neither printed nor sent to a page.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(record, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    return record


def describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    """sha256 and size of every weight and config file of a folder, for the manifest."""
    wanted = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name not in ("manifest.json", "README.md")]
    return {p.relative_to(folder).as_posix(): {"sha256": _sha256(p), "bytes": p.stat().st_size} for p in wanted}


def _parse(record: Any, name: str) -> Manifest:
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        found = record.get("format") if isinstance(record, dict) else type(record).__name__
        raise CheckpointError(
            f"'{name}': manifest format is {found!r}; this version reads format {FORMAT}. Train it again or update gistdemo."
        )
    if record.get("mode") == "lm" or record.get("stand_in"):
        raise CheckpointError(
            f"'{name}' belongs to the stand-in for a base model that earlier versions had. Use the checkpoint 'base' or the backbone "
            "'gemma-3-270m', a real base model, and delete this folder."
        )
    fields = {f.name: f for f in dataclasses.fields(Manifest)}
    missing = [n for n, f in fields.items() if n not in record and f.default is f.default_factory]
    if missing:
        raise CheckpointError(f"'{name}': manifest.json lacks {', '.join(missing)}. Copy the checkpoint folder again.")
    values = {n: record[n] for n in fields if n in record}
    try:
        template = values["template"]
        values["template"] = Template(**{**template, "stop": tuple(template["stop"])})
        values["trained_k"] = tuple(int(k) for k in values["trained_k"])
        manifest = Manifest(**values)
        _check_values(manifest)
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise CheckpointError(
            f"'{name}': manifest.json has a field of the wrong form ({error}). Copy the checkpoint folder again."
        ) from error
    return manifest


def _check_values(manifest: Manifest) -> None:
    kinds = {"str": str, "bool": bool, "dict[str, Any]": dict, "dict[str, dict[str, Any]]": dict}
    for f in dataclasses.fields(Manifest):
        value = getattr(manifest, f.name)
        if not isinstance(value, kinds.get(str(f.type), object)):
            raise ValueError(f"{f.name} is {value!r}")
    *texts, stop = vars(manifest.template).values()
    if not manifest.template.head or not all(isinstance(text, str) for text in (*texts, *stop)):
        raise ValueError(f"template is {manifest.template!r}")
    for name, expected in manifest.files.items():
        if "\0" in name or not isinstance(expected, dict) or (type(expected.get("sha256")), type(expected.get("bytes"))) != (str, int):
            raise ValueError(f"files lists {name!r} as {expected!r}")
    if manifest.recipe and not NAME.fullmatch(manifest.recipe):
        raise ValueError(f"recipe is {manifest.recipe!r}, allowed are {NAME_RULE}")
    if not isinstance(manifest.max_k, int) or not 1 <= manifest.max_k <= 1024:
        raise ValueError(f"max_k is {manifest.max_k!r}, allowed are 1 to 1024")
    if manifest.has_compressor and manifest.has_backbone_adapter:
        raise ValueError("it has both a compressor and a tuned backbone; one of them is allowed")
    needed = [GIST_FILE, *([WEIGHTS_FILE] if manifest.has_weights else [])]
    for present, folder in ((manifest.has_compressor, COMPRESSOR_DIR), (manifest.has_backbone_adapter, BACKBONE_ADAPTER_DIR)):
        needed += [f"{folder}/adapter_config.json", f"{folder}/adapter_model.safetensors"] if present else []
    for name in needed:
        if name not in manifest.files:
            raise ValueError(f"files does not list {name}")


def _file_problem(folder: Path, name: str, expected: dict[str, Any]) -> str | None:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        return f"{name} lies outside the folder"
    if not path.is_file():
        return f"{name} is missing"
    size = path.stat().st_size
    if size != expected.get("bytes"):
        return f"{name} has {size:,} bytes instead of {expected.get('bytes'):,} (truncated or replaced)"
    if _known_sha256(path, size, path.stat().st_mtime_ns) != expected.get("sha256"):
        return f"{name} is not the file this checkpoint was saved with (sha256 differs)"
    return None


@lru_cache(maxsize=1024)
def _known_sha256(path: Path, size: int, changed: int) -> str:
    """The same, read once per size and time of change (ns): weights have up to gigabytes, and checkpoints are listed at every click."""
    return _sha256(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
