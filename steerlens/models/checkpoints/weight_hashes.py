"""Hashes of a model's parameters. On a GPU they are kept, and made anew where a parameter changed.

Every result states the hash of the weights that it was measured on, and copying those of a large
model from a GPU takes seconds. So the GPU itself reads all of them at each call and sums them up,
which takes a tenth of a second; a parameter with the sum of the call before keeps its hash.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
import xxhash
from jaxtyping import Int
from torch import Tensor

PIECE = 2**26
"""Bytes of a GPU's weights that are copied and hashed at a time."""
WORDS = 2**22
"""Four-byte words that are summed at a time."""

_Mark = tuple[str, int]
_known: WeakKeyDictionary[Any, dict[str, tuple[_Mark, bytes]]] = WeakKeyDictionary()


def weight_hashes(model: Any) -> list[bytes]:
    """Name, dtype, shape and the hash of all bytes of each parameter, in the order of their names."""
    weights = {name: each.detach() for name, each in sorted(model.named_parameters())}
    if not weights or not all(weight.is_cuda for weight in weights.values()):
        return [_hash(name, weight) for name, weight in weights.items()]
    return kept_hashes(model, weights, _hash)


def kept_hashes(
    model: Any, weights: dict[str, Tensor], make: Callable[[str, Tensor], bytes]
) -> list[bytes]:
    """The hashes of the call before, for parameters that did not change; others are made.

    A parameter whose bytes changed keeps its sum by a chance of about 2**-64.
    """
    before, now = _known.get(model, {}), {}
    each = [word_sum(weight) for weight in weights.values()]
    sums = torch.stack([one.to(each[0].device) for one in each]).tolist()  # one wait for all
    for (name, weight), found in zip(weights.items(), sums, strict=True):
        mark = f"{weight.dtype} {tuple(weight.shape)}", found
        known = before.get(name)
        now[name] = known if known and known[0] == mark else (mark, make(name, weight))
    _known[model] = now
    return [made for _, made in now.values()]


def word_sum(weight: Tensor) -> Int[Tensor, ""]:
    """A sum over a tensor's words, each mixed with its place, modulo 2**64.

    A change of one word always changes it, and of several but for a chance of about 2**-64: every
    word is mixed by one-to-one steps that are not linear, as hash functions do.
    """
    raw = _bytes(weight)
    whole = len(raw) % 4 == 0 and raw.storage_offset() % 4 == 0
    words = raw.view(torch.int32) if whole else raw
    factors = _factors(WORDS, raw.device)
    found = torch.zeros((), dtype=torch.int64, device=raw.device)
    for piece in words.split(WORDS):
        mixed = piece * factors[: len(piece)]
        mixed = (mixed ^ (mixed >> 32 & 0xFFFFFFFF)) * 2862933555777941757
        found = found * 3935559000370003845 + (mixed ^ (mixed >> 32 & 0xFFFFFFFF)).sum()
    return found


@lru_cache(maxsize=4)
def _factors(count: int, device: torch.device) -> Int[Tensor, " place"]:
    """Odd numbers that look random, one for each place: steps of Knuth's generator."""
    places = torch.arange(count, device=device)
    mixed = places * 6364136223846793005 + 1442695040888963407
    return (mixed ^ (mixed >> 29)) * 2862933555777941757 | 1


def _hash(name: str, weight: Tensor) -> bytes:
    return f"{name} {weight.dtype} {tuple(weight.shape)} ".encode() + content_hash(_bytes(weight))


def _bytes(weight: Tensor) -> Tensor:
    return weight.contiguous().reshape(-1).view(torch.uint8)


def content_hash(raw: Tensor) -> bytes:
    """xxh3 of bytes: all of them at memory speed; nobody forges weights against a cache key.

    Those of a GPU come in pieces through pinned memory, each while the one before it is hashed.
    """
    if not raw.is_cuda:
        return xxhash.xxh3_128_digest(raw.cpu().numpy().data)
    found, pieces = xxhash.xxh3_128(), raw.split(PIECE)
    size = min(PIECE, len(raw))
    held = [torch.empty(size, dtype=torch.uint8, pin_memory=True) for _ in range(2)]
    ready = [torch.cuda.Event() for _ in held]
    with torch.cuda.device(raw.device):
        for k in range(len(pieces) + 1):
            if k < len(pieces):
                held[k % 2][: len(pieces[k])].copy_(pieces[k], non_blocking=True)
                ready[k % 2].record()
            if k > 0:
                ready[(k - 1) % 2].synchronize()
                found.update(held[(k - 1) % 2][: len(pieces[k - 1])].numpy().data)
    return found.digest()
