"""What several sets of questions answer under the same interventions: the numbers that shift and
spill-over are read from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens import stats
from steerlens.sites import Site
from steerlens.store import result_files as files


@dataclass(frozen=True, eq=False)
class Answers:
    """Propensity of every set's questions, for every intervention (row) and multiplier."""

    rows: tuple[str, ...]
    """What each intervention is called: its site, where it was given no other name."""
    sites: tuple[Site | None, ...]
    """Where each one acts; None where that is not one site."""
    multipliers: Float[Tensor, " multiplier"]
    propensities: Mapping[str, Float[Tensor, "row multiplier _example"]]
    """Log-odds of the positive over the negative answer, in nats, by the name of the set."""

    def __post_init__(self) -> None:
        for name, odds in self.propensities.items():
            if odds.shape[:2] != (len(self.rows), len(self.multipliers)):
                raise ValueError(
                    f"The propensities of {name!r} have shape {tuple(odds.shape)}, and there are "
                    f"{len(self.rows)} rows x {len(self.multipliers)} multipliers."
                )

    @property
    def sets(self) -> tuple[str, ...]:
        return tuple(self.propensities)

    @property
    def layers(self) -> tuple[int, ...] | None:
        """The layer of each row, where the rows are one stream's layers; else None."""
        sites = [site for site in self.sites if site is not None]
        layers = tuple(site.layer for site in sites)
        plain = len(sites) == len(self.rows) == len(set(layers))
        named = tuple(map(str, sites)) == self.rows
        return layers if plain and named and len({s.stream for s in sites}) == 1 else None

    def of(self, name: str) -> Float[Tensor, "row multiplier _example"]:
        """The propensities of one set."""
        if name not in self.propensities:
            raise ValueError(f"There is no set {name!r}. There are {', '.join(self.sets)}.")
        return self.propensities[name]

    def gains(self, name: str) -> Float[Tensor, "row multiplier _example"]:
        """Propensity minus the unsteered propensity, in nats."""
        odds = self.of(name)
        return odds - odds[:, (self.multipliers == 0).nonzero()[0]]

    def slopes(self, name: str) -> Float[Tensor, "row _example"]:
        """Steerability: nats of propensity per unit multiplier, for every question."""
        return stats.steerability_slope(self.multipliers, self.of(name).mT)

    def row(self, which: str | int | Site) -> int:
        """The index of a row, given by its name, its site, or the index itself."""
        if isinstance(which, int) and 0 <= which < len(self.rows):
            return which
        found = [i for i, row in enumerate(self.rows) if which in (row, self.sites[i])]
        if len(found) != 1:
            raise ValueError(
                f"{which!r} is not one of the rows ({', '.join(self.rows)}). Give a name, a site, "
                f"or an index from 0 to {len(self.rows) - 1}."
            )
        return found[0]

    def save(
        self,
        folder: Path,
        kind: str,
        made_by: dict[str, Any],
        further: Mapping[str, Tensor],
        **extra: Any,
    ) -> Path:
        """Writes <kind>.safetensors and <kind>.json into a folder, with what else a map holds."""
        tensors = {f"propensities.{i}": self.propensities[name] for i, name in enumerate(self.sets)}
        tensors |= {"multipliers": self.multipliers, **further}
        sites = tuple(site for site in self.sites if site is not None)
        hooks = [None if site is None else site.hook for site in self.sites]
        extra |= {"rows": list(self.rows), "hooks": hooks, "sets": list(self.sets)}
        return files.save(folder, kind, tensors, sites, made_by, **extra)

    @classmethod
    def load(
        cls, folder: Path, kind: str
    ) -> tuple[Answers, dict[str, Any], dict[str, Tensor], dict[str, Any]]:
        """Reads what `save` wrote: the answers, made_by, the further tensors, and the extras."""
        tensors, _, made_by = files.load(folder, kind)
        extra = made_by.pop("_extra")
        names = extra.pop("sets")
        answers = cls(
            rows=tuple(extra.pop("rows")),
            sites=tuple(None if h is None else Site.from_hook(h) for h in extra.pop("hooks")),
            multipliers=tensors.pop("multipliers"),
            propensities={n: tensors.pop(f"propensities.{i}") for i, n in enumerate(names)},
        )
        return answers, made_by, tensors, extra


def quoted(text: str) -> str:
    """A name as a field of a CSV file."""
    plain = not set(text) & set(',"\r\n')
    return text if plain else '"' + text.replace('"', '""') + '"'


def told(bounds: tuple[Tensor, Tensor, Tensor], *index: int) -> stats.Interval:
    """One cell's value with its interval."""
    return stats.Interval(*(float(part[index]) for part in bounds))


def lists(bounds: tuple[Tensor, Tensor, Tensor]) -> tuple[list, list, list]:
    """Value, low and high as a figure takes them."""
    value, low, high = (torch.as_tensor(part).tolist() for part in bounds)
    return value, low, high
