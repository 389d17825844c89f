"""No flipped bit in a file of ours gives other numbers silently, or an error of another library.

Results and cells are in test_results.py and test_cells.py, markers in test_run_folder.py.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from steerlens.models.checkpoints import fingerprint, load_hooked, save_hooked
from steerlens.models.checkpoints.errors import CheckpointError, DamagedCheckpoint
from steerlens.models.loading import PRETRAINED
from steerlens.saes.sae import SAE
from steerlens.saes.sae_errors import DamagedSAE
from steerlens.store.checksums import CHECKSUMS, require_unchanged
from steerlens.store.documents import read_document, write_document
from steerlens.store.files import DamagedFile
from steerlens.testing import tiny_model
from tests.saes import untrained

FLIPS = 150
"""Bits that are flipped in each file, drawn with a fixed seed; all of them in smaller files."""


def flipped(path: Path) -> Iterator[None]:
    """The file with one bit flipped, again and again; whole at the end."""
    whole = path.read_bytes()
    places = range(8 * len(whole))
    for bit in sorted(random.Random(0).sample(places, min(FLIPS, len(places)))):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bytes(changed))
        yield
    path.write_bytes(whole)


def check(folder: Path, load: Callable[[], object], error: type[Exception], like: object) -> None:
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        for _ in flipped(path):
            try:
                found = load()
            except error:
                continue
            assert found == like, f"a flipped bit in {path.name} passed"
    assert load() == like


def test_a_model_folder(tmp_path):
    folder = save_hooked(tiny_model("gpt2"), tmp_path / "m")

    def load():
        model = load_hooked(folder)
        assert model.tokenizer is not None
        return fingerprint(model), str(model.cfg), model.tokenizer.get_vocab()

    check(folder, load, CheckpointError, load())


def test_an_sae_folder(tmp_path):
    untrained("topk").save(tmp_path)

    def load():
        sae = SAE.load(tmp_path)
        return sae.hash, sae.resid_norm, sae.site, sae.processing, sae.fingerprint

    check(tmp_path, load, DamagedSAE, load())


def test_another_k_of_an_sae_is_refused(tmp_path):
    untrained("topk").save(tmp_path)
    path = tmp_path / "cfg.json"
    path.write_text(path.read_text().replace('"k": ', '"k": 1'))
    with pytest.raises(DamagedSAE, match=r"cfg\.json is damaged, or was changed.*delete checksums"):
        SAE.load(tmp_path)
    (tmp_path / CHECKSUMS).unlink()
    assert SAE.load(tmp_path).wrapped.cfg.k > 10


def test_a_missing_file_of_a_model_is_named(tmp_path):
    folder = save_hooked(tiny_model("gpt2"), tmp_path / "m")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(DamagedCheckpoint, match=r"tokenizer\.json is missing.*delete checksums"):
        load_hooked(folder)


def test_a_document(tmp_path):
    path = write_document(tmp_path / "d.json", {"budget": 0.1, "n": {10: [1, None], 9: "é"}})
    whole = read_document(path)
    assert whole == {"budget": 0.1, "n": {"10": [1, None], "9": "é"}}
    check(tmp_path, lambda: read_document(path), DamagedFile, whole)


def test_what_ships_is_checked():
    """The model and its SAEs have lists of checksums, which are right and say what manifests say."""
    saes = sorted((PRETRAINED / "reviews-saes").glob("*/"))
    assert len(saes) == 8
    for folder in (PRETRAINED / "reviews", *saes):
        assert require_unchanged(folder)
        listed = read_document(folder / CHECKSUMS)["files"]
        assert {*listed, CHECKSUMS} >= {p.name for p in folder.iterdir()} - {"manifest.json"}
