"""A condition found on prompts that have something and prompts that do not (CAST)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steerlens import plots, stats
from steerlens.data.contrast_set import PairsLike, as_contrast_set
from steerlens.directions import Activations, Direction
from steerlens.directions.methods import PCA
from steerlens.directions.methods.method import Method
from steerlens.interventions.conditional import (
    Condition,
    Similarity,
    prompt_means,
    similarity_to,
)
from steerlens.models.model import Model, as_model
from steerlens.report.numbers import format_interval
from steerlens.results.summary_lines import labelled
from steerlens.sites import Positions, Site, SiteLike, as_sites
from steerlens.stats import Interval, group_numbers

if TYPE_CHECKING:
    import plotly.graph_objects as go

TEXTS = 16
"""Texts read at once."""


@dataclass(frozen=True, eq=False, repr=False)
class Triggers:
    """How often a condition holds for prompts that have what is meant, and for those that do not."""

    condition: Condition
    held: Bool[Tensor, "pair side"]
    """Whether it held; first for the prompts that have it."""
    groups: tuple[str, ...]

    @property
    def true(self) -> Interval:
        """Share of prompts that have it for which the condition holds, with its 95% interval."""
        return self._share(0)

    @property
    def false(self) -> Interval:
        """Share of prompts that do not have it for which the condition holds all the same."""
        return self._share(1)

    def _share(self, side: int) -> Interval:
        held = self.held[:, side].float()
        value, low, high = stats.mean_interval(held, group_numbers(self.groups), least=0.0)
        return Interval(float(value), float(low), min(1.0, float(high)))

    def __repr__(self) -> str:
        true, false = (format_interval(one, _percent) for one in (self.true, self.false))
        return f"{self.condition}: holds for {true} of those that have it, {false} of the others"


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ConditionSearch:
    """Scores of prompts at every site, from which a condition is chosen by its ROC."""

    directions: tuple[Direction, ...]
    """One per site, fitted on other prompts."""
    scores: Float[Tensor, "site pair side"]
    """First those of the prompts that have it."""
    groups: tuple[str, ...]
    similarity: Similarity
    positions: Positions

    @property
    def sites(self) -> tuple[Site, ...]:
        """Where conditions were looked for."""
        return tuple(direction.site for direction in self.directions)

    @property
    def auroc(
        self,
    ) -> tuple[Float[Tensor, " site"], Float[Tensor, " site"], Float[Tensor, " site"]]:
        """AUROC of the scores at every site, with its 95% interval over groups: value, low, high.

        Below one half the condition holds below its threshold.
        """
        return stats.auroc_interval(self.scores, group_numbers(self.groups))

    def roc(
        self, site: SiteLike
    ) -> tuple[Float[Tensor, " step"], Float[Tensor, " step"], Float[Tensor, " step"]]:
        """Thresholds between all scores of a site, with the shares of false and true triggers.

        Returns:
            Thresholds from the highest on; of each the share of prompts without and with it whose
            score is above.
        """
        own = self.scores[self._index(site)].double()
        ordered = own.flatten().unique().flip(0)
        gap = (ordered[:1] - ordered[-1:]).clamp(min=1e-6)
        between = (ordered[1:] + ordered[:-1]) / 2
        thresholds = torch.cat([ordered[:1] + gap, between, ordered[-1:] - gap])
        true, false = ((own[:, side] > thresholds[:, None]).double().mean(-1) for side in (0, 1))
        return thresholds.float(), false.float(), true.float()

    def best(self, site: SiteLike | None = None) -> Condition:
        """The condition with the highest F1, of one site or of all.

        It is the best of many on these prompts: `report` says how it does on others.
        """
        looked = self.sites if site is None else (self.sites[self._index(site)],)
        found = [(*self._best_at(one), one) for one in looked]
        _, threshold, above, where = max(found, key=lambda each: each[0])
        direction = self.directions[self.sites.index(where)]
        return Condition(direction, threshold, above, self.similarity, self.positions)

    def _best_at(self, site: Site) -> tuple[float, float, bool]:
        """F1, threshold and side."""
        thresholds, false, true = (x.double() for x in self.roc(site))
        found = []
        for above in (True, False):
            hit, wrong = (true, false) if above else (1 - true, 1 - false)
            f1 = 2 * hit / (1 + hit + wrong)  # as many prompts with it as without
            k = int(f1.argmax())
            found.append((float(f1[k]), float(thresholds[k]), above))
        return max(found, key=lambda each: each[0])

    def _index(self, site: SiteLike) -> int:
        (one,) = as_sites(site)
        if one not in self.sites:
            raise ValueError(f"No condition was looked for at {one}. Use one of {self.sites}.")
        return self.sites.index(one)

    def summary(self) -> str:
        """AUROC and best F1 of every site, and the condition that is best of all."""
        lines = [f"Condition by {self.similarity}, {len(self.groups)} + {len(self.groups)} prompts"]
        for k, site in enumerate(self.sites):
            value, low, high = (float(x[k]) for x in self.auroc)
            shown = format_interval(Interval(value, low, high), lambda x: f"{x:.2f}")
            f1, threshold, above = self._best_at(site)
            side = ">" if above else "<"
            lines.append(
                labelled(str(site), f"AUROC {shown}, F1 {f1:.2f} at {side} {threshold:.3g}")
            )
        return "\n".join([*lines, f"best: {self.best()}"])

    def plot(self) -> go.Figure:
        """The ROC of the site with the best condition, with its threshold marked."""
        best = self.best()
        site = best.direction.site
        thresholds, false, true = self.roc(site)
        if not best.above:
            false, true = 1 - false.flip(0), 1 - true.flip(0)
            thresholds = thresholds.flip(0)
        k = int((thresholds - best.threshold).abs().argmin())
        return plots.roc_curve(
            false.tolist(), true.tolist(), thresholds=thresholds.tolist(), chosen=k,
            title=f"When the condition at {site} holds",
        )  # fmt: skip

    def __repr__(self) -> str:
        return self.summary()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        return self.plot()._repr_mimebundle_(include, exclude)


def find_condition(
    model: Model,
    fit: PairsLike,
    choose: PairsLike,
    sites: SiteLike | Iterable[SiteLike] | None = None,
    *,
    method: Method | None = None,
    similarity: Similarity = "tanh",
    positions: Positions | None = None,
) -> ConditionSearch:
    """Looks at every site for a condition that tells prompts apart.

    The positive text of each pair is a prompt that has what is meant, its prompt included, and the
    negative text one that does not. Directions are fitted on `fit` and scored on `choose`; report
    the triggers of what is chosen on a third part (`triggers`).

    Args:
        sites: By default resid_post of every layer.
        method: By default the published one: the first principal component of all texts, each pair
            centred on its own middle, which is that of the differences.
        positions: The tokens whose mean is read; by default all but special ones.

    Raises:
        ValueError: If both parts share a group, or a text is empty or too long.

    Source: CAST, arXiv:2409.05907: range of layers, threshold and side by the highest F1. Departures:
    all thresholds between two scores are tried instead of steps of .01, and other prompts choose than
    fit; one layer holds the condition instead of several that vote; it is read where it was fitted,
    while the authors' code fits what leaves a layer and reads what enters the layer of that number.
    """
    model, fitted, chosen = as_model(model), as_contrast_set(fit), as_contrast_set(choose)
    if shared := set(fitted.groups) & set(chosen.groups):
        raise ValueError(
            f"The prompts that fit and those that choose share {len(shared)} groups, e.g. "
            f"{sorted(shared)[0]!r:.80}. Split them: fit, choose, report = pairs.split(seed=0)."
        )
    where = model.sites() if sites is None else as_sites(sites)
    rule = Positions.all() if positions is None else positions
    sides = _means(model, fitted, where, rule)
    read = Activations(
        positive=sides[0],
        negative=sides[1],
        sites=where,
        groups=fitted.groups,
        resid_norms=sides.norm(dim=-1).flatten(0, 1).median(0).values,
        paired=fitted.paired,
        processing=model.processing,
        read_at=f"mean of {rule}",
        model=model.name,
        fingerprint=model.fingerprint,
        data=fitted.hash,
        dtype=model.dtype,
        revision=model.revision or "",
    )
    directions = tuple(read.directions(PCA() if method is None else method))
    others = _means(model, chosen, where, rule)
    scores = [
        similarity_to(direction, others[:, :, k], similarity).T
        for k, direction in enumerate(directions)
    ]
    return ConditionSearch(
        directions=directions,
        scores=torch.stack(scores),
        groups=chosen.groups,
        similarity=similarity,
        positions=rule,
    )


def triggers(model: Model, condition: Condition, pairs: PairsLike) -> Triggers:
    """How often a condition holds for the positive and, falsely, for the negative texts of pairs.

    Report it on pairs that neither fitted nor chose the condition.
    """
    model, given = as_model(model), as_contrast_set(pairs)
    site = condition.direction.site
    means = _means(model, given, (site,), condition.positions)[:, :, 0]
    return Triggers(condition, condition.holds(condition.scores(means)).T, given.groups)


def _means(
    model: Model, pairs: Any, sites: Sequence[Site], positions: Positions
) -> Float[Tensor, "side pair site d_model"]:
    """The mean stream of whole texts, both sides of every pair."""
    texts = [p.prompt + p.positive for p in pairs] + [p.prompt + p.negative for p in pairs]
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    found = torch.empty(len(texts), len(sites), model.width(sites[0]))
    for k in range(0, len(texts), TEXTS):
        some = order[k : k + TEXTS]
        batch = model.tokens([texts[i] for i in some])
        streams = model.cache(batch, sites)
        means = [prompt_means(streams[site], batch, positions) for site in sites]
        found[some] = torch.stack(means, 1).cpu()
    return found.unflatten(0, (2, -1))


def _percent(share: float) -> str:
    return f"{share:.0%}"
