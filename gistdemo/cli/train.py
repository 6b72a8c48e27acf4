"""`gistdemo train`: a run in this process, or in the queue."""

from __future__ import annotations

import argparse
import dataclasses
import logging
from functools import partial
from pathlib import Path
from typing import Any

from gistdemo.cli.output import Commands, log_to_stderr, tell_queued
from gistdemo.errors import TrainingError
from gistdemo.services import LOCAL, Services
from gistdemo.settings import Settings
from gistdemo.train.config import DTYPES, WEIGHTS, TrainConfig
from gistdemo.train.modes import MODES
from gistdemo.train.presets import PRESETS, read_recipe, with_preset


def add(commands: Commands) -> None:
    p = commands.add_parser(
        "train",
        help="train a gist checkpoint, or resume a run",
        description="Settings given by hand override those of a recipe, and these those of a preset.",
    )
    where = p.add_mutually_exclusive_group(required=True)
    where.add_argument("--run", type=Path, metavar="DIR", help="run directory; if it holds a run of the same settings, that run is resumed")
    where.add_argument("--queue", action="store_true", help="put the run into the queue of background jobs instead (see `jobs`)")
    p.add_argument("--out", type=Path, metavar="DIR", help="checkpoint folder to write (default: DIR/checkpoint)")
    p.add_argument("--recipe", metavar="NAME|FILE", help="settings of a shipped checkpoint (in assets/recipes) or of a JSON file")
    p.add_argument("--preset", choices=tuple(PRESETS), help="; ".join(f"{name}: {preset.purpose}" for name, preset in PRESETS.items()))
    for field in dataclasses.fields(TrainConfig):
        flag = "--" + field.name.replace("_", "-")
        given: dict[str, Any] = {"default": argparse.SUPPRESS, "help": _help(field)}
        if field.type == "bool":
            p.add_argument(flag, action=argparse.BooleanOptionalAction, **given)
        elif isinstance(field.default, tuple):
            p.add_argument(flag, type=partial(_items, kind=type(field.default[0])), metavar="A,B,..", **given)
        else:
            kind = str if field.default is dataclasses.MISSING else type(field.default)
            choices = {"mode": tuple(MODES), "weights": WEIGHTS, "dtype": DTYPES}.get(field.name)
            metavar = None if choices else kind.__name__.upper()
            p.add_argument(flag, type=kind, choices=choices, metavar=metavar, **given)
    p.set_defaults(command=_train)


def _help(field: dataclasses.Field[Any]) -> str:
    text: str = field.metadata["help"].replace("%", "%%")
    if field.default is dataclasses.MISSING or field.default == "":
        return text
    value = ",".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
    return f"{text} (default: {value})"


def _items(text: str, kind: type) -> tuple[Any, ...]:
    try:
        return tuple(kind(part.strip()) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of {kind.__name__}") from error


def _train(args: argparse.Namespace, settings: Settings) -> int:
    given = {f.name: getattr(args, f.name) for f in dataclasses.fields(TrainConfig) if hasattr(args, f.name)}
    config = with_preset(args.preset or "", (read_recipe(args.recipe, settings) if args.recipe else {}) | given)
    services = Services(settings)
    if args.queue:
        return tell_queued(services.start_training(config, LOCAL))
    try:
        args.run.mkdir(parents=True, exist_ok=True)
        log_file = logging.FileHandler(args.run / "log.txt", encoding="utf-8")
    except OSError as error:
        raise TrainingError(f"Run directory '{args.run}' cannot be written ({error.strerror}). Give another one with --run.") from error
    log_to_stderr(log_file)
    print(services.train(config, args.run, args.out, LOCAL))
    return 0
