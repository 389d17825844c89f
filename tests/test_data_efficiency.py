"""Gain over the number of pairs: each size is the first pairs alone, and the rest by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from steerlens.analyses.comparison.data_curve import DataCurve
from steerlens.analyses.comparison.data_efficiency import data_efficiency
from steerlens.analyses.comparison.making import Making
from steerlens.analyses.comparison.way_task import WayTask
from steerlens.data import ContrastPair, ContrastSet
from steerlens.directions import Direction
from steerlens.interventions import Add
from steerlens.measures.equal_cost import equal_kl
from steerlens.measures.sweep import sweep
from steerlens.models.model import Model
from steerlens.sites import Site
from steerlens.testing.tiny_models import tiny_model


def _pairs(things: str, *, whole: bool = False) -> ContrastSet:
    pairs = [(f"the {thing} is", " good", " bad") for thing in things.split()]
    if whole:
        made = [ContrastPair("", a + b, a + c) for a, b, c in pairs]
    else:
        made = [ContrastPair(*pair) for pair in pairs]
    return ContrastSet("good", tuple(made))


def _add(vector) -> Add:
    return Add(Direction(vector, Site(1)), unit=1.0)


@pytest.fixture(scope="module")
def model():
    return Model(tiny_model("llama"))


@pytest.fixture(scope="module")
def task():
    things = "cat dog bird fish man woman child friend"
    return WayTask(
        concept="good",
        texts=(_pairs(things, whole=True),) * 2,
        fit=(_pairs(things),) * 2,
        validation=(None,) * 2,
        report=_pairs("soup bread cake wine tea room bed food place film"),
        calibrating=("the cat sat in the city", "we like tea and wine"),
        neutral=("they came to town now", "he ate bread here today"),
    )


def test_each_size_is_made_of_its_pairs_alone(model, task, tmp_path):
    seen: list[tuple[int, int, bool]] = []

    def way(data):
        seen.append((len(data.fit), data.batch, data.validation is None))
        vector = torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(data.batch))
        return _add(vector)

    found = data_efficiency(
        model, {"mine": way}, task, Making(site=Site(1), batch=4), (8, 1, 2), budget=0.05,
        progress=False,
    )  # fmt: skip
    assert seen == [(n, min(n, 4), True) for n in (1, 2, 8) for _ in range(2)]
    assert found.sizes == (1, 2, 8) and found.values.shape == (1, 3, 2, 10)
    vector = torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(2))
    m = equal_kl(model, {"x": _add(vector)}, task.calibrating, kl=0.05, progress=False)[0]
    assert float(found.multiplier[0, 1, 0]) == pytest.approx(m, rel=0.05)
    own = float(found.multiplier[0, 1, 0])
    odds = sweep(model, task.report, [_add(vector)], (0.0, own), progress=False).log_odds[0]
    torch.testing.assert_close(found.values[0, 1, 0], odds[1] - odds[0], rtol=1e-3, atol=1e-5)
    again = DataCurve.load(found.save(tmp_path))
    assert again.to_frame().equals(found.to_frame()) and len(found.to_frame()) == 3
    drawn: Any = found.plot()
    assert "mine" in found.summary() and len(drawn.data) >= 2
    assert found.pairs_for(0.0)["mine"] in (1, 2, 8, None)
    with pytest.raises(ValueError, match="has 8 pairs"):
        data_efficiency(model, ("DiffMean",), task, Making(site=Site(1)), (9,), progress=False)
