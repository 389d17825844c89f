"""Finding features: what tells sides apart, what they read, write and do, against naive loops."""

from dataclasses import replace

import pytest
import torch
from sklearn.metrics import roc_auc_score

from steerlens.analyses.features.excerpts import excerpts, read_texts
from steerlens.analyses.features.feature_card import feature_card
from steerlens.analyses.features.feature_contrast import rank_by_contrast
from steerlens.analyses.features.feature_ranking import Excerpt, FeatureRanking
from steerlens.analyses.features.feature_writing import AddRows, output_scores, written_tokens
from steerlens.analyses.features.find_features import find_features
from steerlens.analyses.features.rank_features import (
    alive,
    gradients,
    rank_by_effect,
    strongest_directions,
)
from steerlens.data import ContrastPair, ContrastSet
from steerlens.directions import Activations
from steerlens.interventions.residual import Add
from steerlens.measures.reading import activations
from steerlens.measures.sweep import sweep
from steerlens.models.model import Model
from steerlens.results import ResultError
from steerlens.saes.sae import SAEError
from steerlens.sites import Positions, Site
from tests.handmade import handmade, planted_rows, random_rows

SITE = Site(1)
TEXTS = ["the cat sat on the bed", "I like that good red wine", "you really think the dog ran"]


@pytest.fixture(scope="module")
def made(gpt2):
    return handmade(random_rows(10, gpt2.d_model), SITE, threshold=0.3)


@pytest.fixture(scope="module")
def world(planted, planted_data):
    """The planted model, an SAE at a live site, and activations of the contexts."""
    model = Model(planted.model)
    sae = handmade(planted_rows(planted), Site(2, "resid_pre"))
    read = activations(model, planted_data[0], [sae.site], progress=False)
    return model, sae, read


def some_activations(n=12, d_model=8, gap=0.0, seed=0) -> Activations:
    generator = torch.Generator().manual_seed(seed)
    positive, negative = torch.randn(2, n, 1, d_model, generator=generator)
    positive[:, :, 0] += gap
    groups = tuple(map(str, range(n)))
    return Activations(positive, negative, (SITE,), groups, torch.ones(1))


# Reading a contrast


def test_auroc_and_difference_are_those_of_every_feature_by_itself():
    read, sae = some_activations(gap=0.5), handmade(random_rows(9, 8), SITE, threshold=0.4)
    found = rank_by_contrast(sae, read, shuffles=3)
    positive, negative = (sae.encode(side) for side in read.at(SITE))
    labels = [1] * len(positive) + [0] * len(negative)
    both = torch.cat([positive, negative])
    assert bool((both == 0).any()) and bool((both > 0).any()), "ties and no ties"
    expected = [roc_auc_score(labels, both[:, j].numpy()) for j in range(9)]
    torch.testing.assert_close(found.auroc, torch.tensor(expected).float())
    torch.testing.assert_close(found.difference, positive.mean(0) - negative.mean(0))


def test_the_order_is_by_how_far_apart_and_the_sign_by_which_side():
    rows = torch.eye(8)[[3, 0, 0]]
    rows[2] *= -1
    found = rank_by_contrast(handmade(rows, SITE), some_activations(gap=4.0), shuffles=3)
    assert found.order[2] == 0, "the coordinate without a gap is last"
    assert (found.towards(1), found.towards(2)) == (1, -1)


def test_a_feature_that_never_fires_tells_nothing_apart():
    sae = handmade(random_rows(4, 8), SITE, threshold=100.0)
    found = rank_by_contrast(sae, some_activations(gap=4.0), shuffles=5)
    assert found.auroc.tolist() == [0.5] * 4
    assert found.p_value(0) == 1.0


def test_the_best_of_many_features_is_not_found_where_there_is_nothing():
    sae = handmade(random_rows(200, 8), SITE)
    ps = []
    for seed in range(10):
        found = rank_by_contrast(sae, some_activations(seed=seed), shuffles=39)
        ps.append(found.p_value(found.order[0]))
    assert sum(p <= 0.05 for p in ps) <= 2
    real = rank_by_contrast(sae, some_activations(gap=5.0), shuffles=39)
    assert real.p_value(real.order[0]) == 1 / 40


