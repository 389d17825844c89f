"""The studies of docs/trust.md run, go on where they stopped, and the page holds their numbers."""

from __future__ import annotations

import json
import shutil
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import scripts

ROOT = Path(__file__).parents[1]
SMALL = {"n_fit": 24, "n_choose": 8, "n_report": 8, "n_neutral": 16, "nulls": 19, "draws": 3}


script = partial(scripts.script, "studies")


def flat(found) -> list[float]:
    """Every number of nested results, in order."""
    if isinstance(found, dict):
        return [x for value in found.values() for x in flat(value)]
    if isinstance(found, list | tuple):
        return [x for value in found for x in flat(value)]
    return [] if isinstance(found, str) else [float(found)]


@pytest.fixture(scope="module")
def coverage():
    return script("coverage")


@pytest.fixture(scope="module")
def proxies():
    return script("proxies")


@pytest.fixture(scope="module")
def covered(coverage, tmp_path_factory):
    """A tiny study of coverage, done."""
    study = coverage.Coverage(
        concepts=("register",), repeats=1, again=4, output=tmp_path_factory.mktemp("c"), **SMALL
    )
    return study, study.run()


@pytest.fixture(scope="module")
def written(proxies, tmp_path_factory):
    """A tiny study of proxies, done."""
    study = proxies.Proxies(
        concepts=("sentiment",), layers=(1, 6), multipliers=(-2.0, 0.25, 0.5), n_fit=24,
        n_questions=12, n_texts=8, prompts=6, draws=1, new_tokens=14, resamples=20,
        output=tmp_path_factory.mktemp("p"),
    )  # fmt: skip
    return study, study.run()


def test_coverage_counts_every_repeat(coverage, covered):
    _, found = covered
    for kind in ("real", "shuffled"):
        for flag in coverage.FLAGS:
            assert found["all"]["flagged"][kind][flag]["n"] == 1
    for measure in coverage.MEASURES:
        of_all = found["all"]["coverage"][measure]
        outside = of_all["truth_below"] + of_all["truth_above"]
        assert of_all["covered"]["yes"] + outside == of_all["covered"]["n"]
        assert of_all["width"] > 0 and np.isfinite(of_all["truth_error"])
    assert found["all"]["again"]["held_gain"]["n"] == 4 * of_all["covered"]["n"]


def test_real_labels_are_flagged(covered):
    assert covered[1]["all"]["flagged"]["real"]["recommended"]["yes"] == 1


def test_the_truth_is_of_the_same_cell_and_direction(covered):
    """Measured on a repeat's own examples, it is what the map's confirmation says."""
    study, _ = covered
    index, found = next(study.maps("real", "register"))
    data = study.data("register", study.seeded(index))
    one = type(study)(**{**SMALL, "draws": 1}, output=study.output)
    large = one.truths([data], [study._edit("register", index, found)])
    close = {"rtol": 1e-2, "atol": 1e-3}  # a utility near its ceiling magnifies rounding
    torch.testing.assert_close(large["held_gain"][0, 0], found.confirmation.gains, **close)
    torch.testing.assert_close(large["utility"][0, 0], found.confirmation.utilities, **close)
    torch.testing.assert_close(large["kl"][0, 0], found.confirmation.kl, **close)
    i, j = found.index(found.confirmation.cell)
    torch.testing.assert_close(large["chosen_gain"][0, 0], found.oriented[i, j], **close)


def test_a_killed_coverage_study_goes_on_to_the_same_numbers(covered):
    study, found = covered
    shutil.rmtree(study.folder("shuffled", "register", 0))
    study.truth_file("register", 0).unlink()
    assert flat(study.run()) == pytest.approx(flat(found), nan_ok=True, rel=1e-4, abs=1e-5)


def test_another_study_is_not_continued(coverage, covered):
    study, _ = covered
    other = coverage.Coverage(concepts=("register",), output=study.output, **{**SMALL, "n_fit": 25})
    with pytest.raises(ValueError, match="would be mixed"):
        other.run()


def test_repeats_share_no_question_with_each_other_by_seed(covered):
    study, _ = covered
    one, other = (study.data("register", study.seeded(i)) for i in range(2))
    assert one.fit.hash != other.fit.hash
    assert one.report.hash != other.report.hash


