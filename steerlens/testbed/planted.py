"""A model with hand-set weights in which exactly one direction steers, between two known layers.

Every analysis can be held against it: a heatmap of steerability must be alive between the layer
that writes the direction and the layer that reads it, and nowhere else.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.models.checkpoints import build_hooked, word_tokenizer

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

_OPENINGS = ("the", "our", "my", "this", "that", "her")
_NOUNS = ("soup", "bread", "cake", "tea", "room", "film", "book", "song", "city", "garden")
_POSITIVE = ("good", "great", "lovely", "superb", "tasty", "bright", "warm", "charming")
_NEGATIVE = ("bad", "awful", "horrid", "dreadful", "bland", "dull", "grim", "dreary")
_NEUTRAL = ("here", "there", "new", "blue", "round", "local")
_CHEERFUL, _FLAT = ("!", "!!", ":)"), (".", "..", ":(")
_QUESTION, _ANSWERS = "?", ("yes", "no")
_WORDS = (
    *_OPENINGS, *_NOUNS, *_POSITIVE, *_NEGATIVE, *_NEUTRAL, *_CHEERFUL, *_FLAT,
    "was", "is", "it", "nice", _QUESTION, *_ANSWERS,
)  # fmt: skip

_SIGNAL = 8.0
"""Size of what tokens say of themselves; large, so that steering does not counterfeit it."""
_MARGIN = 3.0
"""How far such a signal can be shifted without any effect."""
_WRITTEN = 10.0
"""What the reading block writes along the answer direction, per unit it reads."""
_RANGE = 64.0
"""Largest amount along the direction that the reading block passes on linearly."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Planted:
    """A model and the truth about it."""

    model: HookedTransformer
    direction: Float[Tensor, " d_model"]
    """The unit vector that steers: +1 along it after a positive word, -1 after a negative one."""
    write_layer: int
    """The block that writes it, at and after a concept word, and erases what was there before."""
    read_layer: int
    """The block that reads it at the question mark, and erases it."""
    gain: float
    """Nats of log-odds of "yes" over "no" per unit of `direction` where it is live."""
    answer_direction: Float[Tensor, " d_model"]
    """What the reading block writes, and "yes" and "no" read. Added after `read_layer` it moves
    the answer by `gain / 10` per unit; before, it is erased."""
    distractors: Float[Tensor, "distractor d_model"]
    """Unit vectors that differ between the two sides of every context, at every layer, at the last
    token, and steer nothing. The first separates them perfectly, the second by two thirds."""
    positive_words: tuple[str, ...] = _POSITIVE
    negative_words: tuple[str, ...] = _NEGATIVE
    neutral_words: tuple[str, ...] = _NEUTRAL
    context: str = "{opening} {noun} was {word} {closing}"
    """Contexts end in a closing that goes with the concept: see `distractors`."""
    question: str = "{opening} {noun} was {word} {closing} is it nice ?"
    answers: tuple[str, str] = (" yes", " no")
    """The one that a positive `direction` favours, and the other."""

    def live_layers(
        self, stream: Literal["resid_pre", "resid_post"] = "resid_pre"
    ) -> tuple[int, ...]:
        """The layers at which adding `direction` moves the answer; at all others it does nothing.

        >>> planted_model(1, 3).live_layers("resid_pre")
        (2, 3)
        >>> planted_model(1, 3).live_layers("resid_post")
        (1, 2)
        """
        first = {"resid_pre": self.write_layer + 1, "resid_post": self.write_layer}[stream]
        return tuple(range(first, first + self.read_layer - self.write_layer))


