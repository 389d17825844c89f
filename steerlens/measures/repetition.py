"""How far a text repeats itself, without any judge: texts and tokens in, numbers out.

Every measure here moves with the length of a text: a longer one has more to repeat. Compare texts
of about the same length, such as steered and unsteered continuations of one prompt.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Hashable, Sequence


def repeated_share(tokens: Sequence[Hashable], n: int = 4) -> float:
    """Share of a text's n-grams that stood in it before.

    Returns:
        In [0, 1); near 1 for a loop. NaN for a text of fewer than n tokens, which has no n-gram.

    Source: seq-rep-n of arXiv:1908.04319.

    >>> repeated_share("a good soup and a good cake and".split(), n=1)
    0.375
    """
    return 1 - distinct_share([tokens], n)


def distinct_share(texts: Sequence[Sequence[Hashable]], n: int = 2) -> float:
    """Share of the n-grams of some texts that are different ones; low where texts are alike.

    Returns:
        In (0, 1]; NaN if no text has n tokens.

    Source: distinct-n of arXiv:1510.03055; here over the n-grams, not over the tokens.

    >>> distinct_share(["a good soup".split(), "a good cake".split()], n=2)
    0.75
    """
    counts = [_ngrams(text, n) for text in texts]
    return _ratio(len(set().union(*counts)), sum(c.total() for c in counts))


def distinct_without_each(texts: Sequence[Sequence[Hashable]], n: int = 2) -> list[float]:
    """`distinct_share` of the texts without the first, without the second, …: for a jackknife.

    >>> distinct_without_each(["a b".split(), "a b".split(), "c d".split()], n=2)
    [1.0, 1.0, 0.5]
    """
    counts = [_ngrams(text, n) for text in texts]
    owners = Counter(gram for count in counts for gram in count)
    total = sum(count.total() for count in counts)
    return [
        _ratio(
            len(owners) - sum(owners[gram] == 1 for gram in count),
            total - count.total(),
        )
        for count in counts
    ]


def compression_ratio(text: str) -> float:
    """Bytes of a text for each byte that is left of it after compression (raw deflate).

    Returns:
        About 1 for a short sentence, much more for a loop; NaN for a text without a word.

    Source: the compression ratio of arXiv:2403.00553, of one text instead of a corpus and
    without a file header, which would be most of what is left of a short text.

    >>> compression_ratio("the soup was good") < 1.1, compression_ratio("so good " * 20) > 8
    (True, True)
    """
    if not text.strip():
        return math.nan
    raw = text.encode("utf-8", errors="replace")
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return len(raw) / len(packer.compress(raw) + packer.flush())


def _ngrams(tokens: Sequence[Hashable], n: int) -> Counter[tuple[Hashable, ...]]:
    if n < 1:
        raise ValueError(f"n={n} is no length of an n-gram. Use 1 or more.")
    if isinstance(tokens, str):
        raise TypeError(
            f"{tokens[:40]!r} is one string, whose n-grams would be of letters. Give its tokens, "
            "e.g. text.split()."
        )
    return Counter(zip(*(tokens[i:] for i in range(n)), strict=False))


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
