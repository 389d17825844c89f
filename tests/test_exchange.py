"""Vectors of other makers: what a file says is kept, what it leaves out is asked for."""

from __future__ import annotations

import dataclasses
import pickle
import struct
import sys
import types
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from steerlens.directions import Direction, DirectionError
from steerlens.directions.exchange import MissingFacts, gguf, plain, steering_vectors, tensor_files
from steerlens.directions.exchange.gguf_file import read_gguf
from steerlens.interventions import Ablate, Add, Clamp
from steerlens.interventions.intended import intended
from steerlens.sites import Positions, Site

EVERYWHERE = Positions.all(special=True)
VECTOR = torch.arange(1.0, 5.0)
FACTS = {"site": Site(12), "processing": "raw", "model": "gpt2"}


@pytest.fixture
def directions(random_direction):
    """Three of one model, with all kinds of facts."""
    return [
        dataclasses.replace(
            random_direction(Site(layer), 16, seed=layer), method="DiffMean()", processing="raw",
            model="tiny", fingerprint="ab", data="cd", pairs=7, strength_unit="resid_norm",
            apply_at=Positions.from_prompt_end(), dtype="float32",
        )
        for layer in (1, 2, 5)
    ]  # fmt: skip


def assert_same(read, made) -> None:
    assert [d.facts() for d in read] == [d.facts() for d in made]
    for one, other in zip(read, made, strict=True):
        assert torch.equal(one.vector, other.vector)


# GGUF


def test_a_control_vector_keeps_its_numbers_and_facts(directions, tmp_path):
    path = gguf.export(directions, tmp_path / "made" / "v.gguf", model_hint="gpt2")
    assert_same(gguf.load(path), directions)
    file = read_gguf(path, "controlvector")
    assert list(file.tensors) == ["direction.1", "direction.2", "direction.5"]
    assert file.metadata["controlvector.model_hint"] == "gpt2"
    assert file.metadata["controlvector.layer_count"] == 3


def test_the_stream_before_a_block_is_the_one_after_the_block_before(directions, tmp_path):
    before = dataclasses.replace(directions[0], site=Site(3, "resid_pre"))
    path = gguf.export(before, tmp_path / "v.gguf", model_hint="gpt2")
    assert list(read_gguf(path, "controlvector").tensors) == ["direction.2"]
    assert gguf.load(path)[0].site == Site(3, "resid_pre")


def foreign_gguf(path: Path, tensors, metadata=None) -> Path:
    """A file as repeng or llama.cpp writes it: nothing of ours in it."""
    from steerlens.directions.exchange.gguf_file import write_gguf

    known = {"general.architecture": "controlvector", "controlvector.model_hint": "llama"}
    return write_gguf(path, known if metadata is None else metadata, tensors)


def test_a_foreign_control_vector_asks_for_its_model_only(tmp_path):
    tensors = {"direction.10": torch.ones(4), "direction.9": torch.zeros(4)}
    path = foreign_gguf(tmp_path / "v.gguf", tensors | {"direction.2": torch.full((4,), 2.0)})
    with pytest.raises(MissingFacts, match=r"state model .*gguf.load\('.*', model='gpt2'\)"):
        gguf.load(path)
    read = gguf.load(path, model="llama-7b", method="repeng", resid_norm=3.0)
    assert [d.site for d in read] == [Site(2), Site(10)]  # zeros do nothing
    for d in read:
        assert (d.processing, d.model, d.method, d.resid_norm) == ("raw", "llama-7b", "repeng", 3)
        assert (d.operation, d.strength_unit, d.apply_at) == ("add", "direction", EVERYWHERE)
    with pytest.raises(DirectionError, match="layer is not a fact of a direction"):
        gguf.load(path, model="llama-7b", layer=3)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "holds no vector"),
        ({"direction.1": torch.zeros(4)}, "All vectors of .* are zeros"),
        ({"direction.one": torch.ones(4)}, "holds the tensor 'direction.one'"),
        ({"direction.-1": torch.ones(4)}, "holds the tensor 'direction.-1'"),
        ({"output.weight": torch.ones(4)}, "named direction.<layer>"),
        ({"direction.1": torch.ones(4), "direction.01": torch.ones(4)}, "holds layer 1 twice"),
        ({"direction.1": torch.tensor([1.0, torch.nan])}, "NaN"),
    ],
)
def test_control_vectors_that_are_none_are_refused(tmp_path, tensors, message):
    path = foreign_gguf(tmp_path / "v.gguf", tensors)
    with pytest.raises(DirectionError, match=message):
        gguf.load(path, model="m")


