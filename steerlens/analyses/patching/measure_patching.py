"""Measures what each layer and token carries, by putting its activation into another run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, SupportsFloat

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steerlens.analyses.patching.patching_map import PatchingMap
from steerlens.analyses.patching.prompt_pair import (
    PromptPair,
    digest_of,
    groups_of,
    read_prompt_pairs,
    sides,
)
from steerlens.arguments import ArgumentError, as_float
from steerlens.data.contrast_set import PairsLike, as_contrast_set
from steerlens.directions import Direction
from steerlens.interventions.arms import require_fit
from steerlens.measures.answer_scores import AnswerScores
from steerlens.measures.engine import MAX_TOKENS
from steerlens.measures.tokenised import Questions, questions
from steerlens.models.attached import SteeringError
from steerlens.models.kernel import Columns
from steerlens.models.memory import LOGITS
from steerlens.models.model import Model, as_model
from steerlens.protocols import Intervention
from steerlens.sites import Positions, Site, SiteLike, TokenBatch, as_sites
from steerlens.store.cells import Cells, cells_or_none

How = Literal["denoise", "noise"]
HOW: tuple[How, ...] = ("denoise", "noise")


@torch.no_grad()
def patching(
    model: Model,
    pairs: Iterable[PromptPair | Sequence[str]],
    *,
    sites: SiteLike | Iterable[SiteLike] | None = None,
    how: How | Sequence[How] = HOW,
    along: Direction | Sequence[Direction] | None = None,
    progress: bool = True,
    cells: Cells | None = None,
) -> PatchingMap:
    """The effect of each layer and token on an answer, by patching between two prompts.

    Denoising runs the corrupt prompt and puts the clean run's activation in at one site and one
    token: what is *sufficient* to restore the answer. Noising runs the clean prompt and puts the
    corrupt activation in: what is *necessary* for it. The effect is the share of the difference of
    log-odds between the two runs that the patch makes.

    Tokens are aligned from the end of the prompt; where prompts differ in length between pairs,
    tokens before the start of the shortest are not patched.

    Args:
        pairs: Clean and corrupt prompts with two answers, each two prompts with the same number of
            tokens, e.g. `PromptPair("Rome is in", "Paris is in", " Italy", " France")`.
        sites: Where activations are patched; by default resid_post of every layer.
        along: A vector, or one for each of several sites, to patch what the activation holds along
            it and nothing else: h + û ûᵀ (h' - h). It shows how much of the effect goes through a
            learned vector. The sites are then those of the vectors.
        cells: Where finished units of examples are kept and found; by default nowhere.

    Raises:
        ContrastError: If there are no pairs, or one is no pair of prompts with two answers.
        ValueError: If the prompts of a pair differ in their number of tokens, an answer cannot be
            scored, or the clean prompts do not favour the positive answers more than the corrupt
            ones do.
        SteeringError: If steering is attached to the model.

    Source: arXiv:2202.05262 (denoising); arXiv:2309.16042 and 2404.15255 (noising, normalisation by
    the difference of logits); along a vector, the interchange of arXiv:2303.02536 in one dimension.
    With answers of one token and resid_pre it is `get_act_patch_resid_pre` of TransformerLens.
    """
    model = as_model(model)
    given = read_prompt_pairs(pairs)
    clean, corrupt = (questions(model, side) for side in sides(given))
    _require_aligned(model, given)
    runs = (_Run(clean, _nothing), _Run(corrupt, _nothing))
    where, vectors = _places(model, sites, along)
    facts = {
        "question": "Which layers and tokens carry what the prompts differ in?",
        "data": digest_of(given),
        "along": [repr(d) for d in vectors.values()],
    }
    options = {"progress": progress, "cells": cells, "facts": facts, "groups": groups_of(given)}
    return _measure(model, runs, where, _ways(how), vectors, **options)


@torch.no_grad()
def trace_steering(
    model: Model,
    pairs: PairsLike,
    intervention: Intervention,
    multiplier: SupportsFloat = 1.0,
    *,
    sites: SiteLike | Iterable[SiteLike] | None = None,
    how: How | Sequence[How] = HOW,
    along: Direction | Sequence[Direction] | None = None,
    progress: bool = True,
    cells: Cells | None = None,
) -> PatchingMap:
    """Through which layers and tokens a steered model's answer comes about.

    The clean run is the prompt under the intervention and the corrupt run the prompt without it, so
    `patching` between them follows the effect of steering through the model. An effect of 1 at a
    place says that the steered activation there is all it takes.

    Args:
        pairs: Questions with two answers.
        intervention: Of any kind, e.g. a learned vector.
        along: As in `patching`.

    Raises:
        ValueError: As `patching`; if the intervention does not fit the model or does not change the
            answers.
        SteeringError: If steering is attached to the model already, or it edits no token.
    """
    model = as_model(model)
    strength = as_float("multiplier", multiplier)
    require_fit(model, intervention)
    given = as_contrast_set(pairs)
    asked = questions(model, given)
    runs = (_Run(asked, lambda: intervention.attach(model, strength)), _Run(asked, _nothing))
    where, vectors = _places(model, sites, along)
    facts = {
        "question": "Through which layers and tokens does steering act?",
        "data": given.hash,
        "intervention": repr(intervention),
        "multiplier": strength,
        "along": [repr(d) for d in vectors.values()],
    }
    options = {"progress": progress, "cells": cells, "facts": facts, "groups": given.groups}
    return _measure(model, runs, where, _ways(how), vectors, **options)


@dataclass(frozen=True, eq=False)
class _Run:
    """Prompts and what is attached while they run."""

    asked: Questions
    attach: Callable[[], AbstractContextManager[Any]]

    @property
    def steered(self) -> bool:
        return self.attach is not _nothing


def _nothing() -> AbstractContextManager[Any]:
    return nullcontext()


def _ways(how: How | Sequence[How]) -> tuple[How, ...]:
    given = (how,) if isinstance(how, str) else tuple(how)
    if not given or not set(given) <= set(HOW):
        raise ArgumentError(f"how={how!r:.80} must be 'denoise', 'noise', or both.")
    return tuple(way for way in HOW if way in given)


def _places(
    model: Model,
    sites: SiteLike | Iterable[SiteLike] | None,
    along: Direction | Sequence[Direction] | None,
) -> tuple[tuple[Site, ...], dict[Site, Direction]]:
    """Where is patched, and along which vector at each place."""
    given = [along] if isinstance(along, Direction) else list(along or ())
    vectors = {direction.site: direction for direction in given}
    if len(vectors) < len(given):
        raise ArgumentError("Two of the vectors have the same site. Give one for each site.")
    if vectors and sites is not None:
        raise ArgumentError(
            "Vectors are patched at their own sites, so `sites` has no meaning beside `along`. "
            "Leave it out."
        )
    for direction in given:
        model.require(direction)
        direction.require_operation("ablate")  # what a raw activation holds along it must mean it
    where = tuple(vectors) or (model.sites() if sites is None else as_sites(sites, model.n_layers))
    for site in where:
        model.require_site(site)
    return where, vectors


def _require_aligned(model: Model, pairs: Sequence[PromptPair]) -> None:
    for k, pair in enumerate(pairs):
        one, other = len(model.ids(pair.clean)), len(model.ids(pair.corrupt))
        if one != other:
            raise ValueError(
                f"The prompts of pair {k} have {one} and {other} tokens "
                f"({pair.clean!r:.60} / {pair.corrupt!r:.60}), so their tokens do not stand for "
                "each other. Write prompts with the same number of tokens."
            )


def _measure(
    model: Model,
    runs: tuple[_Run, _Run],
    sites: tuple[Site, ...],
    ways: tuple[How, ...],
    vectors: dict[Site, Direction],
    *,
    progress: bool,
    cells: Cells | None,
    facts: dict[str, Any],
    groups: tuple[str, ...],
) -> PatchingMap:
    if model.attached:
        raise SteeringError(
            "Steering is attached to the model, and both runs would go through it. Patch outside of "
            "its `with`, or give it to trace_steering."
        )
    clean, corrupt = runs
    asked = clean.asked
    width, batch = asked.prompt_width, asked.batch
    shortest = int((batch.mask[:, :width].sum(-1)).min())
    columns = range(width - shortest, width)
    kept = cells_or_none(cells, "patching", progress).part(
        "units", clean=asked.digest, corrupt=corrupt.asked.digest, sites=repr(sites),
        facts=repr(facts),
    )  # fmt: skip
    score = AnswerScores(model, odds=True, memory=16 * LOGITS)
    size = _examples_at_once(asked)
    units = [slice(k, min(k + size, len(asked))) for k in range(0, len(asked), size)]
    parts = [tuple(_Run(run.asked.rows(some), run.attach) for run in runs) for some in units]
    ends = [[_streams(model, score, run, ())[1] for run in pair] for pair in parts]
    odds = [torch.cat([end[k] for end in ends]).cpu() for k in (0, 1)]
    _require_difference(odds, clean.steered)
    patch = _Patching(model, score, sites, columns, ways, vectors)
    found: list[dict[str, Tensor]] = []
    with kept.bar(len(asked), "example") as bar:
        for some, pair in zip(units, parts, strict=True):
            name = f"{some.start:06d}-{some.stop:06d}"
            found.append(kept.compute(name, lambda pair=pair: patch(pair)))
            bar.update(some.stop - some.start)
    made = {way: torch.cat([numbers[way] for numbers in found], -1) for way in ways}
    tokens = [
        tuple(tuple(model.text([t]) for t in row[columns.start : width]) for row in rows)
        for rows in (run.asked.batch.tokens[:: asked.variants].tolist() for run in runs)
    ]
    return PatchingMap(
        sites=sites,
        positions=tuple(column - width for column in columns),
        clean_tokens=tokens[0],
        corrupt_tokens=tokens[1],
        groups=groups,
        clean=odds[0],
        corrupt=odds[1],
        denoised=made.get("denoise"),
        noised=made.get("noise"),
        made_by={**model.facts, **facts},
    )


def _examples_at_once(asked: Questions) -> int:
    """Examples whose patched runs of one site fit a batch; at least one."""
    return max(1, MAX_TOKENS // (asked.variants * asked.batch.width * asked.prompt_width))


def _require_difference(odds: list[Tensor], steered: bool) -> None:
    gap = float((odds[0] - odds[1]).mean())
    if steered and gap == 0:
        raise ValueError(
            "The intervention does not change the log-odds of the answers, so there is no effect to "
            "trace. Give a larger multiplier, or questions that it changes."
        )
    if not steered and not gap > 0:
        raise ValueError(
            f"The log-odds of the positive answers are {float(odds[0].mean()):.3g} nats after the "
            f"clean prompts and {float(odds[1].mean()):.3g} after the corrupt ones, so there is no "
            "difference that a patch could restore. Exchange the answers, or use prompts that the "
            "model tells apart."
        )


def _streams(
    model: Model, score: AnswerScores, run: _Run, sites: tuple[Site, ...]
) -> tuple[dict[Site, Tensor], Float[Tensor, " example"]]:
    """The streams of a run at some sites, and the log-odds of its answers."""
    last = Site(model.n_layers - 1)
    with run.attach():
        streams = model.cache(run.asked.batch, sorted({*sites, last}))
        states = model.readout.norm(streams[last])[:, -run.asked.read :, None]
    shaped = states.transpose(1, 2).unflatten(0, (len(run.asked), run.asked.variants))
    return streams, score(shaped.transpose(1, 2), run.asked)[:, 0, 0]


class _Patching:
    """Runs prompts with the activation of each site and column exchanged for that of other ones."""

    def __init__(
        self,
        model: Model,
        score: AnswerScores,
        sites: tuple[Site, ...],
        columns: range,
        ways: tuple[How, ...],
        vectors: dict[Site, Direction],
    ) -> None:
        self.model, self.score, self.sites = model, score, sites
        self.columns, self.ways, self.vectors = columns, ways, vectors
        entries = [site.entry for site in sites if site.entry is not None]
        self.kernel = model.kernel(min(entries)) if entries else None

    def __call__(self, runs: tuple[_Run, ...]) -> dict[str, Float[Tensor, "site position example"]]:
        """Log-odds of the clean and of the corrupt run, patched."""
        both = [_streams(self.model, self.score, run, self.sites) for run in runs]
        out: dict[str, list[Tensor]] = {way: [] for way in self.ways}
        for site in self.sites:
            streams = [found[site] for found, _ in both]
            for way in self.ways:
                base, other = (1, 0) if way == "denoise" else (0, 1)
                into, given = streams[base], streams[other]
                if site in self.vectors:
                    u = self.vectors[site].unit().vector.to(into)
                    given = into + ((given - into) @ u)[..., None] * u
                out[way].append(self._columns(runs[base], site, into, given, both[base][1]))
        return {way: torch.stack(rows) for way, rows in out.items()}

    def _columns(
        self, run: _Run, site: Site, into: Tensor, given: Tensor, unpatched: Tensor
    ) -> Float[Tensor, "position example"]:
        """Log-odds with one column after the other exchanged; where it is the same, unpatched."""
        differs = [c for c in self.columns if not torch.equal(into[:, c], given[:, c])]
        odds = unpatched.expand(len(self.columns), -1).clone()
        at_once = max(1, MAX_TOKENS // into.shape[:2].numel())
        for start in range(0, len(differs), at_once):
            some = differs[start : start + at_once]
            states = self._rerun(run, site, into, given, some)[:, -run.asked.read :]
            cells = states.unflatten(0, (len(run.asked), run.asked.variants, len(some)))
            index = torch.tensor([c - self.columns.start for c in some], device=odds.device)
            odds[index] = self.score(cells.transpose(1, 2), run.asked)[..., 0].T
        return odds

    def _rerun(
        self, run: _Run, site: Site, into: Tensor, given: Tensor, columns: list[int]
    ) -> Float[Tensor, "row pos d_model"]:
        """The final states of a run, once for each column in which the other activation stands."""
        many, width = len(columns), into.shape[1]
        own = torch.arange(width) == torch.tensor(columns)[:, None]  # [cell, pos]
        own = own.repeat(len(into), 1).to(into.device)[..., None]
        batch = run.asked.batch.repeated(many)
        there = given.repeat_interleave(many, 0)
        with run.attach():
            if site.entry is None or self.kernel is None or self.model.attached:
                return _hooked(self.model, batch, site, own, there)
            resid = torch.where(own, there, into.repeat_interleave(many, 0))[:, None]
            if site.entry < self.model.n_layers:
                resid = self.kernel.climb(resid, Columns.of(batch), first=site.entry)
            return self.kernel.states(resid[:, 0])


def _hooked(
    model: Model,
    batch: TokenBatch,
    site: Site,
    own: Bool[Tensor, "row pos 1"],
    there: Float[Tensor, "row pos d_model"],
) -> Float[Tensor, "row pos d_model"]:
    def put(resid: Tensor, strength: Any) -> Tensor:
        return torch.where(own, there.to(resid), resid)

    with model.hooked(site, put, Positions.all(special=True), 1.0):
        return model.states(batch)
