"""The order of the packages: a file imports only packages listed above it, and nothing in a circle."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1] / "steerlens"

# From the ground up. An entry stands for all files of a package, its `__init__` included; the first
# entry that fits counts.
ORDER = [
    "arguments", "units", "sites", "progress_bar", "stats", "store", "plots", "report.section",
    "report.numbers",
    "results", "data", "directions", "protocols", "models", "interventions", "forms", "measures",
    "training", "saes", "operators",
    "analyses", "report", "testbed", "experiment", "grid", "sharing", "inspect_registry", "testing",
    "cli", "__main__",
]  # fmt: skip
OWNERS = {
    "transformer_lens": {"models", "testing", "testbed"},
    "sae_lens": {"saes"},
}
PICKLING = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve"}
LONGEST = 600
"""Lines of a file."""
AT_THE_ROOT = 10
"""Modules beside the packages."""


@cache
def modules() -> list[tuple[str, ast.Module]]:
    """Every file as a dotted name without "steerlens", the face of a package included."""
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if name != "__init__":
            found.append((name, ast.parse(path.read_text(encoding="utf-8"))))
    return found


@cache
def is_file(name: str) -> bool:
    return (ROOT / Path(*name.split("."))).with_suffix(".py").exists()


@cache
def is_package(name: str) -> bool:
    return (ROOT / Path(*name.split(".")) / "__init__.py").exists()


def imports(tree: ast.Module, *, typing: bool = True) -> Iterator[tuple[str, int]]:
    """What a file imports, those for typing only included, with the line.

    `from steerlens.plots import heatmap` names the file plots.heatmap; a name that is no file
    comes from the face of the package.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            base = node.module or ""
            for alias in node.names:
                whole = f"{base}.{alias.name}".removeprefix("steerlens.")
                found = is_file(whole) or is_package(whole)
                yield (
                    f"steerlens.{whole}" if base.startswith("steerlens") and found else base,
                    node.lineno,
                )
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno


def ours() -> Iterator[tuple[str, int, str]]:
    """Imports inside the package: file, line, file."""
    for module, tree in modules():
        for name, line in imports(tree):
            if name.startswith("steerlens."):
                imported = name.removeprefix("steerlens.")
                yield module, line, f"{imported}.__init__" if is_package(imported) else imported


def floor(module: str) -> str:
    """The entry of ORDER that a file belongs to."""
    module = module.removesuffix(".__init__")
    found = [entry for entry in ORDER if module == entry or module.startswith(entry + ".")]
    return found[0] if found else module


def test_every_file_has_a_floor():
    assert {floor(module) for module, _ in modules()} <= set(ORDER)


def test_every_file_imports_only_files_listed_above_it():
    for module, line, imported in ours():
        here, there = floor(module), floor(imported)
        if here != there:
            assert ORDER.index(there) < ORDER.index(here), f"{module}:{line} -> {imported}"


def test_no_circle_not_even_through_a_face_or_for_typing():
    edges: dict[str, set[str]] = {}
    for module, _, imported in ours():
        edges.setdefault(module, set()).add(imported)
    for start in edges:
        seen: set[str] = set()
        todo = set(edges[start])
        while todo:
            node = todo.pop()
            assert node != start, f"{start} imports itself by way of {sorted(seen)}"
            if node not in seen:
                seen.add(node)
                todo |= edges.get(node, set())


def test_nothing_imports_the_package_root():
    for module, tree in modules():
        assert all(name != "steerlens" for name, _ in imports(tree)), module


def test_each_outside_library_has_its_owner():
    for module, tree in modules():
        for name, line in imports(tree):
            for library, owners in OWNERS.items():
                if name.split(".")[0] == library:
                    assert floor(module) in owners, f"{module}:{line} imports {name}"


def test_nothing_pickles():
    for module, tree in modules():
        for name, line in imports(tree):
            assert name.split(".")[0] not in PICKLING, f"{module}:{line} imports {name}"


def test_no_two_files_have_the_same_name():
    names = [path.name for path in ROOT.rglob("*.py") if path.name != "__init__.py"]
    assert sorted({name for name in names if names.count(name) > 1}) == []


def test_no_file_is_too_long():
    long = {
        str(path.relative_to(ROOT)): lines
        for path in ROOT.rglob("*.py")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > LONGEST
    }
    assert long == {}


def test_the_root_holds_few_modules():
    assert len([path for path in ROOT.glob("*.py") if path.name != "__init__.py"]) <= AT_THE_ROOT


def test_importing_the_package_does_not_import_torch():
    code = "import steerlens, steerlens.cli, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT.parent).returncode == 0