def planted_model(
    write_layer: int,
    read_layer: int,
    *,
    n_layers: int = 6,
    d_model: int = 32,
    gain: float = 3.0,
    padding_side: Literal["left", "right"] = "right",
    seed: int = 0,
) -> Planted:
    """Builds the model by setting its weights; nothing is trained.

    How it works, in an orthonormal basis turned at random (so that no feature is a coordinate):

    - Concept words carry their pole. At `write_layer` one head fetches it, at every later
      position; the MLP turns it into +1 or -1 along `direction`, and erases what was there before.
    - At `read_layer` the MLP multiplies what lies along `direction` into the answer direction, at
      question marks only, and erases both as they were before.
    - A second head mixes words of the context in unread dimensions at every layer: variation for
      probes, and for the other words' logits, so that steering astray has a price.

    There is no normalisation (`normalization_type=None`), so this algebra is exact up to float32
    rounding, and the model has no `ln_final`. Additions orthogonal to `direction` and
    `answer_direction` do nothing to the answer as long as they are below 3 along the dimensions
    in which words carry their pole (concept words and question marks have 8 there).

    Args:
        gain: Log-odds of "yes" over "no", in nats, that a positive word causes; a negative word
            causes minus that, no concept word 0.
        seed: Turns the basis and draws the unread dimensions.

    Raises:
        ValueError: Unless 0 <= write_layer < read_layer < n_layers and d_model is even and at
            least 16.
    """
    if not 0 <= write_layer < read_layer < n_layers:
        raise ValueError(
            f"write_layer={write_layer} and read_layer={read_layer} with n_layers={n_layers}: what "
            "is written must be read by a later block. Use 0 <= write_layer < read_layer < "
            "n_layers, e.g. planted_model(1, 3)."
        )
    if d_model < 16 or d_model % 2:
        raise ValueError(
            f"d_model={d_model} is odd or leaves no room beside the 8 dimensions in use. "
            "Use an even d_model of at least 16."
        )
    tokenizer = word_tokenizer(_WORDS, padding_side=padding_side)
    d_head, d_mlp, n_ctx, d_vocab = d_model // 2, 8, 64, len(tokenizer)
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    basis = torch.linalg.qr(noise(d_model, d_model))[0].T
    u, answer, pole, present, fetched, asks, plain, mixed = basis[:8]
    unread = basis[6:]  # the two distractors and what words have of their own
    ids = tokenizer.get_vocab()

    embed = 0.06 * noise(d_vocab, len(unread)) @ unread
    for sign, words in ((1.0, _POSITIVE), (-1.0, _NEGATIVE)):
        for word in words:
            embed[ids[word]] += _SIGNAL * (sign * pole + present)
    embed[ids[_QUESTION]] += _SIGNAL * asks
    for sign, closings in ((1.0, _CHEERFUL), (-1.0, _FLAT)):
        for i, word in enumerate(closings):
            embed[ids[word]] += sign * 0.4 * (plain + (mixed if i else -mixed))

    unembed = 0.5 * unread.T @ noise(len(unread), d_vocab)
    yes, no = (ids[word] for word in _ANSWERS)
    unembed[:, yes] = answer * gain / _WRITTEN / 2
    unembed[:, no] = -unembed[:, yes]

    parameters = {
        "embed.W_E": embed,
        "pos_embed.W_pos": 0.06 * noise(n_ctx, len(unread)) @ unread,
        "unembed.W_U": unembed,
        "unembed.b_U": torch.zeros(d_vocab),
    }
    for layer in range(n_layers):
        zeros = torch.zeros(2, d_model, d_head, dtype=torch.float64)
        query, key, value, out = zeros.clone(), zeros.clone(), zeros.clone(), zeros.mT.clone()
        query_bias = torch.zeros(2, d_head)
        # Head 1: an average over the context, from some unread dimensions into the others.
        half = min(d_head, len(unread) // 2)
        value[1, :, :half] = unread[:half].T
        out[1, :half] = 0.5 * unread[-half:]
        reads, offsets, writes = [], [], []
        if layer == write_layer:
            # Head 0: from everywhere to concept words (all other keys are 0), fetching the pole.
            query_bias[0, 0] = 1.0
            key[0, :, 0] = 30.0 / _SIGNAL * present
            value[0, :, 0] = pole
            out[0, 0] = fetched
            # +1 where the pole is near +8, -1 near -8, 0 near 0, and flat around each.
            low, high = _MARGIN, _SIGNAL - _MARGIN
            for sign in (1.0, -1.0):
                reads += [sign * fetched, sign * fetched]
                offsets += [-low, -high]
                writes += [sign * u / (high - low), -sign * u / (high - low)]
            for erased in (u, fetched):
                reads, offsets, writes = _erase(erased, reads, offsets, writes)
        if layer == read_layer:
            # At question marks both neurons are on, and their difference is linear; elsewhere
            # both are off.
            for sign in (1.0, -1.0):
                reads.append(sign * u + 2 * _RANGE / _SIGNAL * asks)
                offsets.append(-_RANGE)
                writes.append(sign * _WRITTEN / 2 * answer)
            for erased in (u, answer):
                reads, offsets, writes = _erase(erased, reads, offsets, writes)
        w_in, w_out = torch.zeros(d_model, d_mlp), torch.zeros(d_mlp, d_model)
        b_in = torch.zeros(d_mlp)
        for i, (read, offset, write) in enumerate(zip(reads, offsets, writes, strict=True)):
            w_in[:, i], b_in[i], w_out[i] = read, offset, write
        parameters |= {
            f"blocks.{layer}.attn.W_Q": query,
            f"blocks.{layer}.attn.W_K": key,
            f"blocks.{layer}.attn.W_V": value,
            f"blocks.{layer}.attn.W_O": out,
            f"blocks.{layer}.attn.b_Q": query_bias,
            f"blocks.{layer}.attn.b_K": torch.zeros(2, d_head),
            f"blocks.{layer}.attn.b_V": torch.zeros(2, d_head),
            f"blocks.{layer}.attn.b_O": torch.zeros(d_model),
            f"blocks.{layer}.mlp.W_in": w_in,
            f"blocks.{layer}.mlp.b_in": b_in,
            f"blocks.{layer}.mlp.W_out": w_out,
            f"blocks.{layer}.mlp.b_out": torch.zeros(d_model),
        }
    config = {
        "n_layers": n_layers,
        "d_model": d_model,
        "n_heads": 2,
        "d_head": d_head,
        "d_mlp": d_mlp,
        "n_ctx": n_ctx,
        "d_vocab": d_vocab,
        "act_fn": "relu",
        "normalization_type": None,
        "use_attn_scale": False,
        "model_name": f"planted-{write_layer}-{read_layer}",
    }
    return Planted(
        model=build_hooked(config, tokenizer, parameters=parameters),
        direction=u.float(),
        write_layer=write_layer,
        read_layer=read_layer,
        gain=gain,
        answer_direction=answer.float(),
        distractors=torch.stack([plain, mixed]).float(),
    )


def _erase(
    direction: Float[Tensor, " d_model"],
    reads: list[Tensor],
    offsets: list[float],
    writes: list[Tensor],
) -> tuple[list[Tensor], list[float], list[Tensor]]:
    """Two more neurons that subtract what lies along `direction`: -x = relu(-x) - relu(x)."""
    return (
        [*reads, direction, -direction],
        [*offsets, 0.0, 0.0],
        [*writes, -direction, direction],
    )


def planted_pairs(
    planted: Planted,
    n: int,
    *,
    kind: Literal["contexts", "questions"] = "contexts",
    seed: int = 0,
) -> list[tuple[str, str, str, str]]:
    """Different (prompt, positive, negative, group) tuples for a `ContrastSet`.

    Args:
        kind: "contexts" have an empty prompt and two texts that differ in concept word and
            closing, to be read at the last token. "questions" have a prompt about a positive,
            negative or neutral word, and the answers " yes" and " no".
        seed: Draws which; the global random state is not used.

    Raises:
        ValueError: If there are fewer than `n` different ones, or no such kind.

    >>> planted_pairs(planted_model(1, 3), 1)[0][:3]
    ('', 'that tea was warm !!', 'that tea was dreary :(')
    """
    if kind == "contexts":
        pools: tuple[tuple[str, ...], ...] = (_POSITIVE, _CHEERFUL, _NEGATIVE, _FLAT)
    elif kind == "questions":
        pools = ((*_POSITIVE, *_NEGATIVE, *_NEUTRAL), (*_CHEERFUL, *_FLAT))
    else:
        raise ValueError(f'There is no kind {kind!r}. Use "contexts" or "questions".')
    everything = list(itertools.product(_OPENINGS, _NOUNS, *pools))
    if not 0 < n <= len(everything):
        raise ValueError(
            f"n={n}, but there are 1 to {len(everything)} different {kind}. Ask for that many."
        )
    pairs = []
    for opening, noun, *rest in random.Random(seed).sample(everything, n):
        facts = {"opening": opening, "noun": noun}
        texts = [
            (planted.context if kind == "contexts" else planted.question).format(
                word=word, closing=closing, **facts
            )
            for word, closing in zip(rest[::2], rest[1::2], strict=True)
        ]
        group = f"{opening} {noun}"
        if kind == "contexts":
            pairs.append(("", texts[0], texts[1], group))
        else:
            pairs.append((texts[0], *planted.answers, group))
    return pairs
