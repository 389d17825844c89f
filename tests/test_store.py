"""The store reads what it wrote, never what has become stale, and goes on after a kill."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from steerlens.data import ContrastPair, ContrastSet
from steerlens.interventions import Add
from steerlens.measures import reading as capture
from steerlens.measures.activation_store import ActivationStore, StoreError
from steerlens.measures.reading import activations
from steerlens.models.model import Model
from steerlens.sites import Positions, Site
from steerlens.store.tensors import read_tensors, write_tensors
from steerlens.testing import tiny_model

ROOT = Path(__file__).parents[1]


def pairs_of(*last):
    opening = ("the cat sat on the", "you really", "she said that the good soup was", "he")
    rows = [(f"{o}", " good", " bad") for o in opening] + [last or ("I", " like", " hate")]
    return ContrastSet("pairs", tuple(ContrastPair(*row) for row in rows))


@pytest.fixture
def model():
    return Model(tiny_model("gpt2"))


@pytest.fixture
def store(tmp_path):
    return ActivationStore(tmp_path / "store")


@pytest.fixture
def reads(monkeypatch):
    """Counts the batches that the model really ran."""
    ran, real = [], capture._read

    def counted(model, kernel, batch, *rest):
        ran.append(len(batch))
        return real(model, kernel, batch, *rest)

    monkeypatch.setattr(capture, "_read", counted)
    return ran


def same(one, other):
    assert torch.equal(one.positive, other.positive)
    assert torch.equal(one.negative, other.negative)
    assert torch.equal(one.resid_norms, other.resid_norms)
    assert (one.sites, one.groups, one.data) == (other.sites, other.groups, other.data)


def read(store, model, pairs=None, **options):
    return store.activations(model, pairs or pairs_of(), progress=False, batch_size=2, **options)


def files(store):
    return sorted(store.root.glob("*/*.safetensors"))


def test_what_was_written_is_read_without_running_the_model(store, model, reads):
    first = read(store, model)
    same(first, activations(model, pairs_of(), progress=False, batch_size=2))
    reads.clear()
    same(read(store, model), first)
    same(read(ActivationStore(store.root), Model(tiny_model("gpt2"))), first)
    assert reads == []
    assert len(files(store)) == 3


CHANGES = {
    "a weight": lambda m: m.wrapped.blocks[0].mlp.W_in.data[0, 0].add_(0.01),
    "BOS": lambda m: setattr(m, "prepend_bos", False),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_model_never_reads_a_stale_entry(store, model, reads, change):
    read(store, model)
    CHANGES[change](model)
    reads.clear()
    again = read(store, model)
    assert sum(reads) == 10
    same(again, activations(model, pairs_of(), progress=False, batch_size=2))


@pytest.mark.parametrize(
    "options",
    [
        {"pairs": pairs_of("I", " like", " detest")},
        {"pairs": pairs_of("I think", " like", " hate")},
        {"positions": Positions.generated()},
        {"sites": [Site(0)]},
        {"sites": [Site(0), Site(1), Site(2, "resid_pre")]},
    ],
    ids=["an answer", "a prompt", "the positions", "the sites", "a stream"],
)  # fmt: skip
def test_another_question_never_reads_a_stale_entry(store, model, reads, options):
    read(store, model)
    reads.clear()
    options = {"pairs": pairs_of()} | options
    again = read(store, model, **options)
    assert sum(reads) == 10
    same(again, activations(model, **options, progress=False, batch_size=2))


def test_where_the_prompt_ends_is_part_of_the_key(store, model, reads):
    read(store, model, pairs_of("I", " like the cat", " like the dog"))
    reads.clear()
    read(store, model, pairs_of("I like", " the cat", " the dog"))
    assert sum(reads) == 10


def test_labels_that_change_no_number_read_the_same_entry(store, model, reads):
    read(store, model)
    reads.clear()
    renamed = tuple(ContrastPair(p.prompt, p.positive, p.negative, group="g") for p in pairs_of())
    again = read(store, model, ContrastSet("renamed", renamed))
    assert reads == []
    assert again.groups == ("g",) * 5


def test_a_killed_read_goes_on_where_it_was(store, model, reads, monkeypatch):
    whole = activations(model, pairs_of(), progress=False, batch_size=2)
    reads.clear()
    counted, ran = capture._read, []

    def killed(*arguments):
        ran.append(1)
        if len(ran) > 2:
            raise KeyboardInterrupt
        return counted(*arguments)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(capture, "_read", killed)
        read(store, model)
    assert len(files(store)) == 2
    reads.clear()
    same(read(store, model), whole)
    assert reads == [2], "only the last chunk: one pair, both sides"


def test_no_half_written_file_is_left_by_a_kill(store, model, monkeypatch):
    def killed(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("steerlens.store.files.os.replace", killed)
        read(store, model)
    assert [path for path in store.root.rglob("*") if path.is_file()] == []


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def flip(path):
    content = bytearray(path.read_bytes())
    content[-40] ^= 1
    path.write_bytes(content)


def strip(path):
    tensors = load_file(path)
    del tensors["norms"]
    save_file(tensors, path)


def other(path):
    save_file(load_file(path), path)  # numbers without their checksum


@pytest.mark.parametrize("damage", [cut, flip, strip, other, lambda path: path.write_bytes(b"")])
def test_a_damaged_file_is_refused_and_can_be_replaced(store, model, damage):
    first = read(store, model)
    damage(files(store)[1])
    with pytest.raises(StoreError, match=r"000001.safetensors is damaged.*Delete this file"):
        read(store, model)
    files(store)[1].unlink()
    same(read(store, model), first)


def test_exchanged_files_are_refused(store, model):
    first = read(store, model)
    [mine, beside, _] = files(store)
    read(store, model, pairs_of("I", " like", " detest"))
    [other] = (path for path in files(store) if path.name == mine.name and path != mine)
    whole = mine.read_bytes()
    for wrong in (beside, other):
        mine.write_bytes(wrong.read_bytes())
        with pytest.raises(StoreError, match=r"is another file: it states .*Delete this file"):
            read(store, model)
    mine.write_bytes(whole)
    same(read(store, model), first)


def test_steered_activations_are_not_stored(store, model, random_direction):
    add = Add(random_direction(Site(0), model.d_model))
    with add.attach(model, 1.0):
        model.logits(["the cat"])
        with pytest.raises(StoreError, match="Steering is attached.*are not stored"):
            read(store, model)
    assert files(store) == []


def test_activations_under_a_users_own_hook_are_not_stored(store, model):
    name = Site(0).hook
    with model.wrapped.hooks(fwd_hooks=[(name, lambda resid, hook: resid * 2)]), \
            pytest.raises(StoreError, match=f"There are hooks on {name}.*are not stored"):  # fmt: skip
        read(store, model)
    assert files(store) == []


def test_tensors_that_share_memory_are_written_each(tmp_path):
    whole = torch.arange(6.0).view(2, 3)
    given = {"whole": whole, "again": whole[None], "row": whole[0], "column": whole[:, 1]}
    write_tensors(tmp_path / "t.safetensors", given)
    found = read_tensors(tmp_path / "t.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in given.items())


def test_equal_tensors_give_equal_bytes_in_every_process(tmp_path):
    code = (
        "import sys, torch; from pathlib import Path\n"
        "from steerlens.store.tensors import write_tensors\n"
        "write_tensors(Path(sys.argv[1]), {'a': torch.ones(2), 'b': torch.zeros(3, 1)}, "
        "states={'name': 'gain', 'unit': '0', 'run': 'abc'})"
    )
    path = tmp_path / "there.safetensors"
    subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, check=True)
    tensors = {"b": torch.zeros(3, 1), "a": torch.ones(2)}
    write_tensors(
        tmp_path / "here.safetensors", tensors, states={"run": "abc", "unit": "0", "name": "gain"}
    )
    assert (tmp_path / "here.safetensors").read_bytes() == path.read_bytes()
