"""A Hugging Face model as a HookedTransformer or a TransformerBridge, compared with the original."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np
import torch
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.utilities.activation_functions import SUPPORTED_ACTIVATIONS

from steerlens.models.checkpoints.building import build_hooked
from steerlens.models.checkpoints.errors import CheckpointError, NotConverted
from steerlens.models.checkpoints.families import FAMILIES, KNOWN_ARCHITECTURES
from steerlens.models.checkpoints.quiet import quiet, unchanged_rng
from steerlens.models.checkpoints.text_conventions import (
    generation_ends,
    prepends_bos,
    state_ends,
)
from steerlens.models.checkpoints.tokenizers import keep_tokenizer, named_tokens_kept

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def hooked_from_hf(
    hf_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    check: bool = True,
    name: str | None = None,
    prepend_bos: bool | None = None,
) -> HookedTransformer:
    """A `HookedTransformer` with the same unprocessed weights; the Hugging Face model is untouched.

    Args:
        tokenizer: Copied, because TransformerLens writes special tokens into it.
        check: Compare logits with the Hugging Face model (one short forward of each).
        name: What `cfg.model_name` says; "custom" by default.
        prepend_bos: Whether plain texts start with BOS; by default as the tokenizer has it
            (`prepends_bos`).

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
        raise NotConverted(
            f"This {architecture} uses the activation {config['act_fn']!r}, which TransformerLens "
            f"does not have (it has {', '.join(SUPPORTED_ACTIVATIONS)}). "
            "Pass a TransformerBridge instead (TransformerBridge.boot_transformers)."
        )
    _require_vocabulary(hf_model, tokenizer)
    with torch.no_grad():
        parameters = convert(
            hf_model, HookedTransformerConfig(**config, init_weights=False, seed=None)
        )
    if tokenizer is not None:
        starts = prepends_bos(tokenizer, architecture) if prepend_bos is None else prepend_bos
        config["default_prepend_bos"] = starts
    # GPT-2 has no such bias, and its converter does not say so.
    parameters.setdefault("unembed.b_U", torch.zeros(c.vocab_size))
    hooked = build_hooked(config, copy.deepcopy(tokenizer), parameters=parameters)
    if tokenizer is not None:
        state_ends(hooked, generation_ends(hf_model, tokenizer))
    if check:
        _require_same_logits(hooked, reference_logits(hf_model), architecture)
    return hooked


def refuse_architecture(architecture: str) -> NoReturn:
    raise NotConverted(
        f"The architecture {architecture!r} cannot be converted to a HookedTransformer here. Known "
        f"are {', '.join(KNOWN_ARCHITECTURES)}. Pass a TransformerBridge instead: "
        "TransformerBridge.boot_transformers(path)."
    )


def bridge_from_hf(
    hf_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    name: str = "in-memory",
    keep: bool = True,
    check: bool = True,
    prepend_bos: bool | None = None,
) -> TransformerBridge:
    """A `TransformerBridge` around the Hugging Face model, raw weights.

    Args:
        keep: A bridge replaces the blocks of the model that it is given, so it gets a copy; with
            False it gets the model itself, which is of no other use afterwards.
        check: Compare logits with the Hugging Face model's before it was bridged.
        prepend_bos: Whether plain texts start with BOS; by default as the tokenizer has it.

    Raises:
        CheckpointError: If TransformerLens has no bridge for the architecture, or the logits
            differ.
    """
    architecture = type(hf_model).__name__
    if hf_model.config.get_text_config() is not hf_model.config:
        raise CheckpointError(
            f"{architecture} takes images or sound too. Pass its text model on its own."
        )
    _require_vocabulary(hf_model, tokenizer)
    references = reference_logits(hf_model)[:1] if check else []
    own = keep_tokenizer(copy.deepcopy(tokenizer))
    with unchanged_rng(), quiet(), torch.inference_mode(False), named_tokens_kept(own):
        inside = copy.deepcopy(hf_model) if keep else hf_model
        inside.config.architectures = [architecture]  # a config that was never saved has none
        try:
            bridge = TransformerBridge.boot_transformers(
                name,
                hf_model=inside,
                tokenizer=own,
                dtype=hf_model.dtype,
                device=str(hf_model.device),
                trust_remote_code=False,
            )
        except Exception as error:  # whatever an architecture without a bridge leads to
            raise CheckpointError(
                f"TransformerLens cannot make a TransformerBridge of {architecture}: {error}. Use "
                f"a checkpoint of another architecture; {', '.join(KNOWN_ARCHITECTURES)} load as "
                "HookedTransformers."
            ) from error
    starts = prepends_bos(tokenizer, architecture) if prepend_bos is None else prepend_bos
    bridge.cfg.default_prepend_bos = starts
    _require_same_logits(bridge, references, architecture)
    return bridge


