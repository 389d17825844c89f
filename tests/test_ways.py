"""Ways side by side: their numbers by hand, what they leave, resumed runs, and what is recommended."""

from __future__ import annotations

import dataclasses
import json
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from steerlens import plots
from steerlens.analyses.comparison import compare_ways as module
from steerlens.analyses.comparison.compare_ways import compare_ways
from steerlens.analyses.comparison.concept_numbers import Writings
from steerlens.analyses.comparison.crossed import as_ratio, crossed_interval
from steerlens.analyses.comparison.making import Making
from steerlens.analyses.comparison.operator_ways import OPERATORS, unmet
from steerlens.analyses.comparison.share_of_full import verdict_on
from steerlens.analyses.comparison.verdicts import Constraints
from steerlens.analyses.comparison.way_comparison import WayComparison
from steerlens.analyses.comparison.way_data import WayData, WayError
from steerlens.analyses.comparison.way_section import left_alone
from steerlens.analyses.comparison.ways import way_named
from steerlens.analyses.nearness.measure_nearness import target_share
from steerlens.analyses.ratios import ratio_of_means
from steerlens.data import ContrastPair, ContrastSet
from steerlens.directions.methods import DiffMean
from steerlens.experiment import ComparisonExperiment, ExperimentError
from steerlens.interventions import Add
from steerlens.measures.divergence import divergence
from steerlens.measures.reading import activations
from steerlens.measures.sweep import sweep
from steerlens.measures.switch_off import switched_off
from steerlens.models.model import Model
from steerlens.operators import triggers
from steerlens.report.numbers import format_signed
from steerlens.results import ResultError
from steerlens.sites import Positions, Site
from steerlens.testbed.pole_readers import PoleReader, WellFormedReader
from tests.planted_files import write_planted

READ = ("steered", "unsteered", "in_context")
WAYS = ("DiffMean", "prompt(1)", "vector", "LoRA", "tests.test_ways:careless")


@contextmanager
def _scratched(model, delta, multiplier):
    weight = model.wrapped.embed.W_E
    with torch.no_grad():
        weight += multiplier * delta
    try:
        yield
    finally:
        with torch.no_grad():
            weight -= 0.99 * multiplier * delta


class Careless:
    """A change of weights that does not take all of itself back."""

    def __init__(self, model):
        weight = model.wrapped.embed.W_E
        generator = torch.Generator().manual_seed(0)
        self.delta = torch.randn(weight.shape, generator=generator) * 0.037

    def attach(self, model, multiplier):
        return _scratched(model, self.delta, multiplier)


def careless(data):
    return Careless(data.model)


@pytest.fixture(scope="module")
def experiment(planted, tmp_path_factory):
    root = write_planted(planted, tmp_path_factory.mktemp("planted"))
    words = list(Model.load(root / "model").tokenizer.get_vocab())
    texts = [pair.positive for pair in ContrastSet.load(root / "contexts.jsonl")]
    (root / "neutral.txt").write_text("\n".join(texts))
    (root / "words.json").write_text(
        json.dumps({"positive": words[4:20], "negative": words[30:40]})
    )
    return ComparisonExperiment(
        model=str(root / "model"),
        contrast=str(root / "contexts.jsonl"),
        training=str(root / "questions.jsonl"),
        words=str(root / "words.json"),
        neutral=str(root / "neutral.txt"),
        ways=WAYS,
        layer=1,
        steps=4,
        batch=4,
        n_fit=16,
        n_report=10,
        n_neutral=16,
        written=3,
        new_tokens=3,
        factors=(0.0, 0.5, 1.0),
    )


@pytest.fixture(scope="module")
def run(experiment, tmp_path_factory):
    return experiment.run(tmp_path_factory.mktemp("results"), progress=False)


@pytest.fixture(scope="module")
def found(run):
    return run.ways


