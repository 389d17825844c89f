"""Half-precision models go through every analysis, and give float32's numbers but for rounding."""

from __future__ import annotations

import pytest
import torch

from steerlens.data import ContrastPair, ContrastSet
from steerlens.directions import Direction
from steerlens.directions.methods import DiffMean
from steerlens.experiment import SAEExperiment, SteerabilityExperiment
from steerlens.experiment.experiment_data import load_data
from steerlens.interventions import Add
from steerlens.measures.direct_gain import direct_gain
from steerlens.measures.divergence import divergence
from steerlens.measures.generation import generate
from steerlens.measures.reading import activations
from steerlens.measures.screen import screen
from steerlens.measures.sweep import sweep
from steerlens.models.model import Model
from steerlens.sites import Site
from steerlens.testing import tiny_bridge, tiny_model
from tests.planted_files import write_planted

HALF = ["bfloat16", "float16"]
ROUNDING = {"bfloat16": 0.25, "float16": 0.03}
"""Nats by which a gain of the reference model may differ from float32's."""

PAIRS = ContrastSet(
    "pairs",
    (
        ContrastPair("I think that the soup was", " good", " bad"),
        ContrastPair("the cat sat on", " the bed", " the dog"),
    ),
)


def test_a_whole_experiment_runs_in_bfloat16(planted, tmp_path):
    """Of a tiny model: many processors have no products of this precision."""
    folder = write_planted(planted, tmp_path / "planted")
    run = SteerabilityExperiment(
        model=str(folder / "model"), contrast=str(folder / "contexts.jsonl"),
        questions=str(folder / "questions.jsonl"), dtype="bfloat16", layers=(2,),
        n_fit=8, n_choose=4, n_report=4, n_neutral=4, nulls=0,
        written=2, new_tokens=2, strengths=11, samples=1, multipliers=(0.0, 0.5), confirmed=8,
        shifts=("the city was there ! {prompt}",), others=(str(folder / "questions.jsonl"),),
    ).run(tmp_path / "results", progress=False)  # fmt: skip
    assert set(run.results) == {of.kind for of in SteerabilityExperiment.results}
    assert run.manifest["fields"]["dtype"] == "bfloat16"
    assert torch.isfinite(run.map.propensities).all()


def test_saes_of_another_precision_are_taken_by_an_experiment_with_a_warning():
    experiment = SAEExperiment(dtype="bfloat16", layers=(5,))
    model = experiment.load_model()
    with pytest.warns(UserWarning, match="in bfloat16 it cannot be checked which"):
        (sae,) = experiment.load_saes(model)
    read = model.cache("the chef was splendid", [sae.site])[sae.site]
    assert sae.W_dec.dtype == torch.bfloat16
    assert torch.isfinite(sae.encode(read)).all()


@pytest.mark.parametrize("dtype", HALF)
def test_gains_of_the_reference_model_are_float32s_but_for_rounding(dtype):
    data = load_data("reviews/sentiment", None, (12, 6, 6), 4, 0)
    gains = {}
    for precision in ("float32", dtype):
        model = Model.load("reviews", dtype=precision)
        read = activations(model, data.fit, [Site(5)], progress=False)
        edit = Add(read.direction(Site(5), DiffMean()))
        odds = sweep(model, data.choose, [edit], [0.0, 0.5], progress=False).log_odds[0]
        gains[precision] = odds[1] - odds[0]
    assert float(gains["float32"].abs().max()) > 1
    assert float((gains[dtype] - gains["float32"]).abs().max()) < ROUNDING[dtype]


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("build", [tiny_model, tiny_bridge])
def test_every_measure_takes_a_model_in_half_precision(build, dtype):
    model = Model(build("llama").to(getattr(torch, dtype)))
    edit = Add(Direction(torch.ones(model.d_model), Site(0), resid_norm=1.0, processing="raw"))
    found = [
        sweep(model, PAIRS, [edit], [0.0, 1.0], progress=False).positive,
        divergence(model, ["the cat sat on the bed"], [edit], [0.0, 1.0], progress=False),
        direct_gain(model, PAIRS, [edit], [0.0, 1.0], progress=False),
        activations(model, PAIRS, [Site(0)], progress=False).positive,
        screen(model, PAIRS, [edit], progress=False).slopes,
        model.logits("the cat"),
    ]
    assert all(torch.isfinite(values).all() for values in found)
    with edit.attach(model, 1.0):
        assert len(generate(model, ["the cat", "you like"], max_new_tokens=3)) == 2
