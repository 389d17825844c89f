"""Every objective against plain arithmetic on log-probabilities of text by text runs."""

from __future__ import annotations

import math

import pytest
import torch

from steerlens.models.wrapped_state import differentiable
from steerlens.training.objectives import DPO, LM, BiPO, MatchDistribution, RePS, SimPO, Split
from steerlens.training.scored_set import ScoredSet
from tests.plain_forms import Plain, PlainVector, StreamEdit
from tests.test_training_gradients import PAIRS, by_hand, ends

FORM = PlainVector(1, scale=1.0)
M = 0.7


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


@pytest.fixture(scope="module")
def numbers(gpt2):
    """Sums of log-probabilities as Python's floats: unsteered, at M, and at -M; and the lengths."""
    params = FORM.begin(gpt2, torch.Generator().manual_seed(1))
    with torch.no_grad():
        sums = {m: by_hand(gpt2, FORM, params, PAIRS, m).tolist() for m in (0.0, M, -M)}
    lengths = [
        [len(gpt2.split(pair.prompt, answer)[1]) for answer in (pair.positive, pair.negative)]
        for pair in PAIRS
    ]
    return sums[0.0], sums[M], sums[-M], lengths


def batch_of(model, objective, form=FORM, seed=0):
    params = form.begin(model, torch.Generator().manual_seed(1))
    with torch.no_grad():
        steers = form.intervention(model, params)
        null = form.null(model, params) if hasattr(form, "null") else None
        begun = [steers] if null is None else [steers, null]
        scored = ScoredSet(model, PAIRS, objective, begun)
        generator = torch.Generator().manual_seed(seed)
        return scored.batch(torch.arange(len(PAIRS)), steers, null, (M,), generator)


def loss_of(model, objective, **how):
    with differentiable(model.wrapped), torch.no_grad():
        return objective(batch_of(model, objective, **how)).mean().item()


def test_lm(gpt2, numbers):
    _, steered, _, lengths = numbers
    expected = -sum(s[0] for s in steered) / sum(n[0] for n in lengths)
    assert loss_of(gpt2, LM()) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("margin", ["batch", "pair"])
def test_split(gpt2, numbers, margin):
    _, steered, _, lengths = numbers
    objective = Split(1.5, 0.5, 4.0, 3.0, margin)
    loss_p, loss_n = (-sum(s[k] for s in steered) / sum(n[k] for n in lengths) for k in (0, 1))
    if margin == "batch":
        hinge = max(0.0, 3.0 - (loss_n - loss_p))
    else:
        gaps = [s[0] / n[0] - s[1] / n[1] for s, n in zip(steered, lengths, strict=True)]
        hinge = sum(max(0.0, 3.0 - gap) for gap in gaps) / len(gaps)
    assert hinge > 0.1
    expected = 1.5 * loss_p + 0.5 * loss_n + 4.0 * hinge
    assert loss_of(gpt2, objective) == pytest.approx(expected, abs=1e-3)


def test_dpo(gpt2, numbers):
    plain, steered, _, _ = numbers
    margins = [(s[0] - s[1]) - (u[0] - u[1]) for s, u in zip(steered, plain, strict=True)]
    expected = -sum(math.log(sigmoid(0.3 * m)) for m in margins) / len(margins)
    assert loss_of(gpt2, DPO(beta=0.3)) == pytest.approx(expected, abs=1e-4)


def test_simpo(gpt2, numbers):
    _, steered, _, lengths = numbers
    gaps = [s[0] / n[0] - s[1] / n[1] for s, n in zip(steered, lengths, strict=True)]
    expected = -sum(math.log(sigmoid(2.0 * (gap - 0.3))) for gap in gaps) / len(gaps)
    assert loss_of(gpt2, SimPO(beta=2.0, margin=0.3)) == pytest.approx(expected, abs=1e-4)


def test_bipo_at_both_signs(gpt2, numbers):
    plain, up, down, _ = numbers
    found = set()
    for seed in range(8):
        found.add(round(loss_of(gpt2, BiPO(beta=0.3), seed=seed), 3))
    expected = set()
    for sign, steered in ((1, up), (-1, down)):
        margins = [(s[0] - s[1]) - (u[0] - u[1]) for s, u in zip(steered, plain, strict=True)]
        losses = [-math.log(sigmoid(sign * 0.3 * m)) for m in margins]
        expected.add(round(sum(losses) / len(losses), 3))
    assert len(expected) == 2
    assert found == expected


