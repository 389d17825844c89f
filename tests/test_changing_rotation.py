"""Texts on both sides of the length at which a model's rotary frequencies change."""

from __future__ import annotations

import pytest
import torch
import transformers

import steerlens as sl
from steerlens.data import ContrastPair
from steerlens.measures.generation import generated_tokens
from steerlens.measures.tokenised import questions
from steerlens.measures.written_on import written_on
from steerlens.models.changing_rotation import prefix_is_rotated_otherwise
from steerlens.models.checkpoints import bridge_from_hf, word_tokenizer
from steerlens.models.model import Model
from steerlens.sites import Positions, Site

LIMIT = 12
WORDS = [f"w{n}" for n in range(60)]
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 10_000.0, "short_factor": [1.0] * 4,
    "long_factor": [2.0, 3.0, 5.0, 9.0],
}  # fmt: skip


@pytest.fixture(scope="module")
def phi() -> Model:
    """A small Phi 3 with two sets of frequencies."""
    tokenizer = word_tokenizer(WORDS)
    torch.manual_seed(0)
    config = transformers.Phi3Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, rope_parameters=LONGROPE,
        max_position_embeddings=64, original_max_position_embeddings=LIMIT,
        bos_token_id=2, eos_token_id=3, pad_token_id=0,
    )  # fmt: skip
    hf_model = transformers.Phi3ForCausalLM(config).eval()
    return Model(bridge_from_hf(hf_model, tokenizer, name="changing"))


def words(count: int, start: int = 0) -> str:
    return " ".join(WORDS[(start + 7 * k) % len(WORDS)] for k in range(count))


@torch.no_grad()
def test_the_frequencies_of_a_short_text_depend_on_the_longest(phi: Model) -> None:
    """What is refused: Hugging Face reads the short text otherwise beside the long one."""
    batch = phi.tokens([words(4), words(20)])
    short = phi.tokens([words(4)])
    raw = phi.wrapped.original_model
    beside = raw(batch.tokens, attention_mask=batch.mask.long()).logits[0][batch.mask[0]]
    alone = raw(short.tokens, attention_mask=short.mask.long()).logits[0]
    assert float((beside - alone).abs().max()) > 1e-4


def step(model: Model) -> sl.Add:
    vector = torch.randn(model.d_model, generator=torch.Generator().manual_seed(0))
    direction = sl.Direction(vector, Site(1), processing="raw")
    return sl.Add(direction, Positions.from_prompt_end(), unit="direction")


def test_texts_of_both_sides_are_refused(phi: Model) -> None:
    with pytest.raises(ValueError, match=f"more than {LIMIT} columns.*has 21, .* of 5 tokens"):
        phi.states(phi.tokens([words(4), words(20)]))


@pytest.mark.parametrize("lengths", [(4, 9), (20, 26)])
def test_texts_of_one_side_are_read_as_alone(phi: Model, lengths: tuple[int, int]) -> None:
    texts = [words(n, n) for n in lengths]
    together, batch = phi.states(phi.tokens(texts)), phi.tokens(texts)
    for row, text in enumerate(texts):
        alone = phi.states(phi.tokens([text]))[0]
        torch.testing.assert_close(together[row][batch.mask[row]], alone, atol=1e-5, rtol=1e-4)


def test_writing_across_the_limit_is_refused(phi: Model) -> None:
    with pytest.raises(ValueError, match="has 27, padding and new tokens included"):
        generated_tokens(phi, [words(6)], max_new_tokens=20)
    written = generated_tokens(phi, [words(20)], max_new_tokens=4, stop_at_eos=False)
    whole = generated_tokens(phi, [words(20)], max_new_tokens=4, stop_at_eos=False, use_cache=False)
    assert torch.equal(written, whole)


@torch.no_grad()
@pytest.mark.parametrize("count", [6, LIMIT, 20])
def test_a_sweep_equals_full_passes(phi: Model, count: int) -> None:
    """Past the limit no prefix is shared: alone it would have the short factors."""
    pairs = [ContrastPair(words(count, n), f" {WORDS[n]}", f" {WORDS[n + 1]}") for n in range(3)]
    arm = step(phi)
    vector = arm.direction.vector
    found = sl.sweep(phi, pairs, [arm], [0.0, 1.0], progress=False)
    assert found.plan.path == "replay"
    for column, multiplier in enumerate((0.0, 1.0)):
        for row, pair in enumerate(pairs):
            tokens = phi.tokens([pair.prompt]).tokens
            ids = [phi.split(pair.prompt, one)[1][0] for one in (pair.positive, pair.negative)]

            def edit(resid: torch.Tensor, hook: object, m: float = multiplier) -> torch.Tensor:
                resid = resid.clone()
                resid[:, -1] += m * vector
                return resid

            with phi.wrapped.hooks(fwd_hooks=[(arm.site.hook, edit)]):
                logits = phi.wrapped(tokens)[0, -1]
            wanted = float(logits[ids[0]] - logits[ids[1]])
            assert float(found.log_odds[0, column, row]) == pytest.approx(wanted, abs=1e-4)


def test_padding_counts_as_hugging_face_counts_it(phi: Model) -> None:
    """Prompts are padded on the left and answers on the right, so all are shorter than the batch."""
    pairs = [
        ContrastPair(words(11, 1), " w1", " w2"),
        ContrastPair(words(5, 2), " w1 w4 w5", " w2 w8 w9"),
    ]
    batch = questions(phi, pairs).batch
    assert int(batch.mask.sum(1).max()) <= LIMIT < batch.width
    with pytest.raises(ValueError, match=f"has {batch.width}, padding"):
        phi.states(batch)
    with pytest.raises(ValueError, match=f"has {batch.width}, padding"):
        sl.sweep(phi, pairs, [step(phi)], [0.0, 1.0], progress=False)


@torch.no_grad()
def test_texts_that_are_read_on_stay_on_one_side(phi: Model) -> None:
    written = generated_tokens(phi, [words(6)], max_new_tokens=3, stop_at_eos=False)
    with pytest.raises(ValueError, match="has 16, padding"):
        written_on(
            phi,
            [words(6)],
            written,
            kept=None,
            max_new_tokens=6,
            stop_at_eos=False,
            temperature=0.0,
        )
    found = written_on(
        phi, [words(6)], written, kept=None, max_new_tokens=2, stop_at_eos=False, temperature=0.0
    )
    ids = [*phi.tokens([words(6)]).tokens[0].tolist(), *written[0].tolist()]
    for _ in range(2):
        ids.append(int(phi.wrapped(torch.tensor([ids]))[0, -1].argmax()))
    assert found[0].tolist() == ids[-2:]


@torch.no_grad()
def test_a_prefix_beyond_the_limit_is_shared(phi: Model) -> None:
    """It has the frequencies of the whole text."""
    pairs = [ContrastPair(words(20, n), f" {WORDS[n]}", f" {WORDS[n + 1]}") for n in range(2)]
    batch = questions(phi, pairs).batch
    for columns, otherwise in ((LIMIT, True), (LIMIT + 1, False), (3, True)):
        assert prefix_is_rotated_otherwise(phi.wrapped, batch, columns) == otherwise
    short = phi.tokens([words(5)])
    assert not prefix_is_rotated_otherwise(phi.wrapped, short, 3)
