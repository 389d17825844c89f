"""What weights do to the stream, how much data ways need, whether they add up, and where to put them.

    python studies/adaptation.py equivalence    # the first order of full fine-tuning and of LoRA
    python studies/adaptation.py data           # gain over the number of pairs
    python studies/adaptation.py together       # three concepts at once
    python studies/adaptation.py sites          # equally many parameters after blocks, and inside them

On the reference model, layer 5, one thread. docs/adaptation.md has the numbers.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from steerlens.analyses.comparison.compare_ways import compare_ways
from steerlens.analyses.comparison.data_efficiency import data_efficiency
from steerlens.analyses.comparison.making import Making, make_way
from steerlens.analyses.comparison.measure_way import multiplier_at
from steerlens.analyses.comparison.way_data import WayData
from steerlens.analyses.comparison.way_task import WayTask
from steerlens.analyses.comparison.ways import way_named
from steerlens.analyses.equivalence.first_order import shift_equivalence
from steerlens.analyses.stacking.measure_stacking import stacking
from steerlens.experiment import ComparisonExperiment
from steerlens.experiment.comparison_data import world_task
from steerlens.forms import LowRankAdapter, PostBlock
from steerlens.forms.form import Form, Parameters
from steerlens.interventions.changes import Composed, StreamEdit
from steerlens.interventions.composition import composed
from steerlens.interventions.scaled import scaled
from steerlens.models.model import Model
from steerlens.protocols import Intervention
from steerlens.results import Result
from steerlens.sites import Site, Stream
from steerlens.store.cells import Cells
from steerlens.training.objectives.lm import LM
from steerlens.training.trainer import Trainer
from steerlens.units import BUDGET

SITE = Site(5)
CONCEPTS = ("register", "sentiment", "truth")


def task_of(model: Model, concept: str, repeats: int = 1) -> WayTask:
    """The data that experiments/adaptation.py has."""
    stated = ComparisonExperiment(contrast=f"reviews/{concept}", repeats=repeats)
    return world_task(stated, model, concept)


def made(model: Model, name: str, task: WayTask) -> Intervention:
    return make_way(model, way_named(name), name, task, 0, Making(site=SITE))[0]


def equivalence(model: Model, folder: Path) -> None:
    """Full fine-tuning and LoRA on register: explained by layer, and what one layer carries."""
    task = task_of(model, "register")
    for name in ("full weights", "LoRA"):
        arm = made(model, name, task)
        keep(shift_equivalence(model, arm, task.neutral), folder, name)
        carried(model, arm, task)


@torch.no_grad()
def carried(model: Model, arm: Intervention, task: WayTask) -> None:
    """The share of the KL to the changed model that its own shift at one layer removes."""
    batch = model.tokens(list(task.neutral), padding_side="right")
    counted = batch.mask[:, :-1]
    sites = model.sites("resid_post")
    plain, before = model.logits(batch).log_softmax(-1), model.cache(batch, sites)
    with arm.attach(model, 1.0):
        wanted, after = model.logits(batch).log_softmax(-1), model.cache(batch, sites)

    def kl(found: torch.Tensor) -> float:
        each = (wanted.exp() * (wanted - found)).sum(-1)[:, :-1]
        return float(each[counted].mean())

    for site in sites:
        shift = after[site] - before[site]
        whole = shift[batch.mask].mean(0)
        found = []
        for add in (shift, whole):
            point = model.wrapped.get_submodule(site.hook)
            handle = point.register_forward_hook(lambda _, __, out, add=add: out + add)
            try:
                logits = model.wrapped(batch.tokens, prepend_bos=False)
            finally:
                handle.remove()
            found.append(1 - kl(logits.log_softmax(-1)) / kl(plain))
        print(f"layer {site.layer}: its shift removes {found[0]:.3f}, its mean {found[1]:.3f}")  # noqa: T201


def keep(result: Result, folder: Path, name: str) -> None:
    """Saves a result with its figure and prints its table."""
    place = folder / name.replace(" ", "-")
    result.save(place)
    result.plot().write_html(place / "figure.html")
    print(f"{name}\n{result.summary()}\n{result.to_frame().round(3).to_string()}")  # noqa: T201


def data(model: Model, folder: Path) -> None:
    """Gain on register over the number of pairs, each way made twice."""
    task, making = task_of(model, "register", repeats=2), Making(site=SITE)
    ways = ("DiffMean", "vector", "LoReFT", "LoRA")
    keep(data_efficiency(model, ways, task, making, progress=False), folder, "register")


def together(model: Model, folder: Path) -> None:
    """A way for each of three concepts, each at a third of the budget: joint less the sum."""
    tasks = {concept: task_of(model, concept) for concept in CONCEPTS}
    first = tasks[CONCEPTS[0]]
    others = {concept: tasks[concept].report for concept in CONCEPTS[1:]}
    for name in ("DiffMean", "LoReFT", "LoRA"):
        arms = {}
        for concept, task in tasks.items():
            arm = made(model, name, task)
            arms[concept] = scaled(arm, multiplier_at(model, arm, task.calibrating, BUDGET / 3))
        found = stacking(
            model, arms, first.report, first.neutral, others=others, progress=False
        )  # fmt: skip
        keep(found, folder, name)
        for quantity in found.quantities:
            print(f"{name}, {quantity}: joint less sum {found.interaction(quantity)}")  # noqa: T201


@dataclass(frozen=True)
class AtStream(PostBlock):
    """The adapters of post-block at another stream of every block, with as many parameters."""

    stream: Stream = "resid_post"

    def intervention(self, model: Model, params: Parameters) -> Composed:
        """One edit for every block."""
        edits = [
            dataclasses.replace(one, site=Site(one.site.layer, self.stream))
            for one in super().intervention(model, params).changes(model)
            if isinstance(one, StreamEdit)
        ]
        return composed(edits, repr(self))


@dataclass(frozen=True)
class TrainedAs:
    """A way of a form that has no name of its own, trained as named ones are."""

    form: Form

    def __call__(self, data: WayData) -> Intervention:
        look = max(5, data.steps // 6)
        trainer = Trainer(
            LM(), data.steps, self.form.rate, data.batch, seed=data.seed, look_every=look
        )
        return trainer.fit(
            self.form, data.model, data.fit, validation=data.validation, progress=False
        )


def sites(model: Model, folder: Path) -> None:
    """8,192 parameters after every block, inside every block, or after one; each made three times."""
    stated = ComparisonExperiment(contrast="reviews/register", repeats=3, written=0, others=())
    task = world_task(stated, model, "register")
    ways = {
        "after the block": TrainedAs(AtStream(4)),
        "after the MLP": TrainedAs(AtStream(4, stream="mlp_out")),
        "after attention": TrainedAs(AtStream(4, stream="attn_out")),
        "before the MLP": TrainedAs(AtStream(4, stream="resid_mid")),
        "after one block": TrainedAs(LowRankAdapter(SITE, 32, constant=False)),
    }
    found = compare_ways(
        model, ways, [task], Making(site=SITE), factors=(0.0, 1.0), progress=False,
        cells=Cells(folder / "cells"),
    )  # fmt: skip
    keep(found, folder, "register")
    first, *rest = ways
    for name in ("share", "gain", "utility"):
        for other in rest:
            print(f"{name}: {first} less {other} {found.difference(name, first, other)}")  # noqa: T201


STUDIES: dict[str, Callable[[Model, Path], None]] = {
    "equivalence": equivalence, "data": data, "together": together, "sites": sites,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--output", type=Path, default=Path("results/adaptation"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    STUDIES[asked.study](Model.load("reviews"), asked.output / asked.study)


if __name__ == "__main__":
    main()
