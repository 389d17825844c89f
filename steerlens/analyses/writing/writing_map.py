"""What steering does to what a model writes: the texts of every cell, and what can be counted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, SupportsFloat, SupportsIndex

import torch
from jaxtyping import Bool, Float, Int
from scipy import stats as scipy_stats
from torch import Tensor

from steerlens import plots, stats
from steerlens.analyses.writing.counting import count_cells, count_texts, shape_of, words_of
from steerlens.analyses.writing.quantities import (
    DISTINCT,
    FIRST,
    POOLED,
    QUANTITIES,
    REPEATED,
    Change,
    Quantity,
    mean_change,
)
from steerlens.analyses.writing.samples import Samples
from steerlens.analyses.writing.writing_section import writing_section
from steerlens.data.near_duplicates import text_groups
from steerlens.measures.repetition import (
    compression_ratio,
    distinct_share,
    distinct_without_each,
    repeated_share,
)
from steerlens.report.numbers import in_words, with_minus
from steerlens.report.section import Figure, Section
from steerlens.results import Cell, Column, Result, RowResult, chosen_cell
from steerlens.results.grid import find_multiplier
from steerlens.results.summary_lines import labelled
from steerlens.sites import Site
from steerlens.stats import Interval

if TYPE_CHECKING:
    import plotly.graph_objects as go

CellLike = Cell | tuple[str | SupportsIndex | Site, SupportsFloat]
"""A cell; or the name, site or layer of its row, and its multiplier."""


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class WritingMap(RowResult):
    """The texts of every row, multiplier and prompt, and how likely the unsteered model finds them.

    Everything else is derived. A change is always against the unsteered text of the same prompt,
    which is sampled with the same random draws. A number that a text does not have (an empty text
    has no n-grams) is NaN; such prompts are left out of its mean, and counted.

    No single number shows that a text is good: a loop of one word has a *low* surprisal, and random
    words repeat nothing. Look at several of them, and at the texts: `sample(cell)`.
    """

    kind: ClassVar[str] = "writing"
    rows: tuple[str, ...]
    """The name of each intervention."""
    sites: tuple[Site | None, ...]
    """Where each intervention acts; None where that is not one site."""
    multipliers: Float[Tensor, " multiplier"]
    prompts: tuple[str, ...]
    texts: tuple[tuple[tuple[str, ...], ...], ...]
    """[row][multiplier][prompt], without the prompt and without special tokens."""
    tokens: Int[Tensor, "row multiplier prompt new"]
    """What was written, with the EOS that ended it; -1 after that."""
    ended: Bool[Tensor, "row multiplier prompt"]
    """Whether the text ended by itself, with EOS, rather than at the limit."""
    surprisals: Float[Tensor, "row multiplier prompt"]
    """Mean negative log-probability of the written tokens, EOS included, under the unsteered model
    after the prompt, in nats per token."""
    judged: Float[Tensor, "row multiplier prompt"] | None = None
    """A judge's score of every text; more is taken to be better."""
    made_by: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = (len(self.rows), len(self.multipliers), len(self.prompts))
        numbers = {"tokens": self.tokens[..., 0], "ended": self.ended}
        numbers |= {"surprisals": self.surprisals, "judged": self.judged}
        found = {name: tuple(x.shape) for name, x in numbers.items() if x is not None}
        found["texts"] = shape_of(self.texts)
        for name, given in found.items():
            if given != shape:
                raise ValueError(
                    f"{name} has shape {given}; {shape[0]} rows, {shape[1]} multipliers and "
                    f"{shape[2]} prompts need {shape}."
                )
        if int((self.multipliers == 0).sum()) != 1:
            raise ValueError(
                f"multipliers={self.multipliers.tolist()} must hold 0 once: all texts are compared "
                "with the unsteered ones."
            )

    # Numbers of every text

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """What is counted; "judged" only if there was a judge."""
        return tuple(name for name in QUANTITIES if name != "judged" or self.judged is not None)

    @property
    def perplexities(self) -> Float[Tensor, "row multiplier prompt"]:
        """exp of the surprisal."""
        return self.surprisals.exp()

    @property
    def lengths(self) -> Int[Tensor, "row multiplier prompt"]:
        """Tokens written, the EOS that ended the text included; never 0."""
        return (self.tokens >= 0).sum(-1)

    @cached_property
    def empty(self) -> Bool[Tensor, "row multiplier prompt"]:
        """Texts without a word: they ended at once, or hold only special tokens and spaces."""
        return count_texts(self.texts, lambda text: not text.strip())

    @cached_property
    def _words(self) -> list[list[list[list[int]]]]:
        return words_of(self.tokens, self.ended)

    @cached_property
    def repeated(self) -> Float[Tensor, "row multiplier prompt"]:
        """Share of a text's 4-grams that occur earlier in it; NaN below 4 tokens."""
        return count_texts(self._words, lambda words: repeated_share(words, REPEATED))

    @cached_property
    def distinct(self) -> Float[Tensor, "row multiplier prompt"]:
        """Different tokens of a text over all its tokens (distinct-1); NaN without any."""
        return count_texts(self._words, lambda words: distinct_share([words], DISTINCT))

    @cached_property
    def compression(self) -> Float[Tensor, "row multiplier prompt"]:
        """Bytes of a text for each byte left after compression; NaN for an empty text."""
        return count_texts(self.texts, lambda text: compression_ratio(text.strip()))

    @cached_property
    def variety(self) -> Float[Tensor, "row multiplier"]:
        """Different 2-grams of all texts of a cell over all their 2-grams (distinct-2).

        It is low where all texts are alike whatever the prompt, which no single text shows.
        """
        return count_cells(self._words, lambda words: distinct_share(words, POOLED))

    def values(self, quantity: Quantity) -> Float[Tensor, "row multiplier prompt"]:
        """The numbers of every text, by name.

        Raises:
            ValueError: If there is no such quantity, if it is a quantity of cells, or if there was
                no judge.
        """
        if quantity not in self.quantities or quantity == "variety":
            known = [name for name in self.quantities if name != "variety"]
            raise ValueError(
                f"These texts have no {quantity!r}. Use one of {', '.join(known)}"
                + (", or write them with judge=…." if self.judged is None else ".")
            )
        name = {"surprisal": "surprisals", "length": "lengths"}.get(quantity, quantity)
        return getattr(self, name).float()

    # What steering changes

    def change(self, quantity: Quantity) -> Change:
        """Steered minus unsteered, with its 95% interval over prompts; 0 at multiplier 0.

        NaN where fewer than two prompts have the number on both sides.
        """
        if quantity not in self._changes:
            if quantity == "variety":
                self._changes[quantity] = self._variety_change()
            else:
                values = self.values(quantity)
                self._changes[quantity] = self._at_zero(
                    mean_change(values - values[:, self._zero, None], self.groups)
                )
        return self._changes[quantity]

    @cached_property
    def groups(self) -> Int[Tensor, " prompt"]:
        """The group of each prompt, the unit of every interval: near-duplicates are one group."""
        return stats.group_numbers(text_groups(self.prompts))

    def _at_zero(self, found: Change) -> Change:
        """The same, but 0 without an error where nothing is steered."""
        low, high = (
            part.masked_fill((self.multipliers == 0) & ~found.mean.isnan(), 0.0)
            for part in (found.low, found.high)
        )
        return found._replace(low=low, high=high)

    @cached_property
    def _changes(self) -> dict[Quantity, Change]:
        return {}

    def _variety_change(self) -> Change:
        """With a jackknife over prompts: a bootstrap sample holds texts twice, which lowers variety."""
        n = int(self.groups.max()) + 1
        mean = self.variety - self.variety[:, self._zero, None]
        pairs = torch.full(mean.shape, len(self.prompts))
        if n < stats.FEWEST:
            unknown = torch.full_like(mean, torch.nan)
            return self._at_zero(Change(mean, unknown, unknown, pairs))
        if n == len(self.prompts):
            without = count_cells(self._words, lambda words: distinct_without_each(words, POOLED))
        else:
            without = torch.stack([self._variety_without(g) for g in range(n)], -1)
        moved = (without - without[:, self._zero, None]).double()
        error = (moved.var(-1, correction=0) * (n - 1)).sqrt()
        reach = (float(scipy_stats.t.ppf(0.975, n - 1)) * error).float()
        return Change(mean, mean - reach, mean + reach, pairs)

    def _variety_without(self, group: int) -> Float[Tensor, "row multiplier"]:
        kept = (self.groups != group).nonzero()[:, 0].tolist()
        return count_cells(
            self._words, lambda words: distinct_share([words[i] for i in kept], POOLED)
        )

    # Cells

    @cached_property
    def _zero(self) -> int:
        return find_multiplier(self.multipliers, 0.0)

    def cell(self, row: int, multiplier: int) -> Cell:
        """The cell at these indices."""
        return Cell(self.rows[row], float(self.multipliers[multiplier]), self.sites[row])

    def index(self, cell: CellLike) -> tuple[int, int]:
        """The indices of a cell.

        Raises:
            ValueError: If there is no such cell.
        """
        row, multiplier = cell[0], cell[1]
        return self.find(row), find_multiplier(self.multipliers, multiplier)

    def sample(self, cell: CellLike, n: int | None = 8) -> Samples:
        """The texts of a cell beside the unsteered ones, with their numbers.

        They are those of the first n prompts (all for None), and never chosen by what was written.
        """
        i, j = self.index(cell)
        return Samples(
            cell=self.cell(i, j),
            prompts=self.prompts[:n],
            unsteered=self.texts[i][self._zero][:n],
            steered=self.texts[i][j][:n],
            numbers={
                QUANTITIES[name].label: tuple(
                    (float(before), float(after))
                    for before, after in self.values(name)[i, [self._zero, j], :n].T
                )
                for name in self.quantities
                if name != "variety"
            },
        )

    # Words and pictures

    def plot(self, quantity: Quantity | None = None) -> go.Figure:
        """Row x multiplier: changes against the unsteered texts; red is worse.

        Args:
            quantity: One quantity, large; by default four of them.
        """
        shown = self._moved(FIRST) if quantity is None else (quantity,)
        changes = {QUANTITIES[name]: self.change(name) for name in shown}
        unit = self.made_by.get("unit")
        return plots.change_panels(
            {info.label: tuple(x.tolist() for x in c[:3]) for info, c in changes.items()},
            rows=self.row_labels,
            columns=self.multipliers.tolist(),
            units={info.label: info.unit for info in changes},
            worse_down=[info.label for info in changes if info.worse_down],
            least={info.label: info.least for info in changes},
            title=self._finding() if quantity is None else _title(quantity),
            column_title=f"multiplier ({unit})" if unit else "multiplier",
            note=f"Against the unsteered texts of the same {len(self.prompts)} prompts; red is "
            f"worse. {self._emptiness()}{self._unmoved(shown) if quantity is None else ''}",
            hover={info.label: self._hover(change) for info, change in changes.items()},
        )

    def _moved(self, names: Sequence[Quantity]) -> tuple[Quantity, ...]:
        """Those of some quantities that change in any cell; the first one if none does."""
        moved: list[Quantity] = []
        for name in names:
            if bool((self.change(name).mean.nan_to_num(1.0) != 0).any()):
                moved.append(name)
        return tuple(moved) or (names[0],)

    def _unmoved(self, shown: Sequence[Quantity]) -> str:
        """Which of the usual quantities are left out of the figure, since nothing changes them."""
        same = [QUANTITIES[name].label for name in FIRST if name not in shown]
        return f" No cell changes {in_words(same)}." if same else ""

    def _finding(self) -> str:
        mean = self.change("surprisal").mean
        i, j = divmod(int(mean.argmax()), mean.shape[1])
        if float(mean[i, j]) <= 0:
            return "Steered texts are no less likely than unsteered ones"
        where = with_minus(f"{self.row_name(i)}, multiplier {self.cell(i, j).multiplier:g}")
        return (
            f"Steered texts have up to {_times(float(mean[i, j]))} the perplexity of unsteered "
            f"ones ({where})"
        )

    def _emptiness(self) -> str:
        counts, n = self.empty.sum(-1), len(self.prompts)
        if not bool(counts.any()):
            return "No text is empty."
        i, j = divmod(int(counts.argmax()), counts.shape[1])
        return (
            f"Empty texts: {int(counts[0, self._zero])} of {n} unsteered, at most "
            f"{int(counts[i, j])} of {n} ({self.cell(i, j)})."
        )

    def _hover(self, change: Change) -> list[list[str]]:
        n, counts, lengths = len(self.prompts), self.empty.sum(-1), self.lengths.float().mean(-1)
        return [
            [
                f"{int(change.pairs[i, j])} of {n} prompts have it<br>{int(counts[i, j])} texts "
                f"empty, {float(lengths[i, j]):.3g} tokens each"
                for j in range(len(self.multipliers))
            ]
            for i in range(len(self.rows))
        ]

    def summary(self) -> str:
        """A few lines: the unsteered texts, and the cell in which each quantity is worst."""
        lines = [
            f"{self.made_by.get('question', 'Steered writing')} ({self.made_by.get('model', '')}): "
            f"{len(self.prompts)} prompts, up to {self.tokens.shape[-1]} tokens each"
        ]
        for name in self.quantities:
            label, unit, worse_down, _ = QUANTITIES[name]
            change = self.change(name)
            seen = (-change.mean if worse_down else change.mean).nan_to_num(-math.inf)
            seen[:, self._zero] = -math.inf
            i, j = divmod(int(seen.argmax()), seen.shape[1])
            if not math.isfinite(seen[i, j]):
                lines.append(
                    f"  {label:30s} fewer than two prompts have it with and without steering"
                )
                continue
            lines.append(
                f"  {label:30s} {float(self._means(name)[0, self._zero]):.3g} unsteered ({unit}), "
                f"changes by {change.at(i, j)} at the worst cell, {self.cell(i, j)}"
            )
        return "\n".join([*lines, f"  {self._emptiness()}"])

    def _means(self, quantity: Quantity) -> Float[Tensor, "row multiplier"]:
        """The mean over the texts of each cell that have the number."""
        return self.variety if quantity == "variety" else self.values(quantity).nanmean(-1)

    def run_summary(self, beside: Mapping[str, Result]) -> str:
        """What happens to the texts of the cell that a map recommends."""
        chosen = self._chosen(beside)
        if chosen is None:
            return ""
        return labelled(
            "writing",
            f"surprisal of the texts {chosen[0]} nats per token against the unsteered ones\n"
            f"repeated 4-grams {chosen[1]}",
        )

    def _chosen(self, beside: Mapping[str, Result]) -> tuple[Interval, Interval] | None:
        """The changes of surprisal and of repeated 4-grams in the cell that a map recommends."""
        cell = chosen_cell(beside)
        if cell is None or cell.row not in self.rows:
            return None
        place = self.index(cell)
        return self.change("surprisal").at(*place), self.change("repeated").at(*place)

    def section(self, beside: Mapping[str, Result]) -> Section:
        """What steering does to the texts of every cell, and of the one that a map recommends."""
        size = {"prompts": len(self.prompts), "tokens": self.tokens.shape[-1]}
        return writing_section(Figure(self.plot), **size, chosen=self._chosen(beside))

    # Tables

    def columns(self) -> Sequence[Column]:
        """For every cell the mean of each quantity, and its change with its interval."""
        axes = ("row", "multiplier")
        found = [
            Column("prompts", (), torch.tensor(len(self.prompts))),
            Column("empty", axes, self.empty.sum(-1)),
        ]
        for name in self.quantities:
            found.append(Column(name, axes, self._means(name)))
            for end, part in zip(
                ("change", "low", "high", "pairs"), self.change(name), strict=True
            ):
                found.append(Column(f"{name}_{end}", axes, part))
        return found


def _times(change: float) -> str:
    """How many times the perplexity a change of surprisal is, to three digits."""
    times = float(f"{math.exp(min(change, 99.0)):.3g}")
    return f"{times:,.0f} times" if 1000 <= times < 1e7 else f"{times:.3g} times"


def _title(quantity: Quantity) -> str:
    return f"What steering does to the texts: {QUANTITIES[quantity].label}"
