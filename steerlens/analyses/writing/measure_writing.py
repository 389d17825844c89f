"""What steering does to writing: the texts of every cell, and how likely they are unsteered."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, SupportsFloat, SupportsIndex

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.analyses.writing.judging import Texts, judge_name, judge_texts
from steerlens.analyses.writing.text_batches import Job, batch_rows, grouped, written_tokens
from steerlens.analyses.writing.writing_map import WritingMap
from steerlens.arguments import as_float, as_int
from steerlens.interventions.arms import Arms, named_arms, require_fits, site_of
from steerlens.interventions.residual import Add
from steerlens.measures.surprisal import require_unsteered, surprisal
from steerlens.models.model import Model, as_model
from steerlens.protocols import Intervention, ResidualEdit, Scorer
from steerlens.store.cells import Cells, cells_or_none
from steerlens.units import require_multipliers

UNSTEERED = "unsteered"
"""What the unit of the unsteered texts states in place of an arm."""


class _Unit(NamedTuple):
    """The texts of one intervention at some multipliers."""

    tokens: Int[Tensor, "multiplier prompt new"]
    surprisals: Float[Tensor, "multiplier prompt"]
    texts: Texts
    judged: Float[Tensor, "multiplier prompt"] | None


@torch.no_grad()
def writing(
    model: Model,
    arms: Arms,
    prompts: Sequence[str],
    multipliers: Iterable[SupportsFloat],
    *,
    max_new_tokens: SupportsIndex = 24,
    temperature: SupportsFloat = 1.0,
    seed: SupportsIndex = 0,
    judge: Scorer | None = None,
    progress: bool = True,
    cells: Cells | None = None,
) -> WritingMap:
    """Continues every prompt under every intervention at every multiplier, and scores the texts.

    All strengths of one prompt share their random draws, so that its texts differ by the steering
    alone; multiplier 0 is written once for all interventions. The surprisal of a text is that of
    the unsteered model after the same prompt.

    Texts are written in batches whose size depends on the model and the work, not on the free
    memory. A batch that runs out of memory all the same is written in halves.

    Args:
        arms: Interventions of any kind: the rows of the map. One that does not take a multiplier
            per row is attached once for each multiplier.
        prompts: Different ones, at least two: intervals are over prompts.
        multipliers: The columns of the map, among them 0.
        temperature: 1 samples from the model's own distribution; 0 takes the likeliest token, with
            which many models repeat themselves even without steering.
        judge: Scores texts, more being better; none by default. It is called with the unsteered
            texts, and then with those of one intervention at a time. A local classifier::

                def judge(prompts, continuations):
                    found = pipe([p + c for p, c in zip(prompts, continuations)])
                    return [f["score"] if f["label"] == "GOOD" else 1 - f["score"] for f in found]

            where `pipe` is a transformers pipeline of a folder. A remote model, where `ask` is a
            function of yours that sends one text and returns the reply::

                def judge(prompts, continuations):
                    task = "How fluent is this text, from 0 to 10? Answer with a number.\\n"
                    return [float(ask(task + p + c)) for p, c in zip(prompts, continuations)]
        cells: Where finished units of work are kept and found; nothing is kept by default. A unit
            is the texts of some interventions, which are written in one batch.

    Raises:
        ValueError: For fewer than two prompts, equal ones, or one that leaves no room for the new
            tokens; multipliers without 0; an intervention that does not fit the model. All of this
            is raised before any text is written.
        SteeringError: If steering is attached to the model, or an intervention edits no token.
        JudgeError: If the judge does not give one finite number per text.
    """
    model = as_model(model)
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    multipliers = require_multipliers(multipliers, positive=False)
    new = as_int("max_new_tokens", max_new_tokens, least=1)
    options: dict[str, Any] = {
        "max_new_tokens": new,
        "temperature": as_float("temperature", temperature),
        "seed": as_int("seed", seed),
    }
    require_unsteered(model)
    _require_prompts(model, prompts, new)
    named = named_arms(arms)
    require_fits(model, named)
    kept = cells_or_none(cells, "writing", progress)
    facts = {"work": _digest([multipliers, prompts, options])}
    rows = batch_rows(model, prompts, new)
    steered = [m for m in multipliers if m != 0]
    jobs = [Job(UNSTEERED, None, (0.0,), prompts)]
    jobs += [Job(name, edit, tuple(steered), prompts) for name, edit in named.items()]
    units: list[_Unit] = []
    with kept.bar(sum(map(len, jobs)), "text") as bar:
        for k, group in enumerate(grouped(jobs, rows)):

            def written(group=group) -> dict[str, Tensor]:
                tokens = torch.cat(written_tokens(model, group, rows, options))
                scores = surprisal(model, prompts, tokens.transpose(0, 1), rows=rows).T
                return {"tokens": tokens, "surprisals": scores.contiguous()}

            arms_of = ", ".join(job.name for job in group)
            found = kept.part("written", arms=arms_of, **facts).compute(k, written)
            counts = [len(job.multipliers) for job in group]
            parts = (found[name].split(counts) for name in ("tokens", "surprisals"))
            for job, tokens, surprisals in zip(group, *parts, strict=True):
                texts, scores = _texts(model, prompts, tokens), None
                if judge is not None:
                    asked = kept.part(
                        "judged", arm=job.name, judge=judge_name(judge) or "", **facts
                    )

                    def scored(judge=judge, texts=texts) -> dict[str, Tensor]:
                        return {"judged": judge_texts(judge, prompts, texts)}

                    scores = asked.compute(len(units), scored)["judged"]
                units.append(_Unit(tokens, surprisals, texts, scores))
            bar.update(sum(map(len, group)))
    made_by = {
        **model.facts,
        "question": "What does steering do to writing?",
        "interventions": {name: repr(edit) for name, edit in named.items()},
        **_common(named),
        "judge": judge_name(judge),
        **options,
    }
    return _assembled(model, named, prompts, multipliers, units, made_by)


def _assembled(
    model: Model,
    arms: Mapping[str, Intervention],
    prompts: list[str],
    multipliers: Sequence[float],
    units: list[_Unit],
    made_by: dict[str, Any],
) -> WritingMap:
    """The map, in which all rows share the unsteered texts."""
    unsteered, *steered = units
    places, place = [], 0
    for m in multipliers:  # which unit and which of its strengths a column shows
        places.append(None if m == 0 else place)
        place += m != 0

    def laid_out(name: str) -> list[list[Any]]:
        own = getattr(unsteered, name)[0]
        return [[own if j is None else getattr(unit, name)[j] for j in places] for unit in steered]

    def stacked(name: str) -> Tensor:
        return torch.stack([torch.stack(row) for row in laid_out(name)])

    tokens = stacked("tokens")
    return WritingMap(
        rows=tuple(arms),
        sites=tuple(map(site_of, arms.values())),
        multipliers=torch.tensor(multipliers),
        prompts=tuple(prompts),
        texts=tuple(map(tuple, laid_out("texts"))),
        tokens=tokens,
        ended=model.is_end(tokens).any(-1),
        surprisals=stacked("surprisals"),
        judged=None if unsteered.judged is None else stacked("judged"),
        made_by=made_by,
    )


def _texts(
    model: Model, prompts: Sequence[str], tokens: Int[Tensor, "multiplier prompt new"]
) -> Texts:
    """The tokens as text, as `generate` returns it."""
    ids = [model.ids(prompt) for prompt in prompts]
    return tuple(
        tuple(
            model.texts.continuation(prompt, [t for t in row if t >= 0])
            for prompt, row in zip(ids, cell, strict=True)
        )
        for cell in tokens.tolist()
    )


def _digest(work: list[Any]) -> str:
    """What decides the texts of a unit beside the model and the intervention."""
    return hashlib.sha256(json.dumps(work).encode()).hexdigest()[:16]


def _common(arms: Mapping[str, Intervention]) -> dict[str, str | None]:
    """Positions and unit of strength, where all interventions state the same."""
    edits = list(arms.values())
    positions = {repr(e.positions) if isinstance(e, ResidualEdit) else None for e in edits}
    units = {str(e.unit) if isinstance(e, Add) else None for e in edits}
    return {
        "positions": positions.pop() if len(positions) == 1 else None,
        "unit": units.pop() if len(units) == 1 else None,
    }


def _require_prompts(model: Model, prompts: list[str], new: int) -> None:
    if len(prompts) < 2 or len(set(prompts)) < len(prompts):
        raise ValueError(
            f"{len(prompts)} prompts, {len(set(prompts))} of them different: intervals are over "
            "prompts, so give at least two and no prompt twice."
        )
    lengths = model.tokens(prompts).mask.sum(-1).tolist()
    longest = max(lengths)
    if longest + new > model.n_ctx:
        raise ValueError(
            f"Prompt {lengths.index(longest)} has {longest} tokens; with {new} new ones that is more "
            f"than the context of {model.name!r}, {model.n_ctx}. Use "
            f"max_new_tokens={max(0, model.n_ctx - longest)} or shorter prompts."
        )