def test_activations_of_another_model_are_refused():
    sae = replace(handmade(random_rows(4, 8), SITE), fingerprint="one")
    with pytest.raises(SAEError, match="Read them again"):
        rank_by_contrast(sae, replace(some_activations(), fingerprint="other"))


def test_reading_finds_the_distractor_and_effect_finds_what_steers(world, planted_data):
    model, sae, read = world
    contrast = rank_by_contrast(sae, read, shuffles=19)
    assert float(contrast.auroc[1]) == 1.0, "the distractor separates perfectly"
    effects = rank_by_effect(model, sae, planted_data[1], progress=False)
    assert effects.order[0] == 0 and effects.towards(0) == 1
    at = effects.features.index(1)
    assert float(effects.gains[at].abs().max()) < 1e-3, "and steers nothing"


# Effects


def test_effects_are_those_of_attached_vectors(world, planted_data):
    model, sae, _ = world
    pair = planted_data[1].pairs[3]
    effects = rank_by_effect(model, sae, [pair], [7, 0], multiplier=0.25, progress=False)
    batch = model.tokens(pair.prompt)
    yes, no = (model.split(pair.prompt, a)[1][0] for a in (pair.positive, pair.negative))

    def odds() -> torch.Tensor:
        logits = model.logits(batch)[0, -1]
        return logits[yes] - logits[no]

    for i, feature in enumerate(effects.features):
        for sense, m in ((0, -0.25), (1, 0.25)):
            before = odds()
            with Add(sae.direction(feature)).attach(model, m):
                torch.testing.assert_close(
                    effects.gains[i, sense, 0], odds() - before, atol=1e-4, rtol=1e-4
                )


def test_the_gradient_gives_the_slope_at_strength_zero(gpt2, made):
    pairs = [
        ContrastPair("the cat sat on the", " bed", " wine"),
        ContrastPair("I", " like", " ran"),
    ]
    gradient = gradients(
        gpt2, made.site, made.d_model, pairs, Positions.from_prompt_end(), progress=False
    )
    slopes = torch.stack([made.direction(f).vector for f in (2, 5)]) @ gradient
    edits = [Add(made.direction(f), unit=1.0) for f in (2, 5)]
    odds = sweep(
        gpt2, pairs, edits, (-1e-2, 0.0, 1e-2), log_odds_only=True, progress=False
    ).log_odds
    torch.testing.assert_close(
        slopes, ((odds[:, 2] - odds[:, 0]) / 2e-2).mean(-1), atol=1e-3, rtol=1e-2
    )
    assert float(slopes.abs().min()) > 1e-3


def test_screening_keeps_the_features_with_the_largest_slopes(world, planted_data):
    model, sae, _ = world
    effects = rank_by_effect(model, sae, planted_data[1], screened=3, progress=False)
    assert len(effects.features) == 3 and 0 in effects.features
    assert effects.screened == len(alive(sae)) == sae.d_sae


def test_random_directions_are_searched_in_the_same_way_as_features(world, planted_data):
    model, sae, _ = world
    same = [sae.direction(f) for f in alive(sae)]
    found = strongest_directions(model, same, planted_data[1], 3, screened=5, progress=False)
    order = rank_by_effect(model, sae, planted_data[1], screened=5, progress=False).order[:3]
    assert [d.method for d in found] == [sae.direction(f).method for f in order]


def test_dead_features_are_not_alive(made):
    assert alive(replace(made, max_activation=torch.tensor([0.0, 1.0] * 5))) == [1, 3, 5, 7, 9]


# Writing


