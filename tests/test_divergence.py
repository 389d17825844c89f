"""What steering costs is the KL of full forward passes, whatever path it takes."""

import pytest
import torch

from steerlens.interventions.changes import Dense, WeightChange
from steerlens.interventions.composition import Composition
from steerlens.measures.divergence import divergence
from steerlens.measures.tokenised import neutral_texts_of
from steerlens.sites import Positions
from tests.grids import MULTIPLIERS, ONE_TOKEN, every_edit
from tests.strangers import low_rank

TEXTS = ["the cat sat on the bed and a dog ran", "I think he said that the soup was good ."]


@torch.no_grad()
@pytest.mark.parametrize("stranger", [False, True], ids=["linear", "stranger"])
@pytest.mark.parametrize("positions", [Positions.all(), Positions.from_prompt_end()], ids=repr)
def test_divergence_equals_kl_from_full_logits(tiny, positions, stranger):
    """A stranger may change the unembedding: all probabilities are then computed."""
    edits = [*every_edit(tiny, positions)[:4], *([low_rank(tiny, 1)] if stranger else [])]
    kl = divergence(tiny, TEXTS, edits, MULTIPLIERS, progress=False)
    assert torch.equal(kl[:, 1], torch.zeros(len(edits), 2)), "multiplier 0 costs nothing"
    assert float(kl[:, 3].min()) > 1e-4
    for n, text in enumerate(TEXTS):
        kept = len(tiny.ids(text)) // 2
        words = text.split()
        cut = kept - (len(tiny.ids(text)) - len(words))  # BOS, where there is one, is in the prompt
        batch = tiny.answered([" ".join(words[:cut])], [" " + " ".join(words[cut:])])
        base = tiny.logits(batch)[0, kept - 1 :].log_softmax(-1)
        for i, edit in enumerate(edits):
            with edit.attach(tiny, 2.0):
                steered = tiny.logits(batch)[0, kept - 1 :].log_softmax(-1)
            expected = (base.exp() * (base - steered)).sum(-1).mean()
            torch.testing.assert_close(kl[i, 3, n], expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("stranger", [False, True], ids=["linear", "stranger"])
def test_a_large_vocabulary_is_read_in_pieces(gpt2, monkeypatch, stranger):
    edits = [*every_edit(gpt2, Positions.all()), *([low_rank(gpt2, 1)] if stranger else [])]
    whole = divergence(gpt2, TEXTS, edits, MULTIPLIERS, progress=False)
    for rows in (2, 40):
        monkeypatch.setattr("steerlens.models.memory.LOGITS", rows * gpt2.cfg.d_vocab)
        monkeypatch.setattr("steerlens.models.readout.ROWS", rows)
        monkeypatch.setattr("steerlens.models.readout.TOKENS", 7)
        pieces = divergence(gpt2, TEXTS, edits, MULTIPLIERS, progress=False)
        torch.testing.assert_close(pieces, whole, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_a_change_of_the_unembedding_is_read_with_it(gpt2):
    """Its KL is not linear in the states that the unsteered unembedding reads."""
    lead = torch.zeros(gpt2.cfg.d_vocab)
    lead[3] = 1.0
    delta = Dense(torch.outer(torch.randn(gpt2.d_model), lead))
    change = Composition((WeightChange("unembed.W_U", delta),), "unembedding")
    (kl,) = divergence(gpt2, TEXTS, [change], (0.0, 1.0), progress=False)[:, 1]
    for n, text in enumerate(TEXTS):
        start = len(gpt2.ids(text)) // 2 - 1
        base = gpt2.logits([text])[0, start:].log_softmax(-1)
        with change.attach(gpt2, 1.0):
            steered = gpt2.logits([text])[0, start:].log_softmax(-1)
        expected = (base.exp() * (base - steered)).sum(-1).mean()
        torch.testing.assert_close(kl[n], expected, atol=2e-5, rtol=1e-4)


def test_units_of_like_length_have_the_numbers_of_each_text_alone(tiny, monkeypatch):
    """Texts are put in another order, and columns that are padding in a whole unit are left out."""
    texts = [" ".join(["the cat sat on a bed and he ran"] * k) for k in (3, 1, 2)] + TEXTS
    edits = every_edit(tiny, Positions.from_prompt_end())[:2]
    alone = [divergence(tiny, [t], edits, MULTIPLIERS, progress=False) for t in texts]
    for most in (1, 8192):
        monkeypatch.setattr("steerlens.measures.engine.MAX_TOKENS", most)
        together = divergence(tiny, texts, edits, MULTIPLIERS, progress=False)
        torch.testing.assert_close(together, torch.cat(alone, -1), atol=1e-5, rtol=1e-4)


def test_neutral_texts_are_prompts_with_their_positive_answers():
    assert neutral_texts_of(ONE_TOKEN)[0] == "the cat sat on the bed"
