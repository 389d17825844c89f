"""Long texts under steering: how much is written of what was wanted, and how long texts hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from steerlens import plots
from steerlens.analyses.survival.survival_numbers import Event, Role, SurvivalNumbers
from steerlens.analyses.survival.survival_section import survival_section
from steerlens.report.numbers import format_interval, format_number, format_percent, format_signed
from steerlens.results import Result
from steerlens.results.summary_lines import labelled

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from steerlens.report.section import Section


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class TextSurvival(SurvivalNumbers):
    """How long an effect lasts in a text, and how long the text holds. `survival` makes it.

    The fields are those of `SurvivalNumbers`; everything else is derived from them.
    """

    def summary(self) -> str:
        """For every cell: the share in each part of the texts, the damage, and what is left."""
        lines = [
            f"How long an effect lasts ({self.made_by.get('model', '')}): {len(self.prompts)} prompts, "
            f"up to {self.tokens} tokens, read by {self.reader} in windows of {self.window}"
        ]
        for k in self.shown:
            shares = ", ".join(
                f"{self.span(part)} {format_interval(self.share(k, part), format_percent)}"
                for part in self.parts
            )
            rest = [] if self.why_not() else [f"share of the context's effect: {shares}"]
            left = format_interval(self.left(k), format_percent)
            rest.append(
                f"surprisal {format_interval(self.extra_surprisal(k), format_signed)} nats per token, "
                f"not broken at the end: {left} (log-rank p = {format_number(self.against(k))})"
            )
            lines.append(f"  {self.writers[k]}\n" + "\n".join(f"    {one}" for one in rest))
        base = self.find("unsteered")
        assert base is not None
        lines.append(
            labelled("unsteered", f"not broken: {format_interval(self.left(base), format_percent)}")
        )
        if why := self.why_not():
            lines.append(labelled("no shares", f"{why}."))
        return "\n".join(lines)

    def plot(self) -> go.Figure:
        """Over the tokens: the wanted share, the damage, and the texts that are left."""
        windows = [slice(w, w + 1) for w in range(self.scores.shape[-1])]
        ends = [self.window * (w + 1) for w in range(len(windows))]

        def by_window(of: Any, writers: Sequence[int]) -> dict[str, Any]:
            return {
                str(self.writers[k]): tuple(np.array([of(k, w) for w in windows]).T)
                for k in writers
            }

        def curves(event: Event, base: Role) -> dict[str, Any]:
            found = {}
            unsteered = self.find(base)
            for k in [*self.shown, *([] if unsteered is None else [unsteered])]:
                name = str(self.writers[k]) if k != unsteered else "unsteered"
                curve = self.survival(k, event)
                if curve is not None:
                    found[name] = tuple(np.array([curve.at(t) for t in ends]).T)
            return found

        panels = {}
        if self.why_not():
            panels[f"change (in {self.unit})"] = by_window(self.change, self.shown)
        else:
            panels["share of what the context writes"] = by_window(self.share, self.shown)
        panels["surprisal above unsteered texts (nats per token)"] = by_window(
            self.extra_surprisal, self.shown
        )
        steps = {"share of texts not broken": curves("broken", "unsteered")}
        if not self.why_not():
            lost = curves("lost", "other draws")
            steps |= {"share of texts whose effect is not lost": lost} if lost else {}
        return plots.long_texts(
            panels, steps, tokens=ends, switched=self.steered,
            title="How long an effect lasts in a text",
        )  # fmt: skip

    def section(self, beside: Mapping[str, Result]) -> Section:
        """The figure, tables by part of the texts, and texts."""
        return survival_section(self, self.plot)
