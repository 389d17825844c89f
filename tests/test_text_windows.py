"""Windows of written texts, the events in them, and means over texts of which some have ended."""

import math

import pytest
import torch

from steerlens.analyses.confirmation.contexts import Contexts
from steerlens.analyses.confirmation.readers import LikelihoodReader
from steerlens.analyses.confirmation.written_share import share_interval
from steerlens.analyses.survival.breaking import (
    RUN,
    Limits,
    broken_ends,
    limits_of,
    lost_ends,
)
from steerlens.analyses.survival.text_means import difference_interval, ratio_interval
from steerlens.analyses.survival.text_windows import (
    full_windows,
    window_means,
    window_repetition,
    window_scores,
)
from steerlens.measures.repetition import repeated_share
from steerlens.measures.surprisal import surprisal, token_surprisal

NAN = math.nan
TOKENS = torch.tensor([[5, 6, 5, 6, 5, 6, 7, 8], [5, 6, 7, 8, 9, -1, -1, -1]])


def some(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_only_full_windows_are_read():
    assert full_windows(TOKENS, 4).tolist() == [[True, True], [True, False]]
    means = window_means(torch.arange(16.0).view(2, 8), TOKENS, 4)
    assert means[0].tolist() == [1.5, 5.5]
    assert float(means[1, 0]) == 9.5 and math.isnan(float(means[1, 1]))


def test_repetition_is_counted_over_all_text_before():
    found = window_repetition(TOKENS, 4, n=2)
    # 5 6, 6 5, 5 6 again; then 6 5 and 5 6 again, 6 7, 7 8.
    assert found[0].tolist() == pytest.approx([1 / 3, 2 / 4])
    assert float(found[1, 0]) == 0 and math.isnan(float(found[1, 1]))
    tokens = torch.randint(3, (1, 12), generator=torch.Generator().manual_seed(0))
    whole = window_repetition(tokens, 12, n=3)
    assert float(whole) == pytest.approx(repeated_share(tokens[0].tolist(), n=3))


@torch.no_grad()
def test_surprisal_by_token_has_the_mean_that_surprisal_gives(gpt2):
    prompts = ["the cat sat on", "you"]
    tokens = torch.randint(20, 60, (2, 3, 8), generator=torch.Generator().manual_seed(0))
    tokens[0, 1, 5:] = -1
    each = token_surprisal(gpt2, prompts, tokens)
    assert not bool(each[0, 1, 5:].any())
    real = tokens >= 0
    torch.testing.assert_close(each.sum(-1) / real.sum(-1), surprisal(gpt2, prompts, tokens))
    ids = [*gpt2.ids("you"), *tokens[1, 2].tolist()]
    log_p = gpt2.wrapped(torch.tensor([ids])).log_softmax(-1)[0]
    by_hand = [-float(log_p[-9 + k, token]) for k, token in enumerate(tokens[1, 2].tolist())]
    assert each[1, 2].tolist() == pytest.approx(by_hand, abs=1e-4)


def test_a_likelihood_reader_reads_each_window_right_after_the_prompt(gpt2):
    contexts = Contexts(("the good cat . ", "a nice dog . "), ("the bad cat . ", "an awful dog . "))
    reader, prompts = LikelihoodReader(gpt2, contexts), ["the cat sat on", "you"]
    tokens = torch.randint(20, 60, (3, 2, 8), generator=torch.Generator().manual_seed(0))
    tokens[1, 0, 5:] = -1
    found = window_scores(reader, gpt2, prompts, tokens, 4)
    assert found.isnan().nonzero().tolist() == [[1, 0, 1]]
    for text, p, w in (~found.isnan()).nonzero().tolist():
        part = tokens[text, p, 4 * w : 4 * w + 4]
        one = LikelihoodReader(gpt2, contexts.some(slice(p, p + 1)))
        number = float(one.read([prompts[p]], part[None, None]))
        assert float(found[text, p, w]) == pytest.approx(number, abs=1e-5)


def test_another_reader_gets_the_text_before_and_the_window(gpt2):
    seen = []

    def reader(prompts, texts):
        seen.extend(zip(prompts, texts, strict=True))
        return [float(len(text.split())) for text in texts]

    ids = gpt2.ids(" bed and ran to the city and")
    tokens = torch.tensor(
        [[ids[len(gpt2.texts.lead) :]], [[*ids[len(gpt2.texts.lead) :][:3], *[-1] * 4]]]
    )
    tokens = torch.cat([tokens, torch.full_like(tokens[..., :1], -1)], -1)
    found = window_scores(reader, gpt2, ["the cat sat on"], tokens, 2)
    assert seen[0][1].split() == ["bed", "and"]
    assert " ".join("".join(seen[2]).split()) == "the cat sat on bed and ran to the city"
    assert seen[2][1].split() == ["the", "city"]
    assert found[0, 0, :3].tolist() == [2, 2, 2] and found[1].isfinite().sum() == 1
    assert len(seen) == 4


def test_a_text_is_broken_at_the_first_window_beyond_a_limit():
    limits = Limits(surprisal=2.0, repetition=0.5)
    nats = torch.tensor([[1, 2.5, 1], [1, 2, 2], [1, 1, NAN], [1, 1, NAN], [NAN, NAN, NAN]])
    again = torch.tensor([[0, 0, 0], [0, 0.5, 0.6], [0, 0.7, NAN], [0, 0.5, NAN], [NAN] * 3])
    assert broken_ends(nats, again, limits, 8) == ([16, 24, 16, 16], [True, True, True, False])


def test_an_effect_is_lost_where_four_windows_are_without_it():
    effect = torch.tensor([
        [1, -1, 1, 1, 1, 1, 1, 1],          # one bad window is not a loss
        [3, 1, 1, -1, -1, -1, -1, -1],      # from the second window on the mean is not above 0
        [0, 0, 0, 0, 1, 1, 1, 1],           # equal texts have no effect
        [1, 1, 1, 1, 1, NAN, NAN, NAN],     # followed for two runs of four
        [1, 1, 1, NAN, NAN, NAN, NAN, NAN], # too short to say
    ])  # fmt: skip
    assert RUN == 4
    times, ended = lost_ends(effect.float(), 8)
    assert times == [40, 16, 8, 16] and ended == [False, True, True, False]


def test_limits_are_those_that_other_texts_seldom_exceed():
    largest = torch.arange(40.0)
    nats = torch.stack([largest - 1, largest, torch.full((40,), NAN)], -1)
    nats = nats[torch.randperm(40, generator=torch.Generator().manual_seed(0))]
    found = limits_of(nats, nats / 40)
    # the 39th of 40: ceil(0.95 * 41)
    assert (found.surprisal, found.texts) == (38, 40)
    assert found.repetition == pytest.approx(38 / 40)
    assert limits_of(nats[:10], nats[:10]).surprisal == float(nats[:10, 1].max())
    draws = some(4000, 31, 3).amax(-1)  # of exchangeable texts, the last one exceeds it in 1 of 16
    limit = torch.tensor(
        [limits_of(row[:30, None], row[:30, None]).surprisal for row in draws[:1000]]
    )
    assert float((draws[:1000, 30] > limit).float().mean()) < 0.05 + 0.02
    nats[3:] = NAN
    with pytest.raises(ValueError, match="3 of the texts that set the limits fill a window"):
        limits_of(nats, nats)
    with pytest.raises(ValueError, match="surprisal=-1.0 is no limit"):
        Limits(-1.0, 0.5)


def test_means_are_over_the_texts_that_are_there():
    one, other = 1 + some(20), some(20, seed=1)
    whole, half = 2 + some(20, seed=2), 1 + some(20, seed=3)
    zero = torch.zeros(20)
    found = ratio_interval((one, zero), (whole, zero, 1.0), (half, zero, 0.5))
    assert found == pytest.approx(share_interval(one, whole, half / 2), rel=1e-5)
    one[3:9], other[:2] = NAN, NAN
    value, low, high = difference_interval(one, other)
    assert value == pytest.approx(float(one.nanmean() - other.nanmean()), rel=1e-5)
    assert low < value < high
    shifted = difference_interval(one + 5, other + 5)
    assert shifted == pytest.approx((value, low, high), abs=1e-4)
    one[: 20 - 7] = NAN
    assert not difference_interval(one, other).known
    assert math.isnan(ratio_interval((one, zero), (whole, zero, 1.0)).value)
    # Without a scale there is no share.
    noise = some(20, seed=4) - some(20, seed=4).mean()
    assert math.isnan(ratio_interval((whole, zero), (noise, zero, 1.0)).value)
