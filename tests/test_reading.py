"""Activations are those of `run_with_cache`, whatever the batch, the padding and the path."""

from dataclasses import replace

import pytest
import torch

from steerlens.data import ContrastPair, ContrastSet
from steerlens.directions.methods import PCA, DiffMean, Logistic
from steerlens.interventions import Add
from steerlens.measures import reading as capture
from steerlens.measures.activation_store import ActivationStore
from steerlens.measures.reading import (
    activations,
    chunks,
    diffmean,
    fit_directions,
    reading_positions,
)
from steerlens.models.kernel import Kernel
from steerlens.models.model import Model, SteeringError
from steerlens.models.tokenizing import Texts
from steerlens.sites import Positions, Site
from steerlens.store.cells import Cells
from steerlens.testing import tiny_model

ANSWERED = ContrastSet(
    "answered",
    (
        ContrastPair("the cat sat on the", " bed", " room"),
        ContrastPair("I think he said that the good soup was", " good and hot", " bad"),
        ContrastPair("Question : you", " ( A )", " ( B )"),
        ContrastPair("you", " like the dog", " hate the dog and the cat"),
        ContrastPair("she went to the town and he", " ran", " slept"),
    ),
)
BARE = ContrastSet(
    "bare",
    (
        ContrastPair("", "the soup was good", "the soup was bad"),
        ContrastPair("", "I love that old red wine now", "I hate it"),
        ContrastPair("", "he ran", "he slept in the bed"),
    ),
)
EVERY_STREAM = tuple(
    Site(layer, stream) for layer in range(3) for stream in ("resid_pre", "resid_post", "attn_out")
)
both_kinds = pytest.mark.parametrize("pairs", [ANSWERED, BARE], ids=lambda pairs: pairs.name)


def expected_of(model, pairs, sites):
    """One unpadded row at a time through TransformerLens's own cache."""
    sides, norms = ([], []), []
    for pair in pairs:
        texts = (pair.positive_text, pair.negative_text)
        ids = [model.ids(text) for text in texts]
        at = [-1, -1]
        if pair.prompt:
            first = next(i for i, (a, b) in enumerate(zip(*ids, strict=False)) if a != b)
            at = [first, first]
        for side in (0, 1):
            _, cache = model.wrapped.run_with_cache(torch.tensor([ids[side]]))
            streams = torch.stack([cache[site.hook][0] for site in sites])
            sides[side].append(streams[:, at[side]])
            ordinary = ~model.is_special(torch.tensor(ids[side]))
            norms.append(streams[:, ordinary].norm(dim=-1).median(-1).values)
    return torch.stack(sides[0]), torch.stack(sides[1]), torch.stack(norms).median(0).values


