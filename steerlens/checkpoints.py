"""Models on disk and from elsewhere, as `HookedTransformer`s with unprocessed weights.

Three doors: our own folders (`save_hooked`, `load_hooked`), Hugging Face directories and models
(`load_hf_directory`, `hooked_from_hf`), and names on the hub (`load_hub`). Nothing here unpickles,
nothing disturbs the global random state, and a local path never touches the network.

With `steerlens.model` this is the only file that imports TransformerLens.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import json
import random
import shutil
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.config.hooked_transformer_config import SUPPORTED_ACTIVATIONS
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.pretrained.weight_conversions import (
    convert_gemma_weights,
    convert_gpt2_weights,
    convert_llama_weights,
    convert_mistral_weights,
    convert_neox_weights,
    convert_qwen2_weights,
)

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

KIND = "hooked_transformer"
"""The `kind` that config.json of our own folders states."""

_WEIGHTS, _CONFIG = "model.safetensors", "config.json"
_TOKENIZER, _TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
_OUR_FILES = frozenset({_WEIGHTS, _CONFIG, _TOKENIZER, _TOKENIZER_CONFIG})

_NOT_STORED = frozenset(
    {"device", "dtype", "seed", "init_weights", "tokenizer_name", "n_devices", "n_params"}
)
"""Facts of one process or one construction, not of the model."""

_NOT_FINGERPRINTED = _NOT_STORED | frozenset(
    {
        "model_name",
        "init_mode",
        "initializer_range",
        "default_prepend_bos",
        "tokenizer_prepends_bos",
        "use_attn_result",
        "use_split_qkv_input",
        "use_attn_in",
        "use_hook_mlp_in",
        "use_hook_tokens",
        "ungroup_grouped_query_attention",
    }
)
"""Config fields that cannot change an activation for given token ids."""


# Quiet and without side effects ---------------------------------------------------------------


@contextlib.contextmanager
def unchanged_rng() -> Iterator[None]:
    """Puts the python, numpy and torch random states back as they were.

    Building a model consumes or re-seeds them: `HookedTransformerConfig(seed=...)` re-seeds all
    three, and every Hugging Face model draws its initial weights even when they are overwritten.
    """
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No prints, progress bars or notices that `HookedTransformer` is deprecated."""
    from transformers.utils import logging

    bar, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            # Messages are matched from their start; any other warning still gets through.
            warnings.filterwarnings("ignore", r"HookedTransformer", DeprecationWarning)
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


@contextlib.contextmanager
def _no_network() -> Iterator[None]:
    """Hugging Face's own offline mode, for as long as a local model is read.

    Without it even a local path can cause requests, and without a network these are retried for
    minutes.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


# Building -------------------------------------------------------------------------------------


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
            TransformerLens writes missing special tokens into it.
        parameters: Every parameter by its TransformerLens name; cast to the config's dtype.
            Without it the weights are TransformerLens's random initialisation under `seed`.
        seed: Seeds that initialisation only. The global random state is left as it was.

    Raises:
        ValueError: If the config is refused, or names or shapes of the parameters differ from
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
    with unchanged_rng(), _quiet():
        torch.manual_seed(seed)
        try:
            model = HookedTransformer(HookedTransformerConfig(**fields), tokenizer=tokenizer)
        except Exception as error:  # TransformerLens raises whatever a wrong field leads to
            raise ValueError(
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
        raise ValueError(
            "The parameters do not fit the config: "
            f"missing {_some(wanted.keys() - given.keys())}, "
            f"unknown {_some(given.keys() - wanted.keys())}, other shapes "
            f"{_some(n for n in wanted.keys() & given.keys() if wanted[n] != given[n])}. "
            "Pass exactly the parameters of this architecture, in TransformerLens's names."
        )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(parameters[name])


def _some(names: Any, limit: int = 4) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return f"{', '.join(listed[:limit])}{more}" if listed else "none"


def keep_tokenizer(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Marks a tokenizer so that TransformerLens takes it as it is, and returns it.

    Otherwise `set_tokenizer` loads another one by `name_or_path`, from disk or the network. The
    marks are read by TransformerLens only; the tokenizer's own behaviour does not change.
    """
    tokenizer.init_kwargs.setdefault("name_or_path", tokenizer.name_or_path or "in-memory")
    tokenizer.init_kwargs["add_bos_token"] = True
    return tokenizer


