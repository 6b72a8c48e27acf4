"""Where a condition leaves the full prompt's answer: by hand on a toy model, and on the shipped ones another row's gist leads further away."""

from __future__ import annotations

import pytest
import torch
from toy import save_toy

from gistdemo.checkpoint.pool import ModelPool
from gistdemo.checkpoint.registry import find_row
from gistdemo.conditions import CONDITIONS
from gistdemo.evaluate import divergence as module
from gistdemo.evaluate.divergence import divergences
from gistdemo.judge.judge import load_judge
from gistdemo.model.embedded import EMBEDDED, is_ready
from gistdemo.present.cells import diverging
from gistdemo.prompts import Example
from gistdemo.results.divergence import Divergence
from gistdemo.settings import Settings

ASKED = Example("Describe the sea at night in a few plain words.", "", "")
ANSWER = "It is dark and wide, and it never sleeps."


@pytest.fixture
def toy(settings, tmp_path):
    return ModelPool(settings).row(find_row(str(save_toy(tmp_path / "toy")), settings))


@torch.no_grad()
def logits(base, loaded, condition: str, ids) -> torch.Tensor:
    prompt = list(loaded.plan(ASKED, CONDITIONS[condition], 2).prompt_ids)
    return base.model.model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]


@torch.inference_mode()
def test_kl_and_differences_by_hand(toy, monkeypatch):
    monkeypatch.setattr(module, "AT_ONCE", 5)  # in several parts
    base, loaded = toy
    same, cut, without = divergences(base, loaded, ASKED, ("full", "truncated", "none"), 2, ANSWER)
    ids = loaded.encoder.answer_ids(ANSWER, 1000)[:-1]
    assert "".join(cut.tokens) == loaded.encoder.template.before_answer + ANSWER and len(cut.kl) == len(ids)
    assert max(same.kl) < 1e-4 and same.first is None and same.mean_kl < 1e-4
    full = logits(base, loaded, "full", ids).log_softmax(-1)
    for one, condition in ((cut, "truncated"), (without, "none")):
        other = logits(base, loaded, condition, ids).log_softmax(-1)
        assert one.kl == pytest.approx((full.exp() * (full - other)).sum(-1).tolist(), abs=1e-3)
        said = torch.tensor(ids)[:, None]
        assert one.difference == pytest.approx((other.gather(1, said) - full.gather(1, said))[:, 0].tolist(), abs=1e-3)
        differs = (full.argmax(-1) != other.argmax(-1)).nonzero()[:, 0].tolist()
        assert one.first == (differs[0] if differs else None)


@torch.inference_mode()
def test_a_long_answer_is_read_in_part(toy):
    (one,) = divergences(*toy, ASKED, ("none",), 2, "Again and again. " * 40)
    assert len(one.tokens) == module.MOST


def test_tokens_are_coloured_by_how_far_they_are_led_away():
    one = Divergence("toy", "none", ("<b>", "sea", "\n"), (0.0, 0.6, 9.0), (0.0, -0.5, -2.0), 1)
    drawn = str(diverging([one], ["base: there is no answer"], {}))
    assert 'class="gd-t gd-k0" title="KL 0.00, log-probability +0.00">&lt;b&gt;' in drawn
    assert 'class="gd-t gd-k2 gd-first"' in drawn and 'class="gd-t gd-k4"' in drawn and "⏎" in drawn
    assert "mean KL 3.20" in drawn and "base: there is no answer" in drawn


# --- with the real models --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped():
    settings = Settings.from_env()
    for model in EMBEDDED.values():
        if not is_ready(model, settings):
            pytest.skip(f"{model.name} is not in {settings.cache_dir}; `make backbone` fetches it")
    return settings, ModelPool(settings)


@pytest.mark.weights
@torch.inference_mode()
def test_another_instructions_gist_leads_further_away(shipped, monkeypatch):
    settings, pool = shipped
    base, loaded = pool.row(find_row("instruct", settings))
    asked, other = Example("How do I boil eggs?", "", ""), Example("Name the planets of the solar system.", "", "")
    answer = "Place the eggs in a pot of cold water, bring it to a boil, then let them stand for ten minutes."
    own, none = divergences(base, loaded, asked, ("gist", "none"), 4, answer)
    hidden = module._hidden
    monkeypatch.setattr(module, "_hidden", lambda b, c, e, name, k, ids: hidden(b, c, other if name == "gist" else e, name, k, ids))
    (swapped,) = divergences(base, loaded, asked, ("gist",), 4, answer)
    assert own.mean_kl < none.mean_kl and own.mean_kl < 0.5 * swapped.mean_kl
    assert sum(own.difference) > sum(swapped.difference)


@pytest.mark.weights
def test_the_shipped_judge_tells_an_answer_from_one_to_another_question(shipped):
    settings, pool = shipped
    judge = load_judge(pool, settings)
    pan = Example("How should I clean a cast iron pan after cooking?", "", "")
    verdicts = {
        text: judge.judge(pan, text).verdict
        for text in (
            "Rinse it with hot water while it is still warm, scrub it with a brush, dry it and rub in a little oil.",
            "The best way to eat is to eat a balanced diet.",
            "To clean your pet's skin, use a mild shampoo and rinse it well.",
            "How should I clean a cast iron pan after cooking?",
        )
    }
    right, diet, pet, echo = verdicts.values()
    assert (right, diet, echo) == ("on task", "off task", "off task") and pet != "on task", verdicts
