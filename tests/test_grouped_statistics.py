"""The group is the unit of every interval and of every null."""

import math
from dataclasses import replace

import pytest
import torch

from steerlens.directions.methods import DiffMean
from steerlens.measures.reading import activations
from steerlens.models.model import Model
from steerlens.stats import (
    auroc,
    auroc_interval,
    bootstrap_means,
    clear_after,
    group_numbers,
    looks,
    max_statistic,
    mean_interval,
    rank_correlation,
    share_interval,
    simultaneous_interval,
    sizes_in_words,
    too_few,
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("copies", [2, 4])
def test_copies_of_the_examples_change_no_interval(copies):
    values = normal(3, 20).exp()
    groups = torch.arange(20).repeat(copies)
    many = values.repeat(1, copies)
    for interval in (mean_interval, simultaneous_interval):
        for one, other in zip(interval(values), interval(many, groups), strict=True):
            torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-5)
    alone = mean_interval(many)
    grouped = mean_interval(many, groups)
    assert bool((grouped[2] - grouped[1] > 1.2 * (alone[2] - alone[1])).all())
    hits = (values > 1).float()
    for one, other in zip(
        share_interval(hits)[1:], share_interval((many > 1).float(), groups)[1:], strict=True
    ):
        assert bool(((one - other).abs() < 0.05).all())
    torch.testing.assert_close(
        bootstrap_means(many, groups), bootstrap_means(values), atol=1e-5, rtol=1e-5
    )
    scores = normal(20, 2, seed=1) + torch.tensor([1.0, 0.0])
    torch.testing.assert_close(
        torch.stack(auroc_interval(scores.repeat(copies, 1), groups)),
        torch.stack(auroc_interval(scores)), atol=0.03, rtol=0,
    )  # fmt: skip
    r, again = (rank_correlation(x[0], x[1], g) for x, g in ((values, None), (many, groups)))
    assert again == pytest.approx(r, abs=1e-6)


@pytest.mark.parametrize("sizes", [[1], [2], [4], [1, 1, 2, 6]], ids=str)
def test_intervals_of_groups_hold_the_truth_as_often_as_they_say(sizes):
    count = 24
    groups = torch.tensor([g for g in range(count) for _ in range(sizes[g % len(sizes)])])
    own, shared = normal(1200, len(groups), seed=3), normal(1200, count, seed=4)
    values = (0.6 * own + 0.8 * shared[:, groups]).exp()
    _, low, high = mean_interval(values, groups, draws=500)
    truth = math.exp(0.5)
    held = float(((low <= truth) & (truth <= high)).float().mean())
    assert 0.90 <= held <= 0.985
    if sizes != [1]:
        alone = mean_interval(values, draws=500)
        assert float(((alone[1] <= truth) & (truth <= alone[2])).float().mean()) < held - 0.05


@pytest.mark.parametrize("skewed", [False, True])
def test_effects_that_are_mostly_zero_are_covered(skewed):
    generator = torch.Generator().manual_seed(5)
    there = torch.rand(1500, 24, generator=generator) < 0.15
    size = torch.rand(1500, 24, generator=generator)
    values = there * (-size.log() if skewed else 1 + 0.3 * (size - 0.5))
    mean, low, high = mean_interval(values)
    known = ~low.isnan()
    assert torch.equal(known, mean != 0), "where nothing moved there is no interval"
    held = (low <= 0.15) & (high >= 0.15)
    assert float(held[known].float().mean()) >= 0.92


@pytest.mark.parametrize("truth", [0.6, 0.9, 0.98])
def test_auroc_is_covered_also_near_one(truth):
    apart = math.sqrt(2) * math.sqrt(2) * torch.erfinv(torch.tensor(2 * truth - 1)).item()
    scores = normal(1000, 24, 2, seed=7) + torch.tensor([apart, 0.0])
    value, low, high = auroc_interval(scores)
    held = float(((low <= truth) & (truth <= high)).float().mean())
    assert 0.93 <= held <= 0.99
    assert bool((high > low).all()) and bool((low < value).all())


def test_a_perfect_separation_is_not_certain():
    scores = torch.stack([torch.arange(24.0) + 100, torch.arange(24.0)], -1)
    value, low, high = auroc_interval(scores)
    assert float(value) == float(high) == 1.0 and 0.8 < float(low) < 0.97


