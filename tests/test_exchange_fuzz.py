"""Whatever bytes a file holds, a loader gives what it says or raises our own error.

Every run tries the same files: hypothesis derives them from the tests themselves.
"""

from __future__ import annotations

import io
import json
import os
import struct
import tempfile
import time
import warnings
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from steerlens.directions import FORMAT, Direction, DirectionError
from steerlens.directions.exchange import gguf, plain, steering_vectors
from steerlens.models.checkpoints import CheckpointError, load_hf_directory, load_hooked
from steerlens.sites import Positions, Site
from steerlens.store.files import StorageError

FUZZ = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
SECONDS = 20.0
"""Of processor time for one file and all loaders."""

FACTS = {"site": Site(3), "processing": "raw", "model": "m"}
LOADERS = {
    "direction": Direction.load,
    "gguf": lambda path: gguf.load(path, model="m"),
    "our gguf": gguf.load,
    "steering-vectors": lambda path: steering_vectors.load(path, model="m", post_norms=False),
    "our steering-vectors": steering_vectors.load,
    "plain": lambda path: plain.load(path, **FACTS),
    "plain row": lambda path: plain.load(path, key="v", row=1, **FACTS),
}


def check(content: bytes) -> None:
    """All loaders on one file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(content)
        start = time.process_time()
        for name, load in LOADERS.items():
            assert time.process_time() - start < SECONDS, name
            try:
                loaded = load(path)
            except DirectionError as error:
                assert len(str(error)) > 20, name
                continue
            for direction in [loaded] if isinstance(loaded, Direction) else loaded:
                again = Direction.load(direction.save(Path(folder) / "again"))
                assert again.facts() == direction.facts()
                assert torch.equal(again.vector, direction.vector)


def bytes_of(write) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        write(path)
        return path.read_bytes()


@cache
def valid() -> dict[str, bytes]:
    """One whole file of every kind."""
    generator = torch.Generator().manual_seed(0)
    made = [
        Direction(
            torch.randn(6, generator=generator), Site(n), processing="raw", model="m",
            apply_at=Positions.span(1, 2), resid_norm=2.0,
        )
        for n in (1, 2)
    ]  # fmt: skip
    vector = made[0].vector
    npy = io.BytesIO()
    np.save(npy, vector.numpy())
    npz = io.BytesIO()
    np.savez(npz, v=vector.numpy(), w=vector.numpy())
    return {
        "direction": bytes_of(made[0].save),
        "gguf": bytes_of(lambda path: gguf.export(made, path, model_hint="gpt2")),
        "steering-vectors": bytes_of(lambda path: steering_vectors.export(made, path)),
        "bare": save({"v": torch.stack([vector, vector])}),
        "torch": bytes_of(lambda path: torch.save({"v": vector, "n": 3}, path)),
        "npy": npy.getvalue(),
        "npz": npz.getvalue(),
    }


HUGE = st.sampled_from([struct.pack("<Q", 1 << n) for n in (16, 31, 40, 62)] + [b"\xff" * 8])
PIECES = st.one_of(st.binary(min_size=1, max_size=4), HUGE)


@st.composite
def damaged(draw, content: st.SearchStrategy[bytes]) -> bytes:
    """A file with some bytes overwritten, put in or taken out, or cut short."""
    whole = bytearray(draw(content))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(whole) - 1, 0)))
        piece, how = draw(PIECES), draw(st.sampled_from(["over", "in", "out", "cut"]))
        if how == "cut":
            del whole[at:]
        elif how == "out":
            del whole[at : at + len(piece)]
        else:
            whole[at : at + (len(piece) if how == "over" else 0)] = piece
    return bytes(whole)


HEADS = st.sampled_from(
    [b"", b"GGUF\3\0\0\0", b"PK\3\4", b"\x93NUMPY\1\0", b"\x08" + bytes(7) + b"{"]
)


@FUZZ
@given(HEADS, st.binary(max_size=120))
@example(b"", b"")
@example(b"\x80\x02", b"K\x01.")
def test_random_bytes_give_our_error(head, content):
    check(head + content)


@pytest.mark.parametrize("name", LOADERS)
def test_what_is_no_file_is_refused_at_once(tmp_path, name):
    """Without waiting: a FIFO has no writer here, and /dev/zero no end."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path, message in (
        (tmp_path / "fifo", "it is a FIFO"),
        (Path("/dev/zero"), "it is a device"),
        (tmp_path / "loop", "circle of symbolic links"),
        (tmp_path, "it is a folder"),
    ):
        with pytest.raises(StorageError, match=message):
            LOADERS[name](path)
    for path in (tmp_path / "nothing", Path("a\0b")):
        with pytest.raises(FileNotFoundError):
            LOADERS[name](path)


@settings(FUZZ, max_examples=150)
@given(damaged(st.sampled_from(sorted(valid())).map(lambda name: valid()[name])))
def test_damaged_files_give_a_direction_or_our_error(content):
    check(content)


# Files that are whole, but say strange things

LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6),
    st.sampled_from(["raw", "fold_ln", "add", "clamp", "blocks.3.hook_mlp_out", 10**30]),
)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=5,
)
FACT = st.sampled_from(
    [*Direction(torch.ones(2), Site(0)).facts(), "layer_convention", "format", "vector"]
)
STATED = st.dictionaries(FACT, VALUES, max_size=5).map(
    lambda facts: {"site": "blocks.1.hook_resid_post"} | facts
)
TENSORS = st.sampled_from(
    [
        torch.ones(6), torch.ones(()), torch.ones(0), torch.ones(2, 6), torch.ones(6).half(),
        torch.ones(6).long(), torch.full((6,), torch.nan), torch.zeros(6), torch.ones(6).bool(),
        torch.ones(6).to(torch.float8_e4m3fn), torch.ones(6, dtype=torch.complex64),
    ]
)  # fmt: skip


