"""Writes long texts, steered and unsteered, and reads them window by window."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, SupportsFloat, SupportsIndex

import torch
from jaxtyping import Int
from torch import Tensor

from steerlens.analyses.confirmation.contexts import SIDES, Contexts
from steerlens.analyses.confirmation.measure_written import contexts_or_none, reader_name
from steerlens.analyses.confirmation.readers import LikelihoodReader
from steerlens.analyses.survival.breaking import Limits, limits_of
from steerlens.analyses.survival.survival_numbers import Writer
from steerlens.analyses.survival.text_survival import TextSurvival
from steerlens.analyses.survival.text_windows import (
    window_means,
    window_repetition,
    window_scores,
)
from steerlens.analyses.writing.text_batches import (
    Job,
    batch_rows,
    grouped,
    until_end,
    written_tokens,
)
from steerlens.arguments import ArgumentError, as_float, as_floats, as_int, as_texts
from steerlens.data import ContrastSet
from steerlens.data.near_duplicates import near_duplicates
from steerlens.interventions.arms import Arms, named_arms, require_fits, site_of
from steerlens.measures.surprisal import require_unsteered, token_surprisal
from steerlens.measures.written_on import written_on
from steerlens.models.memory import in_chunks
from steerlens.models.model import Model, as_model
from steerlens.protocols import Scorer
from steerlens.results import Cell
from steerlens.stats.grouped import FEWEST
from steerlens.store.cells import Cells, cells_or_none

NGRAM = 4
Tokens = Int[Tensor, "writer prompt new"]


@torch.no_grad()
def survival(
    model: Model,
    arms: Arms,
    multipliers: Sequence[SupportsFloat],
    prompts: Sequence[str],
    contexts: Contexts | ContrastSet | None = None,
    *,
    limits: Sequence[str] | Limits,
    reader: Scorer | None = None,
    new_tokens: SupportsIndex = 512,
    window: SupportsIndex = 32,
    steered: SupportsIndex | None = None,
    switched: Sequence[SupportsFloat] | None = None,
    temperature: SupportsFloat = 1.0,
    seed: SupportsIndex = 0,
    progress: bool = True,
    cells: Cells | None = None,
) -> TextSurvival:
    """How long the effect of steering lasts in a text, and how long the text stays whole.

    Every prompt is continued by up to `new_tokens` tokens: unsteered, under each intervention at each
    multiplier, and unsteered under the two contexts of the contrast. All these texts of a prompt have
    the same random draws. They are read in windows of tokens:

    - what is wanted: the reader's number, as a share of what the asked context itself writes in the
      same window;
    - the damage: nats per token under the unsteered model, and the share of 4-grams that stood in the
      text before, both above the unsteered texts' own;
    - whether the text is broken: a window exceeds one of two limits, which unsteered texts of other
      prompts set (`Limits`), and whether the effect is lost (`TextSurvival.ends`), as curves of Kaplan
      and Meier.

    A text ends with any of the model's `end_ids`; from then on it is followed no longer.

    With `steered`, texts are also written for which steering is switched off after so many tokens: once
    with the cache kept as it is, and once recomputed from the text.

    Args:
        arms: Interventions by name, of any kind.
        multipliers: Each is tried with each intervention; at 0 texts are the unsteered ones.
        prompts: Different ones, no two of them near-duplicates, that had no part in fitting or
            choosing; better 16 or more. One prompt is the unit of every interval and test.
        contexts: The two-sided contexts of the contrast, or pairs to make them of. Without them there
            are changes but no shares.
        limits: At least eight other prompts, whose unsteered texts set the limits; or limits.
        reader: A number per text, more being more of the positive side. By default the log-likelihood
            ratio of the two contexts (`LikelihoodReader`).
        window: Tokens of a window; `new_tokens` is a multiple of it.
        steered: Tokens after which steering is switched off, a multiple of `window`. By default it
            never is.
        switched: The multipliers at which it is; by default all.
        temperature: 0 takes the likeliest token.
        cells: Where finished texts and numbers are kept; by default nowhere.

    Raises:
        ValueError: For prompts that are fewer than two, near-duplicates, or among those that set the
            limits; for windows that do not divide the texts, texts that do not fit the context, an
            intervention that does not fit the model, or neither contexts nor a reader.
        SteeringError: If steering is attached to the model, or an intervention edits no token.
        JudgeError: If a reader does not give one finite number per window.

    Source: that a strength should be chosen so that long texts survive is an idea of
    isokl_steering_calibration (wassname). Kaplan and Meier 1958, doi:10.2307/2281868.
    """
    model = as_model(model)
    require_unsteered(model)
    prompts = list(as_texts("prompts", prompts))
    strengths = tuple(as_floats("multipliers", multipliers))
    size = as_int("window", window, least=NGRAM)
    new = as_int("new_tokens", new_tokens, least=size)
    first = None if steered is None else as_int("steered", steered, least=1)
    others = limits if isinstance(limits, Limits) else list(as_texts("limits", limits))
    _require(prompts, strengths, size, new, first, others)
    off = (
        ()
        if first is None
        else strengths
        if switched is None
        else tuple(as_floats("switched", switched))
    )
    if unknown := sorted(set(off) - set(strengths)):
        raise ArgumentError(f"switched={unknown} are not among the multipliers. Add them there.")
    options: dict[str, Any] = {
        "max_new_tokens": new,
        "temperature": as_float("temperature", temperature),
    }
    seed = as_int("seed", seed)
    named = named_arms(arms)
    require_fits(model, named)
    for texts in (prompts, [] if isinstance(others, Limits) else others):
        _require_room(model, texts, new)
    found, missing = contexts_or_none(model, contexts, prompts, new)
    if found is None and reader is None:
        raise ValueError(
            f"Nothing can read the texts: {missing or 'there are no contexts and no reader'}. Give "
            "contexts=Contexts(…), or a reader such as WordReader(positive, negative)."
        )
    writes, reads = (None, None) if found is None else found.halves()
    placed: list[list[str]] = []
    if writes is not None:
        placed = [[writes.place(p, side, i) for i, p in enumerate(prompts)] for side in SIDES]
        for texts in placed:
            _require_room(model, texts, new)
    work = [prompts, list(named), strengths, off, first, options, seed, size, found and found.hash]
    facts = {"work": hashlib.sha256(json.dumps(work).encode()).hexdigest()[:16]}
    kept = cells_or_none(cells, "survival", progress).part("survival", **facts)
    writing = _Writing(model, {**options, "seed": seed * 1009}, kept)

    at = [(name, m, Cell(name, m, site_of(arm))) for name, arm in named.items() for m in strengths]
    tokens: dict[Writer, Tensor] = {}
    alike = [Job("unsteered", None, (0.0,), prompts)]
    alike += [Job(f"{name} at {m:.9g}", named[name], (m,), prompts) for name, m, _ in at]
    written = writing.of(alike)
    tokens[Writer("unsteered")] = written[0]
    steering = {cell: own for (_, _, cell), own in zip(at, written[1:], strict=True)}
    for side, texts in zip(SIDES, placed, strict=False):
        (tokens[Writer(side)],) = writing.of([Job(side, None, (0.0,), texts)])
    apart = _Writing(model, {**options, "seed": seed * 1009 + 1}, kept)
    jobs = [Job("other draws", None, (0.0,), prompts)]
    if not isinstance(others, Limits):
        jobs.append(Job("limits", None, (0.0,), others))
    again = apart.of(jobs)
    tokens[Writer("other draws")] = again[0]
    for name, m, cell in at:
        tokens[Writer("steered", cell)] = steering[cell]
        if first is not None and m in off:
            for role in ("kept", "recomputed"):
                how = (named[name], m) if role == "kept" else None
                unit = f"{name} at {m:.9g}, {role}"
                tokens[Writer(role, cell)] = writing.on(
                    unit, prompts, steering[cell][:, :first], how
                )

    every = torch.stack(list(tokens.values()))
    limit = others if isinstance(others, Limits) else _limits(writing, others, again[1], size)
    by = reader or LikelihoodReader(model, reads)  # type: ignore[arg-type]
    asked = kept.part("read", reader=reader_name(by))
    surprising = window_means(writing.surprisal("texts", prompts, every), every, size)
    scores = asked.compute(
        "scores", lambda: {"scores": window_scores(by, model, prompts, every, size)}
    )["scores"]
    return TextSurvival(
        writers=tuple(tokens),
        prompts=tuple(prompts),
        window=size,
        scores=scores,
        surprisal=surprising,
        repetition=window_repetition(every, size, NGRAM),
        limits=limit,
        steered=first,
        texts=tuple(_texts(model, prompts, own) for own in every),
        reader=reader_name(by),
        unit=str(getattr(by, "unit", "as judged")),
        missing=missing,
        made_by={
            **model.facts,
            "question": "How long does an effect last?",
            "arms": {name: repr(arm) for name, arm in named.items()},
            "contexts": None if found is None else found.made_of,
            "contexts_hash": None if found is None else found.hash,
            "seed": seed,
            **options,
        },
    )


def _require(
    prompts: list[str],
    multipliers: tuple[float, ...],
    window: int,
    new: int,
    steered: int | None,
    others: list[str] | Limits,
) -> None:
    if not multipliers or len(set(multipliers)) < len(multipliers):
        raise ArgumentError(
            f"multipliers={list(multipliers)}: give at least one, and none of them twice."
        )
    if len(prompts) < 2 or len(set(prompts)) < len(prompts):
        raise ArgumentError(
            f"{len(prompts)} prompts, {len(set(prompts))} of them different: intervals are over "
            "prompts, so give at least two and no prompt twice."
        )
    for one, other, _ in near_duplicates(prompts):
        raise ArgumentError(
            f"prompts[{one}] and prompts[{other}] are near-duplicates ({prompts[other]!r:.80}), and "
            "intervals and tests would count one text twice. Give one of them."
        )
    if new % window:
        raise ArgumentError(
            f"new_tokens={new} is not a multiple of window={window}, so the last window would be "
            f"shorter. Use new_tokens={new - new % window}."
        )
    if steered is not None and (steered % window or steered >= new):
        raise ArgumentError(
            f"steered={steered} must be a multiple of window={window} below new_tokens={new}, so that "
            "a window is steered or not."
        )
    if isinstance(others, Limits):
        return
    if len(set(others)) < FEWEST:
        raise ArgumentError(
            f"limits has {len(set(others))} different prompts, and {FEWEST} are needed for what "
            "unsteered texts may reach. Give more, or Limits(surprisal, repetition)."
        )
    if both := [prompt for prompt in others if prompt in set(prompts)]:
        raise ArgumentError(
            f"The prompt {both[0]!r:.80} sets the limits and is reported as well. Limits must come "
            "from other prompts: leave it out of one of both."
        )


def _require_room(model: Model, prompts: list[str], new: int) -> None:
    """Raises ArgumentError if a prompt leaves no room for the new tokens."""
    if not prompts:
        return
    longest = max(prompts, key=lambda prompt: len(model.ids(prompt)))
    width = len(model.ids(longest))
    if width + new > model.n_ctx:
        raise ArgumentError(
            f"{longest!r:.80} has {width} tokens, and {new} new ones do not fit the context of "
            f"{model.name!r}, which is {model.n_ctx}. Use new_tokens={max(0, model.n_ctx - width)} or "
            "less, or shorter prompts."
        )


class _Writing:
    """Texts and their surprisals, which are kept as soon as they are there."""

    def __init__(self, model: Model, options: dict[str, Any], kept: Cells) -> None:
        self.model, self.options = model, options
        self.kept = kept.part("texts", seed=str(options["seed"]))
        self.new = int(options["max_new_tokens"])

    def of(self, jobs: list[Job]) -> list[Int[Tensor, "prompt new"]]:
        """The texts of jobs with one multiplier each, in one batch where they fit one."""
        longest = max((job.prompts for job in jobs), key=lambda p: self.model.tokens(p).width)
        rows = batch_rows(self.model, list(longest), self.new)
        found: list[Tensor] = []
        for group in grouped(jobs, rows):

            def make(group: list[Job] = group) -> dict[str, Tensor]:
                parts = written_tokens(self.model, group, rows, self.options)
                return {str(k): part[0] for k, part in enumerate(parts)}

            name = ", ".join(job.name for job in group)
            made = self.kept.compute(name, make)
            found += [made[str(k)] for k in range(len(group))]
        return found

    def on(
        self, unit: str, prompts: list[str], start: Int[Tensor, "prompt steered"], kept: Any
    ) -> Int[Tensor, "prompt new"]:
        """Texts that go on unsteered after their first tokens; those that ended before stay so."""
        model, first = self.model, start.shape[1]
        going = ((start >= 0) & ~model.is_end(start)).all(-1)
        rest = {**self.options, "max_new_tokens": self.new - first}
        rows = batch_rows(model, prompts, self.new)

        def make() -> dict[str, Tensor]:
            whole = torch.full((len(prompts), self.new), -1)
            whole[:, :first] = start
            index = going.nonzero()[:, 0]

            def run(chunk: slice) -> Tensor:
                some = index[chunk]
                new = written_on(
                    model, [prompts[i] for i in some.tolist()], start[some], kept=kept,
                    draws=some.tolist(), **rest,
                )  # fmt: skip
                return until_end(model, new, self.new - first).cpu()

            if len(index):
                whole[index, first:] = in_chunks(run, len(index), rows)
            return {"tokens": whole}

        return self.kept.compute(unit, make)["tokens"]

    def surprisal(self, unit: str, prompts: list[str], tokens: Tokens) -> Tensor:
        """Nats of each token of texts after each prompt."""
        rows = batch_rows(self.model, prompts, self.new)

        def make() -> dict[str, Tensor]:
            found = token_surprisal(self.model, prompts, tokens.transpose(0, 1), rows=rows)
            return {"nats": found.transpose(0, 1).contiguous()}

        return self.kept.part("surprisal").compute(unit, make)["nats"]


def _limits(
    writing: _Writing, prompts: list[str], tokens: Int[Tensor, "prompt new"], window: int
) -> Limits:
    nats = writing.surprisal("limits", prompts, tokens[None])[0]
    return limits_of(window_means(nats, tokens, window), window_repetition(tokens, window, NGRAM))


def _texts(model: Model, prompts: list[str], tokens: Int[Tensor, "prompt new"]) -> tuple[str, ...]:
    return tuple(
        model.texts.continuation(model.ids(prompt), [t for t in row if t >= 0])
        for prompt, row in zip(prompts, tokens.tolist(), strict=True)
    )
