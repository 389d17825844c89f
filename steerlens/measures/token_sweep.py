"""Both answers of every question, and the probability of chosen next tokens, in every cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import SupportsIndex

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.data.contrast_set import PairsLike
from steerlens.measures.answer_scores import AnswerScores
from steerlens.measures.engine import Engine, Read, Reading
from steerlens.measures.tokenised import Examples, Questions, questions
from steerlens.models.model import Model, as_model
from steerlens.protocols import Intervention
from steerlens.store.cells import Cells, cells_or_none


@dataclass(frozen=True, eq=False)
class TokensSwept:
    """Log-probabilities of the answers and of some next tokens, in nats."""

    positive: Float[Tensor, "intervention multiplier example"]
    """Summed over the tokens of the positive answer."""
    negative: Float[Tensor, "intervention multiplier example"]
    tokens: Float[Tensor, "intervention multiplier token example"]
    """Of each token as the first one after the prompt."""


@torch.no_grad()
def sweep_tokens(
    model: Model,
    pairs: PairsLike,
    interventions: Sequence[Intervention],
    multipliers: Sequence[float],
    tokens: Sequence[int],
    *,
    memory: SupportsIndex | None = None,
    progress: bool = True,
    cells: Cells | None = None,
) -> TokensSwept:
    """What `sweep` measures, and the log-probability of chosen tokens after each prompt.

    One pass for both: the tokens are read from the state that predicts the first token of the
    answer.

    Args:
        tokens: Token ids, each below the size of the vocabulary.
        memory: Bytes of working memory; by default a quarter of what is free.
        cells: Where finished units of examples are kept and found; by default nowhere.

    Raises:
        ValueError: For a token that the model does not have, and as `sweep`.
        SteeringError: If an intervention would edit no token of some prompt.
    """
    model = as_model(model)
    ids = [int(token) for token in tokens]
    if unknown := [token for token in ids if not 0 <= token < model.cfg.d_vocab]:
        raise ValueError(
            f"tokens={unknown} are no tokens of {model.name!r}, which has {model.cfg.d_vocab}. "
            "Give ids from 0 on, e.g. of model.ids(text)."
        )
    asked = questions(model, pairs)
    engine = Engine(model, interventions, multipliers, memory)
    answers = AnswerScores(model, odds=False, memory=engine.memory)
    chosen = torch.tensor(ids, dtype=torch.long, device=model.device)

    def begin(examples: Examples) -> Read:
        assert isinstance(examples, Questions)

        def read(states: Tensor) -> Float[Tensor, "example cell value"]:
            scored = answers(states, examples)
            # The first column that is read is the prompt's last one, the same in both variants.
            first = states[:, :, 0, 0]
            log_sums = model.readout.log_normaliser(first, engine.memory)
            logits = model.readout.logits(first, chosen).float()
            return torch.cat([scored, (logits - log_sums[..., None]).float()], -1)

        return read

    reading = Reading(
        begin, values=2 + len(ids), unsteered=False, finite="log-probabilities",
        states=1 + asked.variants * asked.read,
    )  # fmt: skip
    kept = cells_or_none(cells, "tokens", progress)
    found = engine.measure(asked, reading, kept)
    strengths = engine.grid.multipliers
    out = torch.empty(
        len(interventions), len(strengths), len(asked), 2 + len(ids), dtype=torch.float32
    )
    out[:, engine.grid.steered] = found.steered
    out[:, [j for j, m in enumerate(strengths) if m == 0]] = found.unsteered
    return TokensSwept(out[..., 0], out[..., 1], out[..., 2:].movedim(-1, -2))
