"""The first-order screen equals small finite differences of the exact sweep."""

import pytest
import torch

from steerlens.data import ContrastPair
from steerlens.directions import Direction
from steerlens.interventions import Ablate, Add, Clamp, Together
from steerlens.measures.screen import screen
from steerlens.measures.sweep import sweep
from steerlens.sites import Positions, Site
from tests.strangers import low_rank

PAIRS = [
    ContrastPair("the cat sat on the", " bed and a book", " book"),
    ContrastPair("I think he said that the good soup was", " good", " bad cat"),
]
SHORT = [ContrastPair(pair.prompt, " good", " bad") for pair in PAIRS]


def edits_of(model, positions):
    generator = torch.Generator().manual_seed(1)

    def direction(layer):
        return Direction(torch.randn(model.d_model, generator=generator), Site(layer))

    adds = [Add(direction(layer), positions, "direction") for layer in range(model.n_layers)]
    return [*adds, Ablate(direction(1), positions), Clamp(direction(0), 2.0, positions)]


@pytest.mark.parametrize("pairs", [SHORT, PAIRS], ids=["one token", "several tokens"])
@pytest.mark.parametrize("positions", [Positions.all(), Positions.from_prompt_end()], ids=repr)
def test_the_screen_is_the_slope_at_zero(tiny, pairs, positions):
    edits, step = edits_of(tiny, positions), 1e-2
    found = screen(tiny, pairs, edits, batch_size=1, progress=False)
    odds = sweep(tiny, pairs, edits, (-step, 0.0, step), progress=False).log_odds
    exact = (odds[:, 2] - odds[:, 0]) / (2 * step)
    torch.testing.assert_close(found.slopes, exact, atol=3e-3, rtol=1e-2)
    assert float(exact.abs().max()) > 0.05


def test_the_screen_works_on_a_bridge(tiny_bridge_model):
    edits = edits_of(tiny_bridge_model, Positions.from_prompt_end())
    found = screen(tiny_bridge_model, SHORT, edits, progress=False)
    odds = sweep(tiny_bridge_model, SHORT, edits, (-0.01, 0.0, 0.01), progress=False).log_odds
    exact = (odds[:, 2] - odds[:, 0]) / 0.02
    torch.testing.assert_close(found.slopes, exact, atol=3e-3, rtol=1e-2)
    assert found.rank_correlation(exact).value > 0.9


def test_the_screen_leaves_the_model_as_it_was(gpt2):
    before = {name: p.requires_grad for name, p in gpt2.wrapped.named_parameters()}
    screen(gpt2, SHORT, edits_of(gpt2, Positions.all()), progress=False)
    assert {name: p.requires_grad for name, p in gpt2.wrapped.named_parameters()} == before
    assert all(p.grad is None for p in gpt2.wrapped.parameters())
    assert not any(point.fwd_hooks for point in gpt2.wrapped.hook_dict.values())


def test_other_interventions_are_asked_for_their_slope(tiny):
    """By a central difference; what is an edit keeps its gradient, bit for bit."""
    edits = edits_of(tiny, Positions.from_prompt_end())
    arms = [low_rank(tiny, 1), *edits, Together((edits[0], edits[1]))]
    found, alone = (screen(tiny, PAIRS, one, progress=False) for one in (arms, edits))
    assert torch.equal(found.slopes[1:-1], alone.slopes)
    assert torch.equal(found.by_position[1:-1], alone.by_position)
    assert bool(found.by_position[[0, -1]].isnan().all()) and not found.chosen[[0, -1]].any()
    step = 1e-2
    odds = sweep(tiny, PAIRS, arms, (-step, step), progress=False).log_odds
    exact = (odds[:, 1] - odds[:, 0]) / (2 * step)
    torch.testing.assert_close(found.slopes, exact, atol=5e-3, rtol=1e-2)
    torch.testing.assert_close(
        found.slopes[-1], found.slopes[1] + found.slopes[2], atol=5e-3, rtol=1e-2
    )
    assert float(exact[0].abs().max()) > 1e-2
