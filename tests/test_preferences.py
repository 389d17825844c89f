"""Weighted pairs by hand, and preference vectors: the difference of two trainings, merged in use."""

from __future__ import annotations

import pytest
import torch

from steerlens.analyses.preferences.tradeoff_curve import TradeoffCurve
from steerlens.analyses.preferences.trading import preference_tradeoff
from steerlens.arguments import ArgumentError
from steerlens.data import ContrastSet
from steerlens.forms import LoRA, VectorForm
from steerlens.interventions.together import changes_of
from steerlens.measures.sweep import sweep
from steerlens.models.model import Model
from steerlens.sites import Site
from steerlens.testing import check_intervention, tiny_model
from steerlens.training import DPO, LM, BiPO, RePS, Trainer, WeightedPairs, combined
from steerlens.training.objectives.weighted import weights_of
from steerlens.training.preference_vector import overlap, preference_vector
from tests.test_trainer import FIT, HELD_OUT


class Fixed:
    """Pairs whose numbers are given."""

    def __init__(self, unsteered, steered):
        self._unsteered, self._steered = unsteered, steered

    def lengths(self):
        return torch.tensor([[2, 4]] * len(self._unsteered))

    def unsteered(self):
        return self._unsteered

    def strengths(self):
        return torch.full((len(self._unsteered),), 2.0)

    def signs(self):
        return torch.ones(len(self._unsteered))

    def normal(self):
        return torch.linspace(-1, 1, len(self._unsteered))

    def distributions(self, strengths, side):
        raise AssertionError

    def log_probs(self, strengths, sides=(0, 1), *, null=False):
        self.asked = strengths
        return self._steered if not null else -self._steered


@pytest.fixture
def fixed():
    generator = torch.Generator().manual_seed(0)
    return Fixed(*(-torch.rand(6, 2, generator=generator) * 8 for _ in range(2)))


def test_weights_are_their_formula(fixed):
    plain, loss = DPO()(fixed), WeightedPairs(DPO(), kappa=0.5)(fixed)
    lengths = fixed.lengths()
    margins = []
    for log_probs in (fixed._unsteered, fixed._steered):
        margin = log_probs[:, 0] / lengths[:, 0] - log_probs[:, 1] / lengths[:, 1]
        margins.append(torch.sigmoid(-margin / margin.abs().median()))
    w = (margins[0] * margins[1]) ** 0.5
    w = (w / w.mean()).clamp(0.1, 5.0)
    torch.testing.assert_close(loss, plain * w)
    only = WeightedPairs(DPO(), responsiveness=False)(fixed)
    torch.testing.assert_close(only, plain * (margins[0] / margins[0].mean()).clamp(0.1, 5.0))


@pytest.mark.parametrize("objective", [DPO(), BiPO(), RePS(cap=3.0)])
def test_without_weights_and_noise_it_is_the_objective(fixed, objective):
    assert torch.equal(WeightedPairs(objective, kappa=0.0)(fixed), objective(fixed))
    weighted = WeightedPairs(objective)(fixed)
    assert weighted.shape == (6,) and not torch.equal(weighted, objective(fixed))


def test_hard_pairs_weigh_more_and_with_a_negative_kappa_less(fixed):
    margin = torch.tensor([-1.0, 0.0, 1.0])
    up, down = weights_of([margin], 1.0), weights_of([margin], -1.0)
    assert bool((up.diff() < 0).all()) and bool((down.diff() > 0).all())
    torch.testing.assert_close(up.mean(), torch.tensor(1.0))


def test_noise_moves_the_strength(fixed):
    WeightedPairs(DPO(), kappa=0.0, noise=0.5)(fixed)
    torch.testing.assert_close(fixed.asked, 2.0 * (1 + 0.5 * torch.linspace(-1, 1, 6)))


@pytest.fixture(scope="module")
def small():
    return Model(tiny_model("llama", n_layers=2, d_model=16))


def test_it_trains_and_repeats(small):
    trainer = Trainer(WeightedPairs(DPO(), kappa=0.5, noise=0.3), steps=4, batch=4)
    one, other = (trainer.fit(VectorForm(Site(0)), small, FIT, progress=False) for _ in range(2))
    assert torch.equal(one.params["vector"], other.params["vector"])
    plain = Trainer(DPO(), steps=4, batch=4).fit(VectorForm(Site(0)), small, FIT, progress=False)
    assert not torch.equal(plain.params["vector"], one.params["vector"])
    LoRA_too = trainer.fit(LoRA(rank=1), small, FIT, progress=False)
    assert "WeightedPairs" in repr(LoRA_too)


