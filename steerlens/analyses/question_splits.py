"""Parts of the data that must share no question."""

from __future__ import annotations

from itertools import combinations

from steerlens.data import ContrastSet
from steerlens.directions import Activations


def require_disjoint(**parts: ContrastSet | Activations | None) -> None:
    """Raises ValueError if two parts share a question. A part that is None is left out.

    >>> from steerlens.data import ContrastPair
    >>> one = ContrastSet("one", (ContrastPair("Is it?", " yes", " no"),))
    >>> require_disjoint(fit=one, choose=None)
    """
    keys = {name: _keys(part) for name, part in parts.items() if part is not None}
    for one, other in combinations(keys, 2):
        if shared := keys[one] & keys[other]:
            raise ValueError(
                f"{one!r} and {other!r} share {len(shared)} questions "
                f"(e.g. {sorted(shared)[0]!r}), so the effect would be reported on examples "
                "that made or chose it. Use ContrastSet.split()."
            )


def _keys(part: ContrastSet | Activations) -> set[str]:
    """Everything by which a question of this part is known."""
    if isinstance(part, Activations):
        return set(part.groups)
    return set(part.groups) | {key for pair in part for key in pair.keys}
