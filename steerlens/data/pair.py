"""A contrastive pair: one prompt, one continuation that shows a behaviour, and one that does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from steerlens.data.formats.text import (
    GROUP_SEPARATOR,
    ContrastError,
    question_key,
    shortened,
    statement_key,
)


@dataclass(frozen=True)
class ContrastPair:
    """One prompt with a continuation that shows the behaviour and one that does not.

    Raises:
        ContrastError: If a side is empty, both sides are equal, or a text cannot be encoded.

    >>> ContrastPair("Do you like tea?", " Yes", " No").positive_text
    'Do you like tea? Yes'
    """

    prompt: str
    """Shared text before the continuation; may be empty."""
    positive: str
    """Continuation that shows the behaviour, appended to the prompt as it is."""
    negative: str
    """Continuation that does not."""
    group: str = ""
    """What must not be split across parts; "" means the prompt, or both texts if that is empty.

    Several keys may be joined by U+001F; pairs that share any of them stay together.
    """
    meta: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Further columns of the file; they change no number."""

    def __post_init__(self) -> None:
        for where in ("prompt", "positive", "negative", "group"):
            text = getattr(self, where)
            if not isinstance(text, str):
                raise ContrastError(
                    f"{where}={text!r} of a pair is {type(text).__name__}, not text. "
                    "Convert it with str() if that is what the model shall read."
                )
            try:
                text.encode("utf-8")
            except UnicodeEncodeError as error:
                raise ContrastError(
                    f"{where}={text!r} of a pair has half a surrogate pair at character "
                    f"{error.start}, which no tokenizer can read. Repair or drop the row."
                ) from error
        label = f"pair with prompt {shortened(self.prompt)!r}"
        for where, text in (("positive", self.positive), ("negative", self.negative)):
            if not text:
                raise ContrastError(
                    f"The {where} side of the {label} is empty, so there is nothing to contrast. "
                    "Give both sides a text, or drop the pair."
                )
        if self.positive == self.negative:
            raise ContrastError(
                f"Both sides of the {label} are {shortened(self.positive)!r}: they contrast "
                "nothing. Drop the pair, or put what differs into positive and negative."
            )
        object.__setattr__(self, "meta", MappingProxyType(dict(self.meta)))

    def __reduce__(self):
        # A mapping proxy cannot be copied; its content can.
        return ContrastPair, (self.prompt, self.positive, self.negative, self.group, {**self.meta})

    @property
    def positive_text(self) -> str:
        """Prompt and positive continuation as the model reads them."""
        return self.prompt + self.positive

    @property
    def negative_text(self) -> str:
        """Prompt and negative continuation as the model reads them."""
        return self.prompt + self.negative

    @property
    def keys(self) -> tuple[str, ...]:
        """What ties this pair to others in a split: its group, question, or both statements."""
        if self.group:
            return tuple(key for key in self.group.split(GROUP_SEPARATOR) if key) or ("",)
        if self.prompt.strip():
            return (question_key(self.prompt),)
        return tuple(sorted({statement_key(self.positive), statement_key(self.negative)}))

    def flipped(self) -> ContrastPair:
        """The pair with its sides exchanged."""
        return replace(self, positive=self.negative, negative=self.positive)


def as_pair(sample: Any, number: int) -> ContrastPair:
    """A pair from whatever stands for one in memory.

    Args:
        sample: A ContrastPair; a tuple (positive, negative) or (prompt, positive, negative); a
            mapping with these names; or an object with `positive_str` and `negative_str`
            (steering-vectors) or with `positive` and `negative` (repeng).
        number: Its place, for the error.

    Raises:
        ContrastError: If it is none of these.
    """
    if isinstance(sample, ContrastPair):
        return sample
    if isinstance(sample, tuple | list) and len(sample) in (2, 3):
        *prompt, positive, negative = sample
        return ContrastPair(prompt[0] if prompt else "", positive, negative)
    if isinstance(sample, Mapping) and {"positive", "negative"} <= set(sample):
        known = ("prompt", "positive", "negative", "group")
        texts = {name: sample[name] for name in known if name in sample}
        rest = {str(k): str(v) for k, v in sample.items() if k not in known and k != "meta"}
        return ContrastPair(**{"prompt": "", **texts}, meta={**rest, **sample.get("meta", {})})
    for suffix in ("_str", ""):
        positive = getattr(sample, "positive" + suffix, None)
        negative = getattr(sample, "negative" + suffix, None)
        if isinstance(positive, str) and isinstance(negative, str):
            return ContrastPair("", positive, negative)
    raise ContrastError(
        f"samples[{number}] is {shortened(repr(sample))}, which is no pair. Give a ContrastPair, "
        "(positive, negative), (prompt, positive, negative), or a mapping with these names."
    )
