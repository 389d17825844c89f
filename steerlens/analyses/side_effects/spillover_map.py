"""What steering one concept does to others."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steerlens import plots, stats
from steerlens.analyses.answers import Answers, lists, quoted, told
from steerlens.analyses.ratios import ratio_of_means
from steerlens.sites import Site
from steerlens.store.files import write_text

if TYPE_CHECKING:
    import plotly.graph_objects as go

Bounds = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class SpilloverMap:
    """Gain of every intervention on its own concept (home) and on all others.

    Gains are changes of propensity as they are, not turned round at negative multipliers. All
    intervals are 95%, each for its own cell.
    """

    answers: Answers
    homes: tuple[str, ...]
    """For each row the set that it is meant to move."""
    null_gains: Float[Tensor, "null row multiplier set"]
    """Mean gain of random directions as long as the real one, on the same questions."""
    matched: tuple[tuple[str, str], ...] = ()
    """Sets that ask about the same prompts in the same order, so that they vary together."""
    made_by: dict[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> tuple[str, ...]:
        return self.answers.rows

    @property
    def sets(self) -> tuple[str, ...]:
        return self.answers.sets

    @property
    def multipliers(self) -> Float[Tensor, " multiplier"]:
        return self.answers.multipliers

    def gains(self, name: str) -> Float[Tensor, "row multiplier _example"]:
        """Propensity of every question of a set minus the unsteered propensity, in nats."""
        return self.answers.gains(name)

    @cached_property
    def mean_gain(self) -> Float[Tensor, "row multiplier set"]:
        """Mean gain of every cell on every set, in nats."""
        return torch.stack([self.gains(name).mean(-1) for name in self.sets], -1)

    @cached_property
    def gain_interval(self) -> Bounds:
        """Mean gain with its interval over questions, each [row, multiplier, set]."""
        each = [stats.mean_interval(self.gains(name)) for name in self.sets]
        value, low, high = (torch.stack(parts, -1) for parts in zip(*each, strict=True))
        return value, low, high

    @cached_property
    def size_interval(self) -> Bounds:
        """Mean size of the gain, whatever its sign, with its interval: each [row, multiplier, set].

        A mean gain near 0 can also be many gains that cancel, e.g. of questions under a negation.
        """
        each = [stats.mean_interval(self.gains(name).abs()) for name in self.sets]
        value, low, high = (torch.stack(parts, -1) for parts in zip(*each, strict=True))
        return value, low, high

    @property
    def at_home(self) -> Bool[Tensor, "row set"]:
        """Which set is each row's own."""
        return torch.tensor([[name == home for name in self.sets] for home in self.homes])

    @cached_property
    def relative(self) -> Bounds:
        """Mean gain over the row's gain at home, each [row, multiplier, set] (Fieller's interval).

        Above 0 where both go the same way; NaN where the gain at home cannot be told from 0.
        """
        shape = self.mean_gain.shape
        out = tuple(torch.full(shape, torch.nan) for _ in range(3))
        for i, home in enumerate(self.homes):
            own = self.gains(home)[i]
            for k, name in enumerate(self.sets):
                found = ratio_of_means(self.gains(name)[i], own, matched=self._together(name, home))
                for part, values in zip(out, found, strict=True):
                    part[i, :, k] = values
        return out[0], out[1], out[2]

    @cached_property
    def selectivity(self) -> Bounds:
        """Gain at home over the largest gain, of either sign, elsewhere: each [row, multiplier].

        Turned round at negative multipliers, so that above 0 always means: home moved as asked.
        Infinite where nothing else moved, NaN at multiplier 0. The interval is that of resampled
        questions (percentiles); noise makes the largest of several gains too large, so both the
        value and the interval are on the low side.
        """
        means = {
            name: stats.bootstrap_means(self.gains(name), seed=self._seed(name))
            for name in self.sets
        }
        draws = torch.stack([means[name] for name in self.sets], -1)
        found = [self._selectivity(gains) for gains in (self.mean_gain[None], draws)]
        ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
        # Where nothing else moves the ratio is infinite, and an order statistic can be taken of
        # that, but no interpolation.
        low, high = torch.quantile(found[1].double(), ends, dim=0, interpolation="nearest")
        return found[0][0], low.float(), high.float()

    def _selectivity(self, gains: Float[Tensor, "draw row multiplier set"]) -> Tensor:
        own = self.at_home[None, :, None]
        home = (gains * own).sum(-1) * self.multipliers.sign()
        return home / gains.abs().masked_fill(own, 0.0).amax(-1)

    def _seed(self, name: str) -> int:
        """Sets of the same prompts are resampled together."""
        return min(i for i, other in enumerate(self.sets) if self._together(name, other))

    def _together(self, one: str, other: str) -> bool:
        return one == other or (one, other) in self.matched or (other, one) in self.matched

    @property
    def _elsewhere(self) -> Bool[Tensor, "row multiplier set"]:
        return ~self.at_home[:, None] & (self.multipliers != 0)[:, None]

    @cached_property
    def null(self) -> stats.NullThreshold:
        """How far random pushes of the same length move the other concepts, in either direction.

        Against the most outstanding of all cells away from home, flattened in the order of
        [row, multiplier, set]; `threshold` has them in place.

        Raises:
            ValueError: If there are fewer than 19 null maps.
        """
        cells = self._elsewhere
        return stats.max_statistic(self.mean_gain[cells].abs(), self.null_gains[:, cells].abs())

    @cached_property
    def threshold(self) -> Float[Tensor, "row multiplier set"]:
        """Size of gain that random pushes reach, in nats; NaN at home and at multiplier 0."""
        out = torch.full(self.mean_gain.shape, torch.nan)
        out[self._elsewhere] = self.null.threshold
        return out

    @property
    def spills(self) -> Bool[Tensor, "row multiplier set"]:
        """Cells that move another concept more than a random push does.

        False is not "no spill-over": see how far `gain_interval` reaches, and `size_interval`.
        """
        return self.mean_gain.abs() > self.threshold

    @property
    def has_null(self) -> bool:
        return len(self.null_gains) > 0

    def _at(self, multiplier: float | None) -> int:
        if multiplier is None:
            return int(self.multipliers.argmax())
        found = (self.multipliers == multiplier).nonzero()
        if not len(found):
            raise ValueError(
                f"multiplier={multiplier} was not swept. There are {self.multipliers.tolist()}."
            )
        return int(found[0])

    def summary(self, multiplier: float | None = None) -> str:
        """Gains of every row on every set at one multiplier, by default the largest."""
        j = self._at(multiplier)
        lines = [
            f"{self.made_by.get('question', 'Spill-over')} ({self.made_by.get('model', '')})",
            f"  gains in nats at multiplier {float(self.multipliers[j]):+g}",
        ]
        for i, (row, home) in enumerate(zip(self.rows, self.homes, strict=True)):
            parts = [f"{home} {told(self.gain_interval, i, j, self.sets.index(home))} at home"]
            for k, name in enumerate(self.sets):
                if name != home:
                    more = " (more than a random push)" if self._spills(i, j, k) else ""
                    parts.append(f"{name} {told(self.gain_interval, i, j, k)}{more}")
            parts.append(f"selectivity {told(self.selectivity, i, j)}")
            lines.append(f"  {row}: " + ", ".join(parts))
        if self.has_null:
            lines.append(
                f"  null: p = {self.null.p_value:.3g} against random directions (largest of all "
                f"{int(self._elsewhere.sum())} cells away from home, {len(self.null_gains)} null maps)"
            )
        return "\n".join(lines)

    def _spills(self, *cell: int) -> bool:
        return self.has_null and bool(self.spills[cell])

    def plot(self, multiplier: float | None = None) -> go.Figure:
        """Set x row at one multiplier (by default the largest): mean gain, home outlined."""
        j = self._at(multiplier)
        below = ~(self.spills[:, j] | self.at_home) if self.has_null else None
        return plots.gain_heatmap(
            self.mean_gain[:, j].tolist(),
            rows=self.rows,
            layers=self.answers.layers,
            sets=self.sets,
            homes=self.homes,
            unit="nats",
            title=self._finding(j),
            note=f"Mean gain in log-odds at multiplier {float(self.multipliers[j]):g}"
            + ("; dotted: no more than random pushes of the same length" if self.has_null else ""),
            below_null=None if below is None else below.tolist(),
            hover=[
                [self._hover(i, j, k) for k in range(len(self.sets))] for i in range(len(self.rows))
            ],
        )

    def plot_lines(self, row: str | int | Site | None = None) -> go.Figure:
        """Gain over multipliers on every set, for one row: by default the one that gains most."""
        most = int(self._home_gain()[:, int(self.multipliers.argmax())].argmax())
        i = most if row is None else self.answers.row(row)
        names = [self.homes[i], *(name for name in self.sets if name != self.homes[i])]
        where = [self.sets.index(name) for name in names]
        return plots.gain_lines(
            {
                name + (" (home)" if name == self.homes[i] else ""): lists(
                    tuple(part[i, :, k] for part in self.gain_interval)  # type: ignore[arg-type]
                )
                for name, k in zip(names, where, strict=True)
            },
            multipliers=self.multipliers.tolist(),
            unit="nats",
            title=f"What steering at {self.rows[i]} does to each concept",
        )

    def _home_gain(self) -> Float[Tensor, "row multiplier"]:
        return (self.mean_gain * self.at_home[:, None]).sum(-1)

    def _hover(self, i: int, j: int, k: int) -> str:
        lines = [f"gain {told(self.gain_interval, i, j, k)} nats"]
        if not self.at_home[i, k]:
            lines.append(f"{told(self.relative, i, j, k)} of the gain at home")
            if self.has_null:
                lines.append(f"random pushes reach ±{float(self.threshold[i, j, k]):.3g} nats")
        return "<br>".join(lines)

    def _finding(self, j: int) -> str:
        gains = self.mean_gain[:, j].masked_fill(self.at_home, 0.0)
        i, k = divmod(int(gains.abs().argmax()), len(self.sets))
        away, own = (
            f"{x:+.2f}".replace("-", "−")
            for x in (float(gains[i, k]), float(self._home_gain()[i, j]))
        )
        most = f"{away} nats on {self.sets[k]} against {own} on {self.homes[i]} ({self.rows[i]})"
        if self.has_null and not bool(self.spills[:, j].any()):
            return f"No spill-over beyond that of random pushes: at most {most}"
        return f"Largest spill-over: {most}"

    def save(self, directory: Path | str) -> Path:
        """Writes spillover.safetensors, spillover.json and a tidy spillover.csv into a folder."""
        extra = {"homes": list(self.homes), "matched": [list(pair) for pair in self.matched]}
        further = {"null_gains": self.null_gains}
        out = self.answers.save(Path(directory), "spillover", self.made_by, further, **extra)
        write_text(out / "spillover.csv", self._tidy())
        return out

    @classmethod
    def load(cls, directory: Path | str) -> SpilloverMap:
        """Reads what `save` wrote."""
        answers, made_by, further, extra = Answers.load(Path(directory), "spillover")
        matched = tuple((one, other) for one, other in extra["matched"])
        return cls(answers, tuple(extra["homes"]), further["null_gains"], matched, made_by)

    def _tidy(self) -> str:
        columns = [
            f"{name}{end}" for name in ("gain", "relative", "size") for end in ("", "_low", "_high")
        ]
        lines = [",".join(["row", "layer", "multiplier", "set", "home", *columns, "threshold"])]
        nothing = torch.full(self.mean_gain.shape, torch.nan)
        limits = self.threshold if self.has_null else nothing
        for i, row in enumerate(self.rows):
            site = self.answers.sites[i]
            for j, m in enumerate(self.multipliers.tolist()):
                for k, name in enumerate(self.sets):
                    cells = (*self.gain_interval, *self.relative, *self.size_interval, limits)
                    numbers = [float(part[i, j, k]) for part in cells]
                    facts = [
                        quoted(row), "" if site is None else str(site.layer), f"{m:g}",
                        quoted(name), str(bool(self.at_home[i, k])),
                    ]  # fmt: skip
                    lines.append(
                        ",".join([*facts, *("" if x != x else f"{x:.6g}" for x in numbers)])
                    )
        return "\n".join(lines) + "\n"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        return self.plot()._repr_mimebundle_(include, exclude)

    def __repr__(self) -> str:
        return self.summary()
