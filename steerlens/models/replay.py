"""The blocks of a TransformerBridge one by one, on rows that share what their prompts have in common.

A bridge leaves the loop over its blocks to the Hugging Face model, which has no way in. Here that
model runs with its blocks passed over, and what it gives to each of them (masks, positions, rotary
tables, the layer's cache) is kept. Then the model's own blocks run on other rows, each with these
arguments laid out for the rows. Nothing is assumed of an architecture: which dimension of an argument
counts texts is seen by one more pass with one more text, and the first use of a model compares a
replay with its own forward pass. Where they differ, `replay` says why and gives None.
"""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.models.measured import close, final_norm, measured, without_hooks
from steerlens.models.wrapped_state import evaluating
from steerlens.sites import Site, TokenBatch


class ReplayError(ValueError):
    """The blocks of a bridge cannot be run one by one to the model's own numbers."""


class Replay:
    """The blocks of one bridge. `replay` makes it, once it was compared with the bridge itself."""

    def __init__(self, wrapped: Any, given: list[int], *, shares: bool = True) -> None:
        """
        Args:
            given: As `_what_blocks_give` finds it.
            shares: Whether the first columns of texts can be in the model's cache.
        """
        self.wrapped, self.shares = wrapped, shares
        self.blocks: list[Any] = list(wrapped.blocks)
        self._given = given

    def begin(self, batch: TokenBatch, shared: int, variants: int) -> Replayed:
        """Runs what all rows of a prompt share, and readies the blocks for the columns after it.

        Args:
            batch: Texts in which the `variants` of each prompt stand one after the other.
            shared: How many columns at the start all variants of a prompt have in common.

        Raises:
            ReplayError: If the model gives its blocks something that cannot be laid out for rows.
        """
        past = self._prefix(batch.rows(slice(None, None, variants)), shared) if shared else None
        tokens, mask = batch.tokens[:, shared:], batch.mask.long()
        entering, calls = self._calls(tokens, mask, past)
        # One text more: what grows with it has places for each text.
        _, more = self._calls(torch.cat([tokens, tokens[-1:]]), torch.cat([mask, mask[-1:]]), past)
        calls = [_counted(one, other) for one, other in zip(calls, more, strict=True)]
        return Replayed(self, calls, entering.unflatten(0, (-1, variants)), past)

    def states(
        self, resid: Float[Tensor, "prompt row pos d_model"]
    ) -> Float[Tensor, "prompt row pos d_model"]:
        """The normed final stream, which the unembedding reads."""
        return final_norm(self.wrapped, resid.flatten(0, 1)).view_as(resid)

    def _prefix(self, prompts: TokenBatch, width: int) -> Any:
        """The cache after the first columns of each prompt."""
        _, past = self.wrapped(
            prompts.tokens[:, :width],
            attention_mask=prompts.mask[:, :width].long(),
            return_type="logits_and_cache",
            use_cache=True,
            logits_to_keep=1,
        )
        layers = getattr(past, "layers", None)
        kept = layers if isinstance(layers, list) else []
        tensors = [getattr(one, name, None) for one in kept for name in ("keys", "values")]
        if len(kept) != len(self.blocks) or not all(isinstance(t, Tensor) for t in tensors):
            raise ReplayError(f"its cache, {type(past).__name__}, has no keys and values by block")
        return past

    def _calls(
        self, tokens: Tensor, mask: Tensor, past: Any
    ) -> tuple[Float[Tensor, "text pos d_model"], list[_Call]]:
        """What enters block 0, and what each block is given beside the stream; no block runs."""
        calls: dict[int, _Call] = {}
        entering: list[Tensor] = []

        def passing(layer: int) -> Callable[..., Any]:
            given = self._given[layer]

            def forward(*args: Any, **kwargs: Any) -> Any:
                stream = args[0] if args else kwargs.pop("hidden_states")
                entering.append(stream)
                calls[layer] = _Call(bool(args), args[1:], kwargs)
                return (stream, *[None] * (given - 1)) if given else stream

            return forward

        more: dict[str, Any] = {"use_cache": past is not None}
        if past is not None:
            more["past_key_values"] = past
        try:
            for layer, block in enumerate(self.blocks):
                vars(block)["forward"] = passing(layer)
            self.wrapped(tokens, attention_mask=mask, logits_to_keep=1, **more)
        finally:
            for block in self.blocks:
                vars(block).pop("forward", None)
        return entering[0], [calls[layer] for layer in range(len(self.blocks))]


