"""Operators as ways: what else acts on activations, made of the same pairs as every other way."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch

from steerlens.analyses.comparison.way_data import WayData
from steerlens.data import ContrastPair, ContrastSet
from steerlens.directions import Direction
from steerlens.directions.methods import DiffMean
from steerlens.forms import LoRA
from steerlens.interventions import (
    Ablate,
    Add,
    AddKeepingNorm,
    Clamp,
    ClampRange,
    Condition,
    Knob,
    Nudge,
    ProbeLoss,
    Rotate,
    Together,
    TurnTowards,
    When,
    angular_steering,
)
from steerlens.measures.generation import generated_tokens
from steerlens.measures.grains import grains
from steerlens.measures.reading import activations
from steerlens.operators import cache_steering, find_condition, sadi
from steerlens.operators.sadi import STREAMS, Elements
from steerlens.protocols import Intervention
from steerlens.sites import Site
from steerlens.training.concept_das import Quadruple, concept_das
from steerlens.training.objectives.dpo import DPO
from steerlens.training.preference_vector import preference_vector
from steerlens.training.trainer import Trainer

RESPONSE = 4
"""Tokens of the responses that Concept DAS compares."""
ATTRIBUTED = 32
"""Pairs that GrAInS attributes: each text takes twenty forward and backward passes."""
APART = 2
"""Blocks between the nudge and its probe, and between the layers of the stack."""

Make = Callable[[WayData], Intervention]


@dataclass(frozen=True)
class Operator:
    """A way by its name in `OPERATORS`."""

    name: str
    made_of: str
    """What it is, as code of `steerlens` would say it."""

    def __call__(self, data: WayData) -> Intervention:
        return _MAKES[self.name](data)


def mean_difference(data: WayData, site: Site | None = None) -> Direction:
    """The mean difference of the pairs of texts at a site, by default that of the comparison."""
    where = data.site if site is None else site
    read = activations(data.model, data.texts, [where], progress=False)
    return read.direction(where, DiffMean())


def pole_means(data: WayData, direction: Direction) -> tuple[float, float]:
    """Where the positive and the negative texts are along a direction, on average."""
    read = activations(data.model, data.texts, [direction.site], progress=False)
    u = direction.unit().vector
    positive, negative = (float((side[:, 0] @ u).mean()) for side in (read.positive, read.negative))
    return positive, negative


def _above(data: WayData, blocks: int) -> Site:
    """The site so many blocks above that of the comparison, as far as there are blocks."""
    layer = max(0, min(data.site.layer + blocks, data.model.n_layers - 1))
    return Site(layer, data.site.stream)


def _rotate(data: WayData) -> Intervention:
    """Towards the direction, in a plane whose other axis is drawn at random."""
    generator = torch.Generator().manual_seed(data.seed)
    drawn = torch.randn(data.model.width(data.site), generator=generator)
    second = Direction(drawn, data.site, processing=data.model.processing)
    return Rotate(mean_difference(data), second, 0.0, positions=data.positions)


def _range(data: WayData) -> Intervention:
    direction = mean_difference(data)
    low, _ = pole_means(data, direction)
    return ClampRange(direction, low=low, positions=data.positions)


def _clamp(data: WayData) -> Intervention:
    direction = mean_difference(data)
    return Clamp(direction, pole_means(data, direction)[0], data.positions)


def _grains(data: WayData) -> Intervention:
    few = data.fit.subset(min(ATTRIBUTED, len(data.fit)), data.seed)
    (direction,) = grains(data.model, few, data.site)
    return AddKeepingNorm(direction, data.positions, unit="direction")


def _sadi(data: WayData, elements: Elements, k: int) -> Intervention:
    """So many elements, or a quarter of all where the model has fewer than four times as many."""
    size = data.model.cfg.d_head if elements == "heads" else 1
    total = data.model.n_layers * data.model.width(Site(0, STREAMS[elements])) // size
    return sadi(data.model, data.texts, elements, k=max(1, min(k, total // 4)))


def unmet(data: WayData) -> Condition:
    """Holds where a text is not at the positive pole yet: at the negative one, or at none.

    The vector is the mean difference of the pairs of texts, and the threshold is that of the highest
    F1 on other pairs and on bare prompts, which say nothing of the concept and must be steered too.
    """
    fit, choose, _ = data.texts.flipped().split(data.seed)
    prompts = itertools.cycle(dict.fromkeys(pair.prompt for pair in data.fit))
    bare = tuple(
        ContrastPair("", prompt, pair.prompt + pair.negative, group=pair.group)
        for pair, prompt in zip(choose, prompts, strict=False)
    )
    mixed = ContrastSet(choose.name, (*choose, *bare))
    found = find_condition(data.model, fit, mixed, method=DiffMean(), similarity="projection")
    return found.best()


def published_condition(data: WayData) -> Condition:
    """CAST's own recipe, for texts that are at the negative pole."""
    fit, choose, _ = data.texts.flipped().split(data.seed)
    return find_condition(data.model, fit, choose).best()


