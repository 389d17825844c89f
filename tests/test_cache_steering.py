"""Edits of cached keys and values: one edit, the numbers of attention to the edited prefix."""

from typing import Any

import pytest
import torch

from steerlens.arguments import ArgumentError
from steerlens.data import ContrastPair, ContrastSet
from steerlens.directions import Direction
from steerlens.interventions import Add, Condition, Knob, Prompt, Together, When
from steerlens.interventions.changes import CacheEdit
from steerlens.interventions.composition import Composition, composed
from steerlens.measures.divergence import divergence
from steerlens.measures.generation import generated_tokens
from steerlens.measures.reading import activations
from steerlens.measures.sweep import plan, sweep
from steerlens.models.attached import SteeringError
from steerlens.models.model import Model
from steerlens.operators import cache_steering
from steerlens.sites import Positions, Site
from steerlens.testing import TEXTS, check_intervention, tiny_bridge, tiny_model

FAMILIES = ("gpt2", "llama", "neox", "gemma2")
PROMPTS = [prompt for prompt, _ in TEXTS]
PAIRS = ContrastSet(
    "small",
    (
        ContrastPair("the soup was", " good", " bad"),
        ContrastPair("I think that the cat was very", " happy", " sad"),
        ContrastPair("you like that red", " wine . I agree", " bread"),
    ),
)


@pytest.fixture(scope="module", params=FAMILIES)
def small(request):
    return Model(tiny_model(request.param, n_layers=3))


@pytest.fixture(scope="module")
def one():
    return Model(tiny_model("llama", n_layers=3, d_model=16))


def vectors(model, seed, layers=(1, 2)):
    cfg, generator = model.cfg, torch.Generator().manual_seed(seed)
    shape = (cfg.n_key_value_heads or cfg.n_heads, cfg.d_head)
    return {layer: 2 * torch.randn(shape, generator=generator) for layer in layers}


def edit(model, **options):
    return CacheEdit(vectors(model, 0), vectors(model, 1), **options)


def by_hand(model, change, text, prompt_tokens, m):
    """Logits of a text through TransformerLens, whose own cache is changed in between."""
    from transformer_lens import TransformerLensKeyValueCache

    ids = torch.tensor([model.ids(text)])
    cache = TransformerLensKeyValueCache.init_cache(model.cfg, "cpu", 1)
    first = model.wrapped(ids[:, : prompt_tokens - 1], past_kv_cache=cache)
    for layer, key in change.keys.items():
        cache[layer].past_keys[:, -1] += m * key
    for layer, value in change.values.items():
        cache[layer].past_values[:, -1] += m * value
    return torch.cat([first, model.wrapped(ids[:, prompt_tokens - 1 :], past_kv_cache=cache)], 1)


def test_it_is_attention_to_the_edited_prefix(small):
    change = edit(small)
    for prompt, continuation in TEXTS:
        batch = small.answered([prompt], [continuation])
        with Composition((change,)).attach(small, 0.6):
            found = small.logits(batch)
        expected = by_hand(small, change, prompt + continuation, len(small.ids(prompt)), 0.6)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        plain = small.logits(batch)
        end = int(batch.prompt_end[0]) - 1
        torch.testing.assert_close(found[:, :end], plain[:, :end], atol=1e-5, rtol=1e-4)
        assert float((found - plain)[:, end:].abs().amax(-1).min()) > 1e-3


# The other families are below, beside other changes and as it is fitted.
@pytest.mark.parametrize("small", ["neox", "gemma2"], indirect=True)
def test_it_keeps_the_contract(small):
    check_intervention(composed([edit(small)], "cache"), small)


def test_it_keeps_the_contract_beside_other_changes(one):
    d = Direction(
        torch.randn(16, generator=torch.Generator().manual_seed(3)), Site(0), resid_norm=4.0
    )
    all_but_last = edit(one, positions=Positions.all(special=True))
    cache = Composition((all_but_last,), "cache")
    inside = Add(Direction(d.vector, Site(1, "attn_out"), resid_norm=1.0))
    parts = (Add(d, Positions.all()), cache, Prompt("good cat ran"), inside)
    check_intervention(Together(parts, (1.0, 0.5, 0.7, 1.0)), one)
    c = Condition(d, 0.0, similarity="cosine")
    scores = c.scores(
        torch.stack([one.cache(p, [Site(0)])[Site(0)][0, 1:].mean(0) for p in PROMPTS])
    )
    middle = float(scores.sort().values[:2].mean())
    gated = When(Condition(d, middle, similarity="cosine"), cache)
    check_intervention(gated, one)
    assert 0 < int((scores > middle).sum()) < len(scores)
    for prompt, is_open in zip(PROMPTS, (scores > middle).tolist(), strict=True):
        with gated.attach(one, 1.0):
            found = one.logits(prompt)
        assert torch.equal(found, one.logits(prompt)) != is_open


