"""What steering costs on ordinary text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import SupportsFloat, SupportsIndex

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.interventions.changes import WeightChange
from steerlens.measures.engine import Engine, Read, Reading
from steerlens.measures.paths import Grid
from steerlens.measures.tokenised import Examples, halved
from steerlens.models.memory import rows_of_logits
from steerlens.models.model import Model, as_model
from steerlens.models.speed import Work
from steerlens.protocols import Intervention
from steerlens.store.cells import Cells, cells_or_none


@torch.no_grad()
def divergence(
    model: Model,
    texts: Sequence[str],
    interventions: Sequence[Intervention],
    multipliers: Sequence[float],
    *,
    prompt_share: SupportsFloat = 0.5,
    memory: SupportsIndex | None = None,
    progress: bool = True,
    cells: Cells | None = None,
) -> Float[Tensor, "intervention multiplier example"]:
    """What steering costs on ordinary text: KL from the unsteered to the steered model.

    The first part of each text is the prompt, the rest is continued as it stands; the KL divergence
    KL(unsteered ‖ steered) of the next-token distribution is averaged over the tokens from the
    prompt's end on, in nats per token.

    Args:
        prompt_share: How much of each text is prompt, from 0 to 1; it has two tokens at least.
        memory: Bytes of working memory; by default a quarter of what is free.
        cells: Where finished units of texts are kept and found; by default nowhere.

    Raises:
        ValueError: If a text has fewer than 4 tokens or more than the context, or an intervention
            does not fit the model.
        SteeringError: If an intervention would edit no token of some text.
    """
    model = as_model(model)
    engine, examples, reading = cost_engine(
        model, texts, interventions, multipliers, prompt_share, memory
    )
    found = engine.measure(examples, reading, cells_or_none(cells, "cost", progress))
    out = torch.zeros(
        len(interventions), len(engine.grid.multipliers), len(examples), dtype=torch.float32
    )
    out[:, engine.grid.steered] = found.steered[..., 0]
    return out


@torch.no_grad()
def text_costs(
    model: Model,
    texts: Sequence[str],
    interventions: Sequence[Intervention],
    multipliers: Sequence[float],
    *,
    memory: SupportsIndex | None = None,
    progress: bool = True,
    cells: Cells | None = None,
) -> Float[Tensor, "2 intervention multiplier example"]:
    """Two costs of steering on ordinary text: KL, and the change of cross-entropy.

    The first is `divergence`. The second is the steered minus the unsteered cross-entropy of the
    tokens that the text itself has after its prompt, in nats per token. It can be below 0: a text
    may become more likely under steering.

    Args:
        memory: As in `divergence`; so are the other options. The first half of each text is its
            prompt.

    Raises:
        ValueError, SteeringError: As `divergence`.
    """
    model = as_model(model)
    engine, examples, reading = cost_engine(
        model, texts, interventions, multipliers, memory=memory, entropy=True
    )
    found = engine.measure(examples, reading, cells_or_none(cells, "costs", progress))
    out = torch.zeros(
        len(interventions), len(engine.grid.multipliers), len(examples), 2, dtype=torch.float32
    )
    out[:, engine.grid.steered] = found.steered
    return out.movedim(-1, 0)


def cost_work(
    model: Model,
    texts: Sequence[str],
    interventions: Sequence[Intervention],
    multipliers: Sequence[float],
) -> Work:
    """What `divergence` would compute with these arguments."""
    engine, examples, reading = cost_engine(model, texts, interventions, multipliers)
    return engine.work(examples, reading)


def cost_engine(
    model: Model,
    texts: Sequence[str],
    interventions: Sequence[Intervention],
    multipliers: Sequence[float],
    prompt_share: SupportsFloat = 0.5,
    memory: SupportsIndex | None = None,
    entropy: bool = False,
) -> tuple[Engine, Examples, Reading]:
    """The engine of a grid, the texts, and how their cost is read.

    Args:
        entropy: Whether the change of cross-entropy is read as well.
    """
    batch = halved(model, texts, prompt_share)
    after = batch.width - batch.prompt_end + 1
    read = int(after.max())
    examples = Examples(batch, variants=1, prompt_width=batch.width - read + 1, read=read)
    engine = Engine(model, interventions, multipliers, memory)
    kl = _kl_of_linear if _reads_the_same(model, engine.grid) else _kl
    reading = Reading(
        lambda some: kl(model, some, engine.memory, entropy),
        values=2 if entropy else 1,
        unsteered=True,
        states=float(after.float().mean()),
        bytes_per_example=2 * 4 * model.cfg.d_vocab * read,
    )
    return engine, examples, reading


def _reads_the_same(model: Model, grid: Grid) -> bool:
    """Whether all cells read logits from states as the unsteered model does, and linearly."""
    unembed = model.wrapped.unembed.W_U
    if (model.cfg.output_logits_soft_cap or 0) > 0 or unembed.dtype != torch.float32:
        return False
    return all(
        changes is not None
        and not any(isinstance(c, WeightChange) and c.name.startswith("unembed.") for c in changes)
        for changes in grid.changes
    )


def _kl_of_linear(model: Model, examples: Examples, memory: int, entropy: bool) -> Read:
    """`_kl` where logits are linear in the states, without the steered model's probabilities.

    With p of the unsteered state s and q of the steered state t, both read by W, the KL is
    (s - t) · W p - lse(s W) + lse(t W), and W p is one vector for each state.
    """
    read, readout = examples.read, model.readout
    weight = _weight(examples)
    own_tokens, counted = _next_tokens(examples)
    base: list[tuple[Tensor, Tensor, Tensor]] = []

    def losses(
        states: Float[Tensor, "cell read d_model"], log_sums: Float[Tensor, "cell read"], k: int
    ) -> Float[Tensor, " cell"]:
        """Cross-entropy of the tokens of text k."""
        tokens = own_tokens[k].expand(len(states), -1)
        return ((log_sums - readout.of_tokens(states, tokens)) * counted[k]).sum(-1)

    def begin(states: Float[Tensor, "example read d_model"]) -> None:
        normaliser = readout.log_normaliser(states, memory)
        unembed = model.wrapped.unembed.W_U.T
        mean = torch.empty_like(states)
        rows = rows_of_logits(model.cfg.d_vocab, memory)
        texts = max(1, rows // read)
        parts = zip(states.split(texts), normaliser.split(texts), mean.split(texts), strict=True)
        for some, log_sum, into in parts:
            p = (model.unembed(some) - log_sum[..., None]).exp().float()
            into.copy_(p @ unembed)
        base.append((states, normaliser, mean * readout.scale))

    def from_states(states: Tensor) -> Float[Tensor, "example cell value"]:
        if not base:
            begin(states[:, 0, 0])
            return torch.zeros(len(states), 1, 1 + entropy, dtype=torch.float32)
        own, normaliser, mean = base[0]
        found = []
        for k, each in enumerate(states[:, :, 0]):  # text by text: its cells' states are many
            moved = ((own[k] - each) * mean[k]).sum(-1)
            log_sums = readout.log_normaliser(each, memory)
            kl = moved.double() - normaliser[k] + log_sums
            values = [(kl.clamp(min=0) * weight[k]).sum(-1)]
            if entropy:
                before = losses(own[k : k + 1], normaliser[k : k + 1], k)
                values.append(losses(each, log_sums, k) - before)
            found.append(torch.stack(values, -1))
        return torch.stack(found)

    return from_states


def _weight(examples: Examples) -> Float[Tensor, "example read"]:
    """What each column counts in the mean of its text; those of the prompt and padding nothing."""
    batch, read = examples.batch, examples.read
    columns = torch.arange(batch.width, device=batch.tokens.device)
    counted = (columns >= batch.prompt_end[:, None] - 1)[:, -read:] & batch.mask[:, -read:]
    return counted / counted.sum(-1, keepdim=True)


def _next_tokens(
    examples: Examples,
) -> tuple[Int[Tensor, "example read"], Float[Tensor, "example read"]]:
    """The token that each column predicts, and what it counts in the mean over those of a text.

    Nothing follows the last token, so its column counts nothing.
    """
    batch, read = examples.batch, examples.read
    tokens = batch.tokens.roll(-1, 1)[:, -read:]
    there = batch.mask.roll(-1, 1)
    there[:, -1] = False
    counted = there[:, -read:] & (_weight(examples) > 0)
    return tokens, counted / counted.sum(-1, keepdim=True)


def _kl(model: Model, examples: Examples, memory: int, entropy: bool) -> Read:
    """Mean KL of each text to its unsteered distribution, which is read first."""
    read, weight = examples.read, _weight(examples)
    own_tokens, counted = _next_tokens(examples)
    rows = rows_of_logits(model.cfg.d_vocab, memory)
    base: list[Tensor] = []

    def log_p(states: Tensor) -> Float[Tensor, "example cell read d_vocab"]:
        return torch.log_softmax(model.unembed(states[:, :, 0]).float(), -1)

    def from_states(states: Tensor) -> Float[Tensor, "example cell value"]:
        if not base:
            base.append(log_p(states))
            return torch.zeros(len(states), 1, 1 + entropy, dtype=torch.float32)
        cells = max(1, rows // read)  # at once, of one text
        texts = max(1, rows // (read * min(cells, states.shape[1])))
        parts = []
        for some, own, *shared in zip(
            states.split(texts), base[0].split(texts), weight.split(texts),
            own_tokens.split(texts), counted.split(texts), strict=True,
        ):  # fmt: skip
            share, tokens, each = (one[:, None] for one in shared)
            found = []
            for few in some.split(cells, 1):
                steered = log_p(few)
                kl = (own.exp() * (own - steered)).sum(-1).clamp(min=0)
                values = [(kl * share).sum(-1)]
                if entropy:
                    lost = (own - steered).gather(-1, tokens.expand(kl.shape)[..., None])[..., 0]
                    values.append((lost * each).sum(-1))
                found.append(torch.stack(values, -1))
            parts.append(torch.cat(found, 1))
        return torch.cat(parts)

    return from_states
