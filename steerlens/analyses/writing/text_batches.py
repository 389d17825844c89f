"""The tokens that a model writes under interventions, in batches of a fixed size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from steerlens.measures.generation import generated_tokens
from steerlens.measures.surprisal import ROWS
from steerlens.models.memory import in_chunks
from steerlens.models.model import Model, SteeringError
from steerlens.protocols import Intervention, ResidualEdit, takes_rows

BATCH_BYTES = {"cpu": 2**30}
"""Estimated memory of one batch, by kind of device."""
OTHER_BYTES = 2**32
"""The same for all other kinds, such as "cuda"."""


def batch_rows(model: Model, prompts: list[str], new: int) -> int:
    """How many texts are written at once.

    It depends on the model, its kind of device and the work, never on the free memory: other
    batches can differ in the last bits of the logits, and so in a token.
    """
    cfg, size = model.cfg, next(model.wrapped.parameters()).element_size()
    width = model.tokens(prompts).width + new
    kept = 2 * cfg.n_layers * (cfg.n_key_value_heads or cfg.n_heads) * cfg.d_head
    layer = 4 * cfg.d_model + 2 * (cfg.d_mlp or 0) + 3 * cfg.n_heads * (cfg.d_head + width)
    # Keys and values of all layers, one layer, and a few float32 vectors over the vocabulary.
    need = width * (kept + layer) * size + 6 * 4 * cfg.d_vocab
    allowed = BATCH_BYTES.get(model.device.type, OTHER_BYTES)
    return max(1, min(ROWS, allowed // need))


@dataclass(frozen=True, eq=False)
class Job:
    """Texts of one intervention: every prompt at every multiplier."""

    name: str
    edit: Intervention | None
    """None for the unsteered model."""
    multipliers: tuple[float, ...]
    prompts: Sequence[str]

    def __len__(self) -> int:
        return len(self.multipliers) * len(self.prompts)

    @property
    def joins(self) -> bool:
        """Whether its texts may be rows of a batch beside those of other interventions.

        An edit of the stream leaves rows at multiplier 0 as they are, and costs little there.
        """
        return self.edit is None or (isinstance(self.edit, ResidualEdit) and takes_rows(self.edit))


def grouped(jobs: Iterable[Job], rows: int) -> Iterator[list[Job]]:
    """Neighbours that are written in one batch of at most so many rows; one job may have more."""
    group: list[Job] = []
    for job in jobs:
        if group and not (job.joins and group[0].joins and sum(map(len, group)) + len(job) <= rows):
            yield group
            group = []
        group.append(job)
    if group:
        yield group


def written_tokens(
    model: Model, jobs: Sequence[Job], rows: int, options: dict[str, Any]
) -> list[Int[Tensor, "multiplier prompt new"]]:
    """Token ids of the texts of each job, with -1 after the end of a text.

    Args:
        jobs: One, or several that join.
        rows: Texts written at once.
        options: Of `generated_tokens`.
    """
    if all(job.edit is None or takes_rows(job.edit) for job in jobs):
        return _with_strengths(model, jobs, rows, options)
    found = []
    for job in jobs:
        draws = list(range(len(job.prompts)))
        of_job = []
        for m in job.multipliers:
            assert job.edit is not None
            with job.edit.attach(model, m):
                of_job.append(
                    in_chunks(
                        lambda chunk, own=job.prompts, each=draws: _continued(
                            model, own[chunk], each[chunk], options
                        ),
                        len(draws),
                        rows,
                    )
                )
        found.append(torch.stack(of_job))
    return found


def _with_strengths(
    model: Model, jobs: Sequence[Job], rows: int, options: dict[str, Any]
) -> list[Int[Tensor, "multiplier prompt new"]]:
    """All jobs in one sequence of batches, in which each row has a strength of its own."""
    prompts = [prompt for job in jobs for _ in job.multipliers for prompt in job.prompts]
    draws = [i for job in jobs for _ in job.multipliers for i in range(len(job.prompts))]
    starts = [sum(map(len, jobs[:k])) for k in range(len(jobs) + 1)]

    def run(chunk: slice) -> Tensor:
        with ExitStack() as stack:
            for job, (start, stop) in zip(jobs, pairwise(starts), strict=True):
                if job.edit is None or start >= chunk.stop or stop <= chunk.start:
                    continue
                strengths = torch.zeros(len(prompts), device=model.device)
                own = torch.tensor(job.multipliers).repeat_interleave(len(job.prompts))
                strengths[start:stop] = own.to(model.device)
                stack.enter_context(job.edit.attach(model, strengths[chunk]))
            return _continued(model, prompts[chunk], draws[chunk], options)

    together = in_chunks(run, len(prompts), rows)
    return [
        own.view(len(job.multipliers), len(job.prompts), -1)
        for job, own in zip(jobs, together.split([len(job) for job in jobs]), strict=True)
    ]


def _continued(
    model: Model, asked: Sequence[str], draws: list[int], options: dict[str, Any]
) -> Int[Tensor, "row new"]:
    """Continuations under whatever is attached."""
    try:
        new = generated_tokens(model, asked, draws=draws, **options)
    except SteeringError:
        # All texts may end before the first token that is steered, which is a result and not an
        # error. Steering that edits nothing at all raises again.
        new = generated_tokens(model, asked, draws=draws, stop_at_eos=False, **options)
    return until_end(model, new, options["max_new_tokens"]).cpu()


def until_end(model: Model, new: Int[Tensor, "row some"], width: int) -> Int[Tensor, "row new"]:
    """Generated tokens with -1 after the first token that ends a text, padded to the full width."""
    out = new.new_full((len(new), width), -1)
    out[:, : new.shape[1]] = new
    ends = model.is_end(out)
    return out.masked_fill(ends.cumsum(-1) - ends.long() > 0, -1)
