"""Null maps: what the best of all cells reaches where there is nothing to find."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens import stats
from steerlens.analyses.direction_nulls import (
    DEFAULT,
    random_maps,
    refusal,
    require_enough_nulls,
    without_direction,
)
from steerlens.analyses.steerability.fitted_family import FittedFamily
from steerlens.data import ContrastSet
from steerlens.measures.sweep import sweep
from steerlens.models.model import Model
from steerlens.models.products import Products
from steerlens.protocols import Intervention
from steerlens.store.cells import Cells

OTHER_SEEDS = 500_000
"""Seeds of the shuffled labels of the direction null start so far from those of the label null."""

MakeMaps = Callable[[Sequence[int]], Sequence[Sequence[Intervention]]]
"""Makes the null maps of some numbers: of each, an intervention for each row."""


class NullMaps(NamedTuple):
    """How to make null maps; None for a null that is not made."""

    shuffled: MakeMaps | None
    """Directions fitted to shuffled labels."""
    random: MakeMaps | None
    """Other directions, as long as the real ones."""
    what: str = "random directions"
    """What the second are."""


def require_nulls(nulls: int | None, arms: Mapping[str, Intervention], fitted: bool) -> int:
    """How many null maps of each kind there will be at most.

    Args:
        nulls: What was asked for; None for 20 where they cost no training, and else for none.
        fitted: Whether the arms are a fitted family.

    Raises:
        ValueError: If these are too few for a p-value, or a random direction cannot take the
            place of some intervention.
    """
    other = without_direction(arms)
    possible = fitted or other is None
    if nulls is None:
        return DEFAULT if possible else 0
    require_enough_nulls(nulls)
    if nulls and other is not None and not possible:
        raise refusal(arms, other, "Use nulls=0 for a map without p-values.")
    return nulls


def null_maps(source: FittedFamily | Mapping[str, Intervention], count: int, seed: int) -> NullMaps:
    """The interventions of the null maps.

    A fitted family has both nulls. Of other interventions only the direction can be replaced, so
    they have the direction null alone.

    Args:
        source: The fitted family, or interventions that are all `Directed`.
        count: How many maps of each kind at most.
    """
    if not count:
        return NullMaps(None, None)
    if isinstance(source, FittedFamily):
        return NullMaps(
            lambda ks: source.rows_of(
                [source.shuffled(seed + 1 + k) for k in ks], f"shuffled-{ks[0]}"
            ),
            lambda ks: source.rows_of(
                [source.projected(seed + OTHER_SEEDS + k) for k in ks], f"random-{ks[0]}"
            ),
            "other directions",
        )
    maps = random_maps(source, count, seed)
    return NullMaps(None, lambda ks: [maps[k] for k in ks])


def null_gains(
    model: Model,
    choose: ContrastSet,
    make: MakeMaps | None,
    observed: Float[Tensor, "row multiplier"],
    multipliers: Sequence[float],
    count: int,
    cells: Cells,
    products: Products | None = None,
) -> Float[Tensor, "null row multiplier"] | None:
    """Mean oriented gain of every cell of the null maps; None if there are none.

    Maps are made in batches until the answer is clear: more of them stand out as much as the
    observed map than a significant one could have, and at least one does the wrong way.

    Args:
        observed: The same of the real map.
        count: How many maps at most.
        products: As in `sweep`.
    """
    if make is None:
        return None
    found = observed.new_zeros(0, *observed.shape)
    for last in stats.looks(count):
        edits = [edit for own in make(range(len(found), last)) for edit in own]
        part = cells.part(f"maps-{len(found)}")
        gains = _gains(model, choose, edits, multipliers, part, products)
        gains = gains.unflatten(0, (-1, len(observed)))
        found = torch.cat([found, gains])
        if stats.clear_after(observed, found, count) is None:
            continue
        # The opposite claim must be clear as well: that steering works the wrong way.
        if stats.max_statistic(-observed, -found, planned=None, needed=1).p_value > 1 / (1 + last):
            break
    return found


def _gains(
    model: Model,
    choose: ContrastSet,
    edits: Sequence[Intervention],
    multipliers: Sequence[float],
    cells: Cells,
    products: Products | None,
) -> Float[Tensor, "edit multiplier"]:
    swept = sweep(
        model, choose, edits, multipliers, log_odds_only=True, cells=cells, products=products
    )
    odds, zero = swept.log_odds, list(multipliers).index(0.0)
    sign = torch.tensor(multipliers, dtype=torch.float32).sign()
    return (odds - odds[:, zero, None]).mean(-1) * sign
