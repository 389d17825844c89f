"""What steering does to writing: counted right, against the unsteered texts of the same prompts."""

import json
import math
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from steerlens import plots
from steerlens.analyses.writing import text_batches as module
from steerlens.analyses.writing.judging import JudgeError
from steerlens.analyses.writing.measure_writing import writing
from steerlens.analyses.writing.writing_map import WritingMap
from steerlens.directions import Direction
from steerlens.directions.methods import DiffMean
from steerlens.interventions import Add, Together
from steerlens.measures.dose_response import dose_response
from steerlens.measures.generation import generate
from steerlens.measures.reading import activations
from steerlens.models import memory
from steerlens.models.model import Model, SteeringError
from steerlens.report.section import Figure, Paragraph
from steerlens.results import Cell, ResultError
from steerlens.sites import Positions, Site
from steerlens.store.cells import Cells
from steerlens.store.documents import read_document, write_document
from steerlens.store.files import DamagedFile
from steerlens.testbed import reviews
from steerlens.testbed.grammar import SENTENCE_ENDS
from steerlens.testbed.oracle import Oracle
from steerlens.testing import tiny_model
from tests.by_hand import PROMPTS, by_hand
from tests.planted_sets import Chosen, table
from tests.strangers import LouderHeads, Silent, low_rank

NAN = math.nan


@pytest.fixture(scope="module")
def edits():
    """One edit per layer of a tiny model."""

    def build(positions=None, layers=(0, 1, 2)):
        generator = torch.Generator().manual_seed(0)
        return [
            Add(
                Direction(torch.randn(32, generator=generator), Site(layer), resid_norm=4.0),
                positions or Positions.from_prompt_end(),
            )
            for layer in layers
        ]

    return build


@pytest.fixture(scope="module")
def world():
    """The reference model, prompts that leave room, and sentiment at two layers."""
    model = Model.load("reviews")
    read = activations(model, reviews.contexts("sentiment", 32, seed=1), progress=False)
    asked = dict.fromkeys(pair.prompt for pair in reviews.questions("sentiment", 40, seed=3))
    prompts = [prompt for prompt in asked if len(model.ids(prompt)) <= 40][:12]
    sentiment = [Add(read.direction(site, DiffMean())) for site in (Site(3), Site(6))]
    loop = model.wrapped.unembed.W_U[:, model.tokenizer.convert_tokens_to_ids("good")]
    again = Add(Direction(loop.detach().clone(), Site(7), resid_norm=1000.0))
    return SimpleNamespace(
        model=model, prompts=prompts, sentiment=sentiment, loop=again, oracle=Oracle()
    )


@pytest.fixture(scope="module")
def judge(world):
    """The reference world's own oracle: the share of finished clauses that are well-formed."""

    def well_formed(prompts: list[str], continuations: list[str]) -> list[float]:
        shares = []
        for prompt, text in zip(prompts, continuations, strict=True):
            words = f"{prompt} {text}".split()
            ends = [i + 1 for i, word in enumerate(words) if word in SENTENCE_ENDS]
            open_since = max((e for e in ends if e <= len(prompt.split())), default=0)
            new = words[open_since : max(ends, default=0)]
            shares.append(world.oracle.well_formed_share(new) if new else 0.0)
        return shares

    return well_formed


@pytest.fixture(scope="module")
def made(world, judge):
    return writing(
        world.model, world.sentiment, world.prompts, (-1.0, 0.0, 0.5, 2.0),
        judge=judge, progress=False,
    )  # fmt: skip


# Writing


def test_texts_are_those_of_a_dose_response(gpt2, edits):
    multipliers = (-2.0, 0.0, 2.0)
    made = writing(gpt2, edits(), PROMPTS, multipliers, max_new_tokens=6, progress=False)
    for i, edit in enumerate(edits()):
        table = dose_response(gpt2, edit, PROMPTS, multipliers, max_new_tokens=6, temperature=1.0)
        assert made.texts[i] == tuple(zip(*table.texts, strict=True))
    assert len({made.texts[i][j] for i in range(3) for j in range(3)}) > 5