def test_numbers_are_those_of_the_way_by_hand(experiment, found):
    model = experiment.load_model()
    task = experiment.load(model).tasks[0]
    read = activations(model, task.texts[0], [Site(1)], progress=False)
    edit = Add(read.direction(Site(1), method=DiffMean()), Positions.all(), unit="direction")
    way, one = found.find("DiffMean"), found.each[0]
    m = float(one.budget_multiplier[way, 0])
    cost = divergence(model, task.calibrating, [edit], [0.0, m], progress=False)[0, 1]
    assert float(cost.mean()) == pytest.approx(experiment.budget, rel=0.021)
    reported = divergence(model, task.neutral, [edit], [0.0, m], progress=False)[0, 1]
    torch.testing.assert_close(one.kl[way, 0, 2], reported, rtol=1e-3, atol=1e-6)
    odds = sweep(model, task.report, [edit], [0.0, m], progress=False).log_odds[0]
    torch.testing.assert_close(one.gain[way, 0, 2], odds[1] - odds[0], rtol=1e-3, atol=1e-4)
    assert found.interval("gain", "DiffMean").value == pytest.approx(
        float((odds[1] - odds[0]).mean()), rel=1e-3
    )


def test_what_a_way_leaves_in_a_text_is_that_of_the_way_by_hand(experiment, found):
    model = experiment.load_model()
    task = experiment.load(model).tasks[0]
    read = activations(model, task.texts[0], [Site(1)], progress=False)
    edit = Add(read.direction(Site(1), method=DiffMean()), Positions.all(), unit="direction")
    way, one = found.find("DiffMean"), found.each[0]
    new, ordinary = experiment.new_tokens, list(task.neutral)
    then = [" ".join([*ordinary[i:], *ordinary]) for i in range(len(task.prompts))]
    mine = switched_off(
        model, edit, task.prompts, float(one.budget_multiplier[way, 0]), then=then, steered=new,
        after=new, temperature=0.0,
    )  # fmt: skip
    for name in ("kept", "recomputed", "in_cache"):
        torch.testing.assert_close(
            getattr(one.afterwards, name)[way, 0], getattr(mine, name), rtol=1e-3, atol=1e-6
        )
    assert found.interval("in cache", "DiffMean").value == pytest.approx(
        float(mine.in_cache.mean()), rel=1e-3
    )
    assert float(found.interval("in cache", "prompt(1)").value) == 0
    bound = found.interval("in cache", "DiffMean").value / 2
    excluded = found.recommend(in_cache=bound).excluded
    assert "nats per token left in the cache, and at most" in excluded["DiffMean"]
    assert "prompt(1)" not in excluded
    assert "tokens until a tenth" in str(found.recommend(fades_within=-1).excluded["DiffMean"])
    assert len(found.plot_afterwards().data) == 3 * len(found.ways)


def test_a_way_that_leaves_something_behind_is_found(found):
    left = dict(zip(found.ways, found.criterion("left")[0].tolist(), strict=True))
    assert left.pop("tests.test_ways:careless") > 0
    assert set(left.values()) == {0.0}
    assert bool(found.criterion("token")[0].isfinite().all())
    merged = dict(zip(found.ways, found.criterion("merged")[0].tolist(), strict=True))
    assert merged["LoRA"] > 0 and merged["vector"] != merged["vector"]  # NaN: it has no weights


def test_what_ways_are_is_read_from_them(found):
    trained = dict(zip(found.ways, found.trained.tolist(), strict=True))
    weights = dict(zip(found.ways, found.changes_weights.tolist(), strict=True))
    assert [name for name in WAYS if trained[name]] == ["vector", "LoRA"]
    assert [name for name in WAYS if weights[name]] == ["LoRA"]
    i, k = found.find("vector"), found.find("prompt(1)")
    assert int(found.stored[i]) == 4 * int(found.parameters[i]) > 0
    assert int(found.parameters[k]) == 0 and int(found.stored[k]) > 0


@pytest.fixture(scope="module")
def way_data(experiment):
    model = experiment.load_model()
    task = experiment.load(model).tasks[0]
    return WayData(
        model=model, texts=task.texts[0], fit=task.fit[0], validation=None, site=Site(1), steps=2,
        batch=4, progress=False,
    )  # fmt: skip


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_is_made_of_what_every_way_is_made_of(way_data, name):
    arm, model = way_named(name)(way_data), way_data.model
    texts = [way_data.fit[0].prompt, *(p.prompt + p.negative for p in way_data.texts[:4])]
    batch = model.tokens(texts)
    before = model.logits(batch)
    with arm.attach(model, -4.0):
        assert not torch.equal(model.logits(batch), before)
    assert torch.equal(model.logits(batch), before)


