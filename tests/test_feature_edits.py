# ruff: noqa: E402 (sae_lens is optional, and tests.saes needs it)
"""Feature edits keep the contract of interventions, and give sae_lens's own numbers."""

from dataclasses import replace

import pytest
import torch

pytest.importorskip("sae_lens", reason="needs the extra steerlens[sae]")

from steerlens.data import ContrastPair
from steerlens.interventions import Add, Together
from steerlens.measures.generation import generated_tokens
from steerlens.measures.sweep import sweep
from steerlens.models.model import Model
from steerlens.saes import SAEError
from steerlens.saes.feature_edits import AblateFeature, AddFeature, ClampFeature, EditFeatures
from steerlens.sites import Positions
from steerlens.testing import TEXTS, check_intervention, tiny_bridge, tiny_model
from tests.saes import D_SAE, KINDS, untrained, untrained_sae

PROMPTS = [prompt for prompt, _ in TEXTS]
EVERYWHERE = Positions.all(special=True)
pytestmark = pytest.mark.filterwarnings("ignore:.*unknown to the tokenizer")


def every_edit(sae, positions=EVERYWHERE):
    """Each edit with what it makes of the activations, as a sae_lens user would write it."""
    d, at = sae, positions
    feature = strongest(d)

    def with_feature(f, i, value):
        changed = f.clone()
        changed[..., i] = value
        return changed

    return {
        "add one activation": (
            AddFeature(d, feature, at, "activation"),
            lambda f: with_feature(f, feature, f[..., feature] + 1),
        ),
        "add the maximum": (
            AddFeature(d, feature, at, "max_activation"),
            lambda f: with_feature(f, feature, f[..., feature] + 2),
        ),
        "clamp to 3 times the maximum": (
            ClampFeature(d, feature, 3.0, at),
            lambda f: with_feature(f, feature, 6.0),
        ),
        "clamp to a value": (
            ClampFeature(d, feature, positions=at, value=-0.5),
            lambda f: with_feature(f, feature, -0.5),
        ),
        "ablate": (AblateFeature(d, feature, at), lambda f: with_feature(f, feature, 0.0)),
        "several at once": (
            EditFeatures(
                (
                    AblateFeature(d, feature, at),
                    ClampFeature(d, feature - 1, 1.0, at),
                    AddFeature(d, feature - 2, at, "activation"),
                )
            ),
            lambda f: with_feature(
                with_feature(with_feature(f, feature, 0.0), feature - 1, 2.0),
                feature - 2,
                f[..., feature - 2] + 1,
            ),
        ),
    }


EDITS = (
    "add one activation", "add the maximum", "clamp to 3 times the maximum", "clamp to a value",
    "ablate", "several at once",
)  # fmt: skip


def some_stream():
    return 1.5 * torch.randn(3, 5, 32, generator=torch.Generator().manual_seed(7))


def strongest(sae):
    """A feature that fires at most tokens, so that taking it away is seen."""
    fires = (sae.encode(some_stream()) != 0).float().mean((0, 1))
    return int(fires[2:].argmax()) + 2


