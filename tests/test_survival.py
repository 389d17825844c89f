"""Long texts under steering: what is written, what sets the limits, and what the result says of it."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from steerlens.analyses.confirmation.contexts import Contexts
from steerlens.analyses.confirmation.readers import WordReader
from steerlens.analyses.survival import measure_survival
from steerlens.analyses.survival.breaking import Limits, limits_of
from steerlens.analyses.survival.measure_survival import survival
from steerlens.analyses.survival.survival_numbers import Writer
from steerlens.analyses.survival.text_survival import TextSurvival
from steerlens.analyses.survival.text_windows import window_means, window_repetition
from steerlens.arguments import ArgumentError
from steerlens.experiment import load_experiment
from steerlens.interventions import Add
from steerlens.measures.generation import generated_tokens
from steerlens.measures.surprisal import token_surprisal
from steerlens.models.model import Model, SteeringError
from steerlens.plots import long_texts
from steerlens.report.section import Figure, Table
from steerlens.results import Cell
from steerlens.sites import Site
from steerlens.store.cells import Cells
from tests.kinds import KINDS, along

WORDS = ["cat", "dog", "bird", "fish", "man", "woman", "child", "friend", "soup"]
PROMPTS = [f"the {word} was" for word in WORDS[:8]]
OTHERS = [f"I think the {word}" for word in WORDS]
CONTEXTS = Contexts(("the good nice cat . ",), ("the bad awful cat . ",))
NEW, WINDOW, FIRST = 32, 4, 8
READER = WordReader(("good", "nice", "great"), ("bad", "awful", "sad"))
pytestmark = pytest.mark.filterwarnings("ignore:.*unknown to the tokenizer")


def arm(model, layer=1):
    return along(Add, Site(layer))(model)


def find(model, multipliers=(1.0,), arms=None, **how):
    options = {"limits": OTHERS, "new_tokens": NEW, "window": WINDOW, "progress": False, **how}
    arms = {"vector": arm(model)} if arms is None else arms
    return survival(model, arms, multipliers, PROMPTS, CONTEXTS, **options)


@pytest.fixture(scope="module")
def small():
    from steerlens.testing import tiny_model

    return Model(tiny_model("llama"))


@pytest.fixture(scope="module")
def found(small):
    return find(small, (0.0, 3.0), steered=FIRST)


def numbers(found, writer):
    return tuple(x[writer] for x in (found.scores, found.surprisal, found.repetition))


def test_at_multiplier_0_every_text_is_the_unsteered_one(found):
    none = Cell("vector", 0.0, Site(1))
    unsteered = found.find("unsteered")
    for role in ("steered", "kept", "recomputed"):
        k = found.find(role, none)
        assert found.texts[k] == found.texts[unsteered]
        for one, other in zip(numbers(found, k), numbers(found, unsteered), strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4, equal_nan=True)
        assert found.change(k).value == pytest.approx(0, abs=1e-6)
        assert found.extra_surprisal(k).value == pytest.approx(0, abs=1e-6)
        assert found.ends(k) == found.ends(unsteered)
        assert found.against(k) == pytest.approx(1)
    assert found.texts[found.find("other draws")] != found.texts[unsteered]


def test_texts_are_those_that_are_generated_under_steering(small, found):
    cell = Cell("vector", 3.0, Site(1))
    k = found.find("steered", cell)
    how = {"max_new_tokens": NEW, "temperature": 1.0, "seed": 0, "stop_at_eos": True}
    with arm(small).attach(small, 3.0):
        tokens = generated_tokens(small, PROMPTS, **how)
    for prompt, row, text in zip(PROMPTS, tokens, found.texts[k], strict=True):
        ended = small.is_end(row).nonzero()
        own = row[: int(ended[0]) + 1] if len(ended) else row
        assert small.texts.continuation(small.ids(prompt), own.tolist()) == text
    first = found.scores[:, :, : FIRST // WINDOW]
    for role in ("kept", "recomputed"):  # the steered part is the same
        off = found.find(role, cell)
        assert torch.equal(first[off].nan_to_num(), first[k].nan_to_num())
        assert found.texts[off] != found.texts[k]


def test_limits_come_from_other_prompts_alone(small, found):
    tokens = generated_tokens(small, OTHERS, max_new_tokens=NEW, temperature=1.0, seed=1)
    ends = small.is_end(tokens)
    tokens = tokens.masked_fill(ends.cumsum(-1) - ends.long() > 0, -1)
    nats = token_surprisal(small, OTHERS, tokens[:, None])[:, 0]
    by_hand = limits_of(window_means(nats, tokens, WINDOW), window_repetition(tokens, WINDOW, 4))
    assert found.limits.texts == len(OTHERS)
    assert found.limits.surprisal == pytest.approx(by_hand.surprisal, rel=1e-4)
    assert found.limits.repetition == pytest.approx(by_hand.repetition)
    again = find(small, (9.0,), limits=[*reversed(OTHERS)][:8])
    assert again.limits.texts == 8
    with pytest.raises(ArgumentError, match="sets the limits and is reported as well"):
        find(small, limits=[*OTHERS, PROMPTS[3]])
    given = find(small, limits=Limits(3.0, 0.25))
    assert given.limits == Limits(3.0, 0.25) and given.limits.texts == 0


def test_a_strong_vector_breaks_texts_and_the_tests_say_so(small):
    found = find(small, (20.0,), limits=OTHERS)
    k, base = found.find("steered"), found.find("unsteered")
    assert found.left(k).value < 0.3 < found.left(base).value and found.against(k) < 0.05
    assert found.extra_surprisal(k).value > 0.5
    assert found.survival(k).median <= NEW


def test_other_kinds_of_interventions_are_followed_as_well(small):
    lora = {"lora": KINDS["LoRA of all matrices"](small)}
    found = find(small, (4.0,), lora, steered=FIRST, new_tokens=16)
    assert [one.role for one in found.writers][-3:] == ["steered", "kept", "recomputed"]
    prompt = find(small, (1.0,), {"prompt": KINDS["prompt"](small)}, steered=FIRST, new_tokens=16)
    # A prompt in front is taken away with what was kept of it, so nothing stays in the cache.
    kept, new = (prompt.texts[prompt.find(role)] for role in ("kept", "recomputed"))
    assert kept == new


def test_a_word_reader_reads_the_windows(small):
    found = find(small, (3.0,), reader=READER)
    assert (found.reader, found.unit) == ("WordReader", "texts")
    assert set(found.scores[found.there].tolist()) <= {-1.0, 0.0, 1.0}
    bare = survival(
        small, {"vector": arm(small)}, (3.0,), PROMPTS, reader=READER, limits=OTHERS,
        new_tokens=8, window=4, progress=False,
    )  # fmt: skip
    assert bare.find("positive") is None and "no contexts" in bare.summary()
    assert math.isnan(bare.share(bare.find("steered")).value)
    assert isinstance(bare.plot().data, tuple)


def test_a_stopped_run_goes_on_with_what_is_there(small, tmp_path, monkeypatch):
    kept = Cells(tmp_path, progress=False)
    once = find(small, (3.0,), steered=FIRST, cells=kept)
    for name in ("written_tokens", "written_on", "token_surprisal", "window_scores"):
        monkeypatch.setattr(measure_survival, name, None)
    again = find(small, (3.0,), steered=FIRST, cells=kept)
    assert again.texts == once.texts
    assert torch.equal(again.scores.nan_to_num(), once.scores.nan_to_num())
    with pytest.raises(TypeError):
        find(small, (4.0,), steered=FIRST, cells=kept)


def test_it_is_stored_and_tabulated(found, tmp_path):
    again = TextSurvival.load(found.save(tmp_path))
    assert again.writers == found.writers and again.limits == found.limits
    assert again.steered == FIRST and again.summary() == found.summary()
    frame = again.to_frame()
    assert len(frame) == len(found.writers) * NEW // WINDOW
    assert set(frame["role"]) == {"unsteered", "positive", "negative", "other draws", "steered",
                                  "kept", "recomputed"}  # fmt: skip
    assert frame["token"].max() == NEW and frame["not_broken"].between(0, 1).all()
    section = again.section({})
    assert any(isinstance(block, Figure) for block in section.blocks)
    assert [len(b.rows) for b in section.blocks if isinstance(b, Table)] == [6 * 4, 8]


def planted(share, prompts=24, windows=8):
    """Texts whose steered part has a known share of what the context writes."""
    noise = 0.05 * torch.randn(5, prompts, windows, generator=torch.Generator().manual_seed(1))
    level = torch.tensor([0.0, 0.0, 1.0, -1.0, 0.0])[:, None, None]
    scores = noise + level + 0.2 * torch.arange(prompts)[:, None] / prompts
    scores[4] += share
    writers = [Writer(role) for role in ("unsteered", "other draws", "positive", "negative")]
    return TextSurvival(
        writers=(*writers, Writer("steered", Cell("L1", 1.0))),
        prompts=tuple(map(str, range(prompts))),
        window=8,
        scores=scores,
        surprisal=torch.ones_like(scores),
        repetition=torch.zeros_like(scores),
        limits=Limits(2.0, 0.5),
        steered=None,
        texts=(),
        reader="planted",
        unit="units",
        missing="",
        made_by={},
    )


def test_a_share_that_fades_is_found_where_it_fades():
    there = torch.tensor([0.8] * 4 + [0.0] * 4)
    found = planted(there)
    k = found.find("steered")
    shares = [found.share(k, part) for part in found.parts]
    for (value, low, high), true in zip(shares, (0.8, 0.8, 0.0, 0.0), strict=True):
        assert low < true < high and value == pytest.approx(true, abs=0.05)
    times, ended = found.ends(k, "lost")
    # From window 4 on nothing is left: a run of four that starts there is lost by chance, and one
    # that starts before has a window with an effect in it.
    assert min(times) == 40 and 0.2 < sum(ended) / len(ended) < 0.9
    kept = planted(torch.full((8,), 0.8))
    assert kept.left(4, "lost").value == 1 and kept.against(4, "lost") < 0.01
    assert kept.left(4).value == 1 and kept.against(4) == 1
    assert "share of the context's effect: 1–16 79" in kept.summary() or "80" in kept.summary()
    against = replace(kept, writers=(*kept.writers[:4], Writer("steered", Cell("L1", -1.0))))
    assert against.share(4).value == pytest.approx(-0.8, abs=0.1)  # asked for the other side
    texts = replace(found, texts=(("a",) * 24,) * 5)
    assert "of unsteered texts 100%" in texts.section({}).answer[0]


def test_texts_that_end_are_censored_and_not_broken():
    found = planted(torch.full((8,), 0.8))
    found.surprisal[4, :12, 3:] = math.nan
    found.surprisal[4, 12:18, 5] = 3.0
    times, ended = found.ends(4)
    assert times == [24] * 12 + [48] * 6 + [64] * 6
    assert ended == [False] * 12 + [True] * 6 + [False] * 6
    assert found.left(4).value == pytest.approx(0.5)
    assert found.left(4, tokens=24).value == 1


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"prompts": []}, "prompts"),
        ({"prompts": PROMPTS[:1]}, "give at least two"),
        ({"prompts": [*PROMPTS, PROMPTS[0]]}, "no prompt twice"),
        ({"prompts": [*PROMPTS, PROMPTS[1].upper()]}, "are near-duplicates"),
        ({"multipliers": ()}, "give at least one"),
        ({"multipliers": (1.0, 1.0)}, "none of them twice"),
        ({"limits": OTHERS[:3]}, "3 different prompts, and 8 are needed"),
        ({"new_tokens": 30}, "Use new_tokens=28"),
        ({"steered": 6}, "must be a multiple of window=4"),
        ({"steered": 32}, "must be a multiple of window=4"),
        ({"steered": 8, "switched": (2.0,)}, "not among the multipliers"),
        ({"new_tokens": 64}, "do not fit the context"),
        ({"new_tokens": 56}, "do not fit the context"),  # there is no room for a context
        ({"contexts": None}, "Nothing can read the texts"),
        ({"arms": {}}, "no interventions"),
        ({"window": 3}, "window"),
    ],
)
def test_what_cannot_be_followed_is_refused(small, how, why):
    options = {"arms": {"vector": arm(small)}, "multipliers": (1.0,), "prompts": PROMPTS}
    options |= {"contexts": CONTEXTS, "limits": OTHERS, "new_tokens": NEW, "window": WINDOW, **how}
    with pytest.raises(ValueError, match=why):
        survival(small, progress=False, **options)


def test_a_steered_model_is_refused(small):
    with arm(small).attach(small, 1.0):
        with pytest.raises(SteeringError, match="Steering is attached"):
            find(small)
        small.logits(PROMPTS)


def test_an_event_that_is_not_known_is_refused(found, unchecked):
    with pytest.raises(ArgumentError, match="event='gone' must be"):
        found.ends(0, "gone")


def test_a_figure_needs_something_to_draw():
    curve = ([1.0, 0.5], [1.0, 0.2], [1.0, 0.8])
    figure = long_texts(
        {"a": {"x": curve}}, {"b": {"x": curve}}, tokens=[8, 16], title="t", switched=8
    )
    assert list(figure.data[0].x) == [4, 12] and list(figure.data[1].y) == [1, 1, 0.5]
    assert (
        "tokens 9–16" in figure.data[0].hovertext[1] and "[0.2, 0.8]" in figure.data[0].hovertext[1]
    )
    for panels, steps, why in (({}, {}, "empty"), ({"a": {}}, {}, "empty"),
                               ({"a": {"x": curve}}, {"a": {"x": curve}}, "same name")):  # fmt: skip
        with pytest.raises(ValueError, match=why):
            long_texts(panels, steps, tokens=[8, 16], title="")


def test_the_shipped_experiment_runs(tmp_path):
    it = load_experiment(Path(__file__).parents[1] / "experiments" / "survival.py")
    it = replace(it, n_fit=24, n_questions=24, prompts=10, n_neutral=8, new_tokens=16,
                 window=4, strengths=(1.0,))  # fmt: skip
    run = it.run(tmp_path, progress=False)
    assert run.survival.steered == 8 and len(run.survival.prompts) == 10
    assert set(run.survival.made_by["kl"]) == {"1"}
