"""Do the intervals hold on data whose truth is known exactly?

    python studies/simulated_intervals.py --numbers docs/trust.json    # some minutes on one core

Every repeat draws data from a distribution with a known mean, in groups of one, two or four examples
that share part of what they are, and asks `steerlens.stats` for an interval: of the mean (as of gains
and KL), of a share (as of examples moved the wrong way) and of AUROC.

Repeats are in blocks, which are kept as they are finished: a killed study goes on where it was.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import tyro
from study_folder import claim_folder, keep
from torch import Tensor
from tqdm.auto import tqdm

from steerlens import stats
from steerlens.store.files import write_text

COPIES = "copies"
"""Groups whose examples are all the same."""


class Quantity(NamedTuple):
    """What is estimated: how it is drawn from standard normal numbers, and its true value."""

    words: str
    of: str
    """"mean", "share" or "auroc"."""
    draw: Callable[[Tensor], Tensor]
    """Data from standard normal numbers."""
    truth: float


def _exponential(x: Tensor) -> Tensor:
    return -(0.5 * torch.erfc(x / math.sqrt(2))).clamp(min=1e-12).log()


def _mostly_zero(x: Tensor) -> Tensor:
    """Nine in ten are 0, the others uniform between 0.5 and 1.5."""
    p = 0.5 * torch.erfc(x / math.sqrt(2))
    return torch.where(p < 0.1, 0.5 + 10 * p, 0.0)


def _rare_exponential(x: Tensor) -> Tensor:
    """Four in five are 0, the others exponential."""
    p = 0.5 * torch.erfc(x / math.sqrt(2))
    return torch.where(p < 0.2, -(5 * p).clamp(min=1e-12).log(), 0.0)


def _share(p: float) -> Callable[[Tensor], Tensor]:
    return lambda x: (0.5 * torch.erfc(x / math.sqrt(2)) < p).float()


def _apart(auroc: float) -> float:
    """How far two standard normal distributions are apart."""
    return 2 * float(torch.erfinv(torch.tensor(2 * auroc - 1)))


QUANTITIES: dict[str, Quantity] = {
    "normal": Quantity("mean, normal (gain)", "mean", lambda x: 1 + x, 1.0),
    "exponential": Quantity("mean, exponential (KL)", "mean", _exponential, 1.0),
    "lognormal": Quantity("mean, log-normal", "mean", lambda x: x.exp(), math.exp(0.5)),
    "mostly_zero": Quantity("mean, 90% zero", "mean", _mostly_zero, 0.1),
    "rare": Quantity("mean, 80% zero, the rest exponential", "mean", _rare_exponential, 0.2),
    "share_02": Quantity("share of 2%", "share", _share(0.02), 0.02),
    "share_25": Quantity("share of 25%", "share", _share(0.25), 0.25),
    **{
        f"auroc_{int(1000 * a)}": Quantity(
            f"AUROC of {a}", "auroc", lambda x, a=a: x + torch.tensor([_apart(a), 0.0]), a
        )
        for a in (0.6, 0.9, 0.98)
    },
}


@dataclass(frozen=True, kw_only=True)
class SimulatedIntervals:
    """Coverage of the intervals of `steerlens.stats`."""

    quantities: tuple[str, ...] = tuple(QUANTITIES)
    """What is estimated."""
    groups: tuple[int, ...] = (8, 12, 16, 24, 48)
    """Groups of a sample."""
    sizes: tuple[int, ...] = (1, 2, 4)
    """Examples of a group."""
    shared: tuple[float, ...] = (0.5, 1.0)
    """Share of the variance that the examples of a group have in common; 1 for copies."""
    repeats: int = 2000
    """Samples of each kind."""
    seed: int = 0
    """Seeds everything."""
    threads: int = 1
    """CPU threads."""
    output: Path = Path("results/simulated_intervals")
    """Folder of the finished blocks; another study is not continued."""
    numbers: Path | None = None
    """A JSON file that keeps the summary, under "simulated_intervals"."""

    def __post_init__(self) -> None:
        if min(self.repeats, self.threads, *self.groups, *self.sizes) < 1:
            raise ValueError("repeats, threads, groups and sizes must be at least 1.")
        if unknown := set(self.quantities) - set(QUANTITIES):
            raise ValueError(f"quantities={sorted(unknown)} are none of {', '.join(QUANTITIES)}.")

    @property
    def settings(self) -> dict[str, Any]:
        """What changes a block."""
        return {"repeats": self.repeats, "seed": self.seed}

    def run(self) -> dict[str, Any]:
        """Does what is not done yet, and sums up."""
        torch.set_num_threads(self.threads)
        claim_folder(self.output, self.settings)
        out: dict[str, Any] = {"settings": self.settings}
        blocks = [
            (name, count, size, shared)
            for name in self.quantities
            for count in self.groups
            for size in self.sizes
            for shared in ((0.0,) if size == 1 else self.shared)
        ]
        for name, count, size, shared in tqdm(blocks, desc="samples", unit="block"):
            path = self.output / f"{name}-{count}-{size}-{shared:g}.json"
            if not path.exists():
                write_text(path, json.dumps(self.block(name, count, size, shared)))
            key = "1" if size == 1 else f"{size}, {COPIES if shared == 1 else 'half shared'}"
            found = json.loads(path.read_text("utf-8"))
            out.setdefault(name, {}).setdefault(str(count), {})[key] = found
        return out

    def block(self, name: str, count: int, size: int, shared: float) -> dict[str, Any]:
        """How many intervals hold the truth, and how many there are; their median width."""
        of = QUANTITIES[name]
        seed = sum(ord(c) for c in name) * 100_003 + 1000 * count + 10 * size + int(2 * shared)
        generator = torch.Generator().manual_seed(self.seed + seed)
        sides = (2,) if of.of == "auroc" else ()
        own = torch.randn(self.repeats, count, size, *sides, generator=generator)
        common = torch.randn(self.repeats, count, 1, *sides, generator=generator)
        x = shared**0.5 * common + (1 - shared) ** 0.5 * own
        data = of.draw(x.flatten(1, 2))
        groups = torch.arange(count).repeat_interleave(size)
        interval = {
            "mean": stats.mean_interval,
            "share": stats.share_interval,
            "auroc": stats.auroc_interval,
        }[of.of]
        parts = [interval(part, groups) for part in data.split(200)]
        value, low, high = (torch.cat(each) for each in zip(*parts, strict=True))
        known = ~low.isnan()
        held = (low <= of.truth) & (of.truth <= high) & known
        return {
            "held": int(held.sum()),
            "known": int(known.sum()),
            "n": self.repeats,
            "width": float((high - low)[known].median()),
            "bias": float(value.double().mean() - of.truth),
        }


def tables(found: dict[str, Any]) -> list[str]:
    """The table of docs/trust.md: coverage by groups and group sizes."""
    names = [name for name in found if name != "settings"]
    counts = list(found[names[0]])
    lines = [
        "| 95% interval of | examples of a group | "
        + " | ".join(f"{c} groups" for c in counts)
        + " |",
        "|---" * (2 + len(counts)) + "|",
    ]
    for name in names:
        for size in found[name][counts[0]]:
            cells = []
            for count in counts:
                one = found[name][count][size]
                missing = one["n"] - one["known"]
                none = f" ({missing / one['n']:.0%} have none)" if missing else ""
                cells.append(f"{one['held'] / max(1, one['known']):.1%}{none}")
            lines.append(f"| {QUANTITIES[name].words} | {size} | {' | '.join(cells)} |")
    return ["\n".join(lines)]


def main(study: SimulatedIntervals) -> None:
    """Runs, prints the table, and keeps the numbers where asked."""
    found = json.loads(json.dumps(study.run()))
    print("\n\n".join(tables(found)))
    if study.numbers is not None:
        keep(study.numbers, "simulated_intervals", found)


if __name__ == "__main__":
    try:
        main(tyro.cli(SimulatedIntervals))
    except ValueError as error:
        sys.exit(f"simulated_intervals: {error}")
