"""How far laws miss strengths that they were not fitted to: left out in between, and further out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.analyses.strength_laws.known_laws import LAWS, UNITS
from steerlens.analyses.strength_laws.law import Array, FittedLaw, Law
from steerlens.analyses.validity.curve_fitting import FOLDS

PLACES = 121
"""Multipliers at which a fitted law is kept, to draw it."""


@dataclass(frozen=True)
class LawFacts:
    """A law as results state it."""

    quantity: str
    name: str
    formula: str
    constants: tuple[str, ...]
    """Names of its constants, with their units."""
    free: int
    """Free parameters. Those of interpolation are all values that it was given, stated as 0."""
    unit: str
    """Unit of its errors: nats, or "" for a probability."""


class LawErrors(NamedTuple):
    """One law on one curve."""

    held_out: float
    """Root mean square of what is missed at inner strengths that are left out in turn."""
    beyond: float
    """The same at the outer half of the strengths, fitted to the inner half."""
    fitted: FittedLaw
    """Fitted to all strengths."""


def facts_of(quantity: str, law: Law) -> LawFacts:
    """What a result states of a law."""
    unit = UNITS[quantity]
    named = [f"{c.name} ({own})" if (own := c.unit(unit)) else c.name for c in law.constants]
    return LawFacts(quantity, law.name, law.formula, tuple(named), law.free, unit)


def law_errors(law: Law, m: Array, y: Array) -> LawErrors:
    """Fits a law to a curve, and to parts of it.

    The inner strengths are left out a quarter at a time, every fourth of them; the two ends never.
    Each of these fits starts from the curve of all strengths. Beyond: the half of the strengths
    nearest to 0 is fitted, from the usual starts.

    Args:
        m: At least 9 multipliers.
    """
    whole = law.fit(m, y)
    order = np.argsort(m)[1:-1]
    missed = []
    for k in range(FOLDS):
        left_out = order[k::FOLDS]
        kept = np.ones(len(m), dtype=bool)
        kept[left_out] = False
        again = law.fit(m[kept], y[kept], whole)
        missed.append(again.at(m[left_out]) - y[left_out])
    inner = np.abs(m) <= np.median(np.abs(m))
    near = law.fit(m[inner], y[inner])
    return LawErrors(
        held_out=_root_mean_square(np.concatenate(missed)),
        beyond=_root_mean_square(near.at(m[~inner]) - y[~inner]),
        fitted=whole,
    )


class FittedLaws(NamedTuple):
    """All laws on the curves of some rows."""

    laws: tuple[LawFacts, ...]
    held_out: Float[Tensor, "row law"]
    beyond: Float[Tensor, "row law"]
    constants: Float[Tensor, "row law parameter"]
    """NaN beyond the constants of a law."""
    curves: Float[Tensor, "row law place"]
    """The fitted law at `places(multipliers)`."""


def places(m: Sequence[float]) -> Array:
    """The multipliers at which fitted laws are kept."""
    return np.linspace(min(m), max(m), PLACES)


def fit_laws(m: Sequence[float], curves: dict[str, Float[Tensor, "row multiplier"]]) -> FittedLaws:
    """Every law of every quantity on the mean curves of some rows.

    Args:
        curves: The mean over questions or texts of each quantity of `LAWS`.
    """
    x, along = np.asarray(m, dtype=float), places(m)
    pairs = [(quantity, law) for quantity in curves for law in LAWS[quantity]]
    rows = len(next(iter(curves.values())))
    most = max(len(law.constants) for _, law in pairs)
    errors = torch.full((2, rows, len(pairs)), torch.nan, dtype=torch.float64)
    constants = torch.full((rows, len(pairs), most), torch.nan)
    drawn = torch.full((rows, len(pairs), len(along)), torch.nan)
    for j, (quantity, law) in enumerate(pairs):
        for i, y in enumerate(curves[quantity].double().numpy(force=True)):
            found = law_errors(law, x, y)
            errors[:, i, j] = torch.tensor([found.held_out, found.beyond])
            own = torch.tensor(found.fitted.constants)
            constants[i, j, : len(own)] = own
            drawn[i, j] = torch.from_numpy(found.fitted.at(along)).float()
    facts = tuple(facts_of(quantity, law) for quantity, law in pairs)
    held_out, beyond = errors.float()
    return FittedLaws(facts, held_out, beyond, constants, drawn)


def _root_mean_square(off: Array) -> float:
    return float(np.sqrt(np.mean(np.square(off))))
