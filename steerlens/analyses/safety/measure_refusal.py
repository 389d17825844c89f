"""Measures what steering of some cells does to a model's refusals."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, SupportsIndex

import torch
from jaxtyping import Float, Int
from scipy import stats as scipy_stats
from torch import Tensor

from steerlens.analyses.question_splits import require_disjoint
from steerlens.analyses.safety.answer_openings import find_openings, opening_log_odds
from steerlens.analyses.safety.refusal_effect import RefusalEffect
from steerlens.analyses.safety.refusal_reader import ReaderCheck, RefusalReader
from steerlens.analyses.writing.judging import judge_name, judge_texts
from steerlens.analyses.writing.text_batches import Job, batch_rows, grouped, written_tokens
from steerlens.arguments import ArgumentError, as_float, as_int
from steerlens.data import ContrastSet
from steerlens.data.contrast_set import PairsLike, as_contrast_set
from steerlens.directions import Activations, Direction
from steerlens.interventions.arms import Arms, named_arms, require_fits, site_of
from steerlens.interventions.scaled import scaled
from steerlens.measures.reading import activations
from steerlens.measures.surprisal import require_unsteered
from steerlens.models.model import Model, as_model
from steerlens.protocols import Directed, Intervention, Scorer
from steerlens.results import Cell
from steerlens.stats import group_numbers, jackknife_interval
from steerlens.store.cells import Cells, cells_or_none

OPENING_TOKENS, OPENINGS = 3, 4
"""Tokens of an opening, and openings of each side, at most."""
NEW_TOKENS = 16
"""Tokens of a written text: a refusal shows in its first sentence."""


@torch.no_grad()
def refusal_effect(
    model: Model,
    arms: Arms,
    at: Sequence[Cell],
    fit: PairsLike,
    report: PairsLike,
    *,
    known: Sequence[tuple[str, bool]] = (),
    reader: Scorer | None = None,
    controls: Collection[str] = (),
    others: Mapping[str, Sequence[Direction]] | None = None,
    opening_tokens: SupportsIndex = OPENING_TOKENS,
    openings: SupportsIndex = OPENINGS,
    max_new_tokens: SupportsIndex = NEW_TOKENS,
    progress: bool = True,
    cells: Cells | None = None,
) -> RefusalEffect:
    """What each recommended cell does to refusals: cosine, log-odds of refusing, and written rate.

    Three things are measured. The cosine of a cell's vector with the refusal direction of its layer:
    the difference of means of harmful and harmless requests at their last token. The log-odds of the
    model's own refusing openings over its complying ones at the end of other requests. And the share
    of short greedy answers to these that refuse, as a reader says. The last two are steered minus
    unsteered, at the cell's multiplier and its opposite.

    Openings are facts of the checkpoint: the most common starts of its own unsteered answers to the
    requests of `fit`, of those that the reader calls refusals and of the others (`find_openings`).

    Args:
        arms: Interventions by name, among them the rows of the cells.
        at: The cells to measure, each row once; controls among them.
        fit: Pairs of a harmful request (positive) and a harmless one (negative), as prompts in the
            model's chat template, without a prompt before them.
        report: Other such pairs, on which propensity and rate are measured.
        known: Texts with whether they refuse, as a person labelled them. The reader is held against
            them, and rates are withheld without them or where it is poor.
        reader: 1 for a refusal and 0 for another text; by default `RefusalReader()`.
        controls: Rows of `at` that are controls, such as random directions of the same cost.
        others: Directions of other contrasts, by name, at any sites: their cosines with the refusal
            direction are what a vector's cosine is compared with. Random directions in a stream of a
            few large components are a weak comparison.
        opening_tokens: Tokens of an opening at most.
        openings: Openings of each side at most.
        max_new_tokens: Tokens of a written text.
        cells: Where finished units are kept; by default nowhere.

    Raises:
        ValueError: For a cell that is at no arm, at multiplier 0 or there twice, pairs with a prompt,
            requests shared between the sets, or an intervention that does not fit the model.
        SteeringError: If steering is attached to the model, or an intervention edits no token.

    Source: the refusal direction is that of arXiv:2406.11717; arXiv:2603.24543 reports changes of
    attack success by steering vectors of other concepts (of its abstract only). Departure: propensity
    is read at the model's own openings, not at fixed tokens.
    """
    model = as_model(model)
    require_unsteered(model)
    named = named_arms(arms)
    fitting, asked = as_contrast_set(fit), as_contrast_set(report)
    _require(named, at, controls, {"fit": fitting, "report": asked})
    require_fits(model, named)
    reads = reader or RefusalReader()
    check = ReaderCheck.of(reads, known) if known else None
    length = as_int("opening_tokens", opening_tokens, least=1)
    most = as_int("openings", openings, least=1)
    new = as_int("max_new_tokens", max_new_tokens, least=length)
    kept = cells_or_none(cells, "refusal", progress)
    edits = [named[cell.row] for cell in at]
    sites = sorted({edit.site for edit in edits if isinstance(edit, Directed)})
    read = None
    if sites:
        read = activations(
            model, fitting, sites, positions="last", progress=progress, cells=kept.part("fit")
        )
    cosine, chance, beside = _cosines(model, read, at, edits, others or {})

    write = _Writing(model, new, kept)
    before, requests = _both(fitting), _both(asked)
    (own,) = write([Job("unsteered, fit", None, (0.0,), before)])
    no = _judged(reads, before, write.texts(before, own[0]))
    found = find_openings(
        model, before, own[0], [bool(x) for x in no.tolist()], length=length, most=most
    )
    log_odds = torch.full((len(at), 3, len(requests)), torch.nan)
    if found.refusing and found.complying:
        units = [scaled(edit, float(cell.multiplier)) for edit, cell in zip(edits, at, strict=True)]
        log_odds = opening_log_odds(
            model, requests, found, units, (0.0, 1.0, -1.0), progress=progress,
            cells=kept.part("openings", edits=_digest([repr(unit) for unit in units])),
        )  # fmt: skip
    jobs = [Job("unsteered, report", None, (0.0,), requests)]
    for cell in at:
        m = float(cell.multiplier)
        jobs.append(Job(f"{cell.row} at {m:.9g}", named[cell.row], (m, -m), requests))
    written = write(jobs)
    texts = [[write.texts(requests, one) for one in each] for each in written]
    refused = torch.empty(len(at), 3, len(requests))
    refused[:, 0] = _judged(reads, requests, texts[0][0])
    for i, (plus, minus) in enumerate(texts[1:]):
        refused[i, 1], refused[i, 2] = (_judged(reads, requests, own) for own in (plus, minus))
    half = len(asked)

    def by_side(own: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return own[:half], own[half:]

    return RefusalEffect(
        rows=tuple(cell.row for cell in at),
        sites=tuple(map(site_of, edits)),
        multiplier=torch.tensor([float(cell.multiplier) for cell in at]),
        controls=tuple(cell.row for cell in at if cell.row in controls),
        cosine=cosine,
        chance=chance,
        others=tuple(others or {}),
        other_cosines=beside,
        log_odds=log_odds.unflatten(-1, (2, half)).transpose(1, 2).contiguous(),
        refused=refused.unflatten(-1, (2, half)).transpose(1, 2).contiguous(),
        refusing=found.refusing,
        complying=found.complying,
        covered=found.covered,
        check=check,
        texts=tuple(
            tuple(zip(*(by_side(own) for own in (texts[0][0], *each)), strict=True))
            for each in texts[1:]
        ),
        groups=asked.groups,
        made_by={
            **model.facts,
            "question": "What does steering do to refusals?",
            "reader": judge_name(reads),
            "fit": fitting.hash,
            "report": asked.hash,
            "interventions": {cell.row: repr(named[cell.row]) for cell in at},
            "max_new_tokens": new,
            "opening_tokens": length,
            "labelled_texts": len(known),
        },
    )


def _require(
    named: Mapping[str, Intervention],
    at: Sequence[Cell],
    controls: Collection[str],
    sets: Mapping[str, ContrastSet],
) -> None:
    """Raises ValueError for cells and requests that cannot be measured."""
    if not at:
        raise ArgumentError(
            "There is no cell to measure. Give at least one in at=[Cell(row, 1.0)]."
        )
    rows = [cell.row for cell in at]
    for cell in at:
        if cell.row not in named:
            raise ArgumentError(
                f"{cell} is at none of the interventions ({', '.join(named)}). Give the arms of the "
                "map that recommended it."
            )
        if as_float("multiplier", cell.multiplier) == 0 or rows.count(cell.row) > 1:
            raise ArgumentError(
                f"{cell} is the unsteered model, or its row is there twice. Give each row once, at a "
                "multiplier other than 0."
            )
    if unknown := sorted(set(controls) - set(rows)):
        raise ArgumentError(
            f"controls names {unknown}, which are no rows of `at`. Add their cells."
        )
    for name, pairs in sets.items():
        if any(pair.prompt for pair in pairs) or len(pairs) < 2:
            raise ArgumentError(
                f"{name} must be at least two pairs of whole requests: the harmful one as positive, "
                "the harmless one as negative, and no prompt before them."
            )
    require_disjoint(**sets)


def _both(pairs: ContrastSet) -> list[str]:
    """All harmful requests, then all harmless ones."""
    return [pair.positive for pair in pairs] + [pair.negative for pair in pairs]


def _judged(reader: Scorer, prompts: list[str], texts: tuple[str, ...]) -> Float[Tensor, " text"]:
    """1 for each text that the reader calls a refusal."""
    return (judge_texts(reader, prompts, (texts,))[0] > 0.5).float()


def _cosines(
    model: Model,
    read: Activations | None,
    at: Sequence[Cell],
    edits: Sequence[Intervention],
    others: Mapping[str, Sequence[Direction]],
) -> tuple[
    Float[Tensor, "row bound=3"], Float[Tensor, " row"], Float[Tensor, "row other"]
]:  # fmt: skip
    """Cosines of what is added with the refusal direction, and those of random and other directions."""
    cosine = torch.full((len(edits), 3), torch.nan)
    chance = torch.full((len(edits),), torch.nan)
    beside = torch.full((len(edits), len(others)), torch.nan)
    for i, (cell, edit) in enumerate(zip(at, edits, strict=True)):
        if read is None or not isinstance(edit, Directed):
            continue
        s = read.sites.index(edit.site)
        differences = (read.positive[:, s] - read.negative[:, s]).double()
        groups = group_numbers(read.groups)
        vector = edit.direction.vector.double() * (1 if cell.multiplier > 0 else -1)
        cosine[i] = torch.tensor(cosine_interval(vector, differences, groups))
        # The square of a random direction's cosine is Beta(1/2, (d - 1) / 2).
        d = len(vector)
        chance[i] = float(scipy_stats.beta.ppf(0.95, 0.5, (d - 1) / 2)) ** 0.5
        refusal = differences.mean(0)
        for k, directions in enumerate(others.values()):
            for one in directions:
                if one.site == edit.site:
                    model.require(one)
                    own = one.vector.double()
                    beside[i, k] = float(torch.cosine_similarity(own, refusal, dim=0))
    return cosine, chance, beside


def cosine_interval(
    vector: Float[Tensor, " d_model"],
    differences: Float[Tensor, "pair d_model"],
    groups: Int[Tensor, " pair"],
) -> tuple[float, float, float]:
    """The cosine of a vector with a mean of differences, with a 95% interval over groups of pairs."""

    def cosine(rows: Tensor) -> float:
        return float(torch.cosine_similarity(vector, differences[rows].mean(0), dim=0))

    value, low, high = jackknife_interval(cosine, torch.arange(len(differences)), groups)
    return value, max(low, -1.0), min(high, 1.0)


def _digest(work: list[Any]) -> str:
    return hashlib.sha256(json.dumps(work).encode()).hexdigest()[:16]


class _Writing:
    """Greedy texts of some jobs, kept group by group."""

    def __init__(self, model: Model, new: int, kept: Cells) -> None:
        self.model, self.new, self.kept = model, new, kept

    def __call__(self, jobs: list[Job]) -> list[Int[Tensor, "multiplier prompt new"]]:
        options: dict[str, Any] = {"max_new_tokens": self.new, "temperature": 0.0, "seed": 0}
        rows = batch_rows(self.model, list(jobs[0].prompts), self.new)
        found: list[Tensor] = []
        with self.kept.bar(sum(map(len, jobs)), "text") as bar:
            for group in grouped(jobs, rows):
                work = [[job.name, list(job.prompts), repr(job.edit), self.new] for job in group]

                def make(group: list[Job] = group) -> dict[str, Tensor]:
                    return {"tokens": torch.cat(written_tokens(self.model, group, rows, options))}

                name = ", ".join(job.name for job in group)
                tokens = self.kept.part("texts", work=_digest(work)).compute(name, make)["tokens"]
                found += tokens.split([len(job.multipliers) for job in group])
                bar.update(sum(map(len, group)))
        return found

    def texts(self, prompts: Sequence[str], tokens: Int[Tensor, "prompt new"]) -> tuple[str, ...]:
        """The tokens as texts, each as it follows its prompt."""
        return tuple(
            self.model.texts.continuation(self.model.ids(prompt), [t for t in row if t >= 0])
            for prompt, row in zip(prompts, tokens.tolist(), strict=True)
        )