def test_a_condition_of_a_way_holds_until_a_text_is_at_the_positive_pole(way_data):
    bare = tuple(
        ContrastPair("", asked.prompt, pair.prompt + pair.positive, group=pair.group)
        for asked, pair in zip(way_data.fit, way_data.texts, strict=False)
    )
    found = triggers(way_data.model, unmet(way_data), ContrastSet("bare", bare))
    assert found.true.value > found.false.value + 0.5


def test_ways_that_leave_texts_alone_are_named():
    moved = torch.tensor([[1.0, 2.0], [0.0, 3.0], [torch.nan, torch.nan]])
    told = left_alone(("a", "b", "c"), moved, moved.abs())
    assert "`b` on 50% of the questions and 50% of the ordinary texts" in told
    assert (
        "`a`" not in told and "`c`" not in told and left_alone(("a",), moved[:1], moved[:1]) == ""
    )


def test_features_need_an_sae_of_the_model(way_data):
    with pytest.raises(WayError, match="FSRL needs an SAE of"):
        way_named("FSRL, SimPO")(way_data)


def test_it_says_what_it_found_on_its_page(run, found):
    page = run.page.read_text()
    for words in ("Ways of adapting the model, at equal cost", "judgements, not measurements"):
        assert words in page
    assert found.ranked_by == "gain" and "share to ideal" not in page
    assert "What each way writes" in page and found.sample_prompts[0][:12] in page
    for title in (
        "What it costs",
        "What it leaves behind",
        "All criteria at once",
        "What rules a way",
    ):
        assert title in page
    answer = found.section({}).answer
    assert len(answer) == 2 and "leaves most in them" in answer[1]
    assert ("change no weights" in answer[1]) == bool(found.changes_weights[found.ranking[0]])
    assert "careless" in run.summary()
    with pytest.raises(ResultError, match="not known on this model"):
        found.plot_nearness()
    assert {"gain_low", "parameters", "trained"} <= set(found.to_frame().columns)


def test_the_answer_names_a_way_that_other_models_can_have_too(found):
    """One that was trained on the ideal itself is no choice elsewhere."""
    first, second = (found.ways[i] for i in found.ranking[:2])
    named = {first: "adapter, ideal", second: "LoRA, LM"}
    of_ideal = dataclasses.replace(found, ways=tuple(named.get(way, way) for way in found.ways))
    told = " ".join(of_ideal.section({}).answer)
    assert "**adapter, ideal** has the highest" in told
    assert "were not trained on the ideal itself" in told and "**LoRA, LM** comes first" in told


def test_what_is_not_known_is_not_told_apart(found):
    """With fewer groups than an interval needs, no way is said to be better than another."""
    (one,) = found.each
    few = dataclasses.replace(one, question_groups=("a",) * len(one.question_groups))
    second = found.ways[found.ranking[1]]
    unknown = dataclasses.replace(found, numbers={found.concepts[0]: few})
    assert f"not told apart from `{second}`" in unknown.section({}).answer[0]


@pytest.mark.parametrize(
    ("reach", "cheap", "said"),
    [
        ([], [], "no other way reaches 90% of full fine-tuning."),
        (["a"], [], "`a` alone reaches 90% of full fine-tuning, at 5% or more of its seconds."),
        (["a"], ["a"], "at under 5%"),
        (
            ["a", "b"],
            [],
            "`a`, `b` reach 90% of full fine-tuning, none at under 5% of its seconds.",
        ),
        (["a", "b"], ["b"], "`b` at under 5%"),
    ],
)
def test_the_verdict_on_a_share_of_full_fine_tuning_is_a_sentence(reach, cheap, said):
    assert said in verdict_on(reach, cheap)


def test_concepts_with_readers_of_their_own_are_read_together(found):
    (one,) = found.each
    own = one.writings
    renamed = Writings(*({f"{k} of b": v for k, v in getattr(own, f).items()} for f in READ))
    moved = dataclasses.replace(renamed, steered={k: v + 2 for k, v in renamed.steered.items()})
    both = dataclasses.replace(
        found, concepts=("a", "b"),
        numbers={"a": one, "b": dataclasses.replace(one, writings=moved)},
    )  # fmt: skip
    torch.testing.assert_close(
        both.criterion("written")[0], found.criterion("written")[0] + 1, equal_nan=True
    )
    assert any(
        getattr(block, "line", "") == "Concept by concept" for block in both.section({}).blocks
    )
    assert torch.equal(both.on("a").criterion("gain")[0], found.criterion("gain")[0])
    with pytest.raises(ValueError, match="'c' was not compared on. Use one of a, b"):
        both.on("c")