def test_written_tokens_are_the_normed_row_unembedded(tiny):
    sae = handmade(5 * random_rows(6, tiny.d_model), SITE)
    lens = written_tokens(tiny, sae, [4, 1], k=3)
    row = sae.W_dec[4] / sae.W_dec[4].norm() * 4.0
    empty = tiny.readout.norm(torch.zeros(1, 1, tiny.d_model))
    logits = ((tiny.readout.norm(row[None, None]) - empty) @ tiny.wrapped.unembed.W_U)[0, 0]
    torch.testing.assert_close(lens.raised_by[0], logits.topk(3).values, atol=1e-5, rtol=1e-4)
    assert lens.raised[0].tolist() == logits.topk(3).indices.tolist()
    assert lens.lowered[0].tolist() == (-logits).topk(3).indices.tolist()
    assert float(lens.lowered_by.max()) < float(lens.raised_by.min())


def test_output_scores_are_those_of_one_feature_and_one_prompt_at_a_time(tiny):
    sae = handmade(random_rows(5, tiny.d_model), SITE)
    prompts = ["the cat", "I think that the good dog"]
    scores = output_scores(tiny, sae, [3, 0, 4], prompts, k=4, rows=4, progress=False)
    for i, feature in enumerate((3, 0, 4)):
        tokens = written_tokens(tiny, sae, [feature], k=4).raised[0]
        for j, prompt in enumerate(prompts):
            batch = tiny.tokens(prompt)
            resid = tiny.cache(batch, [SITE])[SITE][:, -1]
            push = 10 * sae.encode(resid).max() * sae.W_dec[[feature]]
            with tiny.hooked(SITE, AddRows(push), Positions.last(), 1.0):
                p = tiny.logits(batch)[0, -1].softmax(-1)
            rank = min(int((p > p[t]).sum()) for t in tokens)
            expected = (1 - rank / len(p)) * p[tokens].max()
            torch.testing.assert_close(scores[i, j], expected, atol=1e-5, rtol=1e-4)


# Reading texts


def test_readings_are_those_of_one_text_at_a_time(gpt2, made):
    reading = read_texts(gpt2, made, [2, 7], TEXTS, rows=2, progress=False)
    fired, count = torch.zeros(2), 0
    for t, text in enumerate(TEXTS):
        batch = gpt2.tokens(text)
        found = made.encode(gpt2.cache(batch, [SITE])[SITE][0])[1:, [2, 7]]  # without BOS
        torch.testing.assert_close(reading.peaks[:, t], found.max(0).values)
        assert reading.places[:, t].tolist() == (found.argmax(0) + 1).tolist()
        fired += (found > 0).sum(0)
        count += len(found)
    torch.testing.assert_close(reading.density, fired / count)


def test_the_input_score_counts_texts_that_are_read_at_a_written_token(gpt2, made):
    reading = read_texts(gpt2, made, [2], TEXTS * 5, progress=False)
    fires = reading.top(2, 100)
    assert len(fires) >= 10
    read_at = reading.tokens[0][fires]
    assert reading.input_score(2, read_at.unique()) == 1.0
    assert reading.input_score(2, torch.tensor([-1])) == 0.0
    few = read_texts(gpt2, made, [2], TEXTS, progress=False)
    assert few.input_score(2, read_at) != few.input_score(2, read_at), "NaN: too few texts"


def test_excerpts_show_every_token_and_no_activation_at_bos(gpt2, made):
    (one,) = excerpts(gpt2, made, 2, TEXTS[:1])
    assert len(one.tokens) == len(gpt2.ids(TEXTS[0]))
    assert one.activations[0] == 0.0
    assert one.peak == max(one.activations)
    assert excerpts(gpt2, made, 2, []) == []


def test_an_excerpt_keeps_the_largest_activation_when_it_is_cut():
    whole = Excerpt(tuple("abcdefgh"), (0.0, 0, 0, 5, 0, 1, 0, 0), 3)
    part = whole.around(1, 2)
    assert part.tokens == ("c", "d", "e", "f") and part.peak == 5.0
    assert str(part) == "c [d] e f"


# The ranking


@pytest.fixture(scope="module")
def ranking(world, planted_data):
    model, sae, read = world
    prompts = [pair.prompt for pair in planted_data[1]]
    return find_features(
        model, sae, read, k=3, pairs=planted_data[1], texts=prompts,
        prompts=["the soup was"], shuffles=19, progress=False,
    )  # fmt: skip


