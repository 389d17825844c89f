"""What steering does to the features of a text: against naive loops, and planted linear effects."""

from dataclasses import replace

import pandas
import pytest
import torch

from steerlens.analyses.features.effect_map import EffectMap
from steerlens.analyses.features.feature_effects import _fitted, fit_effects
from steerlens.analyses.features.feature_texts import (
    _mean_features,
    openings,
    text_features,
)
from steerlens.analyses.features.feature_writing import AddRows
from steerlens.interventions.residual import Add
from steerlens.measures.generation import generate
from steerlens.models.model import Model
from steerlens.results import ResultError
from steerlens.saes.sae import SAEError
from steerlens.sites import Site
from tests.handmade import handmade, random_rows

SITE = Site(1)
PROMPTS = ["the cat sat", "I", "you really think the"]


@pytest.fixture(scope="module")
def made(gpt2):
    return handmade(random_rows(24, gpt2.d_model), SITE, threshold=0.2)


def written_features(model, sae, vectors, prompts, **options):
    """The features of the texts under all vectors."""
    return torch.cat(list(text_features(model, sae, vectors, prompts, **options, progress=False)))


def features_of(model: Model, sae, prompt: str, text: str) -> torch.Tensor:
    """Mean features of the tokens of a continuation, read by the unsteered model."""
    batch = model.tokens(prompt + text)
    resid = model.cache(batch, [sae.site])[sae.site][0]
    start = len(model.ids(prompt))
    chosen = ~model.is_special(batch.tokens[0, start:])
    return sae.encode(resid[start:])[chosen].mean(0)


def test_features_are_those_of_texts_written_one_by_one(gpt2, made):
    vectors = torch.stack([torch.zeros(32), 3 * made.W_dec[1], -2 * made.W_dec[7]])
    found = written_features(gpt2, made, vectors, PROMPTS, new_tokens=5, temperature=0.0, rows=6)
    assert found.shape == (3, 3, 24)
    for i, vector in enumerate(vectors):
        for j, prompt in enumerate(PROMPTS):
            step = replace(made.direction(0), vector=vector + 1e-9)
            with Add(step, unit="direction").attach(gpt2, 1.0):
                text = generate(gpt2, prompt, max_new_tokens=5)
            # Word tokenizers drop the blank between prompt and text.
            expected = features_of(gpt2, made, prompt, " " + str(text))
            torch.testing.assert_close(found[i, j], expected, atol=1e-4, rtol=1e-4)
    assert float((found[1] - found[0]).abs().max()) > 0.1


def test_prompts_have_the_same_random_numbers_under_every_vector(gpt2, made):
    vectors = torch.zeros(3, 32)
    found = written_features(gpt2, made, vectors, PROMPTS, new_tokens=4, rows=3)
    torch.testing.assert_close(found[0], found[2])
    other = written_features(gpt2, made, vectors[:1], PROMPTS, new_tokens=4, seed=1)
    assert float((other[0] - found[0]).abs().max()) > 0.01


def test_what_follows_the_end_of_a_text_does_not_count(gpt2, made):
    """A vector towards <eos> ends some texts early; nothing after that is read."""
    written = torch.tensor([[9, gpt2.tokenizer.eos_token_id, 0], [9, 11, 12]])
    one = _mean_features(gpt2, made, PROMPTS[:2], written)
    short = _mean_features(gpt2, made, PROMPTS[:1], written[:1, :1])
    torch.testing.assert_close(one[0], short[0], atol=1e-5, rtol=1e-4)
    nothing = _mean_features(gpt2, made, PROMPTS[:1], written[:1, 1:2])
    assert bool(nothing.isnan().all())


def test_rows_of_a_batch_get_their_own_vectors():
    resid, vectors = torch.zeros(2, 3, 4), torch.arange(8.0).view(2, 4)
    edited = AddRows(vectors)(resid, 0.5)
    torch.testing.assert_close(edited, 0.5 * vectors[:, None].expand(2, 3, 4))
    per_row = AddRows(vectors)(resid, torch.tensor([0.0, 2.0]))
    torch.testing.assert_close(per_row[:, 0], torch.tensor([0.0, 2.0])[:, None] * vectors)


