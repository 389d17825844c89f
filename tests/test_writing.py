"""What steered writing costs: counted right, against the unsteered texts of the same prompts."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from steerlens import plots
from steerlens.analyses.writing import measure_writing as module
from steerlens.analyses.writing.measure_writing import JudgeError, writing
from steerlens.analyses.writing.writing_map import WritingMap
from steerlens.directions import Direction
from steerlens.directions.methods import DiffMean
from steerlens.interventions import Add, Together
from steerlens.measures.generation import dose_response
from steerlens.measures.reading import activations
from steerlens.measures.surprisal import surprisal
from steerlens.models.model import Model, SteeringError
from steerlens.results import Cell
from steerlens.sites import Positions, Site
from steerlens.store.result_files import ResultError
from steerlens.testbed import reviews
from steerlens.testbed.grammar import SENTENCE_ENDS
from steerlens.testbed.oracle import Oracle
from steerlens.testing import tiny_model

PROMPTS = ["the cat sat on the bed and ran", "you", "I think the good soup was"]
WRITTEN = [
    [[20, 31, 42, 53], [61, -1, -1, -1]],
    [[3, -1, -1, -1], [20, 20, 3, -1]],
    [[99, 17, 3, -1], [5, 6, 7, 8]],
]
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


def by_hand(model, prompt: str, text: list[int]) -> float:
    """The mean of each written token's negative log-probability, one text at a time."""
    before, new = model.ids(prompt), [token for token in text if token >= 0]
    with torch.no_grad():
        logits = model.wrapped(torch.tensor([before + new], device=model.device))[0].float()
    log_probs = torch.log_softmax(logits[len(before) - 1 : -1], -1)
    return -float(log_probs.gather(-1, torch.tensor(new)[:, None]).mean())


def check_surprisal(model):
    expected = torch.tensor(
        [[by_hand(model, p, t) for t in texts] for p, texts in zip(PROMPTS, WRITTEN, strict=True)]
    )
    for rows in (256, 2):
        found = surprisal(model, PROMPTS, torch.tensor(WRITTEN), rows=rows)
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)
    assert float(expected.std()) > 0.1


# How likely texts are


def test_surprisal_equals_one_forward_pass_per_text(tiny):
    check_surprisal(tiny)


def test_surprisal_equals_one_forward_pass_per_text_with_hooks(tiny, monkeypatch):
    monkeypatch.setattr(Model, "kernel", lambda self: None)
    check_surprisal(tiny)


def test_surprisal_equals_one_forward_pass_per_text_on_a_bridge(tiny_bridge_model):
    check_surprisal(tiny_bridge_model)


def test_surprisal_of_the_shortest_prompt(gpt2):
    """One token (BOS) leaves no prefix to share."""
    alone = Model(gpt2.wrapped, prepend_bos=False)
    found = surprisal(alone, ["you", "cat"], torch.tensor([[[20, 31]], [[42, -1]]]))
    expected = torch.tensor([[by_hand(alone, "you", [20, 31])], [by_hand(alone, "cat", [42])]])
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)


def test_a_users_own_hook_belongs_to_the_unsteered_model(gpt2):
    plain = surprisal(gpt2, PROMPTS, torch.tensor(WRITTEN))
    with gpt2.wrapped.hooks(fwd_hooks=[(Site(1).hook, lambda resid, hook: resid * -2)]):
        hooked = surprisal(gpt2, PROMPTS, torch.tensor(WRITTEN))
        expected = by_hand(gpt2, PROMPTS[0], WRITTEN[0][0])
    assert float(hooked[0, 0]) == pytest.approx(expected, abs=2e-5)
    assert abs(float(plain[0, 0]) - expected) > 0.01


def test_steered_models_are_not_asked_about_their_own_texts(gpt2, edits):
    with pytest.raises(SteeringError, match="the model is not unsteered"), \
            edits()[0].attach(gpt2, 1.0):  # fmt: skip
        surprisal(gpt2, PROMPTS, torch.tensor(WRITTEN))
    with pytest.raises(SteeringError, match="the model is not unsteered"), \
            edits()[0].attach(gpt2, 1.0):  # fmt: skip
        writing(gpt2, edits(), PROMPTS, (0.0, 1.0))


@pytest.mark.parametrize(
    ("prompts", "written", "text"),
    [
        (PROMPTS, [[[20, -1, 31]]] * 3, "goes on after -1"),
        (PROMPTS, [[[-1, -1]]] * 3, "at least one token"),
        (PROMPTS, [[[20]]] * 2, "3 prompts for texts of 2"),
        (PROMPTS, [[[20] * 60]] * 3, "have 69 tokens and the context of 'tiny-gpt2' is 64"),
    ],
)
def test_texts_that_cannot_be_scored_are_refused(gpt2, prompts, written, text):
    with pytest.raises(ValueError, match=text):
        surprisal(gpt2, prompts, torch.tensor(written))


