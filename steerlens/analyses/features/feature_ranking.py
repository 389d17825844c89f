"""The best features of an SAE for a contrast: what they read, what they write, what they do."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch

from steerlens.results import Column, Result
from steerlens.sites import Site
from steerlens.stats import Interval

WORDS = ("writes", "unwrites", "reads")
"""Columns of the table that hold text."""
NOTE = (
    "All features were searched on these data, so the numbers of the first rows are too large on "
    "average. auroc and difference: activation on positive against negative texts; p: of the AUROC "
    "as the best of all features, against shuffled labels; gain, against: nats of propensity when "
    "the feature is added and subtracted; output and input score: arXiv:2505.20063."
)


class Excerpt(NamedTuple):
    """A text that activates a feature: its tokens, and the activation at each."""

    tokens: tuple[str, ...]
    activations: tuple[float, ...]
    at: int
    """Index of the token with the largest activation."""

    @property
    def peak(self) -> float:
        """The largest activation in the text."""
        return self.activations[self.at]

    def around(self, before: int = 12, after: int = 4) -> Excerpt:
        """The tokens about the largest activation."""
        start, stop = max(0, self.at - before), self.at + after + 1
        return Excerpt(self.tokens[start:stop], self.activations[start:stop], self.at - start)

    def __str__(self) -> str:
        marked = (f"[{t.strip()}]" if i == self.at else t for i, t in enumerate(self.tokens))
        return " ".join(token.strip() for token in marked)


@dataclass(frozen=True)
class FoundFeature:
    """One feature and what was found about it; None for what was not asked for."""

    feature: int
    towards: int
    """1 if more of the feature should give more of the concept, -1 if less of it should."""
    auroc: float | None = None
    difference: Interval | None = None
    """Mean activation on the positive side minus the negative side, with a 95% interval."""
    p_value: float | None = None
    """Of the AUROC, as the best of all features, against shuffled labels."""
    writes: tuple[str, ...] = ()
    """Tokens that its decoder row raises most, by the logit lens."""
    unwrites: tuple[str, ...] = ()
    """Tokens that its decoder row lowers most."""
    output_score: float | None = None
    """Whether it writes the tokens of the logit lens, in [0, 1] (arXiv:2505.20063)."""
    input_score: float | None = None
    """Share of its top texts whose strongest token is one that it also writes, in [0, 1]
    (arXiv:2505.20063)."""
    density: float | None = None
    """Share of tokens on which it fires."""
    reads: tuple[Excerpt, ...] = ()
    """The texts that activate it most."""
    gain: Interval | None = None
    """Change of the propensity when it is added with the sign `towards`, in nats."""
    against: Interval | None = None
    """The same with the other sign: negative where both signs have the effect they should."""

    @property
    def row(self) -> dict[str, Any]:
        """Its numbers by name, for a table; what was not measured is left out."""
        numbers = {
            "feature": self.feature,
            "towards": f"{self.towards:+d}",
            "auroc": self.auroc,
            "p": self.p_value,
            "difference": self.difference,
            "gain": self.gain,
            "against": self.against,
            "output score": self.output_score,
            "input score": self.input_score,
            "density": self.density,
            "writes": " ".join(token.strip() for token in self.writes[:6]),
            "unwrites": " ".join(token.strip() for token in self.unwrites[:6]),
            "reads": str(self.reads[0].around(8, 1)) if self.reads else "",
        }
        return {name: value for name, value in numbers.items() if value not in (None, "")}


@dataclass(frozen=True, eq=False, repr=False)
class FeatureRanking(Result):
    """The best features of one SAE for a contrast, best first. Shown as a table in Jupyter.

    A ranking searches many features on the data it shows, so the numbers of the first are too
    large on average. `compare_features` measures them on questions that had no part in the search.
    """

    kind: ClassVar[str] = "features"

    site: Site
    by: str
    """"contrast", "effect", "output", or "choice": what the order is by."""
    found: tuple[FoundFeature, ...]
    made_by: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.found)

    def __iter__(self) -> Iterator[FoundFeature]:
        return iter(self.found)

    def __getitem__(self, rank: int) -> FoundFeature:
        return self.found[rank]

    @property
    def features(self) -> tuple[int, ...]:
        """Their numbers, best first."""
        return tuple(each.feature for each in self.found)

    @property
    def measured(self) -> list[str]:
        """Names of all that was measured of any of them."""
        names: dict[str, None] = {}
        for each in self.found:
            names |= dict.fromkeys(each.row)
        return list(names)

    def columns(self) -> Sequence[Column]:
        """All numbers by rank; intervals have three columns."""
        found = []
        for name in self.measured:
            if name in ("feature", *WORDS):
                continue
            values = [each.row.get(name, float("nan")) for each in self.found]
            if any(isinstance(value, Interval) for value in values):
                ends = [v if isinstance(v, Interval) else Interval(v, v, v) for v in values]
                for i, end in enumerate(("", "_low", "_high")):
                    parts = torch.tensor([interval[i] for interval in ends])
                    found.append(Column(f"{name}{end}", ("rank",), parts))
            else:
                kind = torch.int64 if name == "towards" else torch.float64
                numbers = torch.tensor([float(v) for v in values], dtype=torch.float64)
                found.append(Column(name.replace(" ", "_"), ("rank",), numbers.to(kind)))
        return found

    def coordinates(self, axis: str, size: int) -> Mapping[str, Sequence[Any]]:
        """The number of the feature at each rank, with what it writes and reads."""
        if axis != "rank":
            return super().coordinates(axis, size)
        words = {
            name: [each.row.get(name, "") for each in self.found]
            for name in WORDS
            if name in self.measured
        }
        return {"rank": range(1, size + 1), "feature": list(self.features), **words}

    def summary(self) -> str:
        """A line for each feature."""
        head = f"Features of {self.made_by.get('sae', self.site)} by {self.by}"
        lines = [
            "  " + ", ".join(f"{name} {_shown(value)}" for name, value in each.row.items())
            for each in self.found
        ]
        return "\n".join([head, *lines])

    def __str__(self) -> str:
        return self.summary()

    def _repr_html_(self) -> str:
        names = self.measured
        head = "".join(f"<th style='text-align:left'>{name}</th>" for name in names)
        rows = ""
        for each in self.found:
            cells = (
                f"<td style='text-align:{'left' if name in WORDS else 'right'}'>"
                f"{html.escape(_shown(each.row.get(name, '')))}</td>"
                for name in names
            )
            rows += f"<tr>{''.join(cells)}</tr>"
        title = html.escape(
            f"Features of {self.made_by.get('sae', '')} at {self.site} for "
            f"{self.made_by.get('data_name', 'the contrast')}, by {self.by}"
        )
        return (
            f"<b>{title}</b><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
            f"<p>{html.escape(NOTE)}</p>"
        )


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
