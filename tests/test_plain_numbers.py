"""Numbers of every library are taken, and what is none is refused where it enters; so is "~user"."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

from steerlens import plots
from steerlens.analyses.prediction.find_cell import find_cell
from steerlens.analyses.prediction.layer_predictions import part_of_whole
from steerlens.analyses.survival.breaking import Limits
from steerlens.arguments import ArgumentError
from steerlens.directions import Direction
from steerlens.forms import DReFT, LoRA, LoReFT, LowRankAdapter, PostBlock
from steerlens.interventions import Add, Clamp, ClampRange
from steerlens.interventions.nudge import ProbeLoss
from steerlens.interventions.scaled import scaled
from steerlens.interventions.together import Together
from steerlens.interventions.weight_delta import weight_delta
from steerlens.measures.cost_gradients import cost_gradients
from steerlens.measures.divergence import divergence, text_costs
from steerlens.measures.equal_cost import (
    CalibrationError,
    equal_kl,
    lengths_of_equal_kl,
    lengths_of_equal_utility,
    strengths_within_budget,
)
from steerlens.measures.screen import screen
from steerlens.measures.sweep import sweep
from steerlens.measures.switch_off import switched_off
from steerlens.models.attached import strength_of
from steerlens.models.checkpoints import MissingCheckpoint
from steerlens.models.model import Model
from steerlens.sites import Site
from steerlens.store.files import StorageError, make_folder, write_text
from steerlens.testing import tiny_model
from steerlens.training import Trainer
from steerlens.training.objectives import DPO, LM, BiPO, RePS, SimPO, Split, WeightedPairs
from tests.grids import ONE_TOKEN

pytestmark = pytest.mark.usefixtures("unchecked")  # wrong types come through, as from a user

HALVES = [0.5, np.float32(0.5), np.array(0.5), torch.tensor(0.5), Fraction(1, 2), Decimal("0.5")]
HALVES += [torch.tensor(0.5, requires_grad=True)]
NO_NUMBERS = ["0.5", None, True, np.True_, [0.5], 0.5j]
NOT_FINITE = [float("nan"), float("inf"), np.float32("-inf")]
TWOS = [2, np.int64(2), np.array(2), np.array([2]), torch.tensor(2)]
NO_COUNTS = [-1, 0, 3.0, "3", None, True, float("nan")]
PAIRS = ONE_TOKEN
TEXTS = ["the cat sat on the bed", "I think he said that the good soup was good"]


@pytest.fixture(scope="module")
def model():
    return Model(tiny_model("gpt2", n_layers=2, d_model=16))


def direction(seed: int = 0) -> Direction:
    vector = torch.randn(16, generator=torch.Generator().manual_seed(seed))
    return Direction(vector, Site(1), resid_norm=4.0)


FIELDS = {
    "Clamp.value": lambda x: Clamp(direction(), x).value,
    "ClampRange.low": lambda x: ClampRange(direction(), low=x).low,
    "ClampRange.high": lambda x: ClampRange(direction(), high=x).high,
    "ProbeLoss.bias": lambda x: ProbeLoss(direction(), bias=x).bias,
    "ProbeLoss.weight": lambda x: ProbeLoss(direction(), weight=x).weight,
    "BiPO.beta": lambda x: BiPO(x).beta,
    "DPO.beta": lambda x: DPO(x).beta,
    "SimPO.beta": lambda x: SimPO(x).beta,
    "SimPO.margin": lambda x: SimPO(10.0, x).margin,
    "Split.threshold": lambda x: Split(threshold=x).threshold,
    "RePS.cap": lambda x: RePS(cap=2 * x).cap / 2,
    "WeightedPairs.kappa": lambda x: WeightedPairs(BiPO(), kappa=x).kappa,
    "WeightedPairs.noise": lambda x: WeightedPairs(BiPO(), noise=x).noise,
    "Limits.surprisal": lambda x: Limits(x, 0.1).surprisal,
    "Limits.repetition": lambda x: Limits(0.1, x).repetition,
    "share": part_of_whole,
    "strength": strength_of,
}


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", HALVES, ids=repr)
def test_a_number_of_every_library_is_kept_as_a_float(field, value):
    if field == "strength" and getattr(value, "requires_grad", False):
        pytest.skip("a number that is being trained is no strength")
    kept = FIELDS[field](value)
    assert (type(kept), kept) == (float, 0.5)


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
def test_what_is_no_number_is_refused_where_it_is_given(field, value):
    if field == "RePS.cap":
        pytest.skip("None is no cap, and the others are not doubled")
    with pytest.raises(ArgumentError, match="is not (a|one) number"):
        FIELDS[field](value)


@pytest.mark.parametrize("field", [name for name in FIELDS if "Range" not in name])
@pytest.mark.parametrize("value", NOT_FINITE, ids=repr)
def test_what_is_not_finite_is_refused_where_it_is_given(field, value):
    with pytest.raises(ValueError, match=r"not finite|is no limit|is not a part|finite strengths"):
        FIELDS[field](value)


def test_a_range_may_be_open_on_one_side():
    assert ClampRange(direction(), low=0).high == float("inf")
    with pytest.raises(ValueError, match="low=nan"):
        ClampRange(direction(), low=float("nan"))


def test_flags_and_counts_become_plain():
    assert WeightedPairs(BiPO(), hardness=np.False_).hardness is False
    limits = Limits(1, 0.5, np.int64(3))
    assert type(limits.texts) is int
    with pytest.raises(ArgumentError, match="Limits: texts=-1 is too small"):
        Limits(1, 0.5, -1)


RANKS = {
    "LoRA": lambda x: LoRA(rank=x),
    "LoReFT": lambda x: LoReFT(Site(1), x),
    "LowRankAdapter": lambda x: LowRankAdapter(Site(1), x),
    "DReFT": lambda x: DReFT(Site(1), x),
    "PostBlock": lambda x: PostBlock(rank=x),
}


@pytest.mark.parametrize("form", RANKS)
def test_a_rank_is_a_whole_number_of_any_library(form, model):
    for value in TWOS:
        made = RANKS[form](value)
        assert type(made.rank) is int and made == RANKS[form](2)
        made.begin(model, torch.Generator().manual_seed(0))
    for value in NO_COUNTS:
        with pytest.raises(ArgumentError, match="rank="):
            RANKS[form](value)


OBJECTIVES = {
    "BiPO": lambda: BiPO(Fraction(1, 10)),
    "DPO": lambda: DPO(Decimal("0.1")),
    "SimPO": lambda: SimPO(10, np.array(0.5)),
    "RePS": lambda: RePS(cap=np.array(2.0)),
    "Split": lambda: Split(np.array(1.0), threshold=Fraction(1, 2)),
    "WeightedPairs": lambda: WeightedPairs(BiPO(), Fraction(1), noise=np.array(0.1)),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_trains_with_numbers_of_other_libraries(model, name):
    trained = Trainer(OBJECTIVES[name](), steps=1, batch=2).fit(
        LoRA(rank=np.array([2])), model, PAIRS, progress=False
    )
    assert "rank=2" in repr(trained.form)


def test_a_delta_is_reduced_to_a_rank_of_any_library(model):
    other = Model(tiny_model("gpt2", n_layers=2, d_model=16, seed=1))
    shapes = {
        tuple(change.delta.a.shape)
        for change in weight_delta(model, other, only="W_in", rank=np.array([2])).changes(model)
    }
    assert shapes == {(16, 2)}


@pytest.mark.parametrize(
    "value", [Fraction(1, 2), Decimal("0.5"), np.array(0.5), np.float16(0.5)], ids=repr
)
@pytest.mark.parametrize("kind", ["one", "together", "scaled"])
def test_every_real_number_is_a_strength(model, value, kind):
    add = Add(direction())
    edit = {
        "one": add,
        "together": Together((add, add)),
        "scaled": scaled(Clamp(direction(), 1), 2),
    }
    with edit[kind].attach(model, 0.5):
        expected = model.logits(TEXTS)
    with edit[kind].attach(model, value):
        assert torch.equal(model.logits(TEXTS), expected)


@pytest.mark.parametrize(
    "values", [np.array([0.5, 2.0]), np.array([2.0, 0.5])[::-1], np.float16([0.5, 2])], ids=str
)
def test_a_vector_of_numpy_is_one_strength_for_each_row(model, values):
    edit = Together((Add(direction()), Add(direction(1))))
    with edit.attach(model, torch.tensor([0.5, 2.0])):
        expected = model.logits(TEXTS)
    with edit.attach(model, values):
        assert torch.equal(model.logits(TEXTS), expected)


@pytest.mark.parametrize(
    "value",
    [True, np.True_, torch.tensor(True), torch.tensor([True, False]), np.array([True, False]),
     np.array(["a"]), np.ones((1, 1)), torch.ones(1, 1), "1", None, [0.5], 1j,
     torch.ones(2, dtype=torch.complex64)],
    ids=repr,
)  # fmt: skip
def test_what_is_no_strength_is_refused(model, value):
    with pytest.raises(TypeError, match="multiplier"), Add(direction()).attach(model, value):
        pass


@pytest.mark.parametrize("value", [np.array([0.5, np.nan]), np.array(np.inf), Decimal("NaN")])
def test_a_strength_is_finite(model, value):
    with pytest.raises(ValueError, match="finite"), Add(direction()).attach(model, value):
        pass


COUNTS = {
    "batch_size": lambda m, x: screen(m, PAIRS, [Add(direction())], batch_size=x,
                                      progress=False).slopes,
    "rows": lambda m, x: switched_off(m, Add(direction()), TEXTS, steered=2, after=2, rows=x).kept,
    "memory": lambda m, x: divergence(m, TEXTS, [Add(direction())], [1.0], memory=x, progress=False),
    "memory of costs": lambda m, x: text_costs(m, TEXTS, [Add(direction())], [1.0], memory=x,
                                               progress=False),
    "memory of a sweep": lambda m, x: sweep(m, PAIRS[:2], [Add(direction())], [1.0], memory=x,
                                            progress=False).log_odds,
}  # fmt: skip


@pytest.mark.parametrize("what", COUNTS)
def test_how_much_is_done_at_once_is_a_whole_number_from_1(model, what):
    expected = COUNTS[what](model, 2)
    assert expected.isfinite().all()
    for value in TWOS[1:]:
        assert torch.equal(COUNTS[what](model, value), expected)
    for value in NO_COUNTS:
        if value is None and "memory" in what:
            continue  # the default
        with pytest.raises(ArgumentError, match=f"^{what.split()[0]}="):
            COUNTS[what](model, value)


def test_a_batch_size_changes_no_slope(model):
    edits = [Add(direction()), Add(direction(1))]
    one, all_of_them = (
        screen(model, PAIRS, edits, batch_size=n, progress=False).slopes for n in (1, 8)
    )
    torch.testing.assert_close(one, all_of_them)


@pytest.mark.parametrize("value", [*NO_NUMBERS, *NOT_FINITE, -1.0, 1e30], ids=repr)
def test_a_share_of_a_text_is_a_number_from_0_to_1(model, value):
    with pytest.raises(ArgumentError, match="^prompt_share="):
        divergence(model, TEXTS, [Add(direction())], [1.0], prompt_share=value, progress=False)
    with pytest.raises(ArgumentError, match="^prompt_share="):
        cost_gradients(model, TEXTS, [Site(1)], prompt_share=value)


def test_a_share_of_a_text_may_be_of_any_library(model):
    def costs(share):
        return divergence(
            model, TEXTS, [Add(direction())], [1.0], prompt_share=share, progress=False
        )

    for value in HALVES:
        assert torch.equal(costs(value), costs(0.5))
    assert not torch.equal(costs(1), costs(0))


@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
def test_a_cost_is_a_number(model, value):
    add, found = Add(direction()), {"progress": False}
    with pytest.raises(ArgumentError, match="^kl="):
        equal_kl(model, [add], TEXTS, kl=value, **found)
    with pytest.raises(ArgumentError, match="^kl="):
        lengths_of_equal_kl(model, [direction()], TEXTS, kl=value, **found)
    with pytest.raises(ArgumentError, match="^budget="):
        strengths_within_budget(model, [add], TEXTS, budget=value, **found)
    with pytest.raises(ArgumentError, match="^drop="):
        lengths_of_equal_utility(model, [direction()], PAIRS[:2], drop=value, **found)


def test_a_cost_of_any_library_is_the_same_cost(model):
    expected = equal_kl(model, [Add(direction())], TEXTS, kl=0.5, progress=False)
    for value in (np.array(0.5), Fraction(1, 2), Decimal("0.5")):
        assert equal_kl(model, [Add(direction())], TEXTS, kl=value, progress=False) == expected
    for value in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(CalibrationError, match="is not a cost"):
            equal_kl(model, [Add(direction())], TEXTS, kl=value, progress=False)


@pytest.mark.parametrize("name", ["share", "tried"])
@pytest.mark.parametrize("value", [*NO_NUMBERS, *NOT_FINITE, -0.1, 1.5], ids=repr)
def test_parts_of_the_sites_are_numbers_up_to_1(model, name, value):
    if name == "tried" and value is None:
        pytest.skip("the default")
    with pytest.raises(ArgumentError, match=f"^{name}="):
        find_cell(model, PAIRS[:2], PAIRS[2:], progress=False, **{name: value})


@pytest.fixture
def working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_no_folder_is_named_for_a_user_who_is_not_there(working_folder, model):
    for save in (
        lambda: direction().save("~nosuchuser/x.safetensors"),
        lambda: direction().save("~nosuchuser"),
        lambda: model.save("~nosuchuser"),
        lambda: model.save("~nosuchuser/x"),
        lambda: plots.write_figure(direction_figure(), "~nosuchuser/x.html"),
        lambda: Trainer(LM(), steps=1).fit(
            LoRA(2), model, PAIRS, folder="~nosuchuser/x", progress=False
        ),
    ):
        with pytest.raises(
            (StorageError, ValueError), match="no user 'nosuchuser.*Write the whole path"
        ):
            save()
        assert not list(working_folder.iterdir())


def direction_figure():
    import plotly.graph_objects as go

    return go.Figure()


def test_a_folder_whose_name_starts_so_is_written_to_where_it_is_there(working_folder):
    (working_folder / "~old").mkdir()
    write_text(make_folder(working_folder.joinpath("~old").relative_to(working_folder)) / "a", "b")
    assert (working_folder / "~old" / "a").read_text() == "b"


def test_a_model_of_a_user_who_is_not_there_is_missing(working_folder):
    with pytest.raises(MissingCheckpoint, match="'~nosuchuser/x' does not exist"):
        Model.load("~nosuchuser/x")
