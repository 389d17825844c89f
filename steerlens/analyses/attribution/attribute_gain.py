"""Which later heads and MLPs carry a gain: ranked to first order, then held one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, SupportsFloat, SupportsIndex

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.analyses.attribution.gain_attribution import Component, GainAttribution
from steerlens.analyses.question_splits import require_disjoint
from steerlens.arguments import ArgumentError, as_float, as_int
from steerlens.data.contrast_set import PairsLike, as_contrast_set
from steerlens.interventions.arms import require_fit
from steerlens.interventions.changes import PromptChange
from steerlens.interventions.together import changes_of
from steerlens.measures.answer_gradients import log_odds, with_gradients
from steerlens.measures.direct_gain import direct_gain
from steerlens.measures.surprisal import require_unsteered
from steerlens.measures.tokenised import Questions, questions
from steerlens.models.attached import SteeringError
from steerlens.models.forward import Entering
from steerlens.models.model import Model, as_model
from steerlens.progress_bar import progress_bar
from steerlens.protocols import Intervention, ResidualEdit, first_block
from steerlens.sites import Site

TOKENS = 4096
"""Columns of one pass: it keeps the outputs of all heads and MLPs."""
HookFn = Callable[..., Tensor]


@torch.inference_mode(False)  # tensors made under it cannot be differentiated
def attribute_gain(
    model: Model,
    choose: PairsLike,
    report: PairsLike,
    intervention: Intervention,
    multiplier: SupportsFloat = 1.0,
    *,
    exact: SupportsIndex = 10,
    progress: bool = True,
) -> GainAttribution:
    """How much of a gain is lost when the output of one later head or MLP is held.

    Every head and MLP from the first changed block on is ranked to first order: the change of its
    output under the intervention, times the gradient of the log-odds there, which is taken in the
    unsteered and in the steered run and averaged. The first ones are then measured exactly, on other
    questions: the model is steered, and the output of this one component is held at its unsteered
    value at every token. What the gain loses is what the component carries, with all that later
    components make of it. Losses of components that feed each other overlap, so they need not add up
    to the mediated part; all exact components are therefore held together as well.

    Args:
        choose: Questions that rank the components.
        report: Other questions, on which the exact effects are measured.
        intervention: Of any kind that leaves the tokens as they are.
        exact: How many components are held, at least 1.

    Raises:
        ValueError: For questions shared between the sets, answers that cannot be scored, an
            intervention that does not fit the model or puts a prompt before the text, or a model
            whose heads and MLPs cannot be read.
        SteeringError: If steering is attached to the model already, the intervention edits no token,
            or no block comes after it.

    Source: attribution patching, Nanda 2023 and arXiv:2310.10348, and its check by exact patching;
    holding outputs at unsteered values is the mediation of arXiv:2004.12265. Departure: the gradient
    is the mean of those at both ends.
    """
    model = as_model(model)
    strength, most = as_float("multiplier", multiplier), as_int("exact", exact, least=1)
    if strength == 0:
        raise ArgumentError("multiplier=0 is the unsteered model, which gains nothing.")
    require_fit(model, intervention)
    require_unsteered(model)
    ranking, asked = as_contrast_set(choose), as_contrast_set(report)
    require_disjoint(fit=None, choose=ranking, report=asked)
    if any(isinstance(c, PromptChange) for c in changes_of(intervention, model) or ()):
        raise ArgumentError(
            "The intervention puts a prompt before the text, so the tokens of both runs do not stand "
            "for each other. Attribute the gain of an intervention that leaves the tokens as they are."
        )
    parts = components(model, first_block(intervention))
    work = _Work(model, intervention, strength, parts)
    sets = [questions(model, pairs) for pairs in (ranking, asked)]
    units = [_units(one) for one in sets]
    with progress_bar(
        progress, total=sum(map(len, units)), desc="attribution", unit="batch"
    ) as bar:
        first = []
        for unit in units[0]:
            first.append(work.first_order(unit))
            bar.update()
        slopes = torch.cat(first, -1)
        order = slopes.mean(-1).abs().argsort(descending=True, stable=True)[:most].tolist()
        held = []
        for unit in units[1]:
            held.append(work.exact(unit, order))
            bar.update()
    odds = torch.cat(held, -1)
    gain = odds[0] - odds[1]
    direct = direct_gain(model, asked, [intervention], [strength], progress=False)[0, 0]
    return GainAttribution(
        components=parts,
        first_order=slopes,
        exact=tuple(order),
        lost=odds[0] - odds[3:],
        lost_together=odds[0] - odds[2],
        gain=gain,
        mediated=gain - direct,
        groups=asked.groups,
        made_by={
            **model.facts,
            "question": "Which heads and MLPs carry the gain?",
            "intervention": repr(intervention),
            "row": str(intervention.site)
            if isinstance(intervention, ResidualEdit)
            else type(intervention).__name__,
            "multiplier": strength,
            "choose": ranking.hash,
            "report": asked.hash,
        },
    )


def components(model: Model, first: int) -> tuple[Component, ...]:
    """All heads and MLPs from a block on.

    Raises:
        SteeringError: If there is no such block.
        ValueError: If the model shows no heads or MLPs at some block.
    """
    if first >= model.n_layers:
        raise SteeringError(
            "No block comes after the intervention, so no head or MLP carries its gain: all of it is "
            "direct. Attribute the gain of an earlier layer."
        )
    found: list[Component] = []
    for layer in range(first, model.n_layers):
        model.require_site(Site(layer, "z"))
        found += [Component(layer, head) for head in range(model.cfg.n_heads)]
        if not getattr(model.cfg, "attn_only", False):
            model.require_site(Site(layer, "mlp_out"))
            found.append(Component(layer, None))
    return tuple(found)


def _units(asked: Questions) -> list[Questions]:
    """The questions in batches."""
    size = max(1, TOKENS // (asked.variants * asked.batch.width))
    return [asked.rows(slice(k, min(k + size, len(asked)))) for k in range(0, len(asked), size)]


class _Work:
    """Passes of one model with and without one intervention."""

    def __init__(
        self,
        model: Model,
        intervention: Intervention,
        multiplier: float,
        parts: Sequence[Component],
    ) -> None:
        self.model, self.parts = model, parts
        self.steered = lambda: intervention.attach(model, multiplier)
        self.sites = sorted({part.site for part in parts})
        # After an edit between two blocks every block is the unsteered model's: a pass that differs
        # from the steered one from some block on can start there.
        self.parted = (
            isinstance(intervention, ResidualEdit)
            and intervention.site.entry is not None
            and not model.is_bridge
        )

    def first_order(self, asked: Questions) -> Float[Tensor, "component example"]:
        """Change of each output, times the gradient there."""
        runs = []
        for attach in (nullcontext, self.steered):
            with attach(), self.model.attached.reading(asked.batch):
                runs.append(with_gradients(self.model, asked, self.sites))
        effects = {}
        for site in self.sites:
            (before, low), (after, high) = (run[site] for run in runs)
            each = (after - before) * (low + high) / 2
            width = self.model.cfg.d_head if site.stream == "z" else each.shape[-1]
            # [row, pos, head, d_head], or one "head" for an MLP
            split = each.flatten(2).unflatten(-1, (-1, width)).sum((1, 3))
            effects[site] = split.unflatten(0, (len(asked), asked.variants)).sum(1)
        rows = [effects[part.site][:, part.head or 0] for part in self.parts]
        return torch.stack(rows).float().cpu()

    def exact(self, asked: Questions, order: Sequence[int]) -> Float[Tensor, "run example"]:
        """Log-odds: steered, unsteered, with all of these components held, with each one held."""
        with torch.no_grad():
            outputs: dict[Site, Tensor] = {}
            unsteered = self._odds(
                asked, nullcontext, [self._keeping(s, outputs) for s in self.sites]
            )
            every = [self.parts[k] for k in order]
            entered = {Site(part.layer, "resid_pre") for part in every if self.parted}
            streams: dict[Site, Tensor] = {}
            keeping = [self._keeping(site, streams) for site in sorted(entered)]
            runs = [self._odds(asked, self.steered, keeping), unsteered]
            for held in (every, *([part] for part in every)):
                runs.append(self._held(asked, held, outputs, streams))
        return torch.stack(runs).float().cpu()

    def _held(
        self,
        asked: Questions,
        held: Sequence[Component],
        outputs: dict[Site, Tensor],
        streams: dict[Site, Tensor],
    ) -> Float[Tensor, " example"]:
        """Steered log-odds with some components held, from the first of their blocks on if known."""
        hooks = self._holding(held, outputs)
        start = min(part.layer for part in held)
        stream = streams.get(Site(start, "resid_pre"))
        if stream is None:
            return self._odds(asked, self.steered, hooks)
        return self._odds(asked, nullcontext, hooks, (start, stream))

    def _odds(
        self,
        asked: Questions,
        attach: Callable[[], Any],
        hooks: list[tuple[str, HookFn]],
        entering: Entering | None = None,
    ) -> Float[Tensor, " example"]:
        attached = self.model.attached
        # What conditions read of the texts is read before there are hooks.
        with attach(), attached.reading(asked.batch), self.model.wrapped.hooks(fwd_hooks=hooks):
            return log_odds(self.model, asked, entering)

    @staticmethod
    def _keeping(site: Site, kept: dict[Site, Tensor]) -> tuple[str, HookFn]:
        """A hook that keeps what a site gives."""

        def hook_fn(out: Tensor, hook: object) -> Tensor:
            kept[site] = out
            return out

        return site.hook, hook_fn

    def _holding(
        self, held: Sequence[Component], outputs: dict[Site, Tensor]
    ) -> list[tuple[str, HookFn]]:
        """Hooks that put unsteered outputs in the place of those of some components."""

        def holding(site: Site, heads: list[int | None]) -> HookFn:
            def hook_fn(out: Tensor, hook: object) -> Tensor:
                if None in heads:
                    return outputs[site]
                split = (-1, self.model.cfg.d_head)
                changed = out.flatten(2).clone().unflatten(-1, split)
                changed[:, :, heads] = outputs[site].flatten(2).unflatten(-1, split)[:, :, heads]
                return changed.view_as(out)

            return hook_fn

        sites = sorted({part.site for part in held})
        return [
            (site.hook, holding(site, [part.head for part in held if part.site == site]))
            for site in sites
        ]
