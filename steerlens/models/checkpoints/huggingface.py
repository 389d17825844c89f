"""Hugging Face models and directories as HookedTransformers, checked against the original."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.utilities.activation_functions import SUPPORTED_ACTIVATIONS

from steerlens.models.checkpoints.building import build_hooked
from steerlens.models.checkpoints.config import KIND, read_config
from steerlens.models.checkpoints.errors import CheckpointError, MissingCheckpoint, some
from steerlens.models.checkpoints.families import FAMILIES, KNOWN_ARCHITECTURES
from steerlens.models.checkpoints.quiet import no_network, quiet, unchanged_rng
from steerlens.models.checkpoints.tokenizers import (
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
    keep_tokenizer,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def hooked_from_hf(
    hf_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    check: bool = True,
    name: str | None = None,
) -> HookedTransformer:
    """A `HookedTransformer` with the same unprocessed weights; the Hugging Face model is untouched.

    Args:
        tokenizer: Copied, because TransformerLens writes special tokens into it.
        check: Compare logits with the Hugging Face model (one short forward of each).
        name: What `cfg.model_name` says; "custom" by default.

    Raises:
        CheckpointError: If the architecture or one of its options is not known, or the
            logits differ.

    Source: the weight converters of TransformerLens 3.9; the configs are made here, since its own
        are made from the model's name.
    """
    architecture = type(hf_model).__name__
    family = FAMILIES.get(architecture)
    if family is None:
        refuse_architecture(architecture)
    fields, convert = family
    c = hf_model.config
    config: dict[str, Any] = {
        "d_model": c.hidden_size,
        "n_layers": c.num_hidden_layers,
        "n_heads": c.num_attention_heads,
        "d_vocab": c.vocab_size,
        "n_ctx": c.max_position_embeddings,
        "device": str(hf_model.device),
        "dtype": hf_model.dtype,
        "original_architecture": architecture,
        "model_name": name or "custom",
        **fields(c),
    }
    if config["act_fn"] not in SUPPORTED_ACTIVATIONS:
        raise CheckpointError(
            f"This {architecture} uses the activation {config['act_fn']!r}, which TransformerLens "
            f"does not have (it has {', '.join(SUPPORTED_ACTIVATIONS)}). "
            "Pass a TransformerBridge instead (TransformerBridge.boot_transformers)."
        )
    with torch.no_grad():
        parameters = convert(
            hf_model, HookedTransformerConfig(**config, init_weights=False, seed=None)
        )
    if tokenizer is not None and len(tokenizer) > c.vocab_size:
        raise CheckpointError(
            f"The tokenizer has {len(tokenizer)} tokens, but the model embeds {c.vocab_size}. Use "
            "the model's own tokenizer; for padding, set tokenizer.pad_token to one it has."
        )
    # GPT-2 has no such bias, and its converter does not say so.
    parameters.setdefault("unembed.b_U", torch.zeros(c.vocab_size))
    hooked = build_hooked(config, copy.deepcopy(tokenizer), parameters=parameters)
    if check:
        _refuse_other_logits(hooked, hf_model)
    return hooked


def refuse_architecture(architecture: str) -> NoReturn:
    raise CheckpointError(
        f"The architecture {architecture!r} cannot be converted to a HookedTransformer here. Known "
        f"are {', '.join(KNOWN_ARCHITECTURES)}. Pass a TransformerBridge instead: "
        "TransformerBridge.boot_transformers(path)."
    )


def bridge_from_hf(
    hf_model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, name: str = "in-memory"
) -> TransformerBridge:
    """A `TransformerBridge` around a copy of the Hugging Face model, raw weights.

    A Bridge replaces the blocks of the model it is given, hence the copy.
    """
    with unchanged_rng(), quiet():
        return TransformerBridge.boot_transformers(
            name,
            hf_model=copy.deepcopy(hf_model),
            tokenizer=keep_tokenizer(copy.deepcopy(tokenizer)),
            dtype=hf_model.dtype,
            device=str(hf_model.device),
        )


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
    folder = Path(path)
    config = read_config(folder)
    if config.get("kind") == KIND:
        raise CheckpointError(
            f"{str(folder)!r} was written by save_hooked. Load it with load_hooked."
        )
    architecture = named_architecture(config)
    if architecture not in FAMILIES:
        refuse_architecture(architecture)
    return load_directory(
        folder, architecture, folder.resolve().name, device, dtype, check=check, tokenizer=tokenizer
    )


def load_directory(
    folder: Path,
    architecture: str,
    name: str,
    device: str | torch.device,
    dtype: torch.dtype,
    *,
    check: bool = True,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> HookedTransformer:
    if not any(folder.glob("*.safetensors")):
        raise MissingCheckpoint(
            f"{str(folder)!r} has no safetensors weights (it has "
            f"{some(p.name for p in folder.iterdir())}); other formats can run code when read. "
            "Convert it once: AutoModelForCausalLM.from_pretrained(path).save_pretrained(path)."
        )
    _refuse_other_depth(folder)
    with no_network():
        if tokenizer is None:
            tokenizer = _hf_tokenizer(folder)
        hf_model = _hf_model(folder, architecture, device, dtype)
    try:
        return hooked_from_hf(hf_model, tokenizer, check=check, name=name)
    except CheckpointError:
        raise
    except Exception as error:  # whatever a wrong field of config.json leads to
        raise CheckpointError(
            f"{str(folder)!r} cannot be converted: {error}. Its config.json does not describe a "
            f"working {architecture}; copy or save the checkpoint again."
        ) from error


def _refuse_other_depth(folder: Path) -> None:
    """Compares config and file headers, before a model of a wrong size is built."""
    names: set[str] = set()
    try:
        for path in folder.glob("*.safetensors"):
            with safe_open(path, framework="pt") as file:
                names |= set(file.keys())
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"The weights in {str(folder)!r} are damaged ({error}). Copy or save them again."
        ) from error
    layers = (re.search(r"(?:^|\.)(?:h|layers)\.(\d+)\.", name) for name in names)
    held = len({layer.group(1) for layer in layers if layer})
    config = read_config(folder)
    said = config.get("n_layer", config.get("num_hidden_layers", held))
    if said != held:
        raise CheckpointError(
            f"config.json of {str(folder)!r} says {said!r} layers, but its weights have {held}: "
            "they are incomplete or of another model. Copy or save the checkpoint again."
        )


def named_architecture(config: Mapping[str, Any]) -> str:
    """The Hugging Face class a config names; refuses what no text-only route can load."""
    if not config.get("architectures") and not config.get("model_type"):
        raise CheckpointError(
            "config.json names no model ('architectures' and 'model_type' are missing). Pass a "
            "folder written by Hugging Face's save_pretrained."
        )
    if "vision_config" in config or "audio_config" in config:
        raise CheckpointError(
            f"{config.get('architectures') or config.get('model_type')} takes images or sound too. "
            f"Known are text models: {', '.join(KNOWN_ARCHITECTURES)}. For the text part, save it "
            "on its own, or pass a TransformerBridge instead."
        )
    if config.get("quantization_config"):
        raise CheckpointError(
            "The checkpoint is quantised (quantization_config), which is not converted. Use the "
            "unquantised checkpoint, or pass a TransformerBridge instead."
        )
    named = config.get("architectures") or [_by_model_type(str(config.get("model_type")))]
    return str(named[0] if isinstance(named, list) else named)


def _by_model_type(model_type: str) -> str:
    names = {"gpt2": "GPT2LMHeadModel", "gpt_neox": "GPTNeoXForCausalLM"}
    names |= {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM"}
    names |= {"qwen2": "Qwen2ForCausalLM", "gemma2": "Gemma2ForCausalLM"}
    return names.get(model_type, model_type)


def _hf_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    vocabularies = (TOKENIZER_FILE, "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
    if not any((folder / name).exists() for name in vocabularies):
        # AutoTokenizer would make an empty one of the model type's class.
        raise MissingCheckpoint(
            f"{str(folder)!r} has no tokenizer (none of {', '.join(vocabularies)}). Save one there "
            "with tokenizer.save_pretrained(path), or pass tokenizer=."
        )
    loader = AutoTokenizer
    try:
        if (folder / TOKENIZER_FILE).exists() and (folder / TOKENIZER_CONFIG_FILE).exists():
            said = json.loads((folder / TOKENIZER_CONFIG_FILE).read_text(encoding="utf-8"))
            # AutoTokenizer replaces these by the model type's own class (Qwen2's, for one), which
            # splits text differently from what tokenizer.json says.
            if said.get("tokenizer_class") in ("TokenizersBackend", "PreTrainedTokenizerFast"):
                loader = PreTrainedTokenizerFast
        with unchanged_rng(), quiet():
            return loader.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the tokenizers library raises bare Exception
        raise CheckpointError(
            f"No tokenizer could be read from {str(folder)!r}: {error}. Save one there with "
            "tokenizer.save_pretrained(path), or pass tokenizer=."
        ) from error


def _hf_model(
    folder: Path, architecture: str, device: str | torch.device, dtype: torch.dtype
) -> PreTrainedModel:
    import transformers

    try:
        with unchanged_rng(), quiet():
            hf_model, loaded = getattr(transformers, architecture).from_pretrained(
                folder,
                dtype=dtype,
                local_files_only=True,
                use_safetensors=True,
                attn_implementation="eager",  # the one that computes Gemma-2's soft caps
                output_loading_info=True,
            )
    except Exception as error:  # Hugging Face raises whatever a damaged file leads to
        raise CheckpointError(
            f"Hugging Face cannot load {str(folder)!r} as {architecture}: {error}. "
            "Copy or save the checkpoint again."
        ) from error
    # Hugging Face fills what is missing with random numbers and goes on.
    lacking = {k: loaded[k] for k in ("missing_keys", "mismatched_keys") if loaded.get(k)}
    if lacking:
        raise CheckpointError(
            f"The weights in {str(folder)!r} are incomplete or of other shapes than config.json "
            f"says: { ({k: some(map(str, v)) for k, v in lacking.items()}) }. "
            "Copy or save the checkpoint again."
        )
    return hf_model.to(device).eval()


@torch.no_grad()
def logit_difference(hooked: HookedTransformer, hf_model: PreTrainedModel) -> tuple[float, float]:
    """Largest absolute difference of logits between both models, and the largest logit.

    Measured on one row of random tokens (16, or more where a sliding window is short enough to be
    crossed), and on two rows of different length, left-padded, with an explicit mask.
    """
    cfg = hooked.cfg
    length = min(cfg.n_ctx, max(16, (cfg.window_size or 0) + 8), 72)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(cfg.d_vocab, (2, length), generator=generator).to(hf_model.device)
    padded = torch.ones_like(rows)
    padded[1, : length // 3] = 0
    hf_was_training = hf_model.training
    hf_model.eval()
    worst, largest = 0.0, 0.0
    try:
        for tokens, mask in ((rows[:1], padded[:1]), (rows, padded)):
            positions = (mask.cumsum(-1) - 1).clamp(min=0)
            theirs = hf_model(tokens, attention_mask=mask, position_ids=positions).logits
            # The mask is passed in any case: without it padding would be guessed from the ids.
            ours = hooked(tokens, attention_mask=mask)
            shown = mask.bool()
            difference = (ours - theirs.to(ours.device))[shown].float().abs().max().item()
            worst = max(worst, difference if np.isfinite(difference) else float("inf"))
            largest = max(largest, theirs[shown].float().abs().max().item())
    finally:
        hf_model.train(hf_was_training)
    return worst, largest


def _refuse_other_logits(hooked: HookedTransformer, hf_model: PreTrainedModel) -> None:
    """Within 1e-4 in float32, plus rounding: 2e-5 of the largest logit (8-bit mantissas: 5 %)."""
    worst, largest = logit_difference(hooked, hf_model)
    rounding = {torch.float32: 2e-5, torch.float64: 2e-5, torch.float16: 1e-2}
    allowed = 1e-4 + rounding.get(hooked.cfg.dtype, 5e-2) * largest
    if not worst <= allowed:
        raise CheckpointError(
            f"The converted {hooked.cfg.original_architecture} does not compute what Hugging "
            f"Face's computes: logits differ by {worst:.3g}, and at most {allowed:.3g} is rounding "
            f"(largest logit {largest:.3g}). Pass a TransformerBridge instead, and report it."
        )
