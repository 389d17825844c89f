"""Counts of a study as shares with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from steerlens import stats


def share(yes: Sequence[bool]) -> dict[str, Any]:
    """A count with its share and Wilson's interval."""
    if not yes:
        return {"yes": 0, "n": 0}
    found = stats.proportion_interval(sum(yes), len(yes))
    return {"yes": sum(yes), "n": len(yes), "share": found.value, "interval": found[1:]}
