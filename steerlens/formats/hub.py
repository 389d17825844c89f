"""Datasets from the Hugging Face hub by name; without a network the answer comes in seconds."""

from __future__ import annotations

import os
import re
import socket
import threading
from urllib.parse import urlsplit
from urllib.request import getproxies

from steerlens.formats.drafts import Content
from steerlens.formats.text import ContrastError

_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_PATIENCE = 4.0  # seconds to wait for a first connection


def is_hub_name(name: str) -> bool:
    """Whether a text could be owner/name on the hub (and not a path with a file suffix)."""
    suffixes = (".json", ".jsonl", ".csv", ".tsv", ".txt", ".parquet", ".yaml", ".yml")
    return (
        _NAME.fullmatch(name) is not None
        and not name.startswith(".")
        and not name.endswith(suffixes)
    )


def reachable(url: str, patience: float = _PATIENCE) -> bool:
    """Whether a connection to the host (or to the proxy that leads there) opens in time."""
    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme)
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

    # Looking up a name has no timeout of its own, so it waits on another thread.
    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(patience)
    return opened.is_set()


def read_hub(name: str, split: str, config: str | None, revision: str | None) -> Content:
    """The rows of a hub dataset, from the network or from the local cache.

    Raises:
        ContrastError: If `datasets` is missing, the hub cannot be reached and nothing is cached, or
            the hub refuses the name, config or split.
    """
    try:
        import datasets
        import huggingface_hub
    except ImportError as error:
        raise ContrastError(
            f"{name!r} is no local file; loading it from the hub needs: pip install datasets."
        ) from error
    told_offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
    offline = told_offline or not reachable(huggingface_hub.constants.ENDPOINT)
    hint = (
        "HF_HUB_OFFLINE is set" if told_offline else f"no connection within {_PATIENCE:.0f} s"
    ) if offline else ""  # fmt: skip
    try:
        table = datasets.load_dataset(
            name,
            config,
            split=split,
            revision=revision,
            download_config=datasets.DownloadConfig(local_files_only=True) if offline else None,
        )
    except (
        OSError,
        ValueError,
        RuntimeError,
        ImportError,
        datasets.exceptions.DatasetsError,
    ) as error:
        first = str(error).strip().split("\n")[0][:300]
        if offline:
            raise ContrastError(
                f"{name!r} is no local file, and the hub cannot be asked ({hint}); it is not in "
                f"the local cache either ({first}). Check the path, connect, or download the files and "
                "load them by path."
            ) from error
        raise ContrastError(
            f"The hub did not give {name!r} with config={config!r}, split={split!r}, "
            f"revision={revision!r}: {first}"
        ) from error
    return Content(f"hub:{name}", "hub", table.to_list())