def test_a_model_file_is_not_taken_for_a_vector(tmp_path):
    path = foreign_gguf(tmp_path / "m.gguf", {}, {"general.architecture": "llama"})
    with pytest.raises(DirectionError, match="a GGUF file of 'llama', not of 'controlvector'"):
        gguf.load(path, model="m")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"site": Site(0)}, "llama.cpp cannot steer before block 1 has run"),
        ({"site": Site(1, "resid_pre")}, "L1 resid_pre is too early"),
        ({"site": Site(3, "mlp_out")}, "not at L3 mlp_out"),
        ({"operation": "ablate"}, "made to ablate, and a control vector only adds"),
        ({"processing": None}, "does not state under which weight processing"),
        ({"processing": "bridge_compatibility"}, "does not say whether"),
        ({"site": Site(2)}, "Two directions are added after block 2"),
        ({"vector": torch.ones(8)}, r"d_model \[8, 16\]"),
    ],
)
def test_what_no_control_vector_can_say_is_not_exported(directions, tmp_path, change, message):
    directions[0] = dataclasses.replace(directions[0], **change)
    with pytest.raises(DirectionError, match=message):
        gguf.export(directions, tmp_path / "v.gguf", model_hint="gpt2")
    assert not list(tmp_path.iterdir())


def test_directions_of_processed_models_leave_in_the_raw_basis(directions, tmp_path):
    centred = dataclasses.replace(directions[0], processing="fold_ln+center_writing_weights")
    read = gguf.load(gguf.export(centred, tmp_path / "v.gguf", model_hint="gpt2"))[0]
    assert (read.processing, read.converted_from) == ("raw", "fold_ln+center_writing_weights")


def test_stated_facts_are_not_contradicted(directions, tmp_path):
    path = gguf.export(directions, tmp_path / "v.gguf", model_hint="gpt2")
    with pytest.raises(DirectionError, match="states its facts, so model, method cannot be passed"):
        gguf.load(path, model="another", method="mine")
    whole = path.read_bytes()
    at = whole.rindex(b"direction.5")
    path.write_bytes(whole[:at] + b"direction.4" + whole[at + 11 :])
    with pytest.raises(DirectionError, match="not those of its tensors"):
        gguf.load(path)


def patched(path: Path, at: int, new: bytes) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[:at] + new + whole[at + len(new) :])


@pytest.mark.parametrize(
    ("at", "new", "message"),
    [
        (0, b"GGML", "is not a GGUF file: it starts with b'GGML'"),
        (4, struct.pack(">I", 3), "it is big-endian"),
        (4, struct.pack("<I", 9), "its version is 9"),
        (8, struct.pack("<Q", 1 << 62), "states 4611686018427387904 entries, more than fit"),
        (16, struct.pack("<Q", 1 << 62), "states 4611686018427387904 entries, more than fit"),
        (24, struct.pack("<Q", 1 << 62), "states 4611686018427387904 more bytes than it has"),
    ],
)
def test_damaged_gguf_heads_say_what_is_wrong(directions, tmp_path, at, new, message):
    path = gguf.export(directions, tmp_path / "v.gguf", model_hint="gpt2")
    patched(path, at, new)
    with pytest.raises(DirectionError, match=message):
        gguf.load(path)


def gguf_bytes(key: str, kind: int, value: bytes) -> bytes:
    name = key.encode()
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1)
    return head + struct.pack("<Q", len(name)) + name + struct.pack("<I", kind) + value


def test_an_array_that_announces_more_than_there_is_takes_no_time(tmp_path):
    # The `gguf` package reads this file for ever.
    path = tmp_path / "v.gguf"
    path.write_bytes(gguf_bytes("k", 9, struct.pack("<IQ", 0, 1 << 60)))
    with pytest.raises(DirectionError, match="states 1152921504606846976 entries"):
        gguf.load(path, model="m")
    deep = b"".join(struct.pack("<IQ", 9, 1) for _ in range(50_000))
    path.write_bytes(gguf_bytes("k", 9, deep))
    with pytest.raises(DirectionError, match="unknown kind 9"):
        gguf.load(path, model="m")


