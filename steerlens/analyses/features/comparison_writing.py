"""The arms of a comparison as interventions, so that what they write can be looked at."""

from __future__ import annotations

import math
from collections.abc import Sequence

from steerlens.analyses.features.comparison_arms import DIFFMEAN
from steerlens.analyses.features.feature_comparison import FeatureComparison
from steerlens.directions import Activations
from steerlens.directions.methods import DiffMean
from steerlens.interventions import Add
from steerlens.results import Cell
from steerlens.saes.sae import SAE
from steerlens.sites import Positions


def written_arms(
    comparison: FeatureComparison,
    saes: Sequence[SAE],
    read: Activations,
    positions: Positions,
) -> tuple[dict[str, Add], list[Cell]]:
    """DiffMean and the arms of one feature, each where it did best on the choosing questions.

    Multiplier 1 is the sign and the length that were compared at equal KL. The other arms are sums
    and searched directions, which a comparison does not store.

    Args:
        saes: Those that were compared.
        read: The activations that DiffMean was fitted on.

    Returns:
        The interventions by the name of their arm, and their cells; without arms that have no
        length of that cost.
    """
    numbers, by_site = comparison.at_equal_kl, {sae.site: sae for sae in saes}
    arms: dict[str, Add] = {}
    cells: list[Cell] = []
    for a, name in enumerate(numbers.arms):
        at = numbers.site(name)
        site, length = comparison.sites[at], float(numbers.lengths[a, at])
        feature, sign = int(numbers.features[a, at]), int(numbers.signs[a, at])
        if math.isnan(length) or (feature < 0 and name != DIFFMEAN):
            continue
        found = (
            read.direction(site, DiffMean()) if feature < 0 else by_site[site].direction(feature)
        )
        arms[name] = Add(found if sign > 0 else -found, positions, length)
        cells.append(Cell(name, 1.0, site))
    return arms, cells