@both_kinds
@pytest.mark.parametrize("stop", [2, 3], ids=["without hooks", "with hooks"])
def test_activations_are_those_of_run_with_cache(tiny, pairs, stop):
    streams = ("resid_pre", "resid_post", "attn_out")[:stop]
    sites = tuple(site for site in EVERY_STREAM if site.stream in streams)
    positive, negative, norms = expected_of(tiny, pairs, sites)
    for batch_size in (2, 32):
        read = activations(tiny, pairs, sites, batch_size=batch_size, progress=False)
        torch.testing.assert_close(read.positive, positive, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(read.negative, negative, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(read.resid_norms, norms, atol=1e-5, rtol=1e-5)


@both_kinds
def test_activations_of_a_bridge_are_those_of_run_with_cache(tiny_bridge_model, pairs):
    positive, negative, norms = expected_of(tiny_bridge_model, pairs, EVERY_STREAM)
    read = activations(tiny_bridge_model, pairs, EVERY_STREAM, progress=False)
    torch.testing.assert_close(read.positive, positive, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(read.negative, negative, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(read.resid_norms, norms, atol=1e-5, rtol=1e-5)


@both_kinds
def test_the_padding_side_changes_nothing(tiny, pairs, monkeypatch):
    left = activations(tiny, pairs, progress=False)
    real = Texts.pairs
    monkeypatch.setattr(Texts, "pairs", lambda t, p, **_: real(t, p, padding_side="right"))
    right = activations(tiny, pairs, progress=False)
    torch.testing.assert_close(left.positive, right.positive, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(left.negative, right.negative, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(left.resid_norms, right.resid_norms, atol=1e-5, rtol=1e-5)


def test_a_reading_states_what_it_is_of(gpt2):
    read = activations(gpt2, ANSWERED, progress=False)
    assert read.sites == gpt2.sites()
    assert (read.read_at, read.model, read.processing) == ("Positions.answer()", gpt2.name, "raw")
    assert (read.fingerprint, read.data) == (gpt2.fingerprint, ANSWERED.hash)
    assert read.groups == ANSWERED.groups
    assert reading_positions(BARE) == Positions.last()


@both_kinds
@pytest.mark.parametrize("batch_size", [1, 32])
def test_streaming_diffmean_is_diffmean_of_the_activations(tiny, pairs, batch_size):
    streamed = diffmean(tiny, pairs, batch_size=batch_size, progress=False)
    whole = activations(tiny, pairs, progress=False).directions(DiffMean())
    for one, other in zip(streamed, whole, strict=True):
        torch.testing.assert_close(one.vector, other.vector, atol=1e-5, rtol=1e-5)
        assert one.resid_norm == pytest.approx(other.resid_norm, rel=1e-5)
        facts = [
            replace(d, vector=torch.ones(1), resid_norm=None, projection_std=None)
            for d in (one, other)
        ]
        assert vars(facts[0]) | {"vector": 0} == vars(facts[1]) | {"vector": 0}


def test_directions_of_any_method_come_one_per_site(gpt2):
    for method in (DiffMean(), Logistic()):
        found = fit_directions(gpt2, ANSWERED, method)
        assert [d.site for d in found] == list(gpt2.sites())
        assert {d.method for d in found} == {repr(method)}


@pytest.mark.parametrize("rule", ["generated", "all"])
def test_the_mean_over_tokens_is_read(tiny, rule, tmp_path):
    """One unpadded text at a time; the mean of an answer's tokens, or of all ordinary ones."""
    read = activations(tiny, ANSWERED, layers=[0, 2], positions=rule, pool="mean", progress=False)
    assert read.sites == (Site(0), Site(2))
    assert read.read_at == f"the mean over Positions.{rule}()"
    for i, pair in enumerate(ANSWERED):
        ids = tiny.ids(pair.positive_text)
        start = len(tiny.ids(pair.prompt)) if rule == "generated" else 1  # without BOS
        stream = tiny.cache(torch.tensor(ids), Site(2))[Site(2)][0, start:]
        torch.testing.assert_close(read.positive[i, 1], stream.mean(0), atol=1e-5, rtol=1e-5)
    options = {"layers": [0, 2], "positions": rule, "pool": "mean"}
    stored = ActivationStore(tmp_path).activations(tiny, ANSWERED, progress=False, **options)
    assert torch.equal(stored.positive, read.positive) and stored.read_at == read.read_at
    streamed = fit_directions(tiny, ANSWERED, "DiffMean", **options)
    torch.testing.assert_close(streamed[1].vector, read.direction(2, "DiffMean").vector)


def test_what_cannot_be_averaged_is_refused(gpt2, unchecked):
    with pytest.raises(ValueError, match="chooses no token of row 0"):
        activations(gpt2, BARE, positions="generated", pool="mean", progress=False)
    with pytest.raises(ValueError, match="where they are still the same"):
        activations(gpt2, ANSWERED, positions=Positions.span(0, 1, special=True), pool="mean")
    with pytest.raises(ValueError, match="pool='max' is no way"):
        activations(gpt2, ANSWERED, pool="max")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sites and layers both"):
        activations(gpt2, ANSWERED, [0], layers=[0])
    with pytest.raises(ValueError, match="are not layers"):
        activations(gpt2, ANSWERED, layers=3)  # type: ignore[arg-type]


def test_the_norm_of_special_tokens_does_not_count():
    """An attention sink's norm is large, and BOS is in every text."""
    hooked = tiny_model("gpt2")
    model = Model(hooked)
    before = activations(model, BARE, [Site(0, "resid_pre")], progress=False)
    hooked.embed.W_E.data[hooked.tokenizer.bos_token_id] *= 1e4
    after = activations(model, BARE, [Site(0, "resid_pre")], progress=False)
    torch.testing.assert_close(after.resid_norms, before.resid_norms)


def test_only_the_layers_below_the_highest_site_are_computed(gpt2, monkeypatch):
    ran, real = set(), Kernel.block

    def block(self, layer, *arguments, **named):
        ran.add(layer)
        return real(self, layer, *arguments, **named)

    monkeypatch.setattr(Kernel, "block", block)
    activations(gpt2, ANSWERED, [Site(1, "resid_pre"), Site(0)], progress=False)
    assert ran == {0}


def test_memory_holds_one_batch_at_a_time(gpt2):
    sizes = [
        len(c.index) for c in chunks(gpt2, tuple(ANSWERED), gpt2.sites(), Positions.answer(), 2)
    ]
    assert sizes == [2, 2, 1]


@pytest.mark.parametrize("site", [Site(1), Site(1, "attn_out")], ids=str)
def test_attached_steering_is_in_what_is_read(gpt2, random_direction, site):
    add = Add(random_direction(site, gpt2.d_model))
    bare = activations(gpt2, ANSWERED, [site], progress=False)
    with add.attach(gpt2, 2.0):
        steered = activations(gpt2, ANSWERED, [site], progress=False)
    moved = (steered.positive - bare.positive)[:, 0]
    torch.testing.assert_close(moved, (2 * add.step).expand_as(moved), atol=1e-5, rtol=1e-4)


def test_a_set_without_true_pairs_says_so(gpt2):
    read = activations(gpt2, replace(BARE, paired=False), progress=False)
    read.direction(0, DiffMean())
    with pytest.raises(ValueError, match="no true pairs"):
        read.direction(0, PCA())


@pytest.mark.parametrize(
    "positions", [Positions.last(), Positions.span(0, 1, special=True)], ids=repr
)
@pytest.mark.parametrize("read", [activations, diffmean])
def test_reading_where_both_sides_are_still_the_same_is_refused(gpt2, positions, read):
    """Their difference would be rounding noise, and a direction like any other to look at."""
    with pytest.raises(ValueError, match=r"still the same.*Read them at Positions.answer\(\)"):
        read(gpt2, ANSWERED, positions=positions, progress=False)


def test_letters_are_read_at_the_letter_or_after_it(gpt2):
    letters = ContrastSet("letters", (ContrastPair("Question : you", " ( A )", " ( B )"),))
    for at in (5, 6):  # <bos> Question : you ( A )
        activations(gpt2, letters, positions=Positions.span(at, at + 1), progress=False)
    with pytest.raises(ValueError, match="still the same"):
        activations(gpt2, letters, positions=Positions.span(4, 5), progress=False)


@pytest.mark.parametrize(
    ("pair", "options", "text"),
    [
        (("the", " cat", " dog"), {"sites": [Site(9)]}, "Layer 9 is not in 'tiny-gpt2'"),
        (("the cat " * 40, " sat", " ran"), {}, "Text 0 has 82 tokens and the context of"),
        (("the ca", "t", "ts"), {}, "change when the answer 't' is appended"),
        (("the", " cat", " cat sat"), {}, "one is the start of the other"),
        (("", "the cat", "a dog"), {"positions": Positions.answer()}, "needs answers"),
        (("the", " cat", " dog"), {"positions": Positions.all()}, "reading takes one token"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*unknown to the tokenizer")
def test_what_cannot_be_read_is_refused(gpt2, pair, options, text):
    with pytest.raises(ValueError, match=text):
        activations(gpt2, ContrastSet("one", (ContrastPair(*pair),)), progress=False, **options)


def test_a_model_that_gives_nan_is_refused():
    hooked = tiny_model("gpt2")
    hooked.blocks[1].mlp.W_out.data[0, 0] = torch.nan
    with pytest.raises(
        ValueError, match="NaN or infinite numbers, first in pair 0 at L1 resid_post"
    ):
        activations(Model(hooked), ANSWERED, progress=False)


def test_a_chunk_of_other_pairs_is_not_taken(gpt2, tmp_path):
    cells = Cells(tmp_path, "activations")
    whole = activations(gpt2, ANSWERED, progress=False, batch_size=2, cells=cells)
    kept = [cells.load(k) for k in range(3)]
    for k in range(3):
        cells.save(k, kept[(k + 1) % 3])
    again = activations(gpt2, ANSWERED, progress=False, batch_size=2, cells=cells)
    assert torch.equal(again.positive, whole.positive)


def test_chunks_that_were_read_are_not_read_again(gpt2, tmp_path, monkeypatch):
    cells = Cells(tmp_path, "activations")
    whole = activations(gpt2, ANSWERED, progress=False, batch_size=2, cells=cells)
    monkeypatch.setattr(Kernel, "block", None)
    again = activations(gpt2, ANSWERED, progress=False, batch_size=2, cells=cells)
    assert torch.equal(again.positive, whole.positive)


def test_steering_that_edits_nothing_that_is_read_is_refused(gpt2, random_direction):
    add = Add(random_direction(Site(0), gpt2.d_model), Positions.generated())
    with pytest.raises(SteeringError, match="chose no token"), add.attach(gpt2, 1.0):
        capture.activations(gpt2, BARE, progress=False)