@pytest.mark.parametrize("kind", [1, 28, 30])
def test_other_float_types_are_read_and_quantised_ones_refused(tmp_path, kind):
    dtype = {1: torch.float16, 28: torch.float64, 30: torch.bfloat16}[kind]
    path = foreign_gguf(tmp_path / "v.gguf", {"direction.1": torch.zeros(16)})
    vector = torch.arange(16).to(dtype)
    at = path.read_bytes().index(b"direction.1") + 11
    patched(path, at + 4 + 8, struct.pack("<I", kind))
    start = len(path.read_bytes()) - 64
    path.write_bytes(path.read_bytes()[:start] + vector.view(torch.uint8).numpy().tobytes())
    assert torch.equal(gguf.load(path, model="m")[0].vector, vector)
    patched(path, at + 4 + 8, struct.pack("<I", 8))
    with pytest.raises(DirectionError, match="of GGML type 8, quantised"):
        gguf.load(path, model="m")


# steering-vectors


@dataclass
class Theirs:
    """What is used of the package's SteeringVector."""

    layer_activations: dict
    layer_type: str = "decoder_block"


STREAMS = {"decoder_block": "resid_post", "self_attn": "attn_out", "mlp": "mlp_out"}


@pytest.mark.parametrize("layer_type", STREAMS)
def test_a_steering_vector_comes_and_goes(directions, tmp_path, layer_type):
    sent = [
        dataclasses.replace(d, site=Site(d.site.layer, STREAMS[layer_type])) for d in directions
    ]
    arguments = steering_vectors.arguments(sent)
    assert arguments["layer_type"] == layer_type
    assert list(arguments["layer_activations"]) == [1, 2, 5]
    read = steering_vectors.from_vector(Theirs(**arguments), model="tiny", post_norms=False)
    for one, other in zip(read, sent, strict=True):
        assert (one.site, one.processing, one.model) == (other.site, "raw", "tiny")
        assert (one.strength_unit, one.apply_at) == ("direction", EVERYWHERE)
        assert torch.equal(one.vector, other.vector)
    path = steering_vectors.export(sent, tmp_path / "v.safetensors")
    assert_same(steering_vectors.load(path), sent)
    assert sorted(load_file(path)) == [f"layer_activations.{n}" for n in (1, 2, 5)]


@pytest.mark.parametrize("layer_type", ["self_attn", "mlp"])
def test_whether_sub_block_outputs_are_normed_is_asked_for(layer_type):
    theirs = Theirs({0: torch.ones(4)}, layer_type)
    with pytest.raises(MissingFacts, match=r"state model .*, post_norms .*post_norms=False\)"):
        steering_vectors.from_vector(theirs)
    with pytest.raises(DirectionError, match="this model norms before it is added"):
        steering_vectors.from_vector(theirs, model="gemma", post_norms=True)


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        (Theirs({}), "holds no vectors"),
        (Theirs({0: torch.ones(4)}, "input_layernorm"), "the output of a norm"),
        (Theirs({-1: torch.ones(4)}), "has the layer -1. Layers are numbers that count from 0"),
        (Theirs({"0": torch.ones(4)}), "has the layer '0'"),
        (Theirs({0: torch.ones(2, 4)}), r"has \(2, 4\) at layer 0 instead of one vector"),
        (Theirs({0: [1.0, 2.0]}), "has list at layer 0"),
        (Theirs({0: torch.ones(4, dtype=torch.int64)}), "floating point"),
    ],
)
def test_steering_vectors_that_mean_nothing_here_are_refused(theirs, message):
    with pytest.raises(DirectionError, match=message):
        steering_vectors.from_vector(theirs, model="m")


def test_directions_of_several_streams_are_no_steering_vector(directions):
    mixed = [directions[0], dataclasses.replace(directions[1], site=Site(2, "mlp_out"))]
    twice = [directions[0], dataclasses.replace(directions[1], site=Site(2, "resid_pre"))]
    for several in (mixed, twice):
        with pytest.raises(DirectionError, match="one vector per layer, all after blocks"):
            steering_vectors.arguments(several)
    with pytest.raises(DirectionError, match="no directions to export"):
        steering_vectors.arguments([])


def test_a_torch_saved_steering_vector_is_read_without_its_class(tmp_path):
    home, path = types.ModuleType("steering_vectors.steering_vector"), tmp_path / "v.pt"
    home.SteeringVector = type("SteeringVector", (), {"__module__": home.__name__})
    vector = home.SteeringVector()
    vector.__dict__ = {"layer_activations": {3: VECTOR}, "layer_type": "decoder_block"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "steering_vectors", types.ModuleType("steering_vectors"))
        patch.setitem(sys.modules, home.__name__, home)
        torch.save(vector, path)
    (read,) = steering_vectors.load(path, model="m", method="mean")
    assert (read.site, read.method) == (Site(3), "mean")
    torch.testing.assert_close(read.vector, VECTOR)
    with pytest.raises(MissingFacts, match=r"steering_vectors.load\('.*v.pt', model='gpt2'\)"):
        steering_vectors.load(path)
    with pytest.raises(DirectionError, match="A SteeringVector is read by exchange.steering"):
        plain.load(path, **FACTS)


