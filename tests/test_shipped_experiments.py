"""The experiments on SmolLM2 that ship have their data, in parts that share nothing."""

from pathlib import Path

import pytest

from steerlens.data import ContrastSet
from steerlens.experiment import load_data, load_experiment

FOLDER = Path(__file__).parents[1] / "experiments"


@pytest.mark.parametrize(
    ("name", "contrast", "sizes"),
    [
        ("sentiment", "sentiment", (24, 24, 24)),
        ("she_he", "she over he", (16, 24, 24)),
        ("weddings", "weddings", (24, 24, 24)),
    ],
)
def test_the_data_are_there_and_share_nothing(name, contrast, sizes):
    it = load_experiment(FOLDER / f"pretrained_{name}.py")
    data = load_data(
        it.contrast, it.questions, (it.n_fit, it.n_choose, it.n_report), it.n_neutral, it.seed,
        it.neutral,
    )  # fmt: skip
    fit, choose, report = data[:3]
    assert (len(fit), len(choose), len(report)) == sizes and report.name == contrast
    assert len(set(choose.groups)) == len(choose)  # no near-duplicates
    assert choose.without(fit, report) is choose and report.without(fit) is report
    assert len(data.neutral) == 32 and data.ordinary == "texts of neutral.txt"


def test_the_texts_of_weddings_differ_in_the_system_turn_alone():
    for pair in ContrastSet.load(FOLDER / "data" / "weddings_fit.jsonl"):
        one, other = (text.split("<|im_end|>", 1) for text in (pair.positive, pair.negative))
        assert one[1] == other[1] and "weddings" in one[0] and "computers" in other[0]
