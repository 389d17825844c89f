"""Every kind of intervention keeps the contract on LayerNorm, RMSNorm and Gemma-2-like models."""

import pytest
import torch

from steerlens.models.model import Model
from steerlens.testing import check_intervention, tiny_model
from tests.kinds import KINDS


@pytest.fixture(scope="module")
def models():
    """LayerNorm and learned positions; RMSNorm, rotary and grouped; norms on both sides and caps."""
    return [Model(tiny_model(f, n_layers=2, d_model=16)) for f in ("gpt2", "llama", "gemma2")]


@pytest.mark.parametrize("kind", KINDS)
def test_it_keeps_the_contract_on_every_model(models, kind):
    for model in models:
        check_intervention(KINDS[kind](model), model)


@pytest.mark.parametrize("kind", [name for name in KINDS if "stranger" not in name])
def test_a_tensor_without_dimensions_is_one_number(models, kind):
    """What iterating over torch.linspace gives."""
    model = models[1]
    edit, texts = (
        KINDS[kind](model),
        model.answered(["the cat sat on", "a dog"], [" the bed", " ran"]),
    )
    with edit.attach(model, 0.5):
        expected = model.logits(texts)
    with edit.attach(model, torch.tensor(0.5)):
        found = model.logits(texts)
    assert torch.equal(found, expected)
    assert not torch.equal(found, model.logits(texts))


def test_a_number_that_is_being_trained_is_no_strength_of_an_edit(models):
    edit, trained = KINDS["vector"](models[0]), torch.tensor(0.5, requires_grad=True)
    with pytest.raises(TypeError, match="Give one number"), edit.attach(models[0], trained):
        pass
