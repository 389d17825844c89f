"""config.json: reading it, writing it, and which of its facts are facts of the model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steerlens.models.checkpoints.errors import CheckpointError, MissingCheckpoint, some

KIND = "hooked_transformer"
"""The `kind` that config.json of our own folders states."""

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"

NOT_STORED = frozenset(
    {"device", "dtype", "seed", "init_weights", "tokenizer_name", "n_devices", "n_params"}
)
"""Facts of one process or one construction, not of the model."""


def checkpoint_kind(folder: Path | str) -> str:
    """What kind of checkpoint a folder holds: "hooked" (ours) or "huggingface".

    Raises:
        MissingCheckpoint: If there is no such folder or it has no config.json.
        CheckpointError: If config.json is not JSON, or the folder holds an adapter.
    """
    return "hooked" if read_config(Path(folder)).get("kind") == KIND else "huggingface"


def read_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise MissingCheckpoint(
            f"{str(folder)!r} {what}, so no model can be read from it. Pass the folder that holds "
            f"{CONFIG_FILE} and {WEIGHTS_FILE}."
        )
    path = folder / CONFIG_FILE
    if not path.is_file():
        if (folder / "adapter_config.json").exists():
            raise CheckpointError(
                f"{str(folder)!r} holds an adapter (adapter_config.json), not a whole model. "
                "Merge it into its base model first (peft: merge_and_unload, save_pretrained)."
            )
        raise MissingCheckpoint(
            f"{str(folder)!r} has no {CONFIG_FILE} (it has "
            f"{some(p.name for p in folder.iterdir())}). Pass a folder written by save_hooked, or "
            "by Hugging Face's save_pretrained."
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"{str(path)!r} is not JSON ({error}). Copy or save the model again."
        ) from error
    if not isinstance(config, dict):
        raise CheckpointError(
            f"{str(path)!r} holds a {type(config).__name__}, but a model's config is an object. "
            "Copy or save the model again."
        )
    return config


def plain(value: Any) -> Any:
    """JSON's types only: numpy numbers become numbers, dtypes and devices become names."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if hasattr(value, "item"):
        return value.item()
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    return str(value)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