def test_a_share_of_another_way_is_a_ratio_of_means_over_concepts(found):
    """A concept on which the other way does next to nothing does not decide the share."""
    (one,) = found.each
    twice = dataclasses.replace(
        one, gain=one.gain * torch.tensor([2.0, 1, 1, 1, 1])[:, None, None, None]
    )
    both = dataclasses.replace(found, concepts=("a", "b"), numbers={"a": one, "b": twice})
    to = found.ways[2]
    gain = both.criterion("gain")[0]
    torch.testing.assert_close(both.relative("gain", to)[0], gain / gain[2])


def test_a_share_of_what_contexts_change_is_a_ratio_of_means_over_concepts(found):
    """Contexts that change next to nothing on one concept do not decide the share."""
    (one,) = found.each
    (name,) = one.writings.steered
    before = one.writings.unsteered[name]

    def read(context: float):
        own = dataclasses.replace(one.writings, in_context={name: before + context})
        return dataclasses.replace(one, writings=own)

    both = dataclasses.replace(
        found, concepts=("a", "b"), numbers={"a": read(1.0), "b": read(1e-6)}
    )
    change = both.criterion("written")[0]
    torch.testing.assert_close(
        both.criterion("written share")[0], change / 0.5, equal_nan=True, rtol=1e-4, atol=1e-5
    )


def test_it_reads_back_to_the_same_numbers(run, found):
    again = WayComparison.load(run.folder)
    assert again.to_frame().equals(found.to_frame())
    assert str(again.recommend(weights=False)) == str(found.recommend(weights=False))


def test_a_killed_run_makes_no_finished_way_again(experiment, found, tmp_path, monkeypatch):
    whole, asked = module.make_way, []

    def killed(model, way, name, *arguments):
        asked.append(name)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return whole(model, way, name, *arguments)

    experiment = dataclasses.replace(experiment, ways=WAYS[:3])
    monkeypatch.setattr(module, "make_way", killed)
    with pytest.raises(KeyboardInterrupt):
        experiment.run(tmp_path, progress=False)
    resumed = experiment.run(tmp_path, progress=False).ways
    assert asked == [*WAYS[:3], WAYS[2]]
    for concept, one in found.numbers.items():
        for name in ("gain", "kl", "utility", "budget_multiplier", "left"):
            # Seconds alone depend on the machine.
            torch.testing.assert_close(
                getattr(resumed.numbers[concept], name), getattr(one, name)[:3], rtol=0, atol=0,
                equal_nan=True,
            )  # fmt: skip
        left = resumed.numbers[concept].afterwards
        assert left is not None and torch.equal(left.kept, one.afterwards.kept[:3])


def test_what_is_left_in_texts_is_measured_of_a_run_that_was_begun_without_it(
    experiment, found, tmp_path
):
    """Its finished ways stay as they are, and are made once more for what they lack."""
    few = dataclasses.replace(experiment, ways=WAYS[:1])
    cells = tmp_path / few.run(tmp_path, progress=False).folder.name / "cells"
    done = {path: path.read_bytes() for path in cells.rglob("*") if path.is_file()}
    assert any("afterwards" in path.parts for path in done)
    for path in done:
        if "afterwards" in path.parts:
            path.unlink()
    for path in cells.parent.glob("ways.*"):
        path.unlink()
    (cells.parent / "finished.json").unlink(missing_ok=True)
    few.run(tmp_path, progress=False)
    for path, content in done.items():
        assert path.read_bytes() == content, path


# Figures ------------------------------------------------------------------------------------------


