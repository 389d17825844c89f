"""Deltas of checkpoints, baked vectors and their audit, prompts."""

import copy
from dataclasses import replace

import pytest
import torch

from steerlens.directions import Direction
from steerlens.forms import LoRA
from steerlens.interventions import Add, Prompt, Together, audit, baked, merged, weight_delta
from steerlens.measures.generation import generate
from steerlens.measures.sweep import sweep
from steerlens.models.model import Model
from steerlens.sites import Positions, Site
from steerlens.testing import TEXTS, check_intervention, tiny_bridge, tiny_model
from tests.grids import SEVERAL_TOKENS
from tests.kinds import moved
from tests.test_forms import FAMILIES

PROMPTS = [prompt for prompt, _ in TEXTS]
EVERYWHERE = Positions.all(special=True)


@pytest.fixture(scope="module", params=FAMILIES)
def small(request):
    return Model(tiny_model(request.param, n_layers=2, d_model=16))


@pytest.fixture(scope="module")
def small_gpt2():
    return Model(tiny_model("gpt2", n_layers=2, d_model=16))


def tuned(model, std=0.1):
    """A copy whose weights in block 1 are others."""
    wrapped = copy.deepcopy(model.wrapped)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if name.startswith("blocks.1.") and "ln" not in name:
                weight.add_(std * torch.randn(weight.shape, generator=generator))
    return Model(wrapped, "tuned")


def random_add(site, seed=0, unit="direction", width=16):
    vector = torch.randn(width, generator=torch.Generator().manual_seed(seed))
    return Add(Direction(vector, site, resid_norm=3.0), EVERYWHERE, unit)


def test_the_delta_of_two_checkpoints_makes_one_of_the_other(small):
    other = tuned(small)
    delta = weight_delta(small, other)
    assert delta.first_block == 1
    with delta.attach(small, 1.0):
        torch.testing.assert_close(
            small.logits(PROMPTS), other.logits(PROMPTS), atol=1e-5, rtol=1e-4
        )
    half = merged(small, delta, 0.5)
    with delta.attach(small, 0.5):
        torch.testing.assert_close(small.logits(PROMPTS), half.logits(PROMPTS))


def test_deltas_add_up(small_gpt2):
    one, two = weight_delta(small_gpt2, tuned(small_gpt2)), LoRA(2, layers=(0,))
    lora = two.intervention(small_gpt2, moved(two, small_gpt2))
    both = Together((one, lora), (1.0, -0.5))
    in_turn = merged(merged(small_gpt2, one, 1.0), lora, -0.5)
    with both.attach(small_gpt2, 1.0):
        torch.testing.assert_close(small_gpt2.logits(PROMPTS), in_turn.logits(PROMPTS))


def test_a_delta_of_low_rank_is_the_nearest_one(small):
    form = LoRA(2, ("q", "v", "o", "in", "down"))
    lora = form.intervention(small, moved(form, small))
    found = weight_delta(small, merged(small, lora), rank=2)
    assert {change.delta.rank for change in found.changes(small)} == {2}
    with lora.attach(small, 1.0):
        expected = small.logits(PROMPTS)
    with found.attach(small, 1.0):
        torch.testing.assert_close(small.logits(PROMPTS), expected, atol=1e-4, rtol=1e-4)


def test_checkpoints_that_do_not_compare_are_refused(small_gpt2, gpt2):
    with pytest.raises(ValueError, match="the same weights"):
        weight_delta(small_gpt2, Model(copy.deepcopy(small_gpt2.wrapped)))
    with pytest.raises(ValueError, match="the same weights in parameters that match"):
        weight_delta(small_gpt2, tuned(small_gpt2), only="embed")
    with pytest.raises(ValueError, match="different architectures"):
        weight_delta(small_gpt2, gpt2)
    folded = copy.deepcopy(small_gpt2.wrapped)
    folded.process_weights_(fold_ln=False, center_writing_weights=True, center_unembed=False)
    with pytest.raises(ValueError, match="center_writing_weights"):
        weight_delta(small_gpt2, Model(folded))
    with pytest.raises(ValueError, match="changes nothing"):
        weight_delta(small_gpt2, small_gpt2, rank=0)
    with pytest.raises(ValueError, match="not a regular expression"):
        weight_delta(small_gpt2, tuned(small_gpt2), only="(")


def test_a_multiplier_of_a_merge_is_a_number(small_gpt2, unchecked):
    delta = weight_delta(small_gpt2, tuned(small_gpt2))
    for wrong in ("1", float("nan")):
        with pytest.raises((TypeError, ValueError), match="multiplier="):
            merged(small_gpt2, delta, wrong)


SITES = (Site(0), Site(1), Site(1, "resid_pre"), Site(0, "resid_pre"), Site(1, "attn_out"),
         Site(0, "mlp_out"), Site(1, "resid_mid"))  # fmt: skip


@pytest.mark.parametrize("family", ["gpt2", "llama", "neox"])
@pytest.mark.parametrize("site", SITES, ids=str)
def test_a_baked_vector_is_the_vector_and_is_found_again(family, site):
    if family == "neox" and site.stream == "resid_mid":
        return  # with attention beside the MLP there is no such stream
    model = Model(tiny_model(family, n_layers=2, d_model=32))
    add = random_add(site, unit="resid_norm", width=32)
    intervention, real = baked(model, add), model.tokens(PROMPTS).mask
    for m in (0.37, -1.5):
        other = merged(model, intervention, m)
        with add.attach(model, m):
            expected = model.logits(PROMPTS)[real]
        with intervention.attach(model, m):
            found = model.logits(PROMPTS)[real]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(other.logits(PROMPTS)[real], found)
        found = audit(model, other)
        assert len(found.changed) == 1
        assert found.strength_of(add).strength == pytest.approx(m, abs=5e-4)
        assert abs(found.strength_of(add).cosine) == pytest.approx(1, abs=1e-5)
        (vector,) = found.directions().values()
        assert vector.norm == pytest.approx(abs(m) * 3.0, rel=1e-4)


