"""One intervention of every kind, made for a tiny model: the table that `test_kinds.py` checks."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from steerlens.directions import Direction
from steerlens.forms import (
    DReFT,
    Form,
    FullWeights,
    Joint,
    LocalWeight,
    LoRA,
    LoReFT,
    LowRankAdapter,
    PostBlock,
    ReFTr1,
    SoftPrefix,
    VectorForm,
)
from steerlens.interventions import (
    Ablate,
    AblateEverywhere,
    Add,
    AddKeepingNorm,
    Clamp,
    Prompt,
    Together,
    baked,
    load_peft,
    merged,
    save_peft,
    weight_delta,
)
from steerlens.interventions.changes import PromptChange
from steerlens.interventions.composition import Composition
from steerlens.interventions.matrices import TARGETS
from steerlens.interventions.scaled import scaled
from steerlens.models.model import Model
from steerlens.protocols import Intervention
from steerlens.saes import FeatureAdapter
from steerlens.sites import Positions, Site
from tests.handmade_saes import saved
from tests.strangers import Silent, low_rank

EVERYWHERE = Positions.all(special=True)


def in_turn(families: Sequence[str], names: Iterable[str]) -> list[tuple[str, str]]:
    """Each name with one family: all names and all families, without every pair of them."""
    return [(families[i % len(families)], name) for i, name in enumerate(names)]


def moved(form: Form, model: Model, std: float = 0.05) -> dict[str, torch.Tensor]:
    """Parameters of a form after steps at random."""
    generator = torch.Generator().manual_seed(1)
    params = {
        name: tensor + std * torch.randn(tensor.shape, generator=generator)
        for name, tensor in form.begin(model, torch.Generator().manual_seed(0)).items()
    }
    for name in ("gate", "amount"):
        if name in params:
            params[name] = torch.tensor(0.7)
    form.after_step(params)
    return params


def of_form(form: Form) -> Callable[[Model], Intervention]:
    return lambda model: form.intervention(model, moved(form, model))


def direction(model: Model, site: Site) -> Direction:
    vector = torch.randn(model.d_model, generator=torch.Generator().manual_seed(2))
    return Direction(vector, site, resid_norm=2.0, projection_std=0.5, processing="raw")


def along(kind: Any, site: Site, **how: Any) -> Callable[[Model], Intervention]:
    return lambda model: kind(direction(model, site), **how)


def lora(model: Model) -> Intervention:
    """Of all matrices that the model has: q, k, v, o, in, down, and where it has one the gate."""
    has = [target for target in TARGETS if target != "gate" or model.cfg.gated_mlp]
    return of_form(LoRA(rank=2, targets=tuple(has), alpha=4.0))(model)


def another_checkpoint(model: Model) -> Model:
    """The model with other weights in its last block and another unembedding."""
    wrapped, generator = copy.deepcopy(model.wrapped), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if name.startswith(("blocks.1.attn.W", "blocks.1.mlp.W", "unembed.W")):
                weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return Model(wrapped, "another")


def from_a_peft_folder(model: Model) -> Intervention:
    with tempfile.TemporaryDirectory() as folder:
        return load_peft(save_peft(folder, model, lora(model)), model)


def delta_of_low_rank(model: Model) -> Intervention:
    return weight_delta(model, merged(model, of_form(LoRA(2, ("q", "o", "down")))(model)), rank=2)


def everything(model: Model) -> Intervention:
    parts = [along(Add, Site(0), unit="direction")(model), of_form(PostBlock(2))(model),
             of_form(LoRA(2, ("k",)))(model)]  # fmt: skip
    changes = [change for part in parts for change in part.changes(model)]
    prompt = PromptChange(torch.tensor(model.ids("good cat")[1:]))
    return Composition((*changes, prompt), "everything at once")


KINDS: dict[str, Callable[[Model], Intervention]] = {
    "vector": along(Add, Site(0), positions=Positions.all(), unit="direction"),
    "vector from the prompt's end, in norms": along(Add, Site(1, "resid_pre")),
    "vector at generated tokens": along(
        Add, Site(0), positions=Positions.generated(), unit="projection_std"
    ),
    "vector inside a block": along(Add, Site(1, "attn_out"), unit="direction"),
    "trained vector after the last block": of_form(VectorForm(Site(1))),
    "ablation": along(Ablate, Site(0), positions=EVERYWHERE),
    "ablation everywhere": along(AblateEverywhere, Site(0), positions=Positions.all()),
    "vector, norm kept": along(AddKeepingNorm, Site(0), positions=Positions.all()),
    "clamp": along(Clamp, Site(0), value=3.0),
    "prompt": lambda model: Prompt("good cat ran ."),
    "soft prefix": of_form(SoftPrefix(length=3)),
    "LoReFT": of_form(LoReFT(Site(0), rank=2)),
    "ReFT-r1": of_form(ReFTr1(Site(0), top_k=3)),
    "D-ReFT": of_form(DReFT(Site(0), rank=2)),
    "one-layer adapter": of_form(LowRankAdapter(Site(0), 2, "silu")),
    "adapter of SAE features": lambda model: of_form(FeatureAdapter(saved(model.d_model, Site(0))))(
        model
    ),
    "post-block adapters": of_form(PostBlock(rank=2)),
    "LoRA of all matrices": lora,
    "LoRA of one block": of_form(LoRA(rank=1, targets=("v",), layers=(1,))),
    "local weight": of_form(LocalWeight(1)),
    "full weights": of_form(FullWeights()),
    "joint": of_form(Joint(LoRA(2, ("down", "q")), PostBlock(2))),
    "delta of two checkpoints": lambda model: weight_delta(model, another_checkpoint(model)),
    "delta of low rank": delta_of_low_rank,
    "PEFT folder": from_a_peft_folder,
    "baked vector": lambda model: baked(
        # Gemma-2 norms what its blocks write, so no bias of them adds a vector.
        model,
        along(Add, Site(0, "resid_pre"), positions=EVERYWHERE, unit="direction")(model),
    ),
    "several together": lambda model: Together(
        (KINDS["vector"](model), KINDS["clamp"](model), KINDS["local weight"](model)),
        (1.0, 0.5, 1.0),
    ),
    "one scaled": lambda model: scaled(KINDS["joint"](model), 0.5),
    "everything at once": everything,
    "a stranger's weights": lambda model: low_rank(model, 1),
    "a stranger's, which states nothing": lambda model: Silent(low_rank(model, 0)),
}
