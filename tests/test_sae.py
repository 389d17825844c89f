# ruff: noqa: E402 (sae_lens is optional, and tests.saes needs it)
"""Dictionaries compute what sae_lens computes, say where they come from, and refuse what cannot be."""

import ast
import json
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import torch

pytest.importorskip("sae_lens", reason="needs the extra steerlens[sae]")

from safetensors.torch import save_file

import steerlens.saes
from steerlens.models.checkpoints import UnreachableHub
from steerlens.models.loading import PRETRAINED
from steerlens.models.model import Model
from steerlens.saes import SAE, SAEError, sae_lens_library
from steerlens.saes.quality import quality
from steerlens.saes.releases import releases
from steerlens.saes.sae_folders import WEIGHTS
from steerlens.saes.sae_lens_library import sae_lens
from steerlens.sites import Site
from steerlens.store.tensors import DamagedFile
from steerlens.testbed.reviews import neutral_texts
from steerlens.testing import tiny_model
from tests.saes import D_SAE, KINDS, untrained, untrained_sae

SHIPPED = PRETRAINED / "reviews-saes"


def some_stream():
    return 1.5 * torch.randn(3, 5, 32, generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="module")
def reviews():
    return Model.load("reviews")


# What it computes


@pytest.mark.parametrize("kind", KINDS)
def test_reading_and_writing_are_sae_lens_own(kind):
    sae, theirs, resid = untrained(kind), untrained_sae(kind).eval(), some_stream()
    with torch.no_grad():
        features = theirs.encode(resid)
        torch.testing.assert_close(sae.encode(resid), features)
        torch.testing.assert_close(sae.read(resid, [7, 2]), features[..., [7, 2]])
        torch.testing.assert_close(sae.decode(features, resid), theirs.decode(features))
        torch.testing.assert_close(sae.reconstruct(resid), theirs(resid))


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_is_encoded_by_itself(kind):
    sae, resid = untrained(kind), some_stream()
    whole = sae.encode(resid)
    torch.testing.assert_close(sae.encode(resid[1, 2]), whole[1, 2])
    torch.testing.assert_close(sae.encode(resid[:, 3:]), whole[:, 3:])


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_what_an_activation_adds(kind):
    sae, resid = untrained(kind), some_stream()
    features = sae.encode(resid)
    louder = features.clone()
    louder[..., 4] += 2.0
    added = sae.decode(louder, resid) - sae.decode(features, resid)
    expected = (2.0 * sae.W_dec[4] * sae.scale(resid)).expand_as(resid)
    torch.testing.assert_close(added, expected, atol=1e-5, rtol=1e-5)


def test_nothing_is_left_on_the_sae_between_calls():
    for kind in ("layer_norm", "constant_norm_rescale"):
        sae = untrained(kind)
        before = set(sae.wrapped.__dict__)
        sae.encode(some_stream())
        sae.read(some_stream(), [1])
        sae.reconstruct(some_stream())
        assert set(sae.wrapped.__dict__) == before


def test_activations_alone_do_not_tell_a_normalised_stream():
    sae, resid = untrained("layer_norm"), some_stream()
    with pytest.raises(SAEError, match=r"decode\(features, resid\)"):
        sae.decode(sae.encode(resid))


def test_a_direction_is_the_unit_row_with_all_that_is_known():
    sae = replace(untrained("topk"), processing="raw", fingerprint="f" * 32)
    direction = sae.direction(6)
    torch.testing.assert_close(
        direction.vector * sae.W_dec[6].norm(), sae.W_dec[6], atol=1e-6, rtol=1e-5
    )
    assert direction.norm == pytest.approx(1.0)
    assert (direction.site, direction.resid_norm) == (Site(1), 3.0)
    assert (direction.processing, direction.fingerprint) == ("raw", "f" * 32)
    assert direction.method == "SAE feature 6 of untrained topk"


def test_streams_of_another_width_are_refused():
    with pytest.raises(SAEError, match="width 32; got 31"):
        untrained().encode(torch.zeros(2, 31))


