"""When training ends before its last step: never on the plateau where it started."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from steerlens.stats import Groups, Units, jackknife_error

CLEAR = 2.0
"""Standard errors of the paired difference over which two validation losses differ clearly."""


def best_look(looks: Sequence[Float[Tensor, " pair"]]) -> int:
    """The look with the lowest mean validation loss; the first of equal ones."""
    means = [float(look.double().mean()) for look in looks]
    return means.index(min(means))


def why_stop(looks: Sequence[Float[Tensor, " pair"]], groups: Groups, patience: int) -> str:
    """Why training has nothing left to gain; "" to go on.

    The loss of a preference objective starts at ln 2, where every pair is undecided, and may stay
    there for many steps before the vector has a direction. So patience does not count until the
    validation loss is clearly below where it started: by two standard errors of the differences of
    the same pairs, over groups. No fixed number of nats would do: a concept moves at most ln 2
    nats of a whole answer, which is little for each token of a long one.

    Args:
        looks: The validation loss of every pair at every look, the first one before any step.
        patience: Looks without a new best that end training. 0 for never.
    """
    if patience == 0 or len(looks) <= patience:
        return ""
    best = best_look(looks)
    since = len(looks) - 1 - best
    if clearly_below(looks[best], looks[0], groups) and since >= patience:
        return f"no better validation loss in {since} looks"
    if all(clearly_below(looks[0], look, groups) for look in looks[-patience:]):
        return f"the validation loss was above its start in {patience} looks"
    return ""


def clearly_below(
    one: Float[Tensor, " pair"], other: Float[Tensor, " pair"], groups: Groups
) -> bool:
    """Whether losses of the same pairs are lower by more than chance between groups explains.

    With fewer than two groups nothing is known of chance, and any lower mean counts.
    """
    fall = (other - one).double()
    units = Units.of(groups, len(fall))
    mean = float(fall.mean())
    if len(units) < 2:
        return mean > 0
    sizes = units.sizes.to(fall)
    error = float(jackknife_error(units.totals(fall - mean), sizes))
    return mean > CLEAR * error and mean > 0
