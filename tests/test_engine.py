"""The engine: a batch equals its rows one by one, text streams without broken characters, stopping and failing touch nobody else."""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import replace

import pytest
import torch
from lab import EXAMPLES, NEVER, Lab, add_random_adapter, lively_model

from gistdemo.generation import RowReady, Sampling, TokenEvent
from gistdemo.model import batch
from gistdemo.model.answering import EngineRow
from gistdemo.model.batch import COMPUTE
from gistdemo.model.gist_model import GistModel
from gistdemo.model.sampling import draw, nucleus
from gistdemo.model.text_stream import TextStream
from gistdemo.prompts import Example

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


def test_prompts_that_need_no_compression_are_read_first_and_rows_that_began_together_go_on_step_by_step(adapted):
    rows = mixed_rows(adapted)
    events = list(adapted.engine.stream(rows, Sampling(6)))
    ready = [e.row for e in events if isinstance(e, RowReady)]
    text = [n for n, row in enumerate(rows) if row.plan.compress_ids is None]
    assert ready == text + [n for n in range(len(rows)) if n not in text]
    assert [type(e) for e in events[: len(text) + 1]] == [RowReady] * len(text) + [TokenEvent], "no token waits for a gist of another row"
    for together in (text, [n for n in range(len(rows)) if n not in text]):
        counted, position = dict.fromkeys(together, 0), []
        for event in (e for e in events if isinstance(e, TokenEvent) and e.row in counted):
            counted[event.row] += 1
            position.append((counted[event.row], event.row))
        assert position == sorted(position), "within a step in row order, and no row ahead of the others"
    tokens = [e for e in events if isinstance(e, TokenEvent)]
    assert all(sum(e.row == row and e.finish_reason is not None for e in tokens) == 1 for row in range(len(rows)))
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
    assert stream.rest() == "\ufffd" and stream.rest() == "\ufffd", "asking changes nothing"


def test_random_bytes_stream_to_the_same_text_as_decoding_them_at_once(lab):
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        ids = torch.randint(0, 259, (40,), generator=generator).tolist()
        stream = TextStream(lab.tokenizer)
        assert "".join(stream.push(i) for i in ids) + stream.rest() == lab.tokenizer.decode(ids)


# --- stopping ------------------------------------------------------------------------------------------------------------


class Gated(GistModel):
    """A model that waits before every pass until it is let go on; everything around it is the real thing."""

    def __init__(self, model):
        super().__init__(model)
        self.gate, self.passes = threading.Semaphore(0), 0

    def next_logits(self, *inputs):
        assert self.gate.acquire(timeout=20), "nobody let the model go on"
        self.passes += 1
        return super().next_logits(*inputs)


@pytest.fixture
def gated(template) -> Lab:
    return Lab(template, model=Gated(lively_model()))


@pytest.mark.parametrize("after", [1, 5])
def test_a_stop_request_ends_all_rows_within_one_step_and_keeps_their_text(gated, after):
    rows = [gated.row("full", example) for example in EXAMPLES]
    stop = threading.Event()
    gated.model.gate.release(after)
    ids, texts, reasons = [[] for _ in rows], ["" for _ in rows], {}
    for event in gated.engine.stream(rows, Sampling(24), stop):
        if isinstance(event, RowReady):
            continue
        ids[event.row] += [] if event.token_id is None else [event.token_id]
        texts[event.row] += event.text
        if event.finish_reason:
            reasons[event.row] = event.finish_reason
        if len(ids[-1]) == after and not stop.is_set():
            stop.set()
            gated.model.gate.release()  # the step that may have begun
    assert set(reasons.values()) == {"stopped"} and len(reasons) == len(rows)
    assert all(len(one) - after in (0, 1) for one in ids) and texts == [gated.tokenizer.decode(one) for one in ids]
    gated.model.gate.release(100)
    assert [one[: len(cut)] for one, cut in zip(gated.ids(rows), ids, strict=True)] == ids


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


# --- several requests at once ---------------------------------------------------------------------------------------------


def taken(stream, count: int | None = None) -> list:
    """The first events of a stream, or all that is left of it."""
    return list(stream if count is None else itertools.islice(stream, count))


