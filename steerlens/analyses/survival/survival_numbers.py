"""Numbers of long texts, steered and unsteered, window by window, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steerlens.analyses.confirmation.written_share import (
    UNKNOWN,
    auroc_interval,
    is_good_reader,
    why_no_reader,
)
from steerlens.analyses.survival.breaking import Ends, Limits, broken_ends, lost_ends
from steerlens.analyses.survival.text_means import difference_interval, ratio_interval
from steerlens.arguments import ArgumentError
from steerlens.results import Cell, Column, Result
from steerlens.stats import Interval
from steerlens.stats.kaplan_meier import SurvivalCurve, kaplan_meier, log_rank

Role = Literal["unsteered", "other draws", "positive", "negative", "steered", "kept", "recomputed"]
"""What wrote some texts: the model by itself, by itself with other random draws, under one of the two
contexts, under steering, or under steering that is switched off with the cache kept or recomputed."""
Event = Literal["broken", "lost"]
PARTS = 4
"""Parts of the texts that the tables show, at most."""


@dataclass(frozen=True)
class Writer:
    """What wrote one text after every prompt."""

    role: Role
    cell: Cell | None = None
    """The intervention and its multiplier, where there is one."""

    def __str__(self) -> str:
        if self.cell is None:
            return {
                "other draws": "unsteered, other draws",
                "positive": "under the positive context",
                "negative": "under the negative context",
            }.get(self.role, self.role)
        name = f"{self.cell.row} at {self.cell.multiplier:+g}"
        return name if self.role == "steered" else f"{name}, off, cache {self.role}"


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class SurvivalNumbers(Result):
    """Long texts, steered and unsteered, window by window.

    Texts of one prompt have the same random draws, but for those with "other draws". A text is there
    until its last full window; what ended before is NaN, and means are over the texts that are there.
    Intervals are over prompts.
    """

    kind: ClassVar[str] = "survival"

    writers: tuple[Writer, ...]
    prompts: tuple[str, ...]
    window: int
    """Tokens of a window."""
    scores: Float[Tensor, "writer prompt window"]
    """The reader's numbers: more is more of the positive side."""
    surprisal: Float[Tensor, "writer prompt window"]
    """Nats per token under the unsteered model, after all text before."""
    repetition: Float[Tensor, "writer prompt window"]
    """Share of n-grams that stood in the text before."""
    limits: Limits
    """What a window may reach before its text counts as broken."""
    steered: int | None
    """Tokens after which steering is switched off, in texts that it is; None where there are none."""
    texts: tuple[tuple[str, ...], ...]
    """[writer][prompt]"""
    reader: str
    unit: str
    """The unit of the reader's numbers."""
    missing: str
    """Why there is no context to compare with; "" where there is one."""
    made_by: dict[str, Any]

    # What was written

    @property
    def tokens(self) -> int:
        """The length of the longest text."""
        return self.window * self.scores.shape[-1]

    @cached_property
    def there(self) -> Bool[Tensor, "writer prompt window"]:
        """Whether a text fills a window."""
        return self.surprisal.isfinite()

    def find(self, role: Role, cell: Cell | None = None) -> int | None:
        """The number of a writer; None where there is none."""
        for k, one in enumerate(self.writers):
            if one.role == role and (cell is None or one.cell == cell):
                return k
        return None

    def sign(self, writer: int) -> int:
        """1 where more of the positive side is asked for, -1 where less."""
        cell = self.writers[writer].cell
        negative = cell.multiplier < 0 if cell else self.writers[writer].role == "negative"
        return -1 if negative else 1

    @property
    def parts(self) -> tuple[slice, ...]:
        """The texts in equal parts, four at the most, as slices of windows."""
        count = self.scores.shape[-1]
        each = next(count // n for n in range(PARTS, 0, -1) if count % n == 0)
        return tuple(slice(start, start + each) for start in range(0, count, each))

    def span(self, windows: slice) -> str:
        """Some windows in words: the tokens from which to which they go, counted from 1."""
        first, stop, _ = windows.indices(self.scores.shape[-1])
        return f"{first * self.window + 1}–{stop * self.window}"

    # The reader

    @cached_property
    def reader_auroc(self) -> Interval:
        """Probability that a whole text under the positive context is read as more positive than one
        under the negative context, with its 95% interval over prompts. NaN without contexts."""
        found = [self.find("positive"), self.find("negative")]
        if None in found:
            return UNKNOWN
        sides = [self.scores[k].nanmean(-1) for k in found if k is not None]
        both = torch.stack(sides).isfinite().all(0)
        if int(both.sum()) < 2:
            return UNKNOWN
        one, other = (side[both][:, None] for side in sides)
        return auroc_interval(one, other)

    @property
    def reader_is_good(self) -> bool:
        """Whether the reader tells the texts of the two contexts apart well enough to be used."""
        return is_good_reader(self.reader_auroc)

    def why_not(self) -> str:
        """Why no shares are given; "" where they are."""
        return self.missing or why_no_reader(self.reader_auroc)

    # Numbers of one writer in some windows

    def share(self, writer: int, windows: slice = slice(None)) -> Interval:
        """What is written of what the asked context writes in the same windows.

        (steered - unsteered) over the larger of (under the asked context - unsteered) and half of
        (under the positive context - under the negative one), as `WrittenEffect.share`. NaN where the
        reader is refused, where fewer than 8 texts of a kind are there, or where the contexts
        themselves write no difference in these windows.
        """
        if self.why_not():
            return UNKNOWN
        sign = float(self.sign(writer))
        asked = self._of(self.scores, "positive" if sign > 0 else "negative", windows)
        unsteered = self._of(self.scores, "unsteered", windows)
        sides = [self._of(self.scores, role, windows) for role in ("positive", "negative")]
        own = _over(self.scores[writer], windows)
        return ratio_interval(
            (own * sign, unsteered * sign), (asked, unsteered, sign), (sides[0], sides[1], 0.5)
        )

    def change(self, writer: int, windows: slice = slice(None)) -> Interval:
        """Steered minus unsteered in the asked direction, in the reader's unit."""
        sign = self.sign(writer)
        own = _over(self.scores[writer], windows) * sign
        return difference_interval(own, self._of(self.scores, "unsteered", windows) * sign)

    def extra_surprisal(self, writer: int, windows: slice = slice(None)) -> Interval:
        """Surprisal above that of the unsteered texts in the same windows, in nats per token."""
        own = _over(self.surprisal[writer], windows)
        return difference_interval(own, self._of(self.surprisal, "unsteered", windows))

    def extra_repetition(self, writer: int, windows: slice = slice(None)) -> Interval:
        """Share of repeated n-grams above that of the unsteered texts in the same windows."""
        own = _over(self.repetition[writer], windows)
        return difference_interval(own, self._of(self.repetition, "unsteered", windows))

    def _of(self, values: Tensor, role: Role, windows: slice) -> Float[Tensor, " prompt"]:
        found = self.find(role)
        assert found is not None
        return _over(values[found], windows)

    # Events

    def ends(self, writer: int, event: Event = "broken") -> Ends:
        """For each text the number of tokens after which the event was there, or was not yet.

        - "broken": a window exceeds one of the `limits`. Followed until the last full window.
        - "lost": the mean of the reader's numbers over four windows in a row is not above that of the
          unsteered text of the same prompt and the same windows, in the asked direction. Followed
          until the fourth window from the end of the shorter text.
        """
        if event not in ("broken", "lost"):
            raise ArgumentError(f"event={event!r:.80} must be 'broken' or 'lost'.")
        if event == "broken":
            values = self.surprisal[writer], self.repetition[writer]
            return broken_ends(*values, self.limits, self.window)
        unsteered = self.find("unsteered")
        assert unsteered is not None
        effect = (self.scores[writer] - self.scores[unsteered]) * self.sign(writer)
        return lost_ends(effect, self.window)

    def survival(self, writer: int, event: Event = "broken") -> SurvivalCurve | None:
        """The share of texts without the event over tokens (Kaplan and Meier); None without texts.

        Texts that end are censored: the curve takes them to go on as those that did not end.
        """
        times, ended = self.ends(writer, event)
        return kaplan_meier(times, ended) if times else None

    def left(self, writer: int, event: Event = "broken", tokens: int | None = None) -> Interval:
        """The share of texts without the event after some tokens; by default at the end."""
        curve = self.survival(writer, event)
        return UNKNOWN if curve is None else curve.at(tokens or self.tokens)

    def against(self, writer: int, event: Event = "broken") -> float:
        """The p-value of the log-rank test against texts that were never steered.

        For "broken" against the unsteered texts of the same prompts, for "lost" against those with
        other random draws, on which steering has no effect. Prompts are the same in both groups and
        the test takes them to be independent, so it is conservative. NaN without texts.
        """
        base = self.find("unsteered" if event == "broken" else "other draws")
        assert base is not None
        groups = self.ends(writer, event), self.ends(base, event)
        return log_rank(*groups) if all(times for times, _ in groups) else float("nan")

    # Tables

    def coordinates(self, axis: str, size: int) -> Mapping[str, Sequence[Any]]:
        """Writers by name and role; windows by the tokens that they end with."""
        if axis == "writer":
            cells = [one.cell for one in self.writers]
            return {
                "writer": list(map(str, self.writers)),
                "role": [one.role for one in self.writers],
                "row": [None if cell is None else cell.row for cell in cells],
                "multiplier": [None if cell is None else cell.multiplier for cell in cells],
            }
        if axis == "window":
            return {
                "window": list(range(size)),
                "token": [self.window * (k + 1) for k in range(size)],
            }
        if axis == "prompt":
            return {"prompt": list(range(size))}
        return super().coordinates(axis, size)

    def columns(self) -> list[Column]:
        """For every window of every writer: how many texts, and all measures with their intervals."""
        axes, windows = ("writer", "window"), range(self.scores.shape[-1])
        found = [Column("texts", axes, self.there.sum(1))]
        for name, of in (
            ("share", self.share),
            ("change", self.change),
            ("extra_surprisal", self.extra_surprisal),
            ("extra_repetition", self.extra_repetition),
        ):
            values = torch.tensor(
                [[list(of(k, slice(w, w + 1))) for w in windows] for k in range(len(self.writers))],
                dtype=torch.float64,
            )
            ends = ("", "_low", "_high")
            found += [Column(name + end, axes, values[..., j]) for j, end in enumerate(ends)]
        for event in ("broken", "lost"):
            curves = [self.survival(k, event) for k in range(len(self.writers))]
            rows = [
                [
                    float("nan") if curve is None else curve.at((w + 1) * self.window).value
                    for w in windows
                ]
                for curve in curves
            ]
            found.append(Column(f"not_{event}", axes, torch.tensor(rows)))
        return found

    @property
    def shown(self) -> list[int]:
        """The writers that summaries and figures show: those that steer, or did."""
        return [k for k, one in enumerate(self.writers) if one.cell is not None]


def _over(values: Float[Tensor, "prompt window"], windows: slice) -> Float[Tensor, " prompt"]:
    """Means over some windows of each text, over those that are there; NaN for none."""
    return values[:, windows].nanmean(-1)
