"""Interventions do what their formulas say; the contract finds what is wrong with broken ones.

`test_kinds.py` holds every kind to the contract.
"""

from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from steerlens.directions import DirectionError
from steerlens.interventions import Ablate, AblateEverywhere, Add, AddKeepingNorm, Clamp, Together
from steerlens.measures.sweep import sweep
from steerlens.models.model import Model
from steerlens.sites import Positions, Site
from steerlens.testing import TEXTS, check_intervention, tiny_bridge, tiny_model
from tests.strangers import LouderHeads, low_rank

PROMPTS = [prompt for prompt, _ in TEXTS]


@pytest.fixture
def direction(random_direction):
    """A direction at the middle layer of the tiny models, with every strength unit."""
    return replace(random_direction(Site(1), 32), projection_std=0.5)


def every_intervention(d):
    return {
        "Add in direction": Add(d, Positions.all(), unit="direction"),
        "Add at attn_out": Add(replace(d, site=Site(2, "attn_out"))),
        "Clamp": Clamp(d, 3.0),
        "Add, norm kept": AddKeepingNorm(d),
        "AblateEverywhere": AblateEverywhere(d),
        "Together": Together((Add(d), Ablate(replace(d, site=Site(0)))), (1.0, 0.5)),
        "a stranger's": LouderHeads(1),
    }


def test_a_strangers_change_of_weights_says_what_it_fits():
    with pytest.raises(ValueError, match="this model has none"):
        low_rank(Model(tiny_model("gpt2")), 2).require_fits(Model(tiny_model("gpt2", n_layers=1)))


@pytest.mark.parametrize("name", ["Add in direction", "AblateEverywhere", "a stranger's"])
def test_an_intervention_keeps_the_contract_where_attention_is_beside_the_mlp(direction, name):
    check_intervention(every_intervention(direction)[name], Model(tiny_model("neox")))


@pytest.mark.parametrize("name", ["Add at attn_out", "Clamp", "Together"])
def test_an_intervention_keeps_the_contract_on_a_bridge(tiny_bridge_model, direction, name):
    check_intervention(every_intervention(direction)[name], tiny_bridge_model)


def moved(model, intervention, multiplier, site):
    """The stream of prompts at a site without and with the intervention, at ordinary tokens."""
    batch = model.tokens(PROMPTS)
    before = model.cache(batch, [site])[site]
    with intervention.attach(model, multiplier):
        after = model.cache(batch, [site])[site]
    ordinary = batch.mask & ~batch.special
    return before[ordinary], after[ordinary]


@pytest.mark.parametrize("unit", ["resid_norm", "direction", "projection_std"])
def test_add_moves_the_stream_by_so_many_units(gpt2, direction, unit):
    length = {"resid_norm": 2.0, "direction": direction.norm, "projection_std": 0.5}[unit]
    add = Add(direction, Positions.all(), unit)
    before, after = moved(gpt2, add, -1.5, direction.site)
    expected = -1.5 * length * direction.unit().vector
    torch.testing.assert_close(after - before, expected.expand_as(before), atol=1e-5, rtol=1e-4)


def test_ablate_leaves_nothing_along_the_direction(gpt2, direction):
    u = direction.unit().vector
    before, after = moved(gpt2, Ablate(direction, Positions.all()), 1.0, direction.site)
    assert float((before @ u).abs().min()) > 1e-3
    torch.testing.assert_close(after @ u, torch.zeros(len(after)), atol=1e-5, rtol=0)
    torch.testing.assert_close(after, before - (before @ u)[:, None] * u, atol=1e-5, rtol=1e-4)
    _, half = moved(gpt2, Ablate(direction, Positions.all()), 0.5, direction.site)
    torch.testing.assert_close(half @ u, 0.5 * (before @ u), atol=1e-5, rtol=1e-4)


