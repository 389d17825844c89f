"""Which sites a wrapped model has, and whose hooks mean what their names say."""

from __future__ import annotations

import warnings
from typing import Any

from steerlens.models.measured import measured
from steerlens.sites import Site


class Streams:
    """The sites of one wrapped model. Warns, when it is made, of hooks that mean another thing."""

    def __init__(self, wrapped: Any, name: str, *, is_bridge: bool) -> None:
        self._wrapped, self._name, self._is_bridge = wrapped, name, is_bridge
        for reason in set(self.untrusted.values()):
            warnings.warn(reason, stacklevel=4)

    @property
    def untrusted(self) -> dict[str, str]:
        """Streams whose hooks mean something else than their names say, each with the reason."""
        return measured(self._wrapped).untrusted

    def require(self, site: Site) -> None:
        """Raises ValueError if the model has no such site, or its hook is not trusted."""
        n_layers = self._wrapped.cfg.n_layers
        if site.layer >= n_layers:
            raise ValueError(
                f"Layer {site.layer} is not in {self._name!r}, which has layers 0-"
                f"{n_layers - 1}. Use layer={n_layers - 1} for the last."
            )
        if self._is_bridge and site.stream == "resid_mid":
            raise ValueError(
                "resid_mid means the whole stream on a HookedTransformer but only the MLP's branch "
                "on a TransformerBridge, so steering there would differ silently. "
                "Use attn_out, which means the same on both."
            )
        if self._is_bridge and site.is_inside:
            raise ValueError(
                f"{site} is inside a sublayer, and what a TransformerBridge's hooks there hold is "
                "not checked. Use a HookedTransformer, or a stream of width d_model."
            )
        if site.hook not in self._wrapped.hook_dict:
            raise ValueError(
                f"{self._name!r} has no hook {site.hook!r} (its blocks have "
                f"{', '.join(self._names())}). Use one of these streams."
            )
        if site.stream in self.untrusted:
            raise ValueError(self.untrusted[site.stream])

    def width(self, site: Site) -> int:
        """How wide a site is."""
        cfg = self._wrapped.cfg
        if site.stream == "mlp_post":
            return cfg.d_mlp
        if site.is_inside:
            few = cfg.n_key_value_heads if site.stream in ("k", "v") else None
            return (few or cfg.n_heads) * cfg.d_head
        return cfg.d_model

    def _names(self) -> list[str]:
        start, hooks = "blocks.0.hook_", self._wrapped.hook_dict
        return [name.removeprefix(start) for name in hooks if name.startswith(start)]
