"""Why a model cannot be loaded: one error to catch, and two kinds that Python has names for."""

from __future__ import annotations

from collections.abc import Iterable

from steerlens.store.files import DamagedFile


class CheckpointError(ValueError):
    """A model cannot be loaded or built from what was given."""


class NotConverted(CheckpointError):
    """A Hugging Face model that has no HookedTransformer here; a TransformerBridge may do."""


class MissingCheckpoint(CheckpointError, FileNotFoundError):
    """The folder or one of its files is not there."""


class DamagedCheckpoint(CheckpointError, DamagedFile):
    """A file is not what was saved."""


class UnreachableHub(CheckpointError, ConnectionError):
    """The hub does not answer, and the model is not in its local cache."""


def some(names: Iterable[str], limit: int = 4) -> str:
    """The first few names, for a message."""
    listed = sorted(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return f"{', '.join(listed[:limit])}{more}" if listed else "none"
