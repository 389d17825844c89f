"""The reader and the verdict against the oracle of the reference world."""

import pytest
import torch

from steerlens.analyses.confirmation.contexts import Contexts
from steerlens.analyses.confirmation.measure_written import confirm_in_writing
from steerlens.analyses.confirmation.written_share import auroc_interval
from steerlens.directions.methods import DiffMean, Random
from steerlens.experiment.experiment_data import load_data
from steerlens.interventions import Add
from steerlens.measures.reading import activations
from steerlens.models.model import Model
from steerlens.results import Cell
from steerlens.sites import Site
from steerlens.testbed.grammar import SENTENCE_ENDS
from steerlens.testbed.oracle import Oracle

LAYER = Site(6)
ORACLE = Oracle()


@pytest.fixture(scope="module")
def effect():
    """What sentiment steering writes, and what a random vector as long writes."""
    model = Model.load("reviews")
    data = load_data("reviews/sentiment", None, (100, 4, 40), 4, seed=0)
    read = activations(model, data.fit, (LAYER,), progress=False)
    found = read.direction(LAYER, DiffMean())
    other = read.direction(LAYER, Random(1)).unit() * found.norm
    arms = {"sentiment": Add(found), "random": Add(other, unit=Add(found).length)}
    at = [Cell("sentiment", 0.5, LAYER), Cell("random", 0.5, LAYER)]
    prompts = [pair.prompt for pair in data.report][:32]
    contexts = Contexts.from_pairs(model, data.fit, prompts, room=14)
    return confirm_in_writing(
        model, arms, at, prompts, contexts, draws=2, max_new_tokens=14, progress=False
    )


def poles(effect, texts) -> torch.Tensor:
    """Clauses of the positive pole minus clauses of the negative one: [prompt, draw]."""

    def pole(prompt: str, text: str) -> float:
        whole = sum(word in SENTENCE_ENDS for word in prompt.split())
        read = ORACLE.read(prompt + text)[whole:]
        return float(sum({True: 1, False: -1, None: 0}[clause.sentiment] for clause in read))

    return torch.tensor(
        [[pole(p, text) for text in own] for p, own in zip(effect.prompts, texts, strict=True)]
    )


def test_the_reader_agrees_with_the_oracle_on_single_texts(effect):
    texts = [effect.unsteered_texts, effect.steered_texts[0], effect.opposite_texts[0]]
    said = torch.cat([poles(effect, one) for one in texts]).flatten()
    read = torch.cat([effect.unsteered, effect.steered[0], effect.opposite[0]]).flatten()
    good, bad = read[said > 0][:, None], read[said < 0][:, None]
    assert len(good) > 20 and len(bad) > 20
    wins = (good > bad.T).float().mean()
    assert float(wins) > 0.8


def test_the_verdict_agrees_with_the_oracle(effect):
    before = poles(effect, effect.unsteered_texts)
    moved = poles(effect, effect.steered_texts[0]) - before
    assert float(moved.mean()) > 0.15
    assert float((poles(effect, effect.opposite_texts[0]) - before).mean()) < -0.15
    assert effect.verdict(0) == "confirmed in writing"
    assert effect.against_opposite(0).low > 0
    same = poles(effect, effect.steered_texts[1]) - before
    assert abs(float(same.mean())) < 0.15
    assert effect.verdict(1) == "gain without writing"
    assert effect.reader_auroc.value > 0.7
    contexts = poles(effect, effect.positive_texts), poles(effect, effect.negative_texts)
    assert auroc_interval(*contexts).value > 0.7  # the contexts do what their name says
