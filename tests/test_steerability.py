"""The steerability map against planted truth: alive where it was planted, silent elsewhere."""

import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from steerlens.analyses.probe.measure_probe import probe
from steerlens.analyses.steerability.measure_steerability import steerability
from steerlens.analyses.steerability.steerability_map import SteerabilityMap
from steerlens.data import ContrastSet
from steerlens.directions.methods import DiffMean
from steerlens.interventions import Ablate, Add, Clamp, Together
from steerlens.measures.reading import activations
from steerlens.models.model import Model
from steerlens.report.numbers import with_minus
from steerlens.report.section import Figure, Table
from steerlens.results import ResultError
from steerlens.sites import Positions, Site
from steerlens.store.cells import Cells
from tests.strangers import low_rank


@pytest.fixture(scope="module")
def model(planted):
    return Model(planted.model)


@pytest.fixture(scope="module")
def read(model, planted_data):
    return activations(model, planted_data[0], model.sites("resid_pre"), progress=False)


@pytest.fixture(scope="module")
def made(model, read, planted_data):
    _, choose, report = planted_data
    return steerability(
        model, read, choose, report, sites=read.sites, unit="resid_norm", neutral=texts_of(choose),
        progress=False,
    )  # fmt: skip


def texts_of(questions) -> list[str]:
    return [pair.prompt + pair.positive for pair in questions]


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
    edit = Add(read.direction(3, DiffMean()))
    pair = choose.pairs[0]
    batch = model.tokens(pair.prompt)
    ids = [model.split(pair.prompt, answer)[1][0] for answer in (pair.positive, pair.negative)]
    with edit.attach(model, 1.0):
        logits = model.logits(batch)[0, -1]
    found = made.propensities[3, -1, 0]
    torch.testing.assert_close(found, logits[ids[0]] - logits[ids[1]], atol=1e-4, rtol=1e-5)


def test_decodable_is_not_steerable(planted, made, read):
    """Every layer reads perfectly; only the planted ones steer."""
    readable = probe(read, progress=False).auroc
    assert bool((readable > 0.99).all())
    assert (made.row_scores > 0.1).tolist() == alive(planted)


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
    assert "no more than the null maps do" in str(found)


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
    assert (loaded.rows, loaded.sites) == (made.rows, made.sites)
    assert loaded.confirmation.cell == made.confirmation.cell
    assert torch.equal(loaded.confirmation.gains, made.confirmation.gains)
    rows = (tmp_path / "map.csv").read_text().splitlines()
    assert len(rows) == 1 + 6 * len(made.multipliers)


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


# Interventions of any kind as rows


@pytest.fixture(scope="module")
def arms(model, read):
    early, late = (read.direction(layer, DiffMean()) for layer in (2, 3))
    return {
        "low-rank change": low_rank(model, 1),
        "two at once": Together((Add(early), Ablate(late))),
        "added": Add(late),
    }


@pytest.fixture(scope="module")
def of_arms(model, arms, planted_data):
    _, choose, report = planted_data
    return steerability(model, arms, choose, report, multipliers=(-1.0, 0.0, 1.0), progress=False)


def test_any_interventions_can_be_the_rows(of_arms, arms, made):
    assert of_arms.rows == tuple(arms)
    assert of_arms.sites == (None, None, Site(3, "resid_pre"))
    assert of_arms.layers is None and of_arms.lengths is None
    assert of_arms.row_labels == of_arms.rows
    whole = made.propensities[3]
    torch.testing.assert_close(of_arms.propensities[2], whole[[0, 3, 6]], atol=1e-4, rtol=1e-5)
    assert of_arms.made_by["interventions"]["low-rank change"] == "LowRank(layer=1, rank=2)"
    cell = of_arms.recommend().cell
    assert cell.row in ("two at once", "added") and cell.multiplier == 1
    assert of_arms.confirmation.cell == cell
    assert of_arms.confirmation.gain.low > 0.5


def test_one_cell_of_a_weight_change_equals_a_forward_pass(model, of_arms, arms, planted_data):
    pair = planted_data[1].pairs[0]
    ids = [model.split(pair.prompt, answer)[1][0] for answer in (pair.positive, pair.negative)]
    with arms["low-rank change"].attach(model, 1.0):
        logits = model.logits(model.tokens(pair.prompt))[0, -1]
    found = of_arms.propensities[0, -1, 0]
    torch.testing.assert_close(found, logits[ids[0]] - logits[ids[1]], atol=1e-4, rtol=1e-5)
    assert not torch.equal(of_arms.propensities[0, -1], of_arms.propensities[0, 1])


