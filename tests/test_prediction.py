"""What is known of a layer before steering: the planted layers are found, each number by hand."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from steerlens.analyses.prediction.find_cell import find_cell
from steerlens.analyses.prediction.layer_predictions import LayerPredictions
from steerlens.analyses.prediction.predict_layers import predict_layers
from steerlens.analyses.prediction.prediction_study import PredictionStudy
from steerlens.analyses.prediction.predictors import PREDICTORS
from steerlens.analyses.steerability.measure_steerability import steerability
from steerlens.arguments import ArgumentError
from steerlens.interventions import Add
from steerlens.measures import scores
from steerlens.measures.reading import activations
from steerlens.measures.sweep import sweep
from steerlens.models.model import Model

QUIET: Any = {"progress": False}


@pytest.fixture(scope="module")
def model(planted):
    return Model(planted.model)


@pytest.fixture(scope="module")
def read(model, planted_data):
    return activations(model, planted_data[0], model.sites("resid_pre"), progress=False)


@pytest.fixture(scope="module")
def found(model, read, planted_data):
    return predict_layers(model, read, planted_data[1], neutral=8, **QUIET)


def test_every_predictor_gives_a_number_for_every_site(found, read):
    assert found.names == tuple(PREDICTORS) and found.sites == read.sites
    assert found.values.shape == (len(PREDICTORS), len(read.sites))
    frame = found.to_frame()
    assert len(frame) == found.values.numel()


def test_the_slope_is_that_of_a_small_step(model, read, planted_data, found):
    edits = [Add(direction) for direction in read.directions("DiffMean")]
    step = 0.01
    odds = scores.preference(sweep(model, planted_data[1], edits, (-step, step), **QUIET)).mean(-1)
    expected = (odds[:, 1] - odds[:, 0]) / (2 * step)
    torch.testing.assert_close(found.value("slope"), expected, atol=2e-2, rtol=2e-2)


def test_the_parts_at_the_budget_add_up(found):
    whole = found.value("mediated at budget") + found.value("direct at budget")
    torch.testing.assert_close(whole, found.value("slope at budget"))
    assert float(found.value("slope at budget").max()) > 0.1


def test_the_layers_where_the_truth_was_planted_come_first(planted, found):
    alive = planted.live_layers("resid_pre")
    first = found.shortlist(len(alive) / len(found.sites), by="mediated at budget")
    assert {site.layer for site in first} == set(alive)


def test_accessibility_is_the_logit_lens_at_the_prompts_end(model, read, planted_data, found):
    pair = planted_data[1][0]
    few = predict_layers(
        model, read, [pair, planted_data[1][1]], neutral=8,
        predictors={"access": PREDICTORS["access"]}, **QUIET,
    )  # fmt: skip
    by_hand = []
    for one in (pair, planted_data[1][1]):
        prompt, _ = model.split(one.prompt, one.positive)
        ids = [model.split(one.prompt, answer)[1][0] for answer in (one.positive, one.negative)]
        stream = model.cache(one.prompt, list(read.sites))
        log_p = [
            model.unembed(model.readout.norm(stream[s][0, len(prompt) - 1])).log_softmax(-1)
            for s in read.sites
        ]
        by_hand.append(torch.stack([row[ids].logsumexp(-1) for row in log_p]))
    expected = torch.stack(by_hand).mean(0).detach()
    torch.testing.assert_close(few.value("access"), expected, atol=1e-4, rtol=1e-4)


def test_cosine_and_probe_of_planted_vectors(model, planted_data):
    """Equal differences have cosine 1 and are told apart; noise has about 0 and is not."""
    read = activations(model, planted_data[0], model.sites("resid_pre")[:2], progress=False)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(read.positive.shape, generator=generator)
    positive, negative = noise.clone(), torch.randn(read.positive.shape, generator=generator)
    negative[:, 0] = positive[:, 0] - 3.0
    made = replace(read, positive=positive, negative=negative)
    found = predict_layers(model, made, planted_data[1], neutral=8, **QUIET)
    assert float(found.value("cosine")[0]) == pytest.approx(1.0, abs=1e-5)
    assert abs(float(found.value("cosine")[1])) < 0.1
    assert float(found.value("probe")[0]) > 0.95
    assert float(found.value("separation")[0]) > 5 * abs(float(found.value("separation")[1]))


def test_a_search_maps_the_shortlist_and_gains_what_the_whole_map_gains(model, read, planted_data):
    fit, choose, report = planted_data
    options: Any = {"neutral": [pair.prompt + pair.positive for pair in choose], "nulls": 0,
               "multipliers": (0.0, 0.5, 1.0), "unit": "resid_norm", **QUIET}  # fmt: skip
    whole = steerability(model, read, choose, report, **options)
    searched = find_cell(
        model,
        fit,
        choose,
        report,
        sites=read.sites,
        share=1 / 3,
        by="mediated at budget",
        **options,
    )
    assert len(searched.map.rows) == 2 < len(whole.rows)
    assert whole.chosen is not None and searched.cell is not None
    maps = (whole, searched.map)
    gains = [float(m.oriented.mean(-1)[m.index(m.chosen)]) for m in maps if m.chosen is not None]
    assert gains[1] > 0.95 * gains[0] > 0
    assert "2 of 6 sites were mapped" in repr(searched)


def test_what_cannot_be_asked_is_refused(model, read, planted_data, found):
    with pytest.raises(ArgumentError, match="'luck' is not one of access, cosine"):
        found.value("luck")
    with pytest.raises(ArgumentError, match="share=0 is not a part"):
        found.shortlist(0)
    with pytest.raises(ArgumentError, match="one number for each site"):
        found.correlation("slope", torch.zeros(2))
    with pytest.raises(ArgumentError, match="budget=0"):
        predict_layers(model, read, planted_data[1], budget=0.0)


def test_it_is_saved_drawn_and_read_back(found, tmp_path):
    found.save(tmp_path / "predictions")
    again = LayerPredictions.load(tmp_path / "predictions")
    assert torch.equal(again.values.nan_to_num(9), found.values.nan_to_num(9))
    assert len(found.plot().data) >= 3
    assert "Why this layer" in found.section({}).title


# A study over cases


@pytest.fixture(scope="module")
def study():
    """Eight concepts with two cases of 10 sites: one predictor knows the gain, one is noise."""
    generator = torch.Generator().manual_seed(0)
    effect = torch.rand(16, 10, generator=generator) + 0.1
    noise = torch.randn(16, 10, generator=generator)
    effect[3, 8:] = noise[3, 8:] = torch.nan  # a case with fewer sites
    values = torch.stack([effect.exp(), noise, effect + noise], 1)
    return PredictionStudy(
        cases=tuple(f"case {i}" for i in range(16)),
        concepts=tuple(f"concept {i // 2}" for i in range(16)),
        predictors=("knows at budget", "noise", "both"),
        values=values,
        outcomes=("gain",),
        effects=effect[:, None],
        by_choosing=effect,
        seconds=torch.tensor([[1.0, 10.0]]).expand(16, -1),
        made_by={},
    )


def test_a_predictor_that_knows_is_told_from_noise(study):
    assert study.correlation("knows at budget", "gain").value == pytest.approx(1.0)
    noise = study.correlation("noise", "gain")
    assert noise.low < 0 < noise.high
    # Of both predictors and noise, a rule fitted to other concepts orders the sites of a new one.
    best = study.correlation("both", "gain").value
    assert study.left_out("gain", ["noise", "both"]).low > best


def test_the_regret_of_a_search(study):
    assert study.regret("knows at budget", 0.1).value == pytest.approx(0.0)
    chance, noise = study.regret("by chance", 0.2), study.regret("noise", 0.2)
    assert chance.low > 0.05 and noise.value > 0.05
    assert study.regret("noise", 1.0).value == pytest.approx(0.0)
    assert study.time_share(0.2) == pytest.approx(0.3)


def test_a_study_is_saved_and_drawn(study, tmp_path):
    study.save(tmp_path / "study")
    again = PredictionStudy.load(tmp_path / "study")
    assert again.summary() == study.summary()
    assert len(study.plot().data) > 0 and len(study.plot_regret().data) >= 2
    assert "knows at budget: gain +1" in study.summary()
