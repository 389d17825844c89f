"""Numbers of NumPy and torch become Python's where they enter; what is not a number is refused."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from steerlens.arguments import ArgumentError, as_bool, as_float, as_floats, as_int
from steerlens.units import require_multipliers, require_unit

WHOLE = [3, np.int64(3), np.uint8(3), np.array(3), torch.tensor(3), torch.tensor([3])]
REAL = [0.5, np.float32(0.5), np.float64(0.5), np.array(0.5), torch.tensor(0.5), Fraction(1, 2)]


@pytest.mark.parametrize("value", WHOLE, ids=repr)
def test_whole_numbers_of_every_library_become_int(value):
    made = as_int("seed", value)
    assert (type(made), made) == (int, 3)
    assert as_float("budget", value) == 3.0


@pytest.mark.parametrize("value", REAL, ids=repr)
def test_numbers_of_every_library_become_float(value):
    made = as_float("budget", value)
    assert (type(made), made) == (float, 0.5)


@pytest.mark.parametrize(
    "value",
    [8.0, "3", b"3", None, True, np.True_, torch.tensor(True), torch.tensor(2.0), np.arange(2),
     torch.arange(2), [3], math.nan, 1j, int],
    ids=repr,
)  # fmt: skip
def test_what_is_not_a_whole_number_is_refused_in_one_sentence(value):
    with pytest.raises(ArgumentError, match="^seed=.*(whole|one) number") as error:
        as_int("seed", value)
    assert isinstance(error.value, ValueError) and isinstance(error.value, TypeError)


def test_a_whole_float_gets_its_own_advice():
    with pytest.raises(ArgumentError, match=r"layer=8.0 is not a whole number. Write 8\."):
        as_int("layer", 8.0)
    with pytest.raises(ArgumentError, match="draws=0 is too small: the smallest allowed"):
        as_int("draws", 0, least=1)


@pytest.mark.parametrize(
    "value", ["0.5", None, False, np.arange(2.0), torch.ones(2), 10**400, 1j, [0.5]], ids=str
)
def test_what_is_not_a_number_is_refused(value):
    with pytest.raises(ArgumentError, match="^budget=.*number"):
        as_float("budget", value)


@pytest.mark.parametrize("value", [math.nan, -math.inf, np.float32("nan"), torch.tensor(math.inf)])
def test_only_finite_numbers_are_taken_unless_others_are_asked_for(value):
    with pytest.raises(ArgumentError, match="is not finite"):
        as_float("budget", value)
    assert not math.isfinite(as_float("budget", value, finite=False))


def test_bools_are_not_numbers_and_numbers_are_not_bools():
    assert as_bool("special", np.True_) is True
    assert as_bool("special", torch.tensor(False)) is False
    with pytest.raises(ArgumentError, match="special=1 is not a bool"):
        as_bool("special", 1)


@pytest.mark.parametrize(
    "values",
    [(-1, 0, 1), [-1.0, 0.0, 1.0], range(-1, 2), np.linspace(-1, 1, 3), torch.linspace(-1, 1, 3),
     np.float32([-1, 0, 1]), (torch.tensor(-1.0), np.int64(0), 1)],
    ids=str,
)  # fmt: skip
def test_multipliers_of_every_kind_become_floats(values):
    made = require_multipliers(values)
    assert made == (-1.0, 0.0, 1.0)
    assert {type(m) for m in made} == {float}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("0.5", "not a sequence of numbers"),
        (np.array(0.0), "is one number, and several"),
        (torch.tensor(0.0), "is one number, and several"),
        ((0.0, "a"), r"multipliers\[1\]='a' is not a number"),
        ((0.0, math.nan), "not all finite numbers"),
        ((0.5, 1.0), "has no 0.0"),
        ((0.0, 1.0, 1), "holds a strength twice"),
        ((0.0, -1.0), "no strength above 0.0"),
    ],
)
def test_multipliers_that_cannot_be_swept_are_refused(values, message):
    with pytest.raises(ArgumentError, match=message):
        as_floats("multipliers", values)
        require_multipliers(values)


def test_a_unit_is_one_of_a_closed_list():
    require_unit("projection_std")
    for unit in ("pairs", None, torch.ones(2).sum()):
        with pytest.raises(ArgumentError, match="is not a unit of strength. Use one of resid_norm"):
            require_unit(unit)