def word_tokenizer(
    words: Sequence[str],
    *,
    padding_side: Literal["left", "right"] = "right",
    bos: bool = True,
) -> PreTrainedTokenizerBase:
    """A tokenizer with one token per whitespace-separated word.

    Ids 0 to 3 are <pad>, <unk>, <bos>, <eos>; the words follow in their order. A leading space
    changes nothing: " yes" and "yes" are the same token.

    Args:
        bos: Whether `tokenizer(text)` itself prepends <bos>, as Llama's does and GPT-2's does not.

    Raises:
        ValueError: If a word is repeated, empty, or contains white space.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<unk>", "<bos>", "<eos>"]
    vocabulary = {token: i for i, token in enumerate([*special, *words])}
    if len(vocabulary) != len(special) + len(words) or any(w.split() != [w] for w in words):
        odd = sorted({w for w in words if w.split() != [w] or list(words).count(w) > 1})
        raise ValueError(
            f"Words must be different, not empty, and without white space, but got {odd or words}."
            " Pass each word once, split at spaces."
        )
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if bos:
        core.post_processor = processors.TemplateProcessing(
            single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", 2)]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
        padding_side=padding_side,
        name_or_path="word-level",
    )
    return keep_tokenizer(tokenizer)


# Our own folders ------------------------------------------------------------------------------


def checkpoint_kind(folder: Path | str) -> str:
    """What kind of checkpoint a folder holds: "hooked" (ours) or "huggingface".

    Raises:
        FileNotFoundError: If there is no such folder or it has no config.json.
        ValueError: If config.json is not JSON, or the folder holds an adapter.
    """
    return "hooked" if _read_config(Path(folder)).get("kind") == KIND else "huggingface"


def _read_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise FileNotFoundError(
            f"{str(folder)!r} {what}, so no model can be read from it. Pass the folder that holds "
            f"{_CONFIG} and {_WEIGHTS}."
        )
    path = folder / _CONFIG
    if not path.is_file():
        if (folder / "adapter_config.json").exists():
            raise ValueError(
                f"{str(folder)!r} holds an adapter (adapter_config.json), not a whole model. "
                "Merge it into its base model first (peft: merge_and_unload, save_pretrained)."
            )
        raise FileNotFoundError(
            f"{str(folder)!r} has no {_CONFIG} (it has {_some(p.name for p in folder.iterdir())}). "
            "Pass a folder written by save_hooked, or by Hugging Face's save_pretrained."
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{str(path)!r} is not JSON ({error}). Copy or save the model again."
        ) from error
    if not isinstance(config, dict):
        raise ValueError(
            f"{str(path)!r} holds a {type(config).__name__}, but a model's config is an object. "
            "Copy or save the model again."
        )
    return config


def save_hooked(
    model: HookedTransformer, folder: Path | str, *, dtype: torch.dtype | None = None
) -> Path:
    """Saves a model as safetensors, config.json and tokenizer files; `load_hooked` reads it.

    Buffers (masks, rotary tables) are not stored, since the config rebuilds them. The folder
    appears whole or not at all; an older checkpoint of ours at the same place is replaced.

    Args:
        dtype: What the weights are stored in; the model's own by default. `torch.float16` halves
            the size and rounds.

    Raises:
        FileExistsError: If `folder` holds anything that is not such a checkpoint.
        TypeError: If `model` is not a `HookedTransformer`, or its tokenizer has no fast backend.
    """
    if not isinstance(model, HookedTransformer):
        raise TypeError(
            f"save_hooked got a {type(model).__name__}, but only a HookedTransformer has the "
            "weight names it stores. Save a TransformerBridge with its own "
            "original_model.save_pretrained."
        )
    folder = Path(folder)
    if folder.exists() and (
        not folder.is_dir() or not {p.name for p in folder.iterdir()} <= _OUR_FILES
    ):
        raise FileExistsError(
            f"{str(folder)!r} exists and holds other things than a saved model, which saving "
            "would delete. Choose a new folder."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        stored = {  # a copy each, since safetensors refuses tensors that share memory
            name: p.detach().to("cpu", dtype or p.dtype, copy=True).contiguous()
            for name, p in model.named_parameters()
        }
        save_file(stored, scratch / _WEIGHTS)
        config = {k: v for k, v in _plain(model.cfg.to_dict()).items() if k not in _NOT_STORED}
        _write_json(scratch / _CONFIG, {"kind": KIND, "version": 1, "config": config})
        if model.tokenizer is not None:
            _save_tokenizer(model.tokenizer, scratch)
        for path in scratch.iterdir():
            path.chmod(0o644)
        scratch.chmod(0o755)  # mkdtemp makes it private; checkpoints are meant to be shared
        _move_into_place(scratch, folder)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return folder


def _move_into_place(scratch: Path, folder: Path) -> None:
    if not folder.exists():
        scratch.rename(folder)
        return
    old = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.old."))
    folder.rename(old / "model")  # a folder cannot be replaced in one step; it is kept until then
    try:
        scratch.rename(folder)
    except BaseException:
        (old / "model").rename(folder)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _plain(value: Any) -> Any:
    """JSON's types only: numpy numbers become numbers, dtypes and devices become names."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if hasattr(value, "item"):
        return value.item()
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    return str(value)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


_SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token")


def _save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    from tokenizers import Tokenizer

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise TypeError(
            f"The tokenizer {type(tokenizer).__name__} has no fast backend, so it cannot be "
            "stored as tokenizer.json. Load the model with a fast tokenizer (use_fast=True)."
        )
    # Its padding and truncation are left over from the last call; they are no part of it.
    backend = Tokenizer.from_str(backend.to_str())
    backend.no_padding()
    backend.no_truncation()
    backend.save(str(folder / _TOKENIZER))
    facts: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "padding_side": tokenizer.padding_side,
    }
    facts |= {k: str(v) for k in _SPECIAL if (v := getattr(tokenizer, k, None)) is not None}
    if tokenizer.model_max_length < 10**12:  # the library's "no limit" is 10**30
        facts["model_max_length"] = tokenizer.model_max_length
    if getattr(tokenizer, "chat_template", None):
        facts["chat_template"] = tokenizer.chat_template
    _write_json(folder / _TOKENIZER_CONFIG, facts)


def _load_tokenizer(folder: Path) -> PreTrainedTokenizerBase | None:
    if not (folder / _TOKENIZER).exists():
        return None
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    known = {"padding_side", "model_max_length", "chat_template", *_SPECIAL}
    try:
        facts = json.loads((folder / _TOKENIZER_CONFIG).read_text(encoding="utf-8"))
        facts = {k: v for k, v in facts.items() if k in known}
        backend = Tokenizer.from_str((folder / _TOKENIZER).read_text(encoding="utf-8"))
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=backend, name_or_path=folder.name, **facts
        )
    except Exception as error:  # the tokenizers library raises bare Exception
        raise ValueError(
            f"The tokenizer files in {str(folder)!r} cannot be read: {error}. Save the model again."
        ) from error
    return keep_tokenizer(tokenizer)


def load_hooked(
    folder: Path | str,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> HookedTransformer:
    """Loads what `save_hooked` wrote, with its tokenizer, in evaluation mode.

    Args:
        dtype: Weights are cast to it; loading in the stored dtype is bit exact.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged, of another kind, or config and weights disagree.
    """
    folder = Path(folder)
    stored = _read_config(folder)
    config = stored.get("config")
    if stored.get("kind") != KIND or not isinstance(config, dict):
        raise ValueError(
            f"{str(folder)!r} was not written by save_hooked (its config.json has no "
            f'"kind": "{KIND}"). Load a Hugging Face directory with load_hf_directory.'
        )
    if stored.get("version") != 1:
        raise ValueError(
            f"{str(folder)!r} has format version {stored.get('version')!r}, but this steerlens "
            "reads version 1. Update steerlens, or save the model again with this one."
        )
    path = folder / _WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(f"{str(folder)!r} has no {_WEIGHTS}. Save or copy the model again.")
    try:
        _refuse_other_sizes(config, path)
        parameters = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{str(path)!r} is damaged or not a safetensors file ({error}). Save or copy it again."
        ) from error
    known = HookedTransformerConfig.__dataclass_fields__.keys()
    if unknown := config.keys() - known:
        raise ValueError(
            f"{str(folder)!r} has config fields that this TransformerLens does not know: "
            f"{_some(unknown)}. Install the TransformerLens version that steerlens pins."
        )
    fields = {k: v for k, v in config.items() if k not in _NOT_STORED}
    return build_hooked(
        {**fields, "device": str(device), "dtype": dtype},
        _load_tokenizer(folder),
        parameters=parameters,
    )


def _refuse_other_sizes(config: Mapping[str, Any], path: Path) -> None:
    """Compares the config with the file's header, before a model of a wrong size is built."""
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
        embed = file.get_slice("embed.W_E").get_shape() if "embed.W_E" in names else None
    blocks = len({n.split(".")[1] for n in names if n.startswith("blocks.")})
    said = [config.get("n_layers"), config.get("d_vocab"), config.get("d_model")]
    held = [blocks, *(embed or (None, None))]
    if said != held:
        raise ValueError(
            f"config.json says n_layers, d_vocab, d_model = {said}, but {str(path)!r} holds {held}:"
            " they are of two models. Save or copy the model again."
        )


