"""Figures carry the numbers they were given and mark the right cells; bad input is refused."""

import ast
import json
import math
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import plotly.io
import pytest

from steerlens import plots
from steerlens.plots.heatmap import NONE, NULL
from steerlens.plots.narrow import stated_narrow
from steerlens.plots.narrow_fit import fit_narrow
from steerlens.plots.probe import label_places

LAYERS = [0, 1, 2]
MULTIPLIERS = [-1.0, 0.0, 1.0, 2.0]
VALUES = [[0.0, 0.0, 0.1, 0.2], [-1.5, 0.0, 1.4, 2.5], [-0.5, 0.0, 0.4, 0.6]]
NAN = math.nan
HEAT = {"rows": LAYERS, "columns": MULTIPLIERS, "unit": "nats", "title": "Propensity gain"}
SCORE = {"score": [0.2, 2.5, 0.6], "score_unit": "nats"}
BAND = ([0.1, 1.0, 0.5], [0.0, 0.8, 0.4], [0.2, 1.2, 0.6])


def heatmap(values=VALUES, **settings) -> go.Figure:
    return plots.layer_heatmap(values, **(HEAT | settings))


def named(figure: go.Figure, name: str) -> list:
    """The visible traces of this name, without legend keys."""
    return [t for t in figure.data if t.name == name and list(t.x or ["z"]) != [None]]


def everything() -> dict[str, go.Figure]:
    per_multiplier = ([-1.0, 0.0, 1.0, 1.5], [-1.2, 0.0, 0.8, 1.2], [-0.8, 0.0, 1.2, 1.8])
    return {
        "layer_heatmap": heatmap(best=(1, 2.0)),
        "steerability_figure": plots.steerability_figure(VALUES, **HEAT, **SCORE),
        "layer_curve": plots.layer_curve({"a": BAND}, rows=LAYERS, unit="accuracy", title="t"),
        "dose_response": plots.dose_response(
            {"layer 1": per_multiplier},
            multipliers=MULTIPLIERS,
            unit="nats",
            title="t",
            cost={"layer 1": [0.1, 0.0, 0.1, 0.4]},
            budget=0.2,
        ),
        "token_heatmap": plots.token_heatmap(
            {"one": [[0.0, 1.0], [NAN, -0.5]], "other": tuple([[[0.1, 0.2], [0.3, 0.4]]] * 3)},
            rows=[0, 1],
            tokens=["·a", "<b>"],
            unit="of the difference",
            title="t",
        ),
        "preference_curve": plots.preference_curve(
            *[([0.1, 0.4, 0.9], [0.0, 0.3, NAN], [0.2, 0.5, NAN])] * 2,
            shares=[0.0, 0.5, 1.0],
            names=("p", "q"),
            unit="nats",
            title="t",
        ),
        "running_difference": plots.running_difference(
            ([0.1, 0.2, 0.3], [NAN, -0.1, 0.1], [NAN, 0.5, 0.5]),
            quantity="a minus b",
            unit="u",
            title="t",
        ),
        "tradeoff": plots.tradeoff(
            [1.0, 2.0, 0.5],
            [0.1, 0.4, 0.3],
            labels=["p", "q", "r"],
            rows=LAYERS,
            gain_unit="nats",
            cost_unit="nats",
            title="t",
            budget=0.35,
            best="p",
        ),
        "example_slopes": plots.example_slopes(VALUES, rows=LAYERS, unit="nats", title="t"),
        "probe_against_steering": plots.probe_against_steering(
            BAND,
            BAND,
            rows=LAYERS,
            probe_unit="AUROC",
            steering_unit="nats",
            title="t",
            correlation=(0.5, -0.2, 0.9),
        ),  # fmt: skip
        "token_heat": plots.token_heat(["a", " b"], [1.0, -2.0], title="t", unit="nats"),
        **later(),
    }


