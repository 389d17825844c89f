"""Every way to find a direction keeps the contract, and finds what it is known to find."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA as SklearnPCA
from sklearn.linear_model import LogisticRegression

from steerlens.arguments import ArgumentError
from steerlens.directions.methods import LDA, METHODS, PCA, DiffMean, Logistic, Random, as_method
from steerlens.testing import check_method


@dataclass(frozen=True)
class MedianDifference:
    """A stranger's method: DiffMean that ignores outliers."""

    def __call__(self, positive, negative):
        return positive.median(0).values - negative.median(0).values


EVERY_METHOD = [
    DiffMean(), PCA(), PCA(centred=True), Logistic(), Logistic(c=0.1), LDA(), MedianDifference(),
]  # fmt: skip


@pytest.mark.parametrize("method", EVERY_METHOD, ids=repr)
def test_a_method_keeps_the_contract(method):
    check_method(method)


def test_the_control_keeps_the_contract_but_for_its_sign():
    check_method(Random(), control=True)
    with pytest.raises(AssertionError, match="does not point from negative to positive"):
        check_method(Random())


def planted(pairs, d_model=12, gap=1.0, noise=0.5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    concept = torch.randn(d_model, generator=generator)
    concept = concept / concept.norm()
    common = torch.randn(pairs, d_model, generator=generator)
    noises = noise * torch.randn(2, pairs, d_model, generator=generator)
    return concept, common + gap * concept + noises[0], common - gap * concept + noises[1]


@pytest.mark.parametrize("method", [DiffMean(), PCA(), Logistic(), LDA()], ids=repr)
def test_a_planted_direction_is_found(method):
    concept, positive, negative = planted(400)
    vector = method(positive, negative)
    assert float(vector @ concept / vector.norm()) > 0.9


@pytest.mark.parametrize("method", [PCA(), Logistic(), LDA()], ids=repr)
def test_the_length_is_the_gap_between_the_means_along_the_direction(method):
    """So that a multiplier means about the same for every method."""
    _, positive, negative = planted(50)
    vector = method(positive, negative)
    gap = positive.mean(0) - negative.mean(0)
    torch.testing.assert_close(vector.norm(), (vector / vector.norm()) @ gap)


@pytest.mark.parametrize("pairs", [40, 4], ids=["more texts than dimensions", "fewer"])
def test_logistic_regression_is_scikit_learns(pairs):
    _, positive, negative = planted(pairs)
    x = torch.cat([positive, negative]).double()
    x = (x - x.mean(0)) / (x - x.mean(0)).std()
    y = np.r_[np.ones(pairs), np.zeros(pairs)]
    expected = torch.from_numpy(LogisticRegression(tol=1e-8).fit(x.numpy(), y).coef_[0]).float()
    vector = Logistic()(positive, negative)
    assert float(torch.cosine_similarity(vector, expected, dim=0)) > 0.99999


def test_centred_pca_is_scikit_learns():
    _, positive, negative = planted(30)
    axis = SklearnPCA(1).fit((positive - negative).numpy()).components_[0]
    vector = PCA(centred=True)(positive, negative)
    assert abs(float(vector / vector.norm() @ torch.from_numpy(axis))) > 0.99999


def test_centred_pca_of_one_pair_is_refused():
    with pytest.raises(ValueError, match="at least two pairs"):
        PCA(centred=True)(torch.ones(1, 4), torch.zeros(1, 4))


def test_lda_undoes_correlated_noise_and_diffmean_does_not():
    """With loud noise along one axis, the discriminant leaves that axis alone."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 300, 2, generator=generator) @ torch.tensor([[3.0, 3.0], [0.0, 0.3]])
    gap = torch.tensor([1.0, 0.0])
    vector = LDA()(noise[0] + gap, noise[1])
    best = torch.tensor([1.0, -1.0]) / 2**0.5  # across the loud axis
    assert float(vector @ best / vector.norm()) > 0.95
    assert float(torch.cosine_similarity(DiffMean()(noise[0] + gap, noise[1]), best, dim=0)) < 0.9


def test_the_random_control_is_as_long_as_diffmean_and_nearly_orthogonal_to_it():
    _, positive, negative = planted(20, d_model=2000)
    mean = DiffMean()(positive, negative)
    controls = [Random(seed)(positive, negative) for seed in range(5)]
    for vector in controls:
        torch.testing.assert_close(vector.norm(), mean.norm())
        assert abs(float(torch.cosine_similarity(vector, mean, dim=0))) < 0.1
    assert not torch.equal(controls[0], controls[1])


# The contract finds what is wrong.


@dataclass(frozen=True)
class Wrong:
    """DiffMean with one fault."""

    fault: str

    def __call__(self, positive, negative):
        vector = positive.mean(0) - negative.mean(0)
        if self.fault == "backwards":
            return -vector
        if self.fault == "not finite":
            return vector / 0
        if self.fault == "a row":
            return vector[None]
        if self.fault == "another type":
            return vector.tolist()
        if self.fault == "random":
            return vector + 0.1 * torch.randn(vector.shape)
        if self.fault == "in place":
            return positive.sub_(negative).mean(0)
        weights = torch.arange(1.0, len(positive) + 1)[:, None]
        if self.fault == "order":
            return ((positive - negative) * weights).mean(0)
        assert self.fault == "secretly paired"
        return ((positive - negative) * (positive - negative).norm(dim=1, keepdim=True)).mean(0)


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("backwards", "does not point from negative to positive: its cosine .* is -1.00"),
        ("not finite", "NaN, infinity or all zeros"),
        ("a row", r"returned torch.Size\(\[1, 8\]\); .* of shape \(8,\)"),
        ("another type", "returned list; a direction is a floating point tensor"),
        ("random", "two vectors for the same pairs. Seed"),
        ("in place", "changed its arguments in place"),
        ("order", "another vector when the order of the texts changes"),
        ("secretly paired", "If it needs true pairs, give it `paired = True`"),
    ],
)  # fmt: skip
def test_a_broken_method_is_told_what_is_wrong(fault, text):
    with pytest.raises(AssertionError, match=text):
        check_method(Wrong(fault))


def test_a_method_needs_a_label_that_lasts():
    class Nameless:
        def __call__(self, positive, negative):
            return positive.mean(0) - negative.mean(0)

    with pytest.raises(AssertionError, match="it holds a memory address"):
        check_method(Nameless())


# Names of methods


@pytest.mark.parametrize("method", [*EVERY_METHOD[:-1], Random(3)], ids=repr)
def test_a_method_is_made_of_its_label(method):
    assert as_method(repr(method)) == method
    assert as_method(method) is method


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_made_of_its_name_or_class(name):
    assert as_method(name) == as_method(METHODS[name]) == METHODS[name]()
    assert as_method(MedianDifference) == MedianDifference()


@pytest.mark.parametrize(
    "value",
    ["", "diffmeans", "DiffMean(", "Logistic(0.1)", "Logistic(c=open('x'))", "Logistic(**{})",
     "__import__('os').getcwd()", "Logistic()()", "a" * 2000, 3, None],
)  # fmt: skip
def test_what_is_no_method_is_refused_and_never_run(value):
    with pytest.raises(ArgumentError, match="^method=.*DiffMean, PCA, Logistic, LDA, Random"):
        as_method(value)


def test_arguments_that_a_method_does_not_have_are_refused():
    with pytest.raises(ArgumentError, match="DiffMean cannot be made with .*'c': 1"):
        as_method("DiffMean(c=1)")
    with pytest.raises(ArgumentError, match="Wrong cannot be made with no arguments"):
        as_method(Wrong)


@pytest.mark.usefixtures("unchecked")
def test_numbers_of_other_libraries_give_the_same_label():
    assert repr(Logistic(c=np.float64(0.1))) == "Logistic(c=0.1, max_iter=1000)"
    assert repr(Random(torch.tensor(2))) == "Random(seed=2)"
    assert repr(PCA(centred=np.True_)) == "PCA(centred=True)"
    for made, message in (
        (lambda: Logistic(c=0.0), "c=0.0 is not positive"),
        (lambda: Logistic(c="1"), "c='1' is not a number"),
        (lambda: Random(1.5), "seed=1.5 is not a whole number"),
        (lambda: PCA(1), "centred=1 is not a bool"),
    ):
        with pytest.raises(ArgumentError, match=message):
            made()