# Hugging Face: configs ------------------------------------------------------------------------


def _rope(c: Any, **local: Any) -> dict[str, Any]:
    """Rotary fields; only kinds whose TransformerLens form equals Hugging Face's (tested)."""
    rope = getattr(c, "rope_parameters", None) or {}
    kind = rope.get("rope_type", "default")
    fields: dict[str, Any] = {
        "positional_embedding_type": "rotary",
        "rotary_adjacent_pairs": False,
        "rotary_base": rope.get("rope_theta", getattr(c, "rope_theta", None) or 10000.0),
    }
    if kind == "llama3":
        fields |= {
            "use_NTK_by_parts_rope": True,
            "NTK_by_parts_factor": rope["factor"],
            "NTK_by_parts_low_freq_factor": rope["low_freq_factor"],
            "NTK_by_parts_high_freq_factor": rope["high_freq_factor"],
            "NTK_original_ctx_len": rope["original_max_position_embeddings"],
        }
    elif kind == "linear" and not local.get("use_local_attn"):
        # TransformerLens leaves local layers unscaled, Hugging Face scales them all.
        fields["rotary_scaling_factor"] = rope["factor"]
    elif kind != "default":
        raise ValueError(
            f"This checkpoint uses the rotary scaling {kind!r} ({rope}), which is not converted. "
            "Known are 'default', 'llama3' and, without sliding windows, 'linear'. "
            "Pass a TransformerBridge instead (TransformerBridge.boot_transformers)."
        )
    return fields | local


def _refuse(c: Any, **unsupported: bool) -> None:
    for field, present in unsupported.items():
        if present:
            raise ValueError(
                f"This {c.model_type} checkpoint has {field}={getattr(c, field, None)!r}, which "
                "TransformerLens's weight converter leaves out. Pass a TransformerBridge instead "
                "(TransformerBridge.boot_transformers)."
            )


def _gpt2(c: Any) -> dict[str, Any]:
    _refuse(c, add_cross_attention=bool(getattr(c, "add_cross_attention", False)))
    return {
        "d_head": c.n_embd // c.n_head,
        "d_mlp": c.n_inner or 4 * c.n_embd,
        "eps": c.layer_norm_epsilon,
        "act_fn": c.activation_function,
        "use_attn_scale": c.scale_attn_weights,
        "scale_attn_by_inverse_layer_idx": c.scale_attn_by_inverse_layer_idx,
        "normalization_type": "LN",
    }


def _neox(c: Any) -> dict[str, Any]:
    _refuse(c, attention_bias=not getattr(c, "attention_bias", True))
    d_head = c.hidden_size // c.num_attention_heads
    rope = getattr(c, "rope_parameters", None) or {}
    part = rope.get("partial_rotary_factor", getattr(c, "rotary_pct", 0.25))
    return {
        "d_head": d_head,
        "d_mlp": c.intermediate_size,
        "eps": c.layer_norm_eps,
        "act_fn": c.hidden_act,
        "parallel_attn_mlp": c.use_parallel_residual,
        "normalization_type": "LN",
        "default_prepend_bos": False,  # these models were trained without BOS
        **_rope(c, rotary_dim=int(part * d_head)),
    }


def _rms_gated(c: Any, act_fn: str, **local: Any) -> dict[str, Any]:
    d_head = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    return {
        "d_head": d_head,
        "d_mlp": c.intermediate_size,
        "eps": c.rms_norm_eps,
        "act_fn": act_fn,
        "n_key_value_heads": c.num_key_value_heads,
        "normalization_type": "RMS",
        "final_rms": True,
        "gated_mlp": True,
        **_rope(c, rotary_dim=d_head, **local),
    }


def _window(c: Any, layer_types: list[str]) -> dict[str, Any]:
    if "sliding_attention" not in layer_types:
        return {}
    return {
        "use_local_attn": True,
        "window_size": c.sliding_window,
        "attn_types": ["local" if t == "sliding_attention" else "global" for t in layer_types],
    }


def _llama(c: Any) -> dict[str, Any]:
    _refuse(
        c,
        attention_bias=bool(getattr(c, "attention_bias", False)),
        mlp_bias=bool(getattr(c, "mlp_bias", False)),
    )
    return _rms_gated(c, c.hidden_act)


