"""Where to read and where to steer: one language for capture, scoring, steering and decoding.

A `Site` is a layer and a stream. `Positions` is a rule that chooses tokens. A `TokenBatch` is what
the rule is applied to: padded tokens, and for every row the column where its prompt ends. `as_site`,
`as_sites` and `as_positions` take what users write instead: a layer, a hook name, a rule's name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, SupportsIndex, get_args

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from steerlens.arguments import ArgumentError, as_bool, as_int

Stream = Literal[
    "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "k", "v", "mlp_post"
]  # fmt: skip
Rule = Literal["all", "last", "from_prompt_end", "generated", "answer", "span"]

INSIDE: dict[str, str] = {
    "z": "attn.hook_z",
    "k": "attn.hook_k",
    "v": "attn.hook_v",
    "mlp_post": "mlp.hook_post",
}
"""Streams inside a sublayer, with the end of their hook's name: what the heads write (z), their keys
and values, all heads of a token as one vector; and the neurons after their activation."""

_HOOK = re.compile(r"blocks\.(\d{1,9})\.([\w.]+)", re.ASCII)
_LABEL = re.compile(r"L(\d{1,9}) (\w+)", re.ASCII)


@dataclass(frozen=True, order=True)
class Site:
    """One layer and one stream, named as TransformerLens prints it.

    The residual stream and what is written into it have width d_model. Inside a sublayer there are
    the heads ("z", "k", "v": one vector per token, head after head, each d_head wide) and the
    neurons ("mlp_post", d_mlp wide); `Model.width` says how wide a site is.

    Raises:
        ArgumentError: If the layer is not a whole number from 0, or the stream has no such name.

    >>> Site(8).hook
    'blocks.8.hook_resid_post'
    >>> Site.from_hook("blocks.3.hook_attn_out")
    Site(layer=3, stream='attn_out')
    >>> Site(3, "z").hook, Site(3, "mlp_post").hook
    ('blocks.3.attn.hook_z', 'blocks.3.mlp.hook_post')
    """

    layer: int
    """Counted from 0; negative numbers are refused, so that a stored site means one thing."""
    stream: Stream = "resid_post"

    def __post_init__(self) -> None:
        if self.stream not in get_args(Stream):
            raise ArgumentError(
                f"stream={self.stream!r:.80} is not a stream that can be steered. "
                f"Use one of {', '.join(get_args(Stream))}."
            )
        if isinstance(self.layer, str):
            raise ArgumentError(
                f"layer={self.layer!r:.80} is text, and a layer is a whole number. Write Site(3), "
                "or Site.from_hook('blocks.3.hook_resid_post') for the name of a hook."
            )
        object.__setattr__(self, "layer", as_int("layer", self.layer))
        if self.layer < 0:
            raise ArgumentError(
                f"layer={self.layer}: layers count from 0 upwards. "
                "For the last layer write Site(model.n_layers - 1)."
            )

    @property
    def hook(self) -> str:
        """The hook point's name in TransformerLens."""
        return f"blocks.{self.layer}.{_end(self.stream)}"

    @classmethod
    def from_hook(cls, name: str) -> Site:
        """The site of a hook name such as ``blocks.8.hook_resid_post``.

        Raises:
            ArgumentError: If it is not the name of such a hook.
        """
        found = _HOOK.fullmatch(name) if isinstance(name, str) else None
        streams = {_end(stream): stream for stream in get_args(Stream)}
        if found is None or found[2] not in streams:
            raise ArgumentError(
                f"{name!r:.80} is not a site that can be steered. "
                f"Write blocks.<layer>.<hook>, hook one of {', '.join(streams)}."
            )
        return cls(int(found[1]), streams[found[2]])

    @property
    def entry(self) -> int | None:
        """The block that reads this stream first, or None where it is inside a block.

        `resid_post[l]` is `resid_pre[l + 1]`: both enter block l + 1.
        """
        return {"resid_pre": self.layer, "resid_post": self.layer + 1}.get(self.stream)

    @property
    def is_inside(self) -> bool:
        """Whether it is inside a sublayer: heads or neurons, whose width is not d_model."""
        return self.stream in INSIDE

    def __str__(self) -> str:
        return f"L{self.layer} {self.stream}"


