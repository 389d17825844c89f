"""Results save, load and tabulate themselves from the annotations of their fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.results import Cell, Column, Result, ResultError
from steerlens.sites import Site


@dataclass(frozen=True, eq=False)
class Inner:
    cell: Cell
    gains: Float[Tensor, " example"]


@dataclass(frozen=True, eq=False, repr=False)
class Made(Result):
    kind: ClassVar[str] = "made"

    rows: tuple[str, ...]
    sites: tuple[Site | None, ...]
    multipliers: Float[Tensor, " multiplier"]
    propensities: Float[Tensor, "row multiplier example"]
    by_set: Mapping[str, Float[Tensor, "row _example"]]
    texts: tuple[tuple[str, ...], ...]
    counts: Int[Tensor, " row"] | None = None
    inner: Inner | None = None
    budget: float = 0.1
    made_by: dict[str, Any] = field(default_factory=dict)

    def columns(self) -> list[Column]:
        mean = self.propensities.mean(-1)
        return [
            Column("gain", ("row", "multiplier"), mean),
            Column("first", ("row",), mean[:, 0]),
        ]


@pytest.fixture
def made() -> Made:
    generator = torch.Generator().manual_seed(0)
    return Made(
        rows=("L3 resid_post", "lora"),
        sites=(Site(3), None),
        multipliers=torch.tensor([0.0, 0.1]),
        propensities=torch.randn(2, 2, 3, generator=generator),
        by_set={"hotels": torch.ones(2, 4), "books": torch.zeros(2, 5)},
        texts=(("a", "é"), ("", "b")),
        inner=Inner(Cell("lora", 0.5, None), torch.tensor([1.0, float("nan")])),
        made_by={"model": "tiny", "lengths": [1.0, 2.0]},
    )


def test_what_is_saved_is_loaded_again(made, tmp_path):
    loaded = Made.load(made.save(tmp_path))
    assert (loaded.rows, loaded.sites, loaded.texts) == (made.rows, made.sites, made.texts)
    assert (loaded.budget, loaded.made_by) == (made.budget, made.made_by)
    assert loaded.counts is None and loaded.inner is not None
    assert loaded.inner.cell == Cell("lora", 0.5, None)
    assert torch.equal(loaded.propensities, made.propensities)
    assert torch.equal(loaded.by_set["books"], made.by_set["books"])
    assert torch.equal(loaded.inner.gains.isnan(), torch.tensor([False, True]))


def test_what_is_named_keeps_its_order(made, tmp_path):
    """An array may have an axis over the same names."""
    turned = Made(**{**vars(made), "by_set": dict(reversed(made.by_set.items()))})
    for one in (made, turned):
        assert list(Made.load(one.save(tmp_path)).by_set) == list(one.by_set)


def test_every_changed_byte_is_noticed(made, tmp_path):
    made.save(tmp_path)
    for path in (tmp_path / "made.json", tmp_path / "made.safetensors"):
        whole = path.read_bytes()
        for place in range(0, len(whole), 7):
            changed = bytearray(whole)
            changed[place] ^= 0x01
            path.write_bytes(bytes(changed))
            try:
                loaded = Made.load(tmp_path)
            except ResultError:
                continue
            # White space between the parts of the JSON file may change.
            assert torch.equal(loaded.propensities, made.propensities)
            assert (loaded.budget, loaded.made_by) == (made.budget, made.made_by)
        path.write_bytes(whole)
    assert Made.load(tmp_path).rows == made.rows


def test_two_files_of_different_results_are_refused(made, tmp_path):
    made.save(tmp_path)
    other = Made(**{**vars(made), "propensities": made.propensities + 1})
    other.save(tmp_path / "other")
    (tmp_path / "other" / "made.json").replace(tmp_path / "made.json")
    with pytest.raises(ResultError, match="different results"):
        Made.load(tmp_path)


def test_the_table_names_rows_sites_and_multipliers(made):
    frame = made.to_frame()
    assert list(frame.columns) == ["row", "layer", "stream", "multiplier", "gain", "first"]
    assert len(frame) == 4 and frame["multiplier"].tolist() == [0.0, 0.1, 0.0, 0.1]
    assert frame["gain"].tolist() == pytest.approx(made.propensities.mean(-1).flatten().tolist())
    assert frame["layer"][0] == 3 and frame["layer"].isna()[2]


def test_the_labelled_arrays_hold_every_array(made):
    dataset = made.to_xarray()
    assert dataset["propensities"].dims == ("row", "multiplier", "example")
    assert dataset["by_set.hotels"].shape == (2, 4)
    assert float(dataset["gain"].sel(row="lora", multiplier=0.1)) == pytest.approx(
        float(made.propensities[1, 1].mean())
    )
