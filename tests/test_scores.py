"""Preference and utility are what their definitions say."""

import pytest
import torch

from steerlens.data import ContrastPair
from steerlens.interventions import Add
from steerlens.measures.engine import Plan
from steerlens.measures.scores import CEILING, preference, utility
from steerlens.measures.sweep import Swept, sweep
from steerlens.sites import Site

PAIRS = [ContrastPair("the soup was", " good", " bad"), ContrastPair("you", " like", " hate")]
UNEQUAL = [
    ContrastPair("the cat sat on the", " bed and a book", " table"),
    ContrastPair("the soup was", " good", " bad cat"),
]
EQUAL = [ContrastPair("the cat sat on", " the bed", " a book"), PAIRS[1]]


def swept(positive, negative, lengths=None):
    """As a sweep would give them, from probabilities."""
    log_p = [
        torch.tensor(p, dtype=torch.float64).log().view(1, 1, -1) for p in (positive, negative)
    ]
    plan = Plan(len(positive), (), 0)
    counts = torch.tensor(lengths or [[1, 1]] * len(positive))
    return Swept(*log_p, multipliers=(0.0,), log_odds_only=False, plan=plan, lengths=counts)


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


def token_log_probs(model, pair, side):
    """Log-probability of each of an answer's tokens, one full forward pass for each prefix."""
    prompt, answer = model.split(pair.prompt, side)
    out = []
    for k, token in enumerate(answer):
        given = torch.tensor([[*prompt, *answer[:k]]])
        with torch.no_grad():
            out.append(float(model.wrapped(given)[0, -1].log_softmax(-1)[token]))
    return out


def test_per_token_scores_are_those_of_the_mean_log_probability_of_the_tokens(
    gpt2, random_direction
):
    edits = [Add(random_direction(Site(1), gpt2.d_model))]
    found = sweep(gpt2, UNEQUAL, edits, (0.0, 1.0), progress=False)
    assert found.lengths.tolist() == [[4, 1], [1, 2]]
    for n, pair in enumerate(UNEQUAL):
        both = [token_log_probs(gpt2, pair, side) for side in (pair.positive, pair.negative)]
        one, other = (torch.tensor(x).mean().exp() for x in both)
        at_zero = (0, 0, n)
        odds = preference(found, per="token")[at_zero]
        torch.testing.assert_close(odds, (one / other).log(), atol=1e-4, rtol=1e-4)
        expected = ((one + other) / (1 - one - other)).log()
        on_task = utility(found, per="token").value[at_zero]
        torch.testing.assert_close(on_task, expected, atol=1e-4, rtol=1e-4)
        summed = torch.tensor(sum(both[0]) - sum(both[1]))
        torch.testing.assert_close(preference(found)[at_zero], summed, atol=1e-4, rtol=1e-4)


def test_per_token_and_per_answer_are_the_same_for_answers_of_one_token():
    one = swept([0.3, 0.01], [0.1, 0.02])
    torch.testing.assert_close(preference(one, per="token"), preference(one))
    torch.testing.assert_close(utility(one, per="token").value, utility(one).value)


def test_mean_probabilities_beyond_one_are_clamped_and_flagged():
    long = swept([0.5, 0.04], [0.4, 0.01], lengths=[[4, 4], [2, 2]])  # means .84+.80, .2+.1
    found = utility(long, per="token")
    assert found.clamped[0, 0].tolist() == [True, False]
    torch.testing.assert_close(found.value[0, 0, 1], torch.tensor(0.3 / 0.7).double().log())
    assert not utility(long).clamped.any()


def test_log_odds_of_answers_of_unequal_length_cannot_be_scored_per_token(gpt2, random_direction):
    edits = [Add(random_direction(Site(1), gpt2.d_model))]
    found = sweep(gpt2, UNEQUAL, edits, (0.0, 1.0), log_odds_only=True, progress=False)
    with pytest.raises(ValueError, match="answers of example 0 have 4 and 1 tokens"):
        preference(found, per="token")
    whole = sweep(gpt2, EQUAL, edits, (0.0, 1.0), progress=False)
    short = sweep(gpt2, EQUAL, edits, (0.0, 1.0), log_odds_only=True, progress=False)
    assert whole.lengths.tolist() == [[2, 2], [1, 1]]
    expected = preference(whole, per="token")
    torch.testing.assert_close(preference(short, per="token"), expected, atol=2e-5, rtol=1e-5)
