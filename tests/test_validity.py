"""Validity-decay curves are the formulas, find known constants, and say where they cannot."""

import json
import math
from functools import cache

import numpy as np
import pytest
import torch
from scipy.optimize import check_grad, least_squares

from steerlens import plots
from steerlens.analyses.validity import validity_fit as module
from steerlens.analyses.validity.curve_fitting import (
    _curve,
    _jacobian,
    _jump,
    _jump_gradient,
    fit_curve,
)
from steerlens.analyses.validity.decay_curve import Branch, FittedCurve
from steerlens.analyses.validity.validity_fit import ValidityFit, fit_validity
from steerlens.report.section import Figure, Listing, Paragraph
from steerlens.results import ResultError
from steerlens.sites import Site

M = np.linspace(-3, 3, 25)


def agreeing(centre, width, other):
    """A branch that has the same D at 0 as the other."""
    c, w, p = other
    power = p * math.log1p(c**2 / w) / math.log1p(centre**2 / width)
    return (centre, width, power)


# (negative, positive), each (centre, width, power), on multipliers of -3 to 3
DECAYS = {
    "one top at 0": ((0.0, 0.5, 1.2), (0.0, 2.0, 0.8)),
    "top above 0": (agreeing(0.5, 1.5, (0.4, 1.0, 1.0)), (0.4, 1.0, 1.0)),
    "top below 0": (agreeing(-0.6, 1.0, (-0.4, 1.0, 2.0)), (-0.4, 1.0, 2.0)),
    "two tops": (agreeing(-1.0, 0.5, (1.2, 0.5, 1.0)), (1.2, 0.5, 1.0)),
}
PREFERENCE, UTILITY = (2.0, 1.0, 0.3), (0.0, 6.0, -4.0)  # slope, height, base


def decay(m, negative, positive):
    """D, one multiplier after the other, as the paper writes it."""
    out = []
    for one in m:
        c, w, p = positive if one >= 0 else negative
        out.append(1 / (1 + (one - c) ** 2 / w) ** p)
    return np.array(out)


def curve(m, linear, branches):
    slope, height, base = linear
    return (slope * m + height) * decay(m, *branches) + base


@cache
def fitted(name, noise=0.0, m_max=3.0):
    """A fit of known curves, with the same noise at any scale."""
    m = M * m_max / 3
    generator = np.random.default_rng(0)
    scaled = [(c * m_max / 3, w * (m_max / 3) ** 2, p) for c, w, p in DECAYS[name]]
    slope, height, base = PREFERENCE
    made = [
        curve(m, linear, scaled) + noise * generator.normal(size=len(m))
        for linear in ((slope * 3 / m_max, height, base), UTILITY)
    ]
    return fit_validity(torch.tensor(m), *map(torch.tensor, made))


@pytest.mark.parametrize("name", DECAYS)
def test_known_constants_are_found(name):
    fit = fitted(name)
    for found, linear in ((fit.preference, PREFERENCE), (fit.utility, UTILITY)):
        assert found.r2 > 0.99999
        constants = (found.slope, found.height, found.base, *found.negative, *found.positive)
        negative, positive = DECAYS[name]
        expected = torch.tensor([*linear, *negative, *positive])
        torch.testing.assert_close(torch.tensor(constants), expected, atol=0.02, rtol=0.02)
        assert not found.flags and found.base_seen


@pytest.mark.parametrize("name", DECAYS)
def test_noise_moves_the_curves_less_than_itself(name):
    fit, noise = fitted(name, 0.05), 0.05
    fine = np.linspace(-3, 3, 301)
    for found, linear, at in (
        (fit.preference, PREFERENCE, fit.preference_at),
        (fit.utility, UTILITY, fit.utility_at),
    ):
        assert found.r2 > 0.99
        truth = torch.tensor(curve(fine, linear, DECAYS[name]))
        assert float((at(torch.tensor(fine)) - truth).square().mean().sqrt()) < noise
    exact, found = fitted(name).valid_interval(), fit.valid_interval()
    ends = (torch.tensor(sorted(sum(x.stretches, ()))) for x in (found, exact))
    torch.testing.assert_close(*ends, atol=0.1, rtol=0)