def test_a_baked_vector_is_found_among_other_changes(small_gpt2):
    add = random_add(Site(1))
    other = tuned(small_gpt2, std=0.01)
    with torch.no_grad():
        other.wrapped.blocks[0].mlp.b_out += 0.25 * random_add(Site(0)).step
    found = audit(small_gpt2, other)
    assert found.strength_of(random_add(Site(0))).strength == pytest.approx(0.25, abs=5e-4)
    assert abs(found.strength_of(add).strength) < 0.05
    assert found.strength_of(random_add(Site(0, "attn_out"))).strength == 0
    text = found.summary()
    assert "parameters of tiny-gpt2 differ in tuned" in text and "added at L0 resid_post" in text


def test_the_audit_sees_the_rank_of_a_change(small_gpt2):
    form = LoRA(2, ("q", "o", "down"), layers=(1,))
    lora = form.intervention(small_gpt2, moved(form, small_gpt2, std=0.3))
    ranks = {one.name: one.rank for one in audit(small_gpt2, merged(small_gpt2, lora)).changed}
    assert ranks["blocks.1.mlp.W_out"] <= 2 and ranks["blocks.1.attn.W_O"] <= 2


def test_what_cannot_be_baked_is_refused(small_gpt2):
    add = random_add(Site(0))
    with pytest.raises(ValueError, match="BOS included"):
        baked(small_gpt2, replace(add, positions=Positions.all()))
    gemma = Model(tiny_model("gemma2", n_layers=2, d_model=16))
    with pytest.raises(ValueError, match="normed before it is added"):
        baked(gemma, add)
    baked(gemma, random_add(Site(0, "resid_pre")))  # the embedding is not normed
    with pytest.raises(ValueError, match="TransformerBridge"):
        baked(Model(tiny_bridge("gpt2", n_layers=2, d_model=16)), add)
    with pytest.raises(ValueError, match="does not change weights alone"):
        merged(small_gpt2, add)


def test_a_prompt_on_a_bridge_keeps_the_contract():
    check_intervention(
        Prompt("good cat ran ."), Model(tiny_bridge("llama", n_layers=2, d_model=16))
    )


def test_a_prompt_at_1_is_the_text_after_it(small):
    prompt = Prompt("good cat ran .")
    texts = [f"{prompt.text} {text}" for text in PROMPTS]
    with prompt.attach(small, 1.0):
        written = generate(small, PROMPTS, max_new_tokens=5)
    assert written == generate(small, texts, max_new_tokens=5)
    swept = sweep(small, SEVERAL_TOKENS, [prompt], (1.0,), progress=False)
    prompted = [replace(p, prompt=f"{prompt.text} {p.prompt}") for p in SEVERAL_TOKENS]
    plain = sweep(small, prompted, [Prompt("A")], (0.0,), progress=False)
    torch.testing.assert_close(swept.positive[0], plain.positive[0], atol=1e-4, rtol=1e-4)


def test_the_dial_mixes_log_probabilities(small_gpt2):
    prompt = Prompt("good cat ran .")
    logits = {}
    for m in (0.0, 0.5, 1.0, 2.0):
        with prompt.attach(small_gpt2, m):
            logits[m] = small_gpt2.logits(PROMPTS[0])
    step = logits[1.0] - logits[0.0]
    torch.testing.assert_close(logits[0.5], logits[0.0] + 0.5 * step, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits[2.0], logits[0.0] + 2 * step, atol=1e-5, rtol=1e-5)


def test_two_prompts_stand_one_after_the_other(small):
    first, second = Prompt("the dog slept ."), Prompt("good cat ran .")
    with first.attach(small, 1.0), second.attach(small, 1.0):
        both = small.logits(PROMPTS[0])
        written = generate(small, PROMPTS[0], max_new_tokens=4)
    text = f"{second.text} {first.text} {PROMPTS[0]}"
    expected = small.logits(text)[:, -both.shape[1] + 1 :]
    torch.testing.assert_close(both[:, 1:], expected, atol=1e-5, rtol=1e-5)
    assert written == generate(small, text, max_new_tokens=4)


def test_a_text_of_bos_alone_is_continued_after_the_prompt(small_gpt2):
    prompt = Prompt("good cat ran .")
    bos = small_gpt2.tokenizer.bos_token
    with prompt.attach(small_gpt2, 1.0):
        written = generate(small_gpt2, bos, max_new_tokens=4)
        next_token = small_gpt2.logits(bos)[0, -1]
    assert written.strip() == generate(small_gpt2, prompt.text, max_new_tokens=4).strip()
    torch.testing.assert_close(next_token, small_gpt2.logits(prompt.text)[0, -1])


def test_prompts_that_cannot_be_are_refused(small_gpt2):
    with pytest.raises(ValueError, match="is no text to put in front"):
        Prompt("")
    with pytest.raises(ValueError, match="no examples"):
        Prompt.few_shot([])
    long = Prompt("cat " * 100)
    with pytest.raises(ValueError, match="there is no room for text"):
        sweep(small_gpt2, SEVERAL_TOKENS, [long], (1.0,), progress=False)
    with pytest.raises(ValueError, match="longest"), Prompt("cat " * 50).attach(small_gpt2, 1.0):
        generate(small_gpt2, "cat " * 10, max_new_tokens=10)
    with pytest.raises(ValueError, match="shorter"), Prompt("cat " * 60).attach(small_gpt2, 1.0):
        small_gpt2.logits("cat " * 10)
