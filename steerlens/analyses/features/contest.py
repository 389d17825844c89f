"""What competing directions gain on held-out questions at one cost, and what chance gains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens import stats
from steerlens.stats import Interval

NOTHING = Interval(float("nan"), float("nan"), float("nan"))


@dataclass(frozen=True, eq=False)
class Contest:
    """What each arm picked at each site, and what that does on held-out questions, at one cost.

    NaN where no candidate could be made to cost that much.
    """

    arms: tuple[str, ...]
    controls: tuple[str, ...]
    """Arms of nothing, repeated: `null` counts the repetitions."""
    features: Int[Tensor, "arm site"]
    """The feature that was picked; -1 for what is none."""
    senses: Int[Tensor, "arm site"]
    """1 if it was added, -1 if it was subtracted."""
    gains: Float[Tensor, "arm site example"]
    """Change of the propensity towards more of the concept, in nats, held out."""
    utilities: Float[Tensor, "arm site example"]
    """Change of the utility log-odds, in nats, held out."""
    kl: Float[Tensor, "arm site text"]
    """Nats per token on texts that did not set the lengths."""
    lengths: Float[Tensor, "arm site"]
    """Of what was added, in the units of the stream."""
    chosen_gains: Float[Tensor, "arm site"]
    """Mean gain, at equal KL, on the questions that picked it: flattering."""
    control_gains: Float[Tensor, "control null site example"]
    control_utilities: Float[Tensor, "control null site example"]
    control_kl: Float[Tensor, "control null site text"]
    control_lengths: Float[Tensor, "control null site"]
    control_chosen_gains: Float[Tensor, "control null site"]

    def site(self, arm: str) -> int:
        """The site at which an arm gained most on the choosing questions."""
        at = self.chosen_gains[self.arms.index(arm)].nan_to_num(nan=-torch.inf)
        return int(at.argmax())

    def examples(self, name: str, site: int | None = None) -> Float[Tensor, " example"]:
        """Held-out gains of an arm at a site, or at its own best one.

        Of a control: the mean over its repetitions, each at its own best site.
        """
        if name in self.arms:
            return self.gains[self.arms.index(name), self.site(name) if site is None else site]
        return _of_controls(self.control_gains[self.controls.index(name)], self._best(name, site))

    def gain(self, name: str, site: int | None = None) -> Interval:
        """Mean held-out gain with its 95% interval over questions."""
        return _interval(self.examples(name, site))

    def utility(self, name: str, site: int | None = None) -> Interval:
        """Mean change of the utility log-odds, held out, with its 95% interval."""
        if name in self.arms:
            at = self.site(name) if site is None else site
            return _interval(self.utilities[self.arms.index(name), at])
        c = self.controls.index(name)
        return _interval(_of_controls(self.control_utilities[c], self._best(name, site)))

    def cost(self, name: str, site: int | None = None) -> Interval:
        """Mean KL on texts that did not set the lengths, with its 95% interval."""
        if name in self.arms:
            at = self.site(name) if site is None else site
            found = self.kl[self.arms.index(name), at]
        else:
            c = self.controls.index(name)
            found = _of_controls(self.control_kl[c], self._best(name, site))
        return NOTHING if bool(found.isnan().any()) else stats.percentile_interval(found)

    def difference(self, name: str, other: str, site: int | None = None) -> Interval:
        """Mean gain of one arm minus another's on the same questions, with its 95% interval.

        Each at the site, or at its own best one.
        """
        return _interval(self.examples(name, site) - self.examples(other, site))

    def p_value(self, name: str, control: str, site: int | None = None) -> float:
        """Chance that a control, the best of a few random ones, gains as much on held-out questions.

        Never 0; NaN where the arm has no number. Without a site, the control's repetitions each
        choose their best one too, so that the search over layers counts.
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

    def _best(self, control: str, site: int | None) -> Int[Tensor, " null"]:
        at = self.control_chosen_gains[self.controls.index(control)]
        if site is not None:
            return torch.full((len(at),), site)
        return at.nan_to_num(nan=-torch.inf).argmax(-1)

    @classmethod
    def joined(cls, parts: Sequence[Contest]) -> Contest:
        """Contests of the same arms on the same questions at different sites, as one."""
        first = parts[0]

        def joined(name: str) -> Tensor:
            axis = 2 if name.startswith("control_") else 1
            return torch.cat([getattr(part, name) for part in parts], axis)

        return cls(first.arms, first.controls, **{name: joined(name) for name in first.tensors("")})

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """All numbers, for a file."""
        names = [f.name for f in fields(self) if f.name not in ("arms", "controls")]
        return {f"{prefix}{name}": getattr(self, name) for name in names}


def _of_controls(
    values: Float[Tensor, "null site item"], best: Int[Tensor, " null"]
) -> Float[Tensor, " item"]:
    """Mean over the repetitions that have a number, each at its own site."""
    rows = values[torch.arange(len(values)), best]
    return rows.nanmean(0)


def _interval(values: Float[Tensor, " example"]) -> Interval:
    return NOTHING if bool(values.isnan().any()) else stats.interval_of_mean(values)
