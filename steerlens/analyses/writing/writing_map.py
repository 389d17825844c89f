"""What steering does to what a model writes: the texts of every cell, and what can be counted."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from scipy import stats as scipy_stats
from torch import Tensor

from steerlens import plots, stats
from steerlens.analyses.writing.samples import Samples
from steerlens.measures.repetition import (
    compression_ratio,
    distinct_share,
    distinct_without_each,
    repeated_share,
)
from steerlens.results import Cell
from steerlens.sites import Site
from steerlens.stats import Interval
from steerlens.store import result_files as files
from steerlens.store.files import write_text

if TYPE_CHECKING:
    import plotly.graph_objects as go

REPEATED, DISTINCT, POOLED = 4, 1, 2
"""Lengths of n-grams: those counted as repeated and as distinct in a text, and in a whole cell."""
Quantity = Literal[
    "surprisal", "repeated", "distinct", "compression", "variety", "length", "judged"
]


class Kind(NamedTuple):
    """How a quantity is called."""

    label: str
    unit: str
    worse_down: bool = False
    """Whether less of it is worse."""
    least: float = 0.0
    """What a picture must not show as a large change, however small all others are."""


KINDS: dict[Quantity, Kind] = {
    "surprisal": Kind("surprisal", "nats per token", least=0.1),
    "repeated": Kind(f"repeated {REPEATED}-grams", "share", least=0.1),
    "distinct": Kind("distinct tokens", "share", True, least=0.1),
    "compression": Kind("compression", "ratio", least=0.1),
    "variety": Kind(f"distinct {POOLED}-grams of all texts", "share", True, least=0.1),
    "length": Kind("length", "tokens", True, least=1.0),
    "judged": Kind("judge's score", "as judged", True),
}


FIRST: tuple[Quantity, ...] = ("surprisal", "repeated", "distinct", "variety")
"""The four that say most without a judge."""


class Change(NamedTuple):
    """Steered minus unsteered texts of the same prompts, for every cell."""

    mean: Float[Tensor, "site multiplier"]
    low: Float[Tensor, "site multiplier"]
    """Lower end of the 95% interval over prompts."""
    high: Float[Tensor, "site multiplier"]
    pairs: Int[Tensor, "site multiplier"]
    """Prompts for which both texts have the number; the others are left out."""


@dataclass(frozen=True, eq=False)
class WritingMap:
    """The texts written at every site, multiplier and prompt, and how likely they are unsteered.

    Everything else is derived. What steering does is always the difference to the unsteered text
    of the same prompt, written with the same luck. A number that a text does not have (an empty
    text has no n-grams) is NaN; such prompts are left out of its mean, and counted.

    No one number says that a text is good: a loop of one word has a *low* surprisal, and random
    words repeat nothing. Read them together, and read `sample(cell)`.
    """

    sites: tuple[Site, ...]
    multipliers: Float[Tensor, " multiplier"]
    prompts: tuple[str, ...]
    texts: tuple[tuple[tuple[str, ...], ...], ...]
    """[site][multiplier][prompt], without the prompt and without special tokens."""
    tokens: Int[Tensor, "site multiplier prompt new"]
    """What was written, with the EOS that ended it; -1 after that."""
    ended: Bool[Tensor, "site multiplier prompt"]
    """Whether the text ended by itself, with EOS, rather than at the limit."""
    surprisals: Float[Tensor, "site multiplier prompt"]
    """Mean negative log-probability of the written tokens, EOS included, under the unsteered model
    after the prompt, in nats per token."""
    judged: Float[Tensor, "site multiplier prompt"] | None = None
    """A judge's score of every text; more is taken to be better."""
    made_by: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = (len(self.sites), len(self.multipliers), len(self.prompts))
        numbers = {"tokens": self.tokens[..., 0], "ended": self.ended}
        numbers |= {"surprisals": self.surprisals, "judged": self.judged}
        found = {name: tuple(x.shape) for name, x in numbers.items() if x is not None}
        found["texts"] = _shape(self.texts)
        for name, given in found.items():
            if given != shape:
                raise ValueError(
                    f"{name} has shape {given}; {shape[0]} sites, {shape[1]} multipliers and "
                    f"{shape[2]} prompts need {shape}."
                )
        if int((self.multipliers == 0).sum()) != 1:
            raise ValueError(
                f"multipliers={self.multipliers.tolist()} must hold 0 once: the unsteered texts "
                "are what all others are compared with."
            )

    # Numbers of every text

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(site.layer for site in self.sites)

    @property
    def kinds(self) -> tuple[Quantity, ...]:
        """What there is to look at; "judged" only if a judge was asked."""
        return tuple(kind for kind in KINDS if kind != "judged" or self.judged is not None)

    @property
    def perplexities(self) -> Float[Tensor, "site multiplier prompt"]:
        """exp of the surprisal."""
        return self.surprisals.exp()

    @property
    def lengths(self) -> Int[Tensor, "site multiplier prompt"]:
        """Tokens written, the EOS that ended the text included; never 0."""
        return (self.tokens >= 0).sum(-1)

    @cached_property
    def empty(self) -> Bool[Tensor, "site multiplier prompt"]:
        """Texts without a word: ended at once, or special tokens and spaces only."""
        flags = [[[not text.strip() for text in cell] for cell in row] for row in self.texts]
        return torch.tensor(flags)

    @cached_property
    def repeated(self) -> Float[Tensor, "site multiplier prompt"]:
        """Share of a text's 4-grams that stood in it before; NaN below 4 tokens."""
        return self._per_text(lambda words, text: repeated_share(words, REPEATED))

    @cached_property
    def distinct(self) -> Float[Tensor, "site multiplier prompt"]:
        """Share of a text's tokens that are different ones (distinct-1); NaN without any."""
        return self._per_text(lambda words, text: distinct_share([words], DISTINCT))

    @cached_property
    def compression(self) -> Float[Tensor, "site multiplier prompt"]:
        """Bytes of a text for each byte left after compression; NaN for an empty text."""
        return self._per_text(lambda words, text: compression_ratio(text))

    @cached_property
    def variety(self) -> Float[Tensor, "site multiplier"]:
        """Share of the 2-grams of all texts of a cell that are different ones (distinct-2).

        Low where the prompts no longer matter and all texts are alike, which no text by itself
        shows.
        """
        return self._per_cell(lambda words: distinct_share(words, POOLED))

    def values(self, quantity: Quantity) -> Float[Tensor, "site multiplier prompt"]:
        """The numbers of every text, by name.

        Raises:
            ValueError: If there is no such quantity, it is one of cells, or no judge was asked.
        """
        if quantity not in self.kinds or quantity == "variety":
            known = [kind for kind in self.kinds if kind != "variety"]
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
                self._changes[quantity] = _paired(values - values[:, self._zero, None])
        return self._changes[quantity]

    @cached_property
    def _changes(self) -> dict[Quantity, Change]:
        return {}

    def _variety_change(self) -> Change:
        """With a jackknife over prompts: a resample that holds a text twice would look less varied."""
        n = len(self.prompts)
        without = self._per_cell(lambda words: distinct_without_each(words, POOLED))
        moved = (without - without[:, self._zero, None]).double()
        error = (moved.var(-1, correction=0) * (n - 1)).sqrt()
        reach = (float(scipy_stats.t.ppf(0.975, n - 1)) * error).float()
        mean = self.variety - self.variety[:, self._zero, None]
        return Change(mean, mean - reach, mean + reach, torch.full(mean.shape, n))

    # Cells

    @property
    def _zero(self) -> int:
        return int((self.multipliers == 0).nonzero()[0])

    def cell(self, site: int, multiplier: int) -> Cell:
        """The cell at these indices."""
        where = self.sites[site]
        return Cell(str(where), float(self.multipliers[multiplier]), where)

    def index(self, cell: Cell | tuple[int, float]) -> tuple[int, int]:
        """The indices of a cell, which may be given as (layer, multiplier).

        Raises:
            ValueError: If there is no such cell.
        """
        multiplier = cell[1]
        where = (cell.site or cell.row) if isinstance(cell, Cell) else cell[0]
        places: tuple = self.sites if isinstance(where, Site) else self.layers
        columns = torch.isclose(self.multipliers, torch.tensor(float(multiplier))).nonzero()
        if where not in places or not len(columns):
            raise ValueError(
                f"{where} at multiplier {multiplier:g} is no cell of this map. It has "
                f"{', '.join(map(str, self.sites))}, at multipliers "
                f"{', '.join(f'{m:g}' for m in self.multipliers.tolist())}."
            )
        return places.index(where), int(columns[0])

    def sample(self, cell: Cell | tuple[int, float], n: int | None = 8) -> Samples:
        """The texts of a cell beside the unsteered ones, with their numbers, to be read.

        The first n prompts (all for None): never chosen by what was written.
        """
        i, j = self.index(cell)
        kinds: list[Quantity] = [kind for kind in self.kinds if kind != "variety"]
        return Samples(
            cell=self.cell(i, j),
            prompts=self.prompts[:n],
            unsteered=self.texts[i][self._zero][:n],
            steered=self.texts[i][j][:n],
            numbers={
                KINDS[kind].label: tuple(
                    (float(before), float(after))
                    for before, after in self.values(kind)[i, [self._zero, j], :n].T
                )
                for kind in kinds
            },
        )

    def _words(self, i: int, j: int) -> list[list[int]]:
        """The tokens of a cell's texts, without the EOS that ended them."""
        rows = zip(self.tokens[i, j].tolist(), self.ended[i, j].tolist(), strict=True)
        return [[t for t in row if t >= 0][: -1 if end else None] for row, end in rows]

    def _per_cell(self, measure: Callable[[list[list[int]]], Any]) -> Tensor:
        columns = range(len(self.multipliers))
        return torch.tensor(
            [[measure(self._words(i, j)) for j in columns] for i in range(len(self.sites))]
        )

    def _per_text(self, measure: Callable[[list[int], str], float]) -> Tensor:
        return torch.tensor(
            [
                [list(map(measure, self._words(i, j), texts)) for j, texts in enumerate(row)]
                for i, row in enumerate(self.texts)
            ]
        )

    # Pictures and words

    def plot(self, quantity: Quantity | None = None) -> go.Figure:
        """Layer x multiplier: what changes against the unsteered texts; red is worse.

        Args:
            quantity: One quantity, large; by default four of them.
        """
        shown = FIRST if quantity is None else (quantity,)
        changes = {KINDS[kind]: self.change(kind) for kind in shown}
        title = f"What steering does to the texts: {KINDS[shown[0]].label}"
        return plots.change_panels(
            {kind.label: tuple(x.tolist() for x in c[:3]) for kind, c in changes.items()},
            layers=list(self.layers),
            columns=self.multipliers.tolist(),
            units={kind.label: kind.unit for kind in changes},
            worse_down=[kind.label for kind in changes if kind.worse_down],
            least={kind.label: kind.least for kind in changes},
            title=self._finding() if quantity is None else title,
            column_title=f"multiplier ({self.made_by.get('unit') or 'strength'})",
            note=f"Against the unsteered texts of the same {len(self.prompts)} prompts; red is "
            f"worse. {self._emptiness()}",
            hover={kind.label: self._hover(change) for kind, change in changes.items()},
        )

    def _finding(self) -> str:
        mean = self.change("surprisal").mean
        i, j = divmod(int(mean.argmax()), mean.shape[1])
        if float(mean[i, j]) <= 0:
            return "Steered texts are no less likely than unsteered ones"
        where = f"layer {self.layers[i]}, multiplier {self.cell(i, j).multiplier:g}"
        return (
            f"Steered texts are up to {math.exp(float(mean[i, j])):.3g} times as perplexing to the "
            f"unsteered model ({where.replace('-', '−')})"
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
            for i in range(len(self.sites))
        ]

    def summary(self) -> str:
        """A few lines: the unsteered texts, and the cell in which each quantity is worst."""
        lines = [
            f"{self.made_by.get('question', 'Steered writing')} ({self.made_by.get('model', '')}): "
            f"{len(self.prompts)} prompts, up to {self.tokens.shape[-1]} tokens each"
        ]
        for kind in self.kinds:
            label, unit, worse_down, _ = KINDS[kind]
            own = self.variety[0] if kind == "variety" else self.values(kind)[0].nanmean(-1)
            change = self.change(kind)
            seen = (-change.mean if worse_down else change.mean).nan_to_num(-math.inf)
            seen[:, self._zero] = -math.inf
            i, j = divmod(int(seen.argmax()), seen.shape[1])
            if not math.isfinite(seen[i, j]):
                lines.append(
                    f"  {label:30s} fewer than two prompts have it with and without steering"
                )
                continue
            found = Interval(*(float(part[i, j]) for part in change[:3]))
            lines.append(
                f"  {label:30s} {float(own[self._zero]):.3g} unsteered ({unit}), changes by {found} "
                f"at the worst cell, {self.cell(i, j)}"
            )
        return "\n".join([*lines, f"  {self._emptiness()}"])

    # Files

    def save(self, directory: Path | str) -> Path:
        """Writes writing.safetensors, writing.json and a tidy writing.csv into a folder."""
        names = ("multipliers", "tokens", "ended", "surprisals", "judged")
        tensors = {name: getattr(self, name) for name in names}
        out = files.save(
            Path(directory), "writing", {k: x for k, x in tensors.items() if x is not None},
            self.sites, self.made_by, prompts=self.prompts, texts=self.texts,
        )  # fmt: skip
        write_text(out / "writing.csv", self._tidy())
        return out

    @classmethod
    def load(cls, directory: Path | str) -> WritingMap:
        """Reads what `save` wrote.

        Raises:
            ResultError: If the folder holds no writing, or its parts do not fit each other.
        """
        tensors, sites, made_by = files.load(Path(directory), "writing")
        try:
            extra = made_by.pop("_extra")
            texts = tuple(tuple(map(tuple, row)) for row in extra["texts"])
            prompts = tuple(extra["prompts"])
            return cls(sites=sites, prompts=prompts, texts=texts, made_by=made_by, **tensors)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise files.ResultError(
                f"The writing in {directory} is broken ({error}). Delete writing.json and "
                "writing.safetensors there and write the texts again."
            ) from error

    def _tidy(self) -> str:
        heads = ["layer", "stream", "multiplier", "prompts", "empty"]
        for kind in self.kinds:
            heads += [kind, f"{kind}_change", f"{kind}_low", f"{kind}_high", f"{kind}_pairs"]
        lines = [",".join(heads)]
        means: dict[Quantity, Tensor] = {
            kind: self.variety if kind == "variety" else self.values(kind).nanmean(-1)
            for kind in self.kinds
        }
        for i, site in enumerate(self.sites):
            for j, m in enumerate(self.multipliers.tolist()):
                row = [str(site.layer), site.stream, f"{m:g}"]
                row += [str(len(self.prompts)), str(int(self.empty[i, j].sum()))]
                for kind, mean in means.items():
                    numbers = (mean, *self.change(kind))
                    row += [f"{float(x[i, j]):.6g}" for x in numbers]
                lines.append(",".join(row))
        return "\n".join(lines) + "\n"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        return self.plot()._repr_mimebundle_(include, exclude)

    def __repr__(self) -> str:
        return self.summary()


def _paired(changes: Float[Tensor, "site multiplier prompt"]) -> Change:
    """The mean of each cell with its interval, over the prompts that have a number."""
    fine = changes.isfinite()
    pairs, whole = fine.sum(-1), fine.all(-1)
    found = torch.full((3, *whole.shape), torch.nan)
    if bool(whole.any()):
        found[:, whole] = torch.stack(stats.mean_interval(changes[whole]))
    for i, j in (~whole & (pairs >= 2)).nonzero().tolist():
        found[:, i, j] = torch.stack(stats.mean_interval(changes[i, j, fine[i, j]]))
    mean, low, high = found
    return Change(mean, low, high, pairs)


def _shape(texts: tuple[tuple[tuple[str, ...], ...], ...]) -> tuple[int, ...]:
    """Sites, multipliers and prompts of a table of texts; a ragged one has the shape ()."""
    rows = {len(row) for row in texts}
    cells = {len(cell) for row in texts for cell in row}
    return (len(texts), *rows, *cells) if len(rows) == len(cells) == 1 else ()
