"""One feature in one figure: what it reads, what it writes, what adding it does, at what cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens import plots, stats
from steerlens.analyses.features.feature_ranking import Excerpt, FeatureRanking, FoundFeature
from steerlens.analyses.features.feature_writing import written_tokens
from steerlens.analyses.features.find_features import find_features
from steerlens.analyses.question_splits import question_groups
from steerlens.data import ContrastPair, ContrastSet
from steerlens.directions import Activations
from steerlens.interventions.residual import Add
from steerlens.measures.divergence import divergence
from steerlens.measures.sweep import sweep
from steerlens.models.model import Model, as_model
from steerlens.results import Column, Result
from steerlens.saes.sae import SAE
from steerlens.sites import Positions
from steerlens.units import BUDGET, MULTIPLIERS, require_multipliers

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False, repr=False)
class FeatureCard(Result):
    """A feature and everything that was measured of it."""

    kind: ClassVar[str] = "feature_card"

    ranking: FeatureRanking
    """The table of this one feature."""
    raised: dict[str, float]
    """Token -> logits by which its decoder row raises it."""
    lowered: dict[str, float]
    multipliers: Float[Tensor, " multiplier"]
    gains: Float[Tensor, "multiplier example"] | None
    """Propensity minus the unsteered propensity, in nats."""
    kl: Float[Tensor, "multiplier text"] | None
    """Nats per token of ordinary text."""
    budget: float = BUDGET
    """Nats of KL per token, for the line in the figure."""
    name: str = ""
    """Name of the SAE."""
    made_by: dict[str, Any] = field(default_factory=dict)
    groups: Int[Tensor, " example"] | None = None
    """The group of each question, the unit of the interval; None where each is a group."""

    @property
    def found(self) -> FoundFeature:
        """The feature, and what was found about it."""
        return self.ranking[0]

    @property
    def texts(self) -> tuple[Excerpt, ...]:
        """The texts that activate it most."""
        return self.found.reads

    @property
    def facts(self) -> str:
        """Its numbers in one line."""
        f = self.found
        known = [
            ("AUROC", f.auroc), ("p", f.p_value), ("difference", f.difference),
            ("density", f.density), ("output score", f.output_score),
            ("input score", f.input_score),
        ]  # fmt: skip
        words = [
            f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in known
            if value is not None
        ]
        return "; ".join(words)

    def _gain_interval(self, gains: Tensor) -> stats.Bounds:
        found = stats.mean_interval(gains, self.groups)
        mean, low, high = (part.masked_fill(self.multipliers == 0, 0.0) for part in found)
        return mean, low, high

    def plot(self) -> go.Figure:
        """Texts it reads, tokens it writes, and its dose-response with the cost below."""
        response: dict[str, Any] = {}
        if self.gains is not None and self.kl is not None:
            response = {
                "multipliers": self.multipliers.tolist(),
                "gain": tuple(part.tolist() for part in self._gain_interval(self.gains)),
                "kl": self.kl.mean(-1).tolist(),
                "budget": self.budget,
            }
        return plots.feature_card(
            title=f"Feature {self.found.feature} at {self.ranking.site}{self.name and ', '}"
            f"{self.name}",
            note=self.facts,
            texts=[(e.tokens, list(e.activations)) for e in map(_window, self.texts)],
            raised=self.raised,
            lowered=self.lowered,
            **response,
        )

    def columns(self) -> Sequence[Column]:
        """Gain and cost of adding it, by multiplier; without questions, no columns."""
        if self.gains is None or self.kl is None:
            return []
        parts = zip(("", "_low", "_high"), self._gain_interval(self.gains), strict=True)
        axes = ("multiplier",)
        gains = [Column(f"gain{end}", axes, part) for end, part in parts]
        return [*gains, Column("kl", axes, self.kl.mean(-1))]

    def summary(self) -> str:
        """Its numbers in a line."""
        return self.ranking.summary()


def feature_card(
    model: Model,
    sae: SAE,
    feature: int,
    *,
    texts: Sequence[str],
    fit: ContrastSet | Activations | None = None,
    pairs: Sequence[ContrastPair] | ContrastSet | None = None,
    prompts: Sequence[str] | None = None,
    neutral: Sequence[str] | None = None,
    multipliers: Sequence[float] = MULTIPLIERS,
    positions: Positions | None = None,
    budget: float = BUDGET,
    tokens: int = 8,
    progress: bool = False,
) -> FeatureCard:
    """What one feature reads, writes and does, as far as data are given for it.

    Args:
        texts: Ordinary texts, for what it reads.
        fit: Pairs of a contrast, or activations read from them, for how it separates them.
        pairs: Questions with two answers, for the dose-response.
        prompts: Texts that fit any continuation, for the output score.
        neutral: Ordinary texts for the cost; by default the first 16 of `texts`.
        tokens: How many of the tokens that it raises most, and lowers most, are shown.

    Raises:
        SAEError: If there is no such feature, or the SAE was not made for the model.
    """
    model = as_model(model)
    require_multipliers(multipliers)
    sae.require_features((feature,))
    positions = positions or Positions.from_prompt_end()
    ranking = find_features(
        model, sae, fit, features=(feature,), pairs=pairs, texts=texts, prompts=prompts,
        positions=positions, progress=progress,
    )  # fmt: skip
    lens = written_tokens(model, sae, [feature], k=tokens)
    gains = kl = None
    if pairs is not None:
        edit = Add(sae.direction(feature), positions)
        swept = sweep(
            model, pairs, [edit], multipliers, log_odds_only=True, progress=progress
        ).log_odds[0]
        gains = swept - swept[[list(multipliers).index(0.0)]]
        ordinary = list(texts[:16] if neutral is None else neutral)
        kl = divergence(model, ordinary, [edit], multipliers, progress=progress)[0]
    return FeatureCard(
        ranking=ranking,
        raised=_named(model, lens.raised[0], lens.raised_by[0]),
        lowered=_named(model, lens.lowered[0].flip(0), lens.lowered_by[0].flip(0)),
        multipliers=torch.tensor(multipliers, dtype=torch.float32),
        gains=gains,
        kl=kl,
        budget=budget,
        name=sae.name,
        groups=None if pairs is None else question_groups(pairs),
        made_by=ranking.made_by,
    )


def _named(model: Model, tokens: Tensor, logits: Tensor) -> dict[str, float]:
    """Token -> logits; a token with the text of another one has its id in its name."""
    out: dict[str, float] = {}
    for token, value in zip(tokens.tolist(), logits.tolist(), strict=True):
        text = model.text([token])
        out[text if text not in out else f"{text} #{token}"] = value
    return out


def _window(excerpt: Excerpt, room: int = 76) -> Excerpt:
    """The tokens around the largest activation that fit a line, more before it than after."""
    for before in range(20, -1, -1):
        part = excerpt.around(before, before // 3)
        if sum(len(token.strip()) + 1 for token in part.tokens) <= room:
            return part
    return excerpt.around(0, 0)