def test_nan_is_refused_not_averaged():
    model = Model(tiny_model("gpt2", n_layers=1))
    model.wrapped.unembed.b_U.data[7] = NAN
    with pytest.raises(ValueError, match="text 0 after prompt 0 are NaN"):
        surprisal(model, PROMPTS, torch.tensor(WRITTEN))


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
        assert gpt2.tokenizer.decode(words, skip_special_tokens=True) == made.texts[i][j][k]


@pytest.mark.parametrize("rows", [1, 4])
def test_chunks_change_nothing(gpt2, edits, rows):
    options = {"max_new_tokens": 5, "progress": False}
    whole = writing(gpt2, edits(layers=(1,)), PROMPTS, (-1.0, 0.0, 2.0), **options)
    parts = writing(gpt2, edits(layers=(1,)), PROMPTS, (-1.0, 0.0, 2.0), rows=rows, **options)
    assert whole.texts == parts.texts
    assert torch.equal(whole.tokens, parts.tokens)
    torch.testing.assert_close(whole.surprisals, parts.surprisals, atol=2e-5, rtol=1e-5)


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
    assert {6, 3, 1} <= set(sizes)


def test_other_errors_are_not_taken_for_missing_memory(gpt2, edits, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(module, "generated_tokens", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        writing(gpt2, edits(), PROMPTS, (0.0, 1.0), progress=False)


def test_the_unsteered_texts_are_written_once_for_all_sites(gpt2, edits, monkeypatch):
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
    for quantity in made.kinds:
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
    for quantity, bound in (("distinct", -0.5), ("variety", -0.1)):
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
    assert made.sample(Cell(str(Site(6)), 2.0, Site(6)), n=3) == shown
    assert len(made.sample((6, 2.0), n=None).prompts) == len(made.prompts)


def test_samples_show_text_and_never_run_it(made):
    cell = tuple(("<b>x</b>",) + texts[1:] for texts in made.texts[0])
    shown = replace(made, texts=(cell, *made.texts[1:])).sample((3, 2.0), 1)
    assert "<b>x" not in shown._repr_html_()
    assert "&lt;b&gt;x" in shown._repr_html_()


@pytest.mark.parametrize(
    "cell", [(5, 2.0), (6, 1.0), Cell("L6 resid_pre", 2.0, Site(6, "resid_pre"))]
)
def test_cells_that_are_not_there_are_refused(made, cell):
    with pytest.raises(ValueError, match="is no cell of this map"):
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
    for quantity in made.kinds:
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
    with pytest.raises(ValueError, match=r"texts has shape \(1, 4, 12\); 2 sites"):
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


def test_a_killed_run_goes_on_where_it_was(gpt2, edits, monkeypatch):
    held, calls = {}, []

    def judge(prompts, continuations):
        calls.append(len(prompts))
        return [float(len(text)) for text in continuations]

    def done(name, where, values):
        held[name, where.start, where.stop] = values.clone()

    def have(name, where):
        return held.get((name, where.start, where.stop))

    options = {"max_new_tokens": 4, "progress": False, "judge": judge}
    whole = writing(gpt2, edits(), PROMPTS, (0.0, 1.0), done=done, **options)
    assert set(held) == {(name, k, k + 1) for name in ("written", "judged") for k in range(4)}
    assert held["written", 0, 1].shape == (1, 3, 4)
    for name in ("written", "judged"):
        del held[name, 2, 3]  # the run was killed before its second intervention
    calls.clear()
    real, written = module.generated_tokens, []
    monkeypatch.setattr(
        module, "generated_tokens",
        lambda *given, **named: written.append(1) or real(*given, **named),
    )  # fmt: skip
    again = writing(gpt2, edits(), PROMPTS, (0.0, 1.0), done=done, have=have, **options)
    assert (len(written), calls) == (1, [3])
    assert again.texts == whole.texts
    assert torch.equal(again.judged, whole.judged)
    torch.testing.assert_close(again.surprisals, whole.surprisals)


def test_cells_of_another_run_are_refused(gpt2, edits):
    with pytest.raises(ValueError, match="It is of another run"):
        writing(
            gpt2, edits(), PROMPTS, (0.0, 1.0), max_new_tokens=4, progress=False,
            have=lambda name, where: torch.zeros(1, 2, 4),
        )  # fmt: skip


@pytest.mark.parametrize("judged", [True, False])
def test_a_map_comes_back_from_disk_as_it_was(made, tmp_path, judged):
    if not judged:
        made = replace(made, judged=None)
    folder = made.save(tmp_path / "run")
    found = WritingMap.load(folder)
    assert (found.sites, found.prompts, found.texts) == (made.sites, made.prompts, made.texts)
    assert found.made_by == made.made_by
    for name in ("multipliers", "tokens", "ended", "surprisals", "judged"):
        one, other = getattr(found, name), getattr(made, name)
        assert (one is None and other is None) or torch.equal(one, other), name
    assert found.summary() == made.summary()
    rows = (folder / "writing.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 4
    heads, cell = rows[0].split(","), rows[1 + 4 + 3].split(",")
    assert cell[:3] == ["6", "resid_post", "2"]
    written = float(cell[heads.index("surprisal_change")])
    assert written == pytest.approx(float(made.change("surprisal").mean[1, 3]), rel=1e-4)
    assert ("judged" in heads) == judged


def test_damaged_folders_are_refused(made, tmp_path):
    with pytest.raises(ResultError, match="holds no finished writing"):
        WritingMap.load(tmp_path)
    folder = made.save(tmp_path)
    meta = json.loads((folder / "writing.json").read_text())
    meta["extra"]["prompts"] = meta["extra"]["prompts"][:3]
    (folder / "writing.json").write_text(json.dumps(meta))
    with pytest.raises(ResultError, match="and 3 prompts need"):
        WritingMap.load(folder)


# What is refused before any work


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"prompts": ["you"]}, "1 prompts, 1 of them different"),
        ({"prompts": "you"}, "1 prompts, 1 of them different"),
        ({"prompts": ["you", "cat", "you"]}, "no prompt twice"),
        ({"max_new_tokens": 0}, "max_new_tokens=0: ask for at least one"),
        ({"max_new_tokens": 60}, "Prompt 0 has 9 tokens; with 60 .* Use max_new_tokens=55"),
        ({"multipliers": (1.0, 2.0)}, "has no 0.0, which is the unsteered model"),
        ({"multipliers": (0.0,)}, "no strength other than 0.0"),
        ({"multipliers": (0.0, 1.0, 1.0)}, "holds a strength twice"),
        ({"multipliers": (0.0, NAN)}, "not all finite"),
        ({"rows": -1}, "rows=-1: at least one"),
        ({"temperature": -1.0}, "temperature=-1.0 is negative"),
    ],
)  # fmt: skip
def test_impossible_requests_are_refused(gpt2, edits, change, text):
    given = {"prompts": PROMPTS, "multipliers": (0.0, 1.0), "progress": False} | change
    with pytest.raises(ValueError, match=text):
        writing(gpt2, edits(), **given)


