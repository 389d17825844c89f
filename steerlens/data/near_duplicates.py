"""Texts that are nearly the same: found by an index of shared word 3-grams, not by comparing all."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from steerlens.data.formats.text import components

THRESHOLD = 0.8
"""Jaccard similarity of word 3-grams above which two texts are near-duplicates."""
COMMON, MANY = 0.5, 4
"""3-grams that more than this share of at least so many texts have belong to a template, and are
not counted."""
KEPT = 256
"""Texts of different groups that are kept for a 3-gram; a 3-gram of more texts finds no others."""

# A word, or one character of a script that is written without spaces.
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0e00-\u0e7f]|[^\W_]+")

Shingle = tuple[str, str, str]


class Near(NamedTuple):
    """Two texts that are nearly the same."""

    one: int
    other: int
    similarity: float


def shingles(text: str) -> frozenset[Shingle]:
    """The word 3-grams of a text, its start and end included, without case and punctuation.

    >>> len(shingles("One, two!")), shingles("one two") == shingles("One, two!")
    (4, True)
    """
    words = WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    if not words:
        return frozenset()
    padded = ["", "", *words, "", ""]
    return frozenset(zip(padded, padded[1:], padded[2:], strict=False))


def near_duplicates(texts: Sequence[str], threshold: float = THRESHOLD) -> list[Near]:
    """Texts that are nearly the same: enough pairs to connect every group of near-duplicates.

    Two texts are near-duplicates if the Jaccard similarity of their word 3-grams is above the
    threshold. Each text is compared only with texts that share one of its rarest 3-grams: two
    similar texts always do.

    Args:
        texts: Equal ones are near-duplicates of similarity 1.

    Source: prefix filtering, Bayardo, Ma and Srikant 2007, doi:10.1145/1242572.1242591. Departure:
    3-grams that most texts share are a template and do not count, so that questions in one template
    are not all one group.

    >>> long = "the quick brown fox jumps over the lazy dog " * 4
    >>> near_duplicates([long + "today", "something else", long + "today!"])
    [Near(one=0, other=2, similarity=1.0)]
    """
    sets = [shingles(text) for text in texts]
    counts = Counter(shingle for one in sets for shingle in one)
    most = COMMON * len(texts) if len(texts) >= MANY else math.inf
    order = {s: k for k, (s, _) in enumerate(sorted(counts.items(), key=lambda item: item[1]))}
    kept = [frozenset(s for s in one if counts[s] <= most) for one in sets]
    return list(_links(kept, order, threshold))


def _links(
    sets: Sequence[frozenset[Shingle]], order: dict[Shingle, int], threshold: float
) -> Iterator[Near]:
    parent = list(range(len(sets)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    index: dict[Shingle, list[int]] = {}
    for i in sorted(range(len(sets)), key=lambda i: (len(sets[i]), i)):
        own = sets[i]
        prefix = sorted(own, key=order.__getitem__)
        prefix = prefix[: len(own) - math.ceil(threshold * len(own)) + 1]
        tried: set[int] = set()
        for shingle in prefix:
            there = index.setdefault(shingle, [])
            for j in there:
                if j in tried or len(sets[j]) < threshold * len(own) or root(i) == root(j):
                    continue
                tried.add(j)
                shared = len(own & sets[j])
                similarity = shared / (len(own) + len(sets[j]) - shared)
                if similarity > threshold:
                    parent[max(root(i), root(j))] = min(root(i), root(j))
                    yield Near(min(i, j), max(i, j), similarity)
            if len(there) >= KEPT:  # one of each group is enough
                there[:] = {root(j): j for j in there}.values()
            if len(there) < KEPT:
                there.append(i)


def text_groups(texts: Sequence[str]) -> list[str]:
    """The name of the group of near-duplicates of each text.

    >>> text_groups(["a b", "c d", "A b."])
    ['0', '1', '0']
    """
    links = near_duplicates(texts)
    keys: list[set[str]] = [{f"{i}"} for i in range(len(texts))]
    for one, other, _ in links:
        keys[other].add(f"{one}")
    return components(keys)
