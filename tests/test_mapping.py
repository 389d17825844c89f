"""The steerability map against planted truth: alive where it was planted, silent elsewhere."""

from dataclasses import replace

import pytest
import torch

from steerlens.analyses.probe.measure_probe import probe
from steerlens.analyses.probe.probe_map import ProbeMap
from steerlens.analyses.steerability.measure_steerability import steerability
from steerlens.analyses.steerability.steerability_map import SteerabilityMap
from steerlens.analyses.validity.measure_validity import strengths
from steerlens.data import ContrastSet
from steerlens.directions.methods import DiffMean, Logistic
from steerlens.measures.reading import activations
from steerlens.models.model import Model
from steerlens.sites import Site
from steerlens.store.result_files import ResultError


@pytest.fixture(scope="module")
def model(planted):
    return Model(planted.model)


@pytest.fixture(scope="module")
def read(model, planted_data):
    return activations(model, planted_data[0], model.sites("resid_pre"), progress=False)


@pytest.fixture(scope="module")
def made(model, read, planted_data):
    _, choose, report = planted_data
    return steerability(model, read, choose, report, sites=read.sites, progress=False)


def alive(planted) -> list[bool]:
    return [layer in planted.live_layers("resid_pre") for layer in range(6)]


def test_the_map_is_alive_exactly_where_the_direction_was_planted(planted, made):
    strongest = made.oriented.mean(-1)[:, -1]
    assert (strongest > 0.5).tolist() == alive(planted)
    assert (strongest.abs() < 1e-3).tolist() == [not live for live in alive(planted)]


def test_only_live_cells_are_above_the_null(planted, made):
    above = made.above_null[:, made.multipliers > 0].all(-1)
    assert above.tolist() == alive(planted)
    assert made.p_value < 0.05


def test_the_map_equals_hooked_forward_passes(model, read, made, planted_data):
    """One cell of the map, recomputed by hand."""
    choose = planted_data[1]
    from steerlens.interventions import Add

    edit = Add(read.direction(3, DiffMean()))
    pair = choose.pairs[0]
    batch = model.tokens(pair.prompt)
    ids = [model.split(pair.prompt, answer)[1][0] for answer in (pair.positive, pair.negative)]
    with edit.attach(model, 1.0):
        logits = model.logits(batch)[0, -1]
    found = made.propensities[3, -1, 0]
    torch.testing.assert_close(found, logits[ids[0]] - logits[ids[1]], atol=1e-4, rtol=1e-5)


def test_the_probe_reads_the_contrast_and_shuffled_labels_read_nothing(read):
    found = probe(read, progress=False)
    assert float(found.auroc.min()) > 0.99
    assert float((found.control_auroc - 0.5).abs().max()) < 0.2


def test_decodable_is_not_steerable(planted, made, read):
    """Every layer reads perfectly; only the planted ones steer."""
    readable = probe(read, progress=False).auroc
    assert bool((readable > 0.99).all())
    assert (made.layer_scores > 0.1).tolist() == alive(planted)


def test_shuffled_labels_find_nothing_to_steer(model, read, planted_data):
    _, choose, _ = planted_data
    flags = []
    for seed in range(5):
        nothing = replace(read.shuffled(100 + seed), data="shuffled")
        made = steerability(
            model, nothing, choose, sites=read.sites, unit="direction",
            multipliers=(-1.0, 0.0, 1.0), seed=seed, progress=False,
        )  # fmt: skip
        flags.append(made.p_value < 0.05)
    assert sum(flags) <= 1


def test_the_recommended_cell_is_live_confirmed_and_explained(planted, made):
    found = made.recommend()
    assert found.cell.site.layer in planted.live_layers("resid_pre")
    assert found.cost <= made.budget
    assert made.confirmation.cell == found.cell
    assert made.confirmation.gain.low > 1
    assert {cell.site.layer for cell, _ in found.reasons} == set(range(6)) - {found.cell.site.layer}
    assert "no more than directions of nothing" in str(found)


def test_a_small_budget_recommends_less_or_nothing(made):
    assert made.recommend(budget=0.0).cell is None
    tight = made.recommend(budget=float(made.cost[3, made.multipliers == 0.5]))
    assert tight.cell is None or abs(tight.cell.multiplier) <= 0.5


def test_recommending_less_of_the_behaviour_takes_a_negative_multiplier(made):
    assert made.recommend(towards=-1).cell.multiplier < 0


def test_slopes_say_what_a_unit_of_strength_gains(planted, made):
    slopes, low, high = made.slope_interval
    for layer, live in enumerate(alive(planted)):
        if live:
            assert 0.5 < float(low[layer]) <= float(slopes[layer]) <= float(high[layer])
            assert float(made.anti_steerable[layer]) == 0
            torch.testing.assert_close(made.monotonicity[layer].min(), torch.tensor(1.0))
    assert slopes.shape == (6,)


