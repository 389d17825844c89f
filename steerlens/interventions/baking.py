"""A steering vector as a change of a bias."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.interventions.changes import Dense, WeightChange
from steerlens.interventions.composition import Composition
from steerlens.interventions.residual import Add
from steerlens.models.exchanged import parameter_shapes
from steerlens.models.model import Model, as_model
from steerlens.sites import Positions, Site

EVERYWHERE = Positions.all(special=True)


def baked(model: Model, add: Add) -> Composition:
    """A vector as a change of the bias that writes into its site: the same numbers, without hooks.

    A bias acts at every token, BOS included, so the vector must too. `merged(model, baked(model,
    add), strength)` is a checkpoint that is steered for good, and `audit` finds the vector again.

    Raises:
        ValueError: If the vector does not act at every token, or no bias writes into its site.
        DirectionError: If the direction does not fit the model.
    """
    model = as_model(model)
    if not isinstance(add, Add):
        raise TypeError(f"{add!r:.80} is not an Add, and only a vector that is added can be baked.")
    model.require(add.direction)
    if add.positions != EVERYWHERE:
        raise ValueError(
            f"The vector acts at {add.positions}, and a bias acts at every token, BOS included. "
            "If that is meant, write dataclasses.replace(add, positions=Positions.all("
            "special=True))."
        )
    name = bias_of(model, add.site)
    if name is None:
        raise ValueError(
            f"No bias of {model.name!r} writes into {add.site} as it is"
            f"{_why_not(model)}. Attach the vector as it is."
        )
    step = add.step.detach().to(model.device)
    shape = parameter_shapes(model.wrapped)[name]
    delta = step.expand(shape).clone() if len(shape) == 2 else step
    return Composition((WeightChange(name, Dense(delta)),), f"baked({add.site})")


def _why_not(model: Model) -> str:
    if model.is_bridge:
        return " (it is a TransformerBridge)"
    if model.cfg.use_normalization_before_and_after:
        return " (what a sublayer writes is normed before it is added)"
    return ""


def bias_of(model: Model, site: Site) -> str | None:
    """The parameter that, with a vector added to it, adds that vector to a site; None for none.

    Of what enters block 0 it is a matrix, to each of whose rows the vector is added.
    """
    cfg = model.cfg
    if model.is_bridge or (cfg.use_normalization_before_and_after and site != Site(0, "resid_pre")):
        return None
    if site.stream == "resid_pre" and site.layer == 0:
        standard = cfg.positional_embedding_type == "standard"
        return "pos_embed.W_pos" if standard else "embed.W_E"
    layer = site.layer - (site.stream == "resid_pre")
    of_mlp = site.stream in ("resid_pre", "resid_post", "mlp_out") and not cfg.attn_only
    return f"blocks.{layer}.{'mlp.b_out' if of_mlp else 'attn.b_O'}"


def site_of_bias(model: Model, name: str) -> Site | None:
    """The site into which a bias adds a vector; the inverse of `bias_of`."""
    sites = [Site(0, "resid_pre")]
    for layer in range(model.n_layers):
        sites += [Site(layer), Site(layer, "attn_out")]
    return next((site for site in sites if bias_of(model, site) == name), None)


@torch.no_grad()
def vector_in(
    model: Model, name: str, delta: Float[Tensor, "..."]
) -> Float[Tensor, " d_model"] | None:
    """The vector that a change of a parameter adds to a site, where it is one."""
    if site_of_bias(model, name) is None:
        return None
    if delta.ndim == 1:
        return delta
    mean = delta.mean(0)
    spread = float((delta - mean).norm()) / max(float(delta.norm()), 1e-30)
    return mean if spread < 1e-2 else None
