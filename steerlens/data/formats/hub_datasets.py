"""Datasets of the Hugging Face hub by name; without a network they are refused in seconds."""

from __future__ import annotations

import re
import socket
import threading
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from steerlens.data.formats.drafts import Content
from steerlens.data.formats.text import ContrastError, shortened

_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_PATIENCE = 4.0  # seconds to wait for a first connection
_NEEDS_DATASETS = (
    "{name!r} is not a local file, and loading it from the hub needs: pip install datasets."
)


def is_hub_name(name: str) -> bool:
    """Whether a text could be owner/name on the hub (and not a path with a file suffix)."""
    suffixes = (".json", ".jsonl", ".csv", ".tsv", ".txt", ".parquet", ".yaml", ".yml")
    return (
        _NAME.fullmatch(name) is not None
        and not name.startswith(".")
        and not name.endswith(suffixes)
    )


def reachable(url: str, patience: float = _PATIENCE) -> bool:
    """Whether a connection to the host, or to its proxy, opens in time."""
    parts = urlsplit(url)
    proxy = None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)
    if proxy:
        parts = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    host, port = parts.hostname, parts.port or (80 if parts.scheme == "http" else 443)
    opened = threading.Event()

    def knock() -> None:
        try:
            socket.create_connection((host, port), timeout=patience).close()
        except OSError:
            return
        opened.set()

    # Looking up a name has no timeout of its own, so another thread does it.
    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(patience)
    return opened.is_set()


def read_hub(name: str, split: str, config: str | None, revision: str | None) -> Content:
    """The rows of a hub dataset, from the network or from the local cache.

    Raises:
        ContrastError: If `datasets` is missing, the hub cannot be reached, or it (the cache, when
            HF_HUB_OFFLINE is set) does not have that name, config, split and revision.
    """
    try:
        from huggingface_hub import constants
    except ImportError as error:
        raise ContrastError(_NEEDS_DATASETS.format(name=name)) from error
    offline = bool(constants.HF_HUB_OFFLINE)
    if not offline and not reachable(constants.ENDPOINT):
        raise ContrastError(
            f"{name!r} is not a local file, and {constants.ENDPOINT} cannot be reached. Check the "
            "path or the network; or download the files and load them by path; or, if the dataset "
            "was loaded here before, start Python with HF_HUB_OFFLINE=1 to use the cache."
        )
    try:
        import datasets
    except ImportError as error:
        raise ContrastError(_NEEDS_DATASETS.format(name=name)) from error
    try:
        rows = datasets.load_dataset(name, config, split=split, revision=revision).to_list()
    except Exception as error:  # of the network, the cache, or whatever the dataset's files hold
        first = shortened(str(error).strip().split("\n")[0], 300)
        place = "The local cache (HF_HUB_OFFLINE is set)" if offline else "The hub"
        raise ContrastError(
            f"{place} did not return {name!r} with config={config!r}, split={split!r}, "
            f"revision={revision!r}: {first}. Check the name, or pass config=… and split=…."
        ) from error
    return Content(f"hub:{name}", "hub", rows)
