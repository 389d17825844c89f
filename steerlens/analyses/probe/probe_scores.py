"""The numbers of a probe: held-out scores of every text, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens import stats
from steerlens.results import Column, Result
from steerlens.results.grid import layers_of
from steerlens.sites import Site
from steerlens.stats import Interval


@dataclass(frozen=True, eq=False, repr=False)
class ProbeScores(Result):
    """Held-out scores of both texts of every pair at every site, and a control.

    `ProbeMap` adds words and figures.
    """

    kind: ClassVar[str] = "probe"
    sides: ClassVar[tuple[str, str]] = ("positive", "negative")

    sites: tuple[Site, ...]
    scores: Float[Tensor, "site pair side=2"]
    """Out-of-fold score of the positive and the negative side; above 0 means "positive"."""
    control: Float[Tensor, "control site pair side=2"]
    """The same after shuffling the labels: what a probe finds where there is nothing to find."""
    made_by: dict[str, Any] = field(default_factory=dict)

    @property
    def layers(self) -> tuple[int, ...] | None:
        """The layer of each site, where all are in one stream; else None."""
        return layers_of(tuple(map(str, self.sites)), self.sites)

    @property
    def row_labels(self) -> tuple[int, ...] | tuple[str, ...]:
        """What figures call the sites: layers where they are in one stream, else their names."""
        return self.layers or tuple(map(str, self.sites))

    @property
    def accuracy(self) -> Float[Tensor, " site"]:
        """Share of held-out texts on the right side of the boundary."""
        return _right(self.scores).mean(-1)

    @cached_property
    def accuracy_interval(
        self,
    ) -> tuple[Float[Tensor, " site"], Float[Tensor, " site"], Float[Tensor, " site"]]:
        """Accuracy with Wilson's 95% interval, as if the two texts of a pair were one."""
        return stats.share_interval(self.accuracy, self.scores.shape[1])

    @cached_property
    def auroc(self) -> Float[Tensor, " site"]:
        """Probability that a held-out positive text scores above a held-out negative one."""
        return _wins(self.scores).mean((-1, -2))

    @cached_property
    def auroc_interval(
        self,
    ) -> tuple[Float[Tensor, " site"], Float[Tensor, " site"], Float[Tensor, " site"]]:
        """AUROC with a 95% interval, by resampling pairs.

        Where every resample is perfect, resampling shows no uncertainty: there it is Wilson's
        interval.
        """
        wins = _wins(self.scores)
        n = wins.shape[-1]
        generator = torch.Generator().manual_seed(0)
        draws = torch.randint(n, (500, n), generator=generator)
        counts = torch.zeros(500, n).scatter_add_(1, draws, torch.ones(500, n)) / n
        resampled = torch.einsum("di,sij,dj->ds", counts, wins, counts)
        low, high = (torch.quantile(resampled, q, dim=0) for q in (0.025, 0.975))
        _, least, most = stats.share_interval(self.auroc, n)
        certain = low == high
        return self.auroc, torch.where(certain, least, low), torch.where(certain, most, high)

    @property
    def control_auroc(self) -> Float[Tensor, "control site"]:
        """AUROC with shuffled labels: about 0.5, unless the probe sees what it is tested on."""
        return _wins(self.control).mean((-1, -2))

    @property
    def best(self) -> Site:
        """The site with the largest AUROC."""
        return self.sites[self.best_row]

    @property
    def best_row(self) -> int:
        """The index of that site."""
        return int(self.auroc.argmax())

    def auroc_at(self, row: int) -> Interval:
        """AUROC at one site, given by its index."""
        return Interval(*(float(x[row]) for x in self.auroc_interval))

    def accuracy_at(self, row: int) -> Interval:
        """Accuracy at one site, given by its index."""
        return Interval(*(float(x[row]) for x in self.accuracy_interval))

    def columns(self) -> list[Column]:
        """The table: AUROC and accuracy of every site, and the mean AUROC of the control."""
        named = {"auroc": self.auroc_interval, "accuracy": self.accuracy_interval}
        columns = [
            Column(f"{name}{end}", ("site",), values)
            for name, band in named.items()
            for end, values in zip(("", "_low", "_high"), band, strict=True)
        ]
        if len(self.control):
            columns.append(Column("control_auroc", ("site",), self.control_auroc.mean(0)))
        return columns


def _right(scores: Float[Tensor, "*grid pair side=2"]) -> Float[Tensor, "*grid pair"]:
    """Share of the two sides that are on the right side of the boundary."""
    right = torch.stack([scores[..., 0] > 0, scores[..., 1] < 0], -1).float()
    return right.mean(-1)


def _wins(scores: Float[Tensor, "*grid pair side=2"]) -> Float[Tensor, "*grid pair pair"]:
    """Positive text i against negative text j: 1 for a win, a half for a tie."""
    gap = scores[..., :, None, 0] - scores[..., None, :, 1]
    return (gap > 0).float() + 0.5 * (gap == 0).float()