@dataclass(frozen=True, eq=False)
class Replayed:
    """The blocks over some columns of some texts, with whatever rows join."""

    replay: Replay
    calls: list[_Call]
    entering: Float[Tensor, "prompt variant pos d_model"]
    """What enters block 0."""
    past: Any
    """The model's cache of the columns before, one row for each prompt; None for no columns."""

    def climb(
        self,
        resid: Float[Tensor, "prompt row pos d_model"],
        *,
        enter: Callable[[int, Tensor], Tensor],
        tail: int | None = None,
    ) -> Float[Tensor, "prompt more out d_model"]:
        """The stream through the blocks, one after the other.

        Args:
            enter: Given the number of a block and the stream that enters it, and once the number of
                layers and what leaves the last block: the stream to go on with. It may add rows,
                which repeat the variants of each prompt in turn.
            tail: Return only the last `tail` columns.
        """
        last = len(self.calls)
        for layer in range(last):
            resid = self._block(layer, enter(layer, resid))
        return enter(last, resid if tail is None else resid[:, :, -tail:])

    def _block(self, layer: int, resid: Float[Tensor, "prompt row pos d_model"]) -> Tensor:
        prompts, rows = resid.shape[:2]
        shape = (prompts, self.entering.shape[1], rows)
        past = None if self.past is None else _of_block(self.past, layer, rows)
        call = self.calls[layer]
        laid = _mapped(call.args, lambda one: _laid(one, self.past, past, shape))
        named = _mapped(call.kwargs, lambda one: _laid(one, self.past, past, shape))
        flat = resid.flatten(0, 1)
        if call.first:
            out = self.replay.blocks[layer](flat, *laid, **named)
        else:
            out = self.replay.blocks[layer](hidden_states=flat, **named)
        return (out[0] if isinstance(out, tuple) else out).view_as(resid)


def replay(wrapped: Any, known_hooks: Counter[str]) -> Replay | None:
    """The blocks of a bridge one by one, or None where that would give other numbers.

    The first use of a model compares them with its own forward pass. A difference is a warning.

    Args:
        known_hooks: Hooks that the caller applies itself, as in `kernel.why_not`.
    """
    if any(
        len(point.fwd_hooks) > known_hooks[name] or point.bwd_hooks
        for name, point in wrapped.hook_dict.items()
    ):
        return None
    processed = bool(getattr(wrapped, "compatibility_mode", False))
    if wrapped not in _compared or _compared[wrapped].processed != processed:
        with torch.no_grad(), without_hooks(wrapped), evaluating(wrapped):
            _compared[wrapped] = _comparison(wrapped, processed)
        if whole := _compared[wrapped].whole:
            warnings.warn(
                f"The blocks of this {type(wrapped.original_model).__name__} are not run one by "
                f"one: {whole}. Sweeps of it take one full pass for each row, which is slower and "
                "gives the same numbers.",
                stacklevel=3,
            )
    seen = _compared[wrapped]
    return None if seen.whole else Replay(wrapped, seen.given, shares=not seen.parted)


@dataclass(frozen=True)
class _Comparison:
    """What the first use of a bridge has shown."""

    processed: bool
    """Whether its weights were processed then."""
    given: list[int]
    """As `_what_blocks_give` finds it."""
    whole: str
    """How a replay of whole texts differs from the model's own pass; "" if it does not."""
    parted: str
    """The same of texts whose first columns are in the cache."""


