"""Shared vectors: card, folder, digests, and a hub that is a folder."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from steerlens.directions import Direction, DirectionError
from steerlens.sharing import (
    SharingError,
    from_hub,
    load_shared,
    push_to_hub,
    save_shared,
    vector_card,
)
from steerlens.sharing.vector_card import NOT_MEASURED, CardError
from steerlens.sites import Positions, Site


@pytest.fixture
def direction(gpt2):
    """A direction for the tiny model, with every fact."""
    return Direction(
        torch.randn(gpt2.width(Site(1)), generator=torch.Generator().manual_seed(0)), Site(1),
        method="DiffMean()", resid_norm=2.0, processing=gpt2.processing, model=gpt2.name,
        fingerprint=gpt2.fingerprint, data="0a1b", pairs=12, apply_at=Positions.from_prompt_end(),
        dtype="float32",
    )  # fmt: skip


class FolderHub:
    """A hub whose repositories are folders."""

    def __init__(self, root: Path, error: Exception | None = None) -> None:
        self.root, self.error = root, error

    def create_repo(self, repo_id, *, private, exist_ok):
        if self.error is not None:
            raise self.error
        (self.root / repo_id).mkdir(parents=True, exist_ok=exist_ok)
        return f"hub/{repo_id}"

    def upload_folder(self, *, repo_id, folder_path, commit_message, revision):
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)

    def list_repo_tree(self, repo_id, *, revision, recursive):
        if not (self.root / repo_id).is_dir():
            raise OSError(f"404: there is no {repo_id}")
        files = sorted((self.root / repo_id).iterdir())
        return [SimpleNamespace(path=p.name, size=p.stat().st_size) for p in files]

    def snapshot_download(self, repo_id, *, revision, allow_patterns):
        made = self.root / "cache" / repo_id
        made.mkdir(parents=True)
        for path in (self.root / repo_id).iterdir():
            if any(path.match(pattern) for pattern in allow_patterns):
                shutil.copy(path, made)
        return str(made)


def test_a_direction_goes_to_the_hub_and_comes_back_with_every_fact(gpt2, direction, tmp_path):
    hub = FolderHub(tmp_path)
    assert push_to_hub(direction, "me/tea", license="mit", hub=hub) == "hub/me/tea"
    (tmp_path / "me" / "tea" / "run_me.py").write_text("raise SystemExit")
    (tmp_path / "me" / "tea" / "weights.bin").write_bytes(b"pickle")
    read = from_hub("me/tea", gpt2, hub=hub)
    assert isinstance(read, Direction)
    assert torch.equal(read.vector, direction.vector) and read.facts() == direction.facts()
    files = {path.name for path in (tmp_path / "cache" / "me" / "tea").iterdir()}
    assert files == {"README.md", "direction.safetensors", "shared.json"}


def test_a_direction_of_another_model_is_refused(direction, tmp_path, tiny_bridge_model):
    other = dataclasses.replace(direction, model="another", fingerprint="ff")
    folder = save_shared(other, tmp_path / "tea")
    with pytest.raises(DirectionError, match="another"):
        load_shared(folder, tiny_bridge_model)


def test_the_card_says_what_it_is_how_it_is_used_and_that_nothing_was_measured(direction):
    made = dataclasses.replace(direction, model="owner/model", method="a | b")
    card = vector_card(made, name="me/tea", license="mit", notes="For tea.")
    head, _, body = card.removeprefix("---\n").partition("---\n")
    assert head.splitlines() == [
        'library_name: "steerlens"',
        'tags: ["steerlens", "steering-vector", "activation-steering"]',
        'license: "mit"',
        'base_model: "owner/model"',
    ]
    assert body.startswith("\n# me/tea\n\nFor tea.\n\nA steering vector at `L1 resid_post`")
    for line in (
        'model = sl.Model.load("owner/model")', 'shared = sl.from_hub("me/tea", model)',
        "| method | a \\| b |", "| data (hash) | 0a1b |", "| pairs | 12 |", NOT_MEASURED,
    ):  # fmt: skip
        assert line in body, line


def test_the_code_of_the_card_runs(direction, gpt2, monkeypatch, capsys):
    import steerlens as sl

    monkeypatch.setattr(sl.Model, "load", lambda name: gpt2)
    monkeypatch.setattr(sl, "from_hub", lambda name, model: direction)
    code = vector_card(direction, name="me/tea").split("```python\n")[1].split("```")[0]
    exec(compile(code.replace("…", "the soup was"), "card", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_the_card_has_the_held_out_numbers_of_its_own_cell(planted, planted_data):
    from steerlens.analyses.steerability.measure_steerability import steerability
    from steerlens.directions.methods import DiffMean
    from steerlens.measures.reading import activations
    from steerlens.models.model import Model

    fit, choose, report = planted_data
    model = Model(planted.model)
    read = activations(model, fit, model.sites("resid_pre"), progress=False)
    made = steerability(
        model, read, choose, report, sites=read.sites, unit="resid_norm", nulls=0, progress=False,
        neutral=[pair.prompt + pair.positive for pair in choose],
    )  # fmt: skip
    cell = made.recommend().cell
    assert cell is not None and cell.site is not None and made.confirmation is not None
    card = vector_card(read.direction(cell.site, DiffMean()), name="x", effect=made)
    assert f"| gain, held out | {made.confirmation.gain} nats on " in card
    assert "| in writing | not looked at |" in card and NOT_MEASURED not in card
    elsewhere = next(site for site in read.sites if site != cell.site)
    with pytest.raises(CardError, match="recommends .*, and the vector is at"):
        vector_card(read.direction(elsewhere, DiffMean()), name="x", effect=made)
    other = dataclasses.replace(read.direction(cell.site, DiffMean()), model="another")
    with pytest.raises(CardError, match="of 'another'"):
        vector_card(other, name="x", effect=made)


@pytest.mark.parametrize("damage", ["edit", "remove", "list", "outside", "format", "none"])
def test_a_folder_that_is_not_as_it_was_shared_is_refused(direction, tmp_path, damage):
    from steerlens.store.documents import read_document, write_document

    folder = save_shared(direction, tmp_path / "tea")
    stated = read_document(folder / "shared.json")
    if damage == "edit":
        content = bytearray((folder / "direction.safetensors").read_bytes())
        content[-1] ^= 1
        (folder / "direction.safetensors").write_bytes(content)
    elif damage == "remove":
        (folder / "direction.safetensors").unlink()
    elif damage == "none":
        (folder / "shared.json").unlink()
    else:
        files = {"list": {}, "outside": {"../a.json": "0"}}.get(damage, stated["files"])
        kind = "other" if damage == "format" else stated["format"]
        write_document(folder / "shared.json", {**stated, "files": files, "format": kind})
    why = {
        "edit": "damaged or was edited", "remove": "is missing", "list": "lists no direction",
        "outside": "no file of a vector", "format": "of format 'other'",
        "none": "was not shared by steerlens",
    }[damage]  # fmt: skip
    with pytest.raises(SharingError, match=why):
        load_shared(folder)


def test_what_cannot_be_shared_is_refused_before_anything_is_written(direction, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    with pytest.raises(SharingError, match="not empty"):
        save_shared(direction, tmp_path / "full")
    hub = FolderHub(tmp_path, OSError("403: you may not"))
    for name, why in (("tea", "names no owner"), ("a/b/c", "is no repository"), ("me/tea", "403")):
        with pytest.raises(SharingError, match=why):
            push_to_hub(direction, name, hub=hub)
    with pytest.raises(SharingError, match="404"):
        from_hub("me/nothing", hub=hub)
    (tmp_path / "me" / "other").mkdir(parents=True)
    with pytest.raises(SharingError, match="me/other has no shared.json"):
        from_hub("me/other", hub=hub)
    assert not (tmp_path / "me" / "tea").exists()


def test_without_a_network_the_folder_is_the_way(direction, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SharingError, match="cannot be uploaded: HF_HUB_OFFLINE.*hf upload me/tea"):
        push_to_hub(direction, "me/tea")
    with pytest.raises(SharingError, match="cannot be downloaded: .*read it with load_shared"):
        from_hub("me/tea")
