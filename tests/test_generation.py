"""Cached = uncached = teacher-forced, steered or not, whatever path the model takes."""

from dataclasses import replace

import pytest
import torch

from steerlens.interventions import Ablate, Add, Together
from steerlens.measures import generation
from steerlens.measures.generation import generate, generated_tokens
from steerlens.models import kernel
from steerlens.models.kernel import Kernel
from steerlens.models.model import Model, SteeringError
from steerlens.models.stepping import Stepping
from steerlens.sites import Positions, Site
from steerlens.testing import tiny_bridge, tiny_model

PROMPTS = ["the cat sat on the bed and ran", "you", "I think the good soup was"]
NEW = 5
RULES = [
    Positions.all(),
    Positions.last(),
    Positions.from_prompt_end(),
    Positions.generated(),
    Positions.span(-2),
]


@pytest.fixture(scope="module", params=["gpt2", "neox", "llama", "gemma2"])
def bridge(request):
    """Every family as a TransformerBridge."""
    return Model(tiny_bridge(request.param))


@pytest.fixture
def steering(random_direction):
    """Edits of two streams that enter a block, or of one inside a block too."""

    def build(positions, inside=False):
        direction = random_direction(Site(1), 32)
        last = replace(direction, site=Site(2))
        edits = (Add(direction, positions), Ablate(last, positions))
        if inside:
            edits += (Add(replace(direction, site=Site(0, "attn_out")), positions),)
        return Together(edits)

    return build


@pytest.fixture
def written(monkeypatch):
    """Writes text and keeps the logits from which every token was chosen."""

    def write(model, prompts=PROMPTS, **options):
        kept = []

        def sample(logits, temperature, draws):
            kept.append(logits.clone())
            return logits.argmax(-1)

        with monkeypatch.context() as patched:
            patched.setattr(generation, "_sample", sample)
            tokens = generated_tokens(
                model, prompts, max_new_tokens=NEW, stop_at_eos=False, **options
            )
        return tokens, torch.stack(kept, 1)

    return write


def check_paths(model, intervention, written):
    """Cached, uncached and teacher-forced logits of the same tokens, with a strength per row."""
    strengths = torch.tensor([2.0, -1.0, 0.0])
    with intervention.attach(model, strengths):
        tokens, cached = written(model)
        again, uncached = written(model, use_cache=False)
        real = torch.ones_like(tokens, dtype=torch.bool)
        whole = model.tokens(PROMPTS).extended(tokens, model.is_special(tokens), real)
        forced = model.logits(whole)[:, -NEW - 1 : -1].float()
    assert torch.equal(tokens, again)
    torch.testing.assert_close(cached, forced, atol=5e-5, rtol=1e-5)
    torch.testing.assert_close(uncached, forced, atol=5e-5, rtol=1e-5)
    _, unsteered = written(model)
    changed = (cached - unsteered).abs().amax(-1)
    assert float(changed[0].max()) > 1e-2
    torch.testing.assert_close(cached[2], unsteered[2], atol=5e-5, rtol=1e-5)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_cached_is_uncached_is_teacher_forced_without_hooks(tiny, steering, written, rule):
    intervention = steering(rule)
    with intervention.attach(tiny, 1.0):
        assert isinstance(generation._stepper(tiny, True, 16), generation._KernelSteps)
        tiny.logits(tiny.answered(["the cat"], [" ran"]))
    check_paths(tiny, intervention, written)


def test_attention_of_one_token_in_parts(tiny, steering, written, monkeypatch):
    """As a GPU computes it, on which one call for every number of keys is slow."""
    single = []

    def fused(q):
        single.append(q.shape[-2] == 1)
        return not single[-1]

    monkeypatch.setattr(kernel, "_fused", fused)
    check_paths(tiny, steering(Positions.all()), written)
    assert tiny.cfg.attn_scores_soft_cap > 0 or sum(single) >= 2 * (NEW - 1) * tiny.n_layers


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_equal_prompts_are_read_once_up_to_the_first_edited_token(
    tiny, steering, written, monkeypatch, rule
):
    """Prompts of several strengths are equal; padding stands before the shorter ones."""
    prompts = [*PROMPTS, *PROMPTS[::-1], PROMPTS[0]]
    strengths = torch.tensor([2.0, -1.0, 0.0, 1.0, 0.5, -2.0, 0.0])
    read, prefix = [], Kernel.prefix

    def counted(kernel, batch, width):
        read.append((len(batch), width))
        return prefix(kernel, batch, width)

    monkeypatch.setattr(Kernel, "prefix", counted)
    with steering(rule).attach(tiny, strengths):
        tokens, shared = written(tiny, prompts)
        monkeypatch.setattr(Stepping, "_shared", lambda *_: 0)
        again, alone = written(tiny, prompts)
    assert torch.equal(tokens, again)
    torch.testing.assert_close(shared, alone, atol=2e-5, rtol=1e-5)
    batch = tiny.tokens(prompts, padding_side="left")
    chosen = rule.mask(batch).any(0)
    first = int(chosen.int().argmax()) if bool(chosen.any()) else batch.width
    width = min(first, batch.width - 1)
    different = {tuple(row) for row in batch.tokens[:, :width].tolist()}  # no prompt holds padding
    assert len(different) < len(prompts)
    assert read == [(len(different), width)] * (width > 0)


