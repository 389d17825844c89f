"""How readable a contrast is at each site."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens import plots, stats
from steerlens.sites import Site
from steerlens.stats import Interval
from steerlens.store import result_files as files

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False)
class ProbeMap:
    """How readable a contrast is at each site: held-out scores of every text, and a control."""

    sites: tuple[Site, ...]
    scores: Float[Tensor, "site pair 2"]
    """Out-of-fold score of the positive and the negative side; above 0 means "positive"."""
    control: Float[Tensor, "control site pair 2"]
    """The same after shuffling the labels: what reading finds where there is nothing."""
    made_by: dict[str, Any] = field(default_factory=dict)

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(site.layer for site in self.sites)

    @property
    def accuracy(self) -> Float[Tensor, " site"]:
        """Share of held-out texts on the right side of the boundary."""
        return _right(self.scores).mean(-1)

    @cached_property
    def accuracy_interval(self) -> tuple[Tensor, Tensor, Tensor]:
        """Accuracy with Wilson's 95% interval, as if the two texts of a pair were one."""
        return stats.share_interval(self.accuracy, self.scores.shape[1])

    @cached_property
    def auroc(self) -> Float[Tensor, " site"]:
        """Chance that a held-out positive text scores above a held-out negative one."""
        return _wins(self.scores).mean((-1, -2))

    @cached_property
    def auroc_interval(self) -> tuple[Tensor, Tensor, Tensor]:
        """AUROC with a 95% interval, by resampling pairs.

        Where every resample is perfect, resampling sees no doubt: there it is Wilson's interval.
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
        """AUROC with shuffled labels; about 0.5 where the probe is honest."""
        return _wins(self.control).mean((-1, -2))

    @property
    def best(self) -> Site:
        """The site where the contrast is read best."""
        return self.sites[int(self.auroc.argmax())]

    def plot(self) -> go.Figure:
        """AUROC and accuracy per layer with intervals, and the shuffled-label control."""
        control = self.control_auroc
        series = {
            "AUROC": self.auroc_interval,
            "accuracy": self.accuracy_interval,
            "AUROC, shuffled labels": (control.mean(0), control.amin(0), control.amax(0)),
        }
        return plots.layer_curve(
            {name: tuple(x.tolist() for x in band) for name, band in series.items()},
            rows=list(self.layers),
            unit="share",
            title=f"How readable is {self.made_by.get('data_name', 'the contrast')} at each layer",
            controls=("AUROC, shuffled labels",),
            reference=0.5,
            band_label="95% interval; for shuffled labels, the range",
        )

    def save(self, directory: Path | str) -> Path:
        """Writes probe.safetensors and probe.json into a folder."""
        tensors = {"scores": self.scores, "control": self.control}
        return files.save(Path(directory), "probe", tensors, self.sites, self.made_by)

    @classmethod
    def load(cls, directory: Path | str) -> ProbeMap:
        """Reads what `save` wrote."""
        tensors, sites, made_by = files.load(Path(directory), "probe")
        return cls(sites=sites, made_by=made_by, **tensors)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        return self.plot()._repr_mimebundle_(include, exclude)

    def __repr__(self) -> str:
        value, low, high = (float(x[self.auroc.argmax()]) for x in self.auroc_interval)
        return f"ProbeMap(best {self.best}: AUROC {Interval(value, low, high)})"


def _right(scores: Float[Tensor, "*grid pair 2"]) -> Float[Tensor, "*grid pair"]:
    right = torch.stack([scores[..., 0] > 0, scores[..., 1] < 0], -1).float()
    return right.mean(-1)


def _wins(scores: Float[Tensor, "*grid pair 2"]) -> Float[Tensor, "*grid pair pair"]:
    """Positive text i against negative text j: 1 for a win, a half for a tie."""
    gap = scores[..., :, None, 0] - scores[..., None, :, 1]
    return (gap > 0).float() + 0.5 * (gap == 0).float()