def test_requests_that_join_one_after_another_get_the_answers_they_get_alone(adapted):
    """Rows come in and leave while others are at any other place of their answer."""
    rows = mixed_rows(adapted)
    limits = [Sampling(4 + 3 * n) for n in range(len(rows))]
    alone = [adapted.ids([row], limit)[0] for row, limit in zip(rows, limits, strict=True)]
    streams = [adapted.engine.stream([row], limit) for row, limit in zip(rows, limits, strict=True)]
    events: list[list] = [[] for _ in rows]
    for round_number in range(3):
        for n, stream in enumerate(streams):
            events[n] += taken(stream, 1 + (n + round_number) % 3)
    for n, stream in enumerate(streams):
        events[n] += taken(stream)
    assert [[e.token_id for e in one if isinstance(e, TokenEvent)] for one in events] == alone


def test_sampled_and_greedy_requests_share_a_batch(adapted):
    rows = [row for row in mixed_rows(adapted) if row.stop_ids == NEVER]
    alone = adapted.ids(rows, WARM), adapted.ids(rows, Sampling(12))
    first, second = adapted.engine.stream(rows, WARM), adapted.engine.stream(rows, Sampling(12))
    begun = taken(first, 5), taken(second, 5)
    for stream, before, expected in zip((first, second), begun, alone, strict=True):
        answers: list[list[int]] = [[] for _ in rows]
        for event in [*before, *stream]:
            if isinstance(event, TokenEvent):
                answers[event.row].append(event.token_id)
        assert answers == expected


def test_equal_prompts_of_two_callers_are_one_answer_and_the_later_one_is_told_all_of_it(gated):
    row = gated.row("full", EXAMPLES[1])
    first = gated.engine.stream([row], Sampling(10))
    gated.model.gate.release(4)
    begun = taken(first, 5)
    second, other = (gated.engine.stream([row], s) for s in (Sampling(10), Sampling(9)))
    gated.model.gate.release()  # the step under way; then the second caller is heard
    told = [next(second)]
    gated.model.gate.release(100)
    later = [*told, *second]
    whole = begun + taken(first)
    assert gated.model.passes == 10, "one pass a token, for both"
    assert [(type(e), getattr(e, "token_id", None)) for e in later] == [(type(e), getattr(e, "token_id", None)) for e in whole]
    assert "".join(e.text for e in later[1:]) == "".join(e.text for e in whole[1:]) and later[-1].finish_reason == "limit"
    assert len(taken(other)) == 10, "another limit is another answer"


def test_one_caller_of_a_shared_answer_may_stop_and_the_other_hears_the_rest(gated):
    row, stop = gated.row("full", EXAMPLES[1]), threading.Event()
    leaving, staying = gated.engine.stream([row], Sampling(10), stop), gated.engine.stream([row], Sampling(10))
    gated.model.gate.release(3)
    taken(leaving, 3)
    gated.model.gate.release()
    next(staying)
    stop.set()
    gated.model.gate.release(100)
    assert taken(leaving)[-1].finish_reason == "stopped"
    answer = [e.token_id for e in staying]
    assert len(answer) == 10 and answer == gated.ids([row], Sampling(10))[0]


def test_equal_rows_of_one_request_are_computed_once(gated):
    rows = [gated.row("full", EXAMPLES[1]), gated.row("full", EXAMPLES[0]), gated.row("full", EXAMPLES[1])]
    gated.model.gate.release(100)
    seen = []
    read = gated.model.read
    gated.model.read = lambda adapters, *rest: seen.append(len(adapters)) or read(adapters, *rest)
    answers = gated.ids(rows, Sampling(5))
    assert seen == [2] and answers[0] == answers[2] != answers[1]


def test_more_rows_than_fit_take_the_places_of_those_that_ended(lab, monkeypatch):
    monkeypatch.setattr(batch, "ROWS", 5)
    rows = [lab.row(condition, example, 3) for condition in ("full", "gist", "truncated", "none", "blind") for example in EXAMPLES]
    samplings = Sampling(9)
    alone = [lab.ids([row], samplings)[0] for row in rows]
    widths, next_logits = [], lab.model.next_logits
    lab.model.next_logits = lambda adapters, *rest: widths.append(len(adapters)) or next_logits(adapters, *rest)
    assert lab.ids(rows, samplings) == alone and max(widths) == 5


