"""Facts of a checkpoint about texts: what one starts with, where one ends, which ids are special."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor

Ids = tuple[int, ...]


def _remembered(ask: Callable[[Any], Ids]) -> Callable[[Any], Ids]:
    """Asks a tokenizer once, and again after tokens were added to it or named, or its template set."""
    known: WeakKeyDictionary[Any, tuple[tuple, Ids]] = WeakKeyDictionary()

    @wraps(ask)
    def asked(tokenizer: Any) -> Ids:
        t = tokenizer
        named = (t.bos_token_id, t.eos_token_id, t.pad_token_id, t.unk_token_id)
        state = (len(t), named, str(getattr(t, "chat_template", None)))
        if t not in known or known[t][0] != state:
            known[t] = (state, ask(t))
        return known[t][1]

    return asked


_MARKER = re.compile(r"[^\w\s]\S+[^\w\s]")
"""A token between signs: <|im_start|>, [INST], <end_of_turn>."""
_SEPARATOR = "<|endoftext|>"
"""GPT-2 was trained on texts that this token separates, so TransformerLens starts texts with it."""

_SENTENCEPIECE_BOS = "<s>"
"""Llama and Mistral with a SentencePiece vocabulary were trained on texts that start with it."""


@_remembered
def leading_ids(tokenizer: Any) -> Ids:
    """Ids that the tokenizer itself puts in front of a text; () for many."""
    plain = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    whole = list(tokenizer("a")["input_ids"])
    starts = range(len(whole) - len(plain) + 1)
    return tuple(whole[: next((k for k in starts if whole[k : k + len(plain)] == plain), 0)])


def prepends_bos(tokenizer: Any, architecture: str) -> bool:
    """Whether plain texts of a checkpoint start with BOS.

    What the tokenizer itself adds decides. Two exceptions, as in TransformerLens: GPT-2's
    ``<|endoftext|>``, which its tokenizer does not add; and the ``<s>`` of a SentencePiece
    vocabulary of Llama or Mistral, which is lost where a tokenizer was saved without its
    ``add_bos_token``. No other token stands in for a BOS that the tokenizer does not have or does
    not use, be it EOS or a chat template's marker.

    Source: `add_bos_token` is true by default in transformers' LlamaTokenizer.
    """
    if leading_ids(tokenizer):
        return True
    if architecture == "GPT2LMHeadModel":
        return str(tokenizer.bos_token) == _SEPARATOR
    return (
        architecture in ("LlamaForCausalLM", "MistralForCausalLM")
        and str(tokenizer.bos_token) == _SENTENCEPIECE_BOS
        and tokenizer.eos_token != _SENTENCEPIECE_BOS
        and _has_blanks_in_pieces(tokenizer)
    )


def _has_blanks_in_pieces(tokenizer: Any) -> bool:
    """Whether a vocabulary is SentencePiece's, in which a blank is written as "\u2581"."""
    return any(word.startswith("\u2581") for word in tokenizer.get_vocab())


@_remembered
def special_ids(tokenizer: Any) -> Ids:
    """Ids of a tokenizer's BOS, EOS, padding and a chat template's markers, in order.

    The tokens' own flags decide, since many markers have no name in the tokenizer's config; and
    added tokens between signs, such as <|im_start|>, that a chat template writes are markers without
    the flag too. An unknown word is not special: it is still a word.
    """
    t = tokenizer
    functional = {t.bos_token_id, t.eos_token_id, t.pad_token_id} - {None}
    flagged = {i for i, token in t.added_tokens_decoder.items() if token.special}
    words = {t.unk_token_id} - functional
    return tuple(sorted((functional | flagged | _markers(t) | set(t.all_special_ids)) - words))


def _markers(tokenizer: Any) -> set[int]:
    """Ids of added tokens that a chat template writes, and that no text would hold as a word."""
    given = getattr(tokenizer, "chat_template", None) or ""
    template = " ".join(given.values()) if isinstance(given, dict) else str(given)
    added = {i: str(token.content) for i, token in tokenizer.added_tokens_decoder.items()}
    return {i for i, text in added.items() if _MARKER.fullmatch(text) and text in template}


def generation_ends(hf_model: Any, tokenizer: Any) -> Ids:
    """Ids that end a generated text, as Hugging Face's `generate` ends it.

    Exactly `generation_config.eos_token_id` where the checkpoint has a generation config of its
    own that states it; else those of the model's config, and the tokenizer's EOS.
    """
    config = getattr(hf_model, "generation_config", None)
    said: Any = getattr(config, "eos_token_id", None)
    if isinstance(said, Tensor):
        said = said.tolist()
    # transformers makes one of the model's config where there is none; one that differs was set.
    usual = getattr(hf_model.config, "eos_token_id", None)
    made = getattr(config, "_from_model_config", False) and said == usual
    ids = {i for i in (said if isinstance(said, (list, tuple)) else [said]) if i is not None}
    ids = {i for i in ids if 0 <= i < hf_model.config.get_text_config().vocab_size}
    if tokenizer is not None and (not ids or made):
        ids |= {tokenizer.eos_token_id} - {None}
    return tuple(sorted(ids))


def state_generation_ends(hf_model: Any, ids: int | Sequence[int]) -> None:
    """Writes on a Hugging Face model that its checkpoint itself says which ids end its texts.

    The mark that transformers reads from generation_config.json does not tell: `save_pretrained`
    writes there that it was made of the model's config, also where it was changed afterwards.
    """
    hf_model.generation_config.eos_token_id = ids if isinstance(ids, int) else list(ids)
    hf_model.generation_config._from_model_config = False


def state_ends(wrapped: Any, ids: Ids) -> None:
    """Writes on a wrapped model which ids end its texts, for `end_ids`."""
    wrapped.end_ids = ids


def end_ids(wrapped: Any) -> Ids:
    """Ids that end a text of a wrapped model: what its checkpoint says, else its tokenizer's EOS."""
    stated = getattr(wrapped, "end_ids", None)
    if isinstance(stated, tuple):
        return stated
    original = getattr(wrapped, "original_model", None)
    if original is not None:
        return generation_ends(original, wrapped.tokenizer)
    eos = wrapped.tokenizer.eos_token_id
    return () if eos is None else (eos,)
