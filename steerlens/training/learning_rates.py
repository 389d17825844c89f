"""The learning rate of a form on a model, found by short trainings."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, SupportsFloat, SupportsIndex

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens import plots
from steerlens.arguments import ArgumentError, as_floats, as_int, as_positive
from steerlens.data.contrast_set import PairsLike, as_contrast_set
from steerlens.forms import Form
from steerlens.models.model import Model, as_model
from steerlens.progress_bar import progress_bar
from steerlens.results import Column, Result
from steerlens.training.trainer import Trainer
from steerlens.training.training_errors import DivergedError, TrainingWarning

if TYPE_CHECKING:
    import plotly.graph_objects as go

FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0)
"""The rates that are tried where none are given, as multiples of the form's own."""


@dataclass(frozen=True, eq=False, repr=False)
class RateSearch(Result):
    """The validation loss that short trainings reach, for each learning rate."""

    kind: ClassVar[str] = "rates"

    rates: Float[Tensor, " rate"]
    losses: Float[Tensor, " rate"]
    """The lowest mean validation loss of each training, in nats; NaN where it diverged."""
    start: float
    """The validation loss before any step."""
    steps: int
    """Steps of each training."""
    made_by: dict[str, Any]

    @property
    def best(self) -> float:
        """The rate with the lowest validation loss.

        It is chosen on the validation pairs, and for short trainings: a longer one may want a
        lower rate.

        Raises:
            DivergedError: If all of them diverged.
        """
        if bool(self.losses.isnan().all()):
            raise DivergedError(
                f"Training diverged at all rates {self.rates.tolist()}. Try lower ones."
            )
        return float(self.rates[int(self.losses.nan_to_num(torch.inf).argmin())])

    @property
    def at_the_edge(self) -> bool:
        """Whether the best rate is the lowest or the highest that was tried."""
        return self.best in (float(self.rates.min()), float(self.rates.max()))

    def columns(self) -> list[Column]:
        return [Column("loss", ("rate",), self.losses)]

    def summary(self) -> str:
        """The best rate, and whether others should be tried."""
        edge = ", the last one that was tried: try more beyond it" if self.at_the_edge else ""
        return (
            f"{self.made_by['form']}: rate {self.best:.3g}{edge}; validation loss "
            f"{self.start:.4g} at the start, {float(self.losses.nan_to_num(torch.inf).min()):.4g} "
            f"after at most {self.steps} steps"
        )

    def plot(self) -> go.Figure:
        """The validation loss over the rate."""
        return plots.rate_curve(
            self.losses.tolist(),
            rates=self.rates.tolist(),
            start=self.start,
            title=f"Learning rate of {self.made_by['form']}",
        )


def find_rate(
    trainer: Trainer,
    form: Form,
    model: Model,
    pairs: PairsLike,
    validation: PairsLike,
    *,
    rates: Iterable[SupportsFloat] | None = None,
    steps: SupportsIndex | None = None,
    progress: bool = True,
) -> RateSearch:
    """Trains the form for a few steps at several rates, and compares their validation losses.

    Args:
        trainer: With the objective and all other settings of the training that is meant.
        rates: By default 0.1, 0.3, 1, 3 and 10 times the form's own.
        steps: Of each training; by default a quarter of the trainer's, at least 10.

    Raises:
        ArgumentError: If there are fewer than two rates, or one is not above 0.
        ValueError: As `Trainer.fit`.
    """
    model = as_model(model)
    given = [f * form.rate for f in FACTORS] if rates is None else as_floats("rates", rates)
    tried = sorted({as_positive("rates", rate) for rate in given})
    if len(tried) < 2:
        raise ArgumentError(f"rates={tried} leaves nothing to compare. Give two or more.")
    count = max(10, int(trainer.steps) // 4) if steps is None else as_int("steps", steps, least=1)
    short = replace(trainer, steps=count, look_every=max(1, count // 4), patience=0)
    losses, start, made_by = [], float("nan"), {}
    for rate in progress_bar(progress, tried, desc="learning rates", unit="rate"):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", TrainingWarning)  # its loss says it
                made = replace(short, rate=rate).fit(
                    form, model, pairs, validation=validation, progress=False
                )
        except DivergedError:
            losses.append(torch.nan)
            continue
        means = made.history.validation.mean(1)
        losses.append(float(means.min()))
        start, made_by = float(means[0]), made.made_by
    return RateSearch(
        rates=torch.tensor(tried),
        losses=torch.tensor(losses),
        start=start,
        steps=count,
        made_by={
            **{name: value for name, value in made_by.items() if name not in ("rate", "steps")},
            "question": "Which learning rate does the form need?",
            "form": repr(form),
            "data": as_contrast_set(pairs).hash,
        },
    )
