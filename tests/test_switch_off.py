"""Steering that ends within a text: what it leaves, against whole passes with keys put in by hand."""

import pytest
import torch

from steerlens.analyses.comparison.fading import fading, fading_interval
from steerlens.interventions import Add, AnswerLoss, Condition, Knob, Nudge, When
from steerlens.interventions.changes import CacheEdit
from steerlens.interventions.composition import composed
from steerlens.measures.generation import generated_tokens
from steerlens.measures.switch_off import switched_off
from steerlens.models.model import Model
from steerlens.sites import Positions, Site
from steerlens.testing import tiny_bridge, tiny_model
from tests.kinds import KINDS, along, direction

PROMPTS = ["the cat sat on the bed and ran", "you", "I think the good soup was"]
FIRST, THEN = 4, 5
HOW = {"max_new_tokens": FIRST + THEN, "temperature": 1.0, "stop_at_eos": False}


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def small(request):
    """LayerNorm and learned positions, and RMSNorm, rotary positions and grouped keys."""
    return Model(tiny_model(request.param, n_layers=3))


def off(model, arm, m=1.0, **options):
    return switched_off(model, arm, PROMPTS, m, steered=FIRST, after=THEN, **options)


def whole(model, prompt, tokens):
    """One text without padding: a prompt and what was written after it."""
    base = model.tokens([prompt])
    real = torch.ones(1, len(tokens), dtype=torch.bool)
    return base.extended(tokens[None], model.is_special(tokens[None]), real), base.width


def log_p(model, batch):
    return torch.log_softmax(model.logits(batch)[0, -THEN:], -1)


def kl(p, q):
    return (p.exp() * (p - q)).sum(-1)


def by_hand(model, arm, m, prompt, written, never):
    """The three curves by whole passes; keys and values of steered columns are put in by hooks."""
    z, read = never[FIRST:], {}
    names = [f"blocks.{n}.attn.hook_{kv}" for n in range(model.n_layers) for kv in "kv"]
    steered, width = whole(model, prompt, written[:-1])
    columns = width + FIRST - 1

    def keep(x, hook):
        read[hook.name] = x[:, :columns].detach().clone()

    def put(x, hook):
        return torch.cat([read[hook.name], x[:, columns:]], 1)

    with arm.attach(model, m), model.wrapped.hooks(fwd_hooks=[(name, keep) for name in names]):
        model.logits(steered)
    text, _ = whole(model, prompt, torch.cat([written, z]))
    with model.wrapped.hooks(fwd_hooks=[(name, put) for name in names]):
        kept = log_p(model, text)
    p = log_p(model, whole(model, prompt, never)[0])
    new = log_p(model, text)
    return kl(p, kept), kl(p, new), kl(new, kept)


@pytest.mark.parametrize(
    "name",
    ["vector", "vector at generated tokens", "vector inside a block", "LoRA of all matrices", "joint",
     "a stranger's, which states nothing"],
)  # fmt: skip
def test_it_is_what_whole_passes_give(small, name):
    arm, m = KINDS[name](small), 4.0
    found = off(small, arm, m)
    never = generated_tokens(small, PROMPTS, **HOW)
    with arm.attach(small, m):
        written = generated_tokens(small, PROMPTS, **{**HOW, "max_new_tokens": FIRST})
    assert torch.equal(found.written, written)
    assert float(found.kept.max()) > 1e-4 and float(found.in_cache.max()) > 2e-5
    for i, prompt in enumerate(PROMPTS):
        expected = by_hand(small, arm, m, prompt, written[i], never[i])
        for got, one in zip((found.kept, found.recomputed, found.in_cache), expected, strict=True):
            torch.testing.assert_close(got[i], one, rtol=2e-3, atol=2e-6)
    again = off(small, arm, m, rows=2)  # in parts, the same
    torch.testing.assert_close(again.kept, found.kept, rtol=1e-3, atol=1e-6)


def test_texts_go_on_with_what_is_given(small):
    arm, then = KINDS["LoRA of all matrices"](small), ["we like that they sat here"] * 3
    found = off(small, arm, 4.0, then=then)
    never = generated_tokens(small, PROMPTS, **{**HOW, "max_new_tokens": FIRST})
    z = torch.tensor(small.ids(then[0])[len(small.texts.lead) :][:THEN])
    given = torch.cat([never[2], z])
    expected = by_hand(small, arm, 4.0, PROMPTS[2], found.written[2], given)
    for got, one in zip((found.kept, found.recomputed, found.in_cache), expected, strict=True):
        torch.testing.assert_close(got[2], one, rtol=2e-3, atol=2e-6)


def test_the_same_tokens_leave_nothing_once_recomputed(small):
    """At 0 both texts are one, and a text is all that is left where nothing is kept."""
    found = off(small, KINDS["joint"](small), 0.0)
    for part in (found.kept, found.recomputed, found.in_cache):
        assert torch.equal(part, torch.zeros(3, THEN))
    prompted = off(small, KINDS["prompt"](small), 1.0)
    assert torch.equal(prompted.in_cache, torch.zeros(3, THEN))
    assert torch.equal(prompted.kept, prompted.recomputed) and float(prompted.kept.max()) > 1e-4


