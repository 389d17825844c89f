"""Links of the documents that leave docs/ (to a notebook, a test, a source file), for `make docs`.

On a site there is nothing at their end, so they become the name of the file. A file that is not in
the repository fails the build.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"\[([^\]]*)\]\(((?:\.\./)+[^)#\s]*)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """The text of a page with such links written as code. MkDocs calls it."""
    here = (ROOT / "docs" / page.file.src_uri).parent

    def plain(found: re.Match[str]) -> str:
        words, target = found[1], (here / found[2]).resolve()
        if (ROOT / "docs").resolve() in (target, *target.parents):
            return found[0]
        if not target.exists():
            raise ValueError(f"{page.file.src_uri} links to {found[2]}, which is not there.")
        name = target.relative_to(ROOT.resolve()).as_posix()
        return f"`{name}`" if words.strip("`") in (name, target.name) else f"{words} (`{name}`)"

    return _LINK.sub(plain, markdown)
