"""What vectors at several sites cost together, to second order, by a few backward passes.

For small steps the KL to the unsteered model is half a quadratic form, whose matrix is Fisher's: with
p the unsteered distribution of a token and J the Jacobian of its logits, J' (diag p - p p') J. A random
vector z with the covariance diag p - p p' makes it the mean of squares, of the derivative of z' logits
along the step. One backward pass of some texts gives that derivative for every step at every site.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import SupportsFloat

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.arguments import as_int
from steerlens.measures.answer_gradients import last_columns, of_tokens
from steerlens.measures.tokenised import halved
from steerlens.models.model import Model, as_model
from steerlens.sites import Positions, Site

DRAWS = 4
"""Random vectors for each text. The relative error of a cost is about the root of 2 / (texts x draws),
and much of it is shared by all sites."""
AT_ONCE = 8
"""Texts of one pass."""


@torch.inference_mode(False)  # tensors made under it cannot be differentiated
def cost_gradients(
    model: Model,
    texts: Sequence[str],
    sites: Sequence[Site],
    *,
    positions: Positions | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    prompt_share: SupportsFloat = 0.5,
) -> Float[Tensor, "draw site d_model"]:
    """Random gradients whose second moments are the cost of small steps.

    With g the result and v a vector of the length of the step for each site, C = mean over draws of
    (g·v)(g·v)' is the matrix in KL ≈ m' C m / 2, in nats per token of `divergence`, of steps m v at
    all sites together. Its diagonal is the cost of each site alone.

    Args:
        texts: Ordinary texts, whose first part is the prompt, as in `divergence`.
        sites: Where vectors would be added.
        positions: Which tokens they would be added to; by default from the prompt's end on.
        draws: Random vectors for each text.
        prompt_share: How much of each text is prompt.

    Raises:
        ValueError: If a text has fewer than 4 tokens or more than the context, or the model does not
            have a site.

    Source: Fisher's information as the curvature of KL; the random vectors are those of Martens,
    Sutskever and Swersky 2012 (arXiv:1206.6464), here with signs in place of normal numbers.
    """
    model, draws = as_model(model), as_int("draws", draws, least=1)
    for site in sites:
        model.require_site(site)
    where = positions or Positions.from_prompt_end()
    whole = halved(model, texts, prompt_share)
    generator = torch.Generator(device=whole.tokens.device).manual_seed(seed)
    found = []
    for start in range(0, len(whole), AT_ONCE):
        batch = whole.rows(slice(start, start + AT_ONCE))
        chosen = where.mask(batch)
        columns = torch.arange(batch.width, device=batch.tokens.device)
        counted = (columns >= batch.prompt_end[:, None] - 1) & batch.mask
        read = batch.width - int(batch.prompt_end.min()) + 1
        weight = (counted / counted.sum(-1, keepdim=True)).sqrt()[:, -read:, None]
        with last_columns(model, batch, sites, chosen, read) as (states, held):
            logits = model.unembed(states[:, -read:]).float()
            root = logits.detach().softmax(-1).sqrt()
            for draw in range(draws):
                signs = torch.randint(0, 2, root.shape, generator=generator, device=root.device)
                z = root * (2 * signs - 1)
                z = z - root * (root * z).sum(-1, keepdim=True)
                logits.backward(z * weight, retain_graph=draw + 1 < draws)
                summed = [of_tokens(held[site].grad, held[site], chosen) for site in sites]
                for site in sites:  # afterwards: two sites can be one stream
                    held[site].grad = None
                found.append(torch.stack(summed, 1))
    return torch.cat(found)
