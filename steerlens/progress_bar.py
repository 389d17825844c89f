"""Progress of long work: a bar for whoever watches, and nothing in a log."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm.auto import tqdm


def progress_bar(progress: bool, items: Iterable[Any] | None = None, **options: Any) -> Any:
    """A bar of tqdm on a terminal and in a notebook.

    Where standard error is a file or a pipe, nothing is printed: each change of a bar would be a line
    of its own there.

    Args:
        progress: What the caller was asked for; False shows none anywhere.
        items: What is counted, if the bar is to be a loop over it.
        options: Of tqdm, such as `total`, `desc` and `unit`.
    """
    return tqdm(items, disable=not (progress and watched()), **options)


def watched() -> bool:
    """Whether standard error is a terminal, or the output of a notebook."""
    if sys.stderr is not None and sys.stderr.isatty():
        return True
    ipython = sys.modules.get("IPython")
    return hasattr(None if ipython is None else ipython.get_ipython(), "kernel")
