"""Whether distance from the stream's own distribution orders vectors by what they cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steerlens import plots, stats
from steerlens.arguments import ArgumentError
from steerlens.report.numbers import format_interval, format_number, format_signed
from steerlens.report.section import Figure, Heading, Printed, Section, Table
from steerlens.results import Column, Result
from steerlens.sites import Site
from steerlens.stats import Interval

if TYPE_CHECKING:
    import plotly.graph_objects as go

CONTRAST, RANDOM, COMPONENT = "contrast", "random", "component"
OUTCOMES = ("KL", "loss of utility")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class StreamDistance(Result):
    """Distance and cost of every vector at every site and length.

    `stream_distance` makes it. Correlations are Spearman's, with intervals over concepts: all
    directions of one, at all sites, are left out together (jackknife).
    """

    kind: ClassVar[str] = "manifold"

    directions: tuple[str, ...]
    kinds: tuple[str, ...]
    """"contrast", "random" or "component", of each direction."""
    concepts: tuple[str, ...]
    """The concept of each direction, the unit of the intervals; of others their names."""
    sites: tuple[Site, ...]
    lengths: Float[Tensor, " length"]
    """In median norms of the stream at the site."""
    distance: Float[Tensor, "direction site length"]
    """Mean squared Mahalanobis distance of the steered states minus that of the unsteered ones."""
    cost: Float[Tensor, "direction site length text"]
    """KL in nats per token."""
    lost: Float[Tensor, "direction site length question"]
    """Loss of utility, in nats; no questions where none were asked."""
    shrinkage: Float[Tensor, " site"]
    """Of the covariance at each site."""
    width: int
    """d_model: about the mean squared distance of the stream's own states."""
    groups: tuple[str, ...]
    """The group of each text."""
    made_by: dict[str, Any]

    @property
    def outcomes(self) -> tuple[str, ...]:
        """What was measured: the KL, and the loss of utility where questions were asked."""
        return OUTCOMES if self.lost.shape[-1] else OUTCOMES[:1]

    def outcome(self, name: str) -> Float[Tensor, "direction site length"]:
        """A mean outcome of every cell.

        Raises:
            ValueError: If it was not measured.
        """
        if name not in self.outcomes:
            raise ArgumentError(
                f"{name!r} was not measured. Use one of {', '.join(self.outcomes)}."
            )
        return (self.cost if name == OUTCOMES[0] else self.lost).mean(-1)

    def within_length(self, length: int, outcome: str = "KL", kind: str | None = None) -> Interval:
        """Correlation of distance with an outcome over sites and directions of one length.

        The relative norm is the same in all of these cells, so it orders nothing.

        Args:
            kind: Only directions of this kind.
        """
        y = self.outcome(outcome)

        def statistic(rows: Tensor) -> float:
            return _spearman(self.distance[rows, :, length], y[rows, :, length])

        return self._over_directions(statistic, kind)

    def within_layer(self, outcome: str = "KL", kind: str | None = None) -> Interval:
        """Correlation over the directions of one site and length, averaged over sites and lengths."""
        y = self.outcome(outcome)

        def statistic(rows: Tensor) -> float:
            found = [
                _spearman(self.distance[rows, s, k], y[rows, s, k])
                for s in range(len(self.sites))
                for k in range(len(self.lengths))
            ]
            return float(torch.tensor(found).nanmean())

        return self._over_directions(statistic, kind)

    def over_all(self, by: str, outcome: str = "KL", kind: str | None = None) -> Interval:
        """Correlation over all cells of all lengths, of "distance" or of "norm"; or their difference.

        Args:
            by: "distance", "norm" (relative to the stream's median norm), or "difference": of the
                first minus the second, paired.

        Raises:
            ValueError: For another `by`.
        """
        if by not in ("distance", "norm", "difference"):
            raise ArgumentError(f"by={by!r} is none of 'distance', 'norm' and 'difference'.")
        y, norm = self.outcome(outcome), self.lengths.expand_as(self.distance)

        def statistic(rows: Tensor) -> float:
            parts = {
                "distance": _spearman(self.distance[rows], y[rows]),
                "norm": _spearman(norm[rows], y[rows]),
            }
            return parts["distance"] - parts["norm"] if by == "difference" else parts[by]

        return self._over_directions(statistic, kind, 2.0 if by == "difference" else 1.0)

    def _over_directions(
        self, statistic: Callable[[Tensor], float], kind: str | None, most: float = 1.0
    ) -> Interval:
        rows = torch.arange(len(self.directions))
        if kind is not None:
            if kind not in self.kinds:
                raise ArgumentError(f"There is no {kind!r}. Use one of {sorted(set(self.kinds))}.")
            rows = rows[self._of(kind)]
        value, low, high = stats.jackknife_interval(
            statistic, rows, stats.group_numbers([self.concepts[i] for i in rows.tolist()])
        )
        return Interval(value, max(low, -most), min(high, most))

    def _of(self, kind: str) -> Bool[Tensor, " direction"]:
        return torch.tensor([one == kind for one in self.kinds])

    # Tables, words and pictures

    def columns(self) -> list[Column]:
        """Distance, cost and loss of utility of every cell."""
        axes = ("direction", "site", "length")
        found = [Column("distance", axes, self.distance), Column("kl", axes, self.outcome("KL"))]
        if len(self.outcomes) > 1:
            found.append(Column("lost", axes, self.outcome(OUTCOMES[1])))
        return found

    def coordinates(self, axis: str, size: int) -> Mapping[str, Sequence[Any]]:
        """Directions by name, with their kinds."""
        if axis == "direction" and size == len(self.directions):
            return {"direction": list(self.directions), "of": list(self.kinds)}
        return super().coordinates(axis, size)

    def _table(self) -> list[tuple[str, ...]]:
        rows = []
        for outcome in self.outcomes:
            for kind in (None, CONTRAST):
                name = f"{outcome}, {'all directions' if kind is None else 'contrasts'}"
                found = [self.within_length(k, outcome, kind) for k in range(len(self.lengths))]
                found.append(self.within_layer(outcome, kind))
                found += [
                    self.over_all(by, outcome, kind) for by in ("distance", "norm", "difference")
                ]
                rows.append((name, *(format_interval(one, format_signed) for one in found)))
        return rows

    def _heads(self) -> list[str]:
        within = [f"at length {format_number(m)}" for m in self.lengths]
        return [*within, "within a layer and length", "all: distance", "all: norm", "difference"]

    def summary(self) -> str:
        """Every correlation, with its interval."""
        lines = [
            f"Distance from the stream's own distribution ({self.made_by.get('model', '')}): "
            f"{len(self.directions)} directions at {len(self.sites)} sites; Spearman's correlation"
        ]
        for name, *values in self._table():
            lines.append(f"  {name}")
            lines += [
                f"    {head}: {value}" for head, value in zip(self._heads(), values, strict=True)
            ]
        return "\n".join(lines)

    def plot(self) -> go.Figure:
        """Cost over distance at the middle length, a colour for each kind of direction."""
        k = len(self.lengths) // 2
        y = self.outcome("KL")[:, :, k]
        series = {}
        for kind in dict.fromkeys(self.kinds):
            rows = self._of(kind)
            own = [
                f"{name} at {site}"
                for name, one in zip(self.directions, self.kinds, strict=True)
                if one == kind
                for site in self.sites
            ]
            x = self.distance[rows, :, k].flatten() / self.width
            series[kind] = (x.tolist(), y[rows].flatten().tolist(), own)
        found = format_interval(self.within_length(k), format_signed)
        return plots.measured_dots(
            series, title="Do vectors cost more that lead away from the stream?",
            x="squared Mahalanobis distance gained, over d_model", y="KL (nats per token)",
            note=f"All at {format_number(self.lengths[k])} of the stream's norm; Spearman {found}",
        )  # fmt: skip

    def section(self, beside: Mapping[str, Result]) -> Section:
        """The figure and the table."""
        heads = (Heading("outcome", number=False), *map(Heading, self._heads()))
        blocks = (
            Printed(self.summary()),
            Figure(self.plot, "A dot is a direction at a layer."),
            Table(heads, tuple(self._table())),
        )
        return Section("Does distance from the stream predict the cost?", blocks, short="Manifold")


def _spearman(x: Tensor, y: Tensor) -> float:
    return stats.rank_correlation(x.flatten(), y.flatten()).value
