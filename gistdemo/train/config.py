"""TrainConfig: every setting of a run, with unit and meaning, checked all at once. No torch."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gistdemo.errors import UsageError

MODES = ("lm", "embeddings", "compressor", "joint")
DTYPES = ("auto", "float32", "bfloat16")
WEIGHTS = ("lora", "all")
ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training run. Lengths are in tokens, counts of steps are optimizer steps.

    mode: `lm` (raw text, LoRA on in both phases: makes a base stand-in), `embeddings` (gist vectors only),
        `compressor` (gist vectors + LoRA in phase 1, distilled from the full prompt), `joint` (the paper: gist vectors + weights
        in both phases, instruction tuning and gist together).
    data: raw text .jsonl with a field `text` for `lm`; any Alpaca source otherwise.
    validation: Alpaca sources never trained on, joined by `+`; empty: split off from `data`.
    samples: training rows used, drawn with the seed; 0: all.
    ks: budgets, one drawn per step; the checkpoint has max(ks) slots.
    anchored: slots start from stretches of the instruction (see `gistdemo.model.gist_model.Compression`).
    teacher_answers: training rows whose own greedy full-prompt answer is generated first. A share teacher_share of the steps
        then learns from these answers, the others from references. Mode `compressor` only.
    long_share: share of the steps that compress long text (30 tokens or more: a long instruction, or instruction and input together).
    full_share: share of the steps that see the full prompt instead of the gist. Mode `joint` only.
    weights: what `joint` trains: `lora`, or `all` weights of the backbone.
    accumulation: batches per optimizer step. dtype: of the frozen weights; auto: bfloat16 where the processor multiplies it
        natively, else float32. Trained parameters are float32 always. device: auto, cpu or cuda.
    """

    mode: str
    name: str
    data: str
    backbone: str = "smollm2-135m-instruct"
    title: str = ""
    summary: str = ""
    validation: str = ""
    samples: int = 0
    steps: int = 120
    batch_size: int = 8
    accumulation: int = 1
    learning_rate: float = 1e-3
    gist_learning_rate: float = 5e-3
    warmup_steps: int = 8
    final_rate_share: float = 0.05
    gradient_clip: float = 1.0
    ks: tuple[int, ...] = (1, 2, 4, 8, 16)
    anchored: bool = True
    weights: str = "lora"
    rank: int = 16
    alpha: int = 16
    targets: tuple[str, ...] = ATTENTION
    answer_tokens: int = 48
    max_prompt_tokens: int = 256
    sequence_tokens: int = 128
    cross_entropy_weight: float = 0.2
    teacher_answers: int = 0
    teacher_share: float = 0.5
    long_share: float = 0.0
    full_share: float = 0.3
    seed: int = 0
    evaluate_every: int = 50
    evaluate_rows: int = 64
    save_every: int = 20
    threads: int = 0
    device: str = "auto"
    dtype: str = "auto"

    def __post_init__(self) -> None:
        problems = list(self._problems())
        if problems:
            raise UsageError("Training settings: " + "; ".join(problems) + ".")

    def _problems(self) -> Iterator[str]:
        wrong = [f"{f.name} is {getattr(self, f.name)!r}, a {f.type} is needed" for f in dataclasses.fields(self) if not self._has_type(f)]
        if wrong:
            yield from wrong  # the checks of values below would stumble over them
            return
        for field, allowed in (("mode", MODES), ("weights", WEIGHTS), ("dtype", DTYPES)):
            if getattr(self, field) not in allowed:
                yield f"{field} is '{getattr(self, field)}', allowed are {', '.join(allowed)}"
        if not self.name or any(c in self.name for c in "/\\ \0") or self.name.startswith("."):
            yield f"name is '{self.name}', allowed are letters, digits, '-', '_' and '.' (not in front)"
        for field in (
            "steps",
            "batch_size",
            "accumulation",
            "rank",
            "alpha",
            "answer_tokens",
            "max_prompt_tokens",
            "evaluate_every",
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
        for field in ("warmup_steps", "teacher_answers", "threads", "samples"):
            if getattr(self, field) < 0:
                yield f"{field} is {getattr(self, field)}, allowed are 0 or more"
        if not 0 <= self.cross_entropy_weight <= 100:
            yield f"cross_entropy_weight is {self.cross_entropy_weight}, allowed are 0 to 100"
        if self.sequence_tokens < 8:
            yield f"sequence_tokens is {self.sequence_tokens}, allowed are 8 or more"

    def _has_type(self, field: dataclasses.Field[Any]) -> bool:
        value = getattr(self, field.name)
        kinds = {"bool": bool, "str": str, "int": int, "float": (int, float), "tuple[int, ...]": tuple, "tuple[str, ...]": tuple}
        items = {"tuple[int, ...]": int, "tuple[str, ...]": str}.get(str(field.type), object)
        fits = isinstance(value, kinds[str(field.type)]) and isinstance(value, bool) == (field.type == "bool")
        return fits and (not isinstance(value, tuple) or all(isinstance(item, items) for item in value))

    def command(self) -> str:
        """The command line of this run: every setting that differs from its default; data files by name, without their folder."""
        words = ["python -m gistdemo train", f"--run runs/{self.name}"]
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                flag = f"--{field.name.replace('_', '-')}"
                if field.name in ("data", "validation"):
                    value = "+".join(_without_folder(part) for part in value.split("+"))
                text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
                if field.type == "bool":
                    words.append(flag if value else flag.replace("--", "--no-", 1))
                else:
                    words.append(f"{flag} {shlex.quote(text)}")
        return " ".join(words)

    @property
    def gist(self) -> bool:
        """False for mode `lm`, which has no gist."""
        return self.mode != "lm"

    @property
    def watched_k(self) -> int:
        """The budget whose recovery is measured during training: 4, or the middle one."""
        return 4 if 4 in self.ks else self.ks[len(self.ks) // 2]

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
        return cls(**{n: tuple(v) if isinstance(v, list) else v for n, v in values.items()})


def _without_folder(source: str) -> str:
    """A data file by its name: a folder says something about one machine only. Hub ids stay whole."""
    return source.replace("\\", "/").rsplit("/", 1)[-1] if "." in source else source
