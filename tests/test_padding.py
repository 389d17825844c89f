"""Pairs of unequal length train in one batch as each text would alone, without padding."""

from __future__ import annotations

import pytest
import torch

from steerlens.forms import DReFT, ReFTr1
from steerlens.forms.stream_edits import TopLatents
from steerlens.models.model import Model
from steerlens.models.wrapped_state import differentiable
from steerlens.sites import Positions, Site, TokenBatch
from steerlens.testing import tiny_model
from steerlens.training import LM
from steerlens.training.scored_set import ScoredSet
from tests.kinds import moved
from tests.test_forms import FORMS
from tests.test_training_gradients import PAIRS

MORE = {
    "ReFT-r1 after the last block": ReFTr1(Site(1), top_k=3),
    "ReFT-r1 from the prompt's end": ReFTr1(Site(0), 2, Positions.from_prompt_end()),
    "ReFT-r1 with a few chosen tokens": ReFTr1(Site(0), 50, Positions.span(2, 5)),
}
# Its draws differ from batch to batch, so they are made negligible.
EVERY = {**FORMS, **MORE, "D-ReFT": DReFT(Site(0), rank=2, unit=1e-9)}
UNTRAINED = ("amount", "step", "wide", "wide_offset")
"""Parameters without a gradient, or with one of the draws alone."""
INDEX = torch.tensor([2, 0, 3, 1])


@pytest.fixture(scope="module")
def small():
    return Model(tiny_model("llama", n_layers=2, d_model=16))


def parameters(form, model):
    return {name: one.requires_grad_() for name, one in moved(form, model).items()}


def in_a_batch(model, form, params):
    """Log-probabilities of both answers of all pairs in one run, as training takes them."""
    intervention = form.intervention(model, params)
    scored = ScoredSet(model, PAIRS, LM(), [intervention])
    return scored.run.log_probs(intervention, INDEX, torch.full((4, 2), 0.7), (0, 1))


def text_by_text(model, form, params):
    """The same, of each text alone."""
    found = []
    for k in INDEX.tolist():
        pair = PAIRS.pairs[k]
        for answer in (pair.positive, pair.negative):
            prompt, own = model.split(pair.prompt, answer)
            tokens = torch.tensor([prompt + own[:-1]])  # the last token is only predicted
            real, end = torch.ones_like(tokens, dtype=torch.bool), torch.tensor([len(prompt)])
            text = TokenBatch(tokens, real, model.is_special(tokens), end)
            with form.intervention(model, params).attach(model, 0.7):
                logits = model.unembed(model.states(text))[0, -len(own) :]
            found.append(logits.log_softmax(-1)[range(len(own)), own].sum())
    return torch.stack(found).view(4, 2)


@pytest.mark.parametrize("name", EVERY)
def test_a_padded_batch_has_the_numbers_and_gradients_of_its_texts(small, name):
    """Prompts padded on the left, answers on the right, and both answers of a pair in one run."""
    form, found = EVERY[name], []
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(4, 2, generator=generator)
    with differentiable(small.wrapped):
        for numbers in (in_a_batch, text_by_text):
            params = parameters(form, small)
            sums = numbers(small, form, params)
            trained = [one for key, one in params.items() if key not in UNTRAINED]
            found.append((sums.detach(), torch.autograd.grad((weights * sums).sum(), trained)))
    (sums, gradients), (wanted, of_texts) = found
    torch.testing.assert_close(sums, wanted, atol=2e-5, rtol=1e-5)
    for one, other in zip(gradients, of_texts, strict=True):
        assert float(other.abs().max()) > 1e-4
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
def test_top_latents_are_those_of_chosen_tokens(side):
    generator = torch.Generator().manual_seed(0)
    w = torch.nn.functional.normalize(torch.randn(8, generator=generator), dim=0)
    texts = [torch.randn(n, 8, generator=generator) for n in (6, 3, 2)]
    batch = 100 * w.repeat(3, 6, 1)  # the latents of padding would be the largest
    chosen = torch.zeros(3, 6, dtype=torch.bool)
    for row, text in enumerate(texts):
        where = slice(0, len(text)) if side == "right" else slice(6 - len(text), 6)
        batch[row, where], chosen[row, where] = text, True
    amount = torch.tensor(0.0)
    edit = TopLatents(w, torch.tensor(2.0), amount, top_k=4)
    found = edit.of_texts(batch, 1.0, chosen)
    means = []
    for row, text in enumerate(texts):
        means.append(float(torch.relu(text @ w).sort(descending=True).values[:4].mean()))
        torch.testing.assert_close(found[row][chosen[row]], text + 2 * means[-1] * w)
    assert float(amount) == pytest.approx(TopLatents.MOMENTUM * 2 * sum(means) / 3, rel=1e-5)
