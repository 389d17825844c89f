"""Preference and utility are what their definitions say."""

import pytest
import torch

from steerlens.contrast import ContrastPair
from steerlens.interventions import Add
from steerlens.scores import CEILING, preference, utility
from steerlens.sites import Site
from steerlens.sweeping import Plan, Swept, sweep

PAIRS = [ContrastPair("the soup was", " good", " bad"), ContrastPair("you", " like", " hate")]


def swept(positive, negative):
    """As a sweep would give them, from probabilities."""
    log_p = [
        torch.tensor(p, dtype=torch.float64).log().view(1, 1, -1) for p in (positive, negative)
    ]
    plan = Plan("wavefront", len(positive), 1, 1, 1, 1, 1, 1)
    return Swept(*log_p, multipliers=(0.0,), log_odds_only=False, plan=plan)


def test_utility_is_the_log_odds_of_giving_either_answer():
    positive, negative = [0.3, 0.01, 0.6, 1e-9], [0.1, 0.02, 0.39, 1e-12]
    both = torch.tensor(positive, dtype=torch.float64) + torch.tensor(negative, dtype=torch.float64)
    found = utility(swept(positive, negative))
    torch.testing.assert_close(found.value[0, 0], (both / (1 - both)).log())
    assert not found.clamped.any()


def test_answers_that_take_all_probability_are_clamped_and_flagged():
    found = utility(swept([0.5, 1.0, 0.7, 0.5], [0.5, 1e-3, 0.29, 0.5 - CEILING / 10]))
    assert found.clamped[0, 0].tolist() == [True, True, False, True]
    assert bool(found.value.isfinite().all())
    top = torch.tensor((1 - CEILING) / CEILING, dtype=torch.float64).log()
    clamped = found.value[found.clamped]
    torch.testing.assert_close(clamped, top.expand_as(clamped), atol=0.1, rtol=0)


def test_scores_of_a_sweep_are_those_of_the_models_probabilities(gpt2, random_direction):
    found = sweep(
        gpt2, PAIRS, [Add(random_direction(Site(1), gpt2.d_model))], (0.0, 1.0), progress=False
    )
    for n, pair in enumerate(PAIRS):
        p = gpt2.logits(pair.prompt)[0, -1].softmax(-1)
        one, other = (
            p[gpt2.split(pair.prompt, side)[1][0]] for side in (pair.positive, pair.negative)
        )
        at_zero = (0, 0, n)
        torch.testing.assert_close(preference(found)[at_zero], (one / other).log())
        expected = ((one + other) / (1 - one - other)).log()
        torch.testing.assert_close(utility(found).value[at_zero], expected, atol=1e-4, rtol=1e-4)


def test_a_sweep_of_log_odds_only_has_no_utility(gpt2, random_direction):
    edits = [Add(random_direction(Site(1), gpt2.d_model))]
    found = sweep(gpt2, PAIRS, edits, (0.0, 1.0), log_odds_only=True, progress=False)
    with pytest.raises(ValueError, match="Sweep with log_odds_only=False"):
        utility(found)