def test_the_numbers_of_a_map_are_those_of_its_texts(gpt2, edits):
    made = writing(gpt2, edits(), PROMPTS, (0.0, 3.0), max_new_tokens=5, progress=False)
    for i, j, k in ((0, 0, 0), (1, 1, 2), (2, 1, 1)):
        expected = by_hand(gpt2, PROMPTS[k], made.tokens[i, j, k].tolist())
        assert float(made.surprisals[i, j, k]) == pytest.approx(expected, abs=2e-5)
        words = made.tokens[i, j, k][made.tokens[i, j, k] >= 0]
        prompt = gpt2.ids(PROMPTS[k])
        before, whole = (
            gpt2.tokenizer.decode(ids, skip_special_tokens=True)
            for ids in (prompt, [*prompt, *words.tolist()])
        )
        assert before + made.texts[i][j][k] == whole


@pytest.mark.parametrize("rows", [1, 4])
def test_the_size_of_a_batch_changes_no_text(gpt2, edits, monkeypatch, rows):
    options = {"max_new_tokens": 5, "progress": False}
    whole = writing(gpt2, edits(layers=(1,)), PROMPTS, (-1.0, 0.0, 2.0), **options)
    monkeypatch.setattr(module, "ROWS", rows)
    parts = writing(gpt2, edits(layers=(1,)), PROMPTS, (-1.0, 0.0, 2.0), **options)
    assert whole.texts == parts.texts
    assert torch.equal(whole.tokens, parts.tokens)
    torch.testing.assert_close(whole.surprisals, parts.surprisals, atol=2e-5, rtol=1e-5)


