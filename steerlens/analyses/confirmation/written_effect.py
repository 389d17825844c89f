"""What is written at the cells that a map recommends, on the scale of what contexts achieve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steerlens import plots, stats
from steerlens.analyses.confirmation.writing_verdict import ENOUGH
from steerlens.analyses.confirmation.written_numbers import WrittenNumbers
from steerlens.analyses.confirmation.written_section import written_section
from steerlens.results import Result, chosen_cell
from steerlens.results.summary_lines import labelled

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from steerlens.report.section import Section


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class WrittenEffect(WrittenNumbers):
    """Whether the recommended cells change what the model writes, and by how much.

    The fields are those of `WrittenNumbers`; everything else is derived from them.
    """

    def summary(self) -> str:
        """A verdict for every cell, with its share and what the reader is worth."""
        lines = [
            f"What is written ({self.made_by.get('model', '')}): "
            f"{stats.sizes_in_words(self.units, len(self.prompts), 'prompts')}, "
            f"{self.unsteered.shape[1]} text(s) each, read by {self.reader}"
        ]
        lines += [f"  {self.line(k)}" for k in range(len(self.cells))]
        if self.positive is not None:
            lines.append(
                labelled("reader", f"AUROC {self.reader_auroc} on texts of the two contexts")
            )
        if why := self.why_not():
            lines.append(labelled("not looked at", f"{why}."))
        return "\n".join(lines)

    def run_summary(self, beside: Mapping[str, Result]) -> str:
        """The verdicts on the runners-up of the cell that a map recommends, and on the reader."""
        recommended = chosen_cell(beside)
        if recommended is None:
            return self.summary()
        chosen = self.find(recommended)
        if chosen is None or self.why_not():
            return ""  # the map's own summary says so
        lines = [self.line(k) for k in range(len(self.cells)) if k != chosen]
        lines.append(f"AUROC of the reader {self.reader_auroc} on texts of the two contexts")
        return labelled("runners-up" if len(lines) > 1 else "reader", "\n".join(lines))

    def section(self, beside: Mapping[str, Result]) -> Section:
        """Verdicts, their numbers, and texts side by side."""
        return written_section(self, self.plot, self.find(chosen_cell(beside)))

    def plot(self) -> go.Figure:
        """The share of every cell with its interval; the changes where there is no share."""
        shares = [self.share(k) for k in range(len(self.cells))]
        has_shares = any(share.value == share.value for share in shares)
        shown = shares if has_shares else [self.change(k) for k in range(len(self.cells))]
        return plots.written_shares(
            shown,
            labels=[str(cell) for cell in self.cells],
            verdicts=[self.verdict(k) for k in range(len(self.cells))],
            unit="share" if has_shares else self.unit,
            threshold=ENOUGH if has_shares else None,
            title="What steering writes, as a share of what the context itself writes"
            if has_shares
            else "What steering changes in writing",
        )