def later() -> dict[str, go.Figure]:
    """Those of single results."""
    names, curve = ("a", "a longer name", "c"), ([0.1, 0.5, NAN], [0.0, 0.4, NAN], [0.2, 0.6, NAN])
    six = tuple(part * 2 for part in BAND)
    panels = {"gain": ({"q": six, "random": ([0.1] * 6,) * 3}, "nats"), "KL": ({"q": six}, "nats")}
    return {
        "component_effects": plots.component_effects(
            {**{f"L1H{k}": (0.5, 0.1, 0.9) for k in range(5)}, "L2 MLP": (0.1, NAN, NAN)},
            expected=[0.4], unit="nats", title="t",
        ),
        "cosine_matrix": plots.cosine_matrix(np.eye(3), rows=LAYERS, title="t"),
        "rate_curve": plots.rate_curve([2.0, 1.0, NAN], rates=[1e-3, 1e-2, 1e-1], start=3.0, title="t"),
        "share_lines": plots.share_lines({"a": curve}, multipliers=[0.0, 1.0, 2.0], title="t"),
        "run_dots": plots.run_dots(
            six, names=list("abcdef"), groups=list("ppqqqq"),
            unit="nats", quantity="gain", title="t", below_null=[True, *[False] * 5],
        ),
        "run_heatmap": plots.run_heatmap(
            [[1.0, NAN, -0.5]], rows=["m"], columns=names, row_title="model", column_title="concept",
            unit="nats", quantity="gain", title="t", below_null=[[True, False, False]],
        ),
        "regret_curve": plots.regret_curve({"a": curve}, shares=[0.1, 0.5, 1.0], title="t"),
        "roc_curve": plots.roc_curve(
            [0.0, 0.2, 1.0], [0.5, 0.9, 1.0], thresholds=[1.0, 0.5, 0.0], chosen=1, title="t"
        ),
        "row_dots": plots.row_dots(
            panels, rows=list("abcdef"), title="t", note="n", quiet=("random",), quiet_name="chance"
        ),
        "gain_lines": plots.gain_lines(
            {"a": curve}, multipliers=[0.0, 1.0, 2.0], unit="nats", title="t"
        ),
        "law_curves": plots.law_curves(
            {"cost": (curve, "nats"), "preference": (BAND, "nats")}, multipliers=[0.0, 1.0, 2.0],
            along=[0.0, 2.0], curves={"cost": {"quadratic": [0.0, 1.0]}, "preference": {}}, title="t",
        ),
        "written_shares": plots.written_shares(
            [(0.5, 0.3, 0.7), (NAN, NAN, NAN)], labels=["L1 at +1", "L2 at +1"],
            verdicts=["confirmed in writing", "not looked at"], unit="share", title="t", threshold=0.25,
        ),
    }  # fmt: skip


def test_every_figure_is_valid_json_and_leaves_global_templates_alone():
    before = plotly.io.templates.default
    for name, figure in everything().items():
        json.loads(figure.to_json())
        assert "t" in figure.layout.title.text, name
        assert figure.layout.height >= 200, name
    assert plotly.io.templates.default == before == "plotly"


def test_a_dark_default_template_does_not_reach_the_figures():
    before = plotly.io.templates.default
    plotly.io.templates.default = "plotly_dark"
    try:
        figure = heatmap()
    finally:
        plotly.io.templates.default = before
    assert figure.layout.paper_bgcolor == "white"
    assert figure.layout.template.layout.paper_bgcolor is None


def test_plots_imports_neither_torch_nor_the_rest_of_the_package():
    files = list(Path(plots.__file__).parent.glob("*.py"))
    assert len(files) > 5
    for file in files:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        imported = {
            name.name if isinstance(node, ast.Import) else f"{node.module}.{name.name}"
            for node in ast.walk(tree)
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for name in node.names
        }
        ours = {name for name in imported if name.split(".")[0] == "steerlens"}
        assert all(name.startswith("steerlens.plots.") for name in ours), file
        assert not any(name.split(".")[0] == "torch" for name in imported), file


# Heatmap


def test_heatmap_carries_the_values_and_keeps_nan_empty():
    values = [[0.0, NAN, 0.1, 0.2], *VALUES[1:]]
    figure = heatmap(values)
    assert [list(row) for row in figure.data[0].z] == [[0.0, None, 0.1, 0.2], *VALUES[1:]]
    (missing,) = [t for t in named(figure, "not measured") if t.type == "heatmap"]
    assert [list(r) for r in missing.z] == [[None, 1.0, None, None], [None] * 4, [None] * 4]
    assert "not measured" in figure.data[0].hovertext[0][1]
    assert [t.name for t in figure.data if t.showlegend] == ["not measured"]


def test_heatmap_accepts_arrays_of_any_kind():
    class Tensorlike:
        def __array__(self, dtype=None, copy=None):
            return np.asarray(VALUES, dtype=dtype)

    for values in (VALUES, np.array(VALUES, dtype=np.float32), Tensorlike()):
        np.testing.assert_allclose(heatmap(values).data[0].z, VALUES, rtol=1e-6)


