"""Every program of benchmarks/ can be imported, and what one of them times is still there."""

from __future__ import annotations

from importlib import import_module

import pytest

from tests.scripts import ROOT, script

PROGRAMS = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("name", PROGRAMS)
def test_imports(name: str) -> None:
    assert script("benchmarks", name).__doc__


def test_parts_of_the_experiment() -> None:
    parts = script("benchmarks", "experiment").PARTS
    assert len(parts) > 10
    for place in parts:
        module, _, path = place.partition(":")
        holder = import_module(module)
        for attribute in path.split("."):
            assert hasattr(holder, attribute), f"{place} is timed by benchmarks/experiment.py"
            holder = getattr(holder, attribute)
