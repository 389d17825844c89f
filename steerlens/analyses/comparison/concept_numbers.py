"""What was measured of every way on one concept, example by example."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Nearness:
    """KL from the exact distribution that is wanted, along texts that it would write."""

    unsteered: Float[Tensor, " text"]
    """Of the unsteered model, in nats per token."""
    curve: Float[Tensor, "way repeat multiplier text"]
    """At the ways' own multipliers."""
    at_best: Float[Tensor, "way repeat text"]
    """At the multiplier that came nearest on other texts."""
    at_budget: Float[Tensor, "way repeat text"]
    """At the multiplier that costs the budget; NaN for a way that has none."""
    best: Float[Tensor, "way repeat"]
    """The multiplier that came nearest on other texts."""
    groups: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Writings:
    """What readers make of written texts, by the name of the reader."""

    steered: Mapping[str, Float[Tensor, "way repeat prompt"]]
    """At the multiplier that costs the budget."""
    unsteered: Mapping[str, Float[Tensor, " prompt"]]
    in_context: Mapping[str, Float[Tensor, " prompt"]] = field(default_factory=dict)
    """Of the unsteered model after contexts of the positive side; empty without contexts."""


@dataclass(frozen=True, eq=False)
class Afterwards:
    """KL from a run that was never steered, in nats, after each token since a way was switched off.

    The way wrote as many tokens at the multiplier that costs the budget (`switched_off`).
    """

    kept: Float[Tensor, "way repeat text token"]
    """With the keys and values that were built while it was on."""
    recomputed: Float[Tensor, "way repeat text token"]
    """With keys and values recomputed from the text: what the text alone leaves."""
    in_cache: Float[Tensor, "way repeat text token"]
    """From the second to the first: what the keys and values alone leave."""


@dataclass(frozen=True, eq=False)
class ConceptNumbers:
    """All numbers of one concept. Ways that have no multiplier that costs the budget are NaN."""

    budget_multiplier: Float[Tensor, "way repeat"]
    """The multiplier that costs the budget on the texts that set it."""
    kl: Float[Tensor, "way repeat factor text"]
    """Nats per token on other ordinary texts, at multiples of that multiplier."""
    gain: Float[Tensor, "way repeat factor question"]
    """Change of the log-odds of the positive answer, in nats."""
    utility: Float[Tensor, "way repeat factor question"]
    """Change of the log-odds of giving either answer, in nats."""
    question_groups: tuple[str, ...]
    others: Mapping[str, Float[Tensor, "way repeat _question"]]
    """Gains on questions about other concepts, at the budget."""
    other_groups: Mapping[str, tuple[str, ...]]
    seconds: Float[Tensor, "way repeat"]
    """Processor seconds to make the way."""
    overhead: Float[Tensor, "way repeat"]
    """Processor time per token of a forward pass, less that without the way, as a share of it."""
    left: Float[Tensor, "way repeat"]
    """Logits and weights that differ in any bit after the way was removed."""
    merged: Float[Tensor, "way repeat"]
    """Share of the changed weights that are not restored by adding the change in place and
    subtracting it again; NaN for ways that change no weights."""
    token: Float[Tensor, "way repeat"] | None = None
    """The same of a token that is written; None where nothing is written."""
    nearness: Nearness | None = None
    writings: Writings | None = None
    afterwards: Afterwards | None = None
    """None where nothing is written, or the context has no room for twice as many tokens."""
