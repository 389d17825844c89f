"""Contrast sets: validation, hash, splits that never leak, controls, templates, round trip."""

from __future__ import annotations

import copy
import datetime
import subprocess
import sys
import time
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

from steerlens.arguments import ArgumentError
from steerlens.data import ContrastError, ContrastPair, ContrastSet, chat_prompt, render_chat
from steerlens.data.formats import chat as chat_module
from steerlens.data.formats.text import LONGEST


def questions(n: int = 12, copies: int = 1) -> ContrastSet:
    pairs = [
        ContrastPair(f"Question {i}?", " Yes" if i % 2 else " No", " No" if i % 2 else " Yes")
        for i in range(n)
        for _ in range(copies)
    ]
    return ContrastSet("questions", tuple(pairs))


# Pairs


@pytest.mark.parametrize("sides", [("", "b"), ("a", ""), ("same", "same")])
def test_a_one_sided_pair_is_refused_and_named(sides):
    with pytest.raises(ContrastError, match="Where is it"):
        ContrastPair("Where is it", *sides)


def test_half_a_surrogate_pair_is_refused():
    with pytest.raises(ContrastError, match="surrogate"):
        ContrastPair("", "good \ud83d", "bad")


def test_a_pair_can_be_copied_and_its_meta_cannot_be_changed():
    pair = ContrastPair("", "a", "b", meta={"row": "3"})
    assert copy.deepcopy(pair) == pair
    with pytest.raises(TypeError):
        pair.meta["row"] = "4"


def test_a_text_that_no_model_reads_is_refused():
    with pytest.raises(ContrastError, match="'prompt' of a pair is 1000000 characters long"):
        ContrastPair("x" * 1_000_000, "a", "b")
    assert ContrastPair("x" * LONGEST, "a", "b").prompt


@pytest.mark.parametrize("name", ["", None, 3, ()])
@pytest.mark.usefixtures("unchecked")
def test_a_name_is_text(name):
    with pytest.raises(ContrastError, match="is not a name.*from_pairs"):
        ContrastSet(name, (ContrastPair("", "a", "b"),))


def test_an_empty_set_is_refused():
    with pytest.raises(ContrastError, match="no pairs"):
        ContrastSet("nothing", ())


# Hash


def test_hash_ignores_name_source_notes_and_meta():
    pairs = (ContrastPair("", "a", "b", meta={"x": "1"}), ContrastPair("", "c", "d"))
    other = (ContrastPair("", "a", "b"), ContrastPair("", "c", "d"))
    one = ContrastSet("one", pairs, source="here", notes=("note",))
    assert one.hash == ContrastSet("two", other).hash


@pytest.mark.parametrize(
    "changed",
    [
        ContrastPair("p", "a", "b", group="g2"),
        ContrastPair("p", "b", "a", group="g"),
        ContrastPair("pa", "x", "b", group="g"),
        ContrastPair("", "pa", "b", group="g"),
    ],
)
def test_hash_sees_every_field_that_counts(changed):
    base = ContrastSet("s", (ContrastPair("p", "a", "b", group="g"),))
    assert base.hash != ContrastSet("s", (changed,)).hash


def test_hash_sees_order_and_pairedness():
    pairs = (ContrastPair("", "a", "b"), ContrastPair("", "c", "d"))
    hashes = {
        ContrastSet("s", pairs).hash,
        ContrastSet("s", pairs[::-1]).hash,
        ContrastSet("s", pairs, paired=False).hash,
    }
    assert len(hashes) == 3


