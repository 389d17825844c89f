"""What a Hugging Face folder holds: its architecture, tokenizer and weights. None of its code runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open

from steerlens.models.checkpoints.config import read_json
from steerlens.models.checkpoints.errors import CheckpointError, MissingCheckpoint, some
from steerlens.models.checkpoints.families import KNOWN_ARCHITECTURES
from steerlens.models.checkpoints.quiet import no_network, quiet, unchanged_rng
from steerlens.models.checkpoints.text_conventions import leading_ids, state_generation_ends
from steerlens.models.checkpoints.tokenizers import (
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
    require_chat_template,
    require_tokenizer_json,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

INDEX_FILE = "model.safetensors.index.json"
GENERATION_FILE = "generation_config.json"
TEMPLATE_FILE, MORE_TEMPLATES = "chat_template.jinja", "additional_chat_templates/*.jinja"
_DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_BLOCK = re.compile(r"(?:^|\.)(?:h|layers|blocks|layer)\.(\d+)\.")
_MOST_LAYERS = 1000


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
            "on its own."
        )
    if config.get("quantization_config"):
        raise CheckpointError(
            "The checkpoint is quantised (quantization_config), which is not converted. Use the "
            "unquantised checkpoint, or a GGUF file of it."
        )
    named = config.get("architectures") or [_by_model_type(str(config.get("model_type")))]
    return str(named[0] if isinstance(named, list) else named)


def _by_model_type(model_type: str) -> str:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return dict(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES).get(model_type, model_type)


def require_causal(architecture: str, config: Mapping[str, Any]) -> None:
    """Raises CheckpointError if transformers has no such causal language model of its own."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    known = architecture in dict(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES).values()
    if known and hasattr(transformers, architecture):
        return
    if config.get("auto_map"):
        raise CheckpointError(
            f"{architecture!r} needs Python code of its own (auto_map in config.json), which is "
            "not run. Use a checkpoint in an architecture that transformers has."
        )
    raise CheckpointError(
        f"{architecture!r} is not a causal language model that transformers has. "
        f"HookedTransformers are made of {', '.join(KNOWN_ARCHITECTURES)}; other causal language "
        "models load as a TransformerBridge."
    )


def require_weights(folder: Path, architecture: str, config: Mapping[str, Any]) -> None:
    """Compares the headers of the weights with the config, before a model of any size is built.

    Raises:
        MissingCheckpoint: If there are no safetensors weights, or a part of them is missing.
        CheckpointError: If they are damaged, listed as another format, or of other shapes.
    """
    if not any(folder.glob("*.safetensors")):
        raise MissingCheckpoint(
            f"{str(folder)!r} has no safetensors weights (it has "
            f"{some(p.name for p in folder.iterdir())}); other formats can run code when read. "
            "Convert it once: AutoModelForCausalLM.from_pretrained(path).save_pretrained(path)."
        )
    _require_index(folder)
    held = _held_shapes(folder)
    _require_depth(folder, config, held)
    for name, said in _said_shapes(architecture, config).items():
        found = held.get(name, said)
        if found != said:
            raise CheckpointError(
                f"config.json of {str(folder)!r} says that {name} has the shape {list(said)}, but "
                f"in the weights it has {list(found)}: they are of two models. Copy or save the "
                "checkpoint again."
            )


def _require_index(folder: Path) -> None:
    index = folder / INDEX_FILE
    if not index.exists():
        return
    shards = read_json(index).get("weight_map")
    names = set(shards.values()) if isinstance(shards, dict) else {None}
    odd = {str(n) for n in names if not re.fullmatch(r"[\w.-]+\.safetensors", str(n))}
    if odd:
        raise CheckpointError(
            f"{str(index)!r} lists {some(odd)}, which are not safetensors files of this folder; "
            "other formats can run code when read. Save the checkpoint again with save_pretrained."
        )
    if missing := {str(n) for n in names if not (folder / str(n)).is_file()}:
        raise MissingCheckpoint(
            f"{str(folder)!r} lacks {some(missing)}, which {INDEX_FILE} lists. Copy it completely."
        )


def _held_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    held: dict[str, tuple[int, ...]] = {}
    try:
        for path in folder.glob("*.safetensors"):
            with safe_open(path, framework="pt") as file:
                held |= {k: tuple(file.get_slice(k).get_shape()) for k in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"The weights in {str(folder)!r} are damaged ({error}). Copy or save them again."
        ) from error
    return held


def _require_depth(folder: Path, config: Mapping[str, Any], held: Mapping[str, Any]) -> None:
    blocks = len({layer[1] for layer in map(_BLOCK.search, held) if layer})
    said = next((config[key] for key in _DEPTHS if key in config), blocks)
    if said != blocks if blocks else not (isinstance(said, int) and 0 < said < _MOST_LAYERS):
        raise CheckpointError(
            f"config.json of {str(folder)!r} says {said!r} layers, but its weights have {blocks}: "
            "they are incomplete or of another model. Copy or save the checkpoint again."
        )


