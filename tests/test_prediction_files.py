"""Contrasts of one's own in experiments/prediction.py."""

from __future__ import annotations

import json

import pytest

from steerlens.experiment.experiment_data import ExperimentError
from steerlens.models.model import Model
from tests.scripts import script

WORDS = ("bed", "town", "dog", "cat", "soup")


@pytest.fixture
def files(tmp_path):
    """Contexts and questions of a contrast."""
    pairs = [
        {"prompt": "", "positive": f"the {a} was good", "negative": f"the {a} was bad"}
        for a in WORDS
    ]
    asked = [
        {"prompt": f"I think the {a} and the {b} was", "positive": " good", "negative": " bad"}
        for a in WORDS
        for b in WORDS
        if a != b
    ]
    for name, rows in (("fit", pairs), ("questions", asked)):
        (tmp_path / f"mood_{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def test_two_files_are_a_contrast(gpt2: Model, files) -> None:
    made = script("experiments", "prediction")
    experiment = made.PredictionExperiment(
        topics=(str(files / "mood"),), n_fit=5, n_questions=8, written=0
    )
    experiment.load(gpt2)
    (case,) = experiment.cases(gpt2)
    model, fit, choose, report = case.make()
    assert case.name == "mood" and model is gpt2
    assert {pair.positive for pair in fit} == {f"the {word} was good" for word in WORDS}
    assert len(choose) == len(report) == 8
    assert not {pair.prompt for pair in choose} & {pair.prompt for pair in report}


def test_what_is_neither_known_nor_two_files_is_refused(gpt2: Model, files) -> None:
    made = script("experiments", "prediction")
    (files / "mood_questions.jsonl").unlink()
    with pytest.raises(ExperimentError, match="neither known nor the starts of two files"):
        made.PredictionExperiment(topics=("weddings", str(files / "mood"))).load(gpt2)
