"""The features of texts that are written under steering, as the unsteered model reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.analyses.features.feature_writing import AddRows
from steerlens.measures.generation import generated_tokens
from steerlens.models.model import Model, as_model
from steerlens.progress_bar import progress_bar
from steerlens.saes.sae import SAE
from steerlens.sites import Positions


@torch.no_grad()
def text_features(
    model: Model,
    sae: SAE,
    vectors: Float[Tensor, "edit d_model"],
    prompts: Sequence[str],
    *,
    new_tokens: int = 16,
    temperature: float = 1.0,
    positions: Positions | None = None,
    seed: int = 0,
    rows: int = 256,
    progress: bool = True,
) -> Iterator[Float[Tensor, "edit prompt d_sae"]]:
    """Mean activation of every feature over texts that are written under steering.

    Each prompt is continued under each vector, added at the SAE's site. The unsteered model reads
    prompt and continuation again, and the features of the continuation's tokens are averaged
    (special tokens do not count; NaN where nothing else was written). The same prompt is continued
    with the same random numbers under every vector, so differences are due to the steering.

    Args:
        vectors: What is added, in the units of the stream; zeros for the unsteered model.
        positions: Which tokens are steered; by default from the prompt's end on.
        rows: Texts of a batch.

    Yields:
        The means for the next few vectors: those of many vectors and features do not fit memory.

    Raises:
        SAEError: If the SAE was not made for the model's stream.
        ValueError: If prompts and new tokens do not fit the context.
    """
    model = as_model(model)
    sae.require_fits(model)
    positions = positions or Positions.from_prompt_end()
    prompts = list(prompts)
    step = max(1, rows // len(prompts))
    with progress_bar(progress, total=len(vectors), desc="steered texts", unit="edit") as bar:
        for start in range(0, len(vectors), step):
            some = vectors[start : start + step]
            texts = prompts * len(some)
            per_row = AddRows(some.repeat_interleave(len(prompts), 0).to(model.device))
            with model.hooked(sae.site, per_row, positions, 1.0):
                written = generated_tokens(
                    model, texts, max_new_tokens=new_tokens, temperature=temperature, seed=seed,
                    draws=list(range(len(prompts))) * len(some),
                )  # fmt: skip
            means = _mean_features(model, sae, texts, written)
            yield means.unflatten(0, (len(some), len(prompts))).cpu()
            bar.update(len(some))


def _mean_features(
    model: Model, sae: SAE, texts: list[str], written: Tensor
) -> Float[Tensor, "row d_sae"]:
    batch = model.tokens(texts, padding_side="left")
    ends = model.is_end(written).int()
    ended = ends.cumsum(-1) - ends > 0  # after an end of text
    special = model.is_special(written)
    whole = batch.extended(written, special & ~ended, ~ended)
    resid = model.cache(whole, [sae.site])[sae.site][:, -written.shape[1] :]
    found = sae.encode(resid.float()).float()
    counted = (~ended & ~special)[..., None].to(found)
    total = counted.sum(1)
    return (found * counted).sum(1) / torch.where(total > 0, total, torch.nan)


def openings(model: Model, texts: Sequence[str], n: int, *, tokens: int = 3) -> list[str]:
    """n beginnings of ordinary texts, short enough that the rest of the text is open.

    After a longer beginning steering changes little of what the text holds, so less is learnt.
    Where there are fewer than n texts, they are repeated, and continued with other random numbers.

    Raises:
        ValueError: If no text has more than `tokens` tokens.
    """
    model = as_model(model)
    begun = []
    for text in texts:
        ids = [i for i in model.ids(text) if i not in model.special_ids]
        if len(ids) > tokens:
            begun.append(model.text(ids[:tokens]))
    if not begun:
        raise ValueError(
            f"No text has more than {tokens} tokens, so none can be continued from its first "
            f"{tokens}. Give longer texts, or fewer tokens."
        )
    return [begun[i % len(begun)] for i in range(n)]