def test_files_that_hold_something_else_are_refused(directions, tmp_path):
    torch.save({"vector": torch.ones(4)}, tmp_path / "v.pt")
    with pytest.raises(DirectionError, match="holds a dict, not a SteeringVector"):
        steering_vectors.load(tmp_path / "v.pt", model="m")
    path = directions[0].save(tmp_path / "v.safetensors")
    with pytest.raises(DirectionError, match="was not written by steering_vectors.export"):
        steering_vectors.load(path)


# A tensor and nothing else


def test_all_that_is_missing_is_asked_for_at_once(tmp_path):
    save_file({"v": torch.ones(4)}, path := tmp_path / "v.safetensors")
    with pytest.raises(MissingFacts) as told:
        plain.load(path, model="gpt2")
    assert "does not state site (" in str(told.value)
    assert f"plain.load({str(path)!r}, site=Site(12), processing='raw')." in str(told.value)
    assert "model (" not in str(told.value)
    with pytest.raises(MissingFacts, match="state site .*, processing .*, model "):
        plain.load(torch.ones(4))


def written(kind: str, folder: Path) -> Path:
    path = folder / "v.bin"  # the kind of file is seen from its content
    if kind == "safetensors":
        save_file({"v": VECTOR, "step": torch.tensor(3)}, path)
    elif kind == "torch":
        torch.save(VECTOR, path)
    elif kind == "torch dict":
        torch.save({"layer": 3, "found": {"v": VECTOR[None]}, "notes": ["x"]}, path)
    elif kind == "npy":
        with open(path, "wb") as file:
            np.save(file, VECTOR.numpy())
    elif kind == "npy other order":
        with open(path, "wb") as file:
            np.save(file, VECTOR[None].numpy().astype(">f8"))
    else:
        with open(path, "wb") as file:
            {"npz": np.savez, "npz packed": np.savez_compressed}[kind](file, v=VECTOR.numpy())
    return path


@pytest.mark.parametrize(
    "kind",
    ["safetensors", "torch", "torch dict", "npy", "npy other order", "npz", "npz packed"],
)
def test_a_bare_vector_is_read_from_every_kind_of_file(tmp_path, kind):
    read = plain.load(written(kind, tmp_path), **FACTS, method="paper", resid_norm=2.0)
    torch.testing.assert_close(read.vector.float(), VECTOR)
    assert (read.site, read.processing, read.model) == (Site(12), "raw", "gpt2")
    assert (read.method, read.resid_norm, read.strength_unit) == ("paper", 2.0, "direction")


def test_a_vector_in_memory_needs_the_same_facts():
    for source in (VECTOR, VECTOR.numpy(), torch.nn.Parameter(VECTOR)):
        torch.testing.assert_close(plain.load(source, **FACTS).vector, VECTOR)


def test_a_tensor_and_a_row_are_chosen_not_guessed(tmp_path):
    stack = torch.arange(12.0).reshape(3, 4)
    torch.save({"a": stack, "b": {"c": VECTOR}}, path := tmp_path / "v.pt")
    with pytest.raises(DirectionError, match=r"holds 'a' \(3, 4\), 'b.c' \(4,\). Choose one: key="):
        plain.load(path, **FACTS)
    with pytest.raises(DirectionError, match="'c' is not one of them"):
        plain.load(path, key="c", **FACTS)
    with pytest.raises(DirectionError, match=r"holds 3 vectors .*Choose one: row=0 to row=2"):
        plain.load(path, key="a", **FACTS)
    with pytest.raises(DirectionError, match="row=0 to row=2"):
        plain.load(path, key="a", row=-1, **FACTS)
    torch.testing.assert_close(plain.load(path, key="a", row=2, **FACTS).vector, stack[2])
    torch.testing.assert_close(plain.load(path, key="b.c", **FACTS).vector, VECTOR)
    with pytest.raises(DirectionError, match="a stack of vectors has two axes"):
        plain.load(torch.ones(2, 3, 4), row=1, **FACTS)


