"""The engine: a batch equals its rows one by one, text streams without broken characters, stopping and failing touch nobody else."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch
from lab import EXAMPLES, NEVER, Lab

from gistdemo.generation import RowReady, Sampling, TokenEvent
from gistdemo.model.engine import EngineRow, TextStream
from gistdemo.model.gist_model import GistModel
from gistdemo.model.sampling import choose, nucleus, row_generators

WARM = Sampling(12, temperature=1.2, top_p=0.9, seed=11)


def mixed_rows(lab: Lab) -> list[EngineRow]:
    """Unequal lengths, budgets, conditions, adapters in either phase and stop tokens, in one list."""
    return [
        lab.row("gist", EXAMPLES[0], 1, "one"),
        lab.row("full", EXAMPLES[1]),
        lab.row("gist", EXAMPLES[1], 8, "one", "two"),
        lab.row("truncated", EXAMPLES[3], 5, decode_adapter="two"),
        lab.row("gist", EXAMPLES[2], 4),
        lab.row("none", EXAMPLES[1], decode_adapter="one"),
        lab.row("blind", EXAMPLES[3], 2, "two", "two"),
        replace(lab.row("full", EXAMPLES[0]), stop_ids=frozenset(range(3, 120))),
    ]


# --- batches -------------------------------------------------------------------------------------------------------------


def test_a_mixed_batch_equals_its_rows_one_by_one(adapted):
    rows = mixed_rows(adapted)
    together, alone = adapted.generate(rows), [adapted.generate([row])[0] for row in rows]
    assert together == alone
    assert {answer.reason for answer in together} == {"limit", "eos"} and len({tuple(answer.ids) for answer in together}) == len(rows)


@pytest.mark.parametrize("sampling", [WARM, Sampling(12, temperature=0.7), Sampling(12, temperature=3.0, top_p=0.5, seed=2**63 - 1)])
def test_sampled_rows_do_not_depend_on_the_batch_around_them(adapted, sampling):
    rows = mixed_rows(adapted)
    together = adapted.ids(rows, sampling)
    assert together == [adapted.ids([row], sampling)[0] for row in rows]
    assert adapted.ids(rows[::-1], sampling) == together[::-1]


def test_a_seed_repeats_an_answer_and_another_seed_gives_another(lab):
    row = lab.row("full", EXAMPLES[1])
    assert lab.ids([row], WARM) == lab.ids([row], WARM)
    assert len({tuple(lab.ids([row], replace(WARM, seed=seed))[0]) for seed in range(4)}) == 4


def test_without_temperature_top_p_and_seed_have_no_effect(lab):
    row = lab.row("gist", EXAMPLES[1])
    assert lab.ids([row], Sampling(20, 0.0, 0.1, 5)) == lab.ids([row], Sampling(20))


def test_no_row_gives_no_event(lab):
    assert list(lab.engine.stream([], Sampling(4))) == []


# --- events --------------------------------------------------------------------------------------------------------------


def test_events_come_prompts_first_then_step_by_step_in_row_order(adapted):
    rows = mixed_rows(adapted)
    events = list(adapted.engine.stream(rows, Sampling(6)))
    ready, tokens = events[: len(rows)], events[len(rows) :]
    assert all(isinstance(e, RowReady) for e in ready) and sorted(e.row for e in ready) == list(range(len(rows)))
    assert all(isinstance(e, TokenEvent) for e in tokens)
    counted = {row: 0 for row in range(len(rows))}
    position = []
    for event in tokens:
        counted[event.row] += 1
        position.append((counted[event.row], event.row))
    assert position == sorted(position), "within a step in row order, and no row ahead of the others"
    assert all(sum(e.row == row and e.finish_reason is not None for e in tokens) == 1 for row in counted)
    seconds = [e.seconds for e in events]
    assert seconds == sorted(seconds) and seconds[0] >= 0


def test_kv_bytes_are_those_of_the_prompt_tokens_the_answer_attends_to(adapted):
    rows = mixed_rows(adapted)
    config = adapted.model.config
    per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4  # keys and values, fp32
    answers = adapted.generate(rows, Sampling(1))
    assert [answer.kv_bytes for answer in answers] == [per_token * row.plan.prompt_tokens for row in rows]


def test_a_limit_of_one_token_gives_one_token(adapted):
    rows = mixed_rows(adapted)
    answers = adapted.generate(rows, Sampling(1))
    assert [answer.ids for answer in answers] == [ids[:1] for ids in adapted.ids(rows)]
    assert {answer.reason for answer in answers[:-1]} == {"limit"}


# --- text ----------------------------------------------------------------------------------------------------------------


class Scripted(GistModel):
    """A model whose next token is read from a script; everything around it is the real thing."""

    def __init__(self, model, script: list[int]):
        super().__init__(model)
        self.script, self.step = script, 0

    def next_logits(self, *inputs):
        logits = torch.zeros_like(super().next_logits(*inputs))
        logits[:, self.script[self.step]] = 1.0
        self.step += 1
        return logits


TEXTS = ["Zürich, 東京 und Καλημέρα", "🎉 party 👩‍👩‍👧‍👦 family 🏳️‍🌈", "שלום עולם", "a\u0301\u0000\ufeff \U0010ffff\t\n end ", "plain"]


@pytest.mark.parametrize("text", TEXTS)
def test_characters_of_several_tokens_are_given_out_whole(template, text):
    """The tokenizer has one token per byte. Joined pieces are the text, and no piece holds a replacement character."""
    source = Lab(template)
    ids = list(source.encoder.text_ids(text))
    assert len(ids) == len(text.encode())
    lab = Lab(template, model=Scripted(source.model.model, ids))
    events = [e for e in lab.engine.stream([lab.row("gist", EXAMPLES[0])], Sampling(len(ids))) if isinstance(e, TokenEvent)]
    assert [e.token_id for e in events] == ids and "".join(e.text for e in events) == text
    assert not any("\ufffd" in e.text for e in events)
    for n in range(len(events)):
        given = "".join(e.text for e in events[: n + 1]).encode()
        assert text.encode().startswith(given) and len(given) <= n + 1, "never ahead of the tokens"


@pytest.mark.parametrize("cut", range(1, 4))
def test_a_character_cut_by_the_end_comes_out_once_as_unknown(lab, cut):
    stream = TextStream(lab.tokenizer)
    ids = lab.encoder.text_ids("ok 🎉")[: 3 + cut]
    assert "".join(stream.push(i) for i in ids) == "ok "
    assert stream.flush() == "\ufffd" and stream.flush() == ""


def test_random_bytes_stream_to_the_same_text_as_decoding_them_at_once(lab):
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        ids = torch.randint(0, 259, (40,), generator=generator).tolist()
        stream = TextStream(lab.tokenizer)
        assert "".join(stream.push(i) for i in ids) + stream.flush() == lab.tokenizer.decode(ids)


# --- stopping ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [1, 5])
def test_a_stop_request_ends_all_rows_within_one_step_and_keeps_their_text(adapted, after):
    rows = [row for row in mixed_rows(adapted) if row.stop_ids == NEVER]
    stop, free = threading.Event(), adapted.ids(rows)
    ids, texts, reasons = [[] for _ in rows], ["" for _ in rows], {}
    for event in adapted.engine.stream(rows, Sampling(24), stop):
        if isinstance(event, RowReady):
            continue
        ids[event.row] += [] if event.token_id is None else [event.token_id]
        texts[event.row] += event.text
        if event.finish_reason:
            reasons[event.row] = event.finish_reason
        if len(ids[0]) == after:
            stop.set()
    assert set(reasons.values()) == {"stopped"} and len(reasons) == len(rows)
    assert ids == [one[:after] for one in free] and texts == [adapted.tokenizer.decode(one) for one in ids]


def test_a_stop_request_before_the_first_token_gives_no_token(lab):
    stop = threading.Event()
    stop.set()
    answers = lab.generate([lab.row("gist", example) for example in EXAMPLES], stop=stop)
    assert [(answer.ids, answer.text, answer.reason) for answer in answers] == [([], "", "stopped")] * len(EXAMPLES)


def test_a_request_that_is_left_early_disturbs_no_later_one(lab):
    rows = [lab.row("gist", example) for example in EXAMPLES]
    before, stream = lab.ids(rows), lab.engine.stream(rows, Sampling(24))
    for _ in range(7):
        next(stream)
    stream.close()
    assert lab.ids(rows) == before


# --- failing rows --------------------------------------------------------------------------------------------------------


def broken_rows(lab: Lab) -> dict[str, EngineRow]:
    good = lab.row("gist", EXAMPLES[3], 4, "one")
    poison = good.slots.clone()
    poison[1, 3] = float("nan")
    return {
        "slots of another width": replace(good, slots=torch.zeros(4, lab.model.config.hidden_size + 1)),
        "no slots": replace(good, slots=None),
        "an adapter that is not attached": replace(good, compress_adapter="nobody"),
        "not a number": replace(good, slots=poison),
        "infinite": replace(good, slots=good.slots * float("inf")),
    }


@pytest.mark.parametrize("kind", ["slots of another width", "no slots", "an adapter that is not attached", "not a number", "infinite"])
@pytest.mark.parametrize("at", [0, 3])
def test_a_failing_row_ends_with_an_error_and_the_others_as_without_it(adapted, kind, at):
    rows = mixed_rows(adapted)
    alone = adapted.generate(rows, Sampling(6))
    answers = adapted.generate([*rows[:at], broken_rows(adapted)[kind], *rows[at:]], Sampling(6))
    failed = answers.pop(at)
    assert (failed.reason, failed.ids, failed.text) == ("error", [], "") and failed.error and "\n" not in failed.error
    assert answers == alone


def test_a_row_that_named_no_adapter_leaves_the_next_request_on_plain_weights(adapted):
    plain = [adapted.row("full", example) for example in EXAMPLES]
    before = adapted.ids(plain)
    nobody = replace(adapted.row("gist", EXAMPLES[0]), compress_adapter="nobody")
    assert adapted.generate([nobody])[0].reason == "error"
    assert adapted.ids(plain) == before


def test_when_every_row_fails_every_row_says_so(adapted):
    rows = list(broken_rows(adapted).values())
    assert [answer.reason for answer in adapted.generate(rows)] == ["error"] * len(rows)


# --- choosing a token ----------------------------------------------------------------------------------------------------


def test_nucleus_keeps_the_fewest_tokens_that_reach_top_p():
    p = torch.tensor([[0.1, 0.5, 0.15, 0.25], [0.25, 0.25, 0.25, 0.25]])
    assert torch.allclose(nucleus(p, 0.7), torch.tensor([[0, 2 / 3, 0, 1 / 3], [1 / 3, 1 / 3, 1 / 3, 0]]), atol=1e-6)
    assert nucleus(p, 0.5)[0].tolist() == [0, 1, 0, 0], "0.5 is reached by the first token alone"
    assert nucleus(p, 1e-9)[0].tolist() == [0, 1, 0, 0], "at least one token is kept"
    assert torch.equal(nucleus(p, 1.0), p)


def test_sampling_follows_the_probabilities_and_never_leaves_the_nucleus():
    logits = torch.tensor([[0.0, 2.0, 1.0, -1.0]]).expand(4000, -1)
    sampling = Sampling(temperature=2.0, top_p=0.8)
    drawn = choose(logits, sampling, [torch.Generator().manual_seed(n) for n in range(4000)])
    share = torch.bincount(drawn, minlength=4) / 4000
    assert torch.allclose(share, nucleus((logits[:1] / 2).softmax(-1), 0.8)[0], atol=0.03) and share[3] == 0
    assert choose(logits[:3], Sampling(), row_generators(Sampling(), 3)).tolist() == [1, 1, 1]
