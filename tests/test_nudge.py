"""Nudges: steps down a gradient while a text is run, by hand, within a budget, cached as uncached."""

from typing import Any

import pytest
import torch

from steerlens.data import ContrastPair, ContrastSet
from steerlens.directions import Direction
from steerlens.interventions import (
    Add,
    AnswerLoss,
    Condition,
    DistributionLoss,
    Knob,
    Nudge,
    ProbeLoss,
    Together,
    When,
)
from steerlens.interventions.changes import CacheEdit
from steerlens.interventions.composition import composed
from steerlens.interventions.conditional import similarity_to
from steerlens.measures.sweep import sweep
from steerlens.models.attached import SteeringError
from steerlens.models.kernel import Kernel
from steerlens.models.model import Model
from steerlens.sites import Positions, Site
from steerlens.testing import TEXTS, check_intervention, tiny_bridge, tiny_model

PROMPTS = [prompt for prompt, _ in TEXTS]
SHORT = (("the cat sat on", " the bed"), ("I", " think the"))
SITE = Site(0)
FAMILIES = ("gpt2", "llama", "gemma2")


@pytest.fixture(scope="module", params=FAMILIES)
def small(request):
    return Model(tiny_model(request.param, n_layers=3, d_model=16))


@pytest.fixture(scope="module")
def one():
    return Model(tiny_model("llama", n_layers=3, d_model=16))


def direction(seed=0, site=None):
    generator = torch.Generator().manual_seed(seed)
    return Direction(torch.randn(16, generator=generator), site or Site(1), resid_norm=4.0)


def wanted_next(text):
    """A distribution that depends on how long the text is."""
    found = torch.full((144,), 1e-3)
    found[10 + len(text)] = 1.0
    return found / found.sum()


LOSSES: dict[str, Any] = {
    "answer": AnswerLoss((20, 21), (30,)),
    "probe": ProbeLoss(direction(3, Site(1)), bias=0.2, weight=1.5),
    "distribution": DistributionLoss(wanted_next),
}


def by_hand(model, text, edits, loss, steps, size, m):
    """Logits of a text whose tokens from `edits` on are nudged one by one, by whole passes."""
    ids = torch.tensor([model.ids(text)])
    hook, fixed = SITE.hook, {}

    def run(last, vector=None):
        seen = {}

        def put(resid, hook):
            resid = resid.clone()
            for k, value in fixed.items():
                resid[0, k] = value
            if vector is not None:
                resid[0, last] = vector
            seen["h"] = resid[0, last]
            return resid

        def keep(resid, hook):
            seen["above"] = resid[0, last]

        hooks = [(hook, put), ("blocks.1.hook_resid_post", keep)]
        with model.wrapped.hooks(fwd_hooks=hooks):
            logits = model.wrapped(ids[:, : last + 1])[0, last]
        return logits, seen

    def loss_of(logits, seen, so_far):
        log_p = logits.log_softmax(-1)
        if isinstance(loss, AnswerLoss):
            return log_p[30] - torch.logsumexp(log_p[[20, 21]], 0)
        if isinstance(loss, ProbeLoss):
            u = loss.probe.vector / loss.probe.norm
            return -torch.log(torch.sigmoid(1.5 * (seen["above"] @ u - 0.2)))
        p = wanted_next(so_far)
        return (p * (p.log() - log_p)).sum()

    found = []
    for column in range(ids.shape[1]):
        logits, seen = run(column)
        if column >= edits:
            h = seen["h"].detach()
            moved, length = h, size * h.norm()
            for _ in range(steps):
                here = moved.clone().requires_grad_()
                value = loss_of(*run(column, here), ids[0, : column + 1].tolist())
                (g,) = torch.autograd.grad(value, here)
                moved = moved - length * g / g.norm()
            fixed[column] = h + m * (moved - h)
            logits, _ = run(column)
        found.append(logits.detach())
    return torch.stack(found)


@pytest.mark.parametrize("name", LOSSES)
def test_a_nudge_is_gradient_steps_by_whole_passes(one, name):
    prompt, continuation = "the cat sat on", " the bed ."
    nudge = Nudge(SITE, LOSSES[name], steps=2, size=0.1, budget=None)
    with nudge.attach(one, 0.7):
        found = one.logits(one.answered([prompt], [continuation]))[0]
    start = len(one.ids(prompt)) - 1
    expected = by_hand(one, prompt + continuation, start, LOSSES[name], 2, 0.1, 0.7)
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-3)
    assert float((found - one.logits(prompt + continuation)[0])[start:].abs().max()) > 1e-2


@pytest.mark.parametrize(
    ("small", "name"), list(zip(FAMILIES, LOSSES, strict=True)), indirect=["small"]
)
def test_a_nudge_keeps_the_contract(small, name):
    check_intervention(Nudge(SITE, LOSSES[name], steps=1, size=0.2), small, texts=SHORT)


