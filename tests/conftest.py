"""Shared models and data. `steerlens` is imported inside fixtures: after the checker's hook."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch

from tests import annotations

SHARED = Path(__file__).parents[2] / "shared"


def pytest_addoption(parser):
    parser.addoption(
        "--all-notebooks",
        action="store_true",
        help="also long ones, those that load the pretrained model, and the code of the pages",
    )


def pytest_collection_finish():
    """What is imported by now stays: looking through it for garbage takes a twentieth of the time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Two workers share two cores; small models gain nothing from more threads."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def first_calls():
    """In each test the first calls of every function are checked, whatever ran before."""
    annotations.begin_test()


@pytest.fixture
def unchecked():
    """Leaves the annotations unchecked, as outside the tests, so that a wrong type comes through."""
    from jaxtyping import config

    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session", params=["gpt2", "neox", "llama", "gemma2"])
def tiny(request):
    """A Model of each family in which steering code breaks in a way of its own."""
    from steerlens.models.model import Model
    from steerlens.testing import tiny_model

    return Model(tiny_model(request.param))


@pytest.fixture(scope="session", params=["gpt2", "llama"])
def tiny_bridge_model(request):
    """The same as a TransformerBridge."""
    from steerlens.models.model import Model
    from steerlens.testing import tiny_bridge

    return Model(tiny_bridge(request.param))


@pytest.fixture(scope="session")
def gpt2():
    """One small LayerNorm model, for tests that need no more."""
    from steerlens.models.model import Model
    from steerlens.testing import tiny_model

    return Model(tiny_model("gpt2"))


@pytest.fixture(scope="session")
def planted():
    """A model in which one direction steers, written by block 1 and read by block 3."""
    from steerlens.testbed.planted import planted_model

    return planted_model(1, 3)


@pytest.fixture(scope="session")
def planted_data(planted):
    """Contexts and questions of the planted model, in parts that share no opening."""
    from steerlens.data import ContrastPair, ContrastSet
    from steerlens.testbed.planted import planted_pairs

    def made(kind: str, n: int, seed: int) -> ContrastSet:
        rows = planted_pairs(planted, n, kind=kind, seed=seed)
        return ContrastSet(f"planted {kind}", tuple(ContrastPair(*row) for row in rows))

    fit, choose, report = made("questions", 60, 1).split(0, (0.4, 0.3, 0.3))
    contexts = made("contexts", 60, 0)
    inside = tuple(pair for pair in contexts if pair.group in fit.groups)
    return ContrastSet("planted contexts", inside), choose, report


@pytest.fixture
def random_direction():
    """Builds a seeded direction at a site."""
    from steerlens.directions import Direction

    def build(site, d_model: int, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        return Direction(torch.randn(d_model, generator=generator), site, resid_norm=2.0)

    return build
