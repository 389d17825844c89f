"""What texts hold that were written under steering: every feature, read by the unsteered model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from steerlens.analyses.features.feature_spill import FeatureSpill
from steerlens.analyses.features.feature_writing import AddRows
from steerlens.directions import Direction
from steerlens.measures.generation import generated_tokens
from steerlens.models.model import Model, as_model
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
) -> Float[Tensor, "edit prompt d_sae"]:
    """Mean activation of every feature over texts that were written under steering.

    Each prompt is continued under each vector, added at the SAE's site; the unsteered model
    reads prompt and continuation again, and the features of the continuation's tokens are averaged
    (special tokens do not count; NaN where nothing else was written). The same prompt has the same
    luck under every vector, so that differences are of the steering.

    Args:
        vectors: What is added, in the units of the stream; zeros for the unsteered model.
        positions: Which tokens are steered; by default from the prompt's end on.
        rows: Texts of a batch.

    Raises:
        SAEError: If the SAE was not made for the model's stream.
        ValueError: If prompts and new tokens do not fit the context.
    """
    parts = in_chunks(
        model,
        sae,
        vectors,
        prompts,
        new_tokens,
        temperature,
        positions,
        seed,
        rows,
        progress,
    )
    return torch.cat(list(parts))


@torch.no_grad()
def in_chunks(
    model: Model,
    sae: SAE,
    vectors: Float[Tensor, "edit d_model"],
    prompts: Sequence[str],
    new_tokens: int,
    temperature: float,
    positions: Positions | None,
    seed: int,
    rows: int,
    progress: bool,
) -> Iterator[Float[Tensor, "edit prompt d_sae"]]:
    """`text_features`, some vectors at a time: of many vectors and features not all can be kept."""
    model = as_model(model)
    sae.require_fits(model)
    positions = positions or Positions.from_prompt_end()
    prompts = list(prompts)
    step = max(1, rows // len(prompts))
    with tqdm(total=len(vectors), desc="steered texts", unit="edit", disable=not progress) as bar:
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
    eos = model.tokenizer.eos_token_id
    ended = (written == eos).int().cumsum(-1) - (written == eos).int() > 0  # after an end of text
    special = model.is_special(written)
    whole = batch.extended(written, special & ~ended, ~ended)
    resid = model.cache(whole, [sae.site])[sae.site][:, -written.shape[1] :]
    found = sae.encode(resid.float()).float()
    counted = (~ended & ~special)[..., None].to(found)
    total = counted.sum(1)
    return (found * counted).sum(1) / torch.where(total > 0, total, torch.nan)


def openings(model: Model, texts: Sequence[str], n: int, *, tokens: int = 3) -> list[str]:
    """n beginnings of ordinary texts, which leave open what the text will hold.

    After a text that has said already what it is about, steering changes little of what the rest
    holds, and little is learnt. Where texts are fewer than n, they come again (with other luck).

    Raises:
        ValueError: If no text is longer than that.
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


def feature_spill(
    model: Model,
    sae: SAE,
    steering: dict[str, Direction],
    targets: Sequence[int],
    prompts: Sequence[str],
    *,
    lengths: Sequence[float],
    new_tokens: int = 16,
    temperature: float = 1.0,
    positions: Positions | None = None,
    seed: int = 0,
    rows: int = 256,
    progress: bool = True,
) -> FeatureSpill:
    """What steering does to all features of the text besides the one that is meant.

    Args:
        steering: Name and direction of each edit, all at the SAE's site.
        targets: The feature that each edit is meant to move.
        lengths: How much of each direction is added, in the units of the stream; of equal cost,
            where edits are to be compared.

    Raises:
        ValueError: If the counts differ, or a direction is at another site.
    """
    edits = list(steering.values())
    if not len(edits) == len(targets) == len(lengths):
        raise ValueError(
            f"{len(edits)} edits, {len(targets)} targets and {len(lengths)} lengths: give one "
            "target and one length for each edit."
        )
    for name, edit in steering.items():
        if edit.site != sae.site:
            raise ValueError(
                f"{name!r} steers at {edit.site}, and {sae.name!r} reads "
                f"{sae.site}. Compare edits at the SAE's own site."
            )
    sae.require_features(targets)
    added = torch.stack(
        [edit.unit().vector * n for edit, n in zip(edits, lengths, strict=True)]
    ).float()
    found = text_features(
        model, sae, torch.cat([torch.zeros_like(added[:1]), added]), prompts,
        new_tokens=new_tokens, temperature=temperature, positions=positions, seed=seed, rows=rows,
        progress=progress,
    )  # fmt: skip
    kept = torch.isfinite(found).all(-1).all(0)
    if int(kept.sum()) < 2:
        raise ValueError(
            "After fewer than two prompts every edit wrote something, so nothing can be compared. "
            "Give more prompts, or smaller lengths."
        )
    found = found[:, kept]
    return FeatureSpill(
        site=sae.site,
        edits=tuple(steering),
        targets=tuple(targets),
        unsteered=found[0],
        changes=found[1:] - found[0],
        made_by={
            "sae": sae.name,
            "model": as_model(model).name,
            "fingerprint": as_model(model).fingerprint,
            "lengths": list(lengths),
            "prompts": int(kept.sum()),
            "new_tokens": new_tokens,
            "temperature": temperature,
            "seed": seed,
        },
    )