def test_hash_and_split_are_the_same_in_another_process():
    code = (
        "from steerlens.data import *;"
        "s = ContrastSet('s', [ContrastPair(f'q{i}', ' a', ' b') for i in range(9)]);"
        "print(s.hash, *[p.prompt for part in s.split(3) for p in part])"
    )
    run = [sys.executable, "-c", code]
    outs = {
        subprocess.run(
            run, capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    here = ContrastSet("t", tuple(ContrastPair(f"q{i}", " a", " b") for i in range(9)))
    words = [p.prompt for part in here.split(3) for p in part]
    assert outs == {" ".join([here.hash, *words]) + "\n"}


# Split

WORDS = st.sampled_from(["hot", "cold", "up", "down", "red", "blue", "fast", "slow", "big"])


ROWS = st.lists(
    st.tuples(st.sampled_from(["prompt", "texts", "group", "keys"]), WORDS, WORDS), max_size=25
)


def drawn(rows: list[tuple[str, str, str]]) -> ContrastSet:
    """A set with every way in which pairs can belong together."""
    # Three groups of their own make every set large enough to split.
    pairs = [ContrastPair(f"own {i}", " a", " b") for i in range(3)]
    for i, (kind, word, other) in enumerate(rows):
        if kind == "prompt":
            pairs.append(ContrastPair(f"Is it {word}?", " yes", " no"))
        elif kind == "texts":
            pairs.append(ContrastPair("", f"It is {word}.", f"No, it is not {other}."))
        elif kind == "group":
            pairs.append(ContrastPair(f"{i}", " a", " b", group=word))
        else:
            pairs.append(ContrastPair(f"{i}", " a", " b", group=f"{word}\x1f{other}"))
    return ContrastSet("drawn", tuple(pairs))


@settings(max_examples=60, deadline=None)
@given(ROWS, st.integers(0, 3), st.randoms(use_true_random=False))
def test_split_is_whole_disjoint_stable_and_never_leaks(rows, seed, random):
    whole = drawn(rows)
    parts = whole.split(seed)
    keys = [{key for pair in part for key in pair.keys} for part in parts]
    assert not (keys[0] & keys[1] or keys[0] & keys[2] or keys[1] & keys[2])
    assert sorted(map(repr, whole)) == sorted(repr(p) for part in parts for p in part)
    mixed = list(whole)
    random.shuffle(mixed)
    for part, again in zip(parts, ContrastSet("other name", tuple(mixed)).split(seed), strict=True):
        assert sorted(map(repr, part)) == sorted(map(repr, again))


@settings(max_examples=30, deadline=None)
@given(st.integers(3, 60), st.integers(0, 5))
def test_split_sizes_are_exact_to_one_pair_when_groups_are_single(n, seed):
    sizes = [len(part) for part in questions(n).split(seed)]
    for size, fraction in zip(sizes, (0.5, 0.25, 0.25), strict=True):
        assert abs(size - fraction * n) <= 1


def test_another_seed_gives_another_split():
    fits = {questions(40).split(seed).fit.hash for seed in range(5)}
    assert len(fits) == 5


def test_a_group_that_fills_most_of_the_set_leaves_no_part_empty():
    big = [ContrastPair("one prompt", f" a{i}", " b") for i in range(50)]
    small = [ContrastPair(f"{i}", " a", " b") for i in range(2)]
    sizes = [len(part) for part in ContrastSet("s", (*big, *small)).split()]
    assert sizes == [50, 1, 1]


def test_a_statement_stays_with_its_negation_and_a_question_with_its_reordered_options():
    pairs = (
        ContrastPair("", "Rome is in Italy.", "x1"),
        ContrastPair("", "Rome is not in Italy.", "x2"),
        ContrastPair("Tea?\n\nChoices:\n (A) Yes\n (B) No", " (A)", " (B)"),
        ContrastPair("Tea?\n\nChoices:\n (A) No\n (B) Yes", " (B)", " (A)"),
    )
    groups = ContrastSet("s", pairs).groups
    assert groups[0] == groups[1] != groups[2] == groups[3]


def test_too_few_groups_for_a_split_is_an_error_that_says_so():
    with pytest.raises(ContrastError, match="only 2 group"):
        questions(2, copies=10).split()


@pytest.mark.parametrize(
    "fractions", [(0.5, 0.5, 0.0), (0.5, 0.4, 0.3), (1.5, -0.25, -0.25), (0.5, 0.5), 0.5, "abc"]
)
@pytest.mark.usefixtures("unchecked")
def test_fractions_that_make_no_sense_are_refused(fractions):
    with pytest.raises(ValueError, match="fractions"):
        questions().split(fractions=fractions)


SEEDED = {
    "split": lambda made, seed: made.split(seed).fit,
    "halved": lambda made, seed: made.halved(seed)[0],
    "shuffled": lambda made, seed: made.shuffled(seed),
    "subset": lambda made, seed: made.subset(seed, seed=seed),
    "balanced_letters": lambda made, seed: made.balanced_letters(seed),
}


@pytest.mark.parametrize("name", SEEDED)
@pytest.mark.usefixtures("unchecked")
def test_numbers_of_other_libraries_are_the_same_seeds(name):
    call = SEEDED[name]
    expected = call(questions(40), 3)
    for seed in (np.int64(3), torch.tensor(3), np.array(3)):
        made = call(questions(40), seed)
        assert (made.hash, made.notes) == (expected.hash, expected.notes)
    for seed in (3.0, "3", None, True):
        with pytest.raises(ArgumentError, match="is not a whole number"):
            call(questions(40), seed)


def test_shares_of_another_library_are_the_same_shares():
    expected = questions(40).split(fractions=(0.5, 0.25, 0.25)).fit
    made = questions(40).split(fractions=np.array([0.5, 0.25, 0.25])).fit
    assert (made.hash, made.notes) == (expected.hash, expected.notes)


# Indices


def test_an_index_gives_a_pair_and_a_slice_a_set():
    whole = questions(10)
    assert whole[2] == whole.pairs[2] == whole[np.int64(2)] == whole[torch.tensor(2)]
    assert whole[-1] == whole.pairs[-1]
    part = whole[2:8:3]
    assert isinstance(part, ContrastSet)
    assert part.pairs == whole.pairs[2:8:3]
    assert part.name == whole.name
    assert part.notes == ("pairs [2:8:3] of 10",)
    assert whole[-3:].pairs == whole.pairs[-3:]
    assert whole[::-1][0] == whole[-1]
    assert [pair.prompt for pair in whole[:2]] == ["Question 0?", "Question 1?"]


@pytest.mark.usefixtures("unchecked")
def test_an_index_that_names_no_pair_is_refused():
    whole = questions(4)
    for index in (4, -5):
        with pytest.raises(IndexError, match=f"has 4 pairs, and none with index {index}"):
            whole[index]
    for index in (1.0, "a", None, (1, 2)):
        with pytest.raises(ArgumentError, match="index=.* is not a whole number"):
            whole[index]
    with pytest.raises(ArgumentError, match="is not a slice of pairs"):
        whole["a":]
    with pytest.raises(ContrastError, match="no pairs"):
        whole[4:]


# Controls and subsets


def test_flipping_twice_gives_the_same_hash():
    assert questions().flipped().flipped().hash == questions().hash != questions().flipped().hash


def test_shuffled_labels_flip_about_half_and_follow_the_seed():
    whole = questions(400)
    flips = sum(a.positive != b.positive for a, b in zip(whole, whole.shuffled(1), strict=True))
    assert 150 < flips < 250
    assert whole.shuffled(1).hash == whole.shuffled(1).hash != whole.shuffled(2).hash


def test_subset_does_not_depend_on_the_order_of_pairs():
    whole = questions(30)
    backwards = replace(whole, pairs=whole.pairs[::-1])
    assert set(whole.subset(7, seed=2).pairs) == set(backwards.subset(7, seed=2).pairs)
    with pytest.raises(ContrastError, match="has 30 pairs"):
        whole.subset(31)


def test_balanced_letters_keep_every_letter_as_often_right_as_wrong():
    pairs = [ContrastPair(f"a{i}", " (A)", " (B)") for i in range(7)]
    pairs += [ContrastPair(f"b{i}", " (B)", " (A)") for i in range(3)]
    pairs += [ContrastPair(f"c{i}", " (C)", " (A)") for i in range(2)]
    balanced = ContrastSet("s", tuple(pairs)).balanced_letters()
    assert len(balanced) == 6
    assert dict(balanced.report.answers) == {"A": 3, "B": 3}


def test_balancing_free_text_or_one_letter_is_refused():
    with pytest.raises(ContrastError, match="no letters to balance"):
        ContrastSet("s", (ContrastPair("q", " sure thing", " never"),)).balanced_letters()
    with pytest.raises(ContrastError, match="cannot be balanced"):
        ContrastSet("s", (ContrastPair("q", " (A)", " (B)"),)).balanced_letters()


def test_merging_keeps_shared_questions_in_one_part():
    one, two = questions(6), replace(questions(6), name="again")
    merged = one.merged(two)
    assert len(merged) == 12
    assert len(set(merged.groups)) == 6
    assert not one.merged(replace(two, paired=False)).paired


def test_where_filters_by_meta_and_lists_the_values_there_are():
    pairs = tuple(ContrastPair(str(i), "a", "b", meta={"case": "xy"[i % 2]}) for i in range(4))
    whole = ContrastSet("s", pairs)
    assert len(whole.where(case="x")) == 2
    with pytest.raises(ContrastError, match="'x', 'y'"):
        whole.where(case="z")


# Templates


def test_a_template_sets_the_space_before_the_answer_once():
    whole = ContrastSet("s", (ContrastPair("Tea?", " Yes", "No"),))
    for template, text in [
        ("Q: {prompt}\nA:", "Q: Tea?\nA: Yes"),
        ("Q: {prompt}\nA: ", "Q: Tea?\nA: Yes"),
        ("{prompt}\n", "Tea?\nYes"),
        ("{prompt} I say {answer}, indeed.", "Tea? I say Yes, indeed."),
    ]:
        pair = whole.with_template(template).pairs[0]
        assert pair.positive_text == text
        assert pair.negative_text == text.replace("Yes", "No")


def test_words_in_one_template_keep_groups_of_their_own():
    words = ContrastSet("w", tuple(ContrastPair("", f"good{i}", f"bad{i}") for i in range(9)))
    assert len(set(words.with_template("The soup was").groups)) == 9


@pytest.mark.parametrize("template", ["Answer:", "{prompt} {prompt}", "{answer} {prompt}"])
def test_a_template_that_loses_or_repeats_the_prompt_is_refused(template):
    with pytest.raises(ContrastError, match="prompt"):
        questions().with_template(template)


def test_chat_markers_are_never_nested():
    marked = ContrastSet("s", (ContrastPair("[INST] Tea? [/INST]", " Yes", " No"),))
    with pytest.raises(ContrastError, match="already has chat markers"):
        marked.with_template("[INST] {prompt} [/INST]")
    with pytest.raises(ContrastError, match="already has chat markers"):
        chat_prompt(Tokenizer(CHATML), "[INST] Tea? [/INST]")
    assert any("baked in" in warning for warning in marked.report.warnings)
    assert not any("with_chat" in warning for warning in marked.report.warnings)


CHATML = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA2 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}</s>{% else %}"
    "{{ raise_exception('no system role') }}{% endif %}{% endfor %}"
)
DEAF = "{% for m in messages if m.role != 'system' %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