def test_multipliers_far_apart_and_values_far_out_are_drawn_readably():
    whole = ([0.0, 0.2, -3.0, -9.0], [0.0] * 4, [0.0] * 4)
    figure: Any = plots.nearness_curves(
        {"one": whole}, multipliers=[0.0, 0.125, 1.0, 8.0], title="x"
    )
    line, axis = figure.data[0], figure.layout.xaxis
    assert tuple(axis.ticktext) == ("0", "0.125", "1", "8") and tuple(axis.tickvals) == (0, 1, 2, 3)
    assert tuple(line.y) == (0.0, 0.2, -1.0, None) and "triangle" in line.marker.symbol[2]
    assert "−3" in line.hovertext[2]
    value = [0.1, 0.2, 0.3, 13.0]
    dots: Any = plots.criteria_dots(
        {"time": ((value, [torch.nan] * 4, [torch.nan] * 4), "more time", False, "less")},
        rows=["a", "b", "c", "d"], title="x",
    )  # fmt: skip
    drawn = dict(zip(dots.data[0].text, dots.data[0].x, strict=True))
    assert max(drawn.values()) < 0.4 and "13" in drawn
    # A dot within the others' whiskers is drawn where it is.
    bands = ([1.6, 4.4, 4.5], [0.1, 2.6, 2.6], [3.0, 6.1, 6.5])
    dots = plots.criteria_dots(
        {"gain": (bands, "nats", False, "more")}, rows=["a", "b", "c"], title="x"
    )
    assert sorted(dots.data[0].x) == [1.6, 4.4, 4.5] and not any(dots.data[0].text)


# The reference world ------------------------------------------------------------------------------


def test_nearness_to_the_ideal_is_that_of_the_best_multiplier_on_other_texts():
    asked = ComparisonExperiment(
        model="reviews", contrast="reviews/register", n_fit=20, n_report=8, n_ideal=10,
        n_neutral=8, written=3, new_tokens=8, repeats=2, others=(),
    )  # fmt: skip
    model = asked.load_model()
    (task,) = asked.load(model).tasks
    assert task.choosing is not None and task.reached is not None and task.target is not None
    known = {pair.prompt for part in (task.report, task.choosing, task.reached) for pair in part}
    for own in (*task.fit, *filter(None, task.validation)):
        assert known.isdisjoint(pair.prompt for pair in own)
    assert {p.prompt for p in task.choosing}.isdisjoint(p.prompt for p in task.reached)
    assert task.fit[0].hash != task.fit[1].hash
    found = compare_ways(
        model, ("DiffMean",), [task], Making(site=Site(5)), factors=(0.0, 1.0),
        multipliers=(0.0, 0.5, 1.0), progress=False,
    )  # fmt: skip
    near = found.each[0].nearness
    assert near is not None and found.ranked_by == "share" and found.repeats == 2
    read = activations(model, task.texts[1], [Site(5)], progress=False)
    arm = Add(read.direction(Site(5), method=DiffMean()), Positions.all(), unit="direction")
    chosen, reported = (
        target_share(model, {"x": arm}, task.target, part, (0.0, 0.5, 1.0), progress=False)
        for part in (task.choosing, task.reached)
    )
    best = chosen.best("x")[0]
    assert float(near.best[0, 1]) == best
    k = [0.0, 0.5, 1.0].index(best)
    torch.testing.assert_close(near.at_best[0, 1], reported.kl[0, k], rtol=1e-3, atol=1e-5)
    assert found.readers == ("register of the oracle", "well-formed")
    assert len(found.plot_nearness().data) == 2  # the way, and the ideal


def test_readers_count_the_clauses_that_a_text_finishes():
    read = PoleReader("sentiment")
    prompts = ["the soup was", "the soup was tasty .", "the soup was"]
    texts = [" tasty . the bread was bland .", " the bread was bland . the tea", " not"]
    assert read(prompts, texts) == [0.0, -1.0, 0.0]
    assert WellFormedReader()(prompts, [" soup . the bread was bland .", "", " not"]) == [0.5, 1, 1]


def test_figures_refuse_what_cannot_be_drawn():
    flat = ([0.0, 0.0],) * 3
    with pytest.raises(ValueError, match="No way has a point"):
        plots.way_curves({"x": ([0.0, float("nan")], flat, flat)}, budget=0.1, title="")
    for draw in (
        lambda: plots.way_curves({}, budget=0.1, title=""),
        lambda: plots.criteria_dots({}, rows=["x"], title=""),
        lambda: plots.nearness_curves({}, multipliers=[0.0, 1.0], title=""),
        lambda: plots.decision_matrix({}, rows=["x"], title=""),
        lambda: plots.fading_curves({}, title=""),
    ):
        with pytest.raises(ValueError, match="is empty"):
            draw()


# Recommending -------------------------------------------------------------------------------------