_compared: WeakKeyDictionary[Any, _Comparison] = WeakKeyDictionary()


def _comparison(wrapped: Any, processed: bool) -> _Comparison:
    """Compares replays of random tokens with the model's own pass."""
    width = min(12, wrapped.cfg.n_ctx)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(wrapped.cfg.d_vocab, (2, width), generator=generator)
    tokens = tokens.to(_device(wrapped)).repeat_interleave(2, 0)  # two prompts with two variants
    tokens[1::2, -1] = tokens[::2, 0]
    real = torch.ones_like(tokens, dtype=torch.bool)
    if measured(wrapped).pads:
        real[2:, : width // 2 + 1] = False  # more than what is shared
    ends = torch.full((len(tokens),), width - 1, device=tokens.device)
    batch = TokenBatch(tokens, real, torch.zeros_like(real), ends)
    try:
        given = _what_blocks_give(wrapped)
    except Exception as error:  # whatever an unusual architecture leads to
        return _Comparison(processed, [], _reason(error), _reason(error))
    blocks = Replay(wrapped, given)
    whole = _differs(blocks, batch, 0)
    if measured(wrapped).caches:
        parted = whole or _differs(blocks, batch, width // 2)
    else:
        parted = "its cache gives other numbers than a full pass"
    return _Comparison(processed, given, whole, parted)


def _differs(blocks: Replay, batch: TokenBatch, shared: int) -> str:
    """Compares a replay with hooked passes, and says what is wrong with it."""
    try:
        return _gap(blocks, batch, shared)
    except Exception as error:  # whatever an unusual architecture leads to
        return _reason(error)


def _reason(error: Exception) -> str:
    """What an error says of why blocks are not run one by one."""
    if isinstance(error, ReplayError):
        return str(error)
    return f"they cannot be run so ({type(error).__name__}: {error})"


def _gap(blocks: Replay, batch: TokenBatch, shared: int) -> str:
    """Compares a replay, in which edited rows join at the middle block, with hooked passes."""
    wrapped, middle = blocks.wrapped, len(blocks.blocks) // 2
    generator = torch.Generator().manual_seed(2)
    entering, last = f"blocks.{middle}.hook_resid_pre", Site(len(blocks.blocks) - 1).hook
    found: dict[bool, Tensor] = {}
    push = torch.zeros(())
    for edited in (False, True):
        kept: list[Tensor] = []

        def edit(resid: Tensor, hook: Any, edited: bool = edited) -> Tensor:
            nonlocal push
            if not edited:
                drawn = torch.randn(resid.shape[-1], generator=generator).to(resid)
                push = 0.3 * drawn * resid[:, shared:].float().square().mean().sqrt().to(resid)
                return resid
            later = torch.arange(resid.shape[1], device=resid.device) >= shared
            return torch.where(later[:, None], resid + push, resid)

        hooks = [(entering, edit), (last, lambda resid, hook, kept=kept: kept.append(resid))]
        with wrapped.hooks(fwd_hooks=hooks):
            wrapped(batch.tokens, attention_mask=batch.mask.long(), use_cache=False)
        found[edited] = kept[0]

    def enter(entry: int, resid: Tensor) -> Tensor:
        return torch.cat([resid, resid + push], 1) if entry == middle else resid

    begun = blocks.begin(batch, shared, 2)
    rows = begun.climb(begun.entering, enter=enter).unflatten(1, (2, 2))
    for edited, whole in found.items():
        own = rows[:, int(edited)].flatten(0, 1)
        wanted = whole[:, shared:]
        real = batch.mask[:, shared:]
        if not close(own[real], wanted[real]):
            gap = float((own[real] - wanted[real]).abs().max())
            return f"a replay differs from its own forward pass by {gap:.3g}"
    return ""


def _what_blocks_give(wrapped: Any) -> list[int]:
    """How many things each block gives: 0 where it gives the stream alone, and no tuple.

    Raises:
        ReplayError: If the model does not run all of its blocks.
    """
    blocks, found = list(wrapped.blocks), {}

    def note(layer: int) -> Callable[..., None]:
        def hook_fn(module: Any, args: Any, out: Any) -> None:
            found[layer] = len(out) if isinstance(out, tuple) else 0

        return hook_fn

    handles = [block.register_forward_hook(note(k)) for k, block in enumerate(blocks)]
    try:
        tokens = torch.zeros(1, 2, dtype=torch.long, device=_device(wrapped))
        wrapped(tokens, attention_mask=torch.ones_like(tokens), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    if len(found) != len(blocks):
        raise ReplayError(f"{len(found)} of its {len(blocks)} blocks are run")
    return [found[layer] for layer in range(len(blocks))]


@dataclass(frozen=True, eq=False)
class _Call:
    """What a block was given beside the stream."""

    first: bool
    """Whether the stream was the first argument; else it was `hidden_states`."""
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True, eq=False)
class _PerText:
    """A tensor of which some dimension has so many places for each text."""

    tensor: Tensor
    dim: int

    def for_rows(self, prompts: int, variants: int, rows: int) -> Tensor:
        """The same for `rows` rows of each prompt, which repeat its variants in turn."""
        if rows == variants:
            return self.tensor
        dim, shape = self.dim, self.tensor.shape
        each = shape[dim] // (prompts * variants)
        apart = self.tensor.unflatten(dim, (prompts, 1, variants, each))
        sizes = (*shape[:dim], prompts, rows // variants, variants, each, *shape[dim + 1 :])
        return apart.expand(sizes).flatten(dim, dim + 3)


def _counted(one: _Call, other: _Call) -> _Call:
    """The first call, with the tensors that grow with the number of texts marked."""

    def mark(value: Any, longer: Any) -> Any:
        if isinstance(value, dict):
            return {name: mark(inner, longer[name]) for name, inner in value.items()}
        if isinstance(value, list | tuple):
            return tuple(mark(a, b) for a, b in zip(value, longer, strict=True))
        if not isinstance(value, Tensor) or value.shape == longer.shape:
            return value
        sizes = zip(value.shape, longer.shape, strict=True)
        grown = [dim for dim, (a, b) in enumerate(sizes) if a != b]
        if len(grown) != 1:
            raise ReplayError(f"a block is given a tensor of shape {tuple(value.shape)} for texts")
        return _PerText(value, grown[0])

    return _Call(one.first, mark(one.args, other.args), mark(one.kwargs, other.kwargs))


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """What is inside dictionaries and tuples, changed."""
    if isinstance(value, dict):
        return {name: _mapped(inner, change) for name, inner in value.items()}
    if isinstance(value, tuple):
        return tuple(_mapped(inner, change) for inner in value)
    return change(value)


def _laid(value: Any, kept: Any, past: Any, shape: tuple[int, int, int]) -> Any:
    """An argument for rows: the cache exchanged, and tensors with places for each text repeated."""
    if kept is not None and value is kept:
        return past
    return value.for_rows(*shape) if isinstance(value, _PerText) else value


def _of_block(past: Any, layer: int, rows: int) -> Any:
    """A cache in which one layer has the keys and values of each prompt for all of its rows.

    It is a copy: what a block adds to it is gone afterwards.
    """
    own = copy.copy(past.layers[layer])
    for name in ("keys", "values"):
        of_prompt = getattr(own, name)
        of_rows = of_prompt[:, None].expand(-1, rows, *of_prompt.shape[1:]).flatten(0, 1)
        setattr(own, name, of_rows)
    cache = copy.copy(past)
    cache.layers = [*past.layers[:layer], own, *past.layers[layer + 1 :]]
    return cache


def _device(wrapped: Any) -> torch.device:
    return next(wrapped.parameters()).device
