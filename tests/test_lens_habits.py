"""What users of TransformerLens try first: hooks, caches, tokens and matrices, under steering."""

import pytest
import torch

from steerlens.directions import Direction
from steerlens.interventions import Ablate, Add, Prompt, Together, fwd_hooks
from steerlens.interventions.changes import Dense, WeightChange
from steerlens.interventions.composition import Composition
from steerlens.models.attached import SteeringError
from steerlens.sites import Positions, Site
from steerlens.testing import TEXTS
from tests.strangers import LouderHeads, Silent, low_rank

PROMPTS = [prompt for prompt, _ in TEXTS]
TEXT = "the soup was very good"


@pytest.fixture
def steer(random_direction):
    add = Add(random_direction(Site(1), 32), Positions.all())
    heads = Add(random_direction(Site(2, "z"), 32, 2), Positions.all())
    ablate = Ablate(random_direction(Site(0, "attn_out"), 32, 1))
    return Together((add, ablate, heads), (1.0, 0.5, 0.5))


def run(model, batch, hooks):
    return model.wrapped.run_with_hooks(
        batch.tokens, attention_mask=batch.mask.long(), fwd_hooks=hooks
    )


def test_hooks_give_the_logits_of_attach(tiny, steer):
    batch = tiny.tokens(PROMPTS)  # of different lengths, padded
    per_row = torch.linspace(-1, 1, len(PROMPTS))
    for multiplier in (0.0, 0.7, per_row):
        with steer.attach(tiny, multiplier):
            attached, real = tiny.logits(batch), batch.mask
        hooked = run(tiny, batch, fwd_hooks(tiny, steer, PROMPTS, multiplier))
        assert torch.equal(attached[real], hooked[real])
    assert not tiny.attached.foreign_hooks


def test_hooks_of_one_text_run_on_the_text_itself(gpt2, steer):
    with steer.attach(gpt2, 0.7):
        attached = gpt2.logits(TEXT)
    hooks = fwd_hooks(gpt2.wrapped, steer, TEXT, 0.7)
    assert torch.equal(gpt2.wrapped.run_with_hooks(TEXT, fwd_hooks=hooks), attached)
    with pytest.raises(SteeringError, match="made for 1 text.s. of 6 tokens.*ran on 1 x 4"):
        gpt2.wrapped.run_with_hooks("the soup was", fwd_hooks=hooks)


def test_hooks_on_a_bridge(tiny_bridge_model, random_direction):
    steer = Add(random_direction(Site(1), 32), Positions.all())
    model, batch = tiny_bridge_model, tiny_bridge_model.tokens(TEXT)
    with steer.attach(model, 0.7):
        attached = model.logits(batch)
    hooked = run(model, batch, fwd_hooks(model, steer, batch, 0.7))
    torch.testing.assert_close(hooked, attached, atol=1e-5, rtol=1e-5)


def test_what_no_hook_can_do_is_refused(gpt2, random_direction):
    change, name = low_rank(gpt2, 1), "blocks.1.mlp.W_out"
    delta = Dense(torch.ones_like(dict(gpt2.wrapped.named_parameters())[name]))
    for kind, said in (
        (Composition((WeightChange(name, delta),)), "changes the weights blocks.1.mlp.W_out"),
        (Prompt("the soup was good. "), "tokens in front of every text"),
        (LouderHeads(1), "does not state what it changes"),
        (Silent(change), "does not state what it changes"),
    ):
        with pytest.raises(TypeError, match=said):
            fwd_hooks(gpt2, kind, TEXT)
    add = Add(random_direction(Site(1), 32), Positions.generated())
    with pytest.raises(SteeringError, match="chooses no token of text 0"):
        fwd_hooks(gpt2, add, TEXT)
    with pytest.raises(ValueError, match="d_model"):
        fwd_hooks(gpt2, random_direction(Site(1), 16), TEXT)


def test_a_cache_under_steering(tiny, steer):
    batch, site = tiny.tokens(PROMPTS), Site(2)
    with steer.attach(tiny, 0.7):
        logits, cache = tiny.run_with_cache(batch)
        expected, stream = tiny.logits(batch), tiny.cache(batch, site)[site]
    assert torch.equal(logits[batch.mask], expected[batch.mask])
    assert torch.equal(cache["resid_post", 2], stream)
    assert len(cache) > 20
    with steer.attach(tiny, 0.7):
        _, some = tiny.run_with_cache(TEXT, names_filter=site.hook)
    assert list(some) == [site.hook]
    unsteered, _ = tiny.run_with_cache(batch, site.hook)
    assert torch.equal(unsteered[batch.mask], tiny.logits(batch)[batch.mask])


