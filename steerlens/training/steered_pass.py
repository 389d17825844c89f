"""The forward pass that training repeats: from the first changed block, for the answers' columns.

Two ways give the same numbers and gradients. The kernel runs edits of the stream between blocks and
changes of weights, from cached states; whatever else can be attached runs through hooks, and so
does every model that the kernel cannot run. `tests/test_training_gradients.py` holds both to plain
backward passes through the wrapped model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from steerlens.interventions.arms import require_fit
from steerlens.interventions.changes import Composed, StreamEdit, WeightChange
from steerlens.interventions.composition import new_weights
from steerlens.models.attached import SteeringError, edited_stream
from steerlens.models.exchanged import exchanged
from steerlens.models.kernel import Columns, Kernel, KeysValues
from steerlens.models.model import Model
from steerlens.protocols import TextEdit
from steerlens.sites import Positions, TokenBatch
from steerlens.training.cached_states import CachedStates, answer_columns, of_prompts
from steerlens.training.training_pairs import TrainingPairs

Strengths = Float[Tensor, "pair side"]
"""A multiplier for each answer of a batch."""


class SteeredPass:
    """Final states and log-probabilities of answers under an intervention, with gradients."""

    def __init__(self, model: Model, pairs: TrainingPairs, interventions: Sequence[Composed]):
        """
        Args:
            interventions: What will be run, at the start of training. All later ones must change
                the same places.

        Raises:
            ValueError: If an intervention does not fit the model.
            SteeringError: If an edit chooses no token of some answer's text.
        """
        self.model, self.pairs = model, pairs
        for one in interventions:
            require_fit(model, one)
        changes = [change for one in interventions for change in one.changes(model)]
        edits = [change for change in changes if isinstance(change, StreamEdit)]
        for edit in edits:
            model.require_site(edit.site)
        chosen = [_require_chosen(edit, pairs.batch) for edit in edits]
        self.first = min(one.first_block for one in interventions)
        at_once = [edit.site.entry for edit in edits if isinstance(edit.edit, TextEdit)]
        self._whole = bool(at_once)
        """Whether an edit must be given each text with its answer, from the first edited column."""
        self._whole_end = model.n_layers in at_once
        kernel = model.kernel()
        by_kernel = all(map(_in_kernel, changes)) and kernel is not None and not model.attached
        self.cached: CachedStates | None = None
        if by_kernel:
            assert kernel is not None
            untouched = 0
            if len(edits) == len(changes):
                firsts = [int(mask.any(0).int().argmax()) for mask in chosen]
                untouched = min([pairs.prompt_width - 1, *firsts])
                if untouched < pairs.prompt_width // 2:  # both answers share the prompt instead
                    untouched = 0
            self.cached = CachedStates(kernel, pairs, self.first, untouched)
            self._kernel = model.kernel(self.first) or kernel

    @property
    def path(self) -> str:
        """ "cached": from cached states without hooks; "hooks": the hooked forward pass."""
        return "hooks" if self.cached is None else "cached"

    def log_probs(
        self,
        intervention: Composed | None,
        index: Int[Tensor, " pair"],
        strengths: Strengths,
        sides: Sequence[int],
    ) -> Float[Tensor, "pair side"]:
        """Summed log-probability of the asked answers of some pairs, in nats.

        Args:
            intervention: None for the unchanged model.
        """
        part = self.pairs.part(index)
        columns = []
        for some, own in _runs(intervention, strengths, sides):
            counted, targets = part.counted[:, some], part.targets[:, some]
            with self._states(intervention, index, part, own, some) as (states, logits):
                found = torch.log_softmax(logits(states[counted]).float(), -1)
                each = found.gather(-1, targets[counted][:, None])[:, 0]
            sums = torch.zeros(counted.shape, dtype=each.dtype, device=each.device)
            columns.append(sums.masked_scatter(counted, each).sum(-1))
        return torch.cat(columns, 1)

    def distributions(
        self,
        intervention: Composed | None,
        index: Int[Tensor, " pair"],
        strengths: Float[Tensor, " pair"],
        side: int,
    ) -> Float[Tensor, "token d_vocab"]:
        """Log-probabilities of all words at every token of the answers of one side, in order."""
        part = self.pairs.part(index)
        counted = part.counted[:, [side]]
        with self._states(intervention, index, part, strengths[:, None], [side]) as found:
            states, logits = found
            return torch.log_softmax(logits(states[counted]).float(), -1)

    @contextmanager
    def _states(
        self,
        intervention: Composed | None,
        index: Int[Tensor, " pair"],
        part: TrainingPairs,
        strengths: Strengths,
        sides: Sequence[int],
    ) -> Iterator[tuple[Float[Tensor, "pair side read d_model"], Callable[[Tensor], Tensor]]]:
        """Normed final states of the columns that predict the answers, and what unembeds them."""
        if self.cached is None:
            with self._hooked(intervention, part, strengths, sides) as states:
                yield states, self.model.unembed
            return
        changes = () if intervention is None else intervention.changes(self.model)
        weights = [change for change in changes if isinstance(change, WeightChange)]
        kernel = self._kernel
        if weights:
            values = new_weights(weights, float(strengths[0, 0]))
            with exchanged(self.model.wrapped, values):
                kernel = self.model.kernel(self.first)
            assert kernel is not None
        edits = [change for change in changes if isinstance(change, StreamEdit)]
        resid = self._climb(kernel, self.cached, edits, weights, index, part, strengths, sides)
        yield kernel.states(resid), kernel.logits

    def _climb(
        self,
        kernel: Kernel,
        cached: CachedStates,
        edits: Sequence[StreamEdit],
        weights: Sequence[WeightChange],
        index: Int[Tensor, " pair"],
        part: TrainingPairs,
        strengths: Strengths,
        sides: Sequence[int],
    ) -> Float[Tensor, "pair side read d_model"]:
        """The stream after the last block, at the columns that predict the answers."""
        batch, width, read, count = part.batch, part.prompt_width, part.read, len(sides)
        if any(change.name.startswith(("embed.", "pos_embed.")) for change in weights):
            prompt, answers = _embedded(kernel, part)
            shared: tuple[KeysValues, ...] = ()
        else:
            found = cached.of(index)
            prompt, answers, shared = found.prompt, found.answers, found.shared
        answers = answers[:, list(sides)]
        rows = _Rows(edits, batch, strengths, list(sides))
        below: list[Any] = [None] * self.first
        start = shared[0][0].shape[2] if shared else 0
        same = count > 1 and bool((strengths == strengths[:, :1]).all())
        if start:
            given = [*below, *shared]
        elif same and width > 1 and not self._whole:
            # The prompt is the same for both answers, with the gradient that passes through it.
            start = width - 1
            of_prompt: list[KeysValues] = []
            kernel.climb(
                prompt[:, :, :start],
                Columns.of(batch.rows(slice(None, None, 2)), 0, start),
                enter=rows.enter(slice(0, start), [0]),
                first=self.first,
                tail=1,
                into=of_prompt,
            )
            given = [*below, *of_prompts(of_prompt)]
        else:
            given = None
        resid = torch.cat([prompt[:, :, start:].expand(-1, count, -1, -1), answers], 2)
        own = batch.rows(_row_numbers(len(part), sides))
        resid = kernel.climb(
            resid,
            answer_columns(own, start, count),
            enter=rows.enter(slice(start, None), range(count)),
            shared=given,
            first=self.first,
            tail=None if self._whole_end else read,
        )
        return resid[:, :, -read:]

    @contextmanager
    def _hooked(
        self,
        intervention: Composed | None,
        part: TrainingPairs,
        strengths: Strengths,
        sides: Sequence[int],
    ) -> Iterator[Float[Tensor, "pair side read d_model"]]:
        """The same through hooks; the intervention stays attached while the states are used."""
        batch = part.batch.rows(_row_numbers(len(part), sides))
        if intervention is None:
            yield self._run(batch, part, len(sides))
            return
        per_row = strengths.flatten()
        multiplier = per_row if intervention.per_row else float(per_row[0])
        with intervention.attach(self.model, multiplier):
            yield self._run(batch, part, len(sides))

    def _run(self, batch: TokenBatch, part: TrainingPairs, sides: int) -> Tensor:
        states = self.model.states(batch)[:, part.prompt_width - 1 :]
        return states.unflatten(0, (-1, sides))


class _Rows:
    """Edits of the stream for the rows of one batch."""

    def __init__(
        self,
        edits: Sequence[StreamEdit],
        batch: TokenBatch,
        strengths: Strengths,
        sides: list[int],
    ) -> None:
        order = {"resid_post": 0, "resid_pre": 1}  # both enter a block; hooks fire in this order
        self.edits = sorted(edits, key=lambda edit: order[edit.site.stream])
        self.masks = [
            edit.positions.mask(batch).unflatten(0, (-1, 2))[:, sides] for edit in self.edits
        ]
        self.strengths = strengths

    def enter(
        self, columns: slice, sides: Sequence[int]
    ) -> Callable[[int, Tensor], Float[Tensor, "pair row pos d_model"]]:
        """What happens at the start of every block to some columns of some of the rows."""
        which = list(sides)

        def enter(layer: int, resid: Tensor) -> Tensor:
            for edit, mask in zip(self.edits, self.masks, strict=True):
                if edit.site.entry == layer:
                    own = mask[:, which, columns][:, :, -resid.shape[2] :]
                    resid = self._apply(edit, resid, own, self.strengths[:, which])
            return resid

        return enter

    @staticmethod
    def _apply(
        edit: StreamEdit, resid: Tensor, chosen: Bool[Tensor, "pair row pos"], strengths: Tensor
    ) -> Float[Tensor, "pair row pos d_model"]:
        flat = resid.flatten(0, 1)
        which = chosen.flatten(0, 1)
        edited = edited_stream(edit.edit, flat, strengths.flatten().to(resid), which)
        edited = torch.where(which[..., None], edited, flat)
        return edited.view_as(resid)


def _runs(
    intervention: Composed | None, strengths: Strengths, sides: Sequence[int]
) -> Iterator[tuple[list[int], Strengths]]:
    """Sides that one pass can run together, with their strengths.

    An intervention with one multiplier for all rows runs each side with its own.

    Raises:
        ValueError: If it is asked for several multipliers within one side.
    """
    some = list(sides)
    if intervention is None or intervention.per_row or bool((strengths == strengths[0, 0]).all()):
        yield some, strengths
        return
    for k, side in enumerate(some):
        own = strengths[:, [k]]
        if not bool((own == own[0]).all()):
            raise ValueError(
                "The intervention takes one multiplier for all rows of a batch, and the objective "
                "asks for several in one run. Draw them with pairs.strengths()."
            )
        yield [side], own


def _in_kernel(change: Any) -> bool:
    """Whether the kernel can run a change."""
    if isinstance(change, StreamEdit):
        return change.site.entry is not None
    return isinstance(change, WeightChange)


def _require_chosen(edit: StreamEdit, batch: TokenBatch) -> Bool[Tensor, "row pos"]:
    chosen = edit.positions.mask(batch)
    empty = ~chosen.any(-1)
    if bool(empty.any()):
        row = int(empty.nonzero()[0])
        raise SteeringError(
            f"{edit.positions} chooses no token of the {('positive', 'negative')[row % 2]} answer "
            f"of pair {row // 2}, so nothing can be trained there. {Positions.generated()} needs "
            "answers of two or more tokens, whose last one is only predicted; use "
            "Positions.from_prompt_end()."
        )
    return chosen


def _row_numbers(pairs: int, sides: Sequence[int]) -> Int[Tensor, " row"]:
    return (2 * torch.arange(pairs)[:, None] + torch.tensor(list(sides))).flatten()


def _embedded(kernel: Kernel, part: TrainingPairs) -> tuple[Tensor, Tensor]:
    """The prompt's and the answers' columns as they enter block 0, under changed embeddings."""
    batch, width = part.batch, part.prompt_width
    prompts = batch.rows(slice(None, None, 2))
    prompt = kernel.embed(prompts.tokens[:, None, :width], prompts.positions[:, None, :width])
    tokens, positions = (
        x[:, width:].unflatten(0, (-1, 2)) for x in (batch.tokens, batch.positions)
    )
    return prompt, kernel.embed(tokens, positions)
