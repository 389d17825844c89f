"""How steerability at home carries over to shifted prompts."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens import plots, stats
from steerlens.analyses.answers import Answers, lists, quoted, told
from steerlens.analyses.ratios import difference_of_means, ratio_of_means
from steerlens.sites import Site
from steerlens.stats import Interval
from steerlens.store.files import write_text

if TYPE_CHECKING:
    import plotly.graph_objects as go

Bounds = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class ShiftedMap:
    """Steerability slopes at home and on shifted prompts, for every intervention and question.

    All intervals are 95%, each for its own row and set: with many of them some miss by chance.
    """

    answers: Answers
    home: str
    """The set that the others are held against."""
    matched: tuple[str, ...] = ()
    """Sets that ask home's questions in another wording, in the same order: compared question by
    question. The others are independent samples."""
    made_by: dict[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> tuple[str, ...]:
        return self.answers.rows

    @property
    def away(self) -> tuple[str, ...]:
        return tuple(name for name in self.answers.sets if name != self.home)

    def slopes(self, name: str) -> Float[Tensor, "row _example"]:
        """Steerability of every question of a set: nats of propensity per unit multiplier."""
        return self.answers.slopes(name)

    def slope_interval(self, name: str) -> Bounds:
        """Mean slope of a set, for every row: value, low, high."""
        return stats.mean_interval(self.slopes(name))

    def anti_steerable(self, name: str) -> Float[Tensor, " row"]:
        """Share of a set's questions whose slope is below zero."""
        return (self.slopes(name) < 0).float().mean(-1)

    def difference(self, name: str) -> Bounds:
        """Mean slope away minus mean slope at home, for every row: value, low, high.

        Of matched sets the differences question by question; of others Welch's interval.
        """
        away, home = self.slopes(name), self.slopes(self.home)
        return difference_of_means(away, home, matched=name in self.matched)

    def ratio(self, name: str) -> Bounds:
        """Mean slope away over mean slope at home, for every row: value, low, high (Fieller).

        NaN where the slope at home cannot be told from 0. Questions at home that chose the row
        flatter home, and make the ratio small: give `shifted` questions that chose nothing.

        Source: relative steerability of Tan et al., arXiv:2407.12404; the interval is ours.
        """
        away, home = self.slopes(name), self.slopes(self.home)
        return ratio_of_means(away, home, matched=name in self.matched)

    def row_correlation(self, name: str) -> Interval:
        """Spearman's correlation over rows of the mean slope away with that at home.

        Neighbouring layers are not independent, so the interval is too narrow by some.
        """
        return stats.rank_correlation(self.slopes(self.home).mean(-1), self.slopes(name).mean(-1))

    def example_correlation(self, name: str) -> tuple[Interval, ...]:
        """Spearman's correlation over questions of the slope away with that at home, by row.

        Raises:
            ValueError: If the set does not ask home's questions.
        """
        away, home = self.slopes(name), self.slopes(self.home)
        if name not in self.matched:
            raise ValueError(
                f"The questions of {name!r} are not those of {self.home!r} in another wording, so "
                "there is no slope of the same question to correlate. Make the set with "
                "home.with_template(…), or use row_correlation."
            )
        return tuple(stats.rank_correlation(x, y) for x, y in zip(home, away, strict=True))

    @cached_property
    def steepest(self) -> int:
        """The row with the largest mean slope at home."""
        return int(self.slopes(self.home).mean(-1).argmax())

    def summary(self, row: str | int | Site | None = None) -> str:
        """A few lines: each set's slope at one row (by default the steepest) against home's."""
        i = self.steepest if row is None else self.answers.row(row)
        question = self.made_by.get("question", "Steerability elsewhere")
        lines = [
            f"{question} ({self.made_by.get('model', '')})",
            f"  {self.rows[i]}, slopes in nats per unit multiplier",
            f"  {self.home}: {told(self.slope_interval(self.home), i)}, home",
        ]
        for name in self.away:
            kind = ", matched" if name in self.matched else ""
            lines.append(
                f"  {name}: {told(self.slope_interval(name), i)}, difference "
                f"{told(self.difference(name), i)}, ratio {told(self.ratio(name), i)}, "
                f"{float(self.anti_steerable(name)[i]):.0%} anti-steerable{kind}"
            )
        for name in self.away if len(self.rows) >= 4 else ():
            lines.append(f"  {name}: ρ = {self.row_correlation(name)} with home over rows")
        return "\n".join(lines)

    def plot(self) -> go.Figure:
        """Slope at home against slope away, a point for each row, a panel for each set."""
        correlations = {name: self.row_correlation(name) for name in self.away}
        return plots.shift_scatter(
            lists(self.slope_interval(self.home)),
            {name: lists(self.slope_interval(name)) for name in self.away},
            rows=self.rows,
            layers=self.answers.layers,
            unit="nats per unit multiplier",
            title=self._finding(self.steepest),
            correlations={k: r for k, r in correlations.items() if r.value == r.value},
        )

    def plot_sets(self, row: str | int | Site | None = None) -> go.Figure:
        """Every set's slope at one row (by default the steepest at home), with intervals."""
        i = self.steepest if row is None else self.answers.row(row)
        slopes = {name: told(self.slope_interval(name), i) for name in (self.home, *self.away)}
        ratios = {name: told(self.ratio(name), i) for name in self.away}
        return plots.shift_dots(
            slopes,
            home=self.home,
            ratios=ratios,
            unit="nats per unit multiplier",
            title=self._finding(i),
        )

    def _finding(self, i: int) -> str:
        ratios = [told(self.ratio(name), i) for name in self.away]
        if any(ratio.value != ratio.value for ratio in ratios):
            return f"At {self.rows[i]} the slope at home cannot be told from 0"
        least, most = (f"{bound([r.value for r in ratios]):.2f}" for bound in (min, max))
        span = f"{least} to {most}"
        if len(ratios) == 1:
            span = f"{least} [{ratios[0].low:.2f}, {ratios[0].high:.2f}]"
        span = span.replace("-", "−")
        return f"At {self.rows[i]} steering elsewhere has {span} of its slope at home"

    def save(self, directory: Path | str) -> Path:
        """Writes shift.safetensors, shift.json and a tidy shift.csv into a folder."""
        extra = {"home": self.home, "matched": list(self.matched)}
        out = self.answers.save(Path(directory), "shift", self.made_by, {}, **extra)
        write_text(out / "shift.csv", self._tidy())
        return out

    @classmethod
    def load(cls, directory: Path | str) -> ShiftedMap:
        """Reads what `save` wrote."""
        answers, made_by, _, extra = Answers.load(Path(directory), "shift")
        return cls(answers, extra["home"], tuple(extra["matched"]), made_by)

    def _tidy(self) -> str:
        measured = ("slope", "difference", "ratio")
        columns = [f"{name}{end}" for name in measured for end in ("", "_low", "_high")]
        lines = [
            ",".join(["row", "layer", "set", "matched", "questions", *columns, "anti_steerable"])
        ]
        nothing = (torch.full((len(self.rows),), torch.nan),) * 3
        for name in (self.home, *self.away):
            here = name == self.home
            parts = [self.slope_interval(name)]
            parts += [nothing, nothing] if here else [self.difference(name), self.ratio(name)]
            wrong = self.anti_steerable(name)
            for i, row in enumerate(self.rows):
                site = self.answers.sites[i]
                numbers = [*(float(x[i]) for part in parts for x in part), float(wrong[i])]
                facts = [
                    quoted(row), "" if site is None else str(site.layer), quoted(name),
                    "" if here else str(name in self.matched), str(self.slopes(name).shape[-1]),
                ]  # fmt: skip
                lines.append(",".join([*facts, *("" if x != x else f"{x:.6g}" for x in numbers)]))
        return "\n".join(lines) + "\n"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        return self.plot()._repr_mimebundle_(include, exclude)

    def __repr__(self) -> str:
        return self.summary()