def _refuse(message):
    from jinja2.exceptions import TemplateError

    raise TemplateError(message)


@dataclass
class Tokenizer:
    """The part of a transformers tokenizer that chat prompts need."""

    chat_template: str | None
    bos_token: str | None = "<s>"

    def apply_chat_template(self, conversation, tokenize=True, add_generation_prompt=False):
        assert not tokenize
        environment = ImmutableSandboxedEnvironment(trim_blocks=True)
        environment.globals["raise_exception"] = _refuse
        return environment.from_string(self.chat_template or "").render(
            messages=conversation,
            add_generation_prompt=add_generation_prompt,
            bos_token=self.bos_token or "",
        )


def test_a_chat_prompt_is_the_tokenizers_own_and_says_whether_bos_is_in_it():
    chat = chat_prompt(Tokenizer(CHATML), "Tea?", system="Be kind.")
    assert chat.text.startswith("<s><|im_start|>system\nBe kind.")
    assert chat.text.endswith("Tea?<|im_end|>\n<|im_start|>assistant\n")
    assert chat.has_bos
    assert not chat_prompt(Tokenizer(CHATML, bos_token=None), "Tea?").has_bos


@pytest.mark.parametrize(
    "template, whole",
    [
        (CHATML, "<s><|im_start|>user\nTea?<|im_end|>\n<|im_start|>assistant\nYes"),
        (LLAMA2, "<s>[INST] Tea? [/INST] Yes"),
    ],
)
def test_the_space_before_the_answer_is_that_of_the_chat_template(template, whole):
    made = ContrastSet("s", (ContrastPair("Tea?", " Yes", " No"),)).with_chat(Tokenizer(template))
    assert made.pairs[0].positive_text == whole
    assert "without adding one" in made.notes[-1]
    assert any("<s>" in warning for warning in made.report.warnings)


