"""Arms: the named interventions that an analysis compares, one row of its result each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from steerlens.directions import Direction
from steerlens.interventions.residual import Add
from steerlens.models.model import Model
from steerlens.protocols import Directed, Fitted, Intervention, ResidualEdit
from steerlens.sites import Positions, Site, require_positions
from steerlens.units import StrengthUnit

Steering = Intervention | Direction
"""An intervention, or a direction for `Add` with its usual strength and positions."""
Arms = Mapping[str, Steering] | Sequence[Steering]
"""Interventions by name; or interventions at different sites, which name them."""


def layer_family(
    directions: Sequence[Direction],
    positions: Positions | None = None,
    unit: StrengthUnit | Sequence[float] = "resid_norm",
) -> dict[str, Add]:
    """One `Add` per direction, named by its site: the usual arms of a map of layers.

    Args:
        unit: What multiplier 1 means: a unit for all, or a length for each.

    Raises:
        ValueError: If two directions have the same site, or there are not as many lengths as
            directions.
        DirectionError: If a direction does not state what the unit needs.
    """
    positions = positions or Positions.from_prompt_end()
    each: list[Any] = [unit] * len(directions) if isinstance(unit, str) else list(unit)
    if len(each) != len(directions):
        raise ValueError(
            f"There are {len(each)} lengths for {len(directions)} directions. Give one for each."
        )
    edits = [Add(d, positions, one) for d, one in zip(directions, each, strict=True)]
    return _by_site(edits)  # type: ignore[return-value]


def named_arms(arms: Arms) -> dict[str, Intervention]:
    """The interventions by name.

    Raises:
        ValueError: If there are none, or their sites do not tell them apart.
        TypeError: If something among them is no intervention.
    """
    given = list(arms.values()) if isinstance(arms, Mapping) else list(arms)
    for one in given:
        if not isinstance(one, Intervention | Direction):
            raise _no_intervention(one)
    edits = [Add(one) if isinstance(one, Direction) else one for one in given]
    if not edits:
        raise ValueError("There are no interventions to measure. Give at least one.")
    if isinstance(arms, Mapping):
        return dict(zip(map(str, arms), edits, strict=True))
    return _by_site(edits)


def _by_site(edits: Sequence[Intervention]) -> dict[str, Intervention]:
    names = [str(site) if (site := site_of(edit)) else type(edit).__name__ for edit in edits]
    if len(set(names)) < len(names):
        raise ValueError(
            f"The sites do not tell the interventions apart ({', '.join(names)}). "
            "Name them: {'name': intervention, …}."
        )
    return dict(zip(names, edits, strict=True))


def site_of(intervention: Intervention) -> Site | None:
    """The one site where an intervention acts; None where it is not one site."""
    return intervention.site if isinstance(intervention, ResidualEdit) else None


def require_fits(model: Model, arms: Mapping[str, Intervention]) -> None:
    """Raises ValueError, naming the arm, if an intervention does not fit the model."""
    with model.unchanging():
        for name, intervention in arms.items():
            try:
                require_fit(model, intervention)
            except ValueError as error:
                error.args = (f"{name}: {error}",)
                raise


def require_each_fits(model: Model, interventions: Sequence[Intervention]) -> None:
    """Raises ValueError if one of some interventions does not fit the model."""
    with model.unchanging():
        for intervention in interventions:
            require_fit(model, intervention)


def require_fit(model: Model, intervention: Intervention) -> None:
    """Raises ValueError if an intervention does not fit the model, as far as it says.

    Raises:
        TypeError: If it is no intervention, or its positions are no rule.
    """
    if not isinstance(intervention, Intervention):
        raise _no_intervention(intervention)
    if isinstance(intervention, ResidualEdit):
        model.require_site(intervention.site)
        require_positions(intervention.positions)
    if isinstance(intervention, Directed):
        model.require(intervention.direction)
    if isinstance(intervention, Fitted):
        intervention.require_fits(model)


def _no_intervention(given: object) -> TypeError:
    return TypeError(
        f"{given!r:.80} is not an intervention: it has no attach(model, multiplier). Give "
        "interventions such as Add(direction)."
    )
