"""Do SAE features steer better than the difference of means, at equal cost, beyond chance?

Features are found on one split, senses and candidates are chosen on a second, and what was chosen
is measured on a third, every direction made as long as costs the same. Beside it stands what the best
of a few random features or directions reaches, and the best of as many random directions as there
are features.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from steerlens.analyses.features.candidates import Candidate, control_candidates, real_candidates
from steerlens.analyses.features.contest import Contest
from steerlens.analyses.features.feature_comparison import (
    ARMS,
    BY_CONTRAST,
    CONTROLS,
    TARGETED,
    FeatureComparison,
)
from steerlens.analyses.features.feature_effects import LEAST, EffectMap, fit_effects
from steerlens.analyses.features.feature_texts import openings
from steerlens.analyses.features.rank_features import alive, by_contrast, require_same_model
from steerlens.analyses.question_splits import require_disjoint
from steerlens.data import ContrastSet
from steerlens.directions import Activations
from steerlens.interventions.residual import Add
from steerlens.measures import scores
from steerlens.measures.divergence import divergence
from steerlens.measures.equal_cost import lengths_of_equal_kl, lengths_of_equal_utility
from steerlens.measures.reading import activations as read_activations
from steerlens.measures.sweep import sweep
from steerlens.measures.tokenised import neutral_texts_of, questions
from steerlens.models.model import Model, as_model
from steerlens.saes.sae import SAE, SAEError
from steerlens.sites import Positions, Site
from steerlens.units import BUDGET

OPENINGS, NEW_TOKENS = 48, 16
"""Texts that SAE-TS learns from, under every vector, and tokens written after each."""
UTILITY_DROP = 0.5
"""Nats of the utility log-odds that steering may cost, where utility is the cost."""


def compare_features(
    model: Model,
    saes: Sequence[SAE],
    fit: ContrastSet | Activations,
    choose: ContrastSet,
    report: ContrastSet,
    *,
    k: int = 3,
    neutral: Sequence[str] | None = None,
    budget: float = BUDGET,
    utility_drop: float = UTILITY_DROP,
    positions: Positions | None = None,
    nulls: int = 20,
    effects: Sequence[EffectMap] | None = None,
    targeted: int = 128,
    seed: int = 0,
    progress: bool = True,
    have: Callable[[Site], FeatureComparison | None] | None = None,
    done: Callable[[Site, FeatureComparison], object] | None = None,
) -> FeatureComparison:
    """SAE features against DiffMean and against chance, per layer, at equal cost.

    The arms, each with up to k candidates in both senses, of which `choose` picks one per layer:

    - feature by contrast: the k features that tell the sides of `fit` apart best (AUROC);
    - features together: their sum, each by how much more the positive side activates it;
    - feature by effect: the k features with the largest effect on `choose`, of all;
    - SAE-TS: for each of the first k, the vector that should raise it and leave the others;
    - DiffMean: the difference of the means of `fit`;
    - random direction by effect: searched for in the same two steps, among as many random
      directions as there are living features: what "feature by effect" must beat;

    and as controls, repeated `nulls` times, k random living features, and k random directions.

    Every direction is made as long as costs `budget` of KL on ordinary text, and again as long as
    costs `utility_drop` of utility on `choose` (keeping who was picked); `report` had no part in
    any of it.

    Args:
        saes: One per site.
        fit: Pairs, or activations already read from them at the saes' sites.
        k: Candidates of each arm.
        neutral: Ordinary texts; the first half sets the lengths, the second half measures what
            they cost. By default those of `choose`.
        nulls: Repetitions of the controls; 20 allow p = 0.048 at the best.
        effects: What SAE-TS learnt at each site (`fit_effects`), which knows nothing of the
            contrast; by default it is learnt here.
        targeted: Decoder rows from which it is learnt; 0 leaves SAE-TS out.
        have: Gives what was found at a site before, if anything.
        done: Called with what was found at each site, as soon as it is; sites do not depend on
            each other.

    Raises:
        ValueError: For questions that splits share or that cannot be scored, two SAEs at
            one site, or too few texts or nulls.
        SAEError: If an SAE was not made for the model's stream.
    """
    model = as_model(model)
    positions = positions or Positions.from_prompt_end()
    texts = list(neutral or neutral_texts_of(choose))
    require_costs(budget, utility_drop, targeted)
    _check(model, saes, fit, choose, report, texts, nulls, k)
    for sae in saes:
        _require_candidates(sae, fit, targeted if effects is None else 0)
    learnt = _learnt(saes, effects)
    if isinstance(fit, Activations):
        read = fit
    else:
        read = read_activations(model, fit, [d.site for d in saes], progress=progress)
    made_by = {
        "question": f"Do SAE features steer towards {choose.name} better than DiffMean?",
        "model": model.name,
        "fingerprint": model.fingerprint,
        "data_name": choose.name,
        "fit": read.data,
        "choose": choose.hash,
        "report": report.hash,
        "neutral": sha256("\n".join(texts).encode()).hexdigest()[:32],
        "k": k,
        "nulls": nulls,
        "positions": repr(positions),
        "targeted": targeted,
        "seed": seed,
    }
    known = {d.site: None if have is None else have(d.site) for d in saes}
    for sae in saes:
        _require_same_work(known[sae.site], sae, made_by, budget, utility_drop)
    parts = []
    for sae, effect in tqdm(
        list(zip(saes, learnt, strict=True)), desc="layers", disable=not progress
    ):
        part = known[sae.site]
        if part is None:
            part = _at_one_site(
                model, _with_norm(sae, read), read, choose, report, texts, effect, k=k,
                budget=budget, utility_drop=utility_drop, positions=positions, nulls=nulls,
                targeted=targeted, seed=seed, made_by=made_by, progress=progress,
            )  # fmt: skip
            if done is not None:
                done(sae.site, part)
        parts.append(part)
    return FeatureComparison.joined(parts)


def _require_same_work(
    part: FeatureComparison | None,
    sae: SAE,
    made_by: dict[str, Any],
    budget: float,
    utility_drop: float,
) -> None:
    """Raises ValueError if what was found before is not what would be found now."""
    if part is None:
        return
    now = {**made_by, "hashes": [sae.hash], "budget": budget, "utility_drop": utility_drop}
    costs = {"budget": part.budget, "utility_drop": part.utility_drop}
    before = {**part.made_by, **costs}
    if differing := [name for name, value in now.items() if before.get(name) != value]:
        raise ValueError(
            f"What was found before at {sae.site} was found with another "
            f"{', '.join(differing)}. Begin anew in another folder."
        )


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
    made_by: dict[str, Any],
    progress: bool,
) -> FeatureComparison:
    """The comparison of one SAE, which knows of no other."""
    chosen_texts, report_texts = texts[::2], texts[1::2]
    # Another for each site, or random directions would be the same at all.
    seed = zlib.crc32(f"{seed} {sae.site}".encode())
    contrast = by_contrast(sae, read, seed=seed)
    if effects is None and targeted:
        effects = _fit(model, sae, targeted, chosen_texts, positions, seed, progress)
    candidates = [
        *real_candidates(model, sae, read, contrast, choose, k, positions, effects, seed, progress),
        *control_candidates(sae, k, nulls, seed),
    ]
    lengths = lengths_of_equal_kl(
        model, [c.turned for c in candidates], chosen_texts, kl=budget, positions=positions,
        progress=progress,
    )  # fmt: skip
    gains = _gains_on(model, choose, candidates, lengths, positions, progress)
    picked = _picked(candidates, gains)
    chosen = [candidates[i] for i in picked.values()]
    by_utility = lengths_of_equal_utility(
        model, [c.turned for c in chosen], choose, drop=utility_drop, positions=positions, steps=9,
        progress=progress,
    )  # fmt: skip

    def measured(chosen_lengths: Tensor) -> Contest:
        return _contest(
            model, report, report_texts, picked, candidates, chosen_lengths, gains,
            effects is not None, nulls, positions, progress,
        )  # fmt: skip

    top, offered = _offered(candidates, gains, k)
    explained = None if effects is None else float(effects.explained[top[top >= 0]].mean())
    return FeatureComparison(
        sites=(sae.site,),
        norms=torch.tensor([float(sae.resid_norm or 0)]),
        at_equal_kl=measured(lengths[list(picked.values())]),
        at_equal_utility=measured(by_utility),
        candidates=top,
        candidate_gains=offered,
        found_p=torch.tensor([contrast.p_value(contrast.order[0])]),
        budget=budget,
        utility_drop=utility_drop,
        made_by={
            **made_by,
            "saes": [sae.name],
            "hashes": [sae.hash],
            "d_sae": [sae.d_sae],
            "effects_explained": [explained],
        },
    )


def _learnt(saes: Sequence[SAE], effects: Sequence[EffectMap] | None) -> list[EffectMap | None]:
    """What SAE-TS was given to know at each site."""
    if effects is None:
        return [None] * len(saes)
    known: dict[Site, EffectMap | None] = {e.sae.site: e for e in effects}
    if missing := [str(d.site) for d in saes if d.site not in known]:
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


# The contest

_Key = tuple[str, int]
"""Arm and draw."""


def _gains_on(
    model: Model,
    pairs: ContrastSet,
    candidates: Sequence[Candidate],
    lengths: Float[Tensor, " candidate"],
    positions: Positions,
    progress: bool,
) -> Float[Tensor, " candidate"]:
    """Mean gain of every candidate at its length; NaN where it has none."""
    out = torch.full((len(candidates),), math.nan)
    able = torch.isfinite(lengths).nonzero()[:, 0].tolist()
    if able:
        edits = [Add(candidates[i].turned, positions, float(lengths[i])) for i in able]
        swept = sweep(
            model, pairs, edits, (0.0, 1.0), log_odds_only=True, label="choosing",
            progress=progress,
        ).log_odds  # fmt: skip
        out[able] = (swept[:, 1] - swept[:, 0]).mean(-1)
    return out


def _picked(candidates: Sequence[Candidate], gains: Tensor) -> dict[_Key, int]:
    """The candidate of each arm and draw with the largest gain."""
    gains = gains.nan_to_num(nan=-math.inf)
    best: dict[_Key, int] = {}
    for i, candidate in enumerate(candidates):
        key = candidate.arm, candidate.draw
        if key not in best or gains[i] > gains[best[key]]:
            best[key] = i
    return best


def _contest(
    model: Model,
    report: ContrastSet,
    texts: Sequence[str],
    picked: dict[_Key, int],
    candidates: Sequence[Candidate],
    lengths: Float[Tensor, " pick"],
    choosing: Float[Tensor, " candidate"],
    with_targeted: bool,
    nulls: int,
    positions: Positions,
    progress: bool,
) -> Contest:
    """What was picked, measured on questions and texts that had no part in it."""
    keys = list(picked)
    able = torch.isfinite(lengths).nonzero()[:, 0].tolist()
    gains = torch.full((len(keys), len(report)), math.nan)
    utilities, kl = gains.clone(), torch.full((len(keys), len(texts)), math.nan)
    if able:
        edits = [
            Add(candidates[picked[keys[i]]].turned, positions, float(lengths[i])) for i in able
        ]
        swept = sweep(model, report, edits, (0.0, 1.0), label="reporting", progress=progress)
        utility = scores.utility(swept).value
        gains[able] = swept.log_odds[:, 1] - swept.log_odds[:, 0]
        utilities[able] = utility[:, 1] - utility[:, 0]
        kl[able] = divergence(model, texts, edits, (0.0, 1.0), progress=progress)[:, 1]
    arms = tuple(arm for arm in ARMS if arm != TARGETED or with_targeted)

    def arranged(values: Tensor, names: Sequence[str], draws: int) -> Tensor:
        out = torch.full((len(names), draws, 1, *values.shape[1:]), math.nan)
        for i, (arm, draw) in enumerate(keys):
            if arm in names:
                out[names.index(arm), draw, 0] = values[i].to(out)
        return out

    pick = list(picked.values())
    facts: dict[str, Tensor] = {
        "gains": gains,
        "utilities": utilities,
        "kl": kl,
        "lengths": lengths.float(),
        "chosen_gains": choosing[pick],
    }
    real = {name: arranged(value, arms, 1)[:, 0] for name, value in facts.items()}
    control = {f"control_{n}": arranged(value, CONTROLS, nulls) for n, value in facts.items()}
    of = {name: torch.tensor([getattr(candidates[i], name) for i in pick]) for name in (
        "feature", "sense",
    )}  # fmt: skip
    return Contest(
        arms=arms,
        controls=CONTROLS,
        features=arranged(of["feature"], arms, 1)[:, 0].nan_to_num(-1).long(),
        senses=arranged(of["sense"], arms, 1)[:, 0].nan_to_num(0).long(),
        **real,
        **control,
    )


def _offered(candidates: Sequence[Candidate], gains: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The features by contrast, by rank, and the gain of each in its better sense."""
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


