"""What a model writes at several strengths of one intervention."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch

from steerlens.arguments import as_floats
from steerlens.directions import Direction
from steerlens.interventions.arms import require_fit, site_of
from steerlens.interventions.residual import Add
from steerlens.measures.generation import generate
from steerlens.models.model import Model, as_model
from steerlens.protocols import Intervention, ResidualEdit, takes_rows
from steerlens.report.numbers import format_signed
from steerlens.report.section import Paragraph, Section, Texts
from steerlens.results.cell import Cell
from steerlens.results.frames import Column
from steerlens.results.result import Result, chosen_cell


@dataclass(frozen=True, eq=False, repr=False)
class DoseResponse(Result):
    """What the model writes at each strength: prompts down, multipliers across."""

    kind: ClassVar[str] = "samples"

    prompts: tuple[str, ...]
    multipliers: tuple[float, ...]
    texts: tuple[tuple[str, ...], ...]
    """[prompt][multiplier]"""
    made_by: dict[str, Any] = field(default_factory=dict)

    def columns(self) -> list[Column]:
        texts = np.array(self.texts, dtype=object).reshape(len(self.prompts), -1)
        return [Column("text", ("prompt", "multiplier"), texts)]

    def summary(self) -> str:
        lines = []
        for prompt, row in zip(self.prompts, self.texts, strict=True):
            lines.append(prompt)
            lines += [f"  {m:+6.2f}  {t}" for m, t in zip(self.multipliers, row, strict=True)]
        return "\n".join(lines)

    def run_summary(self, beside: Mapping[str, Result]) -> str:
        """Nothing: the texts are on the page."""
        return ""

    def section(self, beside: Mapping[str, Result]) -> Section:
        """The texts under each prompt; the strength that a map recommends is named so."""
        cell = chosen_cell(beside)
        steered = self.made_by.get("steered")
        count = len(self.prompts)
        texts = (
            Texts(
                prompt,
                tuple(
                    (_label(m, cell), text) for m, text in zip(self.multipliers, row, strict=True)
                ),
                label=f"prompt {k}",
                marked=self.multipliers.index(0.0) if 0.0 in self.multipliers else None,
            )
            for k, (prompt, row) in enumerate(zip(self.prompts, self.texts, strict=True), 1)
        )
        return Section(
            title="What the model writes",
            short="Texts",
            blocks=(
                Paragraph(
                    f"Continuations of {count} prompt{'' if count == 1 else 's'}"
                    f"{f', steered by {steered}' if steered else ''}. The prompts are the first "
                    "ones of their set, not those with the best texts. The unsteered text is "
                    f"highlighted.{self._why_here()}"
                ),
                *texts,
            ),
        )

    def _why_here(self) -> str:
        """Why these strengths, where no map recommends one of them."""
        note = self.made_by.get("note", "")
        return f" {note}" if note else ""

    def _repr_html_(self) -> str:
        cells = []
        for prompt, row in zip(self.prompts, self.texts, strict=True):
            cells.append(
                f"<tr><th colspan=2 style='text-align:left'>{html.escape(prompt)}</th></tr>"
            )
            for m, text in zip(self.multipliers, row, strict=True):
                cells.append(
                    f"<tr><td style='text-align:right'>{m:+g}</td>"
                    f"<td style='text-align:left'>{html.escape(text)}</td></tr>"
                )
        return f"<table>{''.join(cells)}</table>"


def dose_response(
    model: Model,
    intervention: Intervention | Direction,
    prompts: str | Sequence[str],
    multipliers: Sequence[float],
    *,
    max_new_tokens: int = 32,
    temperature: float = 0.0,
    seed: int = 0,
    stop_at_eos: bool = True,
    progress: bool = False,
) -> DoseResponse:
    """Continuations at several strengths of one intervention.

    All strengths are rows of one batch; of an intervention that does not take a multiplier per row
    each strength is a batch of its own. With a temperature, the strengths of one prompt share their
    random draws, so that texts differ by the steering alone.

    Args:
        intervention: A direction stands for `Add` with its usual strength and positions.
        max_new_tokens: As in `generate`; so are the other options.

    Raises:
        ValueError: If the intervention does not fit the model, or the texts do not fit its context.
        SteeringError: If the intervention edits no token.
    """
    model = as_model(model)
    edit = Add(intervention) if isinstance(intervention, Direction) else intervention
    require_fit(model, edit)
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    strengths = as_floats("multipliers", multipliers)
    options: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "seed": seed,
        "stop_at_eos": stop_at_eos,
    }
    if takes_rows(edit):
        rows = [text for text in texts for _ in strengths]
        draws = [i for i in range(len(texts)) for _ in strengths]
        each = torch.tensor(strengths).repeat(len(texts)).to(model.device)
        with edit.attach(model, each):
            written = list(generate(model, rows, draws=draws, progress=progress, **options))
        width = len(strengths)
        table = [tuple(written[i * width : (i + 1) * width]) for i in range(len(texts))]
    else:
        by_strength = []
        for m in strengths:
            with edit.attach(model, m):
                by_strength.append(generate(model, texts, progress=progress, **options))
        table = list(zip(*by_strength, strict=True))
    made_by = {
        **model.facts,
        "question": "What does the model write at each strength?",
        "intervention": repr(edit),
        "steered": _described(edit),
        **options,
    }
    return DoseResponse(tuple(texts), strengths, tuple(table), made_by=made_by)


def _label(multiplier: float, cell: Cell | None) -> str:
    if multiplier == 0:
        return "multiplier 0, unsteered"
    is_chosen = cell is not None and cell.multiplier == multiplier
    return f"multiplier {format_signed(multiplier)}{', the chosen one' if is_chosen else ''}"


def _described(edit: Intervention) -> str:
    """What steers, in a few words for the page."""
    site = site_of(edit)
    if site is None or not isinstance(edit, ResidualEdit):
        return type(edit).__name__
    return f"{type(edit).__name__} at {site}, {edit.positions}"
