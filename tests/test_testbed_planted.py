"""The planted model: alive exactly where it was planted, silent elsewhere."""

from __future__ import annotations

import pytest
import torch

from steerlens.models.checkpoints import check_hooks, fingerprint, load_hooked, save_hooked
from steerlens.testbed.planted import planted_model, planted_pairs

PLACES = [(0, 1, 2), (0, 5, 6), (1, 3, 6), (2, 4, 6), (4, 5, 6)]

every_place = pytest.mark.parametrize(("write", "read", "n_layers"), PLACES)


@pytest.fixture(scope="module")
def planted():
    return planted_model(1, 3)


def batch(planted, texts):
    tokens = planted.model.tokenizer(texts, padding=True, padding_side="left", return_tensors="pt")
    return tokens.input_ids, tokens.attention_mask


@torch.no_grad()
def log_odds(planted, prompts, hooks=()):
    """Of the first answer over the second, in nats, by a plain forward."""
    tokens, mask = batch(planted, prompts)
    with planted.model.hooks(fwd_hooks=list(hooks)):
        logits = planted.model(tokens, attention_mask=mask)[:, -1]
    one, other = (planted.model.to_single_token(a.strip()) for a in planted.answers)
    return logits[:, one] - logits[:, other]


def moved(planted, name, vector, positions=slice(None)):
    """Change of the log-odds of 24 questions when a vector is added at a hook."""
    prompts = [pair[0] for pair in planted_pairs(planted, 24, kind="questions")]

    def add(t, hook):
        t = t.clone()
        t[:, positions] += vector
        return t

    return log_odds(planted, prompts, [(name, add)]) - log_odds(planted, prompts)


@torch.no_grad()
def last_residuals(planted, layer, n=100, seed=0):
    pairs = planted_pairs(planted, n, seed=seed)
    name = f"blocks.{layer}.hook_resid_pre"
    found = []
    for side in (1, 2):
        tokens, mask = batch(planted, [pair[side] for pair in pairs])
        _, cache = planted.model.run_with_cache(tokens, attention_mask=mask, names_filter=[name])
        found.append(cache[name][:, -1])
    return found


@pytest.mark.parametrize("stream", ["resid_pre", "resid_post"])
@every_place
def test_the_direction_moves_the_answer_exactly_where_it_lives(write, read, n_layers, stream):
    planted = planted_model(write, read, n_layers=n_layers)
    live = planted.live_layers(stream)
    for layer in range(n_layers):
        for multiplier in (-4.0, -1.0, 0.5, 8.0):
            effect = moved(planted, f"blocks.{layer}.hook_{stream}", multiplier * planted.direction)
            expected = planted.gain * multiplier if layer in live else 0.0
            torch.testing.assert_close(effect, torch.full_like(effect, expected), atol=1e-3, rtol=0)


@every_place
def test_live_layers_are_the_same_places_in_both_streams(write, read, n_layers):
    planted = planted_model(write, read, n_layers=n_layers)
    assert planted.live_layers("resid_pre") == tuple(range(write + 1, read + 1))
    assert planted.live_layers("resid_post") == tuple(range(write, read))


def test_the_last_position_is_enough_and_earlier_ones_do_nothing(planted):
    name = "blocks.2.hook_resid_pre"
    here = moved(planted, name, planted.direction, slice(-1, None))
    torch.testing.assert_close(here, torch.full_like(here, planted.gain), atol=1e-3, rtol=0)
    before = moved(planted, name, 5 * planted.direction, slice(0, -1))
    torch.testing.assert_close(before, torch.zeros_like(before), atol=1e-3, rtol=0)


def test_the_model_answers_by_the_concept_word(planted):
    for words, expected in (
        (planted.positive_words, planted.gain),
        (planted.negative_words, -planted.gain),
        (planted.neutral_words, 0.0),
    ):
        prompts = [
            planted.question.format(opening="the", noun="soup", word=word, closing=closing)
            for word in words
            for closing in ("!", ".")
        ]
        odds = log_odds(planted, prompts)
        torch.testing.assert_close(odds, torch.full_like(odds, expected), atol=1e-3, rtol=0)


def test_orthogonal_directions_do_nothing(planted):
    generator = torch.Generator().manual_seed(0)
    kept = torch.stack([planted.direction, planted.answer_direction])
    for layer in range(6):
        vector = torch.randn(32, generator=generator)
        vector = vector - kept.T @ (kept @ vector)
        vector = 3 * vector / vector.norm()
        for positions in (slice(None), slice(-1, None), slice(1, None)):
            effect = moved(planted, f"blocks.{layer}.hook_resid_pre", vector, positions)
            torch.testing.assert_close(effect, torch.zeros_like(effect), atol=1e-3, rtol=0)


def test_the_answer_direction_speaks_only_after_it_is_read(planted):
    for layer in range(6):
        effect = moved(planted, f"blocks.{layer}.hook_resid_pre", planted.answer_direction)
        expected = planted.gain / 10 if layer > planted.read_layer else 0.0
        torch.testing.assert_close(effect, torch.full_like(effect, expected), atol=1e-3, rtol=0)


