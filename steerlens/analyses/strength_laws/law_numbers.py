"""The numbers of a comparison of laws: errors, exponents and bumps, with intervals over cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens import stats
from steerlens.analyses.strength_laws.known_laws import UNITS
from steerlens.analyses.strength_laws.law_errors import LawFacts, places
from steerlens.analyses.strength_laws.local_exponent import (
    FIRST,
    NEAR,
    local_exponent,
    strengths_between,
)
from steerlens.analyses.strength_laws.token_bumps import Bumps, find_bumps
from steerlens.arguments import ArgumentError
from steerlens.results import Column, Result
from steerlens.sites import Site
from steerlens.stats import Interval

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
class LawNumbers(Result):
    """What a `LawComparison` holds, and what follows from it in numbers.

    A row is one intervention, and a case is one contrast on one model. Layers of one case are not
    independent, so intervals over rows take the case as the unit.
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
        found = self.over_cases(shares, controls=controls)
        return Interval(*(float(torch.tensor(x).clamp(0, 1)) for x in found))

    # Tables

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
