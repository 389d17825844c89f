"""Inspect asks a steered model: its answers are those of `generate` under the same steering."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import steerlens as sl

inspect_ai = pytest.importorskip("inspect_ai", reason="needs steerlens[inspect]")

import anyio  # noqa: E402
from inspect_ai import Task, eval  # noqa: E402
from inspect_ai.dataset import Sample  # noqa: E402
from inspect_ai.model import ChatMessageUser, GenerateConfig, get_model  # noqa: E402
from inspect_ai.scorer import includes  # noqa: E402

from steerlens import inspect_registry  # noqa: E402, F401 (registers the provider)
from steerlens.interventions.intended import intended  # noqa: E402
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


def test_samples_depend_on_the_seed_and_not_on_the_batch(tmp_path, gpt2, steering) -> None:
    """Which of two epochs gets which of two samples is not fixed."""

    def sampled(seed: int) -> list[list[str]]:
        model = get_model("steerlens/tiny", loaded=gpt2, steering=steering, memoize=False)
        config = GenerateConfig(max_tokens=6, temperature=1.0, seed=seed)
        found = answers(tmp_path, model, config, 2)
        return [sorted(found[k :: len(PROMPTS)]) for k in range(len(PROMPTS))]

    first = sampled(1)
    assert sampled(1) == first != sampled(2)
    assert all(one != other for one, other in first)


def test_two_steered_models_share_one_model(gpt2, steering) -> None:
    """Each acts on its own texts alone, while both write at once."""
    strengths = (STRENGTH, -STRENGTH, 0.0)

    async def written() -> list[str]:
        found: dict[float, str] = {}

        async def ask(multiplier: float) -> None:
            api = SteeredModel("tiny", loaded=gpt2, steering=steering, multiplier=multiplier)
            message = [ChatMessageUser(content=PROMPTS[0])]
            config = GenerateConfig(max_tokens=6)
            found[multiplier] = (await api.generate(message, [], "none", config)).completion

        async with anyio.create_task_group() as group:
            for multiplier in strengths:
                group.start_soon(ask, multiplier)
        return [found[m] for m in strengths]

    expected = []
    for multiplier in strengths:
        with steering.attach(gpt2, multiplier):
            expected.append(sl.generate(gpt2, PROMPTS[0], max_new_tokens=6))
    assert len(set(expected)) > 1
    assert anyio.run(written) == expected


def test_an_answer_is_kept_for_its_own_vector_and_multiplier_alone(
    tmp_path, gpt2, steering
) -> None:
    path = tmp_path / "vector.safetensors"
    replace(steering.direction, processing=gpt2.processing).save(path)
    made = [
        SteeredModel("tiny", loaded=gpt2, vector=str(path), multiplier=1.0),
        SteeredModel("tiny", loaded=gpt2, vector=str(path), multiplier=0.0),
        SteeredModel("tiny", loaded=gpt2, steering=steering),
        SteeredModel("tiny", loaded=gpt2, steering=steering),
    ]
    assert len({api.base_url for api in made}) == 4
    again = SteeredModel("tiny", loaded=gpt2, vector=str(path), multiplier=1.0)
    assert again.base_url == made[0].base_url


def test_a_prompt_that_fills_the_context_is_answered_alone(tmp_path, gpt2) -> None:
    api = SteeredModel("tiny", loaded=gpt2)
    long = [ChatMessageUser(content="the cat " * gpt2.n_ctx)]
    found = anyio.run(api.generate, long, [], "none", GenerateConfig(max_tokens=1))
    assert found.stop_reason == "model_length" and found.completion == ""


def test_of_a_stored_vector(tmp_path, gpt2, steering) -> None:
    path = tmp_path / "vector.safetensors"
    direction = replace(steering.direction, processing=gpt2.processing)
    direction.save(path)
    model = get_model(
        "steerlens/tiny", loaded=gpt2, vector=str(path), multiplier=STRENGTH, memoize=False
    )
    with intended(direction).attach(gpt2, STRENGTH):
        written = sl.generate(gpt2, PROMPTS, max_new_tokens=4)
    assert answers(tmp_path / "log", model, GenerateConfig(max_tokens=4)) == written


def test_what_cannot_be_answered_is_refused(tmp_path, gpt2, steering) -> None:
    with pytest.raises(ValueError, match="steers nothing"):
        SteeredModel("tiny", loaded=gpt2, multiplier=2.0)
    with pytest.raises(ValueError, match="'none.safetensors' is not there"):
        SteeredModel("tiny", loaded=gpt2, vector="none.safetensors")
    with pytest.raises(ValueError, match="-M multiplyer=… is no option"):
        SteeredModel("tiny", loaded=gpt2, steering=steering, multiplyer=2.0)
    with pytest.raises(ValueError, match="Use one of them"):
        SteeredModel("tiny", loaded=gpt2, vector="x", steering=steering)
    model = get_model("steerlens/tiny", loaded=gpt2, steering=steering, memoize=False)
    task = Task(dataset=[Sample(input="the cat", target="book")], config=GenerateConfig(top_p=0.5))
    (log,) = eval(task, model=model, log_dir=str(tmp_path), display="none")
    assert log.status == "error" and "does not know top_p" in log.error.message
