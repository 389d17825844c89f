"""Sums that say which weights of a model changed, by the code that a GPU runs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steerlens.models.checkpoints import weight_hashes
from steerlens.models.checkpoints.weight_hashes import content_hash, kept_hashes, word_sum
from steerlens.testing import tiny_model


@pytest.fixture(autouse=True)
def short_pieces(monkeypatch):
    monkeypatch.setattr(weight_hashes, "WORDS", 7)


def as_numbers(weight: torch.Tensor) -> int:
    """The sum by whole numbers of Python."""
    raw = weight.contiguous().reshape(-1).view(torch.uint8)
    words = (raw.view(torch.int32) if len(raw) % 4 == 0 else raw).tolist()

    def signed(n: int) -> int:
        n %= 2**64
        return n - 2**64 if n >= 2**63 else n

    found = 0
    for start in range(0, len(words), 7):
        part = 0
        for place, word in enumerate(words[start : start + 7]):
            mixed = signed(place * 6364136223846793005 + 1442695040888963407)
            part += word * (signed((mixed ^ (mixed >> 29)) * 2862933555777941757) | 1)
        found = signed(found * 3935559000370003845 + part)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (4, 9), (2, 3, 7)])
def test_the_sum_is_that_of_whole_numbers(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert int(word_sum(weight)) == as_numbers(weight)
    turned = weight.mT if weight.dim() > 1 else weight
    assert int(word_sum(turned)) == as_numbers(turned)


def test_weights_that_begin_within_a_word_are_summed() -> None:
    whole = torch.randn(9, generator=torch.Generator().manual_seed(0)).bfloat16()
    first = int(word_sum(whole[1:]))
    whole[4] += 1
    assert int(word_sum(whole[1:])) != first


@given(st.integers(0, 49), st.integers(0, 31))
@settings(max_examples=60, deadline=None)
def test_one_bit_changes_the_sum(place: int, bit: int) -> None:
    weight = torch.linspace(-1, 1, 50)
    other = weight.clone()
    other.view(torch.int32)[place] ^= -(2**31) if bit == 31 else 2**bit
    assert int(word_sum(other)) != int(word_sum(weight))


@given(st.permutations(range(24)))
@settings(max_examples=60, deadline=None)
def test_another_order_changes_the_sum(order: list[int]) -> None:
    weight = torch.linspace(-1, 1, 24)
    same = order == sorted(order)
    assert (int(word_sum(weight[order])) == int(word_sum(weight))) == same


def test_only_what_changed_is_hashed_again() -> None:
    model, made = tiny_model("llama"), []

    def make(name: str, weight: torch.Tensor) -> bytes:
        made.append(name)
        return content_hash(weight.contiguous().reshape(-1).view(torch.uint8))

    def hashes() -> list[bytes]:
        weights = {name: one.detach() for name, one in sorted(model.named_parameters())}
        return kept_hashes(model, weights, make)

    first = hashes()
    assert len(made) == len(first) == len(set(made))
    made.clear()
    assert hashes() == first and not made
    changed = "blocks.1.mlp.W_out"
    kept = model.blocks[1].mlp.W_out.data.clone()
    model.blocks[1].mlp.W_out.data[0, 0] += 1  # which no version counter sees
    second = hashes()
    assert made == [changed]
    assert sum(a != b for a, b in zip(first, second, strict=True)) == 1
    model.blocks[1].mlp.W_out.data.copy_(kept)
    assert hashes() == first