def test_colour_range_is_symmetric_about_zero_and_spans_the_values():
    heat = heatmap().data[0]
    assert (heat.zmin, heat.zmax) == (-2.5, 2.5)
    assert heat.colorscale[5] == (0.5, "#fafafa")


def test_one_outlier_does_not_stretch_the_colours_and_is_announced():
    values = np.array(VALUES)
    values[0, 0] = -90.0
    heat = heatmap(values).data[0]
    assert (heat.zmin, heat.zmax) == (-2.5, 2.5)
    assert heat.z[0][0] == -90.0
    assert "clipped" in heat.colorbar.title.text
    assert heat.colorbar.ticktext[0].startswith("≤") and heat.colorbar.ticktext[-1].startswith("≥")


def test_one_live_layer_among_silent_ones_is_not_an_outlier():
    values = np.full((48, 21), 0.01)
    values[20] = np.linspace(-3, 3, 21)
    heat = heatmap(values, rows=range(48), columns=np.linspace(-1, 1, 21).tolist()).data[0]
    assert heat.zmax == 3.0
    assert "clipped" not in heat.colorbar.title.text


@pytest.mark.parametrize("values", [np.zeros((3, 4)), np.full((3, 4), NAN)])
def test_a_flat_or_empty_map_still_draws(values):
    heat = heatmap(values).data[0]
    assert heat.zmax == -heat.zmin == 1.0


def test_best_mark_surrounds_the_right_cell():
    mark = named(heatmap(best=(1, 2.0)), "best cell")[-1]
    assert (min(mark.x), max(mark.x), min(mark.y), max(mark.y)) == (2.5, 3.5, 0.5, 1.5)


def test_best_and_values_follow_unsorted_layers_and_multipliers():
    rows, columns = [2, 0, 1], [3, 0, 1, 2]
    shuffled = np.array(VALUES)[np.ix_(rows, columns)]
    figure = heatmap(
        shuffled,
        rows=[LAYERS[r] for r in rows],
        columns=[MULTIPLIERS[c] for c in columns],
        best=(1, 2.0),
        below_null=shuffled == 2.5,
    )
    np.testing.assert_array_equal(figure.data[0].z, VALUES)
    mark = named(figure, "best cell")[-1]
    assert (min(mark.x), min(mark.y)) == (2.5, 0.5)
    (dots,) = named(figure, "no more than the null maps gain")
    assert np.mean(dots.x) == pytest.approx(3.0) and np.mean(dots.y) == pytest.approx(1.0)


def test_marks_lie_in_their_own_cells_only():
    null = np.zeros((3, 4), dtype=bool)
    costly = null.copy()
    null[0, 1] = costly[2, 3] = True
    figure = heatmap(below_null=null, over_budget=costly)
    for name, row, column in (
        ("no more than the null maps gain", 0, 1),
        ("over the cost budget", 2, 3),
    ):
        for trace in named(figure, name):
            for x, y in zip(trace.x, trace.y, strict=True):
                assert x is None or (abs(x - column) <= 0.5 and abs(y - row) <= 0.5)
        assert name in figure.data[0].hovertext[row][column]
    assert {t.name for t in figure.data if t.showlegend} == {
        "no more than the null maps gain",
        "over the cost budget",
    }


def test_small_grids_show_their_numbers_and_large_ones_do_not():
    (texts,) = named(heatmap(), "written values")
    assert "−1.50" in texts.text and len(texts.text) == 12
    big = plots.layer_heatmap(
        np.zeros((48, 21)), rows=range(48), columns=range(21), unit="nats", title="t"
    )
    assert not named(big, "written values")


def test_hover_gives_value_unit_and_extra_text():
    extra = [["" for _ in MULTIPLIERS] for _ in LAYERS]
    extra[1][3] = "KL 0.2 nats"
    text = heatmap(hover=extra, quantity="gain").data[0].hovertext[1][3]
    for piece in ("layer 1", "multiplier 2", "gain 2.5 nats", "KL 0.2 nats"):
        assert piece in text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"values": [[1.0, 2.0]]}, "values has shape"),
        ({"values": [[1.0], [1.0, 2.0], [0.0]]}, "not an array of numbers"),
        ({"values": np.array(VALUES) + np.inf}, "infinite"),
        ({"rows": [0, 1]}, "does not fit 2 rows x 4 columns"),
        ({"rows": [0, 1, 1]}, "twice"),
        ({"columns": [0.0, 1.0, 2.0, NAN]}, "not finite"),
        ({"rows": []}, "empty"),
        ({"best": (7, 1.0)}, "not a cell"),
        ({"best": (1, 3.5)}, "not a cell"),
        ({"below_null": [[True]]}, "below_null has shape"),
        ({"over_budget": VALUES}, "not booleans"),
        ({"hover": [["a"]]}, "hover has shape"),
    ],
)
def test_bad_heatmap_input_raises(settings, message):
    with pytest.raises(ValueError, match=message):
        heatmap(**settings)