def test_free_memory_changes_no_bit_and_no_unit(gpt2, edits, monkeypatch, tmp_path):
    """Two machines with different memory write identical files."""

    def run(free: int, folder):
        monkeypatch.setattr(memory, "free_bytes", lambda device: free)
        rows = []
        real = module.generated_tokens
        with monkeypatch.context() as patched:
            patched.setattr(
                module, "generated_tokens",
                lambda m, prompts, **o: rows.append(len(prompts)) or real(m, prompts, **o),
            )  # fmt: skip
            made = writing(
                gpt2, edits(), PROMPTS, (-1.0, 0.0, 2.0), max_new_tokens=6, progress=False,
                cells=Cells(folder / "cells", "writing"),
            )  # fmt: skip
        made.save(folder)
        return rows, {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*.*")}

    monkeypatch.setattr(module, "ROWS", 6)
    (rows, files), (other_rows, others) = run(2**40, tmp_path / "a"), run(1, tmp_path / "b")
    assert rows == other_rows == [3, 6, 6, 6]
    assert files == others
    assert sum("cells" in path.parts for path in files) == 4
    monkeypatch.setattr(module, "ROWS", 256)
    assert module.batch_rows(gpt2, PROMPTS, 6) == 256
    monkeypatch.setattr(module, "BATCH_BYTES", {"cpu": 1})
    assert module.batch_rows(gpt2, PROMPTS, 6) == 1


def test_running_out_of_memory_halves_the_chunks(gpt2, edits, monkeypatch):
    whole = writing(
        gpt2, edits(layers=(1,)), PROMPTS, (0.0, 1.0, 2.0), max_new_tokens=4, progress=False
    )
    sizes, real = [], module.generated_tokens

    def small(model, prompts, **options):
        sizes.append(len(prompts))
        if len(prompts) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(model, prompts, **options)

    monkeypatch.setattr(module, "generated_tokens", small)
    parts = writing(
        gpt2, edits(layers=(1,)), PROMPTS, (0.0, 1.0, 2.0), max_new_tokens=4, progress=False
    )
    assert whole.texts == parts.texts
    assert {9, 4, 2} <= set(sizes)


def test_other_errors_are_not_taken_for_missing_memory(gpt2, edits, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(module, "generated_tokens", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        writing(gpt2, edits(), PROMPTS, (0.0, 1.0), progress=False)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_texts_of_several_interventions_in_one_batch_are_those_of_each_alone(
    tiny, edits, monkeypatch, temperature
):
    made, sizes, real = {}, [], module.generated_tokens
    monkeypatch.setattr(
        module, "generated_tokens",
        lambda m, prompts, **o: sizes.append(len(prompts)) or real(m, prompts, **o),
    )  # fmt: skip
    for rows in (3, 10, 256):
        monkeypatch.setattr(module, "ROWS", rows)
        sizes.clear()
        made[rows] = writing(
            tiny, [*edits(), low_rank(tiny, 1)], PROMPTS, (-2.0, 0.0, 2.0), max_new_tokens=5,
            temperature=temperature, progress=False,
        )  # fmt: skip
        assert sizes == {3: 9 * [3], 10: [9, 6, 6, 3, 3], 256: [21, 3, 3]}[rows]
        assert torch.equal(made[rows].tokens, made[3].tokens)
        torch.testing.assert_close(made[rows].surprisals, made[3].surprisals, atol=2e-5, rtol=1e-5)
    assert not torch.equal(made[3].tokens[0, 0], made[3].tokens[1, 0]), "the edits do something"


def test_the_unsteered_texts_are_written_once_for_all_rows(gpt2, edits, monkeypatch):
    monkeypatch.setattr(module, "ROWS", 3)
    unsteered, real = [], module.generated_tokens

    def counted(model, prompts, **options):
        unsteered.append(not model.attached)
        return real(model, prompts, **options)

    monkeypatch.setattr(module, "generated_tokens", counted)
    made = writing(gpt2, edits(), PROMPTS, (0.0, 1.0), max_new_tokens=3, progress=False)
    assert unsteered == [True, False, False, False]
    assert made.texts[0][0] == made.texts[1][0] == made.texts[2][0]


def test_columns_may_come_in_any_order(gpt2, edits):
    one = writing(gpt2, edits(), PROMPTS, (2.0, 0.0, -1.0), max_new_tokens=4, progress=False)
    other = writing(gpt2, edits(), PROMPTS, (-1.0, 0.0, 2.0), max_new_tokens=4, progress=False)
    assert one.texts == tuple(tuple(reversed(row)) for row in other.texts)


def test_bridges_write_and_score_as_well(tiny_bridge_model, edits):
    made = writing(
        tiny_bridge_model, edits(layers=(1,)), PROMPTS, (0.0, 2.0), max_new_tokens=3, progress=False
    )
    expected = by_hand(tiny_bridge_model, PROMPTS[0], made.tokens[0, 1, 0].tolist())
    assert float(made.surprisals[0, 1, 0]) == pytest.approx(expected, abs=2e-5)


# Texts that end at once


@pytest.fixture(scope="module")
def ending():
    """A model whose every text ends before it begins."""
    model = Model(tiny_model("llama"))
    model.wrapped.unembed.b_U.data[model.tokenizer.eos_token_id] += 50.0
    return model


@pytest.mark.parametrize("rule", [Positions.from_prompt_end(), Positions.generated()], ids=repr)
def test_texts_that_end_at_once_are_one_token_long_and_empty(ending, edits, rule):
    made = writing(ending, edits(rule), PROMPTS, (0.0, 0.1), max_new_tokens=4, progress=False)
    eos = ending.tokenizer.eos_token_id
    assert bool(made.empty.all()) and bool(made.ended.all())
    assert bool((made.lengths == 1).all())
    assert float(made.surprisals[0, 0, 1]) == pytest.approx(by_hand(ending, "you", [eos]), abs=1e-4)
    for quantity in ("repeated", "distinct", "compression"):
        assert bool(made.values(quantity).isnan().all())
        assert bool(made.change(quantity).mean.isnan().all())
        assert int(made.change(quantity).pairs.max()) == 0
    assert float(made.change("length").mean.abs().max()) == 0
    assert "Empty texts: 3 of 3 unsteered" in made.summary()
    assert "fewer than two prompts have it" in made.summary()
    assert "Empty texts" in made.plot().layout.title.text
    json.loads(made.plot("repeated").to_json())
    assert "(empty)" in str(made.sample((1, 0.1)))


def test_steering_that_can_edit_nothing_still_raises(gpt2, edits):
    with pytest.raises(SteeringError, match="chose no token of these texts"):
        writing(
            gpt2, edits(Positions.generated()), PROMPTS, (0.0, 1.0), max_new_tokens=1,
            progress=False,
        )  # fmt: skip


def test_a_model_without_an_end_writes_to_the_limit(edits):
    model = Model(tiny_model("gpt2"))
    model.tokenizer.eos_token = None
    assert model.tokenizer.eos_token_id is None
    made = writing(model, edits(), PROMPTS, (0.0, 1.0), max_new_tokens=4, progress=False)
    assert not bool(made.ended.any())
    assert bool((made.lengths == 4).all())


# What steering does, on the reference model


def test_unsteered_cells_differ_by_exactly_nothing(made):
    for quantity in made.quantities:
        mean, low, high, _ = made.change(quantity)
        for part in (mean, low, high):
            assert bool((part[:, 1] == 0).all()), quantity


def test_strong_steering_makes_texts_unlikely(made):
    mean, low, _, pairs = made.change("surprisal")
    assert bool((low[:, 0] > 0.2).all()) and bool((low[:, 3] > 0.5).all())
    assert bool((mean[:, 3] > mean[:, 2]).all())
    assert int(pairs.min()) == len(made.prompts)
    assert bool((made.perplexities.log() - made.surprisals < 1e-4).all())


def test_a_loop_is_seen_without_a_judge(world):
    """Steering along the unembedding of one word writes that word for ever."""
    made = writing(
        world.model, [world.loop], world.prompts, (0.0, 2.0), temperature=0.0, progress=False
    )
    assert {tuple(text.split()) for text in made.texts[0][1]} == {("good",) * 24}
    assert float(made.values("repeated")[0, 1].min()) > 0.9
    assert float(made.values("repeated")[0, 0].mean()) < 0.2
    for quantity, bound in (("repeated", 0.5), ("compression", 4.0)):
        assert float(made.change(quantity).low[0, 1]) > bound, quantity
    for quantity, bound in (("distinct", -0.49), ("variety", -0.1)):
        assert float(made.change(quantity).high[0, 1]) < bound, quantity
    assert "L7 resid_post at multiplier +2" in made.summary()


def test_the_oracle_can_judge(made):
    _, _, high, _ = made.change("judged")
    assert float(made.judged[:, 1].mean()) > 0.8
    assert bool((high[:, 3] < -0.2).all())
    assert made.made_by["judge"] == "well_formed"
    assert "judge's score" in made.summary()


def test_samples_stand_beside_the_unsteered_texts(made):
    shown = made.sample((6, 2.0), n=3)
    assert shown.prompts == made.prompts[:3]
    assert shown.unsteered == made.texts[1][1][:3]
    assert shown.steered == made.texts[1][3][:3]
    assert shown.numbers["surprisal"][2] == (
        float(made.surprisals[1, 1, 2]),
        float(made.surprisals[1, 3, 2]),
    )
    assert str(shown).startswith("L6 resid_post at multiplier +2\n")
    assert made.sample(Cell("L6 resid_post", 2.0, Site(6)), n=3) == shown
    assert len(made.sample((6, 2.0), n=None).prompts) == len(made.prompts)


def test_samples_show_text_and_never_run_it(made):
    cell = tuple(("<b>x</b>",) + texts[1:] for texts in made.texts[0])
    shown = replace(made, texts=(cell, *made.texts[1:])).sample((3, 2.0), 1)
    assert "<b>x" not in shown._repr_html_()
    assert "&lt;b&gt;x" in shown._repr_html_()


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ((5, 2.0), "5 is not one of the rows"),
        ((6, 1.0), "Multiplier 1 was not measured"),
        (Cell("L6 resid_pre", 2.0, Site(6, "resid_pre")), "'L6 resid_pre' is not one of the rows"),
    ],
)
def test_cells_that_are_not_there_are_refused(made, cell, message):
    with pytest.raises(ValueError, match=message):
        made.sample(cell)


def test_figures_hold_the_numbers(made):
    figure = made.plot()
    assert [a.text for a in figure.layout.annotations] == [
        "surprisal (nats per token)", "repeated 4-grams (share)", "distinct tokens (share)",
        "distinct 2-grams of all texts (share)",
    ]  # fmt: skip
    heat = [trace for trace in figure.data if trace.name == "changes"]
    torch.testing.assert_close(torch.tensor(heat[0].z), made.change("surprisal").mean)
    assert [trace.reversescale for trace in heat] == [False, False, True, True]
    assert "surprisal changes by" in heat[0].hovertext[1][3]
    assert "12 of 12 prompts have it" in heat[0].hovertext[1][3]
    for quantity in made.quantities:
        json.loads(made.plot(quantity).to_json())


# Numbers that texts do not have


def test_prompts_without_a_number_are_left_out_and_counted(made):
    """Two texts too short for a 4-gram, on the steered side of one cell."""
    tokens = made.tokens.clone()
    tokens[0, 3, :2, 3:] = -1
    ended = made.ended.clone()
    ended[0, 3, :2] = False
    short = replace(made, tokens=tokens, ended=ended)
    assert bool(short.repeated[0, 3, :2].isnan().all())
    change = short.change("repeated")
    assert int(change.pairs[0, 3]) == int(made.change("repeated").pairs[0, 3]) - 2
    both = short.repeated[0, 3] - short.repeated[0, 1]
    assert float(change.mean[0, 3]) == pytest.approx(float(both.nanmean()), abs=1e-6)
    assert float(change.low[0, 3]) <= float(change.mean[0, 3]) <= float(change.high[0, 3])


def test_parts_that_do_not_fit_each_other_are_refused(made):
    with pytest.raises(ValueError, match=r"texts has shape \(1, 4, 12\); 2 rows"):
        replace(made, texts=made.texts[:1])
    with pytest.raises(ValueError, match=r"texts has shape \(\)"):
        replace(made, texts=(made.texts[0][:2], *made.texts[1:]))
    with pytest.raises(ValueError, match="must hold 0 once"):
        replace(made, multipliers=made.multipliers + 7)
    with pytest.raises(ValueError, match="write them with judge"):
        replace(made, judged=None).values("judged")


# Judges


@pytest.mark.parametrize(
    ("scores", "text"),
    [
        ([1.0, 2.0], "returned 2 scores for 3 texts"),
        ([1.0, NAN, 2.0], "returned nan for the text"),
        ([1.0, 2.0, math.inf], "returned inf for the text"),
        ([1.0, None, 2.0], "returned None for the text"),
        (["0.5", 1.0, 2.0], "returned '0.5' for the text"),
    ],
)
def test_judges_that_do_not_judge_every_text_are_refused(gpt2, edits, scores, text):
    with pytest.raises(JudgeError, match=text):
        writing(
            gpt2, edits(), PROMPTS, (0.0, 1.0), max_new_tokens=3, progress=False,
            judge=lambda prompts, continuations: scores,
        )  # fmt: skip


def test_a_judge_reads_every_text_with_its_prompt_once(gpt2, edits):
    read = []

    def judge(prompts, continuations):
        read.append(list(zip(prompts, continuations, strict=True)))
        return [len(text) for text in continuations]

    made = writing(
        gpt2, edits(), PROMPTS, (0.0, 1.0, 2.0), max_new_tokens=4, progress=False, judge=judge
    )
    assert [len(batch) for batch in read] == [3, 6, 6, 6]
    for i in range(3):
        pairs = [(p, t) for texts in made.texts[i][1:] for p, t in zip(PROMPTS, texts, strict=True)]
        assert read[i + 1] == pairs
    lengths = [[[len(text) for text in cell] for cell in row] for row in made.texts]
    assert made.judged.tolist() == lengths


# Resuming and files


def test_a_killed_run_goes_on_where_it_was(gpt2, edits, monkeypatch, tmp_path):
    calls = []

    def judge(prompts, continuations):
        calls.append(len(prompts))
        return [float(len(text)) for text in continuations]

    monkeypatch.setattr(module, "ROWS", 3)
    options = {"max_new_tokens": 4, "progress": False, "judge": judge}
    options["cells"] = Cells(tmp_path, "writing")
    whole = writing(gpt2, edits(), PROMPTS, (0.0, 1.0), **options)
    held = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*.*")}
    assert {(path.parent.name, path.stem) for path in held} == {
        (name, f"{k:06d}") for name in ("written", "judged") for k in range(4)
    }
    for name in ("written", "judged"):  # the run was killed before its second intervention
        (tmp_path / name / "000002.safetensors").unlink()
    calls.clear()
    real, written = module.generated_tokens, []
    monkeypatch.setattr(
        module, "generated_tokens",
        lambda *given, **named: written.append(1) or real(*given, **named),
    )  # fmt: skip
    again = writing(gpt2, edits(), PROMPTS, (0.0, 1.0), **options)
    assert (len(written), calls) == (1, [3])
    assert again.texts == whole.texts
    assert torch.equal(again.judged, whole.judged)
    assert torch.equal(again.surprisals, whole.surprisals)
    assert held == {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*.*")}


def test_cells_of_another_run_are_refused(gpt2, edits, tmp_path):
    options = {"max_new_tokens": 4, "progress": False, "cells": Cells(tmp_path, "writing")}
    writing(gpt2, edits(), PROMPTS, (0.0, 1.0), **options)
    for change in ({"max_new_tokens": 5}, {"seed": 1}, {"temperature": 0.5}):
        with pytest.raises(DamagedFile, match="is another file"):
            writing(gpt2, edits(), PROMPTS, (0.0, 1.0), **options | change)
    with pytest.raises(DamagedFile, match="is another file"):
        writing(gpt2, edits(layers=(1, 0, 2)), PROMPTS, (0.0, 1.0), **options)


@pytest.mark.parametrize("judged", [True, False])
def test_a_map_comes_back_from_disk_as_it_was(made, tmp_path, judged):
    if not judged:
        made = replace(made, judged=None)
    folder = made.save(tmp_path / "run")
    found = WritingMap.load(folder)
    assert (found.rows, found.sites) == (made.rows, made.sites)
    assert (found.prompts, found.texts) == (made.prompts, made.texts)
    assert found.made_by == made.made_by
    for name in ("multipliers", "tokens", "ended", "surprisals", "judged"):
        one, other = getattr(found, name), getattr(made, name)
        assert (one is None and other is None) or torch.equal(one, other), name
    assert found.summary() == made.summary()
    rows = table(folder / "writing.csv")
    assert len(rows) == 2 * 4
    cell = rows[4 + 3]
    assert [cell[name] for name in ("row", "layer", "stream", "multiplier", "prompts")] == [
        "L6 resid_post", "6", "resid_post", "2.0", "12",
    ]  # fmt: skip
    written = float(cell["surprisal_change"])
    assert written == pytest.approx(float(made.change("surprisal").mean[1, 3]), rel=1e-4)
    assert int(cell["empty"]) == int(made.empty[1, 3].sum())
    assert ("judged" in cell) == judged


def test_damaged_folders_are_refused(made, tmp_path):
    with pytest.raises(ResultError, match="holds no finished writing"):
        WritingMap.load(tmp_path)
    folder = made.save(tmp_path)
    described = read_document(folder / "writing.json")
    described["fields"]["prompts"] = described["fields"]["prompts"][:3]
    write_document(folder / "writing.json", described)
    with pytest.raises(ResultError, match="and 3 prompts need"):
        WritingMap.load(folder)


# What is refused before any work


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"prompts": ["you"]}, "1 prompts, 1 of them different"),
        ({"prompts": "you"}, "1 prompts, 1 of them different"),
        ({"prompts": ["you", "cat", "you"]}, "no prompt twice"),
        ({"max_new_tokens": 0}, "max_new_tokens=0 is too small"),
        ({"max_new_tokens": 60}, "Prompt 0 has 9 tokens; with 60 .* Use max_new_tokens=55"),
        ({"multipliers": (1.0, 2.0)}, "has no 0.0, which is the unsteered model"),
        ({"multipliers": (0.0,)}, "no strength other than 0.0"),
        ({"multipliers": (0.0, 1.0, 1.0)}, "holds a strength twice"),
        ({"multipliers": (0.0, NAN)}, "not all finite"),
        ({"temperature": -1.0}, "temperature=-1.0 is negative"),
    ],
)  # fmt: skip
def test_impossible_requests_are_refused(gpt2, edits, change, text):
    given = {"prompts": PROMPTS, "multipliers": (0.0, 1.0), "progress": False} | change
    with pytest.raises(ValueError, match=text):
        writing(gpt2, edits(), **given)


