"""The sequential test keeps its level, finds planted effects, and stops when it is plain."""

from __future__ import annotations

import math

import pytest
import torch

from steerlens import stats
from steerlens.analyses.ab.ab_result import ABTest
from steerlens.analyses.ab.measure_ab import ab_test
from steerlens.analyses.writing.judging import JudgeError
from steerlens.arguments import ArgumentError
from steerlens.interventions import Add
from steerlens.models.attached import SteeringError
from steerlens.sites import Positions, Site
from tests.strangers import low_rank

PROMPTS = [f"the {a} {b} was" for a in ("big", "small", "old", "new") for b in
           ("cat", "dog", "king", "book", "room", "song")]  # fmt: skip


def noise(kind, shape):
    generator = torch.Generator().manual_seed(7)
    if kind == "normal":
        return torch.randn(shape, generator=generator)
    if kind == "heavy":  # differences of equal arms are symmetric, whatever the arms are like
        return torch.tan((torch.rand(shape, generator=generator) - 0.5) * math.pi)
    return (torch.randint(3, shape, generator=generator) - 1).float()


@pytest.mark.parametrize("kind", ["normal", "heavy", "ties"])
def test_equal_arms_differ_in_at_most_5_percent_however_often_one_looks(kind):
    ever = stats.log_evidence(noise(kind, (1000, 100))).amax(-1) >= math.log(20)
    assert float(ever.float().mean()) <= 0.05
    p = stats.p_value_anytime(stats.log_evidence(noise(kind, (1000, 100))))
    assert float((p <= 0.05).float().mean()) <= 0.05 and float(p.max()) == 1.0


def test_planted_effects_are_found():
    found = {
        (effect, n): float(
            (stats.log_evidence(noise("normal", (500, n)) + effect).amax(-1) >= math.log(20))
            .float().mean()
        )
        for effect, n in ((0.5, 100), (1.0, 30))
    }  # fmt: skip
    assert found[0.5, 100] > 0.9 and found[1.0, 30] > 0.9, found


def test_an_e_value_is_the_product_of_its_bets():
    d = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    total = 0.0
    for bet in (b * s for b in (0.1, 0.2, 0.4, 0.8, 1.6) for s in (1, -1)):
        product = 1.0
        for k in range(3):
            x = bet * float(d[k]) / math.sqrt(float(d[: k + 1].square().mean()))
            product *= math.exp(x) / math.cosh(x)
        total += product / 10
    assert float(stats.log_evidence(d)[-1]) == pytest.approx(math.log(total))
    assert torch.equal(stats.log_evidence(torch.zeros(4)).abs() < 1e-6, torch.ones(4) > 0)


def test_the_confidence_sequence_holds_the_centre_at_every_look():
    rows = noise("normal", (30, 60)) + 0.4
    held = 0
    for row in rows:
        low, high = stats.confidence_sequence(row)
        held += not bool(((low > 0.4) | (high < 0.4)).any())
        assert bool(low[:4].isnan().all()) and not bool(low[-1].isnan())
    assert held >= 27


class Counts:
    """The share of a text's words that are among some."""

    def __init__(self, words):
        self.words = words

    def __call__(self, prompts, continuations):
        return [
            sum(word in self.words for word in text.split()) / max(1, len(text.split()))
            for text in continuations
        ]


@pytest.fixture(scope="module")
def steered(gpt2):
    """An intervention that writes one word almost always, and the judge that likes it."""
    from steerlens.directions import Direction

    word = gpt2.ids("red")[-1]
    d = Direction(gpt2.wrapped.unembed.W_U[:, word].detach().clone(), Site(2), resid_norm=1.0)
    return Add(d, Positions.from_prompt_end(), 12.0), Counts({"red"})


def test_a_real_difference_is_found_before_all_prompts_are_seen(gpt2, steered, tmp_path):
    arm, judge = steered
    found = ab_test(gpt2, {"new": arm, "old": None}, PROMPTS, judge, batch=4, max_new_tokens=3,
                    progress=False)  # fmt: skip
    assert found.winner == "new" and found.stopped and len(found.prompts) < len(PROMPTS)
    assert found.p_value <= 0.05 and found.difference.low > 0
    assert "'new' scores more" in found.summary() and "the evidence sufficed" in found.summary()
    assert set(found.prompts) <= set(PROMPTS)
    again = ABTest.load(found.save(tmp_path))
    assert again.texts == found.texts and again.p_value == found.p_value
    assert len(found.plot().data) >= 2 and len(found.to_frame()) == len(found.prompts)
    turned = ab_test(gpt2, {"old": None, "new": arm}, PROMPTS, judge, max_new_tokens=3,
                     early=False, progress=False)  # fmt: skip
    assert turned.winner == "new" and len(turned.prompts) == len(PROMPTS) and not turned.stopped


def test_equal_arms_of_any_kind_are_not_told_apart(gpt2):
    change = low_rank(gpt2, 1)
    judge = Counts({"the", "cat", "good", "big", "a", "small", "I", "you"})
    found = ab_test(gpt2, {"a": change, "b": change}, PROMPTS, judge, max_new_tokens=3,
                    progress=False)  # fmt: skip
    assert found.winner is None and found.p_value > 0.05
    assert found.texts[0] != found.texts[1], "each arm has draws of its own"
    assert "no difference is shown" in found.summary()


def test_near_duplicates_are_one_unit_and_are_seen_together(gpt2, steered):
    prompts = [*PROMPTS[:8], *(p + " ." for p in PROMPTS[:8])]
    found = ab_test(gpt2, {"new": steered[0], "old": None}, prompts, steered[1], batch=3,
                    max_new_tokens=2, early=False, progress=False)  # fmt: skip
    assert len(found.differences) == 8 and len(found.prompts) == 16
    first = found.scores[0] - found.scores[1]
    assert float(found.differences[0]) == pytest.approx(float(first[:2].mean()))


def test_what_cannot_be_tested_is_refused(gpt2, steered):
    arm, judge = steered
    arms = {"new": arm, "old": None}
    for make, error, text in (
        (lambda: ab_test(gpt2, {"new": arm}, PROMPTS, judge), ArgumentError, "compares two"),
        (lambda: ab_test(gpt2, arms, PROMPTS[:3], judge), ArgumentError, "no evidence could come"),
        (lambda: ab_test(gpt2, arms, PROMPTS, judge, level=1.5), ArgumentError, "from 0.5"),
        (lambda: ab_test(gpt2, arms, PROMPTS, lambda p, c: [0.0], progress=False), JudgeError,
         "1 scores"),
    ):  # fmt: skip
        with pytest.raises(error, match=text):
            make()
    with pytest.raises(SteeringError), arm.attach(gpt2, 1.0):
        ab_test(gpt2, arms, PROMPTS, judge)
