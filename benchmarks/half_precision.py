"""What do matrix products in half precision save, and what do they change?

    python benchmarks/half_precision.py                  # SmolLM2-135M-Instruct, some minutes
    python benchmarks/half_precision.py --maps 2         # fewer null maps

Null maps (30 layers x 7 multipliers) and activations of SmolLM2 on sentiment, with products in float32
and in bfloat16, in turn and in one process: processor seconds, and how far the numbers are apart. One
thread by default. The same activations are read by TransformerLens hooks from a model in bfloat16, 32
texts at a time.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
import tyro

import steerlens as sl
from steerlens.analyses.steerability.fitted_family import fit_family
from steerlens.analyses.steerability.nulls import null_maps
from steerlens.directions.methods import DiffMean
from steerlens.measures.sweep import sweep
from steerlens.sites import Positions, Site
from steerlens.store.cells import cells_or_none
from steerlens.units import MULTIPLIERS

DATA = Path(__file__).parents[1] / "experiments" / "data"
T = TypeVar("T")


def timed(work: Callable[[], T]) -> tuple[float, T]:
    start = time.process_time()
    found = work()
    return time.process_time() - start, found


def quantiles(x: torch.Tensor) -> str:
    mean, high = float(x.mean()), float(x.flatten().quantile(0.95))
    return f"mean {mean:.2g}, 95% below {high:.2g}, most {float(x.max()):.2g}"


@torch.no_grad()
def compare_maps(model: sl.Model, fit: sl.ContrastSet, choose: sl.ContrastSet, maps: int) -> None:
    """Null maps by both kinds of product: seconds, cells, and the largest gain of each map."""
    texts = [pair.prompt for pair in choose]
    family = fit_family(
        model, fit, model.sites(), texts, method=DiffMean(), unit="resid_norm", budget=0.1,
        positions=Positions.from_prompt_end(), cells=cells_or_none(None, "", progress=False),
    )  # fmt: skip
    made = null_maps(family, maps, seed=0)
    assert made.shuffled is not None and made.random is not None
    both = [made.shuffled(range(maps)), made.random(range(maps))]
    edits = [edit for pair in zip(*both, strict=True) for rows in pair for edit in rows]
    rows = {}
    for products in (None, "bfloat16"):
        run = partial(
            sweep, model, choose, edits, MULTIPLIERS, log_odds_only=True, products=products,
            progress=False,
        )  # fmt: skip
        seconds, swept = timed(run)
        odds = swept.log_odds.mean(-1).unflatten(0, (2 * maps, -1))
        unsteered = odds[..., [MULTIPLIERS.index(0.0)]]
        rows[products] = seconds, (odds - unsteered) * torch.tensor(MULTIPLIERS).sign()
    (one, exact), (other, half) = rows[None], rows["bfloat16"]
    best, again = (gains.flatten(1).amax(1) for gains in (exact, half))
    print(f"{2 * maps} null maps of {exact[0].numel()} cells on {len(choose)} questions")
    print(f"  processor seconds: float32 {one:.1f}, bfloat16 {other:.1f}, {one / other:.2f}x")
    print(f"  mean gain of a cell, difference in nats: {quantiles((half - exact).abs())}")
    print(
        f"  largest gain of a map: {quantiles(best)} nats; difference {quantiles((again - best).abs())}"
    )


@torch.no_grad()
def compare_directions(model: sl.Model, fit: sl.ContrastSet, repeats: int) -> None:
    """Activations and DiffMean directions by both kinds of product, and by a hook."""
    seconds: dict[str, list[float]] = {"float32": [], "bfloat16": []}
    found = {}
    for _ in range(repeats):
        for name in seconds:
            products = None if name == "float32" else "bfloat16"
            spent, found[name] = timed(
                partial(sl.activations, model, fit, products=products, progress=False)
            )
            seconds[name].append(spent)
    one, other = (sorted(seconds[name])[repeats // 2] for name in seconds)
    exact, half = (
        torch.stack([d.vector for d in found[name].directions(DiffMean())]) for name in seconds
    )
    cosines = torch.cosine_similarity(exact, half, -1)
    print(f"activations of {len(fit)} pairs at {len(exact)} layers")
    print(f"  processor seconds: float32 {one:.2f}, bfloat16 {other:.2f}, {one / other:.2f}x")
    print(f"  cosine to the float32 DiffMean direction: least {cosines.min():.6f}, "
          f"mean {cosines.mean():.6f}")  # fmt: skip
    plain = copy.deepcopy(model.wrapped).to(torch.bfloat16)
    batches = model.batch(
        [pair.prompt + side for pair in fit for side in (pair.positive, pair.negative)]
    )
    hooked, kept = timed(lambda: _hooked(plain, batches, model.n_layers))
    sides = kept.unflatten(0, (-1, 2))
    rounded = (sides[:, 0] - sides[:, 1]).mean(0)
    least = torch.cosine_similarity(exact, rounded, -1).min()
    print(f"  a bfloat16 model with a hook per layer: {hooked:.2f} s, least cosine {least:.6f}")


def _hooked(plain, batch, n_layers: int) -> torch.Tensor:
    """The last token's stream at every layer, 32 texts at a time."""
    read = []
    for start in range(0, len(batch), 32):
        some = batch.rows(slice(start, start + 32))
        kept: list[torch.Tensor] = []
        last = some.mask.long().cumsum(1).argmax(1)

        def keep(resid, hook, kept=kept, last=last):
            kept.append(resid[torch.arange(len(resid)), last].float())

        hooks = [(Site(n).hook, keep) for n in range(n_layers)]
        plain.run_with_hooks(
            some.tokens, attention_mask=some.mask.long(), fwd_hooks=hooks, stop_at_layer=n_layers
        )
        read.append(torch.stack(kept, 1))
    return torch.cat(read)


def main(
    model: str = "smollm2-135m-instruct", maps: int = 4, repeats: int = 3, threads: int = 1
) -> None:
    """Prints both comparisons.

    Args:
        maps: Null maps of each kind.
        repeats: How often activations are read by each.
    """
    torch.set_num_threads(threads)
    loaded = sl.Model.load(model)
    fit = sl.ContrastSet.load(DATA / "sentiment_fit.jsonl")
    choose = sl.ContrastSet.load(DATA / "sentiment_questions.jsonl")
    compare_directions(loaded, fit, repeats)
    compare_maps(loaded, fit, sl.ContrastSet(choose.name, tuple(choose)[:24]), maps)


if __name__ == "__main__":
    tyro.cli(main)
