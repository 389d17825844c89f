"""Position rules choose the same tokens however a text is padded, batched or decoded."""

from typing import get_args

import numpy as np
import pytest
import torch

from steerlens.arguments import ArgumentError
from steerlens.sites import (
    Positions,
    Site,
    Stream,
    TokenBatch,
    as_positions,
    as_site,
    as_sites,
    format_sites,
)

BOS = 2
PROMPT, ANSWER = [BOS, 10, 11, 12], [13, 14]  # tokens 0-3 and 4-5 of the text
LONGER, LONGER_ANSWER = [BOS, 20, 21, 22, 23, 24, 25], [26]

CHOSEN = {
    Positions.all(): {1, 2, 3, 4, 5},
    Positions.all(special=True): {0, 1, 2, 3, 4, 5},
    Positions.last(): {3},
    Positions.from_prompt_end(): {3, 4, 5},
    Positions.generated(): {4, 5},
    Positions.answer(): {4},
    Positions.span(1, 3): {1, 2},
    Positions.span(0, 2): {1},
    Positions.span(0, 2, special=True): {0, 1},
    Positions.span(-2): {2, 3, 4, 5},
    Positions.span(-3, -1): {1, 2},
    Positions.span(-1, 5): {3, 4},
}
every_rule = pytest.mark.parametrize("rule", CHOSEN, ids=repr)


def batch_of(prompts, answers, side="left"):
    rows = [p + a for p, a in zip(prompts, answers, strict=True)]
    width = max(map(len, rows))
    tokens = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    starts = [width - len(row) if side == "left" else 0 for row in rows]
    for i, (row, start) in enumerate(zip(rows, starts, strict=True)):
        tokens[i, start : start + len(row)] = torch.tensor(row)
        mask[i, start : start + len(row)] = True
    end = torch.tensor([start + len(p) for start, p in zip(starts, prompts, strict=True)])
    return TokenBatch(tokens, mask, (tokens == BOS) & mask, end, end)


def chosen(rule, batch, row=0):
    """Which tokens of the row's own text are chosen, counted from 0."""
    return set(batch.positions[row][rule.mask(batch)[row]].tolist())


@every_rule
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_rule_chooses_the_same_tokens_alone_and_in_a_padded_batch(rule, side):
    assert chosen(rule, batch_of([PROMPT], [ANSWER], side)) == CHOSEN[rule]
    padded = batch_of([PROMPT, LONGER], [ANSWER, LONGER_ANSWER], side)
    assert chosen(rule, padded) == CHOSEN[rule]
    assert not (rule.mask(padded) & ~padded.mask).any(), "padding is never chosen"


@every_rule
def test_a_rule_chooses_the_same_tokens_one_by_one(rule):
    prompts = batch_of([PROMPT, LONGER], [[], []])
    batch, columns = prompts, [rule.mask(prompts)]
    for token in ANSWER:
        new = torch.full((2, 1), token)
        batch = batch.extended(new, torch.zeros_like(new, dtype=torch.bool), new > 0)
        assert torch.equal(rule.mask(batch)[:, :-1], torch.cat(columns, 1)), "nothing past changes"
        columns.append(rule.mask(batch)[:, -1:])
    assert chosen(rule, batch) == CHOSEN[rule]


def test_columns_after_the_end_of_a_text_are_never_chosen():
    batch = batch_of([PROMPT], [[]])
    ended = batch.extended(torch.tensor([[0]]), torch.tensor([[False]]), torch.tensor([[False]]))
    for rule in (Positions.all(), Positions.generated(), Positions.from_prompt_end()):
        assert not rule.mask(ended)[:, -1].any()


def test_positions_count_from_the_start_of_each_text():
    batch = batch_of([PROMPT, LONGER], [ANSWER, LONGER_ANSWER])
    assert batch.positions[0].tolist() == [0, 0, 0, 1, 2, 3, 4, 5]
    assert batch.positions[1].tolist() == list(range(8))


def test_repeated_rows_stay_with_their_facts():
    batch = batch_of([PROMPT, LONGER], [ANSWER, LONGER_ANSWER]).repeated(2)
    for rule in CHOSEN:
        assert chosen(rule, batch, 0) == chosen(rule, batch, 1) == CHOSEN[rule]
    assert batch.prompt_end.tolist() == [6, 6, 7, 7]


def test_reading_takes_exactly_one_token_per_text():
    batch = batch_of([PROMPT, LONGER], [ANSWER, LONGER_ANSWER], "right")
    assert Positions.last().columns(batch).tolist() == [3, 6]
    assert Positions.span(-2, -1).columns(batch).tolist() == [2, 5]
    with pytest.raises(ValueError, match="chooses 5 tokens in row 0; reading takes one"):
        Positions.all().columns(batch)
    with pytest.raises(ValueError, match="chooses 0 tokens in row 0"):
        Positions.span(6, 7).columns(batch)