def test_a_short_request_does_not_wait_for_a_long_one(gated, monkeypatch):
    """Twenty rows of thirty tokens, four at a time, are 150 passes; who comes after the second gets the first place that is free."""
    monkeypatch.setattr(batch, "ROWS", 4)
    many = [gated.row("truncated", Example(f"Say {word} to the {n}th of them."), 9) for n in range(10) for word in ("yes", "no")]
    long = gated.engine.stream(many, Sampling(30))
    gated.model.gate.release(2)
    begun = taken(long, 8)
    answers: list[list[list[int]]] = []
    short = threading.Thread(target=lambda: answers.append(gated.ids([gated.row("full", EXAMPLES[0])], Sampling(3))))
    short.start()
    time.sleep(0.05)  # its question is in the line now
    gated.model.gate.release(38)
    short.join(timeout=15)
    assert answers and len(answers[0][0]) == 3
    gated.model.gate.release(300)
    assert sum(e.finish_reason is not None for e in (*begun, *long) if isinstance(e, TokenEvent)) == len(many)


@pytest.mark.parametrize("left", [12, None], ids=["after twelve events", "when all is said"])
def test_an_engine_that_answers_nobody_holds_nothing(adapted, left):
    stream = adapted.engine.stream(mixed_rows(adapted), Sampling(50))
    taken(stream, left)
    stream.close()
    COMPUTE.submit(int).result()  # the turn under way
    COMPUTE.submit(int).result()  # and the one that finds nobody
    idle = adapted.engine._batches["exact"]
    assert (idle._known, idle._waiting, idle._rows, idle._decoding) == ({}, [], [], None)


# --- gists that were made before -----------------------------------------------------------------------------------------


@pytest.fixture
def counted(template, monkeypatch) -> Lab:
    """A model whose weights have their last value, counting what is compressed."""
    lab = Lab(template)
    lab.model.quicken()
    lab.compressed = []
    compress = lab.model.compress
    monkeypatch.setattr(lab.model, "compress", lambda rows: lab.compressed.append(len(rows)) or compress(rows))
    return lab


def test_a_repeated_instruction_is_not_compressed_again_whatever_its_input(counted):
    first = counted.generate([counted.row("gist", EXAMPLES[1])])
    again = [counted.row("gist", EXAMPLES[1]), counted.row("gist", replace(EXAMPLES[1], input="good night, my friend"))]
    events = list(counted.engine.stream(again, Sampling(12)))
    assert counted.compressed == [1] and all(e.gist_reused for e in events if isinstance(e, RowReady))
    assert [e.token_id for e in events if isinstance(e, TokenEvent) and e.row == 0] == first[0].ids
    fresh = Lab(counted.encoder.template)
    assert [e.token_id for e in events if isinstance(e, TokenEvent) and e.row == 1] == fresh.ids([again[1]])[0]
    assert (counted.engine.gists.hits, counted.engine.gists.misses) == (2, 1)


def test_another_budget_adapter_or_set_of_slots_is_another_gist(counted):
    add_random_adapter(counted.model, "one", 0)
    row = counted.row("gist", EXAMPLES[1])
    others = [counted.row("gist", EXAMPLES[1], 5), counted.row("gist", EXAMPLES[1], adapter="one"), replace(row, slots=row.slots.clone())]
    for one in (row, *others):
        assert not counted.generate([one])[0].error
    assert counted.compressed == [1, 1, 1, 1]


def test_gists_leave_when_there_is_no_room_the_longest_unused_first(counted):
    rows = [counted.row("gist", example) for example in EXAMPLES[:3]]
    counted.generate(rows[:1])
    counted.engine.gists.most_bytes = 2 * counted.engine.gists.bytes
    for row in (rows[1], rows[0], rows[2]):
        counted.generate([row])
    counted.compressed.clear()
    for row in (rows[0], rows[2]):
        counted.generate([row])
    assert counted.compressed == []
    counted.generate([rows[1]])
    assert counted.compressed == [1] and counted.engine.gists.bytes <= counted.engine.gists.most_bytes


def test_where_weights_still_move_no_gist_is_kept(lab):
    row = lab.row("gist", EXAMPLES[1])
    before = lab.ids([row])
    row.slots.mul_(-1.0)
    assert lab.ids([row]) != before


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
    drawn = torch.tensor([draw(row, sampling, torch.Generator().manual_seed(n)) for n, row in enumerate(logits)])
    share = torch.bincount(drawn, minlength=4) / 4000
    assert torch.allclose(share, nucleus((logits[:1] / 2).softmax(-1), 0.8)[0], atol=0.03) and share[3] == 0
