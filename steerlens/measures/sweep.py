"""Both answers of every question, under every intervention at every multiplier."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import SupportsIndex

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.data.contrast_set import PairsLike
from steerlens.measures.answer_scores import AnswerScores
from steerlens.measures.engine import Engine, Plan, Read, Reading
from steerlens.measures.tokenised import Examples, Questions, questions
from steerlens.models.model import Model, as_model
from steerlens.models.products import Products
from steerlens.models.speed import speed_of
from steerlens.protocols import Intervention
from steerlens.store.cells import Cells, cells_or_none

_log = logging.getLogger("steerlens.sweep")


@dataclass(frozen=True, eq=False)
class Swept:
    """Log-probabilities of both answers in every cell."""

    positive: Float[Tensor, "intervention multiplier example"]
    """Summed log-probability of the positive answer's tokens, in nats; with `log_odds_only` it is
    the log-odds, and `negative` is zero."""
    negative: Float[Tensor, "intervention multiplier example"]
    multipliers: tuple[float, ...]
    log_odds_only: bool
    plan: Plan
    lengths: Int[Tensor, "example 2"]
    """How many tokens the positive and the negative answer have."""

    @property
    def log_odds(self) -> Float[Tensor, "intervention multiplier example"]:
        """Log-odds of the positive over the negative answer, in nats: the propensity."""
        return self.positive - self.negative


def plan(
    model: Model,
    pairs: PairsLike,
    interventions: Sequence[Intervention],
    multipliers: Sequence[float],
    *,
    log_odds_only: bool = False,
    memory: SupportsIndex | None = None,
    products: Products | None = None,
) -> Plan:
    """What `sweep` would do with these arguments, and what memory and time it would need.

    The time is from two blocks and a read-out, which are measured here once for each model.

    Raises:
        ValueError, SteeringError: As `sweep`, for whatever can be refused before any work.
    """
    model = as_model(model)
    asked = questions(model, pairs)
    engine = Engine(model, interventions, multipliers, memory, products)
    reading = _reading(model, asked, log_odds_only, engine.memory)
    work = engine.work(asked, reading)
    seconds = speed_of(model, products).seconds(work)
    return replace(engine.plan(asked, reading), work=work, seconds=seconds)


@torch.no_grad()
def sweep(
    model: Model,
    pairs: PairsLike,
    interventions: Sequence[Intervention],
    multipliers: Sequence[float],
    *,
    log_odds_only: bool = False,
    memory: SupportsIndex | None = None,
    products: Products | None = None,
    progress: bool = True,
    cells: Cells | None = None,
) -> Swept:
    """Scores every pair's two answers under every intervention at every multiplier.

    Each intervention takes the fastest path that holds it (`steerlens.measures.paths`); the
    numbers are those of a full forward pass per cell. They are the same to the last bit whatever
    memory is free, so long as it holds one unit of work (`plan` says what that needs); a unit that
    it does not hold is computed in smaller batches, which rounds otherwise.

    Args:
        interventions: Typically one per layer; rows of the grid.
        multipliers: Columns of the grid; 0 is computed once for all interventions.
        log_odds_only: Skip the normaliser over the vocabulary. Enough for propensities; utility
            needs the log-probabilities themselves.
        memory: Bytes of working memory; by default a quarter of what is free.
        products: "bfloat16" rounds both factors of each product with the blocks' weights, and keeps
            the stream in float32: faster on processors with bfloat16 instructions, and less exact
            (docs/models.md). For screens and null maps, not for numbers that are reported.
        cells: Where finished units of examples are kept and found; by default nowhere.

    Raises:
        ValueError: For questions that cannot be scored, an intervention that does not fit the
            model, log-probabilities that are NaN or infinite, or `products` of a model or an
            intervention that cannot have them.
        SteeringError: If an intervention would edit no token of some prompt.
    """
    model = as_model(model)
    cells = cells_or_none(cells, "sweep", progress)
    asked = questions(model, pairs)
    engine = Engine(model, interventions, multipliers, memory, products)
    reading = _reading(model, asked, log_odds_only, engine.memory)
    planned = engine.plan(asked, reading)
    _log.info("%s: %s, %.0f MiB may be used", cells.name, planned, planned.budget / 2**20)
    found = engine.measure(asked, reading, cells)
    strengths = engine.grid.multipliers
    out = torch.empty(len(interventions), len(strengths), len(asked), 2, dtype=torch.float32)
    out[:, engine.grid.steered] = found.steered
    out[:, [j for j, m in enumerate(strengths) if m == 0]] = found.unsteered
    return Swept(
        positive=out[..., 0],
        negative=out[..., 1],
        multipliers=strengths,
        log_odds_only=log_odds_only,
        plan=planned,
        lengths=asked.counted.sum(-1).cpu(),
    )


def _reading(model: Model, asked: Questions, log_odds_only: bool, memory: int) -> Reading:
    """How both answers are scored."""
    score = AnswerScores(model, log_odds_only, memory)

    def begin(examples: Examples) -> Read:
        assert isinstance(examples, Questions)
        return lambda states: score(states, examples)

    normalised = asked.variants == 2 or not log_odds_only
    return Reading(
        begin, values=2, unsteered=False, finite="log-probabilities",
        states=asked.variants * asked.read if normalised else 0,
    )  # fmt: skip
