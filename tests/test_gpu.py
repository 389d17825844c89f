"""Everything on a GPU as on the CPU: within rounding in float32, within precision in bfloat16."""

from __future__ import annotations

import copy
from weakref import WeakKeyDictionary

import pytest
import torch

from steerlens.measures.divergence import divergence
from steerlens.measures.reading import diffmean
from steerlens.measures.sweep import sweep
from steerlens.models.checkpoints import weight_hashes
from steerlens.models.memory import free_bytes
from steerlens.models.model import Model
from steerlens.sites import Positions
from steerlens.testing import tiny_model
from tests.device_checks import (
    CHECKS,
    MULTIPLIERS,
    ONE_TOKEN,
    TEXTS,
    TWO_TOKENS,
    adds,
    require_bit_identical,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

FAMILIES = ("gpt2", "neox", "llama", "gemma2")
"""LayerNorm and RMSNorm, learned and rotary positions, grouped queries, soft caps."""
FLOAT32 = 1e-4
"""Absolute, and as a share of the value. Without TF32; sums in another order, through three blocks."""
BFLOAT16 = 0.15
"""Nats of log-odds: eight bits of precision through three blocks, logits of a few nats."""


@pytest.fixture(scope="module", autouse=True)
def no_tf32():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request):
    """The same model on the CPU and on the GPU."""
    return both(request.param)


def both(family: str, dtype: torch.dtype = torch.float32) -> tuple[Model, Model]:
    hooked = tiny_model(family)
    there = copy.deepcopy(hooked).to(dtype).to("cuda")
    there.cfg.device, there.cfg.dtype = "cuda", dtype
    return Model(hooked), Model(there)


@pytest.mark.parametrize("name", CHECKS)
def test_it_computes_the_same(pair, name):
    expected, found = (CHECKS[name](model) for model in pair)
    assert found.keys() == expected.keys()
    for key, value in found.items():
        assert value.device.type == "cpu", key
        gap = (value.double() - expected[key].double()).abs().nan_to_num()
        allowed = FLOAT32 * (1 + expected[key].double().abs().nan_to_num())
        assert torch.equal(value.isnan(), expected[key].isnan()), key
        assert bool((gap <= allowed).all()), (key, float(gap.max()))


def test_attaching_at_0_and_removing_leave_the_same_bits(pair):
    require_bit_identical(pair[1])


def test_the_content_hash_is_that_of_the_cpu(pair, monkeypatch):
    assert pair[0].fingerprint == pair[1].fingerprint
    monkeypatch.setattr(weight_hashes, "PIECE", 1000)  # many pieces, the last one short
    monkeypatch.setattr(weight_hashes, "_known", WeakKeyDictionary())
    assert pair[0].fingerprint == pair[1].fingerprint


def test_the_hashes_of_weights_that_did_not_change_are_kept(monkeypatch):
    here, there = both("llama")
    before, read, own = there.fingerprint, [], weight_hashes.content_hash

    def content_hash(raw):
        read.append(len(raw))
        return own(raw)

    monkeypatch.setattr(weight_hashes, "content_hash", content_hash)
    assert there.fingerprint == before and not read
    for model in (here, there):
        model.wrapped.blocks[1].mlp.W_out.data[0, 0] += 1  # which no version counter sees
    after = there.fingerprint
    assert len(read) == 1
    assert after == here.fingerprint != before


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16(family):
    here, there = both(family, torch.bfloat16)
    require_bit_identical(there)
    for positions in (Positions.from_prompt_end(), Positions.all()):
        for pairs in (ONE_TOKEN, TWO_TOKENS):
            odds = [
                sweep(m, pairs, adds(here, positions), MULTIPLIERS, progress=False).log_odds
                for m in (here, there)
            ]
            assert odds[0].std() > 2 * BFLOAT16  # it would be seen
            assert (odds[0] - odds[1]).abs().mean() < BFLOAT16 / 3
            assert (odds[0] - odds[1]).abs().max() < BFLOAT16
    kl = [
        divergence(m, TEXTS, adds(here, Positions.all()), MULTIPLIERS, progress=False)
        for m in (here, there)
    ]
    torch.testing.assert_close(kl[1], kl[0], atol=0.02, rtol=0.1)
    for one, other in zip(
        diffmean(here, TWO_TOKENS, progress=False), diffmean(there, TWO_TOKENS, progress=False),
        strict=True,
    ):  # fmt: skip
        assert float(torch.cosine_similarity(one.vector, other.vector, dim=0)) > 0.999


def test_what_is_held_for_reuse_is_free():
    device = torch.device("cuda")
    torch.cuda.empty_cache()
    before = free_bytes(device)
    held = torch.empty(2**30, dtype=torch.uint8, device=device)
    assert before - free_bytes(device) > 0.9 * 2**30
    del held
    assert before - free_bytes(device) < 0.1 * 2**30