def test_without_null_maps_nothing_is_said_of_chance(of_arms, tmp_path):
    assert of_arms.shuffled is None and of_arms.random is None
    assert of_arms.above_null is None and math.isnan(of_arms.p_value)
    untested = "No null maps were made"
    assert untested in of_arms.summary() and "p =" not in of_arms.summary()
    assert untested in str(of_arms.recommend()) and not of_arms.recommend().tested
    assert untested in of_arms.plot().layout.title.text
    section = of_arms.section({})
    assert untested in " ".join(section.answer) and "chance within" not in " ".join(section.answer)
    assert ("More than chance?", "not tested") in [(f.term, f.value) for f in section.facts]
    assert "above_null" not in of_arms.to_frame()
    loaded = SteerabilityMap.load(of_arms.save(tmp_path))
    assert loaded.summary() == of_arms.summary() and loaded.shuffled is None


def test_without_null_maps_a_cell_must_gain_more_than_nothing(of_arms):
    backwards = replace(of_arms, propensities=-of_arms.propensities, confirmation=None)
    found = backwards.recommend()
    for cell in [found.cell] * (found.cell is not None) + [cell for cell, _ in found.reasons]:
        i, j = backwards.index(cell)
        gains = bool(backwards.oriented[i, j].mean() > 0)
        assert gains == (cell == found.cell) or "more than 0" in dict(found.reasons)[cell]
    nothing = replace(of_arms, propensities=torch.zeros_like(of_arms.propensities))
    assert nothing.recommend().cell is None
    assert "No cell gains more than 0 nats" in nothing.summary()
    assert all("not more than 0" in why for _, why in nothing.recommend().reasons)


def test_rows_along_a_direction_are_compared_with_random_directions(model, read, planted_data):
    _, choose, _ = planted_data
    directions = [read.direction(layer, DiffMean()) for layer in (2, 3)]
    by_name = {"add": Add(directions[0]), "clamp": Clamp(directions[1], 3.0)}
    multipliers = (-1.0, 0.0, 1.0)
    found = steerability(model, by_name, choose, multipliers=multipliers, progress=False)
    assert found.shuffled is None and found.random.shape == (20, 2, 3)
    assert found.label_null is None and found.p_value == found.direction_null.p_value
    assert "(best of all 6 cells; " in found.summary()
    assert "against 20 maps of random directions)" in found.summary()
    untested = steerability(
        model, by_name, choose, multipliers=multipliers, nulls=0, progress=False
    )
    assert untested.random is None
    torch.testing.assert_close(untested.propensities, found.propensities)


def test_a_fitted_map_without_null_maps_has_the_same_numbers(model, read, made, planted_data):
    _, choose, _ = planted_data
    fast = steerability(
        model, read, choose, unit="resid_norm", neutral=texts_of(choose), nulls=0, progress=False
    )
    assert fast.sites == made.sites, "the sites that were read"
    assert fast.shuffled is None and fast.random is None
    torch.testing.assert_close(fast.propensities, made.propensities)
    assert "no cell was compared with chance" in fast.summary()


@pytest.mark.parametrize("nulls", [1, 18, -1])
def test_too_few_null_maps_are_refused_before_any_work(model, read, planted_data, nulls):
    with pytest.raises(ValueError, match="at least 19, or 0"):
        steerability(model, read, planted_data[1], nulls=nulls)


def test_null_maps_of_what_has_no_direction_are_refused(model, arms, planted_data):
    with pytest.raises(ValueError, match=r"'low-rank change' \(LowRank\) is not an edit along one"):
        steerability(model, arms, planted_data[1], nulls=20)


@pytest.mark.parametrize(
    "given",
    [
        {"method": DiffMean()},
        {"sites": [Site(1)]},
        {"positions": Positions.all()},
        {"unit": "direction"},
    ],
)
def test_what_only_fitted_directions_use_is_refused_for_interventions(
    model, arms, planted_data, given
):
    with pytest.raises(ValueError, match=f"{next(iter(given))} cannot be used with interventions"):
        steerability(model, arms, planted_data[1], **given)


def test_an_intervention_that_does_not_fit_is_refused_before_any_work(model, planted_data, gpt2):
    with pytest.raises(ValueError, match="Make it for this model"):
        steerability(model, {"other": low_rank(gpt2, 0)}, planted_data[1])


def test_a_single_intervention_has_to_be_named(model, read, planted_data):
    with pytest.raises(TypeError, match="Give interventions by name|parameters"):  # by the checker
        steerability(model, Add(read.direction(3, DiffMean())), planted_data[1])


def test_a_site_named_twice_is_refused(model, planted_data):
    fit, choose, _ = planted_data
    with pytest.raises(ValueError, match="twice|more than once"):
        steerability(model, fit, choose, sites=[Site(1), Site(1)])