def test_a_map_survives_saving_and_loading(made, tmp_path):
    loaded = SteerabilityMap.load(made.save(tmp_path))
    assert loaded.summary() == made.summary()
    assert torch.equal(loaded.propensities, made.propensities)
    assert loaded.sites == made.sites
    assert torch.equal(loaded.confirmation.gains, made.confirmation.gains)
    rows = (tmp_path / "map.csv").read_text().splitlines()
    assert len(rows) == 1 + 6 * len(made.multipliers)


def test_a_probe_survives_saving_and_loading(read, tmp_path):
    found = probe(read, controls=2, progress=False)
    loaded = ProbeMap.load(found.save(tmp_path))
    assert torch.equal(loaded.scores, found.scores)
    assert loaded.best == found.best


@pytest.mark.parametrize("broken", ["missing", "truncated", "not json"])
def test_a_broken_results_folder_is_refused(made, tmp_path, broken):
    made.save(tmp_path)
    if broken == "missing":
        (tmp_path / "map.safetensors").unlink()
    elif broken == "truncated":
        whole = (tmp_path / "map.safetensors").read_bytes()
        (tmp_path / "map.safetensors").write_bytes(whole[:100])
    else:
        (tmp_path / "map.json").write_text("{")
    with pytest.raises(ResultError, match="run the experiment again|Run the experiment again"):
        SteerabilityMap.load(tmp_path)


def test_every_figure_can_be_drawn(made, read):
    found = probe(read, controls=2, progress=False)
    for figure in (
        made.plot(), made.plot_dose_response(), made.plot_slopes(), made.plot_tradeoff(),
        made.plot_against_probe(found), found.plot(),
    ):  # fmt: skip
        assert figure.data


def test_multipliers_without_zero_are_refused_before_any_work(model, read, planted_data):
    with pytest.raises(ValueError, match="has no 0.0"):
        steerability(model, read, planted_data[1], multipliers=(-1.0, 1.0))


def test_multipliers_without_a_positive_one_are_refused(model, read, planted_data):
    with pytest.raises(ValueError, match="no strength above 0.0"):
        steerability(model, read, planted_data[1], multipliers=(-1.0, 0.0))


def test_questions_shared_between_the_parts_are_refused(model, planted_data):
    _, choose, _ = planted_data
    with pytest.raises(ValueError, match="share .* questions"):
        steerability(model, choose, choose)


def test_a_layer_that_does_not_exist_is_refused_before_any_work(model, planted_data):
    fit, choose, _ = planted_data
    with pytest.raises(ValueError, match=r"Layer 9 is not in .* layers 0-5"):
        steerability(model, fit, choose, sites=[Site(9)])


def test_a_method_that_needs_pairs_refuses_unpaired_texts(read):
    from steerlens.directions.methods import PCA

    with pytest.raises(ValueError, match="no true pairs"):
        replace(read, paired=False).direction(2, PCA())


def test_too_few_questions_for_the_folds_are_refused(read):
    few = replace(read, groups=("one",) * len(read))
    with pytest.raises(ValueError, match="cannot be dealt into 5 folds"):
        probe(few)


def test_a_question_is_never_in_two_folds(read):
    """With a leak, memorised groups would lift the control; here each group is one label away."""
    found = probe(read, Logistic(), folds=4, controls=3, progress=False)
    assert found.scores.isfinite().all()
    assert isinstance(repr(found), str)


def test_the_planted_data_do_not_overlap(planted_data):
    fit, choose, report = planted_data
    assert isinstance(fit, ContrastSet)
    assert not set(fit.groups) & set(choose.groups)
    assert not set(choose.groups) & set(report.groups)


def test_runners_up_are_held_against_the_winner_example_by_example(made):
    reasons = dict(made.recommend(budget=100.0).reasons)
    behind = [why for why in reasons.values() if "less" in why]
    assert behind and all("[" in why for why in behind)
    same = replace(made, propensities=made.propensities[3].expand_as(made.propensities).clone())
    told = " ".join(why for _, why in same.recommend(budget=100.0).reasons)
    assert "cannot be told apart" in told


def test_a_map_of_few_strengths_has_no_decay_curves_and_says_how_to_get_them(made):
    with pytest.raises(ValueError, match="Sweep more"):
        made.validity(made.layers[0])
    assert "lines" not in {trace.mode for trace in made.plot_preference_utility([2, 3]).data[:2]}


def test_a_map_of_many_strengths_fits_the_decay_curves(model, read, planted_data):
    _, choose, _ = planted_data
    wide = steerability(
        model,
        read,
        choose,
        sites=read.sites[2:4],
        multipliers=strengths(2.0, 11),
        nulls=19,
        progress=False,
    )
    fit = wide.validity(2)
    assert fit.preference.r2 > 0.9
    names = {trace.name for trace in wide.plot_preference_utility([2, 3]).data}
    assert {"layer 2", "layer 3"} <= names