def _said_shapes(architecture: str, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shapes of all weights as the config says; {} where Hugging Face cannot tell them."""
    import transformers

    cls = getattr(transformers, architecture)
    try:
        with unchanged_rng(), quiet(), torch.device("meta"):
            model = cls(cls.config_class.from_dict(dict(config)))
    except Exception:  # loading it will say what is wrong
        return {}
    return {name: tuple(weight.shape) for name, weight in model.state_dict().items()}


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder.

    Raises:
        MissingCheckpoint: If there is none.
        CheckpointError: If its files are damaged, or it needs code of its own.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    vocabularies = (TOKENIZER_FILE, "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
    if not any((folder / name).exists() for name in vocabularies):
        # AutoTokenizer would make an empty one of the model type's class.
        raise MissingCheckpoint(
            f"{str(folder)!r} has no tokenizer (none of {', '.join(vocabularies)}). Save one there "
            "with tokenizer.save_pretrained(path), or pass tokenizer=."
        )
    said = _checked_tokenizer_files(folder)
    # AutoTokenizer replaces these by the model type's own class (Qwen2's, for one), which splits
    # text differently from what tokenizer.json says.
    as_it_is = said.get("tokenizer_class") in ("TokenizersBackend", "PreTrainedTokenizerFast")
    whole = as_it_is and (folder / TOKENIZER_FILE).exists()
    loader = PreTrainedTokenizerFast if whole else AutoTokenizer
    try:
        with unchanged_rng(), quiet(), no_network():
            return loader.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises bare Exception
        raise CheckpointError(
            f"No tokenizer could be read from {str(folder)!r}: {error}. Save one there with "
            "tokenizer.save_pretrained(path), or pass tokenizer=."
        ) from error


def _checked_tokenizer_files(folder: Path) -> Mapping[str, Any]:
    """What tokenizer_config.json says, {} without one; the other files are checked as well.

    transformers would not name the file that is damaged.
    """
    if (folder / TOKENIZER_FILE).exists():
        require_tokenizer_json(folder / TOKENIZER_FILE)
    for path in (*folder.glob(TEMPLATE_FILE), *sorted(folder.glob(MORE_TEMPLATES))):
        require_chat_template(path)
    config = folder / TOKENIZER_CONFIG_FILE
    return read_json(config) if config.exists() else {}


def stated_start(folder: Path, tokenizer: PreTrainedTokenizerBase) -> bool | None:
    """False where a folder says ``add_bos_token: false`` and its tokenizer adds nothing; else None.

    transformers reads no ``add_bos_token`` beside a tokenizer.json.
    """
    path = folder / TOKENIZER_CONFIG_FILE
    stated = read_json(path).get("add_bos_token") if path.exists() else None
    return False if stated is False and not leading_ids(tokenizer) else None


def read_model(
    folder: Path, architecture: str, device: str | torch.device, dtype: torch.dtype
) -> PreTrainedModel:
    """The Hugging Face model of a folder, in evaluation mode.

    Raises:
        CheckpointError: If Hugging Face cannot load it, its generation_config.json is damaged, or
            its weights are incomplete.
    """
    import transformers

    ends = _stated_ends(folder)
    try:
        with unchanged_rng(), quiet(), no_network(), torch.inference_mode(False):
            hf_model, loaded = getattr(transformers, architecture).from_pretrained(
                folder,
                dtype=dtype,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                attn_implementation="eager",  # the one that computes Gemma-2's soft caps
                output_loading_info=True,
            )
    except Exception as error:  # Hugging Face raises whatever a damaged file leads to
        raise CheckpointError(
            f"Hugging Face cannot load {str(folder)!r} as {architecture}: {error}. "
            "Copy or save the checkpoint again."
        ) from error
    require_complete(loaded, f"The weights in {str(folder)!r}")
    if ends is not None:
        state_generation_ends(hf_model, ends)
    return hf_model.to(device).eval()


def _stated_ends(folder: Path) -> int | list[int] | None:
    """The ids that end a text by generation_config.json; None where it states none or is not there.

    Hugging Face goes on without a file that it cannot read.
    """
    path = folder / GENERATION_FILE
    stated = read_json(path).get("eos_token_id") if path.exists() else None
    if stated is None:
        return None
    if any(type(i) is not int for i in (stated if isinstance(stated, list) else [stated])):
        raise CheckpointError(
            f"{str(path)!r} says that eos_token_id is {stated!r}, which is neither a token's id nor "
            "a list of ids, so nothing would end a text. Correct it, or copy the checkpoint again."
        )
    return stated


def require_complete(loaded: Mapping[str, Any], what: str) -> None:
    """Raises CheckpointError if weights were missing, which Hugging Face fills with random ones."""
    lacking = {k: loaded[k] for k in ("missing_keys", "mismatched_keys") if loaded.get(k)}
    if lacking:
        raise CheckpointError(
            f"{what} are incomplete or of other shapes than the config says: "
            f"{ ({k: some(map(str, v)) for k, v in lacking.items()}) }. "
            "Copy or save the checkpoint again."
        )