def test_what_has_no_common_cache_is_refused(gpt2):
    with (
        pytest.raises(SteeringError, match="A prompt is attached"),
        Prompt("the soup was good. ").attach(gpt2, 0.5),
    ):
        gpt2.run_with_cache(TEXT)
    with pytest.raises(TypeError, match="no option 'stop_at_layer'"):
        gpt2.run_with_cache(TEXT, stop_at_layer=1)


def test_names_of_transformer_lens_are_the_wrapped_models_own(tiny):
    hooked = tiny.wrapped
    assert tiny.W_U is hooked.W_U and torch.equal(tiny.W_E, hooked.W_E)
    assert torch.equal(tiny.b_U, hooked.b_U)
    assert (tiny.d_vocab, tiny.n_heads, tiny.d_head) == (
        hooked.cfg.d_vocab, hooked.cfg.n_heads, hooked.cfg.d_head
    )  # fmt: skip
    assert torch.equal(tiny.to_tokens(TEXT), hooked.to_tokens(TEXT))
    without = tiny.to_tokens(PROMPTS, prepend_bos=False)
    assert torch.equal(without, hooked.to_tokens(PROMPTS, prepend_bos=False))
    assert tiny.to_string(tiny.to_tokens(TEXT)[0]) == hooked.to_string(hooked.to_tokens(TEXT)[0])
    assert len(tiny.to_string(tiny.to_tokens(PROMPTS))) == len(PROMPTS)
    assert tiny.to_str_tokens(TEXT) == hooked.to_str_tokens(TEXT)
    assert tiny.to_str_tokens([TEXT]) == [tiny.to_str_tokens(tiny.to_tokens(TEXT))]
    assert tiny.to_single_token("soup") == hooked.to_single_token("soup")
    with pytest.raises(ValueError, match="is 2 tokens"):
        tiny.to_single_token("the soup")


def test_bare_tokens_are_run_where_nothing_hides_padding(gpt2):
    assert torch.equal(gpt2.logits(gpt2.to_tokens(TEXT)), gpt2.logits(TEXT))
    assert torch.equal(gpt2.logits(gpt2.to_tokens(TEXT)[0]), gpt2.logits(TEXT))
    with pytest.raises(ValueError, match="These rows of tokens are padded"):
        gpt2.logits(gpt2.to_tokens(["the soup", TEXT]))
    with pytest.raises(ValueError, match="holds no tokens"):
        gpt2.logits(torch.zeros(3))


def test_the_logit_lens_of_a_direction(tiny):
    """A direction that is a row of the unembedding, as the norm reads it, raises that token."""
    token = tiny.to_single_token("soup")
    # The norm is linear in direction up to length: what it makes of each axis is its own scale.
    eye = torch.eye(tiny.d_model)
    scale = torch.stack([tiny.token_effects(row) for row in eye])
    vector = torch.randn(tiny.d_model, generator=torch.Generator().manual_seed(0))
    vector = vector - vector.mean()
    mixed = tiny.token_effects(vector)
    if not tiny.wrapped.cfg.normalization_type.startswith("LN"):
        expected = vector / vector.norm() @ scale
        torch.testing.assert_close(mixed, expected, atol=1e-3, rtol=1e-3)
    weight = getattr(tiny.wrapped.ln_final, "w", 1.0)
    direction = Direction((tiny.W_U[:, token] * weight).detach().clone(), Site(2))
    found = direction.top_tokens(tiny, k=3)
    assert found.raised[0][0] == "soup" and len(found.lowered) == 3
    assert "soup" in repr(found) and list(found.to_frame().columns) == ["end", "token", "effect"]
    ahead = (-direction).top_tokens(tiny, k=3)
    assert ahead.lowered[0][0] == "soup"
    assert ahead.lowered[0][1] == pytest.approx(-found.raised[0][1], rel=1e-4)
    with pytest.raises(TypeError, match="steerlens Model"):
        direction.top_tokens(tiny.wrapped)