def test_rows_without_a_name_are_refused(gpt2, edits):
    with pytest.raises(ValueError, match="There are no interventions"):
        writing(gpt2, [], PROMPTS, (0.0, 1.0))
    with pytest.raises(ValueError, match="Name them"):
        writing(gpt2, [*edits(), *edits()], PROMPTS, (0.0, 1.0))
    with pytest.raises(ValueError, match="Layer 7 is not in 'tiny-gpt2'"):
        writing(gpt2, edits(layers=(7,)), PROMPTS, (0.0, 1.0))


# Interventions of any kind


def test_several_edits_together_are_a_row(gpt2, edits):
    rows = {"both": Together(tuple(edits(layers=(0, 1)))), "first": edits(layers=(0,))[0]}
    made = writing(gpt2, rows, PROMPTS, (0.0, 2.0), max_new_tokens=4, progress=False)
    assert made.rows == ("both", "first") and made.sites == (None, Site(0)) and made.layers is None
    with rows["both"].attach(gpt2, 2.0):
        expected = generate(gpt2, PROMPTS, max_new_tokens=4, temperature=1.0)
    assert list(made.texts[0][1]) == expected


@pytest.mark.parametrize("stranger", ["weights", "weights, silent", "heads"])
def test_a_strangers_intervention_writes_what_it_writes_by_itself(gpt2, edits, tmp_path, stranger):
    """Attached once per multiplier or once for all rows: the draws of a prompt are the same."""
    lora = low_rank(gpt2, 1, share=1.0)
    one = {"weights": lora, "weights, silent": Silent(lora), "heads": LouderHeads(1)}[stranger]
    multipliers = (-2.0, 0.0, 1.0, 2.0)
    made = writing(
        gpt2, {"it": one, "add": edits(layers=(1,))[0]}, PROMPTS, multipliers, max_new_tokens=6,
        progress=False, seed=3,
    )  # fmt: skip
    assert made.rows == ("it", "add") and made.sites == (None, Site(1))
    for j, m in enumerate(multipliers):
        with one.attach(gpt2, m):
            alone = generate(gpt2, PROMPTS, max_new_tokens=6, temperature=1.0, seed=3)
        assert list(made.texts[0][j]) == alone
    assert len({made.texts[0][j] for j in range(4)}) == 4
    assert made.texts[0][1] == made.texts[1][1]
    expected = by_hand(gpt2, PROMPTS[0], made.tokens[0, 3, 0].tolist())
    assert float(made.surprisals[0, 3, 0]) == pytest.approx(expected, abs=2e-5)
    loaded = WritingMap.load(made.save(tmp_path))
    assert loaded.texts == made.texts and loaded.summary() == made.summary()
    assert made.made_by["positions"] is None and made.made_by["unit"] is None
    figure = made.plot()
    json.loads(figure.to_json())
    assert figure.layout.yaxis.ticktext[-1] == "it"  # the first row is on top
    assert str(made.sample(("it", 2.0))).startswith("it at multiplier +2")


