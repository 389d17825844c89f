"""Real pretrained weights: SmolLM2-135M-Instruct, as Hugging Face computes it, by name and path."""

from __future__ import annotations

from contextlib import contextmanager
from copy import deepcopy

import pytest
import torch

from steerlens.data import ContrastPair, ContrastSet
from steerlens.directions import Direction
from steerlens.interventions import Add
from steerlens.models.checkpoints import MissingCheckpoint, logit_difference, packaged_gguf
from steerlens.models.checkpoints.gguf_checkpoints import parsed_once
from steerlens.models.model import Model
from steerlens.sites import Positions, Site

NAME = "smollm2-135m-instruct"
PAIRS = ContrastSet(
    "capitals",
    (
        ContrastPair("The capital of France is", " Paris", " London"),
        ContrastPair("The capital of Italy is the city of", " Rome", " Madrid"),
        ContrastPair("She said that the soup was very", " good", " bad"),
    ),
)
PROMPTS = [pair.prompt for pair in PAIRS]
LAYER = 12

pytestmark = pytest.mark.pretrained


@pytest.fixture(scope="module")
def path():
    try:
        found = packaged_gguf(NAME)
    except MissingCheckpoint as error:
        pytest.skip(str(error))
    with parsed_once():  # the file is read twice here
        yield found


@pytest.fixture(scope="module")
def model(path):
    return Model.load(NAME)


@pytest.fixture(scope="module")
def loaded_by_path(path):
    """The model by the path of its file, and a copy of what transformers read from the file."""
    from transformers import AutoModelForCausalLM

    read, original = [], AutoModelForCausalLM.from_pretrained

    def spied(*args, **given):
        found = original(*args, **given)
        read.append(deepcopy(found[0]))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AutoModelForCausalLM, "from_pretrained", spied)
        by_path = Model.load(path)
    (hf_model,) = read
    return by_path, hf_model.eval()


@pytest.fixture(scope="module")
def hf_model(loaded_by_path):
    return loaded_by_path[1]


@pytest.fixture
def edit():
    vector = torch.randn(576, generator=torch.Generator().manual_seed(0))
    direction = Direction(vector, Site(LAYER), resid_norm=30.0, processing="raw")
    return Add(direction, Positions.from_prompt_end())


@contextmanager
def hooked(hf_model, edit, multiplier, start):
    """The same edit by a plain PyTorch hook on the Hugging Face model."""

    def hook(module, args, output):
        resid = output[0] if isinstance(output, tuple) else output
        resid = resid.clone()
        if resid.shape[1] > start:
            resid[:, start:] += multiplier * edit.step
        return (resid, *output[1:]) if isinstance(output, tuple) else resid

    handle = hf_model.model.layers[LAYER].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def hf_logits(hf_model, ids):
    return hf_model(torch.tensor([ids])).logits[0]


def test_it_loads_by_name_with_hugging_faces_logits(model, hf_model):
    assert (model.name, model.is_bridge, model.n_layers, model.d_model) == (NAME, False, 30, 576)
    worst, _ = logit_difference(model.wrapped, hf_model)
    assert worst < 1e-4


