"""Measures a score of the user's own, of the next token's logits, over a grid of steering."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, SupportsFloat, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.analyses.scoring.scored_map import ScoredMap
from steerlens.arguments import as_texts
from steerlens.data.near_duplicates import text_groups
from steerlens.interventions.arms import Arms, named_arms, require_fits, site_of
from steerlens.measures.engine import Engine, Read, Reading
from steerlens.measures.tokenised import Examples
from steerlens.models.memory import rows_of_logits
from steerlens.models.model import Model, as_model
from steerlens.stats import group_numbers
from steerlens.store.cells import cells_or_none
from steerlens.units import MULTIPLIERS, require_multipliers


class ScoreError(ValueError):
    """A score that did not give one finite number per prompt."""


@runtime_checkable
class LogitScore(Protocol):
    """A number for each prompt, of what the model expects to come next."""

    def __call__(
        self, logits: Float[Tensor, "row d_vocab"], prompts: list[str]
    ) -> Float[Tensor, " row"]: ...


@dataclass(frozen=True, eq=False)
class _Prompts(Examples):
    """Prompts that are read at their last token, with the number of each."""

    number: Int[Tensor, " example"]

    def rows(self, index: slice | Int[Tensor, " some"]) -> _Prompts:
        return replace(super().rows(index), number=self.number[index])


@torch.no_grad()
def scored(
    model: Any,
    arms: Arms,
    prompts: str | Sequence[str],
    score: LogitScore,
    *,
    multipliers: Iterable[SupportsFloat] = MULTIPLIERS,
    memory: int | None = None,
    progress: bool = True,
) -> ScoredMap:
    """A score of your own in every cell: interventions down, multipliers across.

    For what has no two answers to compare. The score sees the logits of the token that follows each
    prompt, e.g. the log-probability of a set of words, or the entropy. For a judge of whole texts
    use `writing(…, judge=…)`. Cells are computed from shared work, as by `steerability`::

        yes = model.to_single_token(" yes")
        sl.scored(model, directions, prompts, lambda logits, prompts: logits.log_softmax(-1)[:, yes])

    Args:
        model: A `Model`, or what it wraps.
        arms: Interventions by name; or interventions or directions at different sites.
        score: A function of logits [row, d_vocab] in float32 and the prompt of each row, which
            gives one number per row. It is called for several rows at a time, also with rows of
            several cells.
        multipliers: Strengths; with 0, which everything is compared with.
        memory: Bytes of working memory; by default a quarter of what is free.

    Raises:
        ValueError: If a prompt is empty or too long, or an intervention does not fit the model.
        ScoreError: If the score does not give one finite number per row.
        SteeringError: If an intervention would edit no token of some prompt.
    """
    model, strengths = as_model(model), require_multipliers(multipliers, positive=False)
    if not callable(score):
        raise TypeError(
            f"score={score!r:.80} is no function. Give one of (logits, prompts) that returns a "
            "number per row."
        )
    texts = (prompts,) if isinstance(prompts, str) else as_texts("prompts", prompts)
    named = named_arms(arms)
    require_fits(model, named)
    batch = model.tokens(texts)
    examples = _Prompts(batch, 1, batch.width, 1, torch.arange(len(texts), device=model.device))
    engine = Engine(model, list(named.values()), strengths, memory)
    rows = rows_of_logits(model.cfg.d_vocab, engine.memory)

    def begin(some: Examples) -> Read:
        assert isinstance(some, _Prompts)
        own = [texts[i] for i in some.number.tolist()]
        return lambda states: _values(model, states[:, :, 0, 0], own, score, rows)

    found = engine.measure(
        examples, Reading(begin, values=1, unsteered=False), cells_or_none(None, "scores", progress)
    )
    out = torch.empty(len(named), len(strengths), len(texts))
    out[:, engine.grid.steered] = found.steered[..., 0]
    out[:, strengths.index(0.0)] = found.unsteered[:, 0]
    return ScoredMap(
        rows=tuple(named),
        sites=tuple(map(site_of, named.values())),
        multipliers=torch.tensor(strengths, dtype=torch.float32),
        prompts=texts,
        scores=out,
        groups=group_numbers(text_groups(texts)),
        score=_name(score),
        made_by={**model.facts, "score": _name(score)},
    )


def _values(
    model: Model,
    states: Float[Tensor, "example cell d_model"],
    prompts: list[str],
    score: LogitScore,
    rows: int,
) -> Float[Tensor, "example cell 1"]:
    """The score of every state, so many rows of logits at a time."""
    each = [prompt for prompt in prompts for _ in range(states.shape[1])]
    flat = states.flatten(0, 1)
    parts = []
    for start in range(0, len(flat), rows):
        asked = each[start : start + rows]
        logits = model.unembed(flat[start : start + rows]).float()
        parts.append(_checked(score(logits, asked), asked))
    return torch.cat(parts).view(*states.shape[:2], 1)


def _checked(values: Any, prompts: list[str]) -> Float[Tensor, " row"]:
    numbers = torch.as_tensor(values)
    if tuple(numbers.shape) != (len(prompts),) or numbers.is_complex():
        raise ScoreError(
            f"The score returned {type(values).__name__} of shape {tuple(numbers.shape)} for "
            f"{len(prompts)} rows of logits. Return one number per row, e.g. logits[:, token]."
        )
    numbers = numbers.float()
    if not bool(torch.isfinite(numbers).all()):
        where = int((~torch.isfinite(numbers)).nonzero()[0])
        raise ScoreError(
            f"The score of the prompt {prompts[where]!r:.80} is {float(numbers[where])}, and no "
            "mean can be taken of that. Return finite numbers."
        )
    return numbers


def _name(score: Any) -> str:
    """What results call a score: the name of the function, or of the class."""
    name = str(getattr(score, "__name__", type(score).__name__))
    return "score" if name == "<lambda>" else name
