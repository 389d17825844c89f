"""Measures every subset of some interventions: what they do together and not singly."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.analyses.stacking.stack_map import StackMap
from steerlens.analyses.writing.judging import judge_name, judge_texts
from steerlens.arguments import ArgumentError
from steerlens.data.contrast_set import PairsLike, as_contrast_set
from steerlens.data.near_duplicates import text_groups
from steerlens.interventions.arms import Arms, named_arms, require_fits
from steerlens.interventions.scaled import scaled
from steerlens.interventions.together import Together
from steerlens.measures.divergence import divergence
from steerlens.measures.equal_cost import equal_kl
from steerlens.measures.generation import generate
from steerlens.measures.surprisal import require_unsteered
from steerlens.measures.sweep import sweep
from steerlens.models.model import Model, as_model
from steerlens.protocols import Intervention, Scorer
from steerlens.store.cells import Cells, cells_or_none
from steerlens.units import BUDGET

MOST = 5
"""Interventions at the most: all 2ⁿ - 1 subsets are measured."""


@torch.no_grad()
def stacking(
    model: Model,
    arms: Arms,
    pairs: PairsLike,
    texts: Sequence[str],
    *,
    others: Mapping[str, PairsLike] | None = None,
    prompts: Sequence[str] = (),
    judge: Scorer | None = None,
    max_new_tokens: int = 24,
    seed: int = 0,
    progress: bool = True,
    cells: Cells | None = None,
) -> StackMap:
    """Every subset of some interventions at multiplier 1: gain, KL, side effects and writing.

    The interaction of two is what they do together minus what each does alone; 0 means that their
    effects add up. KL grows with the square of a small edit, so two orthogonal edits add up in it and
    two parallel ones do not.

    Args:
        arms: 2 to 5 interventions by name, in the order in which they are attached. Scale them
            first, e.g. by `within_budget`.
        pairs: Questions with two answers: the gain is the change of their log-odds.
        texts: Ordinary texts for KL.
        others: Questions of other concepts by name, for side effects.
        prompts: What texts are written after; with a judge that scores them, more being better.
        cells: Where finished units are kept and found; by default nowhere. Texts are not kept.

    Raises:
        ArgumentError: If there are fewer than 2 or more than 5, or prompts without a judge.
        ValueError: If an intervention does not fit the model or a question cannot be scored.
        SteeringError: If steering is attached to the model.

    Source: arXiv:2607.01802 says that a stack loses what its parts have; `summary` says whether it
    does here. Shapley values are of Shapley 1953 and exact, since all subsets are measured.
    """
    model = as_model(model)
    named = named_arms(arms)
    if not 2 <= len(named) <= MOST:
        raise ArgumentError(
            f"There are {len(named)} interventions, and all subsets of 2 to {MOST} are measured. "
            "Stack those first that belong together (Together), or leave some out."
        )
    if bool(prompts) != (judge is not None):
        raise ArgumentError("Written texts need both prompts and a judge. Give both, or neither.")
    require_unsteered(model)
    require_fits(model, named)
    kept = cells_or_none(cells, "stacking", progress)
    names = tuple(named)
    subsets = tuple(
        subset
        for size in range(1, len(names) + 1)
        for subset in itertools.combinations(range(len(names)), size)
    )
    each: list[Intervention] = [
        Together(tuple(named[names[i]] for i in subset)) for subset in subsets
    ]
    given = as_contrast_set(pairs)
    sets = {"gain": given}
    sets |= {name: as_contrast_set(other) for name, other in (others or {}).items()}
    if others and ({"gain", "KL", "writing"} & set(others)):
        raise ArgumentError("The names gain, KL and writing stand for something else. Rename it.")
    values: dict[str, Tensor] = {}
    groups: dict[str, tuple[str, ...]] = {}
    units: dict[str, str] = {}
    for name, asked in sets.items():
        swept = sweep(model, asked, each, (0.0, 1.0), progress=progress, cells=kept.part(name))
        values[name] = swept.log_odds[:, 1] - swept.log_odds[:, 0]
        groups[name], units[name] = asked.groups, "nats"
    kl = divergence(model, texts, each, (0.0, 1.0), progress=progress, cells=kept.part("kl"))
    values["KL"] = kl[:, 1]
    groups["KL"], units["KL"] = tuple(text_groups(list(texts))), "nats per token"
    if judge is not None:
        values["writing"] = _written(model, each, prompts, judge, max_new_tokens, seed)
        groups["writing"], units["writing"] = (
            tuple(text_groups(list(prompts))),
            str(judge_name(judge)),
        )
    return StackMap(
        arms=names,
        subsets=subsets,
        values=values,
        groups=groups,
        units=units,
        made_by={
            **model.facts,
            "question": "Do the effects of several interventions add up?",
            "interventions": {name: repr(one) for name, one in named.items()},
            "data": {name: asked.hash for name, asked in sets.items()},
            "judge": judge_name(judge),
        },
    )


def _written(
    model: Model,
    each: Sequence[Intervention],
    prompts: Sequence[str],
    judge: Scorer,
    new: int,
    seed: int,
) -> Float[Tensor, "subset prompt"]:
    """Change of the judge's score of the texts after each prompt, with the same random draws."""
    options: dict[str, Any] = {"max_new_tokens": new, "temperature": 1.0, "seed": seed}
    texts = [tuple(generate(model, list(prompts), **options))]
    for one in each:
        with one.attach(model, 1.0):
            texts.append(tuple(generate(model, list(prompts), **options)))
    scores = judge_texts(judge, prompts, tuple(texts))
    return scores[1:] - scores[0]


def within_budget(
    model: Model,
    arms: Arms,
    texts: Sequence[str],
    *,
    kl: float = BUDGET,
    shares: Mapping[str, float] | None = None,
    progress: bool = True,
) -> Together:
    """Several interventions as one that costs a given KL: each first alone, then all by one factor.

    Each part is scaled to cost its share of the budget by itself; then all are scaled together until
    the whole costs the budget, so that parts that interfere are weakened alike.

    Args:
        texts: Ordinary texts. Measure the cost that you report on others.
        kl: Nats per token.
        shares: Parts of the budget by name, which are normalised; equal ones by default.

    Returns:
        The stack with its weights: multiplier 1 costs `kl`.

    Raises:
        ArgumentError: If a share is not above 0, or has no intervention.
        CalibrationError: If a part, or all together, cannot be made to cost that much.
    """
    model = as_model(model)
    named = named_arms(arms)
    given = dict.fromkeys(named, 1.0) if shares is None else dict(shares)
    if set(given) != set(named) or not all(share > 0 for share in given.values()):
        raise ArgumentError(
            f"shares={given} must give each of {', '.join(named)} a number above 0."
        )
    total = sum(given.values())
    alone = []
    for name, arm in named.items():
        found = equal_kl(model, {name: arm}, texts, kl=kl * given[name] / total, progress=progress)
        alone.append(scaled(arm, found[0]))
    stack = Together(tuple(alone))
    factor = equal_kl(model, {"together": stack}, texts, kl=kl, progress=progress)[0]
    return Together(tuple(alone), (factor,) * len(alone))