def test_a_written_token_costs_no_more(one, monkeypatch):
    """Of four tokens only the first has anything to do with the edit."""
    from steerlens.models.kernel import Kept

    seen = []
    add = Kept.add
    monkeypatch.setattr(
        Kept, "add", lambda self, *both: (seen.append(self.length), add(self, *both))
    )
    with composed([edit(one)], "cache").attach(one, 1.0):
        generated_tokens(one, PROMPTS, max_new_tokens=4, stop_at_eos=False)
    width = one.tokens(PROMPTS).width
    assert seen == [width - 1] * 3  # once a layer, when all but the prompt's last token is read


def test_sweeps_and_costs_take_the_short_path_to_the_same_numbers(small):
    change = edit(small)
    arm = composed([change], "cache")
    made = plan(small, PAIRS, [arm], (0.0, 0.5))
    assert made.path == "cache" and made.paths[0].columns == 4
    found = sweep(small, PAIRS, [arm], (0.0, 0.5, -1.0), progress=False)
    for k, pair in enumerate(PAIRS):
        for side, text in (("positive", pair.positive), ("negative", pair.negative)):
            batch = small.answered([pair.prompt], [text])
            with arm.attach(small, 0.5):
                log_p = small.logits(batch)[0].log_softmax(-1)
            start = int(batch.prompt_end[0])
            ids = batch.tokens[0, start:]
            expected = log_p[start - 1 : -1].gather(-1, ids[:, None]).sum()
            torch.testing.assert_close(
                getattr(found, side)[0, 1, k], expected, atol=1e-4, rtol=1e-4
            )
    texts = ["the cat sat on the big bed and ran", "you like that red wine"]
    kl = divergence(small, texts, [arm], (0.0, 0.5), progress=False)[0, 1]
    for k, text in enumerate(texts):
        count = len(small.ids(text))
        first = max(2, count // 2)
        own = small.logits(text)[0].log_softmax(-1)[first - 1 :]
        new = by_hand(small, change, text, first, 0.5)[0].log_softmax(-1)[first - 1 :]
        expected = (own.exp() * (own - new)).sum(-1).mean()
        torch.testing.assert_close(kl[k], expected, atol=1e-4, rtol=1e-3)


def test_vectors_are_mean_differences_of_keys_and_values(one):
    made: Any = cache_steering(one, PAIRS, keys=0.5, values=2.0)
    (change,) = made.made_of
    assert change.keys.keys() == change.values.keys() == {1, 2}
    sides: Any = (("k", 0.5, change.keys), ("v", 2.0, change.values))
    for stream, strength, vectors in sides:
        read = activations(one, PAIRS, [Site(2, stream)], progress=False)
        mean = (read.positive - read.negative).mean(0)[0]
        torch.testing.assert_close(vectors[2].flatten(), strength * mean)
    (plain,) = cache_steering(one, PAIRS).made_of
    assert isinstance(plain, CacheEdit) and not plain.keys


def test_what_cannot_be_edited_is_refused(one, gpt2):
    with pytest.raises(ArgumentError, match="change nothing"):
        cache_steering(one, PAIRS, values=0.0)
    with pytest.raises(ArgumentError, match="change nothing"):
        cache_steering(one, PAIRS, layers=[])
    with pytest.raises(ValueError, match="changes nothing"):
        CacheEdit({}, {})
    arm = composed([edit(one)], "cache")
    with pytest.raises(ValueError, match="made for another model"):
        arm.require_fits(gpt2)
    bridge = Model(tiny_bridge("llama", n_layers=3, d_model=16))
    with pytest.raises(ValueError, match="TransformerBridge"):
        arm.attach(bridge, 1.0)
    with pytest.raises(ValueError, match="makes a CacheEdit, which all tokens"):
        Knob(arm, (1.0, 0.0)).attach(one, 1.0)
    with (
        pytest.raises(SteeringError, match="chooses no token before the last"),
        arm.attach(one, 1.0),
    ):
        one.logits(one.tokens("cat").rows(slice(0, 1)))
        Model(one.wrapped, prepend_bos=False)
        early = composed([edit(one, positions=Positions.last())], "late")
        with early.attach(one, 1.0):
            one.logits("the cat sat")
    with pytest.raises(SteeringError, match="no text was run"), arm.attach(one, 1.0):
        pass
