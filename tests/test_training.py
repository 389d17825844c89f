# ruff: noqa: E402 (sae_lens is optional, and tests.untrained_saes needs it)
"""Training is sae_lens's own, leaves nothing behind, and quality measures what it says."""

import importlib
import json
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("sae_lens", reason="needs the extra steerlens[sae]")

from steerlens.models.model import Model
from steerlens.saes import SAE, SAEError
from steerlens.saes.corpus import batches, first_rows, ordinary, streams
from steerlens.saes.quality import observe, quality
from steerlens.saes.sae_lens_library import sae_lens
from steerlens.saes.training import _scaled, _served, _trainer, train_saes
from steerlens.sites import Site
from steerlens.testing import WORDS, tiny_bridge
from tests.untrained_saes import untrained, untrained_sae

SITES = (Site(0), Site(2, "resid_pre"))
SMALL = {"d_sae": 64, "tokens": 4096, "batch_tokens": 64, "buffer_tokens": 1024, "lr": 1e-2}


def texts(n=60, seed=0):
    rng = np.random.default_rng(seed)
    words = [w for w in WORDS if w.isalpha()]
    return [" ".join(rng.choice(words, rng.integers(4, 12))) for _ in range(n)]


def trained(model, **options):
    return train_saes(
        model, texts(), SITES, **{"architecture": "topk", **SMALL, **options}, progress=False
    )


@pytest.fixture(scope="module")
def found(request):
    model = request.getfixturevalue("gpt2")
    return trained(model)


# Training


def test_training_explains_a_stream_that_was_not_seen(gpt2, found):
    held_out = texts(30, seed=1)
    for site, sae in zip(SITES, found, strict=True):
        assert sae.site == site
        measured = quality(sae, gpt2, held_out, progress=False)
        assert measured.l0 == pytest.approx(16, abs=0.5)
        assert measured.explained_variance > 0.8
        untouched = replace(untrained("topk"), site=site)
        assert quality(untouched, gpt2, held_out, progress=False).explained_variance < 0.2


def test_the_same_seed_gives_the_same_sae(gpt2):
    again = trained(gpt2, tokens=1024), trained(gpt2, tokens=1024)
    other = trained(gpt2, tokens=1024, seed=1)
    for one, same, different in zip(*again, other, strict=True):
        assert torch.equal(one.W_dec, same.W_dec)
        assert not torch.allclose(one.W_dec, different.W_dec, atol=1e-3)


def test_several_layers_at_once_are_each_layer_alone(gpt2, found):
    alone = train_saes(gpt2, texts(), [SITES[0]], architecture="topk", **SMALL, progress=False)
    torch.testing.assert_close(alone[0].W_dec, found[0].W_dec)


def test_the_steps_are_those_of_sae_lens_trainer(gpt2, found):
    """The same batches through sae_lens's own loop, scaling and folding."""
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.multi_sae_trainer import MultiSAETrainer

    torch.manual_seed(0)
    steps = SMALL["tokens"] // SMALL["batch_tokens"]
    made = {
        site: _trainer(gpt2, 64, "topk", None, steps, SMALL["batch_tokens"], SMALL["lr"])
        for site in SITES
    }
    served = _served(gpt2, texts(), SITES, SMALL["batch_tokens"], SMALL["buffer_tokens"], 0)
    served = _scaled(made, served)
    config = next(iter(made.values())).cfg
    assert isinstance(config, SAETrainerConfig)
    theirs = MultiSAETrainer(
        cfg=config,
        saes={str(site): trainer.sae for site, trainer in made.items()},
        hook_names={str(site): str(site) for site in SITES},
        data_provider=({str(s): x for s, x in batch.items()} for batch in served),
    )
    for site, trainer in made.items():
        theirs.trainers[str(site)].activation_scaler = trainer.activation_scaler
    for (site, sae), ours in zip(theirs.fit().items(), found, strict=True):
        assert site == str(ours.site)
        rows = sae.W_dec / sae.W_dec.norm(dim=-1, keepdim=True)
        torch.testing.assert_close(ours.W_dec / ours.W_dec.norm(dim=-1, keepdim=True), rows.data)


@pytest.mark.parametrize("architecture", ["batchtopk", "jumprelu", "standard", "gated", "abstopk"])
def test_every_architecture_trains(gpt2, architecture):
    (found,) = train_saes(
        gpt2, texts(), [Site(1)], architecture=architecture,
        **{**SMALL, "tokens": 2048}, progress=False,
    )  # fmt: skip
    expected = "jumprelu" if architecture == "batchtopk" else architecture
    assert found.architecture == expected
    assert float((found.max_activation != 0).float().mean()) > 0.2


def test_a_dictionary_states_what_it_was_trained_on(gpt2, found):
    for sae in found:
        sae.require_fits(gpt2)
        assert sae.fingerprint == gpt2.fingerprint
        assert sae.processing == gpt2.processing
        assert sae.wrapped.cfg.metadata.exclude_special_tokens is True
        assert sae.wrapped.cfg.metadata.steerlens["training_tokens"] == 4096
        assert sae.wrapped.cfg.normalize_activations == "none"


