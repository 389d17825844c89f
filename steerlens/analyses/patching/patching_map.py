"""What patching one layer and token does to an answer, in every cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from steerlens import plots, stats
from steerlens.analyses.ratios import Bounds, ratio_of_means
from steerlens.arguments import ArgumentError
from steerlens.report.numbers import format_interval, format_number, with_minus
from steerlens.results import Column, Result
from steerlens.results.grid import layers_of
from steerlens.sites import Site
from steerlens.stats import Interval

if TYPE_CHECKING:
    import plotly.graph_objects as go

NAMES = {"denoise": "restored by the clean activation", "noise": "lost to the corrupt activation"}
STEERED = {"denoise": "made by the steered activation", "noise": "lost without it"}


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class PatchingMap(Result):
    """Log-odds of the answers with one activation patched, for every site and token.

    effect = (patched - base) / (other - base), of means over examples: 0 where the patch does
    nothing, 1 where it makes the run answer as the other one. The base is the corrupt run when
    denoising and the clean run when noising. It can leave 0 to 1.
    """

    kind: ClassVar[str] = "patching"

    sites: tuple[Site, ...]
    positions: tuple[int, ...]
    """Tokens counted from the end of the prompt: -1 is the last one."""
    clean_tokens: tuple[tuple[str, ...], ...]
    """[example][position]"""
    corrupt_tokens: tuple[tuple[str, ...], ...]
    groups: tuple[str, ...]
    """The group of each example, the unit of the intervals."""
    clean: Float[Tensor, " example"]
    """Log-odds of the positive answer in the clean run, in nats."""
    corrupt: Float[Tensor, " example"]
    """The same in the corrupt run."""
    denoised: Float[Tensor, "site position example"] | None
    """Log-odds of the corrupt run with the clean activation at one place."""
    noised: Float[Tensor, "site position example"] | None
    """Log-odds of the clean run with the corrupt activation at one place."""
    made_by: dict[str, Any]

    @property
    def ways(self) -> tuple[str, ...]:
        """What was measured: "denoise", "noise", or both."""
        given = {"denoise": self.denoised, "noise": self.noised}
        return tuple(way for way, numbers in given.items() if numbers is not None)

    def effect(
        self, how: Literal["denoise", "noise"] = "denoise", example: int | None = None
    ) -> Float[Tensor, "site position"]:
        """The share of the difference between both runs that a patch makes.

        Args:
            example: One example by itself; by default the ratio of the means over all.

        Raises:
            ValueError: If it was not measured.
        """
        moved, whole = self._differences(how)
        if example is not None:
            return moved[..., example] / whole[example]
        return moved.mean(-1) / whole.mean()

    def effect_interval(self, how: Literal["denoise", "noise"] = "denoise") -> Bounds:
        """`effect` with the 95% interval of each cell by itself, over groups (Fieller).

        The ends are NaN below 8 groups, and where the difference of both runs may be 0.
        """
        moved, whole = self._differences(how)
        groups = stats.group_numbers(self.groups)
        _, low, high = ratio_of_means(moved, whole.expand_as(moved), (groups, groups), matched=True)
        return self.effect(how), low, high

    def _differences(self, how: str) -> tuple[Tensor, Tensor]:
        """What each patch moves, and the difference between both runs."""
        if how not in self.ways:
            raise ArgumentError(
                f"how={how!r:.80} was not measured. It has {', '.join(map(repr, self.ways))}."
            )
        if self.denoised is not None and how == "denoise":
            return self.denoised - self.corrupt, self.clean - self.corrupt
        assert self.noised is not None
        return self.noised - self.clean, self.corrupt - self.clean

    @property
    def labels(self) -> tuple[str, ...]:
        """What each position is called: its token; both tokens where the prompts differ.

        A position at which examples have different tokens has its number and its first token.
        """
        made = []
        for k, place in enumerate(self.positions):
            clean = {row[k] for row in self.clean_tokens}
            both = [row[k] for row in (self.clean_tokens[0], self.corrupt_tokens[0])]
            names = [plots.visible(token) for token in both]
            same = all(
                one[k] == other[k]
                for one, other in zip(self.clean_tokens, self.corrupt_tokens, strict=True)
            )
            name = names[0] if same else " / ".join(names)
            made.append(name if len(clean) == 1 else with_minus(f"{place}: {name} …"))
        return tuple(made)

    @property
    def _site_names(self) -> tuple[int, ...] | tuple[str, ...]:
        names = tuple(map(str, self.sites))
        return layers_of(names, self.sites) or names

    def best(self, how: Literal["denoise", "noise"] = "denoise") -> tuple[Site, int]:
        """The site and position (counted from the end) with the largest effect.

        The largest of many is biased upwards; quote it from other examples.
        """
        effect = self.effect(how)
        site, place = divmod(int(effect.argmax()), effect.shape[1])
        return self.sites[site], self.positions[place]

    def columns(self) -> list[Column]:
        """The effects of every cell with their intervals, and mean log-odds."""
        found: list[Column] = []
        for way in self.ways:
            bounds = self.effect_interval(way)  # type: ignore[arg-type]
            for end, values in zip(("", "_low", "_high"), bounds, strict=True):
                found.append(Column(f"{way}{end}", ("site", "position"), values))
        return found

    def summary(self) -> str:
        """Both runs, and the cells with the largest effects."""
        sizes = stats.sizes_in_words(stats.group_numbers(self.groups), len(self.clean))
        names = ("steered", "unsteered") if self._traced else ("clean", "corrupt")
        lines = [
            f"{self.made_by['question']} {sizes}; log-odds of the positive answer "
            f"{format_number(self.clean.mean())} nats {names[0]}, "
            f"{format_number(self.corrupt.mean())} {names[1]}"
        ]
        for way in self.ways:
            site, place = self.best(way)  # type: ignore[arg-type]
            i, j = self.sites.index(site), self.positions.index(place)
            bounds = self.effect_interval(way)  # type: ignore[arg-type]
            value = Interval(*(float(bound[i, j]) for bound in bounds))
            lines.append(
                f"{way}: most is {self._words[way]} at {site}, token {self.labels[j]}: "
                f"{format_interval(value)} of the difference"
            )
        return "\n".join(lines)

    @property
    def _traced(self) -> bool:
        return "intervention" in self.made_by

    @property
    def _words(self) -> dict[str, str]:
        return STEERED if self._traced else NAMES

    def plot(self) -> go.Figure:
        """A heatmap of layer by token for each way, one above the other."""
        shown = {}
        for way in self.ways:
            bounds = self.effect_interval(way)  # type: ignore[arg-type]
            shown[f"{way}: {self._words[way]}"] = tuple(b.tolist() for b in bounds)
        what = "steering" if self._traced else "the difference between the prompts"
        note = "Share of the difference of log-odds that one patch makes; 1 is all of it."
        return plots.token_heatmap(
            shown, rows=self._site_names, tokens=self.labels, unit="of the difference",
            title=f"Where {what} is carried", note=note,
        )  # fmt: skip
