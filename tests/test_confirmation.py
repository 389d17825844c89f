"""Confirmed in writing: contexts, the reader, shares and verdicts."""

from dataclasses import replace

import pytest
import torch

from steerlens import stats
from steerlens.analyses.confirmation import written_section
from steerlens.analyses.confirmation.contexts import ContextError, Contexts
from steerlens.analyses.confirmation.measure_written import confirm_in_writing
from steerlens.analyses.confirmation.readers import LikelihoodReader, WordReader
from steerlens.analyses.confirmation.writing_verdict import WritingVerdict, not_looked_at
from steerlens.analyses.confirmation.written_effect import WrittenEffect
from steerlens.analyses.confirmation.written_share import auroc_interval, share_interval
from steerlens.arguments import ArgumentError
from steerlens.data import ContrastPair, ContrastSet
from steerlens.directions import Direction
from steerlens.interventions import Add
from steerlens.models.model import Model, SteeringError
from steerlens.protocols import Scorer
from steerlens.report.section import Figure
from steerlens.results import Cell
from steerlens.sites import Site
from steerlens.stats import Interval
from steerlens.store.cells import Cells
from steerlens.testing import tiny_model
from tests.by_hand import by_hand
from tests.strangers import low_rank

PROMPTS = ["the cat sat on the bed and", "you", "I think the good soup was"]
N = 24


def pairs(*rows: tuple[str, ...], **meta: str) -> ContrastSet:
    return ContrastSet(
        "some", tuple(ContrastPair("", *row, group=str(k), meta=meta) for k, row in enumerate(rows))
    )


# Contexts


def test_texts_of_pairs_stand_before_a_prompt_as_sentences(gpt2):
    given = pairs(
        ("the soup was good", "the soup was bad"),
        ("the film was great . the room was", "the film was awful . the room was"),
        (PROMPTS[1], "no"),
    )
    made = Contexts.from_pairs(gpt2, given, PROMPTS)
    assert made.positive == ("the soup was good . ", "the film was great . ")
    assert made.negative == ("the soup was bad . ", "the film was awful . ")
    assert made.place("you", "negative", 3) == "the film was awful . you"
    writes, reads = made.halves()
    assert not set(writes.positive) & set(reads.positive)


def test_words_of_a_list_stand_together(gpt2):
    given = pairs(*((f"good{k} the", f"bad{k} a") for k in range(10)))
    made = Contexts.from_pairs(gpt2, given, ["you"])
    assert len(made) == 2
    assert made.positive[1] == "good8 the , good9 the . "
    assert made.made_of == "words of the pairs"


def test_instructions_of_a_trait_file_stand_before_a_prompt(gpt2):
    given = pairs(
        ("be good\n\nthe cat", "be bad\n\nthe cat"),
        positive_system="be good",
        negative_system="be bad",
    )
    made = Contexts.from_pairs(gpt2, given, ["you"])
    assert made.place("you", "positive", 0) == "be good\n\nyou"


