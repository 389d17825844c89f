"""What changes of weights do to the stream of the reference model.

    python studies/adaptation.py equivalence    # the first order of full fine-tuning and of LoRA

On the reference model, layer 5, one thread. docs/adaptation.md has the numbers.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

from steerlens.analyses.comparison.making import Making, make_way
from steerlens.analyses.comparison.way_task import WayTask
from steerlens.analyses.comparison.ways import way_named
from steerlens.analyses.equivalence.first_order import shift_equivalence
from steerlens.experiment import ComparisonExperiment
from steerlens.experiment.comparison_data import world_task
from steerlens.models.model import Model
from steerlens.protocols import Intervention
from steerlens.results import Result
from steerlens.sites import Site

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


STUDIES: dict[str, Callable[[Model, Path], None]] = {"equivalence": equivalence}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--output", type=Path, default=Path("results/adaptation"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    STUDIES[asked.study](Model.load("reviews"), asked.output / asked.study)


if __name__ == "__main__":
    main()
