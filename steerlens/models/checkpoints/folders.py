"""Our own folders: safetensors, config.json, tokenizer and checksums, whole or not at all."""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from transformer_lens import HookedTransformer, HookedTransformerConfig

from steerlens.models.checkpoints.building import build_hooked
from steerlens.models.checkpoints.config import (
    CONFIG_FILE,
    KIND,
    NOT_STORED,
    WEIGHTS_FILE,
    plain,
    read_config,
    write_json,
)
from steerlens.models.checkpoints.errors import (
    CheckpointError,
    DamagedCheckpoint,
    MissingCheckpoint,
    some,
)
from steerlens.models.checkpoints.text_conventions import end_ids, state_ends
from steerlens.models.checkpoints.tokenizers import (
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
    load_tokenizer,
    save_tokenizer,
)
from steerlens.store.checksums import CHECKSUMS, require_unchanged, write_checksums
from steerlens.store.files import (
    DamagedFile,
    expanded,
    explained,
    make_folder,
    require_home,
    temporary_name,
)

_OUR_FILES = frozenset(
    {WEIGHTS_FILE, CONFIG_FILE, TOKENIZER_FILE, TOKENIZER_CONFIG_FILE, CHECKSUMS}
)


def save_hooked(
    model: HookedTransformer, folder: Path | str, *, dtype: torch.dtype | None = None
) -> Path:
    """Saves a model as safetensors, config.json and tokenizer files; `load_hooked` reads it.

    Buffers (masks, rotary tables) are not stored, since the config rebuilds them. checksums.json
    lists a checksum of every file, so that a damaged file is noticed when it is loaded. The folder
    appears whole or not at all; an older checkpoint of ours at the same place is replaced.

    Args:
        dtype: What the weights are stored in; the model's own by default. `torch.float16` halves
            the size and rounds.

    Raises:
        FileExistsError: If `folder` holds anything that is not such a checkpoint.
        StorageError: If it cannot be written.
        TypeError: If `model` is not a `HookedTransformer`, or its tokenizer has no fast backend.
    """
    if not isinstance(model, HookedTransformer):
        raise TypeError(
            f"save_hooked got a {type(model).__name__}, but only a HookedTransformer has the "
            "weight names it stores. Save a TransformerBridge with its own "
            "original_model.save_pretrained."
        )
    folder = expanded(folder)
    if folder.exists() and (
        not folder.is_dir() or not {p.name for p in folder.iterdir()} <= _OUR_FILES
    ):
        raise FileExistsError(
            f"{str(folder)!r} exists and holds other things than a saved model, which saving "
            "would delete. Choose a new folder."
        )
    require_home(folder)
    make_folder(folder.parent)
    scratch = temporary_name(folder)
    try:
        with explained(folder):
            scratch.mkdir()
            _write(model, scratch, dtype)
            _move_into_place(scratch, folder)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return folder


def _write(model: HookedTransformer, folder: Path, dtype: torch.dtype | None) -> None:
    stored = {  # a copy each, since safetensors refuses tensors that share memory
        name: p.detach().to("cpu", dtype or p.dtype, copy=True).contiguous()
        for name, p in model.named_parameters()
    }
    try:
        save_file(stored, folder / WEIGHTS_FILE)
    except SafetensorError as error:  # what the system said is in its text only
        code = re.search(r"os error (\d+)", str(error))
        raise OSError(int(code[1]) if code else 0, str(error)) from error
    config = {k: v for k, v in plain(model.cfg.to_dict()).items() if k not in NOT_STORED}
    stored_facts: dict[str, Any] = {"kind": KIND, "version": 1, "config": config}
    if model.tokenizer is not None:
        stored_facts["end_ids"] = list(end_ids(model))
    write_json(folder / CONFIG_FILE, stored_facts)
    if model.tokenizer is not None:
        save_tokenizer(model.tokenizer, folder)
    for path in folder.iterdir():
        path.chmod(0o644)  # safetensors makes them private; checkpoints are meant to be shared
    write_checksums(folder, sorted(path.name for path in folder.iterdir()))


def _move_into_place(scratch: Path, folder: Path) -> None:
    if not folder.exists():
        scratch.rename(folder)
        return
    old = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.old")
    folder.rename(old)  # a folder cannot be replaced in one step; it is kept until then
    try:
        scratch.rename(folder)
    except BaseException:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


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
        MissingCheckpoint: If a file is missing.
        DamagedCheckpoint: If a file is not what was saved.
        CheckpointError: If a file is damaged, of another kind, or config and weights disagree.
    """
    folder = expanded(folder)
    stored = read_config(folder)
    config = stored.get("config")
    if stored.get("kind") != KIND or not isinstance(config, dict):
        raise CheckpointError(
            f"{str(folder)!r} was not written by save_hooked (its config.json has no "
            f'"kind": "{KIND}"). Load a Hugging Face directory with load_hf_directory.'
        )
    if stored.get("version") != 1:
        raise CheckpointError(
            f"{str(folder)!r} has format version {stored.get('version')!r}, but this steerlens "
            "reads version 1. Update steerlens, or save the model again with this one."
        )
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise MissingCheckpoint(
            f"{str(folder)!r} has no {WEIGHTS_FILE}. Save or copy the model again."
        )
    try:
        _refuse_other_sizes(config, path)
        require_unchanged(folder)
        parameters = load_file(path)
    except DamagedFile as error:
        raise DamagedCheckpoint(str(error)) from error
    except (SafetensorError, OSError) as error:
        raise DamagedCheckpoint(
            f"{str(path)!r} is damaged or not a safetensors file ({error}). Save or copy it again."
        ) from error
    known = HookedTransformerConfig.__dataclass_fields__.keys()
    if unknown := config.keys() - known:
        raise CheckpointError(
            f"{str(folder)!r} has config fields that this TransformerLens does not know: "
            f"{some(unknown)}. Install the TransformerLens version that steerlens pins."
        )
    fields = {k: v for k, v in config.items() if k not in NOT_STORED}
    hooked = build_hooked(
        {**fields, "device": str(device), "dtype": dtype},
        load_tokenizer(folder),
        parameters=parameters,
    )
    if isinstance(stored.get("end_ids"), list):
        state_ends(hooked, tuple(stored["end_ids"]))
    return hooked


def _refuse_other_sizes(config: Mapping[str, Any], path: Path) -> None:
    """Compares the config with the file's header, before a model of a wrong size is built."""
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
    sizes: dict[str, Any] = {
        "n_layers": len({n.split(".")[1] for n in names if n.startswith("blocks.")})
    }
    for name, sides in _SIDES.items():
        if name in shapes:
            sizes |= {side: size for side, size in zip(sides, shapes[name], strict=False)}
    if wrong := {k: config.get(k) for k, size in sizes.items() if config.get(k) != size}:
        raise CheckpointError(
            f"config.json says {_listed(wrong)}, but {str(path)!r} holds "
            f"{_listed({k: sizes[k] for k in wrong})}: they are of two models. Save or copy the "
            "model again."
        )


_SIDES = {
    "embed.W_E": ("d_vocab", "d_model"),
    "blocks.0.attn.W_Q": ("n_heads", "d_model", "d_head"),
    "blocks.0.mlp.W_in": ("d_model", "d_mlp"),
    "pos_embed.W_pos": ("n_ctx", "d_model"),
}
"""The config field of each side of some weights."""


def _listed(sizes: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {size!r}" for name, size in sizes.items())
