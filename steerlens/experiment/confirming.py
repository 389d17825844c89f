"""What an experiment writes at the cells that it makes claims about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from steerlens.analyses.confirmation.contexts import Contexts
from steerlens.analyses.confirmation.measure_written import confirm_in_writing
from steerlens.analyses.confirmation.written_effect import WrittenEffect
from steerlens.data import ContrastSet
from steerlens.experiment.workplace import Workplace
from steerlens.protocols import Intervention
from steerlens.results import Cell


def written_effect(
    run: Workplace,
    arms: Mapping[str, Intervention],
    at: Sequence[Cell],
    fit: ContrastSet,
    prompts: Sequence[str],
    groups: Sequence[str],
    *,
    new_tokens: int,
    seed: int,
) -> WrittenEffect:
    """The texts at some cells, read beside those that the fitted pairs' own contexts write.

    Args:
        fit: The pairs of which the contexts are made.
        prompts: What is continued; they had no part in fitting or choosing.
        groups: The group of each prompt.
        new_tokens: Tokens of each text.

    Raises:
        ContextError: If no pair can be a context for these prompts.
    """
    contexts = Contexts.from_pairs(run.model, fit, prompts, room=new_tokens)
    return run.compute(
        WrittenEffect,
        lambda: confirm_in_writing(
            run.model, arms, at, prompts, contexts, groups=groups, max_new_tokens=new_tokens,
            seed=seed, progress=run.progress, cells=run.cells.part("confirmed"),
        ),
    )  # fmt: skip