def test_the_answer_rule_needs_answers():
    batch = batch_of([PROMPT], [[]])
    batch = TokenBatch(batch.tokens, batch.mask, batch.special, batch.prompt_end)
    with pytest.raises(ValueError, match=r"needs answers.*Positions\.last\(\)"):
        Positions.answer().mask(batch)


@pytest.mark.parametrize("stream", get_args(Stream))
def test_a_site_and_its_hook_name_are_the_same_thing(stream):
    assert Site.from_hook(Site(11, stream).hook) == Site(11, stream)


def test_what_leaves_one_block_enters_the_next():
    assert Site(2, "resid_post").entry == Site(3, "resid_pre").entry == 3
    assert Site(2, "attn_out").entry is None


@pytest.mark.parametrize("name", ["blocks.3.hook_z", "blocks.x.hook_resid_post", "hook_embed", ""])
def test_a_hook_that_is_no_site_is_refused(name):
    with pytest.raises(ValueError, match="is not a site.*resid_pre"):
        Site.from_hook(name)


def test_layers_count_from_zero():
    with pytest.raises(ValueError, match=r"layer=-1.*Site\(model.n_layers - 1\)"):
        Site(-1)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("layer", [np.int64(3), torch.tensor(3), np.uint8(3)], ids=repr)
def test_a_layer_of_another_library_is_the_same_site(layer):
    assert Site(layer) == Site(3)
    assert type(Site(layer).layer) is int
    assert as_site(layer) == Site(3)
    assert repr(Positions.span(layer, layer)) == "Positions.span(3, 3)"


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (8.0, r"layer=8.0 is not a whole number. Write 8\."),
        (True, "layer=True is not a whole number"),
        (None, "layer=None is not a whole number"),
        ("blocks.3.hook_resid_post", r"is text.*Site.from_hook\('blocks.3.hook_resid_post'\)"),
    ],
)
def test_a_layer_of_the_wrong_type_is_refused_at_once(layer, message):
    with pytest.raises(ArgumentError, match=message):
        Site(layer)


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_stream_is_refused():
    with pytest.raises(ArgumentError, match="stream='resid' is not a stream.*resid_pre"):
        Site(0, "resid")


SITES = {
    Site(3, "attn_out"): "blocks.3.hook_attn_out",
    Site(4, "mlp_out"): "L4 mlp_out",
    Site(12): 12,
    Site(0): Site(0),
}


def test_a_site_is_made_of_a_layer_a_hook_name_or_its_label():
    assert [as_site(value) for value in SITES.values()] == list(SITES)
    assert as_sites(SITES.values()) == tuple(SITES)
    for one in (7, "blocks.7.hook_resid_post", Site(7), np.array(7), [7], np.array([7]), {7}):
        assert as_sites(one) == (Site(7),)
    assert as_sites(np.arange(2)) == as_sites(range(2)) == as_sites(torch.arange(2))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "There is no site"),
        ([8.5], r"8.5 is not a site. Write Site\(8\)"),
        ([None], "None is not a site"),
        ("blocks.3.attn.hook_q", "is not a site that can be steered"),
        ("L3 resid", "stream='resid' is not a stream"),
        ([-1], "layers count from 0"),
        ([1, 2, Site(1), "L2 resid_post"], "Sites are given twice: layers 1, 2"),
        (range(40), r"layers 0–11, so it has no layers 12–39\. Its last layer is 11"),
        ([Site(12, "mlp_out")], "has no L12 mlp_out"),
    ],
)
def test_what_names_no_sites_of_the_model_is_refused(values, message):
    with pytest.raises(ArgumentError, match=message):
        as_sites(values, n_layers=12)


def test_many_sites_are_named_in_few_words():
    every = [Site(layer) for layer in range(30)]
    assert format_sites(every) == format_sites(every[::-1]) == "layers 0–29"
    assert format_sites([Site(layer, "mlp_out") for layer in (0, 1, 5, 6, 7)]) == (
        "layers 0, 1, 5–7 of mlp_out"
    )
    assert format_sites([]) == "none"


@pytest.mark.parametrize("rule", ["all", "last", "from_prompt_end", "generated", "answer"])
def test_a_rule_is_made_of_its_name(rule):
    assert repr(as_positions(rule)) == f"Positions.{rule}()"
    assert as_positions(as_positions(rule)) is not None


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("rule", ["span", "ALL", "", None, Positions.all, 3])
def test_what_is_no_rule_is_refused(rule):
    with pytest.raises(ArgumentError, match=r"not a rule.*'all'.*Positions.span\(start, stop\)"):
        as_positions(rule)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rule": "some"}, "rule='some' is not a rule"),
        ({"rule": "span", "start": 1.0}, "start=1.0 is not a whole number"),
        ({"rule": "span", "stop": "x"}, "stop='x' is not a whole number"),
        ({"rule": "all", "special": 1}, "special=1 is not a bool"),
    ],
)
def test_the_fields_of_a_rule_are_checked_at_once(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        Positions(**arguments)
