"""RePS, BiPO, SPLIT, SimPO, LoReFT and ReFT-r1 have the numbers of their authors' own code.

`tests/authors/sources.json` says whose, of which commit and licence, and how they were run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from steerlens.forms import LoReFT, ReFTr1, VectorForm
from steerlens.forms.stream_edits import AddVector, TopLatents
from steerlens.models.model import Model
from steerlens.models.wrapped_state import differentiable
from steerlens.sites import Positions, Site
from steerlens.testing import tiny_model
from steerlens.training.objectives import LM, BiPO, RePS, SimPO, Split
from steerlens.training.scored_set import ScoredSet
from steerlens.training.steered_batch import SteeredBatch
from tests.test_training_gradients import PAIRS

FOLDER = Path(__file__).parent / "authors"
THEIRS = load_file(FOLDER / "numbers.safetensors")
STREAM, VECTOR = THEIRS["stream"], THEIRS["vector"]
SITE = Site(0)
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module")
def small():
    """The model that the authors' code was run on."""
    model = Model(tiny_model("llama", n_layers=2, d_model=16))
    ids, labels = THEIRS["ids"], THEIRS["labels"]
    for row, (k, side) in enumerate((k, s) for k in range(len(PAIRS)) for s in (0, 1)):
        pair = PAIRS.pairs[k]
        prompt, own = model.split(pair.prompt, (pair.positive, pair.negative)[side])
        assert ids[row].tolist()[: len(prompt + own)] == prompt + own
        assert labels[row][labels[row] != -100].tolist() == own
    real = ids[0] != 0  # the tiny models' padding
    with torch.no_grad():
        first = model.wrapped(ids[:1, real])[0]
    torch.testing.assert_close(first, THEIRS["unsteered"][real], **CLOSE)
    return model


def test_only_code_under_free_licences_was_run():
    sources = json.loads((FOLDER / "sources.json").read_text())["sources"]
    for source in sources.values():
        assert source["licence"].startswith(("MIT", "Apache-2.0"))
        assert len(source["commit"]) == 40 and source["code"] and source["paper"]
    starts = {name.split(".")[0] for name in THEIRS if "." in name}
    assert starts == {*sources, "reference"}


@dataclass(frozen=True, eq=False)
class Given(SteeredBatch):
    """A batch whose draws are given."""

    drawn: list[torch.Tensor] = field(default_factory=list)
    sign: float = 1.0

    def strengths(self):
        return self.drawn.pop(0)

    def signs(self):
        return torch.full((len(self.index),), self.sign)


def losses_and_gradients(model, form, params, objective, **draws):
    """Of all pairs in one batch, as the trainer takes them."""
    with differentiable(model.wrapped):
        params = {name: one.clone().requires_grad_() for name, one in params.items()}
        steers = form.intervention(model, params)
        null = form.null(model, params) if hasattr(form, "null") else None
        scored = ScoredSet(model, PAIRS, objective, [one for one in (steers, null) if one])
        assert scored.run.path == "cached"
        generator = torch.Generator().manual_seed(0)
        batch = Given(
            scored.run, torch.arange(len(PAIRS)), steers, null, lambda: scored.reference, None,
            (1.0,), generator, **draws,
        )  # fmt: skip
        losses = objective(batch)
        trained = [one for name, one in params.items() if name not in ("gate", "amount")]
        return losses.detach(), torch.autograd.grad(losses.mean(), trained)


def ones(value=1.0):
    return torch.full((len(PAIRS),), value)


# RePS


def test_a_vector_of_reps_steers_and_suppresses_as_theirs(small):
    form, params = VectorForm(SITE), {"vector": VECTOR}
    (steer,) = form.intervention(small, params).changes(small)
    (null,) = form.null(small, params).changes(small)
    steered = steer.edit(STREAM, torch.tensor([0.7, -1.3]))
    torch.testing.assert_close(steered, THEIRS["reps.steered"], **CLOSE)
    torch.testing.assert_close(null.edit(STREAM, 1.0), THEIRS["reps.nulled"], **CLOSE)