def test_it_loads_by_path_and_by_folder_with_the_same_weights(model, loaded_by_path, tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    by_path, hf_model = loaded_by_path
    assert by_path.fingerprint == model.fingerprint
    config = hf_model.config.to_dict()
    config.pop("quantization_config", None)
    plain = LlamaForCausalLM(LlamaConfig.from_dict(config))
    plain.load_state_dict(hf_model.state_dict())
    plain.save_pretrained(tmp_path / "folder")
    model.tokenizer.save_pretrained(tmp_path / "folder")
    loaded = Model.load(tmp_path / "folder")
    assert loaded.fingerprint == model.fingerprint
    assert loaded.tokenizer.chat_template == model.tokenizer.chat_template
    assert loaded.ids(PROMPTS[0]) == model.ids(PROMPTS[0])


def test_plain_text_starts_without_the_chat_marker(model, hf_model):
    ids = model.ids(PROMPTS[0])
    assert ids == model.tokenizer(PROMPTS[0])["input_ids"]
    assert model.tokenizer.convert_ids_to_tokens(ids)[0] == "The"
    log_p = hf_logits(hf_model, ids).log_softmax(-1)
    torch.testing.assert_close(
        model.logits(PROMPTS[0])[0].log_softmax(-1), log_p, atol=1e-3, rtol=0
    )
    marked = Model.load(model, prepend_bos=True)
    assert marked.tokenizer.convert_ids_to_tokens(marked.ids("Hello"))[0] == "<|im_start|>"


def test_chat_markers_are_special(model):
    text = model.tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    batch = model.tokens([text])
    names = model.tokenizer.convert_ids_to_tokens(batch.tokens[0].tolist())
    marked = [name.startswith("<|im_") for name in names]
    assert batch.special[0].tolist() == marked
    assert any(marked)


def test_activations_equal_hugging_faces(model, hf_model):
    from steerlens.measures.reading import activations

    found = activations(model, PAIRS, [Site(4), Site(LAYER)], progress=False)
    for i, pair in enumerate(PAIRS):
        prompt, answer = model.split(pair.prompt, pair.positive)
        with torch.no_grad():
            states = hf_model(
                torch.tensor([prompt + answer]), output_hidden_states=True
            ).hidden_states
        for site, layer in enumerate((4, LAYER)):
            theirs = states[layer + 1][0, len(prompt)]
            torch.testing.assert_close(found.positive[i, site], theirs, atol=1e-3, rtol=1e-3)


def test_a_sweep_equals_plain_hooks(model, hf_model, edit):
    from steerlens.measures.sweep import sweep

    multipliers = [-0.2, 0.0, 0.3]
    found = sweep(model, PAIRS, [edit], multipliers, progress=False)
    for i, pair in enumerate(PAIRS):
        for k, multiplier in enumerate(multipliers):
            nats = []
            for text in (pair.positive, pair.negative):
                prompt, answer = model.split(pair.prompt, text)
                with hooked(hf_model, edit, multiplier, len(prompt) - 1):
                    log_p = hf_logits(hf_model, prompt + answer).log_softmax(-1)
                nats.append(sum(log_p[len(prompt) - 1 + j, t] for j, t in enumerate(answer)))
            assert float(found.log_odds[0, k, i]) == pytest.approx(
                float(nats[0] - nats[1]), abs=1e-3
            )


def test_the_kl_equals_plain_hooks(model, hf_model, edit):
    from steerlens.measures.divergence import divergence
    from steerlens.measures.tokenised import halved

    found = divergence(model, PROMPTS, [edit], [0.3], progress=False)
    for i, prompt in enumerate(PROMPTS):
        ids, start = model.ids(prompt), int(halved(model, [prompt], 0.5).prompt_end) - 1
        own = hf_logits(hf_model, ids).log_softmax(-1)[start:]
        with hooked(hf_model, edit, 0.3, start):
            steered = hf_logits(hf_model, ids).log_softmax(-1)[start:]
        kl = (own.exp() * (own - steered)).sum(-1).mean()
        assert float(found[0, 0, i]) == pytest.approx(float(kl), abs=1e-3)
        assert float(kl) > 5e-3


def test_steered_texts_equal_plain_hooks(model, hf_model, edit):
    from steerlens.measures.generation import generated_tokens

    with edit.attach(model, 0.3):
        ours = generated_tokens(model, PROMPTS, max_new_tokens=6, stop_at_eos=False)
    for prompt, new in zip(PROMPTS, ours.tolist(), strict=True):
        row = model.ids(prompt)
        start = len(row) - 1
        for _ in range(6):
            with hooked(hf_model, edit, 0.3, start):
                row.append(int(hf_logits(hf_model, row)[-1].argmax()))
        assert new == row[start + 1 :]


def test_it_answers_in_its_chat_template(model):
    from steerlens.measures.generation import generate

    prompt = model.tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        tokenize=False, add_generation_prompt=True,
    )  # fmt: skip
    assert generate(model, prompt, max_new_tokens=12) == "The capital of France is Paris."
