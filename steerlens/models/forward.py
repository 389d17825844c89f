"""The hooked forward pass of a HookedTransformer or of a TransformerBridge, behind one face."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import TransformerLensKeyValueCache

from steerlens.sites import Site, TokenBatch

Entering = tuple[int, Float[Tensor, "batch pos d_model"]]
"""The number of a block and the stream that enters it."""


@dataclass(frozen=True, eq=False)
class Forward:
    """One wrapped model's forward pass. Masks are always passed, never inferred from padding."""

    wrapped: Any

    @property
    def is_bridge(self) -> bool:
        """Whether a TransformerBridge is wrapped rather than a HookedTransformer."""
        return hasattr(self.wrapped, "original_model")

    def last(
        self, batch: TokenBatch, entering: Entering | None = None
    ) -> Float[Tensor, "batch pos d_model"]:
        """The stream after the last block, all hooks applied.

        Args:
            entering: The block to start at and the stream that enters it; the blocks below do not
                run. Of a HookedTransformer only.
        """
        mask, n_layers = batch.mask.long(), self.wrapped.cfg.n_layers
        if not self.is_bridge:
            start, given = entering or (None, batch.tokens)
            return self.wrapped(
                given, start_at_layer=start, attention_mask=mask, stop_at_layer=n_layers
            )
        if entering is not None:
            raise ValueError(
                "A TransformerBridge cannot start at a block inside it. Leave out `entering`."
            )
        # A bridge returns logits whatever stop_at_layer says: read the last stream instead.
        kept: list[Tensor] = []
        last = Site(n_layers - 1).hook
        with self.wrapped.hooks(fwd_hooks=[(last, lambda resid, hook: kept.append(resid))]):
            self.wrapped(batch.tokens, attention_mask=mask, logits_to_keep=1)
        return kept[0]

    def streams(
        self, batch: TokenBatch, sites: Sequence[Site], stop_at: int
    ) -> dict[Site, Float[Tensor, "batch pos d_model"]]:
        """The stream at the asked sites, all hooks applied; blocks from `stop_at` on do not run."""
        with self.keeping(sites) as kept:
            self.wrapped(batch.tokens, attention_mask=batch.mask.long(), stop_at_layer=stop_at)
        return kept

    @contextmanager
    def keeping(self, sites: Sequence[Site]) -> Iterator[dict[Site, Tensor]]:
        """Fills a dictionary with the stream at the asked sites of what runs inside the `with`."""
        kept: dict[Site, Tensor] = {}

        def keep(site: Site) -> Callable[..., None]:
            def hook_fn(resid: Tensor, hook: Any) -> None:
                kept[site] = resid.detach().clone()

            return hook_fn

        with self.wrapped.hooks(fwd_hooks=[(site.hook, keep(site)) for site in sites]):
            yield kept

    def new_cache(self, rows: int) -> TransformerLensKeyValueCache:
        """An empty key-value cache for a HookedTransformer."""
        device: torch.device = next(self.wrapped.parameters()).device
        return TransformerLensKeyValueCache.init_cache(self.wrapped.cfg, device, rows)
