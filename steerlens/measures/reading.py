"""Reading activations: only the asked sites and tokens, a few texts at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, SupportsIndex, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.arguments import ArgumentError, as_int
from steerlens.data import ContrastPair, ContrastSet
from steerlens.data.contrast_set import PairsLike, as_contrast_set
from steerlens.directions import Activations, Direction
from steerlens.directions.methods import DiffMean, as_method
from steerlens.directions.methods.method import Method
from steerlens.models.kernel import Columns, Kernel
from steerlens.models.model import Model, as_model
from steerlens.models.products import Products, products_of
from steerlens.progress_bar import progress_bar
from steerlens.sites import (
    Positions,
    Site,
    SiteLike,
    TokenBatch,
    as_positions,
    as_sites,
    sites_or_layers,
)
from steerlens.store.cells import Cells, cells_or_none

PAIRS = 8
"""Pairs computed at once on a CPU."""

Pool = Literal["none", "mean"]
"""How one vector is made of the tokens that a rule chooses: it must be one, or their mean."""


def reading_positions(pairs: Sequence[ContrastPair] | ContrastSet) -> Positions:
    """Where a contrast is read by default.

    Pairs of texts without a prompt are read at their last token; answers to a prompt at the token
    in which they differ.
    """
    return Positions.answer() if any(pair.prompt for pair in pairs) else Positions.last()


@dataclass(frozen=True, eq=False)
class Chunk:
    """What was read of some pairs."""

    index: Int[Tensor, " pair"]
    """Which pairs of the set these are."""
    positive: Float[Tensor, "pair site d_model"]
    negative: Float[Tensor, "pair site d_model"]
    norms: Float[Tensor, "text site"]
    """Median over each text's ordinary tokens of the stream's norm."""


def chunks(
    model: Model,
    pairs: Sequence[ContrastPair],
    sites: Sequence[Site],
    positions: Positions,
    batch_size: int,
    cells: Cells | None = None,
    pool: Pool = "none",
    products: Products | None = None,
) -> Iterator[Chunk]:
    """Reads pairs a few at a time, both sides in one batch, texts of like length together.

    Args:
        cells: Where chunks are kept and found; by default nowhere.
        products: As in `activations`.
    """
    kept = cells_or_none(cells, "activations", progress=False)
    if products is not None:
        kept = replace(kept, facts={**kept.facts, "products": products})
    for site in sites:
        model.require_site(site)
    lengths = [len(p.prompt) + max(len(p.positive), len(p.negative)) for p in pairs]
    order = torch.tensor(sorted(range(len(pairs)), key=lambda i: (lengths[i], i)))
    half, inside = products_of(model, products), [s for s in sites if s.entry is None]
    if half is not None and inside:
        raise ValueError(
            f"products={products!r} is for the streams between blocks, and {inside[0]} is inside one. "
            "Leave products out."
        )
    kernel = None if inside or model.attached else model.kernel(products=half)
    for k, index in enumerate(order.split(batch_size)):
        ready = kept.load(k)
        if ready is not None and torch.equal(ready["index"], index):
            yield Chunk(**ready)
            continue
        # On a CPU more rows at once are no faster, only larger.
        parts = index.split(PAIRS if model.device.type == "cpu" else batch_size)
        read = [
            _read_pairs(model, kernel, [pairs[i] for i in part.tolist()], sites, positions, pool)
            for part in parts
        ]
        chunk = Chunk(
            index,
            positive=torch.cat([vectors[0] for vectors, _ in read]),
            negative=torch.cat([vectors[1] for vectors, _ in read]),
            norms=torch.cat([norms for _, norms in read], 1).flatten(0, 1),
        )
        kept.save(k, {field.name: getattr(chunk, field.name) for field in fields(Chunk)})
        yield chunk


def activations(
    model: Model,
    pairs: PairsLike,
    sites: SiteLike | Iterable[SiteLike] | None = None,
    *,
    layers: Iterable[SupportsIndex] | None = None,
    positions: Positions | str | None = None,
    pool: Pool = "none",
    batch_size: int = 32,
    products: Products | None = None,
    progress: bool = True,
    cells: Cells | None = None,
) -> Activations:
    """The residual stream of both sides of every pair, at one token and the asked sites.

    Keeps one vector per pair, side and site; layers above the highest site are not computed, nor
    is the unembedding.

    Args:
        pairs: A set, or what `ContrastSet.from_pairs` takes.
        sites: Sites, layers or names of hooks; by default resid_post of every layer.
        layers: Short for `sites` of resid_post.
        positions: Which token is read; by default `reading_positions(pairs)`.
        pool: "mean" reads the mean over all tokens that `positions` chooses, e.g. "all" of a text
            or those after the prompt ("generated"); by default they must be one.
        batch_size: Pairs of one chunk.
        products: "bfloat16" rounds both factors of each product with the blocks' weights, and keeps
            the stream in float32: faster on processors with bfloat16 instructions (docs/models.md).
            The `dtype` of what is read says so.
        cells: Where chunks are kept and found; by default nowhere. `ActivationStore` keeps them for
            any later run.

    Raises:
        ValueError: For a site the model does not have, a text longer than the context, positions
            that choose no token, both sides being read at a token where they cannot differ, or
            `products` of a model or a site that cannot have them.

    Source of the mean over a response's tokens: persona vectors, arXiv:2507.21509.
    """
    model, pairs = as_model(model), as_contrast_set(pairs)
    where, rule, read_at = _where(model, pairs, sites_or_layers(sites, layers), positions, pool)
    batch_size = as_int("batch_size", batch_size, least=1)
    shape = (len(pairs), len(where), _one_width(model, where))
    positive, negative = (torch.empty(shape, dtype=torch.float32) for _ in range(2))
    norms = torch.empty(2, len(pairs), len(where), dtype=torch.float32)
    kept = cells_or_none(cells, "activations", progress)
    with kept.bar(len(pairs), "pair") as bar:
        for chunk in chunks(model, tuple(pairs), where, rule, batch_size, kept, pool, products):
            positive[chunk.index], negative[chunk.index] = chunk.positive, chunk.negative
            norms[:, chunk.index] = chunk.norms.unflatten(0, (2, -1))
            bar.update(len(chunk.index))
    return Activations(
        positive=positive,
        negative=negative,
        sites=where,
        groups=pairs.groups,
        keys=tuple(sorted({key for pair in pairs for key in pair.keys})),
        resid_norms=norms.flatten(0, 1).median(0).values,
        paired=pairs.paired,
        processing=model.processing,
        read_at=read_at,
        model=model.name,
        fingerprint=model.fingerprint,
        data=pairs.hash,
        dtype=_dtype(model, products),
        revision=model.revision or "",
    )


def diffmean(
    model: Model,
    pairs: PairsLike,
    sites: SiteLike | Iterable[SiteLike] | None = None,
    *,
    positions: Positions | str | None = None,
    pool: Pool = "none",
    batch_size: int = 32,
    products: Products | None = None,
    progress: bool = True,
) -> list[Direction]:
    """One DiffMean direction per site from running sums: no activation is kept.

    Memory does not grow with the number of pairs (but for one norm per text and site). The numbers
    are those of ``activations(…).directions(DiffMean())``, but for rounding.
    """
    model, pairs = as_model(model), as_contrast_set(pairs)
    where, rule, read_at = _where(model, pairs, sites, positions, pool)
    batch_size = as_int("batch_size", batch_size, least=1)
    total = torch.zeros(len(where), _one_width(model, where), dtype=torch.float64)
    norms = []
    with progress_bar(progress, total=len(pairs), desc="DiffMean", unit="pair") as bar:
        read = chunks(model, tuple(pairs), where, rule, batch_size, pool=pool, products=products)
        for chunk in read:
            total += (chunk.positive.double() - chunk.negative.double()).sum(0)
            norms.append(chunk.norms)
            bar.update(len(chunk.index))
    median = torch.cat(norms).median(0).values
    fingerprint, label = model.fingerprint, repr(DiffMean())
    return [
        Direction(
            vector=(total[i] / len(pairs)).float(),
            site=site,
            method=label,
            resid_norm=float(median[i]),
            processing=model.processing,
            read_at=read_at,
            model=model.name,
            fingerprint=fingerprint,
            data=pairs.hash,
            pairs=len(pairs),
            dtype=_dtype(model, products),
            revision=model.revision or "",
        )
        for i, site in enumerate(where)
    ]


def fit_directions(
    model: Model,
    pairs: PairsLike,
    method: Method | str | type,
    sites: SiteLike | Iterable[SiteLike] | None = None,
    *,
    layers: Iterable[SupportsIndex] | None = None,
    positions: Positions | str | None = None,
    pool: Pool = "none",
    products: Products | None = None,
) -> list[Direction]:
    """One direction per site by any method; DiffMean streams.

    Args:
        method: A method, its class, or its name.
        sites: As in `activations`, and so are the others.
    """
    method, where = as_method(method), sites_or_layers(sites, layers)
    if isinstance(method, DiffMean):
        return diffmean(model, pairs, where, positions=positions, pool=pool, products=products)
    read = activations(model, pairs, where, positions=positions, pool=pool, products=products)
    return list(read.directions(method))


def _dtype(model: Model, products: Products | None) -> str:
    return model.dtype if products is None else f"{model.dtype}, products in {products}"


def pooled(positions: Positions, pool: Pool) -> str:
    """Where a vector was read, in words."""
    return repr(positions) if pool == "none" else f"the mean over {positions!r}"


def _where(
    model: Model,
    pairs: ContrastSet,
    sites: SiteLike | Iterable[SiteLike] | None,
    positions: Positions | str | None,
    pool: Pool,
) -> tuple[tuple[Site, ...], Positions, str]:
    if pool not in get_args(Pool):
        raise ArgumentError(f"pool={pool!r:.80} is no way to read tokens. Use 'none' or 'mean'.")
    where = model.sites() if sites is None else as_sites(sites)
    rule = reading_positions(pairs) if positions is None else as_positions(positions)
    return where, rule, pooled(rule, pool)


def _one_width(model: Model, sites: Sequence[Site]) -> int:
    """The width that all sites have.

    Raises:
        ValueError: If they have several, or the model has no such site.
    """
    widths = {site: model.width(site) for site in sites}
    if len(set(widths.values())) > 1:
        site, other = sites[0], next(s for s in sites if widths[s] != widths[sites[0]])
        raise ValueError(
            f"{site} is {widths[site]} wide and {other} is {widths[other]}, so they do not fit "
            "into one tensor. Read them by calls of their own."
        )
    return widths[sites[0]]


def _require_difference(side: TokenBatch, positions: Positions, pool: Pool) -> None:
    """Before their first different token both sides are the same, but for rounding."""
    if side.answer is None:
        return
    if pool == "mean":
        columns = torch.arange(side.width, device=side.tokens.device)
        differs = positions.mask(side) & (columns >= side.answer[:, None])
        if bool(differs.any(-1).all()):
            return
    elif not bool((positions.columns(side) < side.answer).any()):
        return
    raise ValueError(
        f"{positions} reads both sides of a pair where they are still the same, so their "
        "difference is zero. Read them at Positions.answer(), the first token that differs."
    )


def _joined(one: TokenBatch, other: TokenBatch) -> TokenBatch:
    def both(name: str) -> Tensor:
        return torch.cat([getattr(one, name), getattr(other, name)])

    answer = None if one.answer is None or other.answer is None else both("answer")
    return TokenBatch(both("tokens"), both("mask"), both("special"), both("prompt_end"), answer)


def _read_pairs(
    model: Model,
    kernel: Kernel | None,
    pairs: Sequence[ContrastPair],
    sites: Sequence[Site],
    positions: Positions,
    pool: Pool,
) -> tuple[Float[Tensor, "2 pair site d_model"], Float[Tensor, "2 pair site"]]:
    sides = model.texts.pairs(pairs, padding_side="left")
    _require_difference(sides[0], positions, pool)
    batches = [_joined(*sides)] if sides[0].width == sides[1].width else sides
    read = [_read(model, kernel, batch, sites, positions, pool) for batch in batches]
    vectors, norms = (torch.cat(parts).float().cpu() for parts in zip(*read, strict=True))
    return vectors.unflatten(0, (2, -1)), norms.unflatten(0, (2, -1))


@torch.no_grad()
def _read(
    model: Model,
    kernel: Kernel | None,
    batch: TokenBatch,
    sites: Sequence[Site],
    positions: Positions,
    pool: Pool,
) -> tuple[Float[Tensor, "text site d_model"], Float[Tensor, "text site"]]:
    take = _taking(batch, positions, pool)
    ordinary = batch.mask & ~batch.special
    vectors: dict[Site, Tensor] = {}
    norms: dict[Site, Tensor] = {}

    def keep(site: Site, resid: Float[Tensor, "text pos d_model"]) -> None:
        vectors[site] = take(resid)
        norms[site] = _median(resid.float().norm(dim=-1), ordinary)

    if kernel is None:
        for site, resid in model.cache(batch, sites).items():
            keep(site, resid)
    else:
        _climb(kernel, batch, sites, keep)
    return torch.stack([vectors[s] for s in sites], 1), torch.stack([norms[s] for s in sites], 1)


def _taking(batch: TokenBatch, positions: Positions, pool: Pool) -> Callable[[Tensor], Tensor]:
    """What is taken of a stream [text, pos, d_model]: one vector [text, d_model] for each text."""
    if pool == "none":
        columns = positions.columns(batch)
        rows = torch.arange(len(batch), device=columns.device)
        return lambda resid: resid[rows, columns]
    chosen = positions.mask(batch)
    counts = chosen.sum(-1)
    if not bool(counts.all()):
        raise ValueError(
            f"{positions} chooses no token of row {int((counts == 0).nonzero()[0])}, so there is no "
            "mean to read. Texts without a prompt are all prompt: use Positions.all()."
        )
    shares = (chosen / counts[:, None]).double()
    return lambda resid: torch.einsum("tp,tpd->td", shares, resid.double()).to(resid.dtype)


def _climb(kernel: Kernel, batch: TokenBatch, sites: Sequence[Site], keep) -> None:
    columns = Columns.of(batch)

    def enter(entry: int, resid: Float[Tensor, "text 1 pos d_model"]) -> Tensor:
        for site in sites:
            if site.entry == entry:
                keep(site, resid[:, 0])
        return resid

    resid = kernel.embed(batch.tokens[:, None], columns.positions)
    kernel.climb(resid, columns, enter=enter, top=max(site.entry or 0 for site in sites))


def _median(norms: Float[Tensor, "text pos"], counted: Tensor) -> Float[Tensor, " text"]:
    return norms.masked_fill(~counted, torch.nan).nanmedian(-1).values