@FUZZ
@given(STATED, TENSORS, st.sampled_from([FORMAT, "steerlens.directions/1", "x"]))
def test_strange_facts_of_a_direction_give_our_error(facts, tensor, format):
    meta = {"format": format, "direction": json.dumps(facts)}
    check(save({"vector": tensor}, metadata=meta))


@FUZZ
@given(STATED, TENSORS, st.sampled_from(["decoder_block", "mlp", "x"]), st.booleans())
def test_strange_facts_of_several_directions_give_our_error(facts, tensor, layer_type, quoted):
    name = "layer_activations.1"
    stated = json.dumps({name: json.dumps(facts) if quoted else facts})
    meta = {"format": "steering-vectors", "layer_type": layer_type, "steerlens.facts": stated}
    check(save({name: tensor}, metadata=meta))


TEXTS = st.one_of(
    st.sampled_from(["general.architecture", "controlvector", "direction.1", "general.alignment"]),
    st.text(max_size=6),
).map(lambda text: struct.pack("<Q", len(text.encode())) + text.encode())
NUMBERS = st.one_of(st.integers(0, 40), st.integers(0, 2**64 - 1))


@st.composite
def gguf_files(draw) -> bytes:
    """Files with the layout of GGUF and whatever in it."""
    body = b""
    for _ in range(n_pairs := draw(st.integers(0, 3))):
        kind = draw(st.integers(0, 13))
        value = draw(TEXTS) if kind == 8 else draw(st.binary(max_size=24))
        body += draw(TEXTS) + struct.pack("<I", kind) + value
    known = struct.pack("<Q", 20) + b"general.architecture" + struct.pack("<I", 8)
    body += known + struct.pack("<Q", 13) + b"controlvector"
    for _ in range(n_tensors := draw(st.integers(0, 3))):
        shape = draw(st.lists(NUMBERS, max_size=3))
        body += draw(TEXTS) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        body += struct.pack("<IQ", draw(st.sampled_from([0, 1, 8, 30])), draw(NUMBERS))
    return (
        b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_pairs + 1) + body + bytes(draw(NUMBERS) % 200)
    )


@FUZZ
@given(gguf_files())
def test_strange_gguf_files_give_our_error(content):
    check(content)


@FUZZ
@given(st.data())
def test_strange_pickles_give_our_error(data):
    """The pickle inside what torch.save wrote is damaged, the archive around it is whole."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(valid()["torch"])) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("data.pkl"):
                content = data.draw(damaged(st.just(content)))
            new.writestr(name, content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about storages it meets
        check(out.getvalue())


HEADERS = st.one_of(
    st.text(max_size=40),
    st.builds(
        "{{'descr': {!r}, 'fortran_order': {}, 'shape': {}}}".format,
        st.sampled_from(["<f4", ">f8", "|O", "<f2", "<c8", "V16", "<f16", "x", "<U3"]),
        st.booleans(),
        st.sampled_from(["()", "(6,)", "(2, 3)", "(-6,)", "(0,)", "(1 << 60,)", f"({1 << 62}, 4)"]),
    ),
)


@FUZZ
@given(HEADERS, st.binary(max_size=48), st.sampled_from([b"\1\0", b"\2\0", b"\3\0", b"\7\0"]))
def test_strange_numpy_headers_give_our_error(header, content, version):
    raw = header.encode("utf-8", "replace") + b"\n"
    length = struct.pack("<H" if version == b"\1\0" else "<I", len(raw))
    check(b"\x93NUMPY" + version + length + raw + content)


# Models


@cache
def model_files(kind: str) -> dict[str, bytes]:
    from steerlens.models.checkpoints import save_hooked
    from steerlens.testing import tiny_hf, tiny_model

    with tempfile.TemporaryDirectory() as folder:
        if kind == "ours":
            path = save_hooked(tiny_model("gpt2", n_layers=1, d_model=8), Path(folder) / "model")
        else:
            path = Path(folder)
            for part in tiny_hf("gpt2", n_layers=1, d_model=8):
                part.save_pretrained(path)
        return {p.name: p.read_bytes() for p in path.iterdir()}


MODELS = settings(FUZZ, max_examples=25)


def check_model(kind: str, name: str, content: bytes) -> None:
    load = load_hooked if kind == "ours" else load_hf_directory
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for other, whole in model_files(kind).items():
            (Path(folder) / other).write_bytes(content if other == name else whole)
        try:
            load(folder)
        except CheckpointError as error:
            assert len(str(error)) > 20


@MODELS
@given(
    st.data(),
    st.sampled_from(["ours", "hf"]),
    st.sampled_from(["config.json", "model.safetensors", "tokenizer.json"]),
)
def test_damaged_models_load_or_give_our_error(data, kind, name):
    check_model(kind, name, data.draw(damaged(st.just(model_files(kind)[name]))))


SETTINGS = st.one_of(
    LEAVES, st.sampled_from([-1, 0, 1, 2, 1000, 10**7, 10**12, [], {}, "relu", "torch.float64"])
)


@MODELS
@given(st.data(), st.sampled_from(["ours", "hf"]))
def test_strange_settings_of_models_give_our_error(data, kind):
    stated = json.loads(model_files(kind)["config.json"])
    fields = stated["config"] if kind == "ours" else stated
    for name in data.draw(st.lists(st.sampled_from(sorted(fields)), min_size=1, max_size=2)):
        fields[name] = data.draw(SETTINGS)
    check_model(kind, "config.json", json.dumps(stated).encode())
