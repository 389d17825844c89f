"""What can be known of a layer before it is steered. A predictor is one function and one entry here.

Each gives one number for every site, from the contexts that a direction is fitted to, from the
questions, and from a few ordinary texts. None uses an answer to a steered question.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens import stats
from steerlens.data import ContrastSet
from steerlens.directions import Activations, Direction
from steerlens.directions.methods.method import Method
from steerlens.interventions.residual import Add
from steerlens.measures.direct_gain import direct_gain
from steerlens.measures.divergence import divergence
from steerlens.measures.screen import screen
from steerlens.measures.tokenised import questions
from steerlens.models.model import Model
from steerlens.sites import Positions, Site
from steerlens.stats import group_numbers

LOOK = 0.05
"""The length, in median norms of the stream, at which cost and direct slope are looked at."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What predictors read. Parts that several of them need are computed once."""

    model: Model
    read: Activations
    """Of the contexts that directions are fitted to."""
    asked: ContrastSet
    """Questions, whose answers are read unsteered."""
    texts: tuple[str, ...]
    """Ordinary texts, for the cost."""
    method: Method
    positions: Positions
    budget: float
    progress: bool = False

    @property
    def sites(self) -> tuple[Site, ...]:
        """Where a direction was fitted."""
        return self.read.sites

    @cached_property
    def directions(self) -> list[Direction]:
        """One for each site."""
        return list(self.read.directions(self.method))

    @cached_property
    def edits(self) -> list[Add]:
        """The directions, added at the positions that will be steered."""
        return [Add(direction, self.positions) for direction in self.directions]

    @cached_property
    def slope(self) -> Float[Tensor, " site"]:
        """Nats of log-odds per median norm, to first order: one backward pass for all sites."""
        found = screen(self.model, self.asked, self.edits, progress=self.progress)
        return found.slopes.mean(-1)

    @cached_property
    def direct_slope(self) -> Float[Tensor, " site"]:
        """The part of the slope that the vector itself makes on the asked logits."""
        steps = (-LOOK, LOOK)
        found = direct_gain(self.model, self.asked, self.edits, steps, progress=self.progress).mean(
            -1
        )
        return (found[:, 1] - found[:, 0]) / (2 * LOOK)

    @cached_property
    def curvature(self) -> Float[Tensor, " site"]:
        """c in KL ≈ c m² / 2 for a vector of m median norms, from one short look."""
        found = divergence(
            self.model, self.texts, self.edits, (0.0, LOOK), progress=self.progress
        ).mean(-1)
        return (2 * found[:, 1] / LOOK**2).clamp(min=1e-12)

    @cached_property
    def reach(self) -> Float[Tensor, " site"]:
        """Median norms that cost the budget, if the cost grows as the square."""
        return (2 * self.budget / self.curvature).sqrt()

    @cached_property
    def folds(self) -> Int[Tensor, " pair"]:
        """Two halves of the pairs; a group of pairs is in one of them."""
        group = group_numbers(self.read.groups)
        order = torch.randperm(int(group.max()) + 1, generator=torch.Generator().manual_seed(0))
        return order[group] % 2

    def held_out(self, site: int) -> list[tuple[Float[Tensor, " a"], Float[Tensor, " a"]]]:
        """Projections of both sides of each half on the direction of the other half."""
        found = []
        for fold in (0, 1):
            own, other = self.folds == fold, self.folds != fold
            if not (bool(own.any()) and bool(other.any())):
                continue
            positive, negative = self.read.positive[:, site].float(), self.read.negative[:, site]
            negative = negative.float()
            u = self.method(positive[other], negative[other]).float()
            u = u / u.norm().clamp(min=1e-30)
            found.append((positive[own] @ u, negative[own] @ u))
        return found


Predictor = Callable[[Evidence], Float[Tensor, " site"]]


def access(evidence: Evidence) -> Float[Tensor, " site"]:
    """Logit-lens accessibility: how likely the asked answers are, read from the stream at once.

    The mean over questions of the log-probability, in nats, that the final norm and the unembedding
    give to the first tokens of both answers together, of the unsteered stream at the prompt's end.

    Source: arXiv:2604.15557 relates the accessibility of a concept to how well a layer steers.
    Departure: only its abstract was at hand, so that this definition is ours.
    """
    model, asked = evidence.model, questions(evidence.model, evidence.asked)
    prompts = asked.batch.rows(slice(None, None, asked.variants))
    where = prompts.prompt_end - 1
    firsts = [
        [model.split(pair.prompt, answer)[1][0] for answer in (pair.positive, pair.negative)]
        for pair in evidence.asked
    ]
    tokens = torch.tensor(firsts, device=model.device)
    streams = model.cache(prompts, list(evidence.sites))
    found = []
    for site in evidence.sites:
        ends = streams[site][torch.arange(len(prompts)), where]
        log_p = model.unembed(model.readout.norm(ends)).float().log_softmax(-1)
        both = log_p.gather(-1, tokens)
        both = torch.where(tokens[:, :1] == tokens[:, 1:], both - math.log(2), both)
        found.append(both.logsumexp(-1).mean().cpu())
    return torch.stack(found)


