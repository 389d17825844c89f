"""Choosing a candidate for every arm, and measuring what was chosen on held-out questions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.analyses.features.candidates import Candidate
from steerlens.analyses.features.comparison_arms import BY_CONTRAST, CONTROLS
from steerlens.analyses.features.paired_comparison import PairedComparison
from steerlens.data import ContrastSet
from steerlens.data.near_duplicates import text_groups
from steerlens.interventions.residual import Add
from steerlens.measures import scores
from steerlens.measures.divergence import divergence
from steerlens.measures.sweep import sweep
from steerlens.models.model import Model
from steerlens.sites import Positions
from steerlens.stats import group_numbers
from steerlens.store.cells import Cells

Chosen = dict[tuple[str, int], int]
"""The index of the candidate that each arm (or control) and draw chose."""


def choosing_gains(
    model: Model,
    pairs: ContrastSet,
    candidates: Sequence[Candidate],
    lengths: Float[Tensor, " candidate"],
    positions: Positions,
    progress: bool,
) -> Float[Tensor, " candidate"]:
    """Mean gain of every candidate at its length, in nats; NaN where it has none."""
    out = torch.full((len(candidates),), math.nan)
    able = torch.isfinite(lengths).nonzero()[:, 0].tolist()
    if able:
        edits = [Add(candidates[i].signed, positions, float(lengths[i])) for i in able]
        swept = sweep(
            model, pairs, edits, (0.0, 1.0), log_odds_only=True,
            cells=Cells(name="choosing", progress=progress),
        ).log_odds  # fmt: skip
        out[able] = (swept[:, 1] - swept[:, 0]).mean(-1)
    return out


def choose_candidates(candidates: Sequence[Candidate], gains: Tensor) -> Chosen:
    """The candidate of each arm and draw with the largest gain."""
    gains = gains.nan_to_num(nan=-math.inf)
    best: Chosen = {}
    for i, candidate in enumerate(candidates):
        key = candidate.arm, candidate.draw
        if key not in best or gains[i] > gains[best[key]]:
            best[key] = i
    return best


def held_out_comparison(
    model: Model,
    report: ContrastSet,
    texts: Sequence[str],
    chosen: Chosen,
    candidates: Sequence[Candidate],
    lengths: Float[Tensor, " chosen"],
    gains: Float[Tensor, " candidate"],
    *,
    arms: tuple[str, ...],
    nulls: int,
    positions: Positions,
    progress: bool,
) -> PairedComparison:
    """The chosen candidates, measured on questions and texts that had no part in the choice.

    Args:
        lengths: How long each chosen one is, in the order of `chosen`.
        gains: What every candidate gained on the choosing questions.
    """
    keys = list(chosen)
    able = torch.isfinite(lengths).nonzero()[:, 0].tolist()
    held_out = torch.full((len(keys), len(report)), math.nan)
    utilities, kl = held_out.clone(), torch.full((len(keys), len(texts)), math.nan)
    if able:
        edits = [
            Add(candidates[chosen[keys[i]]].signed, positions, float(lengths[i])) for i in able
        ]
        kept = Cells(name="reporting", progress=progress)
        swept = sweep(model, report, edits, (0.0, 1.0), cells=kept)
        utility = scores.utility(swept).value
        held_out[able] = swept.log_odds[:, 1] - swept.log_odds[:, 0]
        utilities[able] = utility[:, 1] - utility[:, 0]
        kl[able] = divergence(model, texts, edits, (0.0, 1.0), progress=progress)[:, 1]
    found = _arranged(
        [candidates[i] for i in chosen.values()],
        {
            "gains": held_out,
            "utilities": utilities,
            "kl": kl,
            "lengths": lengths.float(),
            "chosen_gains": gains[list(chosen.values())],
        },
        arms,
        nulls,
    )
    return replace(
        found,
        groups=group_numbers(report.groups),
        text_groups=group_numbers(text_groups(texts)),
    )


def _arranged(
    chosen: Sequence[Candidate], numbers: dict[str, Tensor], arms: tuple[str, ...], nulls: int
) -> PairedComparison:
    """The numbers of the chosen candidates as arrays over arms and over repetitions of controls."""

    def arrange(values: Tensor, names: Sequence[str], draws: int) -> Tensor:
        out = torch.full((len(names), draws, 1, *values.shape[1:]), math.nan)
        for candidate, value in zip(chosen, values, strict=True):
            if candidate.arm in names:
                out[names.index(candidate.arm), candidate.draw, 0] = value.to(out)
        return out

    of_arms = {name: arrange(values, arms, 1)[:, 0] for name, values in numbers.items()}
    of_controls = {f"control_{n}": arrange(v, CONTROLS, nulls) for n, v in numbers.items()}
    features = torch.tensor([candidate.feature for candidate in chosen])
    signs = torch.tensor([candidate.sign for candidate in chosen])
    return PairedComparison(
        arms=arms,
        controls=CONTROLS,
        features=arrange(features, arms, 1)[:, 0].nan_to_num(-1).long(),
        signs=arrange(signs, arms, 1)[:, 0].nan_to_num(0).long(),
        **of_arms,
        **of_controls,
    )


def ranked_features(
    candidates: Sequence[Candidate], gains: Tensor, k: int
) -> tuple[Int[Tensor, "site rank"], Float[Tensor, "site rank"]]:
    """The features by contrast, by rank, and the gain of each with its better sign, at one site."""
    features = torch.full((1, k), -1)
    best = torch.full((1, k), math.nan)
    for candidate, gain in zip(candidates, gains.tolist(), strict=True):
        if candidate.arm != BY_CONTRAST:
            continue
        cell = 0, candidate.rank
        features[cell] = candidate.feature
        if not math.isnan(gain) and not float(best[cell]) > gain:
            best[cell] = gain
    return features, best
