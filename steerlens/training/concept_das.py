"""Concept DAS: the subspace whose content, taken from another prompt, brings that prompt's answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, SupportsFloat, SupportsIndex

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.arguments import ArgumentError, as_float, as_int, as_positive, as_texts
from steerlens.directions import Direction
from steerlens.forms.ranks import orthonormal_, require_rank
from steerlens.forms.stream_edits import Subspace
from steerlens.interventions.composition import EditAtSite
from steerlens.interventions.residual import Clamp
from steerlens.measures.tokenised import before_answers
from steerlens.models.kernel import Columns, Kernel
from steerlens.models.model import Model, as_model
from steerlens.models.wrapped_state import differentiable
from steerlens.progress_bar import progress_bar
from steerlens.sites import Positions, Site, SiteLike, TokenBatch, as_site
from steerlens.training.training_errors import DivergedError

Pole = Literal["positive", "negative"]


class Quadruple(NamedTuple):
    """A prompt of each pole with a response to each."""

    positive_prompt: str
    positive_response: str
    negative_prompt: str
    negative_response: str


@dataclass(frozen=True, eq=False)
class ConceptSubspace:
    """What Concept DAS found: a subspace, and what the stream holds in it at both poles."""

    site: Site
    basis: Float[Tensor, "rank d_model"]
    """Orthonormal rows."""
    values: dict[str, Float[Tensor, " rank"]]
    """Mean coordinates at the last token of the prompts of each pole."""
    losses: tuple[float, ...]
    """Jensen-Shannon divergence of each step's batch, in nats per token; at most ln 2."""
    positions: Positions
    made_by: dict[str, Any]

    def towards(self, pole: Pole, factor: SupportsFloat = 1.0) -> Clamp | EditAtSite:
        """The intervention that sets the stream to one pole: h' = h + m · Rᵀ(factor · c - R h).

        Args:
            factor: 1 needs no tuning; the authors also try 1.2 to 14.

        Raises:
            ArgumentError: If there is no such pole.
        """
        if pole not in self.values:
            raise ArgumentError(f"pole={pole!r:.80} must be 'positive' or 'negative'.")
        wanted = as_float("factor", factor) * self.values[pole]
        if len(self.basis) == 1:
            return Clamp(self.direction, float(wanted[0]), self.positions)
        # Subspace adds basisᵀ(read h + offset - basis h): with read = 0 that is the clamp.
        edit = Subspace(self.basis, torch.zeros_like(self.basis), wanted)
        return EditAtSite(self.site, edit, self.positions, f"ConceptDAS(towards={pole!r})")

    @property
    def direction(self) -> Direction:
        """The one direction of rank 1, towards the positive pole.

        Raises:
            ArgumentError: For a higher rank.
        """
        if len(self.basis) > 1:
            raise ArgumentError(
                f"The subspace has rank {len(self.basis)}, so it is no one direction. Use towards()."
            )
        facts = self.made_by
        return Direction(
            self.basis[0].cpu(), self.site, method="ConceptDAS", processing=facts["processing"],
            model=facts["model"], apply_at=self.positions, dtype=facts["dtype"],
        )  # fmt: skip


@torch.inference_mode(False)  # tensors made under it cannot be differentiated
def concept_das(
    model: Model,
    quadruples: Iterable[Quadruple | Sequence[str]],
    site: SiteLike,
    *,
    rank: SupportsIndex = 1,
    steps: SupportsIndex = 150,
    batch: SupportsIndex = 8,
    rate: SupportsFloat = 0.04,
    positions: Positions | None = None,
    seed: SupportsIndex = 0,
    progress: bool = True,
) -> ConceptSubspace:
    """Trains a subspace R so that its content decides which pole's answer the model gives.

    In each pair one prompt is the base and the other the source, both ways in every batch. The base
    runs with the source's response after it and with the source's coordinates in the subspace,
    h + Rᵀ(R h_source - R h), where h_source is the source prompt's last token; the next-token
    distributions along the response must be those of the source's own, unchanged run:

        L = mean over tokens of JSD(p_base with the interchange, p_source)

    Nothing asks the response to be likelier than the model makes it, which is what keeps the edit
    faithful. The trained subspace is clamped in use (`ConceptSubspace.towards`).

    Args:
        quadruples: (positive prompt, positive response, negative prompt, negative response) each;
            hold out those that are reported on.
        site: What is interchanged; a stream that enters a block is run from there on.
        rank: 1 in the paper.
        positions: Tokens of prompt and response that are edited; by default all but special ones.
        rate: Of AdamW, falling to 0; gradients are clipped at norm 1.

    Raises:
        ArgumentError: If there is no quadruple, or one is not four texts.
        ValueError: If a text cannot be tokenised so, or the model has no such site.
        DivergedError: If a loss is not finite.

    Source: arXiv:2602.05234 and `colored-dye/concept_das`: rank 1, AdamW without weight decay, linear
    decay, gradient clip 1, unit norm after each step. Departures: R is made orthonormal again by its
    polar factor; a rank above 1 is possible; the rate is that of their Gemma-2-2B runs.
    """
    model, where = as_model(model), as_site(site)
    number, count = as_int("steps", steps, least=1), as_int("batch", batch, least=1)
    peak, first = as_positive("rate", rate), as_int("seed", seed, least=0)
    require_rank(rank, model.d_model)
    model.require_site(where)
    given = _read(quadruples)
    if model.attached:
        raise ArgumentError(
            "Steering is attached to the model, and training would go through it. Train outside of "
            "its `with`."
        )
    rows = _Interchange(model, given, where, positions or Positions.all())
    generator = torch.Generator().manual_seed(first)
    shape = (as_int("rank", rank), model.d_model)
    basis = torch.randn(shape, generator=generator, dtype=torch.float32)
    orthonormal_(basis)
    basis = basis.to(model.device).requires_grad_()
    optimiser = torch.optim.AdamW([basis], lr=peak, weight_decay=0.0)
    losses = []
    with differentiable(model.wrapped):
        order = torch.zeros(0, dtype=torch.long)
        for step in progress_bar(progress, range(number), desc="Concept DAS", unit="step"):
            if not len(order):
                order = torch.randperm(len(given), generator=generator)
            index, order = order[:count], order[count:]
            loss = rows.loss(basis, torch.cat([2 * index, 2 * index + 1]))  # both directions
            if not bool(torch.isfinite(loss)):
                raise DivergedError(
                    f"The loss became {float(loss)} after {step} steps. Lower the rate: {peak:g}."
                )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_([basis], 1.0)
            for group in optimiser.param_groups:
                group["lr"] = peak * (1 - step / number)
            optimiser.step()
            orthonormal_(basis.detach())
            losses.append(float(loss.detach()))
    found = basis.detach()
    values = rows.values(found)
    if len(found) == 1 and float(values["positive"] - values["negative"]) < 0:
        found, values = -found, {pole: -value for pole, value in values.items()}
    return ConceptSubspace(
        where, found, values, tuple(losses), rows.positions,
        {**model.facts, "question": "Which subspace carries the concept?", "steps": number,
         "rate": peak, "batch": count, "seed": first, "quadruples": len(given)},
    )  # fmt: skip


