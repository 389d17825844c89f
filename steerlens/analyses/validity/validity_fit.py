"""Preference and utility over multipliers with their fitted curves, and where utility holds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steerlens import plots, stats
from steerlens.analyses.validity.curve_fitting import FREE, PER_SIDE, fit_curve
from steerlens.analyses.validity.decay_curve import FittedCurve, ValidInterval
from steerlens.stats import Interval

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False)
class ValidityFit:
    """Preference and utility over multipliers, with their fitted curves."""

    multipliers: Float[Tensor, " multiplier"]
    preferences: Float[Tensor, "multiplier *example"]
    """As measured, in nats."""
    utilities: Float[Tensor, "multiplier *example"]
    preference: FittedCurve
    utility: FittedCurve
    clamped: float
    """Share of the utilities that were clamped."""

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
                f"Multiplier {float(multipliers[beyond].flatten()[0]):g} lies beyond the sweep, from "
                f"{low:g} to {high:g}: nothing was measured there. Sweep further; or use "
                "`.preference.at(...)` or `.utility.at(...)`, which give the formula anywhere."
            )
        return multipliers

    @property
    def peak(self) -> float:
        """The multiplier at which fitted utility is highest; NaN for a flat curve.

        Of two tops, which the form makes equally high, the one where more was measured.
        """
        mean = self.utilities.reshape(len(self.utilities), -1).mean(-1)
        tops = self.utility.tops
        near = [float(mean[(self.multipliers - top).abs().argmin()]) for top in tops]
        return tops[near.index(max(near))] if tops else math.nan

    def valid_interval(
        self, tau: float = 0.5, *, draws: int = 0, level: float = 0.95, seed: int = 0
    ) -> ValidInterval:
        """The multipliers at which D_u >= tau: where utility holds.

        Never longer than the sweep; an end that lies beyond it is marked so. It rests on the base
        of the utility curve, which a sweep that stops early does not show: heed `flags`.

        Args:
            tau: Share of the way from the base up to the peak, in nats, that utility must keep.
            draws: Resamplings of the examples, each fitted anew, for intervals of both ends; 0
                for none. 200 take some seconds; far fewer give intervals that are too short.

        Raises:
            ValueError: If tau is not between 0 and 1, or draws are asked of means alone.
        """
        if not 0 < tau < 1:
            raise ValueError(f"tau={tau} is no share between 0 and 1. Use 0.5 for half way down.")
        found = self.utility.holds(tau, self.swept)
        if not draws:
            return found
        if self.utilities.ndim != 2 or self.utilities.shape[1] < 2:
            raise ValueError(
                "An interval for the ends needs the examples one by one, at least two; this fit was "
                "given means. Pass fit_validity arrays of [multiplier, example], or draws=0."
            )
        means = stats.bootstrap_means(self.utilities.double(), draws=draws, seed=seed)
        ends = []
        for mean in means:
            curve = fit_curve(self.multipliers, mean, sloped=False, start=self.utility)
            stretches = curve.holds(tau, self.swept).stretches
            # A draw may dip below tau at 0 where the mean does not: its ends are still the outer ones.
            met = [s for s in stretches if s[0] <= found.high and s[1] >= found.low] or stretches[
                :1
            ]
            ends.append((min(low for low, _ in met), max(high for _, high in met)))
        cuts = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
        around = torch.quantile(torch.tensor(ends, dtype=torch.float64), cuts, dim=0)
        return found._replace(
            low_interval=Interval(found.low, *around[:, 0].tolist()),
            high_interval=Interval(found.high, *around[:, 1].tolist()),
        )

    def summary(self, tau: float = 0.5) -> str:
        """A few lines: how well the curves fit, the peak, the valid interval, the flags."""
        lines = [
            f"preference R² {self.preference.r2:.3f}, utility R² {self.utility.r2:.3f} "
            f"({len(self.multipliers)} multipliers from {self.swept[0]:g} to {self.swept[1]:g})",
            f"utility is highest at multiplier {self.peak:.3g} and holds "
            f"{self.valid_interval(tau)}",
        ]
        return "\n".join([*lines, *(f"note: {flag}" for flag in self.flags)])

    def __repr__(self) -> str:
        return self.summary()

    def plot(
        self,
        tau: float = 0.5,
        *,
        title: str = "Preference and utility over the multiplier",
        multiplier_unit: str = "",
    ) -> go.Figure:
        """Points with bands, fitted curves, residuals below, and the valid interval shaded."""
        valid = self.valid_interval(tau)
        both = {"preference": self.preference, "utility": self.utility}
        measured = {"preference": self.preferences, "utility": self.utilities}
        return plots.validity_curves(
            {name: _band(values) for name, values in measured.items()},
            multipliers=self.multipliers.tolist(),
            along=self.fine.tolist(),
            curves={name: curve.at(self.fine).tolist() for name, curve in both.items()},
            residuals={name: curve.residuals.tolist() for name, curve in both.items()},
            r2={name: curve.r2 for name, curve in both.items()},
            valid=valid.stretches,
            valid_label=f"utility holds (D ≥ {tau:g})" + ", extrapolated" * (not valid.base_seen),
            unit="nats",
            title=title,
            note=f"Utility holds {valid}".translate({ord("-"): "−"}).replace("D_u >=", "D ≥"),
            multiplier_unit=multiplier_unit,
        )

    def plot_tradeoff(self, *, title: str = "Preference against utility") -> go.Figure:
        """What preference costs in utility: measured cells, their frontier, and the fitted curve."""
        fine = self.fine
        preference, utility = (
            x.reshape(len(x), -1).mean(-1).tolist() for x in (self.preferences, self.utilities)
        )
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


def _band(values: Tensor) -> Any:
    if values.ndim == 1 or values.shape[1] < 2:
        return values.reshape(len(values), -1).mean(-1).tolist()
    return tuple(part.tolist() for part in stats.mean_interval(values))


def fit_validity(
    multipliers: Float[Tensor, " multiplier"],
    preference: Float[Tensor, "multiplier *example"],
    utility: Float[Tensor, "multiplier *example"],
    *,
    clamped: Bool[Tensor, "multiplier *example"] | None = None,
) -> ValidityFit:
    """Fits the validity-decay curves to the means over examples of preference and utility.

    Args:
        multipliers: Of one site, with at least four below and four above 0; twice as many show
            whether the form holds at all.
        preference: Log-odds of the positive over the negative answer, in nats; means over examples
            will do, but give no intervals.
        utility: Log-odds of either answer over anything else, in nats.
        clamped: Which utilities were clamped (`scores.utility` says so); reported as a flag.

    Raises:
        ValueError: If there are too few multipliers for the parameters, the same twice, or a number
            that is not finite.

    Source: the curves of Xu et al., arXiv:2602.02343, by SLSQP with the constraint that both
    branches agree at 0. Ours: the constraint is on D itself and not on the curve; the fit starts
    from 16 fixed places and keeps the best; utility's β is at least 0, so that D_u falls where
    utility falls; and D reaches 1 at some multiplier of the sweep, without which the valid interval
    has no top to count from.

    Width and power of a branch trade off, and so do height and base where the sweep stops before
    validity is used up: the flags name what these multipliers do not identify. The form cannot say
    that utility keeps rising with the multiplier: then the residuals are large, or the peak stands
    at the end of the sweep, whatever R² is, and the flags say so.

    >>> m = torch.linspace(-2, 2, 17)
    >>> decay = 1 / (1 + m.square())
    >>> fit = fit_validity(m, (2 * m + 1) * decay, 4 * decay - 3)
    >>> print(fit.valid_interval(0.5))
    from -1 to 1 (D_u >= 0.5)
    """
    _check(multipliers, preference, utility)
    curves = []
    for values, sloped in ((preference, True), (utility, False)):
        mean = values.double().reshape(len(values), -1).mean(-1)
        curves.append(fit_curve(multipliers, mean, sloped=sloped))
    share = 0.0 if clamped is None else float(clamped.double().mean())
    return ValidityFit(multipliers, preference, utility, *curves, clamped=share)


def enough_to_fit(multipliers: Float[Tensor, " multiplier"]) -> bool:
    """Whether there are as many strengths, on either side of 0, as the curves need."""
    sides = int((multipliers < 0).sum()), int((multipliers > 0).sum())
    return min(sides) >= PER_SIDE and len(multipliers) > FREE


def _check(multipliers: Tensor, preference: Tensor, utility: Tensor) -> None:
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
    named = {"multipliers": multipliers, "preference": preference, "utility": utility}
    for name, values in named.items():
        if not bool(torch.isfinite(values).all()):
            raise ValueError(
                f"{name} holds a value that is NaN or infinite, and no curve goes through that. "
                "Leave that multiplier out, or sweep smaller ones."
            )
