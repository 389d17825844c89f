"""Numbers of written texts, one text at a time."""

from __future__ import annotations

import torch

PROMPTS = ["the cat sat on the bed and ran", "you", "I think the good soup was"]


def by_hand(model, prompt: str, text: list[int]) -> float:
    """The mean of each written token's negative log-probability, one text at a time."""
    before, new = model.ids(prompt), [token for token in text if token >= 0]
    with torch.no_grad():
        logits = model.wrapped(torch.tensor([before + new], device=model.device))[0].float()
    log_probs = torch.log_softmax(logits[len(before) - 1 : -1], -1)
    return -float(log_probs.gather(-1, torch.tensor(new)[:, None]).mean())