def test_our_own_file_is_not_asked_again(directions, tmp_path):
    path = directions[0].save(tmp_path / "v.safetensors")
    with pytest.raises(DirectionError, match=r"Use Direction.load\('"):
        plain.load(path, **FACTS)


def test_what_is_exported_plainly_is_read_by_anybody(directions, tmp_path):
    direction = directions[0]
    torch.testing.assert_close(
        load_file(plain.export(direction, tmp_path / "v.safetensors"))["vector"], direction.vector
    )
    assert_same([Direction.load(tmp_path / "v.safetensors")], [direction])
    array = np.load(plain.export(direction, tmp_path / "v.npy"), allow_pickle=False)
    torch.testing.assert_close(torch.from_numpy(array), direction.vector)
    with pytest.raises(DirectionError, match="'v.pt' does not end in .safetensors or .npy"):
        plain.export(direction, tmp_path / "v.pt")


# Nothing that is loaded runs code, or takes more memory than the file


class Payload:
    """What a malicious file holds: it creates a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def loaders(path: Path):
    yield lambda: plain.load(path, **FACTS)
    yield lambda: steering_vectors.load(path, model="m")
    yield lambda: gguf.load(path, model="m")
    yield lambda: Direction.load(path)


def assert_all_refuse(path: Path) -> None:
    for load in loaders(path):
        with pytest.raises(DirectionError):
            load()


@pytest.mark.parametrize("kind", ["pickle", "torch", "torch inside", "legacy torch", "npy", "npz"])
def test_code_in_a_file_is_never_run(tmp_path, kind):
    mark, path = tmp_path / "it ran", tmp_path / "v.bin"
    payload = Payload(mark)
    objects = np.array([payload], dtype=object)
    with open(path, "wb") as file:
        if kind == "pickle":
            pickle.dump(payload, file)
        elif kind == "npy":
            np.save(file, objects, allow_pickle=True)
        elif kind == "npz":
            np.savez(file, v=objects)
        else:
            content = {"v": VECTOR, "x": payload} if kind == "torch inside" else payload
            torch.save(content, file, _use_new_zipfile_serialization=kind != "legacy torch")
    assert_all_refuse(path)
    assert not mark.exists()
    if kind == "pickle":  # the file is what it is meant to be
        pickle.loads(path.read_bytes())
        assert mark.exists()


def test_a_few_bytes_cannot_announce_terabytes(tmp_path, monkeypatch):
    path = tmp_path / "v.bin"
    torch.save(torch.ones(1).expand(1 << 40), path)
    with pytest.raises(DirectionError, match="states a tensor of shape .1099511627776,."):
        plain.load(path, **FACTS)
    with open(path, "wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)}
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(DirectionError, match="states 1099511627776 numbers"):
        plain.load(path, **FACTS)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("v.npy", bytes(3 << 20))
    monkeypatch.setattr(tensor_files, "MAX_UNPACKED", 2 << 20)
    with pytest.raises(DirectionError, match="unpacks to more than 2 MiB"):
        plain.load(path, **FACTS)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(1 << 20))
    with pytest.raises(
        DirectionError, match="a compressed archive, which torch.save does not write"
    ):
        plain.load(path, **FACTS)
    path.write_bytes(struct.pack("<Q", 1 << 60) + b"{" + bytes(50))
    assert_all_refuse(path)


def test_special_tensors_are_refused(tmp_path):
    torch.save({"v": torch.eye(3).to_sparse()}, path := tmp_path / "v.pt")
    with pytest.raises(DirectionError, match="sparse, quantised or otherwise special"):
        plain.load(path, **FACTS)


# What the maker meant


def test_the_intended_intervention_is_what_the_direction_states():
    stated = {"apply_at": Positions.generated(), "resid_norm": 2.0, "projection_std": 3.0}
    direction = Direction(VECTOR, Site(1), strength_unit="projection_std", **stated)
    add = intended(direction)
    assert isinstance(add, Add)
    assert (add.unit, add.positions) == ("projection_std", Positions.generated())
    ablate = intended(dataclasses.replace(direction, operation="ablate"))
    assert isinstance(ablate, Ablate)
    assert ablate.positions == Positions.generated()
    clamp = intended(dataclasses.replace(direction, operation="clamp", value=-2.0))
    assert isinstance(clamp, Clamp)
    assert clamp.value == -2.0
    bare = intended(Direction(VECTOR, Site(1), resid_norm=1.0))
    assert (bare.unit, bare.positions) == ("resid_norm", Positions.from_prompt_end())
