"""The house's floors: a file imports only files listed above it."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1] / "steerlens"

# From the ground up. A package stands for all its files, its face (`__init__`) included.
ORDER = [
    "arguments", "units", "sites", "stats", "store", "plots", "report.section", "report.numbers",
    "results", "data", "directions", "protocols", "models", "interventions", "measures", "saes",
    "analyses", "report", "testbed",
    "experiment", "testing", "cli",
]  # fmt: skip
OWNERS = {
    "transformer_lens": {"models", "testing", "testbed"},
    "sae_lens": {"saes"},
}


def modules():
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if name != "__init__":
            yield name.removesuffix(".__init__"), ast.parse(path.read_text(encoding="utf-8"))


def imports(tree):
    """Modules that a file imports when it runs; not those that are only named in annotations."""
    typing_only = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            base = node.module or ""
            for alias in node.names:
                # `from steerlens.testbed import reviews` imports steerlens.testbed.reviews
                whole = f"{base}.{alias.name}"
                yield (whole if is_module(whole) else base), node.lineno
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno


def is_module(name: str) -> bool:
    path = ROOT.parent / Path(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").exists()


def floor(module: str) -> str:
    """The entry of ORDER that a module belongs to."""
    found = [entry for entry in ORDER if module == entry or module.startswith(entry + ".")]
    return found[0] if found else module


def ours():
    for module, tree in modules():
        for imported, line in imports(tree):
            if imported.startswith("steerlens."):
                yield module, line, imported.removeprefix("steerlens.")


def test_every_file_has_a_floor():
    assert {floor(m) for m, _ in modules() if m != "testbed"} <= set(ORDER)


def test_every_file_imports_only_files_listed_above_it():
    for module, line, imported in ours():
        here, there = floor(module), floor(imported)
        if here != there:
            assert ORDER.index(there) < ORDER.index(here), f"{module}:{line} -> {imported}"


def test_no_circle_inside_a_package():
    edges: dict[str, set[str]] = {}
    for module, _, imported in ours():
        if floor(module) == floor(imported) and module != floor(module):
            edges.setdefault(module, set()).add(imported)
    for start in edges:
        seen, todo = set(), set(edges[start])
        while todo:
            node = todo.pop()
            assert node != start, f"{start} imports itself by way of {seen}"
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


def test_importing_the_package_does_not_import_torch():
    import subprocess
    import sys

    code = "import steerlens, steerlens.cli, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT.parent).returncode == 0
