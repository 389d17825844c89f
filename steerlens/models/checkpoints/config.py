"""config.json and the other JSON files of a checkpoint: one guarded reader, and what we write."""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steerlens.models.checkpoints.errors import CheckpointError, MissingCheckpoint, some
from steerlens.store.files import expanded

KIND = "hooked_transformer"
"""The `kind` that config.json of our own folders states."""

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"

NOT_STORED = frozenset(
    {"device", "dtype", "seed", "init_weights", "tokenizer_name", "n_devices", "n_params"}
)
"""Facts of one process or one construction, not of the model."""

MOST_BYTES = 2**26
"""A JSON file of a checkpoint above this size is refused unread."""


def checkpoint_kind(folder: Path | str) -> str:
    """What kind of checkpoint a folder holds: "hooked" (ours) or "huggingface".

    Raises:
        MissingCheckpoint: If there is no such folder or it has no config.json.
        CheckpointError: If config.json is not JSON, or the folder holds an adapter.
    """
    return "hooked" if read_config(expanded(folder)).get("kind") == KIND else "huggingface"


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a checkpoint.

    Raises:
        MissingCheckpoint: If there is no such folder or it has no config.json.
        CheckpointError: If a file in the folder cannot be read safely, config.json is not a JSON
            object, or the folder holds an adapter.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise MissingCheckpoint(
            f"{str(folder)!r} {what}, so no model can be read from it. Pass the folder that holds "
            f"{CONFIG_FILE} and {WEIGHTS_FILE}."
        )
    require_plain_files(folder)
    path = folder / CONFIG_FILE
    if (folder / "adapter_config.json").exists() and not any(folder.glob("model*.safetensors")):
        raise CheckpointError(
            f"{str(folder)!r} holds a PEFT adapter (adapter_config.json), not a whole model. Load "
            "the model that it was trained on, and the adapter as a change of it: "
            "load_peft(folder, model). Or merge it first: AutoPeftModelForCausalLM.from_pretrained("
            "path).merge_and_unload().save_pretrained(new_path), and the tokenizer beside it."
        )
    if not path.is_file():
        raise MissingCheckpoint(
            f"{str(folder)!r} has no {CONFIG_FILE} (it has "
            f"{some(p.name for p in folder.iterdir())}). Pass a folder written by save_hooked, or "
            "by Hugging Face's save_pretrained."
        )
    return read_json(path)


def require_plain_files(folder: Path) -> None:
    """Raises CheckpointError if a folder holds pipes, devices or links in a circle.

    Whoever opens such a file later, here or in another library, would wait for ever.
    """
    for path in folder.iterdir():
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:  # a link to nothing: missing, if it is asked for
            continue
        except OSError as error:
            raise CheckpointError(
                f"{str(path)!r} cannot be read ({error.strerror}). Copy the checkpoint again."
            ) from error
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise CheckpointError(
                f"{str(path)!r} is a pipe or a device, not a file. Copy the checkpoint to a folder "
                "of plain files."
            )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a checkpoint.

    Raises:
        CheckpointError: If the file is too large, not UTF-8, not JSON, or not an object.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise CheckpointError(
                f"{str(path)!r} has {path.stat().st_size:,} bytes, too many for what it should "
                "hold. Copy or save the model again."
            )
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"{str(path)!r} cannot be read ({error.strerror}). Copy the checkpoint again."
        ) from error
    if content.startswith(b"\xef\xbb\xbf"):
        raise CheckpointError(
            f"{str(path)!r} starts with a byte order mark, with which other libraries cannot read "
            "it. Save it as UTF-8 without one (in most editors: encoding 'UTF-8', not "
            "'UTF-8 with BOM')."
        )
    try:
        found = json.loads(content.decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"{str(path)!r} is not JSON ({error}). Copy or save the model again."
        ) from error
    except RecursionError as error:
        raise CheckpointError(
            f"{str(path)!r} is nested too deeply for a config. Copy or save the model again."
        ) from error
    if not isinstance(found, dict):
        raise CheckpointError(
            f"{str(path)!r} holds a {type(found).__name__}, but a model's config is an object. "
            "Copy or save the model again."
        )
    return found


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
