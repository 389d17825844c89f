"""Parts of the data that must share no question."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from jaxtyping import Int
from torch import Tensor

from steerlens.data import ContrastPair, ContrastSet
from steerlens.directions import Activations
from steerlens.stats import group_numbers


def question_groups(pairs: Sequence[ContrastPair] | ContrastSet) -> Int[Tensor, " example"]:
    """The group of each pair, as a number: the unit of intervals and of nulls."""
    asked = pairs if isinstance(pairs, ContrastSet) else ContrastSet("pairs", tuple(pairs))
    return group_numbers(asked.groups)


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
        return set(part.groups) | set(part.keys)
    return set(part.groups) | {key for pair in part for key in pair.keys}