def test_named_rows_are_drawn_downwards_in_their_order_and_named_on_hover():
    names = ["low-rank change of block 3", "add", "clamp"]
    figure = heatmap(rows=names, best=("add", 2.0), below_null=np.array(VALUES) > 2)
    assert [list(row) for row in figure.data[0].z] == VALUES[::-1]
    assert [t.replace("<br>", " ") for t in figure.layout.yaxis.ticktext] == names[::-1]
    assert figure.layout.yaxis.title.text == "" and figure.layout.margin.l > 100
    assert "add, multiplier 2" in figure.data[0].hovertext[1][3]
    mark = named(figure, "best cell")[-1]
    assert (min(mark.x), min(mark.y)) == (2.5, 0.5)
    (dots,) = named(figure, "no more than the null maps gain")
    assert np.mean(dots.x) == pytest.approx(3.0) and np.mean(dots.y) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("rows", "message"),
    [(["a", 1, 2], "layers and names"), (["a", "b", "a"], "a name twice"), ([], "empty")],
)
def test_rows_that_cannot_be_told_apart_are_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        heatmap(rows=rows)


def test_a_note_is_written_under_the_title_of_a_heatmap():
    assert "no null maps" in heatmap(note="no null maps").layout.title.text


# Steerability figure


def test_score_bars_share_the_layer_axis_and_carry_their_intervals():
    figure = plots.steerability_figure(
        VALUES, **HEAT, score=[0.2, NAN, 0.6], score_unit="nats", best=(2, 1.0),
        score_low=[0.1, NAN, 0.3], score_high=[0.4, NAN, 0.7],
    )  # fmt: skip
    (bars,) = [t for t in figure.data if t.type == "bar"]
    assert list(bars.x) == [0.2, None, 0.6] and bars.yaxis in (None, "y")
    assert bars.error_x.array[1] is None
    np.testing.assert_allclose([bars.error_x.array[i] for i in (0, 2)], [0.2, 0.1])
    np.testing.assert_allclose([bars.error_x.arrayminus[i] for i in (0, 2)], [0.1, 0.3])
    assert "not measured" in bars.hovertext[1] and "[0.1, 0.4]" in bars.hovertext[0]
    assert bars.marker.color[2] != bars.marker.color[0]
    np.testing.assert_array_equal(figure.data[0].z, VALUES)


def test_score_bars_stand_beside_their_named_rows():
    figure = plots.steerability_figure(
        VALUES, **(HEAT | {"rows": ["a", "b", "c"]}), **SCORE, best=("b", 2.0)
    )
    (bars,) = [t for t in figure.data if t.type == "bar"]
    assert list(bars.x) == SCORE["score"][::-1]
    assert bars.hovertext[0].startswith("c<br>")
    assert bars.marker.color[1] != bars.marker.color[0] == bars.marker.color[2]


def test_a_score_of_the_wrong_length_raises():
    with pytest.raises(ValueError, match="score has shape"):
        plots.steerability_figure(VALUES, **HEAT, score=[1.0], score_unit="nats")
    with pytest.raises(ValueError, match="score high has shape"):
        plots.steerability_figure(VALUES, **HEAT, **SCORE, score_low=[0.0, 0.0, 0.0])


# Curves


def test_curve_carries_means_bands_controls_and_reference():
    figure = plots.layer_curve(
        {"probe": BAND, "shuffled": [0.5, NAN, 0.5]},
        rows=LAYERS, unit="accuracy", title="t", controls=["shuffled"], reference=0.5,
    )  # fmt: skip
    (line,) = named(figure, "probe")
    assert list(line.y) == BAND[0] and "1 [0.8, 1.2] accuracy" in line.hovertext[1]
    (band,) = named(figure, "probe interval")
    assert (min(band.y), max(band.y)) == (0.0, 1.2)
    (control,) = named(figure, "shuffled")
    assert list(control.y) == [0.5, None, 0.5] and control.line.dash == "dash"
    assert list(named(figure, "chance (0.5)")[0].y) == [0.5, 0.5]