def test_prompts_of_one_steered_token_share_nothing(gpt2, steering, written):
    """There is no column before the first edited one."""
    with steering(Positions.last()).attach(gpt2, torch.tensor([1.0, -1.0])):
        assert gpt2.tokens(["", ""]).width == 1
        _, cached = written(gpt2, ["", ""])
        _, uncached = written(gpt2, ["", ""], use_cache=False)
    torch.testing.assert_close(cached, uncached, atol=5e-5, rtol=1e-5)


@pytest.mark.parametrize("rule", [RULES[0], RULES[3]], ids=repr)
def test_cached_is_uncached_is_teacher_forced_with_hooks(tiny, steering, written, rule):
    intervention = steering(rule, inside=True)
    with intervention.attach(tiny, 1.0):
        assert isinstance(generation._stepper(tiny, True, 16), generation._HookedSteps)
        tiny.logits(tiny.answered(["the cat"], [" ran"]))
    check_paths(tiny, intervention, written)


@pytest.mark.parametrize("rule", [RULES[0], RULES[3]], ids=repr)
def test_cached_is_uncached_is_teacher_forced_on_a_bridge(bridge, steering, written, rule):
    check_paths(bridge, steering(rule, inside=True), written)


def test_a_users_own_hook_acts_on_every_token(gpt2, written):
    unsteered, _ = written(gpt2)
    with gpt2.wrapped.hooks(fwd_hooks=[(Site(1).hook, lambda resid, hook: resid * -2)]):
        tokens, cached = written(gpt2)
        _, uncached = written(gpt2, use_cache=False)
    assert not torch.equal(tokens, unsteered)
    torch.testing.assert_close(cached, uncached, atol=5e-5, rtol=1e-5)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_rows_text_does_not_depend_on_the_batch(gpt2, temperature):
    options = {"max_new_tokens": 8, "temperature": temperature, "seed": 3}
    together = generate(gpt2, PROMPTS, **options)
    for i, prompt in enumerate(PROMPTS):
        assert generate(gpt2, [prompt], draws=[i], **options) == [together[i]]


def test_one_prompt_gives_one_text(gpt2):
    text = generate(gpt2, PROMPTS[0], max_new_tokens=3)
    assert [text] == generate(gpt2, PROMPTS[:1], max_new_tokens=3)
    assert len(text.split()) == 3


def test_seeds_decide_samples_and_nothing_else_does(gpt2):
    options = {"max_new_tokens": 8, "temperature": 1.0}
    first = generate(gpt2, PROMPTS, seed=0, **options)
    torch.manual_seed(5)
    assert generate(gpt2, PROMPTS, seed=0, **options) == first
    assert generate(gpt2, PROMPTS, seed=1, **options) != first


def test_samples_follow_the_softmax():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0]).expand(4000, -1)
    draws = generation._Draws.of(0, range(4000))
    for temperature in (0.5, 2.0):
        drawn = generation._sample(logits, temperature, draws).bincount(minlength=4) / 4000
        expected = (logits[0] / temperature).softmax(-1)
        torch.testing.assert_close(drawn, expected, atol=0.03, rtol=0)


