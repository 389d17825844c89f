"""The grid of a result: which row has a name or a site, and which column a multiplier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import SupportsFloat, SupportsIndex

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.arguments import as_float, as_int
from steerlens.sites import Site


def layers_of(rows: Sequence[str], sites: Sequence[Site | None]) -> tuple[int, ...] | None:
    """The layer of each row, where the rows are sites of one stream and named by them; else None.

    >>> layers_of(("L2 resid_post", "L3 resid_post"), (Site(2), Site(3)))
    (2, 3)
    """
    there = [site for site in sites if site is not None]
    layers = tuple(site.layer for site in there)
    named = tuple(map(str, there)) == tuple(rows)
    distinct = len(set(layers)) == len(rows)
    return layers if named and distinct and len({s.stream for s in there}) == 1 else None


def steering_of(row: str, site: Site | None) -> str:
    """What a sentence calls the steering of a row.

    >>> steering_of("L3 resid_post", Site(3)), steering_of("lora", None)
    ('steering at L3 resid_post', 'lora')
    """
    return f"steering at {row}" if row == str(site) else row


def find_row(
    rows: Sequence[str], sites: Sequence[Site | None], which: str | SupportsIndex | Site
) -> int:
    """The index of a row.

    Args:
        which: The name of the row, its site, or its layer where the rows are layers.

    Raises:
        ValueError: If there is no such row, or more than one.
    """
    if isinstance(which, SupportsIndex):
        asked = as_int("row", which)
        found = [i for i, layer in enumerate(layers_of(rows, sites) or ()) if layer == asked]
    else:
        found = [i for i, names in enumerate(zip(rows, sites, strict=True)) if which in names]
    if len(found) > 1:
        raise ValueError(
            f"{which} is the site of {', '.join(rows[i] for i in found)}. Give one of these names."
        )
    if not found:
        how = "name, site or layer" if layers_of(rows, sites) else "name"
        raise ValueError(
            f"{which!r} is not one of the rows ({', '.join(rows)}). Give one of them by its {how}."
        )
    return found[0]


def find_multiplier(multipliers: Float[Tensor, " multiplier"], which: SupportsFloat) -> int:
    """The index of a multiplier.

    Raises:
        ValueError: If it is not among them.
    """
    asked = as_float("multiplier", which)
    found = torch.isclose(multipliers, torch.tensor(asked).to(multipliers)).nonzero()
    if not len(found):
        listed = ", ".join(f"{m:g}" for m in multipliers.tolist())
        raise ValueError(f"Multiplier {asked:g} was not measured. Use one of {listed}.")
    return int(found[0])
