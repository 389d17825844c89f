"""How much each layer moves behaviour, at what cost, and whether it is real."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from steerlens.analyses.steerability.steerability_map import Cell, Confirmation, SteerabilityMap
from steerlens.data import ContrastSet
from steerlens.directions import Activations, Direction
from steerlens.directions.methods import DiffMean, Random
from steerlens.interventions.residual import Add
from steerlens.measures import scores
from steerlens.measures.equal_cost import equal_kl
from steerlens.measures.reading import activations as read_activations
from steerlens.measures.sweep import divergence, halved, questions, sweep
from steerlens.models.model import Model, as_model
from steerlens.protocols import Method
from steerlens.sites import Positions, Site
from steerlens.units import BUDGET, MULTIPLIERS, MapUnit, require_multipliers


def steerability(
    model: Model,
    fit: ContrastSet | Activations,
    choose: ContrastSet,
    report: ContrastSet | None = None,
    *,
    method: Method | None = None,
    sites: Sequence[Site] | None = None,
    multipliers: Sequence[float] = MULTIPLIERS,
    positions: Positions | None = None,
    unit: MapUnit = "resid_norm",
    neutral: Sequence[str] | None = None,
    budget: float = BUDGET,
    nulls: int = 20,
    seed: int = 0,
    progress: bool = True,
    done: Callable[[str, slice, Tensor], None] | None = None,
    have: Callable[[str, slice], Tensor | None] | None = None,
) -> SteerabilityMap:
    """The map of layers and multipliers: gain, cost, and what chance would give.

    One direction per site is fitted on `fit`; every cell is scored on `choose`; the cell that
    `recommend()` picks is measured once more on `report`.

    Args:
        fit: Pairs, or activations already read from them.
        choose: Questions with two answers, other than those of `fit`.
        report: Questions that neither made the direction nor choose the cell.
        sites: Where to steer; by default resid_post of every layer.
        multipliers: Strengths in `unit`s; must hold 0 and something else.
        unit: What multiplier 1 adds at a layer: a length that `Add` knows, or with "equal_kl" the
            length that costs the budget there, so that layers and methods compare at equal cost.
        positions: Which tokens are steered; by default from the prompt's end on.
        neutral: Ordinary texts for the cost; by default the texts of `choose`. The first half is
            for choosing and the second for reporting.
        budget: KL to the unsteered model that steering may cost, nats per token.
        nulls: How many maps of nothing to make of either kind (directions fitted to shuffled
            labels, random directions); 20 allow p = 0.048 at the best.
        done: Called with ("gain", "shuffled" or "random", slice of examples, numbers) as they are
            finished.
        have: Gives numbers that a former run finished, or None.

    Raises:
        ValueError: For multipliers without 0, questions shared between the splits, a site that the
            model does not have, or answers that cannot be scored; all before the sweep starts.

    Source: propensity and slope, arXiv:2407.12404; utility, arXiv:2602.02343; the strength unit,
    the splits, the null and the budget are ours.
    """
    model = as_model(model)
    method, positions = method or DiffMean(), positions or Positions.from_prompt_end()
    require_multipliers(multipliers)
    require_disjoint(fit, choose, report)
    sites = tuple(sites or model.sites())
    for site in sites:
        model.require_site(site)
    texts = list(neutral or [pair.prompt + pair.positive for pair in choose])
    if len(texts) < 4 or len(choose) < 2 or nulls < 19:
        raise ValueError(
            f"{len(texts)} neutral texts, {len(choose)} choosing questions and {nulls} nulls are too "
            "few: at least 4 texts (half of them to report on), 2 questions and 19 nulls are needed."
        )
    for part in (choose, report):
        if part is not None:  # what cannot be scored is refused before the sweep starts
            questions(model, part)
    halved(model, texts)
    chosen_texts, report_texts = texts[::2], texts[1::2]
    read = (
        fit
        if isinstance(fit, Activations)
        else read_activations(model, fit, sites, progress=progress)
    )
    directions = [read.direction(site, method) for site in sites]
    lengths = (
        equal_kl(model, directions, chosen_texts, kl=budget, positions=positions, progress=progress)
        if unit == "equal_kl"
        else tuple(float(Add(d, positions, unit).step.norm()) for d in directions)
    )
    edits = [Add(d, positions, length) for d, length in zip(directions, lengths, strict=True)]

    def saved(name: str) -> dict:
        return {
            "done": None if done is None else partial(done, name),
            "have": None if have is None else partial(have, name),
            "progress": progress,
        }

    def gains_of(maps: list[list[Direction]], name: str) -> Tensor:
        # A multiplier lengthens a null's vector by the factor by which it lengthens the real one.
        factors = [length / d.norm for d, length in zip(directions, lengths, strict=True)]
        nothing = [
            Add(d, positions, d.norm * factor)
            for one in maps
            for d, factor in zip(one, factors, strict=True)
        ]
        odds = sweep(
            model, choose, nothing, multipliers, log_odds_only=True, label=name, **saved(name)
        ).log_odds.unflatten(0, (len(maps), len(sites)))
        zero = list(multipliers).index(0.0)
        return (odds - odds[:, :, zero, None]).mean(-1) * steered.sign()

    steered = torch.tensor(multipliers, dtype=torch.float32)
    swept = sweep(model, choose, edits, multipliers, **saved("gain"))
    kl = divergence(model, chosen_texts, edits, multipliers, progress=progress)
    made = SteerabilityMap(
        sites=sites,
        multipliers=steered,
        propensities=scores.preference(swept),
        utilities=scores.utility(swept).value,
        kl=kl,
        shuffled=gains_of(_shuffled(read, directions, method, nulls, seed), "shuffled"),
        random=gains_of(_random(read, directions, nulls, seed), "random"),
        budget=budget,
        made_by={
            "question": f"Which layers respond to steering towards {choose.name}?",
            "model": model.name,
            "fingerprint": model.fingerprint,
            "processing": model.processing,
            "bos": model.prepend_bos,
            "method": repr(method),
            "unit": unit,
            "lengths": lengths,
            "positions": repr(positions),
            "read_at": read.read_at,
            "data_name": choose.name,
            "fit": read.data,
            "choose": choose.hash,
            "report": None if report is None else report.hash,
            "seed": seed,
            "plan": str(swept.plan),
            "utilities_clamped": float(scores.utility(swept).clamped.float().mean()),
        },
    )  # fmt: skip
    cell = made.recommend().cell
    if report is None or cell is None:
        return made
    edit = edits[made.index(cell)[0]]
    return made.with_confirmation(confirm(model, cell, edit, report, report_texts, progress))


def confirm(
    model: Model, cell: Cell, edit: Add, report: ContrastSet, texts: Sequence[str], progress: bool
) -> Confirmation:
    """Measures one cell on examples that had no part in choosing it."""
    strengths = (0.0, cell.multiplier)
    swept = sweep(model, report, [edit], strengths, progress=progress)
    kl = divergence(model, texts, [edit], strengths, progress=progress)
    utility = scores.utility(swept).value[0]
    gain = swept.log_odds[0, 1] - swept.log_odds[0, 0]
    return Confirmation(
        cell, gain * (1 if cell.multiplier > 0 else -1), utility[1] - utility[0], kl[0, 1]
    )


def _shuffled(
    read: Activations, real: Sequence[Direction], method: Method, nulls: int, seed: int
) -> list[list[Direction]]:
    """Maps of directions fitted to shuffled labels.

    They keep their own length, each scaled as the real one is, and are not stretched to the same
    length: a mean difference of shuffled labels is short, and stretching it would turn whatever
    little of the contrast it holds back into the contrast (up to the sign).
    """
    return [
        [read.shuffled(seed + 1 + k).direction(d.site, method) for d in real] for k in range(nulls)
    ]


def _random(
    read: Activations, real: Sequence[Direction], nulls: int, seed: int
) -> list[list[Direction]]:
    """Maps of random directions, each as long as the real one of its site."""
    return [
        [
            read.direction(d.site, Random(seed + 1 + k * len(real) + i)).unit() * d.norm
            for i, d in enumerate(real)
        ]
        for k in range(nulls)
    ]


def _keys(part: ContrastSet | Activations) -> set[str]:
    """Everything by which a question of this part is known."""
    if isinstance(part, Activations):
        return set(part.groups)
    return set(part.groups) | {key for pair in part for key in pair.keys}


def require_disjoint(
    fit: ContrastSet | Activations, choose: ContrastSet, report: ContrastSet | None
) -> None:
    parts = {"fit": _keys(fit), "choose": _keys(choose)}
    if report is not None:
        parts["report"] = _keys(report)
    names = list(parts)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            shared = parts[one] & parts[other]
            if shared:
                raise ValueError(
                    f"{one!r} and {other!r} share {len(shared)} questions "
                    f"(e.g. {sorted(shared)[0]!r}), so the effect would be reported on examples "
                    "that made or chose it. Use ContrastSet.split()."
                )