def test_one_multiplier_at_a_time_writes_the_same_as_one_per_row(gpt2, edits, monkeypatch):
    options = {"max_new_tokens": 6, "progress": False}
    per_row = writing(gpt2, edits(), PROMPTS, (-2.0, 0.0, 2.0), **options)
    monkeypatch.setattr(module, "takes_rows", lambda edit: False)
    one_by_one = writing(gpt2, edits(), PROMPTS, (-2.0, 0.0, 2.0), **options)
    assert torch.equal(one_by_one.tokens, per_row.tokens)
    torch.testing.assert_close(one_by_one.surprisals, per_row.surprisals, atol=2e-5, rtol=1e-5)


def test_an_intervention_that_does_not_fit_is_refused_before_any_text(gpt2, monkeypatch):
    wrong = replace(low_rank(gpt2, 1), layer=9)
    monkeypatch.setattr(module, "generated_tokens", None)
    with pytest.raises(ValueError, match="Make it for this model"):
        writing(gpt2, {"lora": wrong}, PROMPTS, (0.0, 1.0), progress=False)


# What the page and the summary of a run say


def test_the_section_tells_what_the_recommended_cell_does(made):
    text, figure = made.section({"map": Chosen("L6 resid_post", 2.0)}).blocks
    change = made.change("surprisal").at(1, 3)
    assert isinstance(text, Paragraph) and f"+{change.value:.3g} [" in text.text
    assert isinstance(figure, Figure) and figure.draw().data
    (alone, _) = made.section({}).blocks
    assert isinstance(alone, Paragraph) and "chosen cell" not in alone.text
    said = made.run_summary({"map": Chosen("L6 resid_post", 2.0)})
    assert str(change) in said and said.startswith("  writing")
    assert made.run_summary({}) == ""


