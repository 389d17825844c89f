"""Tasks with exact scores: their data, their scores by hand, and what ways reach on them."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from steerlens.analyses.comparison import score_tasks as module
from steerlens.analyses.comparison.exact_task import Accuracy, ExactTask
from steerlens.analyses.comparison.making import Making
from steerlens.analyses.comparison.score_tasks import score_tasks
from steerlens.analyses.comparison.task_scores import ALONE, TaskScores
from steerlens.analyses.comparison.way_data import WayData
from steerlens.analyses.comparison.ways import FewShot
from steerlens.analyses.writing.rewriting import rewritten
from steerlens.data import ContrastPair, ContrastSet
from steerlens.directions import Direction
from steerlens.experiment import ComparisonExperiment, ExperimentError
from steerlens.experiment.exact_tasks import TASKS, exact_task
from steerlens.interventions import Add, Prompt
from steerlens.measures.equal_cost import equal_kl
from steerlens.models.model import Model
from steerlens.sites import Positions, Site
from steerlens.store.cells import Cells
from steerlens.testbed.oracle import Oracle
from steerlens.testbed.style_transfer import StyleTransfer, bleu_values
from steerlens.testbed.task_pairs import edited_fact, fact_questions, facts, star_labels, with_stars
from steerlens.testing.tiny_models import tiny_model

NEUTRAL = (
    "we like tea",
    "the cat sat",
    "they came to town",
    "he ate bread here today",
    "my old book",
)
COLOURS = ("red", "blue", "green")


@pytest.fixture(scope="module")
def model():
    return Model(tiny_model("llama"))


@pytest.fixture(scope="module")
def arm(model):
    generator = torch.Generator().manual_seed(3)
    vector = torch.randn(model.cfg.d_model, generator=generator)
    return Add(Direction(vector, Site(1)), Positions.all(), unit=1.0)


def _asked(things: str) -> ContrastSet:
    """Each thing is of the colour in its place; every question has two wrong answers."""
    pairs = []
    for k, thing in enumerate(things.split()):
        right = COLOURS[k % 3]
        for wrong in COLOURS:
            if wrong != right:
                pairs.append(ContrastPair(f"the {thing} is", f" {right}", f" {wrong}"))
    return ContrastSet("colours", tuple(pairs))


@pytest.fixture(scope="module")
def task():
    fit = _asked("cat dog bird fish man woman child friend")
    whole = tuple(
        ContrastPair("", pair.positive_text, pair.negative_text, group=pair.prompt) for pair in fit
    )
    return ExactTask(
        concept="colours",
        texts=(dataclasses.replace(fit, pairs=whole),) * 2,
        fit=(fit,) * 2,
        validation=(None,) * 2,
        calibrating=("the cat sat in the city", "we like tea and wine"),
        neutral=("they came to town now", "he ate bread here today"),
        measures=(Accuracy(_asked("soup bread cake wine tea room bed food place film")),),
    )


def test_a_question_is_right_where_it_beats_every_wrong_answer(model, arm, task):
    (measure,) = task.measures
    ids = [model.ids(f" {word}")[-1] for word in COLOURS]
    for multiplier in (0.0, 60.0):
        found = measure(model, arm, multiplier)["accuracy"]
        prompts = [pair.prompt for pair in measure.questions][::2]
        with arm.attach(model, multiplier):
            best = model.logits(model.tokens(prompts))[:, -1, ids].argmax(-1)
        assert found.tolist() == [float(b == k % 3) for k, b in enumerate(best.tolist())]
    assert len(measure.scores[0].groups) == 10


def test_rewriting_in_rounds_is_going_from_left_to_right(model, arm):
    texts = ["the cat sat in the big city", "we like tea"]
    assert rewritten(model, arm, texts, 0.0) == [texts]
    special = model.special_ids
    wanted: dict[float, list[str]] = {}
    for limit in (0.2, 0.8):
        wanted[limit] = []
        for text in texts:
            source = model.ids(text)
            plain = model.logits(model.tokens([text]))[0].log_softmax(-1)
            own = source[:1]
            for t in range(1, len(source)):
                so_far = model.batch(torch.tensor([[*own, *source[t:]]]))
                with arm.attach(model, 60.0):
                    steered = model.logits(so_far)[0, t - 1].log_softmax(-1)
                if steered[source[t]] - plain[t - 1, source[t]] < -limit:
                    steered[special] = -torch.inf
                    own = [*own, int(steered.argmax())]
                else:
                    own = [*own, source[t]]
            wanted[limit].append(model.text(own[1:]))
    assert rewritten(model, arm, texts, 60.0, wanted) == list(wanted.values())
    assert wanted[0.2] != wanted[0.8] != texts
    with pytest.raises(ValueError, match="nothing to rewrite"):
        rewritten(model, arm, [])


@pytest.fixture(scope="module")
def scores(model, task):
    making = Making(site=Site(1), steps=3, batch=4)
    return score_tasks(model, ("DiffMean", "vector"), [task], making, budget=0.05, progress=False)


def test_ways_are_scored_at_the_budget_and_as_trained(model, task, scores, tmp_path):
    one = scores.numbers["colours"]
    read = module.make_way(model, module.way_named("DiffMean"), "", task, 0, Making(site=Site(1)))
    arm, (measure,) = read[0], task.measures
    m = equal_kl(model, {"x": arm}, task.calibrating, kl=0.05, progress=False)[0]
    assert float(one.multiplier[0, 0]) == pytest.approx(m, rel=0.05)
    for k, strength in enumerate((float(one.multiplier[0, 0]), 1.0)):
        assert torch.equal(
            one.scores["accuracy"][0, 0, k], measure(model, arm, strength)["accuracy"]
        )
    assert torch.equal(one.alone["accuracy"], measure(model, arm, 0.0)["accuracy"])
    value = scores.interval("colours", "accuracy", ALONE)
    assert value.value == pytest.approx(float(one.alone["accuracy"].mean()))
    assert 0 <= value.low < value.value or value.value == 0
    again = TaskScores.load(scores.save(tmp_path))
    assert again.to_frame().equals(scores.to_frame())
    assert len(scores.to_frame()) == 3 * 2  # rows, and where they are scored
    assert "colours, accuracy" in scores.summary()
    for message, call in (
        ("was not scored", lambda: scores.bounds("tea", "accuracy")),
        ("has no score", lambda: scores.bounds("colours", "tea")),
        ("neither", lambda: scores.bounds("colours", "accuracy", "here")),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_a_way_without_such_a_cost_is_unknown_there_and_known_as_trained(
    model, task, tmp_path, monkeypatch
):
    weak = lambda data: Add(Direction(torch.ones(model.cfg.d_model), Site(1)), unit=1e-6)  # noqa: E731
    cells = Cells(tmp_path, progress=False)
    making = Making(site=Site(1))
    found = score_tasks(model, {"weak": weak}, [task], making, cells=cells, progress=False)
    unknown = found.interval("colours", "accuracy", "weak", "budget")
    assert unknown.value != unknown.value
    known = found.interval("colours", "accuracy", "weak")
    assert known == found.interval("colours", "accuracy", ALONE)
    section = found.section({})
    assert section.parts[0].title == "The task colours"

    monkeypatch.setattr(module, "_scored", None)  # a finished way is not made again
    again = score_tasks(model, {"weak": weak}, [task], making, cells=cells, progress=False)
    assert again.to_frame().equals(found.to_frame())


def test_a_prompt_starts_with_the_first_text_that_fits(model):
    long = " ".join(["the cat sat in the city"] * 5)
    texts = [f"{long} and we {word} tea ." for word in ("like", "love")]
    texts += ["we adore the big city .", "we enjoy old wine ."]
    pairs = [ContrastPair("", text, text.replace("we", "they")) for text in texts]
    fit = _asked("cat dog")
    made = FewShot(2)(
        WayData(
            model=model, texts=ContrastSet("texts", tuple(pairs)), fit=fit, validation=None,
            site=Site(1),
        )
    )  # fmt: skip
    assert isinstance(made, Prompt) and made.text == "we adore the big city . we enjoy old wine . "


# The reference world ------------------------------------------------------------------------------


def test_labels_follow_the_sentiment_and_nothing_else():
    oracle, labels = Oracle(), star_labels(20, new=True)
    reviews = list(dict.fromkeys(pair.prompt for pair in labels))
    assert len(reviews) == 20 and len(labels) == 100
    poles = []
    for review in reviews:
        text = review.removesuffix(" we award it").removesuffix(" we slap it")
        told = {one.sentiment for one in oracle.read(text)} - {None}
        assert len(told) == 1
        poles.append(told.pop())
    right = {pair.prompt: pair.positive for pair in labels}
    assert [right[review] == " monday" for review in reviews] == poles == [True, False] * 10
    whole = with_stars(star_labels(4))
    assert len(whole) == 4 and whole[0].positive.endswith(" five stars .")
    with pytest.raises(ValueError, match="even number"):
        star_labels(3)


def test_facts_have_the_values_of_the_grammar():
    truthful = Oracle(given={"truth": True})
    for fact in facts():
        asked = truthful.next_token_probs(f"<bos> {fact.prompt('plain')}")
        assert max(asked, key=asked.__getitem__) == fact.value, fact.name
        assert set(fact.wrong) >= set(asked) - {fact.value, "not", "n't"}
    new = edited_fact()
    assert new.value != facts()[0].value and facts()[0].value in new.wrong
    oracle = Oracle()
    misled = fact_questions(facts(), 2, after="untruthful")
    for prompt in {pair.prompt for pair in misled}:
        read = oracle.read(prompt)[:-1]
        assert False in [one.truth for one in read] and True not in [one.truth for one in read]
    assert len({pair.group for pair in misled}) == 16


def test_copying_flips_nothing_and_keeps_all():
    model = Model.load("reviews")
    transfer = StyleTransfer(n=6)
    arm = Add(Direction(torch.randn(model.cfg.d_model), Site(5)), Positions.all(), unit=1.0)
    copied = transfer(model, arm, 0.0)
    assert copied["flipped"].sum() == 0 and copied["kept"].mean() == 1
    source, wanted = transfer._pairs[0]
    assert transfer._read(wanted.text, source, wanted) == (1.0, 1.0)
    broken = " ".join(["soup"] * len(source.text.split()))
    assert transfer._read(broken, source, wanted) == (0.0, 0.0)


def test_bleu_of_documents_has_the_mean_of_all():
    sacrebleu = pytest.importorskip("sacrebleu")
    texts = ["the soup was tasty .", "we met the cook on monday .", "the bed was clean ."]
    wanted = ["the soup was bland .", "we met the cook on monday .", "the room was clean ."]
    found = bleu_values(texts, wanted)
    whole = sacrebleu.corpus_bleu(texts, [wanted], tokenize="none").score
    assert float(found.mean()) == pytest.approx(whole, rel=1e-5)


# Names --------------------------------------------------------------------------------------------


def test_tasks_by_name(tmp_path):
    stated = ComparisonExperiment(
        n_fit=20, n_report=8, n_ideal=8, n_neutral=8, written=2, others=(), repeats=2
    )
    model = Model.load("reviews")
    for name in TASKS:
        made = exact_task(name, stated, model)
        assert made.concept == name and made.repeats == 2
        for own, held in zip(made.fit, made.validation, strict=True):
            assert held is not None and set(own.groups).isdisjoint(held.groups), name
        for part in made.measures:
            if isinstance(part, Accuracy):
                asked = {pair.prompt for pair in part.questions}
                assert all(asked.isdisjoint(p.prompt for p in own) for own in made.fit), name
    folder = tmp_path / "my_labels"
    with pytest.raises(ExperimentError, match="There is no task"):
        exact_task(str(folder), stated, model)
    _asked("cat dog bird fish man woman child friend").save(folder / "fit.jsonl")
    with pytest.raises(ExperimentError, match="nothing can be scored"):
        exact_task(str(folder), stated, model)
    _asked("soup bread cake").save(folder / "in_other_words.jsonl")
    with pytest.raises(ExperimentError, match="needs ordinary texts"):
        exact_task(str(folder), stated, model)
    (tmp_path / "neutral.txt").write_text("\n".join(NEUTRAL))
    made = exact_task(
        str(folder), dataclasses.replace(stated, neutral=str(tmp_path / "neutral.txt")), model
    )
    assert made.concept == "my labels" and made.scores[0].name == "in other words"
    with pytest.raises(ExperimentError, match="names one twice"):
        dataclasses.replace(stated, tasks=("facts", "facts"))
