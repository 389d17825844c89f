"""Where files cannot become as large as they should, every way of saving says so and leaves none."""

from __future__ import annotations

import pytest
import torch

from steerlens.models.checkpoints import save_hooked
from steerlens.store.documents import write_document
from steerlens.store.files import StorageError
from steerlens.store.tensors import write_tensors

resource = pytest.importorskip("resource", reason="limits of this kind are those of Unix")


@pytest.fixture
def small_files():
    """No file may be larger than 4 KiB, for the length of a test."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("save", ["model", "tensors", "document"])
def test_a_limit_of_the_system_is_explained(tmp_path, gpt2, small_files, save):
    path = tmp_path / "saved"
    with pytest.raises(StorageError) as caught:
        match save:
            case "model":
                save_hooked(gpt2.wrapped, path)
            case "tensors":
                write_tensors(path, {"x": torch.ones(99_999)})
            case "document":
                write_document(path, {"x": "x" * 99_999})
    assert str(caught.value) == (
        f"{path} cannot be written: the file is larger than the system allows. Raise the limit "
        "(ulimit -f)."
    )
    assert list(tmp_path.iterdir()) == []