def test_named_rows_of_a_curve_are_points_with_whiskers():
    figure = plots.layer_curve({"a": BAND}, rows=["p", "q", "r"], unit="u", title="t")
    (points,) = named(figure, "a")
    assert points.mode == "markers" and list(points.x) == [0, 1, 2]
    np.testing.assert_allclose(points.error_y.array, [0.1, 0.2, 0.1])
    assert not named(figure, "a interval")
    assert list(figure.layout.xaxis.ticktext) == ["p", "q", "r"]
    assert "Whiskers: 95% interval" in figure.layout.title.text


def test_a_band_is_broken_where_it_was_not_measured():
    mean = [0.0, 1.0, NAN, 3.0, 4.0]
    low, high = np.array(mean) - 1, np.array(mean) + 1
    figure = plots.layer_curve({"a": (mean, low, high)}, rows=range(5), unit="u", title="t")
    (band,) = named(figure, "a interval")
    assert list(band.x).count(None) == 1
    assert 2 not in band.x


def test_bad_curves_raise():
    settings = {"rows": LAYERS, "unit": "u", "title": "t"}
    with pytest.raises(ValueError, match="not in series"):
        plots.layer_curve({"a": BAND}, **settings, controls=["b"])
    with pytest.raises(ValueError, match="upside down"):
        plots.layer_curve({"a": (BAND[0], BAND[2], BAND[1])}, **settings)
    with pytest.raises(ValueError, match=r"series\['a'\] has shape"):
        plots.layer_curve({"a": [1.0]}, **settings)
    with pytest.raises(ValueError, match="series is empty"):
        plots.layer_curve({}, **settings)


def test_dose_response_marks_zero_and_budget():
    figure = everything()["dose_response"]
    response, cost = named(figure, "layer 1")
    assert list(response.y) == [-1.0, 0.0, 1.0, 1.5] and list(cost.y) == [0.1, 0.0, 0.1, 0.4]
    assert response.line.color == cost.line.color and not cost.showlegend
    shapes = [(s.type, s.x0, s.x1) for s in figure.layout.shapes]
    assert shapes == [("line", 0, 0)] * 2
    assert list(named(figure, "budget (0.2 nats)")[0].y) == [0.2, 0.2]


def test_bad_dose_response_raises():
    settings = {"multipliers": MULTIPLIERS, "unit": "nats", "title": "t"}
    with pytest.raises(ValueError, match="Pass a cost for each"):
        plots.dose_response({"a": [0.0] * 4}, **settings, cost={"b": [0.0] * 4})
    settings["multipliers"] = [0.0, 1.0, 1.0, 2.0]
    with pytest.raises(ValueError, match="multipliers=.* twice"):
        plots.dose_response({"a": [0.0] * 4}, **settings, cost={"a": [0.0] * 4})


# The others


def test_frontier_holds_the_cells_that_nothing_beats():
    figure = plots.tradeoff(
        [1.0, 2.0, 0.5, 1.9], [0.1, 0.4, 0.3, 0.5],
        labels=list("abcd"), rows=range(4), gain_unit="nats", cost_unit="nats", title="t",
    )  # fmt: skip
    (frontier,) = named(figure, "efficient frontier")
    assert list(zip(frontier.x, frontier.y, strict=True)) == [
        (0.0, 0.0), (0.1, 1.0), (0.4, 2.0), (0.5, 2.0),
    ]  # fmt: skip
    assert frontier.line.shape == "hv"


def test_tradeoff_leaves_out_and_counts_unmeasured_cells():
    settings = {"rows": [0, 1], "gain_unit": "nats", "cost_unit": "nats", "title": "t"}
    figure = plots.tradeoff([1.0, NAN], [0.1, 0.2], labels=["a", "b"], **settings, best="a")
    assert list(named(figure, "cells")[0].x) == [0.1]
    assert "1 of 2 cells not measured" in figure.layout.title.text
    assert list(named(figure, "best: a")[0].x) == [0.1]
    with pytest.raises(ValueError, match="cannot be marked"):
        plots.tradeoff([1.0, NAN], [0.1, 0.2], labels=["a", "b"], **settings, best="b")
    with pytest.raises(ValueError, match="not the label of a cell"):
        plots.tradeoff([1.0, 2.0], [0.1, 0.2], labels=["a", "b"], **settings, best="z")
    with pytest.raises(ValueError, match="does not fit 1 labels"):
        plots.tradeoff([1.0, 2.0], [0.1, 0.2], labels=["a"], **settings)


