"""A contrastive pair: one prompt, one continuation that shows a behaviour, and one that does not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

from steerlens.data.formats.drafts import is_missing
from steerlens.data.formats.text import (
    GROUP_SEPARATOR,
    ContrastError,
    question_key,
    require_length,
    shortened,
    statement_key,
)


@dataclass(frozen=True)
class ContrastPair:
    """One prompt with a continuation that shows the behaviour and one that does not.

    Raises:
        ContrastError: If a side is empty, both sides are equal, or a text is too long or cannot be
            encoded.

    >>> ContrastPair("Do you like tea?", " Yes", " No").positive_text
    'Do you like tea? Yes'
    """

    prompt: str
    """Shared text before the continuation; may be empty."""
    positive: str
    """Continuation that shows the behaviour, appended to the prompt without change."""
    negative: str
    """Continuation that does not."""
    group: str = ""
    """Pairs of one group stay in one part of a split. "" means that the prompt is the group, or
    both texts if the prompt is empty.

    Several keys may be joined by U+001F; pairs that share any of them stay together.
    """
    meta: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Further columns of the file; no computation uses them."""

    def __post_init__(self) -> None:
        for where in ("prompt", "positive", "negative", "group"):
            text = getattr(self, where)
            if not isinstance(text, str):
                if is_missing(text):
                    raise ContrastError(
                        f"{where}={text!r} of a pair is a missing value. Drop the row, or write ''."
                    )
                raise ContrastError(
                    f"{where}={text!r:.80} of a pair is {type(text).__name__}, not text. "
                    "Convert it with str() if the model is to read it."
                )
            require_length(text, f"The text {where!r} of a pair")
            try:
                text.encode("utf-8")
            except UnicodeEncodeError as error:
                raise ContrastError(
                    f"{where}={text!r:.80} of a pair has half a surrogate pair at character "
                    f"{error.start}, which no tokenizer can read. Repair or drop the row."
                ) from error
        label = f"pair with prompt {shortened(self.prompt)!r}"
        for where, text in (("positive", self.positive), ("negative", self.negative)):
            if not text:
                raise ContrastError(
                    f"The {where} side of the {label} is empty, so nothing can be contrasted. "
                    "Give both sides a text, or drop the pair."
                )
        if self.positive == self.negative:
            raise ContrastError(
                f"Both sides of the {label} are {shortened(self.positive)!r}, so they do not "
                "differ. Drop the pair, or write what differs into positive and negative."
            )
        object.__setattr__(self, "meta", MappingProxyType(dict(self.meta)))

    def __reduce__(self):
        # A mapping proxy cannot be copied, but its content can.
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
        """Pairs that share a key stay together: the group, the question, or both statements."""
        if self.group:
            return tuple(key for key in self.group.split(GROUP_SEPARATOR) if key) or ("",)
        if self.prompt.strip():
            return (question_key(self.prompt),)
        return tuple(sorted({statement_key(self.positive), statement_key(self.negative)}))

    def flipped(self) -> ContrastPair:
        """The pair with its sides exchanged."""
        return replace(self, positive=self.negative, negative=self.positive)


@runtime_checkable
class _Frame(Protocol):
    """A pandas DataFrame."""

    columns: Any

    def to_dict(self, orient: Any) -> Any: ...


@runtime_checkable
class _PolarsFrame(Protocol):
    """A polars DataFrame."""

    def to_dicts(self) -> list[dict[str, Any]]: ...


@runtime_checkable
class _ArrowTable(Protocol):
    """An Arrow table."""

    def to_pylist(self) -> list[dict[str, Any]]: ...


def as_samples(samples: Any) -> Iterable[Any]:
    """The rows of a table or mapping of columns; or the samples as they are.

    Raises:
        ContrastError: If it cannot be iterated, or columns have different lengths.
    """
    if isinstance(samples, _PolarsFrame):
        return samples.to_dicts()
    if isinstance(samples, _Frame):
        return samples.to_dict("records")
    if isinstance(samples, _ArrowTable):
        return samples.to_pylist()
    if isinstance(samples, Mapping):
        columns = {
            name: list(column)
            for name, column in samples.items()
            if isinstance(column, Iterable) and not isinstance(column, str)
        }
        if len(columns) < len(samples) or len({len(column) for column in columns.values()}) != 1:
            raise ContrastError(
                f"samples is a mapping with the keys {list(samples)}, which is not a table. Give a "
                "list of pairs, or lists of equal length: {'positive': […], 'negative': […]}."
            )
        rows = zip(*columns.values(), strict=True)
        return [dict(zip(columns, row, strict=True)) for row in rows]
    if isinstance(samples, str | bytes | ContrastPair) or not isinstance(samples, Iterable):
        raise ContrastError(
            f"samples is {shortened(repr(samples))}, not a list of pairs. Give [(positive, "
            "negative), …], a data frame, or for a file ContrastSet.load(path)."
        )
    return samples


def as_pair(sample: Any, number: int) -> ContrastPair:
    """A pair from a sample of any kind that `ContrastSet.from_pairs` takes.

    Args:
        sample: A ContrastPair; a tuple (positive, negative) or (prompt, positive, negative); a
            mapping with these names; or an object with `positive_str` and `negative_str`
            (steering-vectors) or with `positive` and `negative` (repeng).
        number: Its index, for the message.

    Raises:
        ContrastError: If it is none of these, or its texts are not those of a pair.
    """
    if isinstance(sample, ContrastPair):
        return sample
    try:
        made = _made_of(sample)
    except ContrastError as error:
        raise ContrastError(f"samples[{number}]: {error}") from error
    if made is None:
        raise ContrastError(
            f"samples[{number}] is {shortened(repr(sample))}, which is not a pair. Give a "
            "ContrastPair, (positive, negative), (prompt, positive, negative), or a mapping with "
            "these names."
        )
    return made


def _made_of(sample: Any) -> ContrastPair | None:
    if isinstance(sample, tuple | list) and len(sample) in (2, 3):
        *prompt, positive, negative = sample
        return ContrastPair(prompt[0] if prompt else "", positive, negative)
    if isinstance(sample, Mapping) and {"positive", "negative"} <= set(sample):
        texts = {name: sample[name] for name in ("positive", "negative")}
        for name in ("prompt", "group"):
            if not is_missing(sample.get(name)):
                texts[name] = sample[name]
        meta = sample.get("meta", {})
        if not isinstance(meta, Mapping):
            raise ContrastError(f"meta={meta!r:.80} must be a mapping from names to texts.")
        known = ("prompt", "positive", "negative", "group", "meta")
        rest = {k: v for k, v in sample.items() if k not in known}
        others = {str(k): str(v) for k, v in {**rest, **meta}.items() if not is_missing(v)}
        return ContrastPair(**{"prompt": "", **texts}, meta=others)
    for suffix in ("_str", ""):
        positive = getattr(sample, "positive" + suffix, None)
        negative = getattr(sample, "negative" + suffix, None)
        if isinstance(positive, str) and isinstance(negative, str):
            return ContrastPair("", positive, negative)
    return None