@dataclass
class Owner:
    """A model, as far as chat is concerned."""

    tokenizer: object


def tea() -> ContrastSet:
    pairs = tuple(ContrastPair(f"Tea {i}?", " Yes", " No") for i in range(4))
    return ContrastSet("tea", pairs)


@pytest.mark.usefixtures("unchecked")
def test_a_model_stands_for_its_tokenizer():
    tokenizer = Tokenizer(CHATML)
    assert tea().with_chat(Owner(tokenizer)).hash == tea().with_chat(tokenizer).hash
    turns = [{"role": "user", "content": "Tea?"}]
    assert render_chat(Owner(tokenizer), turns) == chat_prompt(tokenizer, "Tea?").text
    for owner in (Owner(None), Owner("tokenizer"), None, "model"):
        with pytest.raises(ContrastError, match="neither a tokenizer.*nor a model"):
            tea().with_chat(owner)


@pytest.mark.parametrize("template", [CHATML, LLAMA2, DEAF])
def test_after_with_chat_nothing_asks_for_a_chat_template_again(template, tmp_path):
    plain = tea()
    assert any("consider with_chat" in warning for warning in plain.report.warnings)
    chat = plain.with_chat(Tokenizer(template))
    saved = ContrastSet.load(chat.save(tmp_path / "chat.jsonl"))
    merged = chat.merged(chat[:2], name="both")
    for made in (chat, saved, chat.split().fit, chat.flipped(), merged):
        said = " ".join(made.report.warnings)
        assert "template" not in said and "cue" not in said
        with pytest.raises(ContrastError, match="already in a chat template"):
            made.with_chat(Tokenizer(template))


