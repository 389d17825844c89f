"""Laws of the strength: planted curves are told apart, and numbers are those of plain passes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from steerlens.analyses.strength_laws import known_laws
from steerlens.analyses.strength_laws.known_laws import LAWS
from steerlens.analyses.strength_laws.law import Constant, curve_law
from steerlens.analyses.strength_laws.law_comparison import LawComparison
from steerlens.analyses.strength_laws.law_errors import fit_laws, law_errors
from steerlens.analyses.strength_laws.local_exponent import local_exponent
from steerlens.analyses.strength_laws.measure_laws import compare_laws, law_strengths
from steerlens.analyses.strength_laws.token_bumps import find_bumps
from steerlens.arguments import ArgumentError
from steerlens.data import ContrastPair, ContrastSet
from steerlens.directions import Direction
from steerlens.interventions import Add
from steerlens.measures.divergence import divergence, text_costs
from steerlens.measures.token_sweep import sweep_tokens
from steerlens.sites import Positions, Site
from tests.grids import MULTIPLIERS, ONE_TOKEN, SEVERAL_TOKENS, every_edit
from tests.strangers import low_rank

QUIET: Any = {"progress": False}
M = np.array(law_strengths())
DECAY = (1 + M**2 / 6) ** -1.2
PLANTED = {
    ("cost", "quadratic"): (known_laws.quadratic(M, 0.1, 0.2), (0.1, 0.2)),
    ("cost", "quadratic with a plateau"): (
        known_laws.plateau(M, 0.1, 0.2, 5.0, 9.0), (0.1, 0.2, 5.0, 9.0),
    ),
    ("cost", "validity decay"): (3.0 - 3.0 * DECAY, None),
    ("cross-entropy", "slope and quadratic"): (
        known_laws.sloped_quadratic(M, -0.3, 0.1, 0.2), (-0.3, 0.1, 0.2),
    ),
    ("preference", "linear"): (known_laws.line(M, -0.5, 2.0), (-0.5, 2.0)),
    ("preference", "sigmoid"): (known_laws.sigmoid(M, 1.0, -4.0, 0.5, 1.5), (1.0, -4.0, 0.5, 1.5)),
    ("preference", "validity decay"): ((1.0 * M + 0.3) * DECAY + 0.2, None),
    ("probability", "sigmoid"): (known_laws.sigmoid(M, 0.4, 0.6, -1.0, 0.8), (0.4, 0.6, -1.0, 0.8)),
}  # fmt: skip


def law_of(quantity, name):
    return next(law for law in LAWS[quantity] if law.name == name)


@pytest.mark.parametrize(("quantity", "name"), PLANTED, ids=str)
def test_each_law_recovers_its_own_curve_and_beats_its_rivals_there(quantity, name):
    y, constants = PLANTED[quantity, name]
    own = law_errors(law_of(quantity, name), M, y)
    # Nine constants of a decay are known less well from the inner half.
    far = 0.05 if name == "validity decay" else 1e-3
    assert own.held_out < 1e-4 * y.std() and own.beyond < far * y.std()
    if constants is not None:
        np.testing.assert_allclose(own.fitted.constants, constants, rtol=1e-4)
    np.testing.assert_allclose(own.fitted.at(M), y, atol=1e-4)
    for rival in LAWS[quantity]:
        # What contains the planted law as a special case is no rival.
        if rival.free > own_free(quantity, name) or rival.name in (name, "interpolation"):
            continue
        assert law_errors(rival, M, y).held_out > 10 * own.held_out, rival.name


def own_free(quantity, name):
    return law_of(quantity, name).free


@pytest.mark.parametrize("scale", [1e-3, 50.0])
def test_constants_follow_the_units(scale):
    """The same curve in other units of strength and value has the constants in these units."""
    for quantity, name in (("cost", "quadratic with a plateau"), ("preference", "sigmoid")):
        y, constants = PLANTED[quantity, name]
        law = law_of(quantity, name)
        found = law.fit(M * scale, y * 7).constants
        powers = np.array([(c.multiplier, c.value) for c in law.constants], dtype=float)
        expected = np.array(constants) * scale ** powers[:, 0] * 7.0 ** powers[:, 1]
        np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_baselines_are_what_they_say():
    y = np.abs(M)
    errors = {law.name: law_errors(law, M, y) for law in LAWS["cost"]}
    inner = np.abs(M) <= np.median(np.abs(M))
    last = np.where(M[~inner] > 0, M[inner].max(), -M[inner].min())
    missed = np.sqrt(np.mean((y[~inner] - last) ** 2))
    assert errors["interpolation"].beyond == pytest.approx(missed)
    missed = np.sqrt(np.mean((y[~inner] - y[inner].mean()) ** 2))
    assert errors["mean"].beyond == pytest.approx(missed)
    assert errors["interpolation"].held_out < 0.05  # straight but at 0


def test_a_constant_curve_has_no_constants_and_no_error():
    for law in LAWS["preference"]:
        found = law_errors(law, M, np.full_like(M, 2.5))
        assert found.held_out == found.beyond == 0.0
        assert all(np.isnan(found.fitted.constants)) or law.name == "interpolation"


def test_held_out_strengths_take_no_part_in_the_fit():
    """An outlier among the strengths that are left out does not move the fit that predicts it."""
    y = 0.1 * M**2
    off = y.copy()
    off[5] += 3.0
    found = law_errors(law_of("cost", "interpolation"), M, off)
    order = np.argsort(M)[1:-1]
    missed = []
    for k in range(4):
        left = order[k::4]
        kept = np.setdiff1d(np.arange(len(M)), left)
        missed.append(np.interp(M[left], M[kept], off[kept]) - off[left])
    assert found.held_out == pytest.approx(np.sqrt(np.mean(np.concatenate(missed) ** 2)))


def test_a_new_law_is_a_function_and_an_entry(monkeypatch):
    def cubic(m, a):
        return a * np.abs(m) ** 3

    new = curve_law("cubic", "a |m|³", cubic, (Constant("a", -3, 1),), starts=[(1.0,)])
    monkeypatch.setattr(
        "steerlens.analyses.strength_laws.law_errors.LAWS", {**LAWS, "cost": (LAWS["cost"][0], new)}
    )
    found = fit_laws(M.tolist(), {"cost": torch.from_numpy(0.2 * np.abs(M) ** 3)[None]})
    assert [law.name for law in found.laws] == ["quadratic", "cubic"]
    assert found.laws[1].constants == ("a (nats per multiplier to the power 3)",)
    assert float(found.held_out[0, 1]) < 1e-5 < float(found.held_out[0, 0])
    assert float(found.constants[0, 1, 0]) == pytest.approx(0.2, rel=1e-5)


# How a cost begins, and bumps


@pytest.mark.parametrize("power", [2.0, 3.5])
def test_the_exponent_is_that_of_the_curve_whatever_its_slope(power):
    m = torch.tensor(M, dtype=torch.float32)
    size = torch.rand(12, generator=torch.Generator().manual_seed(0)) + 0.5
    costs = m.abs()[:, None] ** power * size + 0.3 * m[:, None]
    found = local_exponent(m, costs)
    assert found.value == pytest.approx(power, abs=1e-3)
    assert found.low == pytest.approx(power, abs=1e-3) == found.high


def test_texts_that_disagree_widen_the_interval_of_the_exponent_and_few_have_none():
    m = torch.tensor(M, dtype=torch.float32).abs()[:, None]
    powers = torch.linspace(1.5, 3.0, 16)
    found = local_exponent(torch.tensor(M, dtype=torch.float32), m**powers)
    assert 1.5 < found.low < found.value < found.high < 3.0 and found.high - found.low > 0.1
    few = local_exponent(torch.tensor(M, dtype=torch.float32), m ** powers[:7])
    assert not few.known
    with pytest.raises(ArgumentError, match="law_strengths"):
        local_exponent(torch.tensor([-2.0, 0.0, 2.0]), torch.ones(3, 9))


def test_a_bump_is_found_and_a_monotone_or_noisy_curve_is_not_called_one():
    m = torch.tensor(M, dtype=torch.float32)
    draws = torch.Generator().manual_seed(1)
    noise = 0.02 * torch.randn(4, len(m), 32, generator=draws)
    bump, rise, top = torch.exp(-((m - 2) ** 2)), torch.sigmoid(m), torch.exp(-m.square() / 500)
    curves = torch.stack([bump, rise, 0 * m + 0.3, top])[:, :, None] + noise
    found = find_bumps(m, curves)
    assert found.found.tolist() == [True, False, False, True]
    assert bool(found.seen[0]) and found.share[0] == 1.0 and found.share[1] < 0.2
    assert float(found.peak[0]) == pytest.approx(2.0)
    shuffled = torch.randperm(len(m), generator=draws)
    again = find_bumps(m[shuffled], curves[:, shuffled])
    assert torch.equal(found.found, again.found) and torch.equal(found.peak, again.peak)


def test_no_more_than_one_in_forty_flat_curves_is_a_bump():
    m = torch.tensor(M, dtype=torch.float32)
    noise = torch.rand(400, len(m), 32, generator=torch.Generator().manual_seed(3))
    assert float(find_bumps(m, noise).found.double().mean()) <= 1 / 40
    with pytest.raises(ValueError, match="16 groups are needed"):
        find_bumps(m, noise[..., :15])


# What is swept


TEXTS = ["the cat sat on the bed and a dog ran", "I think he said that the soup was good ."]


@torch.no_grad()
@pytest.mark.parametrize("stranger", [False, True], ids=["linear", "stranger"])
def test_costs_on_text_are_those_of_plain_passes(tiny, stranger):
    where = Positions.from_prompt_end()
    edits = [*every_edit(tiny, where)[:3], *([low_rank(tiny, 1)] if stranger else [])]
    kl, entropy = text_costs(tiny, TEXTS, edits, MULTIPLIERS, **QUIET)
    torch.testing.assert_close(kl, divergence(tiny, TEXTS, edits, MULTIPLIERS, **QUIET))
    assert torch.equal(entropy[:, 1], torch.zeros(len(edits), 2))
    for n, text in enumerate(TEXTS):
        ids = tiny.ids(text)
        kept, words = len(ids) // 2, text.split()
        cut = kept - (len(ids) - len(words))  # BOS, where there is one, is in the prompt
        batch = tiny.answered([" ".join(words[:cut])], [" " + " ".join(words[cut:])])
        # `answered` leaves the last token out: nothing is predicted from it.
        targets = torch.tensor(ids[kept:])

        def loss(batch=batch, kept=kept, targets=targets):
            log_p = tiny.logits(batch)[0, kept - 1 :].log_softmax(-1)
            return -log_p[range(len(targets)), targets].mean()

        base = loss()
        for i, edit in enumerate(edits):
            for j, m in enumerate(MULTIPLIERS):
                with edit.attach(tiny, m):
                    expected = loss() - base
                torch.testing.assert_close(entropy[i, j, n], expected, atol=2e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("pairs", [ONE_TOKEN, SEVERAL_TOKENS], ids=["one", "several"])
def test_tokens_are_those_of_plain_passes(tiny, pairs):
    edits = every_edit(tiny, Positions.from_prompt_end())[1:4]
    chosen = [5, 11, 30]
    found = sweep_tokens(tiny, pairs, edits, MULTIPLIERS, chosen, **QUIET)
    for n, pair in enumerate(pairs):
        prompt, answer = tiny.split(pair.prompt, pair.positive)
        for i, edit in enumerate(edits):
            for j, m in enumerate(MULTIPLIERS):
                with edit.attach(tiny, m):
                    batch = tiny.answered([pair.prompt], [pair.positive])
                    log_p = tiny.logits(batch)[0].log_softmax(-1)
                at = len(prompt) - 1
                close = {"atol": 2e-5, "rtol": 1e-4}
                torch.testing.assert_close(found.tokens[i, j, :, n], log_p[at, chosen], **close)
                summed = log_p[range(at, at + len(answer)), answer].sum()
                torch.testing.assert_close(found.positive[i, j, n], summed, **close)
    with pytest.raises(ValueError, match="no tokens of"):
        sweep_tokens(tiny, pairs, edits, MULTIPLIERS, [-1], **QUIET)


NOUNS = (
    "cat", "dog", "bird", "fish", "man", "woman", "child", "friend", "soup", "bread", "cake", "wine",
    "tea", "room", "bed", "food",
)  # fmt: skip
ASKED = ContrastSet(
    "asked", tuple(ContrastPair(f"I think the {noun} was", " good", " bad") for noun in NOUNS)
)
ORDINARY = [f"the {noun} saw a {other} here and {other} ran" for noun, other in zip(
    NOUNS, NOUNS[5:] + NOUNS[:5], strict=True)]  # fmt: skip
STRENGTHS = law_strengths(4.0, 13)


def step(model, layer, seed):
    vector = torch.randn(model.d_model, generator=torch.Generator().manual_seed(seed))
    return Direction(vector, Site(layer), resid_norm=3.0, processing="raw")


FEW_LAWS = {
    quantity: tuple(law for law in laws if quantity == "preference" or law.name != "validity decay")
    for quantity, laws in LAWS.items()
}
"""Fewer validity decays, which take most of the time."""


@pytest.fixture(scope="module")
def found(gpt2):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("steerlens.analyses.strength_laws.law_errors.LAWS", FEW_LAWS)
        return compare_laws(
            gpt2, [step(gpt2, 1, 0)], ASKED, controls={"one": step(gpt2, 1, 1)}, neutral=ORDINARY,
            multipliers=STRENGTHS, case="made", **QUIET,
        )  # fmt: skip


@torch.no_grad()
def test_what_is_compared_is_what_was_swept(gpt2, found):
    assert found.rows == ("L1 resid_post", "control, one") and found.controls == (False, True)
    one = STRENGTHS.index(pytest.approx(1.0, abs=0.1))
    length = float(found.lengths[0]) * 3.0
    edit = Add(step(gpt2, 1, 0), Positions.from_prompt_end(), length)
    j = 10
    pair = ASKED[3]
    with edit.attach(gpt2, STRENGTHS[j]):
        log_p = gpt2.logits([pair.prompt])[0, -1].log_softmax(-1)
    good, bad = (gpt2.split(pair.prompt, answer)[1][0] for answer in (" good", " bad"))
    close = {"atol": 1e-4, "rtol": 1e-3}
    torch.testing.assert_close(found.preferences[0, j, 3], log_p[good] - log_p[bad], **close)
    torch.testing.assert_close(found.probabilities[0, j, 3], log_p[good].exp(), **close)
    assert found.tokens[0][0].strip() == "good" and found.tokens[0][4].strip() == "bad"
    torch.testing.assert_close(
        found.token_probabilities[:, :, 0], found.probabilities, atol=1e-6, rtol=1e-4
    )
    raised = step(gpt2, 1, 0).top_tokens(gpt2, 6).raised
    assert found.tokens[0][8] in [token for token, _ in raised]
    # Multiplier 1 costs the budget on every second text, and about that on the others.
    assert 0.03 < float(found.costs[0, one].mean()) < 0.3


def test_every_law_has_its_errors_and_its_facts(found):
    assert found.held_out.shape == found.beyond.shape == (2, sum(map(len, FEW_LAWS.values())))
    assert bool(found.held_out.isfinite().all()) and bool(found.beyond.isfinite().all())
    quadratic = found.laws[found.number("cost", "quadratic")]
    assert quadratic.free == 2 and quadratic.unit == "nats"
    assert quadratic.constants[0] == "curvature below 0 (nats per squared multiplier)"
    k = found.number("preference", "validity decay")
    again = law_errors(
        law_of("preference", "validity decay"), np.array(STRENGTHS),
        found.preferences[0].double().mean(-1).numpy(),
    )  # fmt: skip
    assert float(found.held_out[0, k]) == pytest.approx(again.held_out, rel=1e-3)
    spread = float(found.preferences[0].mean(-1).std(correction=0))
    relative = found.relative("preference", "validity decay")
    assert float(relative[0]) == pytest.approx(again.held_out / spread, rel=1e-3)
    frame = found.to_frame()
    assert len(frame) == found.held_out.numel()
    assert {"case", "row", "control", "quantity", "law", "free", "held_out_relative"} <= {*frame}


def test_a_comparison_is_stored_and_speaks(found, tmp_path):
    again = LawComparison.load(found.save(tmp_path))
    assert again.laws == found.laws and again.tokens == found.tokens
    assert torch.equal(again.held_out, found.held_out) and torch.equal(again.curves, found.curves)
    assert (
        again.summary() == found.summary()
        and "quadratic with a plateau (4 free)" in again.summary()
    )
    found.to_xarray()
    assert found.plot().layout.height > 300
    drawn = found.plot_row("L1 resid_post")
    assert {"measured", "sigmoid", "validity decay"} <= {trace.name for trace in drawn.data}
    found.plot_tokens(0, "raised")
    section = found.section({})
    assert section.short == "Laws"
    with pytest.raises(ArgumentError, match="none of the 2 rows"):
        found.plot_row(2)
    with pytest.raises(ArgumentError, match="no law of cost"):
        found.relative("cost", "sigmoid")


def test_intervals_over_cases_need_eight_and_layers_of_one_case_count_once(found):
    duel = found.duel("cost", "quadratic", "mean")
    assert duel.rows == 1 and not duel.ratio.known
    many = LawComparison.joined([replace(found, cases=(f"case {k}",) * 2) for k in range(8)])
    assert len(many.rows) == 16 and many.duel("cost", "quadratic", "mean").rows == 8
    assert many.duel("cost", "quadratic", "mean").ratio.known
    assert many.over_cases(torch.arange(16.0)).value == pytest.approx(7.0)  # 0, 2, …, 14
    twice = LawComparison.joined([found, found])
    assert not twice.duel("cost", "quadratic", "mean").ratio.known
    assert many.plot().layout.xaxis4.title.text == "contrast"
    with pytest.raises(ArgumentError, match="no comparison"):
        LawComparison.joined([])
    with pytest.raises(ArgumentError, match="other multipliers"):
        LawComparison.joined([found, replace(found, multipliers=2 * found.multipliers)])


def test_an_intervention_without_a_direction_follows_answers_alone(gpt2, monkeypatch):
    short = {quantity: laws[:1] for quantity, laws in LAWS.items()}
    monkeypatch.setattr("steerlens.analyses.strength_laws.law_errors.LAWS", short)
    made = compare_laws(
        gpt2, {"stranger": low_rank(gpt2, 1)}, ASKED, neutral=ORDINARY, multipliers=STRENGTHS,
        **QUIET,
    )  # fmt: skip
    assert made.tokens[0][8:] == ("",) * 8 and made.sites == (None,)
    assert bool(made.token_probabilities[:, :, 8:].isnan().all())
    assert made.bump_share("raised").value != made.bump_share("raised").value  # NaN
    assert 0 <= made.bump_share("positive answer", of="seen").value <= 1
    assert made.costs.shape[-1] == len(ORDINARY)  # none is needed for lengths


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"multipliers": (-1.0, 0.0, 1.0)}, "cannot fit a curve"),
        ({"multipliers": np.linspace(-8, 8, 9)}, "how the cost begins"),
        ({"asked": ASKED[:8]}, "have 8 groups"),
        ({"neutral": ORDINARY[:8]}, "ordinary texts measure the cost"),
        ({"edits": []}, "no edits"),
        ({"budget": -1.0}, "not a cost"),
        ({"budget": 1e9}, "No length of"),
        ({"followed": 0}, "smallest allowed"),
        ({"controls": {"a": 3}}, "not an intervention"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_the_sweep(
    gpt2, settings, message, monkeypatch, unchecked
):
    def never(*args, **options):
        raise AssertionError("swept")

    monkeypatch.setattr("steerlens.analyses.strength_laws.measure_laws.sweep_tokens", never)
    given: dict[str, Any] = {
        "edits": [step(gpt2, 1, 0)], "asked": ASKED, "neutral": ORDINARY,
        "multipliers": STRENGTHS, **settings,
    }  # fmt: skip
    with pytest.raises((ValueError, TypeError), match=message):
        compare_laws(gpt2, **given, **QUIET)
    with pytest.raises(ArgumentError, match="odd number"):
        law_strengths(8.0, 24)
