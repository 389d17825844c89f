"""Documents link to what there is, name what is public, and are all on the site."""

import ast
import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

import steerlens
from steerlens.models.checkpoints import MissingCheckpoint, packaged_gguf

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"```python\n(.*?)```", re.S)
PRINTED = re.compile(r"```text\n(.*?)```", re.S)
"""What a page says that its code prints, with … for what is left out."""
PAGES = [
    ROOT / "README.md",
    ROOT / "docs" / "tutorial.md",
    *(ROOT / "docs" / "how-to").glob("*.md"),
]
EXECUTED = [page for page in sorted(PAGES) if "```python" in page.read_text(encoding="utf-8")]
PRETRAINED = 'Model.load("smollm2-135m-instruct")'


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_a_document_links_to_what_there_is(path):
    prose = re.sub(r"```.*?```", "", text_of(path), flags=re.S)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", prose):
        if not re.match(r"https?:", target):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_code_in_a_document_is_python_and_names_what_is_public(path):
    for block in BLOCK.findall(text_of(path)):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "sl":
                assert node.attr in steerlens.__all__, f"{path.name}: sl.{node.attr}"
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("steerlens"):
                module = import_module(str(node.module))
                for name in (alias.name for alias in node.names):
                    there = hasattr(module, name) or find_spec(f"{node.module}.{name}")
                    assert there, f"{path.name}: {name} of {node.module}"


def test_the_menu_of_the_site_names_what_there_is():
    pages = re.findall(r": ([\w/-]+\.md)\n", text_of(ROOT / "mkdocs.yml"))
    assert len(pages) > 20
    assert [page for page in pages if not (ROOT / "docs" / page).is_file()] == []


def test_the_reference_names_what_there_is():
    for path in (ROOT / "docs" / "api").glob("*.md"):
        for name in re.findall(r"^::: (\S+)", text_of(path), re.M):
            module, _, attribute = name.rpartition(".")
            source = ROOT / Path(*module.split("."))
            file = source / "__init__.py" if source.is_dir() else source.with_suffix(".py")
            assert re.search(rf"\b{attribute}\b", text_of(file)), name


def test_the_tutorial_and_the_readme_have_the_same_ten_lines():
    def block(path: Path) -> str:
        return next(b for b in BLOCK.findall(text_of(path)) if b.startswith("import steerlens"))

    assert block(ROOT / "README.md") == block(ROOT / "docs" / "tutorial.md")


@pytest.mark.parametrize("path", EXECUTED, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
def test_the_code_of_a_page_runs_from_the_top(path, request, tmp_path, monkeypatch, capsys):
    """All blocks of a page in one namespace, in a folder that holds the shipped data."""
    if not request.config.getoption("--all-notebooks"):
        pytest.skip("The pages take minutes together: make notebooks.")
    if path.stem == "figures":
        pytest.importorskip("kaleido", reason="needs the extra steerlens[figures]")
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for k, block in enumerate(BLOCK.findall(text_of(path)), 1):
        if PRETRAINED in block:
            try:
                packaged_gguf("smollm2-135m-instruct")
            except MissingCheckpoint as error:
                pytest.skip(str(error))
        exec(compile(block, f"{path.name}, block {k}", "exec"), names)
    said = capsys.readouterr().out
    for part in re.split("…|\n", "\n".join(PRINTED.findall(text_of(path)))):
        assert part.strip() in said, f"{path.name} shows {part!r}"
    if path.stem in ("README", "tutorial"):
        assert "best cell" in said and "held out" in said and "wonderful" in said