DATED = CHATML + "{{ strftime_now('%d %b %Y') }}"


@pytest.fixture(scope="module")
def real_tokenizer():
    """A tokenizer of transformers, whose templates know the date."""
    from tokenizers import Tokenizer as Core
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    core = Core(WordLevel({"<s>": 0}, unk_token="<s>"))
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>")


def test_a_template_that_writes_the_date_gets_the_same_one_every_day(real_tokenizer):
    real_tokenizer.chat_template = DATED
    today = datetime.date.today()
    made = tea().with_chat(real_tokenizer)
    assert "26 Jul 2024" in made[0].prompt
    assert today.strftime("%d %b %Y") not in made[0].prompt
    assert "date that the template writes is fixed to 2024-07-26" in made.notes[-1]
    chosen = tea().with_chat(real_tokenizer, date=today)
    assert today.strftime("%d %b %Y") in chosen[0].prompt
    assert today.isoformat() in chosen.notes[-1]
    assert made.hash == tea().with_chat(real_tokenizer).hash != chosen.hash
    real_tokenizer.chat_template = CHATML
    assert "date" not in tea().with_chat(real_tokenizer).notes[-1]


@pytest.mark.parametrize(
    ("template", "start"),
    [
        ("\n  {% if true %}{{ strftime_now('%Y-%m-%d') }}{% endif %}\n", "\n2024-07-26"),
        ('  x{{ strftime_now("%H:%M on %d.%m.%y") }}', "  x00:00 on 26.07.24"),
        (
            "{% set f = '%B' %}{% if strftime_now is defined %}{{ strftime_now(f) }}{% endif %}",
            "July",
        ),
        ("{% macro day() %}{{ strftime_now('%d') }}{% endmacro %}{{ day() }}", "26"),
        ("{{ strftime_now('day: ' ~ '%d') }}", "2024-07-26"),
    ],
)
def test_the_rest_of_a_dated_template_is_rendered_as_it_is(real_tokenizer, template, start):
    """The expected texts are those of transformers, but for the date."""
    real_tokenizer.chat_template = template + CHATML
    assert chat_prompt(real_tokenizer, "Tea?").text.startswith(start)


