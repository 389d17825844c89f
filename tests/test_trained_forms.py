"""Every form trains by its own rate, saves, loads by name, and goes through a sweep."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from steerlens.forms import VectorForm
from steerlens.measures.sweep import sweep
from steerlens.models.model import Model
from steerlens.models.wrapped_state import differentiable
from steerlens.protocols import ResidualEdit
from steerlens.sites import Site
from steerlens.testing import tiny_model
from steerlens.training import LM, RePS, TrainedIntervention, Trainer
from tests.test_forms import FORMS
from tests.test_trainer import FIT, HELD_OUT

TRAINER = Trainer(LM(), steps=8, batch=4, look_every=4)
HOOKED = {"vector inside a block", "soft prefix"}
FEWER = {
    "full weights of one block", "local query weight", "LoRA of one block",
    "one-layer adapter, SiLU",
}  # fmt: skip
"""Variants of forms that are here already."""


@pytest.fixture(scope="module")
def small():
    return Model(tiny_model("llama", n_layers=2, d_model=16))


@pytest.mark.parametrize("name", [name for name in FORMS if name not in FEWER])
def test_it_trains_saves_and_loads(small, name, tmp_path):
    form = FORMS[name]
    made = TRAINER.fit(form, small, FIT, validation=HELD_OUT, progress=False)
    assert made.made_by["path"] == ("hooks" if name in HOOKED else "cached")
    means = made.history.validation.mean(1)
    assert float(means.min()) < float(means[0]) - 1e-3
    loaded = TrainedIntervention.load(made.save(tmp_path), small)
    assert loaded.form == form
    found, again = (
        sweep(small, HELD_OUT, [one], [0.0, 1.0], progress=False) for one in (made, loaded)
    )
    assert torch.equal(found.positive, again.positive)
    kept = made.history.looks.index(made.history.best_step)
    lengths = found.lengths[:, 0]
    losses = -found.positive[0, 1] * len(lengths) / lengths.sum()
    torch.testing.assert_close(losses, made.history.validation[kept], atol=1e-4, rtol=1e-4)
    if isinstance(made.intervention, ResidualEdit):
        assert isinstance(made, ResidualEdit)


def test_a_vector_is_suppressed_by_its_own_projection(small):
    """RePS trains what it suppresses too: without the null its vector is another one."""
    form = VectorForm(Site(0))
    found = [
        replace(TRAINER, objective=RePS(mode, cap=3.0)).fit(form, small, FIT, progress=False)
        for mode in ("both", "steer")
    ]
    one, other = (made.params["vector"] for made in found)
    assert float(torch.cosine_similarity(one, other, dim=0)) < 0.999
    with differentiable(small.wrapped):
        vector = torch.randn(16, generator=torch.Generator().manual_seed(0), requires_grad=True)
        null = form.null(small, {"vector": vector})
        stream = torch.randn(2, 3, 16)
        (edit,) = null.changes(small)
        left = (edit.edit(stream, 1.0) @ vector).detach()
    assert float(left.max()) < 1e-4
    before = stream @ vector.detach()
    torch.testing.assert_close(left[before < 0], before[before < 0], atol=1e-4, rtol=1e-4)
