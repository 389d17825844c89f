"""The constraints cover every Python that is promised, and no promise differs from another."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
RANGE = re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', PROJECT)
assert RANGE is not None
VERSIONS = [f"3.{minor}" for minor in range(int(RANGE[1]), int(RANGE[2]))]


def pins(version: str) -> dict[str, str]:
    """The pinned version of every package on one Python on Linux."""
    environment = {"python_version": version, "sys_platform": "linux"}
    found: dict[str, str] = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        pin = Requirement(line)
        if pin.marker is not None and not pin.marker.evaluate(environment):
            continue
        name = canonicalize_name(pin.name)
        (specifier,) = pin.specifier
        assert specifier.operator == "==", line
        assert name not in found, f"{name} has two pins on Python {version}"
        found[name] = specifier.version
    return found


def requirements() -> list[Requirement]:
    """Everything that `pip install steerlens[dev]` asks for."""
    kinds = "dependencies|sae|gguf|notebook|dev"
    lists = re.findall(rf"^(?:{kinds}) = \[(.*?)\]\s*(?:#[^\n]*)?$", PROJECT, re.M | re.S)
    assert len(lists) == 5
    texts = re.findall(r'"([^"]+)"', "".join(lists))
    return [r for r in map(Requirement, texts) if r.name != "steerlens"]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_dependency_has_one_pin_that_it_allows(version):
    pinned = pins(version)
    for requirement in requirements():
        name = canonicalize_name(requirement.name)
        assert name in pinned, f"{name} has no pin on Python {version}"
        assert requirement.specifier.contains(pinned[name]), (name, pinned[name])


def test_readme_and_makefile_promise_what_pyproject_promises():
    promise = f"Python {VERSIONS[0]} to {VERSIONS[-1]}"
    for name in ("README.md", "Makefile"):
        assert promise in (ROOT / name).read_text(encoding="utf-8"), name
    low, high = (version.replace(".", ", ") for version in (VERSIONS[0], VERSIONS[-1]))
    assert f"({low}) <= sys.version_info[:2] <= ({high})" in (ROOT / "Makefile").read_text()
