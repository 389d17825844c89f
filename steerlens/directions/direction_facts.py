"""The facts about a direction as JSON, checked field by field when they are read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Literal, get_args

from steerlens.directions.direction_errors import DirectionError
from steerlens.sites import Positions, Rule, Site
from steerlens.units import StrengthUnit

Operation = Literal["add", "ablate", "clamp"]
"""The intervention that a direction is made for."""

LAYERS = "blocks count from 0; resid_pre enters a block, resid_post leaves it"
"""The layer convention of every stored site. A file that states another one is refused."""

OPEN = ("processing", "converted_from")
"""Facts that are text, or None where they are not known."""
TEXTS = ("method", "read_at", "model", "revision", "fingerprint", "data", "dtype", *OPEN)
"""Facts that are text."""
_NUMBERS = ("resid_norm", "projection_std", "value")


def to_json(facts: dict[str, Any]) -> str:
    """The facts of a direction as one line, the site as a hook name."""
    positions: Positions | None = facts["apply_at"]
    plain = facts | {
        "site": facts["site"].hook,
        "apply_at": None if positions is None else asdict(positions),
        "layer_convention": LAYERS,
    }
    return json.dumps(plain, sort_keys=True)


def from_json(text: str, source: str) -> dict[str, Any]:
    """The arguments of `Direction` from what `to_json` wrote; older files lack some of them.

    Raises:
        DirectionError: If the site is missing, or a field is unknown or has another type.
    """
    try:
        stated = json.loads(text)
        if not isinstance(stated, dict):
            raise TypeError(f"a {type(stated).__name__} instead of an object")
        return {name: value for name, value in _checked(stated) if name != "layer_convention"}
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        raise DirectionError(
            f"{source} is a direction, but its facts cannot be read: {str(error).rstrip('.')}. "
            "Save the direction again with the version that made it."
        ) from error


def _checked(stated: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    if "site" not in stated:
        raise TypeError("it does not name a site")
    for name, value in stated.items():
        if name == "site":
            yield name, Site.from_hook(_typed(name, value, str))
        elif name == "apply_at":
            yield name, None if value is None else _positions(_typed(name, value, dict))
        elif name == "layer_convention":
            yield name, _one_of(name, value, (LAYERS,))
        elif name == "operation":
            yield name, _one_of(name, value, get_args(Operation))
        elif name == "strength_unit":
            yield name, None if value is None else _one_of(name, value, get_args(StrengthUnit))
        elif name in OPEN:
            yield name, None if value is None else _typed(name, value, str)
        elif name in TEXTS:
            yield name, _typed(name, value, str)
        elif name in _NUMBERS:
            yield name, None if value is None else float(_typed(name, value, int, float))
        elif name == "pairs":
            yield name, _typed(name, value, int)
        else:
            raise TypeError(f"{name!r:.80} is not a fact of a direction")


def _typed(name: str, value: Any, *types: type) -> Any:
    if not isinstance(value, types) or isinstance(value, bool):
        raise TypeError(
            f"{name}={value!r:.80} is not of type {' or '.join(kind.__name__ for kind in types)}"
        )
    return value


def _one_of(name: str, value: Any, allowed: tuple[str, ...]) -> Any:
    if value not in allowed:
        raise TypeError(f"{name}={value!r:.80} is not one of {', '.join(allowed)}")
    return value


def _positions(stated: dict[str, Any]) -> Positions:
    if stated.keys() != {"rule", "start", "stop", "special"}:
        raise TypeError(f"apply_at has the fields {sorted(stated)}")
    _one_of("rule", stated["rule"], get_args(Rule))
    _typed("start", stated["start"], int)
    if stated["stop"] is not None:
        _typed("stop", stated["stop"], int)
    if not isinstance(stated["special"], bool):
        raise TypeError(f"special={stated['special']!r:.80} is not a bool")
    return Positions(**stated)