def test_a_ranking_says_all_that_there_are_data_for(ranking, world, planted_data):
    assert set(ranking.features) >= {0, 1}
    first = next(each for each in ranking if each.feature == 0)
    assert first.p_value == 0.05 and first.auroc == 1.0 and first.towards == 1
    assert first.gain.low > 0 > first.against.high
    assert 0 <= first.output_score <= 1 and len(first.writes) == 20 and first.reads
    model, sae, read = world
    bare = find_features(model, sae, read, k=2, shuffles=3, progress=False)
    assert bare[0].gain is None and "gain" not in bare.measured


def test_an_order_by_effect_puts_what_steers_first(world, planted_data):
    model, sae, read = world
    found = find_features(
        model, sae, read, by="effect", pairs=planted_data[1], k=2, shuffles=3, progress=False
    )
    assert found.by == "effect" and found.features[0] == 0


def test_an_order_by_output_needs_no_contrast(gpt2, made):
    found = find_features(gpt2, made, None, by="output", prompts=["the cat"], k=3, progress=False)
    scores = output_scores(gpt2, made, range(10), ["the cat"], progress=False)[:, 0]
    assert list(found.features) == scores.topk(3).indices.tolist()
    assert found[0].auroc is None


def test_a_ranking_is_read_back_as_it_was_saved(ranking, tmp_path):
    again = FeatureRanking.load(ranking.save(tmp_path))
    assert again.found == ranking.found
    assert (again.site, again.by, again.made_by) == (ranking.site, ranking.by, ranking.made_by)
    assert len((tmp_path / "features.csv").read_text().splitlines()) == 1 + len(ranking)
    (tmp_path / "features.json").write_text("{}")
    with pytest.raises(ResultError, match="cannot be read"):
        FeatureRanking.load(tmp_path)
    with pytest.raises(ResultError, match="holds no finished features"):
        FeatureRanking.load(tmp_path / "nowhere")


def test_a_ranking_draws_itself_without_markup_from_texts(ranking):
    hostile = replace(ranking[0], writes=("<script>",))
    shown = replace(ranking, found=(hostile,))._repr_html_()
    assert "<script>" not in shown and "&lt;script&gt;" in shown


@pytest.mark.parametrize(
    "options, told",
    [
        ({"by": "effect"}, "needs pairs"),
        ({"by": "output"}, "needs prompts"),
        ({"features": (99,)}, "no feature 99"),
    ],
)
def test_an_order_without_its_data_is_refused(gpt2, made, options, told):
    pairs = ContrastSet("s", (ContrastPair("", "the cat", "the dog"),))
    with pytest.raises(ValueError, match=told):
        find_features(gpt2, made, pairs, progress=False, **options)


# The card


def test_a_card_shows_what_the_feature_reads_writes_and_does(world, planted_data):
    model, sae, read = world
    texts = [pair.prompt for pair in planted_data[1]]
    card = feature_card(
        model, sae, 0, texts=texts, fit=read, pairs=planted_data[1],
        multipliers=(-0.5, 0.0, 0.5),
    )  # fmt: skip
    assert card.gains is not None and card.kl is not None
    mean = card.gains.mean(-1)
    assert mean[0] < -0.5 and mean[1] == 0 and mean[2] > 0.5
    figure = card.plot()
    names = [trace.name for trace in figure.data]
    assert {"gain", "KL", "budget", "tokens written", "text 1"} <= set(names)
    bars = next(trace for trace in figure.data if trace.name == "tokens written")
    assert list(bars.x) == [*card.raised.values(), *card.lowered.values()]
    assert "Feature 0" in figure.layout.title.text and "AUROC 1" in card.facts


def test_a_card_without_questions_leaves_the_response_out(gpt2, made):
    card = feature_card(gpt2, made, 3, texts=TEXTS)
    assert card.gains is None
    assert "gain" not in [trace.name for trace in card.plot().data]