# The effect map


def synthetic(noise: float = 0.0, n: int = 200) -> tuple[EffectMap, torch.Tensor, torch.Tensor]:
    """An effect map fitted on effects that are linear in the vector, and the truth."""
    generator = torch.Generator().manual_seed(0)
    sae = handmade(random_rows(n, 16), SITE)
    weights = torch.randn(16, n, generator=generator)
    bias = torch.randn(n, generator=generator)
    effects = sae.W_dec @ weights + bias
    effects = effects + noise * torch.randn(n, n, generator=generator)
    return _fitted(sae, sae.W_dec, effects, 2.0, {"vectors": n}), weights, bias


def test_the_effect_map_finds_a_linear_effect():
    found, weights, bias = synthetic()
    torch.testing.assert_close(found.weights, weights, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found.bias, bias, atol=1e-3, rtol=1e-3)
    assert float(found.explained.min()) > 0.999
    vector = 5 * random_rows(1, 16, seed=3)[0]
    guess = vector / 5 @ weights + bias
    torch.testing.assert_close(found.predict(vector), guess, atol=1e-2, rtol=1e-2)


def test_effects_of_nothing_but_noise_are_not_explained():
    found, _, _ = synthetic(noise=100.0)
    assert float(found.explained.mean()) < 0.05


def test_the_targeted_vector_is_that_of_the_paper():
    found, _, _ = synthetic()
    towards, common = found.weights[:, 5], found.weights @ found.bias
    expected = towards / towards.norm() - common / common.norm()
    direction = found.direction(5)
    torch.testing.assert_close(direction.vector, expected / expected.norm())
    assert direction.norm == pytest.approx(1) and direction.resid_norm == 4.0
    assert "SAE-TS of feature 5" in direction.method
    # Of all vectors it should raise its own feature more than the row of another does.
    row = random_rows(200, 16)[5]
    assert found.predict(direction.vector)[5] > found.predict(row)[5] - 1e-3


def test_a_feature_that_nothing_moved_cannot_be_aimed_at():
    found, _, _ = synthetic()
    weights = found.weights.clone()
    weights[:, 3] = 0
    with pytest.raises(SAEError, match="no vector can be found that raises it"):
        replace(found, weights=weights).direction(3)


def test_an_effect_map_is_read_back_for_its_own_sae_only(tmp_path):
    found, _, _ = synthetic()
    found.save(tmp_path)
    again = EffectMap.load(tmp_path)
    torch.testing.assert_close(again.weights, found.weights)
    assert (again.length, again.alpha) == (found.length, found.alpha)
    assert (again.sae, again.digest) == (found.sae, found.digest)
    assert len(pandas.read_csv(tmp_path / "effect_map.csv")) == 200
    assert "median 1 over features" in again.summary()
    again.require_fitted_for(handmade(random_rows(200, 16), SITE))
    with pytest.raises(SAEError, match="was fitted for"):
        again.require_fitted_for(handmade(random_rows(5, 16), SITE))
    with pytest.raises(ResultError):
        EffectMap.load(tmp_path / "nowhere")


def test_effects_are_learnt_from_steered_texts(gpt2, made):
    found = fit_effects(gpt2, made, PROMPTS * 2, vectors=16, new_tokens=4, progress=False)
    assert found.weights.shape == (32, 24) and found.length == 4.0
    same = fit_effects(gpt2, made, PROMPTS * 2, vectors=16, new_tokens=4, progress=False)
    torch.testing.assert_close(found.weights, same.weights)
    with pytest.raises(ValueError, match="too few to learn"):
        fit_effects(gpt2, made, PROMPTS, vectors=3, progress=False)
    with pytest.raises(SAEError, match=r"observe\(sae"):
        fit_effects(gpt2, replace(made, resid_norm=None), PROMPTS, vectors=16, progress=False)


def test_openings_are_beginnings_of_texts_as_often_as_asked(gpt2):
    texts = ["the cat sat on the bed", "I", "you like that red wine"]
    assert openings(gpt2, texts, 3, tokens=2) == ["the cat", "you like", "the cat"]
    with pytest.raises(ValueError, match="No text has more"):
        openings(gpt2, ["I"], 2)
