"""Device-independence without a GPU: everything runs where the CPU's tensors are another device's."""

from __future__ import annotations

import pytest
import torch

from steerlens.measures.divergence import divergence
from steerlens.measures.sweep import sweep
from steerlens.models.model import Model
from steerlens.sites import Positions
from steerlens.testing import tiny_model
from tests.device_checks import CHECKS, ONE_TOKEN, TEXTS, adds, require_bit_identical
from tests.other_device import DEVICE, MixedDevices, OtherDevice, moved

pytestmark = pytest.mark.usefixtures("unchecked")  # the checks read numbers of their own

CASES = [
    *(("gemma2", name) for name in CHECKS if name != "maps"),  # a map consists of the others
    ("gpt2", "readings"),
]
"""RMSNorm, rotary positions and soft caps; LayerNorm and learned positions."""
SMALL = {"n_layers": 3, "d_model": 16}


@pytest.fixture
def other():
    with OtherDevice() as device:
        yield device


def there(family: str) -> Model:
    """The model on the other device, which is there inside `other` only."""
    return Model(moved(tiny_model(family, **SMALL)))


def test_the_other_device_refuses_and_counts(other):
    here, there = torch.ones(3), torch.ones(3, device=DEVICE)
    for mixed in (lambda: here + there, lambda: here[there.long()], lambda: there @ here):
        with pytest.raises(MixedDevices):
            mixed()
    assert float((there + torch.tensor(2.0) + 1).sum()) == 12
    assert other.waits == {"number read": 1}
    here.to(DEVICE, non_blocking=True)
    assert other.waits.total() == 1
    assert torch.tensor([1.0, 2.0], device=DEVICE).tolist() == [1.0, 2.0]
    assert other.waits == {"number read": 1, "copied to the device": 1, "copied to the CPU": 1}
    here[:2] = there[:2] * 2
    assert here.tolist() == [2, 2, 1]


@pytest.mark.parametrize(("family", "name"), CASES)
def test_it_computes_the_same(other, family, name):
    model, expected = there(family), CHECKS[name](Model(tiny_model(family, **SMALL)))
    assert model.device == DEVICE
    found = CHECKS[name](model)
    assert found.keys() == expected.keys()
    for key, value in found.items():
        assert value.device.type == "cpu", key
        torch.testing.assert_close(value, expected[key], atol=2e-5, rtol=2e-5, msg=key)


def test_attaching_at_0_and_removing_leave_the_same_bits(other):
    require_bit_identical(there("gemma2"))


def test_more_cells_wait_no_more_often(other):
    """A unit of examples waits a few times, however many interventions and multipliers it has."""
    model = there("gemma2")
    divergence(model, TEXTS, adds(model, Positions.all())[:1], (0.0, 1.0), progress=False)

    def waits(measure, layers: int, multipliers: tuple[float, ...]) -> dict[str, int]:
        other.waits.clear()
        measure(adds(model, positions)[:layers], multipliers)
        return dict(other.waits)

    for positions in (Positions.from_prompt_end(), Positions.all()):
        for measure in (
            lambda edits, ms: sweep(model, ONE_TOKEN, edits, ms, progress=False),
            lambda edits, ms: divergence(model, TEXTS, edits, ms, progress=False),
        ):
            few = waits(measure, 1, (0.0, 1.0))
            many = waits(measure, 3, (-2.0, -1.0, 0.0, 1.0, 2.0))
            assert few == many, (positions, measure)
