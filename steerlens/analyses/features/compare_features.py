"""Do SAE features steer better than the difference of means, at equal cost, beyond chance?

Features are found on one split, signs and candidates are chosen on a second, and what was chosen
is measured on a third; every direction is as long as costs the same. Beside it stands what the
best of a few random features or directions reaches, and the best of as many random directions as
there are features.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any, SupportsIndex

import torch

from steerlens.analyses.features.candidates import arm_candidates, control_candidates
from steerlens.analyses.features.comparison_arms import ARMS, ARMS_WITHOUT_TARGETED, CONTROLS
from steerlens.analyses.features.feature_comparison import FeatureComparison
from steerlens.analyses.features.feature_contrast import rank_by_contrast, require_same_model
from steerlens.analyses.features.feature_effects import LEAST, EffectMap, fit_effects
from steerlens.analyses.features.feature_texts import openings
from steerlens.analyses.features.measure_candidates import (
    choose_candidates,
    choosing_gains,
    held_out_comparison,
    ranked_features,
)
from steerlens.analyses.features.paired_comparison import PairedComparison
from steerlens.analyses.features.rank_features import alive
from steerlens.analyses.question_splits import require_disjoint
from steerlens.data import ContrastSet
from steerlens.directions import Activations
from steerlens.measures.equal_cost import lengths_of_equal_kl, lengths_of_equal_utility
from steerlens.measures.ordinary_texts import given_or_written, text_halves
from steerlens.measures.reading import activations as read_activations
from steerlens.measures.tokenised import questions
from steerlens.models.model import Model, as_model
from steerlens.saes.sae import SAE, SAEError
from steerlens.sites import Positions, Site
from steerlens.store.cells import Cells, Unit, cells_or_none
from steerlens.units import BUDGET

OPENINGS, NEW_TOKENS = 48, 16
"""Texts that SAE-TS learns from, under every vector, and tokens written after each."""
UTILITY_DROP = 0.5
"""Nats of the utility log-odds that steering costs in the second comparison."""


def compare_features(
    model: Model,
    saes: Sequence[SAE],
    fit: ContrastSet | Activations,
    choose: ContrastSet,
    report: ContrastSet,
    *,
    k: int = 3,
    neutral: Sequence[str] | SupportsIndex | None = None,
    budget: float = BUDGET,
    utility_drop: float = UTILITY_DROP,
    positions: Positions | None = None,
    nulls: int = 20,
    effects: Sequence[EffectMap] | None = None,
    targeted: int = 128,
    seed: int = 0,
    progress: bool = True,
    cells: Cells | None = None,
) -> FeatureComparison:
    """SAE features against DiffMean and against chance, per layer, at equal cost.

    The arms, each with up to k candidates of both signs, of which one per layer is chosen on
    `choose`:

    - feature by contrast: the k features that separate the sides of `fit` best (AUROC);
    - features together: their sum, each by how much more the positive side activates it;
    - feature by effect: the k features with the largest effect on `choose`, of all;
    - SAE-TS: for each of the first k, the vector that should raise it and leave the others;
    - DiffMean: the difference of the means of `fit`;
    - random direction by effect: found by the same two steps among as many random directions as
      there are living features. "Feature by effect" must exceed it to be more than the best of
      many.

    The controls, repeated `nulls` times, are k random living features and k random directions.

    Every direction is as long as costs `budget` of KL on ordinary text, and in a second comparison
    of the same choices as long as costs `utility_drop` of utility on `choose`. `report` has no part
    in any search, length or choice.

    Args:
        saes: One per site.
        fit: Pairs, or activations already read from them at the SAEs' sites.
        k: Candidates of each arm.
        neutral: Ordinary texts; the first, third, … set the lengths, and the others measure what
            these cost; or how many of them the unsteered model writes, 64 by default.
        nulls: Repetitions of the controls; 20 allow p = 0.048 at the best. With 0 there are no
            controls and no p-values.
        effects: What SAE-TS learnt at each site (`fit_effects`), without any knowledge of the
            contrast; by default it is learnt here.
        targeted: Decoder rows from which it is learnt; 0 leaves SAE-TS out.
        cells: Where the numbers of each site are kept as soon as they are known.

    Raises:
        ValueError: For questions that splits share or that cannot be scored, two SAEs at one site,
            or too few texts or nulls.
        SAEError: If an SAE was not made for the model's stream.
        DamagedFile: If `cells` hold numbers that were made with other settings.
    """
    model = as_model(model)
    positions = positions or Positions.from_prompt_end()
    kept = cells_or_none(cells, "comparison", progress)
    texts, _ = given_or_written(model, neutral, seed, kept)
    require_settings(budget=budget, utility_drop=utility_drop, targeted=targeted, nulls=nulls, k=k)
    _require_data(model, saes, fit, choose, report, texts)
    for sae in saes:
        _require_candidates(sae, fit, targeted if effects is None else 0)
    learnt = _learnt(saes, effects)
    if isinstance(fit, Activations):
        read = fit
    else:
        read = read_activations(model, fit, [sae.site for sae in saes], progress=progress)
    made_by = {
        **model.facts,
        "question": f"Do SAE features steer towards {choose.name} better than DiffMean?",
        "data_name": choose.name,
        "fit": read.data,
        "choose": choose.hash,
        "report": report.hash,
        "neutral": _digest("\n".join(texts)),
        "k": k,
        "nulls": nulls,
        "positions": repr(positions),
        "targeted": targeted,
        "seed": seed,
    }
    parts = []
    with kept.bar(len(saes), "layer") as bar:
        for sae, effect in zip(saes, learnt, strict=True):
            settings = {**made_by, "budget": budget, "utility_drop": utility_drop}
            if effect is not None:
                settings["effects"] = effect.digest
            here = kept.part(
                sae.site.hook, sae=sae.hash, **{n: str(s) for n, s in settings.items()}
            )
            unit = here.compute(
                "numbers",
                lambda sae=sae, effect=effect: _at_one_site(
                    model, _with_norm(sae, read), read, choose, report, texts, effect, k=k,
                    budget=budget, utility_drop=utility_drop, positions=positions, nulls=nulls,
                    targeted=targeted, seed=seed, progress=progress,
                ),
            )  # fmt: skip
            arms = ARMS if targeted or effect is not None else ARMS_WITHOUT_TARGETED
            parts.append(_part(unit, sae, arms, budget, utility_drop, made_by))
            bar.update()
    return FeatureComparison.joined(parts)


def _at_one_site(
    model: Model,
    sae: SAE,
    read: Activations,
    choose: ContrastSet,
    report: ContrastSet,
    texts: Sequence[str],
    effects: EffectMap | None,
    *,
    k: int,
    budget: float,
    utility_drop: float,
    positions: Positions,
    nulls: int,
    targeted: int,
    seed: int,
    progress: bool,
) -> Unit:
    """The numbers of one SAE, which do not depend on the others."""
    chosen_texts, report_texts = text_halves(texts)
    # Another seed for each site, or the random directions would be the same at all of them.
    seed = zlib.crc32(f"{seed} {sae.site}".encode())
    contrast = rank_by_contrast(sae, read, seed=seed)
    if effects is None and targeted:
        effects = _fit(model, sae, targeted, chosen_texts, positions, seed, progress)
    candidates = [
        *arm_candidates(
            model, sae, read, contrast, choose, k, positions, effects, seed, progress
        ),
        *control_candidates(sae, k, nulls, seed),
    ]  # fmt: skip
    lengths = lengths_of_equal_kl(
        model, [c.signed for c in candidates], chosen_texts, kl=budget, positions=positions,
        progress=progress,
    )  # fmt: skip
    gains = choosing_gains(model, choose, candidates, lengths, positions, progress)
    chosen = choose_candidates(candidates, gains)
    by_utility = lengths_of_equal_utility(
        model, [candidates[i].signed for i in chosen.values()], choose, drop=utility_drop,
        positions=positions, steps=9, progress=progress,
    )  # fmt: skip
    at_equal = {
        cost: held_out_comparison(
            model, report, report_texts, chosen, candidates, chosen_lengths, gains,
            arms=ARMS if effects is not None else ARMS_WITHOUT_TARGETED, nulls=nulls,
            positions=positions, progress=progress,
        ).tensors()
        for cost, chosen_lengths in (
            ("kl", lengths[list(chosen.values())]), ("utility", by_utility),
        )
    }  # fmt: skip
    top, offered = ranked_features(candidates, gains, k)
    explained = math.nan if effects is None else float(effects.explained[top[top >= 0]].mean())
    return {
        "norms": torch.tensor([float(sae.resid_norm or 0)]),
        "candidates": top,
        "candidate_gains": offered,
        "found_p": torch.tensor([contrast.p_value(contrast.order[0])]),
        "effects_explained": torch.tensor(explained, dtype=torch.float64),
        **{f"{cost}.{n}": x for cost, numbers in at_equal.items() for n, x in numbers.items()},
    }


def _part(
    unit: Unit,
    sae: SAE,
    arms: tuple[str, ...],
    budget: float,
    utility_drop: float,
    made_by: dict[str, Any],
) -> FeatureComparison:
    """The comparison of one SAE, of its numbers."""
    at_equal = {
        cost: PairedComparison(
            arms,
            CONTROLS,
            **{n.removeprefix(f"{cost}."): x for n, x in unit.items() if n.startswith(f"{cost}.")},
        )
        for cost in ("kl", "utility")
    }
    explained = float(unit["effects_explained"])
    return FeatureComparison(
        sites=(sae.site,),
        norms=unit["norms"],
        at_equal_kl=at_equal["kl"],
        at_equal_utility=at_equal["utility"],
        candidates=unit["candidates"],
        candidate_gains=unit["candidate_gains"],
        found_p=unit["found_p"],
        budget=budget,
        utility_drop=utility_drop,
        made_by={
            **made_by,
            "saes": [sae.name],
            "hashes": [sae.hash],
            "d_sae": [sae.d_sae],
            "effects_explained": [None if math.isnan(explained) else explained],
        },
    )


def _learnt(saes: Sequence[SAE], effects: Sequence[EffectMap] | None) -> list[EffectMap | None]:
    """The effect map that was given for each site."""
    if effects is None:
        return [None] * len(saes)
    known: dict[Site, EffectMap | None] = {e.site: e for e in effects}
    if missing := [str(sae.site) for sae in saes if sae.site not in known]:
        raise ValueError(
            f"There is no effect map for {', '.join(missing)}. Give one for each SAE, "
            "or none, and they are fitted here."
        )
    return [known[sae.site] for sae in saes]


def _fit(
    model: Model,
    sae: SAE,
    targeted: int,
    texts: Sequence[str],
    positions: Positions,
    seed: int,
    progress: bool,
) -> EffectMap:
    prompts = openings(model, texts, OPENINGS)
    new_tokens = min(NEW_TOKENS, model.n_ctx - max(len(model.ids(p)) for p in prompts))
    return fit_effects(
        model, sae, prompts, vectors=targeted, new_tokens=new_tokens, positions=positions,
        seed=seed, progress=progress,
    )  # fmt: skip


def _with_norm(sae: SAE, read: Activations) -> SAE:
    if sae.resid_norm is not None:
        return sae
    return replace(sae, resid_norm=float(read.resid_norms[read.index(sae.site)]))


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:32]


# What is refused


def require_settings(
    *, budget: float, utility_drop: float, targeted: int, nulls: int, k: int
) -> None:
    """Raises ValueError for costs, counts and numbers of nulls that cannot work."""
    for name, cost in (("budget", budget), ("utility_drop", utility_drop)):
        if not (cost > 0 and math.isfinite(cost)):
            raise ValueError(f"{name}={cost} is not a cost. Give nats above 0.")
    if targeted and targeted < LEAST:
        raise ValueError(
            f"targeted={targeted} vectors are too few to learn effects from. Give {LEAST} or more, "
            "or 0 to leave SAE-TS out."
        )
    if 0 < nulls < 19 or nulls < 0:
        raise ValueError(
            f"nulls={nulls} random searches allow no p-value of 0.05. Give at least 19 nulls, or 0 "
            "for no controls and no p-values."
        )
    if k < 1:
        raise ValueError(f"k={k} candidates leave no choice. Give at least one for each arm.")


def _require_data(
    model: Model,
    saes: Sequence[SAE],
    fit: ContrastSet | Activations,
    choose: ContrastSet,
    report: ContrastSet,
    texts: list[str],
) -> None:
    if not saes:
        raise ValueError("There is no SAE to compare. Give at least one.")
    sites = [sae.site for sae in saes]
    if len(set(sites)) < len(sites):
        raise ValueError(
            f"Two SAEs are at one site ({', '.join(map(str, sites))}). Compare them in two calls, "
            "with the same seed."
        )
    for sae in saes:
        sae.require_fits(model)
    require_disjoint(fit=fit, choose=choose, report=report)
    if len(texts) < 4 or min(len(choose), len(report)) < 2:
        raise ValueError(
            f"{len(texts)} neutral texts, {len(choose)} choosing and {len(report)} reporting "
            "questions are too few: at least 4 texts and 2 questions each are needed."
        )
    for part in (choose, report):
        questions(model, part)


def _require_candidates(sae: SAE, fit: ContrastSet | Activations, targeted: int) -> None:
    if isinstance(fit, Activations):
        fit.index(sae.site)
        require_same_model(sae, fit)
    living = len(alive(sae))
    if living < (LEAST if targeted else 1):
        raise SAEError(
            f"{sae.name!r} has {living} living features, which are too few to choose from"
            + (f" and to learn effects from ({LEAST}; or targeted=0)." if targeted else ".")
        )
