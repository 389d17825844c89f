"""Tokenizers: word-level ones made here, and keeping, saving and loading any fast one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from steerlens.models.checkpoints.config import MOST_BYTES, read_json, write_json
from steerlens.models.checkpoints.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENIZER_FILE, TOKENIZER_CONFIG_FILE = "tokenizer.json", "tokenizer_config.json"


def keep_tokenizer(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Marks a tokenizer so that TransformerLens takes it as it is, and returns it.

    Otherwise `set_tokenizer` loads another one by `name_or_path`, from disk or the network. The
    marks are read by TransformerLens only; the tokenizer's own behaviour does not change.
    """
    tokenizer.init_kwargs.setdefault("name_or_path", tokenizer.name_or_path or "in-memory")
    tokenizer.init_kwargs["add_bos_token"] = True
    return tokenizer


@contextmanager
def named_tokens_kept(tokenizer: PreTrainedTokenizerBase | None) -> Iterator[None]:
    """Keeps BOS and EOS as they are while TransformerLens takes over a tokenizer.

    It lets EOS stand in for a BOS that the tokenizer does not have.
    """
    names = ("bos_token", "eos_token")
    missing = [] if tokenizer is None else [n for n in names if getattr(tokenizer, n) is None]
    yield
    for name in missing:
        setattr(tokenizer, name, None)


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
        CheckpointError: If a word is repeated, empty, or contains white space.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<unk>", "<bos>", "<eos>"]
    vocabulary = {token: i for i, token in enumerate([*special, *words])}
    if len(vocabulary) != len(special) + len(words) or any(w.split() != [w] for w in words):
        odd = sorted({w for w in words if w.split() != [w] or list(words).count(w) > 1})
        raise CheckpointError(
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


_SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token")


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
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
    (folder / TOKENIZER_FILE).write_text(backend.to_str(pretty=True), encoding="utf-8")
    facts: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "padding_side": tokenizer.padding_side,
    }
    facts |= {k: str(v) for k in _SPECIAL if (v := getattr(tokenizer, k, None)) is not None}
    if tokenizer.model_max_length < 10**12:  # the library's "no limit" is 10**30
        facts["model_max_length"] = tokenizer.model_max_length
    if getattr(tokenizer, "chat_template", None):
        facts["chat_template"] = tokenizer.chat_template
    write_json(folder / TOKENIZER_CONFIG_FILE, facts)


def require_tokenizer_json(path: Path) -> None:
    """Raises CheckpointError, which names the file, if a tokenizer.json is not a JSON object.

    One larger than `read_json` takes is left to the tokenizers library: vocabularies can be large.
    """
    if path.stat().st_size <= MOST_BYTES:
        read_json(path)


def require_chat_template(path: Path) -> None:
    """Raises CheckpointError, which names the file, if a chat template is not plain UTF-8."""
    try:
        content = path.read_bytes()
        content.decode("utf-8")
    except OSError as error:
        raise CheckpointError(
            f"{str(path)!r} cannot be read ({error.strerror}). Copy the checkpoint again."
        ) from error
    except UnicodeDecodeError as error:
        raise CheckpointError(
            f"{str(path)!r} is not UTF-8 ({error}), so it cannot be read as a chat template. Save "
            "it as UTF-8, or copy the checkpoint again."
        ) from error
    if content.startswith(b"\xef\xbb\xbf"):
        raise CheckpointError(
            f"{str(path)!r} starts with a byte order mark, which would become the first character "
            "of every chat. Save it as UTF-8 without one (in most editors: encoding 'UTF-8', not "
            "'UTF-8 with BOM')."
        )


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase | None:
    if not (folder / TOKENIZER_FILE).exists():
        return None
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    require_tokenizer_json(folder / TOKENIZER_FILE)
    known = {"padding_side", "model_max_length", "chat_template", *_SPECIAL}
    facts = {k: v for k, v in read_json(folder / TOKENIZER_CONFIG_FILE).items() if k in known}
    try:
        backend = Tokenizer.from_str((folder / TOKENIZER_FILE).read_text(encoding="utf-8"))
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=backend, name_or_path=folder.name, **facts
        )
    except Exception as error:  # the tokenizers library raises bare Exception
        raise CheckpointError(
            f"The tokenizer files in {str(folder)!r} cannot be read: {error}. Save the model again."
        ) from error
    return keep_tokenizer(tokenizer)
