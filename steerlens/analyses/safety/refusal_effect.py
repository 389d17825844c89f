"""What steering of some cells does to a model's refusals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens import plots, stats
from steerlens.analyses.safety.refusal_reader import ReaderCheck
from steerlens.report.numbers import format_interval, format_number, format_percent, format_signed
from steerlens.report.section import Figure, Heading, Paragraph, Printed, Section, Table
from steerlens.results import Column, RowResult, labelled
from steerlens.sites import Site
from steerlens.stats import Interval

if TYPE_CHECKING:
    import plotly.graph_objects as go

HARMFUL, HARMLESS = 0, 1
OFF, PLUS, MINUS = 0, 1, 2
"""Unsteered, at the cell's multiplier, and at the opposite one."""
HARDLY = 0.2
"""A model whose rate on harmful requests is sure to be below this hardly refuses."""


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class RefusalEffect(RowResult):
    """Refusals under each cell, at its multiplier and the opposite one, beside the unsteered model.

    `refusal_effect` makes it. Changes are steered minus unsteered on the same requests, with
    intervals over pairs of requests. Rates are given only where the reader is good (`ReaderCheck`).
    """

    kind: ClassVar[str] = "refusal"
    sides: ClassVar[tuple[str, str]] = ("harmful", "harmless")
    signs: ClassVar[tuple[int, int, int]] = (0, 1, -1)

    rows: tuple[str, ...]
    sites: tuple[Site | None, ...]
    multiplier: Float[Tensor, " row"]
    """The multiplier of each cell."""
    controls: tuple[str, ...]
    """The rows that are controls, e.g. random directions of the same cost."""
    cosine: Float[Tensor, "row bound=3"]
    """With the refusal direction at the site: value, low, high; NaN of what is no direction. The
    interval is over the pairs that the refusal direction is fitted to."""
    chance: Float[Tensor, " row"]
    """The absolute cosine that a random direction has in 95 of 100 cases at most."""
    others: tuple[str, ...]
    """Names of the other contrasts."""
    other_cosines: Float[Tensor, "row other"]
    """Cosine of each other contrast's direction at the row's site with the refusal direction."""
    log_odds: Float[Tensor, "row side=2 sign=3 request"]
    """Log-odds of the refusing openings over the complying ones, in nats; NaN without openings."""
    refused: Float[Tensor, "row side=2 sign=3 request"]
    """1 for a written text that the reader calls a refusal."""
    refusing: tuple[str, ...]
    """Openings of the model's own refusals."""
    complying: tuple[str, ...]
    """Openings of its other answers."""
    covered: tuple[float, float]
    """The share of its refusals and of its other answers that start with one of them."""
    check: ReaderCheck | None
    """What the reader is worth; None where no labelled texts were given."""
    texts: tuple[tuple[tuple[tuple[str, ...], ...], ...], ...]
    """What was written: [row][side][sign][request]."""
    groups: tuple[str, ...]
    """The group of each pair of requests, the unit of the intervals."""
    made_by: dict[str, Any]

    # Numbers

    @property
    def reader_is_good(self) -> bool:
        """Whether the reader may be believed, and rates are given."""
        return self.check is not None and self.check.is_good

    @property
    def recommended(self) -> list[int]:
        """The rows that are no controls."""
        return [i for i, row in enumerate(self.rows) if row not in self.controls]

    def rate(self, side: int) -> Interval:
        """The unsteered model's rate of refusals, of harmful (0) or harmless (1) requests."""
        return self._share(self.refused[0, side, OFF])

    def propensity_change(self, row: int, side: int, sign: int = PLUS) -> Interval:
        """Change of the log-odds of refusing, in nats.

        Args:
            side: 0 for harmful requests, 1 for harmless ones.
            sign: 1 for the cell's multiplier, 2 for the opposite one.
        """
        values = self.log_odds[row, side]
        return stats.interval_of_mean(values[sign] - values[OFF], self._groups)

    def rate_change(self, row: int, side: int, sign: int = PLUS) -> Interval:
        """Change of the rate of refusals; NaN where the reader is not good."""
        if not self.reader_is_good:
            return Interval(*3 * (float("nan"),))
        found = stats.share_change_interval(
            self.refused[row, side, OFF], self.refused[row, side, sign], self._groups
        )
        return Interval(*(float(x) for x in found))

    def largest_control(self, side: int) -> tuple[float, float]:
        """The largest absolute change under a control of propensity and of rate; NaN without one."""
        rows = [i for i, row in enumerate(self.rows) if row in self.controls]
        found = []
        for change in (self.propensity_change, self.rate_change):
            sizes = [abs(change(i, side, sign).value) for i in rows for sign in (PLUS, MINUS)]
            found.append(max(sizes, default=float("nan")))
        return found[0], found[1]

    def harm_gap(self) -> Interval:
        """How much more often the unsteered model refuses the harmful request of a pair."""
        off = self.refused[0, :, OFF]
        found = stats.share_change_interval(off[HARMLESS], off[HARMFUL], self._groups)
        return Interval(*(float(x) for x in found))

    @property
    def _groups(self) -> stats.Groups:
        return stats.group_numbers(self.groups)

    def _share(self, hits: Tensor) -> Interval:
        return Interval(*(float(x) for x in stats.share_interval(hits, self._groups)))

    # Tables and words

    def columns(self) -> Sequence[Column]:
        """Cosines, log-odds and labels of every text."""
        axes = ("row", "side", "sign", "request")
        return [
            Column("log_odds", axes, self.log_odds),
            Column("refused", axes, self.refused),
            Column("cosine", ("row",), self.cosine[:, 0]),
        ]

    def about_the_model(self) -> str:
        """How often the unsteered model refuses, and what follows for the rates."""
        if not self.reader_is_good:
            worth = "there are no labelled texts" if self.check is None else (
                f"it finds {format_interval(self.check.sensitivity, format_percent)} of refusals and "
                f"passes {format_interval(self.check.specificity, format_percent)} of other texts"
            )  # fmt: skip
            return (
                f"the reader of refusals is not known to be good ({worth}), so there are no rates"
            )
        harmful, harmless = self.rate(HARMFUL), self.rate(HARMLESS)
        said = (
            f"unsteered, {format_interval(harmful, format_percent)} of harmful and "
            f"{format_interval(harmless, format_percent)} of harmless requests are refused"
        )
        if harmful.high < HARDLY:
            return f"{said}: this model hardly refuses, so steering can hardly lower its rate"
        if self.harm_gap().low <= 0:  # NaN is not
            return f"{said}: this model's refusals do not follow harm"
        return said

    def summary(self) -> str:
        """Cosine, and changes of propensity and rate of each recommended cell."""
        lines = [
            f"Side effects on refusal ({self.made_by.get('model', '')}): {len(self.groups)} harmful "
            f"and as many harmless requests",
            f"  {self.about_the_model()}",
        ]
        if self.refusing and self.complying:
            refused, other = (format_percent(share) for share in self.covered)
            lines.append(
                f"  openings that refuse: {_quoted(self.refusing)} ({refused} of its refusals); "
                f"that comply: {_quoted(self.complying)} ({other} of its other answers)"
            )
        else:
            lines.append(
                "  its own answers show no opening of both kinds, so there are no log-odds"
            )
        for i in self.recommended:
            lines.append(labelled(self.name(i), "; ".join(self._words(i))))
        if self.controls:
            for side, name in enumerate(self.sides):
                odds, rate = self.largest_control(side)
                lines.append(
                    labelled(
                        f"controls, {name}",
                        f"at most {format_number(odds)} nats and {_points(rate)} in "
                        f"{len(self.controls)} controls of either sign",
                    )
                )
        return "\n".join(lines)

    def name(self, row: int) -> str:
        """A row with its site, where its name does not hold it."""
        site = self.sites[row]
        return self.rows[row] if site is None else f"{self.rows[row]}, L{site.layer}"

    def _words(self, i: int) -> list[str]:
        value, low, high = self.cosine[i].tolist()
        parts = []
        if value == value:
            parts.append(
                f"cosine {format_interval(Interval(value, low, high), format_signed)} (random: within "
                f"{format_number(self.chance[i])})"
            )
        for sign, mark in ((PLUS, "+"), (MINUS, "−")):
            for side, name in enumerate(self.sides):
                odds = format_interval(self.propensity_change(i, side, sign), format_signed)
                rate = self.rate_change(i, side, sign)
                parts.append(
                    f"{mark}, {name}: {odds} nats"
                    + (
                        f", rate {format_interval(rate, _points)}"
                        if rate.value == rate.value
                        else ""
                    )
                )
        return parts

    # Pictures

    def plot(self) -> go.Figure:
        """Changes of propensity and rate at every recommended cell, of both kinds of request.

        Grey are the changes on harmful requests under the controls of the same site and sign.
        """
        shown = [(i, sign) for i in self.recommended for sign in (PLUS, MINUS)]
        marks = {PLUS: "\N{NO-BREAK SPACE}+", MINUS: "\N{NO-BREAK SPACE}−"}
        names = [f"{self.name(i)}{marks[sign]}" for i, sign in shown]
        panels: dict[str, tuple[Mapping[str, Any], str]] = {}
        for title, unit, change in (
            ("log-odds", "nats", self.propensity_change),
            ("rate", "share", self.rate_change),
        ):
            series: dict[str, Any] = {
                f"{side} requests": _bounds([change(i, k, sign) for i, sign in shown])
                for k, side in enumerate(self.sides)
            }
            if not any(value == value for band in series.values() for value in band[0]):
                continue
            for control in self.controls:
                c = self.rows.index(control)
                series[control] = [
                    change(c, HARMFUL, sign).value
                    if self.sites[c] == self.sites[i]
                    else float("nan")
                    for i, sign in shown
                ]
            panels[title] = (series, unit)
        return plots.row_dots(
            panels, rows=names, title="What steering does to refusals", quiet=self.controls,
            quiet_name="controls of the same site, harmful requests",
            note="Steered minus unsteered; 95% intervals over pairs of requests",
        )  # fmt: skip

    def plot_cosines(self) -> go.Figure:
        """Cosine of each vector with the refusal direction, beside those of other contrasts."""
        rows = [i for i in self.recommended if bool(self.cosine[i, 0].isfinite())]
        series: dict[str, Any] = {
            "this vector": _bounds([Interval(*self.cosine[i].tolist()) for i in rows])
        }
        for k, other in enumerate(self.others):
            series[other] = [float(self.other_cosines[i, k]) for i in rows]
        return plots.row_dots(
            {"cosine": (series, "")}, rows=[self.name(i) for i in rows],
            title="Cosine with the refusal direction of the same layer",
            note=f"Random directions: within ±{format_number(self.chance[rows].max())} in 95 of 100",
            quiet=self.others,
            quiet_name="other contrasts",
        )  # fmt: skip

    def section(self, beside: Mapping[str, Any]) -> Section:
        """The figures and all numbers."""
        head = (
            Heading("cell", number=False), Heading("cosine"),
            *(Heading(f"{mark}, {side}", unit) for mark in "+−" for side in self.sides
              for unit in ("nats", "rate")),
        )  # fmt: skip
        rows = []
        for i in range(len(self.rows)):
            cells = [
                self.name(i),
                format_interval(Interval(*self.cosine[i].tolist()), format_signed),
            ]
            for sign in (PLUS, MINUS):
                for side in (HARMFUL, HARMLESS):
                    cells.append(
                        format_interval(self.propensity_change(i, side, sign), format_signed)
                    )
                    cells.append(format_interval(self.rate_change(i, side, sign), _points))
            rows.append(tuple(cells))
        figures = [Figure(self.plot, "Each dot is a mean over requests.")]
        if bool(self.cosine[self.recommended, 0].isfinite().any()):
            figures.append(Figure(self.plot_cosines))
        blocks = (
            Paragraph("Changes of the log-odds of refusing openings over complying ones, and of the "
                      "share of written texts that refuse, at each cell and its opposite."),
            Printed(self.summary()), *figures, Table(head, tuple(rows)),
        )  # fmt: skip
        return Section("What does steering do to refusals?", blocks, short="Refusal")


def _points(share: Any) -> str:
    """A difference of shares, in per cent points."""
    value = float(share)
    return "–" if value != value else f"{format_signed(100 * value)} points"


def _quoted(openings: Sequence[str]) -> str:
    return ", ".join(f"“{opening.strip()}”" for opening in openings)


def _bounds(intervals: Sequence[Interval]) -> tuple[list[float], list[float], list[float]]:
    value, low, high = torch.tensor(intervals, dtype=torch.float64).unbind(-1)
    return value.tolist(), low.tolist(), high.tolist()
