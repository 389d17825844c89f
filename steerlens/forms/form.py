"""What is trained: the parameters of an intervention, and the intervention that they make."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from steerlens.interventions.changes import Composed
from steerlens.models.model import Model
from steerlens.sites import as_positions, as_site

Parameters = dict[str, Tensor]
"""The tensors that are trained, by name."""


@runtime_checkable
class Form(Protocol):
    """A kind of intervention with parameters, to be trained with any objective.

    It is a frozen dataclass of plain settings, so that it can be written down beside what was
    trained. At the start its intervention changes nothing: at every multiplier the model's logits
    are its own, exactly.
    """

    @property
    def rate(self) -> float:
        """The learning rate of Adam that works for this kind."""
        ...

    def begin(self, model: Model, generator: torch.Generator) -> Parameters:
        """Parameters to start from, in float32 on the model's device.

        Args:
            generator: Draws what is random, on the CPU.

        Raises:
            ValueError: If the form does not fit the model.
        """
        ...

    def intervention(self, model: Model, params: Parameters) -> Composed:
        """The intervention that the parameters make, differentiable in them.

        Raises:
            ValueError: If the parameters are not those of this form on this model.
        """
        ...

    def after_step(self, params: Parameters) -> None:
        """Restores what must hold of the parameters, such as unit length, in place."""
        ...


@runtime_checkable
class Penalised(Form, Protocol):
    """A form whose training has a penalty beside the objective."""

    def penalty(self, intervention: Composed) -> Tensor:
        """A number in nats that is added to the loss of a step, of what the step's intervention did.

        It is differentiable in the parameters. The validation loss is the objective alone.
        """
        ...


def read_place(form: Any) -> None:
    """Reads the site and positions of a new form as users write them: a layer, a hook, "all"."""
    object.__setattr__(form, "site", as_site(form.site))
    object.__setattr__(form, "positions", as_positions(form.positions))


def require_parameters(form: Form, params: Parameters, shapes: dict[str, tuple[int, ...]]) -> None:
    """Raises ValueError unless the parameters have these names and shapes."""
    found = {name: tuple(tensor.shape) for name, tensor in params.items()}
    if found != shapes:
        raise ValueError(
            f"{form!r} has parameters of shapes {shapes} on this model, and got {found}. Give "
            "those that begin(model, generator) made, on the model that they were made for."
        )


def normal(shape: tuple[int, ...], std: float, model: Model, generator: torch.Generator) -> Tensor:
    """Normal numbers of a standard deviation, in float32 on the model's device."""
    return (torch.randn(shape, generator=generator, dtype=torch.float32) * std).to(model.device)


def zeros(shape: tuple[int, ...], model: Model) -> Tensor:
    """Zeros in float32 on the model's device."""
    return torch.zeros(shape, device=model.device, dtype=torch.float32)
