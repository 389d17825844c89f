"""The course of one training: losses by step, with a learning curve that draws itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens import plots
from steerlens.results import Column, Result
from steerlens.stats import Bounds, group_numbers, mean_interval
from steerlens.training.early_stopping import CLEAR, best_look

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False, repr=False)
class TrainingHistory(Result):
    """Losses of one training, in nats: of every step's batch, and of all validation pairs at looks."""

    kind: ClassVar[str] = "history"

    losses: Float[Tensor, " step"]
    """Of each step's batch, before the step."""
    validation: Float[Tensor, "look _pair"]
    """Of every validation pair at each look; no pairs where there is no validation."""
    looks: tuple[int, ...]
    """Steps that had been made at each look; the first look is before any step."""
    groups: tuple[str, ...]
    """The group of each validation pair, the unit of the intervals."""
    stopped: str
    """Why training ended before its last step; "" where it did not."""
    made_by: dict[str, Any]

    @property
    def best_step(self) -> int:
        """After how many steps the kept state was: that with the lowest validation loss."""
        if not self.validation.shape[1]:
            return len(self.losses)
        return self.looks[best_look(list(self.validation))]

    @property
    def fault(self) -> str:
        """Why what is kept is no better than the start; "" where that is not so.

        With validation: no look was below the first one, so that the start is kept. Without: the
        losses of the last quarter of the steps are clearly above those of the first.
        """
        if self.validation.shape[1]:
            means = self.validation.mean(1)
            if self.best_step or len(means) < 2:
                return ""
            return (
                f"the validation loss was never below its start ({float(means[0]):.4g} at the start, "
                f"then at least {float(means[1:].min()):.4g}), so the start is kept, which changes "
                "nothing"
            )
        some = len(self.losses) // 4
        if some < 2:
            return ""
        first, last = self.losses[:some], self.losses[-some:]
        error = float(((first.var() + last.var()) / some).sqrt())
        if not float(last.mean() - first.mean()) > CLEAR * error:
            return ""
        return f"the loss rose from {float(first.mean()):.4g} to {float(last.mean()):.4g}"

    @property
    def validation_interval(self) -> Bounds:
        """Mean validation loss at each look with its 95% interval over groups."""
        return mean_interval(self.validation, group_numbers(self.groups))

    def columns(self) -> Sequence[Column]:
        """Step by step: the loss, and the validation loss where it was looked at."""
        found = [Column("loss", ("step",), self.losses)]
        if self.validation.shape[1]:
            at = [step - 1 for step in self.looks if step]
            names = ("validation", "validation_low", "validation_high")
            for name, values in zip(names, self.validation_interval, strict=True):
                along = torch.full((len(self.losses),), torch.nan)
                along[at] = values[len(self.looks) - len(at) :]
                found.append(Column(name, ("step",), along))
        return found

    def summary(self) -> str:
        """How far the loss fell, and which state is kept."""
        what = self.made_by.get("objective", "training")
        text = f"{what}: {len(self.losses)} steps"
        if self.validation.shape[1]:
            means = self.validation.mean(1)
            best = self.looks.index(self.best_step)
            text += (
                f", validation loss {float(means[0]):.4g} at the start, {float(means[best]):.4g} "
                f"at the kept state (step {self.best_step})"
            )
        elif len(self.losses):
            some = max(1, len(self.losses) // 10)
            first, last = self.losses[:some].mean(), self.losses[-some:].mean()
            text += f", loss {float(first):.4g} to {float(last):.4g}, no validation"
        for what in (self.fault, f"stopped: {self.stopped}" if self.stopped else ""):
            text += f"; {what}" if what else ""
        return text

    def plot(self) -> go.Figure:
        """The learning curve: the loss of batches, and of the validation pairs with its interval."""
        bands = None
        if self.validation.shape[1]:
            bands = tuple(values.tolist() for values in self.validation_interval)
        return plots.learning_curve(
            self.losses.tolist(),
            looks=self.looks,
            validation=bands,
            kept=self.best_step,
            title=f"Training {self.made_by.get('form', '')} by {self.made_by.get('objective', '')}",
        )