def test_training_leaves_nothing_behind(gpt2, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    weights = gpt2.fingerprint
    trained(gpt2, tokens=512)
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert list(tmp_path.iterdir()) == []
    assert gpt2.fingerprint == weights
    assert all(not point.fwd_hooks for point in gpt2.wrapped.hook_dict.values())


def test_a_bridge_and_rows_of_ids_train_too():
    bridge = Model(tiny_bridge("gpt2"))
    ids = torch.randint(4, 60, (40, 12), generator=torch.Generator().manual_seed(0))
    (found,) = train_saes(
        bridge, ids, [Site(1)], architecture="topk", **{**SMALL, "tokens": 4096}, progress=False
    )
    found.require_fits(bridge)
    assert quality(found, bridge, ids, progress=False).explained_variance > 0.3


def test_the_first_rows_hold_as_many_tokens_as_asked_for_short_ones_first(gpt2):
    corpus = ["the cat sat on the bed", "the dog", "a cat sat", "the soup"]
    lengths = [int(gpt2.tokens([text]).mask.sum()) for text in corpus]
    assert first_rows(gpt2, corpus, sum(lengths[:3])) == ["the dog", "a cat sat", corpus[0]]
    assert first_rows(gpt2, corpus, sum(lengths[:2]) + 1) == ["the dog", "a cat sat", corpus[0]]
    assert first_rows(gpt2, corpus, 0) == [corpus[0]]
    ids = torch.arange(12).reshape(4, 3)
    assert torch.equal(first_rows(gpt2, ids, 7), ids[:2])


def test_the_first_token_of_a_text_is_not_ordinary(gpt2):
    """Its norm can be a hundred times that of the others, also where it is no BOS."""
    bare = Model.load(gpt2, prepend_bos=False)
    batch = bare.tokens(["the cat sat", "the dog"])  # padded on the left
    assert ordinary(batch).tolist() == [[False, True, True], [False, False, True]]
    with_bos = gpt2.tokens(["the cat sat"])
    assert ordinary(with_bos).tolist() == [[False, True, True, True]]


def test_only_ordinary_tokens_are_served_and_each_as_often(gpt2):
    corpus = texts(10)
    counted = sum(int(ordinary(batch).sum()) for batch in batches(gpt2, corpus))
    assert counted == sum(len(text.split()) for text in corpus)  # no BOS, no padding
    served = _served(gpt2, corpus, [Site(0)], counted, counted, seed=0)
    expected = torch.cat([streams(gpt2, b, [Site(0)])[Site(0)] for b in batches(gpt2, corpus)])
    for _ in range(2):  # each pass, in another order
        got = next(served)[Site(0)]
        torch.testing.assert_close(_sorted(got), _sorted(expected), atol=1e-5, rtol=1e-5)


def _sorted(rows):
    return rows[rows[:, 0].argsort()]


@pytest.mark.parametrize(
    ("options", "error", "reason"),
    [
        ({"architecture": "tpok"}, SAEError, "trains no architecture 'tpok'"),
        ({"options": {"l1_coefficient": 1.0}}, SAEError, "sae_lens refuses"),
        ({"tokens": 60}, ValueError, "less than one step"),
        ({"lr": 1e30}, FloatingPointError, "Lower lr"),
    ],
)
def test_what_cannot_be_trained_is_refused(gpt2, options, error, reason):
    with pytest.raises(error, match=reason):
        trained(gpt2, **options)


def test_an_empty_corpus_is_refused(gpt2):
    with pytest.raises(ValueError, match="corpus is empty"):
        train_saes(gpt2, [], [Site(0)], **SMALL, progress=False)
    only_bos = torch.full((4, 3), gpt2.tokenizer.bos_token_id)
    with pytest.raises(ValueError, match="no ordinary tokens"):
        train_saes(gpt2, only_bos, [Site(0)], **SMALL, progress=False)


# Quality


def exact(d_in=32):
    """An SAE that reconstructs every stream: each dimension's two signs are its features."""
    lens = sae_lens()
    config = lens.StandardSAEConfig(d_in=d_in, d_sae=2 * d_in, apply_b_dec_to_input=False)
    config.metadata.hook_name = "blocks.1.hook_resid_post"
    sae = lens.StandardSAE(config)
    both = torch.cat([torch.eye(d_in), -torch.eye(d_in)])
    with torch.no_grad():
        sae.W_dec.copy_(both)
        sae.W_enc.copy_(both.T)
    return SAE.of(sae, name="exact")


def test_an_exact_sae_loses_nothing(gpt2):
    measured = quality(exact(), gpt2, texts(20), progress=False)
    assert measured.l0 == pytest.approx(32)
    assert measured.explained_variance == pytest.approx(1, abs=1e-5)
    assert measured.loss_added == pytest.approx(0, abs=1e-5)
    for share in (measured.recovered, measured.recovered_from_mean):
        assert share.value == pytest.approx(1, abs=1e-4)


def test_an_sae_that_only_knows_the_mean_recovers_nothing_over_it(gpt2):
    sae, corpus = exact(), texts(20)
    resid = torch.cat([streams(gpt2, b, [Site(1)])[Site(1)] for b in batches(gpt2, corpus)])
    with torch.no_grad():
        sae.wrapped.W_enc.zero_()
        sae.wrapped.b_dec.copy_(resid.mean(0))
    measured = quality(sae, gpt2, corpus, progress=False)
    assert measured.dead == measured.d_sae == 64
    assert measured.explained_variance == pytest.approx(0, abs=1e-4)
    assert measured.recovered_from_mean.value == pytest.approx(0, abs=1e-3)


def test_losses_are_those_of_a_spliced_sae(gpt2):
    from sae_lens import HookedSAETransformer

    spliced = HookedSAETransformer(gpt2.cfg, tokenizer=gpt2.tokenizer)
    spliced.load_state_dict(gpt2.wrapped.state_dict())
    ids = torch.randint(4, 60, (6, 10), generator=torch.Generator().manual_seed(3))
    measured = quality(untrained("topk"), gpt2, ids, rows=4, progress=False)
    with torch.no_grad():
        clean = spliced(ids, return_type="loss")
        with spliced.saes([untrained_sae("topk")]):
            loss = spliced(ids, return_type="loss")
        zero = spliced.run_with_hooks(
            ids,
            return_type="loss",
            fwd_hooks=[("blocks.1.hook_resid_post", lambda resid, hook: torch.zeros_like(resid))],
        )
    assert measured.loss == pytest.approx(float(clean), abs=1e-5)
    assert measured.loss_added == pytest.approx(float(loss - clean), abs=1e-5)
    expected = float((zero - loss) / (zero - clean))
    assert measured.recovered.value == pytest.approx(expected, abs=1e-4)
    assert measured.recovered.low <= expected <= measured.recovered.high


def test_quality_does_not_depend_on_how_rows_are_batched(gpt2):
    one, other = (
        quality(untrained("topk"), gpt2, texts(9), rows=rows, progress=False).row for rows in (2, 9)
    )
    assert one == pytest.approx(other, rel=1e-4)


def test_what_is_observed_is_the_largest_and_the_median(gpt2):
    sae, corpus = untrained("abstopk"), texts(20)
    observed = observe(sae, gpt2, corpus, rows=3, progress=False)
    resid = torch.cat([streams(gpt2, b, [Site(1)])[Site(1)] for b in batches(gpt2, corpus)])
    features = sae.encode(resid)
    torch.testing.assert_close(observed.max_activation.abs(), features.abs().amax(0))
    fired = observed.max_activation != 0
    # Signs too; batches of other sizes round differently, so equal means close.
    hit = torch.isclose(features, observed.max_activation, rtol=1e-4, atol=1e-6).any(0) | ~fired
    assert bool(hit.all())
    assert observed.resid_norm == pytest.approx(float(resid.norm(dim=-1).median()), rel=1e-5)


def test_one_row_is_too_little_to_measure(gpt2):
    with pytest.raises(ValueError, match="at least two"):
        quality(untrained("topk"), gpt2, texts(1), progress=False)


# The script


@pytest.fixture
def script(monkeypatch):
    experiments = Path(__file__).parents[1] / "experiments"
    monkeypatch.syspath_prepend(experiments)
    return importlib.import_module("train_saes")


def test_the_script_writes_what_load_reads(script, tmp_path, capsys):
    settings = script.TrainSAEs(
        layers=(1,), d_sae=32, options=("k=4",), tokens=1024, batch_tokens=128, documents=30,
        check_documents=4, output=tmp_path / "saes",
    )  # fmt: skip
    script.main(settings)
    found = SAE.load(tmp_path / "saes" / "1")
    found.require_fits(Model.load("reviews"))
    assert (found.site, found.d_sae) == (Site(1), 32)
    manifest = json.loads((tmp_path / "saes" / "manifest.json").read_text())
    assert manifest["training"]["options"] == ["k=4"]
    assert set(manifest["check"]) == {"1"}
    assert "1/cfg.json" in manifest["files"]
    assert "layer 1: L0" in capsys.readouterr().out


def test_the_script_refuses_what_would_ship_other_saes(script, tmp_path):
    with pytest.raises(ValueError, match="Drop --model"):
        script.TrainSAEs(install=True, layers=(1,))
    with pytest.raises(ValueError, match="needs texts"):
        script.TrainSAEs(model="gpt2")
    with pytest.raises(ValueError, match="k=16"):
        script.TrainSAEs(options=("k:3",)).settings()
    with pytest.raises(FileExistsError, match="not from an earlier training"):
        script.TrainSAEs(output=tmp_path)
