"""Finished runs beside one another, paired where they were held out on the same questions."""

from pathlib import Path

import pytest
import torch

from steerlens.analyses.steerability.confirmation import Confirmation
from steerlens.analyses.steerability.steerability_map import SteerabilityMap
from steerlens.experiment import Run, compare_runs
from steerlens.experiment.experiment_data import ExperimentError
from steerlens.results import Cell, headline_of
from steerlens.sites import Site
from steerlens.stats import interval_of_mean
from steerlens.store.headline import Listed, table


def made(gain, seed=0):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(2, 2, 12, generator=generator)
    odds = torch.zeros(2, 2, 12)
    odds[:, 1] = gain + 0.1 * noise[:, 1]
    cell = Cell("L1 resid_post", 1.0, Site(1))
    held = Confirmation(cell, odds[1, 1], torch.zeros(12), torch.full((12,), 0.01))
    return SteerabilityMap(
        rows=("L0 resid_post", "L1 resid_post"),
        sites=(Site(0), Site(1)),
        multipliers=torch.tensor([0.0, 1.0]),
        propensities=odds,
        utilities=torch.zeros(2, 2, 12),
        kl=torch.zeros(2, 2, 8),
        shuffled=None,
        random=None,
        budget=0.1,
        confirmation=held,
        made_by={"model": "m"},
    )


def run(name, result, asked="a", **fields):
    manifest = {
        "fields": {"experiment": "E", "model": "m", "contrast": "c", **fields},
        "data": {"report": {"hash": asked}},
        "started": "2026-01-01T00:00:00Z",
        "results": {"map": "steerlens:X"},
    }
    return Run(Path(name), manifest, {"map": result}, "")


def test_runs_that_share_questions_are_paired():
    one, other = made(2.0), made(1.5, seed=1)
    found = compare_runs([run("a", one, seed=0), run("b", other, seed=1), run("c", one, "other")])
    paired, unpaired, last = found.differences
    assert (paired.first, paired.second) == ("a", "b")
    expected = interval_of_mean(one.confirmation.gains - other.confirmation.gains)
    assert paired.gain == expected and "12 shared questions" in paired.why
    assert unpaired.gain is None and "different questions" in str(unpaired) and last.gain is None
    assert found.quantities["seed"] == ("0", "1", "")
    assert found.quantities["model"] == ("m", "m", "m")
    assert str(one.confirmation.gain) in found.quantities["gain, held out"][0]
    assert list(found.to_frame()["run"]) == ["a", "b", "c"]
    said = repr(found)
    assert "paired by question" in said and "best cell" in said


def test_runs_without_a_map_are_not_subtracted():
    whole = run("a", made(1.0))
    found = compare_runs([Run(Path(name), whole.manifest, {}, "") for name in ("a", "b")])
    assert found.differences == () and "paired" not in repr(found)


def test_the_same_run_twice_is_refused(tmp_path):
    with pytest.raises(ExperimentError, match="two or more different ones"):
        compare_runs([run(tmp_path, made(1.0)), run(tmp_path, made(1.0))])


def test_a_list_shows_what_a_run_came_to():
    headline = headline_of([made(2.0)])
    assert headline["cell"].startswith("L") and headline["gain"].endswith("nats")
    rows = [
        Listed(Path("b"), "finished", "m", "c", "2026-01-02 00:00", **headline),
        Listed(Path("a"), "unfinished", "m", "c", "2026-01-03 00:00"),
    ]
    head, first, second = table(rows)
    assert head.split() == [
        "state",
        "started",
        "model",
        "contrast",
        "cell",
        "gain",
        "cost",
        "folder",
    ]
    assert first.endswith(" b") and second.endswith(" a") and "nats of KL" in first
    assert first.index(" b") == second.index(" a") or len(first) == len(second)
