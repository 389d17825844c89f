"""Arms compared on the same held-out questions at one cost, beside repeated random controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens import stats
from steerlens.sites import Site
from steerlens.stats import Interval

NOT_MEASURED = Interval(float("nan"), float("nan"), float("nan"))


class ComparedArm(NamedTuple):
    """What one arm or control does at a site."""

    arm: str
    site: Site | None
    """None for a control at its best layer, since each repetition has its own."""
    feature: str
    """Sign and number, e.g. "+354"; "" for what is not one feature."""
    length: float
    """Of the vector that is added, in median norms of the stream."""
    gain: Interval
    kl: Interval
    utility: Interval
    over_diffmean: Interval
    """Paired difference of the gain; NaN for DiffMean itself."""
    over_random_feature: Interval
    """Paired difference from the mean over random features."""
    over_searched: Interval
    """Paired difference from the best of as many random directions as there are features."""
    p_random_feature: float
    p_random_direction: float


@dataclass(frozen=True, eq=False)
class PairedComparison:
    """What each arm chose at each site, and what that does on held-out questions, at one cost.

    NaN where no candidate could be given a length of that cost.
    """

    arms: tuple[str, ...]
    controls: tuple[str, ...]
    """Random candidates, chosen in the same way; `null` counts the repetitions."""
    features: Int[Tensor, "arm site"]
    """The feature that was chosen; -1 for an arm that is not one feature."""
    signs: Int[Tensor, "arm site"]
    """1 if the chosen direction was added, -1 if it was subtracted."""
    gains: Float[Tensor, "arm site example"]
    """Change of the propensity, in nats, held out; positive is more of the concept."""
    utilities: Float[Tensor, "arm site example"]
    """Change of the utility log-odds, in nats, held out."""
    kl: Float[Tensor, "arm site text"]
    """Nats per token on texts that did not set the lengths."""
    lengths: Float[Tensor, "arm site"]
    """Of what was added, in the units of the stream."""
    chosen_gains: Float[Tensor, "arm site"]
    """Mean gain at equal KL on the questions that chose it: too large on average."""
    control_gains: Float[Tensor, "control null site example"]
    control_utilities: Float[Tensor, "control null site example"]
    control_kl: Float[Tensor, "control null site text"]
    control_lengths: Float[Tensor, "control null site"]
    control_chosen_gains: Float[Tensor, "control null site"]
    groups: Int[Tensor, " example"] | None = None
    """The group of each question, the unit of every interval; None where each is a group."""
    text_groups: Int[Tensor, " text"] | None = None
    """The same for the ordinary texts."""

    @property
    def nulls(self) -> int:
        """Repetitions of each control."""
        return self.control_gains.shape[1]

    def site(self, arm: str) -> int:
        """The site at which an arm gained most on the choosing questions."""
        at = self.chosen_gains[self.arms.index(arm)].nan_to_num(nan=-torch.inf)
        return int(at.argmax())

    def examples(self, name: str, site: int | None = None) -> Float[Tensor, " example"]:
        """Held-out gains of an arm or a control.

        Args:
            site: The index of a site; None for the best one on the choosing questions. Of a
                control, the mean over its repetitions, each at its own best site.
        """
        return self._values("gains", name, site)

    def gain(self, name: str, site: int | None = None) -> Interval:
        """Mean held-out gain with its 95% interval over questions."""
        return _interval(self.examples(name, site), self.groups)

    def utility(self, name: str, site: int | None = None) -> Interval:
        """Mean change of the utility log-odds, held out, with its 95% interval."""
        return _interval(self._values("utilities", name, site), self.groups)

    def cost(self, name: str, site: int | None = None) -> Interval:
        """Mean KL on texts that did not set the lengths, with its 95% interval."""
        found = self._values("kl", name, site)
        return _interval(found, self.text_groups, least=0.0)

    def length(self, name: str, site: int | None, norms: Float[Tensor, " site"]) -> float:
        """The length of what is added; of a control, the mean over its repetitions that have one.

        Args:
            norms: The unit of length at each site.
        """
        if name in self.arms:
            at = self.site(name) if site is None else site
            return float(self.lengths[self.arms.index(name), at] / norms[at])
        best = self._best(name, site)
        found = self.control_lengths[self.controls.index(name)].gather(1, best[:, None])[:, 0]
        return float((found / norms[best]).nanmean())

    def difference(self, name: str, other: str, site: int | None = None) -> Interval:
        """Mean gain of one arm minus another's on the same questions, with its 95% interval.

        Each at the site, or at its own best one.
        """
        return _interval(self.examples(name, site) - self.examples(other, site), self.groups)

    def p_value(self, name: str, control: str, site: int | None = None) -> float:
        """The probability that a control gains as much as the arm on held-out questions.

        Never 0; NaN where the arm has no number or there are no repetitions. Without a site, each
        repetition of the control is at its own best one, so the search over layers counts.
        """
        gain = float(self.examples(name, site).mean())
        nulls = self.null_gains(control, site)
        nulls = nulls[torch.isfinite(nulls)]
        if gain != gain or not len(nulls):
            return float("nan")
        return (1 + int((nulls >= gain).sum())) / (1 + len(nulls))

    def null_gains(self, control: str, site: int | None = None) -> Float[Tensor, " null"]:
        """Mean held-out gain of each repetition of a control, at a site or at its best one."""
        means = self.control_gains[self.controls.index(control)].mean(-1)
        return means.gather(1, self._best(control, site)[:, None])[:, 0]

    def _values(self, field: str, name: str, site: int | None) -> Tensor:
        """The numbers of an arm at a site; of a control, the mean over its repetitions."""
        if name in self.arms:
            at = self.site(name) if site is None else site
            return getattr(self, field)[self.arms.index(name), at]
        repetitions = getattr(self, f"control_{field}")[self.controls.index(name)]
        rows = repetitions[torch.arange(len(repetitions)), self._best(name, site)]
        return rows.nanmean(0)

    def _best(self, control: str, site: int | None) -> Int[Tensor, " null"]:
        at = self.control_chosen_gains[self.controls.index(control)]
        if site is not None:
            return torch.full((len(at),), site)
        return at.nan_to_num(nan=-torch.inf).argmax(-1)

    @classmethod
    def joined(cls, parts: Sequence[PairedComparison]) -> PairedComparison:
        """Comparisons of the same arms on the same questions at different sites, as one."""
        first = parts[0]

        def joined(name: str) -> Tensor:
            axis = 2 if name.startswith("control_") else 1
            return torch.cat([getattr(part, name) for part in parts], axis)

        made = {
            name: value if name in ("groups", "text_groups") else joined(name)
            for name, value in first.tensors().items()
        }
        return cls(first.arms, first.controls, **made)

    def tensors(self) -> dict[str, Tensor]:
        """All its arrays by name."""
        names = [f.name for f in fields(self) if f.name not in ("arms", "controls")]
        found = {name: getattr(self, name) for name in names}
        return {name: value for name, value in found.items() if value is not None}


def _interval(
    values: Float[Tensor, " example"], groups: stats.Groups, least: float | None = None
) -> Interval:
    if bool(values.isnan().any()):
        return NOT_MEASURED
    return stats.interval_of_mean(values, groups, least=least)
