"""LoRAs in the folders that PEFT writes and reads: safetensors and JSON, without PEFT itself."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from steerlens.interventions.changes import Composed, LowRank, WeightChange
from steerlens.interventions.composition import Composition
from steerlens.interventions.hf_modules import HFModule, hf_modules, transposed
from steerlens.models.model import Model, as_model
from steerlens.protocols import Intervention
from steerlens.store.files import (
    DamagedFile,
    expanded,
    make_folder,
    read_bytes,
    require_file,
    write_bytes,
    write_text,
)

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_START = "base_model.model."
_KEY = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.\w+)?\.weight")
_OURS = "steerlens"
"""The entry of the file's metadata that holds the fingerprint of the model."""


class PEFTError(ValueError):
    """A PEFT folder that cannot be read as it is meant, or for this model."""


def load_peft(folder: Path | str, model: Model, *, other_weights: bool = False) -> Composition:
    """A LoRA from a PEFT folder as an intervention: multiplier 1 is the merged adapter.

    Names and shapes are compared with the model's. On processed weights the change is that of the
    processed weights, where that is exact: a matrix that writes into a centred stream is centred;
    one that reads through a folded norm is refused, since the norm's weights are gone.

    Args:
        folder: With adapter_config.json and adapter_model.safetensors.
        model: The base model, as a HookedTransformer.
        other_weights: Take an adapter that `save_peft` wrote for another model on purpose, such as
            one of another precision. Of a folder that PEFT wrote only names and shapes are known.

    Raises:
        PEFTError: If the folder holds another kind of adapter, or one for another model, or it
            cannot be applied exactly to weights that were processed.
        FileNotFoundError, StorageError, DamagedFile: If it cannot be read.

    Source: "PEFT checkpoint format" of the PEFT documentation; LoRA, arXiv:2106.09685; scaling by
        the root of the rank (use_rslora), arXiv:2312.03732.
    """
    folder, model = expanded(folder), as_model(model)
    config = _read_config(folder)
    tensors, stated = _read_weights(folder)
    if stated and not other_weights and stated != model.fingerprint:
        raise PEFTError(
            f"The adapter in {str(folder)!r} was made on another model than {model.name!r}: the "
            "fingerprints of the weights differ. Load the model that it was made on, in the same "
            "way and precision, or say that it is meant: load_peft(…, other_weights=True)."
        )
    modules = hf_modules(model)
    changes: list[WeightChange] = []
    for path, (a, b) in sorted(_pairs(tensors).items()):
        module = _module(modules, path, a, b, model)
        _require_exact(module, model)
        scale = _scale(config, path, a.shape[0])
        centred = "center_writing_weights" in model.processing
        a, b = (x.float().to(model.device) for x in (a, b))
        changes += module.changes(a, b, scale, centred)
    if not changes:
        raise PEFTError(
            f"The adapter in {str(folder)!r} changes nothing: all its B matrices are zero."
        )
    return Composition(tuple(changes), f"load_peft({folder.name!r})")


def _read_config(folder: Path) -> dict[str, Any]:
    if not (folder / CONFIG).exists():
        raise FileNotFoundError(
            f"{folder} holds no PEFT adapter: {CONFIG} is missing. Give the folder that "
            "save_pretrained of PEFT, or save_peft, wrote."
        )
    path = require_file(folder / CONFIG)
    try:
        config = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{path} is damaged ({error}).") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise PEFTError(
            f"{str(path)!r} says peft_type={kind!r}, and only LORA is read. Merge the adapter into "
            "its model with PEFT and use weight_delta(base, merged)."
        )
    unusual = {
        "use_dora": config.get("use_dora"),
        "modules_to_save": config.get("modules_to_save"),
        "bias": config.get("bias", "none") != "none",
        "lora_bias": config.get("lora_bias"),
        "layer_replication": config.get("layer_replication"),
        "use_qalora": config.get("use_qalora"),
        "trainable_token_indices": config.get("trainable_token_indices"),
    }
    if given := [name for name, value in unusual.items() if value]:
        raise PEFTError(
            f"The adapter in {str(folder)!r} uses {', '.join(given)}, which is more than low-rank "
            "changes of matrices. Merge it into its model with PEFT and use weight_delta(base, "
            "merged)."
        )
    return config