def _read(quadruples: Iterable[Quadruple | Sequence[str]]) -> list[Quadruple]:
    found = []
    for k, given in enumerate(quadruples):
        if isinstance(given, str) or len(given) != 4:
            raise ArgumentError(
                f"Quadruple {k} is {given!r:.80}. Give (positive prompt, positive response, negative "
                "prompt, negative response)."
            )
        found.append(Quadruple(*as_texts(f"quadruple {k}", given)))
    if not found:
        raise ArgumentError("There are no quadruples to train on. Give at least one.")
    return found


class _Interchange:
    """Both directions of every quadruple: row 2k has the negative prompt as its base, 2k + 1 the
    positive one."""

    def __init__(
        self, model: Model, given: list[Quadruple], site: Site, positions: Positions
    ) -> None:
        self.model, self.site, self.positions = model, site, positions
        bases, sources, responses = [], [], []
        for q in given:
            bases += [q.negative_prompt, q.positive_prompt]
            sources += [q.positive_prompt, q.negative_prompt]
            responses += [q.positive_response, q.negative_response]
        self.base, self.source = (model.answered(side, responses) for side in (bases, sources))
        self.streams = [model.cache(b, [site])[site] for b in (self.base, self.source)]
        rows = torch.arange(len(bases))
        self.last = self.streams[1][rows, self.source.prompt_end - 1]
        """The source's vector at its prompt's last token."""
        self.chosen = positions.mask(self.base)
        if not bool(self.chosen.any(-1).all()):
            raise ArgumentError(
                f"{positions} chooses no token of some prompt. Use Positions.all()."
            )
        self.kernel: Kernel | None = None if site.entry is None else model.kernel(site.entry)

    def values(self, basis: Tensor) -> dict[str, Float[Tensor, " rank"]]:
        """Mean coordinates of both poles: sources are positive in even rows."""
        own = self.last @ basis.T
        return {"positive": own[0::2].mean(0), "negative": own[1::2].mean(0)}

    def loss(self, basis: Float[Tensor, "rank d_model"], index: Int[Tensor, " row"]) -> Tensor:
        """JSD between the base with the interchange and the source, a mean over tokens."""
        wanted = self.last[index] @ basis.T
        base, chosen = self.base.rows(index), self.chosen[index][..., None]

        def interchange(resid: Tensor, strength: Any = 1.0) -> Tensor:
            return resid + (wanted[:, None] - resid @ basis.T) @ basis

        resid = torch.where(chosen, interchange(self.streams[0][index]), self.streams[0][index])
        changed = self._log_probs(base, resid, interchange)
        with torch.no_grad():
            own = self._log_probs(self.source.rows(index), self.streams[1][index], None)
        return jensen_shannon(changed, own).mean()

    def _log_probs(
        self, batch: TokenBatch, resid: Tensor, edit: Any
    ) -> Float[Tensor, "token d_vocab"]:
        """Log-probabilities at the response's tokens, row by row."""
        entry = self.site.entry
        if self.kernel is not None and entry is not None:
            if entry < self.model.n_layers:
                resid = self.kernel.climb(resid[:, None], Columns.of(batch), first=entry)[:, 0]
            states = self.kernel.states(resid)
        elif edit is None:
            states = self.model.states(batch)
        else:
            with self.model.hooked(self.site, edit, self.positions, 1.0):
                states = self.model.states(batch)
        before, _ = before_answers(batch, states)
        return torch.log_softmax(self.model.unembed(before).float(), -1)


def jensen_shannon(
    one: Float[Tensor, "token d_vocab"], other: Float[Tensor, "token d_vocab"]
) -> Float[Tensor, " token"]:
    """Jensen-Shannon divergence of log-probabilities, in nats: symmetric, at most ln 2."""
    middle = torch.logaddexp(one, other) - torch.log(torch.tensor(2.0))
    halves = [(side.exp() * (side - middle)).sum(-1) for side in (one, other)]
    return 0.5 * (halves[0] + halves[1])
