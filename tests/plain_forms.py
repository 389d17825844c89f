"""Forms as a stranger would write them, each with the same forward pass by plain hooks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from steerlens.interventions.changes import Dense, StreamEdit, WeightChange, first_block_of, rows_of
from steerlens.models.exchanged import exchanged
from steerlens.sites import Positions, Site


def rows(strength, resid):
    return strength[:, None, None] if isinstance(strength, Tensor) else strength


@dataclass(frozen=True, eq=False)
class Plain:
    """Any changes, attached one by one."""

    parts: tuple

    def changes(self, model):
        return self.parts

    @property
    def first_block(self):
        return first_block_of(self.parts)

    @property
    def per_row(self):
        return rows_of(self.parts)

    @contextmanager
    def attach(self, model, multiplier) -> Iterator[None]:
        if not self.parts:
            yield
            return
        first, rest = self.parts[0], Plain(self.parts[1:])
        if isinstance(first, StreamEdit):
            with (
                model.hooked(first.site, first.edit, first.positions, multiplier),
                rest.attach(model, multiplier),
            ):
                yield
        else:
            change = {first.name: lambda w: first.delta.added(w, float(multiplier))}
            with exchanged(model.wrapped, change), rest.attach(model, multiplier):
                yield


@dataclass(frozen=True)
class PlainVector:
    """A vector at one site."""

    layer: int
    positions: Positions = field(default_factory=Positions.from_prompt_end)
    stream: str = "resid_post"
    scale: float = 0.0
    rate: float = 0.05

    def begin(self, model, generator):
        return {"vector": self.scale * torch.randn(model.d_model, generator=generator)}

    def intervention(self, model, params):
        def edit(resid, strength):
            return resid + rows(strength, resid) * params["vector"].to(resid)

        return Plain((StreamEdit(Site(self.layer, self.stream), edit, self.positions),))

    def after_step(self, params):
        pass

    def hooks(self, params, m, chosen):
        def add(resid, hook):
            return resid + m * chosen[None, :, None] * params["vector"]

        return [(Site(self.layer, self.stream).hook, add)]


@dataclass(frozen=True)
class PlainAdapters:
    """A low-rank adapter after every block from `first` on, at all tokens."""

    first: int = 0
    rank: int = 2
    scale: float = 0.1
    rate: float = 0.01

    def begin(self, model, generator):
        shape = (model.n_layers - self.first, model.d_model, self.rank)
        return {n: self.scale * torch.randn(shape, generator=generator) for n in ("a", "b")}

    def intervention(self, model, params):
        def edit(k):
            def added(resid, strength):
                change = resid @ params["a"][k] @ params["b"][k].T
                return resid + rows(strength, resid) * change

            return added

        where = Positions.all(special=True)
        parts = [StreamEdit(Site(self.first + k), edit(k), where) for k in range(len(params["a"]))]
        return Plain(tuple(parts))

    def after_step(self, params):
        pass

    def hooks(self, params, m, chosen):
        def add(k):
            def hook_fn(resid, hook):
                return resid + m * (resid @ params["a"][k] @ params["b"][k].T)

            return hook_fn

        return [(Site(self.first + k).hook, add(k)) for k in range(len(params["a"]))]


@dataclass(frozen=True)
class PlainWeights:
    """Dense changes of some parameters."""

    names: tuple[str, ...]
    scale: float = 0.02
    rate: float = 0.001

    def begin(self, model, generator):
        named = dict(model.wrapped.named_parameters())
        return {
            name.replace(".", "-"): self.scale * torch.randn(named[name].shape, generator=generator)
            for name in self.names
        }

    def intervention(self, model, params):
        return Plain(
            tuple(WeightChange(name, Dense(params[name.replace(".", "-")])) for name in self.names)
        )

    def after_step(self, params):
        pass

    def hooks(self, params, m, chosen):
        return []