def cosine(evidence: Evidence) -> Float[Tensor, " site"]:
    """Mean cosine of the differences of two pairs of different groups.

    Source: arXiv:2602.17881 (abstract): it predicts how reliably a direction steers.
    """
    group = group_numbers(evidence.read.groups)
    apart = group[:, None] != group[None]
    differences = (evidence.read.positive - evidence.read.negative).float()
    units = differences / differences.norm(dim=-1, keepdim=True).clamp(min=1e-30)
    cosines = torch.einsum("isd,jsd->sij", units, units)
    return (cosines * apart).sum((1, 2)) / apart.sum().clamp(min=1)


def separation(evidence: Evidence) -> Float[Tensor, " site"]:
    """d′ of both sides along the direction of the other half of the pairs.

    The difference of their means over the root of their mean variance.

    Source: arXiv:2602.17881 (abstract) relates the separation to reliability; the folds are ours.
    """
    found = []
    for site in range(len(evidence.sites)):
        halves = [
            (p.mean() - n.mean()) / ((p.var() + n.var()) / 2).sqrt().clamp(min=1e-30)
            for p, n in evidence.held_out(site)
        ]
        found.append(torch.stack(halves).mean())
    return torch.stack(found)


def probe(evidence: Evidence) -> Float[Tensor, " site"]:
    """AUROC of both sides along the direction of the other half of the pairs."""
    found = []
    for site in range(len(evidence.sites)):
        halves = [stats.auroc(torch.stack([p, n], -1)) for p, n in evidence.held_out(site)]
        found.append(torch.stack(halves).mean())
    return torch.stack(found)


def norm_growth(evidence: Evidence) -> Float[Tensor, " site"]:
    """Median norm of the stream over that at the site before; 1 at the first."""
    norms = evidence.read.resid_norms.float()
    return torch.cat([torch.ones(1), norms[1:] / norms[:-1]])


def slope(evidence: Evidence) -> Float[Tensor, " site"]:
    """First-order slope of the log-odds, in nats per median norm of the stream.

    It is the Jacobian from the layer to the log-odds along the direction.
    Source: attribution patching, arXiv:2310.10348.
    """
    return evidence.slope


def cost(evidence: Evidence) -> Float[Tensor, " site"]:
    """Curvature of the KL on ordinary text, in nats per squared median norm."""
    return evidence.curvature


def slope_at_budget(evidence: Evidence) -> Float[Tensor, " site"]:
    """The gain to first order, in nats, of the length that costs the budget."""
    return evidence.slope * evidence.reach


def mediated_at_budget(evidence: Evidence) -> Float[Tensor, " site"]:
    """The part of `slope_at_budget` that later blocks make."""
    return (evidence.slope - evidence.direct_slope) * evidence.reach


def direct_at_budget(evidence: Evidence) -> Float[Tensor, " site"]:
    """The part of `slope_at_budget` that the vector itself makes on the asked logits."""
    return evidence.direct_slope * evidence.reach


def read_later(evidence: Evidence) -> Float[Tensor, " site"]:
    """How strongly later blocks read the direction, 1 for one at random.

    The mean over the query, key, value and input matrices of all later blocks of |Wᵀû|² d / |W|²,
    with the weights of the norm before each. NaN after the last block and on a TransformerBridge.
    """
    blocks, d = evidence.model.wrapped.blocks, evidence.model.d_model
    if evidence.model.is_bridge:
        return torch.full((len(evidence.sites),), torch.nan)

    def scale(norm: object) -> Tensor | float:
        weight = getattr(norm, "w", None)
        return 1.0 if weight is None else weight.detach().float()[:, None]

    units = torch.stack([direction.unit().vector.float() for direction in evidence.directions])
    units = units.to(evidence.model.device)
    firsts = [one.layer + 1 if one.entry is None else one.entry for one in evidence.sites]
    total, count = torch.zeros(len(units)), torch.zeros(len(units))
    for number, block in enumerate(blocks):
        below = torch.tensor([first <= number for first in firsts])
        if not bool(below.any()):
            continue
        norm = scale(block.ln1)
        read = [block.attn.W_Q, block.attn.W_K, block.attn.W_V]
        matrices = [w.detach().float().transpose(0, 1).flatten(1) * norm for w in read]
        if hasattr(block, "mlp"):
            matrices.append(block.mlp.W_in.detach().float() * scale(block.ln2))
        own = units[below.to(units.device)]
        for w in matrices:
            total[below] += ((own @ w).square().sum(-1) * d / w.square().sum()).cpu()
            count[below] += 1
    return total / count  # 0 / 0 after the last block


PREDICTORS: dict[str, Predictor] = {
    "access": access,
    "cosine": cosine,
    "separation": separation,
    "probe": probe,
    "norm growth": norm_growth,
    "read later": read_later,
    "slope": slope,
    "cost": cost,
    "slope at budget": slope_at_budget,
    "direct at budget": direct_at_budget,
    "mediated at budget": mediated_at_budget,
}
"""All predictors, by the name that tables use."""