def test_what_cannot_be_weighted_is_refused(unchecked):
    with pytest.raises(ArgumentError, match="no preference"):
        WeightedPairs(LM())
    with pytest.raises(ArgumentError, match="is not an objective"):
        WeightedPairs("dpo")
    with pytest.raises(ArgumentError, match="no spread"):
        WeightedPairs(DPO(), noise=-1.0)


def test_a_preference_vector_is_the_difference_of_two_trainings(small, tmp_path):
    trainer, form = Trainer(DPO(), steps=6, batch=4), LoRA(rank=2)
    vector = preference_vector(trainer, form, small, FIT, folder=tmp_path, progress=False)
    plus = trainer.fit(form, small, FIT, progress=False)
    minus = trainer.fit(form, small, ContrastSet("fit", tuple(FIT)).flipped(), progress=False)
    total = {}
    for sign, one in ((1.0, plus), (-1.0, minus)):
        for change in one.changes(small):
            zero = torch.zeros(change.delta.shape)
            total[change.name] = change.delta.added(total.get(change.name, zero), sign)
    found = {}
    for change in changes_of(vector, small):
        zero = torch.zeros(change.delta.shape)
        found[change.name] = change.delta.added(found.get(change.name, zero), 1.0)
    assert found.keys() == total.keys()
    for name, value in total.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-5)
    check_intervention(vector, small)
    gain = sweep(small, HELD_OUT, [vector], [0.0, 1.0], progress=False).log_odds[0].mean(-1)
    assert float(gain[1] - gain[0]) > 0
    assert overlap(small, plus, minus) < 0 < overlap(small, vector, plus)
    again = preference_vector(trainer, form, small, FIT, folder=tmp_path, progress=False)
    assert repr(again) == repr(vector)
    single = preference_vector(trainer, form, small, FIT, baseline="unsteered", progress=False)
    assert single.weights == (1.0,)


def test_preferences_are_merged_with_weights(small):
    one, other = (LoRA(rank=1), LoRA(rank=1, layers=(1,)))
    vectors = {}
    for name, form in (("a", one), ("b", other)):
        params = form.begin(small, torch.Generator().manual_seed(0))
        params = {k: v + 0.1 for k, v in params.items()}
        vectors[name] = form.intervention(small, params)
    both = combined(vectors, {"a": 0.5, "b": -1.0})
    assert both.weights == (0.5, -1.0)
    alone = combined(vectors, {"a": 0.5, "b": 0})
    assert len(alone.interventions) == 1
    text = small.tokens(["the cat sat"])
    with both.attach(small, 1.0):
        joint = small.logits(text)
    with vectors["a"].attach(small, 0.5), vectors["b"].attach(small, -1.0):
        torch.testing.assert_close(small.logits(text), joint)
    with pytest.raises(ArgumentError, match="weight for 'c'"):
        combined(vectors, {"c": 1.0})
    with pytest.raises(ArgumentError, match="All weights are 0"):
        combined(vectors, {"a": 0.0})
    with pytest.raises(ArgumentError, match="something else than weights"):
        vector = VectorForm(Site(0))
        overlap(small, vectors["a"], vector.intervention(small, {"vector": torch.ones(16)}))


def test_the_trade_off_of_two_preferences_is_a_curve(small, tmp_path):
    vectors = {}
    for k, name in enumerate(("one", "other")):
        form = VectorForm(Site(0))
        vector = torch.randn(16, generator=torch.Generator().manual_seed(k))
        vectors[name] = form.intervention(small, {"vector": vector})
    pairs = {"one": HELD_OUT, "other": FIT}
    texts = ["the cat sat on the bed", "I think the soup was good"]
    shares = (0.0, 0.5, 1.0)
    found = preference_tradeoff(small, vectors, pairs, texts, shares=shares, progress=False)
    swept = sweep(small, HELD_OUT, [vectors["one"], vectors["other"]], [0.0, 1.0], progress=False)
    gains = swept.log_odds[:, 1] - swept.log_odds[:, 0]
    torch.testing.assert_close(found.first[0], gains[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.first[2], gains[1], atol=1e-5, rtol=1e-4)
    middle = float((found.first[1] - 0.5 * (gains[0] + gains[1])).mean())
    assert found.interaction[0].value == pytest.approx(middle, abs=1e-5)
    assert "0.5 of one, 0.5 of other" in found.summary() and len(found.to_frame()) == 3
    again = TradeoffCurve.load(found.save(tmp_path))
    assert torch.equal(again.kl, found.kl) and len(found.plot().data) == 1
    with pytest.raises(ArgumentError, match="between two preferences"):
        preference_tradeoff(small, vectors, {"one": FIT}, texts)
