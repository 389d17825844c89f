"""The cost at many strengths, with what the unsteered model computes kept, is `divergence`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import steerlens as sl
from steerlens.interventions.scaled import scaled
from steerlens.measures import repeated_cost
from steerlens.measures.repeated_cost import RepeatedCost
from steerlens.sites import Positions

TEXTS = [
    "the cat sat on the bed and a book",
    "the soup was good",  # padded
    "I think he said that the good soup was good",
    "a book was on the bed",
]
RULES = [Positions.from_prompt_end(), Positions.last(), Positions.all()]
Build = Callable[..., sl.Direction]


def arms_of(model: sl.Model, build: Build, rule: Positions) -> list[sl.Intervention]:
    adds = [
        sl.Add(build(site, model.d_model, i), positions=rule, unit=1.0)
        for i, site in enumerate(model.sites())
    ]
    later = sl.Add(adds[1].direction, positions=Positions.from_prompt_end(), unit=1.0)
    both = sl.Together((adds[0], adds[2]), (1.0, -0.5))
    return [*adds, both, later, sl.Ablate(adds[1].direction, positions=rule)]


def naive(
    model: sl.Model, arms: list[sl.Intervention], chosen: list[int], strengths: list[float]
) -> torch.Tensor:
    edits = [scaled(arms[i], m) for i, m in zip(chosen, strengths, strict=True)]
    return sl.divergence(model, TEXTS, edits, (0.0, 1.0), progress=False)[:, 1]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_is_divergence(tiny: sl.Model, random_direction: Build, rule: Positions) -> None:
    arms = arms_of(tiny, random_direction, rule)
    repeated = RepeatedCost(tiny, TEXTS, arms, progress=False)
    for chosen, strengths in (
        (list(range(len(arms))), [1.0, 2.0, 0.5, 1.5, 1.0, 0.7]),
        ([2, 4], [3.0, 0.1]),
        ([3], [0.4]),
        ([2], [2.0]),  # after the last block
        ([0, 1], [1.2, 2.5]),
    ):
        exact = naive(tiny, arms, chosen, strengths)
        assert exact.min() > 0
        found = repeated(chosen, strengths)
        torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-6)


def test_runs_the_unsteered_model_once(
    gpt2: sl.Model, random_direction: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("divergence was called")

    monkeypatch.setattr(repeated_cost, "divergence", refused)
    arms = arms_of(gpt2, random_direction, RULES[0])
    repeated = RepeatedCost(gpt2, TEXTS, arms, progress=False)
    first = repeated([0, 1], [1.0, 1.0])
    monkeypatch.setattr(repeated_cost, "cost_engine", refused)
    assert torch.equal(repeated([0, 1], [1.0, 1.0]), first)


def test_of_what_cannot_be_kept(
    gpt2: sl.Model, tiny_bridge_model: sl.Model, random_direction: Build
) -> None:
    for model in (gpt2, tiny_bridge_model):
        arms = arms_of(model, random_direction, RULES[0])[:1]
        steered = sl.Add(random_direction(model.sites()[1], model.d_model, 9), unit=1.0)
        with steered.attach(model, 0.5):
            repeated = RepeatedCost(model, TEXTS, arms, progress=False)
            found = repeated([0], [2.0])
            assert repeated._known is None
            torch.testing.assert_close(found, naive(model, arms, [0], [2.0]), rtol=1e-4, atol=1e-6)
        found = RepeatedCost(model, TEXTS, arms, progress=False)([0], [2.0])
        torch.testing.assert_close(found, naive(model, arms, [0], [2.0]), rtol=1e-4, atol=1e-6)
