"""Training from cached states has the gradients of plain backward passes through the wrapped model."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import pytest
import torch

from steerlens.data import ContrastPair, ContrastSet
from steerlens.models.exchanged import exchanged
from steerlens.models.model import Model
from steerlens.models.wrapped_state import differentiable
from steerlens.sites import Positions
from steerlens.testing import tiny_bridge, tiny_model
from steerlens.training.objectives import DPO, LM
from steerlens.training.scored_set import ScoredSet
from tests.plain_forms import PlainAdapters, PlainVector, PlainWeights

PAIRS = ContrastSet(
    "tiny",
    (
        ContrastPair("the cat sat on the bed and", " was happy today", " was sad"),
        ContrastPair("I think the soup", " is good", " is really bad here"),
        ContrastPair("you like that big red wine in the", " nice room", " awful small room"),
        ContrastPair("my dog", " ran", " slept"),
    ),
)
FORMS = {
    "vector": PlainVector(1, scale=0.5),
    "vector, all tokens": PlainVector(0, Positions.all(), scale=0.5),
    "vector, generated": PlainVector(1, Positions.all(special=True), "resid_pre", scale=0.5),
    "vector, last layer": PlainVector(2, scale=0.5),
    "vector, inside a block": PlainVector(1, stream="mlp_out", scale=0.5),
    "adapters": PlainAdapters(1),
    "weights": PlainWeights(("blocks.1.mlp.W_out", "blocks.1.attn.W_O", "blocks.2.attn.W_Q")),
    "embedding": PlainWeights(("embed.W_E", "unembed.W_U")),
}


def ends(model, form, ids, start):
    """Which tokens of one unpadded text the form edits."""
    if not isinstance(form, PlainVector):
        return torch.ones(len(ids))
    chosen = torch.arange(len(ids)) >= start - 1
    if form.positions.rule == "all":
        chosen = torch.ones(len(ids), dtype=torch.bool)
        if not form.positions.special:
            chosen = ~model.is_special(torch.tensor(ids))
    return chosen.float()


def moved(params, name, m, weight):
    return weight + m * params[name.replace(".", "-")]


def by_hand(model, form, params, pairs, m):
    """Log-probability of every answer, text by text, by TransformerLens's own hooks."""
    found = []
    for pair in pairs:
        for answer in (pair.positive, pair.negative):
            prompt, own = model.split(pair.prompt, answer)
            ids = prompt + own
            hooks = form.hooks(params, m, ends(model, form, ids, len(prompt)))
            context = nullcontext()
            if isinstance(form, PlainWeights):
                changes = {name: partial(moved, params, name, m) for name in form.names}
                context = exchanged(model.wrapped, changes)
            with context:
                logits = model.wrapped.run_with_hooks(torch.tensor([ids]), fwd_hooks=hooks)[0]
            log_p = logits.log_softmax(-1)[range(len(prompt) - 1, len(ids) - 1), own]
            found.append(log_p.sum())
    return torch.stack(found).view(-1, 2)


def params_of(form, model):
    begun = form.begin(model, torch.Generator().manual_seed(1))
    return {name: value.requires_grad_(True) for name, value in begun.items()}


def loss_and_gradients(model, form, objective, params, path=None):
    intervention = form.intervention(model, params)
    scored = ScoredSet(model, PAIRS, objective, [intervention])
    assert path is None or scored.run.path == path
    generator = torch.Generator().manual_seed(0)
    index = torch.tensor([2, 0, 3, 1])
    batch = scored.batch(index, intervention, None, (0.7,), generator)
    loss = objective(batch).mean()
    return loss, torch.autograd.grad(loss, list(params.values()))


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("objective", [LM(), DPO(beta=0.5)], ids=["lm", "dpo"])
def test_gradients_equal_plain_backward(tiny, name, objective):
    """LayerNorm, RMSNorm, rotary and learned positions, Gemma-2's caps; a padded batch."""
    form = FORMS[name]
    path = "hooks" if name == "vector, inside a block" else "cached"
    with differentiable(tiny.wrapped):
        params = params_of(form, tiny)
        loss, found = loss_and_gradients(tiny, form, objective, params, path)
        sums = by_hand(tiny, form, params, PAIRS, 0.7)
        lengths = torch.tensor([[len(tiny.split(p.prompt, a)[1]) for a in (p.positive, p.negative)]
                                for p in PAIRS])  # fmt: skip
        if isinstance(objective, LM):
            expected = -sums[:, 0].sum() / lengths[:, 0].sum()
        else:
            with torch.no_grad():
                plain = by_hand(tiny, form, params, PAIRS, 0.0)
            margin = (sums - plain)[:, 0] - (sums - plain)[:, 1]
            expected = torch.log1p(torch.exp(-0.5 * margin)).mean()
        wanted = torch.autograd.grad(expected, list(params.values()))
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    for one, other in zip(found, wanted, strict=True):
        scale = float(other.abs().max())
        assert scale > 1e-5  # there is something to compare
        torch.testing.assert_close(one, other, atol=1e-5 * max(1.0, scale), rtol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_bridge_takes_the_hooked_path_to_the_same_numbers(family):
    hooked, bridge = Model(tiny_model(family)), Model(tiny_bridge(family))
    form, found = FORMS["vector"], []
    for model, path in ((hooked, "cached"), (bridge, "hooks")):
        with differentiable(model.wrapped):
            params = params_of(form, model)
            loss, (gradient,) = loss_and_gradients(model, form, DPO(), params, path)
        found.append((loss.detach(), gradient))
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-4)


def test_states_that_are_not_kept_give_the_same_gradients(gpt2, monkeypatch):
    from steerlens.training import cached_states

    form, found = FORMS["vector"], []
    for most in (cached_states.MOST, 0):
        monkeypatch.setattr(cached_states.CachedStates.__init__, "__defaults__", (most,))
        with differentiable(gpt2.wrapped):
            params = params_of(form, gpt2)
            loss, (gradient,) = loss_and_gradients(gpt2, form, LM(), params)
        found.append((loss.detach(), gradient))
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=1e-5)
