"""Results save, load and tabulate themselves from the annotations of their fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.results import Cell, Column, DamagedResult, Result, ResultError
from steerlens.results.frames import to_frame
from steerlens.sites import Site
from steerlens.store.documents import read_document, write_document
from steerlens.store.files import StorageError


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
        for place in range(0, len(whole)):
            changed = bytearray(whole)
            changed[place] ^= 1 << place % 8
            path.write_bytes(bytes(changed))
            try:
                loaded = Made.load(tmp_path)
            except DamagedResult:
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


def test_a_missing_result_is_named(made, tmp_path):
    with pytest.raises(ResultError, match=r"no finished made \(.*made\.json is missing\)") as error:
        Made.load(tmp_path)
    assert not isinstance(error.value, DamagedResult)
    made.save(tmp_path)
    (tmp_path / "made.safetensors").unlink()
    with pytest.raises(ResultError, match=r"made\.safetensors is missing"):
        Made.load(tmp_path)


def test_a_path_that_is_no_folder_of_files_is_explained(made, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(StorageError, match="file is a file, so there is nothing below it"):
        Made.load(file)
    with pytest.raises(StorageError, match="file is a file, so it cannot be a folder"):
        made.save(file)
    (tmp_path / "made.json").mkdir()
    with pytest.raises(StorageError, match=r"made\.json cannot be read: it is a folder"):
        Made.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"made_by": {"model": object()}}, r"made_by\.model is <object.*cannot be stored"),
        ({"made_by": {3: "x"}}, r"made_by has the key 3"),
        ({"made_by": {"x": torch.ones(2)}}, r"made_by\.x is a tensor.*value\.tolist\(\)"),
        ({"budget": "much"}, r"budget is 'much' instead of a float"),
        ({"rows": ("a", 3)}, r"rows\.1 is 3 instead of a str"),
        ({"propensities": torch.ones(2, 3)}, r"propensities is float32 of shape \(2, 3\)"),
        ({"counts": torch.ones(2)}, r"counts is float32 of shape \(2,\) instead of Int"),
    ],
)  # fmt: skip
def test_what_could_not_be_loaded_is_not_saved(made, tmp_path, changes, message):
    wrong = object.__new__(Made)  # past the checks of types that run with the tests
    wrong.__dict__.update({**vars(made), **changes})
    with pytest.raises(TypeError, match=message):
        wrong.save(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_numbers_of_numpy_and_paths_are_stored_as_plain_values(made, tmp_path):
    made_by = {"budget": np.float32(0.5), "n": np.int64(3), "on": np.bool_(True), "at": Path("a/b")}
    loaded = Made.load(replace(made, made_by=made_by).save(tmp_path))
    assert loaded.made_by == {"budget": 0.5, "n": 3, "on": True, "at": "a/b"}


def test_a_result_without_a_newer_field_is_read(made, tmp_path):
    made.save(tmp_path)
    path = tmp_path / "made.json"
    described = read_document(path)
    del described["fields"]["budget"]
    write_document(path, described)
    assert Made.load(tmp_path).budget == 0.1
    del described["fields"]["rows"]
    write_document(path, described)
    with pytest.raises(DamagedResult, match="rows"):
        Made.load(tmp_path)
    described["fields"] |= {"rows": ["a", "b"], "later": 1}
    write_document(path, described)
    with pytest.raises(DamagedResult, match="later is not known to this version"):
        Made.load(tmp_path)


def test_an_annotation_that_cannot_be_read_is_explained():
    def other():
        class Local:
            pass

        @dataclass(frozen=True, eq=False, repr=False)
        class Other(Result):
            kind: ClassVar[str] = "other"
            local: "Local"  # noqa: F821

        return Other(Local())

    with pytest.raises(
        TypeError, match="annotation of Other cannot be read: .*Import what it names"
    ):
        other().to_frame()


def test_without_columns_of_its_own_the_table_holds_the_widest_array_and_what_fits_it(made):
    @dataclass(frozen=True, eq=False, repr=False)
    class Plain(Made):
        kind: ClassVar[str] = "made"

        def columns(self):
            return Result.columns(self)

    plain = Plain(**{name: value for name, value in vars(made).items()})
    frame = plain.to_frame()
    assert len(frame) == 12 and "propensities" in frame and "by_set.hotels" not in frame
    assert plain.summary() == "Plain (row 2, multiplier 2, example 3)"


def test_a_large_table_has_every_value_in_its_place():
    names = ("row", "multiplier", "example")
    values = torch.arange(40 * 21 * 1000.0).reshape(40, 21, 1000)
    columns = [Column("x", names, values), Column("y", ("example", "row"), values[:, 0].T)]
    frame = to_frame(columns, lambda axis, size: {axis: [f"{axis} {i}" for i in range(size)]})
    assert len(frame) == 840_000
    last = frame.iloc[-1]
    assert last.tolist() == ["row 39", "multiplier 20", "example 999", 839_999.0, 819_999.0]
    middle = frame.iloc[21_000 + 3_000 + 7]
    assert middle.tolist() == ["row 1", "multiplier 3", "example 7", 24_007.0, 21_007.0]


def test_a_column_whose_axes_do_not_fit_its_values_is_refused():
    for axes in (("row",), ("row", "row")):
        with pytest.raises(ValueError, match=r"Column 'x' states the axes .* shape \(2, 2\)"):
            to_frame([Column("x", axes, torch.ones(2, 2))], lambda axis, size: {axis: range(size)})
