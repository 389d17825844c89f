"""Where files cannot become as large as they should, every way of saving says so and leaves none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

CODE = """
import resource, sys
from pathlib import Path

import torch

from steerlens.models.checkpoints import save_hooked
from steerlens.store.documents import write_document
from steerlens.store.files import StorageError
from steerlens.store.tensors import write_tensors
from steerlens.testing import tiny_model

model, path = tiny_model("gpt2"), Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
for save in (
    lambda: save_hooked(model, path),
    lambda: write_tensors(path, {"x": torch.ones(99_999)}),
    lambda: write_document(path, {"x": "x" * 99_999}),
):
    try:
        save()
    except StorageError as error:
        print(error)
"""


def test_a_limit_of_the_system_is_explained(tmp_path):
    ask = [sys.executable, "-W", "ignore", "-c", CODE, str(tmp_path / "saved")]
    asked = subprocess.run(ask, capture_output=True, text=True, cwd=ROOT)
    said = (
        f"{tmp_path / 'saved'} cannot be written: the file is larger than the system allows. Raise "
        "the limit (ulimit -f)."
    )
    assert asked.stdout.splitlines() == [said] * 3, asked.stderr
    assert list(tmp_path.iterdir()) == []
