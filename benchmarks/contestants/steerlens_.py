"""steerlens itself, by its public functions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from task import Positions
from torch import Tensor

from steerlens.data import ContrastPair, ContrastSet
from steerlens.directions import Direction
from steerlens.interventions import Add
from steerlens.measures.generation import generated_tokens
from steerlens.measures.reading import diffmean
from steerlens.measures.screen import screen
from steerlens.measures.sweep import sweep as swept
from steerlens.models.model import Model
from steerlens.sites import Positions as Rule
from steerlens.sites import Site

RULES = {"all": Rule.all(special=True), "last": Rule.from_prompt_end()}


@cache
def load(model_dir: str) -> Model:
    model = Model.load(model_dir)
    model.prepend_bos = False
    return model


def directions(model_dir: str, pairs: Sequence[tuple[str, str]], *, batch_size: int) -> Tensor:
    """DiffMean at the last token of each text, at `resid_post` of every layer: [layer, d_model]."""
    made = ContrastSet("benchmark", tuple(ContrastPair("", *pair) for pair in pairs))
    found = diffmean(load(model_dir), made, progress=False)
    return torch.stack([direction.vector for direction in found])


def sweep(
    model_dir: str,
    prompts: Sequence[str],
    answers: Sequence[tuple[str, str]],
    vectors: Tensor,
    multipliers: Sequence[float],
    positions: Positions,
    *,
    batch_size: int,
) -> Tensor:
    """Log-odds of the first answer over the second, in nats: [layer, multiplier, prompt].

    `vectors[l]` is added, as it is, times the multiplier, to `resid_post` of layer l.
    """
    pairs, edits = _asked(prompts, answers), _edits(vectors, positions)
    model = load(model_dir)
    return swept(model, pairs, edits, multipliers, log_odds_only=True, progress=False).log_odds


def generate(
    model_dir: str,
    prompts: Sequence[str],
    vector: Tensor,
    layer: int,
    multiplier: float,
    n_new: int,
    *,
    batch_size: int,
) -> Tensor:
    """Greedy token ids, steered at every position: [prompt, n_new]."""
    model = load(model_dir)
    edit = Add(Direction(vector, Site(layer)), RULES["all"], "direction")
    with edit.attach(model, multiplier):
        return generated_tokens(model, prompts, max_new_tokens=n_new, stop_at_eos=False)


def unsteered(model_dir: str, prompts: Sequence[str], n_new: int) -> Tensor:
    """`generate` without any steering."""
    return generated_tokens(load(model_dir), prompts, max_new_tokens=n_new, stop_at_eos=False)


def screened(
    model_dir: str, prompts: Sequence[str], answers: Sequence[tuple[str, str]], vectors: Tensor
) -> Tensor:
    """First-order slopes of the same edits as in `sweep` at all positions: [layer, prompt]."""
    edits = _edits(vectors, "all")
    return screen(load(model_dir), _asked(prompts, answers), edits, progress=False).slopes


def _asked(prompts: Sequence[str], answers: Sequence[tuple[str, str]]) -> list[ContrastPair]:
    return [
        ContrastPair(prompt, f" {one}", f" {other}")
        for prompt, (one, other) in zip(prompts, answers, strict=True)
    ]


def _edits(vectors: Tensor, positions: Positions) -> list[Add]:
    return [
        Add(Direction(vector, Site(layer)), RULES[positions], "direction")
        for layer, vector in enumerate(vectors)
    ]
