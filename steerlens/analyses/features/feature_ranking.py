"""Which features of an SAE stand for a concept: what they read, what they write, what they do."""

from __future__ import annotations

import csv
import dataclasses
import html
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from steerlens.sites import Site
from steerlens.stats import Interval
from steerlens.store.files import write_text
from steerlens.store.result_files import ResultError

KIND = "features"


@dataclass(frozen=True, eq=False)
class FeatureContrast:
    """How every feature tells the two sides of a contrast apart, on the fitting split.

    It says what a feature reads. Whether adding it does anything is another question.
    """

    site: Site
    difference: Float[Tensor, " d_sae"]
    """Mean activation on the positive side minus on the negative side."""
    auroc: Float[Tensor, " d_sae"]
    """Chance that a positive text activates the feature more than a negative one; ties are half."""
    fires: Float[Tensor, "side d_sae"]
    """Share of positive and of negative texts on which it fires."""
    shuffled: Float[Tensor, " shuffle"]
    """Largest distance of any feature's AUROC from 0.5 when the labels are shuffled."""

    @cached_property
    def order(self) -> list[int]:
        """All features, those that tell the sides apart best first."""
        apart = (self.auroc - 0.5).abs().numpy(force=True)
        return np.lexsort((-self.difference.abs().numpy(force=True), -apart)).tolist()

    def towards(self, feature: int) -> int:
        """1 for a feature of the positive side, -1 for one of the negative side."""
        gap = float(self.auroc[feature]) - 0.5 or float(self.difference[feature])
        return -1 if gap < 0 else 1

    def p_value(self, feature: int) -> float:
        """Chance that the best of all features does as well on shuffled labels; never 0."""
        apart = abs(float(self.auroc[feature]) - 0.5)
        # Equal up to rounding is equal: the null takes few values when texts are few.
        as_good = int((self.shuffled >= apart - 1e-6).sum())
        return (1 + as_good) / (1 + len(self.shuffled))


class Excerpt(NamedTuple):
    """A text that a feature reads: its tokens, and the activation at each."""

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
    """One feature and what was found of it. What was not asked for is None."""

    feature: int
    towards: int
    """1 if more of the feature is meant to give more of the concept, -1 if less of it is."""
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
    """Whether it writes what the lens says, in [0, 1] (arXiv:2505.20063)."""
    input_score: float | None = None
    """Share of its top texts read at a token that it also writes, in [0, 1] (arXiv:2505.20063)."""
    density: float | None = None
    """Share of tokens on which it fires."""
    reads: tuple[Excerpt, ...] = ()
    """The texts that activate it most."""
    gain: Interval | None = None
    """Change of the propensity when it is added in the sense of `towards`, in nats."""
    against: Interval | None = None
    """The same when it is subtracted: negative where both senses do what they should."""

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


@dataclass(frozen=True, eq=False)
class FeatureRanking:
    """The best features of one SAE for a contrast, best first. Draws itself in Jupyter as a table.

    A ranking searches many features on the data it shows, so its numbers flatter the first of
    them. `compare_features` measures them on questions that had no part in it.
    """

    site: Site
    by: str
    """"contrast", "effect" or "output": what the order is by."""
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
    def columns(self) -> list[str]:
        """Names of all that was measured of any of them."""
        names: dict[str, None] = {}
        for each in self.found:
            names |= dict.fromkeys(each.row)
        return list(names)

    def table(self) -> str:
        """The ranking as CSV."""
        out = io.StringIO()
        writer = csv.DictWriter(out, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: _plain(v) for k, v in each.row.items()} for each in self.found)
        return out.getvalue()

    def save(self, directory: Path | str) -> Path:
        """Writes features.json, which `load` reads, and a features.csv into a folder."""
        out = Path(directory)
        meta = {
            "kind": KIND,
            "site": self.site.hook,
            "by": self.by,
            "made_by": self.made_by,
            "found": [dataclasses.asdict(each) for each in self.found],
        }
        write_text(out / f"{KIND}.csv", self.table())
        write_text(out / f"{KIND}.json", json.dumps(meta, indent=1, sort_keys=True))
        return out

    @classmethod
    def load(cls, directory: Path | str) -> FeatureRanking:
        """Reads what `save` wrote.

        Raises:
            ResultError: If there is nothing to read, or it is broken.
        """
        path = Path(directory) / f"{KIND}.json"
        try:
            meta = json.loads(path.read_text(encoding="utf-8"))
            found = tuple(_found(each) for each in meta["found"])
            return cls(Site.from_hook(meta["site"]), meta["by"], found, meta["made_by"])
        except FileNotFoundError:
            raise ResultError(f"{directory} holds no ranking of features ({path.name}).") from None
        except (ValueError, KeyError, TypeError) as error:
            raise ResultError(f"{path} is broken ({error!r}). Rank the features again.") from error

    def __str__(self) -> str:
        head = f"Features of {self.made_by.get('sae', self.site)} by {self.by}"
        lines = [
            "  " + ", ".join(f"{name} {_plain(value)}" for name, value in each.row.items())
            for each in self.found
        ]
        return "\n".join([head, *lines])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        columns = self.columns
        words = ("writes", "unwrites", "reads")
        head = "".join(f"<th style='text-align:left'>{name}</th>" for name in columns)
        rows = ""
        for each in self.found:
            cells = (
                f"<td style='text-align:{'left' if name in words else 'right'}'>"
                f"{html.escape(str(_plain(each.row.get(name, ''))))}</td>"
                for name in columns
            )
            rows += f"<tr>{''.join(cells)}</tr>"
        title = html.escape(
            f"Features of {self.made_by.get('sae', '')} at {self.site} for "
            f"{self.made_by.get('data_name', 'the contrast')}, by {self.by}"
        )
        note = html.escape(NOTE)
        return (
            f"<b>{title}</b><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
            f"<p>{note}</p>"
        )


NOTE = (
    "Found by searching all features on these data, so the numbers flatter the first rows. "
    "auroc and difference: activation on positive against negative texts; p: of the AUROC as the "
    "best of all features, against shuffled labels; gain, against: nats of propensity when the "
    "feature is added and subtracted; output and input score: arXiv:2505.20063."
)


def _plain(value: Any) -> Any:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _found(saved: dict[str, Any]) -> FoundFeature:
    for name in ("difference", "gain", "against"):
        saved[name] = None if saved[name] is None else Interval(*saved[name])
    for name in ("writes", "unwrites"):
        saved[name] = tuple(saved[name])
    saved["reads"] = tuple(Excerpt(tuple(t), tuple(a), at) for t, a, at in saved["reads"])
    return FoundFeature(**saved)
