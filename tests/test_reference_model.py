"""The shipped reference model is the one its manifest describes, and it is near the optimum."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch

import steerlens.testbed
from steerlens.models.checkpoints import load_hooked
from steerlens.testbed.grammar import CONCEPTS, EOS
from steerlens.testbed.oracle import Oracle
from steerlens.testbed.review_grammar import review_grammar
from steerlens.testbed.reviews import contexts, neutral_texts, questions

SHIPPED = Path(steerlens.testbed.__file__).parents[1] / "pretrained" / "reviews"


@pytest.fixture(scope="module")
def manifest() -> dict:
    return json.loads((SHIPPED / "manifest.json").read_text())


@pytest.fixture(scope="module")
def model():
    return load_hooked(SHIPPED)


def test_shipped_files_are_those_of_the_manifest(manifest):
    found = {path.name: path for path in SHIPPED.iterdir()}
    assert set(found) == {*manifest["files"], "manifest.json"}
    for name, digest in manifest["files"].items():
        assert sha256(found[name].read_bytes()).hexdigest() == digest, name
    assert sum(path.stat().st_size for path in found.values()) <= 6_000_000


def test_the_model_is_as_large_as_the_manifest_says(manifest, model):
    cfg = model.cfg
    assert cfg.n_layers == manifest["training"]["n_layers"] >= 8
    assert cfg.d_model == manifest["training"]["d_model"] >= 128
    assert cfg.n_ctx == manifest["training"]["n_ctx"] >= review_grammar().longest_document
    assert cfg.d_vocab == len(model.tokenizer) == len(review_grammar().vocabulary) + 4


def test_the_model_was_trained_on_the_grammar_of_this_version(manifest):
    assert manifest["grammar"] == review_grammar().digest
    assert manifest["check"]["excess_loss"] <= 0.05


def test_loss_on_fresh_documents_is_near_the_lowest_possible(model):
    grammar = review_grammar()
    rng = np.random.default_rng(20_000)
    documents = sorted((grammar.sample(rng) for _ in range(192)), key=lambda d: len(d.tokens))
    vocabulary, pad = model.tokenizer.get_vocab(), model.tokenizer.pad_token_id
    nats = []
    for i in range(0, len(documents), 48):
        rows = [[vocabulary[token] for token in d.tokens] for d in documents[i : i + 48]]
        width = max(map(len, rows))
        tokens = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
        with torch.no_grad():
            log_probs = model(tokens[:, :-1]).log_softmax(-1)
        picked = log_probs.gather(-1, tokens[:, 1:, None]).squeeze(-1)
        nats.append(-picked[tokens[:, 1:] != pad])
    excess = float(torch.cat(nats).double().mean()) - Oracle(grammar).loss_floor(documents)
    assert -0.01 < excess <= 0.05


def test_the_models_next_tokens_are_those_of_the_oracle(model):
    prompt = "we loved the room . the bathroom was"
    exact = Oracle().next_token_probs(f"<bos> {prompt}")
    with torch.no_grad():
        probs = model(model.tokenizer(prompt, return_tensors="pt")["input_ids"])[0, -1].softmax(-1)
    vocabulary = model.tokenizer.get_vocab()
    distance = sum(abs(float(probs[vocabulary[w]]) - p) for w, p in exact.items()) / 2
    assert distance < 0.15


def test_every_text_of_the_reference_world_is_in_the_tokenizer(model):
    texts = neutral_texts(50)
    for concept in CONCEPTS:
        texts += [p.positive_text for p in contexts(concept, 20)]
        texts += [p.negative_text for p in questions(concept, 20)]
    for text in texts:
        ids = model.tokenizer(text)["input_ids"]
        assert ids[0] == model.tokenizer.bos_token_id
        assert len(ids) == 1 + len(text.split())
        assert model.tokenizer.unk_token_id not in ids
    assert model.tokenizer.eos_token == EOS


@pytest.mark.parametrize("concept", CONCEPTS)
def test_context_moves_the_models_answers_the_right_way(model, concept):
    def log_odds(context):
        found = []
        for pair in questions(concept, 40, seed=5, context=context):
            with torch.no_grad():
                ids = model.tokenizer(pair.prompt, return_tensors="pt")["input_ids"]
                logits = model(ids)[0, -1]
            one, other = model.tokenizer.convert_tokens_to_ids(
                [pair.positive.strip(), pair.negative.strip()]
            )
            found.append(float(logits[one] - logits[other]))
        return np.mean(found)

    assert log_odds("positive") > log_odds("negative") + 2.0
