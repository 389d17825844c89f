"""A run that is killed at random steps ends with the files of one that was not, bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from steerlens.store.documents import read_document

ROOT = Path(__file__).parents[1]
OWN = ("manifest.json", "finished.json", "commands.json", ".lock")
"""Files of a run that hold its time, its machine and the paths of its commands, or the digests of such
files."""

MAP = """
from steerlens.experiment import SteerabilityExperiment

experiment = SteerabilityExperiment(
    layers=(3, 6), n_fit=24, n_choose=10, n_report=8, n_neutral=8, nulls=19, budget=0.5,
    multipliers=(-0.5, 0.0, 0.5, 1.0), written=2, new_tokens=4, samples=1, strengths=11,
    confirmed=8, attributed=2,
    shifts=("here is a phone . {prompt}",), others=("reviews/register",),
)
"""


@pytest.fixture(scope="module", params=["map"])
def runs(request, tmp_path_factory):
    """The folders of an uninterrupted run, of one killed often, and of one with little memory."""
    folder = tmp_path_factory.mktemp("kills")
    (folder / "asked.py").write_text({"map": MAP}[request.param])
    command = [sys.executable, str(ROOT / "tests" / "kill_often.py")]
    said = subprocess.run(
        [*command, str(folder / "asked.py"), str(folder), "3", "0"], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, timeout=900,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr[-3000:]
    assert "Traceback" not in said.stderr
    assert int(said.stdout.splitlines()[-1].split()[0]) >= 3, said.stdout
    return {name: next((folder / name).iterdir()) for name in ("whole", "killed", "small")}


@pytest.mark.parametrize("other", ["killed", "small"])
def test_the_files_are_the_same_bits(runs, other):
    whole, again = files(runs["whole"]), files(runs[other])
    assert set(whole) == set(again)
    assert len([name for name in whole if name.endswith(".csv")]) >= 5
    different = [name for name in whole if whole[name] != again[name]]
    assert not different


def files(folder: Path) -> dict[str, bytes]:
    """The content of every file, without the time at which the run was started."""
    started = read_document(folder / "manifest.json")["started"].encode()
    date = started[:10]
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        .replace(started, b"")
        .replace(date, b"")
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in OWN
    }