def test_every_row_of_the_map_is_a_site(gpt2, edits):
    with pytest.raises(ValueError, match="act at no site"):
        writing(gpt2, [], PROMPTS, (0.0, 1.0))
    with pytest.raises(ValueError, match="each with a site of its own"):
        writing(gpt2, [*edits(), *edits()], PROMPTS, (0.0, 1.0))
    with pytest.raises(ValueError, match="act at None"):
        writing(gpt2, [Together(tuple(edits()))], PROMPTS, (0.0, 1.0))
    with pytest.raises(ValueError, match="Layer 7 is not in 'tiny-gpt2'"):
        writing(gpt2, edits(layers=(7,)), PROMPTS, (0.0, 1.0))


# The figure


def test_panels_mark_what_is_uncertain_and_what_is_missing():
    band = ([[0.0, 2.0], [NAN, 0.1]], [[0.0, 1.0], [NAN, -0.1]], [[0.0, 3.0], [NAN, 0.3]])
    figure = plots.change_panels(
        {"a": band}, layers=[0, 1], columns=[0, 1], units={"a": "nats"}, title="t"
    )
    points = [t for t in figure.data if t.type == "scatter" and t.mode == "markers"]
    dots = next(t for t in points if list(t.x) != [None])
    assert (len(dots.x), round(dots.y[0])) == (1, 1)  # layer 1 only: layer 0 holds no 0 or no width
    assert {t.name for t in figure.data if t.showlegend} == {
        "not measured", "95% interval of the cell by itself holds 0",
    }  # fmt: skip
    assert figure.data[0].z[1][0] is None


def test_panels_do_not_blow_up_noise():
    band = tuple([[x, 0.0]] for x in (0.001, -0.01, 0.01))
    options = {"layers": [0], "columns": [1, 2], "units": {"a": "share"}, "title": "t"}
    assert plots.change_panels({"a": band}, **options).data[0].zmax == 0.001
    assert plots.change_panels({"a": band}, least={"a": 0.1}, **options).data[0].zmax == 0.1


def test_panels_that_cannot_be_drawn_are_refused():
    options = {"layers": [0], "columns": [1, 2], "units": {"a": "share"}, "title": "t"}
    with pytest.raises(ValueError, match="changes is empty"):
        plots.change_panels({}, **options)
    with pytest.raises(ValueError, match="does not fit 1 layers x 2 columns"):
        plots.change_panels({"a": ([[1.0]], [[1.0]], [[1.0]])}, **options)
