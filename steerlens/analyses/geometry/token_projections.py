"""How far each token of a text lies along a direction, and the text coloured by it."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from steerlens import plots
from steerlens.directions import Direction
from steerlens.models.lens_names import TextsLike
from steerlens.models.model import as_model
from steerlens.results import Column, Result
from steerlens.sites import Site

if TYPE_CHECKING:
    import plotly.graph_objects as go

FAR = 5.0
"""A token whose stream is more than so many times as long as the median is not coloured; the median is
of the tokens that are not special."""


@dataclass(frozen=True, eq=False, repr=False)
class TokenProjections(Result):
    """The projection of the stream on a direction at every token of some texts.

    In a notebook the texts are shown with each token on the colour of its projection: red along the
    direction, blue against it. BOS and other special tokens are measured but not coloured, and
    neither is a token whose stream is more than five times as long as the median, such as the first
    token of a text in models without a BOS: it would take the whole scale.
    """

    kind: ClassVar[str] = "projections"
    tokens: tuple[str, ...]
    """The pieces of all texts, one after the other."""
    text: Int[Tensor, " token"]
    """The number of the text that each token is of."""
    special: Bool[Tensor, " token"]
    """BOS, EOS and a chat template's markers."""
    projection: Float[Tensor, " token"]
    """Component of the stream along the direction of length 1, in units of the stream."""
    cosine: Float[Tensor, " token"]
    """The same over the norm of that token's stream, in [-1, 1]."""
    site: Site
    made_by: dict[str, Any] = field(default_factory=dict)
    far: Bool[Tensor, " token"] | None = None
    """Tokens whose stream is more than `FAR` times as long as the median of those not special; None
    for none."""

    def coordinates(self, axis: str, size: int) -> Mapping[str, Sequence[Any]]:
        """Tokens are named by their place, since a text may hold one twice."""
        return {axis: range(size)}

    def columns(self) -> list[Column]:
        """Text, piece and numbers of each token."""
        import numpy as np

        return [
            Column("text", ("token",), self.text),
            Column("piece", ("token",), np.array(self.tokens, dtype=object)),
            Column("special", ("token",), self.special),
            Column("far", ("token",), self._far),
            Column("projection", ("token",), self.projection),
            Column("cosine", ("token",), self.cosine),
        ]

    @property
    def _far(self) -> Bool[Tensor, " token"]:
        return torch.zeros_like(self.special) if self.far is None else self.far

    @property
    def _shown(self) -> Float[Tensor, " token"]:
        """What is coloured: NaN at special tokens and at those with a far longer stream."""
        return self.projection.masked_fill(self.special | self._far, torch.nan)

    def summary(self) -> str:
        """The ends of the range, and the tokens that have them."""
        shown = self._shown
        if bool(shown.isnan().all()):
            return f"projections at {self.site}: no token to colour"
        most, least = (
            int(shown.nan_to_num(-torch.inf).argmax()),
            int(shown.nan_to_num(torch.inf).argmin()),
        )
        ends = [f"{self.tokens[i]!r} {float(shown[i]):+.3g}" for i in (most, least)]
        found = (
            f"projections at {self.site} of {len(self.tokens)} tokens: most {ends[0]}, least "
            f"{ends[1]}"
        )
        if not (many := int((self._far & ~self.special).sum())):
            return found
        tokens = "a token" if many == 1 else f"{many} tokens"
        return f"{found}; not coloured: {tokens} with a stream over {FAR:g} times the median length"

    def plot(self) -> go.Figure:
        """The tokens of all texts, each on the colour of its projection."""
        return plots.token_heat(
            self.tokens, self._shown.numpy(), title=f"Projection on the direction at {self.site}",
            unit="projection", missing="not coloured",
        )  # fmt: skip

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        return {"text/plain": self.summary(), "text/html": self._repr_html_()}

    def _repr_html_(self) -> str:
        colours = plots.token_colours(self._shown.numpy())
        paragraphs = []
        for number in range(int(self.text.max()) + 1):
            spans = []
            for i in (self.text == number).nonzero().flatten().tolist():
                paper, ink = colours[i]
                said = f"{self.tokens[i]!r}: {float(self.projection[i]):+.3g}, cosine "
                said += f"{float(self.cosine[i]):+.2f}"
                if bool(self._far[i]):
                    said += "; not coloured, since its stream is far longer than elsewhere"
                piece = html.escape(self.tokens[i]).replace("\n", "⏎<br>") or "∅"
                spans.append(
                    f"<span title='{html.escape(said, quote=True)}' style='background:{paper};"
                    f"color:{ink};padding:1px 0;white-space:pre-wrap'>{piece}</span>"
                )
            paragraphs.append(f"<p style='line-height:1.7;margin:4px 0'>{''.join(spans)}</p>")
        note = "" if self._shown.isnan().all() else f"<small>{html.escape(self.summary())}</small>"
        return f"<div>{''.join(paragraphs)}{note}</div>"


def projections(model: Any, direction: Direction, texts: TextsLike) -> TokenProjections:
    """The projection of the stream on a direction at every token, with whatever is attached.

    The stream is read at the direction's own site, after any edit of it. For another layer write
    ``dataclasses.replace(direction, site=Site(layer))``.

    Args:
        model: A `Model`, or what it wraps.
        texts: One text, several, a batch, or tokens of texts of one length.

    Raises:
        ValueError: If the direction does not fit the model, or a text is empty or too long.
    """
    model = as_model(model)
    model.require(direction)
    batch = model.batch(texts)
    stream = model.cache(batch, direction.site)[direction.site].float()
    unit = direction.unit().vector.to(stream)
    real = batch.mask
    along = (stream @ unit)[real].cpu()
    lengths = stream.norm(dim=-1)[real].cpu()
    special = batch.special[real].cpu()
    usual = lengths[~special].median() if not bool(special.all()) else lengths.median()
    pieces = [
        piece
        for row, kept in zip(batch.tokens, real, strict=True)
        for piece in model.texts.pieces(row[kept].tolist())
    ]
    number = torch.arange(len(batch), device=real.device)[:, None].expand_as(real)[real]
    return TokenProjections(
        tokens=tuple(pieces),
        text=number.cpu(),
        special=special,
        far=lengths > FAR * usual,
        projection=along,
        cosine=along / lengths.clamp(min=1e-30),
        site=direction.site,
        made_by={**model.facts, "direction": repr(direction)},
    )
