"""Damaged folders of SAEs and of runs give what was stored, or an error of the project's own."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from steerlens.cli import main
from steerlens.experiment import Run
from steerlens.results import ResultError
from steerlens.saes.sae import SAE
from steerlens.saes.sae_errors import SAEError
from steerlens.store.checksums import CHECKSUMS
from steerlens.store.files import DamagedFile, StorageError
from tests.untrained_saes import untrained

JUNK = (
    b"",
    b"null",
    b"[]",
    b"{}",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"a": NaN}',
    b"GGUF",
    b"\x00" * 64,
)
"""What a whole file is replaced by."""


def damage(path: Path, draws: random.Random) -> None:
    """One of the ways in which files get damaged."""
    content = bytearray(path.read_bytes())
    place = draws.randrange(len(content) + 1)
    kind = draws.randrange(5)
    if kind == 0 and content:
        content[place % len(content)] ^= 1 << draws.randrange(8)
    elif kind == 1:
        del content[place:]
    elif kind == 2:
        del content[place : place + draws.randrange(1, 40)]
    elif kind == 3:
        content[place:place] = draws.randbytes(draws.randrange(1, 40))
    else:
        content = bytearray(draws.choice(JUNK))
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("checked", [True, False])
def test_a_damaged_folder_of_an_sae(tmp_path, checked):
    """Also without its checksums, which folders of others do not have."""
    draws, whole = random.Random(0), tmp_path / "whole"
    untrained("topk").save(whole)
    if not checked:
        (whole / CHECKSUMS).unlink()
    names = sorted(path.name for path in whole.iterdir())
    refused = 0
    for k in range(80):
        folder = tmp_path / str(k)
        shutil.copytree(whole, folder)
        damage(folder / draws.choice(names), draws)
        try:
            SAE.load(folder)
        except SAEError:
            refused += 1
    assert refused >= 40


def test_a_damaged_run(tmp_path):
    script = Path(__file__).parent / "stranger_experiment.py"
    assert main(["run", str(script), "--results", str(tmp_path / "results")]) == 0
    (whole,) = (tmp_path / "results").iterdir()
    names = sorted(
        path.relative_to(whole).as_posix()
        for path in whole.rglob("*")
        if path.is_file() and path.name != ".lock"
    )
    draws, refused, like = random.Random(0), 0, Run.load(whole).text
    for k in range(80):
        folder = tmp_path / str(k)
        shutil.copytree(whole, folder)
        damage(folder / draws.choice(names), draws)
        try:
            assert Run.load(folder).text == like
        except (ResultError, DamagedFile, StorageError):
            refused += 1
    assert refused >= 40
