"""What steering by one feature does to all the others in the text that is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from scipy import stats as scipy_stats
from torch import Tensor

from steerlens import plots, stats
from steerlens.sites import Site
from steerlens.stats import Interval
from steerlens.store import result_files as files

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False)
class FeatureSpill:
    """How much more of every feature the text holds that was written under each edit."""

    site: Site
    edits: tuple[str, ...]
    targets: tuple[int, ...]
    """The feature that each edit is meant to move."""
    unsteered: Float[Tensor, "prompt d_sae"]
    """Mean activation over the tokens that the unsteered model wrote after each prompt."""
    changes: Float[Tensor, "edit prompt d_sae"]
    """The same under each edit, minus unsteered."""
    made_by: dict[str, Any] = field(default_factory=dict)

    @property
    def mean(self) -> Float[Tensor, "edit d_sae"]:
        """Mean change of every feature over prompts."""
        return self.changes.mean(1)

    def on_target(self, edit: int) -> Interval:
        """Change of the feature that is meant, with a 95% interval over prompts."""
        return stats.interval_of_mean(self.changes[edit, :, self.targets[edit]])

    def share(self, edit: int) -> Interval:
        """Share of the whole change that is of the feature that is meant, in squares.

        The square of a noisy mean is too large, so products of different prompts stand for it;
        the 95% interval is the jackknife's over prompts. NaN where nothing changed beyond noise.
        """
        of = self.changes[edit].double()
        n = len(of)
        total, squares = of.sum(0), of.square().sum(0)
        whole = _share(total, squares, self.targets[edit], n)
        each = torch.stack([
            _share(total - one, squares - one.square(), self.targets[edit], n - 1) for one in of
        ])  # fmt: skip
        if n < 3 or not bool(torch.isfinite(each).all() & torch.isfinite(whole)):
            return Interval(float(whole), float("nan"), float("nan"))
        error = float(((each - each.mean()).square().sum() * (n - 1) / n).sqrt())
        reach = float(scipy_stats.t.ppf(0.975, n - 1)) * error
        return Interval(float(whole), float(whole) - reach, float(whole) + reach)

    def most_moved(self, edit: int, k: int = 8) -> list[tuple[int, Interval]]:
        """The features that change most, with 95% intervals over prompts (not for the search)."""
        moved = self.mean[edit].abs().topk(min(k, self.changes.shape[-1])).indices.tolist()
        return [(f, stats.interval_of_mean(self.changes[edit, :, f])) for f in moved]

    @cached_property
    def shown(self) -> list[int]:
        """Targets, then the features that any edit moves most: the columns of the picture."""
        loudest = self.mean.abs().amax(0).topk(min(12, self.changes.shape[-1])).indices.tolist()
        return list(dict.fromkeys([*self.targets, *loudest]))[:16]

    def plot(self) -> go.Figure:
        """Edits x features: mean change of activation."""
        return plots.spill_heatmap(
            self.mean[:, self.shown].tolist(),
            edits=[f"{name} (to {t})" for name, t in zip(self.edits, self.targets, strict=True)],
            features=self.shown,
            targets=[self.shown.index(t) for t in self.targets],
            unit="activation",
            title=f"What steering at {self.site} does to the features of the text",
            note=f"{self.changes.shape[1]} prompts; columns: targets, then what moves most",
        )

    def summary(self) -> str:
        """One line per edit: change of its target, share of the whole change, what else moves."""
        lines = [f"Spill-over at {self.site} ({self.changes.shape[1]} prompts)"]
        for i, name in enumerate(self.edits):
            others = [
                f"{f} {interval.value:+.2g}"
                for f, interval in self.most_moved(i, 4)
                if f != self.targets[i]
            ]
            lines.append(
                f"  {name}: feature {self.targets[i]} {self.on_target(i)}, share of the squared "
                f"change {self.share(i)}; also {', '.join(others[:3])}"
            )
        return "\n".join(lines)

    def save(self, directory: Path | str) -> Path:
        """Writes feature_spill.safetensors and feature_spill.json into a folder."""
        tensors = {
            "unsteered": self.unsteered,
            "changes": self.changes,
            "targets": torch.tensor(self.targets),
        }
        return files.save(
            Path(directory),
            "feature_spill",
            tensors,
            (self.site,),
            self.made_by,
            edits=list(self.edits),
        )

    @classmethod
    def load(cls, directory: Path | str) -> FeatureSpill:
        """Reads what `save` wrote."""
        tensors, sites, made_by = files.load(Path(directory), "feature_spill")
        edits = tuple(made_by.pop("_extra")["edits"])
        targets = tuple(tensors.pop("targets").tolist())
        return cls(site=sites[0], edits=edits, targets=targets, made_by=made_by, **tensors)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        return self.plot()._repr_mimebundle_(include, exclude)

    def __repr__(self) -> str:
        return self.summary()


def _share(total: Tensor, squares: Tensor, target: int, n: int) -> Tensor:
    """Of the sums over prompts: the target's squared mean over all, without the noise's share."""
    energy = (total.square() - squares) / (n * (n - 1))
    whole = energy.sum()
    return energy[target] / whole if float(whole) > 0 else torch.tensor(torch.nan)
