"""The tokens that a direction raises and lowers: its logit lens."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    import pandas


@runtime_checkable
class Unembeds(Protocol):
    """A model that reads a direction in its vocabulary: `Model`."""

    def require(self, direction: Any) -> None: ...

    def token_effects(self, vector: Float[Tensor, " d_model"]) -> Float[Tensor, " d_vocab"]: ...

    def to_string(self, tokens: list[int]) -> str | list[str]: ...


@dataclass(frozen=True, repr=False)
class TopTokens:
    """The tokens whose logits a direction raises and lowers most, with by how much.

    Effects are logits that the direction alone gives in the final stream, relative to their mean
    over the vocabulary. They say what the direction writes if no later block changes it; of a
    direction at an early layer that is not what it does.
    """

    raised: tuple[tuple[str, float], ...]
    """Token and effect, the largest first."""
    lowered: tuple[tuple[str, float], ...]
    """Token and effect, the lowest first."""
    of: str = ""
    """The direction, as its repr."""

    @classmethod
    def of_vector(
        cls, vector: Float[Tensor, " d_model"], model: Unembeds, k: int, of: str
    ) -> TopTokens:
        """The k tokens at each end of what a model says of a vector."""
        effects = model.token_effects(vector).cpu()
        k = min(k, len(effects))

        def named(largest: bool) -> tuple[tuple[str, float], ...]:
            found = torch.topk(effects, k, largest=largest)
            tokens = [str(model.to_string([i])) for i in found.indices.tolist()]
            return tuple(zip(tokens, found.values.tolist(), strict=True))

        return cls(named(True), named(False), of)

    def to_frame(self) -> pandas.DataFrame:
        """Columns `end` ("raised" or "lowered"), `token` and `effect`, in logits."""
        import pandas

        rows = [("raised", *one) for one in self.raised] + [("lowered", *o) for o in self.lowered]
        return pandas.DataFrame(rows, columns=["end", "token", "effect"])

    def __repr__(self) -> str:
        pairs = list(zip(self.raised, self.lowered, strict=True))
        wide = max([6, *(len(repr(up[0])) for up, _ in pairs)])
        lines = [f"{'raised':<{wide}}  logits    lowered"]
        for (up, more), (down, less) in pairs:
            lines.append(f"{up!r:<{wide}}  {more:+6.2f}    {down!r} {less:+.2f}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td><code>{html.escape(repr(up))}</code></td><td>{more:+.2f}</td>"
            f"<td><code>{html.escape(repr(down))}</code></td><td>{less:+.2f}</td></tr>"
            for (up, more), (down, less) in zip(self.raised, self.lowered, strict=True)
        )
        head = "<tr><th>raised</th><th>logits</th><th>lowered</th><th>logits</th></tr>"
        return f"<table>{head}{rows}</table>"
