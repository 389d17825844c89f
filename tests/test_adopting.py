"""Whether a direction is for a model: refused, or converted with the same numbers; and its hooks."""

from __future__ import annotations

import dataclasses
import warnings

import pytest
import torch
from torch import Tensor

from steerlens.directions import Direction, DirectionError
from steerlens.interventions import Ablate, Add, Clamp
from steerlens.models.model import Model
from steerlens.sites import Positions, Site
from steerlens.testing import tiny_bridge, tiny_model

TEXT = "the cat sat on the bed and the dog ran to the good man"
FLAGS = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")
EVERYTHING = "+".join(FLAGS)
SAME_STREAM = "fold_ln+center_unembed+fold_value_biases"
STREAMS = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
EVERYWHERE = Positions.all(special=True)


def processed(family: str, label: str) -> Model:
    """The same weights after TransformerLens's own processing."""
    hooked = tiny_model(family)
    flags = {flag: flag in label.split("+") for flag in FLAGS}
    hooked.load_and_process_state_dict(tiny_model(family).state_dict(), **flags)
    return Model(hooked)


@pytest.fixture(scope="module")
def models():
    """A family's model under a weight processing, made once."""
    made: dict[tuple[str, str], Model] = {}

    def get(family: str, label: str = "raw") -> Model:
        if (family, label) not in made:
            raw = label == "raw"
            made[family, label] = Model(tiny_model(family)) if raw else processed(family, label)
        return made[family, label]

    return get


def a_direction(on: Model, site: Site, **facts) -> Direction:
    """A random one with a mean of its own, as one that is read from a raw stream has."""
    vector = torch.randn(on.d_model, generator=torch.Generator().manual_seed(0)) + 0.3
    stated = {"resid_norm": 5.0, "projection_std": 0.7, "processing": on.processing}
    return Direction(vector, site, **(stated | facts))


def log_probs(model: Model, *edits) -> Tensor:
    from contextlib import ExitStack

    with ExitStack() as stack:
        for edit, multiplier in edits:
            stack.enter_context(edit.attach(model, multiplier))
        return model.logits(TEXT)[0].log_softmax(-1)


