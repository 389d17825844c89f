"""Prompts attached to a model: where they stand in texts, and the mixture of both final states."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.models.factors import Factor
from steerlens.protocols import Strength
from steerlens.sites import TokenBatch

Dial = Strength | Float[Tensor, ""]
"""How much of a prompt: a strength, or one number that is being trained."""
Run = Callable[[TokenBatch, int, "tuple[Inserted, ...]"], list[Tensor]]
"""Streams of all columns from the second argument on, of texts in which some prompts stand."""


@dataclass(eq=False)
class AttachedPrompt:
    """Tokens in front of all texts, with a dial."""

    tokens: Int[Tensor, " new"]
    multiplier: Dial
    """0 is the text without them and 1 the text with them."""
    lead: tuple[int, ...]
    """What texts start with; the tokens come after it."""
    n_ctx: int
    """Longest text in tokens, with the prompt."""
    entering: Float[Tensor, "new d_model"] | None = None
    """What enters block 0 in the place of the tokens."""
    factors: tuple[Factor, ...] = ()
    """What the multiplier is multiplied by."""
    factor: Float[Tensor, "batch _"] | None = None
    """Their product in the current run: one column, or one for each of the last tokens."""
    ever_ran: bool = False

    @property
    def is_off(self) -> bool:
        """Whether no row has the prompt."""
        return not isinstance(self.multiplier, Tensor) and self.multiplier == 0

    @property
    def is_whole(self) -> bool:
        """Whether all rows have exactly the prompt."""
        if self.factor is not None:
            return False
        return not isinstance(self.multiplier, Tensor) and self.multiplier == 1

    def mix(self, base: Tensor, prompted: Tensor) -> Tensor:
        """Both final states, mixed as the dial says."""
        if self.factor is None:
            return mix(base, prompted, self.multiplier)
        dial = self.multiplier
        if isinstance(dial, Tensor):
            dial = dial.reshape(-1, 1).to(base)
        own = self.factor.to(base)
        if own.shape[1] > 1:
            own = own[:, -base.shape[1] :]
        strength = (own * dial)[..., None]
        return torch.where(strength == 1, prompted, base + strength * (prompted - base))


@dataclass(frozen=True, eq=False)
class Inserted:
    """Where a prompt stands in the rows of one batch."""

    source: Int[Tensor, "batch wide"]
    """The column of the batch without it, and -1 at the prompt."""
    kept: Int[Tensor, "batch pos"]
    """For each column of the batch without it, the column from which the same token is predicted
    with it: of what texts start with, that is the prompt's last one."""
    prompt: AttachedPrompt

    @property
    def width(self) -> int:
        """How many tokens the prompt has."""
        return len(self.prompt.tokens)

    def spread(self, values: Tensor, fill: bool | int) -> Tensor:
        """Values [batch, pos] of the batch without the prompt, with a value at the prompt."""
        found = values.gather(1, self.source.clamp(min=0))
        return found.masked_fill(self.source < 0, fill)

    def without(self, stream: Float[Tensor, "batch _ d_model"], start: int) -> Tensor:
        """The computed columns that stand for those of the batch without the prompt.

        Where not all columns were computed, those that were are behind the prompt, and stay.
        """
        if start or stream.shape[1] != self.source.shape[1]:
            return stream
        return stream.gather(1, self.kept[..., None].expand(-1, -1, stream.shape[-1]))

    def enter(
        self, resid: Float[Tensor, "batch some d_model"], later: tuple[Inserted, ...], start: int
    ) -> Float[Tensor, "batch some d_model"]:
        """What enters block 0, with the prompt's own vectors where it has some.

        Args:
            later: The prompts that were put into the same texts after this one.
            start: The column of `resid`'s first, with all prompts.
        """
        vectors = self.prompt.entering
        if vectors is None:
            return resid
        # The number of each column in the prompt, and -1 elsewhere.
        at = self.source < 0
        number = torch.where(at, at.long().cumsum(-1) - 1, -1)
        for prompt in later:
            number = prompt.spread(number, -1)
        number = number[:, start : start + resid.shape[1]]
        own = vectors.to(resid)[number.clamp(min=0)]
        return torch.where((number >= 0)[..., None], own, resid)


