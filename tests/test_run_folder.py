"""A run's folder: one process at a time, a marker written last, damaged files named."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from steerlens.store import run_folder
from steerlens.store.files import StorageError, remove_temporaries, temporary_name, write_text
from steerlens.store.run_folder import (
    MARKER,
    FolderInUse,
    RunFolder,
    finished_files,
    is_empty,
    is_finished,
    verify,
)

ROOT = Path(__file__).parents[1]


@pytest.fixture
def finished(tmp_path):
    with RunFolder.open(tmp_path / "run") as folder:
        write_text(folder.path / "map.json", "{}")
        write_text(folder.path / "map.csv", "row,gain\n")
        write_text(folder.path / "cells" / "000000.safetensors", "a unit of work")
        folder.finish()
    return tmp_path / "run"


def test_a_finished_run_lists_its_files(finished):
    assert is_finished(finished)
    assert list(finished_files(finished)) == ["map.csv", "map.json"]
    assert verify(finished) == []


def test_a_run_without_its_marker_is_not_finished(finished):
    (finished / MARKER).unlink()
    assert not is_finished(finished)
    assert "not finished" in verify(finished)[0]


def test_missing_and_changed_files_are_named(finished):
    write_text(finished / "map.csv", "row,gain\n1,2\n")
    (finished / "map.json").unlink()
    assert not is_finished(finished)
    changed, missing = verify(finished)
    assert "map.csv is damaged or was changed" in changed and "map.json is missing" in missing


def test_no_flipped_bit_of_the_marker_passes(finished):
    marker = finished / MARKER
    whole, listed = marker.read_bytes(), finished_files(finished)
    for place in range(len(whole)):
        for bit in (0, 5, 7):
            changed = bytearray(whole)
            changed[place] ^= 1 << bit
            marker.write_bytes(bytes(changed))
            # White space may change; then it lists the same files.
            assert not is_finished(finished) or finished_files(finished) == listed
            assert verify(finished) or finished_files(finished) == listed


def test_a_run_is_unfinished_while_its_files_are_written_again(finished):
    with RunFolder.open(finished) as folder:
        assert folder.finished
        folder.reopen()
        assert not folder.finished
        folder.finish(["map.csv"])
    assert is_finished(finished) and list(finished_files(finished)) == ["map.csv"]


def test_a_second_process_is_refused_and_may_read(finished):
    code = (
        "import sys; from steerlens.store.run_folder import *\n"
        "try:\n    RunFolder.open(sys.argv[1]).__enter__()\n"
        "except FolderInUse as error: print(error)\n"
        "print(is_finished(sys.argv[1]))"
    )
    ask = [sys.executable, "-c", code, str(finished)]
    with RunFolder.open(finished):
        asked = subprocess.run(ask, capture_output=True, text=True, cwd=ROOT, check=True)
    assert asked.stdout == (
        f"Another process works in {finished}. Wait until it has finished, or stop it, or choose "
        "another results folder.\nTrue\n"
    )


def test_the_lock_is_released_after_an_error(tmp_path):
    with pytest.raises(KeyboardInterrupt), RunFolder.open(tmp_path / "run"):
        raise KeyboardInterrupt
    with RunFolder.open(tmp_path / "run") as folder, \
            pytest.raises(FolderInUse), RunFolder.open(folder.path):  # fmt: skip
        pass


def test_temporary_files_of_a_killed_run_are_removed(tmp_path):
    stale = [temporary_name(tmp_path / "map.json"), temporary_name(tmp_path / "cells" / "1.json")]
    for path in stale:
        path.parent.mkdir(exist_ok=True)
        path.write_text("half")
    kept = write_text(tmp_path / "notes.tmp", "a user's own")
    with RunFolder.open(tmp_path):
        assert not any(path.exists() for path in stale)
    assert kept.exists()


def test_a_folder_with_leftovers_only_is_empty(tmp_path):
    assert is_empty(tmp_path / "new") and is_empty(tmp_path)
    with RunFolder.open(tmp_path):
        temporary_name(tmp_path / "manifest.json").write_text("half")
        assert is_empty(tmp_path)
        write_text(tmp_path / "manifest.json", "{}")
        assert not is_empty(tmp_path)
    with pytest.raises(StorageError, match="is a file, so there is nothing below it"):
        is_empty(tmp_path / "manifest.json")


def test_a_process_that_cannot_lock_removes_nothing(tmp_path):
    with RunFolder.open(tmp_path):
        unfinished = temporary_name(tmp_path / "map.json")
        unfinished.write_text("half")
        with pytest.raises(FolderInUse), RunFolder.open(tmp_path):
            pass
        assert unfinished.exists()
        assert remove_temporaries(tmp_path) == [unfinished]


FAILURES = {
    errno.ENOSPC: "disk or your quota is full. Free some space",
    errno.EROFS: "file system is read-only. Choose another folder",
    errno.EACCES: "no permission. Change the permissions of",
    errno.EFBIG: "larger than the system allows",
    errno.ENOLCK: "does not support this. Choose a folder on a local disk",
    errno.EIO: "Check the disk",
}


@pytest.mark.parametrize("code", FAILURES, ids=errno.errorcode.get)
def test_what_cannot_be_written_is_explained(tmp_path, monkeypatch, code):
    path = write_text(tmp_path / "map.json", "old")

    def fails(descriptor):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(StorageError, match=f"map.json cannot be written: .*{FAILURES[code]}") as e:
        write_text(path, "new")
    assert e.value.errno == code
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["map.json"]


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path):
    write_text(tmp_path / "results", "a file")
    for path in (tmp_path / "results" / "map.json", tmp_path / "results" / "a" / "map.json"):
        with pytest.raises(StorageError, match=r"results is a file, so it cannot be a folder"):
            write_text(path, "new")
    with pytest.raises(StorageError, match=r"results is a file"), \
            RunFolder.open(tmp_path / "results"):  # fmt: skip
        pass
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(StorageError, match=r"link is a link to nothing, so it cannot be a folder"):
        write_text(tmp_path / "link" / "map.json", "new")
    (tmp_path / "map.json").mkdir()
    with pytest.raises(StorageError, match=r"map.json cannot be written: it is a folder"):
        write_text(tmp_path / "map.json", "new")


def test_a_folder_that_cannot_be_locked_is_explained(tmp_path, monkeypatch):
    def fails(self, timeout):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(run_folder.FileLock, "acquire", fails)
    with pytest.raises(StorageError, match=r"\.lock cannot be written: .* read-only"), \
            RunFolder.open(tmp_path):  # fmt: skip
        pass


def test_a_folder_given_by_a_relative_path_is_finished(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with RunFolder.open("results/run") as folder:
        write_text(folder.path / "map.json", "x")
        folder.finish()
    assert is_finished("results/run") and verify("results/run") == []
