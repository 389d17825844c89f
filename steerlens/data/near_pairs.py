"""Pairs of a contrast set that ask nearly the same."""

from __future__ import annotations

from collections.abc import Sequence

from steerlens.data.near_duplicates import Near, near_duplicates
from steerlens.data.pair import ContrastPair


def near_pairs(pairs: Sequence[ContrastPair]) -> list[Near]:
    """Near-duplicates among the prompts, or among both texts of pairs without a prompt.

    A text that occurs in several pairs connects them.
    """
    owners: dict[str, list[int]] = {}
    for i, pair in enumerate(pairs):
        for text in (pair.prompt,) if pair.prompt.strip() else (pair.positive, pair.negative):
            owners.setdefault(text, []).append(i)
    texts = list(owners)
    found = []
    for one, other, similarity in near_duplicates(texts):
        i, j = owners[texts[one]][0], owners[texts[other]][0]
        if i != j:
            found.append(Near(min(i, j), max(i, j), similarity))
    return found
