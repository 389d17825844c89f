"""What the contestants on a Hugging Face model share: the loaded model, and encoded texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

Item = TypeVar("Item")


@cache
def load_huggingface(model_dir: str) -> tuple[Any, Any]:
    """The model, float32 and in eval mode, and its tokenizer, which pads on the left."""
    model = AutoModelForCausalLM.from_pretrained(model_dir).eval()
    return model, AutoTokenizer.from_pretrained(model_dir, padding_side="left")


def encode(tokenizer: Any, texts: Sequence[str]) -> dict[str, Tensor]:
    """Left-padded inputs with positions that count from the first real token.

    GPT-2's forward takes absolute positions, and derives none from the mask by itself.
    """
    inputs = tokenizer(list(texts), return_tensors="pt", padding=True, padding_side="left")
    mask = inputs["attention_mask"]
    return {
        "input_ids": inputs["input_ids"],
        "attention_mask": mask,
        "position_ids": (mask.cumsum(-1) - 1).clamp(min=0),
    }


def one_token(tokenizer: Any, word: str) -> int:
    (token,) = tokenizer(word, add_special_tokens=False)["input_ids"]
    return token


def log_odds(tokenizer: Any, last_logits: Tensor, answers: Sequence[tuple[str, str]]) -> Tensor:
    """First answer minus second at the last position, one number per row."""
    columns = torch.tensor([[one_token(tokenizer, word) for word in pair] for pair in answers])
    picked = last_logits.gather(1, columns)
    return picked[:, 0] - picked[:, 1]


def batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
