"""The door to sae_lens, an optional dependency: opened when it is needed, and quietly."""

from __future__ import annotations

import warnings
from functools import cache
from types import ModuleType


@cache
def sae_lens() -> ModuleType:
    """The sae_lens package.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        with warnings.catch_warnings():
            # It imports a module that TransformerLens has deprecated; nothing of ours is meant.
            warnings.simplefilter("ignore", DeprecationWarning)
            import sae_lens as module
    except ImportError as error:
        raise ImportError(
            f"Sparse autoencoders need sae-lens, which cannot be imported ({error}). "
            "Install it: pip install 'steerlens[sae]'."
        ) from error
    return module
