"""Every kind of intervention keeps the contract on LayerNorm, RMSNorm and Gemma-2-like models."""

import pytest

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
