"""Where things live and which limits hold. Read once from the environment at start-up, then passed in; nothing else reads it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path, user_data_path

PACKAGE_DIR = Path(__file__).resolve().parent
PROJECT_DIR = PACKAGE_DIR.parent  # in a checkout; where the package is installed, others live here


def shipped_dir() -> Path:
    """The folder of what comes with gistdemo, assets/ and checkpoints/: the checkout, or a folder inside the installed package."""
    packed = PACKAGE_DIR / "_shipped"  # filled when a wheel is built (pyproject.toml); a checkout has none
    return packed if packed.is_dir() else PROJECT_DIR


@dataclass(frozen=True)
class Settings:
    """Folders and limits of one installation.

    cache_dir holds what can be fetched or computed again (backbones, teacher answers); data_dir holds what cannot
    (training runs, checkpoints made here). assets_dir and shipped_checkpoints_dir come with the project. embedded: names of the embedded
    models that may be fetched and used; None: all.
    """

    cache_dir: Path
    data_dir: Path
    assets_dir: Path = shipped_dir() / "assets"
    shipped_checkpoints_dir: Path = shipped_dir() / "checkpoints"
    device: str = "cpu"
    max_instruction_tokens: int = 1024
    max_input_tokens: int = 1024
    max_new_tokens: int = 512
    embedded: tuple[str, ...] | None = None

    @property
    def runs_dir(self) -> Path:
        """Run directories of training jobs."""
        return self.data_dir / "runs"

    @property
    def evaluations_dir(self) -> Path:
        """Evaluations that were imported."""
        return self.data_dir / "evaluations"

    @property
    def examples_file(self) -> Path:
        """The embedded examples."""
        return self.assets_dir / "examples.jsonl"

    @property
    def checkpoint_dirs(self) -> tuple[Path, ...]:
        """Folders searched for gist checkpoints, shipped ones first."""
        return (self.shipped_checkpoints_dir, self.data_dir / "checkpoints")

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Settings:
        """Read GISTDEMO_HOME (one folder for cache and data; default: the platform's own folders), GISTDEMO_DEVICE and
        GISTDEMO_EMBEDDED (names separated by commas)."""
        env = os.environ if env is None else env
        home = env.get("GISTDEMO_HOME")
        cache = Path(home) / "cache" if home else user_cache_path("gistdemo")
        data = Path(home) / "data" if home else user_data_path("gistdemo")
        names = env.get("GISTDEMO_EMBEDDED")
        embedded = None if names is None else tuple(name.strip() for name in names.split(",") if name.strip())
        return cls(cache_dir=cache, data_dir=data, device=env.get("GISTDEMO_DEVICE", "cpu"), embedded=embedded)
