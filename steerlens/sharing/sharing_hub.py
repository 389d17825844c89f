"""Vectors on the Hugging Face hub, through huggingface_hub."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from steerlens.directions import Direction
from steerlens.models.checkpoints.hub import why_no_hub
from steerlens.models.model import Model
from steerlens.sharing.shared_folder import (
    CARD,
    ENDINGS,
    SharingError,
    load_shared,
    require_shared,
    save_shared,
)
from steerlens.sharing.vector_card import Effect, Shareable
from steerlens.training import TrainedIntervention


@runtime_checkable
class Hub(Protocol):
    """What is asked of `huggingface_hub.HfApi`."""

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> Any: ...
    def upload_folder(
        self, *, repo_id: str, folder_path: str, commit_message: str, revision: str | None
    ) -> Any: ...
    def list_repo_tree(self, repo_id: str, *, revision: str | None, recursive: bool) -> Any: ...
    def snapshot_download(
        self, repo_id: str, *, revision: str | None, allow_patterns: list[str]
    ) -> str: ...


def push_to_hub(
    shared: Shareable,
    repo_id: str,
    *,
    license: str | None = None,
    effect: Effect | None = None,
    notes: str = "",
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
    hub: Hub | None = None,
) -> str:
    """Uploads a direction or a trained intervention with its card; the address of the repository.

    Args:
        repo_id: "owner/name". A repository that is not there is made.
        license, effect, notes: As in `vector_card`.
        private: Whether a new repository is private.
        revision: A branch, if not the default one.
        token: Of your account; by default the one that `hf auth login` keeps.
        hub: Another client of the hub, with the methods of `huggingface_hub.HfApi`.

    Raises:
        SharingError: If the name is no repository's, the hub cannot be reached, or refuses.
        CardError: If the effect is not of this vector.
    """
    _require_name(repo_id)
    with tempfile.TemporaryDirectory() as made:
        folder = save_shared(
            shared, Path(made) / "shared", name=repo_id, license=license, effect=effect, notes=notes
        )
        client = hub or _client(
            repo_id, token, "uploaded",
            "Write the folder with save_shared, and upload it where there is a network: "
            f"hf upload {repo_id} FOLDER",
        )  # fmt: skip
        try:
            address = client.create_repo(repo_id, private=private, exist_ok=True)
            client.upload_folder(
                repo_id=repo_id, folder_path=str(folder), revision=revision,
                commit_message="A vector of steerlens",
            )  # fmt: skip
        except (OSError, ValueError) as error:  # of the client: refusals, names, the network
            raise SharingError(
                f"{repo_id!r} could not be uploaded: {_first_line(error)}. Write the folder with "
                "save_shared, and upload it where there is access: hf upload owner/name folder."
            ) from error
    return str(address)


def from_hub(
    repo_id: str,
    model: Model | None = None,
    *,
    revision: str | None = None,
    form: Any = None,
    token: str | None = None,
    hub: Hub | None = None,
) -> Direction | TrainedIntervention:
    """Downloads and reads what `push_to_hub` uploaded; what is in the local cache is not asked for.

    Nothing that could run is downloaded: safetensors, JSON, CSV and the card alone.

    Args:
        repo_id: "owner/name".
        model: The model to use it on, as in `load_shared`.
        revision: A branch, tag or commit. Name a commit to be sure of always the same vector.

    Raises:
        SharingError: If the hub cannot be reached, or the repository was not made by `push_to_hub`,
            or a file is damaged.
        DirectionError: If the direction does not fit the model.
        TrainingError: If the trained intervention does not.
    """
    _require_name(repo_id)
    folder = None if hub is not None else _cached(repo_id, revision)
    if folder is None:
        client = hub or _client(
            repo_id, token, "downloaded",
            f"Download it where there is a network (hf download {repo_id}), or have the folder of "
            "save_shared handed over, and read it with load_shared.",
        )  # fmt: skip
        try:
            tree = client.list_repo_tree(repo_id, revision=revision, recursive=False)
            sizes = {str(one.path): int(getattr(one, "size", 0) or 0) for one in tree}
            require_shared(sizes, repo_id)
            patterns = [*(f"*{ending}" for ending in ENDINGS), CARD]
            folder = client.snapshot_download(repo_id, revision=revision, allow_patterns=patterns)
        except SharingError:
            raise
        except (OSError, ValueError) as error:
            raise SharingError(
                f"{repo_id!r} could not be downloaded: {_first_line(error)}."
            ) from error
    return load_shared(folder, model, form=form)


def _cached(repo_id: str, revision: str | None) -> str | None:
    """The local copy at a commit, which cannot have changed; None where there is none."""
    from huggingface_hub import snapshot_download

    if revision is None or len(revision) != 40:
        return None  # a branch may have moved
    try:
        return snapshot_download(repo_id, revision=revision, local_files_only=True)
    except (OSError, ValueError):
        return None


def _client(repo_id: str, token: str | None, done: str, instead: str) -> Hub:
    """The hub's own client, where the hub answers within seconds.

    Args:
        done, instead: What the client is for, and what to do without it, for the error.
    """
    from huggingface_hub import HfApi

    if why := why_no_hub():
        raise SharingError(f"{repo_id!r} cannot be {done}: {why}. {instead}")
    client: Any = HfApi(token=token)
    return client


def _require_name(repo_id: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise SharingError(f"{repo_id!r:.100} is no repository: {_first_line(error)}") from error
    if repo_id.count("/") != 1:
        raise SharingError(f"{repo_id!r:.100} names no owner. Write owner/name.")


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")