def test_an_interval_that_misses_is_counted_on_its_side(coverage):
    claims = [
        coverage.Claim(coverage.Interval(1.0, 0.5, 1.5), truth, 0.01) for truth in (0.4, 0.5, 1.6)
    ]
    found = coverage.coverage_of(claims)
    assert (found["covered"]["yes"], found["truth_below"], found["truth_above"]) == (1, 1, 1)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        # A clause cut short by the limit is left out.
        ("delicious . the soup was", {"positive": 1, "negative": 0, "clauses": 1, "good": 1.0}),
        ("awful . the soup was tasty .", {"clauses": 2, "good": 0.5}),  # "awful" is no word of it
        ("bland . the soup was tasty .", {"positive": 1, "negative": 1, "clauses": 2, "good": 1.0}),
        # Another topic is well-formed, but not good.
        ("bland . the bed was clean .", {"clauses": 2, "good": 0.5, "formed": 1.0}),
        # The end of the text inside a clause breaks it.
        ("tasty . the soup <eos>", {"positive": 1, "clauses": 2, "good": 0.5, "formed": 0.5}),
        # So does a clause longer than any form.
        ("soup " * 30, {"positive": 0, "clauses": 1, "good": 0.0}),
    ],
)
def test_texts_are_counted_by_clause(proxies, written, said, expected):
    source = proxies._Source(written[0], "sentiment")
    found = source.count("the pasta was fresh . the bread was", "restaurant", said.split())
    assert {name: found[name] for name in expected} == expected


def test_proxies_have_a_number_for_every_cell(written):
    _, found = written
    for grid in found["cells"].values():
        for name, values in grid.items():
            assert np.shape(values) == (2, 3), name
            assert np.isfinite(values).all(), name
    value, low, high = found["correlations"]["all"]["gain-rise"]["all"]
    assert -1 <= low < value < high <= 1


def test_strong_steering_breaks_texts_and_costs_kl(written):
    grid = {name: np.array(values) for name, values in written[1]["cells"]["sentiment"].items()}
    assert (grid["good"][:, 0] < 0.6).all() and (grid["good"][:, 1] > 0.8).all()
    assert (grid["kl"][:, 0] > 5 * grid["kl"][:, 2]).all()


def test_a_killed_study_of_proxies_goes_on_to_the_same_numbers(written):
    study, found = written
    (study.output / "sentiment-6.json").unlink()
    again = study.run()
    assert json.dumps(again) == json.dumps(found)


def test_rank_correlation_of_the_study_is_that_of_stats(proxies):
    from steerlens import stats

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 3, 20)).round(1)
    found = sys.modules["proxies_tables"].spearman(x, y)
    for row, a, b in zip(found, x, y, strict=True):
        assert row == pytest.approx(stats.rank_correlation(torch.tensor(a), torch.tensor(b)).value)


def test_the_page_holds_the_numbers_that_were_saved(coverage, proxies):
    page = (ROOT / "docs" / "trust.md").read_text("utf-8")
    saved = json.loads((ROOT / "docs" / "trust.json").read_text("utf-8"))
    for table in (*coverage.tables(saved["coverage"]), *proxies.tables(saved["proxies"])):
        assert table in page, table.splitlines()[0]


def test_the_saved_study_is_as_large_as_the_page_says(coverage):
    saved = json.loads((ROOT / "docs" / "trust.json").read_text("utf-8"))["coverage"]
    for kind in ("real", "shuffled"):
        assert saved["all"]["flagged"][kind]["both"]["n"] >= 300
    assert saved["all"]["coverage"]["held_gain"]["covered"]["n"] >= 300


# Null tests and simulated intervals


def test_the_null_tests_run_and_go_on(tmp_path):
    module = script("null_tests")
    study = module.NullTests(
        kinds=("real", "random"), copies=(1, 2), repeats=1, layers=(3,), n_fit=16, n_choose=6,
        nulls=19, multipliers=(0.0, 0.5), output=tmp_path,
    )  # fmt: skip
    found = study.run()
    (path,) = (tmp_path / "real-1").iterdir()
    one = json.loads(path.read_text())
    assert one["with_projected"] == max(one["label"], one["projected"])
    assert one["with_isotropic"] == max(one["label"], one["isotropic"])
    path.unlink()
    assert flat(study.run()) == pytest.approx(flat(found))
    for path in tmp_path.glob("*-2/*.json"):
        one = json.loads(path.read_text())
        assert one["with_projected"] == max(one["label"], one.get("projected", 0.0))
    assert "| random | 2 | 1 | " in module.tables(found)[0]
    with pytest.raises(ValueError, match="would be mixed"):
        module.NullTests(n_fit=17, output=tmp_path).run()


def test_null_tests_of_files_draw_some_of_what_is_there(tmp_path):
    from steerlens.testbed import reviews

    module, names = script("null_tests"), []
    for concept in ("register", "sentiment"):
        fit, asked = tmp_path / f"{concept}.jsonl", tmp_path / f"{concept}_questions.jsonl"
        reviews.contexts(concept, 20).save(fit)
        reviews.questions(concept, 12, seed=5).save(asked)
        names.append(f"{fit}:{asked}")
    study = module.NullTests(
        contrasts=tuple(names), kinds=("unrelated",), copies=(1,), repeats=2, layers=(3,), n_fit=12,
        n_choose=8, nulls=19, multipliers=(0.0, 0.5), output=tmp_path / "out",
    )  # fmt: skip
    found = study.run()
    assert found["unrelated"]["1"]["label"]["n"] == 2
    one, other = (study.read(names[0], index) for index in (0, 1))
    assert len(one[0]) == 12 and len(one[1]) == 8
    assert one[1].hash != other[1].hash and not torch.equal(one[0].positive, other[0].positive)
    with pytest.raises(ValueError, match="no unrelated"):
        module.NullTests(contrasts=tuple(names[:1]), output=tmp_path)