def test_ablated_everywhere_no_layer_sees_the_direction(tiny, direction):
    u = direction.unit().vector
    batch, sites = tiny.tokens(PROMPTS), tiny.sites()
    before = tiny.cache(batch, sites)
    with AblateEverywhere(direction).attach(tiny, 1.0):
        after = tiny.cache(batch, [*sites, Site(0, "resid_pre")])
    for site, stream in after.items():
        left = (stream[batch.mask] @ u).abs().max()
        assert float(left) < 1e-4 * float(stream.norm(dim=-1).max()), site
    with AblateEverywhere(direction, layers=[2]).attach(tiny, 1.0):
        above = tiny.cache(batch, sites)
    assert torch.equal(above[sites[1]], before[sites[1]]), "layers below are left alone"
    assert float((above[sites[2]][batch.mask] @ u).abs().max()) < 1e-4
    with pytest.raises(ValueError, match="Layer 9 is not in"):
        AblateEverywhere(direction, layers=[9]).require_fits(tiny)
    with pytest.raises(ValueError, match="names no layer"):
        AblateEverywhere(direction, layers=())


def test_clamp_sets_the_projection(gpt2, direction):
    u = direction.unit().vector
    before, after = moved(gpt2, Clamp(direction, 3.0, Positions.all()), 1.0, direction.site)
    torch.testing.assert_close(after @ u, torch.full((len(after),), 3.0))
    across = before - (before @ u)[:, None] * u
    torch.testing.assert_close(after - 3.0 * u, across, atol=1e-5, rtol=1e-4)


def test_together_is_one_inside_the_other(gpt2, direction):
    add, clamp = Add(direction), Clamp(replace(direction, site=Site(0, "resid_pre")), 1.0)
    with Together((add, clamp), (1.0, 0.5)).attach(gpt2, 2.0):
        both = gpt2.logits(PROMPTS)
    with add.attach(gpt2, 2.0), clamp.attach(gpt2, 1.0):
        assert torch.equal(gpt2.logits(PROMPTS), both)


def test_edits_at_one_site_act_in_the_order_they_were_attached(gpt2, direction):
    add, ablate = Add(direction, Positions.all()), Ablate(direction, Positions.all())
    u = direction.unit().vector
    _, added_last = moved(gpt2, Together((ablate, add)), 1.0, direction.site)
    _, ablated_last = moved(gpt2, Together((add, ablate)), 1.0, direction.site)
    torch.testing.assert_close(added_last @ u, torch.full((len(added_last),), 2.0))
    torch.testing.assert_close(ablated_last @ u, torch.zeros(len(added_last)), atol=1e-5, rtol=0)


def test_together_of_nothing_and_of_too_few_weights_is_refused(direction):
    with pytest.raises(ValueError, match="holds no intervention"):
        Together(())
    with pytest.raises(ValueError, match="1 weights for 2 interventions"):
        Together((Add(direction), Ablate(direction)), (1.0,))


def test_the_name_of_a_rule_is_refused_where_a_rule_is_needed(gpt2, direction):
    """Functions take "last"; an intervention keeps a rule."""
    for made in (Add(direction, unit="direction"), Ablate(direction)):
        object.__setattr__(made, "positions", "last")  # the types of arguments are checked in tests
        message = r"'last' is not a Positions.* positions=Positions\.last\(\)"
        with pytest.raises(ValueError, match=message):
            sweep(gpt2, [("the cat", " ran", " sat")], [made], (0.0, 1.0))


@pytest.mark.parametrize("unit", ["resid_norm", "projection_std"])
def test_a_unit_that_the_direction_does_not_state_is_refused(direction, unit):
    with pytest.raises(DirectionError, match=f"needs {unit}.*or use unit='direction'"):
        Add(replace(direction, resid_norm=None, projection_std=None), unit=unit)


def test_a_hooked_transformer_and_a_bridge_are_steered_alike(direction):
    hooked, bridge = Model(tiny_model("neox")), Model(tiny_bridge("neox"))
    for name in ("Add in direction", "Add at attn_out", "Clamp"):
        intervention = every_intervention(direction)[name]
        logits = []
        for model in (hooked, bridge):
            with intervention.attach(model, 2.0):
                logits.append(model.logits(PROMPTS))
        real = hooked.tokens(PROMPTS).mask
        torch.testing.assert_close(logits[0][real], logits[1][real], atol=2e-5, rtol=1e-5)


# The contract finds what is wrong.


LAST: dict[str, torch.nn.Parameter] = {}