def reps_by_hand(plain, steered, null, lengths, mode="both", cap=math.inf):
    total = 0.0
    for u, s, z, n in zip(plain, steered, null, lengths, strict=True):
        beta_up, beta_down = (min(max(d, 1.0), cap) for d in (u[1] - u[0], u[0] - u[1]))
        up = beta_up / n[0] * s[0] - s[1] / n[1]
        down = beta_down / n[1] * z[1] - z[0] / n[0]
        if mode != "suppress":
            total -= math.log(sigmoid(up))
        if mode != "steer":
            total -= math.log(sigmoid(down))
    return total / len(plain)


@pytest.mark.parametrize("mode", ["both", "steer", "suppress"])
@pytest.mark.parametrize("cap", [None, 2.0])
def test_reps_of_an_adapter_is_suppressed_at_the_opposite_multiplier(gpt2, numbers, mode, cap):
    plain, up, down, lengths = numbers
    assert max(abs(u[0] - u[1]) for u in plain) > 2.0  # so that the cap matters
    expected = reps_by_hand(plain, up, down, lengths, mode, cap or math.inf)
    assert loss_of(gpt2, RePS(mode, cap)) == pytest.approx(expected, abs=1e-4)


class Nulled(PlainVector):
    """A vector that is suppressed by taking its positive projection out, as in the paper."""

    def null(self, model, params):
        w = params["vector"]

        def edit(resid, strength):
            return resid - torch.relu(resid @ w)[..., None] / w.square().sum() * w

        (steer,) = self.intervention(model, params).parts
        return Plain((StreamEdit(steer.site, edit, steer.positions),))


def test_reps_of_a_vector_is_suppressed_by_its_projection(gpt2, numbers):
    plain, up, _, lengths = numbers
    form = Nulled(1, scale=1.0)
    w = form.begin(gpt2, torch.Generator().manual_seed(1))["vector"]
    null = []
    for pair in PAIRS:
        for answer in (pair.positive, pair.negative):
            prompt, own = gpt2.split(pair.prompt, answer)
            ids, start = prompt + own, len(prompt)
            chosen = ends(gpt2, form, ids, start)

            def take_out(resid, hook, chosen=chosen):
                out = torch.relu(resid @ w)[..., None] * w / (w @ w)
                return resid - chosen[None, :, None] * out

            hooks = [("blocks.1.hook_resid_post", take_out)]
            with torch.no_grad():
                logits = gpt2.wrapped.run_with_hooks(torch.tensor([ids]), fwd_hooks=hooks)[0]
            log_p = logits.log_softmax(-1)
            null.append(sum(float(log_p[start - 1 + j, t]) for j, t in enumerate(own)))
    pairs = list(zip(null[::2], null[1::2], strict=True))
    expected = reps_by_hand(plain, up, pairs, lengths)
    assert loss_of(gpt2, RePS(), form=form) == pytest.approx(expected, abs=1e-4)


class Sharpened:
    """A target that is the model's own distribution with a tilt, computed text by text."""

    def __init__(self, model):
        self.model = model

    @torch.no_grad()
    def __call__(self, prompt, answer):
        before, own = self.model.split(prompt, answer)
        logits = self.model.wrapped(torch.tensor([before + own]))[0]
        return torch.softmax(2 * logits[len(before) - 1 : -1], -1)

    def __repr__(self):
        return "Sharpened()"


def test_match_distribution(gpt2):
    target = Sharpened(gpt2)
    params = FORM.begin(gpt2, torch.Generator().manual_seed(1))
    kl, tokens = 0.0, 0
    for pair in PAIRS:
        prompt, own = gpt2.split(pair.prompt, pair.positive)
        ids = prompt + own
        hooks = FORM.hooks(params, M, ends(gpt2, FORM, ids, len(prompt)))
        with torch.no_grad():
            logits = gpt2.wrapped.run_with_hooks(torch.tensor([ids]), fwd_hooks=hooks)[0]
        log_p = logits.log_softmax(-1)[len(prompt) - 1 : -1]
        wanted = target(pair.prompt, pair.positive)
        kl += float((wanted * (wanted.log() - log_p)).sum())
        tokens += len(own)
    assert kl / tokens > 0.1
    found = loss_of(gpt2, MatchDistribution(target))
    assert found == pytest.approx(kl / tokens, abs=1e-4)


def test_a_target_must_be_a_distribution_for_each_token(gpt2):
    with pytest.raises(ValueError, match="rows over"):
        loss_of(gpt2, MatchDistribution(lambda prompt, answer: torch.ones(1, 3)))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DPO(beta=0), "beta=0"),
        (lambda: RePS(cap=0.5), "cap=0.5"),
        (lambda: RePS("down"), "'both', 'steer' or 'suppress'"),
        (lambda: Split(threshold=-1), "threshold=-1"),
        (lambda: Split(margin="sample"), "'batch' or 'pair'"),
    ],
)
def test_impossible_settings_are_refused(make, words, unchecked):
    with pytest.raises(ValueError, match=words):
        make()