def test_names_layers_and_arrays_are_taken_as_users_write_them(model, planted_data):
    fit, choose, _ = planted_data

    def measured(**settings):
        return steerability(model, fit, choose, progress=False, **settings)

    plain = measured(
        sites=[Site(2), Site(3)], method=DiffMean(), positions=Positions.all(), nulls=0,
        multipliers=(0.0, 1.0), budget=0.5,
    )  # fmt: skip
    loose = measured(
        sites=range(2, 4), method="DiffMean", positions="all", nulls=np.int64(0),
        multipliers=torch.tensor([0.0, 1.0]), budget=np.float64(0.5), seed=np.int64(0),
    )  # fmt: skip
    assert loose.rows == plain.rows == ("L2 resid_post", "L3 resid_post")
    assert torch.equal(loose.propensities, plain.propensities)
    assert (loose.budget, loose.made_by) == (plain.budget, plain.made_by)
    with pytest.raises(ValueError, match="budget=nan is not finite"):
        measured(budget=math.nan)


def test_a_stopped_map_goes_on_to_the_same_numbers(
    model, read, planted_data, tmp_path, monkeypatch
):
    _, choose, _ = planted_data

    def measured(cells):
        return steerability(
            model, read, choose, sites=read.sites[2:4], multipliers=(0.0, 1.0), nulls=19,
            progress=False, cells=cells,
        )  # fmt: skip

    whole = measured(None)
    assert torch.equal(measured(Cells(tmp_path)).propensities, whole.propensities)
    parts = {"ordinary", "lengths", "gain", "cost", "direct", "shuffled", "random"}
    assert {path.name for path in tmp_path.iterdir()} == parts
    shutil.rmtree(tmp_path / "random")
    written = []
    save = Cells.save
    monkeypatch.setattr(
        Cells, "save", lambda self, *what: (written.append(self.name), save(self, *what))[1]
    )
    again = measured(Cells(tmp_path))
    assert {name.partition("/")[0] for name in written} == {"random"}, "others are kept"
    for name in ("propensities", "utilities", "shuffled", "random"):
        assert torch.equal(getattr(again, name), getattr(whole, name)), name


def test_the_table_has_the_sign_of_the_heatmap(made):
    frame = made.to_frame()
    assert list(frame.columns) == [
        "row", "layer", "stream", "multiplier", "gain", "gain_low", "gain_high", "kl",
        "utility_change", "above_null", "direct", "mediated", "mediated_low", "mediated_high",
    ]  # fmt: skip
    drawn = torch.tensor(made.plot().data[0].z, dtype=torch.float64)
    assert torch.equal(drawn.flatten(), torch.tensor(frame["gain"], dtype=torch.float64))
    assert bool((frame["gain_low"] <= frame["gain"]).all())
    assert bool((frame["gain"] <= frame["gain_high"]).all())
    live = frame[(frame["layer"] == 3) & (frame["multiplier"] == -1)].iloc[0]
    assert live["gain_high"] < 0 and live["above_null"]


# The section of the page


def blocks(section):
    for one in (section, *section.parts):
        yield from one.blocks


def test_the_section_states_the_choice_and_joins_the_probe(made, read):
    found = probe(read, controls=2, progress=False)
    section = made.section({"probe": found})
    cell, held = made.chosen, made.confirmation
    lead = f"Steer at **layer {cell.site.layer}** with multiplier **+{cell.multiplier:g}**"
    assert section.answer[0].startswith(lead)
    assert (
        f"[{held.gain.low:.3g}, {held.gain.high:.3g}] on {len(held.gains)} held-out"
        in section.answer[0]
    )
    assert "by more than chance within the cost budget: layers" in section.answer[-1]
    assert [part.title for part in section.parts] == [
        "Gain through later blocks", "Dose and response", "Gain against cost", "Every example",
        "Probe against steering", "Why not other layers", "Layer by layer",
    ]  # fmt: skip
    for block in blocks(section):
        if isinstance(block, Figure):
            assert block.draw().data
    why, table = [block for block in blocks(section) if isinstance(block, Table)]
    reasons = [with_minus(reason) for _, reason in made.recommend().reasons]
    assert [row[2] for row in why.rows] == reasons
    assert [row[0] for row in table.rows] == list("543210")
    assert table.rows[table.marked][0] == str(cell.site.layer)
    auroc = [head.name for head in table.head].index("probe AUROC")
    assert all(row[auroc].startswith(("1 [", "0.9")) for row in table.rows)
    assert any("p cannot fall below 0.0476" in limit for limit in section.limits)


def test_a_section_without_held_out_examples_says_that_the_gain_is_too_large(made):
    section = replace(made, confirmation=None).section({})
    assert any("too large on average" in sentence for sentence in section.answer)
    assert "Probe against steering" not in [part.title for part in section.parts]


def test_a_section_of_interventions_names_them(of_arms):
    section = of_arms.section({})
    assert section.answer[0].startswith(f"Use **{of_arms.chosen.row}** with multiplier **+1**")
    assert section.title == "Map: every intervention at every multiplier"
    for block in blocks(section):
        if isinstance(block, Figure):
            assert block.draw().data
    table = [block for block in blocks(section) if isinstance(block, Table)][-1]
    assert [row[0] for row in table.rows] == list(of_arms.rows)
    assert "Steering adds" not in section.introduction[0]
