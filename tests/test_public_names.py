"""The door of the package: every name is what it says, for Python and for type checkers."""

import ast
import re
from importlib import import_module
from pathlib import Path

import steerlens

ROOT = Path(steerlens.__file__).parent


def test_every_public_name_is_the_object_that_its_module_defines():
    homes = {name: import_module(f"steerlens.{home}") for name, home in steerlens._HOME.items()}
    for name, home in homes.items():
        # A submodule of the same name would stand in its place once it is imported.
        assert getattr(steerlens, name) is getattr(home, name), name
        assert not (ROOT / name).exists() and not (ROOT / f"{name}.py").exists(), name


def test_an_unknown_name_is_refused_with_those_there_are():
    try:
        steerlens.nothing  # noqa: B018
    except AttributeError as error:
        assert "It has: Model," in str(error)
    else:
        raise AssertionError


def groups(source: str, entry: str) -> dict[str, list[tuple[str, str]]]:
    """The names of a file with their modules, below each comment."""
    found: dict[str, list[tuple[str, str]]] = {}
    for line in source.splitlines():
        if match := re.match(r"\s*# (.*)", line):
            found[match[1]] = []
        elif match := re.fullmatch(entry, line.strip()):
            found[list(found)[-1]].append((match["name"], match["module"]))
    return found


def test_the_type_stub_is_in_step():
    lazy = (ROOT / "__init__.py").read_text("utf-8")
    stub = (ROOT / "__init__.pyi").read_text("utf-8")
    names = groups(lazy.partition("}")[0], r'"(?P<name>\w+)": "(?P<module>[\w.]+)",')
    typed = groups(stub, r"from steerlens\.(?P<module>[\w.]+) import (?P<name>\w+) as (?P=name)")
    assert typed == names, "change steerlens/__init__.pyi together with steerlens/__init__.py"
    imported = [a.name for node in ast.parse(stub).body if isinstance(node, ast.ImportFrom)
                for a in node.names]  # fmt: skip
    assert sorted(imported) == sorted(steerlens.__all__)


def test_every_public_name_is_in_the_reference():
    """As `::: package.module.Name` on a page that the site shows."""
    pages = sorted((ROOT.parent / "docs" / "api").glob("*.md"))
    shown = {
        line.rsplit(".", 1)[-1]
        for page in pages
        for line in page.read_text("utf-8").splitlines()
        if line.startswith("::: ")
    }
    assert sorted(set(steerlens.__all__) - shown) == []
    site = (ROOT.parent / "mkdocs.yml").read_text("utf-8")
    assert all(f"api/{page.name}" in site for page in pages)
