"""The numbers that benchmarks/golden.py keeps are whole, and a small map still has them."""

from __future__ import annotations

import pytest
import torch

from tests.scripts import script

MAP = {
    "map.multipliers", "map.propensities", "map.utilities", "map.kl", "map.shuffled", "map.random",
    "map.lengths", "map.confirmed.gains", "map.confirmed.utilities", "map.confirmed.kl",
}  # fmt: skip
PROBE = {"probe.scores", "probe.control"}
EXPECTED = {
    "mini": MAP | PROBE,
    "demo": MAP | PROBE | {
        "writing.tokens", "writing.surprisals", "decay.preferences", "decay.utilities",
        "shift.propensities.negated", "spillover.propensities.truth", "spillover.null_gains",
        "samples.multipliers",
    },
    "sae": PROBE | {
        f"comparison.{name}"
        for name in ("norms", "candidates", "equal_kl.gains", "equal_utility.control_gains")
    },
    "trust": {
        "coverage.summary.numbers", "coverage.real.sentiment.0.propensities",
        "coverage.shuffled.register.1.kl", "coverage.truth.sentiment.0.held_gain",
        "proxies.summary.numbers", "proxies.truth-6.numbers",
    },
}  # fmt: skip
UNDEFINED = (
    "comparison.equal_", "spillover.selectivity", "proxies.summary.numbers",
    "coverage.summary.numbers", "map.confirmed.intervals", "writing.change.",
)  # fmt: skip
"""Begin the names of what need not have a number everywhere.

An arm against itself, a ratio to 0, and the ends of an interval over fewer than eight groups.
"""


@pytest.fixture(scope="module")
def golden():
    return script("benchmarks", "golden")


@pytest.fixture
def made(golden):
    """Numbers of a part that never ran, one of the arrays large."""
    return golden.Numbers(
        {
            "few": torch.tensor([1.0, -2.0, torch.nan]),
            "whole": torch.tensor([3, 4]),
            "many": torch.arange(60_000.0).reshape(2, 30_000),
        },
        {"texts": ["tasty .", "bland ."]},
    )


def verdicts(golden, stored, now) -> dict[str, tuple[bool, bool]]:
    """Of every name: whether it agrees, and whether it is identical."""
    lines = golden.compare(stored, now)
    return {line.name: (line.agrees, line.verdict.startswith("identical")) for line in lines}


@pytest.mark.parametrize("part", EXPECTED)
def test_what_is_stored_has_every_name_and_finite_numbers(golden, part):
    arrays = golden.read(part).numbers.arrays
    assert EXPECTED[part] <= set(arrays)
    for name, values in arrays.items():
        assert values.numel(), name
        if not name.startswith(UNDEFINED):
            assert values.isfinite().all(), name


def test_every_part_is_stored_and_all_are_small(golden):
    assert set(golden.PARTS) == set(EXPECTED)
    files = list(golden.FOLDER.iterdir())
    assert {path.stem for path in files} == set(EXPECTED)
    assert sum(path.stat().st_size for path in files) < 1_500_000


def test_stored_texts_are_those_of_every_cell(golden):
    words, arrays = (getattr(golden.read("demo").numbers, x) for x in ("words", "arrays"))
    sites, multipliers, prompts = arrays["writing.surprisals"].shape
    texts = words["writing.texts"]
    assert len(texts) == sites == len(words["map.sites"])
    assert all(len(row) == multipliers for row in texts)
    assert all(len(cell) == prompts for row in texts for cell in row)


def test_a_small_map_has_the_numbers_that_are_stored(golden):
    made = golden.collect("mini", threads=1)  # two workers share two cores
    lines = golden.compare(golden.read("mini"), made)
    assert not [line for line in lines if not line.agrees]


def test_what_was_written_is_identical_when_read(golden, made, tmp_path):
    size = golden.write("part", made, tmp_path)
    assert size < 20_000  # the large array is not kept whole
    found = verdicts(golden, golden.read("part", tmp_path), made)
    assert found == dict.fromkeys(("few", "many", "whole", "texts"), (True, True))


def test_a_difference_is_told_by_its_size(golden, made, tmp_path):
    golden.write("part", made, tmp_path)
    stored = golden.read("part", tmp_path)

    def after(name: str, change) -> tuple[bool, bool]:
        now = golden.Numbers(made.arrays | {name: change(made.arrays[name].clone())}, made.words)
        found = verdicts(golden, stored, now)
        assert all(found[other] == (True, True) for other in found if other != name)
        return found[name]

    assert after("few", lambda x: x * (1 + 1e-6)) == (True, False)
    assert after("few", lambda x: x * (1 + 1e-3)) == (False, False)
    assert after("few", lambda x: x.nan_to_num()) == (False, False)
    assert after("few", lambda x: x.double()) == (False, False)
    assert after("whole", lambda x: x + 1) == (False, False)
    assert after("many", lambda x: x * (1 + 1e-6)) == (True, False)
    assert after("many", lambda x: x * 1.1) == (False, False)
    assert after("many", lambda x: x.T) == (False, False)


def test_other_texts_and_other_names_are_differences(golden, made, tmp_path):
    golden.write("part", made, tmp_path)
    arrays = {"fewer" if name == "few" else name: x for name, x in made.arrays.items()}
    now = golden.Numbers(arrays, {"texts": ["tasty .", "fresh ."]})
    found = verdicts(golden, golden.read("part", tmp_path), now)
    assert {name for name, (agrees, _) in found.items() if not agrees} == {"few", "fewer", "texts"}


def test_threads_and_memory_are_as_before_after_a_part(golden):
    import psutil

    before = torch.get_num_threads()
    with golden.held_fixed():
        assert torch.get_num_threads() == golden.THREADS
        assert psutil.virtual_memory().available == golden.FREE
    assert torch.get_num_threads() == before
    assert psutil.virtual_memory().available != golden.FREE
