"""The part of a gain that an edit's own step makes: the outputs of all later blocks held.

A step that is added to the residual stream reaches the logits in two ways. It stands in the final
stream itself, which the final norm and the unembedding read; and later blocks read it and write
something else. The first is the *direct* part of the gain, and the rest of the gain the *mediated*
part. A vector that resembles the difference of two answers' unembedding rows raises the one answer
directly at any late layer, whether or not the model makes anything of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import SupportsFloat

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steerlens.arguments import as_floats
from steerlens.data import ContrastPair, ContrastSet
from steerlens.interventions.arms import require_each_fits
from steerlens.interventions.changes import StreamEdit
from steerlens.interventions.together import changes_of
from steerlens.measures.answer_scores import AnswerScores
from steerlens.measures.engine import MAX_TOKENS
from steerlens.measures.paths import chosen_by_rule
from steerlens.measures.tokenised import Questions, questions
from steerlens.models.memory import LOGITS
from steerlens.models.model import Model, as_model
from steerlens.protocols import Intervention
from steerlens.sites import Site
from steerlens.store.cells import Cells, cells_or_none

KEPT_TOKENS = 16 * MAX_TOKENS
"""Columns of the stream that are kept at once, over all sites."""
_ORDER = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
"""The streams of a block in the order of the forward pass."""
Parts = list[StreamEdit]
"""All that an intervention changes, where these are edits of the stream."""


@torch.no_grad()
def direct_gain(
    model: Model,
    pairs: Sequence[ContrastPair] | ContrastSet,
    interventions: Sequence[Intervention],
    multipliers: Iterable[SupportsFloat],
    *,
    progress: bool = True,
    cells: Cells | None = None,
) -> Float[Tensor, "intervention multiplier example"]:
    """The direct part of every gain, in nats: what the step itself does to the asked logits.

    The final norm and the unembedding are applied to the unsteered final stream plus the step, at
    the tokens from which the answers are read; the outputs of all later blocks are those of the
    unsteered model. Its log-odds minus the unsteered log-odds is the direct part. The gain of
    `sweep` minus it is the mediated part: what later blocks, and attention to steered tokens, make
    of the step. The two parts add up to the gain. After the last block everything is direct.

    The split is exact and not linearised: the final norm and a soft cap of the logits see the whole
    step. It depends on the order, as every split of a non-linear function does: the direct part is
    taken first, from the unsteered stream.

    Args:
        interventions: Residual edits, also several at once (`Together`, adapters). A step that
            depends on the stream (`Ablate`, `Clamp`, a feature edit) is that of the unsteered stream
            plus the steps of the edits before it. An intervention of another kind, such as a change
            of weights, has no step that could be held apart from what later blocks do; its numbers
            are NaN.
        multipliers: Columns of the grid; the direct part at 0 is 0.
        cells: Where finished units of examples are kept and found; by default nowhere.

    Raises:
        ValueError: For questions that cannot be scored, or an intervention that does not fit.
        SteeringError: If an edit chooses no token of some prompt.
        ReadoutError: If the model's logits cannot be computed from its last stream.

    Source: the direct effect on logits of Elhage et al. 2021 and of Wang et al. 2022
    (arXiv:2211.00593), for a step in place of a head's output. Departure: the final norm is applied
    to the whole stream and not held.
    """
    model = as_model(model)
    strengths = as_floats("multipliers", multipliers)
    if not interventions or not strengths:
        raise ValueError("Nothing to split: give at least one intervention and one multiplier.")
    require_each_fits(model, interventions)
    kept = cells_or_none(cells, "direct", progress)
    asked = questions(model, pairs)
    parts = [_parts(intervention, model) for intervention in interventions]
    edits = [edit for some in parts for edit in some or ()]
    chosen_by_rule(edits, asked.batch)  # refuses an edit of nothing
    sites = sorted({edit.site for edit in edits})
    out = torch.full((len(parts), len(strengths), len(asked)), torch.nan, dtype=torch.float32)
    if not sites:
        return out
    score = AnswerScores(model, odds=True, memory=16 * LOGITS)
    columns = asked.batch.width * asked.variants * (len(sites) + 1)
    unit = min(len(asked), max(1, KEPT_TOKENS // columns))
    kept = kept.part("units", examples=asked.digest, multipliers=repr(strengths))
    with kept.bar(len(asked), "example") as bar:
        for start in range(0, len(asked), unit):
            some = slice(start, min(start + unit, len(asked)))

            def make(some: slice = some) -> dict[str, Tensor]:
                return {"direct": _unit(model, score, asked.rows(some), parts, sites, strengths)}

            name = f"{some.start:06d}-{some.stop:06d}"
            out[:, :, some] = kept.compute(name, make)["direct"]
            bar.update(some.stop - some.start)
    return out


def _parts(intervention: Intervention, model: Model) -> Parts | None:
    """The edits of the stream that an intervention consists of.

    None if it is something else in part, such as a change of weights, or does not say.
    """
    changes = changes_of(intervention, model)
    edits = [change for change in changes or () if isinstance(change, StreamEdit)]
    return edits if edits and len(edits) == len(changes or ()) else None


def _unit(
    model: Model,
    score: AnswerScores,
    asked: Questions,
    parts: list[Parts | None],
    sites: list[Site],
    strengths: tuple[float, ...],
) -> Float[Tensor, "intervention multiplier example"]:
    """The direct parts of some examples, from one forward pass."""
    last = Site(model.n_layers - 1)
    streams = model.cache(asked.batch, sorted({*sites, last}))
    read = {site: stream[:, -asked.read :] for site, stream in streams.items()}
    final = read[last]

    def odds(resid: Float[Tensor, "row cell read d_model"]) -> Float[Tensor, "example cell"]:
        states = model.readout.norm(resid).unflatten(0, (len(asked), asked.variants))
        return score(states.transpose(1, 2), asked)[..., 0]

    before = odds(final[:, None])
    chosen = chosen_by_rule([edit for some in parts for edit in some or ()], asked.batch)
    shape = (len(parts), len(strengths), len(asked))
    out = torch.full(shape, torch.nan, device=before.device, dtype=torch.float32)
    for i, some in enumerate(parts):
        if some is None:
            continue
        masks = [chosen[edit.positions][:, -asked.read :, None] for edit in some]
        steps = torch.stack([_step(some, masks, read, m) for m in strengths], 1)
        out[i] = (odds(final[:, None] + steps) - before).T
    return out.cpu()


def _step(
    parts: Parts,
    masks: list[Bool[Tensor, "row read 1"]],
    read: dict[Site, Float[Tensor, "row read d_model"]],
    multiplier: float,
) -> Float[Tensor, "row read d_model"]:
    """What all edits together add to the final stream, with the outputs of all blocks held."""
    order = sorted(range(len(parts)), key=lambda k: _depth(parts[k].site))
    total = torch.zeros_like(next(iter(read.values())))
    written: dict[Site, Tensor] = {}  # what edits have added to the output of a sublayer
    for k in order:
        edit = parts[k]
        own = edit.site.stream in ("attn_out", "mlp_out")
        added = written.get(edit.site, torch.zeros_like(total)) if own else total
        stream = read[edit.site] + added
        step = torch.where(masks[k], edit.edit(stream, multiplier) - stream, 0.0)
        total = total + step
        if own:
            written[edit.site] = added + step
    return total


def _depth(site: Site) -> tuple[int, int]:
    return site.layer, _ORDER.index(site.stream)