def assert_same(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


# Conversion, by numbers: the same weights raw and as TransformerLens processes them


@pytest.mark.parametrize("label", [*FLAGS, SAME_STREAM, EVERYTHING])
@pytest.mark.parametrize("family", ["gpt2", "neox", "llama", "qwen2"])
def test_processing_changes_no_probability_and_is_recognised(models, family, label):
    raw, other = models(family), models(family, label)
    assert_same(log_probs(other), log_probs(raw))
    assert raw.processing == "raw"
    assert set(other.processing.split("+")) <= {*label.split("+"), "raw"}


@pytest.mark.parametrize("unit", ["direction", "resid_norm", "projection_std"])
@pytest.mark.parametrize("label", ["fold_ln", EVERYTHING])
@pytest.mark.parametrize(
    ("family", "stream"),
    [
        (family, stream)
        for family in ("gpt2", "neox", "llama", "qwen2")
        for stream in STREAMS
        if (family, stream) != ("neox", "resid_mid")  # its sub-blocks stand side by side
    ],
)
def test_adding_keeps_its_effect_both_ways(models, family, label, stream, unit):
    raw, other = models(family), models(family, label)
    direction = a_direction(raw, Site(1, stream))
    adopted = other.adopt(direction)
    there = log_probs(other, (Add(adopted, EVERYWHERE, unit), 0.8))
    here = log_probs(raw, (Add(direction, EVERYWHERE, unit), 0.8))
    assert_same(there, here)
    assert (here - log_probs(raw)).abs().max() > 0.1
    made_there = a_direction(other, Site(1, stream))
    back = raw.adopt(made_there)
    assert_same(
        log_probs(raw, (Add(back, EVERYWHERE, unit), 0.8)),
        log_probs(other, (Add(made_there, EVERYWHERE, unit), 0.8)),
    )


def test_a_converted_direction_is_the_one_that_would_be_fitted_there(models, gpt2):
    from steerlens.data import ContrastPair, ContrastSet
    from steerlens.directions.methods import DiffMean
    from steerlens.measures.reading import activations

    texts = [("the cat sat good", "the cat sat bad"), ("I love cake", "I hate cake")]
    pairs = ContrastSet("made", tuple(ContrastPair("", p, n) for p, n in texts))
    raw, other = models("gpt2"), models("gpt2", EVERYTHING)
    here = activations(raw, pairs, progress=False).direction(1, DiffMean())
    there = activations(other, pairs, progress=False).direction(1, DiffMean())
    assert (here.vector - there.vector).abs().max() > 1e-3
    torch.testing.assert_close(here.converted(other.processing).vector, there.vector)


def projections(direction: Direction):
    return Ablate(direction, EVERYWHERE), Clamp(direction, 2.0, EVERYWHERE)


@pytest.mark.parametrize("family", ["gpt2", "neox"])
def test_ablating_and_clamping_keep_their_effect_along_a_vector_without_a_mean(models, family):
    raw, other = models(family), models(family, EVERYTHING)
    direction = a_direction(raw, Site(1))
    centred = dataclasses.replace(direction, vector=direction.vector - direction.vector.mean())
    for purpose, value in (("ablate", None), ("clamp", 2.0)):
        meant = dataclasses.replace(centred, operation=purpose, value=value)
        adopted = other.adopt(meant)
        for one, two in zip(projections(meant), projections(adopted), strict=True):
            assert_same(log_probs(other, (two, 0.9)), log_probs(raw, (one, 0.9)))
            assert (log_probs(raw, (one, 0.9)) - log_probs(raw)).abs().max() > 1e-3


@pytest.mark.parametrize("family", ["gpt2", "neox"])
def test_refusing_to_convert_other_projections_is_right(models, family):
    raw, other = models(family), models(family, EVERYTHING)
    direction = a_direction(raw, Site(1), operation="ablate")
    with pytest.raises(DirectionError, match="no exact conversion"):
        other.adopt(direction)
    without_mean = direction.vector - direction.vector.mean()
    for vector in (direction.vector, without_mean):  # neither of the two that could be meant
        forced = dataclasses.replace(direction, vector=vector, processing=other.processing)
        for one, two in zip(projections(direction), projections(forced), strict=True):
            gap = log_probs(other, (two, 1.0)) - log_probs(raw, (one, 1.0))
            assert gap.abs().max() > 1e-3


@pytest.mark.parametrize("family", ["gpt2", "neox", "llama", "qwen2"])
def test_where_the_stream_is_the_same_every_operation_is(models, family):
    raw, other = models(family), models(family, SAME_STREAM)
    for purpose, value in (("ablate", None), ("clamp", 2.0)):
        direction = a_direction(raw, Site(1), operation=purpose, value=value)
        adopted = other.adopt(direction)
        assert torch.equal(adopted.vector, direction.vector)
        for one, two in zip(projections(direction), projections(adopted), strict=True):
            assert_same(log_probs(other, (two, 0.9)), log_probs(raw, (one, 0.9)))


def test_attaching_names_the_conversion(models):
    raw, other = models("gpt2"), models("gpt2", EVERYTHING)
    with pytest.raises(DirectionError, match="residual bases differ.*direction.converted"):
        log_probs(other, (Add(a_direction(raw, Site(1))), 1.0))


# Whose it is


def test_a_loaded_direction_is_adopted_or_refused(models, tmp_path):
    raw, other = models("gpt2"), models("gpt2", EVERYTHING)
    made = a_direction(raw, Site(1), model=raw.name, fingerprint=raw.fingerprint, dtype="float32")
    path = made.save(tmp_path / "made.safetensors")
    assert torch.equal(Direction.load(path, raw).vector, made.vector)
    assert Direction.load(path, other).processing == other.processing
    elsewhere = Model(tiny_model("gpt2", seed=1))
    with pytest.raises(DirectionError, match="'tiny-gpt2' and this is 'tiny-gpt2': their weights"):
        Direction.load(path, elsewhere)
    taken = elsewhere.adopt(Direction.load(path), other_weights=True)
    assert torch.equal(taken.vector, made.vector)


def test_a_model_in_another_precision_is_the_same_model(models):
    raw = models("gpt2")
    made = a_direction(raw, Site(1), model=raw.name, fingerprint=raw.fingerprint, dtype="bfloat16")
    assert raw.adopt(made) is made
    with pytest.raises(DirectionError, match="their name differ .other and tiny-gpt2"):
        raw.adopt(dataclasses.replace(made, model="other"))


def test_revisions_decide_where_weights_cannot(models):
    raw = Model(tiny_model("gpt2"), revision="step1000")
    made = a_direction(raw, Site(1), model=raw.name, revision="step2000")
    with pytest.raises(DirectionError, match="revision differ .step2000 and step1000"):
        raw.adopt(made)
    raw.adopt(dataclasses.replace(made, revision="step1000"))
    raw.adopt(dataclasses.replace(made, revision=""))


def test_a_direction_that_states_no_processing_is_not_adopted(models):
    raw = models("gpt2")
    with pytest.raises(DirectionError, match="does not state under which weight processing"):
        raw.adopt(a_direction(raw, Site(1), processing=None))
    narrow = Direction(torch.ones(8), Site(1), processing="raw")
    with pytest.raises(DirectionError, match="d_model=8 and 'tiny-gpt2' has 32"):
        raw.adopt(narrow)


# Hooks that mean what their names say


def test_hooks_are_checked_once_for_every_wrapped_model():
    hooked = tiny_model("gpt2")
    runs = []
    hooked.register_forward_pre_hook(lambda module, args: runs.append(1))
    assert Model(hooked).streams.untrusted == Model(hooked).streams.untrusted == {}
    assert len(runs) == 1


def seen_lying(hooked) -> Model:
    with pytest.warns(UserWarning, match="do not mean what their names say"):
        return Model(hooked)


def test_a_block_that_changes_its_output_after_the_hook_is_seen():
    bad = tiny_model("gpt2")
    bad.blocks[1].register_forward_hook(lambda module, args, output: output * 2)
    model = seen_lying(bad)
    with pytest.raises(ValueError, match="At layer 1, resid_post differs from the next layer's"):
        model.require_site(Site(1))
    model.require_site(Site(1, "resid_pre"))
    model.require_site(Site(1, "mlp_out"))


def test_sub_block_hooks_that_are_not_what_is_added_are_seen():
    bad = tiny_model("gpt2")
    bad.blocks[2].hook_resid_post.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    model = seen_lying(bad)
    with pytest.raises(ValueError, match=r"At layer 2, resid_pre \+ attn_out \+ mlp_out differs"):
        model.require_site(Site(0, "attn_out"))
    with pytest.raises(ValueError, match="At layer 2"):
        log_probs(model, (Add(Direction(torch.ones(32), Site(0, "mlp_out")), unit="direction"), 1))
    model.require_site(Site(1))


def test_honest_models_raise_no_warning_and_foreign_hooks_are_left_alone():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Model(tiny_bridge("gemma2"))
        busy = tiny_model("gpt2")
        busy.add_hook("blocks.1.hook_mlp_out", lambda t, hook: t * 2)
        assert Model(busy).streams.untrusted == {}
