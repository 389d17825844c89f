"""Vectors of steerkit, repsteer and Neuronpedia.

`foreign/` holds files that these packages wrote (steerkit 0.3.0, MIT; repsteer 0.2.4, Apache-2.0),
with numbers that are easy to know again.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from steerlens.directions import Direction, DirectionError
from steerlens.directions.exchange import MissingFacts, neuronpedia, repsteer, steerkit
from steerlens.interventions import Add
from steerlens.interventions.intended import intended
from steerlens.sites import Positions, Site

FOREIGN = Path(__file__).parent / "foreign"
PROBE, BUNDLE = FOREIGN / "steerkit.probe.safetensors", FOREIGN / "repsteer_bundle"
EVERYWHERE = Positions.all(special=True)


# steerkit


def test_a_probe_is_read_at_the_strength_that_it_was_calibrated_to():
    with safe_open(PROBE, framework="pt") as file:
        units = {name: file.get_tensor(f"direction.{name}") for name in ("logistic", "mass_mean")}
    read = steerkit.load(PROBE)
    assert torch.allclose(read.vector, 4.5 * units["logistic"])
    assert (read.site, read.model, read.method) == (Site(2), "gpt2", "steerkit logistic")
    assert (read.apply_at, read.strength_unit) == (EVERYWHERE, "direction")
    assert read.processing.startswith("fold_ln+center_writing_weights")
    other = steerkit.load(PROBE, way="mass_mean", processing="raw", data="hash")
    assert torch.allclose(other.vector, 4.5 * units["mass_mean"])
    assert (other.processing, other.data) == ("raw", "hash")
    assert isinstance(intended(read), Add)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": "4"}, "schema '4', and up to 3"),
        ({"kind": "multinomial"}, "several classes"),
        ({"model_id": None}, "it lacks model_id"),
        ({"hook_name": "hook_embed", "layer": "-1"}, "does not steer"),
        ({"hook_name": "ln_final.hook_normalized", "layer": "12"}, "does not steer"),
        ({"hook_name": "blocks.x.hook_resid_post"}, "no site"),
        ({"auto_alpha": "nan"}, "no strength"),
        ({"auto_alpha": "0"}, "no strength"),
        ({"default_method": "pca"}, "no vector fitted by 'pca'. It holds diff_of_means, logistic"),
    ],
)
def test_probes_that_are_none_are_refused(tmp_path, change, message):
    with safe_open(PROBE, framework="pt") as file:
        stated = {**file.metadata(), **change}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    kept = {name: text for name, text in stated.items() if text is not None}
    save_file(tensors, tmp_path / "p.safetensors", metadata=kept)
    with pytest.raises(DirectionError, match=message):
        steerkit.load(tmp_path / "p.safetensors")


# repsteer


def test_a_component_of_a_bundle_is_read_by_its_key():
    read = repsteer.load(BUNDLE, component="add")
    assert read.vector.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert (read.site, read.model, read.revision) == (Site(3), "tiny/llama", "abc")
    assert (read.processing, read.data, read.dtype) == ("raw", "sha256:12", "float32")
    assert (read.method, read.strength_unit) == ("repsteer diff_mean", "direction")
    with pytest.raises(
        DirectionError, match="several components. Pass one as component=: add, gate"
    ):
        repsteer.load(BUNDLE)
    with pytest.raises(DirectionError, match="has no component 'gat'"):
        repsteer.load(BUNDLE, component="gat")


def test_a_probe_at_an_output_asks_whether_the_model_norms_it():
    with pytest.raises(MissingFacts, match="post_norms"):
        repsteer.load(BUNDLE, component="gate")
    read = repsteer.load(BUNDLE, component="gate", post_norms=False)
    assert (read.site, read.vector[0].item()) == (Site(1, "attn_out"), 8.0)
    with pytest.raises(DirectionError, match="before the model norms"):
        repsteer.load(BUNDLE, component="gate", post_norms=True)


@pytest.fixture
def artifact(tmp_path):
    """A copy of the component "add", alone."""
    (found,) = [p.parent for p in BUNDLE.glob("components/*/manifest.json") if '"diff' in p.read_text()
                and '"direction"' in p.read_text() and '"layer": 3' in p.read_text()]  # fmt: skip
    return Path(shutil.copytree(found, tmp_path / "artifact"))


def restated(folder: Path, **changes) -> None:
    """Changes the manifest, and its checksum with it."""
    import hashlib

    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    sums = json.loads((folder / "checksums.json").read_text())
    sums["files"]["manifest.json"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "checksums.json").write_text(json.dumps(sums))


def test_an_artifact_alone_is_read_and_an_edited_one_is_not(artifact):
    assert repsteer.load(artifact).site == Site(3)
    with pytest.raises(DirectionError, match="not a bundle"):
        repsteer.load(artifact, component="add")
    tensors = artifact / "tensors.safetensors"
    content = bytearray(tensors.read_bytes())
    content[-1] ^= 1
    tensors.write_bytes(content)
    with pytest.raises(DirectionError, match="tensors.safetensors is damaged or was edited"):
        repsteer.load(artifact)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": "2.0"}, "schema '2.0'"),
        ({"artifact_type": "subspace"}, "'subspace', which is no single direction"),
        ({"site": {"stream": "vision", "component": "resid_post", "layer": 1}}, "no place here"),
        ({"site": {"component": "head_result", "layer": 1}}, "no place here"),
        ({"site": {"component": "resid_post", "layer": 1, "io": "input"}}, "no place here"),
        ({"site": None}, "no place here"),
        ({"components": [{"key": "a", "path": "../elsewhere"}]}, "outside its components"),
        ({"model": {}}, "does not state model"),
    ],
)
def test_artifacts_that_have_no_place_here_are_refused(artifact, changes, message):
    restated(artifact, **changes)
    with pytest.raises(DirectionError, match=message):
        repsteer.load(artifact)


# Neuronpedia


def test_a_vector_leaves_in_the_shape_of_the_api_and_comes_back():
    made = Direction(
        torch.tensor([1.0, -2.0, 0.5]), Site(3, "resid_pre"), model="gpt2-small",
        processing="fold_ln", method="DiffMean()",
    )  # fmt: skip
    assert neuronpedia.payload(made, label="tea", strength=4) == {
        "modelId": "gpt2-small",
        "layerNumber": 3,
        "hookType": "hook_resid_pre",
        "vector": [1.0, -2.0, 0.5],
        "vectorDefaultSteerStrength": 4.0,
        "vectorLabel": "tea",
    }
    returned = SimpleNamespace(
        label="tea", model_id="gpt2-small", hook_name="blocks.3.hook_resid_pre",
        values=[1.0, -2.0, 0.5],
    )  # fmt: skip
    with pytest.raises(MissingFacts, match="processing"):
        neuronpedia.from_vector(returned)
    read = neuronpedia.from_vector(returned, processing="raw")
    assert torch.equal(read.vector, made.vector) and read.site == made.site
    stated = {
        "modelId": "m",
        "vectorLabel": "x",
        "hookName": "blocks.1.hook_resid_post",
        "vector": [1],
    }
    assert neuronpedia.from_vector(stated, processing="raw").site == Site(1)
    with pytest.raises(DirectionError, match="no list of numbers"):
        neuronpedia.from_vector({**stated, "vector": ["a"]}, processing="raw")


@pytest.mark.parametrize(
    ("change", "more", "message"),
    [
        ({"site": Site(1, "mlp_out")}, {}, "this one is at L1 mlp_out"),
        ({"operation": "ablate"}, {}, "made to ablate"),
        ({"processing": None}, {}, "weight processing"),
        ({"model": ""}, {}, "does not state model"),
        ({}, {"label": " "}, "label is empty"),
    ],
)
def test_what_the_api_has_no_place_for_is_refused(change, more, message):
    facts = {"site": Site(1), "model": "gpt2", "processing": "raw", **change}
    with pytest.raises(DirectionError, match=message):
        neuronpedia.arguments(Direction(torch.ones(4), **facts), **{"label": "x", **more})
