"""Measures how near interventions bring a model to a target distribution."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import SupportsFloat

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from steerlens.analyses.nearness.target_share import TargetShare
from steerlens.data.contrast_set import PairsLike, as_contrast_set
from steerlens.interventions.arms import Arms, named_arms, require_fits, site_of
from steerlens.measures.engine import Engine, Read, Reading
from steerlens.measures.tokenised import Examples
from steerlens.models.model import Model, as_model
from steerlens.store.cells import Cells, cells_or_none
from steerlens.training.objectives.match_distribution import TargetDistribution, kl_from
from steerlens.training.objectives.objective import POSITIVE
from steerlens.training.scored_set import wanted_along
from steerlens.training.training_pairs import TrainingPairs
from steerlens.units import require_multipliers


@dataclass(frozen=True, eq=False)
class _Aimed(Examples):
    """Answers with the distribution that is wanted at each of their tokens."""

    counted: Bool[Tensor, "example read"]
    wanted: tuple[Float[Tensor, "_token d_vocab"], ...]

    def rows(self, index: slice | Int[Tensor, " some"]) -> _Aimed:
        some = super().rows(index)
        chosen = torch.arange(len(self))[index.cpu() if isinstance(index, Tensor) else index]
        wanted = tuple(self.wanted[i] for i in chosen.tolist())
        return replace(some, counted=self.counted[index], wanted=wanted)

    def _reading(self, read: int) -> _Aimed:
        return replace(self, read=read, counted=self.counted[:, :read])

    def _content(self) -> list[Tensor]:
        return [*super()._content(), self.counted, *self.wanted]


@torch.no_grad()
def target_share(
    model: Model,
    arms: Arms,
    target: TargetDistribution,
    pairs: PairsLike,
    multipliers: Iterable[SupportsFloat] = (0.0, 0.5, 1.0),
    *,
    memory: int | None = None,
    progress: bool = True,
    cells: Cells | None = None,
) -> TargetShare:
    """The share of the KL from a target distribution that each intervention removes.

    It is measured along the positive answers, which should be texts that the target would write.

    Args:
        arms: Interventions by name.
        target: p*, e.g. `PoleTarget` on the reference model.
        multipliers: Among them 0, the unsteered model.
        cells: Where finished units of examples are kept and found; by default nowhere.

    Raises:
        ValueError: If an intervention does not fit the model, or the target gives no distribution
            over its words.
        SteeringError: If an intervention edits no token of some answer's text.
    """
    model = as_model(model)
    strengths = require_multipliers(multipliers, positive=False)
    given, named = as_contrast_set(pairs), named_arms(arms)
    require_fits(model, named)
    tokens = TrainingPairs.of(model, given)
    counted = tokens.counted[:, POSITIVE]
    read = int(counted.sum(-1).max())
    batch = tokens.batch.rows(slice(None, None, 2))
    batch = batch.columns(0, tokens.prompt_width + read - 1)
    wanted = tuple(wanted_along(model, given, tokens, target))
    examples = _Aimed(batch, 1, tokens.prompt_width, read, counted[:, :read], wanted)
    engine = Engine(model, list(named.values()), strengths, memory)

    def begin(some: Examples) -> Read:
        assert isinstance(some, _Aimed)
        every = torch.cat(some.wanted).to(model.device)
        owner = some.counted.nonzero()[:, 0]
        lengths = some.counted.sum(-1)

        def read_kl(states: Tensor) -> Float[Tensor, "example cell 1"]:
            found = torch.zeros(states.shape[:2], device=states.device)
            for cell in range(states.shape[1]):
                logits = model.unembed(states[:, cell, 0][some.counted]).float()
                kl = kl_from(every, torch.log_softmax(logits, -1))
                found[:, cell].index_add_(0, owner, kl)
            return (found / lengths[:, None])[..., None]

        return read_kl

    reading = Reading(
        begin,
        values=1,
        unsteered=True,
        bytes_per_example=3 * 4 * model.cfg.d_vocab * read,
        finite="KL",
    )
    found = engine.measure(examples, reading, cells_or_none(cells, "target", progress))
    unsteered = found.unsteered[:, 0]
    kl = unsteered.expand(len(named), len(strengths), -1).clone()
    kl[:, engine.grid.steered] = found.steered[..., 0]
    return TargetShare(
        rows=tuple(named),
        sites=tuple(map(site_of, named.values())),
        multipliers=torch.tensor(strengths),
        kl=kl,
        unsteered=unsteered,
        groups=given.groups,
        made_by={
            **model.facts,
            "question": "How near does steering bring the model to the target distribution?",
            "target": repr(target),
            "target_hash": hashlib.sha256(torch.cat(wanted).numpy().tobytes()).hexdigest()[:16],
            "data_name": given.name,
            "data": given.hash,
        },
    )
