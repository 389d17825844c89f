"""Under torch.inference_mode() and another default precision, numbers are the usual ones."""

import copy
from typing import Any

import numpy as np
import pytest
import torch

from steerlens import Add, ContrastPair, ContrastSet, Nudge, ProbeLoss, Site
from steerlens.analyses.probe.measure_probe import probe
from steerlens.forms import DReFT, LoRA, LoReFT, PostBlock
from steerlens.measures.direct_gain import direct_gain
from steerlens.measures.divergence import divergence
from steerlens.measures.generation import generate
from steerlens.measures.grains import grains
from steerlens.measures.reading import activations
from steerlens.measures.sweep import sweep
from steerlens.models.model import Model
from steerlens.training.concept_das import concept_das
from steerlens.training.objectives import LM
from steerlens.training.trainer import Trainer

QUIET: Any = {"progress": False}
WORDS = ("bed", "city", "soup", "cat")
PAIRS = ContrastSet(
    "words", tuple(ContrastPair(f"the cat sat on the {word}", " good", " book") for word in WORDS)
)
TEXTS = [f"the cat sat on the {word} and a book" for word in WORDS]


@pytest.fixture
def float64_by_default():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def nudge(gpt2, random_direction):
    return Nudge(Site(0), ProbeLoss(random_direction(Site(1), gpt2.d_model)), steps=2)


def test_a_nudge_is_the_same_in_inference_mode(gpt2, nudge):
    def all_of_it():
        with nudge.attach(gpt2, 1.0):
            logits, texts = gpt2.logits(TEXTS[:2]), generate(gpt2, TEXTS[:2], max_new_tokens=3)
        return logits, texts, sweep(gpt2, PAIRS, [nudge], (0.0, 1.0), **QUIET).log_odds

    usual = all_of_it()
    with torch.inference_mode():
        found = all_of_it()
        assert torch.is_inference_mode_enabled()  # it is left for the nudge alone
    assert torch.equal(found[0], usual[0]) and found[1] == usual[1]
    assert torch.equal(found[2], usual[2])
    assert not torch.equal(usual[0], gpt2.logits(TEXTS[:2]))


def test_a_concept_is_trained_in_inference_mode(gpt2):
    given = [("the cat sat", " good", "the soup", " book")] * 2
    options: Any = {"steps": 2, "batch": 2, **QUIET}
    usual = concept_das(gpt2, given, Site(1), **options)
    with torch.inference_mode():
        found = concept_das(gpt2, given, Site(1), **options)
    assert torch.equal(found.basis, usual.basis) and found.losses == usual.losses


def measured(gpt2, random_direction) -> list[Any]:
    edit = Add(random_direction(Site(1), gpt2.d_model), unit=0.5)
    read = activations(gpt2, PAIRS, **QUIET)
    return [
        sweep(gpt2, PAIRS, [edit], (0.0, 1.0), **QUIET).log_odds,
        divergence(gpt2, TEXTS, [edit], (0.0, 1.0), **QUIET),
        direct_gain(gpt2, PAIRS, [edit], (0.0, 1.0), **QUIET),
        read.positive, read.negative,
    ]  # fmt: skip


def test_another_default_precision_changes_nothing(gpt2, random_direction, float64_by_default):
    options: Any = {"max_new_tokens": 4, "temperature": 1.0, "seed": 3}
    direction = random_direction(Site(1), gpt2.d_model)
    torch.set_default_dtype(torch.float32)
    usual = measured(gpt2, lambda *_: direction), generate(gpt2, TEXTS, **options)
    torch.set_default_dtype(torch.float64)
    found = measured(gpt2, lambda *_: direction), generate(gpt2, TEXTS, **options)
    for one, other in zip(found[0], usual[0], strict=True):
        assert one.dtype == other.dtype and torch.equal(one, other)
    assert found[1] == usual[1]


@pytest.mark.parametrize("draws", [np.arange(2), torch.arange(2), [np.int64(0), torch.tensor(1)]])
def test_random_streams_are_numbers_of_any_library(gpt2, draws):
    options: Any = {"max_new_tokens": 4, "temperature": 1.0}
    assert generate(gpt2, TEXTS[:2], draws=draws, **options) == generate(
        gpt2, TEXTS[:2], draws=[0, 1], **options
    )
    with pytest.raises(ValueError, match=r"draws=0\.5 is not a whole number"):
        generate(gpt2, TEXTS[:2], draws=[0, 0.5], **options)


def trained(form) -> Any:
    def log_odds(model: Model) -> torch.Tensor:
        fitted = Trainer(LM(), steps=3, batch=2, seed=0).fit(form, model, PAIRS, **QUIET)
        return sweep(model, PAIRS, [fitted], (0.0, 1.0), **QUIET).log_odds

    return log_odds


MADE: dict[str, Any] = {
    "grains": lambda model: grains(model, PAIRS, [Site(1)], tokens=2, steps=2)[0].vector,
    "probe": lambda model: (
        probe(activations(model, PAIRS, [Site(1)], **QUIET), folds=2, controls=1, **QUIET).scores
    ),
    "LoRA": trained(LoRA(rank=2)),
    "LoReFT": trained(LoReFT(Site(1), rank=2)),
    "DReFT": trained(DReFT(Site(1), 2)),
    "bottleneck": trained(PostBlock(rank=2)),
}


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("precision", [torch.float64, torch.bfloat16])
def test_what_is_fitted_is_the_same_under_another_default_precision(
    gpt2, float64_by_default, name, precision
):
    torch.set_default_dtype(torch.float32)
    models = [Model(copy.deepcopy(gpt2.wrapped)) for _ in range(2)]
    usual = MADE[name](models[0])
    torch.set_default_dtype(precision)
    found = MADE[name](models[1])
    assert found.dtype == usual.dtype == torch.float32
    torch.testing.assert_close(found, usual, atol=1e-6, rtol=1e-6)


def test_a_probe_under_autocast_is_one_of_lower_precision(gpt2):
    read = activations(gpt2, PAIRS, [Site(1)], **QUIET)
    usual = probe(read, folds=2, controls=1, **QUIET).scores
    with torch.autocast("cpu", torch.bfloat16):
        found = probe(read, folds=2, controls=1, **QUIET).scores
    torch.testing.assert_close(found, usual, atol=0.1, rtol=0.05)
