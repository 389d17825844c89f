"""Attribution adds up, finds the token that decides, and GrAInS's vectors are what it says."""

from __future__ import annotations

import pytest
import torch

from steerlens.arguments import ArgumentError
from steerlens.interventions import AddKeepingNorm
from steerlens.measures.grains import grains
from steerlens.measures.token_attribution import token_attribution
from steerlens.models.model import Model
from steerlens.sites import Site
from steerlens.testing import tiny_model

PAIRS = [
    ("the cat sat on the bed and", " the dog ran", " a fish slept"),
    ("I think the soup was", " very good", " so bad"),
]


@pytest.mark.parametrize(
    ("family", "baseline"), [("gpt2", "mean"), ("gpt2", "zero"), ("llama", "mean")]
)
def test_scores_add_up_to_what_the_text_does(family, baseline):
    model = Model(tiny_model(family, n_layers=2, d_model=16))
    found = token_attribution(model, PAIRS, steps=30, baseline=baseline)
    gap = (found.log_probs - found.at_baseline).abs().sum(-1)
    total = found.scores[0].sum(-1) + found.scores[1].sum(-1)
    wanted = found.log_probs - found.at_baseline
    error = (total - (wanted[:, 0] - wanted[:, 1])).abs()
    assert bool((error < 0.02 * gap).all()), (error, gap)


def test_attribution_reads_each_answer_token_from_the_place_before_it(gpt2):
    """By hand: the gradient of the whole answers' log-probabilities, token by token."""
    prompt, positive, negative = PAIRS[0]
    found = token_attribution(gpt2, PAIRS[:1], gradients="times_input", baseline="zero")
    for side, (answer, sign) in enumerate(((positive, 1.0), (negative, -1.0))):
        tokens = torch.tensor([gpt2.ids(prompt + answer)])
        kept = []

        def keep(resid, hook, kept=kept):
            resid = resid.detach().requires_grad_()
            kept.append(resid)
            return resid

        with torch.enable_grad():
            logits = gpt2.wrapped.run_with_hooks(
                tokens, fwd_hooks=[("blocks.0.hook_resid_pre", keep)]
            )
            start = len(gpt2.ids(prompt))
            log_probs = torch.log_softmax(logits[0], -1)
            total = sum(log_probs[c - 1, tokens[0, c]] for c in range(start, tokens.shape[1]))
            (gradient,) = torch.autograd.grad(total, kept[0])
        torch.testing.assert_close(found.log_probs[0, side], total.detach(), atol=2e-5, rtol=1e-5)
        expected = sign * (kept[0].detach() * gradient).sum(-1)
        torch.testing.assert_close(found.scores[side], expected, atol=2e-5, rtol=1e-3)


def test_the_deciding_word_comes_first(planted, planted_data):
    model = Model(planted.model)
    questions = list(planted_data[1])[:10]
    found = token_attribution(model, questions, steps=20)
    concept = {"good", "great", "lovely", "superb", "tasty", "bright", "warm", "charming"}
    hits = checked = 0
    for row, scores in zip(found.batches[0].tokens, found.scores[0], strict=True):
        words = [model.text([int(t)]).strip() for t in row]
        if concept & set(words):
            place = next(k for k, w in enumerate(words) if w in concept)
            prompt = scores[: int(found.batches[0].prompt_end[0])]
            checked += 1
            hits += int(prompt.abs().argmax()) == place
    assert checked and hits == checked, (hits, checked)


def test_a_vector_is_the_mean_difference_that_replacing_makes(gpt2):
    site, k = Site(1), 2
    (found,) = grains(gpt2, PAIRS, site, tokens=k, mode="positive", steps=8)
    scores = token_attribution(gpt2, PAIRS, steps=8)
    rows = []
    for side in (0, 1):
        batch = scores.batches[side]
        for i in range(len(batch)):
            own = scores.scores[side][i].clone()
            own[~batch.mask[i] | batch.special[i]] = -1.0
            top = [c for c in own.argsort(descending=True)[:k].tolist() if own[c] > 0]
            tokens = batch.tokens[i][batch.mask[i]].clone()
            pad = int((~batch.mask[i]).sum())
            without = tokens.clone()
            without[[c - pad for c in top]] = gpt2.tokenizer.pad_token_id
            if top:
                both = [
                    gpt2.wrapped.run_with_cache(t[None], attention_mask=torch.ones_like(t[None]))[1]
                    for t in (tokens, without)
                ]
                rows.append((both[0][site.hook] - both[1][site.hook])[0, -1])
    expected = torch.stack(rows).mean(0)
    torch.testing.assert_close(found.vector, expected, atol=5e-5, rtol=1e-4)
    both = grains(gpt2, PAIRS, site, tokens=k, steps=8)[0].vector
    lowering = grains(gpt2, PAIRS, site, tokens=k, mode="negative", steps=8)[0].vector
    torch.testing.assert_close(both, found.vector + lowering, atol=1e-5, rtol=1e-5)
    (component,) = grains(gpt2, PAIRS, site, tokens=k, mode="positive", reduce="pca", steps=8)
    assert float(component.vector @ expected) >= 0
    assert float(component.vector.norm()) == pytest.approx(1.0, abs=1e-5)


def test_the_norm_is_each_tokens_own(gpt2, random_direction):
    d = random_direction(Site(1), 32)
    edit = AddKeepingNorm(d, unit="direction")
    h = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0))
    moved = edit(h, 2.0)
    torch.testing.assert_close(moved.norm(dim=-1), h.norm(dim=-1))
    added = h + 2 * d.vector
    torch.testing.assert_close(
        torch.cosine_similarity(moved, added, dim=-1), torch.ones(2, 3), atol=1e-5, rtol=0
    )
    assert torch.equal(edit(h, 0.0), h)


def test_what_cannot_be_attributed_is_refused(gpt2, unchecked):
    for make, text in (
        (lambda: token_attribution(gpt2, PAIRS, gradients="smooth"), "must be 'integrated'"),
        (lambda: grains(gpt2, PAIRS, mode="up"), "must be 'both'"),
        (lambda: grains(gpt2, PAIRS, reduce="svd"), "'mean' or 'pca'"),
        (lambda: token_attribution(gpt2, PAIRS, steps=0), "steps"),
    ):
        with pytest.raises(ArgumentError, match=text):
            make()
