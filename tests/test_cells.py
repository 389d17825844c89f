"""Units of work: kept once, refused when damaged or exchanged, and the same for a resumed run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from steerlens.store.cells import Cells, cells_or_none
from steerlens.store.files import DamagedFile
from steerlens.store.tensors import write_tensors


@pytest.fixture
def cells(tmp_path) -> Cells:
    return Cells(tmp_path / "cells", facts={"run": "abc"}, progress=False)


def never():
    raise AssertionError("this unit was finished before")


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_unit_is_computed_once(cells):
    part = cells.part("gain")
    made = part.compute(0, lambda: {"x": torch.arange(3.0)})
    assert torch.equal(part.compute(0, never)["x"], made["x"])
    assert torch.equal(
        Cells(cells.folder, facts={"run": "abc"}).part("gain").load(0)["x"], made["x"]
    )
    assert part.load(1) is None and cells.part("kl").load(0) is None


def test_without_a_folder_everything_is_computed():
    cells = cells_or_none(None, "gain", progress=False)
    assert cells.load(0) is None and cells.part("shuffled").load("a") is None
    for value in (1.0, 2.0):
        assert cells.compute(0, lambda value=value: {"x": torch.tensor(value)})["x"] == value


def test_a_resumed_unit_is_like_a_new_one(cells):
    odd = torch.arange(6.0, requires_grad=True).reshape(2, 3).T
    new = cells.compute(0, lambda: {"x": odd})["x"]
    old = cells.compute(0, never)["x"]
    assert torch.equal(new, old) and not new.requires_grad and new.dtype == old.dtype


@pytest.mark.parametrize(
    "name", ["shifts/hotel", "Is {text} good?", "../up", "Hotel", "", "é" * 300]
)
def test_any_name_is_a_file_inside_the_folder(cells, name):
    part = cells.part(name)
    part.save("0", {"x": torch.ones(1)})
    part.save(name, {"x": torch.zeros(1)})
    assert part.load(name) is not None and len(files(cells.folder)) == 2
    assert {path.resolve().parents[1] for path in files(cells.folder)} == {cells.folder}


def test_names_that_differ_in_capitals_have_their_own_files(cells):
    for name in ("Hotel", "hotel"):
        cells.part(name).save(0, {"x": torch.ones(1)})
    assert len({str(path).lower() for path in files(cells.folder)}) == 2


def test_exchanged_files_are_refused_and_the_message_helps(cells):
    one, other = cells.part("shifts/book"), cells.part("shifts/hotel")
    for k in range(2):
        one.save(k, {"x": torch.ones(1)})
        other.save(k, {"x": torch.zeros(1)})
    first, second = (files(part.folder)[0] for part in (one, other))
    aside = shutil.move(first, first.with_suffix(".aside"))
    shutil.move(second, first)
    shutil.move(aside, second)
    with pytest.raises(DamagedFile) as refused:
        other.load(0)
    assert str(second) in str(refused.value)
    assert "name 'shifts/book' instead of 'shifts/hotel'. Delete this file" in str(refused.value)
    second.unlink()
    assert other.compute(0, lambda: {"x": torch.zeros(1)})["x"] == 0


@pytest.mark.parametrize("facts", [{}, {"run": "abd"}, {"run": "abc", "more": "1"}])
def test_units_of_another_run_are_refused(cells, facts):
    cells.part("gain").save(0, {"x": torch.ones(1)})
    with pytest.raises(DamagedFile, match="is another file.*Delete this file"):
        Cells(cells.folder, facts=facts).part("gain").load(0)


def test_no_flipped_bit_of_a_unit_passes(cells):
    cells.save(0, {"x": torch.tensor([1.0, 2.0]), "n": torch.tensor(3)})
    [path] = files(cells.folder)
    whole, passed = path.read_bytes(), 0
    for bit in range(0, 8 * len(whole), 3):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bytes(changed))
        try:
            loaded = cells.load(0)
        except DamagedFile as error:
            assert "Delete this file" in str(error)
        else:  # white space that fills up the header
            passed += 1
            assert loaded is not None and sorted(loaded) == ["n", "x"]
            assert loaded["x"].tolist() == [1.0, 2.0] and loaded["n"] == 3
    assert passed <= 8 * 3


def test_files_without_a_statement_are_refused(cells):
    cells.save(0, {"x": torch.ones(1)})
    [path] = files(cells.folder)
    write_tensors(path, {"x": torch.ones(1)})
    with pytest.raises(DamagedFile, match="states name nothing instead of '', run"):
        cells.load(0)


def test_the_statement_is_one_entry_of_the_files_metadata(cells):
    cells.part("gain").save(7, {"x": torch.ones(1)})
    [path] = files(cells.folder)
    head = path.read_bytes()
    size = int.from_bytes(head[:8], "little")
    [entry] = json.loads(head[8 : 8 + size])["__metadata__"].values()
    assert json.loads(entry)["states"] == {"name": "gain", "run": "abc", "unit": "7"}
