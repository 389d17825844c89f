"""The features of an SAE that stand for a concept, by what they read, write and do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from steerlens import stats
from steerlens.analyses.features.excerpts import excerpts, read_texts
from steerlens.analyses.features.feature_contrast import FeatureContrast, rank_by_contrast
from steerlens.analyses.features.feature_ranking import FeatureRanking, FoundFeature
from steerlens.analyses.features.feature_writing import Written, output_scores, written_tokens
from steerlens.analyses.features.rank_features import MULTIPLIER, alive, rank_by_effect
from steerlens.analyses.question_splits import question_groups
from steerlens.data import ContrastPair, ContrastSet
from steerlens.directions import Activations
from steerlens.measures.reading import activations as read_activations
from steerlens.models.model import Model, as_model
from steerlens.saes.sae import SAE
from steerlens.sites import Positions

By = Literal["contrast", "effect", "output"]
SHOWN = 5
"""Texts that are kept of each feature."""


def find_features(
    model: Model,
    sae: SAE,
    fit: ContrastSet | Activations | None,
    *,
    k: int = 10,
    by: By = "contrast",
    features: Sequence[int] | None = None,
    pairs: Sequence[ContrastPair] | ContrastSet | None = None,
    texts: Sequence[str] | None = None,
    prompts: Sequence[str] | None = None,
    multiplier: float = MULTIPLIER,
    positions: Positions | None = None,
    shuffles: int = 100,
    seed: int = 0,
    progress: bool = True,
) -> FeatureRanking:
    """The k features that stand for a contrast best, and what they read, write and do.

    Args:
        fit: Pairs, or activations already read from them at the SAE's site.
        by: What the order is by: "contrast" (AUROC on `fit`), "effect" (gain on `pairs`), or
            "output" (output score on `prompts`, which does not depend on the contrast).
        features: These features in this order instead of the best ones; `fit` may then be None.
        pairs: Questions with two answers, for the effect.
        texts: Ordinary texts, for what the features read.
        prompts: Texts that fit any continuation, for the output score.
        multiplier: Length of what is added for the effect, in median residual norms.

    Raises:
        ValueError: If the order is by something whose data are not given.
        SAEError: If the SAE was not made for the model's stream, or has no such feature.
    """
    model = as_model(model)
    sae.require_fits(model)
    _require_data(by, features, fit, pairs, prompts)
    read = (
        read_activations(model, fit, [sae.site], progress=progress)
        if isinstance(fit, ContrastSet)
        else fit
    )
    contrast = None if read is None else rank_by_contrast(sae, read, shuffles=shuffles, seed=seed)
    towards = (lambda feature: 1) if contrast is None else contrast.towards
    if features is not None:
        sae.require_features(features)
        order, by_name = list(features), "choice"
    elif by == "effect":
        effects = rank_by_effect(
            model, sae, pairs or (), multiplier=multiplier, positions=positions,
            progress=progress,
        )  # fmt: skip
        order, towards, by_name = effects.order, effects.towards, by
    elif by == "output":
        living = alive(sae)
        scores = output_scores(model, sae, living, prompts or (), progress=progress)
        order = [living[i] for i in scores.mean(-1).argsort(descending=True).tolist()]
        by_name = by
    else:
        assert contrast is not None
        known = set(alive(sae))
        order, by_name = [feature for feature in contrast.order if feature in known], by
    top = order if features is not None else order[:k]
    lens = written_tokens(model, sae, top)
    columns = [
        _of_contrast(sae, read, contrast, top),
        _of_writing(model, sae, top, lens, prompts, progress),
        _of_reading(model, sae, top, lens, texts, progress),
        _of_effect(
            model, sae, pairs, {f: towards(f) for f in top}, multiplier, positions, progress
        ),
    ]
    found = [
        FoundFeature(feature, towards(feature), **{k: v for c in columns for k, v in c[i].items()})
        for i, feature in enumerate(top)
    ]
    return FeatureRanking(
        sae.site,
        by_name,
        tuple(found),
        made_by={
            **model.facts,
            "sae": sae.name,
            "sae_hash": sae.hash,
            "d_sae": sae.d_sae,
            "data": "" if read is None else read.data,
            "data_name": fit.name if isinstance(fit, ContrastSet) else "the contrast",
            "multiplier": multiplier,
            "shuffles": shuffles,
            "seed": seed,
        },
    )


_Columns = list[dict[str, Any]]
"""Some fields of `FoundFeature`, for each feature."""


def _of_contrast(
    sae: SAE,
    read: Activations | None,
    contrast: FeatureContrast | None,
    top: Sequence[int],
) -> _Columns:
    if read is None or contrast is None or not top:
        return [{} for _ in top]
    sides = [sae.read(side.to(sae.device), top).float().cpu() for side in read.at(sae.site)]
    gaps = stats.mean_interval((sides[0] - sides[1]).T, stats.group_numbers(read.groups))
    return [
        {
            "auroc": float(contrast.auroc[feature]),
            "difference": stats.Interval(*(float(part[i]) for part in gaps)),
            "p_value": contrast.p_value(feature),
        }
        for i, feature in enumerate(top)
    ]


def _of_writing(
    model: Model,
    sae: SAE,
    top: Sequence[int],
    lens: Written,
    prompts: Sequence[str] | None,
    progress: bool,
) -> _Columns:
    columns: _Columns = [
        {
            "writes": tuple(model.text([t]) for t in up),
            "unwrites": tuple(model.text([t]) for t in down),
        }
        for up, down in zip(lens.raised.tolist(), lens.lowered.tolist(), strict=True)
    ]
    if prompts is not None:
        scores = output_scores(model, sae, top, prompts, progress=progress).mean(-1)
        for column, score in zip(columns, scores.tolist(), strict=True):
            column["output_score"] = score
    return columns


def _of_reading(
    model: Model,
    sae: SAE,
    top: Sequence[int],
    lens: Written,
    texts: Sequence[str] | None,
    progress: bool,
) -> _Columns:
    if texts is None:
        return [{} for _ in top]
    reading = read_texts(model, sae, top, texts, progress=progress)
    columns: _Columns = []
    for i, feature in enumerate(top):
        score = reading.input_score(feature, lens.raised[i])
        shown = [texts[t] for t in reading.top(feature, SHOWN)]
        columns.append(
            {
                "input_score": None if math.isnan(score) else score,
                "density": float(reading.density[i]),
                "reads": tuple(excerpts(model, sae, feature, shown)),
            }
        )
    return columns


def _of_effect(
    model: Model,
    sae: SAE,
    pairs: Sequence[ContrastPair] | ContrastSet | None,
    signs: dict[int, int],
    multiplier: float,
    positions: Positions | None,
    progress: bool,
) -> _Columns:
    if pairs is None or not signs:
        return [{} for _ in signs]
    effects = rank_by_effect(
        model, sae, pairs, list(signs), multiplier=multiplier, screened=None,
        positions=positions, progress=progress,
    )  # fmt: skip
    groups = question_groups(pairs)
    columns: _Columns = []
    for gains, sign in zip(effects.gains, signs.values(), strict=True):
        down, up = (stats.interval_of_mean(side, groups) for side in gains)
        columns.append({"gain": up, "against": down} if sign > 0 else {"gain": down, "against": up})
    return columns


def _require_data(by: str, features: object, fit: object, pairs: object, prompts: object) -> None:
    data = {"contrast": ("fit", fit), "effect": ("pairs", pairs), "output": ("prompts", prompts)}
    if by not in data:
        raise ValueError(f"by={by!r} is not an order of features. Use contrast, effect or output.")
    name, given = data[by]
    if features is None and given is None:
        raise ValueError(f"by={by!r} needs {name}. Pass {name}=…, or another order.")
