"""Rival laws of the strength on what was measured: words and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, SupportsIndex

import torch

from steerlens import plots, stats
from steerlens.analyses.strength_laws.known_laws import BASELINES, UNITS
from steerlens.analyses.strength_laws.law_numbers import ROLES, LawNumbers
from steerlens.analyses.strength_laws.laws_section import laws_section, laws_summary
from steerlens.arguments import ArgumentError, as_int
from steerlens.report.section import Figure, Section
from steerlens.results import Result

if TYPE_CHECKING:
    import plotly.graph_objects as go

SHOWN = 3
"""Cases of which the page shows the curves of one row."""


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class LawComparison(LawNumbers):
    """Effects and costs over many strengths, with the laws that were fitted to them.

    `compare_laws` makes it for one contrast, and `joined` puts several together. A row is one
    intervention; a case is one contrast on one model. Layers of one case are not independent, so
    intervals over rows take the case as the unit.
    """

    @staticmethod
    def joined(parts: Sequence[LawComparison]) -> LawComparison:
        """Several comparisons as one, e.g. of other contrasts or models.

        Raises:
            ArgumentError: If there is none, or they differ in strengths, in laws, or in how many
                questions, texts and tokens they have.
        """
        if not parts:
            raise ArgumentError("There is no comparison to join. Give at least one.")
        first = parts[0]
        for part in parts[1:]:
            same = part.laws == first.laws and part.roles == first.roles
            if not same or not torch.equal(part.multipliers, first.multipliers):
                raise ArgumentError(
                    "The comparisons have other multipliers, laws or tokens, so their errors do not "
                    "compare. Measure all of them with the same ones."
                )
        found: dict[str, Any] = {}
        shared = ("multipliers", "roles", "laws", "made_by")
        for name in (f.name for f in fields(LawComparison) if f.name not in shared):
            values = [getattr(part, name) for part in parts]
            if isinstance(values[0], tuple):
                found[name] = tuple(x for value in values for x in value)
                continue
            if len({value.shape[1:] for value in values}) > 1:
                raise ArgumentError(
                    f"The comparisons have {name} of shapes {[tuple(v.shape) for v in values]}. Give "
                    "as many questions and as many texts to each."
                )
            found[name] = torch.cat(values)
        about = {
            k: v for k, v in first.made_by.items() if all(p.made_by.get(k) == v for p in parts)
        }
        kept = {name: getattr(first, name) for name in ("multipliers", "roles", "laws")}
        return LawComparison(**found, **kept, made_by=about)

    def summary(self) -> str:
        """For each quantity the errors of its laws, then exponents and bumps."""
        return laws_summary(self)

    def plot(self, *, beyond: bool = False, controls: bool = False) -> go.Figure:
        """The relative error of every law: at every row of one case, or the mean of every case.

        Args:
            beyond: The errors at the outer half of the strengths.
            controls: Of the controls.
        """
        rows = self.chosen_rows(controls)
        if not rows:
            raise ArgumentError("There is no such row. Leave `controls` as it is.")
        cases = list(dict.fromkeys(self.cases[i] for i in rows))
        if len(cases) == 1:
            sites = [site for i in rows if (site := self.sites[i]) is not None]
            layers = [str(site.layer) for site in sites]
            by_layer = len(set(layers)) == len(rows)
            names = layers if by_layer else [self.rows[i] for i in rows]
            over = "layer" if by_layer else "row"
            members = [[i] for i in rows]
        else:
            names, over = cases, "contrast"
            members = [[i for i in rows if self.cases[i] == case] for case in cases]
        panels = {}
        for quantity in self.quantities:
            errors = [self.relative(quantity, law, beyond=beyond) for law in self.names(quantity)]
            panels[quantity] = (
                self.names(quantity),
                [[float(one[own].mean()) for one in errors] for own in members],
            )
        where = "beyond the fitted strengths" if beyond else "at strengths left out of the fit"
        return plots.law_errors(
            panels, rows=names, over=over, title=f"How far each law is from the curve {where}",
            note="Root mean square over the standard deviation of the curve: 1 is as bad as its mean"
            + ("" if len(cases) == 1 else ". Means over the layers of a contrast"),
        )  # fmt: skip

    def find(self, row: str | SupportsIndex) -> int:
        """The number of a row, given by its name or its number.

        Raises:
            ArgumentError: If there is no such row, or several have the name.
        """
        if isinstance(row, str):
            if self.rows.count(row) != 1:
                raise ArgumentError(
                    f"{self.rows.count(row)} rows are called {row!r}. Give the number of a row; the "
                    f"names are {', '.join(dict.fromkeys(self.rows))}."
                )
            return self.rows.index(row)
        number = as_int("row", row, least=0)
        if number >= len(self.rows):
            raise ArgumentError(f"row={number} is none of the {len(self.rows)} rows.")
        return number

    def plot_row(self, row: str | SupportsIndex) -> go.Figure:
        """The measured curves of one row, with every law drawn over the points."""
        i = self.find(row)
        points, drawn = {}, {}
        groups = {"cost": self.text_groups[i], "cross-entropy": self.text_groups[i]}
        for quantity in self.quantities:
            own = groups.get(quantity, self.question_groups[i])
            band = stats.mean_interval(self.measured(quantity)[i], own)
            points[quantity] = (tuple(part.tolist() for part in band), UNITS[quantity])
            drawn[quantity] = {
                law: self.curves[i, self.number(quantity, law)].tolist()
                for law in self.names(quantity)
                if law not in BASELINES
            }
        return plots.law_curves(
            points, multipliers=self.multipliers.tolist(), along=self.places, curves=drawn,
            title=f"What steering does over its strength: {self.cases[i]}, {self.rows[i]}",
        )  # fmt: skip

    def plot_tokens(self, row: str | SupportsIndex, role: str = "raised") -> go.Figure:
        """The probability of the followed tokens of one role at one row."""
        i = self.find(row)
        if role not in self.roles:
            raise ArgumentError(f"{role!r} is no role. Use one of {', '.join(ROLES)}.")
        series = {}
        for k, token in enumerate(self.tokens[i]):
            if token and self.roles[k] == role:
                values = self.token_probabilities[i, :, k]
                band = stats.mean_interval(values, self.question_groups[i], least=0.0)
                mark = " (bump)" if bool(self.bumps.found[i, k]) else ""
                series[f"{token!r}{mark}"] = (
                    self.multipliers.tolist(),
                    tuple(part.tolist() for part in band),
                )
        if not series:
            raise ArgumentError(f"{self.rows[i]} has no token of the role {role!r}.")
        return plots.measured_lines(
            series, title=f"Probability of tokens over the strength: {self.rows[i]}",
            x="multiplier", y="probability",
        )  # fmt: skip

    def section(self, beside: Mapping[str, Result]) -> Section:
        """Errors by law, the table, and the curves of some rows."""
        middle = {}
        for i in self.chosen_rows():
            middle.setdefault(self.cases[i], []).append(i)
        shown = [own[len(own) // 2] for own in middle.values()][:SHOWN]
        return laws_section(
            self,
            errors=(Figure(self.plot), Figure(lambda: self.plot(beyond=True))),
            of_controls=Figure(lambda: self.plot(controls=True)),
            curves=tuple(Figure(lambda i=i: self.plot_row(i)) for i in shown),
        )
