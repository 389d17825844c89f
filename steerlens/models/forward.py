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

from steerlens.models.cache_edits import CacheChange
from steerlens.models.changing_rotation import require_one_rotation
from steerlens.models.measured import measured
from steerlens.models.prompts import Inserted
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

    @property
    def caches(self) -> bool:
        """Whether decoding with a key-value cache gives the same numbers as without."""
        return measured(self.wrapped).caches

    def require_readable(self, batch: TokenBatch, new: int = 0) -> None:
        """Raises ValueError if the model would read texts of a batch otherwise than alone.

        Args:
            new: How many tokens will be written after each.
        """
        require_one_rotation(self.wrapped, batch, new)
        if bool(batch.mask[:, 0].all()) or measured(self.wrapped).pads:
            return
        raise ValueError(
            f"{type(getattr(self.wrapped, 'original_model', self.wrapped)).__name__} does not read "
            "positions from the attention mask: a left-padded text gives other logits than the "
            "text alone. Pass texts with the same number of tokens, or one text at a time."
        )

    def last(
        self,
        batch: TokenBatch,
        entering: Entering | None = None,
        cut: CacheChange | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """The stream after the last block, all hooks applied.

        Args:
            cut: Where keys and values are changed in between; all blocks run then.
            entering: The block to start at and the stream that enters it; the blocks below do not
                run. Of a HookedTransformer only.
        """
        self.require_readable(batch)
        mask, n_layers = batch.mask.long(), self.wrapped.cfg.n_layers
        if cut is not None:
            return torch.cat(self._in_two(batch, cut, n_layers), 1)
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
        self,
        batch: TokenBatch,
        sites: Sequence[Site],
        stop_at: int,
        cut: CacheChange | None = None,
    ) -> dict[Site, Float[Tensor, "batch pos d_model"]]:
        """The stream at the asked sites, all hooks applied; blocks from `stop_at` on do not run."""
        self.require_readable(batch)
        with self.keeping(sites) as kept:
            if cut is None:
                self.wrapped(batch.tokens, attention_mask=batch.mask.long(), stop_at_layer=stop_at)
                return kept
            before: dict[Site, Tensor] = {}
            self._in_two(batch, cut, stop_at, lambda: before.update(kept))
            return {site: torch.cat([before[site], kept[site]], 1) for site in sites}

    def _in_two(
        self,
        batch: TokenBatch,
        cut: CacheChange,
        stop_at: int,
        between: Callable[[], None] | None = None,
    ) -> list[Float[Tensor, "batch _ d_model"]]:
        """What leaves the block before `stop_at`, of the prefix and of what follows it."""
        cache = self.new_cache(len(batch))
        first = self.prefill(batch, cache, cut, stop_at)
        if between is not None:
            between()
        rest = slice(cut.column, None)
        second = self.wrapped(
            batch.tokens[:, rest],
            attention_mask=batch.mask[:, rest].long(),
            past_kv_cache=cache,
            stop_at_layer=stop_at,
        )
        return [first, second]

    def prefill(
        self,
        batch: TokenBatch,
        cache: TransformerLensKeyValueCache,
        cut: CacheChange,
        stop_at: int,
    ) -> Float[Tensor, "batch _ d_model"]:
        """Runs the prefix, and changes its keys and values in the cache."""
        first = self.wrapped(
            batch.tokens[:, : cut.column],
            attention_mask=batch.mask[:, : cut.column].long(),
            past_kv_cache=cache,
            stop_at_layer=stop_at,
        )
        for layer in range(stop_at):
            entry = cache[layer]
            if (added := cut.of_keys(layer)) is not None:
                entry.past_keys = entry.past_keys + added.to(entry.past_keys)
            if (added := cut.of_values(layer)) is not None:
                entry.past_values = entry.past_values + added.to(entry.past_values)
        cut.done()
        return first

    @contextmanager
    def keeping(self, sites: Sequence[Site]) -> Iterator[dict[Site, Tensor]]:
        """Fills a dictionary with the stream at the asked sites of what runs inside the `with`."""
        kept: dict[Site, Tensor] = {}

        def keep(site: Site) -> Callable[..., None]:
            def hook_fn(resid: Tensor, hook: Any) -> None:
                # All heads of a token are one vector.
                kept[site] = resid.detach().flatten(2).clone()

            return hook_fn

        with self.wrapped.hooks(fwd_hooks=[(site.hook, keep(site)) for site in sites]):
            yield kept

    @contextmanager
    def entered(self, inserted: tuple[Inserted, ...], start: int = 0) -> Iterator[None]:
        """Puts the own vectors of prompts into what enters block 0, until the `with` ends."""
        if all(prompt.prompt.entering is None for prompt in inserted):
            yield
            return

        def enter(resid: Tensor, hook: Any) -> Tensor:
            for k, prompt in enumerate(inserted):
                resid = prompt.enter(resid, inserted[k + 1 :], start)
            return resid

        with self.wrapped.hooks(fwd_hooks=[(Site(0, "resid_pre").hook, enter)]):
            yield

    def new_cache(self, rows: int) -> TransformerLensKeyValueCache:
        """An empty key-value cache for a HookedTransformer."""
        device: torch.device = next(self.wrapped.parameters()).device
        return TransformerLensKeyValueCache.init_cache(self.wrapped.cfg, device, rows)
