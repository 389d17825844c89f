"""Preference and utility over multipliers with their fitted curves, and where utility holds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, SupportsFloat, SupportsIndex

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from steerlens import plots, stats
from steerlens.analyses.validity.curve_fitting import FREE, PER_SIDE, fit_curve, held_out_error
from steerlens.analyses.validity.decay_curve import FittedCurve, ValidInterval
from steerlens.analyses.validity.validity_section import validity_section
from steerlens.arguments import as_float, as_int
from steerlens.report.numbers import with_minus
from steerlens.report.section import Figure, Section
from steerlens.results import Column, Result
from steerlens.results.grid import steering_of
from steerlens.results.summary_lines import labelled
from steerlens.sites import Site
from steerlens.stats import Interval

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ValidityFit(Result):
    """Preference and utility over the multipliers of one intervention, with their fitted curves.

    It holds what was measured. The curves are fitted when they are first asked for.
    """

    kind: ClassVar[str] = "decay"
    row: str = ""
    """The name of the intervention; "" where none was given."""
    site: Site | None = None
    """Where it acts; None where that is not one site."""
    multipliers: Float[Tensor, " multiplier"]
    preferences: Float[Tensor, "multiplier *example"]
    """As measured, in nats."""
    utilities: Float[Tensor, "multiplier *example"]
    groups: Int[Tensor, " _example"] | None = None
    """The group of each example, the unit of every interval; None where each is a group."""
    clamped: float = 0.0
    """Share of the utilities that were clamped."""
    made_by: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_enough(self.multipliers)
        named = {"multipliers": self.multipliers, "preference": self.preferences}
        for name, values in {**named, "utility": self.utilities}.items():
            if not bool(torch.isfinite(values).all()):
                raise ValueError(
                    f"{name} holds a value that is NaN or infinite, and no curve can be fitted to "
                    "that. Leave that multiplier out, or sweep smaller ones."
                )

    @cached_property
    def preference(self) -> FittedCurve:
        """The curve fitted to the mean preference."""
        return fit_curve(self.multipliers, _mean(self.preferences), sloped=True)

    @cached_property
    def utility(self) -> FittedCurve:
        """The curve fitted to the mean utility."""
        return fit_curve(self.multipliers, _mean(self.utilities), sloped=False)

    @cached_property
    def held_out_errors(self) -> tuple[float, float]:
        """How far the curves of preference and utility miss strengths they were not fitted to.

        In nats (root mean square over the strengths). R² always looks well with few strengths.
        """
        preference = held_out_error(
            self.multipliers, _mean(self.preferences), self.preference, sloped=True
        )
        utility = held_out_error(
            self.multipliers, _mean(self.utilities), self.utility, sloped=False
        )
        return preference, utility

    @property
    def swept(self) -> tuple[float, float]:
        """The smallest and the largest multiplier measured."""
        return float(self.multipliers.min()), float(self.multipliers.max())

    @property
    def flags(self) -> tuple[str, ...]:
        """What to know before using the numbers, of both curves."""
        share = f"{self.clamped:.1%} of the utilities were clamped at their ceiling"
        return (
            *(f"preference: {flag}" for flag in self.preference.flags),
            *(f"utility: {flag}" for flag in self.utility.flags),
            *([f"utility: {share}"] if self.clamped else []),
        )

    def preference_at(self, multipliers: Float[Tensor, "*grid"]) -> Float[Tensor, "*grid"]:
        """The fitted preference in nats, within the sweep.

        Raises:
            ValueError: Beyond the sweep, where nothing was measured.
        """
        return self.preference.at(self._inside(multipliers))

    def utility_at(self, multipliers: Float[Tensor, "*grid"]) -> Float[Tensor, "*grid"]:
        """The fitted utility in nats, within the sweep.

        Raises:
            ValueError: Beyond the sweep, where nothing was measured.
        """
        return self.utility.at(self._inside(multipliers))

    def _inside(self, multipliers: Tensor) -> Tensor:
        low, high = self.swept
        beyond = (multipliers < low) | (multipliers > high)
        if bool(beyond.any()):
            raise ValueError(
                f"Multiplier {float(multipliers[beyond].flatten()[0]):g} is beyond the sweep, from "
                f"{low:g} to {high:g}: nothing was measured there. Sweep further; or use "
                "`.preference.at(...)` or `.utility.at(...)`, which extrapolate."
            )
        return multipliers

    @property
    def peak(self) -> float:
        """The multiplier at which fitted utility is highest; NaN for a constant curve.

        A curve may have two tops, which are equally high by its form. Then it is the one at which
        the larger utility was measured.
        """
        mean = _mean(self.utilities)
        tops = self.utility.tops
        near = [float(mean[(self.multipliers - top).abs().argmin()]) for top in tops]
        return tops[near.index(max(near))] if tops else math.nan

    def valid_interval(
        self,
        tau: SupportsFloat = 0.5,
        *,
        draws: SupportsIndex = 0,
        level: SupportsFloat = 0.95,
        seed: SupportsIndex = 0,
    ) -> ValidInterval:
        """The multipliers at which D_u >= tau: where utility holds.

        It is never longer than the sweep; an end beyond it is marked. It depends on the base of the
        utility curve, which a sweep that stops early does not show: see `flags`.

        Args:
            tau: Share of the way from the base up to the peak, in nats, that utility must keep.
            draws: Resamplings of the examples, each fitted anew, for intervals of both ends; 0
                for none. 200 take some seconds; far fewer give intervals that are too short.

        Raises:
            ValueError: If tau is not between 0 and 1, or draws are asked of means alone.
        """
        tau, draws = as_float("tau", tau), as_int("draws", draws, least=0)
        level, seed = as_float("level", level), as_int("seed", seed)
        if not 0 < tau < 1:
            raise ValueError(
                f"tau={tau} is not a share between 0 and 1. Use 0.5 for half way down."
            )
        found = self.utility.holds(tau, self.swept)
        if not draws:
            return found
        if self.utilities.ndim != 2 or self.utilities.shape[1] < 2:
            raise ValueError(
                "An interval for the ends needs the examples one by one, at least two, and this fit "
                "has means only. Pass arrays of [multiplier, example] to fit_validity, or draws=0."
            )
        means = stats.bootstrap_means(self.utilities.double(), self.groups, draws=draws, seed=seed)
        ends = []
        for mean in means:
            curve = fit_curve(self.multipliers, mean, sloped=False, start=self.utility)
            stretches = curve.holds(tau, self.swept).stretches
            # Validity may be below tau at 0 in a draw only: the outer ends of both stretches count.
            met = [s for s in stretches if s[0] <= found.high and s[1] >= found.low]
            met = met or stretches[:1]
            ends.append((min(low for low, _ in met), max(high for _, high in met)))
        cuts = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
        around = torch.quantile(torch.tensor(ends, dtype=torch.float64), cuts, dim=0)
        return found._replace(
            low_interval=Interval(found.low, *around[:, 0].tolist()),
            high_interval=Interval(found.high, *around[:, 1].tolist()),
        )

    def summary(self, tau: SupportsFloat = 0.5) -> str:
        """A few lines: how well the curves fit, the peak, the valid interval, the flags."""
        errors = self.held_out_errors
        lines = [
            f"{self.row}: " * bool(self.row) + "fits the means over examples at "
            f"{len(self.multipliers)} multipliers from {self.swept[0]:g} to {self.swept[1]:g}: "
            f"preference R² {self.preference.r2:.3f}, held-out error {errors[0]:.2g} nats; utility "
            f"R² {self.utility.r2:.3f}, held-out error {errors[1]:.2g} nats",
            f"utility is highest at multiplier {self.peak:.3g} and holds "
            f"{self.valid_interval(tau)}",
        ]
        return "\n".join([*lines, *(f"note: {flag}" for flag in self.flags)])

    def run_summary(self, beside: Mapping[str, Result]) -> str:
        """Where utility holds."""
        return labelled(
            "how far",
            f"utility holds {self.valid_interval()}; the curve of the mean utility has R² "
            f"{self.utility.r2:.2f} over multipliers, held-out error "
            f"{self.held_out_errors[1]:.2g} nats",
        )

    def plot(
        self,
        tau: SupportsFloat = 0.5,
        *,
        title: str = "Preference and utility over the multiplier",
        multiplier_unit: str = "",
    ) -> go.Figure:
        """Points with bands, fitted curves, residuals below, and the valid interval shaded."""
        tau = as_float("tau", tau)
        valid = self.valid_interval(tau)
        both = {"preference": self.preference, "utility": self.utility}
        measured = {"preference": self.preferences, "utility": self.utilities}
        return plots.validity_curves(
            {name: _band(values, self.groups) for name, values in measured.items()},
            multipliers=self.multipliers.tolist(),
            along=self.fine.tolist(),
            curves={name: curve.at(self.fine).tolist() for name, curve in both.items()},
            residuals={name: curve.residuals.tolist() for name, curve in both.items()},
            r2={name: curve.r2 for name, curve in both.items()},
            valid=valid.stretches if valid.known else (),
            valid_label=f"utility holds (D ≥ {tau:g})",
            unit="nats",
            title=title,
            note=with_minus(f"Utility holds {valid}").replace("D_u >=", "D ≥"),
            multiplier_unit=multiplier_unit,
        )

    def plot_tradeoff(self, *, title: str = "Preference against utility") -> go.Figure:
        """Preference against utility: measured cells, their frontier, and the fitted curve."""
        fine = self.fine
        preference, utility = (_mean(x).tolist() for x in (self.preferences, self.utilities))
        return plots.preference_against_utility(
            {"measured": (preference, utility)},
            multipliers=self.multipliers.tolist(),
            curves={
                "measured": (self.preference.at(fine).tolist(), self.utility.at(fine).tolist())
            },
            unit="nats",
            title=title,
        )

    @cached_property
    def fine(self) -> Float[Tensor, " multiplier"]:
        """201 multipliers over the sweep, to draw the curves along."""
        return torch.linspace(*self.swept, 201, dtype=torch.float64).clamp(*self.swept)

    def section(self, beside: Mapping[str, Result]) -> Section:
        """Both curves, where utility holds, and what to know of the fit."""
        return validity_section(
            Figure(self.plot),
            Figure(self.plot_tradeoff),
            steering=steering_of(self.row, self.site) or "steering",
            r2=(self.preference.r2, self.utility.r2),
            errors=self.held_out_errors,
            valid=str(self.valid_interval()),
            flags=self.flags,
        )

    # Tables

    def columns(self) -> Sequence[Column]:
        """Mean preference and utility of every multiplier, with intervals, curve and residual."""
        found = []
        measured = {"preference": self.preferences, "utility": self.utilities}
        for (name, values), curve in zip(
            measured.items(), (self.preference, self.utility), strict=True
        ):
            mean, low, high = _interval(values, self.groups)
            parts = {"": mean, "_low": low, "_high": high, "_residual": curve.residuals}
            parts["_fitted"] = curve.at(self.multipliers)
            found += [Column(name + end, ("multiplier",), part) for end, part in parts.items()]
        return found

    def arrays(self) -> list[Column]:
        """What was measured; without an axis of examples where means were given."""
        return [
            Column(name, axes[: values.ndim], values) for name, axes, values in super().arrays()
        ]


def _mean(values: Float[Tensor, "multiplier *example"]) -> Float[Tensor, " multiplier"]:
    return values.double().reshape(len(values), -1).mean(-1)


def _interval(
    values: Float[Tensor, "multiplier *example"], groups: stats.Groups
) -> tuple[Tensor, Tensor, Tensor]:
    """Means over examples with their intervals; NaN for the ends where there is one number each."""
    if values.ndim == 1 or values.shape[1] < 2:
        mean = values.reshape(len(values), -1).mean(-1)
        return mean, torch.full_like(mean, torch.nan), torch.full_like(mean, torch.nan)
    return stats.mean_interval(values, groups)


def _band(values: Tensor, groups: stats.Groups) -> Any:
    """Means for a figure, with their intervals where there are any."""
    parts = tuple(part.tolist() for part in _interval(values, groups))
    return parts if values.ndim > 1 and values.shape[1] > 1 else parts[0]


def fit_validity(
    multipliers: Float[Tensor, " multiplier"],
    preference: Float[Tensor, "multiplier *example"],
    utility: Float[Tensor, "multiplier *example"],
    *,
    clamped: Bool[Tensor, "multiplier *example"] | None = None,
    groups: Int[Tensor, " _example"] | None = None,
    row: str = "",
    site: Site | None = None,
    made_by: Mapping[str, Any] | None = None,
) -> ValidityFit:
    """Validity-decay curves through the means over examples of preference and utility.

    Args:
        multipliers: Strengths of one intervention, with at least four below and four above 0; twice
            as many show whether the form fits at all.
        preference: Log-odds of the positive over the negative answer, in nats. Means over examples
            are enough for the curves, but give no intervals.
        utility: Log-odds of either answer over anything else, in nats.
        groups: The group of each example, the unit of intervals; None where each is a group.
        clamped: Which utilities were clamped (`scores.utility` states it); reported as a flag.
        row: The name of the intervention.
        site: Where it acts.
        made_by: How the numbers came about.

    Raises:
        ValueError: If there are too few multipliers for the parameters, the same twice, or a number
            that is not finite.

    Source: the curves of Xu et al., arXiv:2602.02343, by SLSQP with the constraint that both
    branches agree at 0. Departures: the constraint is on D itself and not on the curve; the fit
    starts from 16 fixed places and keeps the best; utility's β is at least 0, so that D_u falls
    where utility falls; and D reaches 1 at some multiplier of the sweep, since the valid interval is
    counted from there.

    Width and power of a branch trade off, and so do height and base where the sweep stops before D
    is near 0: the flags name what these multipliers do not identify. The form cannot describe a
    utility that keeps rising with the multiplier: then the residuals are large, or the peak is at
    the end of the sweep, whatever R² is, and the flags say so.

    >>> m = torch.linspace(-2, 2, 17)
    >>> decay = 1 / (1 + m.square())
    >>> fit = fit_validity(m, (2 * m + 1) * decay, 4 * decay - 3)
    >>> print(fit.valid_interval(0.5))
    from -1 to 1 (D_u >= 0.5)
    """
    return ValidityFit(
        row=row,
        site=site,
        multipliers=multipliers,
        preferences=preference,
        utilities=utility,
        groups=groups,
        clamped=0.0 if clamped is None else float(clamped.double().mean()),
        made_by=dict(made_by or {}),
    )


def enough_to_fit(multipliers: Float[Tensor, " multiplier"]) -> bool:
    """Whether there are as many strengths, on either side of 0, as the curves need."""
    sides = int((multipliers < 0).sum()), int((multipliers > 0).sum())
    return min(sides) >= PER_SIDE and len(multipliers) > FREE


def require_enough(multipliers: Float[Tensor, " multiplier"]) -> None:
    """Raises ValueError if these strengths are too few to fit the curves, or hold one twice."""
    if len(multipliers.unique()) < len(multipliers):
        raise ValueError(f"multipliers={multipliers.tolist()} holds one twice. Give each once.")
    if not enough_to_fit(multipliers):
        below, above = int((multipliers < 0).sum()), int((multipliers > 0).sum())
        far = float(multipliers.abs().max()) if len(multipliers) else 1.0
        raise ValueError(
            f"{len(multipliers)} multipliers ({below} below 0, {above} above) cannot fit a curve of "
            f"{FREE} free parameters, three of them for each side alone: at least {FREE + 1} are "
            f"needed, {PER_SIDE} on either side. Sweep more, e.g. "
            f"torch.linspace({-far:g}, {far:g}, 17)."
        )
