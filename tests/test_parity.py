"""The same numbers as steering-vectors and repeng, on the same random models.

The peers cannot share an environment with steerlens (steering-vectors 0.12 needs transformers below
5, repeng 0.4 NumPy below 2), so they run in their own: the one that `benchmarks` makes, or the
Python that the variable STEERLENS_PEERS names. `tests/peers.py` is what they run.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from steerlens.data import ContrastPair, ContrastSet
from steerlens.directions import Activations, Direction
from steerlens.directions.exchange import gguf, steering_vectors
from steerlens.directions.methods import PCA, DiffMean
from steerlens.interventions import Add, Together
from steerlens.interventions.intended import intended
from steerlens.measures.reading import activations
from steerlens.models.model import Model
from steerlens.sites import Positions, Site
from steerlens.testing import FAMILIES, tiny_hf

HERE = Path(__file__).parent
PYTHON = Path(os.environ.get("STEERLENS_PEERS") or HERE.parent / "benchmarks/.env/peers/bin/python")
pytestmark = pytest.mark.skipif(
    not PYTHON.exists(),
    reason=f"there is no {PYTHON}: steering-vectors and repeng need an environment of their own, "
    "with the dependency group 'peers' of pyproject.toml (`make bench` makes one); set "
    "STEERLENS_PEERS to its Python",
)

REPENG = (
    "gpt2",
    "llama",
    "mistral",
)  # it finds no layers of GPT-NeoX; Qwen2 and Gemma 2 fail in it
LAYERS, WIDTH, MULTIPLIER = 3, 32, 1.5
TEXT = "the cat sat on the bed and the dog ran to the good man"
EVERYWHERE = Positions.all(special=True)
CLOSE = {"atol": 1e-5, "rtol": 0}


NOUNS, VERBS = ("cat", "dog", "bird", "fish", "man", "woman"), ("sat", "ran", "slept")
GOOD, BAD = ("good", "great", "nice", "lovely"), ("bad", "awful", "terrible", "horrid")
STARTS = ("the", "a", "this", "that", "very", "quite")


def texts() -> list[tuple[str, str]]:
    """Pairs of unequal length that differ in their last word."""
    draw = random.Random(0)
    pairs = []
    for _ in range(25):  # an odd number: no vote on a sign is a tie
        start = " ".join(draw.choices(STARTS, k=draw.randint(1, 4)))
        start = f"{start} {draw.choice(NOUNS)} {draw.choice(VERBS)}"
        pairs.append((f"{start} {draw.choice(GOOD)}", f"{start} {draw.choice(BAD)}"))
    return pairs


def vectors() -> Tensor:
    return torch.randn(LAYERS, WIDTH, generator=torch.Generator().manual_seed(1))


def at(layer: int, stream: str = "resid_post") -> Direction:
    return Direction(vectors()[layer], Site(layer, stream), processing="raw")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """What the peers compute for every family, and the folder with what they wrote."""
    root = tmp_path_factory.mktemp("peers")
    jobs = {}
    for family in FAMILIES:
        folder = root / family
        for part in tiny_hf(family, n_layers=LAYERS, d_model=WIDTH):
            part.save_pretrained(folder)
        save_file({"vectors": vectors()}, folder / "vectors.safetensors")
        gguf.export([at(1), at(2)], folder / "ours.gguf", model_hint=family)
        jobs[family] = {
            "folder": str(folder),
            "pairs": texts(),
            "text": TEXT,
            "multiplier": MULTIPLIER,
            "n_layers": LAYERS,
            "layer_types": list(steering_vectors.STREAMS),
            "peers": ["steering-vectors", *(["repeng"] if family in REPENG else [])],
        }
    (root / "job.json").write_text(json.dumps(jobs))
    command = [str(PYTHON), str(HERE / "peers.py"), str(root)]
    offline = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=offline)
    assert done.returncode == 0, done.stderr[-3000:]
    return root, load_file(root / "out.safetensors")


def both(theirs, family: str) -> tuple[Model, Activations, dict[str, Tensor], Path]:
    """The same model here, what is read of it, the peers' numbers for it, and its folder."""
    root, found = theirs
    model = Model.load(root / family)
    model.prepend_bos = True
    pairs = ContrastSet("pairs", tuple(ContrastPair("", p, n) for p, n in texts()))
    read = activations(model, pairs, progress=False)
    start = f"{family}."
    numbers = {k.removeprefix(start): v for k, v in found.items() if k.startswith(start)}
    return model, read, numbers, root / family


@pytest.fixture(scope="module", params=FAMILIES)
def ours(request, theirs):
    return both(theirs, request.param)


@pytest.fixture(scope="module", params=REPENG)
def in_repeng(request, theirs):
    return both(theirs, request.param)


