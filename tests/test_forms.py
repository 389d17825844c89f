"""Every form starts as the identity, and gives gradients to what it trains.

`test_kinds.py` holds what they make to the contract.
"""

from dataclasses import replace

import pytest
import torch

from steerlens.arguments import ArgumentError
from steerlens.forms import (
    DReFT,
    Form,
    FullWeights,
    Joint,
    LocalWeight,
    LoRA,
    LoReFT,
    LowRankAdapter,
    PostBlock,
    ReFTr1,
    SoftPrefix,
    VectorForm,
)  # fmt: skip
from steerlens.interventions import baked
from steerlens.interventions.changes import Composed
from steerlens.models.model import Model
from steerlens.saes import FeatureAdapter
from steerlens.sites import Positions, Site
from steerlens.testing import TEXTS, tiny_model
from steerlens.training import LM, Trainer
from tests.handmade_saes import saved
from tests.kinds import moved

FORMS = {
    "vector": VectorForm(Site(0)),
    "vector inside a block": VectorForm(Site(1, "attn_out")),
    "LoReFT": LoReFT(Site(0), rank=2),
    "ReFT-r1": ReFTr1(Site(0), top_k=3),
    "D-ReFT": DReFT(Site(0), rank=2),
    "one-layer adapter": LowRankAdapter(Site(0), rank=2),
    "one-layer adapter, SiLU": LowRankAdapter(Site(1), 2, "silu", constant=False),
    "post-block": PostBlock(rank=2),
    "LoRA": LoRA(rank=2, targets=("q", "k", "v", "o", "in", "down"), alpha=4.0),
    "LoRA of one block": LoRA(rank=1, targets=("v",), layers=(1,)),
    "local weight": LocalWeight(1),
    "local query weight": LocalWeight(0, "q"),
    "full weights": FullWeights(),
    "full weights of one block": FullWeights(only=r"blocks\.1\."),
    "joint": Joint(LoRA(2, ("down", "q")), PostBlock(2)),
    "soft prefix": SoftPrefix(length=3),
    "adapter of SAE features": FeatureAdapter(saved(16, Site(0))),
}
UNTRAINED = {"ReFT-r1": {"amount"}, "D-ReFT": {"step"}}
"""Parameters that no gradient reaches."""
PROMPTS = [prompt for prompt, _ in TEXTS]


FAMILIES = ("gpt2", "llama", "gemma2")


@pytest.fixture(scope="module", params=FAMILIES)
def small(request):
    return Model(tiny_model(request.param, n_layers=2, d_model=16))


@pytest.fixture(scope="module")
def small_gpt2():
    return Model(tiny_model("gpt2", n_layers=2, d_model=16))


def begun(form, model):
    return form.begin(model, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", FORMS)
def test_a_form_starts_as_the_identity_exactly(small, name):
    form = FORMS[name]
    assert isinstance(form, Form)
    intervention = form.intervention(small, begun(form, small))
    assert isinstance(intervention, Composed)
    unsteered = small.logits(PROMPTS)
    for m in (1.0, -3.0):
        with intervention.attach(small, m):
            assert torch.equal(small.logits(PROMPTS), unsteered)


def test_every_form_is_in_the_table():
    from steerlens import forms

    public = {one for one in vars(forms).values() if isinstance(one, type) and one is not Form}
    assert {type(form) for form in FORMS.values()} == public | {FeatureAdapter}


@pytest.mark.parametrize("name", FORMS)
def test_gradients_reach_every_parameter(small_gpt2, name):
    form, model = FORMS[name], small_gpt2
    params = {key: one.requires_grad_() for key, one in moved(form, model).items()}
    batch = model.tokens(PROMPTS)
    with form.intervention(model, params).attach(model, 1.0):
        states = model.states(batch)
        loss = torch.logsumexp(model.unembed(states[batch.mask]), -1).mean()
    loss.backward()
    reached = {key for key, one in params.items() if one.grad is not None}
    assert reached == params.keys() - UNTRAINED.get(name, set())
    for key in reached:
        gradient = params[key].grad
        assert bool(torch.isfinite(gradient).all()), key
        if not key.endswith(("b_K", "bias")):  # a bias of keys moves no attention
            assert bool(gradient.any()), key
    model.logits(PROMPTS)


@pytest.mark.parametrize("name", FORMS)
def test_seeds_give_the_same_start(small_gpt2, name):
    one, other = begun(FORMS[name], small_gpt2), begun(FORMS[name], small_gpt2)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert all(tensor.dtype == torch.float32 for tensor in one.values())


def test_parameters_of_another_model_are_refused(small_gpt2, gpt2):
    for form in FORMS.values():
        with pytest.raises(ValueError, match="has parameters of shapes"):
            form.intervention(gpt2, begun(form, small_gpt2))


def test_a_trained_form_does_not_fit_another_model(small_gpt2, gpt2):
    for form in FORMS.values():
        trained = form.intervention(small_gpt2, moved(form, small_gpt2))
        with pytest.raises(ValueError):
            trained.require_fits(gpt2)


@pytest.mark.parametrize(
    "make",
    [
        lambda: LoRA(rank=0),
        lambda: LoReFT(Site(0), rank=0),
        lambda: LowRankAdapter(Site(0), rank=-1),
        lambda: PostBlock(rank=0),
        lambda: SoftPrefix(length=0),
    ],
)
def test_rank_0_is_refused(make):
    with pytest.raises(ArgumentError):
        make()


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (LoRA(targets=("gate",)), "has no matrix 'gate'. It has q, k, v, o, in, down"),
        (LoRA(layers=(7,)), "Layer 7 is not in"),
        (LoRA(rank=100), "more than the 16 dimensions"),
        (LoReFT(Site(0), rank=17), "more than the 16 dimensions"),
        (LocalWeight(5), "none: the blocks are 0–1"),
        (FullWeights(only="W_up"), "No parameter of"),
        (VectorForm(Site(9)), "Layer 9 is not in"),
        (SoftPrefix(length=64), "leaves no room"),
    ],
)
def test_what_a_model_does_not_have_is_refused(small_gpt2, form, text):
    with pytest.raises(ValueError, match=text):
        begun(form, small_gpt2)


