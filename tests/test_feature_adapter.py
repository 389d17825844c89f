"""An adapter of SAE features is its formula, is penalised where it acts, and names its features."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from steerlens.models.model import Model
from steerlens.saes import SAE, FeatureAdapter, SAEError
from steerlens.sites import Positions, Site
from steerlens.testing import tiny_model
from steerlens.training import LM, SimPO, TrainedIntervention, Trainer
from tests.handmade_saes import handmade, random_rows, saved
from tests.kinds import moved
from tests.test_trainer import FIT, HELD_OUT


@pytest.fixture(scope="module")
def small():
    return Model(tiny_model("llama", n_layers=2, d_model=16))


@pytest.fixture(scope="module")
def form():
    return FeatureAdapter(saved(16, Site(0)), positions=Positions.from_prompt_end())


def test_it_is_its_formula(small, form):
    params = moved(form, small, std=0.3)
    params["threshold"].fill_(0.2)
    h = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(3))
    sae = form.sae
    f = sae.encode(h)
    z = h @ params["read"].T + params["offset"]  # this SAE leaves its bias in the input
    v = z.sign() * torch.relu(z.abs() - 0.2)
    wanted = torch.relu(f + v)
    by_hand = h + 2.0 * (sae.decode(wanted) - sae.decode(f))
    found = form.intervention(small, params)(h, 2.0)
    torch.testing.assert_close(found, by_hand, atol=1e-4, rtol=1e-4)
    only = replace(form, only=(3, 5))
    masked = torch.zeros(sae.d_sae).index_fill(0, torch.tensor([3, 5]), 1.0)
    by_hand = h + (wanted - f) * masked @ sae.W_dec
    torch.testing.assert_close(only.intervention(small, params)(h, 1.0), by_hand)
    texts = ["the cat sat", "I think"]
    changed = form.feature_changes(small, params, texts)
    assert changed.shape == (2, sae.d_sae)  # at the last token of each text
    assert bool((only.feature_changes(small, params, texts)[:, [0, 1, 2, 4]] == 0).all())
    assert torch.equal(only.feature_changes(small, params, texts)[:, [3, 5]], changed[:, [3, 5]])


def test_the_penalty_is_of_the_tokens_that_are_edited(small, form):
    params = {name: one.requires_grad_() for name, one in moved(form, small, std=0.3).items()}
    intervention = form.intervention(small, params)
    batch = small.answered(["the cat sat", "I"], [" on the bed", " ran"])
    with intervention.attach(small, 1.0):
        small.states(batch)
    stream = small.cache(batch, [Site(0)])[Site(0)]
    v = intervention.edit.change(stream)[0][form.positions.mask(batch)]
    expected = form.sparsity * v.abs().sum(-1).mean()
    torch.testing.assert_close(form.penalty(intervention), expected)


def test_a_larger_penalty_leaves_smaller_changes(small, form):
    sizes = []
    for sparsity in (0.0, 3.0):
        one = replace(form, sparsity=sparsity)
        trainer = Trainer(SimPO(), steps=12, batch=4, rate=0.02)
        made = trainer.fit(one, small, FIT, progress=False)
        texts = [pair.prompt for pair in FIT]
        sizes.append(float(one.feature_changes(small, made.params, texts).abs().mean()))
    assert sizes[0] > 3 * sizes[1] > 0


def test_another_sae_in_its_place_is_refused(small, form, tmp_path):
    folder = handmade(random_rows(20, 16, seed=1), Site(0)).save(tmp_path / "sae")
    mine = FeatureAdapter(str(folder))
    assert mine.hash == SAE.load(folder).hash
    made = Trainer(LM(), steps=2, batch=4).fit(
        mine, small, FIT, validation=HELD_OUT, progress=False
    )
    made.save(tmp_path / "trained")
    stated = json.loads((tmp_path / "trained" / "trained.json").read_text())["form"]
    assert stated["fields"]["hash"] == mine.hash
    handmade(random_rows(20, 16, seed=2), Site(0)).save(folder)
    with pytest.raises(SAEError, match="holds an SAE with the hash"):
        TrainedIntervention.load(tmp_path / "trained", small)
    with pytest.raises(ValueError, match="reward large changes"):
        FeatureAdapter(str(folder), sparsity=-1.0)