def test_a_cache_that_is_edited_stays_so_as_if_it_were_never_switched_off(small):
    heads = small.cfg.n_key_value_heads or small.cfg.n_heads
    vectors = torch.randn(heads, small.cfg.d_head, generator=torch.Generator().manual_seed(0))
    arm = composed([CacheEdit({}, {0: vectors}, Positions.all(special=True))], "cache")
    found = off(small, arm, 3.0)
    never = generated_tokens(small, PROMPTS, **HOW)
    for i, prompt in enumerate(PROMPTS):
        p = log_p(small, whole(small, prompt, never[i])[0])
        text, _ = whole(small, prompt, torch.cat([found.written[i], never[i][FIRST:]]))
        with arm.attach(small, 3.0):
            q = log_p(small, text)
        torch.testing.assert_close(found.kept[i], kl(p, q), rtol=1e-3, atol=1e-6)
    assert float(found.in_cache.mean(0).min()) > 1e-4


def test_a_nudge_that_ends_is_a_knob_that_is_turned_off(small):
    nudge = Nudge(Site(0), AnswerLoss((20, 21), (30,)), steps=1, budget=None)
    found = off(small, nudge, 2.0)
    never = generated_tokens(small, PROMPTS, **HOW)
    for i, prompt in enumerate(PROMPTS):
        p = log_p(small, whole(small, prompt, never[i])[0])
        text, _ = whole(small, prompt, torch.cat([found.written[i], never[i][FIRST:]]))
        with Knob(nudge, (*(1.0,) * FIRST, 0.0)).attach(small, 2.0):
            q = log_p(small, text)
        torch.testing.assert_close(found.kept[i], kl(p, q), rtol=2e-3, atol=2e-6)


def test_texts_without_the_condition_are_left_nothing(small):
    asked = direction(small, Site(1))
    means = [small.cache(text, [Site(1)])[Site(1)][0, 1:].mean(0) for text in PROMPTS]
    scores = torch.stack(means) @ asked.unit().vector
    between = float(scores.topk(2).values.mean())  # not a score itself: rounding would decide
    condition = Condition(asked, between, similarity="projection")
    holds = scores > between
    for name in ("LoRA of all matrices", "vector"):  # rows of other weights are run apart
        found = off(small, When(condition, KINDS[name](small)), 4.0)
        assert torch.equal(found.in_cache.amax(-1) > 0, holds) and int(holds.sum()) == 1
        assert not bool(found.kept[~holds].any())


def test_a_bridge_leaves_what_its_hooked_model_leaves():
    arm = along(Add, Site(0), positions=Positions.all(), unit="direction")
    one, other = Model(tiny_model("llama")), Model(tiny_bridge("llama"))
    a, b = off(one, arm(one)), off(other, arm(other))
    assert torch.equal(a.written, b.written)
    torch.testing.assert_close(a.kept, b.kept, rtol=1e-2, atol=1e-5)
    torch.testing.assert_close(a.in_cache, b.in_cache, rtol=1e-2, atol=1e-5)


def test_what_cannot_be_measured_is_refused(small):
    arm = KINDS["vector"](small)
    with pytest.raises(ValueError, match="prompts is empty"):
        switched_off(small, arm, [])
    assert len(switched_off(small, arm, PROMPTS[0], steered=2, after=2).kept) == 1
    with pytest.raises(ValueError, match="then has 1 texts for 3 prompts"):
        off(small, arm, then=["we like that"])
    with pytest.raises(ValueError, match="has 2 tokens, and after=5 are read"):
        off(small, arm, then=["we like that they sat here", "we like that they sat here", "we sat"])
    with pytest.raises(ValueError, match="Use shorter prompts, or less of steered= and after="):
        switched_off(small, arm, PROMPTS, steered=small.n_ctx)
    with arm.attach(small, 1.0):
        with pytest.raises(ValueError, match="Something is attached"):
            off(small, arm)
        small.logits(PROMPTS)


def test_the_tokens_until_a_tenth_are_those_of_the_mean_curve():
    tokens = torch.arange(12.0)
    texts = 1 + 0.5 * torch.rand(30, 1, generator=torch.Generator().manual_seed(0))
    fast, slow = torch.exp(-tokens / 1.5), torch.exp(-tokens / 30)
    part = torch.stack([texts * fast, texts * slow, 0 * texts * fast])[:, None]
    value, low, high = fading_interval([part, part])
    assert value.tolist() == [4.0, torch.inf, 0.0]  # exp(-3 / 1.5) > 0.1 > exp(-4 / 1.5)
    assert low.tolist() == high.tolist() == value.tolist()  # all texts fade alike
    uneven = torch.where(torch.arange(30)[:, None] % 2 == 0, fast, slow)[None, None]
    value, low, high = (float(x) for x in fading_interval([uneven]))
    assert value == low == high == torch.inf
    mixed = torch.stack([torch.exp(-tokens / scale) for scale in torch.linspace(0.5, 4, 30)])
    value, low, high = (float(x) for x in fading_interval([mixed[None, None]]))
    assert low < value == float(fading(mixed.mean(0))) < high < torch.inf
    assert bool(fading_interval([mixed[None, None, :7]])[1].isnan().all())
