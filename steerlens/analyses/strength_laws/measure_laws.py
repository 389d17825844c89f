"""Sweeps many strengths and fits rival laws to what was measured."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import SupportsFloat, SupportsIndex

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.analyses.question_splits import question_groups
from steerlens.analyses.strength_laws.law_comparison import LawComparison
from steerlens.analyses.strength_laws.law_errors import fit_laws
from steerlens.analyses.strength_laws.law_numbers import ROLES
from steerlens.analyses.strength_laws.local_exponent import NEAR, strengths_between
from steerlens.analyses.validity.validity_fit import require_enough
from steerlens.arguments import ArgumentError, as_float, as_floats, as_int
from steerlens.data.contrast_set import ContrastSet, PairsLike, as_contrast_set
from steerlens.data.near_duplicates import text_groups
from steerlens.directions import Direction
from steerlens.interventions import Add
from steerlens.interventions.arms import Arms, named_arms, require_fits, site_of
from steerlens.measures.divergence import text_costs
from steerlens.measures.equal_cost import lengths_of_equal_kl
from steerlens.measures.ordinary_texts import given_or_written, text_halves
from steerlens.measures.token_sweep import sweep_tokens
from steerlens.models.model import Model, as_model
from steerlens.protocols import Directed, Intervention
from steerlens.sites import Positions
from steerlens.stats import FEWEST, group_numbers
from steerlens.store.cells import Cells, cells_or_none
from steerlens.units import BUDGET

FURTHEST, COUNT = 8.0, 25
"""The largest strength, where 1 costs the budget, and how many there are."""
FOLLOWED = 4
"""Tokens of each role that are followed."""


def law_strengths(
    furthest: SupportsFloat = FURTHEST, count: SupportsIndex = COUNT
) -> tuple[float, ...]:
    """Multipliers from -furthest to furthest whose square roots are evenly spaced.

    They are dense near 0, where a curve begins, and reach far, where it levels out.

    >>> law_strengths(8.0, 5)
    (-8.0, -2.0, 0.0, 2.0, 8.0)
    """
    largest, many = as_float("furthest", furthest), as_int("count", count)
    if many % 2 == 0 or many < 3 or largest <= 0:
        raise ArgumentError(
            f"furthest={largest:g} and count={many}: give a strength above 0, and an odd number of "
            "at least 3, so that 0 is among them."
        )
    half = many // 2
    return tuple(
        math.copysign(largest * (k / half) ** 2, k) if k else 0.0 for k in range(-half, half + 1)
    )


def compare_laws(
    model: Model,
    edits: Arms,
    asked: PairsLike,
    *,
    controls: Arms | None = None,
    neutral: Sequence[str] | SupportsIndex | None = None,
    multipliers: Iterable[SupportsFloat] | None = None,
    budget: SupportsFloat = BUDGET,
    positions: Positions | None = None,
    followed: SupportsIndex = FOLLOWED,
    case: str | None = None,
    seed: SupportsIndex = 0,
    progress: bool = True,
    cells: Cells | None = None,
) -> LawComparison:
    """Effects and costs at many strengths, and the laws that describe them by held-out error.

    At every strength of every edit: the preference and the probability of the positive answer, the
    KL and the change of cross-entropy on ordinary text, and the probability of some tokens after the
    prompts. Laws are fitted to the means; `LAWS` lists them. They are compared by what they miss at
    strengths that were left out, in between and further out.

    Args:
        edits: Interventions, or directions. A direction is added, and its multiplier 1 is the length
            that costs the budget: so the largest strength is far past it at every layer, whatever
            the norm of the stream is. Other interventions keep their own multipliers.
        asked: Questions with two answers, other than those that the directions were fitted to.
        controls: The same for controls, e.g. random directions at the same sites.
        neutral: Ordinary texts, or how many of them the unsteered model writes. If there are
            directions, every second text finds their lengths, and costs are measured on the others.
        multipliers: At least nine, four or more of either sign, two of which lie between 0.2 and 1
            with both signs; by default `law_strengths()`, 25 from -8 to 8.
        budget: Nats of KL per token that multiplier 1 of a direction costs.
        positions: Which tokens directions are added to; by default from the prompt's end on.
        followed: How many tokens of each role are followed: first tokens of the positive and of the
            negative answers, the most frequent first, and the tokens whose logits the direction
            raises and lowers most by itself.
        case: The name of the contrast; by default that of `asked`.
        cells: Where finished units of work are kept and found; by default nowhere.

    Raises:
        ValueError: For multipliers that no curve can be fitted to, questions or texts that are too
            few for an interval or cannot be scored, an edit that does not fit the model, or a
            direction of which no length costs the budget. All of this is raised before the sweep.
        CalibrationError: If the budget is not above 0, or a direction states no resid_norm.

    Source: arXiv:2602.02712 for the quantities and the form of their laws, and arXiv:2602.02343 for
    the validity decay. Departures: the probability is that of the positive answer, and not of a set
    of tokens; the cost is also given as KL, which does not depend on how likely the texts are.
    """
    model, pairs = as_model(model), as_contrast_set(asked)
    strengths = law_strengths() if multipliers is None else as_floats("multipliers", multipliers)
    _require_strengths(strengths)
    most = as_int("followed", followed, least=1)
    if (many := len(set(pairs.groups))) < 2 * FEWEST:
        raise ArgumentError(
            f"The questions have {many} groups. Half of them look for bumps and the others confirm "
            f"them, so {2 * FEWEST} are needed. Give more questions."
        )
    kept = cells_or_none(cells, "laws", progress)
    edits, controls = _listed(edits), _listed(controls or ())
    named = _named(edits, controls)
    texts, what = given_or_written(model, neutral, as_int("seed", seed), kept)
    measured_by_budget = any(isinstance(one, Direction) for one in named.values())
    choosing, texts = text_halves(texts) if measured_by_budget else ([], texts)
    if (many := len(set(text_groups(texts)))) < FEWEST:
        raise ArgumentError(
            f"{many} ordinary texts measure the cost, and an interval needs {FEWEST}. Give more: "
            "neutral=32 lets the model write them."
        )
    arms = _at_budget(model, named, choosing, as_float("budget", budget), positions, kept)
    require_fits(model, arms)
    each = list(arms.values())
    ids = [_followed(model, pairs, edit, most) for edit in each]
    every = sorted({token for row in ids for token in row if token is not None})
    swept = sweep_tokens(model, pairs, each, strengths, every, cells=kept.part("questions"))
    costs, entropies = text_costs(model, texts, each, strengths, cells=kept.part("texts"))
    preferences, probabilities = swept.positive - swept.negative, swept.positive.exp()
    _require_finite(arms, {"KL": costs, "preference": preferences})
    m = torch.tensor(strengths, dtype=torch.float32)
    measured = {
        "cost": costs, "cross-entropy": entropies, "preference": preferences,
        "probability": probabilities,
    }  # fmt: skip
    laws = fit_laws(strengths, {name: values.mean(-1) for name, values in measured.items()})
    return LawComparison(
        rows=tuple(arms),
        sites=tuple(map(site_of, each)),
        cases=(case or pairs.name,) * len(arms),
        controls=tuple(k >= len(edits) for k in range(len(named))),
        multipliers=m,
        lengths=torch.tensor(list(map(_relative_length, each))),
        costs=costs,
        entropies=entropies,
        preferences=preferences,
        probabilities=probabilities,
        token_probabilities=_chosen(swept.tokens, every, ids),
        tokens=tuple(
            tuple("" if t is None else str(model.to_string([t])) for t in row) for row in ids
        ),
        roles=tuple(role for role in ROLES for _ in range(most)),
        question_groups=question_groups(pairs)[None].repeat(len(arms), 1),
        text_groups=group_numbers(text_groups(texts))[None].repeat(len(arms), 1),
        **laws._asdict(),
        made_by={
            **model.facts,
            "question": "Which law does steering follow over its strength?",
            "budget": as_float("budget", budget),
            "asked": pairs.hash,
            "ordinary": what,
            "texts": len(texts),
        },
    )


def _require_strengths(strengths: Sequence[float]) -> None:
    require_enough(torch.tensor(strengths))
    if len(strengths_between(torch.tensor(strengths), NEAR)) < 2 or 0.0 not in strengths:
        raise ArgumentError(
            f"multipliers={list(strengths)} need 0 among them, and two strengths between "
            f"{NEAR[0]:g} and {NEAR[1]:g} with both signs, to see how the cost begins. Use "
            "law_strengths(8.0, 25)."
        )


def _listed(arms: Arms) -> Arms:
    return arms if isinstance(arms, Mapping) else list(arms)


def _named(edits: Arms, controls: Arms) -> dict[str, Intervention | Direction]:
    """Edits and controls by name; directions stay directions."""
    if not edits:
        raise ArgumentError("There are no edits to sweep. Give at least one.")
    found: dict[str, Intervention | Direction] = {}
    for arms, word in ((edits, ""), (controls, "control, ")):
        if arms:
            for name, own in zip(named_arms(arms), _given(arms), strict=True):
                if word + name in found:
                    raise ArgumentError(
                        f"Two rows are called {word + name!r}. Name them otherwise."
                    )
                found[word + name] = own
    return found


def _given(arms: Arms) -> list[Intervention | Direction]:
    return list(arms.values()) if isinstance(arms, Mapping) else list(arms)


def _at_budget(
    model: Model,
    named: Mapping[str, Intervention | Direction],
    texts: Sequence[str],
    budget: float,
    positions: Positions | None,
    cells: Cells,
) -> dict[str, Intervention]:
    """The edits; directions are added at the length that costs the budget."""
    where = positions or Positions.from_prompt_end()
    directions = {name: one for name, one in named.items() if isinstance(one, Direction)}
    if not directions:
        return {name: one for name, one in named.items() if not isinstance(one, Direction)}
    for direction in directions.values():
        model.require(direction)

    def found() -> dict[str, Tensor]:
        each = list(directions.values())
        options = {"kl": budget, "positions": where, "progress": cells.progress}
        return {"lengths": lengths_of_equal_kl(model, each, texts, **options)}

    lengths = cells.part("lengths").compute("all", found)["lengths"]
    return _added(named, dict(zip(directions, lengths.tolist(), strict=True)), where, budget)


def _added(
    named: Mapping[str, Intervention | Direction],
    lengths: Mapping[str, float],
    where: Positions,
    budget: float,
) -> dict[str, Intervention]:
    arms: dict[str, Intervention] = {}
    for name, one in named.items():
        if not isinstance(one, Direction):
            arms[name] = one
            continue
        if math.isnan(lengths[name]):
            raise ArgumentError(
                f"No length of {name} between a 256th and 16 times the stream's median norm costs "
                f"{budget:g} nats of KL per token. Leave it out, choose another budget, or give "
                "Add(direction, unit=length)."
            )
        arms[name] = Add(one, where, lengths[name])
    return arms


def _followed(model: Model, pairs: ContrastSet, edit: Intervention, most: int) -> list[int | None]:
    """Token ids of each role, `most` of each; None where there are fewer."""
    taken: list[int] = []
    slots: list[int | None] = []

    def take(candidates: Iterable[int]) -> None:
        own = [token for token in dict.fromkeys(candidates) if token not in taken][:most]
        taken.extend(own)
        slots.extend([*own, *[None] * (most - len(own))])

    for side in ("positive", "negative"):
        firsts = Counter(model.split(pair.prompt, getattr(pair, side))[1][0] for pair in pairs)
        take(token for token, _ in firsts.most_common())
    if isinstance(edit, Directed) and len(edit.direction.vector) == model.d_model:
        effects = model.token_effects(edit.direction.vector).cpu()
        for order in (effects.argsort(descending=True), effects.argsort()):
            take(order[: 4 * most].tolist())
    else:
        take([])
        take([])
    return slots


def _chosen(
    log_probs: Float[Tensor, "row multiplier every question"],
    every: Sequence[int],
    ids: Sequence[Sequence[int | None]],
) -> Float[Tensor, "row multiplier token question"]:
    """The probabilities of each row's own tokens; NaN where it has none."""
    place = {token: k for k, token in enumerate(every)}
    index = torch.tensor([[place.get(t, -1) if t is not None else -1 for t in row] for row in ids])
    own = torch.stack([x[:, k.clamp(min=0)] for x, k in zip(log_probs, index, strict=True)]).exp()
    return own.masked_fill((index < 0)[:, None, :, None], torch.nan)


def _relative_length(edit: Intervention) -> float:
    """How long multiplier 1 of an edit is, in median norms of the stream."""
    if not isinstance(edit, Add) or edit.direction.resid_norm is None:
        return math.nan
    return float(edit.step.norm()) / edit.direction.resid_norm


def _require_finite(arms: Mapping[str, Intervention], values: Mapping[str, Tensor]) -> None:
    for what, found in values.items():
        bad = ~found.isfinite().flatten(1).all(-1)
        if bool(bad.any()):
            name = list(arms)[int(bad.int().argmax())]
            raise ValueError(
                f"The {what} of {name} is NaN or infinite at some strength. Use float32 or bfloat16, "
                "or smaller multipliers."
            )