# The figure


def test_panels_mark_what_is_uncertain_and_what_is_missing():
    band = ([[0.0, 2.0], [NAN, 0.1]], [[0.0, 1.0], [NAN, -0.1]], [[0.0, 3.0], [NAN, 0.3]])
    figure = plots.change_panels(
        {"a": band}, rows=[0, 1], columns=[0, 1], units={"a": "nats"}, title="t"
    )
    points = [t for t in figure.data if t.type == "scatter" and t.mode == "markers"]
    dots = next(t for t in points if list(t.x) != [None])
    assert (len(dots.x), round(dots.y[0])) == (1, 1)  # layer 1 only: layer 0 holds no 0 or no width
    assert {t.name for t in figure.data if t.showlegend} == {
        "not measured", "95% interval of the cell by itself holds 0",
    }  # fmt: skip
    assert figure.data[0].z[1][0] is None


def test_what_no_cell_changes_has_no_panel_and_is_named(made):
    repeated = made.change("repeated")
    still = replace(made, made_by={})
    still._changes["repeated"] = repeated._replace(mean=torch.zeros_like(repeated.mean))
    figure = still.plot()
    titles = [a.text for a in figure.layout.annotations]
    assert len(titles) == 3 and not any("repeated" in title for title in titles)
    words = re.sub("<[^>]+>", " ", figure.layout.title.text).split()
    assert " ".join(words).endswith("No cell changes repeated 4-grams.")
    assert [axis.visible for axis in figure.select_yaxes()].count(False) == 1


def test_panels_do_not_blow_up_noise():
    band = tuple([[x, 0.0]] for x in (0.001, -0.01, 0.01))
    options = {"rows": [0], "columns": [1, 2], "units": {"a": "share"}, "title": "t"}
    assert plots.change_panels({"a": band}, **options).data[0].zmax == 0.001
    assert plots.change_panels({"a": band}, least={"a": 0.1}, **options).data[0].zmax == 0.1


def test_panels_that_cannot_be_drawn_are_refused():
    options = {"rows": [0], "columns": [1, 2], "units": {"a": "share"}, "title": "t"}
    with pytest.raises(ValueError, match="changes is empty"):
        plots.change_panels({}, **options)
    with pytest.raises(ValueError, match="does not fit 1 rows x 2 columns"):
        plots.change_panels({"a": ([[1.0]], [[1.0]], [[1.0]])}, **options)
