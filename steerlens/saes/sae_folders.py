"""SAEs as folders: sae_lens's own format, with what steerlens adds; those that ship."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.models.checkpoints import CheckpointError
from steerlens.models.checkpoints.config import read_json
from steerlens.models.loading import PRETRAINED
from steerlens.saes.sae_errors import DamagedSAE, SAEError
from steerlens.saes.sae_lens_library import sae_lens
from steerlens.store.checksums import require_unchanged, write_checksums
from steerlens.store.files import DamagedFile, remove_file, write_bytes
from steerlens.store.tensors import encode_tensors, has_checksum, read_tensors

CONFIG, WEIGHTS, MAXIMA = "cfg.json", "sae_weights.safetensors", "max_activation.safetensors"


def shipped(source: str) -> Path | None:
    """The folder of ``"<model>/<layer>"`` among the SAEs that ship with steerlens, if it is one."""
    model, _, layer = source.partition("/")
    home = PRETRAINED / f"{model}-saes"
    if not layer or Path(source).is_dir() or not home.is_dir():
        return None
    layers = sorted((p.name for p in home.iterdir() if p.is_dir()), key=int)
    if layer not in layers:
        raise SAEError(
            f"There is no SAE {source!r}; those of {model!r} are "
            f"{', '.join(f'{model}/{name}' for name in layers)}."
        )
    return home / layer


def read_folder(
    folder: Path, name: str, device: str, dtype: str = "float32"
) -> tuple[Any, Float[Tensor, " d_sae"] | None]:
    """The SAE in a folder, and its features' largest activations if they are there.

    Raises:
        SAEError: If it holds no SAE, or none that can be read.
        DamagedSAE: If its files are not those that were written.
    """
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise SAEError(
            f"{name!r} is no folder with {CONFIG} and {WEIGHTS}. Give a folder that sae_lens or "
            "SAE.save wrote, 'reviews/<layer>', or a release with its id: "
            "SAE.load('gpt2-small-res-jb', 'blocks.8.hook_resid_pre')."
        )
    try:
        # A folder of sae_lens states no checksums; older ones of ours state those of the weights.
        if not require_unchanged(folder) and has_checksum(folder / WEIGHTS):
            read_tensors(folder / WEIGHTS)
        maxima = read_tensors(folder / MAXIMA)["max_activation"]
    except FileNotFoundError:
        maxima = None
    except DamagedFile as error:
        raise DamagedSAE(str(error)) from error
    try:
        read_json(folder / CONFIG)  # sae_lens would not name the file that is damaged
    except CheckpointError as error:
        raise SAEError(str(error)) from error
    lens = sae_lens()
    try:
        with warnings.catch_warnings():
            # It says how to load the model; `require_fits` holds the model to it.
            warnings.filterwarnings("ignore", r"\s*This SAE has non-empty", UserWarning)
            sae = lens.SAE.load_from_disk(folder, device=device, dtype=dtype)
    except (KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
        raise SAEError(
            f"The SAE in {folder} cannot be read: {error!r}. Write it with sae_lens "
            f"{lens.__version__}, or another of its version 6."
        ) from error
    return sae, None if maxima is None else maxima.to(device)


def write_folder(
    folder: Path,
    sae: Any,
    metadata: dict[str, Any],
    maxima: Float[Tensor, " d_sae"] | None,
    dtype: torch.dtype | None,
) -> None:
    """Writes an SAE with changed metadata. What a killed process wrote in part is refused later.

    Raises:
        StorageError: If it cannot be written.
    """
    state = {name: value.detach().clone() for name, value in sae.state_dict().items()}
    sae.process_state_dict_for_saving(state)
    config = copy.deepcopy(sae.cfg.to_dict())
    config["metadata"].update(metadata)
    config["device"] = "cpu"
    if dtype is not None:
        state = {name: value.to(dtype) for name, value in state.items()}
        config["dtype"] = str(dtype).removeprefix("torch.")
    files = {
        CONFIG: (json.dumps(config, indent=1, default=str) + "\n").encode(),
        WEIGHTS: encode_tensors(state)[0],
    }
    if maxima is None:
        remove_file(folder / MAXIMA)  # of an SAE that was here before
    else:
        files[MAXIMA] = encode_tensors({"max_activation": maxima.float()})[0]
    write_checksums(folder, files)
    for name, content in files.items():
        write_bytes(folder / name, content)
