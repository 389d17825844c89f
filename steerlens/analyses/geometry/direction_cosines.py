"""How directions lie to one another: the cosine of every two, and their lengths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens import plots
from steerlens.directions import Direction, DirectionError
from steerlens.report.section import Figure, Printed, Section
from steerlens.results import Column, Result
from steerlens.results.grid import layers_of
from steerlens.sites import Site

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False, repr=False)
class Cosines(Result):
    """The cosine of every two of some directions, and how long each is.

    Two random directions of a stream of width d have a cosine near 0, with a standard deviation of
    1 / sqrt(d), which is `chance`.
    """

    kind: ClassVar[str] = "cosines"
    names: tuple[str, ...]
    """The name of each direction; by default its site."""
    sites: tuple[Site, ...]
    cosines: Float[Tensor, "direction other"]
    norms: Float[Tensor, " direction"]
    """Euclidean length of each, in units of the stream."""
    resid_norms: Float[Tensor, " direction"]
    """Median norm of the stream at each one's site; NaN where the direction does not state it."""
    made_by: dict[str, Any] = field(default_factory=dict)

    @property
    def chance(self) -> float:
        """Standard deviation of the cosine of two random directions of this width."""
        return float(self.made_by["d_model"]) ** -0.5

    @property
    def relative_norms(self) -> Float[Tensor, " direction"]:
        """Length of each as a share of the stream's median norm at its site."""
        return self.norms / self.resid_norms

    def coordinates(self, axis: str, size: int) -> Mapping[str, Sequence[Any]]:
        """Both axes are named by the directions."""
        if axis in ("direction", "other"):
            return {axis: list(self.names)}
        return super().coordinates(axis, size)

    def columns(self) -> list[Column]:
        """The cosine of each two, and the lengths of the first of them."""
        return [
            Column("cosine", ("direction", "other"), self.cosines),
            Column("norm", ("direction",), self.norms),
            Column("resid_norm", ("direction",), self.resid_norms),
        ]

    def summary(self) -> str:
        """The most and the least alike of them."""
        n = len(self.names)
        if n == 1:
            return f"one direction, {self.names[0]}: norm {float(self.norms[0]):.3g}"
        off = self.cosines.clone().fill_diagonal_(torch.nan)
        flat = off.flatten()
        most = int(flat.nan_to_num(-2).argmax())
        least = int(flat.nan_to_num(2).argmin())

        def pair(i: int) -> str:
            return f"{self.names[i // n]} and {self.names[i % n]} ({float(flat[i]):+.2f})"

        return (
            f"cosines of {n} directions: most alike {pair(most)}, least alike {pair(least)}; two "
            f"random directions have 0 ± {self.chance:.2f}"
        )

    @property
    def _rows(self) -> Sequence[int] | Sequence[str]:
        return layers_of(self.names, self.sites) or self.names

    def plot(self) -> go.Figure:
        """The matrix of cosines."""
        return plots.cosine_matrix(
            self.cosines.numpy(),
            rows=self._rows,
            title="Cosine of every two directions",
            note=f"Two random directions of this width have 0 ± {self.chance:.2f} (one standard "
            "deviation).",
        )

    def plot_norms(self) -> go.Figure:
        """Length by layer, beside the stream's own norm where it is known."""
        series = {"direction": self.norms.numpy()}
        if not bool(self.resid_norms.isnan().all()):
            series["stream (median over tokens)"] = self.resid_norms.numpy()
        return plots.layer_curve(
            series, rows=self._rows, unit="units of the stream", quantity="norm",
            title="How long the directions are", controls=list(series)[1:],
        )  # fmt: skip

    def section(self, beside: Mapping[str, Result]) -> Section:
        """Both figures on the report page."""
        blocks = (Printed(self.summary()), Figure(self.plot), Figure(self.plot_norms))
        return Section("How the directions lie to one another", blocks, short="Cosines")


def cosines(directions: Mapping[str, Direction] | Iterable[Direction]) -> Cosines:
    """The cosine of every two of some directions, their lengths, and the figures of both.

    Args:
        directions: By name; or at different sites, which name them: those of
            ``acts.directions(DiffMean())`` are one for each layer.

    Raises:
        ValueError: If there are none, or their sites do not tell them apart.
        DirectionError: If they are of different widths or weight processings, so that their
            coordinates do not mean the same.
    """
    if isinstance(directions, Direction):
        raise TypeError("cosines compares several directions. Give a list, or {name: direction}.")
    if isinstance(directions, Mapping):
        names, given = tuple(map(str, directions)), tuple(directions.values())
    else:
        given = tuple(directions)
        names = tuple(str(one.site) for one in given)
    if not given:
        raise ValueError("There are no directions to compare. Give at least one.")
    if len(set(names)) < len(names):
        raise ValueError(
            f"The sites do not tell the directions apart ({', '.join(names)}). Name them: "
            "{'name': direction, …}."
        )
    widths = {len(one.vector) for one in given}
    bases = {one.processing for one in given} - {None}
    if len(widths) > 1 or len(bases) > 1:
        raise DirectionError(
            f"The directions have d_model {sorted(widths)} and weight processing "
            f"{sorted(map(str, bases))}, so their coordinates do not mean the same. Compare "
            "directions of one model; direction.converted(…) changes the processing."
        )
    vectors = torch.stack([one.vector.detach().cpu().double() for one in given])
    lengths = vectors.norm(dim=-1)
    units = vectors / lengths[:, None]
    norms = [one.resid_norm or float("nan") for one in given]
    return Cosines(
        names=names,
        sites=tuple(one.site for one in given),
        cosines=(units @ units.T).clamp(-1, 1).float(),
        norms=lengths.float(),
        resid_norms=torch.tensor(norms),
        made_by={
            "model": given[0].model,
            "d_model": widths.pop(),
            "methods": [one.method for one in given],
        },
    )
