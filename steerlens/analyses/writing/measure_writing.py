"""What steering costs in writing: the texts of every cell, and how likely they are unsteered."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from numbers import Real
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from steerlens.analyses.writing.writing_map import WritingMap
from steerlens.measures.generation import generated_tokens
from steerlens.measures.surprisal import ROWS, in_chunks, require_unsteered, surprisal
from steerlens.models.memory import free_bytes
from steerlens.models.model import Model, SteeringError, as_model
from steerlens.protocols import Intervention, Scorer
from steerlens.sites import Site
from steerlens.units import require_multipliers

Texts = tuple[tuple[str, ...], ...]


class JudgeError(ValueError):
    """A judge that did not give one finite number per text."""


class _Unit(NamedTuple):
    """The texts of one intervention at some strengths."""

    tokens: Int[Tensor, "multiplier prompt new"]
    surprisals: Float[Tensor, "multiplier prompt"]
    texts: Texts
    """[multiplier][prompt]"""
    judged: Float[Tensor, "multiplier prompt"] | None


@torch.no_grad()
def writing(
    model: Model,
    interventions: Sequence[Intervention],
    prompts: Sequence[str],
    multipliers: Sequence[float],
    *,
    max_new_tokens: int = 24,
    temperature: float = 1.0,
    seed: int = 0,
    judge: Scorer | None = None,
    rows: int | None = None,
    progress: bool = True,
    done: Callable[[str, slice, Tensor], None] | None = None,
    have: Callable[[str, slice], Tensor | None] | None = None,
) -> WritingMap:
    """Continues every prompt under every intervention at every multiplier, and scores the texts.

    All strengths of one prompt share their random draws, so that texts differ by the steering
    alone; multiplier 0 is written once for all interventions. How likely a text is, is asked of
    the unsteered model after the same prompt.

    Args:
        interventions: One per site: the rows of the map.
        prompts: Different ones, at least two: intervals are over prompts.
        multipliers: The columns of the map; 0 must be among them.
        temperature: 1 writes as the model does; 0 takes the likeliest token, and many models loop
            then without any steering.
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
        rows: Texts written at once, by default what a quarter of the free memory holds; halved
            where memory runs out all the same. It does not change what is written.
        done: Called with ("written", slice, token ids [multiplier, prompt, new]) and ("judged",
            slice, scores) as they are finished. slice(0, 1) is the unsteered texts, slice(i + 1,
            i + 2) those of intervention i.
        have: Gives what a former run finished, or None.

    Raises:
        ValueError: For fewer than two prompts, equal ones, or one that leaves no room for the new
            tokens; multipliers without 0; interventions without a site of their own. All before
            any text is written.
        SteeringError: If steering is attached to the model, or an intervention edits no token.
        JudgeError: If the judge does not give one finite number per text.
    """
    model = as_model(model)
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    require_unsteered(model)
    _require_prompts(model, prompts, max_new_tokens)
    require_multipliers(multipliers, positive=False)
    sites = _sites(model, interventions)
    rows = rows or _rows_that_fit(model, prompts, max_new_tokens)
    options: dict[str, Any] = {
        "max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed,
    }  # fmt: skip

    def kept(name: str, unit: int, shape: tuple[int, ...], make: Callable[[], Tensor]) -> Tensor:
        where = slice(unit, unit + 1)
        ready = None if have is None else have(name, where)
        if ready is None:
            ready = make()
            if done is not None:
                done(name, where, ready)
        if tuple(ready.shape) != shape:
            raise ValueError(
                f"What a former run finished ({name!r}, {where}) has shape {tuple(ready.shape)}, "
                f"and these prompts, multipliers and max_new_tokens need {shape}. It is of another "
                "run: delete it."
            )
        return ready

    steered = [float(m) for m in multipliers if m != 0]
    work = [(None, [0.0]), *((intervention, steered) for intervention in interventions)]
    units = []
    with tqdm(
        total=len(prompts) * sum(len(ms) for _, ms in work),
        desc="writing",
        unit="text",
        disable=not progress,
    ) as bar:
        for k, (intervention, ms) in enumerate(work):
            shape = (len(ms), len(prompts))
            make = partial(_written, model, intervention, prompts, ms, options, rows)
            tokens = kept("written", k, (*shape, max_new_tokens), make).long()
            texts = _texts(model, tokens)
            asked = prompts * len(ms)
            judged = None
            if judge is not None:
                judged = kept("judged", k, shape, partial(_judged, judge, asked, texts))
            scores = surprisal(model, prompts, tokens.transpose(0, 1), rows=rows).T
            units.append(_Unit(tokens, scores, texts, judged))
            bar.update(len(asked))
    return _assembled(
        model, sites, prompts, multipliers, units,
        {
            "question": "What does steering do to writing?",
            "model": model.name,
            "fingerprint": model.fingerprint,
            "processing": model.processing,
            "bos": model.prepend_bos,
            "interventions": [type(i).__name__ for i in interventions],
            "positions": _common(interventions, "positions"),
            "unit": _common(interventions, "unit"),
            "judge": None if judge is None else getattr(judge, "__name__", type(judge).__name__),
            **options,
        },
    )  # fmt: skip


def _written(
    model: Model,
    intervention: Intervention | None,
    prompts: list[str],
    multipliers: list[float],
    options: dict[str, Any],
    rows: int,
) -> Int[Tensor, "multiplier prompt new"]:
    """Token ids of every text; all strengths in one batch, with one strength per row."""
    luck = list(range(len(prompts))) * len(multipliers)
    strengths = torch.tensor(multipliers).repeat_interleave(len(prompts)).to(model.device)

    def run(chunk: slice) -> Tensor:
        draws = luck[chunk]
        asked = [prompts[p] for p in draws]
        if intervention is None:
            new = generated_tokens(model, asked, draws=draws, **options)
        else:
            with intervention.attach(model, strengths[chunk]):
                try:
                    new = generated_tokens(model, asked, draws=draws, **options)
                except SteeringError:
                    # All texts may have ended before the first token that is steered. That is an
                    # answer, not an error; steering that edits nothing at all raises again.
                    new = generated_tokens(model, asked, draws=draws, stop_at_eos=False, **options)
        return _ended(model, new, options["max_new_tokens"]).cpu()

    found = in_chunks(run, len(luck), rows)
    return found.view(len(multipliers), len(prompts), -1)


def _ended(model: Model, new: Int[Tensor, "row some"], width: int) -> Int[Tensor, "row new"]:
    """Generated tokens with -1 after the first EOS, and as wide as was asked for."""
    out = new.new_full((len(new), width), -1)
    out[:, : new.shape[1]] = new
    eos = out == _eos(model)
    return out.masked_fill(eos.cumsum(-1) - eos.long() > 0, -1)


def _eos(model: Model) -> int:
    """The id that ends a text; -2, which is no token, where there is none."""
    eos = model.tokenizer.eos_token_id
    return -2 if eos is None else eos


def _texts(model: Model, tokens: Int[Tensor, "multiplier prompt new"]) -> Texts:
    """What the tokens say, as `generate` writes it."""
    return tuple(
        tuple(
            model.tokenizer.batch_decode(
                [[t for t in row if t >= 0] for row in cell], skip_special_tokens=True
            )
        )
        for cell in tokens.tolist()
    )


def _judged(judge: Scorer, prompts: list[str], texts: Texts) -> Float[Tensor, "multiplier prompt"]:
    continuations = [text for cell in texts for text in cell]
    scores = list(judge(list(prompts), list(continuations)))
    if len(scores) != len(continuations):
        raise JudgeError(
            f"The judge returned {len(scores)} scores for {len(continuations)} texts. "
            "Return one number per text, in their order."
        )
    for prompt, text, score in zip(prompts, continuations, scores, strict=True):
        if not isinstance(score, Real) or not math.isfinite(score):
            raise JudgeError(
                f"The judge returned {score!r} for the text {text!r} after the prompt {prompt!r}. "
                "Return one finite number for every text; say what an empty or odd text is worth."
            )
    return torch.tensor([float(score) for score in scores]).view(len(texts), -1)


def _assembled(
    model: Model,
    sites: tuple[Site, ...],
    prompts: list[str],
    multipliers: Sequence[float],
    units: list[_Unit],
    made_by: dict[str, Any],
) -> WritingMap:
    """The map, in which all sites share the unsteered texts."""
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
        sites=sites,
        multipliers=torch.tensor([float(m) for m in multipliers]),
        prompts=tuple(prompts),
        texts=tuple(map(tuple, laid_out("texts"))),
        tokens=tokens,
        ended=(tokens == _eos(model)).any(-1),
        surprisals=stacked("surprisals"),
        judged=None if unsteered.judged is None else stacked("judged"),
        made_by=made_by,
    )


def _common(interventions: Sequence[Intervention], name: str) -> str | None:
    """What all interventions say of themselves, or None."""
    said = {str(getattr(intervention, name, None)) for intervention in interventions}
    return said.pop() if len(said) == 1 and said != {"None"} else None


# What is refused before any work


def _require_prompts(model: Model, prompts: list[str], new: int) -> None:
    if len(prompts) < 2 or len(set(prompts)) < len(prompts):
        raise ValueError(
            f"{len(prompts)} prompts, {len(set(prompts))} of them different: intervals are over "
            "prompts, so give at least two and no prompt twice."
        )
    if new < 1:
        raise ValueError(f"max_new_tokens={new}: ask for at least one token.")
    lengths = model.tokens(prompts).mask.sum(-1).tolist()
    longest = max(lengths)
    if longest + new > model.n_ctx:
        raise ValueError(
            f"Prompt {lengths.index(longest)} has {longest} tokens; with {new} new ones that is more "
            f"than the context of {model.name!r}, {model.n_ctx}. Use "
            f"max_new_tokens={max(0, model.n_ctx - longest)} or shorter prompts."
        )


def _sites(model: Model, interventions: Sequence[Intervention]) -> tuple[Site, ...]:
    sites = [getattr(intervention, "site", None) for intervention in interventions]
    if not sites or None in sites or len(set(sites)) < len(sites):
        raise ValueError(
            f"The interventions act at {', '.join(map(str, sites)) or 'no site'}. A row of the map "
            "is one site: give at least one intervention, each with a site of its own. Texts of "
            "any other: steerlens.dose_response(…)."
        )
    for site in sites:
        model.require_site(site)  # type: ignore[arg-type]
    return tuple(sites)  # type: ignore[arg-type]


# Memory


def _rows_that_fit(model: Model, prompts: list[str], new: int) -> int:
    """How many texts a quarter of the free memory holds: their keys and values, and one layer."""
    cfg, size = model.cfg, next(model.wrapped.parameters()).element_size()
    width = model.tokens(prompts).width + new
    kept = 2 * cfg.n_layers * (cfg.n_key_value_heads or cfg.n_heads) * cfg.d_head
    layer = 4 * cfg.d_model + 2 * (cfg.d_mlp or 0) + 3 * cfg.n_heads * (cfg.d_head + width)
    # Sampling holds a handful of float32 vectors over the vocabulary.
    need = width * (kept + layer) * size + 6 * 4 * cfg.d_vocab
    return max(1, min(ROWS, free_bytes(model.device) // (4 * need)))