def test_wrong_settings_are_refused(unchecked):
    for make, text in (
        (lambda: LoRA(targets=()), "names no matrix"),
        (lambda: LoRA(layers=()), "names no block"),
        (lambda: LoRA(layers="all"), "is text. Give the numbers of blocks"),
        (lambda: PostBlock(layers=(0.5,)), "not a whole number"),
        (lambda: LoRA(alpha=0), "multiplies every change by 0"),
        (lambda: LowRankAdapter(Site(0), activation="tanh"), "is not known"),
        (lambda: Joint(LoRA(targets=("q",))), "Add 'down'"),
        (lambda: FullWeights(only="("), "not a regular expression"),
    ):
        with pytest.raises(ValueError, match=text):
            make()


def test_one_layer_may_be_given_as_a_number(unchecked):
    assert LoRA(layers=1).layers == PostBlock(layers=1).layers == (1,)


def test_loreft_stays_orthonormal_and_is_its_formula(small_gpt2):
    form = FORMS["LoReFT"]
    params = moved(form, small_gpt2)
    basis, read, offset = params["basis"], params["read"], params["offset"]
    torch.testing.assert_close(basis @ basis.T, torch.eye(2), atol=1e-6, rtol=0)
    h = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(3))
    by_hand = h + (h @ read.T + offset - h @ basis.T) @ basis
    edit = form.intervention(small_gpt2, params)
    torch.testing.assert_close(edit(h, 1.0), by_hand)


def test_dreft_draws_about_its_mean_while_it_is_trained(small_gpt2):
    form = DReFT(Site(0), rank=2, unit=3.0, seed=5)
    params = moved(form, small_gpt2)
    with torch.no_grad():
        params["step"].fill_(7.0)
        params["wide_offset"].fill_(-4.0)
    h = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(3))
    basis, offset = params["basis"], params["offset"]
    mean = h + (h @ params["read"].T + offset - h @ basis.T) @ basis
    torch.testing.assert_close(form.intervention(small_gpt2, params)(h, 1.0), mean)  # LoReFT's
    trained = {key: one.requires_grad_() for key, one in params.items()}
    found = form.intervention(small_gpt2, trained)(h, 2.0).detach()
    log_variance = (h @ params["wide"].T + params["wide_offset"]).detach().clamp(-14.0, -3.2)
    sigma = 3.0 * (0.5 * log_variance).exp().clamp(0.001, 0.2)
    epsilon = torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(5 * 1_000_003 + 7))
    by_hand = h + 2 * (mean - h).detach() + 2 * (sigma * epsilon) @ basis.detach()
    torch.testing.assert_close(found, by_hand)
    again = form.intervention(small_gpt2, trained)(h, 2.0)
    assert torch.equal(again, found), "a step draws the same when it is repeated"
    form.after_step(trained)
    assert not torch.equal(form.intervention(small_gpt2, trained)(h, 2.0), found)
    torch.testing.assert_close(form.spread(params, h).detach(), sigma)


def test_reft_r1_is_its_formula_in_training_and_notes_the_amount(small_gpt2):
    form = replace(FORMS["ReFT-r1"], top_k=2)
    params = begun(form, small_gpt2)
    params["gate"].fill_(1.0)
    w = params["w"].requires_grad_()
    h = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(3))
    found = form.intervention(small_gpt2, params)(h, 1.0)
    latents = torch.relu(h @ w)
    mean = latents.sort(1, descending=True).values[:, :2].mean(1)
    torch.testing.assert_close(found, h + mean[:, None, None] * w)
    torch.testing.assert_close(params["amount"], 0.1 * mean.mean().detach())
    with torch.no_grad():  # in use: the same amount everywhere
        used = form.intervention(small_gpt2, params)(h, 2.0)
    torch.testing.assert_close(used, h + 2 * params["amount"] * w.detach())


