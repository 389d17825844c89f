"""Texts that are written on after steering ends: what is kept, what is recomputed, and the draws."""

import pytest
import torch

from steerlens.arguments import ArgumentError
from steerlens.interventions import Knob
from steerlens.measures.generation import generated_tokens
from steerlens.measures.written_on import written_on
from steerlens.models.model import Model, SteeringError
from steerlens.testing import tiny_bridge, tiny_model
from tests.kinds import KINDS

PROMPTS = ["the cat sat on the bed and ran", "you", "I think the good soup was"]
FIRST, THEN = 4, 6


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def small(request):
    return Model(tiny_model(request.param, n_layers=3))


def write(model, new, **how):
    options = {"temperature": 1.0, "seed": 5, "stop_at_eos": False, "draws": [3, 1, 3], **how}
    return generated_tokens(model, PROMPTS, max_new_tokens=new, **options)


def go_on(model, written, **how):
    options = {"temperature": 1.0, "seed": 5, "stop_at_eos": False, "draws": [3, 1, 3], **how}
    return written_on(model, PROMPTS, written, max_new_tokens=THEN, **options)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_the_model_wrote_by_itself_it_writes_on_in_the_same_way(small, temperature):
    whole = write(small, FIRST + THEN, temperature=temperature)
    again = go_on(small, whole[:, :FIRST], temperature=temperature)
    assert torch.equal(again, whole[:, FIRST:])
    arm = KINDS["vector"](small)
    kept = go_on(small, whole[:, :FIRST], temperature=temperature, kept=(arm, 0.0))
    assert torch.equal(kept, again)


@pytest.mark.parametrize("name", ["vector", "vector inside a block"])
def test_a_kept_cache_is_a_knob_that_is_turned_off(small, name):
    arm, m = KINDS[name](small), 10.0
    with arm.attach(small, m):
        written = write(small, FIRST, temperature=0.5)
    with Knob(arm, (*(1.0,) * FIRST, 0.0)).attach(small, m):
        whole = write(small, FIRST + THEN, temperature=0.5)
    assert torch.equal(whole[:, :FIRST], written)
    kept = go_on(small, written, kept=(arm, m), temperature=0.5)
    assert torch.equal(kept, whole[:, FIRST:])
    # With the same draws, what is left in the cache decides some tokens.
    assert not torch.equal(kept, go_on(small, written, temperature=0.5))


def test_a_recomputed_cache_is_that_of_the_text(small):
    """At temperature 0 it is what the model writes after the same tokens as a prompt."""
    with KINDS["vector"](small).attach(small, 4.0):
        written = write(small, FIRST)
    found = go_on(small, written, temperature=0.0)
    for prompt, first, new in zip(PROMPTS, written, found, strict=True):
        tokens = [*small.ids(prompt), *first.tolist()]
        for token in new.tolist():
            logits = small.wrapped(torch.tensor([tokens]))[0, -1]
            assert int(logits.argmax()) == token
            tokens.append(token)


@pytest.mark.parametrize("name", ["LoRA of all matrices", "joint"])
def test_changed_weights_stay_in_a_kept_cache(small, name):
    arm = KINDS[name](small)
    with arm.attach(small, 30.0):
        written = write(small, FIRST)
    kept, new = go_on(small, written, kept=(arm, 30.0)), go_on(small, written)
    assert kept.shape == new.shape == (3, THEN) and not torch.equal(kept, new)
    assert torch.equal(go_on(small, written, kept=(arm, 0.0)), new)


def test_a_bridge_writes_on_as_its_hooked_model():
    one, other = Model(tiny_model("llama")), Model(tiny_bridge("llama"))
    arm = KINDS["vector"](one)
    with arm.attach(one, 3.0):
        written = write(one, FIRST)
    for kept in (None, (arm, 3.0)):
        assert torch.equal(go_on(one, written, kept=kept), go_on(other, written, kept=kept))


def test_a_text_ends_where_the_model_ends_it(small, monkeypatch):
    whole = write(small, FIRST + THEN)
    end = int(whole[0, FIRST + 2])
    monkeypatch.setattr(Model, "is_end", lambda self, tokens: tokens == end)
    written = torch.where(whole == end, 20, whole)[:, :FIRST]
    found = go_on(small, written, stop_at_eos=True)
    free = go_on(small, written)
    for row, other in zip(found.tolist(), free.tolist(), strict=True):
        stop = other.index(end) + 1 if end in other else THEN
        assert row[:stop] == other[:stop][: len(row)]
        assert set(row[stop:]) <= {small.tokenizer.pad_token_id}
    assert end in free.flatten().tolist()


def test_what_cannot_be_written_on_is_refused(small):
    written = write(small, FIRST)
    with pytest.raises(ArgumentError, match="give at least one prompt"):
        written_on(small, [], written[:0])
    with pytest.raises(ArgumentError, match="give at least one prompt"):
        go_on(small, written[:, :0])
    with pytest.raises(ArgumentError, match="ends within its written tokens"):
        go_on(small, torch.where(torch.arange(FIRST) == 3, -1, written))
    with pytest.raises(ValueError, match="Use shorter prompts"):
        written_on(small, PROMPTS, written, max_new_tokens=small.n_ctx)
    with pytest.raises(ValueError, match="negative"):
        go_on(small, written, temperature=-1.0)
    arm = KINDS["vector"](small)
    with arm.attach(small, 1.0):
        with pytest.raises(SteeringError, match="Steering is attached"):
            go_on(small, written)
        small.logits(PROMPTS)
