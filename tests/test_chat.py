"""Chat models: generate, experiments and the command line use the model's own chat template."""

from __future__ import annotations

import json

import pytest

from steerlens.cli import main
from steerlens.data import ContrastError, ContrastPair, ContrastSet
from steerlens.experiment import ExperimentError, ProbingExperiment, SteerabilityExperiment
from steerlens.measures.generation import generate
from steerlens.models.checkpoints import hooked_from_hf, save_hooked
from steerlens.models.model import Model
from steerlens.testing import WORDS, tiny_hf

TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} . {% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)
TURNS = [
    {"role": "system", "content": "be nice"},
    {"role": "user", "content": "is the cat happy ?"},
]
RENDERED = "system : be nice . user : is the cat happy ? . assistant :"


@pytest.fixture(scope="module")
def wrapped():
    hf_model, tokenizer = tiny_hf("llama", words=(*WORDS, "user", "assistant", "system"))
    tokenizer.chat_template = TEMPLATE
    return hooked_from_hf(hf_model, tokenizer)


@pytest.fixture(scope="module")
def model(wrapped):
    return Model(wrapped)


@pytest.fixture(scope="module")
def folder(wrapped, tmp_path_factory):
    """The chat model as a checkpoint, and questions as a file."""
    root = tmp_path_factory.mktemp("chat")
    save_hooked(wrapped, root / "model")
    adjectives = ("happy", "sad", "big", "small", "hot", "cold")
    pairs = [
        ContrastPair(f"is the {noun} {adjective} ?", " yes", " no", group=noun)
        for noun in ("cat", "dog", "bird", "fish", "man", "woman", "king", "queen")
        for adjective in adjectives
    ]
    ContrastSet("happy animals", tuple(pairs)).save(root / "questions.jsonl")
    return root


def test_generate_takes_chats_and_texts_as_turns(model):
    written = generate(model, RENDERED, max_new_tokens=4)
    assert written
    assert generate(model, TURNS, max_new_tokens=4) == written
    assert generate(model, [TURNS], max_new_tokens=4) == [written]
    asked = TURNS[1]["content"]
    assert generate(model, asked, chat=True, system="be nice", max_new_tokens=4) == written
    both = generate(model, [asked, asked], chat=True, system="be nice", max_new_tokens=4)
    assert both == [written, written]
    assert generate(model, asked, chat=True, max_new_tokens=4) != written


def test_what_is_no_chat_is_refused(model):
    with pytest.raises(ValueError, match="Use chat=True too"):
        generate(model, "is the cat happy ?", system="be nice")
    with pytest.raises(ValueError, match="Write the system text as its first turn"):
        generate(model, TURNS, system="be nice")
    with pytest.raises(ContrastError, match="A turn is"):
        generate(model, [{"role": "user"}])
    with pytest.raises(ValueError, match="no texts"):
        generate(model, [])


def test_a_model_without_a_template_is_refused(planted):
    with pytest.raises(ContrastError, match="has no chat template"):
        generate(Model(planted.model), "yes", chat=True)


def test_an_experiment_asks_in_the_models_template(folder, model):
    experiment = SteerabilityExperiment(
        model=str(folder / "model"), contrast=str(folder / "questions.jsonl"), chat=True,
        system="be nice", shifts=("{prompt} now ?",), n_choose=8, n_report=8, new_tokens=2,
    )  # fmt: skip
    inputs = experiment.load(experiment.load_model())
    for part, pairs in inputs.data.items():
        for pair in pairs:
            assert pair.prompt.startswith("system : be nice . user : is the "), part
            assert pair.prompt.endswith("assistant :"), part
    assert " now ? . assistant :" in inputs.shifts.shifted["{prompt} now ?"].pairs[0].prompt
    assert all(prompt.endswith("assistant :") for prompt in inputs.prompts)
    plain = SteerabilityExperiment(model="x", contrast="y")
    assert plain.digest != SteerabilityExperiment(model="x", contrast="y", chat=True).digest


def test_the_command_line_runs_a_chat_and_shows_what_the_data_warns_of(folder, tmp_path, capsys):
    script = tmp_path / "chat.py"
    script.write_text(
        "from steerlens.experiment import ProbingExperiment\n"
        f"experiment = ProbingExperiment(model={str(folder / 'model')!r}, "
        f"contrast={str(folder / 'questions.jsonl')!r}, controls=1)\n"
    )
    words = ["run", str(script), "--results", str(tmp_path / "out")]
    assert main([*words, "--chat", "--system", "be nice"]) == 0
    said = capsys.readouterr().err
    assert "steerlens: warning: fit: matching answers are unbalanced" in said
    assert "with_chat" not in said
    (run,) = (tmp_path / "out").iterdir()
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["fields"]["chat"] is True
    assert "unbalanced" in manifest["remarks"]["fit"]["warnings"][0]
    assert any("chat template" in note for note in manifest["remarks"]["fit"]["notes"])
    page = (run / "report.html").read_text()
    assert "unbalanced" in page
    assert "chat template" in page
    # Without a chat the report advises one.
    assert main(words) == 0
    assert "in an experiment chat=True" in capsys.readouterr().err


def test_a_system_text_needs_a_chat_and_a_chat_a_template(planted, folder, tmp_path):
    with pytest.raises(ExperimentError, match="Set chat=True too"):
        ProbingExperiment(system="be nice")
    save_hooked(planted.model, tmp_path / "model")
    experiment = ProbingExperiment(
        model=str(tmp_path / "model"), contrast=str(folder / "questions.jsonl"), chat=True
    )
    with pytest.raises(ExperimentError, match="chat=True, and .* has no chat template"):
        experiment.run(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_texts_without_a_prompt_stay_as_they_are(model):
    texts = ContrastSet("texts", (ContrastPair("", "happy cat", "sad cat"),))
    assert ProbingExperiment(chat=True).in_chat(model, texts) is texts