def _end(stream: str) -> str:
    """The end of the name of a stream's hook."""
    return INSIDE.get(stream, f"hook_{stream}")


SiteLike = Site | SupportsIndex | str
"""A site, a layer, or the name of a hook: what `as_site` takes."""


def as_site(value: SiteLike) -> Site:
    """A site from a `Site`, a layer (resid_post), a hook name, or a site's label.

    Raises:
        ArgumentError: If it is none of these.

    >>> as_site(12), as_site("blocks.3.hook_attn_out"), as_site("L0 mlp_out")
    (Site(layer=12, stream='resid_post'), Site(layer=3, stream='attn_out'), \
Site(layer=0, stream='mlp_out'))
    """
    if isinstance(value, Site):
        return value
    if isinstance(value, str):
        label = _LABEL.fullmatch(value)
        return Site(int(label[1]), label[2]) if label else Site.from_hook(value)  # type: ignore[arg-type]
    try:
        layer = as_int("site", value)
    except ArgumentError:
        raise ArgumentError(
            f"{value!r:.80} is not a site. Write Site(8), the layer's number 8 (the stream "
            "resid_post), or the name of a hook: 'blocks.8.hook_resid_post'."
        ) from None
    return Site(layer)


def as_sites(
    values: SiteLike | Iterable[SiteLike], n_layers: int | None = None
) -> tuple[Site, ...]:
    """One or several sites, each as `as_site` takes it; also `range(12)` or an array of layers.

    Args:
        n_layers: The number of layers of the model, if it is to be checked.

    Raises:
        ArgumentError: If there is no site, one is not a site, one occurs twice, or one is not in
            the model.

    >>> as_sites(range(2))
    (Site(layer=0, stream='resid_post'), Site(layer=1, stream='resid_post'))
    """
    several = isinstance(values, Iterable) and not isinstance(values, str)
    try:
        given = list(values) if several else [values]  # type: ignore[arg-type]
    except TypeError:  # an array or tensor of one number
        given = [values]
    sites = tuple(as_site(value) for value in given)  # type: ignore[arg-type]
    if not sites:
        raise ArgumentError("There is no site. Name at least one, e.g. [Site(8)].")
    if twice := [site for i, site in enumerate(sites) if site in sites[:i]]:
        raise ArgumentError(f"Sites are given twice: {format_sites(twice)}. Name each once.")
    if n_layers is not None and (beyond := [site for site in sites if site.layer >= n_layers]):
        raise ArgumentError(
            f"The model has layers 0–{n_layers - 1}, so it has no {format_sites(beyond)}. "
            f"Its last layer is {n_layers - 1}."
        )
    return sites


def sites_or_layers(
    sites: SiteLike | Iterable[SiteLike] | None, layers: Iterable[SupportsIndex] | None
) -> SiteLike | Iterable[SiteLike] | None:
    """What was given of the two: `layers` are those of resid_post. None for neither.

    Raises:
        ArgumentError: If both were given, or `layers` are no layers.
    """
    if layers is None:
        return sites
    if sites is not None:
        raise ArgumentError(
            "sites and layers both say where, so one of them has to go. Give layers=range(4, 8) for "
            "resid_post, or sites=[Site(4, 'attn_out'), …] for other streams."
        )
    try:
        return [Site(as_int("layers", layer)) for layer in layers]
    except TypeError:
        raise ArgumentError(
            f"layers={layers!r:.80} are not layers. Give numbers, e.g. layers=[4, 5] or range(4, 8)."
        ) from None


def format_sites(sites: Iterable[Site]) -> str:
    """Sites in few words, for messages.

    >>> format_sites(Site(layer) for layer in range(30))
    'layers 0–29'
    >>> format_sites([Site(0), Site(4), Site(5), Site(6), Site(2, "mlp_out")])
    'layers 0, 4–6; L2 mlp_out'
    >>> format_sites([Site(3)])
    'L3 resid_post'
    """
    layers: dict[Stream, list[int]] = {}
    for site in sites:
        layers.setdefault(site.stream, []).append(site.layer)
    return "; ".join(_format_layers(stream, found) for stream, found in layers.items()) or "none"


