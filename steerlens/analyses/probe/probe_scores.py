"""The numbers of a probe: held-out scores of every text, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
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
    groups: Int[Tensor, " pair"] | None = None
    """The group of each pair, the unit of every interval; None where each is a group."""
    folds: Int[Tensor, " pair"] | None = None
    """The fold in which each pair was held out."""

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
        """Accuracy with Wilson's 95% interval over groups, as if the two texts of a pair were one."""
        return stats.share_interval(_right(self.scores), self.groups)

    @cached_property
    def auroc(self) -> Float[Tensor, " site"]:
        """Probability that a held-out positive text scores above a held-out negative one."""
        return stats.auroc(self.scores)

    @cached_property
    def auroc_interval(
        self,
    ) -> tuple[Float[Tensor, " site"], Float[Tensor, " site"], Float[Tensor, " site"]]:
        """AUROC with its 95% interval over groups of pairs; not empty where every text is right."""
        return stats.auroc_interval(self.scores, self.groups)

    @property
    def control_auroc(self) -> Float[Tensor, "control site"]:
        """AUROC with shuffled labels: about 0.5, unless the probe sees what it is tested on."""
        return stats.auroc(self.control)

    @property
    def best(self) -> Site:
        """The site with the largest AUROC."""
        return self.sites[self.best_row]

    @property
    def best_row(self) -> int:
        """The index of that site."""
        return int(self.auroc.argmax())

    @cached_property
    def chosen_rows(self) -> Int[Tensor, " pair"] | None:
        """For each pair, the index of the site that has the largest AUROC on the other folds."""
        if self.folds is None or len(self.folds.unique()) < 2:
            return None
        rows = torch.zeros(len(self.folds), dtype=torch.long)
        for fold in self.folds.unique().tolist():
            others = self.folds != fold
            rows[~others] = int(stats.auroc(self.scores[:, others]).argmax())
        return rows

    @cached_property
    def best_auroc(self) -> Interval:
        """AUROC of the best site, chosen and reported on different folds, with its 95% interval.

        In each fold it is that of the site with the largest AUROC on the other folds; the mean over
        folds is reported. The AUROC of the site that is best on all folds is too high on average,
        as the largest of many. Without folds it is that one.
        """
        rows = self.chosen_rows
        if rows is None:
            return self.auroc_at(self.best_row)
        scores = self.scores[rows, torch.arange(len(rows))]
        found = stats.auroc_interval(scores, self.groups, blocks=self.folds)
        return Interval(*(float(x) for x in found))

    @property
    def examples(self) -> str:
        """How many pairs there are, and in how many groups."""
        return stats.sizes_in_words(self.groups, self.scores.shape[1], "pairs")

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
