"""TrainConfig: every setting of a run, with unit and meaning, checked all at once. No torch."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gistdemo.checkpoint.manifest import NAME, NAME_RULE
from gistdemo.data.alpaca import source_name
from gistdemo.errors import UsageError
from gistdemo.model.lora_targets import ATTENTION
from gistdemo.train.modes import MODES

DTYPES = ("auto", "float32", "bfloat16")
WEIGHTS = ("lora", "all")


def _setting(help: str, *default: Any) -> Any:
    """A field with its meaning, which the command line and the page show."""
    return dataclasses.field(metadata={"help": help}, **({"default": default[0]} if default else {}))


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training run. Lengths are in tokens, counts of steps are optimizer steps."""

    mode: str = _setting("; ".join(f"{mode.name}: {mode.meaning}" for mode in MODES.values()))
    name: str = _setting("name of the checkpoint")
    data: str = _setting("Alpaca file or hub dataset id")
    backbone: str = _setting("embedded model, hub id or folder", "smollm2-135m-instruct")
    title: str = _setting("name shown to people", "")
    summary: str = _setting("one line about the checkpoint", "")
    validation: str = _setting("Alpaca sources never trained on, joined by +; empty: split off from the data", "")
    held_out: str = _setting("file of marks of instructions never trained on, one per line (see `instruction_mark`); empty: none", "")
    samples: int = _setting("training rows used, drawn with the seed; 0: all", 0)
    steps: int = _setting("optimizer steps", 120)
    batch_size: int = _setting("rows per batch", 8)
    accumulation: int = _setting("batches per optimizer step", 1)
    learning_rate: float = _setting("peak rate of LoRA or weights (AdamW)", 1e-3)
    gist_learning_rate: float = _setting("peak rate of the gist vectors", 5e-3)
    warmup_steps: int = _setting("steps of linear warmup; cosine after it", 8)
    final_rate_share: float = _setting("share of the peak rate at the last step", 0.05)
    gradient_clip: float = _setting("largest gradient norm", 1.0)
    ks: tuple[int, ...] = _setting("gist budgets, one drawn per batch; the checkpoint has as many slots as the largest", (1, 2, 4, 8, 16))
    anchored: bool = _setting("slots start from stretches of the instruction, at their positions; else they are appended to it", True)
    weights: str = _setting("what joint trains: lora, or all weights of the backbone", "lora")
    rank: int = _setting("LoRA rank", 16)
    alpha: int = _setting("LoRA alpha; the update is scaled by alpha / rank", 16)
    targets: tuple[str, ...] = _setting("linear layers with LoRA", ATTENTION)
    answer_tokens: int = _setting("tokens of an answer to learn from and be judged by", 48)
    max_prompt_tokens: int = _setting("longer prompts are left out", 256)
    cross_entropy_weight: float = _setting("weight of cross-entropy beside KL, mode compressor", 0.2)
    distillation_weight: float = _setting("weight of KL from gist to full prompt, both with the weights of the moment, mode joint", 0.0)
    unlikelihood_weight: float = _setting("weight of the unlikelihood of saying again what the answer has said before, mode joint", 0.0)
    sampled_vocabulary: int = _setting("compare answers with their own tokens and so many random others per step; 0: all tokens", 0)
    teacher_answers: int = _setting(
        "rows whose own greedy full-prompt answer is generated first and learnt from, in modes that learn from own answers", 0
    )
    teacher_share: float = _setting("share of the batches that learn from these answers; the others learn from references", 0.5)
    long_share: float = _setting(
        "share of the batches that compress text of 30 tokens or more: a long instruction, or instruction and input", 0.0
    )
    full_share: float = _setting("share of the batches that see the full prompt instead of the gist, mode joint", 0.3)
    seed: int = _setting("draws slots, adapters, rows and budgets", 0)
    evaluate_every: int = _setting("steps between evaluations on held-out rows", 50)
    evaluate_rows: int = _setting("held-out rows of an evaluation", 64)
    sample_rows: int = _setting("held-out rows answered at every evaluation, to be read", 3)
    sample_tokens: int = _setting("length of these answers", 48)
    save_every: int = _setting("steps between saved states", 20)
    threads: int = _setting("processor threads; 0: as many as there are", 0)
    device: str = _setting("auto, cpu or cuda", "auto")
    dtype: str = _setting("of frozen weights; auto: bfloat16 where the processor multiplies it natively, else float32", "auto")

    def __post_init__(self) -> None:
        problems = list(self._problems())
        if problems:
            raise UsageError("Training settings: " + "; ".join(problems) + ".")

    def _problems(self) -> Iterator[str]:
        wrong = [f"{f.name} is {getattr(self, f.name)!r}, a {f.type} is needed" for f in dataclasses.fields(self) if not self._has_type(f)]
        if wrong:
            yield from wrong  # the checks of values below would stumble over them
            return
        for field, allowed in (("mode", tuple(MODES)), ("weights", WEIGHTS), ("dtype", DTYPES)):
            if getattr(self, field) not in allowed:
                yield f"{field} is '{getattr(self, field)}', allowed are {', '.join(allowed)}"
        if not NAME.fullmatch(self.name):
            yield f"name is '{self.name}', allowed are {NAME_RULE}"
        for field in (
            "steps",
            "batch_size",
            "accumulation",
            "rank",
            "alpha",
            "answer_tokens",
            "max_prompt_tokens",
            "evaluate_every",
            "sample_tokens",
            "save_every",
        ):
            if getattr(self, field) < 1:
                yield f"{field} is {getattr(self, field)}, allowed are 1 or more"
        for field in ("learning_rate", "gist_learning_rate", "gradient_clip"):
            if not 0 < getattr(self, field) < 10:
                yield f"{field} is {getattr(self, field)}, allowed is more than 0, less than 10"
        for field in ("teacher_share", "final_rate_share", "long_share", "full_share"):
            if not 0 <= getattr(self, field) <= 1:
                yield f"{field} is {getattr(self, field)}, allowed are 0 to 1"
        if not self.ks or list(self.ks) != sorted(set(self.ks)) or not 1 <= self.ks[0] <= self.ks[-1] <= 64:
            yield f"ks is {self.ks}, allowed are rising whole numbers from 1 to 64"
        if self.evaluate_rows < 2:
            yield f"evaluate_rows is {self.evaluate_rows}, allowed are 2 or more (the swapped control needs another row)"
        for field in ("warmup_steps", "sampled_vocabulary", "teacher_answers", "threads", "samples", "sample_rows"):
            if getattr(self, field) < 0:
                yield f"{field} is {getattr(self, field)}, allowed are 0 or more"
        if self.mode in MODES and MODES[self.mode].answers == "own" and not self.teacher_answers:
            yield f"teacher_answers is 0, but mode {self.mode} learns from them alone; allowed are 1 or more"
        for field in ("cross_entropy_weight", "distillation_weight", "unlikelihood_weight"):
            if not 0 <= getattr(self, field) <= 100:
                yield f"{field} is {getattr(self, field)}, allowed are 0 to 100"

    def _has_type(self, field: dataclasses.Field[Any]) -> bool:
        value = getattr(self, field.name)
        kinds: dict[str, type | tuple[type, ...]] = {
            "bool": bool,
            "str": str,
            "int": int,
            "float": (int, float),
            "tuple[int, ...]": tuple,
            "tuple[str, ...]": tuple,
        }
        items: type = {"tuple[int, ...]": int, "tuple[str, ...]": str}.get(str(field.type), object)
        fits = isinstance(value, kinds[str(field.type)]) and isinstance(value, bool) == (field.type == "bool")
        return fits and (not isinstance(value, tuple) or all(isinstance(item, items) for item in value))

    def command(self) -> str:
        """The command line of this run: every setting that differs from its default; data files by name, without their folder."""
        words = ["python -m gistdemo train", f"--run runs/{self.name}"]
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                flag = f"--{field.name.replace('_', '-')}"
                if field.name in ("data", "validation", "held_out"):
                    value = source_name(value)
                text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
                if field.type == "bool":
                    words.append(flag if value else flag.replace("--", "--no-", 1))
                else:
                    words.append(f"{flag} {shlex.quote(text)}")
        return " ".join(words)

    @property
    def watched_k(self) -> int:
        """The budget whose recovery is measured during training: 4, or the middle one."""
        return 4 if 4 in self.ks else self.ks[len(self.ks) // 2]

    def recipe(self) -> dict[str, Any]:
        """The settings without the sources of rows, which belong to one machine: what another run can start from."""
        values = {name: value for name, value in json.loads(self.to_json()).items() if name not in ("data", "validation")}
        return values | {"held_out": source_name(self.held_out)}

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainConfig:
        """Build from plain values (JSON lists for tuples).

        Raises: UsageError: unknown or missing fields, or values that are not allowed.
        """
        fields = {f.name: f for f in dataclasses.fields(cls)}
        unknown = [name for name in values if name not in fields]
        missing = [n for n, f in fields.items() if f.default is dataclasses.MISSING and n not in values]
        if unknown or missing:
            raise UsageError(f"Training settings: unknown {', '.join(unknown) or '-'}; missing {', '.join(missing) or '-'}.")
        plain: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}
        return cls(**plain)
