"""The first order of a change of weights: the block's formula, small changes, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from steerlens import plots
from steerlens.analyses.equivalence.first_order import _streams, along, shift_equivalence
from steerlens.analyses.equivalence.shift_equivalence import ShiftEquivalence
from steerlens.directions import Direction
from steerlens.interventions import Add
from steerlens.interventions.changes import Dense, LowRank, WeightChange
from steerlens.interventions.composition import Composition
from steerlens.models.model import Model
from steerlens.sites import Site
from steerlens.testing.tiny_models import tiny_model

TEXTS = ["the cat sat in the big city", "we like tea and wine", "they came to town now"]


@pytest.fixture(scope="module")
def model():
    return Model(tiny_model("llama"))


def _change(model, *names):
    generator = torch.Generator().manual_seed(0)
    parameters = dict(model.wrapped.named_parameters())
    return [
        WeightChange(name, Dense(0.05 * torch.randn(parameters[name].shape, generator=generator)))
        for name in names
    ]


def test_the_derivative_of_one_block_is_the_papers_formula(model):
    names = [f"blocks.1.mlp.{name}" for name in ("W_gate", "W_in", "W_out")]
    changes = _change(model, *names)
    batch = model.tokens(TEXTS, padding_side="right")
    read = _streams(model, changes, ["blocks.1.hook_resid_post"], batch)
    (slope,) = along(read, torch.zeros(()))[1]
    _, cache = model.wrapped.run_with_cache(batch.tokens, prepend_bos=False)
    block = model.wrapped.blocks[1]
    h, mlp = block.ln2(cache["blocks.1.hook_resid_mid"]), block.mlp
    zeros = [torch.zeros(change.delta.shape) for change in changes]
    d_gate, d_up, d_down = (c.delta.added(z, 1.0) for c, z in zip(changes, zeros, strict=True))
    a_gate, a_up = h @ mlp.W_gate, h @ mlp.W_in
    silu, sigmoid = torch.nn.functional.silu(a_gate), torch.sigmoid(a_gate)
    slope_of_silu = sigmoid * (1 + a_gate * (1 - sigmoid))
    formula = (silu * a_up) @ d_down
    formula = formula + (slope_of_silu * a_up * (h @ d_gate) + silu * (h @ d_up)) @ mlp.W_out
    torch.testing.assert_close(slope[batch.mask], formula[batch.mask], rtol=1e-4, atol=1e-5)


def test_what_is_missed_falls_with_the_square_of_the_change(model, tmp_path):
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(32, 1, generator=generator), torch.randn(4, 1, 8, generator=generator)
    low = WeightChange("blocks.1.attn.W_Q", LowRank(0.3 * a, 0.3 * b))
    change = Composition((*_change(model, "blocks.0.mlp.W_out", "embed.W_E"), low))
    found = shift_equivalence(model, change, TEXTS * 3, (0.02, 0.04, 1.0))
    # The shift grows with m, its error with m², so the share that is missed grows with m².
    share = found.missed.sum(-1) / found.moved.sum(-1)
    torch.testing.assert_close(share[1] / share[0], torch.full((3,), 4.0), rtol=0.15, atol=0)
    assert float(found.explained[0][0].min()) > 0.99
    with change.attach(model, 1.0):
        after = model.cache(TEXTS[:1], [2])[Site(2)]
    before = model.cache(TEXTS[:1], [2])[Site(2)]
    true = (after - before)[:, 1:].square().sum()
    torch.testing.assert_close(found.moved[2, 2, 0], true, rtol=1e-4, atol=0)
    assert (found.low_rank[:, 1:].diff(dim=1) >= -1e-6).all() and (found.low_rank <= 1.0001).all()
    again = ShiftEquivalence.load(found.save(tmp_path))
    assert again.to_frame().equals(found.to_frame())
    drawn: Any = found.plot()
    assert "multiplier 1" in found.summary() and len(drawn.data) >= 4


def test_what_has_no_first_order_is_refused(model):
    change = Composition(tuple(_change(model, "blocks.0.mlp.W_out")))
    add = Add(Direction(torch.ones(32), Site(1)), unit=1.0)
    with pytest.raises(ValueError, match="does not change weights alone"):
        shift_equivalence(model, add, TEXTS)
    with pytest.raises(ValueError, match="there is no shift"):
        shift_equivalence(model, change, TEXTS, (0.0, 1.0))
    with pytest.raises(ValueError, match="no texts"):
        shift_equivalence(model, change, [])
    for wrong, said in (
        ({}, "series is empty"),
        ({"a": ([0.0], ([1.0],) * 3)}, "not above 0"),
    ):
        with pytest.raises(ValueError, match=said):
            plots.measured_lines(wrong, title="", x="", y="", log=True)