def _format_layers(stream: Stream, layers: Sequence[int]) -> str:
    distinct = sorted(set(layers))
    if len(distinct) == 1:
        return str(Site(distinct[0], stream))
    starts = [i for i, n in enumerate(distinct) if i == 0 or n != distinct[i - 1] + 1]
    runs = [distinct[a:b] for a, b in zip(starts, [*starts[1:], len(distinct)], strict=True)]
    parts: list[str] = []
    for run in runs:
        parts += [f"{run[0]}–{run[-1]}"] if len(run) > 2 else map(str, run)
    return f"layers {', '.join(parts)}" + ("" if stream == "resid_post" else f" of {stream}")


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """Padded tokens and the facts about them that cannot be inferred from the ids."""

    tokens: Int[Tensor, "batch pos"]
    mask: Bool[Tensor, "batch pos"]
    """True at real tokens, False at padding, whatever side the padding is on."""
    special: Bool[Tensor, "batch pos"]
    """True at real BOS/EOS-like tokens, which are not steered unless asked for."""
    prompt_end: Int[Tensor, " batch"]
    """Column after the last token of the prompt: where an answer or a continuation starts."""
    answer: Int[Tensor, " batch"] | None = None
    """Column of the answer token to read, where there is an answer."""

    def __len__(self) -> int:
        return self.tokens.shape[0]

    @property
    def width(self) -> int:
        """Number of columns, padding included."""
        return self.tokens.shape[1]

    @property
    def positions(self) -> Int[Tensor, "batch pos"]:
        """Index of every token in its own text (BOS is 0), as the model's positions count."""
        return (self.mask.long().cumsum(-1) - 1).clamp(min=0)

    def rows(self, index: slice | Tensor) -> TokenBatch:
        """The chosen rows, with the same columns."""
        return replace(
            self,
            tokens=self.tokens[index],
            mask=self.mask[index],
            special=self.special[index],
            prompt_end=self.prompt_end[index],
            answer=None if self.answer is None else self.answer[index],
        )

    def columns(self, first: int, stop: int) -> TokenBatch:
        """The same rows, of which only the columns from `first` to before `stop`."""
        return replace(
            self,
            tokens=self.tokens[:, first:stop],
            mask=self.mask[:, first:stop],
            special=self.special[:, first:stop],
            prompt_end=self.prompt_end - first,
            answer=None if self.answer is None else self.answer - first,
        )

    def repeated(self, times: int) -> TokenBatch:
        """Every row `times` times in a row (row 0, row 0, …, row 1, …)."""
        return self.rows(
            torch.arange(len(self), device=self.tokens.device).repeat_interleave(times)
        )

    def extended(
        self, tokens: Int[Tensor, "batch new"], special: Tensor, real: Tensor
    ) -> TokenBatch:
        """The batch after `new` more columns were generated."""
        return replace(
            self,
            tokens=torch.cat([self.tokens, tokens], 1),
            mask=torch.cat([self.mask, real], 1),
            special=torch.cat([self.special, special], 1),
        )