def model_from_hf(
    hf_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    name: str,
    prepend_bos: bool | None = None,
) -> HookedTransformer | TransformerBridge:
    """A `HookedTransformer`, or a `TransformerBridge` where there is no equal one.

    The Hugging Face model is of no other use afterwards.

    Args:
        prepend_bos: Whether plain texts start with BOS; by default as the tokenizer has it.

    Raises:
        CheckpointError: If it can be neither, or the logits differ.
    """
    try:
        return hooked_from_hf(hf_model, tokenizer, name=name, prepend_bos=prepend_bos)
    except NotConverted as error:
        reason = str(error)
    try:
        return bridge_from_hf(hf_model, tokenizer, name=name, keep=False, prepend_bos=prepend_bos)
    except CheckpointError as error:
        raise CheckpointError(f"{error} As a HookedTransformer: {reason}") from error


def _require_vocabulary(
    hf_model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None
) -> None:
    size = hf_model.config.vocab_size
    if tokenizer is not None and len(tokenizer) > size:
        raise CheckpointError(
            f"The tokenizer has {len(tokenizer)} tokens, but the model embeds {size}. Use "
            "the model's own tokenizer; for padding, set tokenizer.pad_token to one it has."
        )


class Reference(NamedTuple):
    """What a Hugging Face model answers to a few random tokens."""

    tokens: Tensor
    mask: Tensor
    logits: Tensor


@torch.no_grad()
def reference_logits(hf_model: PreTrainedModel) -> list[Reference]:
    """Logits of one row of random tokens, and of two rows of different length, left-padded.

    A row has 16 tokens, or more where a sliding window is short enough to be crossed. The second
    is left out for models that take no positions.
    """
    c = hf_model.config
    n_ctx = next(
        (n for k in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
         if isinstance(n := getattr(c, k, None), int)),
        2048,
    )  # fmt: skip
    window = getattr(c, "sliding_window", None) or 0
    length = min(n_ctx, max(16, window + 8), 72)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(c.vocab_size, (2, length), generator=generator).to(hf_model.device)
    padded = torch.ones_like(rows)
    padded[1, : length // 3] = 0
    batches = [(rows[:1], padded[:1]), (rows, padded)]
    positioned = "position_ids" in inspect.signature(hf_model.forward).parameters
    was_training = hf_model.training
    hf_model.eval()
    found = []
    try:
        for tokens, mask in batches if positioned else batches[:1]:
            positions = {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)} if positioned else {}
            logits = hf_model(tokens, attention_mask=mask, **positions).logits
            found.append(Reference(tokens, mask, logits))
    finally:
        hf_model.train(was_training)
    return found


@torch.no_grad()
def _difference(model: Any, references: Sequence[Reference]) -> tuple[float, float]:
    worst, largest = 0.0, 0.0
    for tokens, mask, theirs in references:
        # The mask is passed in any case: without it padding would be guessed from the ids.
        ours = model(tokens, attention_mask=mask)
        shown = mask.bool()
        difference = (ours - theirs.to(ours.device))[shown].float().abs().max().item()
        worst = max(worst, difference if np.isfinite(difference) else float("inf"))
        largest = max(largest, theirs[shown].float().abs().max().item())
    return worst, largest


def logit_difference(
    model: HookedTransformer | TransformerBridge, hf_model: PreTrainedModel
) -> tuple[float, float]:
    """Largest absolute difference of logits between both models, and the largest logit.

    Measured on the rows of `reference_logits`.
    """
    return _difference(model, reference_logits(hf_model))


def _require_same_logits(model: Any, references: Sequence[Reference], architecture: str) -> None:
    """Within 1e-4 in float32, plus rounding: 2e-5 of the largest logit (8-bit mantissas: 5 %)."""
    other = "The HookedTransformer" if isinstance(model, HookedTransformer) else "The bridge"
    try:
        worst, largest = _difference(model, references)
    except Exception as error:  # whatever an unusual option of an architecture leads to
        raise NotConverted(
            f"{other} of this {architecture} cannot be run: {type(error).__name__}: {error}. Use a "
            "checkpoint with other options, or of another architecture."
        ) from error
    rounding = {torch.float32: 2e-5, torch.float64: 2e-5, torch.float16: 1e-2}
    allowed = 1e-4 + rounding.get(model.cfg.dtype, 5e-2) * largest
    if not worst <= allowed:
        raise NotConverted(
            f"{other} of this {architecture} does not compute what Hugging "
            f"Face's computes: logits differ by {worst:.3g}, and at most {allowed:.3g} is rounding "
            f"(largest logit {largest:.3g}). Report it, with the config of the checkpoint."
        )