def _mistral(c: Any) -> dict[str, Any]:
    kind = "sliding_attention" if c.sliding_window else "full_attention"
    return _rms_gated(c, c.hidden_act, **_window(c, [kind] * c.num_hidden_layers))


def _qwen2(c: Any) -> dict[str, Any]:
    window = _window(c, list(c.layer_types)) if c.use_sliding_window else {}
    return _rms_gated(c, c.hidden_act, **window) | {"default_prepend_bos": False}


def _gemma2(c: Any) -> dict[str, Any]:
    _refuse(
        c,
        attention_bias=bool(getattr(c, "attention_bias", False)),
        use_bidirectional_attention=bool(getattr(c, "use_bidirectional_attention", False)),
    )
    return _rms_gated(c, c.hidden_activation, **_window(c, list(c.layer_types))) | {
        "use_normalization_before_and_after": True,
        "attn_scale": c.query_pre_attn_scalar**0.5,
        "attn_scores_soft_cap": c.attn_logit_softcapping or -1.0,
        "output_logits_soft_cap": c.final_logit_softcapping or -1.0,
    }


_FAMILIES: dict[str, tuple[Callable[[Any], dict[str, Any]], Callable[..., dict[str, Tensor]]]] = {
    "GPT2LMHeadModel": (_gpt2, convert_gpt2_weights),
    "GPTNeoXForCausalLM": (_neox, convert_neox_weights),
    "LlamaForCausalLM": (_llama, convert_llama_weights),
    "MistralForCausalLM": (_mistral, convert_mistral_weights),
    "Qwen2ForCausalLM": (_qwen2, convert_qwen2_weights),
    "Gemma2ForCausalLM": (_gemma2, convert_gemma_weights),
}

KNOWN_ARCHITECTURES = tuple(sorted(_FAMILIES))
"""Hugging Face classes that `load_hf_directory` and `hooked_from_hf` convert."""


# Hugging Face: models -------------------------------------------------------------------------


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
        ValueError: If the architecture or one of its options is not known, or the logits differ.

    Source: the weight converters of TransformerLens 3.9; the configs are made here, since its own
        are made from the model's name.
    """
    architecture = type(hf_model).__name__
    family = _FAMILIES.get(architecture)
    if family is None:
        _refuse_architecture(architecture)
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
        raise ValueError(
            f"This {architecture} uses the activation {config['act_fn']!r}, which TransformerLens "
            f"does not have (it has {', '.join(SUPPORTED_ACTIVATIONS)}). "
            "Pass a TransformerBridge instead (TransformerBridge.boot_transformers)."
        )
    with torch.no_grad():
        parameters = convert(
            hf_model, HookedTransformerConfig(**config, init_weights=False, seed=None)
        )
    if tokenizer is not None and len(tokenizer) > c.vocab_size:
        raise ValueError(
            f"The tokenizer has {len(tokenizer)} tokens, but the model embeds {c.vocab_size}. Use "
            "the model's own tokenizer; for padding, set tokenizer.pad_token to one it has."
        )
    # GPT-2 has no such bias, and its converter does not say so.
    parameters.setdefault("unembed.b_U", torch.zeros(c.vocab_size))
    hooked = build_hooked(config, copy.deepcopy(tokenizer), parameters=parameters)
    if check:
        _refuse_other_logits(hooked, hf_model)
    return hooked


def _refuse_architecture(architecture: str) -> Any:
    raise ValueError(
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
    with unchanged_rng(), _quiet():
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
        FileNotFoundError: If the folder, its config, weights or tokenizer are missing.
        ValueError: If the architecture is not known, a file is damaged or incomplete, or the
            logits differ.
    """
    folder = Path(path)
    config = _read_config(folder)
    if config.get("kind") == KIND:
        raise ValueError(f"{str(folder)!r} was written by save_hooked. Load it with load_hooked.")
    architecture = _architecture(config)
    if architecture not in _FAMILIES:
        _refuse_architecture(architecture)
    return _load_directory(
        folder, architecture, folder.resolve().name, device, dtype, check=check, tokenizer=tokenizer
    )