@pytest.mark.parametrize("name", DECAYS)
def test_a_fitted_curve_is_the_formula_and_its_residuals_what_is_left(name):
    fit = fitted(name, 0.05)
    for found, values in ((fit.preference, fit.preferences), (fit.utility, fit.utilities)):
        linear = (found.slope, found.height, found.base)
        naive = curve(M, linear, (found.negative, found.positive))
        torch.testing.assert_close(found.at(fit.multipliers), torch.tensor(naive))
        torch.testing.assert_close(found.residuals, values - torch.tensor(naive))
        left = float(found.residuals.square().sum() / (values - values.mean()).square().sum())
        assert found.r2 == pytest.approx(1 - left)


@pytest.mark.parametrize("name", DECAYS)
def test_both_branches_agree_at_0_and_d_is_1_somewhere(name):
    for found in (fitted(name, 0.05).preference, fitted(name, 0.05).utility):
        zero = torch.zeros(1, dtype=torch.float64)
        left, right = found.negative.at(zero), found.positive.at(zero)
        torch.testing.assert_close(left, right, atol=1e-5, rtol=0)
        for top in found.tops:
            assert float(found.validity(torch.tensor(top))) == pytest.approx(1.0)
        assert found.tops


@pytest.mark.parametrize("name", ["one top at 0", "two tops"])
@pytest.mark.parametrize("sloped", [True, False], ids=["preference", "utility"])
def test_no_worse_than_an_independent_fit(name, sloped):
    """Another algorithm and another way to hold the constraint: the power below 0 follows from it."""
    fit = fitted(name, 0.05)
    found, y = (fit.preference, fit.preferences) if sloped else (fit.utility, fit.utilities)
    generator, best = np.random.default_rng(1), math.inf

    def branches(theta):
        positive = (theta[3], math.exp(theta[4]), math.exp(theta[5]))
        return agreeing(theta[6] or 1e-9, math.exp(theta[7]), positive), positive

    def off(theta):
        linear = (theta[0] * sloped, theta[1], theta[2])
        with np.errstate(over="ignore"):
            return curve(M, linear, branches(theta)) - y.numpy()

    truth = (PREFERENCE if sloped else UTILITY), DECAYS[name]
    for _ in range(4):
        (c, w, p), (k, v, _) = truth[1][1], truth[1][0]
        near = np.array([*truth[0], c, math.log(w), math.log(p), k, math.log(v)])
        start = near + 0.2 * generator.normal(size=8)
        low, high = [-9, 0, -99, -3, -5, -3, -3, -5], [9, 99, 99, 3, 5, 3, 3, 5]
        done = least_squares(off, start, bounds=(low, high), max_nfev=300)
        (lower, _, power), (upper, *_) = branches(done.x)
        if 0.05 < power < 50 and (lower <= 0 or upper >= 0):
            best = min(best, float(done.fun @ done.fun))
    assert float(found.residuals.square().sum()) < 1.01 * best < math.inf


@pytest.mark.parametrize("name", DECAYS)
def test_the_gradients_are_those_of_the_curve(name):
    negative, positive = DECAYS[name]
    x = M / 3
    p = np.array([1.2, 0.7, -0.1])
    for c, w, power in (negative, positive):
        p = np.r_[p, c / 3 + 0.05, math.log(w / 9), math.log(power)]

    def slopes(p):
        _, d, gradient = _curve(x, p)
        return _jacobian(x, p, d, gradient)

    for i in range(0, len(x), 4):
        error = check_grad(lambda p, i=i: _curve(x, p)[0][i], lambda p, i=i: slopes(p)[i], p)
        assert error < 1e-5
    assert check_grad(_jump, _jump_gradient, p) < 1e-5


