"""The direct and mediated parts of a map's gains."""

import csv

import pytest
import torch

from steerlens.analyses.steerability.measure_steerability import steerability
from steerlens.analyses.steerability.steerability_map import SteerabilityMap
from steerlens.directions import Direction
from steerlens.directions.methods import DiffMean
from steerlens.interventions import Add
from steerlens.measures.reading import activations
from steerlens.models.model import Model
from steerlens.report.section import Figure
from steerlens.sites import Site
from tests.strangers import low_rank


@pytest.fixture(scope="module")
def model(planted):
    return Model(planted.model)


@pytest.fixture(scope="module")
def made(model, planted_data):
    fit, choose, report = planted_data
    read = activations(model, fit, model.sites("resid_pre"), progress=False)
    return steerability(model, read, choose, report, sites=read.sites, progress=False)


@pytest.fixture(scope="module")
def pushing(model, planted_data):
    """A map whose best cell pushes the answer's logit itself, after the last block."""
    _, choose, report = planted_data
    pair = choose.pairs[0]
    (good,), (bad,) = (model.split(pair.prompt, a)[1] for a in (pair.positive, pair.negative))
    unembedding = model.wrapped.unembed.W_U.detach()
    push = unembedding[:, good] - unembedding[:, bad]
    last = Site(model.n_layers - 1)
    read = activations(model, planted_data[0], [Site(3, "resid_pre")], progress=False)
    arms = {
        "push": Add(Direction(push, last, resid_norm=1.0), unit=20 * float(push.norm())),
        "planted": Add(read.direction(Site(3, "resid_pre"), DiffMean())),
        "weights": low_rank(model, 1),
    }
    return steerability(model, arms, choose, report, budget=10.0, nulls=0, progress=False)


def test_what_is_planted_is_mediated(planted, made):
    """The direction is read by a block and not by the unembedding."""
    live = [layer in planted.live_layers("resid_pre") for layer in range(6)]
    found = made.parts
    assert found is not None and bool(found.known.all())
    gain, direct = made.oriented.mean(-1)[:, -1], found.direct_interval[0][:, -1]
    assert bool((gain[live] > 0.5).all())
    assert float(direct.abs().max()) < 0.02 * float(gain[live].min())
    assert bool((found.share[0][live, -1].abs() < 0.02).all())


def test_the_parts_add_up_to_the_gain(pushing):
    found = pushing.parts
    known = found.known
    assert known.tolist() == [True, True, False]
    torch.testing.assert_close((found.direct + found.mediated)[known], pushing.gains[known])


def test_the_table_holds_both_parts_with_the_sign_of_the_gain(pushing, tmp_path):
    pushing.save(tmp_path)
    with (tmp_path / "map.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == pushing.cost.numel()
    for row in rows:
        if row["row"] == "weights":
            assert row["direct"] == row["mediated"] == ""
            continue
        parts = float(row["direct"]) + float(row["mediated"])
        assert parts == pytest.approx(float(row["gain"]), abs=1e-5)
        assert float(row["mediated_low"]) <= float(row["mediated"]) <= float(row["mediated_high"])


def test_the_parts_survive_saving_and_loading(pushing, tmp_path):
    loaded = SteerabilityMap.load(pushing.save(tmp_path))
    torch.testing.assert_close(loaded.direct, pushing.direct, equal_nan=True, rtol=0, atol=0)
    assert loaded.confirmation is not None and loaded.confirmation.direct is not None
    assert torch.equal(loaded.confirmation.direct, pushing.confirmation.direct)
    assert loaded.summary() == pushing.summary()


def test_a_push_on_the_answer_is_called_direct_and_the_mediated_cell_is_named(pushing):
    found = pushing.recommend()
    assert found.cell.row == "push"
    share = pushing.parts.share[0][pushing.index(found.cell)]
    assert float(share) == pytest.approx(1.0, abs=1e-4)
    assert "direct: the vector itself raises the asked answer's logit" in pushing.summary()
    answer = " ".join(pushing.section({}).answer)
    assert "is direct:** the vector itself raises the asked answer's logit" in answer
    through = pushing.recommend(by="mediated")
    assert through.cell.row == "planted" and through.by == "mediated"
    assert f"at planted with multiplier {through.cell.multiplier:+g}" in answer
    assert "nats through later blocks" in str(through)
    assert dict((cell.row, why) for cell, why in through.reasons)["weights"] == (
        "its gain has no direct and mediated part"
    )
    held = pushing.confirmation
    assert float(held.mediated.value) == pytest.approx(0.0, abs=1e-3)


def test_a_gain_of_later_blocks_is_not_called_direct(made):
    assert "direct" not in [line.split()[0] for line in made.summary().splitlines()[1:]]
    assert made.recommend(by="mediated").cell == made.recommend().cell


def test_the_page_shows_the_mediated_gain(pushing):
    (part,) = [p for p in pushing.section({}).parts if p.short == "Mediated gain"]
    (figure,) = [block for block in part.blocks if isinstance(block, Figure)]
    assert "weights has no step to hold apart" in figure.caption
    drawn = figure.draw()
    assert "through later blocks" in drawn.to_dict()["layout"]["title"]["text"]


def test_a_map_without_parts_says_what_is_missing(model, planted_data):
    _, choose, _ = planted_data
    made = steerability(model, {"w": low_rank(model, 1)}, choose, progress=False)
    assert made.parts is None
    assert "direct" not in made.to_frame().columns
    assert not [p for p in made.section({}).parts if p.short == "Mediated gain"]
    with pytest.raises(ValueError, match="none of its interventions adds a step"):
        made.recommend(by="mediated")
    with pytest.raises(ValueError, match="none of its interventions adds a step"):
        made.plot_mediated()
