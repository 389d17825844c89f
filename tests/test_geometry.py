"""Cosines of directions, projections of texts, and scores of the user's own."""

from dataclasses import replace

import pytest
import torch

from steerlens.analyses.geometry.direction_cosines import Cosines, cosines
from steerlens.analyses.geometry.token_projections import TokenProjections, projections
from steerlens.analyses.scoring.measure_scores import ScoreError, scored
from steerlens.analyses.scoring.scored_map import ScoredMap
from steerlens.directions import Direction, DirectionError
from steerlens.interventions import Ablate, Add
from steerlens.sites import Positions, Site
from steerlens.testing import TEXTS
from tests.strangers import low_rank

PROMPTS = [prompt for prompt, _ in TEXTS]


def flat(values, layer, **facts):
    return Direction(torch.tensor(values), Site(layer), **facts)


def test_cosines_are_those_of_the_vectors(tmp_path):
    given = [flat([2.0, 0.0], 0, resid_norm=4.0), flat([0.0, 3.0], 1), flat([1.0, 1.0], 2)]
    found = cosines(given)
    half = 2**-0.5
    expected = torch.tensor([[1, 0, half], [0, 1, half], [half, half, 1]])
    torch.testing.assert_close(found.cosines, expected)
    assert found.norms.tolist() == [2.0, 3.0, pytest.approx(2**0.5)]
    assert found.relative_norms[0] == 0.5 and bool(found.relative_norms[1].isnan())
    assert found.chance == pytest.approx(half)
    frame = found.to_frame()
    assert len(frame) == 9 and set(frame["direction"]) == set(found.names)
    assert float(found.to_xarray()["cosines"][0, 2]) == pytest.approx(half)
    assert len(found.plot().data[0].z) == 3 and len(found.plot_norms().data) >= 2
    again = Cosines.load(found.save(tmp_path))
    assert torch.equal(again.cosines, found.cosines) and again.names == found.names
    assert "L0 resid_post and L2 resid_post" in found.summary()


def test_directions_that_do_not_compare_are_refused():
    one = flat([1.0, 0.0], 0, processing="raw")
    with pytest.raises(DirectionError, match="do not mean the same"):
        cosines([one, flat([1.0, 0.0, 0.0], 1)])
    with pytest.raises(DirectionError, match="do not mean the same"):
        cosines([one, flat([1.0, 0.0], 1, processing="fold_ln")])
    with pytest.raises(ValueError, match="do not tell the directions apart"):
        cosines([one, one])
    assert cosines({"a": one, "b": one}).names == ("a", "b")
    with pytest.raises(TypeError, match="several directions"):
        cosines(one)
    with pytest.raises(ValueError, match="no directions"):
        cosines([])


def test_projections_are_read_where_the_direction_is(tiny, random_direction, tmp_path):
    direction = random_direction(Site(1), 32)
    found = projections(tiny, direction, PROMPTS)
    batch = tiny.tokens(PROMPTS)
    stream = tiny.cache(batch, direction.site)[direction.site][batch.mask]
    torch.testing.assert_close(found.projection, stream @ direction.unit().vector)
    torch.testing.assert_close(found.cosine, found.projection / stream.norm(dim=-1))
    assert len(found.tokens) == int(batch.mask.sum()) and int(found.text.max()) == len(PROMPTS) - 1
    first = "".join(t for t, n in zip(found.tokens, found.text, strict=True) if n == 0)
    assert first.removeprefix(tiny.tokenizer.bos_token).strip() == PROMPTS[0]
    shown = found._repr_html_()
    assert shown.count("<span") == len(found.tokens) and "cosine" in shown
    assert "text/html" in found._repr_mimebundle_() and len(found.plot().data) >= 1
    again = TokenProjections.load(found.save(tmp_path))
    assert torch.equal(again.projection, found.projection)
    with Ablate(direction, Positions.all()).attach(tiny, 1.0):
        without = projections(tiny, direction, PROMPTS)
    assert float(without.projection[~without.special].abs().max()) < 1e-4
    with pytest.raises(ValueError, match="d_model"):
        projections(tiny, random_direction(Site(1), 16), PROMPTS)