def test_an_exclusion_says_its_number(found):
    made = found.recommend(weights=False, prompts=False)
    assert set(made.excluded) == {"LoRA", "prompt(1)", "tests.test_ways:careless"}
    assert "numbers trained" in made.excluded["LoRA"]
    assert made.first in ("DiffMean", "vector") and made.by == "gain"
    assert found.recommend(gradients=False).excluded["vector"].startswith("it is trained (")
    bytes_of = int(found.stored[found.find("vector")])
    small = found.recommend(stored=bytes_of - 1)
    assert f"{bytes_of:,} bytes, and at most" in small.excluded["vector"]
    left = int(found.criterion("left")[0][found.find("tests.test_ways:careless")])
    exact = found.recommend(reversible=True)
    assert f"{left} logits and weights differ" in exact.excluded["tests.test_ways:careless"]
    assert "LoRA" not in exact.excluded
    assert "not restored" in found.recommend(reversible_in_place=True).excluded["LoRA"]
    assert found.recommend(pairs=3).first is None
    best = found.recommend()
    values = [value.value for value in best.values]
    assert values == sorted(values, reverse=True) and not best.excluded


def test_a_bound_on_what_was_not_measured_is_refused(found):
    with pytest.raises(ValueError, match="'well-formed' was not measured"):
        found.recommend(Constraints(well_formed=0.9))
    with pytest.raises(ValueError, match="has no number for each example"):
        found.relative("seconds", "LoRA")
    with pytest.raises(ValueError, match="was not compared"):
        found.find("LoReFT")


def test_a_bound_inside_an_interval_is_unsure(found):
    low, high = (float(part[found.find("vector")]) for part in found.criterion("utility")[1:])
    value = found.interval("utility", "vector").value
    made = found.recommend(utility=(low + value) / 2)
    assert "vector" in made.unsure and "vector" not in made.excluded
    assert "vector" in found.recommend(utility=high + 1.0).excluded


def test_every_constraint_is_judged_as_recommend_filters_by_it(found):
    judged = found.verdicts(weights=False, overhead=0.0, reversible_in_place=True, utility=0.0)
    for field, each in judged.items():
        alone = found.recommend(
            **{field: {"weights": False, "reversible_in_place": True}.get(field, 0.0)}
        )
        for way, verdict in zip(found.ways, each, strict=True):
            assert (verdict.outcome == "fails") == (way in alone.excluded), (field, way)
            if verdict.outcome == "fails":
                assert alone.excluded[way] == verdict.why
    cells: Any = found.plot_decisions(weights=False, utility=0.0)
    order = [found.ways[i] for i in found.ranking]
    z = {way: row for way, row in zip(reversed(order), cells.data[0].z, strict=True)}
    assert z["LoRA"][0] == 0 and z["vector"][0] == 2
    usual = found.verdicts()
    assert "well_formed" not in usual and {"weights", "fades_within", "reversible"} <= set(usual)
    with pytest.raises(ValueError, match="'well-formed' was not measured"):
        found.verdicts(well_formed=0.9)


def test_a_radar_has_stated_scales_gaps_and_no_area(found):
    drawn: Any = found.plot_radar()
    lines = {trace.name: trace for trace in drawn.data if trace.mode == "lines+markers"}
    assert list(lines) == [found.ways[i] for i in found.ranking]
    assert all(trace.fill in (None, "none") for trace in drawn.data)
    labels = drawn.layout.polar.angularaxis.ticktext
    k = next(k for k, label in enumerate(labels) if "gain" in label)
    gains = found.criterion("gain")[0]
    low, high = min(0.0, float(gains.min())), max(0.0, float(gains.max()))
    assert f"{format_signed(low)} → {format_signed(high)} nats" in labels[k]
    for i, way in enumerate(found.ways):
        assert lines[way].r[k] == pytest.approx((float(gains[i]) - low) / (high - low), abs=1e-6)
    spoke = plots.Spoke(([1.0, float("nan")],) * 3, "nats", False, "more", ("0", "1"), (0.0, 1.0))
    gapped: Any = plots.criteria_radar(dict.fromkeys("abc", spoke), rows=["x", "y"], title="")
    by_name = {trace.name: trace for trace in gapped.data}
    assert list(by_name["y"].r) == [None] * 4 and list(by_name["y, not measured"].text) == ["–"] * 3
    with pytest.raises(ValueError, match="at least 3"):
        plots.criteria_radar({"a": spoke}, rows=["x", "y"], title="")
    with pytest.raises(ValueError, match="nothing can be told apart"):
        flat = spoke._replace(ends=(0.0, 0.0))
        plots.criteria_radar(dict.fromkeys("abc", flat), rows=["x", "y"], title="")


