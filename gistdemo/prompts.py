"""All template text, and how an example becomes token ids. The only file that knows what a prompt looks like.

An example is encoded once into segments (sink, template, instruction, input, suffix); a condition then decides which
segments are compressed, shown or dropped. Nothing here is cut silently, and no id has two meanings: gist slots are
positions, not vocabulary entries. Imports no torch; works with any fast transformers tokenizer.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any, Literal

from gistdemo.conditions import Condition
from gistdemo.errors import BackboneError, PromptError

Kind = Literal["sink", "template", "instruction", "gist", "input", "suffix"]
Fate = Literal["shown", "compressed", "slot", "dropped"]


@dataclass(frozen=True)
class Example:
    """One Alpaca row. `output` is the reference answer; empty when there is none."""

    instruction: str
    input: str = ""
    output: str = ""


@dataclass(frozen=True)
class Template:
    """The constant text around instruction, input and answer.

    The first token of `head` is the sink: it stays visible to the decoder in every condition and is the same for
    every instruction. `stop` lists the special tokens that end an answer.
    """

    name: str
    head: str
    before_instruction: str
    before_input: str
    suffix: str
    before_answer: str
    stop: tuple[str, ...]


CHATML = Template("chatml", "<|im_start|>user\n", "", "\n", "<|im_end|>\n<|im_start|>assistant\n", "", ("<|im_end|>", "<|endoftext|>"))
PLAIN = Template("plain", "Instruction:", " ", "\nInput: ", "\nOutput:", " ", ("<|endoftext|>", "<|im_end|>", "<|end_of_text|>", "</s>"))


def template_for(tokenizer: Any, kind: str) -> Template:
    """Choose the template of a backbone: `PLAIN` for kind "base", ChatML or the tokenizer's own chat template for "instruct".

    Raises: BackboneError: the tokenizer's chat template does not repeat the user's text unchanged.
    """
    if kind == "base":
        return PLAIN
    if None not in (id_of(tokenizer, "<|im_start|>"), id_of(tokenizer, "<|im_end|>")):
        return CHATML
    return _template_from_chat(tokenizer)


def id_of(tokenizer: Any, token: str) -> int | None:
    """The id of a token, None where the vocabulary has no such token. Asking for the whole vocabulary would take a second where it is large."""
    found = tokenizer.convert_tokens_to_ids(token)
    return found if found is not None and tokenizer.convert_ids_to_tokens(found) == token else None


def _template_from_chat(tokenizer: Any) -> Template:
    """Split the tokenizer's chat template around a marker that stands for the user's text."""
    marker = "\u2603user text\u2603"
    try:
        text = tokenizer.apply_chat_template([{"role": "user", "content": marker}], tokenize=False, add_generation_prompt=True)
    except Exception as error:  # jinja, missing template, unsupported roles: all the tokenizer's own
        raise BackboneError(
            f"The tokenizer's chat template cannot be rendered ({error}). Use the backbone as a base model instead."
        ) from error
    head, found, suffix = text.partition(marker)
    if not found or not head or not suffix or marker in suffix:
        raise BackboneError(
            "The tokenizer's chat template does not place the user's text between two constant parts; such templates are not supported."
        )
    return Template("chat", head, "", "\n", suffix, "", (str(tokenizer.eos_token),))


@dataclass(frozen=True)
class Segment:
    """A run of token ids with one meaning."""

    kind: Kind
    ids: tuple[int, ...]


@dataclass(frozen=True)
class EncodedPrompt:
    """An example as segments in prompt order: sink, template, instruction, (template, input,) suffix."""

    segments: tuple[Segment, ...]

    def count(self, kind: Kind) -> int:
        """Number of tokens of one kind."""
        return sum(len(segment.ids) for segment in self.segments if segment.kind == kind)

    def ids(self, *kinds: Kind) -> tuple[int, ...]:
        """Ids of the given kinds (all kinds when none is given), in prompt order."""
        return tuple(i for segment in self.segments if not kinds or segment.kind in kinds for i in segment.ids)


@dataclass(frozen=True)
class PromptPlan:
    """What one condition gives to the model, as plain integers.

    compress_ids: phase 1 ids, followed by `k` gist slots; None when nothing is compressed.
    prompt_ids: phase 2 ids, read by the decoder as text.
    k: gist slots, or the budget of `truncated`. Anchored slots are at most as many as the instruction has tokens.
    anchored_tokens: how many of the last compress_ids the slots are anchored to (see `Compression`); 0: they are appended.
    prompt_tokens: all the decoder can attend to when the answer starts: kept sink and slots + prompt ids.
    instruction_tokens -> kept_tokens: the compression of the instruction alone.
    """

    condition: str
    k: int
    compress_ids: tuple[int, ...] | None
    prompt_ids: tuple[int, ...]
    anchored_tokens: int
    instruction_tokens: int
    kept_tokens: int
    pieces: tuple[tuple[Kind, Fate, tuple[int, ...]], ...] = field(default=(), repr=False)

    @property
    def prompt_tokens(self) -> int:
        cached = 0 if self.compress_ids is None else 1 + self.k
        return cached + len(self.prompt_ids)


def plan(encoded: EncodedPrompt, condition: Condition, k: int, anchored: bool = False) -> PromptPlan:
    """Apply a condition with a budget of k tokens to an encoded example.

    `full`:      | sink template instruction input suffix |            all decoded as text
    `gist`:      | sink template instruction g1..gk | then | input suffix |   (phase 1 | phase 2; sink and g1..gk kept)
    `truncated`: | sink template instruction[:k] input suffix |
    `none`:      | sink template input suffix |
    `blind`:     | sink template g1..gk | then | input suffix |

    anchored: g1..gk start from stretches of the instruction; a token is given one slot at most, so there may be fewer than k.
    Source: Mu et al. 2023, section 3; unlike their LLaMA code a constant sink token stays visible.
    """
    at = next(n for n, segment in enumerate(encoded.segments) if segment.kind == "instruction")
    before, words, after = encoded.segments[:at], encoded.segments[at].ids, encoded.segments[at + 1 :]
    head = tuple(i for s in before for i in s.ids)
    rest = tuple(i for s in after for i in s.ids)
    part = condition.shown(len(words), k)
    shown = words[part]
    pieces: list[tuple[Kind, Fate, tuple[int, ...]]] = []
    if condition.gist_from is None:
        pieces += [(s.kind, "shown", s.ids) for s in before]
        cut: tuple[tuple[Fate, tuple[int, ...]], ...] = (
            ("dropped", words[: part.start]),
            ("shown", shown),
            ("dropped", words[part.stop :]),
        )
        pieces += [("instruction", fate, ids) for fate, ids in cut if ids]
        compress_ids, prompt_ids, anchors, kept = None, head + shown + rest, 0, len(shown)
    else:
        seen = condition.gist_from == "instruction"
        compress_ids = head + words if seen else head
        anchors = len(words) if seen and anchored else 0
        k = min(k, anchors) if anchors else k
        prompt_ids, kept = rest, k
        pieces += [(s.kind, "shown" if s.kind == "sink" else "compressed", s.ids) for s in before]
        pieces += [("instruction", "compressed" if seen else "dropped", words), ("gist", "slot", ())]
    pieces += [(s.kind, "shown", s.ids) for s in after]
    return PromptPlan(condition.name, k, compress_ids, prompt_ids, anchors, len(words), kept, tuple(pieces))


class PromptEncoder:
    """Encodes examples with one tokenizer and one template. Thread-safe; never changes the tokenizer.

    User text is tokenised literally: "<|im_end|>" typed by a user is nine characters, not the end of a turn.
    """

    def __init__(self, tokenizer: Any, template: Template, max_instruction_tokens: int = 1024, max_input_tokens: int = 1024):
        self.template = template
        self.max_instruction_tokens = max_instruction_tokens
        self.max_input_tokens = max_input_tokens
        self._marked = tokenizer  # reads special tokens in template text
        self._literal = copy.deepcopy(tokenizer)  # reads user text; a separate object because the flag is tokenizer state
        self._special = tuple(t.content for t in tokenizer.added_tokens_decoder.values() if t.special)
        head = self._template_ids(template.head)
        if tokenizer("", add_special_tokens=True).input_ids == [tokenizer.bos_token_id] and head[0] != tokenizer.bos_token_id:
            head = [tokenizer.bos_token_id, *head]  # a tokenizer that starts texts with BOS was trained with BOS
        self._head = tuple(head)
        stops = [found for token in template.stop if (found := id_of(tokenizer, token)) is not None]
        self.stop_ids = frozenset({*stops, tokenizer.eos_token_id} - {None})
        self.end_id = stops[0] if stops else tokenizer.eos_token_id

    def encode(self, example: Example) -> EncodedPrompt:
        """Turn an example into segments.

        Raises: PromptError: the instruction is empty, a field is too long or not valid Unicode, or the tokenizer merges
        characters across the border between template and text (then the parts would not be the whole).
        """
        instruction = self._checked("Instruction", example.instruction, required=True)
        given = self._checked("Input", example.input, required=False)
        t = self.template
        segments = [Segment("sink", self._head[:1]), Segment("template", self._head[1:])]
        segments.append(Segment("instruction", self.text_ids(t.before_instruction + instruction)))
        joined = t.head + t.before_instruction + instruction
        if given:
            before, space = t.before_input.rstrip(" "), t.before_input[len(t.before_input.rstrip(" ")) :]
            segments += [Segment("template", self.text_ids(before)), Segment("input", self.text_ids(space + given))]
            joined += t.before_input + given
        segments.append(Segment("suffix", tuple(self._template_ids(t.suffix))))
        encoded = EncodedPrompt(tuple(segments))
        self._check_limits(encoded)
        self._check_joined(encoded, joined + t.suffix, instruction + given)
        return encoded

    def joined(self, example: Example) -> Example:
        """The same prompt with instruction and input as one text to compress. An example without input stays as it is."""
        given = (example.input or "").strip()
        if not given:
            return example
        return Example(f"{example.instruction.strip()}{self.template.before_input}{given}", "", example.output)

    def answer_ids(self, text: str, limit: int) -> tuple[int, ...]:
        """Ids of an answer with the end token, cut to `limit` tokens (then without the end token)."""
        return (*self.text_ids(self.template.before_answer + text.strip()), self.end_id)[:limit]

    def text_ids(self, text: str) -> tuple[int, ...]:
        """Ids of plain text, special-token text taken literally, nothing added."""
        return tuple(self._literal(text, add_special_tokens=False, split_special_tokens=True).input_ids)

    def _checked(self, name: str, text: str | None, required: bool) -> str:
        text = (text or "").strip()
        if required and not text:
            raise PromptError(f"{name} is empty. Type what the model should do, or choose an example.")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise PromptError(f"{name} has a broken character at position {error.start} (half of a surrogate pair). Remove it.") from error
        return text

    def _check_limits(self, encoded: EncodedPrompt) -> None:
        for name, kind, limit in (("Instruction", "instruction", self.max_instruction_tokens), ("Input", "input", self.max_input_tokens)):
            tokens = encoded.count(kind)  # type: ignore[arg-type]
            if tokens > limit:
                raise PromptError(f"{name} has {tokens:,} tokens; at most {limit:,} are allowed. Shorten it: nothing is cut silently.")

    def _check_joined(self, encoded: EncodedPrompt, joined: str, user_text: str) -> None:
        if any(token in user_text for token in self._special):
            return  # the joined text would read the user's literal text as special tokens: there is no whole to compare with
        whole = self._template_ids(joined)
        if whole != list(encoded.ids())[-len(whole) :]:
            raise PromptError(
                f"The tokenizer joins characters across the border of template and text (template '{self.template.name}', "
                f"text starting {user_text[:20]!r}), so the parts are not the whole. Change the first or last character."
            )

    def _template_ids(self, text: str) -> list[int]:
        return list(self._marked(text, add_special_tokens=False).input_ids)