def test_coverage_of_a_population_counts_groups(tmp_path):
    """Frames of a noun that are copies count once, so the interval still covers."""
    module = script("coverage_pretrained")
    study = module.CoveragePretrained(repeats=300, output=tmp_path)
    own = torch.randn(120, 1, generator=torch.Generator().manual_seed(0))
    found = study.covered(own.expand(-1, 4), 16, 4, share=False)
    assert found["known"] == found["n"] == 300 and 0.9 <= found["held"] / 300 <= 0.99
    asked = study.questions()
    assert len(asked) == 480 and len(set(asked.groups)) == 120
    with pytest.raises(ValueError, match="nouns"):
        module.CoveragePretrained(sizes=(5,), output=tmp_path)


def test_coverage_of_what_is_written_counts_groups(tmp_path):
    """Steering does half of what the context does; texts of a noun are copies."""
    module = script("coverage_pretrained")
    study = module.CoveragePretrained(of_texts=40, output=tmp_path)
    g = torch.Generator().manual_seed(0)
    unsteered, positive = torch.randn(60, 1, generator=g), 2 + torch.randn(60, 1, generator=g)
    negative = -2 + torch.randn(60, 1, generator=g)
    kinds = {
        "unsteered": unsteered, "positive": positive, "negative": negative,
        "steered": unsteered + 0.5 * (positive - unsteered) + 0.2 * torch.randn(60, 1, generator=g),
    }  # fmt: skip
    copied = {name: read.expand(-1, 4) for name, read in kinds.items()}
    found = study.texts_covered(copied, "written", 16, 4)
    assert found["truth"] == pytest.approx(0.5, abs=0.05)
    assert found["known"] == 40 and found["held"] >= 34
    assert study.texts_covered(copied, "reader", 16, 2)["truth"] > 0.95
    few = study.texts_covered(copied, "written", 7, 4)
    assert few["known"] == 0, "seven groups have no interval, however many texts they hold"


def test_simulated_intervals_count_what_they_say(tmp_path):
    module = script("simulated_intervals")
    study = module.SimulatedIntervals(
        quantities=("normal", "mostly_zero", "auroc_980"), groups=(8, 24), sizes=(1, 2),
        repeats=60, output=tmp_path,
    )  # fmt: skip
    found = study.run()
    assert found["normal"]["24"]["1"]["known"] == 60
    assert found["mostly_zero"]["8"]["1"]["known"] < 60, "nothing moved in some"
    for name in study.quantities:
        for one in found[name]["24"].values():
            assert one["held"] / one["known"] > 0.85
    assert flat(study.run()) == flat(found)
    assert "| AUROC of 0.98 | 2, copies |" in module.tables(found)[0]


@pytest.mark.parametrize(
    "name", ["null_tests", "simulated_intervals", "coverage_pretrained", "search_nulls"]
)
def test_the_page_holds_the_new_tables(name):
    saved = json.loads((ROOT / "docs" / "trust.json").read_text("utf-8"))
    page = (ROOT / "docs" / "trust.md").read_text("utf-8")
    for table in script(name).tables(saved[name]):
        assert table in page


def test_the_stated_type_i_error_is_the_measured_one():
    from steerlens.analyses.steerability.recommendation import MEASURED

    saved = json.loads((ROOT / "docs" / "trust.json").read_text("utf-8"))["null_tests"]
    found = [
        saved[kind][copies]["with_projected"]
        for kind in ("shuffled", "unrelated", "random")
        for copies in saved[kind]
    ]
    yes, n = (sum(one[name] for one in found) for name in ("yes", "n"))
    assert f"{yes} of {n} " in MEASURED


# Searches


def test_searches_of_nothing_run_and_go_on(tmp_path):
    module = script("search_nulls")
    study = module.SearchNulls(
        repeats=1, n_fit=16, n_choose=8, n_neutral=16, nulls=19, output=tmp_path
    )
    found = study.run()
    path = tmp_path / "repeats.jsonl"
    lines = path.read_text().splitlines()
    assert len(lines) == 3 * len(module.SEARCHES)
    assert all(0.05 <= json.loads(line)["p"] <= 1 for line in lines)
    path.write_text("\n".join(lines[:-1]) + "\n")
    assert study.run() == found
    assert path.read_text().splitlines() == lines
    (table,) = module.tables(found)
    assert table.count("| 3 |") == len(module.SEARCHES)
