"""One trainer for every form and objective."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, SupportsFloat, SupportsIndex

import torch
from torch import Tensor

from steerlens.arguments import ArgumentError, as_float, as_floats, as_int, as_positive
from steerlens.data import ContrastError, ContrastSet
from steerlens.data.contrast_set import PairsLike, as_contrast_set
from steerlens.forms import Form
from steerlens.forms.form import Penalised
from steerlens.forms.suppression import Suppressing
from steerlens.interventions.changes import Composed
from steerlens.models.model import Model, as_model
from steerlens.models.wrapped_state import differentiable
from steerlens.progress_bar import progress_bar
from steerlens.stats import group_numbers
from steerlens.store.files import expanded, remove_file
from steerlens.store.run_folder import RunFolder
from steerlens.training.early_stopping import best_look, why_stop
from steerlens.training.objectives.objective import Objective
from steerlens.training.scored_set import ScoredSet
from steerlens.training.trained_intervention import TrainedIntervention
from steerlens.training.training_errors import DivergedError, TrainingError, TrainingWarning
from steerlens.training.training_history import TrainingHistory
from steerlens.training.training_state import CHECKPOINT, TrainingState


@dataclass(frozen=True)
class Trainer:
    """Trains an intervention of any form for any objective, on pairs of answers.

    The weights of the model stay frozen. Training starts from cached states where the model and the
    intervention allow it (`steerlens.training.steered_pass`): only the blocks from the first changed
    one on run, only for the columns that an answer depends on.

    Args of the optimiser, AdamW, follow the trainers of arXiv:2505.20809 and 2602.02343: linear
    decay to zero without warm-up, gradients clipped at norm 1, no weight decay.

    Raises:
        ArgumentError: For a number that training cannot use.
    """

    objective: Objective
    """What is minimised, e.g. `LM()`."""
    steps: SupportsIndex = 100
    """The most steps; the rate falls to zero over all of them."""
    rate: SupportsFloat | None = None
    """Learning rate at the first step; None for the form's own."""
    batch: SupportsIndex = 8
    """Pairs in each step."""
    strengths: Iterable[SupportsFloat] | None = None
    """Multipliers during training, of which each pair draws one; None for the objective's own."""
    seed: SupportsIndex = 0
    """Seeds the start of the parameters, the order of the pairs, and all draws."""
    patience: SupportsIndex = 5
    """Looks at the validation pairs without a new best that end training; 0 for never."""
    look_every: SupportsIndex = 10
    """Steps between two looks, and between two checkpoints."""
    clip: SupportsFloat | None = 1.0
    """The largest norm of the gradient of all parameters together; None for no limit."""
    weight_decay: SupportsFloat = 0.0
    schedule: Literal["linear", "constant"] = "linear"

    def __post_init__(self) -> None:
        if not isinstance(self.objective, Objective):
            raise ArgumentError(
                f"objective={self.objective!r:.80} is not an objective. Use e.g. LM(), RePS() or "
                "BiPO()."
            )
        for name, least in (
            ("steps", 1), ("batch", 1), ("look_every", 1), ("seed", 0), ("patience", 0),
        ):  # fmt: skip
            object.__setattr__(self, name, as_int(name, getattr(self, name), least=least))
        for name in ("rate", "clip"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, as_positive(name, getattr(self, name)))
        object.__setattr__(self, "weight_decay", as_float("weight_decay", self.weight_decay))
        if self.schedule not in ("linear", "constant"):
            raise ArgumentError(f"schedule={self.schedule!r:.80} must be 'linear' or 'constant'.")
        if self.strengths is not None:
            given = as_floats("strengths", self.strengths)
            if not given or 0.0 in given:
                raise ArgumentError(
                    f"strengths={given} must hold at least one multiplier and no 0, at which "
                    "nothing can be learnt."
                )
            object.__setattr__(self, "strengths", given)

    def fit(
        self,
        form: Form,
        model: Model,
        pairs: PairsLike,
        *,
        validation: PairsLike | None = None,
        folder: Path | str | None = None,
        progress: bool = True,
    ) -> TrainedIntervention:
        """Trains the form on the pairs.

        Equal arguments give equal numbers, also where a training was stopped and goes on.

        Args:
            form: What is trained, e.g. `VectorForm(12)`.
            pairs: Prompts with a positive and a negative answer.
            validation: Pairs that share no group with `pairs`: the state with the lowest loss on
                them is kept, and training stops when it falls no more. Without them the last state
                is kept.
            folder: Where checkpoints are kept and the trained intervention is saved; the same call
                goes on from there, and once finished loads what was trained.

        Raises:
            TrainingError: If validation pairs are among the training pairs, by group; if the folder
                holds another training.
            DivergedError: If a loss or gradient is NaN or infinite.
            ContrastError: If there are no pairs.
            ValueError: If a pair cannot be scored, or the form does not fit the model.
            SteeringError: If the form's positions choose no token of some answer.
            GradientError: If the weights were made under `torch.inference_mode()`.

        Warns:
            TrainingWarning: If what is kept is no better than the start.
        """
        model = as_model(model)
        if not isinstance(form, Form):
            raise ArgumentError(
                f"form={form!r:.80} is not a form. Use one of steerlens.forms, e.g. VectorForm(12)."
            )
        given = _pairs("pairs", pairs)
        held_out = None if validation is None else _pairs("validation", validation)
        if held_out is not None:
            _require_apart(given, held_out)
        if model.attached:
            raise TrainingError(
                "Another intervention is attached to the model, and training would go through it. "
                "Train outside of its `with`."
            )
        with ExitStack() as stack:
            stack.enter_context(differentiable(model.wrapped))
            run = None
            if folder is not None:
                run = stack.enter_context(RunFolder.open(expanded(folder)))
            made = _Fit(self, form, model, given, held_out, run, progress).result()
        if fault := made.history.fault:
            warnings.warn(
                f"{form!r} by {self.objective!r} learnt nothing: {fault}. Lower the rate, "
                f"{made.made_by['rate']:g}, or try several: find_rate(trainer, form, …).",
                TrainingWarning,
                stacklevel=2,
            )
        return made

    @property
    def settings(self) -> dict[str, Any]:
        """All settings as text and numbers, as files state them."""
        named = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**named, "objective": repr(self.objective)}

    def rate_at(self, step: int, peak: float) -> float:
        """The learning rate of a step, counted from 0."""
        return peak * (1 - step / int(self.steps)) if self.schedule == "linear" else peak


