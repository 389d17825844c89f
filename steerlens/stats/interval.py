"""An estimate with its confidence interval."""

from __future__ import annotations

from typing import NamedTuple


class Interval(NamedTuple):
    """An estimate with its confidence interval. Ends that are not known are NaN.

    >>> str(Interval(0.42, 0.37, 0.48)), str(Interval(0.42, float("nan"), float("nan")))
    ('0.42 [0.37, 0.48]', '0.42')
    """

    value: float
    low: float
    high: float

    @property
    def known(self) -> bool:
        """Whether there is an interval, and not the estimate alone."""
        return self.low == self.low and self.high == self.high

    def __str__(self) -> str:
        if not self.known:
            return f"{self.value:.3g}"
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"
