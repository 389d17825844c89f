"""Models by their name on the hub; quick to fail where there is no network."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import torch
from transformer_lens import HookedTransformer
from transformer_lens.model_bridge import TransformerBridge

from steerlens.models.checkpoints.config import CONFIG_FILE, read_config, read_json
from steerlens.models.checkpoints.errors import CheckpointError, UnreachableHub
from steerlens.models.checkpoints.hf_folders import (
    INDEX_FILE,
    named_architecture,
    require_causal,
)
from steerlens.models.checkpoints.huggingface import load_hf_model
from steerlens.models.checkpoints.quiet import no_network
from steerlens.models.checkpoints.tokenizers import TOKENIZER_FILE

_HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
_HUB_OTHERS = ["*/*", "consolidated*"]


def load_hub(
    name: str,
    *,
    revision: str | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> HookedTransformer | TransformerBridge:
    """Loads a model by its hub name, unprocessed.

    Args:
        name: A repository ("EleutherAI/pythia-70m") or a TransformerLens alias ("pythia-70m").
        revision: A branch, tag or commit; the default branch if None.

    Returns:
        A `HookedTransformer` of the six families of `KNOWN_ARCHITECTURES`, else a
        `TransformerBridge`; either is compared with Hugging Face's logits.

    Raises:
        UnreachableHub: If the hub does not answer within seconds and the files are not cached.
        CheckpointError: If there is no such model, or it cannot be loaded.
    """
    repo = official_name(name) or name
    cached = _cached_snapshot(repo, revision)
    if cached is None:
        require_hub(name)
    # Whole in the cache, it is loaded without asking the hub, which may not be there to answer.
    with contextlib.nullcontext() if cached is None else no_network():
        # The config alone first: weights of what cannot be loaded are not downloaded.
        config = read_config(cached or _download(repo, revision, [CONFIG_FILE], None))
        require_causal(named_architecture(config), config)
        folder = cached or _download(repo, revision, _HUB_FILES, _HUB_OTHERS)
        return load_hf_model(folder, name=repo, device=device, dtype=dtype)


def official_name(name: str) -> str | None:
    """The repository of a name or alias that TransformerLens knows; None for any other name."""
    from transformer_lens.loading_from_pretrained import get_official_model_name

    try:
        return get_official_model_name(name)
    except ValueError:
        return None


def _cached_snapshot(repo: str, revision: str | None) -> Path | None:
    """The local folder of a cached model if its weights and tokenizer are whole, or None."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(repo, revision=revision, local_files_only=True))
    except HFValidationError as error:
        raise CheckpointError(
            f"{repo!r} is neither a folder here nor a hub name ({error}). Pass an existing folder, "
            "or a name like 'gpt2' or 'EleutherAI/pythia-70m'."
        ) from error
    except (LocalEntryNotFoundError, FileNotFoundError):
        return None
    if not (folder / CONFIG_FILE).exists():
        return None
    shards = {"model.safetensors"}
    if (folder / INDEX_FILE).exists():
        listed = read_json(folder / INDEX_FILE).get("weight_map")
        shards = set(map(str, listed.values())) if isinstance(listed, dict) else shards
    tokenizer = any(
        (folder / f).exists() for f in (TOKENIZER_FILE, "tokenizer.model", "vocab.json")
    )
    return folder if tokenizer and all((folder / s).exists() for s in shards) else None


def require_hub(name: str, seconds: float = 4.0) -> None:
    """Fails within seconds where the hub's own client would retry for minutes."""
    from huggingface_hub import constants

    if why := why_no_hub(seconds):
        raise UnreachableHub(
            f"{name!r} is not in the local cache, and {why}. Download it where there is a network "
            "(hf download <name>) and pass the folder, or copy that machine's cache to "
            f"{constants.HF_HUB_CACHE}."
        )


def why_no_hub(seconds: float = 4.0) -> str:
    """Why the hub cannot be asked, as half a sentence; "" where it answers."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    outcome: list[str] = [f"no answer in {seconds:.0f} s"]

    def ask() -> None:
        try:
            get_session().head(constants.ENDPOINT, timeout=seconds)
            outcome[0] = ""
        except Exception as error:  # any failure to connect, of whichever client library
            outcome[0] = str(error) or type(error).__name__

    # In a thread, because looking up an address ignores the client's timeout.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return outcome[0] and f"the hub at {constants.ENDPOINT} cannot be reached ({outcome[0]})"


def _download(repo: str, revision: str | None, allow: list[str], ignore: list[str] | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(repo, revision=revision, allow_patterns=allow, ignore_patterns=ignore)
        )
    except LocalEntryNotFoundError as error:
        raise UnreachableHub(
            f"The hub stopped answering while {repo!r} was downloaded ({error}). Run it again; "
            "what has arrived is kept."
        ) from error
    except HfHubHTTPError as error:
        raise CheckpointError(
            f"The hub refuses {repo!r} (revision {revision or 'default'}): {error}. Check the "
            "name, the revision, and whether it asks you to log in (hf auth login)."
        ) from error