def test_a_nudge_keeps_the_contract_beside_other_changes(one):
    nudge = Nudge(SITE, LOSSES["answer"], steps=1, size=0.2, budget=None)
    values = {1: torch.ones(2, 4)}
    cache = composed([CacheEdit({}, values, Positions.all(special=True))], "cache")
    parts = (Knob(nudge, (1.0, 0.5)), Add(direction(5)), cache)
    check_intervention(Together(parts), one, texts=SHORT)
    d = direction(6, Site(0))
    means = [one.cache(p, [Site(0)])[Site(0)][0, 1:].mean(0) for p in PROMPTS]
    scores = similarity_to(d, torch.stack(means), "cosine")
    gate = Condition(d, float(scores.median()), similarity="cosine")
    for prompt, score in zip(PROMPTS, scores, strict=True):
        plain = one.logits(prompt)
        with When(gate, nudge).attach(one, 1.0):
            found, together = one.logits(prompt), one.logits(PROMPTS)
        assert torch.equal(found, plain) != bool(score > gate.threshold)
        row, batch = PROMPTS.index(prompt), one.tokens(PROMPTS)
        torch.testing.assert_close(together[row][batch.mask[row]], found[0], atol=1e-4, rtol=1e-4)


def test_the_loss_falls_and_the_budget_holds_at_every_token(one):
    loss = AnswerLoss((20,))
    prompts, ends = ["the cat sat on", "you like that red"], [" the bed .", " wine and tea"]
    batch = one.answered(prompts, ends)

    def after(nudge):
        with nudge.attach(one, 1.0):
            return one.logits(batch).log_softmax(-1)

    plain = one.logits(batch).log_softmax(-1)
    first = batch.prompt_end - 1
    rows = torch.arange(2)
    free = after(Nudge(SITE, loss, budget=None, size=0.3))
    assert bool((free[rows, first, 20] > plain[rows, first, 20] + 0.1).all())
    base = plain[rows, first]
    for budget in (0.05, 0.01):
        held = after(Nudge(SITE, loss, budget=budget, size=0.3))[rows, first]
        kl = (base.exp() * (base - held)).sum(-1)
        assert float(kl.max()) <= budget * 1.001 and float(kl.min()) > budget / 3
        assert bool((held[:, 20] > base[:, 20]).all())
    unbound = (base.exp() * (base - free[rows, first])).sum(-1)
    assert float(unbound.min()) > 0.05, "the budget was not idle"


def test_one_step_is_one_backward_from_the_site_up(one, monkeypatch):
    blocks = []
    block = Kernel.block

    def counted(self, layer, resid, *args, **kwargs):
        blocks.append((layer, resid.requires_grad))
        return block(self, layer, resid, *args, **kwargs)

    monkeypatch.setattr(Kernel, "block", counted)
    nudge = Nudge(Site(1), AnswerLoss((20,)), steps=2, budget=None, positions=Positions.last())
    with nudge.attach(one, 1.0):
        one.logits("the cat sat on")
    assert [layer for layer, grad in blocks if grad] == [2, 2], "one block above, two steps"
    assert [layer for layer, grad in blocks if not grad] == [0, 1, 2, 0, 1, 2]  # before, and it


def test_nudges_are_swept(one):
    pairs = ContrastSet("small", tuple(ContrastPair(p, " good", " bad") for p in PROMPTS))
    good, bad = (one.split("I", w)[1][0] for w in (" good", " bad"))
    nudge = Nudge(SITE, AnswerLoss((good,), (bad,)), steps=2)
    found = sweep(one, pairs, [nudge], (-1.0, 0.0, 1.0), progress=False).log_odds[0]
    assert bool((found[2] > found[1]).all()) and bool((found[0] < found[1]).all())
    with nudge.attach(one, 1.0):
        logits = torch.stack([one.logits(p)[0, -1] for p in PROMPTS])
    torch.testing.assert_close(found[2], logits[:, good] - logits[:, bad], atol=1e-4, rtol=1e-4)


def test_what_cannot_be_nudged_is_refused(one):
    bridge = Model(tiny_bridge("llama", n_layers=2, d_model=16))
    nudge = Nudge(SITE, LOSSES["answer"])
    with pytest.raises(ValueError, match="TransformerBridge"):
        nudge.attach(bridge, 1.0).__enter__()
    with pytest.raises(ValueError, match="inside one"):
        Nudge(Site(0, "mlp_out"), LOSSES["answer"]).attach(one, 1.0)
    with (
        pytest.raises(ValueError, match="not a stream above the nudge"),
        Nudge(Site(2), ProbeLoss(direction(site=Site(0)))).attach(one, 1.0),
    ):
        one.logits("the cat sat")
    for make, text in (
        (lambda: Nudge(SITE, LOSSES["answer"], size=0.0), "no length of a step"),
        (lambda: Nudge(SITE, LOSSES["answer"], budget=-1.0), "allows nothing"),
        (lambda: AnswerLoss(()), "wants no token"),
    ):
        with pytest.raises(ValueError, match=text):
            make()
    inside = Add(Direction(torch.ones(16), Site(1, "attn_out"), resid_norm=1.0))
    with (
        pytest.raises(SteeringError, match="beside a nudge"),
        Together((inside, nudge)).attach(one, 1.0),
    ):
        one.logits("the cat sat")


def test_as_many_multipliers_as_rows_are_asked_for(one):
    nudge = Nudge(SITE, LOSSES["answer"], steps=1, size=0.2)
    with nudge.attach(one, torch.ones(len(PROMPTS) + 1)):
        with pytest.raises(SteeringError, match=f"{len(PROMPTS) + 1} multipliers for a batch"):
            one.logits(PROMPTS)
        one.logits([*PROMPTS, PROMPTS[0]])
