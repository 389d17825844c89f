"""What a way of steering leaves in a text when it is switched off while the text is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import SupportsFloat, SupportsIndex

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.arguments import as_float, as_int
from steerlens.interventions.arms import require_fit
from steerlens.measures.generation import generated_tokens
from steerlens.measures.kept_texts import KeptTexts
from steerlens.models.model import Model, as_model
from steerlens.protocols import Intervention
from steerlens.sites import TokenBatch

ROWS = 16
"""Texts at once: three distributions over the vocabulary are held for each of their tokens."""


@dataclass(frozen=True, eq=False)
class SwitchedOff:
    """KL from a run that was never steered, in nats, after each token since the switch-off."""

    kept: Float[Tensor, "text token"]
    """With the keys and values that were built under steering."""
    recomputed: Float[Tensor, "text token"]
    """With keys and values recomputed from the text: what the steered text alone leaves."""
    in_cache: Float[Tensor, "text token"]
    """KL(recomputed ‖ kept), on the same tokens: what the keys and values alone leave."""
    written: Int[Tensor, "text steered"]
    """The tokens that were written under steering."""


@torch.no_grad()
def switched_off(
    model: Model,
    intervention: Intervention,
    prompts: str | Sequence[str],
    multiplier: SupportsFloat = 1.0,
    *,
    then: str | Sequence[str] | None = None,
    steered: SupportsIndex = 16,
    after: SupportsIndex = 16,
    temperature: SupportsFloat = 1.0,
    seed: SupportsIndex = 0,
    rows: SupportsIndex = ROWS,
) -> SwitchedOff:
    """How long steering is felt after it ends within a text, with the cache kept and recomputed.

    Each prompt is continued under steering by `steered` tokens y, and then steering ends. A second
    run, with the same random draws, is never steered and writes as many tokens y⁰. Both go on with
    the same tokens z, as a conversation goes on with what the user says next. After t of them,
    KL(p ‖ q) of the next token has

    - p(· | prompt, y⁰, z₁…z_t) of the run that was never steered, and
    - q(· | prompt, y, z₁…z_t), where the keys and values of the prompt and of y but its last token
      are those that were built under steering (`kept`), or all are unsteered (`recomputed`).

    So `recomputed` is what the steered text leaves by itself, which no way can take back: another
    text, which need not be a better or a worse one. It is 0 where y is y⁰. `in_cache` compares both
    q on the same tokens: it is what recomputing the cache takes away, and 0 where nothing that
    steering put into the keys and values reaches the next token. Ends of texts do not end them here.

    A prompt in front is taken away with what was kept of it; beside it runs the text without it,
    which goes on. So it leaves nothing in the cache.

    Args:
        intervention: Of any kind, weights included.
        then: What each text goes on with; by default what the run that was never steered writes.
        steered: Tokens written under steering.
        after: Tokens that are read since.
        temperature: Of the writing; 0 takes the likeliest token.
        rows: Texts read at once.

    Raises:
        ValueError: If the intervention does not fit, a text is longer than the context or one of
            `then` too short, or decoding with a cache gives other numbers on this model.
        SteeringError: If the intervention edits no token.
    """
    model = as_model(model)
    multiplier, temperature = (
        as_float("multiplier", multiplier),
        as_float("temperature", temperature),
    )
    first, later = as_int("steered", steered, least=1), as_int("after", after, least=1)
    at_once = as_int("rows", rows, least=1)
    require_fit(model, intervention)
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    then = [then] if isinstance(then, str) else then
    if not prompts:
        raise ValueError("prompts is empty, so there is no text to write. Give at least one.")
    if len(model.attached):
        raise ValueError(
            "Something is attached to the model, so that no run of it is unsteered. End its `with` "
            "first."
        )
    if not model.forward.caches:
        raise ValueError(
            f"Decoding {model.name!r} with a key-value cache gives other numbers than a whole pass, so "
            "what a kept cache holds cannot be told from that. Use another model."
        )
    width = model.tokens(prompts).width + first + later
    if width > model.n_ctx:
        raise ValueError(
            f"The longest text has {width} tokens, and the context of {model.name!r} is {model.n_ctx}. "
            "Use shorter prompts, or less of steered= and after=."
        )
    ahead = None if then is None else _first_tokens(model, then, len(prompts), later)

    def write(texts: Sequence[str], new: int, draws: Sequence[int]) -> Int[Tensor, "text new"]:
        return generated_tokens(
            model, texts, max_new_tokens=new, temperature=temperature, seed=seed,
            stop_at_eos=False, draws=draws,
        )  # fmt: skip

    found = []
    for start in range(0, len(prompts), at_once):
        draws = range(len(prompts))[start : start + at_once]
        texts = [prompts[i] for i in draws]
        base = model.tokens(texts, padding_side="left")
        never = write(texts, first + later if ahead is None else first, draws)
        z = never[:, first:] if ahead is None else ahead[start : start + at_once]
        with intervention.attach(model, multiplier):
            stepped = bool(model.attached.nudges)
            written = write(texts, first, draws)
            steered_so_far = _Read(model, base, written, z, stepped)
        kept = steered_so_far.go_on()
        recomputed = _Read(model, base, written, z, stepped).go_on()
        p = _Read(model, base, never[:, :first], z, stepped).go_on()
        parts = _kl(p, kept), _kl(p, recomputed), _kl(recomputed, kept), written
        found.append([part.cpu() for part in parts])
    return SwitchedOff(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def _first_tokens(
    model: Model, texts: Sequence[str], count: int, tokens: int
) -> Int[Tensor, "text token"]:
    """The first tokens of each text, without what texts start with."""
    if len(texts) != count:
        raise ValueError(
            f"then has {len(texts)} texts for {count} prompts. Give what each one goes on with."
        )
    ids = [model.ids(text)[len(model.texts.lead) :] for text in texts]
    if (shortest := min(map(len, ids))) < tokens:
        raise ValueError(
            f"A text of then has {shortest} tokens, and after={tokens} are read. Use longer texts, or "
            f"after={shortest}."
        )
    return torch.tensor([row[:tokens] for row in ids], device=model.device)


class _Read:
    """Texts of which a first part is read at once, under what is attached now, and the rest later."""

    def __init__(
        self,
        model: Model,
        base: TokenBatch,
        written: Int[Tensor, "text steered"],
        later: Int[Tensor, "text token"],
        stepped: bool,
    ) -> None:
        # The last written token is read after the switch-off: it was chosen before, and not read.
        before = _extended(model, base, written[:, :-1])
        self.whole = _extended(model, before, torch.cat([written[:, -1:], later], 1))
        self.later = later.shape[1]
        self.texts = KeptTexts(model, before, self.whole.width, stepped=stepped)

    def go_on(self) -> Float[Tensor, "text token d_vocab"]:
        """Log-probabilities of the next token after each of the later tokens."""
        return torch.log_softmax(self.texts.logits(self.whole, self.later).float(), -1)


def _extended(model: Model, batch: TokenBatch, tokens: Int[Tensor, "text new"]) -> TokenBatch:
    real = torch.ones_like(tokens, dtype=torch.bool)
    return batch.extended(tokens, model.is_special(tokens), real)


def _kl(log_p: Tensor, log_q: Tensor) -> Float[Tensor, "text token"]:
    return (log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0)
