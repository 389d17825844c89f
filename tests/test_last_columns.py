"""Gradients by the pass over the last columns alone are those of the hooked pass over all."""

from __future__ import annotations

import pytest
import torch

import steerlens as sl
from steerlens.analyses.prediction.first_order_look import FirstOrder, first_order
from steerlens.measures.answer_gradients import summed_gradients, with_gradients
from steerlens.measures.cost_gradients import cost_gradients
from steerlens.measures.tokenised import questions
from steerlens.sites import Positions, Site

RULES = [Positions.from_prompt_end(), Positions.last(), Positions.all(), Positions.span(0, 2)]
TEXTS = [
    "the cat sat on the bed and a book",
    "the soup was good",
    "I think he said that the good soup was good",
]


def asked() -> sl.ContrastSet:
    rows = [
        ("the cat sat on the", " bed and a book", " book"),  # answers of several tokens
        ("the soup was", " good", " bad"),  # a prompt that is padded
        ("I think he said that the good soup was", " good", " bad cat"),
    ]
    return sl.ContrastSet("asked", tuple(sl.ContrastPair(*row) for row in rows))


def sites(model: sl.Model) -> list[Site]:
    return [Site(0, "resid_pre"), *model.sites()]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_of_answers(tiny: sl.Model, rule: Positions) -> None:
    known, at = questions(tiny, asked()), sites(tiny)
    fast = summed_gradients(tiny, known, at, rule)
    mask = rule.mask(known.batch)[..., None]
    held = with_gradients(tiny, known, at)
    naive = torch.stack([(held[site][1] * mask).sum((0, 1)) for site in at])
    assert naive[:-1].norm(dim=-1).min() > 1e-6
    torch.testing.assert_close(fast, naive, rtol=1e-4, atol=1e-5 * float(naive.abs().max()))


@pytest.mark.parametrize("rule", RULES[:3], ids=str)
def test_of_costs(tiny: sl.Model, rule: Positions, monkeypatch: pytest.MonkeyPatch) -> None:
    at = sites(tiny)
    fast = cost_gradients(tiny, TEXTS, at, positions=rule)
    monkeypatch.setattr(sl.Model, "why_no_kernel", lambda _: "asked for")
    naive = cost_gradients(tiny, TEXTS, at, positions=rule)
    assert naive.norm(dim=-1).max() > 1e-4
    torch.testing.assert_close(fast, naive, rtol=1e-4, atol=1e-5 * float(naive.abs().max()))


def test_of_one_stream_by_two_names(gpt2: sl.Model) -> None:
    """What leaves block 0 is what enters block 1."""
    found = cost_gradients(gpt2, TEXTS, [Site(0), Site(1, "resid_pre")])
    assert found.abs().max() > 0
    torch.testing.assert_close(found[:, 0], found[:, 1])


def test_under_what_is_attached(gpt2: sl.Model) -> None:
    known, at, rule = questions(gpt2, asked()), sites(gpt2), Positions.from_prompt_end()
    step = sl.Direction(
        torch.randn(gpt2.d_model, generator=torch.Generator().manual_seed(0)), Site(0)
    )
    alone = summed_gradients(gpt2, known, at, rule)
    with sl.Add(step, unit=1.0).attach(gpt2, 3.0):
        under = summed_gradients(gpt2, known, at, rule)
        held = with_gradients(gpt2, known, at)
    mask = rule.mask(known.batch)[..., None]
    naive = torch.stack([(held[site][1] * mask).sum((0, 1)) for site in at])
    torch.testing.assert_close(under, naive, rtol=1e-4, atol=1e-5 * float(naive.abs().max()))
    assert (under - alone).abs().max() > 1e-4


def test_of_another_site(gpt2: sl.Model) -> None:
    known, at = questions(gpt2, asked()), [Site(1, "mlp_out")]
    rule = Positions.from_prompt_end()
    found = summed_gradients(gpt2, known, at, rule)
    held = with_gradients(gpt2, known, at)
    naive = (held[at[0]][1] * rule.mask(known.batch)[..., None]).sum((0, 1))
    torch.testing.assert_close(found[0], naive)


def test_where_gradients_are_turned_off(tiny: sl.Model) -> None:
    at, rule = sites(tiny), Positions.from_prompt_end()

    def read() -> FirstOrder:
        return first_order(tiny, asked(), TEXTS, at, positions=rule, budget=0.1)

    with torch.inference_mode():
        found = read()
    expected = read()
    torch.testing.assert_close(found.gain, expected.gain)
    torch.testing.assert_close(found.cost, expected.cost)
