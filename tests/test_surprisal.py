"""Surprisal of written texts is that of one forward pass per text under the unsteered model."""

import math

import pytest
import torch

from steerlens.directions import Direction
from steerlens.interventions import Add
from steerlens.measures.surprisal import surprisal
from steerlens.models.memory import in_chunks
from steerlens.models.model import Model, SteeringError
from steerlens.sites import Site
from steerlens.testing import tiny_model
from tests.by_hand import PROMPTS, by_hand

WRITTEN = [
    [[20, 31, 42, 53], [61, -1, -1, -1]],
    [[3, -1, -1, -1], [20, 20, 3, -1]],
    [[99, 17, 3, -1], [5, 6, 7, 8]],
]
NAN = math.nan


def check_surprisal(model):
    expected = torch.tensor(
        [[by_hand(model, p, t) for t in texts] for p, texts in zip(PROMPTS, WRITTEN, strict=True)]
    )
    for rows in (256, 2):
        found = surprisal(model, PROMPTS, torch.tensor(WRITTEN), rows=rows)
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)
    assert float(expected.std()) > 0.1


def test_surprisal_equals_one_forward_pass_per_text(tiny):
    check_surprisal(tiny)


def test_surprisal_equals_one_forward_pass_per_text_with_hooks(tiny, monkeypatch):
    monkeypatch.setattr(Model, "kernel", lambda self: None)
    check_surprisal(tiny)


def test_surprisal_equals_one_forward_pass_per_text_on_a_bridge(tiny_bridge_model):
    check_surprisal(tiny_bridge_model)


def test_surprisal_of_the_shortest_prompt(gpt2):
    """One token (BOS) leaves no prefix to share."""
    alone = Model(gpt2.wrapped, prepend_bos=False)
    found = surprisal(alone, ["you", "cat"], torch.tensor([[[20, 31]], [[42, -1]]]))
    expected = torch.tensor([[by_hand(alone, "you", [20, 31])], [by_hand(alone, "cat", [42])]])
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)


def test_a_users_own_hook_belongs_to_the_unsteered_model(gpt2):
    plain = surprisal(gpt2, PROMPTS, torch.tensor(WRITTEN))
    with gpt2.wrapped.hooks(fwd_hooks=[(Site(1).hook, lambda resid, hook: resid * -2)]):
        hooked = surprisal(gpt2, PROMPTS, torch.tensor(WRITTEN))
        expected = by_hand(gpt2, PROMPTS[0], WRITTEN[0][0])
    assert float(hooked[0, 0]) == pytest.approx(expected, abs=2e-5)
    assert abs(float(plain[0, 0]) - expected) > 0.01


def test_steered_models_are_not_asked_about_their_own_texts(gpt2):
    edit = Add(Direction(torch.ones(32), Site(1), resid_norm=4.0))
    with pytest.raises(SteeringError, match="the model is not unsteered"), edit.attach(gpt2, 1.0):
        surprisal(gpt2, PROMPTS, torch.tensor(WRITTEN))


@pytest.mark.parametrize(
    ("prompts", "written", "text"),
    [
        (PROMPTS, [[[20, -1, 31]]] * 3, "goes on after -1"),
        (PROMPTS, [[[-1, -1]]] * 3, "at least one token"),
        (PROMPTS, [[[20]]] * 2, "3 prompts for texts of 2"),
        (PROMPTS, [[[20] * 60]] * 3, "have 69 tokens and the context of 'tiny-gpt2' is 64"),
    ],
)
def test_texts_that_cannot_be_scored_are_refused(gpt2, prompts, written, text):
    with pytest.raises(ValueError, match=text):
        surprisal(gpt2, prompts, torch.tensor(written))


def test_nan_is_refused_not_averaged():
    model = Model(tiny_model("gpt2", n_layers=1))
    model.wrapped.unembed.b_U.data[7] = NAN
    with pytest.raises(ValueError, match="text 0 after prompt 0 are NaN"):
        surprisal(model, PROMPTS, torch.tensor(WRITTEN))


def test_no_rows_at_a_time_are_refused(gpt2):
    with pytest.raises(ValueError, match="rows=-1: at least one"):
        in_chunks(lambda chunk: torch.zeros(chunk.stop - chunk.start), 3, -1)