def test_distractors_are_decodable_everywhere_and_steer_nothing(planted):
    for layer in range(6):
        positive, negative = last_residuals(planted, layer)
        for distractor, least in zip(planted.distractors, (1.0, 0.6), strict=True):
            above = (positive @ distractor)[:, None] > (negative @ distractor)[None]
            assert above.float().mean() >= least  # the AUROC
            effect = moved(planted, f"blocks.{layer}.hook_resid_pre", 8 * distractor)
            torch.testing.assert_close(effect, torch.zeros_like(effect), atol=1e-3, rtol=0)


def test_diffmean_finds_the_direction_where_it_lives_and_steers_only_there(planted):
    for layer in range(6):
        positive, negative = last_residuals(planted, layer)
        vector = (positive - negative).mean(0)
        assert vector.norm() > 0.5  # there is always something to find
        cosine = torch.cosine_similarity(vector, planted.direction, dim=0)
        effect = moved(planted, f"blocks.{layer}.hook_resid_pre", vector / vector.norm())
        if layer in planted.live_layers():
            assert cosine > 0.85
            assert effect.min() > 0.85 * planted.gain
        else:
            assert abs(cosine) < 0.01
            torch.testing.assert_close(effect, torch.zeros_like(effect), atol=1e-3, rtol=0)


def test_steering_astray_changes_other_predictions(planted):
    """So that a cost beside the effect has something to measure."""
    tokens, mask = batch(planted, ["the soup was here . is it nice ?"])
    with torch.no_grad():
        plain = planted.model(tokens, attention_mask=mask)[0, -1]
        with planted.model.hooks(
            [("blocks.4.hook_resid_pre", lambda t, hook: t + 4 * planted.distractors[0])]
        ):
            steered = planted.model(tokens, attention_mask=mask)[0, -1]
    divergence = torch.nn.functional.kl_div(
        steered.log_softmax(-1), plain.log_softmax(-1), log_target=True, reduction="sum"
    )
    assert divergence > 0.1


def test_contexts_differ_in_their_concept_word_only_by_pole(planted):
    pairs = planted_pairs(planted, 300)
    assert len(set(pairs)) == 300
    for prompt, positive, negative, group in pairs:
        assert prompt == ""
        assert positive.startswith(group)
        assert negative.startswith(group)
        assert len(positive.split()) == len(negative.split())
        assert set(positive.split()) & set(planted.positive_words)
        assert set(negative.split()) & set(planted.negative_words)
    assert len({pair[3] for pair in pairs}) > 30


def test_questions_name_both_answers(planted):
    pairs = planted_pairs(planted, 300, kind="questions")
    assert len(set(pairs)) == 300
    assert {pair[1:3] for pair in pairs} == {(" yes", " no")}


def test_pairs_follow_the_seed_and_every_word_is_known(planted):
    assert planted_pairs(planted, 5, seed=1) == planted_pairs(planted, 5, seed=1)
    assert planted_pairs(planted, 5, seed=1) != planted_pairs(planted, 5, seed=2)
    texts = [t for p in planted_pairs(planted, 200) for t in p[1:3]]
    texts += [p[0] + p[1] for p in planted_pairs(planted, 200, kind="questions")]
    unknown = planted.model.tokenizer.unk_token_id
    assert not any(unknown in ids for ids in planted.model.tokenizer(texts).input_ids)


def test_the_seed_turns_the_basis_and_the_size_can_change():
    one, other = planted_model(1, 3, seed=0), planted_model(1, 3, seed=1)
    assert fingerprint(one.model) == fingerprint(planted_model(1, 3).model)
    assert abs(one.direction @ other.direction) < 0.9
    assert one.direction.abs().max() < 0.9  # no coordinate axis
    for d_model in (16, 64):
        small = planted_model(1, 2, n_layers=4, d_model=d_model, gain=2.0)
        effect = moved(small, "blocks.2.hook_resid_pre", small.direction)
        torch.testing.assert_close(effect, torch.full_like(effect, 2.0), atol=1e-3, rtol=0)


def test_the_planted_model_is_an_ordinary_model(planted, tmp_path):
    assert check_hooks(planted.model).worst < 1e-5
    loaded = load_hooked(save_hooked(planted.model, tmp_path / "m"))
    assert fingerprint(loaded) == fingerprint(planted.model)


@pytest.mark.parametrize(
    ("write", "read", "options"),
    [
        (3, 3, {}),
        (3, 1, {}),
        (-1, 2, {}),
        (1, 6, {}),
        (1, 2, {"d_model": 8}),
        (1, 2, {"d_model": 33}),
    ],
)
def test_impossible_plants_are_refused(write, read, options):
    with pytest.raises(ValueError, match="Use"):
        planted_model(write, read, **options)


def test_impossible_pairs_are_refused(planted):
    with pytest.raises(ValueError, match="different contexts"):
        planted_pairs(planted, 10**6)
    with pytest.raises(ValueError, match="different questions"):
        planted_pairs(planted, 0, kind="questions")
    # ValueError, or jaxtyping's own error where annotations are checked
    with pytest.raises(Exception, match="questions"):
        planted_pairs(planted, 1, kind="answers")
