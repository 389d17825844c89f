"""The share of the KL from a known target that steering removes, and the target of the testbed."""

from __future__ import annotations

import pytest
import torch

from steerlens.analyses.nearness.measure_nearness import target_share
from steerlens.analyses.nearness.target_share import TargetShare
from steerlens.testbed.oracle import Oracle
from steerlens.testbed.pole_target import PoleTarget
from steerlens.testbed.reviews import continuations
from tests.plain_forms import PlainVector, PlainWeights
from tests.test_objectives import Sharpened
from tests.test_training_gradients import PAIRS


@pytest.fixture(scope="module")
def reviews():
    from steerlens.models.model import Model

    return Model.load("reviews")


class Steered:
    """What the model itself computes under an intervention, text by text."""

    def __init__(self, model, edit):
        self.model, self.edit = model, edit

    def __call__(self, prompt, answer):
        batch = self.model.answered([prompt], [answer])
        with self.edit.attach(self.model, 1.0):
            logits = self.model.logits(batch)[0]
        return torch.softmax(logits[int(batch.prompt_end[0]) - 1 : -1], -1)

    def __repr__(self):
        return "Steered()"


def interventions(model):
    forms = {"vector": PlainVector(1, scale=1.0), "weights": PlainWeights(("blocks.1.mlp.W_out",))}
    return {
        name: form.intervention(model, form.begin(model, torch.Generator().manual_seed(1)))
        for name, form in forms.items()
    }


def test_the_target_itself_has_share_one_and_the_unsteered_model_zero(gpt2, tmp_path):
    arms = interventions(gpt2)
    found = target_share(gpt2, arms, Steered(gpt2, arms["vector"]), PAIRS, progress=False)
    assert float(found.unsteered.mean()) > 0.05
    torch.testing.assert_close(found.share[:, 0], torch.zeros(2))
    assert float(found.share[0, 2]) == pytest.approx(1.0, abs=1e-4)
    assert float(found.share[1, 2]) < 0.9
    assert found.best("vector") == (1.0, pytest.approx(1.0, abs=1e-4))
    assert "vector" in found.summary()
    assert len(found.plot().data) >= 2
    again = TargetShare.load(found.save(tmp_path))
    assert torch.equal(again.kl, found.kl)


def test_the_kl_is_that_of_text_by_text_runs(gpt2):
    target = Sharpened(gpt2)
    form = PlainVector(1, scale=1.0)
    params = form.begin(gpt2, torch.Generator().manual_seed(1))
    edit = form.intervention(gpt2, params)
    found = target_share(gpt2, {"v": edit}, target, PAIRS, (0.0, 0.7), progress=False)
    for i, pair in enumerate(PAIRS):
        wanted = target(pair.prompt, pair.positive)
        prompt, own = gpt2.split(pair.prompt, pair.positive)
        chosen = (torch.arange(len(prompt + own)) >= len(prompt) - 1).float()
        hooks = form.hooks(params, 0.7, chosen)
        with torch.no_grad():
            logits = gpt2.wrapped.run_with_hooks(torch.tensor([prompt + own]), fwd_hooks=hooks)[0]
        log_p = logits.log_softmax(-1)[len(prompt) - 1 : -1]
        kl = (wanted * (wanted.log() - log_p)).sum(-1).mean()
        assert float(found.kl[0, 1, i]) == pytest.approx(float(kl), abs=1e-4)


@pytest.mark.parametrize("concept", ["register", "sentiment"])
def test_the_pole_is_the_posterior_of_the_oracle(reviews, concept):
    """p*(y) = p(y, pole) / p(pole): the two poles mix to the unconditional distribution."""
    target = {pole: PoleTarget(reviews, concept, pole) for pole in (True, False)}
    whole = Oracle()
    known = {pole: Oracle(given={concept: pole}) for pole in (True, False)}
    for pair in continuations(concept, 5).pairs:
        words = ["<bos>", *pair.prompt.split()]
        answer = pair.positive.split()
        rows = {pole: target[pole](pair.prompt, pair.positive) for pole in target}
        for k in range(len(answer)):
            text = [*words, *answer[:k]]
            mass = {pole: torch.tensor(known[pole].log_prob(text)).exp() / 2 for pole in known}
            mixed = sum(mass[pole] * rows[pole][k] for pole in mass) / sum(mass.values())
            exact = whole.next_token_probs(text)
            ids = reviews.tokenizer.convert_tokens_to_ids(list(exact))
            expected = torch.zeros(reviews.cfg.d_vocab)
            expected[ids] = torch.tensor(list(exact.values()), dtype=torch.float32)
            torch.testing.assert_close(mixed.float(), expected, atol=1e-5, rtol=1e-4)
        first = reviews.tokenizer.convert_tokens_to_ids(answer[0])
        assert float(rows[True][0, first]) > float(rows[False][0, first])


def test_the_target_of_another_model_is_refused(gpt2):
    with pytest.raises(ValueError, match="reference"):
        PoleTarget(gpt2, "register")("the food was", " tasty")


def test_continuations_are_different_and_differ_in_their_first_word():
    found = continuations("sentiment", 40, length=4)
    for pair in found:
        positive, negative = pair.positive.split(), pair.negative.split()
        assert positive[0] != negative[0]
        assert 1 <= len(positive) == len(negative) <= 4
        assert pair.prompt
    assert len({(p.prompt, p.positive) for p in found}) == 40
    with pytest.raises(ValueError, match="length=0"):
        continuations("sentiment", 4, length=0)
