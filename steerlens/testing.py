"""For tests, yours and ours: contracts for methods and interventions, and small models.

`check_method` and `check_intervention` say whether a stranger's code keeps what the rest of the
project relies on. The tiny models are made in memory, through the real loading path.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from steerlens.measures.generation import generated_tokens
from steerlens.models.checkpoints import (
    bridge_from_hf,
    hooked_from_hf,
    unchanged_rng,
    word_tokenizer,
)
from steerlens.models.model import Model, as_model
from steerlens.protocols import (
    Fitted,
    Intervention,
    Method,
    ResidualEdit,
    first_block,
    takes_rows,
)
from steerlens.sites import Site, TokenBatch

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Family = Literal["gpt2", "neox", "llama", "gemma2", "mistral", "qwen2"]

FAMILIES: tuple[Family, ...] = ("gpt2", "neox", "llama", "gemma2", "mistral", "qwen2")
"""Every family of `tiny_model`: what differs between them is where steering code breaks."""

WORDS: tuple[str, ...] = tuple(
    """. , ? ! a an the this that it he she we they I you is was are were be not no yes and or but
    so because if then than very quite really too all some one two three good bad great awful nice
    terrible lovely horrid happy sad love hate like dislike enjoy adore detest agree disagree right
    wrong true false cat dog bird fish man woman child friend soup bread cake wine tea room bed
    food place film book song city town capital king queen sat ran slept ate saw said think know
    feel want went came on in at of to from with for by my your his her its our their red blue
    green big small old new fast slow hot cold here there now today A B ( ) : Question Answer
    Choices""".split()  # noqa: SIM905 (a list would be one word a line)
)
"""The vocabulary of the tiny models; any other word becomes <unk>."""


def tiny_hf(
    family: Family,
    *,
    n_layers: int = 3,
    d_model: int = 32,
    seed: int = 0,
    words: Sequence[str] = WORDS,
    padding_side: Literal["left", "right"] = "right",
    **config: Any,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A random Hugging Face model of a family, in float32 on the CPU, with a word tokenizer.

    Weights are large enough that every part matters (logits have a standard deviation near 1), and
    biases and norms are random too, so that a conversion that drops one is seen. Context is 64.

    - gpt2: LayerNorm, learned positions, untied unembedding.
    - neox: LayerNorm, rotary positions on a quarter of each head, attention beside the MLP.
    - llama: RMSNorm, rotary, grouped queries, gated MLP, untied.
    - mistral: as llama, every layer attending to the last 6 tokens only.
    - qwen2: as llama, with query, key and value biases, and tied embeddings.
    - gemma2: norms before and after, soft caps, every second layer sees 4 tokens, tied.

    Args:
        config: Further fields of the Hugging Face config, which win.
    """
    import transformers

    if family not in FAMILIES:
        raise ValueError(f"There is no family {family!r}. Use one of {', '.join(FAMILIES)}.")
    tokenizer = word_tokenizer(words, padding_side=padding_side)
    n_heads = 4
    ids = {"vocab_size": len(tokenizer), "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    usual = {
        "hidden_size": d_model,
        "num_hidden_layers": n_layers,
        "num_attention_heads": n_heads,
        "intermediate_size": 2 * d_model,
        "max_position_embeddings": 64,
        "attn_implementation": "eager",
        **ids,
    }
    grouped = {**usual, "num_key_value_heads": 2, "tie_word_embeddings": False}
    cls, fields = {
        "gpt2": (
            "GPT2",
            {"n_embd": d_model, "n_layer": n_layers, "n_head": n_heads, "n_inner": 2 * d_model}
            | {"n_positions": 64, "tie_word_embeddings": False, "attn_implementation": "eager"}
            | ids,
        ),
        "neox": ("GPTNeoX", {**usual, "tie_word_embeddings": False}),
        "llama": ("Llama", grouped),
        "mistral": ("Mistral", {**grouped, "sliding_window": 6}),
        "qwen2": ("Qwen2", {**grouped, "tie_word_embeddings": True}),
        "gemma2": (
            "Gemma2",
            {**grouped, "tie_word_embeddings": True, "head_dim": d_model // n_heads}
            | {"sliding_window": 4, "query_pre_attn_scalar": 16}
            | {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 6.0},
        ),
    }[family]
    head = "GPT2LMHeadModel" if cls == "GPT2" else f"{cls}ForCausalLM"
    with unchanged_rng():
        hf_config = getattr(transformers, f"{cls}Config")(**{**fields, **config})
        model = getattr(transformers, head)(hf_config).eval()
    _randomise(model, seed)
    return model, tokenizer


@torch.no_grad()
def _randomise(model: PreTrainedModel, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    gemma = type(model).__name__.startswith("Gemma")
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim == 1 and name.endswith("weight"):
            parameter.copy_(0.2 * noise + (0.0 if gemma else 1.0))  # Gemma's norms add 1 themselves
        elif parameter.ndim == 1:
            parameter.copy_(0.2 * noise)
        elif "wpe" in name:
            parameter.copy_(0.3 * noise)
        else:
            width = model.config.hidden_size
            parameter.copy_(noise / width**0.5)


def tiny_model(
    family: Family = "gpt2",
    *,
    n_layers: int = 3,
    d_model: int = 32,
    seed: int = 0,
    words: Sequence[str] = WORDS,
    padding_side: Literal["left", "right"] = "right",
    **config: Any,
) -> HookedTransformer:
    """`tiny_hf` as a `HookedTransformer`, through the same conversion as real checkpoints.

    >>> tiny_model("llama", n_layers=2)("the cat sat").shape  # <bos> and three words
    torch.Size([1, 4, 144])
    """
    hf_model, tokenizer = tiny_hf(
        family,
        n_layers=n_layers,
        d_model=d_model,
        seed=seed,
        words=words,
        padding_side=padding_side,
        **config,
    )
    return hooked_from_hf(hf_model, tokenizer, check=False, name=f"tiny-{family}")


def tiny_bridge(
    family: Family = "gpt2",
    *,
    n_layers: int = 3,
    d_model: int = 32,
    seed: int = 0,
    words: Sequence[str] = WORDS,
    padding_side: Literal["left", "right"] = "right",
    **config: Any,
) -> TransformerBridge:
    """`tiny_hf` as a `TransformerBridge`; the same weights as `tiny_model` with the same seed."""
    hf_model, tokenizer = tiny_hf(
        family,
        n_layers=n_layers,
        d_model=d_model,
        seed=seed,
        words=words,
        padding_side=padding_side,
        **config,
    )
    return bridge_from_hf(hf_model, tokenizer, name=f"tiny-{family}")


TEXTS: tuple[tuple[str, str], ...] = (
    ("the cat sat on the bed and the dog", " ran to the good"),
    ("I", " think the soup"),
    ("you like that red wine", " really"),
)
"""Prompts of different lengths, each with a continuation, in words of the tiny models."""


def check_method(method: Method, *, control: bool = False) -> None:
    """Checks that a method keeps its contract, on made-up pairs that differ along one direction.

    The vector has the right shape, is finite, depends on the pairs only (not on their order or on a
    global random state; without `paired = True` not on who is paired with whom), and points from
    negative to positive. The arguments are left as they were, and the repr can serve as a label.

    Args:
        control: True for a method that ignores the labels on purpose, whose sign means nothing.

    Raises:
        AssertionError: Naming the first point that fails.

    >>> from steerlens.directions.methods import DiffMean
    >>> check_method(DiffMean())
    """
    name = repr(method)
    _require(
        " at 0x" not in name,
        f"repr(method) is {name!r}: it holds a memory address, so it is no label that lasts. Make "
        "the method a frozen dataclass, or write __repr__.",
    )
    paired = bool(getattr(method, "paired", False))
    for pairs in (24, 3):  # more pairs than dimensions, and fewer
        positive, negative = _contrast(pairs, 8)
        vector = _vector(method, name, positive, negative)
        again = _vector(method, name, positive, negative)
        _require(
            torch.equal(again, vector),
            f"{name} gave two vectors for the same pairs. Seed what is random in it with a "
            "torch.Generator of its own.",
        )
        order = torch.arange(pairs).roll(1).flip(0)
        moved = _vector(method, name, positive[order], negative[order if paired else order.roll(1)])
        _require_close(
            moved,
            vector,
            f"{name} gives another vector when the order of the {'pairs' if paired else 'texts'} "
            "changes. " + ("" if paired else "If it needs true pairs, give it `paired = True`."),
        )
        if control:
            continue
        gap = positive.mean(0) - negative.mean(0)
        flipped = _vector(method, name, negative, positive)
        _require(
            float(vector @ gap) > 0 > float(flipped @ gap),
            f"{name} does not point from negative to positive: its cosine with the difference of "
            f"means is {_cosine(vector, gap):.2f}, and {_cosine(flipped, gap):.2f} after the sides "
            "change places. Orient it by that difference.",
        )


def _contrast(pairs: int, d_model: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(pairs)
    common = torch.randn(pairs, d_model, generator=generator)
    noise = 0.3 * torch.randn(2, pairs, d_model, generator=generator)
    concept = torch.randn(d_model, generator=generator)
    return common + concept + noise[0], common - concept + noise[1]


def _vector(method: Method, name: str, positive: Tensor, negative: Tensor) -> Tensor:
    given = positive.clone(), negative.clone()
    vector = method(*given)
    _require(
        torch.equal(given[0], positive) and torch.equal(given[1], negative),
        f"{name} changed its arguments in place. Work on copies: others read the same activations.",
    )
    shape = positive.shape[1:]
    _require(
        isinstance(vector, Tensor) and vector.shape == shape and vector.is_floating_point(),
        f"{name} returned {getattr(vector, 'shape', type(vector).__name__)}; a direction is a "
        f"floating point tensor of shape {tuple(shape)}.",
    )
    finite = bool(torch.isfinite(vector).all()) and bool(vector.any())
    _require(finite, f"{name} returned NaN, infinity or all zeros: {vector}.")
    return vector


@torch.no_grad()
def check_intervention(
    intervention: Intervention, model: Model, *, texts: Sequence[tuple[str, str]] = TEXTS
) -> None:
    """Checks on a model that an intervention keeps its contract.

    At multiplier 0 the logits are the unsteered ones exactly; at 1 something changes; after the
    `with` and after an error in it nothing is left. A row of a batch is as if alone, padding on
    either side changes nothing, and cached generation is what a full forward pass says. What the
    intervention states of itself holds: the blocks below its `first_block` see the unsteered
    stream, `require_fits` accepts this model, and where it takes a multiplier per row, each row
    is as with its own.

    Args:
        model: A `Model` or what it wraps.
        texts: Prompts of different lengths, each with a continuation, in words the model knows.

    Raises:
        AssertionError: Naming the first point that fails.
    """
    model = as_model(model)
    name = repr(intervention)
    rows = takes_rows(intervention)
    if isinstance(intervention, ResidualEdit):
        _check_edit(intervention, name, model)
    if isinstance(intervention, Fitted):
        _check_fits(intervention, name, model)
    prompts, continuations = [p for p, _ in texts], [c for _, c in texts]
    batch = model.answered(prompts, continuations)
    before = _traces(model)
    unsteered = _rows(model, batch)

    def steered(multiplier: float | Tensor, batch: TokenBatch = batch) -> list[Tensor]:
        with intervention.attach(model, multiplier):
            return _rows(model, batch)

    at_one = steered(1.0)
    _require_gone(model, before, unsteered, batch, f"{name} left something behind after the `with`")
    try:
        with intervention.attach(model, 1.0):
            _rows(model, batch)
            raise _Deliberate
    except _Deliberate:
        pass
    what = f"{name} left something behind after an error in the `with` (undo it in `finally`)"
    _require_gone(model, before, unsteered, batch, what)
    for zero in (0.0, torch.zeros(len(batch), device=model.device)) if rows else (0.0,):
        _require(
            all(map(torch.equal, steered(zero), unsteered)),
            f"{name} at multiplier {zero} is not the unsteered model: logits differ. Whatever it "
            "adds must be multiplied by the multiplier.",
        )
    change = max(float((a - b).abs().max()) for a, b in zip(at_one, unsteered, strict=True))
    _require(
        change > _tolerance(model, unsteered),
        f"{name} at multiplier 1 does nothing: no logit of {len(batch)} texts moved by more than "
        f"{change:.1g}. Give it a larger direction, or other positions.",
    )

    for i, text in enumerate(texts):
        alone = steered(1.0, model.answered(*([part] for part in text)))
        _require_same(alone[0], at_one[i], model, f"{name}: text {i} alone is not as in a batch")
    right = steered(1.0, model.answered(prompts, continuations, padding_side="right"))
    for i, (one, other) in enumerate(zip(right, at_one, strict=True)):
        _require_same(one, other, model, f"{name}: text {i} differs between left and right padding")
    if rows:
        strengths = torch.linspace(-1, 1, len(batch), device=model.device)
        per_row = steered(strengths)
        for i, m in enumerate(strengths.tolist()):
            text = (
                f"{name}: row {i} of a batch with one multiplier per row is not as with {m:g} alone"
            )
            _require_same(per_row[i], steered(m)[i], model, text)
    _check_first_block(intervention, name, model, batch)
    _check_cached(intervention, name, model, prompts)


class _Deliberate(Exception):
    """Raised inside the `with` to see what an error leaves behind."""


def _check_edit(edit: ResidualEdit, name: str, model: Model) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = next(model.wrapped.parameters())
    stream = torch.randn(2, 3, model.d_model, generator=generator).to(weight)
    whole = edit(stream, 1.0)
    _require(
        whole.shape == stream.shape and whole.dtype == stream.dtype,
        f"{name} turned a {stream.dtype} stream of shape {tuple(stream.shape)} into {whole.dtype} "
        f"of shape {tuple(whole.shape)}. Keep both.",
    )
    alone = [[edit(stream[i : i + 1, j : j + 1], 1.0)[0, 0] for j in range(3)] for i in range(2)]
    _require_same(
        torch.stack([torch.stack(row) for row in alone]),
        whole,
        model,
        f"{name} edits a token by looking at other tokens, which padding and caching would change. "
        "If that is meant, give it no `site` and no `positions`, so that it is not a ResidualEdit",
    )


def _check_fits(intervention: Fitted, name: str, model: Model) -> None:
    before = _traces(model)
    try:
        intervention.require_fits(model)
    except ValueError as error:
        raise AssertionError(
            f"{name} does not fit {model.name!r}, as its require_fits says: {error} Check it on a "
            "model that it was made for."
        ) from error
    _require(_traces(model) == before, f"{name}: require_fits changed the model. Let it only look.")
    try:
        intervention.require_fits(_other_model())
    except ValueError:
        pass
    except Exception as error:
        raise AssertionError(
            f"{name}: require_fits raised {error!r} for a model of other shapes. Raise ValueError "
            "with a text that says what does not fit."
        ) from error


@cache
def _other_model() -> Model:
    """A model of one narrow layer, which few interventions fit."""
    return Model(tiny_model("gpt2", n_layers=1, d_model=16))


def _check_first_block(
    intervention: Intervention, name: str, model: Model, batch: TokenBatch
) -> None:
    first = first_block(intervention)
    _require(
        0 <= first <= model.n_layers,
        f"{name} says that first_block is {first}, and {model.name!r} has blocks 0 to "
        f"{model.n_layers - 1}. Give the first block that it changes, or {model.n_layers} for what "
        "comes after the last.",
    )
    below = [Site(layer, "resid_pre") for layer in range(first)]
    sites = [*below, Site(model.n_layers - 1)]  # the last one, so that all blocks are run
    unsteered = model.cache(batch, sites)
    with intervention.attach(model, 1.0):
        steered = model.cache(batch, sites)
    for site in below:
        _require(
            torch.equal(steered[site][batch.mask], unsteered[site][batch.mask]),
            f"{name} says that first_block is {first}, and it changes what enters block "
            f"{site.layer}. Give the first block whose input or weights it changes.",
        )


def _check_cached(
    intervention: Intervention, name: str, model: Model, prompts: Sequence[str], new: int = 4
) -> None:
    prompt = model.tokens(prompts)
    with intervention.attach(model, 1.0):
        written = generated_tokens(model, prompts, max_new_tokens=new, stop_at_eos=False)
        real = torch.ones_like(written, dtype=torch.bool)
        whole = prompt.extended(written, model.is_special(written), real)
        logits = model.logits(whole).float()[:, -new - 1 : -1]
    # By how much the written token is not the likeliest: ties may break either way.
    short = logits.amax(-1) - logits.gather(-1, written[..., None])[..., 0]
    _require(
        float(short.max()) <= _tolerance(model, [logits]),
        f"{name}: cached generation wrote a token that a full forward pass finds less likely by "
        f"{float(short.max()):.2g} nats. Edit the same tokens when they come one by one.",
    )


def _rows(model: Model, batch: TokenBatch) -> list[Tensor]:
    """Logits of each row's real tokens."""
    return [row[real].float() for row, real in zip(model.logits(batch), batch.mask, strict=True)]


def _traces(model: Model) -> tuple[str, int, int]:
    """What an intervention could leave: changed weights, hooks, edits on record."""
    points = model.wrapped.hook_dict.values()
    hooks = sum(len(point.fwd_hooks) + len(point.bwd_hooks) for point in points)
    return model.fingerprint, hooks, len(model.attached)


def _require_gone(
    model: Model, before: tuple, unsteered: list[Tensor], batch: TokenBatch, text: str
) -> None:
    after = _traces(model)
    named = zip(("weights", "hooks", "attached edits"), before, after, strict=True)
    changed = ", ".join(what for what, one, other in named if one != other)
    _require(not changed, f"{text}: {changed} changed.")
    _require(all(map(torch.equal, _rows(model, batch), unsteered)), f"{text}: logits differ.")


def _tolerance(model: Model, logits: Sequence[Tensor]) -> float:
    """What rounding explains, at the model's precision and the logits' size."""
    eps = torch.finfo(next(model.wrapped.parameters()).dtype).eps
    return eps**0.5 * max(float(x.abs().max()) for x in logits)


def _require_same(one: Tensor, other: Tensor, model: Model, text: str) -> None:
    gap = float((one - other).abs().max())
    _require(gap <= _tolerance(model, [one, other]), f"{text}: they differ by {gap:.2g}.")


def _require_close(one: Tensor, other: Tensor, text: str) -> None:
    gap = float((one - other).norm() / other.norm())
    _require(gap < 1e-3, f"{text} They differ by {gap:.2g} of its length.")


def _cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.cosine_similarity(one, other, dim=0))


def _require(holds: bool, text: str) -> None:
    if not holds:
        raise AssertionError(text)
