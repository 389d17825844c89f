"""The annotations of steerlens are checked while its tests run."""

from __future__ import annotations

import pytest
from jaxtyping import TypeCheckError

from steerlens.models.kernel import Columns
from steerlens.sites import as_sites
from tests import annotations


def test_a_wrong_type_is_found_in_the_first_calls_of_a_test():
    @annotations.first_calls(typechecker=annotations.check)
    def same(x: float) -> float:
        return x

    assert [same(1) for _ in range(annotations.FIRST)] == [1] * annotations.FIRST
    assert same("text") == "text", "a later call is not checked"  # type: ignore[arg-type]
    annotations.begin_test()
    with pytest.raises(TypeCheckError):
        same("text")  # type: ignore[arg-type]


def test_functions_of_steerlens_are_checked():
    with pytest.raises(TypeCheckError):
        as_sites([0], n_layers="two")  # type: ignore[arg-type]
    with pytest.raises(TypeCheckError):
        Columns.of("no batch")  # type: ignore[arg-type]
