"""Conditions and knobs: gates by text and by token, strengths that change while a text is written."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from steerlens.data import ContrastPair, ContrastSet
from steerlens.directions import Direction
from steerlens.directions.methods import DiffMean
from steerlens.forms import LoRA
from steerlens.interventions import Ablate, Add, Condition, Knob, Prompt, Together, When
from steerlens.interventions.changes import CacheEdit, Dense, WeightChange
from steerlens.interventions.composition import composed
from steerlens.measures.generation import generate, generated_tokens
from steerlens.measures.sweep import plan, sweep
from steerlens.models.attached import AttachedEdits
from steerlens.models.model import Model
from steerlens.operators import find_condition, triggers
from steerlens.sites import Positions, Site
from steerlens.testing import TEXTS, check_intervention, tiny_bridge, tiny_model
from tests.kinds import in_turn
from tests.strangers import LouderHeads
from tests.test_forms import moved

FAMILIES = ("gpt2", "llama", "gemma2")
PROMPTS = [prompt for prompt, _ in TEXTS]
SITE = Site(1)


@pytest.fixture(scope="module", params=FAMILIES)
def small(request):
    return Model(tiny_model(request.param, n_layers=3, d_model=16))


@pytest.fixture(scope="module")
def one():
    return Model(tiny_model("llama", n_layers=3, d_model=16))


def direction(seed=0, site=SITE):
    generator = torch.Generator().manual_seed(seed)
    return Direction(torch.randn(16, generator=generator), site, resid_norm=4.0)


def by_hand(model, condition, texts):
    """Scores as the formulas of the paper, text by text."""
    c = condition.direction.vector / condition.direction.norm
    found = []
    for text in texts:
        h = model.cache(text, [condition.direction.site])[condition.direction.site][0, 1:].mean(0)
        seen = {"tanh": torch.tanh(torch.outer(c, c) @ h), "cosine": c, "projection": None}
        other = seen[condition.similarity]
        found.append(h @ c if other is None else torch.cosine_similarity(h, other, dim=0))
    return torch.stack(found)


def parting(model, similarity: Any = "cosine", site=SITE, seed=0):
    """A condition that holds for the first prompt and not for all."""
    condition = Condition(direction(seed, site), 0.0, similarity=similarity)
    scores = by_hand(model, condition, PROMPTS)
    middle = float(scores.sort().values[1:].mean())
    return replace(condition, threshold=middle, above=bool(scores[0] > middle))


def conditional(model):
    lora = LoRA(rank=2, layers=(1,))
    add = Add(direction(3, Site(0)))
    condition = parting(model)
    return {
        "add": When(condition, add),
        "add above": When(condition, Add(direction(4, Site(2)))),
        "two edits": When(condition, Together((add, Ablate(direction(5))), (1.0, 0.5))),
        "prompt": When(condition, Prompt("good cat ran")),
        "LoRA": When(condition, lora.intervention(model, moved(lora, model, 0.3))),
        "two conditions": When(parting(model, "tanh"), When(condition, add)),
        "by token": When(
            Condition(direction(6, Site(0)), 0.0, similarity="projection"), add, each_token=True
        ),
    }


def knobs(model):
    add = Add(direction(3, Site(0)))
    return {
        "schedule": Knob(add, (1.0, 0.5, 0.0, 2.0)),
        "callback": Knob(add, lambda number, ids: 0.1 * number + 0.01 * (ids[-1] % 7)),
        "edits": Knob(Together((add, Ablate(direction(5), Positions.all()))), (0.2, 1.0)),
        "prompt": Knob(Prompt("good cat ran"), (1.0, 0.3, 0.6)),
        "conditional": When(parting(model), Knob(add, (0.5, 1.0))),
        "both ways": Knob(When(parting(model), Prompt("good cat ran")), (0.5, 1.0)),
    }


NAMES = (
    "add", "add above", "two edits", "prompt", "LoRA", "two conditions", "by token",
)  # fmt: skip
TURNED = ("schedule", "callback", "edits", "prompt", "conditional", "both ways")


@pytest.mark.parametrize(("small", "name"), in_turn(FAMILIES, NAMES), indirect=["small"])
def test_a_conditional_intervention_keeps_the_contract(small, name):
    check_intervention(conditional(small)[name], small)


@pytest.mark.parametrize(("small", "name"), in_turn(FAMILIES, TURNED), indirect=["small"])
def test_a_knob_keeps_the_contract(small, name):
    check_intervention(knobs(small)[name], small)


def test_conditions_and_knobs_keep_the_contract_on_a_bridge():
    bridge = Model(tiny_bridge("llama", n_layers=2, d_model=16))
    add = Add(direction(3, Site(0)))
    check_intervention(Knob(When(parting(bridge), add), (1.0, 0.5)), bridge)


@pytest.mark.parametrize("similarity", ["tanh", "cosine", "projection"])
def test_texts_with_the_condition_are_steered_and_the_others_are_not(one, similarity):
    condition = parting(one, similarity)
    scores = by_hand(one, condition, PROMPTS)
    opens = condition.holds(scores)
    assert bool(opens.any()) and not bool(opens.all())
    for inner in (
        Add(direction(3, Site(0))),
        *(conditional(one)[n].intervention for n in NAMES[3:5]),
    ):
        with When(condition, inner).attach(one, 1.5):
            found = [one.logits(text) for text in PROMPTS]
            together = one.logits(PROMPTS)
        plain = [one.logits(text) for text in PROMPTS]
        with inner.attach(one, 1.5):
            steered = [one.logits(text) for text in PROMPTS]
        batch = one.tokens(PROMPTS)
        for i, is_open in enumerate(opens.tolist()):
            torch.testing.assert_close(found[i], (steered if is_open else plain)[i])
            torch.testing.assert_close(together[i][batch.mask[i]], found[i][0])
            if not is_open:
                assert torch.equal(found[i], plain[i]), "the unsteered model, to the last bit"
            assert not torch.allclose(steered[i], plain[i])


def test_the_condition_holds_for_all_that_is_written(one):
    condition = parting(one)
    opens = condition.holds(by_hand(one, condition, PROMPTS)).tolist()
    for name in ("add", "LoRA"):
        inner = conditional(one)[name].intervention
        options = {"max_new_tokens": 5, "temperature": 1.0, "seed": 3}
        with When(condition, inner).attach(one, 4.0):
            written = generate(one, PROMPTS, **options)
        with inner.attach(one, 4.0):
            steered = generate(one, PROMPTS, **options)
        plain = generate(one, PROMPTS, **options)
        assert steered != plain
        pairs = zip(opens, steered, plain, strict=True)
        assert written == [yes if is_open else no for is_open, yes, no in pairs]


def test_a_token_is_edited_by_its_own_condition(one):
    add = Add(direction(3, Site(0)), Positions.all())
    condition = Condition(direction(6, Site(0)), 0.3, False, "projection")
    batch = one.tokens(PROMPTS)
    h = one.cache(batch, [Site(0)])[Site(0)]
    with When(condition, add, each_token=True).attach(one, 1.0):
        found = one.cache(batch, [Site(0)])[Site(0)]
    ordinary = batch.mask & ~batch.special
    own = (h @ condition.direction.unit().vector < 0.3) & ordinary
    torch.testing.assert_close(found, torch.where(own[..., None], h + add.step, h))
    assert 0 < int(own.sum()) < int(ordinary.sum())
    pairs = ContrastSet("soup", (ContrastPair("the soup was", " good", " bad"),))
    arm = When(condition, Add(direction(3, Site(0))), each_token=True)
    assert plan(one, pairs, [arm], (0.0, 1.0)).path == "wavefront"


def test_a_schedule_is_the_multiplier_of_each_token_by_hand(one):
    add, turn = Add(direction(3, Site(1)), Positions.all()), (0.5, -1.0, 2.0)
    batch = one.answered(["the cat sat on", "I"], [" the big bed .", " think so"])
    with Knob(add, turn).attach(one, 0.7):
        found = one.logits(batch)
    end = batch.prompt_end[0] - 1

    def by_hand(resid, hook):
        resid = resid.clone()
        for row in range(2):
            first = int(batch.prompt_end[row]) - 1
            for column in range(batch.width):
                if batch.mask[row, column] and not batch.special[row, column]:
                    factor = turn[min(max(0, column - first), 2)]
                    resid[row, column] += 0.7 * factor * add.step
        return resid

    with one.wrapped.hooks(fwd_hooks=[("blocks.1.hook_resid_post", by_hand)]):
        plain = one.wrapped(batch.tokens, attention_mask=batch.mask.long())
    torch.testing.assert_close(found[batch.mask], plain[batch.mask], atol=1e-5, rtol=1e-4)
    assert int(end) > 0


def test_a_function_is_given_the_number_and_the_text_so_far(one):
    seen = []

    def turn(number, ids):
        seen.append((number, tuple(ids)))
        return 1.0 if number < 2 else 0.0

    prompt = "the cat sat"
    with Knob(Add(direction(3)), turn).attach(one, 2.0):
        written = generated_tokens(one, [prompt], max_new_tokens=4, stop_at_eos=False)[0].tolist()
    start = one.ids(prompt)
    assert {one: ids for one, ids in seen} == {k: tuple(start + written[:k]) for k in range(4)}
    with Knob(Add(direction(3)), (1.0, 1.0, 0.0)).attach(one, 2.0):
        again = generated_tokens(one, [prompt], max_new_tokens=4, stop_at_eos=False)[0].tolist()
    assert again == written


def test_they_are_swept_to_the_numbers_of_a_plain_pass(one):
    pairs = ContrastSet("small", tuple(ContrastPair(p, " good", " bad") for p in PROMPTS))
    arms = [conditional(one)["LoRA"], conditional(one)["by token"], knobs(one)["schedule"]]
    found = sweep(one, pairs, arms, (0.0, 0.6), progress=False).log_odds[:, 1]
    ids = one.split("I", " good")[1] + one.split("I", " bad")[1]
    for arm, row in zip(arms, found, strict=True):
        with arm.attach(one, 0.6):
            logits = torch.stack([one.logits(p)[0, -1, ids] for p in PROMPTS])
        torch.testing.assert_close(row, logits[:, 0] - logits[:, 1], atol=1e-5, rtol=1e-4)


def test_what_cannot_be_conditional_or_turned_is_refused(one):
    condition, add = parting(one), Add(direction(3, Site(0)))
    lora = conditional(one)["LoRA"].intervention
    with pytest.raises(ValueError, match="does not say what it changes"):
        When(condition, LouderHeads(1)).attach(one, 1.0)
    with pytest.raises(ValueError, match="does not say what it changes"):
        Knob(LouderHeads(1), (1.0,)).attach(one, 1.0)
    with pytest.raises(ValueError, match="makes a WeightChange, which all tokens"):
        Knob(lora, (1.0, 0.0)).attach(one, 1.0)
    with pytest.raises(ValueError, match="very vector that is edited"):
        When(condition, add, each_token=True).attach(one, 1.0)
    with pytest.raises(ValueError, match="very vector that is edited"):
        When(condition, lora, each_token=True).attach(one, 1.0)
    unembedding = torch.ones_like(one.wrapped.unembed.W_U)
    last = composed([WeightChange("unembed.W_U", Dense(unembedding))], "last")
    with pytest.raises(ValueError, match="behind the last block"):
        When(condition, last).attach(one, 1.0)
    with pytest.raises(ValueError, match="turns nothing"):
        Knob(add, ())
    with pytest.raises(ValueError, match="Give at least one condition"):
        When((), add)
    with pytest.raises(ValueError, match="Layer 9 is not in"):
        When(Condition(direction(site=Site(9)), 0.0), add).require_fits(one)
    with (
        pytest.raises(ValueError, match="finite"),
        Knob(add, lambda number, ids: float("nan")).attach(one, 1.0),
    ):
        one.logits("the cat sat")
    one.logits("the cat sat")


WORDS = [
    "red",
    "blue",
    "green",
    "big",
    "small",
    "old",
    "new",
    "fast",
    "slow",
    "hot",
    "cold",
    "wrong",
]


def prompts(start, count=12):
    """Pairs of prompts: with the word "soup", and without."""
    return ContrastSet(
        "soup",
        tuple(
            ContrastPair("", f"the {w} soup was {v}", f"the {w} city was {v}", group=f"{v} {w}")
            for v, w in zip(WORDS[start:] + WORDS[:start], WORDS, strict=True)
        )[:count],
    )


@pytest.mark.parametrize("similarity", ["tanh", "cosine"])
def test_a_condition_is_found_with_its_roc(one, similarity):
    found = find_condition(one, prompts(1), prompts(4), method=DiffMean(), similarity=similarity)
    site = Site(1)
    thresholds, false, true = found.roc(site)
    own = found.scores[1]
    for t, a, b in zip(thresholds, false, true, strict=True):
        assert float((own[:, 0] > t).double().mean()) == pytest.approx(float(b))
        assert float((own[:, 1] > t).double().mean()) == pytest.approx(float(a))
    assert (float(false[0]), float(true[0]), float(false[-1]), float(true[-1])) == (0, 0, 1, 1)
    area = float(torch.trapezoid(true, false))
    assert area == pytest.approx(float(found.auroc[0][1]), abs=1e-5)
    condition = Condition(found.directions[1], 0.0, similarity=similarity)
    texts = [pair.positive for pair in prompts(4)]
    torch.testing.assert_close(own[:, 0], by_hand(one, condition, texts), atol=1e-5, rtol=1e-4)
    best = found.best()
    report = triggers(one, best, prompts(7))
    for side, shown in (("positive", report.true), ("negative", report.false)):
        scored = by_hand(one, best, [getattr(pair, side) for pair in prompts(7)])
        share = float(best.holds(scored).double().mean())
        assert shown.value == pytest.approx(share) and shown.low < share < shown.high
    assert report.true.value > report.false.value + 0.3
    assert "holds for" in repr(report) and "best: Condition(" in found.summary()
    chosen: Any = found.plot().data[-1]
    assert 0.0 <= chosen.y[0] <= 1.0


def test_the_side_of_a_threshold_is_found_too(one):
    found = find_condition(one, prompts(1), prompts(4), [SITE], method=DiffMean())
    flipped = replace(found, directions=(-found.directions[0],), scores=-found.scores)
    assert not flipped.best().above and found.best().above
    assert flipped.best().threshold == pytest.approx(-found.best().threshold, abs=1e-5)


def test_prompts_that_fit_do_not_choose(one):
    with pytest.raises(ValueError, match="share 12 groups"):
        find_condition(one, prompts(1), prompts(1))


@pytest.mark.parametrize("kind", ["edit", "weights", "cache"])
def test_a_condition_is_read_once_for_all_runs_of_a_batch(one, kind, monkeypatch):
    inner = {
        "edit": Add(direction(3, Site(0))),
        "weights": LoRA(2, ("q",)).intervention(one, moved(LoRA(2, ("q",)), one)),
        "cache": composed([CacheEdit({}, {1: torch.ones(2, 4)}, Positions.all(special=True))], "c"),
    }[kind]
    read, original = [], AttachedEdits._unedited

    def counted(self, batch, sites):
        read.append(len(batch))
        return original(self, batch, sites)

    monkeypatch.setattr(AttachedEdits, "_unedited", counted)
    with When(parting(one), inner).attach(one, 1.0):
        one.logits(PROMPTS)
    assert read == [len(PROMPTS)]
