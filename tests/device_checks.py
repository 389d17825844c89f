"""What is computed of a small model, to be compared between devices: numbers by name."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from steerlens.analyses.steerability.measure_steerability import steerability
from steerlens.analyses.writing.measure_writing import writing
from steerlens.data import ContrastPair, ContrastSet
from steerlens.directions import Direction
from steerlens.forms import LoRA, VectorForm
from steerlens.interventions import Ablate, Add, Clamp, Prompt, Together
from steerlens.measures.direct_gain import direct_gain
from steerlens.measures.divergence import divergence
from steerlens.measures.generation import generated_tokens
from steerlens.measures.reading import activations, diffmean
from steerlens.measures.screen import screen
from steerlens.measures.sweep import sweep
from steerlens.models.model import Model
from steerlens.sites import Positions, Site
from steerlens.training import LM, Trainer
from tests.strangers import low_rank

MULTIPLIERS = (-1.0, 0.0, 1.0)
NOUNS = ("cat", "dog", "bird", "fish", "man", "woman", "child", "friend", "soup", "cake", "wine")
ONE_TOKEN = ContrastSet(
    "nice", tuple(ContrastPair(f"I think the {noun} is", " good", " bad") for noun in NOUNS)
)
FIT = ContrastSet(
    "fit", tuple(ContrastPair(f"we think the {noun} was", " good", " bad") for noun in NOUNS)
)
TWO_TOKENS = ContrastSet(
    "nicer",
    tuple(
        ContrastPair("we saw " * (i % 3) + f"the {noun} was", " very nice", " not nice today")
        for i, noun in enumerate(NOUNS[:5])
    ),
)
TEXTS = [f"the {noun} sat on the bed and we think it is" for noun in NOUNS[:8]]
PROMPTS = ["the cat", "a dog was here and", "they like tea"]

Numbers = dict[str, Tensor]
CHECKS: dict[str, Callable[[Model], Numbers]] = {}


def check(function: Callable[[Model], Numbers]) -> Callable[[Model], Numbers]:
    CHECKS[function.__name__] = function
    return function


def directions(model: Model) -> list[Direction]:
    """One random direction for each layer, as long as the stream's usual norm."""
    generator = torch.Generator().manual_seed(0)
    return [
        Direction(
            torch.randn(model.d_model, generator=generator), site, resid_norm=3.0,
            processing=model.processing,
        )
        for site in model.sites()
    ]  # fmt: skip


def adds(model: Model, positions: Positions) -> list[Add]:
    return [Add(direction, positions) for direction in directions(model)]


@check
def sweeps(model: Model) -> Numbers:
    """From the last token on, everywhere, with several edits, weights and a prompt."""
    first, second, third = directions(model)
    everywhere = Positions.all()
    others = [
        Ablate(first, everywhere), Clamp(second, 2.0),
        Together((Add(first), Add(third, everywhere))),
        low_rank(model, 1), Prompt("you like it"),
    ]  # fmt: skip
    found = {}
    for name, pairs in (("one", ONE_TOKEN), ("two", TWO_TOKENS)):
        for where in (Positions.from_prompt_end(), everywhere):
            swept = sweep(model, pairs, adds(model, where), MULTIPLIERS, progress=False)
            found[f"{name}, {where}"] = torch.stack([swept.positive, swept.negative])
        swept = sweep(model, pairs, others, MULTIPLIERS, progress=False)
        found[f"{name}, other interventions"] = swept.log_odds
    return found


@check
def readings(model: Model) -> Numbers:
    read = activations(model, TWO_TOKENS, progress=False)
    fitted = diffmean(model, TWO_TOKENS, progress=False)
    return {
        "positive": read.positive,
        "negative": read.negative,
        "norms": read.resid_norms,
        "diffmean": torch.stack([direction.vector for direction in fitted]),
    }


@check
def costs(model: Model) -> Numbers:
    edits = adds(model, Positions.from_prompt_end())
    return {
        "kl": divergence(model, TEXTS, edits, MULTIPLIERS, progress=False),
        "direct": direct_gain(model, ONE_TOKEN, edits, MULTIPLIERS, progress=False),
        "screen": screen(model, ONE_TOKEN, edits, progress=False).slopes,
    }


@check
def texts(model: Model) -> Numbers:
    edit = adds(model, Positions.from_prompt_end())[1]
    found = {}
    for temperature in (0.0, 1.0):
        with edit.attach(model, 0.5):
            found[f"tokens at temperature {temperature}"] = generated_tokens(
                model, PROMPTS, max_new_tokens=6, temperature=temperature
            ).cpu()
    made = writing(model, [edit], PROMPTS, (0.0, 1.0), max_new_tokens=5, progress=False)
    return {**found, "written": made.tokens, "surprisal": made.surprisals}


@check
def maps(model: Model) -> Numbers:
    made = steerability(
        model, FIT, ONE_TOKEN[:4], ONE_TOKEN[4:8], multipliers=MULTIPLIERS, neutral=TEXTS, nulls=19,
        progress=False,
    )  # fmt: skip
    found = {"propensities": made.propensities, "kl": made.kl}
    # Nulls stop early where the answer is clear, which rounding does not decide here.
    return {**found, "shuffled": made.shuffled, "random": made.random}


@check
def trained(model: Model) -> Numbers:
    trainer = Trainer(LM(), steps=4, rate=0.05, batch=4)
    found = {}
    for form in (VectorForm(Site(1)), LoRA(rank=2)):
        made = trainer.fit(form, model, FIT, progress=False)
        swept = sweep(model, ONE_TOKEN, [made], MULTIPLIERS, progress=False)
        found[f"{type(form).__name__}'s losses"] = made.history.losses
        found[f"{type(form).__name__}'s log-odds"] = swept.log_odds
    return found


def require_bit_identical(model: Model) -> None:
    """At multiplier 0 and after removal the logits are the same bits."""
    first, second, _ = directions(model)
    before = model.logits(PROMPTS)
    weights = [weight.data_ptr() for weight in model.wrapped.parameters()]
    for edit in (Add(first, Positions.all()), Ablate(second), low_rank(model, 1), Prompt("a")):
        with edit.attach(model, 0.0):
            assert torch.equal(model.logits(PROMPTS), before), edit
        with edit.attach(model, 1.0):
            assert not torch.equal(model.logits(PROMPTS), before), edit
        assert torch.equal(model.logits(PROMPTS), before), edit
    assert [weight.data_ptr() for weight in model.wrapped.parameters()] == weights
