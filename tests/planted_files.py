"""A planted model and its data as the files that an experiment is given."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from steerlens.data import ContrastPair, ContrastSet
from steerlens.models.checkpoints import save_hooked
from steerlens.testbed.planted import planted_pairs


def write_planted(planted, root: Path) -> Path:
    """Writes `model`, `contexts.jsonl` and `questions.jsonl` into a folder."""
    save_hooked(planted.model, root / "model")
    for kind in ("contexts", "questions"):
        pairs = tuple(ContrastPair(*row) for row in planted_pairs(planted, 60, kind=kind, seed=1))
        # The same openings occur in both kinds, so a context is its own group here.
        if kind == "contexts":
            pairs = tuple(
                dataclasses.replace(pair, group=f"context {i}") for i, pair in enumerate(pairs)
            )
        ContrastSet(f"planted {kind}", pairs).save(root / f"{kind}.jsonl")
    return root