class _Fit:
    """One training, from its start or from a checkpoint to its result."""

    def __init__(
        self,
        trainer: Trainer,
        form: Form,
        model: Model,
        pairs: ContrastSet,
        validation: ContrastSet | None,
        run: RunFolder | None,
        progress: bool,
    ) -> None:
        self.trainer, self.form, self.model, self.run = trainer, form, model, run
        self.pairs, self.validation, self.progress = pairs, validation, progress
        objective = trainer.objective
        self.choices = as_floats("strengths", trainer.strengths or objective.strengths)
        self.peak = as_positive("rate", form.rate if trainer.rate is None else trainer.rate)
        generator = torch.Generator().manual_seed(int(trainer.seed))
        params = {
            name: value.detach().clone().requires_grad_(True)
            for name, value in form.begin(model, generator).items()
        }
        if not params:
            raise TrainingError(f"{form!r} has no parameters, so there is nothing to train.")
        optimiser = torch.optim.AdamW(
            params.values(), lr=self.peak, weight_decay=float(trainer.weight_decay)
        )
        self.state = TrainingState(params, optimiser)
        begun = [one for one in self._interventions() if one is not None]
        self.train = ScoredSet(model, pairs, objective, begun)
        self.held_out = (
            None if validation is None else ScoredSet(model, validation, objective, begun)
        )
        self.facts = self._facts()

    def _interventions(self) -> tuple[Composed, Composed | None]:
        """The intervention at the current parameters, and what suppresses, if the form has it."""
        params = self.state.params
        steers = self.form.intervention(self.model, params)
        null = None
        if isinstance(self.form, Suppressing):
            null = self.form.null(self.model, params)
        return steers, null

    def _facts(self) -> dict[str, Any]:
        trainer, held_out = self.trainer, self.held_out
        return {
            **self.model.facts,
            "question": "What was trained, on what?",
            "form": repr(self.form),
            **trainer.settings,
            "strengths": list(self.choices),
            "rate": self.peak,
            "data_name": self.pairs.name,
            "data": self.pairs.hash,
            "tokens": self.train.digest,
            "pairs": len(self.pairs),
            "validation_data": "" if self.validation is None else self.validation.hash,
            "validation_tokens": "" if held_out is None else held_out.digest,
            "validation_pairs": 0 if held_out is None else len(held_out),
            "path": self.train.run.path,
        }

    @property
    def work(self) -> dict[str, str]:
        """What decides every number of this training, as a checkpoint states it."""
        return {name: str(value) for name, value in self.facts.items() if name != "path"}

    def result(self) -> TrainedIntervention:
        """Trains to the end, or loads what was trained in the folder."""
        if self.run is not None:
            if self.run.finished:
                done = TrainedIntervention.load(self.run.path, self.model, form=self.form)
                done.require_same(self.facts)
                return done
            self.state.resume(self.run.path, self.work)
        stopped = self._train()
        made = TrainedIntervention.of(
            self.form,
            self.model,
            self.state.best,
            TrainingHistory(
                losses=torch.tensor(self.state.losses, dtype=torch.float64),
                validation=torch.stack(self.state.validation)
                if self.held_out is not None
                else torch.zeros(len(self.state.looks), 0),
                looks=tuple(self.state.looks),
                groups=() if self.held_out is None else self.held_out.groups,
                stopped=stopped,
                made_by=self.facts,
            ),
        )
        if self.run is not None:
            remove_file(self.run.path / CHECKPOINT)
            made.save(self.run.path)
            self.run.finish()
        return made

    def _train(self) -> str:
        """Makes all steps that are missing; says why it stopped early."""
        state, total = self.state, int(self.trainer.steps)
        label = f"training {type(self.form).__name__}"
        with progress_bar(
            self.progress, total=total, initial=state.step, desc=label, unit="step"
        ) as bar:
            while True:
                if self._due(state.step) and (not state.looks or state.looks[-1] < state.step):
                    self._look(bar)
                    if stopped := self._stopped():
                        return stopped
                if state.step >= total:
                    return ""
                self._step()
                bar.update()

    def _due(self, step: int) -> bool:
        return step % int(self.trainer.look_every) == 0 or step == int(self.trainer.steps)

    def _look(self, bar: Any) -> None:
        """The validation loss, the best state, and a checkpoint."""
        state = self.state
        state.looks.append(state.step)
        if self.held_out is not None:
            state.validation.append(self._validation_losses(self.held_out))
            if best_look(state.validation) == len(state.validation) - 1:
                state.keep_best()
            bar.set_postfix(validation=f"{float(state.validation[-1].mean()):.4g}", refresh=False)
        else:
            state.keep_best()
            if state.losses:
                bar.set_postfix(loss=f"{state.losses[-1]:.4g}", refresh=False)
        if self.run is not None:
            state.save(self.run.path, self.work)

    def _stopped(self) -> str:
        if self.held_out is None:
            return ""
        groups = group_numbers(self.held_out.groups)
        return why_stop(self.state.validation, groups, int(self.trainer.patience))

    @torch.no_grad()
    def _validation_losses(self, held_out: ScoredSet) -> Tensor:
        """Each validation pair's loss; the draws are the same at every look."""
        steers, null = self._interventions()
        generator = torch.Generator().manual_seed(int(self.trainer.seed))
        losses = [
            self.trainer.objective(held_out.batch(index, steers, null, self.choices, generator))
            for index in held_out.chunks
        ]
        found = torch.cat(losses).float().cpu()
        self._require_finite(found, "validation loss")
        return found

    def _step(self) -> None:
        state, trainer = self.state, self.trainer
        index, generator = self._drawn(state.step)
        steers, null = self._interventions()
        batch = self.train.batch(index, steers, null, self.choices, generator)
        losses = trainer.objective(batch)
        loss = losses.mean()
        self._require_finite(losses.detach(), "loss")
        if not loss.requires_grad:
            raise TrainingError(
                f"The loss does not depend on the parameters of {self.form!r}. An edit of the form "
                "must be differentiable in its tensors, and act where the answers are predicted."
            )
        if isinstance(self.form, Penalised):
            loss = loss + self.form.penalty(steers)
        state.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        params = [p for p in state.params.values() if p.grad is not None]
        limit = math.inf if trainer.clip is None else float(trainer.clip)
        norm = torch.nn.utils.clip_grad_norm_(params, limit)
        self._require_finite(norm, "gradient")
        for group in state.optimiser.param_groups:
            group["lr"] = trainer.rate_at(state.step, self.peak)
        state.optimiser.step()
        with torch.no_grad():
            self.form.after_step(state.params)
        state.losses.append(float(loss.detach()))

    def _drawn(self, step: int) -> tuple[Tensor, torch.Generator]:
        """The pairs of a step, and the generator of its draws: the same whenever it is made.

        Every pair comes once before any comes again.
        """
        count, size, seed = len(self.train), int(self.trainer.batch), int(self.trainer.seed)
        places = range(step * min(size, count), (step + 1) * min(size, count))
        orders = {
            epoch: torch.randperm(count, generator=_generator(seed, 1, epoch))
            for epoch in {place // count for place in places}
        }
        index = torch.stack([orders[place // count][place % count] for place in places])
        return index, _generator(seed, 2, step)

    def _require_finite(self, values: Tensor, what: str) -> None:
        if bool(torch.isfinite(values).all()):
            return
        raise DivergedError(
            f"The {what} became {float(values.sum())} after {self.state.step} steps of "
            f"{self.form!r} by {self.trainer.objective!r}: training diverged. Lower the rate, which "
            f"started at {self.peak:g}, e.g. Trainer(…, rate={self.peak / 10:.1g})."
        )


def _generator(seed: int, purpose: int, number: int) -> torch.Generator:
    mixed = (seed * 1_000_003 + purpose) * 1_000_003 + number
    return torch.Generator().manual_seed(mixed % 2**63)


def _pairs(name: str, pairs: PairsLike) -> ContrastSet:
    try:
        found = as_contrast_set(pairs)
    except ContrastError as error:
        raise ContrastError(f"{name}: {error}") from error
    return found


def _require_apart(pairs: ContrastSet, validation: ContrastSet) -> None:
    """Raises TrainingError if a group has pairs in both sets."""
    both = ContrastSet("both", (*pairs.pairs, *validation.pairs))
    here, there = both.groups[: len(pairs)], both.groups[len(pairs) :]
    shared = set(here) & set(there)
    if shared:
        k = next(k for k, group in enumerate(there) if group in shared)
        raise TrainingError(
            f"{sum(group in shared for group in there)} of {len(there)} validation pairs belong to "
            f"groups of the training pairs (a question, a group or near-duplicates in common), e.g. "
            f"{validation.pairs[k].prompt[:60]!r}. A validation loss on them falls with "
            "memorising. Split by groups: fit, choose, report = pairs.split(seed)."
        )
