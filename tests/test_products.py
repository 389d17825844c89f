"""Products in half precision under a float32 stream: near float32's numbers, and only where asked."""

from __future__ import annotations

import pytest
import torch

from steerlens.analyses.steerability import map_answer
from steerlens.analyses.steerability.measure_steerability import steerability
from steerlens.data import ContrastPair, ContrastSet
from steerlens.directions import Direction
from steerlens.directions.methods import DiffMean
from steerlens.interventions import Add
from steerlens.measures.reading import activations, diffmean
from steerlens.measures.sweep import plan, sweep
from steerlens.models.kernel import Columns
from steerlens.models.model import Model
from steerlens.models.products import products_of
from steerlens.models.speed import speed_of
from steerlens.sites import Positions, Site
from steerlens.store.cells import Cells
from steerlens.store.files import DamagedFile
from steerlens.testing import tiny_bridge, tiny_model
from tests.kinds import KINDS

PAIRS = ContrastSet(
    "pairs",
    (
        ContrastPair("I think that the soup was", " good", " bad"),
        ContrastPair("the cat sat on", " the bed", " the dog ran"),
    ),
)


def arms(model, layers=(0, 1)):
    for layer in layers:
        vector = torch.randn(model.d_model, generator=torch.Generator().manual_seed(layer))
        yield Add(Direction(vector, Site(layer), resid_norm=2.0), Positions.all())


def test_a_sweep_is_near_float32s_and_not_the_same(tiny):
    found = [
        sweep(tiny, PAIRS, list(arms(tiny)), (-1.0, 0.0, 1.0), products=products, progress=False)
        for products in (None, "bfloat16", "float16")
    ]
    exact, brain, half = (one.positive for one in found)
    spread = float(exact.std())
    assert 0 < float((brain - exact).abs().max()) < 0.05 * spread
    assert 0 < float((half - exact).abs().max()) < 0.01 * spread
    assert float((exact[:, 2] - exact[:, 0]).abs().max()) > 10 * float((brain - exact).abs().max())


def test_weights_and_stream_stay_as_they_are(tiny):
    before = {name: value.clone() for name, value in tiny.wrapped.state_dict().items()}
    kernel = tiny.kernel(products=torch.bfloat16)
    batch = tiny.tokens(["the cat sat on the bed"])
    resid = kernel.embed(batch.tokens[:, None], batch.positions[:, None])
    with torch.no_grad():
        out = kernel.climb(resid, Columns.of(batch))
        plain = tiny.kernel().climb(resid, Columns.of(batch))
    assert out.dtype == torch.float32
    assert all(torch.equal(before[n], v) for n, v in tiny.wrapped.state_dict().items())
    assert 0 < float((out - plain).norm() / plain.norm()) < 0.02


def test_directions_point_the_same_way(tiny):
    exact = activations(tiny, PAIRS, progress=False)
    read = activations(tiny, PAIRS, products="bfloat16", progress=False)
    assert read.dtype == "float32, products in bfloat16" and exact.dtype == "float32"
    for one, other in zip(
        exact.directions(DiffMean()), diffmean(tiny, PAIRS, products="bfloat16", progress=False),
        strict=True,
    ):  # fmt: skip
        cosine = torch.cosine_similarity(one.vector, other.vector, 0)
        assert float(cosine) > 0.999 and not torch.equal(one.vector, other.vector)
        assert other.dtype == "float32, products in bfloat16"


def test_null_maps_alone_have_them(planted, planted_data):
    fit, choose, _ = planted_data
    plain, half = (
        steerability(
            Model(planted.model), fit, choose, layers=(1, 2), multipliers=(-1.0, 0.0, 1.0),
            unit="resid_norm",
            neutral=[pair.prompt for pair in choose], nulls=19, null_products=products, progress=False,
        )
        for products in (None, "bfloat16")
    )  # fmt: skip
    assert torch.equal(plain.propensities, half.propensities) and torch.equal(plain.kl, half.kl)
    assert plain.shuffled.shape == half.shuffled.shape
    assert 0 < float((plain.shuffled - half.shuffled).abs().mean()) < 0.1
    assert plain.p_value == half.p_value
    assert half.made_by["null_products"] == "bfloat16" and "null_products" not in plain.made_by
    said = "The null maps were computed with products in bfloat16."
    told = [" ".join(f.meaning for f in map_answer.facts(m, m.recommend())) for m in (plain, half)]
    assert [said in one for one in told] == [False, True]


def test_stored_cells_of_one_precision_are_not_those_of_another(gpt2, tmp_path):
    def swept(products):
        cells = Cells(tmp_path, "sweep", {}, False)
        return sweep(gpt2, PAIRS, list(arms(gpt2)), (0.0, 1.0), products=products, cells=cells)

    kept = swept("bfloat16").positive
    assert torch.equal(kept, swept("bfloat16").positive)
    with pytest.raises(DamagedFile):
        swept(None)

    def read(products):
        cells = Cells(tmp_path / "read", "activations", {}, False)
        return activations(gpt2, PAIRS, products=products, progress=False, cells=cells).positive

    assert torch.equal(read(None), read(None))
    with pytest.raises(DamagedFile):
        read("bfloat16")


def test_plans_and_speeds_are_those_of_the_precision(gpt2):
    planned = plan(gpt2, PAIRS, list(arms(gpt2)), (0.0, 1.0), products="bfloat16")
    assert planned.work is not None
    assert planned.seconds == speed_of(gpt2, "bfloat16").seconds(planned.work)
    assert speed_of(gpt2, "bfloat16") is not speed_of(gpt2)


def test_what_cannot_have_them_is_refused(gpt2, unchecked):
    edits = list(arms(gpt2))
    with pytest.raises(ValueError, match="'bf16' is no precision of products"):
        sweep(gpt2, PAIRS, edits, (0.0, 1.0), products="bf16")
    with pytest.raises(ValueError, match="is a TransformerBridge"):
        products_of(Model(tiny_bridge("gpt2")), "bfloat16")
    with pytest.raises(ValueError, match="is bfloat16 already"):
        products_of(Model(tiny_model("gpt2").to(torch.bfloat16)), "bfloat16")
    with pytest.raises(ValueError, match="is for edits of the residual stream, and"):
        lora = KINDS["LoRA of all matrices"](gpt2)
        sweep(gpt2, PAIRS, [*edits, lora], (0.0, 1.0), products="bfloat16")
    with pytest.raises(ValueError, match="something is attached"), edits[0].attach(gpt2, 1.0):
        activations(gpt2, PAIRS, products="bfloat16", progress=False)
    with pytest.raises(ValueError, match="z is inside one"):
        activations(gpt2, PAIRS, [Site(0, "z")], products="bfloat16", progress=False)
    with pytest.raises(ValueError, match="is no precision of products"):
        steerability(gpt2, PAIRS, PAIRS, null_products="half")
