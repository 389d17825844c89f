"""A HookedTransformer from config fields and parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig

from steerlens.models.checkpoints.errors import CheckpointError, some
from steerlens.models.checkpoints.quiet import quiet, unchanged_rng
from steerlens.models.checkpoints.tokenizers import keep_tokenizer, named_tokens_kept

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def build_hooked(
    config: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    parameters: Mapping[str, Tensor] | None = None,
    seed: int = 0,
) -> HookedTransformer:
    """A `HookedTransformer` from config fields, in evaluation mode.

    Args:
        config: Fields of `HookedTransformerConfig`; `device` is "cpu" unless given.
        tokenizer: Used as it is (the very object), so that `model.tokenizer` is what was passed.
            TransformerLens writes a missing padding token into it.
        parameters: Every parameter by its TransformerLens name; cast to the config's dtype.
            Without it the weights are TransformerLens's random initialisation under `seed`.
        seed: Seeds that initialisation only. The global random state is left as it was.

    Raises:
        CheckpointError: If the config is refused, or names or shapes of the parameters differ from
            what the config says.
    """
    fields = {
        "device": "cpu",
        **config,
        "seed": None,
        "init_weights": parameters is None,
        "tokenizer_name": None,  # else TransformerLens fetches a tokenizer by that name
    }
    if tokenizer is not None:
        keep_tokenizer(tokenizer)
    with unchanged_rng(), quiet(), torch.inference_mode(False), named_tokens_kept(tokenizer):
        torch.manual_seed(seed)
        try:
            model = HookedTransformer(HookedTransformerConfig(**fields), tokenizer=tokenizer)
        except Exception as error:  # TransformerLens raises whatever a wrong field leads to
            raise CheckpointError(
                f"TransformerLens refuses the model config {dict(config)!r}: {error}. "
                "Correct the fields it names."
            ) from error
        if parameters is not None:
            _set_parameters(model, parameters)
    return model.eval()


def _set_parameters(model: HookedTransformer, parameters: Mapping[str, Tensor]) -> None:
    wanted = {name: tuple(p.shape) for name, p in model.named_parameters()}
    given = {name: tuple(p.shape) for name, p in parameters.items()}
    if wanted != given:
        raise CheckpointError(
            "The parameters do not fit the config: "
            f"missing {some(wanted.keys() - given.keys())}, "
            f"unknown {some(given.keys() - wanted.keys())}, other shapes "
            f"{some(n for n in wanted.keys() & given.keys() if wanted[n] != given[n])}. "
            "Pass exactly the parameters of this architecture, in TransformerLens's names."
        )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(parameters[name])
