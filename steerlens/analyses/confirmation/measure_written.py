"""Writes at some cells, unsteered, and under two contexts, and has a reader compare the texts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, SupportsFloat, SupportsIndex

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.analyses.confirmation.contexts import SIDES, ContextError, Contexts
from steerlens.analyses.confirmation.readers import LikelihoodReader
from steerlens.analyses.confirmation.written_effect import WrittenEffect
from steerlens.analyses.confirmation.written_numbers import Texts
from steerlens.analyses.writing.judging import judge_name, judge_texts
from steerlens.analyses.writing.text_batches import Job, batch_rows, grouped, written_tokens
from steerlens.arguments import ArgumentError, as_float, as_int, as_texts
from steerlens.data import ContrastSet
from steerlens.interventions.arms import Arms, named_arms, require_fits
from steerlens.measures.surprisal import require_unsteered
from steerlens.models.model import Model, as_model
from steerlens.protocols import Intervention, Scorer
from steerlens.results import Cell
from steerlens.stats import group_numbers
from steerlens.store.cells import Cells, cells_or_none

PROMPTS = 24
"""Prompts that are continued, where an experiment does not say otherwise."""


@torch.no_grad()
def confirm_in_writing(
    model: Model,
    arms: Arms,
    at: Sequence[Cell],
    prompts: Sequence[str],
    contexts: Contexts | ContrastSet | None = None,
    *,
    groups: Sequence[object] | None = None,
    reader: Scorer | None = None,
    draws: SupportsIndex = 1,
    max_new_tokens: SupportsIndex = 20,
    temperature: SupportsFloat = 1.0,
    seed: SupportsIndex = 0,
    progress: bool = True,
    cells: Cells | None = None,
) -> WrittenEffect:
    """Whether the cells that a map recommends change what the model writes, and by how much.

    At every cell, at its opposite multiplier and unsteered, the model continues the prompts; the
    unsteered model also continues them under the positive and the negative context. A reader gives
    every text a number. All texts of one prompt have the same random draws.

    Half of the contexts write and the other half read, where there are several.

    Args:
        arms: Interventions by name, among them the rows of the cells.
        at: The cells to look at: the recommended one first, then its runners-up.
        prompts: Different ones, that had no part in fitting or choosing; at least two, and better
            16 or more.
        groups: The name of the group of each prompt, the unit of every interval. By default
            near-duplicates are one group.
        contexts: The two-sided contexts of the contrast, or pairs to make them of
            (`Contexts.from_pairs`). Without them there is no share, and no verdict.
        reader: A number per text, more being more of the positive side: a `WordReader`, or a judge
            of your own as for `steerlens.writing`. By default the log-likelihood ratio of the two
            contexts under the unsteered model (`LikelihoodReader`).
        draws: Texts of each prompt; more than one only at a temperature above 0.
        temperature: 0 takes the likeliest token.
        cells: Where finished texts and numbers are kept; by default nowhere.

    Raises:
        ValueError: For a cell whose row is not among the arms, fewer than two prompts, equal ones,
            or no room for the new tokens; without contexts and without a reader.
        SteeringError: If steering is attached to the model, or an intervention edits no token.
        JudgeError: If a reader does not give one finite number per text.
    """
    model = as_model(model)
    require_unsteered(model)
    prompts, draws = list(as_texts("prompts", prompts)), as_int("draws", draws, least=1)
    options: dict[str, Any] = {
        "max_new_tokens": as_int("max_new_tokens", max_new_tokens, least=1),
        "temperature": as_float("temperature", temperature),
    }
    seed = as_int("seed", seed)
    if draws > 1 and options["temperature"] == 0:
        raise ValueError(
            f"draws={draws} at temperature 0 would be the same text {draws} times. Use draws=1, or "
            "a temperature above 0."
        )
    named = named_arms(arms)
    _require(named, at, prompts, reader)
    if groups is not None and len(groups) != len(prompts):
        raise ArgumentError(
            f"There are {len(groups)} groups for {len(prompts)} prompts. Give the group of each prompt."
        )
    require_fits(model, named)
    found, missing = contexts_or_none(model, contexts, prompts, options["max_new_tokens"])
    if found is None and reader is None:
        raise ValueError(
            f"Nothing can read the texts: {missing or 'there are no contexts and no reader'}. Give "
            "contexts=Contexts(…), or a reader such as WordReader(positive, negative)."
        )
    kept = cells_or_none(cells, "written", progress)
    facts = {
        "work": _digest(
            [prompts, [list(c[:2]) for c in at], draws, options, seed, found and found.hash]
        )
    }
    writes, reads = (None, None) if found is None else found.halves()
    placed = prompts
    if writes is not None:
        placed = max(
            ([writes.place(p, side, i) for i, p in enumerate(prompts)] for side in SIDES),
            key=lambda texts: model.tokens(texts).width,
        )
    rows = batch_rows(model, placed, options["max_new_tokens"])

    jobs: list[Job] = []
    if writes is not None:
        jobs += [
            Job(side, None, (0.0,), [writes.place(p, side, i) for i, p in enumerate(prompts)])
            for side in SIDES
        ]
    alike = [Job("unsteered", None, (0.0,), prompts)]
    for cell in at:  # both signs together
        m = cell.multiplier
        alike.append(Job(f"{cell.row} at {m:.9g}", named[cell.row], (m, -m), prompts))
    tokens: list[Int[Tensor, "prompt draw new"]] = []
    texts: list[Texts] = []
    with kept.bar(sum(map(len, [*jobs, *alike])) * draws, "text") as bar:
        # Not in one batch with those after a context, which are longer.
        for group in [*grouped(jobs, rows), *grouped(alike, rows)]:

            def make(group: list[Job] = group) -> dict[str, Tensor]:
                each = [
                    torch.cat(
                        written_tokens(model, group, rows, {**options, "seed": seed * 1009 + d})
                    )
                    for d in range(draws)
                ]
                return {"tokens": torch.stack(each, 2)}

            name = ", ".join(job.name for job in group)
            found_tokens = kept.part("texts", **facts).compute(name, make)["tokens"]
            own_prompts = [job.prompts for job in group for _ in job.multipliers]
            tokens += found_tokens.unbind(0)
            texts += [
                _texts(model, asked, own)
                for asked, own in zip(own_prompts, found_tokens, strict=True)
            ]
            bar.update(found_tokens[..., 0].numel())
    if writes is not None:  # the unsteered texts are first
        tokens, texts = ([*x[2:3], *x[:2], *x[3:]] for x in (tokens, texts))  # type: ignore[misc]
    by = reader or LikelihoodReader(model, reads)  # type: ignore[arg-type]
    asked = kept.part("read", reader=reader_name(by), **facts)
    numbers: list[Tensor] = []
    if isinstance(by, LikelihoodReader):

        def ratios() -> dict[str, Tensor]:
            together = torch.cat(tokens, 1)  # all texts of a prompt share its forward pass
            return {"numbers": by.read(prompts, together, rows=rows)}

        numbers += asked.compute("all", ratios)["numbers"].split(draws, 1)
    else:
        for k, written in enumerate(texts):

            def judged(written: Texts = written) -> dict[str, Tensor]:
                return {"numbers": _judged(by, prompts, written)}

            numbers.append(asked.compute(k, judged)["numbers"])
    first = 1 if writes is None else 3
    return WrittenEffect(
        cells=tuple(at),
        prompts=tuple(prompts),
        groups=None if groups is None else group_numbers(groups),
        unsteered=numbers[0],
        positive=None if writes is None else numbers[1],
        negative=None if writes is None else numbers[2],
        steered=torch.stack(numbers[first::2]),
        opposite=torch.stack(numbers[first + 1 :: 2]),
        unsteered_texts=texts[0],
        positive_texts=() if writes is None else texts[1],
        negative_texts=() if writes is None else texts[2],
        steered_texts=tuple(texts[first::2]),
        opposite_texts=tuple(texts[first + 1 :: 2]),
        reader=reader_name(by),
        unit=str(getattr(by, "unit", "as judged")),
        missing=missing,
        made_by={
            **model.facts,
            "question": "Do the recommended cells change what is written?",
            "contexts": None if found is None else found.made_of,
            "contexts_hash": None if found is None else found.hash,
            "contexts_count": 0 if found is None else len(found),
            "draws": draws,
            "seed": seed,
            **options,
        },
    )


def contexts_or_none(
    model: Model, given: Contexts | ContrastSet | None, prompts: list[str], room: int
) -> tuple[Contexts | None, str]:
    """The contexts, or why there are none.

    Raises:
        TypeError: If they are neither contexts nor pairs.
        ContextError: If given contexts cannot stand before one of the prompts.
    """
    if given is None:
        return None, "no contexts were given"
    if not isinstance(given, Contexts | ContrastSet):
        raise TypeError(
            f"contexts={given!r:.80} are no contexts. Give Contexts(positive=[…], negative=[…]), or "
            "the pairs of the contrast."
        )
    if isinstance(given, Contexts):
        for k in range(len(given)):
            for prompt in prompts:
                given.place(prompt, "positive", k)  # refuses what it cannot stand before
        return given, ""
    try:
        made = Contexts.from_pairs(model, given, prompts, room=room)
    except ContextError as error:
        return None, f"no contexts can be made of the pairs ({error})".rstrip()
    return made, ""


def _require(
    named: dict[str, Intervention], at: Sequence[Cell], prompts: list[str], reader: Any
) -> None:
    if reader is not None and not callable(reader):
        raise TypeError(
            f"reader={reader!r:.80} cannot read texts. Give a WordReader, or a function of the "
            "prompts and the continuations that returns one number per text."
        )
    if not at:
        raise ValueError("There is no cell to look at. Give the recommended one: [made.chosen].")
    for cell in at:
        if not isinstance(cell, Cell):
            raise TypeError(
                f"{cell!r:.80} is not a cell. Give those of a map, [made.chosen], or write "
                "steerlens.results.Cell(row, multiplier)."
            )
        as_float("multiplier", cell.multiplier)
        if cell.row not in named:
            raise ValueError(
                f"{cell} is at none of the interventions ({', '.join(named)}). Give the arms of the "
                "map that recommended it."
            )
        if cell.multiplier == 0:
            raise ValueError(f"{cell} is the unsteered model. Give a cell that steers.")
    if len(prompts) < 2 or len(set(prompts)) < len(prompts):
        raise ValueError(
            f"{len(prompts)} prompts, {len(set(prompts))} of them different: intervals are over "
            "prompts, so give at least two and no prompt twice."
        )


def _judged(reader: Scorer, prompts: list[str], texts: Texts) -> Float[Tensor, "prompt draw"]:
    """A judge's number of every text."""
    draws = len(texts[0])
    by_draw = tuple(tuple(own[d] for own in texts) for d in range(draws))
    return judge_texts(reader, prompts, by_draw).T.contiguous()


def _texts(model: Model, asked: Sequence[str], tokens: Int[Tensor, "prompt draw new"]) -> Texts:
    """The tokens as texts, each as it follows its prompt."""
    return tuple(
        tuple(
            model.texts.continuation(model.ids(prompt), [t for t in row if t >= 0]) for row in own
        )
        for prompt, own in zip(asked, tokens.tolist(), strict=True)
    )


def reader_name(reader: Scorer) -> str:
    """What results call a reader."""
    if isinstance(reader, LikelihoodReader):
        return "the log-likelihood ratio of the two contexts"
    return judge_name(reader) or ""


def _digest(work: list[Any]) -> str:
    return hashlib.sha256(json.dumps(work).encode()).hexdigest()[:16]