def test_blocks_are_compared_within_themselves_only():
    scores = torch.stack([torch.arange(24.0) % 12 + 1.5, torch.arange(24.0) % 12], -1)
    blocks = torch.arange(24) // 12
    moved = scores + 1000.0 * blocks[:, None]
    within = auroc_interval(moved, blocks=blocks)
    assert float(within[0]) == pytest.approx(float(auroc(scores[:12])))
    assert float(within[0]) != pytest.approx(float(auroc(moved)))


def test_effective_numbers_are_said():
    groups = group_numbers(["a"] * 6 + ["b", "c", "d"])
    assert sizes_in_words(groups, 9) == "9 examples in 4 groups (effectively 2.1)"
    assert sizes_in_words(None, 9) == "9 examples"
    assert "too few for an interval" in too_few(groups, 9)
    assert "approximate" in too_few(None, 12) and not too_few(None, 16)
    with pytest.raises(ValueError, match="3 groups for 4 examples"):
        mean_interval(torch.ones(4), torch.arange(3))


# Shuffled labels


@pytest.fixture(scope="module")
def read(planted, planted_data):
    model = Model(planted.model)
    return activations(model, planted_data[0], model.sites("resid_pre"), progress=False)


def test_shuffled_labels_share_a_coin_within_a_group(read):
    copies = torch.arange(len(read)).repeat(2)
    twice = replace(
        read, positive=read.positive[copies], negative=read.negative[copies],
        groups=read.groups * 2,
    )  # fmt: skip
    for seed in range(4):
        one, other = read.shuffled(seed), twice.shuffled(seed)
        torch.testing.assert_close(other.positive, one.positive[copies])
        site = read.sites[2]
        torch.testing.assert_close(
            other.direction(site, DiffMean()).vector, one.direction(site, DiffMean()).vector
        )


def test_shuffled_sets_flip_whole_groups(planted_data):
    fit = planted_data[0]
    shuffled = fit.shuffled(3)
    flipped: dict[str, set[bool]] = {}
    for group, before, after in zip(fit.groups, fit, shuffled, strict=True):
        flipped.setdefault(group, set()).add(before.positive != after.positive)
    assert all(len(sides) == 1 for sides in flipped.values())
    assert {True} in flipped.values() and {False} in flipped.values()


# Null maps that are made until the answer is clear


@pytest.mark.parametrize("planned", [19, 20, 50])
def test_stopping_early_keeps_the_p_value_valid(planned):
    generator = torch.Generator().manual_seed(planned)
    found, made = [], 0
    for _ in range(800):
        maps = torch.randn(planned + 1, 3, 2, generator=generator)
        for count in looks(planned):
            if clear_after(maps[0], maps[1 : 1 + count], planned) is not None:
                break
        test = max_statistic(maps[0], maps[1 : 1 + count], planned=planned)
        assert test.maps == count
        made += count
        found.append(test.p_value)
    p = torch.tensor(found)
    for level in (0.05, 0.1, 0.25, 0.5, 0.75):
        error = 3.3 * math.sqrt(level * (1 - level) / 800)
        assert float((p <= level + 1e-9).float().mean()) <= level + error
    assert made < 0.65 * planned * 800
    assert sorted(set(found))[0] == pytest.approx(1 / (planned + 1))


def test_a_clear_effect_needs_all_planned_maps():
    nulls = normal(20, 3)
    observed = torch.full((3,), 9.0)
    assert clear_after(observed, nulls, 20) is None
    test = max_statistic(observed, nulls, planned=20)
    assert test.p_value == pytest.approx(1 / 21) and test.maps == test.planned == 20
    with pytest.raises(ValueError, match="12 null maps .* at least 20 are needed"):
        max_statistic(observed, nulls[:12], planned=20)


@pytest.mark.parametrize("n", range(8, 60))
def test_a_share_of_nothing_or_of_everything_is_inside_its_interval(n):
    for hits, end in ((torch.zeros(n), 1), (torch.ones(n), 2)):
        found = share_interval(hits)
        assert found[end] == found[0]
        assert found[1] < found[2]
