"""Bars of progress are shown where somebody watches, and nowhere else."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import steerlens as sl
from steerlens.progress_bar import watched


class Stream(io.StringIO):
    """Text, from a terminal or not."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("progress", [True, False])
def test_only_on_a_terminal(
    gpt2: sl.Model, random_direction: Callable[..., sl.Direction],
    monkeypatch: pytest.MonkeyPatch, terminal: bool, progress: bool,
) -> None:  # fmt: skip
    edit = sl.Add(random_direction(gpt2.sites()[0], gpt2.d_model))
    asked = [sl.ContrastPair("the soup was", " good", " bad")]
    stream = Stream(terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    sl.sweep(gpt2, asked, [edit], (0.0, 1.0), progress=progress)
    assert bool(stream.getvalue()) == (terminal and progress)


def test_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Stream(False))
    assert not watched()
    ipython: Any = ModuleType("IPython")
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    for shell, notebook in ((None, False), (object(), False), (SimpleNamespace(kernel=1), True)):
        ipython.get_ipython = lambda shell=shell: shell
        assert watched() == notebook


def test_without_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert not watched()
