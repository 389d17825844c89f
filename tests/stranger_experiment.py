"""How far apart are the two sides of a contrast at each layer?

An experiment as a stranger writes it, with a result of its own, in one file:

    steerlens run tests/stranger_experiment.py --n-fit 40 --layers 0 4 7
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from steerlens import plots, stats
from steerlens.experiment import Experiment, Inputs, Workplace
from steerlens.report.numbers import format_interval
from steerlens.report.section import Fact, Figure, Heading, Paragraph, Section, Table
from steerlens.results import Column, Result, labelled
from steerlens.sites import Site


@dataclass(frozen=True, eq=False, repr=False)
class Separation(Result):
    """Distance between the two texts of each pair, as a share of the stream's norm."""

    sites: tuple[Site, ...]
    distances: Float[Tensor, "site pair"]
    made_by: dict[str, Any]

    kind: ClassVar[str] = "separation"

    def mean(self, i: int) -> stats.Interval:
        """The mean distance at a site, with its interval over pairs."""
        return stats.interval_of_mean(self.distances[i])

    @property
    def farthest(self) -> int:
        """The index of the site where the two sides are farthest apart."""
        return int(self.distances.mean(-1).argmax())

    def columns(self) -> list[Column]:
        return [Column("distance", ("site",), self.distances.mean(-1))]

    def summary(self) -> str:
        found = f"{self.mean(self.farthest)} of the norm at {self.sites[self.farthest]}"
        return f"Distance of {self.made_by['data']}\n{labelled('farthest apart', found)}"

    def plot(self) -> go.Figure:
        bands = tuple(zip(*map(self.mean, range(len(self.sites))), strict=True))
        return plots.layer_curve(
            {"distance": bands},
            rows=[site.layer for site in self.sites],
            unit="of the norm",
            title="Distance of the two sides by layer",
        )

    def section(self, beside: Any) -> Section:
        where, mean = self.sites[self.farthest], format_interval(self.mean(self.farthest))
        rows = tuple(
            (str(site.layer), format_interval(self.mean(i))) for i, site in enumerate(self.sites)
        )
        return Section(
            "Distance of the two sides",
            (
                Paragraph("Between the two texts of each pair, as a share of the median norm."),
                Figure(self.plot),
                Table((Heading("layer"), Heading("distance", "of the norm")), rows),
            ),
            short="Distance",
            question=f"How far apart are the two sides of {self.made_by['data']}?",
            answer=(f"They are farthest apart at **{where}**: {mean} of the norm.",),
            facts=(Fact("Largest distance", mean, f"At {where}, over the pairs."),),
        )


@dataclass(frozen=True, kw_only=True)
class SeparationExperiment(Experiment):
    """How far apart are the two sides of a contrast at each layer?"""

    power: float = 2.0
    """The norm that distances are measured in."""

    kind: ClassVar[str] = "separation"
    results: ClassVar[tuple[type[Result], ...]] = (Separation,)

    def measure(self, run: Workplace[Inputs]) -> None:
        pairs = run.inputs.data["fit"]
        read = run.activations(pairs, self.sites(run.model))
        cells = run.cells.part("separation")

        def distances(site: Site) -> dict[str, Tensor]:
            positive, negative = (side.float() for side in read.at(site))
            norm = positive.norm(p=self.power, dim=-1).median()
            return {"distances": (positive - negative).norm(p=self.power, dim=-1) / norm}

        rows = [cells.compute(s.hook, lambda s=s: distances(s))["distances"] for s in read.sites]
        facts = {**run.model.facts, "data": pairs.name, "power": self.power}
        run.keep(Separation(tuple(read.sites), torch.stack(rows), facts))


experiment = SeparationExperiment(layers=(1, 5), n_fit=24)