def test_tradeoff_has_a_logarithmic_cost_axis_beyond_two_decades_and_hides_no_free_cell():
    settings = {"labels": list("abcd"), "rows": range(4), "gain_unit": "nats", "title": "t"}
    settings |= {"cost_unit": "nats", "budget": 0.1}
    gain = [0.5, 1.0, 2.0, 3.0]
    figure = plots.tradeoff(gain, [0.0, 0.001, 0.05, 1.0], **settings)
    assert figure.layout.xaxis.type == "log"
    (cells,) = named(figure, "cells")
    assert list(cells.x) == [0.0005, 0.001, 0.05, 1.0] and "cost 0 nats" in cells.hovertext[0]
    left, right = figure.layout.xaxis.range
    assert 10**left < 0.0005 and 10**right > 1.0
    assert "1 of 4 cells cost nothing" in figure.layout.title.text
    assert list(named(figure, "budget (0.1 nats)")[0].x) == [0.1, 0.1]
    for cost, other in (([0.0, 0.01, 0.05, 1.0], {}), ([0.0, 0.001, 0.05, 1.0], {"budget": 0.0})):
        linear = plots.tradeoff(gain, cost, **(settings | other))
        assert linear.layout.xaxis.type is None and named(linear, "cells")[0].x[0] == 0.0


def test_example_slopes_shows_every_example_and_the_share_below_zero():
    slopes = [[-1.0, 1.0, 2.0, NAN], [1.0, 1.0, 2.0, 3.0], [NAN] * 4]
    figure = plots.example_slopes(slopes, rows=LAYERS, unit="nats", title="t")
    (bars,) = [t for t in figure.data if t.type == "bar"]
    assert bars.y[0] == pytest.approx(1 / 3) and bars.y[1] == 0.0 and bars.y[2] is None
    drawn = [y for t in figure.data if t.type == "scatter" for y in t.y if y is not None]
    assert sorted(drawn) == [-1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 3.0]
    (box,) = [t for t in figure.data if t.type == "box"]
    assert list(box.median) == [1.0, 1.5] and list(box.x) == [0, 1]


def test_slopes_and_cells_of_named_rows_are_named():
    names = ["p", "q", "r" * 60]
    slopes = plots.example_slopes(VALUES, rows=names, unit="nats", title="t")
    (bars,) = [t for t in slopes.data if t.type == "bar"]
    assert bars.hovertext[1].startswith("q<br>")
    assert slopes.layout.xaxis.ticktext[0] == "p"
    cells = plots.tradeoff(
        [1.0, 2.0, 0.5], [0.1, 0.4, 0.3], labels=["p +1", "q +1", "p +2"], rows=["p", "q", "p"],
        gain_unit="nats", cost_unit="nats", title="t",
    )  # fmt: skip
    (points,) = named(cells, "cells")
    first, second, third = points.marker.color
    assert first == third != second
    assert {"p", "q"} <= {t.name for t in cells.data if t.showlegend}
    pairs = plots.probe_against_steering(
        BAND, BAND, rows=names, probe_unit="AUROC", steering_unit="nats", title="t",
        correlation=(0.5, -0.2, 0.9),
    )  # fmt: skip
    assert set(named(pairs, "rows")[0].text) == {""}
    assert {"p", "q"} <= {t.name for t in pairs.data if t.showlegend}
    assert "over 3 rows" in pairs.layout.title.text


def test_probe_against_steering_pairs_each_layer_and_states_the_correlation():
    steering = ([2.0, NAN, 1.0], [1.5, NAN, 0.5], [2.5, NAN, 1.5])
    figure = plots.probe_against_steering(
        BAND, steering, rows=LAYERS, probe_unit="AUROC", steering_unit="nats", title="t",
        correlation=(-1.0, -1.0, 0.25),
    )  # fmt: skip
    (points,) = named(figure, "rows")
    assert list(points.x) == [0.1, 0.5] and list(points.y) == [2.0, 1.0]
    assert list(points.text) == ["0", "2"]
    assert "over 2 layers: −1 [−1, 0.25]" in figure.layout.title.text


def test_labels_of_points_never_overlap():
    places = label_places(np.ones(48), np.linspace(0, 1, 48))
    assert 4 < sum(place is not None for place in places) < 48