@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize("kind", KINDS)
def test_edits_equal_sae_lens_own_arithmetic(kind, name):
    sae = untrained(kind)
    theirs, resid = untrained_sae(kind).eval(), some_stream()
    edit, changed = every_edit(sae)[name]
    with torch.no_grad():
        features = theirs.encode(resid)
        error = resid - theirs.decode(features)
        theirs.encode(resid)  # a token's own norm is kept from encode to decode, once
        expected = theirs.decode(changed(features)) + error
    torch.testing.assert_close(edit(resid, 1.0), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(expected, resid, atol=1e-2)


@pytest.mark.parametrize("name", EDITS)
def test_logits_equal_those_of_a_spliced_sae(gpt2, name):
    sae = untrained("jumprelu")
    edit, changed = every_edit(sae)[name]
    batch = gpt2.tokens("the cat sat on the bed")
    with edit.attach(gpt2, 1.0):
        steered = gpt2.logits(batch)
    spliced = _spliced(gpt2)
    hook = f"{edit.site.hook}.hook_sae_acts_post"
    with spliced.saes([untrained_sae("jumprelu")], use_error_term=True), torch.no_grad():
        expected = spliced.run_with_hooks(
            batch.tokens, fwd_hooks=[(hook, lambda f, hook: changed(f))]
        )
    torch.testing.assert_close(steered, expected, atol=1e-5, rtol=1e-5)


def _spliced(model):
    from sae_lens import HookedSAETransformer

    spliced = HookedSAETransformer(model.cfg, tokenizer=model.tokenizer)
    spliced.load_state_dict(model.wrapped.state_dict())
    return spliced.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_steering_nothing_changes_nothing(gpt2, kind):
    batch = gpt2.tokens(PROMPTS)
    unsteered = gpt2.logits(batch)
    for edit, _ in every_edit(untrained(kind)).values():
        for zero in (0.0, torch.zeros(len(batch))):
            resid = some_stream()
            assert torch.equal(edit(resid, zero if isinstance(zero, float) else zero[:3]), resid)
            with edit.attach(gpt2, zero):
                assert torch.equal(gpt2.logits(batch), unsteered)


@pytest.mark.parametrize("name", EDITS)
def test_every_edit_keeps_the_contract(tiny, name):
    edit, _ = every_edit(untrained("topk"), Positions.from_prompt_end())[name]
    check_intervention(edit, tiny)


def test_features_steer_a_bridge():
    bridge = Model(tiny_bridge("gpt2"))
    check_intervention(ClampFeature(untrained("jumprelu"), 3, 4.0), bridge)


@pytest.mark.parametrize("use_cache", [True, False])
def test_generation_with_a_cache_writes_what_a_full_pass_per_token_writes(gpt2, use_cache):
    edit = ClampFeature(untrained("topk"), 3, 8.0, Positions.all())
    unsteered = generated_tokens(gpt2, PROMPTS, max_new_tokens=8, stop_at_eos=False)
    with edit.attach(gpt2, 1.0):
        written = generated_tokens(
            gpt2, PROMPTS, max_new_tokens=8, stop_at_eos=False, use_cache=use_cache
        )
        batch = gpt2.tokens(PROMPTS)
        for column in range(8):  # the naive way: everything again for every token
            expected = gpt2.logits(batch)[:, -1].argmax(-1, keepdim=True)
            assert torch.equal(written[:, column : column + 1], expected)
            real = torch.ones_like(expected, dtype=torch.bool)
            batch = batch.extended(expected, gpt2.is_special(expected), real)
    assert not torch.equal(written, unsteered)


def test_the_wavefront_sweeps_features_as_a_hook_would(gpt2):
    pairs = [
        ContrastPair("the cat sat on the", " bed", " table"),
        ContrastPair("I think he said that the good soup was", " good", " bad"),
    ]
    edits = [
        edit for edit, _ in every_edit(untrained("topk"), Positions.from_prompt_end()).values()
    ]
    multipliers = (0.0, 0.5, 1.0)
    swept = sweep(gpt2, pairs, edits, multipliers, progress=False)
    assert swept.plan.path == "wavefront"
    for i, edit in enumerate(edits):
        for j, m in enumerate(multipliers):
            for n, pair in enumerate(pairs):
                batch = gpt2.tokens([pair.prompt])
                with edit.attach(gpt2, m):
                    log_p = gpt2.logits(batch)[0, -1].log_softmax(-1)
                answer = gpt2.split(pair.prompt, pair.positive)[1][0]
                torch.testing.assert_close(
                    swept.positive[i, j, n], log_p[answer], atol=3e-5, rtol=1e-5
                )


def test_adding_in_residual_norms_is_adding_the_features_direction(gpt2):
    sae = untrained("layer_norm")
    at = Positions.all()
    one, other = AddFeature(sae, 5, at), Add(sae.direction(5), at)
    assert float(sae.direction(5).norm) == pytest.approx(1.0)
    resid = some_stream()
    torch.testing.assert_close(one(resid, -0.7), other(resid, -0.7))
    torch.testing.assert_close((one(resid, 1.0) - resid).norm(dim=-1), torch.full((3, 5), 3.0))


def test_the_multiplier_moves_a_clamped_feature_evenly_to_its_target():
    sae, resid = untrained("standard"), some_stream()
    clamp = ClampFeature(sae, 4, 1.5, EVERYWHERE)
    row = sae.W_dec[4]
    before = sae.encode(resid)[..., 4]
    for m in (0.25, 1.0, 2.0):
        moved = ((clamp(resid, m) - resid) @ row) / row.square().sum()
        torch.testing.assert_close(before + moved, (1 - m) * before + m * 3.0, atol=1e-4, rtol=1e-4)
    rows = torch.tensor([0.0, 0.5, 1.0])
    for i, m in enumerate(rows.tolist()):
        torch.testing.assert_close(clamp(resid, rows)[i], clamp(resid, m)[i])


def test_several_edits_read_the_unedited_stream():
    sae, resid = untrained("topk"), some_stream()
    feature = strongest(sae)
    loud = ClampFeature(sae, feature - 1, 20.0, EVERYWHERE)
    off = AblateFeature(sae, feature, EVERYWHERE)
    both = EditFeatures((loud, off))(resid, 1.0)
    torch.testing.assert_close(both, loud(resid, 1.0) + off(resid, 1.0) - resid)
    # After the loud one, the other no longer fires among the top k.
    assert not torch.allclose(both, off(loud(resid, 1.0), 1.0), atol=1e-3)


def test_a_half_precision_stream_stays_so(gpt2):
    resid = some_stream().to(torch.bfloat16)
    for edit, _ in every_edit(untrained("jumprelu")).values():
        steered = edit(resid, 1.0)
        assert steered.dtype == torch.bfloat16
        exact = edit(resid.float(), 1.0)
        torch.testing.assert_close(steered.float(), exact, atol=0.1, rtol=0.01)


def test_gradients_reach_the_stream_and_not_the_sae():
    sae = untrained("standard")
    resid = some_stream().requires_grad_()
    AblateFeature(sae, strongest(sae), EVERYWHERE)(resid, 1.0).sum().backward()
    assert resid.grad is not None
    assert not torch.allclose(resid.grad, torch.ones_like(resid))
    assert all(p.grad is None for p in sae.wrapped.parameters())


def test_features_that_are_not_there_are_refused():
    sae = untrained()
    for build in (AddFeature, ClampFeature, AblateFeature):
        with pytest.raises(SAEError, match=f"numbered 0-{D_SAE - 1}"):
            build(sae, D_SAE)
        with pytest.raises(SAEError, match="no feature -1"):
            build(sae, -1)


def test_units_that_are_not_known_are_refused_with_the_fix():
    bare = replace(untrained(), max_activation=None, resid_norm=None)
    with pytest.raises(SAEError, match=r"observe\(sae"):
        AddFeature(bare, 0)
    with pytest.raises(SAEError, match=r"observe\(sae"):
        ClampFeature(bare, 0)
    with pytest.raises(SAEError, match=r"observe\(sae"):
        AddFeature(bare, 0, unit="max_activation")
    assert ClampFeature(bare, 0, value=2.0).target == 2.0
    assert AddFeature(bare, 0, unit="activation").size == 1.0


def test_dead_features_are_refused_where_they_would_do_nothing():
    sae = untrained("standard")
    silent = replace(sae, max_activation=torch.zeros(D_SAE))
    with pytest.raises(SAEError, match="never fired"):
        ClampFeature(silent, 3)
    weights = sae.wrapped.W_dec
    with torch.no_grad():
        weights[3] = 0
    with pytest.raises(SAEError, match="row of zeros"):
        AddFeature(sae, 3)


def test_edits_that_do_not_belong_together_are_refused():
    one, other = untrained(), untrained()
    with pytest.raises(SAEError, match="edited twice"):
        EditFeatures((AblateFeature(one, 1), ClampFeature(one, 1)))
    with pytest.raises(SAEError, match="one SAE at the same positions"):
        EditFeatures((AblateFeature(one, 1), AblateFeature(other, 2)))
    with pytest.raises(SAEError, match="one SAE at the same positions"):
        EditFeatures((AblateFeature(one, 1), AblateFeature(one, 2, EVERYWHERE)))
    with pytest.raises(SAEError, match="steer nothing"):
        EditFeatures(())


def test_features_of_two_layers_steer_together(gpt2):
    lower = untrained("topk", hook="blocks.0.hook_resid_post")
    edit = Together((ClampFeature(lower, 2, 3.0), AblateFeature(untrained("topk"), 5)))
    check_intervention(edit, gpt2)


def test_an_sae_of_another_stream_does_not_attach(gpt2):
    wide = untrained("topk", d_in=64)
    with pytest.raises(SAEError, match="width 64"):
        AblateFeature(wide, 1).attach(gpt2, 1.0)
    high = untrained("topk", hook="blocks.9.hook_resid_post")
    with pytest.raises(SAEError, match="layers 0-2"):
        AblateFeature(high, 1).attach(gpt2, 1.0)
    made = replace(untrained("topk"), fingerprint="0" * 32, model="another", processing="raw")
    with pytest.raises(SAEError, match="trained on another with fingerprint 000"):
        AblateFeature(made, 1).attach(gpt2, 1.0)
    with pytest.raises(TypeError):
        AblateFeature(untrained("topk"), 1).attach(tiny_model("gpt2"), 1.0)
