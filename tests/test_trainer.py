"""The trainer: what it finds, keeps, resumes and refuses; and the intervention that it makes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch

from steerlens.data import ContrastError, ContrastPair, ContrastSet
from steerlens.measures.sweep import plan, sweep
from steerlens.models.model import Model
from steerlens.protocols import ResidualEdit
from steerlens.sites import Positions
from steerlens.testing import check_intervention, tiny_model
from steerlens.training import (
    DPO,
    LM,
    BiPO,
    DivergedError,
    RateSearch,
    RePS,
    TrainedIntervention,
    Trainer,
    TrainingError,
    TrainingWarning,
    find_rate,
)
from steerlens.training.early_stopping import why_stop
from steerlens.training.training_state import CHECKPOINT
from tests.plain_forms import PlainAdapters, PlainVector, PlainWeights

NOUNS = [
    "cat",
    "dog",
    "bird",
    "fish",
    "man",
    "woman",
    "child",
    "friend",
    "soup",
    "bread",
    "cake",
    "wine",
    "tea",
    "room",
    "bed",
    "food",
]
PAIRS = ContrastSet(
    "nice",
    tuple(
        ContrastPair(f"I think the {noun} is", f" {a} now", f" {b} now")
        for noun, (a, b) in zip(
            NOUNS, [("good", "bad"), ("nice", "awful"), ("great", "horrid")] * 6, strict=False
        )
    ),
)
FIT, HELD_OUT = PAIRS[:10], PAIRS[10:]
FORM = PlainVector(1)
SHORT = Trainer(LM(), steps=12, rate=0.3, batch=4, look_every=4)


def fitted(model, trainer=SHORT, form=FORM, **how):
    return trainer.fit(form, model, FIT, progress=False, **{"validation": HELD_OUT, **how})


@pytest.mark.parametrize(
    ("form", "rate"),
    [
        (FORM, 0.3),
        (PlainAdapters(1, scale=0.05), 0.02),
        (PlainWeights(("blocks.1.mlp.W_out",)), 5e-3),
    ],
    ids=["vector", "adapters", "weights"],
)
def test_the_validation_loss_falls_and_the_model_is_as_before(tiny, form, rate):
    before = tiny.fingerprint
    required = [weight.requires_grad for weight in tiny.wrapped.parameters()]
    made = fitted(tiny, replace(SHORT, rate=rate), form)
    means = made.history.validation.mean(1)
    kept = made.history.looks.index(made.history.best_step)
    assert float(means[kept]) < float(means[0]) - 0.1
    assert float(means[kept]) == float(means.min())
    assert tiny.fingerprint == before
    assert [weight.requires_grad for weight in tiny.wrapped.parameters()] == required
    assert all(weight.grad is None for weight in tiny.wrapped.parameters())


def test_what_is_kept_is_the_best_state(gpt2):
    """The other answers are held out: they gain at first, by their last word, and then lose."""
    others = HELD_OUT.flipped()
    trainer = replace(SHORT, rate=1.0, schedule="constant", steps=40, patience=0)
    made = fitted(gpt2, trainer, validation=others)
    assert 0 < made.history.best_step < 40
    found = sweep(gpt2, others, [made], [0.0, 1.0], progress=False)
    lengths = found.lengths[:, 0]
    kept = made.history.looks.index(made.history.best_step)
    losses = -found.positive * len(lengths) / lengths.sum()
    torch.testing.assert_close(losses[0, 1], made.history.validation[kept], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(losses[0, 0], made.history.validation[0], atol=1e-4, rtol=1e-4)
    stopping = fitted(gpt2, replace(trainer, patience=3), validation=others)
    assert "no better validation loss in 3 looks" in stopping.history.stopped
    assert torch.equal(stopping.params["vector"], made.params["vector"])


def test_equal_seeds_give_equal_bits_and_others_do_not(gpt2):
    state = torch.get_rng_state()
    form = PlainVector(1, scale=0.1)
    one, other, third = (
        fitted(gpt2, replace(SHORT, seed=seed), form).params["vector"] for seed in (0, 0, 1)
    )
    assert torch.equal(one, other)
    assert not torch.allclose(one, third)
    assert torch.equal(torch.get_rng_state(), state)


@dataclass(frozen=True)
class Failing(LM):
    """An objective that fails after some calls; its repr is that of `LM`."""

    calls: int = 0

    def __post_init__(self):
        object.__setattr__(self, "left", [self.calls])

    def __call__(self, pairs):
        self.left[0] -= 1
        if self.left[0] < 0:
            raise KeyboardInterrupt
        return super().__call__(pairs)

    def __repr__(self):
        return repr(LM())


@pytest.mark.parametrize("calls", [3, 7, 9, 15])
def test_a_stopped_training_goes_on_to_the_same_bits(gpt2, tmp_path, calls):
    trainer = replace(SHORT, strengths=(0.5, 1.0, 1.5))
    whole = fitted(gpt2, trainer)
    with pytest.raises(KeyboardInterrupt):
        fitted(gpt2, replace(trainer, objective=Failing(calls=calls)), folder=tmp_path)
    assert (tmp_path / CHECKPOINT).exists()
    assert not any(weight.grad is not None for weight in gpt2.wrapped.parameters())
    made = fitted(gpt2, trainer, folder=tmp_path)
    assert torch.equal(made.params["vector"], whole.params["vector"])
    assert torch.equal(made.history.losses, whole.history.losses)
    assert torch.equal(made.history.validation, whole.history.validation)
    assert not (tmp_path / CHECKPOINT).exists()
    again = fitted(gpt2, replace(trainer, objective=Failing(calls=0)), folder=tmp_path)
    assert torch.equal(again.params["vector"], whole.params["vector"])


def test_a_folder_of_another_training_is_refused(gpt2, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fitted(gpt2, replace(SHORT, objective=Failing(calls=5)), folder=tmp_path)
    with pytest.raises(TrainingError, match=r"seed '0' instead of '1'"):
        fitted(gpt2, replace(SHORT, seed=1), folder=tmp_path)
    fitted(gpt2, folder=tmp_path)
    with pytest.raises(TrainingError, match=r"another training: seed '0' instead of '1'"):
        fitted(gpt2, replace(SHORT, seed=1), folder=tmp_path)


def test_it_saves_and_loads_for_its_own_model_only(gpt2, tmp_path):
    made = fitted(gpt2)
    made.save(tmp_path)
    loaded = TrainedIntervention.load(tmp_path, gpt2, form=FORM)
    assert torch.equal(loaded.params["vector"], made.params["vector"])
    assert loaded.made_by == made.made_by
    assert loaded.made_by["fingerprint"] == gpt2.fingerprint
    other = Model(tiny_model("gpt2", seed=1))
    with pytest.raises(TrainingError, match="fingerprint differ"):
        TrainedIntervention.load(tmp_path, other, form=FORM)
    with pytest.raises(TrainingError, match="Train it on this model"):
        loaded.require_fits(other)
    with pytest.raises(TrainingError, match="Train it on this model"), loaded.attach(other, 1.0):
        pass
    with pytest.raises(TrainingError, match="one of your own"):
        TrainedIntervention.load(tmp_path, gpt2)
    with pytest.raises(TrainingError, match="is another"):
        TrainedIntervention.load(tmp_path, gpt2, form=PlainVector(2))


def test_damaged_and_missing_files_are_refused(gpt2, tmp_path):
    made = fitted(gpt2)
    made.save(tmp_path)
    with pytest.raises(TrainingError, match="holds no trained intervention"):
        TrainedIntervention.load(tmp_path / "none", gpt2)
    for name in ("trained.json", "trained.safetensors", "history.safetensors", "history.json"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[:-9] + b"x" + content[-8:])
        with pytest.raises(TrainingError, match="cannot be read"):
            TrainedIntervention.load(tmp_path, gpt2, form=FORM)
        (tmp_path / name).write_bytes(content)
    TrainedIntervention.load(tmp_path, gpt2, form=FORM)


@pytest.mark.parametrize(
    "form", [FORM, PlainAdapters(1, scale=0.3), PlainWeights(("blocks.1.mlp.W_out",), scale=0.05)],
    ids=["vector", "adapters", "weights"],
)  # fmt: skip
def test_it_keeps_the_contract_of_interventions(gpt2, form):
    made = fitted(gpt2, replace(SHORT, steps=4, rate=0.05), form)
    check_intervention(made, gpt2)


def test_a_trained_edit_of_one_stream_is_swept_on_the_wavefront(gpt2):
    made = fitted(gpt2)
    assert isinstance(made, ResidualEdit)
    assert plan(gpt2, HELD_OUT, [made], [0.0, 1.0]).paths[0].path == "wavefront"


def test_the_learning_curve_draws_itself_and_the_history_is_a_table(gpt2, tmp_path):
    made = fitted(gpt2)
    names = [trace.name for trace in made.plot().data]
    assert names == ["each batch", "validation"]  # six groups: no interval
    table = made.history.to_frame()
    assert len(table) == 12
    assert table["validation"].notna().sum() == 3
    assert "LM" in made.summary()
    assert fitted(gpt2, validation=None).history.best_step == 12


def test_validation_pairs_inside_training_are_refused(gpt2):
    same_question = replace(FIT.pairs[3], positive=" lovely now")
    with pytest.raises(TrainingError, match="1 of 7 validation pairs"):
        fitted(gpt2, validation=[*HELD_OUT.pairs, same_question])
    grouped = [replace(pair, group="one") for pair in (FIT.pairs[0], HELD_OUT.pairs[0])]
    with pytest.raises(TrainingError, match="groups of the training pairs"):
        SHORT.fit(FORM, gpt2, grouped[:1], validation=grouped[1:], progress=False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rate": 0.0}, "rate=0"),
        ({"rate": -1.0}, "rate=-1"),
        ({"rate": math.nan}, "not finite"),
        ({"steps": 0}, "steps=0"),
        ({"batch": 0}, "batch=0"),
        ({"strengths": (1.0, 0.0)}, "no 0"),
        ({"strengths": ()}, "at least one"),
        ({"objective": "LM"}, "is not an objective"),
        ({"schedule": "cosine"}, "'linear' or 'constant'"),
    ],
)
def test_impossible_settings_are_refused(change, words, unchecked):
    with pytest.raises(ValueError, match=words):
        replace(SHORT, **change)


def test_empty_pairs_and_positions_that_choose_nothing_are_refused(gpt2):
    with pytest.raises(ContrastError, match=r"pairs: .*no pairs"):
        SHORT.fit(FORM, gpt2, [], progress=False)
    with pytest.raises(ContrastError, match=r"validation: .*no pairs"):
        fitted(gpt2, validation=[])
    short = [("the cat is", " good", " bad")]
    with pytest.raises(ValueError, match="chooses no token of the positive answer of pair 0"):
        SHORT.fit(PlainVector(1, Positions.generated()), gpt2, short, progress=False)
    with pytest.raises(ValueError, match="has layers 0"):
        SHORT.fit(PlainVector(7), gpt2, FIT, progress=False)


def test_a_diverging_loss_is_reported(gpt2):
    with pytest.raises(DivergedError, match=r"diverged. Lower the rate"):
        fitted(gpt2, replace(SHORT, rate=1e30), PlainAdapters(0))
    assert all(weight.grad is None for weight in gpt2.wrapped.parameters())


def test_training_that_learnt_nothing_says_so(gpt2):
    """The answers change places in the validation pairs: what is learnt is wrong there."""
    trainer = replace(SHORT, objective=DPO())
    with pytest.warns(TrainingWarning, match=r"learnt nothing: .* so the start is kept"):
        made = fitted(gpt2, trainer, validation=HELD_OUT.flipped())
    assert made.history.best_step == 0
    assert "never below its start (0.6931 at the start" in made.summary()
    fell = fitted(gpt2, trainer, validation=None).history
    assert fell.fault == fitted(gpt2, trainer).history.fault == ""
    rose = replace(fell, losses=fell.losses.flip(0))
    assert "the loss rose from" in rose.fault and rose.fault in rose.summary()
    assert replace(fell, losses=fell.losses[:3].flip(0)).fault == ""  # three steps say nothing


def test_training_inside_a_steered_model_is_refused(gpt2):
    made = fitted(gpt2)
    with pytest.raises(TrainingError, match="is attached to the model"), made.attach(gpt2, 1.0):
        try:
            fitted(gpt2)
        finally:
            gpt2.logits("the cat")


@pytest.mark.parametrize("objective", [BiPO(beta=0.5), RePS(cap=5.0)], ids=repr)
def test_preference_objectives_raise_the_log_odds(gpt2, objective):
    made = fitted(gpt2, replace(SHORT, objective=objective, steps=24))
    odds = sweep(gpt2, HELD_OUT, [made], [-1.0, 0.0, 1.0], progress=False).log_odds[0].mean(-1)
    assert float(odds[2]) > float(odds[1]) + 0.3
    assert float(odds[0]) < float(odds[1])


def looks(*means, spread=0.02, pairs=12):
    """Validation losses with these means, each with noise of its own that sums to 0."""
    generator = torch.Generator().manual_seed(0)
    noise = spread * torch.randn(len(means), pairs, generator=generator)
    return list(torch.tensor(means)[:, None] + noise - noise.mean(1, keepdim=True))


def test_training_does_not_stop_on_the_plateau_where_it_started():
    ln2 = math.log(2)
    flat = looks(ln2, *[ln2 + 1e-4 * (-1) ** k for k in range(20)])
    assert why_stop(flat, None, 3) == ""
    fell = looks(ln2, ln2 - 0.001, ln2 - 0.2, *[ln2 - 0.19] * 3)
    assert "no better validation loss in 3 looks" in why_stop(fell, None, 3)
    assert why_stop(fell[:-1], None, 3) == ""
    assert why_stop(fell, None, 0) == ""
    worse = looks(ln2, *[ln2 + 0.5] * 3)
    assert "above its start" in why_stop(worse, None, 3)


def test_a_rate_is_found_by_short_trainings(gpt2, tmp_path):
    rates = (1e-4, 0.3, 1e30)
    found = find_rate(SHORT, FORM, gpt2, FIT, HELD_OUT, rates=rates, steps=8, progress=False)
    assert found.best == pytest.approx(0.3)
    assert not found.at_the_edge
    alone = fitted(gpt2, replace(SHORT, steps=8, look_every=2, rate=0.3, patience=0))
    assert float(found.losses[1]) == float(alone.history.validation.mean(1).min())
    assert float(found.losses[0]) > float(found.losses[1]) + 0.1
    assert "rate 0.3" in found.summary()
    assert len(found.plot().data) == 2
    loaded = RateSearch.load(found.save(tmp_path))
    torch.testing.assert_close(loaded.losses, found.losses, atol=0, rtol=0, equal_nan=True)
    with pytest.raises(ValueError, match="nothing to compare"):
        find_rate(SHORT, FORM, gpt2, FIT, HELD_OUT, rates=(0.1,), progress=False)
