"""A direction knows where it belongs, survives the disk, and refuses what would do harm."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import save_file

from steerlens.direction import FORMAT, Activations, Direction, DirectionError
from steerlens.methods import PCA, DiffMean
from steerlens.sites import Site


@pytest.fixture
def direction(random_direction):
    return dataclasses.replace(
        random_direction(Site(3, "mlp_out"), 16), method="DiffMean()", projection_std=0.7,
        processing="fold_ln", read_at="Positions.answer()", model="tiny", fingerprint="ab",
        data="cd", pairs=5,
    )  # fmt: skip


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
    with pytest.raises(DirectionError, match="all zeros, so it would steer nothing"):
        Direction(torch.zeros(4), Site(2))


@pytest.mark.parametrize("name", ["resid_norm", "projection_std"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_unit_of_strength_is_a_positive_number(name, value):
    with pytest.raises(DirectionError, match=f"{name}={value}.*positive number"):
        Direction(torch.ones(4), Site(0), **{name: value})


def test_arithmetic_keeps_the_facts(direction):
    assert direction.unit().norm == pytest.approx(1)
    assert (2 * direction).norm == pytest.approx(2 * direction.norm)
    assert direction.cosine(-direction) == pytest.approx(-1)
    assert (-direction).resid_norm == direction.resid_norm
    torch.testing.assert_close((direction + direction).vector, 2 * direction.vector)


def test_directions_of_different_streams_do_not_add(direction):
    other = dataclasses.replace(direction, site=Site(4))
    with pytest.raises(
        DirectionError, match="Cannot add a direction at L4 resid_post to one at L3"
    ):
        direction + other


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


@pytest.mark.parametrize(
    "facts", ['{"layer": 3}', '{"site": "blocks.1.hook_resid_post", "x": 1}', "{"]
)
def test_facts_that_cannot_be_understood_are_refused(tmp_path, facts):
    path = tmp_path / "strange.safetensors"
    save_file({"vector": torch.ones(4)}, path, {"format": FORMAT, "direction": facts})
    with pytest.raises(DirectionError, match="what it states cannot be read"):
        Direction.load(path)


def test_a_stored_site_that_cannot_be_steered_is_refused(tmp_path):
    path = tmp_path / "strange.safetensors"
    facts = json.dumps({"site": "blocks.1.attn.hook_z"})
    save_file({"vector": torch.ones(4)}, path, {"format": FORMAT, "direction": facts})
    with pytest.raises(ValueError, match="is not a site"):
        Direction.load(path)


def test_activations_that_are_not_finite_are_refused(read):
    broken = read.positive.clone()
    broken[4, 1, 0] = torch.nan
    with pytest.raises(ValueError, match="positive side.*pair 4 at L1 resid_post"):
        dataclasses.replace(read, positive=broken)


def test_a_direction_carries_what_it_was_made_of(read):
    direction = read.direction(1, DiffMean())
    assert (direction.site, direction.resid_norm, direction.pairs) == (Site(1), 3.0, 6)
    assert (direction.method, direction.processing, direction.data) == ("DiffMean()", "raw", "cd")
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
