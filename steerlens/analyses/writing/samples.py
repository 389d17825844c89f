"""Texts of one cell beside the unsteered ones."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass

from steerlens.results import Cell

Both = tuple[float, float]
"""A number of the unsteered text and of the steered text."""


@dataclass(frozen=True)
class Samples:
    """Steered texts of one cell and unsteered texts, after the same prompts."""

    cell: Cell
    prompts: tuple[str, ...]
    unsteered: tuple[str, ...]
    steered: tuple[str, ...]
    numbers: Mapping[str, tuple[Both, ...]]
    """Name of a quantity -> its numbers after each prompt; NaN where it is undefined."""

    def __str__(self) -> str:
        lines = [str(self.cell)]
        for i, prompt in enumerate(self.prompts):
            lines += [prompt, f"  unsteered  {_shown(self.unsteered[i])}"]
            lines += [f"  steered    {_shown(self.steered[i])}", f"             {self._facts(i)}"]
        return "\n".join(lines)

    def _facts(self, i: int) -> str:
        return ", ".join(
            f"{name} {before:.3g} → {after:.3g}"
            for name, (before, after) in ((name, pairs[i]) for name, pairs in self.numbers.items())
        )

    def _repr_html_(self) -> str:
        rows = []
        for i, prompt in enumerate(self.prompts):
            rows.append(
                f"<tr><th colspan=2 style='text-align:left'>{html.escape(prompt)}</th></tr>"
            )
            texts = {"unsteered": self.unsteered[i], f"{self.cell.multiplier:+g}": self.steered[i]}
            rows += [
                f"<tr><td style='text-align:right'>{name}</td>"
                f"<td style='text-align:left'>{html.escape(_shown(text))}</td></tr>"
                for name, text in texts.items()
            ]
            rows.append(
                f"<tr><td></td><td style='text-align:left'><small>{html.escape(self._facts(i))}"
                "</small></td></tr>"
            )
        return f"<table><caption>{html.escape(str(self.cell))}</caption>{''.join(rows)}</table>"

    def __repr__(self) -> str:
        return str(self)


def _shown(text: str) -> str:
    return text if text.strip() else "(empty)"