CHATML = (
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nBe kind<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def chatty():
    model = Model(tiny_model("gpt2"))
    model.tokenizer.chat_template = CHATML
    return model


def rendered(system: str, user: str) -> str:
    return (
        f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{user}<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_a_system_turn_takes_the_place_of_the_prompts_own(chatty):
    rows = [(rendered("talk good", u), rendered("talk bad", u)) for u in ("the cat", "you")]
    asked = [rendered("Be kind", "a dog") + "it"]
    made = Contexts.from_pairs(chatty, pairs(*rows), asked)
    assert len(made) == 1  # the two pairs have the same system turns
    assert made.place(asked[0], "positive", 0) == rendered("talk good", "a dog") + "it"
    again = Contexts.from_systems(chatty, "talk good", "talk bad")
    assert (again.positive, again.negative) == (made.positive, made.negative)
    with pytest.raises(ContextError, match="does not start with"):
        made.place("you", "positive", 0)


@pytest.mark.parametrize(
    ("given", "prompts", "why"),
    [
        (pairs(("the cat", "the dog")), [rendered("Be kind", "you")], "The prompts are in a chat"),
        (
            pairs((rendered("a", "b"), rendered("a", "c"))),
            [rendered("Be kind", "you")],
            "do not differ",
        ),
        (pairs((rendered("a", "b"), rendered("c", "b"))), ["you"], "The pairs are in a chat"),
        (pairs(("you", "no")), ["you"], "holds one of the prompts"),
        (pairs(("the cat sat " * 30, "the dog ran " * 30)), ["you"], "No context leaves room"),
    ],
)
def test_what_cannot_be_a_context_is_refused_with_the_reason(chatty, given, prompts, why):
    with pytest.raises(ContextError, match=why):
        Contexts.from_pairs(chatty, given, prompts, room=4)


def test_contexts_that_do_not_differ_are_refused():
    with pytest.raises(ContextError, match="are both 'a'"):
        Contexts(("a",), ("a",))
    with pytest.raises(ContextError, match="as many of both"):
        Contexts(("a",), ())


@pytest.mark.parametrize("make", [lambda x: Contexts(x, ("b",)), WordReader])
def test_one_text_is_no_list_of_texts(make, unchecked):
    assert make(["a"]).positive == ("a",)
    for given, why in (("a", "is not a list"), ((1,), "is not a text"), (("",), "is blank")):
        with pytest.raises(ArgumentError, match=why):
            make(given)


def test_a_word_of_both_sides_is_refused():
    with pytest.raises(ValueError, match="he is a word of both sides"):
        WordReader(("she", "He"), ("he",))
    with pytest.raises(ValueError, match="has no positive words"):
        WordReader(())


# Readers


def test_the_reader_is_a_difference_of_log_likelihoods(gpt2):
    contexts = Contexts(("good soup . ", "nice cake . "), ("bad soup . ", "awful cake . "))
    reader = LikelihoodReader(gpt2, contexts, per_text=2)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(5, 100, (3, 2, 5), generator=generator)
    tokens[1, 0, 3:] = -1
    found = reader.read(PROMPTS, tokens)
    for p, prompt in enumerate(PROMPTS):
        for t in range(2):
            text = tokens[p, t].tolist()
            ratios = [
                by_hand(gpt2, contexts.place(prompt, "negative", k), text)
                - by_hand(gpt2, contexts.place(prompt, "positive", k), text)
                for k in range(2)
            ]
            assert float(found[p, t]) == pytest.approx(sum(ratios) / 2, abs=1e-4)


def test_the_reader_judges_texts_and_sees_no_steering(gpt2):
    reader = LikelihoodReader(gpt2, Contexts(("good soup . ",), ("bad soup . ",)))
    assert isinstance(reader, Scorer) and isinstance(WordReader(("good",)), Scorer)
    one, empty = reader(["you", "you"], [" like the cat", ""])
    ids = gpt2.ids("you like the cat")[len(gpt2.ids("you")) :]
    assert one == pytest.approx(float(reader.read(["you"], torch.tensor([[ids]]))))
    assert empty == 0.0
    edit = Add(Direction(torch.ones(gpt2.d_model), Site(1)), unit="direction")
    with pytest.raises(SteeringError, match="is not unsteered"), edit.attach(gpt2, 1.0):
        reader(["you"], [" like"])


def test_words_are_counted_whole_and_either_list_can_win():
    read = WordReader(("she", "her"), ("he",))
    texts = [" She said that she", " the sheep", " he and her", " HE ran", ""]
    assert read([""] * 5, texts) == [1.0, 0.0, 0.0, -1.0, 0.0]


# Shares and verdicts


def test_a_share_is_a_ratio_of_means_with_a_paired_interval():
    g = torch.Generator().manual_seed(0)
    whole = 1 + 0.3 * torch.randn(N, generator=g)
    done = 0.5 * whole + 0.1 * torch.randn(N, generator=g)
    value, low, high = share_interval(done, whole)
    assert value == pytest.approx(float(done.mean() / whole.mean()), rel=1e-5)
    assert 0.4 < low < value < high < 0.6
    loose = share_interval(done[torch.randperm(N, generator=g)], whole)
    assert loose.high - loose.low > high - low  # the pairs are what makes it narrow


def test_the_larger_scale_counts():
    """A context adds nothing to texts that show its side already."""
    done, nothing, half = torch.full((N,), 0.2), torch.zeros(N), torch.full((N,), 0.5)
    assert share_interval(done, nothing, half).value == pytest.approx(0.4)
    assert share_interval(done, 4 * half, half).value == pytest.approx(0.1)
    there = effect(unsteered=effect().positive, share=1.5)
    assert there.share(0).value == pytest.approx(0.5, abs=0.15)


def test_a_share_of_nothing_is_not_given():
    noise = torch.randn(N, generator=torch.Generator().manual_seed(1))
    assert all(x != x for x in share_interval(noise, noise - noise.mean()))


def test_the_interval_of_a_share_covers():
    """At the size of an experiment, of 300 made-up studies with a share of 0.5."""
    g, held = torch.Generator().manual_seed(2), 0
    for _ in range(300):
        whole = 1 + torch.randn(N, generator=g)
        done = 0.5 + 0.5 * torch.randn(N, generator=g) + 0.3 * (whole - 1)
        _, low, high = share_interval(done, whole)
        held += low <= 0.5 <= high
    assert held / 300 > 0.92


def test_prompts_of_a_group_are_one_unit():
    """Copies of every prompt add nothing to what is known, and do not narrow an interval."""
    g = torch.Generator().manual_seed(3)
    whole = 1 + 0.5 * torch.randn(N, generator=g)
    done = 0.5 * whole + 0.3 * torch.randn(N, generator=g)
    one = share_interval(done, whole)
    groups = torch.arange(N).repeat(4)
    again = share_interval(done.repeat(4), whole.repeat(4), groups=groups)
    assert again == pytest.approx(one, rel=1e-5)
    alone = share_interval(done.repeat(4), whole.repeat(4))
    assert alone.high - alone.low < 0.6 * (one.high - one.low)
    assert share_interval(done, whole, groups=torch.arange(N) % 7).low != one.low
    assert all(x != x for x in share_interval(done, whole, groups=torch.arange(N) // (N // 6)))

    texts = torch.randn(N, 1, generator=g) + 1, torch.randn(N, 1, generator=g)
    read = auroc_interval(*texts)
    copied = auroc_interval(*(side.repeat(4, 1) for side in texts), groups)
    assert copied == pytest.approx(read, rel=1e-5)


def test_an_effect_resamples_the_groups_of_its_prompts():
    plain, names = effect(), [f"noun {k // 2}" for k in range(N)]
    grouped = replace(plain, groups=stats.group_numbers(names))
    assert plain.units.tolist() == list(range(N))  # no two prompts are near-duplicates
    assert grouped.units.tolist() == [k // 2 for k in range(N)]
    for of in ("change", "against_opposite", "share"):
        alone, together = getattr(plain, of)(0), getattr(grouped, of)(0)
        assert alone.value == pytest.approx(together.value) and alone.low != together.low
    assert f"{N} prompts in {N // 2} groups" in grouped.summary()
    few = replace(plain, groups=torch.arange(N) % 6)
    assert f"{N} prompts in 6 groups are too few" in few.why_not()


def test_near_duplicates_among_the_prompts_are_one_group():
    prompts = list(effect().prompts)
    prompts[1] = prompts[0].upper()
    units = effect(prompts=tuple(prompts)).units.tolist()
    assert units[0] == units[1] and len(set(units)) == N - 1


def test_auroc_counts_ties_by_half_and_resamples_prompts():
    one, other = torch.tensor([[1.0], [2.0], [2.0]]), torch.tensor([[0.0], [1.0], [3.0]])
    assert auroc_interval(one, other).value == pytest.approx(5.5 / 9)
    perfect = auroc_interval(torch.ones(20, 2), torch.zeros(20, 2))
    assert perfect.value == 1.0 and 0.8 < perfect.low < 1.0
    assert auroc_interval(torch.ones(12, 1), torch.zeros(12, 1)).low < 0.9


def effect(share: float = 0.8, noise: float = 0.3, span: float = 1.0, **changed) -> WrittenEffect:
    """A handmade effect of two cells, of which the second is a tenth of the first."""
    g = torch.Generator().manual_seed(0)

    def numbers(mean: float) -> torch.Tensor:
        return mean + noise * torch.randn(N, 1, generator=g)

    texts = (((" a",) * 1,) * N,)
    fields = {
        "cells": (Cell("L3 resid_pre", 0.5, Site(3, "resid_pre")), Cell("other", -0.5)),
        "prompts": tuple(f"prompt {k}" for k in range(N)),
        "unsteered": numbers(0.0),
        "positive": numbers(span),
        "negative": numbers(-span),
        "steered": torch.stack([numbers(share * span), numbers(-0.1 * share * span)]),
        "opposite": torch.stack([numbers(-share * span), numbers(0.0)]),
        "steered_texts": texts * 2,
        "opposite_texts": texts * 2,
        "unsteered_texts": texts[0],
        "positive_texts": texts[0],
        "negative_texts": texts[0],
        "reader": "the log-likelihood ratio of the two contexts",
        "unit": "nats per token",
        "made_by": {"model": "handmade", "contexts_count": 4},
        **changed,
    }
    return WrittenEffect(**fields)


def test_a_large_share_is_confirmed_and_a_small_one_is_a_gain_without_writing():
    made = effect()
    assert made.verdict(0) == "confirmed in writing" and made.share(0).low > 0.5
    assert made.verdict(1) == "gain without writing" and made.share(1).value < 0.25
    assert made.against_opposite(0).low > 1.0
    assert made.reader_auroc.low > 0.8
    assert made.verdict_of(Cell("nowhere", 1.0)) == "not looked at"


def test_a_wide_interval_says_that_more_prompts_would_decide():
    made = effect(share=0.45, noise=1.0)
    assert made.reader_is_good
    assert made.share(0).value > 0.25 > made.share(0).low
    assert made.verdict(0) == "gain without writing" and made.verdicts[0].is_open
    assert "more of them would decide it" in str(made.verdicts[0])
    assert "Gain without writing, so far" in made.verdicts[0].sentence()


def test_less_is_measured_against_the_negative_context():
    made = effect(cells=(Cell("L3 resid_pre", -0.5), Cell("other", 0.5)))
    assert made.share(0).value == pytest.approx(-0.8, abs=0.25)
    flipped = effect(share=-0.8, cells=(Cell("L3 resid_pre", -0.5), Cell("other", 0.5)))
    assert flipped.verdict(0) == "confirmed in writing"


def test_little_is_only_said_to_be_written_where_the_interval_says_so():
    def said(low: float, value: float, high: float) -> str:
        share = Interval(value, low, high)
        return WritingVerdict(Cell("add", 1.0), "gain without writing", share, 24).sentence()

    assert "hardly does" in said(-0.1, 0.05, 0.2)
    assert "More prompts would decide it" in said(-0.3, 0.05, 0.4)


def test_a_poor_reader_is_refused():
    made = effect(span=0.1, noise=1.0, share=30.0)
    assert made.change(0).low > 1.0  # however large the change
    assert not made.reader_is_good and made.verdict(0) == "not looked at"
    assert written_section._fact(made, 0).value == "not looked at"  # and no share
    assert "apart with AUROC" in made.why_not() and "not used" in made.summary()


def test_without_contexts_there_is_a_change_and_no_verdict():
    made = effect(
        positive=None, negative=None, positive_texts=(), negative_texts=(), missing="no contexts"
    )
    assert made.verdict(0) == "not looked at" and made.change(0).low > 0.5
    assert "no contexts" in made.summary()
    assert made.plot().data


def test_an_effect_survives_saving_and_loading_and_states_itself(tmp_path):
    made = effect()
    loaded = WrittenEffect.load(made.save(tmp_path))
    assert loaded.summary() == made.summary()
    assert loaded.steered_texts == made.steered_texts
    frame = loaded.to_frame()
    assert list(frame["verdict"]) == ["confirmed in writing", "gain without writing"]
    assert list(frame["row"]) == ["L3 resid_pre", "other"]
    section = loaded.section({})
    assert [block.draw().data for block in section.blocks if isinstance(block, Figure)]


# On a map


@pytest.fixture(scope="module")
def planted_map(planted, planted_data):
    from steerlens.analyses.steerability.measure_steerability import steerability
    from steerlens.measures.reading import activations

    model = Model(planted.model)
    fit, choose, report = planted_data
    read = activations(model, fit, (Site(3, "resid_pre"),), progress=False)
    return steerability(model, read, choose, report, sites=read.sites, progress=False)


def test_a_map_says_what_was_written_at_its_cell(planted_map):
    chosen = planted_map.chosen
    nobody = planted_map
    assert "In writing: not looked at." in str(nobody.recommend())
    assert "not looked at" in nobody.summary()
    assert "Not looked at in writing" in nobody.section({}).answer[1]
    made = effect(cells=(chosen, Cell("other", -0.5)))
    told = nobody.with_writing(made)
    assert told.recommend().written == made.verdicts[0]
    assert "confirmed in writing: share 0." in told.summary()
    assert told.section({}).answer[1].startswith("**Confirmed in writing:**")
    assert "confirmed in writing" in told.plot().to_dict()["layout"]["title"]["text"]
    small = nobody.with_writing(effect(share=0.05, cells=(chosen, Cell("other", -0.5))))
    assert small.section({}).answer[1].startswith("**Gain without writing:**")
    assert "None of the runners-up" in small.section({}).answer[2]
    why = nobody.with_writing(not_looked_at([chosen], "there is no context."))
    assert "**Not looked at in writing**: there is no context. " in why.section({}).answer[1]


def test_the_verdicts_are_saved_with_the_map(planted_map, tmp_path):
    made = planted_map.with_writing(effect(cells=(planted_map.chosen, Cell("other", -0.5))))
    loaded = type(made).load(made.save(tmp_path))
    assert loaded.written == made.written and loaded.summary() == made.summary()


# Measuring


def contexts_of_soup() -> Contexts:
    return Contexts(("good soup . ", "nice cake . "), ("bad soup . ", "awful cake . "))


def measured(model, arms, at, **changed) -> WrittenEffect:
    options = {"max_new_tokens": 5, "progress": False, **changed}
    contexts = options.pop("contexts", contexts_of_soup())
    prompts = options.pop("prompts", PROMPTS)
    return confirm_in_writing(model, arms, at, prompts, contexts, **options)


def test_texts_are_written_under_steering_and_read_without(gpt2):
    direction = Direction(torch.randn(gpt2.d_model), Site(1), resid_norm=4.0)
    arms = {"add": Add(direction), "weights": low_rank(gpt2, 1)}
    at = [Cell("add", 1.0, Site(1)), Cell("weights", 1.0)]
    made = measured(gpt2, arms, at, draws=2)
    assert made.steered.shape == made.opposite.shape == (2, len(PROMPTS), 2)
    reader = LikelihoodReader(gpt2, contexts_of_soup().halves()[1])
    texts = [made.steered_texts[0][p][0] for p in range(len(PROMPTS))]
    assert made.steered[0, :, 0].tolist() == pytest.approx(
        [reader([p], [t])[0] for p, t in zip(PROMPTS, texts, strict=True)], abs=1e-3
    ) or any(not text.strip() for text in texts)
    assert made.unsteered_texts != made.steered_texts[0]


def test_the_draws_of_a_prompt_are_shared(gpt2):
    """An edit of nothing writes the unsteered texts."""
    nothing = Add(Direction(torch.ones(gpt2.d_model), Site(1)), unit=1e-9)
    made = measured(gpt2, {"nothing": nothing}, [Cell("nothing", 1.0)], draws=3)
    assert made.steered_texts[0] == made.opposite_texts[0] == made.unsteered_texts
    torch.testing.assert_close(made.steered[0], made.unsteered, atol=1e-5, rtol=1e-5)
    assert made.change(0).value == pytest.approx(0.0, abs=1e-5)
    assert len({text for texts in made.unsteered_texts for text in texts}) > len(PROMPTS)


def test_a_judge_of_the_users_own_reads_with_or_without_contexts(gpt2):
    arms = {"add": Add(Direction(torch.ones(gpt2.d_model), Site(1), resid_norm=4.0))}
    judge = WordReader(("cat", "the", "good"))
    made = measured(gpt2, arms, [Cell("add", 1.0)], reader=judge, contexts=None)
    assert made.reader == "WordReader" and made.missing == "no contexts were given"
    assert made.verdict(0) == "not looked at"
    texts = [made.steered_texts[0][p][0] for p in range(len(PROMPTS))]
    assert made.steered[0, :, 0].tolist() == judge(PROMPTS, texts)


def test_a_stopped_measurement_goes_on_to_the_same_numbers(gpt2, tmp_path, monkeypatch):
    arms = {"add": Add(Direction(torch.ones(gpt2.d_model), Site(1), resid_norm=4.0))}
    at = [Cell("add", 1.0)]
    whole = measured(gpt2, arms, at)
    once = measured(gpt2, arms, at, cells=Cells(tmp_path, progress=False))
    assert torch.equal(once.steered, whole.steered)
    gone = "steerlens.analyses.confirmation.measure_written.written_tokens"
    monkeypatch.setattr(gone, None)  # nothing is written again
    again = measured(gpt2, arms, at, cells=Cells(tmp_path, progress=False))
    assert again.positive is not None and whole.positive is not None
    assert torch.equal(again.positive, whole.positive)
    assert again.steered_texts == whole.steered_texts


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"at": []}, "no cell to look at"),
        ({"at": [Cell("nowhere", 1.0)]}, "none of the interventions"),
        ({"at": [Cell("add", 0.0)]}, "is the unsteered model"),
        ({"contexts": None}, "Nothing can read the texts"),
        ({"at": [("add", 1.0)]}, "is not a cell"),
        ({"at": [Cell("add", float("nan"))]}, "multiplier=nan is not finite"),
        ({"contexts": "good soup"}, "are no contexts"),
        ({"reader": 5}, "cannot read texts"),
        ({"draws": 2, "temperature": 0}, "the same text 2 times"),
        ({"prompts": "the food was"}, "is not a list of texts"),
        ({"prompts": ["the food was", " "]}, r"prompts\[1\]=' ' is blank"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_written(
    gpt2, changed, why, monkeypatch, unchecked
):
    monkeypatch.setattr("steerlens.analyses.confirmation.measure_written.written_tokens", None)
    arms = {"add": Add(Direction(torch.ones(gpt2.d_model), Site(1), resid_norm=4.0))}
    given = {"at": [Cell("add", 1.0)], **changed}
    with pytest.raises((ValueError, TypeError), match=why):
        measured(gpt2, arms, **given)


def test_dataclass_replace_keeps_verdicts_consistent():
    """The verdict is derived, never stored apart from the numbers."""
    made = effect()
    assert replace(made, steered=made.unsteered.expand(2, N, 1).clone()).verdict(0) == (
        "gain without writing"
    )