def test_token_heat_carries_tokens_values_and_escapes_markup():
    figure = plots.token_heat(["<b>", " x", "\n"], [1.0, NAN, -3.0], title="t", unit="nats")
    measured, missing = named(figure, "values")[0], named(figure, "not measured")[0]
    assert list(measured.text) == ["&lt;b&gt;", "⏎"] and list(missing.text) == ["·x"]
    assert list(measured.marker.color) == [1.0, -3.0]
    assert (measured.marker.cmin, measured.marker.cmax) == (-3.0, 3.0)
    with pytest.raises(ValueError, match="values has shape"):
        plots.token_heat(["a"], [1.0, 2.0], title="t", unit="nats")
    with pytest.raises(ValueError, match="tokens is empty"):
        plots.token_heat([], [], title="t", unit="nats")


def test_long_texts_run_over_lines_without_overlap():
    figure = plots.token_heat(["token"] * 40, np.linspace(-1, 1, 40), title="t", unit="nats")
    (bars,) = named(figure, "values")
    assert max(bars.y) >= 3
    spans = sorted(zip(bars.y, bars.base, bars.x, strict=True))
    for (line, start, width), (next_line, next_start, _) in zip(spans, spans[1:], strict=False):
        assert line != next_line or start + width <= next_start
    (shorter,) = named(plots.paper(figure, 1), "values")
    ends = [start + width for start, width in zip(shorter.base, shorter.x, strict=True)]
    assert max(ends) <= 35 and max(shorter.y) > max(bars.y), "shorter lines on a phone"


def test_html_holds_plotly_once_and_nothing_from_the_network():
    first = plots.to_html_div(heatmap(), first=True, div_id="a")
    second = plots.to_html_div(heatmap(), first=False, div_id="b")
    assert len(first) > 1_000_000 > 100_000 > len(second)
    assert 'id="b"' in second and "Plotly.newPlot" in second
    for text in (first, second):
        assert "<html" not in text.lower()[:200]
        assert '<script src="http' not in text
    assert second == plots.to_html_div(heatmap(), first=False, div_id="b")


def test_a_map_of_many_layers_is_tall_and_says_its_numbers():
    values = np.tile([[-1.0, 0.0, 1.0, 2.0]], (30, 1)) + np.arange(30)[:, None] / 30
    figure = heatmap(values, rows=range(30))
    assert figure.layout.height >= 150 + 17 * 30
    (written,) = named(figure, "written values")
    assert len(written.text) == 120
    assert list(figure.layout.yaxis.ticktext) == [str(i) for i in range(30)]
    assert named(heatmap(np.zeros((60, 4)), rows=range(60)), "written values") == []


def test_a_map_without_an_effect_says_so_once_instead_of_in_every_cell():
    steered = [[m != 0 for m in MULTIPLIERS]] * 3
    null = heatmap(below_null=steered)
    assert named(null, NULL) == []
    assert NONE in null.layout.title.text
    assert any(NULL in text for text in np.ravel(null.data[0].hovertext))
    some = np.array(steered)
    some[1, 3] = False
    marked = heatmap(below_null=some)
    assert len(named(marked, NULL)[0].x) == 4 * 8
    assert NONE not in marked.layout.title.text


def test_a_cell_that_costs_too_much_is_marked_for_that_alone():
    costly = np.zeros((3, 4), bool)
    costly[0, 0] = costly[1, 3] = True
    below = np.zeros((3, 4), bool)
    below[0, 0] = below[0, 1] = True
    dots = named(heatmap(below_null=below, over_budget=costly), NULL)[0]
    assert {(round(x), round(y)) for x, y in zip(dots.x, dots.y, strict=True)} == {(1, 0)}


def test_on_a_phone_and_in_one_column_the_heatmap_stands_alone():
    figure = plots.steerability_figure(VALUES, **HEAT, **SCORE, best=(1, 2.0))
    narrow = figure.layout.meta["narrow"]
    assert narrow["layout"]["xaxis.domain"] == [0.0, 1.0]
    hidden = {figure.data[i].name for i in narrow["hidden"]}
    assert "gain within budget" in hidden and "written values" not in hidden
    shown = [float(t.replace("−", "-")) for t in narrow["layout"]["xaxis.ticktext"]]
    assert shown == MULTIPLIERS
    one = plots.paper(figure, 1)
    assert one.layout.width == 322 and tuple(one.layout.xaxis.domain) == (0.0, 1.0)
    assert [t.name for t in one.data if t.visible is False and t.type == "bar"]
    assert figure.layout.width is None and figure.data[0].colorbar.len == 0.69, "a copy"


