"""The pool of models: each backbone is loaded once, and one that is being loaded blocks no other."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
import torch
from toy import save_toy, toy_tokenizer

from gistdemo.checkpoint import pool as module
from gistdemo.checkpoint.pool import LoadedBackbone, ModelPool
from gistdemo.checkpoint.registry import ModelRow
from gistdemo.errors import BackboneError
from gistdemo.prompts import CHATML, PLAIN

SECONDS = 10  # before a test that waits gives up
SLOW, QUICK = ModelRow("slow", "slow"), ModelRow("quick", "quick")


class Loader:
    """Stands where `ModelPool._load` does. Backbone "slow" waits for the gate; `fails` lists what loading it raises, time after time."""

    def __init__(self):
        self.gate, self.began = threading.Event(), threading.Event()
        self.loaded: list[str] = []
        self.fails: list[Exception] = []

    def __call__(self, name: str, progress) -> LoadedBackbone:
        self.loaded.append(name)
        progress(f"Downloading {name}: 3 of 9 MB", 0.3)
        self.began.set()
        if name == "slow":
            assert self.gate.wait(SECONDS), "the gate was never opened"
        if self.fails:
            raise self.fails.pop(0)
        config = SimpleNamespace(hidden_size=4, max_position_embeddings=4096)
        model = SimpleNamespace(model=torch.nn.Module(), config=config, quicken=lambda: None)
        return LoadedBackbone(name, model, toy_tokenizer(), None, "sha256:" + "ab" * 32, "instruct")


@pytest.fixture
def loader() -> Loader:
    return Loader()


@pytest.fixture
def pool(settings, loader, monkeypatch) -> ModelPool:
    monkeypatch.setattr(module, "ASK_AGAIN", 0.01)
    pool = ModelPool(settings)
    pool._load = loader
    yield pool
    loader.gate.set()


class Request(threading.Thread):
    """A request for a row, in a thread of its own."""

    def __init__(self, pool: ModelPool, row: ModelRow):
        super().__init__(daemon=True)
        self.pool, self.row = pool, row
        self.messages: list[tuple[str, float]] = []
        self.told = threading.Event()
        self.answer = self.error = None
        self.start()

    def run(self) -> None:
        try:
            self.answer = self.pool.row(self.row, self._note)
        except BackboneError as error:
            self.error = error

    def _note(self, message: str, fraction: float) -> None:
        self.messages.append((message, fraction))
        self.told.set()

    def result(self):
        self.join(SECONDS)
        assert not self.is_alive(), "it waits"
        return self.answer


def test_while_one_backbone_is_being_loaded_another_is_loaded_and_serves(pool, loader):
    slow = Request(pool, SLOW)
    assert loader.began.wait(SECONDS)
    base, loaded = Request(pool, QUICK).result()
    assert (base.name, loaded.name) == ("quick", "quick") and slow.is_alive() and pool.loaded == ("quick",)
    assert Request(pool, QUICK).result() == (base, loaded), "and again, from memory"
    loader.gate.set()
    assert slow.result()[0].name == "slow" and set(pool.loaded) == {"slow", "quick"}
    assert sorted(loader.loaded) == ["quick", "slow"]


def test_a_second_request_waits_for_the_first_and_is_told_how_far_it_is(pool, loader):
    first = Request(pool, SLOW)
    assert loader.began.wait(SECONDS)
    second = Request(pool, SLOW)
    assert second.told.wait(SECONDS) and first.is_alive()
    assert set(second.messages) == {("Downloading slow: 3 of 9 MB", 0.3)}
    loader.gate.set()
    assert second.result() == first.result() and loader.loaded == ["slow"], "loaded once"


def test_a_backbone_that_is_in_memory_is_served_without_a_word(pool):
    pool.row(QUICK)
    again = Request(pool, QUICK)
    again.result()
    assert again.messages == []


def test_who_waits_for_a_load_that_fails_tries_it_again(pool, loader):
    """A failure belongs to the request that had it; nothing half loaded stays."""
    loader.fails = [BackboneError("no network")]
    first = Request(pool, SLOW)
    assert loader.began.wait(SECONDS)
    second = Request(pool, SLOW)
    assert second.told.wait(SECONDS)
    loader.gate.set()
    first.result()
    assert str(first.error) == "no network" and first.answer is None
    assert second.result()[0].name == "slow" and loader.loaded == ["slow", "slow"]


def test_a_load_that_fails_blocks_nothing_afterwards(pool, loader):
    loader.fails = [BackboneError("no network"), ValueError("broken")]
    for error in (BackboneError, ValueError):
        with pytest.raises(error):
            pool.row(QUICK)
        assert pool.loaded == ()
    assert pool.row(QUICK)[0].name == "quick"


def test_a_bare_row_is_its_backbone_with_the_template_of_its_kind(settings, tmp_path):
    pool = ModelPool(settings)
    for folder, template in ((save_toy(tmp_path / "chat"), CHATML), (save_toy(tmp_path / "plain", chat=False), PLAIN)):
        base, loaded = pool.row(ModelRow(str(folder), str(folder)))
        assert loaded.manifest is None and loaded.encoder.template == template and loaded.model is base.model
        assert pool.backbone(str(folder)) is base, "a backbone asked for by itself is the same one"