# What is refused


def _check(
    model: Model,
    saes: Sequence[SAE],
    fit: ContrastSet | Activations,
    choose: ContrastSet,
    report: ContrastSet,
    texts: list[str],
    nulls: int,
    k: int,
) -> None:
    if not saes:
        raise ValueError("There is no SAE to compare. Give at least one.")
    sites = [sae.site for sae in saes]
    if len(set(sites)) < len(sites):
        raise ValueError(
            f"Two SAEs are at one site ({', '.join(map(str, sites))}). Compare them in two "
            "calls, with the same seed."
        )
    for sae in saes:
        sae.require_fits(model)
    require_disjoint(fit=fit, choose=choose, report=report)
    if len(texts) < 4 or min(len(choose), len(report)) < 2 or nulls < 19 or k < 1:
        raise ValueError(
            f"{len(texts)} neutral texts, {len(choose)} choosing and {len(report)} reporting "
            f"questions, {nulls} nulls and k={k} are too few: at least 4 texts, 2 questions each, "
            "19 nulls and k=1 are needed."
        )
    for part in (choose, report):
        questions(model, part)


def require_costs(budget: float, utility_drop: float, targeted: int) -> None:
    """Raises ValueError for costs that no vector can be made to have."""
    for name, cost in (("budget", budget), ("utility_drop", utility_drop)):
        if not (cost > 0 and math.isfinite(cost)):
            raise ValueError(f"{name}={cost} is no cost. Give nats above 0.")
    if targeted and targeted < LEAST:
        raise ValueError(
            f"targeted={targeted} vectors are too few to learn effects from. Give {LEAST} or more, "
            "or 0 to leave SAE-TS out."
        )


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


def _with_norm(sae: SAE, read: Activations) -> SAE:
    if sae.resid_norm is not None:
        return sae
    found: Any = read.resid_norms[read.index(sae.site)]
    return replace(sae, resid_norm=float(found))
