"""How readable a contrast is at each layer: cross-validated, with a shuffled-label control."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, SupportsIndex

import torch
from jaxtyping import Float
from threadpoolctl import threadpool_limits
from torch import Tensor

from steerlens.analyses.probe.probe_map import ProbeMap
from steerlens.arguments import as_int
from steerlens.directions import Activations
from steerlens.directions.methods import Logistic, as_method
from steerlens.directions.methods.method import Method
from steerlens.stats import group_numbers
from steerlens.store.cells import Cells, cells_or_none

FOLDS, CONTROLS = 5, 5
"""Parts of the cross-validation, and repetitions with shuffled labels, where no number is given."""


def probe(
    activations: Activations,
    method: Method | str | None = None,
    *,
    folds: SupportsIndex = FOLDS,
    controls: SupportsIndex = CONTROLS,
    seed: SupportsIndex = 0,
    progress: bool = True,
    cells: Cells | None = None,
) -> ProbeMap:
    """How well a direction reads the contrast at each site, cross-validated.

    In each fold the method's direction is fitted on the other folds; a held-out text's score is its
    projection, measured from the midpoint between the two training means. A question is never in
    two folds. That a contrast can be read at a site does not mean that it can be steered there.

    Args:
        method: How the probe's direction is fitted, or the name of such a method; by default
            logistic regression.
        folds: Parts of the cross-validation.
        controls: How many times the whole is repeated with shuffled labels.
        seed: Seeds the folds and the shuffling.
        cells: Where finished parts are kept, so that a stopped run goes on.

    Raises:
        ValueError: If there are fewer questions than folds.
    """
    # Imported here: every start of the package would wait for it.
    from sklearn.model_selection import GroupKFold

    fitting = as_method(method or Logistic())
    folds, seed = as_int("folds", folds, least=2), as_int("seed", seed)
    controls = as_int("controls", controls, least=0)
    groups = len(set(activations.groups))
    if groups < folds:
        raise ValueError(
            f"{groups} questions cannot be dealt into {folds} folds without a question in two of "
            f"them. Use folds={max(2, groups)} or more questions."
        )
    runs = [activations, *(activations.shuffled(seed + k) for k in range(controls))]
    cells = cells_or_none(cells, "", progress).part("probe")
    splitter = GroupKFold(folds, shuffle=True, random_state=seed)
    parts = list(splitter.split(range(len(activations)), groups=activations.groups))
    fold_of = torch.zeros(len(activations), dtype=torch.long)
    for number, (_, held) in enumerate(parts):
        fold_of[held] = number
    scores = []
    # Many small fits: threads cost more than they give, and on a busy machine far more.
    with cells.bar(len(runs) * len(activations.sites), "site") as bar, threadpool_limits(1):
        for k, run in enumerate(runs):
            unit = cells.compute(k, lambda run=run: {"scores": _scores(run, fitting, parts)})
            scores.append(unit["scores"])
            bar.update(len(activations.sites))
    return ProbeMap(
        sites=activations.sites,
        scores=scores[0],
        control=torch.stack(scores)[1:],
        groups=group_numbers(activations.groups),
        folds=fold_of,
        made_by={
            "model": activations.model,
            "revision": activations.revision,
            "fingerprint": activations.fingerprint,
            "processing": activations.processing,
            "dtype": activations.dtype,
            "method": repr(fitting),
            "folds": folds,
            "controls": controls,
            "seed": seed,
            "read_at": activations.read_at,
            "data": activations.data,
        },
    )


def _scores(
    run: Activations, method: Method, parts: Sequence[tuple[Any, Any]]
) -> Float[Tensor, "site pair side=2"]:
    out = torch.full((len(run.sites), len(run), 2), torch.nan, dtype=torch.float32)
    for s, site in enumerate(run.sites):
        positive, negative = (side.float() for side in run.at(site))
        for train, held in parts:
            w = method(positive[train], negative[train])
            w = w / w.norm().clamp(min=1e-30)
            centre = (positive[train] @ w).mean() / 2 + (negative[train] @ w).mean() / 2
            out[s, held, 0] = (positive[held] @ w - centre).to(out)
            out[s, held, 1] = (negative[held] @ w - centre).to(out)
    return out