def test_reft_r1_detects(small_gpt2):
    form = FORMS["ReFT-r1"]
    params = begun(form, small_gpt2)
    batch = small_gpt2.tokens(PROMPTS)
    stream = small_gpt2.cache(batch, [form.site])[form.site]
    latents = torch.relu(stream @ params["w"])
    rows = [row[real][1:] for row, real in zip(latents, batch.mask, strict=True)]  # without BOS
    expected = [float(row.max()) for row in rows]
    torch.testing.assert_close(form.detect(small_gpt2, params, PROMPTS), torch.tensor(expected))


@pytest.mark.parametrize("orthogonalise", ["read", "write", "both"])
def test_joint_keeps_both_apart(small_gpt2, orthogonalise):
    form = replace(FORMS["joint"], orthogonalise=orthogonalise)
    params = moved(form, small_gpt2)
    for layer in range(2):
        written = params["lora.down.b"][layer]
        read = params["adapter.down"][layer] @ written.T
        wrote = params["adapter.up"][layer].T @ written.T
        assert (float(read.abs().max()) < 1e-6) == (orthogonalise != "write")
        assert (float(wrote.abs().max()) < 1e-6) == (orthogonalise != "read")
    start = begun(form, small_gpt2)
    again = {key: tensor.clone() for key, tensor in start.items()}
    form.after_step(again)  # the LoRA writes nothing yet
    assert all(torch.equal(again[key], start[key]) for key in start)


def test_tied_embeddings_share_one_change():
    model = Model(tiny_model("qwen2", n_layers=1, d_model=16))
    form = FullWeights(pad_row=0)
    params = {key: one.requires_grad_() for key, one in begun(form, model).items()}
    assert "embed.W_E" in params and "unembed.W_U" not in params
    batch = model.tokens(["the cat sat"])
    with form.intervention(model, params).attach(model, 1.0):
        model.unembed(model.states(batch)).logsumexp(-1).sum().backward()
    both = params["embed.W_E"].grad
    apart = {
        name: torch.zeros_like(dict(model.wrapped.named_parameters())[name]).requires_grad_()
        for name in ("embed.W_E", "unembed.W_U")
    }
    from steerlens.interventions.changes import Dense, WeightChange
    from steerlens.interventions.composition import composed

    changes = [WeightChange(name, Dense(one)) for name, one in apart.items()]
    with composed(changes, "apart").attach(model, 1.0):
        model.unembed(model.states(batch)).logsumexp(-1).sum().backward()
    as_input, as_output = apart["embed.W_E"].grad, apart["unembed.W_U"].grad
    torch.testing.assert_close(both, as_input + as_output.T, atol=1e-6, rtol=1e-5)


def test_gemmas_embedding_is_a_multiple_of_its_unembedding():
    model = Model(tiny_model("gemma2", n_layers=1, d_model=16))
    params = begun(FullWeights(), model)
    assert "unembed.W_U" not in params
    delta = 0.1 * torch.randn(params["embed.W_E"].shape)
    params["embed.W_E"] = delta
    changes = {
        c.name: c.delta.delta for c in FullWeights().intervention(model, params).changes(model)
    }
    torch.testing.assert_close(changes["embed.W_E"], 4.0 * delta)
    torch.testing.assert_close(changes["unembed.W_U"], delta.T)


def test_positions_are_kept(small_gpt2):
    form = VectorForm(Site(0), Positions.generated())
    vector = form.intervention(small_gpt2, {"vector": torch.ones(16)})
    assert vector.positions == Positions.generated()
    assert vector.unit == "direction"


@pytest.mark.parametrize("kind", [VectorForm, LoReFT, LowRankAdapter, ReFTr1])
def test_a_site_is_taken_as_users_write_it(kind, unchecked):
    wanted = kind(Site(2), positions=Positions.last())
    assert kind(2, positions="last") == kind("blocks.2.hook_resid_post", positions="last") == wanted
    with pytest.raises(ArgumentError, match="is not a site"):
        kind("nowhere")


def test_what_is_no_form_or_no_vector_is_refused(gpt2, unchecked):
    with pytest.raises(ArgumentError, match="form='vector' is not a form"):
        Trainer(LM(), steps=1).fit("vector", gpt2, [("the cat", " sat", " ran")], progress=False)
    with pytest.raises(ArgumentError, match="layer='three' is not a whole number"):
        LocalWeight("three")
    with pytest.raises(TypeError, match="only a vector that is added can be baked"):
        baked(gpt2, None)


@pytest.mark.parametrize("form", [LoReFT(Site(1, "z"), 2), DReFT(Site(1, "mlp_post"), 2)])
def test_a_subspace_is_as_wide_as_its_site(small_gpt2, form):
    params = begun(form, small_gpt2)
    assert params["basis"].shape == (2, small_gpt2.width(form.site))
    with form.intervention(small_gpt2, moved(form, small_gpt2)).attach(small_gpt2, 1.0):
        steered = small_gpt2.logits(PROMPTS)
    assert not torch.equal(steered, small_gpt2.logits(PROMPTS))
