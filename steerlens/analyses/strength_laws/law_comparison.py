"""Rival laws of the strength on what was measured: curves, errors, exponents and bumps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, SupportsIndex

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens import plots, stats
from steerlens.analyses.strength_laws.known_laws import UNITS
from steerlens.analyses.strength_laws.law_errors import LawFacts, places
from steerlens.analyses.strength_laws.laws_section import laws_section, laws_summary
from steerlens.analyses.strength_laws.local_exponent import (
    FIRST,
    NEAR,
    local_exponent,
    strengths_between,
)
from steerlens.analyses.strength_laws.token_bumps import Bumps, find_bumps
from steerlens.arguments import ArgumentError, as_int
from steerlens.report.section import Section
from steerlens.results import Column, Result
from steerlens.sites import Site
from steerlens.stats import Interval

if TYPE_CHECKING:
    import plotly.graph_objects as go

ROLES = ("positive answer", "negative answer", "raised", "lowered")
"""Why a token is followed: it begins an answer, or the direction raises or lowers it most."""


class Duel(NamedTuple):
    """Two laws by their errors."""

    ratio: Interval
    """Error of the first over that of the second: the geometric mean over the rows of a case, then
    over cases, with its 95% interval over cases. Below 1 the first law is better."""
    won: int
    """Rows at which the first law has the smaller error."""
    rows: int


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class LawComparison(Result):
    """Effects and costs over many strengths, with the laws that were fitted to them.

    `compare_laws` makes it for one contrast, and `joined` puts several together. A row is one
    intervention; a case is one contrast on one model. Layers of one case are not independent, so
    intervals over rows take the case as the unit.
    """

    kind: ClassVar[str] = "strength_laws"

    rows: tuple[str, ...]
    sites: tuple[Site | None, ...]
    """Where each row acts; None where that is not one site."""
    cases: tuple[str, ...]
    """The contrast of each row."""
    controls: tuple[bool, ...]
    """Which rows are controls, such as random directions."""
    multipliers: Float[Tensor, " multiplier"]
    lengths: Float[Tensor, " row"]
    """Length of what multiplier 1 adds, in median norms of the stream; NaN where it is not known."""
    costs: Float[Tensor, "row multiplier text"]
    """KL to the unsteered model, in nats per token of ordinary text."""
    entropies: Float[Tensor, "row multiplier text"]
    """Change of the cross-entropy of the same texts, in nats per token."""
    preferences: Float[Tensor, "row multiplier question"]
    """Log-odds of the positive over the negative answer, in nats."""
    probabilities: Float[Tensor, "row multiplier question"]
    """Probability of the positive answer."""
    token_probabilities: Float[Tensor, "row multiplier token question"]
    """Probability of followed tokens as the first one after the prompt; NaN where there is none."""
    tokens: tuple[tuple[str, ...], ...]
    """The followed tokens of each row; "" for none."""
    roles: tuple[str, ...]
    """Why each of them is followed: one of `ROLES`."""
    question_groups: Int[Tensor, "row question"]
    """The group of each question, the unit of intervals over questions."""
    text_groups: Int[Tensor, "row text"]
    laws: tuple[LawFacts, ...]
    """Every law of every quantity."""
    held_out: Float[Tensor, "row law"]
    """Error at inner strengths that were left out in turn (root mean square)."""
    beyond: Float[Tensor, "row law"]
    """Error at the outer half of the strengths, fitted to the inner half."""
    constants: Float[Tensor, "row law parameter"]
    """Constants fitted to all strengths, in the order and units of `laws`; NaN for none."""
    curves: Float[Tensor, "row law place"]
    """The fitted laws along `places`."""
    made_by: dict[str, Any]

    @staticmethod
    def joined(parts: Sequence[LawComparison]) -> LawComparison:
        """Several comparisons as one, e.g. of other contrasts or models.

        Raises:
            ArgumentError: If there is none, or they differ in strengths, in laws, or in how many
                questions, texts and tokens they have.
        """
        if not parts:
            raise ArgumentError("There is no comparison to join. Give at least one.")
        first = parts[0]
        for part in parts[1:]:
            same = part.laws == first.laws and part.roles == first.roles
            if not same or not torch.equal(part.multipliers, first.multipliers):
                raise ArgumentError(
                    "The comparisons have other multipliers, laws or tokens, so their errors do not "
                    "compare. Measure all of them with the same ones."
                )
        found: dict[str, Any] = {}
        shared = ("multipliers", "roles", "laws", "made_by")
        for name in (f.name for f in fields(LawComparison) if f.name not in shared):
            values = [getattr(part, name) for part in parts]
            if isinstance(values[0], tuple):
                found[name] = tuple(x for value in values for x in value)
                continue
            if len({value.shape[1:] for value in values}) > 1:
                raise ArgumentError(
                    f"The comparisons have {name} of shapes {[tuple(v.shape) for v in values]}. Give "
                    "as many questions and as many texts to each."
                )
            found[name] = torch.cat(values)
        about = {
            k: v for k, v in first.made_by.items() if all(p.made_by.get(k) == v for p in parts)
        }
        kept = {name: getattr(first, name) for name in ("multipliers", "roles", "laws")}
        return LawComparison(**found, **kept, made_by=about)

    @property
    def quantities(self) -> tuple[str, ...]:
        """What laws were fitted to: cost, cross-entropy, preference and probability."""
        return tuple(dict.fromkeys(law.quantity for law in self.laws))

    def names(self, quantity: str) -> tuple[str, ...]:
        """The laws of a quantity, the baselines last."""
        if quantity not in self.quantities:
            raise ArgumentError(
                f"{quantity!r} is none of the quantities. Use one of {', '.join(self.quantities)}."
            )
        return tuple(law.name for law in self.laws if law.quantity == quantity)

    def number(self, quantity: str, law: str) -> int:
        """The number of a law along the axis of laws."""
        if law not in self.names(quantity):
            raise ArgumentError(
                f"{law!r} is no law of {quantity}. Use one of {', '.join(self.names(quantity))}."
            )
        return [(one.quantity, one.name) for one in self.laws].index((quantity, law))

    def measured(self, quantity: str) -> Float[Tensor, "row multiplier example"]:
        """The values of a quantity, question by question or text by text."""
        self.names(quantity)
        every = (self.costs, self.entropies, self.preferences, self.probabilities)
        return dict(zip(UNITS, every, strict=True))[quantity]

    @property
    def places(self) -> tuple[float, ...]:
        """The multipliers along which the fitted laws are kept."""
        return tuple(places(self.multipliers.tolist()).tolist())

    def relative(self, quantity: str, law: str, *, beyond: bool = False) -> Float[Tensor, " row"]:
        """Errors of a law over the standard deviation of the curve over all strengths.

        1 is as bad as the mean of the curve.

        Args:
            beyond: The errors at the outer half of the strengths.
        """
        errors = (self.beyond if beyond else self.held_out)[:, self.number(quantity, law)]
        spread = self.measured(quantity).double().mean(-1).std(-1, correction=0)
        return (errors.double() / spread.clamp(min=1e-12)).float()

    def chosen_rows(self, controls: bool | None = False) -> list[int]:
        """The numbers of the rows that are no controls, or of those that are; None for all."""
        return [i for i, c in enumerate(self.controls) if controls is None or c == controls]

    def over_cases(
        self, values: Float[Tensor, " row"], *, controls: bool | None = False
    ) -> Interval:
        """The mean over cases of the mean over the rows of a case; rows with NaN are left out.

        The 95% interval is over cases; its ends are NaN below 8 cases.
        """
        by_case: dict[str, list[float]] = {}
        for i in self.chosen_rows(controls):
            if bool(values[i].isfinite()):
                by_case.setdefault(self.cases[i], []).append(float(values[i]))
        if not by_case:
            return Interval(float("nan"), float("nan"), float("nan"))
        means = torch.tensor([sum(own) / len(own) for own in by_case.values()])
        return stats.interval_of_mean(means)

    def duel(
        self,
        quantity: str,
        one: str,
        other: str,
        *,
        beyond: bool = False,
        controls: bool | None = False,
    ) -> Duel:
        """Two laws of a quantity by their errors at the same rows.

        Args:
            beyond: By the errors at the outer half of the strengths.
            controls: Of the controls; None for all rows.
        """
        # A law that misses by less than a millionth of the spread is as good as exact.
        first, second = (
            self.relative(quantity, law, beyond=beyond).clamp(min=1e-6) for law in (one, other)
        )
        ratio = self.over_cases((first / second).log(), controls=controls)
        rows = self.chosen_rows(controls)
        won = int((first < second)[rows].sum())
        return Duel(Interval(*(float(torch.tensor(x).exp()) for x in ratio)), won, len(rows))

    def exponents(self, quantity: str, *, first: bool = False) -> tuple[Interval, ...]:
        """The power of the strength with which KL or cross-entropy begins, row by row.

        Intervals are over texts: see `local_exponent`.

        Args:
            first: From strengths of 0.05 to 0.25 instead of 0.2 to 1; NaN where fewer than two of
                these were measured.
        """
        if quantity not in ("cost", "cross-entropy"):
            raise ArgumentError(f"{quantity!r} is no cost. Use 'cost' or 'cross-entropy'.")
        near = FIRST if first else NEAR
        if len(strengths_between(self.multipliers, near)) < 2:
            return (Interval(float("nan"), float("nan"), float("nan")),) * len(self.rows)
        return tuple(
            local_exponent(self.multipliers, values, groups, near=near)
            for values, groups in zip(self.measured(quantity), self.text_groups, strict=True)
        )

    def mean_exponent(
        self, quantity: str, *, first: bool = False, controls: bool | None = False
    ) -> Interval:
        """The mean of `exponents`, with its interval over cases."""
        values = torch.tensor([one.value for one in self.exponents(quantity, first=first)])
        return self.over_cases(values, controls=controls)

    @cached_property
    def entropy_slopes(self) -> tuple[Interval, ...]:
        """The slope of the cross-entropy at 0 of each row, in nats per multiplier, over texts.

        From the smallest strength with both signs. KL has none; a text that becomes more likely on
        one side of 0 gives one.
        """
        order = self.multipliers.argsort()
        m = self.multipliers[order]
        at = int((m > 0).int().argmax())
        below, above = order[len(m) - 1 - at], order[at]
        step = self.multipliers[above] - self.multipliers[below]
        slopes = (self.entropies[:, above] - self.entropies[:, below]) / step
        return tuple(
            stats.interval_of_mean(row, groups)
            for row, groups in zip(slopes, self.text_groups, strict=True)
        )

    @cached_property
    def bumps(self) -> Bumps:
        """Which followed tokens rise and then fall, [row, token]: see `find_bumps`."""
        found = [
            find_bumps(self.multipliers, values.transpose(0, 1), groups)
            for values, groups in zip(self.token_probabilities, self.question_groups, strict=True)
        ]
        return Bumps(*(torch.stack(parts) for parts in zip(*found, strict=True)))

    def bump_share(
        self,
        role: str | None = None,
        *,
        of: Literal["found", "seen", "share"] = "found",
        controls: bool | None = False,
    ) -> Interval:
        """The share of followed tokens with a bump, with its interval over cases.

        Args:
            role: Tokens of one of `ROLES`; all by default.
            of: "found" counts tokens whose mean is sure to have one, "seen" those whose mean has one,
                and "share" is the mean share of questions with one.
        """
        if role is not None and role not in self.roles:
            raise ArgumentError(f"{role!r} is no role. Use one of {', '.join(ROLES)}.")
        if of not in ("found", "seen", "share"):
            raise ArgumentError(f"of={of!r}: use 'found', 'seen' or 'share'.")
        of_role = torch.tensor([role is None or one == role for one in self.roles])
        known = torch.tensor([[bool(token) for token in row] for row in self.tokens]) & of_role
        counted = getattr(self.bumps, of).double().nan_to_num() * known
        shares = (counted.sum(-1) / known.sum(-1)).float()  # NaN where there is none
        return self.over_cases(shares, controls=controls)

    # Tables, words and pictures

    def coordinates(self, axis: str, size: int) -> Mapping[str, Sequence[Any]]:
        """Rows with their case, layer and whether they are controls; laws with their quantity."""
        if axis == "row" and size == len(self.rows):
            named = super().coordinates(axis, size)
            return {"case": list(self.cases), **named, "control": list(self.controls)}
        if axis == "law" and size == len(self.laws):
            return {
                "quantity": [law.quantity for law in self.laws],
                "law": [law.name for law in self.laws],
            }
        if axis == "token":
            return {"token": range(size)}
        return super().coordinates(axis, size)

    def columns(self) -> list[Column]:
        """Both errors of every law at every row, absolute and over the spread of the curve."""
        axes = ("row", "law")
        parts = {"held_out": False, "beyond": True}
        relative = {
            name: torch.stack(
                [self.relative(x.quantity, x.name, beyond=far) for x in self.laws], -1
            )
            for name, far in parts.items()
        }
        return [
            Column("free", ("law",), torch.tensor([law.free for law in self.laws])),
            *(Column(name, axes, getattr(self, name)) for name in parts),
            *(Column(f"{name}_relative", axes, values) for name, values in relative.items()),
        ]

    def summary(self) -> str:
        """For each quantity the errors of its laws, then exponents and bumps."""
        return laws_summary(self)

    def plot(self, *, beyond: bool = False, controls: bool = False) -> go.Figure:
        """The relative error of every law: at every row of one case, or the mean of every case.

        Args:
            beyond: The errors at the outer half of the strengths.
            controls: Of the controls.
        """
        rows = self.chosen_rows(controls)
        if not rows:
            raise ArgumentError("There is no such row. Leave `controls` as it is.")
        cases = list(dict.fromkeys(self.cases[i] for i in rows))
        if len(cases) == 1:
            sites = [site for i in rows if (site := self.sites[i]) is not None]
            layers = [str(site.layer) for site in sites]
            by_layer = len(set(layers)) == len(rows)
            names = layers if by_layer else [self.rows[i] for i in rows]
            over = "layer" if by_layer else "row"
            members = [[i] for i in rows]
        else:
            names, over = cases, "contrast"
            members = [[i for i in rows if self.cases[i] == case] for case in cases]
        panels = {}
        for quantity in self.quantities:
            errors = [self.relative(quantity, law, beyond=beyond) for law in self.names(quantity)]
            panels[quantity] = (
                self.names(quantity),
                [[float(one[own].mean()) for one in errors] for own in members],
            )
        where = "beyond the fitted strengths" if beyond else "at strengths left out of the fit"
        return plots.law_errors(
            panels, rows=names, over=over, title=f"How far each law is from the curve {where}",
            note="Root mean square over the standard deviation of the curve: 1 is as bad as its mean"
            + ("" if len(cases) == 1 else ". Means over the layers of a contrast"),
        )  # fmt: skip

    def find(self, row: str | SupportsIndex) -> int:
        """The number of a row, given by its name or its number.

        Raises:
            ArgumentError: If there is no such row, or several have the name.
        """
        if isinstance(row, str):
            if self.rows.count(row) != 1:
                raise ArgumentError(
                    f"{self.rows.count(row)} rows are called {row!r}. Give the number of a row; the "
                    f"names are {', '.join(dict.fromkeys(self.rows))}."
                )
            return self.rows.index(row)
        number = as_int("row", row, least=0)
        if number >= len(self.rows):
            raise ArgumentError(f"row={number} is none of the {len(self.rows)} rows.")
        return number

    def plot_row(self, row: str | SupportsIndex) -> go.Figure:
        """The measured curves of one row, with every law drawn over the points."""
        i = self.find(row)
        points, drawn = {}, {}
        groups = {"cost": self.text_groups[i], "cross-entropy": self.text_groups[i]}
        for quantity in self.quantities:
            own = groups.get(quantity, self.question_groups[i])
            band = stats.mean_interval(self.measured(quantity)[i], own)
            points[quantity] = (tuple(part.tolist() for part in band), UNITS[quantity])
            drawn[quantity] = {
                law: self.curves[i, self.number(quantity, law)].tolist()
                for law in self.names(quantity)
                if law not in ("mean", "interpolation")
            }
        return plots.law_curves(
            points, multipliers=self.multipliers.tolist(), along=self.places, curves=drawn,
            title=f"What steering does over its strength: {self.cases[i]}, {self.rows[i]}",
        )  # fmt: skip

    def plot_tokens(self, row: str | SupportsIndex, role: str = "raised") -> go.Figure:
        """The probability of the followed tokens of one role at one row."""
        i = self.find(row)
        if role not in self.roles:
            raise ArgumentError(f"{role!r} is no role. Use one of {', '.join(ROLES)}.")
        series = {}
        for k, token in enumerate(self.tokens[i]):
            if token and self.roles[k] == role:
                values = self.token_probabilities[i, :, k]
                band = stats.mean_interval(values, self.question_groups[i], least=0.0)
                mark = " (bump)" if bool(self.bumps.found[i, k]) else ""
                series[f"{token!r}{mark}"] = (
                    self.multipliers.tolist(),
                    tuple(part.tolist() for part in band),
                )
        if not series:
            raise ArgumentError(f"{self.rows[i]} has no token of the role {role!r}.")
        return plots.measured_lines(
            series, title=f"Probability of tokens over the strength: {self.rows[i]}",
            x="multiplier", y="probability",
        )  # fmt: skip

    def section(self, beside: Mapping[str, Result]) -> Section:
        """Errors by law, the table, and the curves of some rows."""
        return laws_section(self)
