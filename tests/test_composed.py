"""Interventions that state their changes: attached exactly, whatever they change."""

import pytest
import torch

from steerlens.interventions.changes import (
    Composed,
    Dense,
    LowRank,
    PromptChange,
    WeightChange,
)  # fmt: skip
from steerlens.interventions.composition import composed
from steerlens.models.model import Model
from steerlens.protocols import Fitted, ResidualEdit, Stated
from steerlens.testing import TEXTS, tiny_model

FAMILIES = ("gpt2", "llama", "gemma2")
PROMPTS = [prompt for prompt, _ in TEXTS]


@pytest.fixture(scope="module", params=FAMILIES)
def small(request):
    return Model(tiny_model(request.param, n_layers=2, d_model=16))


def noise(*shape, seed=0, std=0.3):
    return std * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def weight_changes(model):
    """A change of every kind of matrix in the last block, and of the unembedding."""
    heads, d, d_head = model.wrapped.blocks[1].attn.W_Q.shape
    shapes = {name: tuple(p.shape) for name, p in model.wrapped.named_parameters()}
    return {
        "dense": WeightChange(
            "blocks.1.mlp.W_out", Dense(noise(*shapes["blocks.1.mlp.W_out"], std=0.1))
        ),
        "low-rank query": WeightChange(
            "blocks.1.attn.W_Q", LowRank(noise(d, 2), noise(heads, 2, d_head))
        ),
        "low-rank output": WeightChange(
            "blocks.1.attn.W_O", LowRank(noise(heads, d_head, 2), noise(2, d))
        ),
        "unembedding": WeightChange("unembed.W_U", Dense(noise(*shapes["unembed.W_U"]))),
        "embedding": WeightChange("embed.W_E", Dense(noise(*shapes["embed.W_E"]))),
    }


def test_changes_of_weights_say_what_they_are(small):
    intervention = composed([weight_changes(small)["dense"]], "dense")
    assert isinstance(intervention, Composed) and isinstance(intervention, Stated)
    assert isinstance(intervention, Fitted) and not isinstance(intervention, ResidualEdit)


def test_a_prompt_is_the_text_with_it(small):
    tokens = torch.tensor(small.tokenizer("good cat ran", add_special_tokens=False)["input_ids"])
    with small.prompted(tokens, 1.0):
        found = small.logits(PROMPTS[0])
    written = small.logits("good cat ran " + PROMPTS[0])
    assert torch.equal(found[:, 1:], written[:, 1 + len(tokens) :])
    assert small.attached.prompts == []


def test_the_very_same_parameters_are_put_back(small):
    before = dict(small.wrapped.named_parameters())
    places = {name: weight.data_ptr() for name, weight in before.items()}
    versions = {name: weight._version for name, weight in before.items()}
    change = composed(list(weight_changes(small).values()), "all")
    with pytest.raises(KeyboardInterrupt), change.attach(small, 1.0):
        assert all(
            now is not before[name]
            for name, now in small.wrapped.named_parameters()
            if name in {c.name for c in change.changes(small)}
        )
        raise KeyboardInterrupt
    after = dict(small.wrapped.named_parameters())
    assert all(after[name] is before[name] for name in before)
    assert {name: weight.data_ptr() for name, weight in after.items()} == places
    assert {name: weight._version for name, weight in after.items()} == versions


def test_gradients_flow_into_changes(small):
    a, b = noise(16, 2).requires_grad_(), noise(4, 2, 4, seed=1).requires_grad_()
    change = composed([WeightChange("blocks.0.attn.W_Q", LowRank(a, b))], "trained")
    with change.attach(small, 1.0):
        small.states(small.tokens(PROMPTS)).square().sum().backward()
    assert a.grad is not None and b.grad is not None
    assert float(a.grad.abs().max()) > 0 < float(b.grad.abs().max())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (WeightChange("blocks.0.mlp.W_up", Dense(torch.ones(2, 2))), r"nearest .* blocks.0.mlp.W_"),
        (WeightChange("blocks.0.mlp.W_out", Dense(torch.ones(2, 2))), "was made for another"),
        (WeightChange("blocks.9.mlp.W_out", Dense(torch.ones(2, 2))), "has none of that name"),
        (PromptChange(torch.tensor([10_000])), "has token 10000"),
        (PromptChange(torch.tensor([1]), torch.ones(1, 3)), "a prefix of width 3"),
    ],
)
def test_what_does_not_fit_is_refused(gpt2, change, text):
    with pytest.raises(ValueError, match=text):
        composed([change], "mine").attach(gpt2, 1.0)


def test_rank_0_is_refused():
    with pytest.raises(ValueError, match="rank 1 or more"):
        LowRank(torch.ones(4, 0), torch.ones(0, 4))


def test_rows_of_several_multipliers_are_refused_for_weights(small):
    change = composed([weight_changes(small)["dense"]], "dense")
    with pytest.raises(TypeError, match="takes one multiplier and not 2"):
        change.attach(small, torch.tensor([0.0, 1.0])).__enter__()
