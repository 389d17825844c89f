"""A direction knows where it belongs, survives the disk, and refuses what would do harm."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from steerlens.directions import FORMAT, LAYERS, Activations, Direction, DirectionError
from steerlens.directions.methods import PCA, DiffMean
from steerlens.sites import Positions, Site


@pytest.fixture
def direction(random_direction):
    return dataclasses.replace(
        random_direction(Site(3, "mlp_out"), 16), method="DiffMean()", projection_std=0.7,
        processing="fold_ln", read_at="Positions.answer()", model="tiny", fingerprint="ab",
        data="cd", pairs=5, operation="clamp", value=-1.5, apply_at=Positions.span(-3, None),
        strength_unit="projection_std", dtype="bfloat16", revision="main", converted_from="raw",
    )  # fmt: skip


@pytest.fixture
def added(direction):
    """The same, made to be added."""
    return dataclasses.replace(direction, operation="add", value=None)


@pytest.fixture
def read():
    """Activations with a known difference between the sides."""
    generator = torch.Generator().manual_seed(0)
    negative = torch.randn(6, 2, 8, generator=generator)
    concept = torch.randn(2, 8, generator=generator)
    return Activations(
        positive=negative + concept, negative=negative, sites=(Site(0), Site(1)),
        groups=tuple("abcdef"), resid_norms=torch.tensor([2.0, 3.0]), data="cd",
    )  # fmt: skip


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_direction_that_is_not_finite_is_refused(bad):
    with pytest.raises(DirectionError, match="L2 resid_post holds NaN or infinite"):
        Direction(torch.tensor([1.0, bad]), Site(2))


def test_a_direction_of_zeros_is_refused():
    with pytest.raises(DirectionError, match="all zeros, so adding it has no effect"):
        Direction(torch.zeros(4), Site(2))


@pytest.mark.parametrize("name", ["resid_norm", "projection_std"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_unit_of_strength_is_a_positive_number(name, value):
    with pytest.raises(DirectionError, match=f"{name}={value}.*positive number"):
        Direction(torch.ones(4), Site(0), **{name: value})


@pytest.mark.parametrize(
    "vector", [torch.ones(4, dtype=torch.int64), torch.ones(4, dtype=torch.bool), torch.ones(2, 4)]
)
def test_a_file_of_anything_but_a_vector_of_floats_is_refused(tmp_path, vector):
    save_file({"vector": vector}, tmp_path / "it", {"format": FORMAT, "direction": "{}"})
    with pytest.raises(DirectionError, match=r"must be one axis \(d_model\) of floating point"):
        Direction.load(tmp_path / "it")


@pytest.mark.parametrize(("operation", "value"), [("clamp", None), ("add", 1.0), ("ablate", 0.0)])
def test_a_clamp_and_nothing_else_has_a_value(operation, value):
    with pytest.raises(DirectionError, match="a clamp moves the projection to a value"):
        Direction(torch.ones(4), Site(0), operation=operation, value=value)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "given",
    [
        {"resid_norm": np.float32(2), "pairs": np.int64(3), "projection_std": torch.tensor(0.5)},
        {"resid_norm": torch.tensor(2.0), "pairs": torch.tensor(3), "projection_std": 0.5},
        {"resid_norm": 2, "pairs": np.array(3), "projection_std": np.float64(0.5)},
    ],
)
def test_numbers_of_other_libraries_are_kept_as_pythons(tmp_path, given):
    made = Direction(torch.ones(4), Site(np.int64(1)), **given)
    read = Direction.load(made.save(tmp_path / "it.safetensors"))
    for direction in (made, read):
        assert (direction.resid_norm, direction.pairs, direction.projection_std) == (2.0, 3, 0.5)
        assert [type(x) for x in (direction.resid_norm, direction.pairs)] == [float, int]


@pytest.mark.usefixtures("unchecked")
def test_a_vector_a_site_and_a_rule_may_be_named_plainly(tmp_path):
    array = np.arange(1, 5, dtype=np.float32)
    made = Direction(array, 12, apply_at="all", processing="raw")
    array[:] = 0
    assert torch.equal(made.vector, torch.arange(1.0, 5.0))
    assert (made.site, made.apply_at) == (Site(12), Positions.all())
    assert Direction(torch.ones(4), "blocks.3.hook_mlp_out").site == Site(3, "mlp_out")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"site": 8.0}, r"8.0 is not a site. Write Site\(8\)"),
        ({"site": None}, "None is not a site"),
        ({"pairs": 2.5}, "pairs=2.5 is not a whole number"),
        ({"pairs": -1}, "pairs=-1 is too small"),
        ({"resid_norm": "2"}, "resid_norm='2' is not a number"),
        ({"resid_norm": torch.ones(2)}, "is not one number"),
        ({"operation": "multiply"}, "operation='multiply' is not something.*add, ablate, clamp"),
        ({"strength_unit": "pairs"}, "unit='pairs' is not a unit of strength"),
        ({"apply_at": "some"}, "positions='some' is not a rule"),
        ({"method": DiffMean()}, r"method=DiffMean\(\) of a direction is not text"),
        ({"model": None}, "model=None of a direction is not text"),
        ({"processing": 1}, "processing=1 of a direction is not text"),
        ({"vector": np.array(["a"])}, "not a fact of a direction"),
    ],
)
def test_a_fact_of_the_wrong_type_is_refused_at_once(given, message):
    with pytest.raises(DirectionError, match=message):
        Direction(**({"vector": torch.ones(4), "site": Site(0)} | given))


@pytest.mark.parametrize("two", [2, np.float32(2), np.int64(2), torch.tensor(2.0)], ids=repr)
def test_a_direction_is_multiplied_by_any_number_from_either_side(added, two):
    for made in (two * added, added * two):
        assert isinstance(made, Direction)
        torch.testing.assert_close(made.vector, 2 * added.vector)
    with pytest.raises(ValueError, match="factor=.* is not one number"):
        added * torch.ones(2)


def test_directions_of_different_width_are_neither_added_nor_compared(added):
    narrow = dataclasses.replace(added, vector=torch.ones(4))
    for call in (lambda: added + narrow, lambda: added.cosine(narrow)):
        with pytest.raises(DirectionError, match="d_model 16 and 4"):
            call()


def test_what_is_clamped_changes_its_sign_with_the_direction(direction):
    along = direction.value * direction.unit().vector
    for turned in (-direction, -2 * direction, 3 * direction):
        torch.testing.assert_close(turned.value * turned.unit().vector, along)


def test_arithmetic_keeps_the_facts(added):
    direction = added
    assert direction.unit().norm == pytest.approx(1)
    assert (2 * direction).norm == pytest.approx(2 * direction.norm)
    assert direction.cosine(-direction) == pytest.approx(-1)
    assert (-direction).resid_norm == direction.resid_norm
    torch.testing.assert_close((direction + direction).vector, 2 * direction.vector)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"site": Site(4)}, "Cannot add a direction at L4 resid_post to one at L3"),
        ({"processing": "raw"}, r"processing 'raw' to one under 'fold_ln'.*converted\('fold_ln'\)"),
        ({"operation": "ablate"}, "made to add and ablate"),
    ],
)
def test_directions_that_do_not_belong_together_do_not_add(added, change, message):
    with pytest.raises(DirectionError, match=message):
        added + dataclasses.replace(added, **change)


def test_a_saved_direction_is_read_back_whole(direction, tmp_path):
    read = Direction.load(direction.save(tmp_path / "made" / "it.safetensors"))
    for f in dataclasses.fields(Direction):
        if f.name != "vector":
            assert getattr(read, f.name) == getattr(direction, f.name), f.name
    assert torch.equal(read.vector, direction.vector)


def test_a_bare_tensor_is_not_taken_for_a_direction(tmp_path):
    save_file({"vector": torch.ones(4)}, tmp_path / "bare.safetensors")
    with pytest.raises(DirectionError, match="does not say at which site"):
        Direction.load(tmp_path / "bare.safetensors")


def test_a_file_that_is_no_safetensors_is_refused(tmp_path, direction):
    whole = direction.save(tmp_path / "whole.safetensors").read_bytes()
    for name, content in {
        "cut": whole[: len(whole) // 2],
        "empty": b"",
        "text": b"hello" * 9,
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DirectionError, match=f"{name} is not a readable safetensors file"):
            Direction.load(tmp_path / name)


def stored(path, facts: str, format: str = FORMAT):
    save_file({"vector": torch.ones(4)}, path, {"format": format, "direction": facts})
    return path


GOOD = {"site": "blocks.1.hook_resid_post"}


def test_files_of_the_first_format_are_still_read(tmp_path):
    facts = GOOD | {"method": "DiffMean()", "resid_norm": 2.0, "processing": "raw", "pairs": 3}
    path = stored(tmp_path / "old.safetensors", json.dumps(facts), "steerlens.directions/1")
    read = Direction.load(path)
    assert (read.site, read.resid_norm, read.pairs) == (Site(1), 2.0, 3)
    assert (read.operation, read.apply_at, read.dtype) == ("add", None, "")


def test_the_strength_unit_is_the_norm_of_the_stream_where_that_is_known():
    assert Direction(torch.ones(4), Site(0), resid_norm=2.0).strength_unit == "resid_norm"
    assert Direction(torch.ones(4), Site(0)).strength_unit is None
    own = Direction(torch.ones(4), Site(0), resid_norm=2.0, strength_unit="direction")
    assert own.strength_unit == "direction"


@pytest.mark.parametrize(
    "facts",
    [
        "{",
        "[]",
        "[" * 9000,
        '{"layer": 3}',
        json.dumps(GOOD | {"x": 1}),
        json.dumps({"site": "blocks.1.attn.hook_q"}),
        json.dumps({"site": 3}),
        json.dumps(GOOD | {"layer_convention": "blocks count from 1"}),
        json.dumps(GOOD | {"operation": "multiply"}),
        json.dumps(GOOD | {"strength_unit": "metre"}),
        json.dumps(GOOD | {"resid_norm": "2"}),
        json.dumps(GOOD | {"resid_norm": True}),
        json.dumps(GOOD | {"pairs": 1.5}),
        json.dumps(GOOD | {"model": None}),
        json.dumps(GOOD | {"apply_at": "all"}),
        json.dumps(
            GOOD | {"apply_at": {"rule": "some", "start": 0, "stop": None, "special": True}}
        ),
        json.dumps(GOOD | {"apply_at": {"rule": "all", "start": 0, "stop": None, "special": 1}}),
        '{"site": "blocks.1.hook_resid_post", "value": 1' + "0" * 400 + "}",
    ],
)
@pytest.mark.parametrize("format", [FORMAT, "steerlens.directions/1"])
def test_facts_that_cannot_be_understood_are_refused(tmp_path, facts, format):
    with pytest.raises(DirectionError, match="its facts cannot be read"):
        Direction.load(stored(tmp_path / "strange.safetensors", facts, format))


def test_a_file_states_the_layer_convention(direction, tmp_path):
    with safe_open(direction.save(tmp_path / "it.safetensors"), framework="pt") as file:
        facts = json.loads(file.metadata()["direction"])
    assert facts["layer_convention"] == LAYERS
    assert facts["site"] == "blocks.3.hook_mlp_out"


def test_an_edited_file_is_refused(direction, tmp_path):
    path = direction.save(tmp_path / "it.safetensors")
    whole = path.read_bytes()
    for old, new in ((b"tiny", b"huge"), (whole[-4:], b"\0\0\0\0"), (b"mlp_out", b"mlp_oux")):
        assert whole.count(old) >= 1
        path.write_bytes(new.join(whole.rsplit(old, 1)))
        with pytest.raises(DirectionError, match="checksum|cannot be read"):
            Direction.load(path)


# Between weight processings: the numbers are in test_adopting.py


CENTRED = "fold_ln+center_writing_weights"


def test_a_conversion_says_where_it_came_from_and_back(added):
    raw = dataclasses.replace(added, processing="raw", converted_from=None)
    there = raw.converted(CENTRED)
    assert (there.processing, there.converted_from) == (CENTRED, "raw")
    assert abs(float(there.vector.mean())) < 1e-7 < abs(float(raw.vector.mean()))
    share = there.norm / raw.norm
    assert share < 1 - 1e-4
    assert there.resid_norm == pytest.approx(share * raw.resid_norm)
    assert there.projection_std == pytest.approx(share * raw.projection_std)
    back = there.converted("raw")
    assert (back.processing, back.converted_from) == ("raw", None)
    torch.testing.assert_close(back.vector, there.vector, atol=0, rtol=0)
    assert raw.converted("raw") is raw


def test_processing_that_leaves_the_stream_alone_changes_only_the_label(direction):
    raw = dataclasses.replace(direction, processing="raw", converted_from=None)
    there = raw.converted("fold_ln+center_unembed+fold_value_biases")
    assert torch.equal(there.vector, raw.vector)
    assert (there.resid_norm, there.value) == (raw.resid_norm, raw.value)


@pytest.mark.parametrize("operation", ["ablate", "clamp"])
def test_only_a_vector_without_a_mean_is_converted_for_ablating_and_clamping(direction, operation):
    value = 1.0 if operation == "clamp" else None
    there = dataclasses.replace(
        direction, operation=operation, value=value, processing=CENTRED, converted_from=None
    )
    with pytest.raises(DirectionError, match=f"made to {operation}, and its vector has a mean"):
        there.converted("raw")
    centred = dataclasses.replace(there, vector=there.vector - there.vector.mean())
    assert torch.equal(centred.converted("raw").vector, centred.vector)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"processing": None}, "does not state under which weight processing"),
        ({"processing": "bridge_compatibility"}, "does not say whether.*was centred"),
        ({"vector": torch.full((16,), 3.0)}, "constant over d_model"),
    ],
)
def test_a_conversion_that_is_not_exact_is_refused(added, change, message):
    raw = dataclasses.replace(added, processing="raw", converted_from=None)
    with pytest.raises(DirectionError, match=message):
        dataclasses.replace(raw, **change).converted(CENTRED)
    with pytest.raises(DirectionError, match="'melted' does not say"):
        raw.converted("melted")


def test_what_was_converted_for_adding_is_not_ablated(added):
    raw = dataclasses.replace(added, processing="raw", converted_from=None)
    raw.require_operation("ablate")
    raw.converted("fold_ln").require_operation("ablate")
    there = raw.converted(CENTRED)
    there.require_operation("add")
    with pytest.raises(DirectionError, match="so that adding it keeps its effect; to ablate"):
        there.require_operation("ablate")


def test_activations_that_are_not_finite_are_refused(read):
    broken = read.positive.clone()
    broken[4, 1, 0] = torch.nan
    with pytest.raises(ValueError, match="positive side.*pair 4 at L1 resid_post"):
        dataclasses.replace(read, positive=broken)


def test_a_direction_carries_what_it_was_made_of(read):
    direction = read.direction(1, DiffMean())
    assert (direction.site, direction.resid_norm, direction.pairs) == (Site(1), 3.0, 6)
    assert (direction.method, direction.processing, direction.data) == ("DiffMean()", "raw", "cd")
    assert (direction.operation, direction.strength_unit) == ("add", "resid_norm")
    torch.testing.assert_close(direction.vector, (read.positive - read.negative)[:, 1].mean(0))
    both = torch.cat(read.at(1))
    expected = (both @ direction.unit().vector).std()
    assert direction.projection_std == pytest.approx(float(expected), rel=1e-5)
    assert [d.site for d in read.directions(DiffMean())] == [Site(0), Site(1)]


def test_a_site_that_was_not_read_is_refused(read):
    with pytest.raises(ValueError, match="5 is not among the sites that were read"):
        read.direction(5, DiffMean())
    two = dataclasses.replace(read, sites=(Site(1), Site(1, "resid_pre")))
    with pytest.raises(ValueError, match="1 is more than once among the sites"):
        two.at(1)
    assert two.index(Site(1, "resid_pre")) == 1


def test_sites_and_methods_may_be_named(read):
    expected = read.direction(Site(1), DiffMean())
    for site, method in ((np.int64(1), DiffMean), ("blocks.1.hook_resid_post", "DiffMean")):
        made = read.direction(site, method)
        assert made.facts() == expected.facts()
        assert torch.equal(made.vector, expected.vector)
    assert read.shuffled(np.int64(1)).data == read.shuffled(1).data == "cd:shuffled:1"


def test_pca_needs_true_pairs(read):
    read.direction(0, PCA())
    with pytest.raises(ValueError, match=r"no true pairs. Use DiffMean\(\)"):
        dataclasses.replace(read, paired=False).direction(0, PCA())


def test_shuffled_labels_swap_whole_pairs_and_nothing_else(read):
    shuffled = read.shuffled(1)
    assert shuffled.positive.shape == read.positive.shape
    swapped = (shuffled.positive == read.negative).flatten(1).all(1)
    kept = (shuffled.positive == read.positive).flatten(1).all(1)
    assert bool((swapped ^ kept).all())
    assert 0 < int(swapped.sum()) < len(read)
    torch.testing.assert_close(shuffled.positive + shuffled.negative, read.positive + read.negative)
    assert torch.equal(read.shuffled(1).positive, shuffled.positive)
    assert shuffled.groups == read.groups
    assert shuffled.data != read.data
