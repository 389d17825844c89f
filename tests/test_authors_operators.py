"""Operators have the numbers of their authors' own code, where its licence allows to keep them.

`tests/authors/sources.json` says whose, of which commit and licence, and how they were run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from steerlens.data import ContrastPair, ContrastSet
from steerlens.directions import Direction
from steerlens.forms import LocalWeight, LoRA
from steerlens.forms.stream_edits import AddVector
from steerlens.interventions import Add, AddKeepingNorm, Condition, Together, When, load_peft
from steerlens.interventions.conditional import prompt_means
from steerlens.measures.grains import grains
from steerlens.measures.token_attribution import token_attribution
from steerlens.models.model import Model
from steerlens.models.wrapped_state import differentiable
from steerlens.operators import find_condition
from steerlens.saes import SAE, FeatureAdapter
from steerlens.saes.feature_adapter import FeatureChange
from steerlens.saes.sae_lens_library import sae_lens
from steerlens.sites import Positions, Site
from steerlens.testing import tiny_model
from steerlens.training.concept_das import ConceptSubspace, _Interchange, _read
from steerlens.training.preference_vector import combined
from tests.test_authors import CLOSE, THEIRS
from tests.test_concept_das import QUADS

SITE, EVERYWHERE = Site(0), Positions.all(special=True)
TEXTS = (
    "the cat sat on the bed",
    "I think the soup is good",
    "you hate that big dog",
    "a child ate cake",
    "we love his book",
    "no fish slept here",
)
LOGITS = {"atol": 2e-5, "rtol": 1e-4}
INTEGRALS = {"atol": 5e-4, "rtol": 2e-3}


def wave(*shape: int, start: float) -> torch.Tensor:
    """The stated tensors: sin(start + 0.7 k), k = 0, 1, … in the order of the entries."""
    k = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return torch.sin(start + 0.7 * k).reshape(shape).float()


STREAM = 2 * wave(2, 6, 16, start=3)


@pytest.fixture(scope="module")
def llama() -> Model:
    return Model(tiny_model("llama", n_layers=2, d_model=16))


def direction(vector: torch.Tensor) -> Direction:
    return Direction(vector, SITE, processing="raw")


def added(start: float = 2) -> Add:
    return Add(direction(wave(16, start=start)), EVERYWHERE, unit="direction")


def last_two(model: Model, arm: Any, multiplier: float, text: str, after: str = "") -> torch.Tensor:
    """Logits at the last two tokens of a prompt and what is written after it."""
    batch = model.answered([text], [after]) if after else model.tokens([text])
    with arm.attach(model, multiplier):
        return model.logits(batch)[0, -2:]


def sides(pairs: list[tuple[str, str]], name: str) -> ContrastSet:
    return ContrastSet(name, tuple(ContrastPair("", *pair, group=pair[0]) for pair in pairs))


# CAST

FIT = [("I love the soup", "I hate the soup"), ("a good dog sat", "a bad dog sat here"),
       ("we are happy today", "we are sad now"), ("that book is great", "that book is awful"),
       ("she said yes", "she said no very")]  # fmt: skip
CHOOSE = [("the wine is lovely", "the wine is horrid"), ("they enjoy tea", "they detest tea"),
          ("my big city", "his small city"), ("it was nice", "it was terrible")]  # fmt: skip


def conditions(above: bool = True) -> tuple[Condition, Condition]:
    """Theirs, whose "smaller" says that the threshold is smaller than the similarity."""
    first, second = (
        Condition(direction(wave(16, start=start)), float(threshold), above, positions=EVERYWHERE)
        for start, threshold in zip((1, 5), THEIRS["cast.thresholds"], strict=True)
    )
    return first, second


def test_the_similarity_of_a_condition_is_casts(llama):
    batch = llama.tokens(list(TEXTS))
    means = prompt_means(llama.cache(batch, [SITE])[SITE], batch, EVERYWHERE)
    for one, name in zip(conditions(), ("similarities", "similarities_2"), strict=True):
        torch.testing.assert_close(one.scores(means), THEIRS[f"cast.{name}"], **CLOSE)


@pytest.mark.parametrize("name", ["smaller", "larger", "and", "or"])
def test_conditional_steering_is_casts_while_a_text_is_written(llama, name):
    """The decision is of the prompt, and stays for the token that is written after it."""
    one, other = conditions(above=name != "larger")
    gate: Any = {"or": When((one, other), added()), "and": When(one, When(other, added()))}
    moved = 0
    for k, text in enumerate(TEXTS):
        found = last_two(llama, gate.get(name, When(one, added())), 2.0, text, " very")
        torch.testing.assert_close(found, THEIRS[f"cast.{name}.{k}"], **LOGITS)
        moved += int(not torch.equal(found, llama.logits([text + " very"])[0, -2:]))
    assert 0 < moved < len(TEXTS)


def test_a_condition_vector_is_casts_and_its_threshold_scores_as_theirs(llama):
    found = find_condition(
        llama, sides(FIT, "fit"), sides(CHOOSE, "choose"), [SITE], positions=EVERYWHERE
    )
    own = found.directions[0].unit().vector
    torch.testing.assert_close(own, THEIRS["cast.pca_pairwise"], atol=1e-4, rtol=1e-4)
    threshold, above, f1 = THEIRS["cast.point"].tolist()
    holds = (found.scores[0] > threshold) == bool(above)
    hits, wrong = (int(holds[:, side].sum()) for side in (0, 1))
    assert 2 * hits / (len(CHOOSE) + hits + wrong) == pytest.approx(f1)
    assert found._best_at(SITE)[0] >= f1 - 1e-6  # all thresholds, where theirs are .01 apart


def test_a_kept_norm_is_that_of_cast(llama):
    arm = AddKeepingNorm(direction(wave(16, start=2)), EVERYWHERE, unit="direction")
    for k, text in enumerate(TEXTS[:2]):
        found = last_two(llama, arm, 2.0, text, " very")
        torch.testing.assert_close(found, THEIRS[f"cast.norm_kept.{k}"], **LOGITS)


# Concept DAS

W = wave(16, start=1) / wave(16, start=1).norm()


def subspace(value: float | torch.Tensor) -> ConceptSubspace:
    values = {"positive": torch.as_tensor([float(value)])}
    made_by = {"processing": "raw", "model": "", "dtype": "float32"}
    return ConceptSubspace(SITE, W[None], values, (), EVERYWHERE, made_by)


def test_an_interchange_and_a_clamp_are_those_of_concept_das():
    source = 2 * wave(2, 1, 16, start=9)
    for row in (0, 1):
        found = subspace(source[row, 0] @ W).towards("positive")(STREAM[row : row + 1], 1.0)
        torch.testing.assert_close(found[0], THEIRS["cdas.interchanged"][row], **CLOSE)
    clamped = subspace(1.5).towards("positive", factor=1.2)(STREAM, 1.0)
    torch.testing.assert_close(clamped[:, 1:], THEIRS["cdas.clamped"][:, 1:], **CLOSE)


def test_the_loss_of_concept_das_and_its_gradient_are_theirs(llama):
    rows = _Interchange(llama, _read(QUADS), SITE, Positions.all())
    with differentiable(llama.wrapped):
        basis = W[None].clone().requires_grad_()
        loss = rows.loss(basis, torch.arange(4))
        (gradient,) = torch.autograd.grad(loss, basis)
    torch.testing.assert_close(loss.detach(), THEIRS["cdas.loss"], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(gradient[0], THEIRS["cdas.gradient"], atol=1e-6, rtol=1e-4)


# FSRL


def test_an_adapter_of_features_and_its_gradients_are_fsrls(tmp_path):
    lens, rows = sae_lens(), wave(20, 16, start=4)
    rows = rows / rows.norm(dim=-1, keepdim=True)
    config = lens.StandardSAEConfig(d_in=16, d_sae=20, apply_b_dec_to_input=True)
    config.metadata.hook_name = SITE.hook
    sae = lens.StandardSAE(config)
    with torch.no_grad():
        sae.W_dec.copy_(rows)
        sae.W_enc.copy_(rows.T)
        sae.b_enc.fill_(-0.3)
        sae.b_dec.copy_(0.2 * wave(16, start=6))
    folder = SAE(wrapped=sae.eval(), site=SITE, name="stated", resid_norm=None).save(tmp_path / "s")
    own = FeatureAdapter(str(folder)).sae
    params = [0.05 * wave(20, 16, start=7), 0.1 * wave(20, start=8), 0.2 + 0.1 * wave(20, start=10)]
    params = [one.requires_grad_() for one in params]
    edit = FeatureChange(own, *params)
    v, edited = edit.change(STREAM)[0], edit(STREAM, 1.0)
    size = v.abs().sum(-1).mean()
    torch.testing.assert_close(v, THEIRS["fsrl.v"], **CLOSE)
    torch.testing.assert_close(edited, THEIRS["fsrl.edited"], **CLOSE)
    torch.testing.assert_close(size, THEIRS["fsrl.l1"], **CLOSE)
    total = (edited * wave(2, 6, 16, start=11)).sum() + 0.1 * size
    for name, found in zip(
        ("read", "offset", "threshold"), torch.autograd.grad(total, params), strict=True
    ):
        torch.testing.assert_close(found, THEIRS[f"fsrl.gradient.{name}"], atol=1e-4, rtol=1e-4)
    kept = torch.ones(20, dtype=torch.bool).index_fill(0, torch.tensor([0, 3, 11]), value=False)
    masked = FeatureChange(own, *params, kept)(STREAM, 1.0)
    torch.testing.assert_close(masked, THEIRS["fsrl.masked"], **CLOSE)


# GrAInS

ASKED = [("the cat sat on the bed and", " ran", " slept"), ("I think the soup was", " good", " bad"),
         ("we love that big", " dog", " cat")]  # fmt: skip
GRADIENTS: dict[str, dict[str, Any]] = {
    "vanilla": {"gradients": "times_input", "baseline": "zero"},
    "integrated": {"baseline": "zero", "steps": 24},
}


@pytest.fixture(scope="module")
def smooth() -> Model:
    """Its norms divide by √(mean square + 1), so that zero is no jump for them."""
    return Model(tiny_model("llama", n_layers=2, d_model=16, rms_norm_eps=1.0))


def own_scores(model: Model, pairs: list, how: str) -> list[list[torch.Tensor]]:
    """By side: of all tokens of a text but the last, which is asked for."""
    found = token_attribution(model, pairs, **GRADIENTS[how])
    return [
        [row[real][:-1] for row, real in zip(scores, batch.mask, strict=True)]
        for scores, batch in zip(found.scores, found.batches, strict=True)
    ]


@pytest.mark.parametrize("how", GRADIENTS)
def test_attribution_is_that_of_grains_after_its_shift(smooth, how):
    """Theirs asks the place after a text for the text's last token, ours the place before it.

    So theirs is ours where that token is asked for once more, and ours of the text itself is theirs
    of the text without its last token.
    """
    own = own_scores(smooth, ASKED, how)
    again = [own_scores(smooth, [(p + a, a, " very") for p, a, _ in ASKED], how)[0],
             own_scores(smooth, [(p + b, " very", b) for p, _, b in ASKED], how)[1]]  # fmt: skip
    for side, name in enumerate(("pos", "neg")):
        for k in range(len(ASKED)):
            published = THEIRS[f"grains.{how}.{name}.{k}"]
            shifted = THEIRS[f"grains.shifted.{how}.{name}.{k}"]
            torch.testing.assert_close(again[side][k], published, **INTEGRALS)
            torch.testing.assert_close(own[side][k], shifted, **INTEGRALS)
            assert float((published[:-1] - shifted).abs().max()) > 10 * INTEGRALS["atol"]


@pytest.mark.parametrize(
    ("mode", "name", "sign"), [("positive", "pos", 1), ("negative", "neg", -1)]
)
def test_a_vector_of_grains_is_theirs_after_the_shift(smooth, mode, name, sign):
    options: Any = {"tokens": 1, "mode": mode, **GRADIENTS["vanilla"]}
    (mean,) = grains(smooth, ASKED, SITE, **options)
    torch.testing.assert_close(sign * mean.vector, THEIRS[f"grains.vector.{name}.mean"], **CLOSE)
    (axis,) = grains(smooth, ASKED, SITE, reduce="pca", **options)
    theirs = THEIRS[f"grains.vector.{name}.pca"]  # its sign is chance
    assert float((axis.vector @ theirs).abs()) == pytest.approx(1.0, abs=1e-4)


def test_a_kept_norm_is_that_of_grains(smooth):
    arm = AddKeepingNorm(direction(wave(16, start=2)), EVERYWHERE, unit="direction")
    for k, text in enumerate(TEXTS[:2]):
        found = last_two(smooth, arm, 10 * 0.15, text)
        torch.testing.assert_close(found, THEIRS[f"grains.steered.{k}"], **LOGITS)


# Weights


def peft_folder(folder: Path, number: int, rank: int, alpha: int) -> Path:
    """A stated adapter of q and v as PEFT would save it."""
    folder.mkdir()
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "bias": "none"}
    (folder / "adapter_config.json").write_text(
        json.dumps({**config, "target_modules": ["q_proj", "v_proj"]})
    )
    tensors = {}
    for layer in (0, 1):
        for k, (module, width) in enumerate((("q_proj", 16), ("v_proj", 8))):
            start = 100 * number + 10 * layer + k
            name = f"base_model.model.model.layers.{layer}.self_attn.{module}.lora_"
            tensors[f"{name}A.weight"] = 0.3 * wave(rank, 16, start=start)
            tensors[f"{name}B.weight"] = 0.3 * wave(width, rank, start=start + 5)
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def test_weighted_sums_of_loras_are_pefts(llama, tmp_path):
    both = {
        name: load_peft(peft_folder(tmp_path / name, number, rank, alpha), llama)
        for number, (name, rank, alpha) in enumerate((("for", 2, 4), ("against", 3, 3)))
    }
    arms = {
        **both,
        "phi": Together(tuple(both.values()), (1.0, -1.0)),  # as preference_vector returns it
        "sum": combined(both, {"for": 0.8, "against": 0.5}),
    }
    for name, arm in arms.items():
        for k, text in enumerate(TEXTS[:2]):
            theirs = THEIRS[f"peft.{name}.{k}"]
            torch.testing.assert_close(last_two(llama, arm, 1.0, text), theirs, **LOGITS)


@pytest.mark.parametrize(("name", "m"), [("up", 0.7), ("down", -1.3)])
def test_dynamic_updates_are_easyedits(llama, name, m):
    found = AddVector(wave(16, start=2))(STREAM, torch.tensor([m, m]))
    torch.testing.assert_close(found, THEIRS[f"update.vector.{name}"], **CLOSE)
    factors = {"down.a": 0.3 * wave(1, 32, 2, start=4), "down.b": 0.3 * wave(1, 2, 16, start=6)}
    local = {"weight": 0.1 * wave(32, 16, start=8), "bias": 0.2 * wave(16, start=12)}
    for kind, form, params in (
        ("lora", LoRA(2, ("down",), (0,)), factors),
        ("local", LocalWeight(0), local),
    ):
        arm = form.intervention(llama, params)
        for k, text in enumerate(TEXTS[:2]):
            theirs = THEIRS[f"update.{kind}.{name}.{k}"]
            torch.testing.assert_close(last_two(llama, arm, m, text), theirs, **LOGITS)