ENDLESS = {
    "loop": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "writing loop": "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
    "macro": "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "doubling": "{% set ns = namespace(x='ab') %}{% for i in range(60) %}"
    "{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
    "growing list": "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}"
    "{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x | length }}",
    "power": "{{ 10 ** 10 ** 10 }}",
    "number": "{{ 'a' * 100000000000 }}",
    "range": "{% for a in range(1000000) %}{% endfor %}",
    "filters": "{% for a in range(99999) %}{{ range(99999) | map('upper') | list }}{% endfor %}",
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_template_that_does_not_end_is_stopped(real_tokenizer, kind, monkeypatch):
    monkeypatch.setattr(chat_module, "_PATIENCE", 1.0)
    monkeypatch.setattr(chat_module, "MAX_STEPS", 5_000)
    real_tokenizer.chat_template = ENDLESS[kind] + CHATML
    start = time.process_time()
    for call in (
        lambda: chat_prompt(real_tokenizer, "Tea?"),
        lambda: render_chat(real_tokenizer, [{"role": "user", "content": "Tea?"}]),
    ):
        with pytest.raises(ContrastError, match="chat template"):
            call()
    assert time.process_time() - start < 30
    assert sys.gettrace() is None


@pytest.mark.parametrize(
    "template",
    ["{{ 1 / 0 }}", "{{ nothing.at.all }}", "{% broken", "{{ messages[9].content }}", "{{ 1 + 'a' }}",
     "{{ ''.__class__.__mro__ }}", "{% include 'x' %}", "{{ messages.append(1) }}"],
)  # fmt: skip
def test_a_broken_template_gives_our_error(real_tokenizer, template):
    real_tokenizer.chat_template = template + CHATML
    with pytest.raises(ContrastError, match="refuses these turns: [A-Za-z]+Error"):
        tea().with_chat(real_tokenizer)


@pytest.mark.usefixtures("unchecked")
def test_several_turns_are_rendered_up_to_the_next_answer():
    turns = [
        {"role": "user", "content": "Tea?"},
        {"role": "assistant", "content": "Yes"},
        {"role": "user", "content": "Milk?"},
    ]
    text = render_chat(Tokenizer(CHATML), turns)
    assert text.endswith(
        "Yes<|im_end|>\n<|im_start|>user\nMilk?<|im_end|>\n<|im_start|>assistant\n"
    )
    for wrong in ([], ["Tea?"], [{"role": "user"}]):
        with pytest.raises(ContrastError, match="content"):
            render_chat(Tokenizer(CHATML), wrong)


def test_a_chat_template_that_cannot_take_the_turns_says_why():
    with pytest.raises(ContrastError, match="no system role"):
        chat_prompt(Tokenizer(LLAMA2), "Tea?", system="Be kind.")
    with pytest.raises(ContrastError, match="drops or changes the system text"):
        chat_prompt(Tokenizer(DEAF), "Tea?", system="Be kind.")
    with pytest.raises(ContrastError, match="no chat template"):
        chat_prompt(Tokenizer(None), "Tea?")
    with pytest.raises(ContrastError, match="empty"):
        chat_prompt(Tokenizer(CHATML), "  ")


# Report


def test_the_report_counts_what_the_pairs_hide():
    pairs = (
        ContrastPair("Tea?", " (A)", " (B)"),
        ContrastPair("Tea?", " (A)", " (B)"),
        ContrastPair("tea? ", " (A)", " (B)"),
        ContrastPair("Milk?", " (B)", " (A)"),
        ContrastPair("Milk?", " (A)", " (B)"),
        ContrastPair("Rum?", "  (A)", "(B)"),
    )
    report = ContrastSet("s", pairs).report
    assert (report.pairs, report.groups, report.largest_group) == (6, 3, 3)
    assert (report.duplicate_pairs, report.normalised_duplicates) == (1, 2)
    assert report.both_sides == 2
    assert dict(report.answers) == {"A": 5, "B": 1}
    text = str(report)
    for said in ("unbalanced", "positive in one pair and negative in another", "two spaces"):
        assert said in text


def test_html_of_a_set_escapes_its_texts():
    shown = ContrastSet("<b>", (ContrastPair("<script>", " a&b", " c"),))._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown
    assert "a&amp;b" in shown


# Round trip


@settings(max_examples=40, deadline=None)
@given(ROWS, st.booleans(), st.text(min_size=1, max_size=5))
def test_saving_and_loading_gives_the_same_set(tmp_path_factory, rows, paired, note):
    whole = replace(drawn(rows), paired=paired, notes=(note,), source="somewhere")
    path = whole.save(tmp_path_factory.mktemp("sets") / "set.jsonl")
    again = ContrastSet.load(path)
    assert again.hash == whole.hash
    assert (again.name, again.source, again.paired) == (whole.name, "somewhere", paired)
    assert again.pairs == whole.pairs
    assert again.notes == whole.notes


def test_line_separators_inside_texts_survive_the_round_trip(tmp_path):
    odd = ContrastPair("a\u2028b\x85c\r\n", "x\ty", 'z"', meta={"k": "\u2029"})
    path = ContrastSet("s", (odd,)).save(tmp_path / "set.jsonl")
    assert ContrastSet.load(path).pairs == (odd,)


def test_a_saved_set_that_was_edited_is_refused(tmp_path):
    path = questions().save(tmp_path / "set.jsonl")
    path.write_text(path.read_text().replace("Question 3?", "Question three?"))
    with pytest.raises(ContrastError, match="was changed after it was saved"):
        ContrastSet.load(path)


def test_a_failed_save_leaves_what_was_there(tmp_path, monkeypatch):
    path = questions(3).save(tmp_path / "set.jsonl")
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError, match="disk"):
        questions(9).save(path)
    assert path.read_bytes() == before


