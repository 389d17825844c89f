"""Writing files so that a killed run leaves the old file or the new one, never half of one."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TEMPORARY = ".steerlens-tmp"
"""How the name of every unfinished file or folder ends. Its first character is a dot."""


class StorageError(OSError):
    """A file or folder that cannot be written or read. The message says why, and what to do."""


class DamagedFile(ValueError):
    """A file that is not what was written, or states that it is something else."""


def write_bytes(path: Path, content: bytes) -> Path:
    """Writes a file atomically, making its folder if needed.

    Raises:
        StorageError: If it cannot be written; an older file at this place stays as it was.
    """
    require_home(path)
    with explained(path):
        make_folder(path.parent)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a folder")
        unfinished = temporary_name(path)
        try:
            with open(unfinished, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        except BaseException:
            with suppress(OSError):
                unfinished.unlink()
            raise
    return path


def write_text(path: Path, content: str) -> Path:
    """`write_bytes` for UTF-8 text."""
    return write_bytes(path, content.encode("utf-8"))


def read_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
        FileNotFoundError: If there is no such file.
        StorageError: If it cannot be read.
    """
    with explained(path, "read"):
        return path.read_bytes()


def require_file(path: Path | str) -> Path:
    """The path with "~" expanded, if a regular file is there, which can be read to its end.

    Call it before a path that a user gave is opened: opening a FIFO waits for a writer, and a
    device may never end.

    Raises:
        FileNotFoundError: If there is nothing.
        StorageError: If it is a folder, a FIFO, a device or a socket, or a circle of links.
    """
    path = expanded(path)
    with explained(path, "read"):
        try:
            mode = path.stat().st_mode
        except ValueError as error:  # a NUL character in the name
            raise FileNotFoundError(errno.ENOENT, f"no file can have this name: {error}") from error
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, "is a folder")
    if not stat.S_ISREG(mode):
        raise StorageError(
            f"{path} cannot be read: it is {_kind(mode)}, not a file with an end. Copy its content "
            "to a file first, and give that."
        )
    return path


def expanded(path: Path | str) -> Path:
    """The path with "~" replaced by the home folder; of a user that is not known it stays."""
    return Path(os.path.expanduser(path))


def require_home(path: Path) -> None:
    """Raises StorageError before a folder named "~user" is made where no home folder is known."""
    first = path.parts[0] if path.parts else ""
    if first.startswith("~") and not os.path.lexists(first):
        raise StorageError(
            f"{path} cannot be written: no user {first[1:]!r} with a home folder is known here. "
            "Write the whole path, or ~/ for your own home folder."
        )


def _kind(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a FIFO"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"


def make_folder(folder: Path) -> Path:
    """Makes a folder and those above it where they are missing.

    Raises:
        StorageError: If that is not possible.
    """
    require_home(folder)
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes.

    Raises:
        FileNotFoundError: If there is no such file.
        StorageError: If it cannot be read.
    """
    found = hashlib.sha256()
    with explained(path, "read"), open(path, "rb") as file:
        while part := file.read(1 << 20):
            found.update(part)
    return found.hexdigest()


def temporary_name(path: Path) -> Path:
    """A new name beside a path for what is not finished yet, which `remove_temporaries` knows."""
    return path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}{TEMPORARY}")


def remove_file(path: Path) -> None:
    """Removes a file if it is there.

    Raises:
        StorageError: If it cannot be removed.
    """
    with explained(path, "removed"):
        path.unlink(missing_ok=True)


def remove_temporaries(folder: Path) -> list[Path]:
    """Removes the unfinished files and folders that killed processes left in a folder and below it.

    Call it only while holding the folder's lock (`RunFolder` does), since the unfinished file of a
    process that still writes looks the same.

    Returns:
        What was removed.
    """
    stale = sorted(folder.rglob(f".*{TEMPORARY}"))
    for path in stale:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            remove_file(path)
    return stale


@contextmanager
def explained(path: Path, done: str = "written") -> Iterator[None]:
    """Turns the system's errors into a `StorageError` that names the path and says what to do.

    Args:
        done: What is done to the path: "written", "read" or "removed". That a file to be read does
            not exist stays a FileNotFoundError.
    """
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        if isinstance(error, FileNotFoundError) and done == "read":
            raise
        explanation = StorageError(f"{path} cannot be {done}: {_reason(path, error, done)}")
        explanation.errno = error.errno
        raise explanation from error


def _reason(path: Path, error: OSError, done: str) -> str:
    """Why, and what to do."""
    code = error.errno
    if code in (errno.ENOSPC, errno.EDQUOT):
        return (
            "the disk or your quota is full. Free some space, or choose a folder on another disk."
        )
    if code == errno.EFBIG:
        return "the file is larger than the system allows. Raise the limit (ulimit -f)."
    if code == errno.EROFS:
        return "the file system is read-only. Choose another folder."
    if code in (errno.EACCES, errno.EPERM):
        where = path if done == "read" else path.parent
        return (
            f"you have no permission. Change the permissions of {where}, or choose another place."
        )
    if code == errno.EISDIR:
        if done == "read":
            return "it is a folder. Give the path of a file."
        return "it is a folder. Choose another name, or move the folder away."
    if code in (errno.ENOTDIR, errno.EEXIST):
        found = (p for p in (path, *path.parents) if os.path.lexists(p) and not p.is_dir())
        file = next(found, path)
        what = "a file" if file.exists() else "a link to nothing"
        if done == "read":
            return f"{file} is {what}, so there is nothing below it. Check the path."
        return f"{file} is {what}, so it cannot be a folder. Choose another folder."
    if code in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
        return "the file system does not support this. Choose a folder on a local disk."
    if code == errno.ELOOP:
        return "it is a circle of symbolic links. Point the link to a file."
    if code == errno.ENAMETOOLONG:
        return "its name is too long. Choose a shorter one."
    if code == errno.EMFILE:
        return "too many files are open. Raise the limit (ulimit -n)."
    return f"{error.strerror or error}. Check the disk and the path."
