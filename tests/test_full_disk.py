"""Where files cannot become as large as they should, every way of saving says so and leaves none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

SAVE = {
    "a model": "from steerlens.models.checkpoints import save_hooked; "
    "from steerlens.testing import tiny_model; model = tiny_model('gpt2'); "
    "save = lambda: save_hooked(model, path)",
    "tensors": "from steerlens.store.tensors import write_tensors; import torch; "
    "save = lambda: write_tensors(path, {'x': torch.ones(99_999)})",
    "a document": "from steerlens.store.documents import write_document; "
    "save = lambda: write_document(path, {'x': 'x' * 99_999})",
}


@pytest.mark.parametrize("what", SAVE)
def test_a_limit_of_the_system_is_explained(tmp_path, what):
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from steerlens.store.files import StorageError\n"
        f"path = Path(sys.argv[1])\n{SAVE[what]}\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))\n"
        "try: save()\n"
        "except StorageError as error: print(error)\n"
    )
    path = tmp_path / "saved"
    ask = [sys.executable, "-W", "ignore", "-c", code, str(path)]
    asked = subprocess.run(ask, capture_output=True, text=True, cwd=ROOT)
    assert asked.stdout == (
        f"{path} cannot be written: the file is larger than the system allows. Raise the limit "
        "(ulimit -f).\n"
    ), asked.stderr
    assert list(tmp_path.iterdir()) == []