def test_samples_of_other_libraries_become_pairs():
    @dataclass
    class SteeringVectorTrainingSample:
        positive_str: str
        negative_str: str
        read_positive_token_index: int | None = None

    @dataclass
    class DatasetEntry:
        positive: str
        negative: str

    samples = [
        ("2 + 2 = 4", "2 + 2 = 7"),
        ("Sky:", " blue", " green"),
        SteeringVectorTrainingSample("a", "b", -1),
        DatasetEntry("c", "d"),
        ContrastPair("p", "e", "f"),
    ]
    made = ContrastSet.from_pairs(samples, name="mixed")
    assert [p.positive_text for p in made] == ["2 + 2 = 4", "Sky: blue", "a", "c", "pe"]
    with pytest.raises(ContrastError, match=r"samples\[0\]"):
        ContrastSet.from_pairs(["just text"], name="no pairs")


# In memory

ROWS_OF_A_TABLE = [("Is it?", " Yes", " No", "a"), ("Was it?", " No", " Yes", None)]


def frame() -> pd.DataFrame:
    return pd.DataFrame(ROWS_OF_A_TABLE, columns=["prompt", "positive", "negative", "topic"])


def as_polars():
    return pytest.importorskip("polars").DataFrame(frame().to_dict("list"))


def as_arrow():
    return pytest.importorskip("pyarrow").Table.from_pandas(frame())


def as_dataset():
    return pytest.importorskip("datasets").Dataset.from_pandas(frame())


TABLES = {
    "data frame": frame,
    "polars": as_polars,
    "arrow": as_arrow,
    "dataset": as_dataset,
    "dicts": lambda: frame().to_dict("records"),
    "columns": lambda: frame().to_dict("list"),
    "arrays": lambda: {name: column.to_numpy() for name, column in frame().items()},
    "generator": lambda: iter(frame().to_dict("records")),
}


@pytest.mark.parametrize("kind", TABLES)
def test_tables_in_memory_become_sets_with_a_name(kind):
    made = ContrastSet.from_pairs(TABLES[kind]())
    assert made.name == "pairs"
    assert made.hash == ContrastSet.from_pairs([row[:3] for row in ROWS_OF_A_TABLE]).hash
    assert [dict(pair.meta) for pair in made] == [{"topic": "a"}, {}]
    assert made[0].meta["topic"] == "a"


def test_a_saved_set_of_a_data_frame_is_read_back(tmp_path):
    table = frame().assign(row=[1, 2], score=[0.5, float("nan")])
    made = ContrastSet.from_pairs(table, name="table")
    assert dict(made[0].meta) == {"topic": "a", "row": "1", "score": "0.5"}
    assert ContrastSet.load(made.save(tmp_path / "set.jsonl")).pairs == made.pairs


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ("text", "samples is 'text', not a list of pairs"),
        (None, "samples is None, not a list of pairs"),
        (ContrastPair("", "a", "b"), "not a list of pairs"),
        ({"positive": ["a"], "negative": ["b", "c"]}, "is not a table.*lists of equal length"),
        ({"positive": "a", "negative": "b"}, "is not a table.*lists of equal length"),
        ([], "has no pairs"),
        ([("a", "b"), ("c",)], r"samples\[1\] is \('c',\), which is not a pair"),
        ([("a", 4)], r"samples\[0\]: negative=4 of a pair is int, not text"),
        (
            [{"positive": "a", "negative": float("nan")}],
            "negative=nan of a pair is a missing value",
        ),
        ([{"positive": "a", "negative": pd.NA}], "negative=<NA> of a pair is a missing value"),
        ([{"positive": "a", "negativ": "b"}], r"samples\[0\] is .*not a pair"),
        ([{"positive": "a", "negative": "b", "meta": 3}], "meta=3 must be a mapping"),
        ([("a", "a")], r"samples\[0\]: Both sides"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("unchecked")
def test_samples_that_are_no_pairs_are_named(samples, message):
    with pytest.raises(ContrastError, match=message):
        ContrastSet.from_pairs(samples)