def insert(batch: TokenBatch, prompt: AttachedPrompt) -> tuple[TokenBatch, Inserted]:
    """The texts with a prompt after what they start with."""
    new, device = len(prompt.tokens), batch.tokens.device
    columns = torch.arange(batch.width, device=device)
    first = batch.mask.int().argmax(-1, keepdim=True)
    lead = torch.tensor(prompt.lead, dtype=torch.long, device=device)
    at = (first + torch.arange(len(lead), device=device)).clamp(max=batch.width - 1)
    leads = (batch.tokens.gather(1, at) == lead) & batch.mask.gather(1, at)
    starts = leads.all(-1, keepdim=True) & (len(lead) > 0)
    place = first + len(lead) * starts
    kept = columns + new * (columns >= place - starts.long())
    wide = torch.arange(batch.width + new, device=device)
    inside = (wide >= place) & (wide < place + new)
    source = torch.where(inside, -1, wide - new * (wide >= place + new))
    inserted = Inserted(source, kept, prompt)
    tokens = torch.where(
        inside, prompt.tokens.to(device)[(wide - place).clamp(0, new - 1)],
        inserted.spread(batch.tokens, 0),
    )  # fmt: skip
    mask = inserted.spread(batch.mask, True)
    longest = int(mask.sum(-1).max())
    if longest > prompt.n_ctx:
        raise ValueError(
            f"With the {new} tokens of the prompt a text has {longest}, and the context of the "
            f"model is {prompt.n_ctx}. Use a shorter prompt or shorter texts."
        )
    texts = replace(
        batch,
        tokens=tokens,
        mask=mask,
        special=inserted.spread(batch.special, False),
        prompt_end=batch.prompt_end + new,
        answer=None if batch.answer is None else batch.answer + new,
    )
    return texts, inserted


def mixed(
    batch: TokenBatch, prompts: tuple[AttachedPrompt, ...], run: Run, start: int = 0
) -> list[Tensor]:
    """Streams of a batch, with each prompt mixed in as its dial says.

    base + multiplier · (prompted - base), where both have the prompts that come after it. At 0 it
    is exactly the base and at 1 exactly the prompted stream.

    Args:
        start: The first column that is computed, in the batch without prompts.
    """
    return _mixed(batch, prompts, run, start, ())


def _mixed(
    batch: TokenBatch,
    prompts: tuple[AttachedPrompt, ...],
    run: Run,
    start: int,
    inserted: tuple[Inserted, ...],
) -> list[Tensor]:
    if not prompts:
        return run(batch, start, inserted)
    prompt, *rest = prompts
    prompt.ever_ran = True
    more = tuple(rest)
    base = [] if prompt.is_whole else _mixed(batch, more, run, start, inserted)
    if prompt.is_off:
        return base
    texts, own = insert(batch, prompt)
    begin = start + own.width if start else 0
    with_it = _mixed(texts, more, run, begin, (*inserted, own))
    with_it = [own.without(stream, start) for stream in with_it]
    if prompt.is_whole:
        return with_it
    return [prompt.mix(a, b) for a, b in zip(base, with_it, strict=True)]


def mix(base: Tensor, prompted: Tensor, multiplier: Dial) -> Tensor:
    """base + multiplier · (prompted - base), which at 0 and at 1 is exactly one of both."""
    if not isinstance(multiplier, Tensor):
        if multiplier in (0, 1):
            return prompted if multiplier else base
        return base + multiplier * (prompted - base)
    if multiplier.ndim == 0:  # one number that is being trained
        return base + multiplier.to(base) * (prompted - base)
    if len(multiplier) != len(base):
        raise ValueError(
            f"{len(multiplier)} multipliers for a batch of {len(base)} rows. Give one number, or "
            "one per row."
        )
    strength = multiplier.to(base)[:, None, None]
    return torch.where(strength == 1, prompted, base + strength * (prompted - base))
