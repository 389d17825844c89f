"""Published SAEs by release and id: from the cache, or from the hub.

Where neither has one, the error comes within seconds.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable
from typing import Any

from steerlens.models.checkpoints.hub import require_hub
from steerlens.models.checkpoints.quiet import no_network
from steerlens.saes.sae_config import require_steerable
from steerlens.saes.sae_errors import SAEError
from steerlens.saes.sae_lens_library import sae_lens


def releases(model: str = "") -> dict[str, tuple[str, ...]]:
    """The published releases that sae_lens lists, with the ids in each; needs no network.

    Args:
        model: Only those of this model, as sae_lens spells it ("gpt2-small", "gemma-2-2b").

    Raises:
        SAEError: If there is none for the model.
    """
    table = _table()
    found = {r: tuple(e.saes_map) for r, e in table.items() if model in ("", e.model)}
    if not found:
        raise SAEError(
            f"sae_lens lists no release for {model!r}. "
            f"{_near(model, {entry.model for entry in table.values()})}"
        )
    return found


def load_release(
    release: str, sae_id: str, device: str = "cpu", dtype: str = "float32"
) -> tuple[Any, str]:
    """A published SAE, and its name.

    Its config is read first, so an SAE that cannot steer a residual stream is refused before its
    weights are downloaded.

    Args:
        release: A release of `releases`, or a repository on the hub in sae_lens's own format.

    Raises:
        SAEError: If there is no such SAE, or it cannot steer a residual stream.
        UnreachableHub: If it is not cached and the hub cannot be reached.
    """
    lens = sae_lens()
    table = _table()
    name = f"{release}/{sae_id}"
    if release in table and sae_id not in table[release].saes_map:
        raise SAEError(
            f"Release {release!r} has no SAE {sae_id!r}. {_near(sae_id, table[release].saes_map)}"
        )
    if release not in table and "/" not in release:
        raise SAEError(f"sae_lens lists no release {release!r}. {_near(release, table)}")

    def read() -> Any:
        from sae_lens.loading.pretrained_sae_loaders import load_sae_config_from_huggingface

        require_steerable(
            lens.SAEConfig.from_dict(load_sae_config_from_huggingface(release, sae_id))
        )
        with warnings.catch_warnings():
            # It says how to load the model, which `SAE.require_fits` checks.
            warnings.filterwarnings("ignore", r"\s*This SAE has non-empty", UserWarning)
            return lens.SAE.from_pretrained(release, sae_id, device=device, dtype=dtype)

    try:
        with no_network():
            return read(), name
    except OSError:  # what huggingface_hub and its clients raise where something is not cached
        require_hub(
            f"{name} (repository {table[release].repo_id if release in table else release})"
        )
    try:
        return read(), name
    except (OSError, KeyError) as error:
        raise SAEError(
            f"{name} cannot be read from the hub: {error}. Check the id, and whether the repository "
            "asks you to log in (hf auth login)."
        ) from error


def _table() -> dict[str, Any]:
    sae_lens()
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    return get_pretrained_saes_directory()


def _near(name: str, known: Iterable[str]) -> str:
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=4, cutoff=0.4)
    return f"Use {', '.join(map(repr, near or known[:4]))}, or another of its {len(known)}."