# On disk


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_is_what_is_loaded(kind, tmp_path):
    made = replace(untrained(kind), processing="raw", fingerprint="f" * 32, model="tiny")
    loaded = SAE.load(made.save(tmp_path / "sae"))
    torch.testing.assert_close(loaded.encode(some_stream()), made.encode(some_stream()))
    torch.testing.assert_close(loaded.reconstruct(some_stream()), made.reconstruct(some_stream()))
    assert torch.equal(loaded.max_activation, made.max_activation)
    for name in ("site", "processing", "fingerprint", "model", "resid_norm", "architecture"):
        assert getattr(loaded, name) == getattr(made, name)


def test_sae_lens_reads_what_is_saved_and_is_read(tmp_path):
    sae = untrained("topk")
    sae.save(tmp_path / "ours", dtype=torch.float16)
    theirs = sae_lens().SAE.load_from_disk(tmp_path / "ours", dtype="float32")
    torch.testing.assert_close(
        theirs.encode(some_stream()), sae.encode(some_stream()), atol=0.02, rtol=0.01
    )
    untrained_sae("gated").save_model(tmp_path / "theirs")
    ours = SAE.load(tmp_path / "theirs")
    torch.testing.assert_close(ours.encode(some_stream()), untrained("gated").encode(some_stream()))
    assert (ours.max_activation, ours.resid_norm, ours.processing) == (None, None, None)


def test_half_precision_on_disk_computes_in_float32(tmp_path):
    loaded = SAE.load(untrained("topk").save(tmp_path, dtype=torch.float16))
    assert loaded.encode(some_stream()).dtype == torch.float32
    assert (tmp_path / WEIGHTS).stat().st_size < 2.2 * (2 * 32 * D_SAE + 32 + D_SAE) + 1000


def test_a_flipped_bit_is_seen(tmp_path):
    path = untrained("topk").save(tmp_path) / WEIGHTS
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedFile, match="damaged"):
        SAE.load(tmp_path)


def test_folders_that_hold_no_sae_are_refused(tmp_path):
    with pytest.raises(SAEError, match=r"no folder with cfg\.json"):
        SAE.load(tmp_path / "nowhere")
    untrained("topk").save(tmp_path)
    (tmp_path / "cfg.json").write_text('{"architecture": "unheard of", "d_in": 32, "d_sae": 48}')
    (tmp_path / "checksums.json").unlink()
    with pytest.raises(SAEError, match="cannot be read"):
        SAE.load(tmp_path)


# What cannot steer


def changed_config(tmp_path, **changes):
    untrained("standard").save(tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    meta = changes.pop("metadata", {})
    config.update(changes)
    config["metadata"].update(meta)
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    (tmp_path / "checksums.json").unlink()  # a folder of another library has none
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"metadata": {"hook_name": "blocks.1.attn.hook_z"}}, r"reads blocks\.1\.attn\.hook_z"),
        ({"metadata": {"hook_name": "blocks.1.ln2.hook_normalized"}}, "as wide as d_model"),
        ({"metadata": {"hook_name": None}}, "a hook that it does not name"),
        ({"metadata": {"hook_head_index": 2}}, "head 2"),
        ({"metadata": {"hook_name_out": "blocks.1.hook_mlp_out"}}, "reads one stream and writes"),
    ],
)
def test_saes_of_other_streams_are_refused(tmp_path, changes, reason):
    with pytest.raises(SAEError, match=reason):
        SAE.load(changed_config(tmp_path, **changes))


def test_transcoders_and_temporal_saes_are_refused():
    sl = sae_lens()
    transcoder = sl.TranscoderConfig(d_in=32, d_sae=48, d_out=32, apply_b_dec_to_input=False)
    with pytest.raises(SAEError, match="reads one stream and writes another"):
        SAE.of(sl.Transcoder(transcoder))
    temporal = sl.TemporalSAE(sl.TemporalSAEConfig(d_in=32, d_sae=512))
    with pytest.raises(SAEError, match="by looking at the tokens before it"):
        SAE.of(temporal)


def test_only_sae_lens_saes_for_inference_are_taken(tmp_path):
    sl = sae_lens()
    config = sl.BatchTopKTrainingSAEConfig(d_in=32, d_sae=48, k=4)
    config.metadata.hook_name = "blocks.1.hook_resid_post"
    training = sl.BatchTopKTrainingSAE(config)
    with pytest.raises(SAEError, match="save_inference_model"):
        SAE.of(training)
    training.save_inference_model(tmp_path)
    assert SAE.load(tmp_path).architecture == "jumprelu"
    with pytest.raises(SAEError, match="not Linear"):
        SAE.of(torch.nn.Linear(2, 2))