@pytest.mark.parametrize("tau", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("name", DECAYS)
def test_the_valid_interval_is_where_validity_is_above_tau(name, tau):
    found = fitted(name, 0.05).valid_interval(tau)
    fine = np.linspace(-3, 3, 60001)
    utility = fitted(name, 0.05).utility
    valid = decay(fine, utility.negative, utility.positive) >= tau
    edges = np.flatnonzero(np.diff(np.r_[False, valid, False].astype(int)))
    stretches = [(fine[a], fine[b - 1]) for a, b in zip(edges[::2], edges[1::2], strict=True)]
    assert len(stretches) == (2 if name == "two tops" else 1)
    expected = torch.tensor(sorted(stretches), dtype=torch.float64)
    given = torch.tensor(sorted(found.stretches), dtype=torch.float64)
    torch.testing.assert_close(given, expected, atol=2e-4, rtol=0)


def test_an_interval_that_leaves_the_sweep_is_cut_and_says_so():
    m, branch = torch.tensor(M), Branch(0.0, 9.0, 1.0)
    found = FittedCurve(0.0, 1.0, 0.0, Branch(0.0, 1.0, 1.0), branch, 1.0, 0 * m, True, (), ())
    holds = found.holds(0.4, (-3.0, 3.0))
    assert (holds.low_beyond, holds.high, holds.high_beyond) == (False, 3.0, True)
    assert holds.low == pytest.approx(-math.sqrt(1.5))
    assert str(holds) == "from -1.22 to beyond 3 (D_u >= 0.4)"


def test_a_sweep_that_stops_before_utility_is_used_up_says_that_the_base_is_a_guess():
    m = torch.linspace(-1, 1, 25, dtype=torch.float64)
    near = torch.tensor(decay(m.numpy(), (0.0, 2.0, 1.0), (0.0, 2.0, 1.0)))
    fit = fit_validity(m, 2 * m * near, 6 * near - 4)
    assert fit.utility.r2 > 0.999 and not fit.utility.base_seen
    assert not fit.valid_interval().known
    unknown = "not known: the sweep does not show how far utility falls"
    assert unknown in str(fit.valid_interval()) and unknown in fit.summary()
    rects = [shape for shape in fit.plot().layout.shapes if shape.type == "rect"]
    assert not rects, "nothing is shaded"
    assert any("sweep larger multipliers" in flag for flag in fit.flags)


def test_nothing_is_extrapolated_without_being_asked():
    fit = fitted("one top at 0")
    for at in (fit.preference_at, fit.utility_at):
        at(torch.tensor([-3.0, 0.0, 3.0]))
        with pytest.raises(ValueError, match="Multiplier 3.5 is beyond the sweep, from -3 to 3"):
            at(torch.tensor([0.0, 3.5]))
    assert bool(fit.utility.at(torch.tensor([3.5])).isfinite())


def test_the_unit_of_the_multiplier_does_not_matter(factor=100.0):
    one, other = fitted("top above 0", 0.05), fitted("top above 0", 0.05, 3 * factor)
    assert other.utility.r2 == pytest.approx(one.utility.r2, abs=1e-6)
    ends = (torch.tensor(fit.valid_interval()[:2]) for fit in (other, one))
    found, expected = ends
    torch.testing.assert_close(found / factor, expected, atol=1e-3, rtol=1e-3)
    assert other.flags == one.flags


def test_the_order_of_the_multipliers_does_not_matter():
    fit = fitted("one top at 0", 0.05)
    order = torch.randperm(25, generator=torch.Generator().manual_seed(0))
    other = fit_validity(fit.multipliers[order], fit.preferences[order], fit.utilities[order])
    torch.testing.assert_close(
        other.utility.residuals, fit.utility.residuals[order], atol=1e-4, rtol=0
    )
    assert other.peak == pytest.approx(fit.peak, abs=1e-3)


def test_rising_utility_has_no_peak_and_a_trough_is_not_called_valid():
    m = torch.tensor(M)
    rising, trough, wave = (
        fit_curve(m, utility, sloped=False) for utility in (m, m.square(), torch.sin(4 * m))
    )
    assert any("no peak was seen" in flag for flag in rising.flags)
    assert rising.tops == pytest.approx((3.0,), abs=0.01) and not rising.base_seen
    # The nearest the form comes to a trough is a cusp at 0 between two tops at the ends.
    assert trough.height >= 0 and float(trough.residuals.abs().max()) > 0.3
    assert sum("no peak was seen" in flag for flag in trough.flags) == 2
    assert wave.r2 < 0.6 and any("look at the residuals" in flag for flag in wave.flags)


def test_a_flat_curve_has_no_r2_and_no_decay():
    m = torch.tensor(M)
    fit = fit_validity(m, m, torch.full_like(m, -2.0))
    assert math.isnan(fit.utility.r2) and math.isnan(fit.peak)
    assert "R² is undefined" in fit.utility.flags[0]
    holds = fit.valid_interval(0.9)
    assert (holds.low, holds.high, holds.low_beyond, holds.high_beyond) == (-3.0, 3.0, True, True)
    assert not holds.base_seen
    torch.testing.assert_close(fit.utility_at(m), torch.full_like(m, -2.0))
    fit.plot()


def test_clamped_utilities_are_reported():
    m = torch.tensor(M).view(-1, 1).expand(-1, 4)
    clamped = torch.zeros(25, 4, dtype=torch.bool)
    clamped[12, :2] = True
    fit = fit_validity(m[:, 0], m, -m.square(), clamped=clamped)
    assert fit.flags[-1] == "utility: 2.0% of the utilities were clamped at their ceiling"


@pytest.mark.parametrize(
    "m, message",
    [
        ([-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0], r"7 multipliers \(3 below 0, 3 above\)"),
        (list(range(-2, 9)), r"11 multipliers \(2 below 0, 8 above\).*Sweep more, e.g. torch"),
        (list(range(12)), "0 below 0"),
        ([-4, -3, -2, -1, 1, 2, 3, 4], "at least 9 are needed"),
        ([-4, -3, -2, -1, 0, 0, 1, 2, 3, 4], "holds one twice"),
    ],
)
def test_too_few_multipliers_are_refused_with_what_to_sweep(m, message):
    m = torch.tensor(m, dtype=torch.float64)
    with pytest.raises(ValueError, match=message):
        fit_validity(m, m, -m.square())


def test_the_fewest_multipliers_are_fitted_with_a_warning_flag():
    m = torch.linspace(-3, 3, 9)
    fit = fit_validity(m, m, 1 / (1 + m.square()))
    assert any("9 multipliers for 7 free parameters" in flag for flag in fit.flags)


def test_values_that_were_not_measured_are_refused():
    m = torch.tensor(M)
    with pytest.raises(ValueError, match="utility holds a value that is NaN"):
        fit_validity(m, m, m.where(m < 2, torch.nan))


def examples(n=60):
    """Per-example utility whose width varies; the mean's interval has true ends near ±0.8."""
    generator = torch.Generator().manual_seed(0)
    m = torch.tensor(M)[:, None]
    width = 0.8 * torch.rand(n, generator=generator).double() + 0.3
    utility = 6 / (1 + m.square() / width) - 4
    utility = (
        utility
        + 0.5 * torch.randn(25, n, generator=generator)
        + torch.randn(n, generator=generator)
    )
    return torch.tensor(M), m * torch.ones(n), utility


def test_the_ends_have_intervals_that_hold_the_truth():
    fit = fit_validity(*examples())
    m, _, utility = examples(6000)
    many = fit_curve(m, utility.mean(-1), sloped=False).holds(0.5, (-3.0, 3.0))
    found = fit.valid_interval(draws=30)
    assert found == fit.valid_interval(draws=30, seed=0), "the same seed gives the same interval"
    assert found[:4] == fit.valid_interval()[:4], "the resampling moves no end"
    for end, truth in ((found.low_interval, many.low), (found.high_interval, many.high)):
        assert end is not None and end.low < truth < end.high
        assert 0.02 < end.high - end.low < 0.4
    assert f"to {found.high_interval}" in str(found)


def test_means_alone_give_no_interval():
    with pytest.raises(ValueError, match="examples one by one"):
        fitted("one top at 0").valid_interval(draws=10)
    with pytest.raises(ValueError, match="not a share between 0 and 1"):
        fitted("one top at 0").valid_interval(1.0)


def test_examples_and_their_means_give_the_same_curves():
    m, preference, utility = examples(12)
    whole = fit_validity(m, preference, utility)
    means = fit_curve(m, utility.mean(-1), sloped=False)
    torch.testing.assert_close(whole.utility.residuals, means.residuals)


# Files


@pytest.mark.parametrize("means", [True, False])
def test_what_was_measured_comes_back_and_the_curves_are_fitted_when_asked_for(
    tmp_path, monkeypatch, means
):
    m, preference, utility = examples(12)
    if means:
        preference, utility = preference.mean(-1), utility.mean(-1)
    clamped = torch.zeros_like(utility, dtype=torch.bool)
    clamped[12] = True
    fit = fit_validity(
        m, preference, utility, clamped=clamped, row="lora", site=Site(3), made_by={"model": "x"}
    )
    summary = fit.summary()
    assert summary.startswith("lora: fits the means over examples at 25 multipliers from ")
    fit.save(tmp_path)
    fitted, real = [], module.fit_curve
    monkeypatch.setattr(
        module, "fit_curve", lambda *given, **named: fitted.append(1) or real(*given, **named)
    )
    loaded = ValidityFit.load(tmp_path)
    assert not fitted
    assert (loaded.row, loaded.site, loaded.made_by) == ("lora", Site(3), {"model": "x"})
    assert torch.equal(loaded.preferences, preference) and torch.equal(loaded.utilities, utility)
    assert loaded.utilities.dtype == utility.dtype and loaded.clamped == fit.clamped
    assert loaded.summary() == summary
    assert len(fitted) == 2
    table = loaded.to_frame()
    assert len(table) == 25 and table["multiplier"].tolist() == pytest.approx(M.tolist())
    assert table["utility"].tolist() == pytest.approx(utility.reshape(25, -1).mean(-1).tolist())
    assert bool(table["utility_low"].isna().all()) == means
    dims = ("multiplier",) if means else ("multiplier", "example")
    assert loaded.to_xarray()["utilities"].dims == dims


def test_a_fit_that_is_damaged_is_refused(tmp_path):
    with pytest.raises(ResultError, match="holds no finished decay"):
        ValidityFit.load(tmp_path)
    fit_validity(*examples(4)).save(tmp_path)
    path = tmp_path / "decay.json"
    path.write_text(path.read_text().replace('"clamped": 0.0', '"clamped": 0.5'))
    with pytest.raises(ResultError, match="cannot be read"):
        ValidityFit.load(tmp_path)


# Words and pictures


def test_the_section_has_both_figures_and_the_flags():
    fit = fit_validity(*examples(), row="L3 resid_post", site=Site(3))
    section = fit.section({})
    text, curves, words, tradeoff = section.blocks[:4]
    assert section.title == "How far steering at L3 resid_post can be pushed"
    assert isinstance(text, Paragraph)
    assert f"(R²) {fit.preference.r2:.3g} for preference" in text.text
    assert f"{fit.valid_interval()}".replace("-", "−").replace("D_u >=", "D ≥") in text.text
    for block in (curves, tradeoff):
        assert isinstance(block, Figure) and block.draw().data
    assert isinstance(words, Paragraph)
    assert fit.flags and section.blocks[4:] == (Listing(fit.flags, quiet=True),)
    assert len(fitted("one top at 0").section({}).blocks) == 4  # without any flag
    flat = fit_validity(torch.tensor(M), torch.tensor(M), torch.full((25,), -2.0))
    assert flat.section({}).blocks[4] == Listing(flat.flags, quiet=True)
    assert flat.section({}).title == "How far steering can be pushed"
    assert fit_validity(*examples(4), row="lora").section({}).title == "How far lora can be pushed"


def test_a_run_says_where_utility_holds():
    fit = fitted("one top at 0")
    said = fit.run_summary({})
    assert said.startswith(f"  how far         utility holds {fit.valid_interval()}; the curve of")
    assert "R² 1.00 over multipliers, held-out error" in said


def named(figure, name):
    return [trace for trace in figure.data if trace.name == name and trace.x[0] is not None]


def test_the_figure_has_points_curves_residuals_and_the_valid_interval():
    fit = fit_validity(*examples())
    figure = fit.plot()
    json.loads(figure.to_json())
    points, left_over = named(figure, "utility")
    means = torch.tensor(points.y, dtype=torch.float64)
    torch.testing.assert_close(means, fit.utilities.mean(-1))
    residuals = torch.tensor(left_over.y, dtype=torch.float64)
    torch.testing.assert_close(residuals, fit.utility.residuals)
    assert points.mode == "markers" and points.yaxis != left_over.yaxis
    (drawn,) = named(figure, f"utility, fitted (R² {fit.utility.r2:.3f})")
    along, values = (torch.tensor(side, dtype=torch.float64) for side in (drawn.x, drawn.y))
    torch.testing.assert_close(values, fit.utility_at(along))
    assert named(figure, "utility interval")
    valid = fit.valid_interval()
    shaded = {(s.x0, s.x1) for s in figure.layout.shapes if s.type == "rect"}
    assert shaded == {(valid.low, valid.high)}
    assert "residual" in left_over.hovertext[0] and "nats" in points.hovertext[0]


def test_a_curve_without_points_is_refused():
    with pytest.raises(ValueError, match="curves is of .* Pass one for each"):
        plots.validity_curves(
            {"a": [0.0, 1.0]}, multipliers=[0, 1], along=[0, 1], curves={"b": [0.0, 1.0]},
            residuals={"a": [0.0, 0.0]}, unit="nats", title="t",
        )  # fmt: skip


def test_the_frontier_holds_the_cells_that_no_other_beats_on_both():
    generator = np.random.default_rng(0)
    y, x = generator.normal(size=(2, 3, 8)).round(1)
    y[0, 0] = np.nan
    figure = plots.preference_against_utility(
        {f"layer {i}": (y[i], x[i]) for i in range(3)},
        multipliers=[-4, -3, -2, -1, 0, 1, 2, 3], unit="nats", title="t",
        curves={"layer 1": ([0.0, 1.0, 2.0], [0.0, 0.5, 0.4])},
    )  # fmt: skip
    (frontier,) = named(figure, "efficient frontier")
    cells = [c for c in zip(x.ravel(), y.ravel(), strict=True) if not np.isnan(c).any()]
    unbeaten = {
        (u, p) for u, p in cells
        if not any(v >= u and q >= p and (v, q) != (u, p) for v, q in cells)
    }  # fmt: skip
    drawn = list(zip(frontier.x, frontier.y, strict=True))
    assert set(drawn[:-1]) == unbeaten
    assert drawn[-1] == (np.nanmin(x), max(q for _, q in unbeaten))
    (first,) = named(figure, "layer 0")
    assert len(first.y) == 7 and "1 of 24 cells not measured" in figure.layout.title.text
    opened = [str(s).endswith("-open") for s in first.marker.symbol]
    assert opened == [False] * 4 + [True] * 3  # from the largest multiplier down, -4 not measured
    assert list(named(figure, "layer 1, fitted")[0].x) == [0.0, 0.5, 0.4]
    assert len(named(figure, "unsteered")[0].x) == 3
    with pytest.raises(ValueError, match="curves has .*'layer 9'"):
        plots.preference_against_utility(
            {"layer 1": (y[1], x[1])}, multipliers=range(8), unit="nats", title="t",
            curves={"layer 9": ([0.0], [0.0])},
        )  # fmt: skip


# The reference model


def test_the_reference_model_follows_the_form():
    """Towards sentiment at layer 3: steered far enough, both curves are described to over 0.99."""
    from steerlens.directions.methods import DiffMean
    from steerlens.interventions import Add
    from steerlens.measures import scores
    from steerlens.measures.reading import activations
    from steerlens.measures.sweep import sweep
    from steerlens.models.model import Model
    from steerlens.sites import Positions, Site
    from steerlens.testbed import reviews

    model, site = Model.load("reviews"), Site(3)
    acts = activations(model, reviews.contexts("sentiment", 100, seed=0), [site], progress=False)
    edit = Add(acts.direction(site, DiffMean()), Positions.from_prompt_end())
    pairs = reviews.questions("sentiment", 24, seed=1)
    m = torch.linspace(-25, 25, 25)
    found = sweep(model, pairs, [edit], m.tolist(), progress=False)
    on_task = scores.utility(found)
    fit = fit_validity(m, scores.preference(found)[0], on_task.value[0], clamped=on_task.clamped[0])
    assert fit.preference.r2 > 0.99 and fit.utility.r2 > 0.99
    assert fit.preference.slope > 0
    valid = fit.valid_interval()
    assert -25 < valid.low < -2 and 2 < valid.high < 25 and valid.base_seen
