"""Local Hugging Face folders: as HookedTransformers, or as TransformerBridges where there is none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformer_lens import HookedTransformer
from transformer_lens.model_bridge import TransformerBridge

from steerlens.models.checkpoints.config import KIND, read_config
from steerlens.models.checkpoints.converting import (
    hooked_from_hf,
    model_from_hf,
    refuse_architecture,
)
from steerlens.models.checkpoints.errors import CheckpointError
from steerlens.models.checkpoints.families import FAMILIES
from steerlens.models.checkpoints.hf_folders import (
    named_architecture,
    read_model,
    read_tokenizer,
    require_causal,
    require_weights,
    stated_start,
)
from steerlens.store.files import expanded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_hf_directory(
    path: Path | str,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    check: bool = True,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> HookedTransformer:
    """Loads a local Hugging Face directory as a `HookedTransformer`, without any network.

    Args:
        dtype: What the weights are cast to; float16 checkpoints load as float32 by default.
        check: Compare logits with Hugging Face's, unpadded and left-padded, and refuse a model
            that differs. Costs two short forwards of each.
        tokenizer: Instead of the directory's own.

    Raises:
        MissingCheckpoint: If the folder, its config, weights or tokenizer are missing.
        CheckpointError: If the architecture is not known, a file is damaged or incomplete, or the
            logits differ.
    """
    folder = expanded(path)
    config = _config(folder)
    architecture = named_architecture(config)
    if architecture not in FAMILIES:
        refuse_architecture(architecture)
    require_weights(folder, architecture, config)
    starts = None
    if tokenizer is None:
        tokenizer = read_tokenizer(folder)
        starts = stated_start(folder, tokenizer)
    hf_model = read_model(folder, architecture, device, dtype)
    try:
        return hooked_from_hf(
            hf_model, tokenizer, check=check, name=folder.resolve().name, prepend_bos=starts
        )
    except CheckpointError:
        raise
    except Exception as error:  # whatever a wrong field of config.json leads to
        raise _not_described(folder, architecture, error) from error


def load_hf_model(
    path: Path | str,
    *,
    name: str | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> HookedTransformer | TransformerBridge:
    """Loads a local Hugging Face directory of any causal language model, without any network.

    It becomes a `HookedTransformer` where the architecture and its options are known, and else a
    `TransformerBridge`. Either is compared with Hugging Face's logits.

    Args:
        name: What the model is called; the folder's name by default.
        dtype: What the weights are cast to; float16 checkpoints load as float32 by default.

    Raises:
        MissingCheckpoint: If the folder, its config, weights or tokenizer are missing.
        CheckpointError: If it is no causal language model, needs code of its own, a file is
            damaged or incomplete, or the logits differ.
    """
    folder = expanded(path)
    config = _config(folder)
    architecture = named_architecture(config)
    require_causal(architecture, config)
    require_weights(folder, architecture, config)
    tokenizer = read_tokenizer(folder)
    hf_model = read_model(folder, architecture, device, dtype)
    try:
        return model_from_hf(
            hf_model, tokenizer, name=name or folder.resolve().name,
            prepend_bos=stated_start(folder, tokenizer),
        )  # fmt: skip
    except CheckpointError:
        raise
    except Exception as error:  # whatever a wrong field of config.json leads to
        raise _not_described(folder, architecture, error) from error


def _config(folder: Path) -> Mapping[str, Any]:
    config = read_config(folder)
    if config.get("kind") == KIND:
        raise CheckpointError(
            f"{str(folder)!r} was written by save_hooked. Load it with load_hooked."
        )
    return config


def _not_described(folder: Path, architecture: str, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{str(folder)!r} cannot be converted: {error}. Its config.json does not describe a "
        f"working {architecture}; copy or save the checkpoint again."
    )