def test_loading_leaves_the_random_state_alone(tmp_path):
    untrained().save(tmp_path)
    before = torch.get_rng_state()
    SAE.load(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_scale_that_is_not_folded_in_is_reported(tmp_path):
    folder = changed_config(tmp_path, normalize_activations="expected_average_only_in")
    with pytest.warns(UserWarning, match="not folded into its weights"):
        SAE.load(folder)


@pytest.mark.parametrize(
    ("hook", "site"),
    [
        ("blocks.1.hook_resid_pre", Site(1, "resid_pre")),
        ("blocks.0.hook_mlp_out", Site(0, "mlp_out")),
        ("blocks.2.hook_in", Site(2, "resid_pre")),
        ("blocks.2.hook_out", Site(2)),
    ],
)
def test_the_site_is_read_from_the_hook_name(hook, site):
    assert SAE.of(untrained_sae(hook=hook)).site == site


# Whether it fits


@pytest.mark.parametrize(
    ("kwargs", "processing"),
    [
        (None, None),
        ({}, "raw"),
        ({"center_writing_weights": False}, "raw"),
        ({"center_writing_weights": True}, "center_writing_weights"),
        ({"fold_ln": True, "center_writing_weights": True}, "fold_ln+center_writing_weights"),
    ],
)
def test_the_processing_is_read_from_the_metadata(kwargs, processing):
    sae = untrained_sae()
    sae.cfg.metadata.model_from_pretrained_kwargs = kwargs
    assert SAE.of(sae).processing == processing


def test_an_sae_of_another_basis_is_refused_with_the_fix(gpt2):
    centred = replace(untrained(), processing="center_writing_weights")
    with pytest.raises(SAEError, match="center_writing_weights=True"):
        centred.require_fits(gpt2)
    # Folding LayerNorm does not change the residual stream.
    replace(untrained(), processing="fold_ln").require_fits(gpt2)
    replace(untrained(), processing=None).require_fits(gpt2)
    # Where the norm does not take the mean away, nothing is ever centred.
    centred.require_fits(Model(tiny_model("llama")))


def test_an_sae_on_another_device_is_refused(gpt2):
    with pytest.raises(SAEError, match=r"sae\.to\(model\.device\)"):
        untrained().to("meta").require_fits(gpt2)


def test_an_sae_of_a_model_by_another_known_name_is_refused(gpt2):
    named = Model(gpt2.wrapped, name="EleutherAI/pythia-160m")
    with pytest.raises(SAEError, match="gpt2-small"):
        replace(untrained(), model="gpt2-small").require_fits(named)
    replace(untrained(), model="pythia-160m").require_fits(named)
    replace(untrained(), model="gpt2-small").require_fits(Model(gpt2.wrapped, name="gpt2"))


# Releases


def test_releases_are_listed_without_a_network():
    assert "blocks.8.hook_resid_pre" in releases("gpt2-small")["gpt2-small-res-jb"]
    with pytest.raises(SAEError, match="'gpt2-small'"):
        releases("gpt2-smal")


@pytest.mark.parametrize(
    ("release", "sae_id", "reason"),
    [
        ("gpt2-small-resjb", "blocks.8.hook_resid_pre", "Use 'gpt2-small-res-jb'"),
        ("gpt2-small-res-jb", "blocks.8.hook_resid_post", "has no SAE"),
        ("gemma-scope-2b-pt-att-canonical", "layer_0/width_16k/canonical", "hook_z"),
        ("gemma-scope-2b-pt-transcoders", "layer_0/width_16k/average_l0_76", "transcoder"),
    ],
)
def test_releases_that_are_not_there_or_cannot_steer_are_refused(release, sae_id, reason):
    with pytest.raises(SAEError, match=reason):
        SAE.load(release, sae_id)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache, and no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def test_a_release_that_is_not_cached_fails_fast_without_a_network(hub):
    with pytest.raises(UnreachableHub, match=r"jbloom/GPT2-Small-SAEs-Reformatted"):
        SAE.load("gpt2-small-res-jb", "blocks.1.hook_resid_pre")


def test_a_cached_release_is_loaded_with_what_it_states(hub, gpt2):
    """The files are as the release has them, in sae_lens's old format; the numbers are ours."""
    sae = untrained_sae("standard")
    home = hub / "models--jbloom--GPT2-Small-SAEs-Reformatted"
    folder = home / "snapshots" / "abc" / "blocks.1.hook_resid_pre"
    folder.mkdir(parents=True)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("abc")
    config = {
        "model_name": "gpt2-small", "hook_point": "blocks.1.hook_resid_pre", "hook_point_layer": 1,
        "hook_point_head_index": None, "d_in": 32, "d_sae": D_SAE, "dtype": "torch.float32",
        "device": "mps", "prepend_bos": True,
    }  # fmt: skip
    (folder / "cfg.json").write_text(json.dumps(config))
    save_file({k: v.contiguous() for k, v in sae.state_dict().items()}, folder / WEIGHTS)
    found = SAE.load("gpt2-small-res-jb", "blocks.1.hook_resid_pre")
    assert found.name == "gpt2-small-res-jb/blocks.1.hook_resid_pre"
    assert (found.site, found.model) == (Site(1, "resid_pre"), "gpt2-small")
    assert found.processing == "center_writing_weights"
    torch.testing.assert_close(
        found.encode(some_stream()), untrained("standard").encode(some_stream())
    )
    with pytest.raises(SAEError, match="residual bases differ"):
        found.require_fits(gpt2)


# Without sae_lens


def test_no_file_imports_sae_lens_before_it_is_needed():
    for path in Path(steerlens.saes.__file__).parent.glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = (
                    [node.module or ""]
                    if isinstance(node, ast.ImportFrom)
                    else [alias.name for alias in node.names]
                )
                assert not any(name.split(".")[0] == "sae_lens" for name in names), path


def test_a_missing_sae_lens_is_named_with_its_extra(monkeypatch, tmp_path):
    untrained().save(tmp_path)
    monkeypatch.setitem(sys.modules, "sae_lens", None)
    sae_lens_library.sae_lens.cache_clear()
    with pytest.raises(ImportError, match=r"pip install 'steerlens\[sae\]'"):
        SAE.load(tmp_path)


def test_deprecations_inside_sae_lens_are_kept_quiet(monkeypatch, tmp_path):
    warn = "import warnings; warnings.warn('old', DeprecationWarning)"
    (tmp_path / "sae_lens.py").write_text(warn)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sae_lens")
    sae_lens_library.sae_lens.cache_clear()
    assert sae_lens_library.sae_lens().__file__ == str(tmp_path / "sae_lens.py")
    with pytest.warns(DeprecationWarning, match="old"):  # and quiet nowhere else
        exec(warn)
    monkeypatch.undo()
    sae_lens_library.sae_lens.cache_clear()


# Those that ship


def test_every_layer_of_the_reference_model_has_an_sae_that_fits(reviews):
    for layer in range(reviews.n_layers):
        sae = SAE.load(f"reviews/{layer}")
        sae.require_fits(reviews)
        assert sae.site == Site(layer)
        assert sae.processing == "raw"
        assert sae.fingerprint == reviews.fingerprint
        assert sae.max_activation is not None and sae.resid_norm is not None


def test_the_shipped_files_are_those_of_the_manifest_and_small():
    manifest = json.loads((SHIPPED / "manifest.json").read_text())
    files = {str(p.relative_to(SHIPPED)) for p in SHIPPED.rglob("*") if p.is_file()}
    assert files == {*manifest["files"], "manifest.json"}
    for name, digest in manifest["files"].items():
        assert sha256((SHIPPED / name).read_bytes()).hexdigest() == digest, name
    assert sum((SHIPPED / name).stat().st_size for name in files) < 6e6


def test_a_shipped_sae_is_as_good_as_the_manifest_says(reviews):
    stated = json.loads((SHIPPED / "manifest.json").read_text())["check"]["5"]
    found = quality(SAE.load("reviews/5"), reviews, neutral_texts(40, seed=99), progress=False)
    assert found.l0 == pytest.approx(stated["l0"], abs=1)
    assert found.explained_variance == pytest.approx(stated["explained_variance"], abs=0.01)
    assert found.loss_added == pytest.approx(stated["loss_added"], abs=0.01)


def test_a_layer_that_has_no_sae_is_refused():
    with pytest.raises(SAEError, match="reviews/0, reviews/1"):
        SAE.load("reviews/8")
