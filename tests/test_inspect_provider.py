"""Inspect asks a steered model: its answers are those of `generate` under the same steering."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import steerlens as sl

inspect_ai = pytest.importorskip("inspect_ai", reason="needs steerlens[inspect]")

from inspect_ai import Task, eval  # noqa: E402
from inspect_ai.dataset import Sample  # noqa: E402
from inspect_ai.model import GenerateConfig, get_model  # noqa: E402
from inspect_ai.scorer import includes  # noqa: E402

from steerlens.sharing.inspect_provider import SteeredModel  # noqa: E402

pytestmark = pytest.mark.filterwarnings("default")
PROMPTS = ["the cat sat on the", "I think the good", "the soup was"]
STRENGTH = 4.0


@pytest.fixture
def steering(gpt2, random_direction):
    return sl.Add(random_direction(gpt2.sites()[1], gpt2.d_model))


def answers(tmp_path: Path, model: object, config: GenerateConfig, epochs: int = 1) -> list[str]:
    task = Task(
        dataset=[Sample(input=prompt, target="book") for prompt in PROMPTS], scorer=includes(),
        config=config,
    )  # fmt: skip
    (log,) = eval(task, model=model, epochs=epochs, log_dir=str(tmp_path), display="none")
    assert log.status == "success", log.error
    assert log.samples is not None
    assert all(one.output.usage.output_tokens > 0 for one in log.samples)
    ordered = sorted(log.samples, key=lambda one: (one.epoch, one.id))
    return [one.output.completion for one in ordered]


def test_is_found_by_its_name(tmp_path) -> None:
    """By the entry point of the package that is installed, from any folder."""
    code = "from inspect_ai.model import get_model; print(get_model('steerlens/reviews').api.model)"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "HookedTransformer" in ran.stdout


def test_answers_are_those_of_generate(tmp_path, gpt2, steering) -> None:
    config = GenerateConfig(max_tokens=6)
    model = get_model(
        "steerlens/tiny", loaded=gpt2, steering=steering, multiplier=STRENGTH, memoize=False
    )
    found = answers(tmp_path, model, config)
    with steering.attach(gpt2, STRENGTH):
        assert found == sl.generate(gpt2, PROMPTS, max_new_tokens=6)
    plain = get_model("steerlens/tiny", loaded=gpt2, memoize=False)
    unsteered = answers(tmp_path, plain, config)
    assert unsteered == sl.generate(gpt2, PROMPTS, max_new_tokens=6) != found
    off = get_model("steerlens/tiny", loaded=gpt2, steering=steering, multiplier=0, memoize=False)
    assert answers(tmp_path, off, config) == unsteered


def test_samples_depend_on_seed_and_epoch_alone(tmp_path, gpt2, steering) -> None:
    def sampled(seed: int) -> list[str]:
        model = get_model("steerlens/tiny", loaded=gpt2, steering=steering, memoize=False)
        return answers(tmp_path, model, GenerateConfig(max_tokens=6, temperature=1.0, seed=seed), 2)

    first = sampled(1)
    assert sampled(1) == first != sampled(2)
    assert first[:3] != first[3:]


def test_of_a_stored_vector(tmp_path, gpt2, steering) -> None:
    path = tmp_path / "vector.safetensors"
    direction = replace(steering.direction, processing=gpt2.processing)
    direction.save(path)
    model = get_model(
        "steerlens/tiny", loaded=gpt2, vector=str(path), multiplier=STRENGTH, memoize=False
    )
    with steering.attach(gpt2, STRENGTH):
        written = sl.generate(gpt2, PROMPTS, max_new_tokens=4)
    assert answers(tmp_path / "log", model, GenerateConfig(max_tokens=4)) == written


def test_what_cannot_be_answered_is_refused(tmp_path, gpt2, steering) -> None:
    with pytest.raises(ValueError, match="steers nothing"):
        SteeredModel("tiny", loaded=gpt2, multiplier=2.0)
    with pytest.raises(ValueError, match="Use one of them"):
        SteeredModel("tiny", loaded=gpt2, vector="x", steering=steering)
    model = get_model("steerlens/tiny", loaded=gpt2, steering=steering, memoize=False)
    task = Task(dataset=[Sample(input="the cat", target="book")], config=GenerateConfig(top_p=0.5))
    (log,) = eval(task, model=model, log_dir=str(tmp_path), display="none")
    assert log.status == "error" and "does not know top_p" in log.error.message
