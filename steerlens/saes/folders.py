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

from steerlens.models.loading import PRETRAINED
from steerlens.saes.sae_errors import SAEError
from steerlens.saes.sae_lens_library import sae_lens
from steerlens.store.files import write_text
from steerlens.store.tensors import has_checksum, read_tensors, write_tensors

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
        DamagedFile: If its numbers are not those that were written.
    """
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise SAEError(
            f"{name!r} is no folder with {CONFIG} and {WEIGHTS}. Give a folder that sae_lens or "
            "SAE.save wrote, 'reviews/<layer>', or a release with its id: "
            "SAE.load('gpt2-small-res-jb', 'blocks.8.hook_resid_pre')."
        )
    if has_checksum(folder / WEIGHTS):  # written by `save`; a file of sae_lens has none
        read_tensors(folder / WEIGHTS)
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
    if not (folder / MAXIMA).is_file():
        return sae, None
    return sae, read_tensors(folder / MAXIMA)["max_activation"].to(device)


def write_folder(
    folder: Path,
    sae: Any,
    metadata: dict[str, Any],
    maxima: Float[Tensor, " d_sae"] | None,
    dtype: torch.dtype | None,
) -> None:
    """Writes an SAE with changed metadata; every file whole or not at all."""
    state = {name: value.detach().clone() for name, value in sae.state_dict().items()}
    sae.process_state_dict_for_saving(state)
    config = copy.deepcopy(sae.cfg.to_dict())
    config["metadata"].update(metadata)
    config["device"] = "cpu"
    if dtype is not None:
        state = {name: value.to(dtype) for name, value in state.items()}
        config["dtype"] = str(dtype).removeprefix("torch.")
    write_tensors(folder / WEIGHTS, state)
    if maxima is None:
        (folder / MAXIMA).unlink(missing_ok=True)  # of an SAE that was here before
    else:
        write_tensors(folder / MAXIMA, {"max_activation": maxima.float()})
    write_text(folder / CONFIG, json.dumps(config, indent=1, default=str) + "\n")