def _when(data: WayData, condition: Condition) -> Intervention:
    return When(condition, Add(mean_difference(data), data.positions, unit="direction"))


def _knob(data: WayData) -> Intervention:
    add = Add(mean_difference(data), data.positions, unit="direction")
    return Knob(add, (1.0, 0.5, 0.25))


def _nudge(data: WayData) -> Intervention:
    """Towards the positive side of a probe above, whose scale is a quarter of the poles' distance."""
    probe = mean_difference(data, _above(data, APART))
    positive, negative = pole_means(data, probe)
    loss = ProbeLoss(probe, (positive + negative) / 2, 4 / (positive - negative))
    return Nudge(data.site, loss, steps=2, size=0.1, budget=None, positions=data.positions)


def _concept_das(data: WayData) -> Intervention:
    """The responses are the model's own, likeliest continuations of the texts."""
    sides = []
    for side in ("positive", "negative"):
        texts = [pair.prompt + getattr(pair, side) for pair in data.texts]
        tokens = generated_tokens(data.model, texts, max_new_tokens=RESPONSE, stop_at_eos=False)
        responses = [
            data.model.texts.continuation(data.model.ids(text), row)
            for text, row in zip(texts, tokens.tolist(), strict=True)
        ]
        sides.append(list(zip(texts, responses, strict=True)))
    quadruples = [Quadruple(*one, *other) for one, other in zip(*sides, strict=True)]
    found = concept_das(
        data.model, quadruples, data.site, positions=data.positions, seed=data.seed, progress=False
    )
    return found.towards("positive")


def _preference_vector(data: WayData) -> Intervention:
    trainer = Trainer(
        DPO(), data.steps, batch=data.batch, seed=data.seed, look_every=max(5, data.steps // 6)
    )
    return preference_vector(
        trainer,
        LoRA(4, rate=6e-3),
        data.model,
        data.fit,
        validation=data.validation,
        progress=False,
    )


def _stack(data: WayData) -> Intervention:
    """The mean difference at three layers, each added at its own length."""
    sites = dict.fromkeys([_above(data, -APART), data.site, _above(data, APART)])
    adds = [Add(mean_difference(data, one), data.positions, unit="direction") for one in sites]
    return Together(tuple(adds))


def _angular(data: WayData) -> Intervention:
    read = activations(data.model, data.texts, progress=False)
    return angular_steering(list(read.directions(DiffMean())), 0.0, positions=data.positions)


_KINDS: dict[str, tuple[str, Make]] = {
    "norm kept": (
        "AddKeepingNorm(DiffMean)",
        lambda data: AddKeepingNorm(mean_difference(data), data.positions, unit="direction"),
    ),
    "turn": (
        "TurnTowards(DiffMean, 30)",
        lambda data: TurnTowards(mean_difference(data), 30.0, positions=data.positions),
    ),
    "rotate": ("Rotate(DiffMean, a direction at random, 0)", _rotate),
    "angular steering": ("angular_steering(DiffMean of every layer, 0)", _angular),
    "range": ("ClampRange(DiffMean, low=the mean of the positive texts)", _range),
    "clamp": ("Clamp(DiffMean, the mean of the positive texts)", _clamp),
    "ablate": ("Ablate(DiffMean)", lambda data: Ablate(mean_difference(data), data.positions)),
    "GrAInS": ("AddKeepingNorm(grains of 32 pairs)", _grains),
    "SADI heads": ("sadi(heads, k=4)", lambda data: _sadi(data, "heads", 4)),
    "SADI neurons": (
        "sadi(neurons, k=50)",
        lambda data: _sadi(data, "neurons", 50),
    ),
    "SADI hidden": (
        "sadi(hidden, k=50)",
        lambda data: _sadi(data, "hidden", 50),
    ),
    "cache values": ("cache_steering()", lambda data: cache_steering(data.model, data.texts)),
    "cache keys and values": (
        "cache_steering(keys=1)",
        lambda data: cache_steering(data.model, data.texts, keys=1.0),
    ),
    "condition": (
        "When(the text is not at the positive pole yet, Add(DiffMean))",
        lambda data: _when(data, unmet(data)),
    ),
    "CAST": (
        "When(the text is at the negative pole by PCA and tanh, Add(DiffMean))",
        lambda data: _when(data, published_condition(data)),
    ),
    "knob": ("Knob(Add(DiffMean), (1, 0.5, 0.25))", _knob),
    "nudge": ("Nudge(to a probe two blocks above, steps=2, size=0.1)", _nudge),
    "Concept DAS": ("concept_das(the model's own responses).towards('positive')", _concept_das),
    "preference vector": ("preference_vector(Trainer(DPO()), LoRA(4))", _preference_vector),
    "stack": ("Together(Add(DiffMean) at three layers, two apart)", _stack),
}
_MAKES: Mapping[str, Make] = {name: make for name, (_, make) in _KINDS.items()}
OPERATORS: Mapping[str, Operator] = MappingProxyType(
    {name: Operator(name, made_of) for name, (made_of, _) in _KINDS.items()}
)
"""Operators by the names that ways give them; those at one site act at that of the comparison."""
