"""Concept DAS: its loss by hand, the planted direction, and the clamp in use."""

from __future__ import annotations

import math

import pytest
import torch

from steerlens.arguments import ArgumentError
from steerlens.interventions import Clamp
from steerlens.measures.sweep import sweep
from steerlens.models.model import Model
from steerlens.sites import Positions, Site
from steerlens.testing import check_intervention, tiny_bridge
from steerlens.training.concept_das import (
    ConceptSubspace,
    _Interchange,
    _read,
    concept_das,
    jensen_shannon,
)

QUADS = [
    ("the cat was very", " good and nice", "the big dog was", " bad and sad here"),
    ("I love the", " cake", "we hate all the", " soup"),
]


def test_the_divergence_is_symmetric_and_at_most_ln_2():
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.log_softmax(4 * torch.randn(9, 20, generator=generator), -1)
                  for _ in range(2))  # fmt: skip
    found = jensen_shannon(one, other)
    torch.testing.assert_close(found, jensen_shannon(other, one))
    assert bool((found > 0).all()) and float(found.max()) <= math.log(2)
    assert float(jensen_shannon(one, one).abs().max()) < 1e-6
    middle = 0.5 * (one.exp() + other.exp())
    by_hand = 0.5 * ((one.exp() * (one - middle.log())) + other.exp() * (other - middle.log()))
    torch.testing.assert_close(found, by_hand.sum(-1))


@pytest.mark.parametrize("rank", [1, 2])
def test_the_loss_is_the_interchange_by_hand(gpt2, rank):
    site = Site(1)
    basis = torch.linalg.qr(torch.randn(32, rank, generator=torch.Generator().manual_seed(1)))[0].T
    rows = _Interchange(gpt2, _read(QUADS), site, Positions.all())
    found = rows.loss(basis, torch.arange(4))
    parts = []
    for pp, pr, np_, nr in QUADS:
        for base, source, response in ((np_, pp, pr), (pp, np_, nr)):
            own = gpt2.answered([source], [response])
            logits, cache = gpt2.wrapped.run_with_cache(own.tokens)
            end = int(own.prompt_end[0])
            wanted = cache[site.hook][0, end - 1] @ basis.T
            mixed = gpt2.answered([base], [response])

            def put(resid, hook, wanted=wanted):
                out = resid + (wanted - resid @ basis.T) @ basis
                return torch.cat([resid[:, :1], out[:, 1:]], 1)  # BOS stays

            changed = gpt2.wrapped.run_with_hooks(mixed.tokens, fwd_hooks=[(site.hook, put)])
            start = int(mixed.prompt_end[0])
            one = torch.log_softmax(changed[0, start - 1 : -1], -1)
            parts.append(jensen_shannon(one, torch.log_softmax(logits[0, end - 1 : -1], -1)))
    torch.testing.assert_close(found, torch.cat(parts).mean(), atol=1e-6, rtol=1e-4)
    bridge = _Interchange(Model(tiny_bridge("gpt2")), _read(QUADS), site, Positions.all())
    torch.testing.assert_close(bridge.loss(basis, torch.arange(4)), found, atol=1e-5, rtol=1e-4)


@pytest.fixture(scope="module")
def trained(planted):
    model = Model(planted.model)
    words = (("good", "bad"), ("great", "awful"), ("lovely", "horrid"), ("warm", "grim"))
    quads = [
        (planted.question.format(opening=o, noun=n, word=w, closing="!"), " yes",
         planted.question.format(opening=o, noun=n, word=v, closing="."), " no")
        for o in ("the", "our") for n in ("soup", "film") for w, v in words
    ]  # fmt: skip
    return model, concept_das(model, quads, 2, steps=150, rate=0.05, progress=False)


def test_the_planted_direction_is_found_and_the_clamp_steers_both_ways(planted, trained):
    model, found = trained
    cosine = float(torch.nn.functional.cosine_similarity(found.basis[0], planted.direction, dim=0))
    assert cosine > 0.95, (cosine, found.losses[::10])
    assert found.losses[-1] < 0.2 * found.losses[0]
    clamp = found.towards("positive")
    assert isinstance(clamp, Clamp) and clamp.site == Site(2)
    h = torch.randn(2, 3, model.d_model, generator=torch.Generator().manual_seed(0))
    after = clamp(h, 1.0) @ found.basis[0]
    torch.testing.assert_close(after, torch.full((2, 3), float(found.values["positive"])),
                               atol=1e-4, rtol=1e-4)  # fmt: skip
    ask = planted.question.format(opening="my", noun="tea", word="local", closing=":)")
    arms = [found.towards("positive"), found.towards("negative")]
    odds = sweep(model, [(ask, *planted.answers)], arms, [0.0, 1.0], progress=False).log_odds
    assert float(odds[0, 1]) > float(odds[0, 0]) + 0.5 and float(odds[1, 1]) < float(odds[1, 0]) - 1


def test_equal_seeds_train_equal_subspaces_and_a_plane_keeps_the_contract(gpt2):
    options = {"rank": 2, "steps": 3, "batch": 1, "progress": False}
    one, other = (concept_das(gpt2, QUADS, 1, **options) for _ in range(2))
    assert torch.equal(one.basis, other.basis) and one.losses == other.losses
    torch.testing.assert_close(one.basis @ one.basis.T, torch.eye(2), atol=1e-5, rtol=0)
    edit = one.towards("negative", factor=3.0)
    h = torch.randn(1, 4, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        edit(h, 1.0) @ one.basis.T, (3 * one.values["negative"]).expand(1, 4, 2),
        atol=1e-5, rtol=1e-4,
    )  # fmt: skip
    check_intervention(edit, gpt2)
    with pytest.raises(ArgumentError, match="has rank 2"):
        _ = one.direction


def test_what_cannot_be_trained_is_refused(gpt2, unchecked):
    for make, text in (
        (lambda: concept_das(gpt2, [], 1), "no quadruples"),
        (lambda: concept_das(gpt2, [("a", "b")], 1), "Quadruple 0"),
        (lambda: concept_das(gpt2, QUADS, 1, rank=99), "dimensions"),
        (lambda: concept_das(gpt2, QUADS, 1, rate=-1.0), "rate"),
    ):
        with pytest.raises(ArgumentError, match=text):
            make()
    found = ConceptSubspace(Site(1), torch.eye(32)[:1], {}, (), Positions.all(), {})
    with pytest.raises(ArgumentError, match="'positive' or 'negative'"):
        found.towards("up")