def steered(model: Model, *directions: Direction) -> Tensor:
    edits = tuple(Add(d, EVERYWHERE, unit="direction") for d in directions)
    with Together(edits).attach(model, MULTIPLIER):
        return model.logits(TEXT)[0]


def test_it_is_the_same_model(ours):
    model, _, numbers, _ = ours
    assert model.tokens(TEXT).tokens.tolist() == numbers["ids"].tolist()
    torch.testing.assert_close(model.logits(TEXT)[0], numbers["unsteered"], **CLOSE)


def test_diffmean_is_their_mean_aggregator(ours):
    _, read, numbers, _ = ours
    for layer in range(LAYERS):
        mine = read.direction(layer, DiffMean()).vector
        torch.testing.assert_close(mine, numbers[f"steering-vectors.mean.{layer}"], **CLOSE)
        assert mine.norm() > 0.5


def test_pca_is_their_pca_aggregator(ours):
    """PCA() without centring, at length 1; the sign is the mean's in both."""
    _, read, numbers, _ = ours
    for layer in range(LAYERS):
        mine = read.direction(layer, PCA()).unit().vector
        torch.testing.assert_close(mine, numbers[f"steering-vectors.pca.{layer}"], **CLOSE)


@pytest.mark.parametrize(("method", "centred"), [("pca_diff", True), ("pca_center", False)])
def test_pca_is_repengs(in_repeng, method, centred):
    """`pca_diff` is PCA(centred=True) and `pca_center` is PCA(), at length 1.

    Its sign is that of most pairs, ours that of the mean. It reads its last layer after the final
    norm: the same axis, of the normed stream.
    """
    model, read, numbers, _ = in_repeng
    for layer in range(LAYERS):
        positive, negative = read.at(layer)
        if layer == LAYERS - 1:
            positive, negative = (
                model.readout.norm(side).detach() for side in (positive, negative)
            )
        axis = torch.nn.functional.normalize(PCA(centred)(positive, negative), dim=0)
        vote = ((positive - negative) @ axis).sign().sum().sign()
        torch.testing.assert_close(vote * axis, numbers[f"repeng.{method}.{layer}"], **CLOSE)


@pytest.mark.parametrize(("layer_type", "stream"), steering_vectors.STREAMS.items())
def test_steered_logits_are_steering_vectors(ours, layer_type, stream):
    model, _, numbers, _ = ours
    for layer in range(LAYERS):
        mine, its = (
            steered(model, at(layer, stream)),
            numbers[f"steering-vectors.{layer_type}.{layer}"],
        )
        assert (its - numbers["unsteered"]).abs().max() > 0.5
        if stream != "resid_post" and model.cfg.use_normalization_before_and_after:
            assert (mine - its).abs().max() > 0.5  # the place that post_norms= asks about
        else:
            torch.testing.assert_close(mine, its, **CLOSE)


def test_steered_logits_are_repengs(in_repeng):
    """Its layer l is the stream after block l, blocks counting from 0."""
    model, _, numbers, _ = in_repeng
    for layer in range(LAYERS):
        its = numbers[f"repeng.steered.{layer}"]
        assert (its - numbers["unsteered"]).abs().max() > 0.5
        torch.testing.assert_close(steered(model, at(layer)), its, **CLOSE)


def test_repeng_reads_and_applies_our_control_vector(in_repeng):
    model, _, numbers, _ = in_repeng
    for layer in (1, 2):
        assert torch.equal(numbers[f"repeng.imported.{layer}"], vectors()[layer])
    torch.testing.assert_close(steered(model, at(1), at(2)), numbers["repeng.imported"], **CLOSE)


def test_we_read_repengs_control_vector(in_repeng):
    _, _, numbers, folder = in_repeng
    read = gguf.load(folder / "repeng.gguf", model=folder.name)
    assert [d.site for d in read] == [Site(layer) for layer in range(LAYERS)]
    for layer, direction in enumerate(read):
        assert torch.equal(direction.vector, numbers[f"repeng.pca_center.{layer}"])
        assert (
            model_hint(direction) == json.loads((folder / "config.json").read_text())["model_type"]
        )


def model_hint(direction: Direction) -> str:
    return direction.method.removeprefix("control vector for '").removesuffix("'")


def test_we_read_and_apply_their_pickled_steering_vector(ours):
    model, _, numbers, folder = ours
    read = steering_vectors.load(folder / "steering_vector.pt", model=model.name)
    for layer, direction in enumerate(read):
        assert torch.equal(direction.vector, numbers[f"steering-vectors.pca.{layer}"])
    adopted = [model.adopt(d) for d in read]
    with Together(tuple(map(intended, adopted))).attach(model, MULTIPLIER):
        mine = model.logits(TEXT)[0]
    torch.testing.assert_close(mine, numbers["steering-vectors.applied"], **CLOSE)
