"""The contract of an intervention: what every analysis relies on, checked on a model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from steerlens.measures.generation import generated_tokens
from steerlens.models.model import Model, as_model
from steerlens.models.wrapped_state import weights_state
from steerlens.protocols import (
    Fitted,
    Intervention,
    ResidualEdit,
    first_block,
    takes_rows,
)
from steerlens.sites import Site, TokenBatch
from steerlens.testing.requiring import require, require_same, tolerance
from steerlens.testing.tiny_models import tiny_model

TEXTS: tuple[tuple[str, str], ...] = (
    ("the cat sat on the bed and the dog", " ran to the good"),
    ("I", " think the soup"),
    ("you like that red wine", " really"),
)
"""Prompts of different lengths, each with a continuation, in words of the tiny models."""


@torch.no_grad()
def check_intervention(
    intervention: Intervention, model: Model, *, texts: Sequence[tuple[str, str]] = TEXTS
) -> None:
    """Checks on a model that an intervention keeps its contract.

    At multiplier 0 the logits are the unsteered ones exactly; at 1 something changes; after the
    `with`, and after an error or an interrupt in it, nothing is left: the weights are the very same
    tensors, unwritten. A row of a batch is as if alone, padding on
    either side changes nothing, and cached generation is what a full forward pass says. What the
    intervention states of itself holds: the blocks below its `first_block` see the unsteered
    stream, `require_fits` accepts this model, and where it takes a multiplier per row, each row
    is as with its own.

    Args:
        model: A `Model` or what it wraps.
        texts: Prompts of different lengths, each with a continuation, in words the model knows.

    Raises:
        AssertionError: Naming the first point that fails.
    """
    model = as_model(model)
    name = repr(intervention)
    rows = takes_rows(intervention)
    if isinstance(intervention, ResidualEdit):
        _check_edit(intervention, name, model)
    if isinstance(intervention, Fitted):
        _check_fits(intervention, name, model)
    prompts, continuations = [p for p, _ in texts], [c for _, c in texts]
    batch = model.answered(prompts, continuations)
    before = _traces(model)
    unsteered = _rows(model, batch)

    def steered(multiplier: float | Tensor, batch: TokenBatch = batch) -> list[Tensor]:
        with intervention.attach(model, multiplier):
            return _rows(model, batch)

    at_one = steered(1.0)
    _require_gone(model, before, unsteered, batch, f"{name} left something behind after the `with`")
    try:
        with intervention.attach(model, 1.0):
            _rows(model, batch)
            raise _Deliberate
    except _Deliberate:
        pass
    what = f"{name} left something behind after an error in the `with` (undo it in `finally`)"
    _require_gone(model, before, unsteered, batch, what)
    for zero in (0.0, torch.zeros(len(batch), device=model.device)) if rows else (0.0,):
        require(
            all(map(torch.equal, steered(zero), unsteered)),
            f"{name} at multiplier {zero} is not the unsteered model: logits differ. Whatever it "
            "adds must be multiplied by the multiplier.",
        )
    change = max(float((a - b).abs().max()) for a, b in zip(at_one, unsteered, strict=True))
    require(
        change > tolerance(model, unsteered),
        f"{name} at multiplier 1 does nothing: no logit of {len(batch)} texts moved by more than "
        f"{change:.1g}. Give it a larger direction, or other positions.",
    )

    for i, text in enumerate(texts):
        alone = steered(1.0, model.answered(*([part] for part in text)))
        require_same(alone[0], at_one[i], model, f"{name}: text {i} alone is not as in a batch")
    right = steered(1.0, model.answered(prompts, continuations, padding_side="right"))
    for i, (one, other) in enumerate(zip(right, at_one, strict=True)):
        require_same(one, other, model, f"{name}: text {i} differs between left and right padding")
    if rows:
        strengths = torch.linspace(-1, 1, len(batch), device=model.device)
        per_row = steered(strengths)
        for i, m in enumerate(strengths.tolist()):
            text = (
                f"{name}: row {i} of a batch with one multiplier per row is not as with {m:g} alone"
            )
            require_same(per_row[i], steered(m)[i], model, text)
    _check_first_block(intervention, name, model, batch)
    _check_cached(intervention, name, model, prompts)


class _Deliberate(BaseException):
    """Raised inside the `with` to see what an error or an interrupt leaves behind."""


def _check_edit(edit: ResidualEdit, name: str, model: Model) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = next(model.wrapped.parameters())
    stream = torch.randn(2, 3, model.width(edit.site), generator=generator).to(weight)
    whole = edit(stream, 1.0)
    require(
        whole.shape == stream.shape and whole.dtype == stream.dtype,
        f"{name} turned a {stream.dtype} stream of shape {tuple(stream.shape)} into {whole.dtype} "
        f"of shape {tuple(whole.shape)}. Keep both.",
    )
    alone = [[edit(stream[i : i + 1, j : j + 1], 1.0)[0, 0] for j in range(3)] for i in range(2)]
    require_same(
        torch.stack([torch.stack(row) for row in alone]),
        whole,
        model,
        f"{name} edits a token by looking at other tokens, which padding and caching would change. "
        "If that is meant, give it no `site` and no `positions`, so that it is not a ResidualEdit",
    )


def _check_fits(intervention: Fitted, name: str, model: Model) -> None:
    before = _traces(model)
    try:
        intervention.require_fits(model)
    except ValueError as error:
        raise AssertionError(
            f"{name} does not fit {model.name!r}, as its require_fits says: {error} Check it on a "
            "model that it was made for."
        ) from error
    require(_traces(model) == before, f"{name}: require_fits changed the model. Let it only look.")
    try:
        intervention.require_fits(_other_model())
    except ValueError:
        pass
    except Exception as error:
        raise AssertionError(
            f"{name}: require_fits raised {error!r} for a model of other shapes. Raise ValueError "
            "with a text that says what does not fit."
        ) from error


@cache
def _other_model() -> Model:
    """A model of one narrow layer, which few interventions fit."""
    return Model(tiny_model("gpt2", n_layers=1, d_model=16))


def _check_first_block(
    intervention: Intervention, name: str, model: Model, batch: TokenBatch
) -> None:
    first = first_block(intervention)
    require(
        0 <= first <= model.n_layers,
        f"{name} says that first_block is {first}, and {model.name!r} has blocks 0 to "
        f"{model.n_layers - 1}. Give the first block that it changes, or {model.n_layers} for what "
        "comes after the last.",
    )
    below = [Site(layer, "resid_pre") for layer in range(first)]
    sites = [*below, Site(model.n_layers - 1)]  # the last one, so that all blocks are run
    unsteered = model.cache(batch, sites)
    with intervention.attach(model, 1.0):
        steered = model.cache(batch, sites)
    for site in below:
        require(
            torch.equal(steered[site][batch.mask], unsteered[site][batch.mask]),
            f"{name} says that first_block is {first}, and it changes what enters block "
            f"{site.layer}. Give the first block whose input or weights it changes.",
        )


def _check_cached(
    intervention: Intervention, name: str, model: Model, prompts: Sequence[str], new: int = 4
) -> None:
    prompt = model.tokens(prompts)
    with intervention.attach(model, 1.0):
        written = generated_tokens(model, prompts, max_new_tokens=new, stop_at_eos=False)
        real = torch.ones_like(written, dtype=torch.bool)
        whole = prompt.extended(written, model.is_special(written), real)
        logits = model.logits(whole).float()[:, -new - 1 : -1]
    # By how much the written token is not the likeliest: ties may break either way.
    short = logits.amax(-1) - logits.gather(-1, written[..., None])[..., 0]
    require(
        float(short.max()) <= tolerance(model, [logits]),
        f"{name}: cached generation wrote a token that a full forward pass finds less likely by "
        f"{float(short.max()):.2g} nats. Edit the same tokens when they come one by one.",
    )


def _rows(model: Model, batch: TokenBatch) -> list[Tensor]:
    """Logits of each row's real tokens."""
    return [row[real].float() for row, real in zip(model.logits(batch), batch.mask, strict=True)]


def _traces(model: Model) -> tuple[str, int, int, int]:
    """What an intervention could leave: changed weights, hooks, edits on record, other tensors."""
    points = model.wrapped.hook_dict.values()
    hooks = sum(len(point.fwd_hooks) + len(point.bwd_hooks) for point in points)
    return model.fingerprint, hooks, len(model.attached), weights_state(model.wrapped)


def _require_gone(
    model: Model, before: tuple, unsteered: list[Tensor], batch: TokenBatch, text: str
) -> None:
    after = _traces(model)
    kinds = (
        "weights", "hooks", "attached edits", "the tensors of the weights (exchange parameters and "
        "put the same ones back: what is added and subtracted again differs by rounding)",
    )  # fmt: skip
    named = zip(kinds, before, after, strict=True)
    changed = ", ".join(what for what, one, other in named if one != other)
    require(not changed, f"{text}: {changed} changed.")
    require(all(map(torch.equal, _rows(model, batch), unsteered)), f"{text}: logits differ.")
