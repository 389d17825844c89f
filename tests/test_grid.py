"""Rows and multipliers of a result are found by what a user calls them."""

import pytest
import torch

from steerlens.results.grid import find_multiplier, find_row, layers_of
from steerlens.sites import Site

SITES = (Site(2), Site(4))
NAMES = tuple(map(str, SITES))


def test_layers_are_those_of_sites_of_one_stream_that_name_the_rows():
    assert layers_of(NAMES, SITES) == (2, 4)
    assert layers_of(("a", "b"), SITES) is None
    assert layers_of((*NAMES, "lora"), (*SITES, None)) is None
    mixed = (Site(2), Site(2, "resid_pre"))
    assert layers_of(tuple(map(str, mixed)), mixed) is None


def test_a_row_has_a_name_a_site_and_a_layer():
    for which in ("L4 resid_post", Site(4), 4):
        assert find_row(NAMES, SITES, which) == 1
    assert find_row(("add", "lora"), (Site(4), None), Site(4)) == 0


@pytest.mark.parametrize("which", ["L9 resid_post", Site(9), 0, "lora"])
def test_a_row_that_is_not_there_is_refused(which):
    with pytest.raises(ValueError, match=r"not one of the rows \(L2 resid_post, L4 resid_post\)"):
        find_row(NAMES, SITES, which)


def test_a_site_of_two_rows_names_neither():
    with pytest.raises(ValueError, match="L4 resid_post is the site of add, clamp"):
        find_row(("add", "clamp"), (Site(4), Site(4)), Site(4))
    with pytest.raises(ValueError, match="Give one of them by its name"):
        find_row(("add", "clamp"), (Site(4), Site(4)), 4)


def test_a_multiplier_is_found_as_it_was_given():
    swept = torch.tensor([-0.1, 0.0, 0.3])
    assert [find_multiplier(swept, m) for m in (-0.1, 0, 0.3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="Multiplier 1 was not measured. Use one of -0.1, 0, 0.3"):
        find_multiplier(swept, 1)
