"""Preference and utility over many strengths of one intervention."""

from dataclasses import replace

import pytest
import torch

from steerlens.analyses.validity.measure_validity import decay, strengths
from steerlens.directions.methods import DiffMean
from steerlens.interventions import Add
from steerlens.measures.reading import activations
from steerlens.measures.scores import preference, utility
from steerlens.measures.sweep import sweep
from steerlens.models.model import Model
from steerlens.sites import Site
from steerlens.store.cells import Cells
from steerlens.testbed import reviews
from tests.strangers import low_rank


@pytest.fixture(scope="module")
def steered():
    model = Model.load("reviews")
    read = activations(model, reviews.contexts("register", 60), [Site(5)], progress=False)
    return model, Add(read.direction(5, DiffMean())), reviews.questions("register", 24, seed=2)


@pytest.mark.parametrize("count", [3, 11, 17, 25])
def test_strengths_hold_an_exact_zero_and_are_symmetric(count):
    made = strengths(0.7, count)
    assert len(made) == count
    assert made[count // 2] == 0.0
    assert made == tuple(-m for m in reversed(made))
    assert (made[0], made[-1]) == (-0.7, 0.7)


def test_an_even_number_of_strengths_is_refused():
    with pytest.raises(ValueError, match="odd number"):
        strengths(1.0, 10)


def test_the_fit_is_of_what_a_sweep_measures(steered):
    model, edit, asked = steered
    along = strengths(2.0, 11)
    fit = decay(model, edit, asked, along, progress=False)
    swept = sweep(model, asked, [edit], along, progress=False)
    torch.testing.assert_close(fit.preferences, preference(swept)[0])
    torch.testing.assert_close(fit.utilities, utility(swept).value[0])
    assert fit.preference.r2 > 0.99
    assert fit.plot_tradeoff().data
    assert (fit.row, fit.site) == ("L5 resid_post", Site(5))
    assert fit.made_by["data"] == asked.hash and fit.made_by["model"] == "reviews"


def test_too_few_strengths_are_refused_before_the_sweep(steered, tmp_path):
    with pytest.raises(ValueError, match="Sweep more"):
        decay(*steered, (-1.0, 0.0, 1.0), progress=False, cells=Cells(tmp_path))
    assert not list(tmp_path.rglob("*"))


def test_a_strangers_weight_change_is_swept_and_fitted(steered):
    model, _, asked = steered
    lora = low_rank(model, 5)
    along = strengths(4.0, 11)
    fit = decay(model, lora, asked, along, row="lora", progress=False)
    swept = sweep(model, asked, [lora], along, progress=False)
    torch.testing.assert_close(fit.preferences, preference(swept)[0])
    assert (fit.row, fit.site) == ("lora", None)
    assert float(fit.utilities.mean(-1).std()) > 0.01
    assert fit.summary().startswith("lora: fits the means over examples")
    assert "preference R²" in fit.summary()
    assert decay(model, lora, asked, along, progress=False).row == "LowRank"
    with pytest.raises(ValueError, match="Make it for this model"):
        decay(model, replace(lora, layer=40), asked, along, progress=False)


def test_a_killed_sweep_goes_on_from_what_it_saved(steered, tmp_path):
    cells = Cells(tmp_path, "decay")
    fit = decay(*steered, strengths(2.0, 11), progress=False, cells=cells)
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")}
    assert kept
    again = decay(*steered, strengths(2.0, 11), progress=False, cells=cells)
    assert torch.equal(again.preferences, fit.preferences)
    next(iter(kept)).unlink()
    anew = decay(*steered, strengths(2.0, 11), progress=False, cells=cells)
    assert torch.equal(anew.utilities, fit.utilities)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")} == kept