def test_a_token_with_a_far_longer_stream_is_measured_and_not_coloured(tiny, random_direction):
    """It would take the whole scale, as the first token does in models without a BOS."""
    direction, text = random_direction(Site(1), 32), PROMPTS[0]
    plain = projections(tiny, direction, text)
    assert not plain.far[~plain.special].any() and "not coloured" not in plain.summary()

    def lengthen(stream, hook):
        return torch.cat([stream[:, :1], stream[:, 1:2] * 100, stream[:, 2:]], 1)

    with tiny.wrapped.hooks(fwd_hooks=[(direction.site.hook, lengthen)]):
        found = projections(tiny, direction, text)
    assert found.far.nonzero().flatten().tolist() == [1] and not found.special[1]
    assert float(found.projection[1]) == pytest.approx(100 * float(plain.projection[1]), rel=1e-4)
    assert "not coloured: a token with a stream over 5 times" in found.summary()
    figure = found.plot()
    bar = figure.data[0].marker
    assert "not coloured" in {trace.name for trace in figure.data}
    assert bar.cmax < 10 * float(plain.projection[~plain.special].abs().max())
    assert found._repr_html_().count("<span") == len(found.tokens)


def test_texts_cannot_break_out_of_the_coloured_tokens():
    found = TokenProjections(
        tokens=("<script>", "'\"&"),
        text=torch.tensor([0, 0]),
        special=torch.tensor([False, True]),
        projection=torch.tensor([1.0, 2.0]),
        cosine=torch.tensor([0.1, 0.2]),
        site=Site(0),
    )
    assert "<script>" not in found._repr_html_() and "'\"&" not in found._repr_html_()


def word(model, text):
    token = model.to_single_token(text)
    return lambda logits, prompts: logits.log_softmax(-1)[:, token]


def test_a_score_of_ones_own_is_that_of_a_full_pass_per_cell(tiny, random_direction, tmp_path):
    arms = {
        "add": Add(random_direction(Site(1), 32)),
        "weights": low_rank(tiny, 1),
        "inside": Ablate(random_direction(Site(2, "attn_out"), 32), Positions.all()),
    }
    multipliers, score = (-1.0, 0.0, 0.5), word(tiny, "soup")
    found = scored(tiny, arms, PROMPTS, score, multipliers=multipliers, progress=False)
    for i, arm in enumerate(arms.values()):
        for j, m in enumerate(multipliers):
            with arm.attach(tiny, m):
                full = score(tiny.logits(PROMPTS)[:, -1].float(), PROMPTS)
            torch.testing.assert_close(found.scores[i, j], full, atol=1e-4, rtol=1e-4)
    assert float(found.changes[:, 1].abs().max()) == 0
    assert found.change("add", 0.0).value == 0
    assert found.score == "score" and "most raised" in found.summary()
    assert list(found.to_frame()["row"].unique()) == list(arms)
    assert len(found.plot().data) >= 1
    again = ScoredMap.load(found.save(tmp_path))
    assert torch.equal(again.scores, found.scores)


def test_a_score_is_told_which_prompt_each_row_is_of(gpt2, random_direction):
    arms = [random_direction(Site(layer), 32) for layer in (0, 1)]

    def length(logits, prompts):
        return torch.tensor([float(len(prompt)) for prompt in prompts])

    found = scored(gpt2, arms, PROMPTS, length, progress=False)
    assert found.layers == (0, 1) and found.score == "length"
    assert bool((found.scores == torch.tensor([float(len(p)) for p in PROMPTS])).all())


def test_a_score_that_is_no_number_per_row_is_refused(gpt2, random_direction):
    arms = [random_direction(Site(1), 32)]
    for score, said in (
        (lambda logits, prompts: logits, "Return one number per row"),
        (lambda logits, prompts: 0.0, "Return one number per row"),
        (lambda logits, prompts: logits[:, 0] * torch.nan, "no mean can be taken"),
    ):
        with pytest.raises(ScoreError, match=said):
            scored(gpt2, arms, PROMPTS, score, progress=False)
    with pytest.raises(TypeError, match="is no function"):
        scored(gpt2, arms, PROMPTS, "length", progress=False)
    with pytest.raises(ValueError, match="no 0.0"):
        scored(gpt2, arms, PROMPTS, word(gpt2, "soup"), multipliers=(1.0,), progress=False)
    other = replace(arms[0], vector=torch.ones(16))
    with pytest.raises(ValueError, match="d_model"):
        scored(gpt2, [other], PROMPTS, word(gpt2, "soup"), progress=False)