def test_a_text_that_ended_stays_ended_and_disturbs_no_other():
    hooked = tiny_model("llama")
    model, eos = Model(hooked), hooked.tokenizer.eos_token_id
    hooked.unembed.b_U.data[eos] += 3.0
    options = {"max_new_tokens": 12, "temperature": 1.0, "seed": 1}
    tokens = generated_tokens(model, PROMPTS, **options)
    uncached = generated_tokens(model, PROMPTS, use_cache=False, **options)
    assert torch.equal(tokens, uncached)
    ended = (tokens == eos).any(-1)
    assert bool(ended.any())
    for i, row in enumerate(tokens):
        alone = generated_tokens(model, [PROMPTS[i]], draws=[i], **options)[0]
        assert torch.equal(row[: len(alone)], alone)
        if bool(ended[i]):
            after = int((row == eos).int().argmax()) + 1
            assert bool((row[after:] == hooked.tokenizer.pad_token_id).all())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0 is too small"),
        ({"max_new_tokens": 60}, "context of 'tiny-gpt2', 64. Use max_new_tokens=55 or"),
        ({"temperature": -1.0}, "temperature=-1.0 is negative"),
        ({"draws": [0]}, "1 draws for 3 prompts"),
    ],
)  # fmt: skip
def test_impossible_requests_are_refused(gpt2, options, text):
    with pytest.raises(ValueError, match=text):
        generate(gpt2, PROMPTS, **options)


def test_steering_of_generated_tokens_needs_a_second_token(gpt2, steering):
    with pytest.raises(SteeringError, match="chose no token of these texts"), \
            steering(Positions.generated()).attach(gpt2, 1.0):  # fmt: skip
        generate(gpt2, PROMPTS, max_new_tokens=1)


def test_too_few_multipliers_are_refused_on_every_path(gpt2, steering):
    for use_cache in (True, False):
        with pytest.raises(SteeringError, match="2 multipliers for a batch of 3 rows"), \
                steering(Positions.all()).attach(gpt2, torch.ones(2)):  # fmt: skip
            generate(gpt2, PROMPTS, use_cache=use_cache)
    assert len(gpt2.attached) == 0


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_texts_that_have_ended_leave_the_batch(tiny, steering, monkeypatch, temperature):
    """The same tokens as of texts that stay, with a strength and a random stream for each row."""
    prompts = [PROMPTS[k % 3] for k in range(24)]
    strengths = torch.linspace(-3, 3, 24)
    ends = torch.arange(5, 20)  # so many words end a text that most texts end early
    monkeypatch.setattr(Model, "is_end", lambda _, ids: torch.isin(ids, ends))
    rows, block = [], Kernel.block

    def counted(kernel, layer, resid, *args, **options):
        rows.append(len(resid))
        return block(kernel, layer, resid, *args, **options)

    def write():
        with steering(Positions.from_prompt_end()).attach(tiny, strengths):
            return generated_tokens(tiny, prompts, max_new_tokens=12, temperature=temperature)

    monkeypatch.setattr(Kernel, "block", counted)
    few = write()
    least = rows[-1]
    assert max(rows) == 24 > least
    monkeypatch.setattr(generation, "LEAVING", 2.0)
    rows.clear()
    assert torch.equal(write(), few)
    assert min(rows[-3:]) == 24 > least
    ended = torch.isin(few, ends).any(1)
    assert int(ended.sum()) > 0


def test_texts_whose_edits_hold_rows_stay_in_the_batch(gpt2, random_direction, monkeypatch):
    """Conditions, and edits with a vector for each row, are made for all rows of a batch."""
    from steerlens.analyses.features.feature_writing import AddRows
    from steerlens.interventions import When
    from steerlens.interventions.conditional import Condition

    prompts = [PROMPTS[k % 3] for k in range(24)]
    monkeypatch.setattr(Model, "is_end", lambda _, ids: torch.isin(ids, torch.arange(5, 20)))
    direction = random_direction(Site(1), 32)
    edit = When(Condition(direction, 0.0), Add(direction))
    rows = AddRows(torch.randn(24, 32, generator=torch.Generator().manual_seed(0)))

    def write(attached):
        with attached():
            assert not gpt2.attached.only_edits
            return generated_tokens(gpt2, prompts, max_new_tokens=12, temperature=1.5)

    for attached in (
        lambda: edit.attach(gpt2, 1.0),
        lambda: gpt2.hooked(Site(1), rows, Positions.from_prompt_end(), 1.0),
    ):
        found = write(attached)
        monkeypatch.setattr(generation, "LEAVING", 2.0)
        assert torch.equal(write(attached), found)
        monkeypatch.setattr(generation, "LEAVING", 0.25)
    assert int(torch.isin(found, torch.arange(5, 20)).any(1).sum()) > 6
    with Add(direction).attach(gpt2, 1.0):
        assert gpt2.attached.only_edits
        gpt2.logits(gpt2.tokens(PROMPTS))