@dataclass(frozen=True)
class Positions:
    """A rule for which tokens of a text are read or edited.

    The same rule gives the same tokens in a full forward pass, with teacher forcing, and token by
    token with a KV cache. Padding is never chosen; special tokens (BOS and the like) only with
    `special=True`, since an edited attention sink breaks most models.

    >>> Positions.from_prompt_end()
    Positions.from_prompt_end()
    """

    rule: Rule
    start: int = 0
    stop: int | None = None
    special: bool = False

    def __post_init__(self) -> None:
        if self.rule not in get_args(Rule):
            raise ArgumentError(
                f"rule={self.rule!r:.80} is not a rule. Use one of {', '.join(get_args(Rule))}."
            )
        object.__setattr__(self, "start", as_int("start", self.start))
        if self.stop is not None:
            object.__setattr__(self, "stop", as_int("stop", self.stop))
        object.__setattr__(self, "special", as_bool("special", self.special))

    @classmethod
    def all(cls, *, special: bool = False) -> Positions:
        """Every token of the text."""
        return cls("all", special=special)

    @classmethod
    def last(cls) -> Positions:
        """The last token of the prompt, only."""
        return cls("last", special=True)

    @classmethod
    def from_prompt_end(cls) -> Positions:
        """The last token of the prompt and everything after it.

        The first edited token is the one from which the first answer token is predicted. CAA
        (arXiv:2312.06681) steers like this.
        """
        return cls("from_prompt_end", special=True)

    @classmethod
    def generated(cls) -> Positions:
        """Only tokens after the prompt. A one-token answer is predicted before any such token."""
        return cls("generated", special=True)

    @classmethod
    def answer(cls) -> Positions:
        """The answer's token: the first one in which a pair's two answers differ.

        For ``(A)`` and ``(B)`` this is the letter, wherever the tokenizer puts it.
        """
        return cls("answer", special=True)

    @classmethod
    def span(cls, start: int, stop: int | None = None, *, special: bool = False) -> Positions:
        """Tokens start, …, stop - 1 of each text, counted as `to_tokens` prints them (BOS is 0).

        Negative numbers count back from the end of the prompt: span(-3, None) is the last three
        prompt tokens and what follows.
        """
        return cls("span", start=start, stop=stop, special=special)

    def mask(self, batch: TokenBatch) -> Bool[Tensor, "batch pos"]:
        """True at the chosen tokens of the batch.

        Raises:
            ValueError: If the rule is `answer` and the batch holds no answers.
        """
        columns = torch.arange(batch.width, device=batch.tokens.device)
        end = batch.prompt_end[:, None]
        if self.rule == "all":
            chosen = torch.ones_like(batch.mask)
        elif self.rule == "last":
            chosen = columns == end - 1
        elif self.rule == "from_prompt_end":
            chosen = columns >= end - 1
        elif self.rule == "generated":
            chosen = columns >= end
        elif self.rule == "answer":
            if batch.answer is None:
                raise ValueError(
                    "Positions.answer() needs answers, and these texts have none. "
                    "Use Positions.last() to read prompts at their last token."
                )
            chosen = columns == batch.answer[:, None]
        else:
            first = batch.mask.int().argmax(-1, keepdim=True)
            chosen = columns >= self._column(self.start, first, end)
            if self.stop is not None:
                chosen = chosen & (columns < self._column(self.stop, first, end))
        chosen = chosen & batch.mask
        return chosen if self.special else chosen & ~batch.special

    def columns(self, batch: TokenBatch) -> Int[Tensor, " batch"]:
        """The one chosen column of every row, for reading one vector per text.

        Raises:
            ValueError: If some row has no chosen token, or more than one.
        """
        chosen = self.mask(batch)
        counts = chosen.sum(-1)
        if not bool((counts == 1).all()):
            row = int((counts != 1).nonzero()[0])
            raise ValueError(
                f"{self} chooses {int(counts[row])} tokens in row {row}; reading takes one token "
                "per text. Use Positions.last() or Positions.answer()."
            )
        return chosen.int().argmax(-1)

    @staticmethod
    def _column(index: int, first: Tensor, end: Tensor) -> Tensor:
        return first + index if index >= 0 else end + index

    def __repr__(self) -> str:
        arguments = []
        if self.rule == "span":
            arguments = [str(self.start), str(self.stop)]
        if self.special and self.rule in ("all", "span"):
            arguments.append("special=True")
        return f"Positions.{self.rule}({', '.join(arguments)})"


def require_positions(value: object) -> None:
    """Raises ArgumentError if a value is not a rule that chooses tokens, where no name will do."""
    if not isinstance(value, Positions):
        named = isinstance(value, str) and value in get_args(Rule) and value != "span"
        made = f"Positions.{value}()" if named else "Positions.from_prompt_end()"
        raise ArgumentError(
            f"positions={value!r:.80} is not a Positions, which an intervention needs. Write e.g. "
            f"positions={made}."
        )


def as_positions(value: Positions | str) -> Positions:
    """A rule from a `Positions` or from the name of one, e.g. "all" or "from_prompt_end".

    Raises:
        ArgumentError: If it is neither, or the rule needs numbers (`Positions.span`).

    >>> as_positions("last")
    Positions.last()
    """
    if isinstance(value, Positions):
        return value
    made = {
        "all": Positions.all,
        "last": Positions.last,
        "from_prompt_end": Positions.from_prompt_end,
        "generated": Positions.generated,
        "answer": Positions.answer,
    }
    if isinstance(value, str) and value in made:
        return made[value]()
    raise ArgumentError(
        f"positions={value!r:.80} is not a rule that chooses tokens. Use one of "
        f"{', '.join(map(repr, made))}, or Positions.span(start, stop)."
    )
