"""What steering costs is the KL of full forward passes, whatever path it takes."""

import pytest
import torch

from steerlens.measures.divergence import divergence
from steerlens.measures.tokenised import neutral_texts_of
from steerlens.sites import Positions
from tests.grids import MULTIPLIERS, ONE_TOKEN, every_edit
from tests.strangers import low_rank

TEXTS = ["the cat sat on the bed and a dog ran", "I think he said that the soup was good ."]


@torch.no_grad()
@pytest.mark.parametrize("positions", [Positions.all(), Positions.from_prompt_end()], ids=repr)
def test_divergence_equals_kl_from_full_logits(tiny, positions):
    edits = [*every_edit(tiny, positions)[:4], low_rank(tiny, 1)]
    kl = divergence(tiny, TEXTS, edits, MULTIPLIERS, progress=False)
    assert torch.equal(kl[:, 1], torch.zeros(5, 2)), "multiplier 0 costs nothing"
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


def test_a_large_vocabulary_is_read_in_pieces(gpt2, monkeypatch):
    edits = [*every_edit(gpt2, Positions.all()), low_rank(gpt2, 1)]
    whole = divergence(gpt2, TEXTS, edits, MULTIPLIERS, progress=False)
    for logits in (2 * gpt2.cfg.d_vocab, 40 * gpt2.cfg.d_vocab):
        monkeypatch.setattr("steerlens.models.memory.LOGITS", logits)
        pieces = divergence(gpt2, TEXTS, edits, MULTIPLIERS, progress=False)
        torch.testing.assert_close(pieces, whole, atol=1e-6, rtol=1e-5)


def test_neutral_texts_are_prompts_with_their_positive_answers():
    assert neutral_texts_of(ONE_TOKEN)[0] == "the cat sat on the bed"