def _read_weights(folder: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors, and the fingerprint of the model if the file was written here."""
    path = folder / WEIGHTS
    if not path.exists() and (folder / "adapter_model.bin").exists():
        raise PEFTError(
            f"{str(folder)!r} holds its weights as adapter_model.bin, a format that can run code "
            "when it is read. Save it once with PEFT as safetensors (the default)."
        )
    path = require_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise DamagedFile(f"{path} is damaged ({error}).") from error
    return tensors, metadata.get(_OURS, "")


def _pairs(tensors: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Both factors by the name of the module."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise PEFTError(
                f"The adapter has a tensor {key!r}, which is neither lora_A nor lora_B of a linear "
                "map. Merge it into its model with PEFT and use weight_delta(base, merged)."
            )
        found.setdefault(match[1], {})[match[2]] = tensor
    for path, factors in found.items():
        if factors.keys() != {"A", "B"}:
            raise PEFTError(f"The adapter has only one factor of {path}. Save it again with PEFT.")
    return {path: (factors["A"], factors["B"]) for path, factors in found.items()}


def _module(
    modules: dict[str, HFModule], path: str, a: Tensor, b: Tensor, model: Model
) -> HFModule:
    module = modules.get(path)
    if module is None:
        known = sorted({re.sub(r"\.\d+\.", ".….", name) for name in modules})
        raise PEFTError(
            f"The adapter changes {path!r}, and {model.name!r} has no such linear map in its "
            f"blocks. It has {', '.join(known)}, for layers 0–{model.n_layers - 1}: the adapter "
            "was made for another model."
        )
    shape, wanted = (tuple(a.shape), tuple(b.shape)), (module.reads, module.writes)
    if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1] or a.shape[0] == 0:
        raise PEFTError(
            f"The factors of {path} have shapes {shape[0]} and {shape[1]}, and A is [rank, reads] "
            "and B is [writes, rank], with one rank of 1 or more. Save the adapter again with PEFT."
        )
    for factor, tensor in (("A", a), ("B", b)):
        if not tensor.is_floating_point():
            raise PEFTError(
                f"Factor {factor} of {path} is of {tensor.dtype}, and a low-rank change is of floats. "
                "Quantised adapters are not read; save it in float32 or bfloat16."
            )
        if not bool(tensor.float().isfinite().all()):
            raise PEFTError(
                f"Factor {factor} of {path} holds NaN or infinity: the training that made it "
                "diverged. Train the adapter again."
            )
    if (a.shape[1], b.shape[0]) != wanted:
        raise PEFTError(
            f"The adapter changes {path} from {a.shape[1]} to {b.shape[0]} numbers, and in "
            f"{model.name!r} it reads {wanted[0]} and writes {wanted[1]}: the adapter was made "
            "for another model."
        )
    return module


def _require_exact(module: HFModule, model: Model) -> None:
    """Raises PEFTError where weight processing has lost what an exact change needs."""
    targets = {matrix.target for matrix, _ in module.parts}
    reads = targets & {"q", "k", "v", "in", "gate"}
    if "fold_ln" in model.processing and reads:
        why = "the norm that it reads through was folded into it, and the norm's weights are gone"
    elif "fold_value_biases" in model.processing and "o" in targets:
        why = "the value biases were folded through it into another bias, and are gone"
    else:
        return
    raise PEFTError(
        f"The adapter changes {module.path}, and {model.name!r} has {model.processing!r} weights: "
        f"{why}. Load the model unprocessed, Model.load(…) or from_pretrained_no_processing."
    )


def _scale(config: dict[str, Any], path: str, rank: int) -> float:
    """What B A is multiplied by; patterns name modules by the end of their path."""
    stated = _by_pattern(config.get("rank_pattern"), path, config.get("r", rank))
    if stated != rank:
        raise PEFTError(
            f"{CONFIG} states rank {stated!r} for {path}, and its factors have rank {rank}: the two "
            "files are of different adapters. Give the folder as PEFT wrote it."
        )
    alpha = _by_pattern(config.get("alpha_pattern"), path, config.get("lora_alpha", 8))
    if not isinstance(alpha, int | float):
        raise PEFTError(f"lora_alpha={alpha!r} is not a number. Save the adapter again with PEFT.")
    return float(alpha) / (rank**0.5 if config.get("use_rslora") else rank)


def _by_pattern(patterns: Any, path: str, usual: Any) -> Any:
    for pattern, value in (patterns or {}).items():
        try:
            fits = re.fullmatch(rf"(.*\.)?({pattern})", path)
        except re.error:
            fits = path.endswith(pattern)
        if fits:
            return value
    return usual


def save_peft(folder: Path | str, model: Model, intervention: Intervention) -> Path:
    """Writes a LoRA as a PEFT folder, for `PeftModel.from_pretrained(base, folder)`.

    Args:
        folder: Made if it is not there.
        intervention: Low-rank changes of matrices of the blocks, as `LoRA` makes them.

    Returns:
        The folder.

    Raises:
        PEFTError: If it changes something else, or the model's weights were processed.
    """
    model = as_model(model)
    deltas = _deltas(model, intervention)
    modules = hf_modules(model)
    held = {m.name for module in modules.values() for m, _ in module.parts}
    if others := sorted(deltas.keys() - held):
        raise PEFTError(
            f"{intervention!r:.200} changes {others[0]}, which is no linear map of a block. A PEFT "
            "folder holds changes of those."
        )
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    for path, module in modules.items():
        factors = module.factors(deltas)
        if factors is not None:
            a, b = (x.detach().float().cpu() for x in factors)
            tensors[f"{_START}{path}.lora_A.weight"] = a
            tensors[f"{_START}{path}.lora_B.weight"] = b
            ranks[path] = len(a)
    usual = max(ranks.values())
    differing = {path: rank for path, rank in ranks.items() if rank != usual}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": model.name,
        "revision": model.revision,
        "inference_mode": True,
        "r": usual,
        "lora_alpha": usual,  # the factors hold all scaling
        "rank_pattern": differing,
        "alpha_pattern": differing,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": transposed(model),
        "init_lora_weights": True,
        "target_modules": sorted(ranks),
        "modules_to_save": None,
        "use_rslora": False,
        "use_dora": False,
    }
    folder = make_folder(expanded(folder))
    metadata = {"format": "pt", _OURS: model.fingerprint}
    write_bytes(folder / WEIGHTS, save(tensors, metadata=metadata))
    write_text(folder / CONFIG, json.dumps(config, indent=2))
    return folder


def _deltas(model: Model, intervention: Intervention) -> dict[str, list[LowRank]]:
    changes = intervention.changes(model) if isinstance(intervention, Composed) else ()
    found: dict[str, list[LowRank]] = {}
    for change in changes:
        if not (isinstance(change, WeightChange) and isinstance(change.delta, LowRank)):
            found = {}
            break
        found.setdefault(change.name, []).append(change.delta)
    if not found:
        raise PEFTError(
            f"{intervention!r:.200} is no set of low-rank changes of matrices, which is what a PEFT "
            "folder holds. Save a LoRA; of two checkpoints use weight_delta(base, tuned, rank=8)."
        )
    if model.processing not in ("raw", "center_unembed"):
        raise PEFTError(
            f"{model.name!r} has {model.processing!r} weights, and a change of those is none of the "
            "checkpoint's. Make the LoRA on the unprocessed model: Model.load(…)."
        )
    return found
