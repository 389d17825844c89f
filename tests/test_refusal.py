"""Refusals of a planted model, which answers "no" to one side: openings, changes, errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steerlens import plots
from steerlens.analyses.direction_nulls import along_random
from steerlens.analyses.safety.answer_openings import Openings, find_openings, opening_log_odds
from steerlens.analyses.safety.measure_refusal import cosine_interval, refusal_effect
from steerlens.analyses.safety.refusal_effect import MINUS, PLUS, RefusalEffect
from steerlens.analyses.safety.refusal_reader import ReaderCheck, RefusalReader
from steerlens.arguments import ArgumentError
from steerlens.data import ContrastPair, ContrastSet
from steerlens.directions import Direction
from steerlens.interventions import Add
from steerlens.models.model import Model
from steerlens.results import Cell
from steerlens.sites import Site
from steerlens.stats import share_change_interval
from steerlens.store.cells import Cells, cells_or_none
from steerlens.testbed.planted import planted_pairs

DATA = Path(__file__).parents[1] / "experiments" / "data"
SHARED = Path(__file__).parents[2] / "shared" / "data" / "ibm_activation_steering"
READER = RefusalReader(refusals=("no",))
KNOWN = [(" no soup", True), (" no .", True), (" yes", False), (" yes no", False)] * 8


@pytest.fixture(scope="module")
def model(planted):
    return Model(planted.model)


@pytest.fixture(scope="module")
def requests(planted):
    """The side that the model says "no" to as harmful, for fitting and for reporting."""
    pairs = [ContrastPair(*row) for row in planted_pairs(planted, 72, kind="contexts", seed=3)]
    asked = [
        ContrastPair("", f"{p.negative} is it nice ?", f"{p.positive} is it nice ?", p.group)
        for p in pairs
    ]
    groups = sorted({pair.group for pair in asked})
    parts = [[p for p in asked if (groups.index(p.group) % 2) == k] for k in (0, 1)]
    return ContrastSet("fit", tuple(parts[0])), ContrastSet("report", tuple(parts[1]))


@pytest.fixture(scope="module")
def arms(planted):
    real = Add(Direction(planted.direction, Site(2, "resid_pre")), unit="direction")
    return {"nice": real, "random": along_random(real, 3)}


@pytest.fixture(scope="module")
def effect(model, arms, requests):
    return measured(model, arms, requests)


def measured(model, arms, requests, **options) -> RefusalEffect:
    given: dict[str, Any] = {
        "reader": READER, "known": KNOWN, "controls": ("random",), "max_new_tokens": 3,
        "others": {"real": [arms["nice"].direction]}, "progress": False,
    } | options  # fmt: skip
    return refusal_effect(model, arms, [Cell("nice", 8.0), Cell("random", 8.0)], *requests, **given)


def test_steering_moves_refusals_as_planted(effect):
    assert effect.rate(0).value > 0.9 and effect.rate(1).value < 0.1
    assert effect.harm_gap().low > 0.5
    assert effect.rate_change(0, 0, PLUS).high < -0.5  # all harmful requests are answered "yes"
    assert effect.rate_change(0, 1, MINUS).low > 0.5  # and the others "no" at the opposite
    assert effect.propensity_change(0, 0, PLUS).high < 0 < effect.propensity_change(0, 1, MINUS).low
    assert abs(effect.rate_change(1, 0, PLUS).value) <= abs(effect.rate_change(0, 0, PLUS).value)
    assert effect.largest_control(0)[1] == max(
        abs(effect.rate_change(1, 0, sign).value) for sign in (PLUS, MINUS)
    )
    # The refusal direction is harmful minus harmless, so the planted one points away from it.
    assert effect.cosine[0, 2] < -effect.chance[0]
    assert effect.other_cosines[0, 0] == pytest.approx(float(effect.cosine[0, 0]), abs=1e-6)


def test_openings_are_those_of_the_models_own_answers(effect):
    assert [text.strip() for text in effect.refusing] == ["no"]
    assert [text.strip() for text in effect.complying] == ["yes"]
    assert effect.covered == (1.0, 1.0)


def test_log_odds_are_those_of_a_forward_pass(model, arms, requests, effect):
    prompt = requests[1][0].positive
    ids = [model.split(prompt, side[0])[1][0] for side in (effect.refusing, effect.complying)]
    for sign, m in enumerate((0.0, 8.0, -8.0)):
        with arms["nice"].attach(model, m):
            log_p = torch.log_softmax(model.logits([prompt])[0, -1], -1)
        own = float(effect.log_odds[0, 0, sign, 0])
        assert own == pytest.approx(float(log_p[ids[0]] - log_p[ids[1]]), abs=1e-3)


def test_a_side_of_several_openings_is_their_sum(model, arms, requests, effect):
    prompts = [pair.positive for pair in requests[1]][:3]
    one = effect.refusing[0], effect.complying[0]

    def odds(found):
        kept = cells_or_none(None, "", False)
        return opening_log_odds(
            model, prompts, found, [arms["nice"]], (0.0, 1.0), progress=False, cells=kept
        )

    both = odds(Openings((one[0],), (one[1], " great her"), (1.0, 1.0)))
    yes = odds(Openings((one[0],), (one[1],), (1.0, 1.0)))
    great = odds(Openings((one[0],), (" great her",), (1.0, 1.0)))
    torch.testing.assert_close(both, -torch.logaddexp(-yes, -great), rtol=1e-4, atol=1e-4)


def test_starts_are_the_shortest_of_their_kind(model):
    words = ["no tea", "no soup", "no soup", "yes her", "her cake", "her tea"]
    ids = torch.tensor([model.ids(text)[-2:] for text in words])
    refused = [True, True, False, False, False, True]
    found = find_openings(model, ["my tea"] * 6, ids, refused, length=2, most=4)
    # "no" starts both kinds, "no soup" as well (one of three against one of three: neither's).
    assert [x.strip() for x in found.refusing] == ["no tea", "her tea"]
    assert [x.strip() for x in found.complying] == ["yes", "her cake"]
    assert found.covered == pytest.approx((2 / 3, 2 / 3))


def test_a_result_is_stored_and_drawn(effect, tmp_path):
    again = RefusalEffect.load(effect.save(tmp_path))
    assert again.to_frame().equals(effect.to_frame()) and again.texts == effect.texts
    assert again.check == effect.check and again.summary() == effect.summary()
    assert "controls, harmful" in effect.summary() and "cosine" in effect.summary()
    for figure in (effect.plot(), effect.plot_cosines()):
        assert "<div" in plots.to_html_div(figure, first=False)
    assert len(effect.section({}).blocks) == 5
    assert len(effect.to_frame()) == 2 * 2 * 3 * len(effect.groups)


def test_a_killed_run_goes_on_to_the_same_numbers(model, arms, requests, effect, tmp_path):
    kept = Cells(tmp_path, "refusal", {}, False)
    one = measured(model, arms, requests, cells=kept)
    files = sorted(tmp_path.rglob("*.safetensors"))
    for file in files[::2]:
        file.unlink()
    two = measured(model, arms, requests, cells=kept)
    assert torch.equal(one.log_odds, two.log_odds) and one.texts == two.texts == effect.texts


def test_rates_are_withheld_where_the_reader_is_poor(model, arms, requests):
    wrong = [(text, not refuses) for text, refuses in KNOWN]
    for known in ((), wrong):
        found = measured(model, arms, requests, known=known)
        assert not found.reader_is_good and np.isnan(found.rate_change(0, 0).value)
        assert "so there are no rates" in found.summary()
        drawn: Any = found.plot()
        assert {trace.xaxis for trace in drawn.data} == {"x"}  # log-odds alone


def test_a_model_without_refusals_says_so(model, arms, requests):
    never = RefusalReader(refusals=("never",))
    known = [("never", True), ("yes", False)] * 16
    found = measured(model, arms, requests, reader=never, known=known)
    assert found.refusing == () and bool(found.log_odds.isnan().all())
    assert "hardly refuses" in found.summary() and "no log-odds" in found.summary()
    low, high = found.rate_change(0, 0)[1:]
    assert low < 0 < high  # no text changed, which so few requests do not show for all


def test_what_cannot_be_measured_is_refused(model, arms, requests):
    fit, report = requests
    cells = [Cell("nice", 1.0)]
    for at, message in (
        ([], "no cell"),
        ([Cell("other", 1.0)], "none of the interventions"),
        ([Cell("nice", 0.0)], "unsteered model"),
        (cells * 2, "twice"),
    ):
        with pytest.raises(ArgumentError, match=message):
            refusal_effect(model, arms, at, fit, report)
    with pytest.raises(ArgumentError, match="no rows"):
        refusal_effect(model, arms, cells, fit, report, controls=("random",))
    with pytest.raises(ValueError, match="share"):
        refusal_effect(model, arms, cells, fit, fit)
    asked = ContrastSet("asked", (ContrastPair("a", " yes", " no"),) * 2)
    with pytest.raises(ArgumentError, match="whole requests"):
        refusal_effect(model, arms, cells, fit, asked)
    with pytest.raises(ArgumentError, match="hold 0 refusals"):
        refusal_effect(model, arms, cells, fit, report, known=[("yes", False)])
    with pytest.raises(ArgumentError, match="no openings"):
        RefusalReader(refusals=(), apologies=("Sorry",), turns=())


def test_the_reader_on_texts():
    cases = {
        "I can't help with that.": 1, "I\N{RIGHT SINGLE QUOTATION MARK}m sorry, but as a chatbot": 1,
        "I'm sorry for your loss. I'm here to help": 0, "Sorryland is a place, but": 0,
        '"Unfortunately, no."': 1, "Here's a guide. I can't wait!": 0, "": 0,
    }  # fmt: skip
    assert RefusalReader()([""] * len(cases), list(cases)) == list(map(float, cases.values()))


def test_the_reader_is_good_on_the_labelled_answers():
    rows = map(json.loads, (DATA / "refusal_texts.jsonl").read_text("utf-8").splitlines())
    check = ReaderCheck.of(RefusalReader(), [(row["text"], row["refuses"]) for row in rows])
    assert check.is_good and check.refusals >= 24 and check.others >= 24


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data are not here")
def test_the_reader_passes_openings_of_other_models_that_comply():
    (file,) = SHARED.rglob("behavior_refusal.json")
    data = json.loads(file.read_text("utf-8"))
    texts = [(t, False) for t in data["compliant_responses"]]
    texts += [(t, True) for t in data["non_compliant_responses"]]
    check = ReaderCheck.of(RefusalReader(), texts)
    assert check.passed == check.others == 100


def test_the_requests_share_nothing_and_are_worded_alike():
    parts = [ContrastSet.load(DATA / f"refusal_{part}.jsonl") for part in ("fit", "report")]
    texts = [text for part in parts for pair in part for text in (pair.positive, pair.negative)]
    assert len(set(texts)) == 144 and not set(parts[0].groups) & set(parts[1].groups)
    for part in parts:
        for pair in part:
            assert pair.positive.split()[:2] == pair.negative.split()[:2]


def test_the_interval_of_a_cosine_is_the_jackknifes():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(12, 5, generator=generator).double() + 1
    vector = torch.randn(5, generator=generator).double()
    value, low, high = cosine_interval(vector, rows, torch.arange(12))

    def cosine(x):
        return float(vector @ x.mean(0) / vector.norm() / x.mean(0).norm())

    alone = np.array([cosine(torch.cat([rows[:i], rows[i + 1 :]])) for i in range(12)])
    error = np.sqrt(11 / 12 * ((alone - alone.mean()) ** 2).sum())
    assert value == pytest.approx(cosine(rows))
    assert high - value == pytest.approx(2.200985 * error, rel=1e-5) == value - low
    assert np.isnan(cosine_interval(vector, rows[:7], torch.arange(7))[1])


def test_changes_of_shares_cover():
    """Of 400 samples of 36 pairs, about 95% of the intervals hold the true change."""
    generator = torch.Generator().manual_seed(1)
    before = (torch.rand(400, 36, generator=generator) < 0.5).float()
    after = torch.where(torch.rand(400, 36, generator=generator) < 0.4, 0.0, before)  # -0.2
    value, low, high = share_change_interval(before, after)
    torch.testing.assert_close(value, (after - before).mean(-1))
    covered = float(((low <= -0.2) & (high >= -0.2)).float().mean())
    assert 0.92 <= covered <= 0.99
    both = torch.where(torch.rand(400, 36, generator=generator) < 0.3, 1 - before, before)  # 0
    _, low, high = share_change_interval(before, both)
    assert 0.92 <= float(((low <= 0) & (high >= 0)).float().mean()) <= 0.99
    _, low, high = share_change_interval(before[:1], before[:1])
    assert float(low) < 0 < float(high)
    assert bool(share_change_interval(before[0, :7], after[0, :7])[1].isnan())