def test_every_figure_says_how_it_looks_on_a_phone():
    """Panels below each other and apart, with room for what stands beside them."""
    for name, figure in everything().items():
        fit_narrow(figure)
        narrow = stated_narrow(figure)
        assert narrow is not None, name
        json.dumps(narrow)
        one = plots.paper(figure, 1)
        margin, axes = one.layout.margin, {}
        for trace in one.data:
            if trace.visible is not False:
                ids = [(trace[k] or k[0]).replace(k[0], f"{k[0]}axis") for k in ("xaxis", "yaxis")]
                axes[ids[0]] = axes[ids[1]] = None
        sides = {tuple(one.layout[a].domain or (0, 1)) for a in axes if a[0] == "x"}
        assert sides == {(0, 1)}, name
        assert 322 - margin.l - margin.r >= 120, name
        heights = sorted(tuple(one.layout[a].domain or (0, 1)) for a in axes if a[0] == "y")
        assert all(a[1] <= b[0] + 1e-9 for a, b in zip(heights, heights[1:], strict=False)), name


def test_panels_side_by_side_stand_below_each_other_with_their_titles():
    """Three sets across: each panel keeps its heading, its labels and the titles of its axes."""
    figure = plots.shift_scatter(
        BAND, {name: BAND for name in "pqr"}, rows=LAYERS, unit="nats", title="t",
        correlations={name: (0.5, 0.1, 0.8) for name in "pqr"},
    )  # fmt: skip
    one = plots.paper(figure, 1)
    tops = [one.layout[a].domain[1] for a in ("yaxis", "yaxis2", "yaxis3")]
    assert tops == sorted(tops, reverse=True) and tops[0] == 1.0
    assert [round(a.y, 9) for a in one.layout.annotations] == [round(top, 9) for top in tops]
    assert {one.layout[a].title.text for a in ("yaxis", "yaxis2", "yaxis3")} == {"shifted"}
    assert one.layout.xaxis2.showticklabels and one.layout.yaxis3.showticklabels
    assert figure.layout.xaxis2.domain[0] > 0, "a copy"
    dots = plots.criteria_dots(
        {"gain": (BAND, "nats", False, "more"), "stored": (BAND, "bytes", False, "less")},
        rows=("a", "b", "c"), title="t",
    )  # fmt: skip
    printed = plots.paper(dots, 1)
    assert printed.layout.xaxis.title.text == "nats; more is better"
    assert printed.layout.xaxis2.title.text == "bytes; less is better"
    assert printed.layout.yaxis2.showticklabels and printed.layout.yaxis2.domain[1] < 0.6


def test_a_figure_for_a_paper_has_its_size_and_no_title():
    for name, figure in everything().items():
        for columns, width in ((1, 322), (2, 662)):
            printed = plots.paper(figure, columns)
            assert printed.layout.width == width and not printed.layout.title.text, name
            panel = printed.layout.height - printed.layout.margin.t - printed.layout.margin.b
            assert panel > 100 and printed.layout.margin.t >= 0, name
            assert printed.layout.font.size == 11
    with pytest.raises(ValueError, match="columns=3 is no width"):
        plots.paper(heatmap(), 3)


def test_figures_as_files(tmp_path, monkeypatch):
    page = plots.write_figure(heatmap(), tmp_path / "new" / "map.html", theme="paper", columns=1)
    assert "<html>" in page.read_text("utf-8")
    with pytest.raises(ValueError, match="End it with one of .svg"):
        plots.write_figure(heatmap(), tmp_path / "map.jpeg")
    with pytest.raises(ValueError, match="theme='dark' is no theme"):
        plots.write_figure(heatmap(), tmp_path / "map.svg", theme="dark")  # type: ignore[arg-type]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(plots.PictureError, match=r"pip install 'steerlens\[figures\]'"):
        plots.write_figure(heatmap(), tmp_path / "map.svg")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)

    def no_browser(self, *arguments, **named):
        raise RuntimeError("Kaleido requires Google Chrome to be installed.")

    monkeypatch.setattr(go.Figure, "write_image", no_browser)
    with pytest.raises(plots.PictureError, match="plotly_get_chrome"):
        plots.write_figure(heatmap(), tmp_path / "map.png")