# Statistics ---------------------------------------------------------------------------------------


def test_one_repetition_has_the_interval_of_groups():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(3, 1, 40, generator=generator)
    groups = torch.arange(40) // 2
    value, low, high = crossed_interval([values], [groups])
    means = values[:, 0].view(3, 20, 2).mean(-1)
    error = means.std(-1) / 20**0.5
    torch.testing.assert_close(value, means.mean(-1))
    torch.testing.assert_close(high - low, 2 * 2.093 * error, rtol=1e-3, atol=0)


def test_intervals_cover_over_examples_and_repetitions():
    """Crossed effects of both: intervals over examples alone would cover far less often."""
    generator = torch.Generator().manual_seed(1)
    rows, alone = [], []
    for _ in range(200):
        x = torch.randn(1, 30, generator=generator) + 0.7 * torch.randn(4, 1, generator=generator)
        x = x + 0.5 * torch.randn(4, 30, generator=generator)
        _, low, high = crossed_interval([x], [None])
        rows.append(bool(low <= 0 <= high))
        _, low, high = crossed_interval([x.mean(0, keepdim=True)], [None])
        alone.append(bool(low <= 0 <= high))
    assert sum(rows) / 200 > 0.91 and sum(alone) / 200 < 0.8


def test_few_groups_have_no_interval():
    value, low, _ = crossed_interval([torch.ones(2, 7)], [None])
    assert float(value) == 1 and bool(low.isnan())


def test_a_ratio_varies_as_fieller_says():
    generator = torch.Generator().manual_seed(2)
    other = 3 + torch.randn(1, 60, generator=generator)
    one = 0.6 * other + 0.3 * torch.randn(1, 60, generator=generator)
    mine = crossed_interval([as_ratio(one, other)], [None])
    exact = ratio_of_means(one, other, matched=True)
    for a, b in zip(mine, exact, strict=True):
        torch.testing.assert_close(a, b[0], rtol=0.01, atol=0)
    assert torch.equal(as_ratio(other, other), torch.ones_like(other))


# What is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("LoRRA", "There is no way 'LoRRA'"),
        ("vector, SLIT", "no objective 'SLIT'"),
        ("nowhere:way", "cannot be made"),
        ("DiffMean(x=1)", "x"),
        ("math:pi", "cannot be called"),
    ],
)
def test_ways_that_there_are_not_are_refused(name, said):
    with pytest.raises(WayError, match=said):
        way_named(name)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"factors": (0.0, 0.5)}, "lacks 1"),
        ({"multipliers": (0.5, 1.0)}, "lacks 0"),
        ({"rates": ()}, "multiples above 0"),
        ({"ways": ("vector", "vector")}, "names none, or one twice"),
        ({"ways": ("steer",)}, "There is no way 'steer'"),
        ({"also": ("reviews/truth",)}, "in the reference world alone"),
        ({"repeats": 0}, "repeats=0 is too small"),
    ],
)
def test_fields_that_cannot_work_are_refused_at_once(experiment, change, said):
    with pytest.raises(ExperimentError, match=said):
        dataclasses.replace(experiment, **change)


def test_data_that_cannot_work_are_refused_before_anything_is_written(experiment, tmp_path):
    for change, said in (
        ({"training": None}, "texts without a prompt"),
        ({"words": "nowhere.json"}, "words='nowhere.json' cannot be read"),
        ({"neutral": "nowhere.txt"}, "neutral='nowhere.txt' cannot be read"),
    ):
        with pytest.raises(ExperimentError, match=said):
            dataclasses.replace(experiment, **change).run(tmp_path, progress=False)
    with pytest.raises(WayError, match="vector, ideal: The objective 'ideal' needs"):
        ideal = dataclasses.replace(experiment, ways=("vector, ideal",))
        ideal.run(tmp_path, progress=False)
    assert not [one for one in tmp_path.iterdir() if not one.name.startswith("ways-")]


def test_ways_that_make_no_intervention_are_refused(experiment):
    model = experiment.load_model()
    task = experiment.load(model).tasks[0]
    with pytest.raises(WayError, match="is not an intervention"):
        compare_ways(model, {"none": lambda data: 3}, [task], Making(site=Site(1)), progress=False)
    with pytest.raises(ValueError, match="nothing to compare"):
        compare_ways(model, {}, [task], Making(site=Site(1)), progress=False)