@dataclass(frozen=True)
class Wrong:
    """Adds ones-and-minus-ones to a stream, with one fault."""

    fault: str
    per_row = True

    @property
    def first_block(self):
        return 3 if self.fault == "says it starts later" else 2

    def require_fits(self, model):
        if self.fault == "fits no model":
            raise ValueError("It was made for a larger one.")
        if self.fault == "cannot say what it fits":
            model.wrapped.blocks[1]

    @contextmanager
    def attach(self, model, multiplier):
        fault = self.fault

        def hook_fn(resid, hook):
            m = multiplier[:, None, None] if isinstance(multiplier, Tensor) else multiplier
            if fault == "never zero":
                m = m + 0.01
            if fault == "deaf":
                m = 0 * m
            if fault == "one strength for all" and isinstance(m, Tensor):
                m = m.amax()
            push = torch.ones(resid.shape[-1]).index_fill(0, torch.arange(0, 32, 2), -1.0)
            if fault == "looks at neighbours":
                push = resid.mean(1, keepdim=True)
            if fault == "absolute columns":
                push = push * torch.linspace(0, 1, resid.shape[1])[:, None]
            if fault == "first call only" and resid.shape[1] == 1:
                return resid
            if fault == "other rows when cached" and isinstance(m, Tensor) and resid.shape[1] == 1:
                m = m.flip(0)
            return resid + m * push

        name = Site(1).hook
        if fault == "leaves its hook":
            model.wrapped.add_hook(name, hook_fn)
            yield
            return
        if fault == "forgets after an error":
            model.wrapped.add_hook(name, hook_fn)
            yield
            model.wrapped.reset_hooks()
            return
        if fault == "one at a time":
            biases = model.wrapped.unembed._parameters
            LAST["b_U"] = biases["b_U"]
            biases["b_U"] = torch.nn.Parameter(LAST["b_U"].detach() + multiplier)
            try:
                yield
            finally:
                biases["b_U"] = LAST["b_U"]
            return
        if fault == "freezes weights":
            model.wrapped.requires_grad_(False)
        with model.wrapped.hooks(fwd_hooks=[(name, hook_fn)]):
            yield
        if fault == "changes weights":
            model.wrapped.unembed.b_U.data += 0.1


@dataclass(frozen=True)
class WrongEdit:
    """A residual edit that looks at the whole text."""

    site: Site = Site(1)
    positions: Positions = Positions.all()

    def __call__(self, resid, strength):
        m = strength[:, None, None] if isinstance(strength, Tensor) else strength
        return resid + m * resid.mean(1, keepdim=True)

    def attach(self, model, multiplier):
        return model.hooked(self.site, self, self.positions, multiplier)


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("never zero", "at multiplier 0.0 is not the unsteered model"),
        ("deaf", "at multiplier 1 does nothing"),
        ("one strength for all", "row 0 of a batch with one multiplier per row"),
        ("looks at neighbours", "text . alone is not as in a batch"),
        ("absolute columns", "text . alone is not as in a batch"),
        ("first call only", "cached generation at multiplier 1.0 wrote a token"),
        ("other rows when cached", r"cached generation at multiplier tensor\(.* wrote a token"),
        ("says it starts later", "first_block is 3, and it changes what enters block 2"),
        ("fits no model", "does not fit 'tiny-llama', as its require_fits says: It was made for"),
        ("cannot say what it fits", "require_fits raised IndexError"),
        ("leaves its hook", "left something behind after the `with`: hooks changed"),
        ("changes weights", "left something behind after the `with`: weights changed"),
        ("freezes weights", "left .* after the `with`: which weights require gradients changed"),
        ("forgets after an error", "left something behind after an error in the `with`"),
        ("one at a time", "left something behind after one `with` inside another"),
    ],
)  # fmt: skip
def test_a_broken_intervention_is_told_what_is_wrong(fault, text):
    with pytest.raises(AssertionError, match=text):
        check_intervention(Wrong(fault), Model(tiny_model("llama")))


def test_an_edit_that_looks_at_other_tokens_is_told_so(gpt2):
    with pytest.raises(AssertionError, match="edits a token by looking at other tokens"):
        check_intervention(WrongEdit(), gpt2)


def test_an_intervention_that_does_nothing_at_all_is_told_so(gpt2):
    class Nothing:
        def attach(self, model, multiplier):
            return nullcontext()

    with pytest.raises(AssertionError, match="at multiplier 1 does nothing"):
        check_intervention(Nothing(), gpt2)
