"""Sums that say which weights of a model changed, by the code that a GPU runs."""

from __future__ import annotations

from itertools import combinations

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


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("shape", [(0,), (), (1,), (3, 5), (4, 9), (2, 3, 7)])
def test_the_sum_is_that_of_the_bytes_in_their_order(
    dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    weight = drawn(*shape).to(dtype)
    assert int(word_sum(weight)) == int(word_sum(weight.clone()))
    if weight.dim() > 1:
        turned = weight.mT
        assert int(word_sum(turned)) == int(word_sum(turned.contiguous())) != int(word_sum(weight))


def test_weights_that_begin_within_a_word_are_summed() -> None:
    whole = drawn(9).bfloat16()
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


@pytest.mark.parametrize("change", [lambda x: -x, lambda x: 2 * x, lambda x: x / 2])
def test_equal_changes_of_two_weights_do_not_cancel(monkeypatch, change) -> None:
    """In a linear sum a flipped sign counts 2**31 times its factor, of which 33 bits remain. The
    factors of the first pair of places are equal there."""
    monkeypatch.setattr(weight_hashes, "WORDS", 2**22)
    weight = torch.ones(2**22)
    before = int(word_sum(weight))
    for pair in [(2062922, 3212484), *combinations((0, 1, 2, 11543, 3363736), 2)]:
        one, other = weight.clone(), weight.clone()
        for place in pair:
            one[place] = change(one[place])
        other[pair[0]], other[pair[1]] = 2.0, 0.5
        assert int(word_sum(one)) != before and int(word_sum(other)) != before


def test_only_what_changed_is_hashed_again() -> None:
    model, other, made = tiny_model("llama"), tiny_model("llama", seed=1), []

    def make(name: str, weight: torch.Tensor) -> bytes:
        made.append(name)
        return content_hash(weight.contiguous().reshape(-1).view(torch.uint8))

    def hashes(of) -> list[bytes]:
        weights = {name: one.detach() for name, one in sorted(of.named_parameters())}
        return kept_hashes(of, weights, make)

    first = hashes(model)
    assert len(made) == len(first) == len(set(made))
    made.clear()
    assert hashes(model) == first and not made
    assert hashes(other) != first and len(made) == len(first)
    assert hashes(model) == first
    made.clear()
    changed = "blocks.1.mlp.W_out"
    kept = model.blocks[1].mlp.W_out.data.clone()
    model.blocks[1].mlp.W_out.data[0, 0] += 1  # which no version counter sees
    second = hashes(model)
    assert made == [changed]
    assert sum(a != b for a, b in zip(first, second, strict=True)) == 1
    model.blocks[1].mlp.W_out.data = kept.reshape(kept.shape[::-1])  # the same bytes
    hashes(model)
    assert made == [changed] * 2
    model.blocks[1].mlp.W_out.data = kept
    assert hashes(model) == first
