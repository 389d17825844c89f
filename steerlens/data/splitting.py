"""Which pairs go where: parts that share no group, seeded ranks, and balanced answers.

Every choice depends on the seed and the pair's own content, never on the order of the pairs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from steerlens.data.formats.text import ContrastError, digest, short_answer, shortened
from steerlens.data.pair import ContrastPair


def parts(
    groups: Sequence[str], shares: Mapping[str, float], seed: int, name: str
) -> dict[str, list[int]]:
    """Indices of the pairs of each part; a group is in one part only.

    Larger groups are placed first, each where most pairs are still missing.

    Raises:
        ContrastError: If there are fewer groups than parts.
    """
    sizes = Counter(groups)
    if len(sizes) < len(shares):
        raise ContrastError(
            f"{name!r} has {len(groups)} pairs in only {len(sizes)} group(s), and "
            f"{len(shares)} parts need at least {len(shares)} groups that share no question. "
            "Add data, or set ContrastPair.group if pairs that share a prompt may be separated."
        )
    order = sorted(sizes, key=lambda group: (-sizes[group], digest("split", seed, group)))
    filled = dict.fromkeys(shares, 0)
    part_of: dict[str, str] = {}
    for i, group in enumerate(order):
        empty = [part for part in shares if filled[part] == 0]
        # The last groups are kept for parts that would otherwise stay empty.
        allowed = empty if len(order) - i <= len(empty) else list(shares)
        part = max(allowed, key=lambda part: shares[part] * len(groups) - filled[part])
        part_of[group] = part
        filled[part] += sizes[group]
    return {
        part: [i for i, group in enumerate(groups) if part_of[group] == part] for part in shares
    }


def ranks(pairs: Sequence[ContrastPair], purpose: str, seed: int) -> list[str]:
    """A digest per pair that does not depend on the order of distinct pairs."""
    seen: Counter[tuple[str, ...]] = Counter()
    found = []
    for pair in pairs:
        # Sides in sorted order, so that a set and its flipped twin are treated alike.
        content = (pair.prompt, *sorted((pair.positive, pair.negative)), pair.group)
        found.append(digest(purpose, seed, *content, seen[content]))
        seen[content] += 1
    return found


def first_by_rank(rows: Iterable[int], n: int, ranked: Sequence[str]) -> list[int]:
    """The n rows of lowest rank, in their own order."""
    return sorted(sorted(rows, key=ranked.__getitem__)[:n])


def balanced(pairs: Sequence[ContrastPair], seed: int, name: str) -> list[int]:
    """The rows that leave no answer matching more often; see `ContrastSet.balanced_letters`."""
    answers = [(short_answer(p.positive), short_answer(p.negative)) for p in pairs]
    for pair, sides in zip(pairs, answers, strict=True):
        if None in sides:
            raise ContrastError(
                f"balanced_letters needs answers such as '(A)' or ' Yes', but {name!r} "
                f"has {shortened(pair.positive)!r} against {shortened(pair.negative)!r}. "
                "Sets with free text have no letters to balance."
            )
    ranked = ranks(pairs, "letters", seed)
    rows: dict[tuple[str | None, str | None], list[int]] = {}
    for i, sides in enumerate(answers):
        rows.setdefault(sides, []).append(i)
    kept: list[int] = []
    for (x, y), members in rows.items():
        n = min(len(members), len(rows.get((y, x), ())))
        kept += first_by_rank(members, n, ranked)
    if not kept:
        count = Counter(x for x, _ in answers)
        raise ContrastError(
            f"{name!r} cannot be balanced: the matching answers are {dict(count)}, and no "
            "two answers occur in both roles. Reorder the options of half the questions."
        )
    return sorted(kept)