def _load_directory(
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
        raise FileNotFoundError(
            f"{str(folder)!r} has no safetensors weights (it has "
            f"{_some(p.name for p in folder.iterdir())}); other formats can run code when read. "
            "Convert it once: AutoModelForCausalLM.from_pretrained(path).save_pretrained(path)."
        )
    with _no_network():
        if tokenizer is None:
            tokenizer = _hf_tokenizer(folder)
        hf_model = _hf_model(folder, architecture, device, dtype)
    return hooked_from_hf(hf_model, tokenizer, check=check, name=name)


def _architecture(config: Mapping[str, Any]) -> str:
    """The Hugging Face class a config names; refuses what no text-only route can load."""
    if not config.get("architectures") and not config.get("model_type"):
        raise ValueError(
            "config.json names no model ('architectures' and 'model_type' are missing). Pass a "
            "folder written by Hugging Face's save_pretrained."
        )
    if "vision_config" in config or "audio_config" in config:
        raise ValueError(
            f"{config.get('architectures') or config.get('model_type')} takes images or sound too. "
            f"Known are text models: {', '.join(KNOWN_ARCHITECTURES)}. For the text part, save it "
            "on its own, or pass a TransformerBridge instead."
        )
    if config.get("quantization_config"):
        raise ValueError(
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

    vocabularies = (_TOKENIZER, "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
    if not any((folder / name).exists() for name in vocabularies):
        # AutoTokenizer would make an empty one of the model type's class.
        raise FileNotFoundError(
            f"{str(folder)!r} has no tokenizer (none of {', '.join(vocabularies)}). Save one there "
            "with tokenizer.save_pretrained(path), or pass tokenizer=."
        )
    loader = AutoTokenizer
    try:
        if (folder / _TOKENIZER).exists() and (folder / _TOKENIZER_CONFIG).exists():
            said = json.loads((folder / _TOKENIZER_CONFIG).read_text(encoding="utf-8"))
            # AutoTokenizer replaces these by the model type's own class (Qwen2's, for one), which
            # splits text differently from what tokenizer.json says.
            if said.get("tokenizer_class") in ("TokenizersBackend", "PreTrainedTokenizerFast"):
                loader = PreTrainedTokenizerFast
        with unchanged_rng(), _quiet():
            return loader.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the tokenizers library raises bare Exception
        raise ValueError(
            f"No tokenizer could be read from {str(folder)!r}: {error}. Save one there with "
            "tokenizer.save_pretrained(path), or pass tokenizer=."
        ) from error


def _hf_model(
    folder: Path, architecture: str, device: str | torch.device, dtype: torch.dtype
) -> PreTrainedModel:
    import transformers

    try:
        with unchanged_rng(), _quiet():
            hf_model, loaded = getattr(transformers, architecture).from_pretrained(
                folder,
                dtype=dtype,
                local_files_only=True,
                use_safetensors=True,
                attn_implementation="eager",  # the one that computes Gemma-2's soft caps
                output_loading_info=True,
            )
    except Exception as error:  # Hugging Face raises whatever a damaged file leads to
        raise ValueError(
            f"Hugging Face cannot load {str(folder)!r} as {architecture}: {error}. "
            "Copy or save the checkpoint again."
        ) from error
    # Hugging Face fills what is missing with random numbers and goes on.
    lacking = {k: loaded[k] for k in ("missing_keys", "mismatched_keys") if loaded.get(k)}
    if lacking:
        raise ValueError(
            f"The weights in {str(folder)!r} are incomplete or of other shapes than config.json "
            f"says: { ({k: _some(map(str, v)) for k, v in lacking.items()}) }. "
            "Copy or save the checkpoint again."
        )
    return hf_model.to(device).eval()


# Hugging Face: the check ----------------------------------------------------------------------


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
        raise ValueError(
            f"The converted {hooked.cfg.original_architecture} does not compute what Hugging "
            f"Face's computes: logits differ by {worst:.3g}, and at most {allowed:.3g} is rounding "
            f"(largest logit {largest:.3g}). Pass a TransformerBridge instead, and report it."
        )


# The hub --------------------------------------------------------------------------------------

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
        A `HookedTransformer` where TransformerLens has the architecture, else a
        `TransformerBridge`. The six families of `KNOWN_ARCHITECTURES` go through
        `load_hf_directory` and are checked against Hugging Face.

    Raises:
        ConnectionError: If the hub does not answer within seconds and the files are not cached.
        ValueError: If there is no such model, or it cannot be loaded.
    """
    known_to_lens, repo = _official_name(name)
    cached = _cached_snapshot(repo, revision)
    if cached is None:
        _require_hub(name)
    # Whole in the cache, it is loaded without asking the hub, which may not be there to answer.
    with contextlib.nullcontext() if cached is None else _no_network():
        config = _read_config(cached or _download(repo, revision, [_CONFIG], None))
        architecture = _architecture(config)
        if architecture in _FAMILIES:
            folder = cached or _download(repo, revision, _HUB_FILES, _HUB_OTHERS)
            return _load_directory(folder, architecture, repo, device, dtype)
        with unchanged_rng(), _quiet():
            if known_to_lens and revision is None:
                return HookedTransformer.from_pretrained_no_processing(
                    name, device=str(device), dtype=dtype
                ).eval()
            return TransformerBridge.boot_transformers(
                str(cached or repo),
                device=str(device),
                dtype=dtype,
                revision=None if cached else revision,
            )


def _official_name(name: str) -> tuple[bool, str]:
    from transformer_lens.loading_from_pretrained import get_official_model_name

    try:
        return True, get_official_model_name(name)
    except ValueError:
        return False, name


def _cached_snapshot(repo: str, revision: str | None) -> Path | None:
    """The local folder of a cached model if its weights and tokenizer are whole, or None."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(repo, revision=revision, local_files_only=True))
    except HFValidationError as error:
        raise ValueError(
            f"{repo!r} is neither a folder here nor a hub name ({error}). Pass an existing folder, "
            "or a name like 'gpt2' or 'EleutherAI/pythia-70m'."
        ) from error
    except (LocalEntryNotFoundError, FileNotFoundError):
        return None
    if not (folder / _CONFIG).exists():
        return None
    index = folder / "model.safetensors.index.json"
    shards = {"model.safetensors"}
    if index.exists():
        shards = set(json.loads(index.read_text())["weight_map"].values())
    tokenizer = any((folder / f).exists() for f in (_TOKENIZER, "tokenizer.model", "vocab.json"))
    return folder if tokenizer and all((folder / s).exists() for s in shards) else None


def _require_hub(name: str, seconds: float = 4.0) -> None:
    """Fails within seconds where the hub's own client would retry for minutes."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    advice = (
        "Download it where there is a network (hf download <name>) and pass the folder, or copy "
        f"that machine's cache to {constants.HF_HUB_CACHE}."
    )
    if constants.HF_HUB_OFFLINE:
        raise ConnectionError(
            f"{name!r} is not in the local cache, and HF_HUB_OFFLINE is set. {advice}"
        )
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
    if outcome[0]:
        raise ConnectionError(
            f"{name!r} is not in the local cache, and the hub at {constants.ENDPOINT} cannot be "
            f"reached ({outcome[0]}). {advice}"
        )


def _download(repo: str, revision: str | None, allow: list[str], ignore: list[str] | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(repo, revision=revision, allow_patterns=allow, ignore_patterns=ignore)
        )
    except LocalEntryNotFoundError as error:
        raise ConnectionError(
            f"The hub stopped answering while {repo!r} was downloaded ({error}). Run it again; "
            "what has arrived is kept."
        ) from error
    except HfHubHTTPError as error:
        raise ValueError(
            f"The hub refuses {repo!r} (revision {revision or 'default'}): {error}. Check the "
            "name, the revision, and whether it asks you to log in (hf auth login)."
        ) from error


# Facts about a model --------------------------------------------------------------------------


def weights_processing(model: HookedTransformer | TransformerBridge) -> str:
    """Which weight processing a model carries, as far as its weights tell.

    Returns:
        "raw", or those of "fold_ln", "center_writing_weights", "center_unembed" and
        "fold_value_biases" that were found, joined by "+", in this order. Centring of writing
        weights is looked for on LayerNorm models only, where TransformerLens does it. Folded value
        biases are seen only where query or key biases show that there were some. A
        `TransformerBridge` in compatibility mode says "bridge_compatibility": whether its weights
        were processed is not recorded in it.
    """
    if isinstance(model, TransformerBridge):
        return "bridge_compatibility" if model.compatibility_mode else "raw"
    kind = model.cfg.normalization_type
    attentions = [block.attn for block in model.blocks]
    found = []
    if kind in ("LNPre", "RMSPre"):
        found.append("fold_ln")
    if kind in ("LN", "LNPre") and not model.cfg.final_rms:
        writers = [model.W_E, *(attn.W_O for attn in attentions)]
        writers += [] if model.cfg.attn_only else [block.mlp.W_out for block in model.blocks]
        if all(_centred(w, -1) for w in writers):
            found.append("center_writing_weights")
    if _centred(model.W_U, -1):
        found.append("center_unembed")
    biased = any(bool(attn.b_Q.any()) or bool(attn.b_K.any()) for attn in attentions)
    if biased and not any(bool(attn.b_V.any()) for attn in attentions):
        found.append("fold_value_biases")
    return "+".join(found) or "raw"


def _centred(weights: Tensor, dim: int) -> bool:
    """Whether means along `dim` are rounding errors.

    The mean of n independent weights of size s is about s/sqrt(n); after centring in float32 and
    rounding to bfloat16 it is 500 times smaller.
    """
    w = weights.detach().float()
    means = w.mean(dim).square().mean().sqrt() * w.shape[dim] ** 0.5
    size = w.square().mean().sqrt()
    return bool(size > 0) and bool(means < 0.02 * size)


def fingerprint(model: HookedTransformer | TransformerBridge) -> str:
    """A hash of every parameter and of the config: 32 hex digits.

    It hashes all bytes of all parameters, so a change of one weight changes it (but for a chance
    of 2**-128), and it does not depend on device, on requires_grad, or on a save and load in the
    same dtype. The tokenizer is no part of it, nor config fields that change no activation.
    A TransformerBridge and a HookedTransformer of the same weights differ, since their names do.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, parameter in sorted(model.named_parameters()):
        raw = parameter.detach().to("cpu").contiguous()
        # xxh3: every byte at memory speed; nobody forges weights against a cache key.
        content = xxhash.xxh3_128_digest(raw.reshape(-1).view(torch.uint8).numpy())
        digest.update(f"{name} {raw.dtype} {tuple(raw.shape)} ".encode() + content)
    if isinstance(model, TransformerBridge):
        config = _plain(model.original_model.config.to_dict())
        dropped = {"transformers_version", "_name_or_path", "dtype"}
    else:
        config, dropped = _plain(model.cfg.to_dict()), _NOT_FINGERPRINTED
    kept = {k: v for k, v in config.items() if k not in dropped}
    digest.update(json.dumps(kept, sort_keys=True).encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class HookCheck:
    """How well `resid_pre + attn_out + mlp_out = resid_post` holds, over all layers."""

    worst: float
    """Largest absolute difference, as a fraction of the largest residual activation."""
    worst_layer: int
    """Where it is."""
    tolerance: float
    """What rounding explains at this dtype."""


@torch.no_grad()
def check_hooks(model: HookedTransformer | TransformerBridge) -> HookCheck:
    """Checks on a short random row that the hook points mean what their names say.

    Two identities at every layer: `resid_pre + attn_out + mlp_out = resid_post` (of sequential,
    parallel and post-normed blocks alike, since TransformerLens hooks what is added), and
    `resid_post` of a layer is `resid_pre` of the next.

    Raises:
        ValueError: If one fails or a hook point is missing, with the layer and the difference.
    """
    n_layers = model.cfg.n_layers
    parts = ["resid_pre", "attn_out", "resid_post"]
    parts += [] if getattr(model.cfg, "attn_only", False) else ["mlp_out"]
    names = [f"blocks.{layer}.hook_{part}" for layer in range(n_layers) for part in parts]
    if missing := [n for n in names if n not in model.hook_dict]:
        raise ValueError(
            f"The model has no hook points {_some(missing)}, so activations cannot be read or "
            "steered there. Use a model with the standard residual stream hooks."
        )
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.cfg.d_vocab, (1, min(8, model.cfg.n_ctx)), generator=generator)
    tokens = tokens.to(model.cfg.device)
    _, cache = model.run_with_cache(
        tokens,
        attention_mask=torch.ones_like(tokens),
        names_filter=names,
        return_cache_object=False,
    )
    worst, worst_layer = -1.0, 0
    for layer in range(n_layers):
        at = {part: cache[f"blocks.{layer}.hook_{part}"].float() for part in parts}
        post = at.pop("resid_post")
        size = post.abs().max().item() or 1.0
        gap = (sum(at.values()) - post).abs().max().item() / size
        if layer + 1 < n_layers:
            later = cache[f"blocks.{layer + 1}.hook_resid_pre"].to(post)
            gap = max(gap, (later - post).abs().max().item() / size)
        if not gap <= worst:
            worst, worst_layer = gap, layer
    half = torch.finfo(model.cfg.dtype).eps > 1e-6
    check = HookCheck(worst, worst_layer, tolerance=0.05 if half else 1e-4)
    if not check.worst <= check.tolerance:
        raise ValueError(
            f"At layer {worst_layer}, resid_pre + attn_out + mlp_out differs from resid_post (or "
            f"resid_post from the next resid_pre) by {worst:.3g} of the largest activation, where "
            f"{check.tolerance:.0e} is rounding. Hooks of this model do not mean what their names "
            "say; steer only at resid_pre, or load it as a HookedTransformer."
        )
    return check