@pytest.mark.parametrize(("mode", "name"), [("steer", "steer"), ("suppress", "null")])
def test_the_loss_of_reps_and_its_gradient_are_theirs(small, mode, name):
    draws = [ones(1.0), ones(0.5)]
    losses, (gradient,) = losses_and_gradients(
        small, VectorForm(SITE), {"vector": VECTOR}, RePS(mode), drawn=draws
    )
    assert float(losses.max()) > 10  # β is at work
    torch.testing.assert_close(losses, THEIRS[f"reps.{name}.losses"], atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(gradient, THEIRS[f"reps.{name}.gradient"], atol=1e-5, rtol=1e-4)


def test_log_probabilities_without_an_intervention_are_theirs(small):
    with torch.no_grad():
        form = VectorForm(SITE).intervention(small, {"vector": VECTOR})
        found = ScoredSet(small, PAIRS, RePS(), [form]).reference
    torch.testing.assert_close(found.flatten(), THEIRS["reference.log_probs"], **CLOSE)


# BiPO


@pytest.mark.parametrize(("sign", "name"), [(1.0, "plus"), (-1.0, "minus")])
def test_the_loss_of_bipo_and_its_gradient_are_theirs(small, sign, name):
    form = VectorForm(SITE, Positions.all(special=True))
    losses, (gradient,) = losses_and_gradients(
        small, form, {"vector": VECTOR}, BiPO(beta=0.3), drawn=[ones()], sign=sign
    )
    torch.testing.assert_close(losses, THEIRS[f"bipo.{name}.losses"], **CLOSE)
    torch.testing.assert_close(gradient, THEIRS[f"bipo.{name}.gradient"], atol=1e-6, rtol=1e-4)


# SPLIT and SimPO


def test_the_loss_of_split_and_its_gradient_are_theirs(small):
    losses, (gradient,) = losses_and_gradients(
        small, VectorForm(SITE), {"vector": VECTOR}, Split(), drawn=[ones(0.7), ones(0.7)]
    )
    torch.testing.assert_close(losses.mean(), THEIRS["split.loss"], **CLOSE)
    torch.testing.assert_close(gradient, THEIRS["split.gradient"], atol=1e-5, rtol=1e-4)


def test_the_loss_of_simpo_and_its_gradient_are_theirs(small):
    losses, (gradient,) = losses_and_gradients(
        small, VectorForm(SITE), {"vector": VECTOR}, SimPO(), drawn=[ones()]
    )
    torch.testing.assert_close(losses, THEIRS["simpo.losses"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(gradient, THEIRS["simpo.gradient"], atol=1e-5, rtol=1e-4)


# LoReFT


def loreft():
    return {name: THEIRS[f"loreft.{name}"] for name in ("basis", "read", "offset")}


def test_loreft_edits_as_theirs(small):
    edit = LoReFT(SITE, rank=2).intervention(small, loreft())
    torch.testing.assert_close(edit(STREAM, 1.0), THEIRS["loreft.edited"], **CLOSE)


def test_the_loss_under_loreft_and_its_gradients_are_theirs(small):
    losses, gradients = losses_and_gradients(
        small, LoReFT(SITE, rank=2), loreft(), LM(), drawn=[ones()]
    )
    torch.testing.assert_close(losses.mean(), THEIRS["loreft.loss"], **CLOSE)
    for name, gradient in zip(("basis", "read", "offset"), gradients, strict=True):
        wanted = THEIRS[f"loreft.gradient.{name}"]
        torch.testing.assert_close(gradient, wanted, atol=1e-6, rtol=1e-4)


# ReFT-r1


def test_reft_r1_edits_and_detects_as_theirs():
    w, one = THEIRS["reft_r1.w"], torch.tensor(1.0)
    edit = TopLatents(w, one, torch.tensor(0.0), top_k=3)
    torch.testing.assert_close(edit(STREAM, 1.0), THEIRS["reft_r1.edited"], **CLOSE)
    torch.testing.assert_close(torch.relu(STREAM @ w), THEIRS["reft_r1.latents"], **CLOSE)
    added = AddVector(2.5 * w)(STREAM, torch.tensor([0.8, -0.4]))
    torch.testing.assert_close(added, THEIRS["reft_r1.added"], **CLOSE)


def test_the_loss_under_reft_r1_and_its_gradient_are_theirs(small):
    """In a padded batch; their numbers are of each text by itself."""
    params = {"w": THEIRS["reft_r1.w"], "gate": torch.tensor(1.0), "amount": torch.tensor(0.0)}
    losses, (gradient,) = losses_and_gradients(
        small, ReFTr1(SITE, top_k=3), params, LM(), drawn=[ones()]
    )
    torch.testing.assert_close(losses.mean(), THEIRS["reft_r1.loss"], **CLOSE)
    torch.testing.assert_close(gradient, THEIRS["reft_r1.gradient"], atol=1e-6, rtol=1e-4)
