"""Questions and edits of the tiny models, for tests of what sweeps compute."""

import torch

from steerlens.data import ContrastPair
from steerlens.directions import Direction
from steerlens.interventions import Ablate, Add, Clamp
from steerlens.sites import Site

ONE_TOKEN = [
    ContrastPair("the cat sat on the", " bed", " table"),
    ContrastPair("I think he said that the good soup was", " good", " bad"),
    ContrastPair("you really", " like", " hate"),
]
SEVERAL_TOKENS = [
    ContrastPair("the cat sat on the", " bed and a book", " book"),
    ContrastPair("I think he said that the good soup was", " good", " bad cat"),
    ContrastPair("Question : you", " ( A )", " ( B )"),
]
MULTIPLIERS = (-1.0, 0.0, 0.5, 2.0)


def every_edit(model, positions):
    """Add at every stream that enters a block, and one of each other edit."""
    generator = torch.Generator().manual_seed(0)

    def direction(site):
        return Direction(torch.randn(model.d_model, generator=generator), site)

    sites = [Site(layer, s) for layer in range(model.n_layers) for s in ("resid_pre", "resid_post")]
    edits = [Add(direction(site), positions, "direction") for site in sites]
    return [
        *edits,
        Ablate(direction(Site(1)), positions),
        Clamp(direction(Site(0)), 2.0, positions),
    ]
