"""Ways to the final states of steered cells; all give the numbers of a full forward pass.

- `Wavefront`, for edits of the stream that enters a block, on a HookedTransformer: each prompt's
  unedited prefix is computed once and its keys and values are shared by all rows; the unedited last
  columns run through the blocks once, and at every block the edited copies that start there join
  the batch, so that no cell repeats what another has done. `SeveralEdits` is the same for
  interventions with edits at several blocks.
- `Reweighted`, `Recached` and `Prompted` (`steerlens.measures.other_paths`), for changes of weights,
  caches and prompts.
- `ByReplay`, the same on a TransformerBridge, whose own blocks are run one by one.
- `ByRows`, for residual edits on a bridge that cannot be run so: all cells are rows of one batch.
- `OneByOne`, for whatever else can be attached: one forward pass for each cell, from the block
  before the first that it changes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steerlens.interventions.changes import Change, StreamEdit
from steerlens.measures.tokenised import Examples
from steerlens.models.changing_rotation import prefix_is_rotated_otherwise
from steerlens.models.forward import Entering
from steerlens.models.kernel import Columns, Kernel
from steerlens.models.model import Model, SteeringError
from steerlens.models.replay import Replay
from steerlens.models.speed import Work, passes
from steerlens.protocols import Intervention, ResidualEdit, first_block
from steerlens.sites import Positions, Site, TokenBatch

KEYS_SHARE = 0.25
"""About the part of a block's work that its queries, keys and values are."""

GridCell = tuple[int, int]
"""An intervention and a multiplier, by their numbers."""
States = Float[Tensor, "example cell variant read d_model"]
Run = tuple[list[GridCell], States]
"""Some cells and their states; no cells stand for the unsteered model."""
Runs = Generator[Run, None, None]


@dataclass(frozen=True, eq=False)
class Grid:
    """Interventions x multipliers."""

    interventions: tuple[Any, ...]
    multipliers: tuple[float, ...]
    changes: tuple[tuple[Change, ...] | None, ...] = ()
    """What each intervention changes; None for one that does not say."""

    def edits(self, i: int) -> list[StreamEdit]:
        """The edits of the stream that an intervention says it makes."""
        changes = self.changes[i] if self.changes else None
        return [change for change in changes or () if isinstance(change, StreamEdit)]

    @property
    def steered(self) -> list[int]:
        """The multipliers that are not 0."""
        return [j for j, m in enumerate(self.multipliers) if m != 0]


class Path(ABC):
    """One way to the states of some interventions at every multiplier of a grid but 0."""

    name: ClassVar[str]

    def __init__(self, model: Model, grid: Grid, arms: Sequence[int]) -> None:
        self.model, self.grid, self.arms = model, grid, list(arms)
        self.cells: list[GridCell] = [(i, j) for i in self.arms for j in grid.steered]

    @property
    def at_once(self) -> int:
        """How many cells are computed at once, where memory holds them."""
        return max(1, len(self.cells))

    def kept_per_row(self, width: int) -> int:
        """Numbers of a prompt's prefix that each row has for itself; none where rows share them."""
        return 0

    @abstractmethod
    def columns(self, examples: Examples) -> int:
        """Columns of each row that a cell computes; the rest is each prompt's shared prefix."""

    def work(self, examples: Examples) -> Work:
        """What all cells of some examples take, run at once, without the read-out.

        Here: a pass for each cell, from the first block that it changes.
        """
        n_layers = self.model.n_layers
        each = passes(n_layers, len(examples.batch), examples.batch.width)
        return each * (1 + sum(n_layers - self.starts_at(i) for i, _ in self.cells) / n_layers)

    def starts_at(self, i: int) -> int:
        """The first block that is run for the cells of an intervention."""
        return 0

    @abstractmethod
    def runs(self, examples: Examples, cells: int, unsteered: bool) -> Runs:
        """First the unsteered states, if asked for; then those of all cells, some at a time.

        Args:
            cells: How many cells are computed at once.
        """


@dataclass(frozen=True, eq=False)
class Unedited:
    """What all cells of some examples start from."""

    shared: int
    """Columns whose keys and values all cells share."""
    climb: Callable[..., Tensor]
    """Runs rows of the other columns through the blocks."""
    entering: tuple[Float[Tensor, "prompt variant _ d_model"], ...]
    """The other columns as they enter each block; of what leaves the last those that are read."""
    states: States


class Wavefront(Path):
    """Edited copies of the unedited stream join at the block that first reads them."""

    name = "wavefront"

    def __init__(self, model: Model, kernel: Kernel, grid: Grid, arms: Sequence[int]) -> None:
        super().__init__(model, grid, arms)
        self.kernel = kernel
        self.edits = {i: edits_by_entry(grid.edits(i)) for i in self.arms}
        """Of each intervention, by the block that the edited stream enters."""

    def columns(self, examples: Examples) -> int:
        return examples.batch.width - self._shared(examples)

    def _shared(self, examples: Examples) -> int:
        """Columns before the first edited one (and before the first that is read)."""
        last = examples.prompt_width - 1
        if not self.cells:
            return last
        masks = chosen_by_rule(self._edits(), examples.batch)
        return min(*(int(mask.any(0).int().argmax()) for mask in masks.values()), last)

    def _edits(self) -> list[StreamEdit]:
        return [edit for i in self.arms for edit in self.grid.edits(i)]

    def work(self, examples: Examples) -> Work:
        n_layers, shared = self.model.n_layers, self._shared(examples)
        begun = Counter(min(self.edits[i]) for i, _ in self.cells)
        rows = [1 + sum(n for k, n in begun.items() if k <= b) for b in range(n_layers)]
        width = examples.batch.width - shared
        # Of the last block only what is read; the other tokens give keys and values alone.
        last = examples.read + KEYS_SHARE * (width - examples.read)
        tokens = len(examples.batch) * (sum(rows[:-1]) * width + rows[-1] * last)
        prefix = passes(n_layers, len(examples), shared)
        return prefix + Work(n_layers, tokens, tokens * (shared + (width + 1) / 2))

    def runs(self, examples: Examples, cells: int, unsteered: bool) -> Runs:
        shared = self._shared(examples)
        base, climb = self._begun(examples.batch, shared, examples.variants)
        chosen = self._chosen(examples.batch, shared)
        for k, part in enumerate(self._parts(cells) or [[]]):
            enter, order = self._joining(part, chosen, examples.variants)
            states = self._states(climb(base, enter=enter, tail=examples.read), examples)
            if k == 0 and unsteered:
                yield [], states[:, :1]
            if order:
                yield order, states[:, 1:]

    def unedited(self, examples: Examples) -> Unedited:
        """What `runs` makes of the examples for itself, to be given to `runs_from` again and again."""
        shared = self._shared(examples)
        base, climb = self._begun(examples.batch, shared, examples.variants)
        entering: list[Tensor] = []

        def enter(_: int, resid: Tensor) -> Tensor:
            entering.append(resid)
            return resid

        states = self._states(climb(base, enter=enter, tail=examples.read), examples)
        return Unedited(shared, climb, tuple(entering), states)

    def runs_from(self, known: Unedited, examples: Examples, cells: int) -> Runs:
        """The states of all cells, with no row that is not edited.

        Args:
            known: `unedited` of these examples, of a grid whose edits begin at no later token.
        """
        chosen = self._chosen(examples.batch, known.shared)
        for part in self._parts(cells):
            enter, order = self._joining(part, chosen, examples.variants, known.entering)
            first = min(min(self.edits[i]) for i, _ in part)
            none = known.entering[first][:, :0]
            resid = known.climb(none, enter=enter, tail=examples.read, first=first)
            yield order, self._states(resid, examples)

    def _parts(self, cells: int) -> list[list[GridCell]]:
        """The cells, so many at a time."""
        return [self.cells[k : k + cells] for k in range(0, len(self.cells), cells)]

    def _chosen(self, batch: TokenBatch, shared: int) -> dict[Positions, Bool[Tensor, "text _"]]:
        """Which of the columns that are not shared each rule chooses."""
        rules = {edit.positions for edit in self._edits()}
        return {rule: rule.mask(batch)[:, shared:] for rule in rules}

    def _states(self, resid: Float[Tensor, "prompt row pos d_model"], examples: Examples) -> States:
        """The normed columns that are read, of rows that are the variants of cells."""
        read = self._normed(resid[:, :, -examples.read :])
        return read.unflatten(1, (-1, examples.variants))

    def _joining(
        self,
        part: list[GridCell],
        chosen: dict[Positions, Bool[Tensor, "text _"]],
        variants: int,
        entering: Sequence[Tensor] | None = None,
    ) -> tuple[Callable[[int, Tensor], Tensor], list[GridCell]]:
        """What happens to the rows at every block, and the cells in the order in which they join.

        Args:
            entering: The unedited stream at every block; by default the first rows are unedited.
        """
        order: list[GridCell] = []
        strengths = self._strengths(part)
        places: dict[int, slice] = {}
        """The rows of each intervention that has joined."""

        def enter(entry: int, resid: Tensor) -> Float[Tensor, "prompt row pos d_model"]:
            for i, rows in places.items():  # those that have joined and are edited once more
                if edits := self.edits[i].get(entry):
                    resid[:, rows] = self._edited(edits, strengths[i], resid[:, rows], chosen)
            starting = self._starting(part, entry)
            if not starting:
                return resid
            bare = resid[:, :variants] if entering is None else entering[entry]
            joining, rows = [], resid.shape[1]
            for i, js in starting.items():
                # A prompt's variants once for each multiplier.
                copies = bare[:, None].expand(-1, len(js), -1, -1, -1).flatten(1, 2)
                joining.append(self._edited(self.edits[i][entry], strengths[i], copies, chosen))
                order.extend((i, j) for j in js)
                places[i] = slice(rows, rows + len(js) * variants)
                rows += len(js) * variants
            return torch.cat([resid, *joining], 1)  # once: each copy is of all rows

        return enter, order

    def _begun(
        self, batch: TokenBatch, shared: int, variants: int
    ) -> tuple[Float[Tensor, "prompt variant pos d_model"], Callable[..., Tensor]]:
        """The unedited columns that all cells start from, and how rows of them are run."""
        prefix = self.kernel.prefix(batch.rows(slice(None, None, variants)), shared)
        columns = shared_columns(batch, shared, variants)
        tokens = batch.tokens[:, shared:].unflatten(0, (-1, variants))
        base = self.kernel.embed(tokens, columns.positions)
        return base, partial(self.kernel.climb, columns=columns, shared=prefix)

    def _normed(self, resid: Tensor) -> Tensor:
        return self.kernel.states(resid)

    def _starting(self, cells: list[GridCell], entry: int) -> dict[int, list[int]]:
        """Which multipliers of which interventions start at a block."""
        found: dict[int, list[int]] = {}
        for i, j in cells:
            if min(self.edits[i]) == entry:
                found.setdefault(i, []).append(j)
        return found

    def _strengths(self, cells: list[GridCell]) -> dict[int, Float[Tensor, " cell"]]:
        """The multipliers of each intervention, on the device of the model by one copy."""
        given = torch.tensor(
            [self.grid.multipliers[j] for _, j in cells],
            device=self.model.device,
            dtype=torch.float32,
        )
        counts = Counter(i for i, _ in cells)  # cells stand arm by arm
        return dict(zip(counts, given.split(list(counts.values())), strict=True))

    def _edited(
        self,
        edits: list[StreamEdit],
        strengths: Float[Tensor, " cell"],
        rows: Float[Tensor, "prompt copy pos d_model"],
        chosen: dict[Positions, Bool[Tensor, "text _"]],
    ) -> Float[Tensor, "prompt copy pos d_model"]:
        """Rows of one intervention after its edits, its multipliers one after the other."""
        prompts, copies, width, _ = rows.shape
        variants = copies // len(strengths)
        each = strengths[None, :, None].expand(prompts, -1, variants).reshape(-1)
        flat = rows.flatten(0, 1)
        for edit in edits:
            mask = chosen[edit.positions][:, -width:]
            where = mask.view(prompts, 1, variants, width).expand(-1, len(strengths), -1, -1)
            flat = torch.where(where.reshape(-1, width, 1), edit.edit(flat, each), flat)
        return flat.view_as(rows)


class SeveralEdits(Wavefront):
    """The same for interventions that edit the stream at several blocks.

    They are a batch of their own, so that interventions with one edit keep theirs.
    """

    name = "several"


class ByReplay(Wavefront):
    """The same on a bridge: `steerlens.models.replay` runs its blocks on the rows."""

    name = "replay"

    def __init__(self, model: Model, replay: Replay, grid: Grid, arms: Sequence[int]) -> None:
        Path.__init__(self, model, grid, arms)
        self.replay = replay
        self.edits = {i: edits_by_entry(grid.edits(i)) for i in self.arms}

    def _shared(self, examples: Examples) -> int:
        shared = super()._shared(examples) if self.replay.shares else 0
        alone = prefix_is_rotated_otherwise(self.model.wrapped, examples.batch, shared)
        return 0 if alone else shared

    def kept_per_row(self, width: int) -> int:
        cfg = self.model.cfg  # keys and values, beside those that a block joins with its own
        return 4 * width * cfg.n_heads * cfg.d_head

    def _begun(
        self, batch: TokenBatch, shared: int, variants: int
    ) -> tuple[Float[Tensor, "prompt variant pos d_model"], Callable[..., Tensor]]:
        self.model.forward.require_readable(batch)
        begun = self.replay.begin(batch, shared, variants)
        return begun.entering, begun.climb

    def _normed(self, resid: Tensor) -> Tensor:
        return self.replay.states(resid)


def edits_by_entry(edits: Sequence[StreamEdit]) -> dict[int, list[StreamEdit]]:
    """Edits by the block that the edited stream enters, in the order in which hooks fire."""
    found: dict[int, list[StreamEdit]] = {}
    for stream in ("resid_post", "resid_pre"):
        for edit in edits:
            if edit.site.entry is not None and edit.site.stream == stream:
                found.setdefault(edit.site.entry, []).append(edit)
    return found


class ByRows(Path):
    """All cells are rows of one batch; a row has strength 0 in all edits but its own."""

    name = "rows"

    def columns(self, examples: Examples) -> int:
        return examples.batch.width

    def runs(self, examples: Examples, cells: int, unsteered: bool) -> Runs:
        batch = examples.batch
        if unsteered:
            yield [], of_examples(self.model.states(batch), examples)[:, None]
        for k in range(0, len(self.cells), cells):
            part = self.cells[k : k + cells]
            rows = batch.repeated(len(part))
            with ExitStack() as stack:
                for i in {i for i, _ in part}:
                    own = [self.grid.multipliers[j] if i == arm else 0.0 for arm, j in part]
                    strengths = torch.tensor(
                        own, device=self.model.device, dtype=torch.float32
                    ).repeat(len(batch))
                    stack.enter_context(self.grid.interventions[i].attach(self.model, strengths))
                states = self.model.states(rows)[:, -examples.read :]
            shape = (len(examples), examples.variants, len(part), examples.read, -1)
            yield part, states.reshape(shape).transpose(1, 2)


class OneByOne(Path):
    """Attach, run, detach: one forward pass for each cell, with one multiplier for all rows.

    The pass is the hooked one, but for an intervention that leaves no hook: one that changes
    weights runs on the weights as they are while it is attached.
    """

    name = "general"

    @property
    def at_once(self) -> int:
        return 1

    def columns(self, examples: Examples) -> int:
        return examples.batch.width

    def runs(self, examples: Examples, cells: int, unsteered: bool) -> Runs:
        batch = examples.batch
        starts = {i: self._start(self.grid.interventions[i]) for i in self.arms if self.cells}
        below = [Site(start, "resid_pre") for start in sorted(set(starts.values())) if start]
        entering: dict[Site, Tensor] = {}
        if unsteered:
            with self.model.forward.keeping(below) as entering:
                states = self.model.states(batch)
            yield [], of_examples(states, examples)[:, None]
        elif below:
            entering = self.model.cache(batch, below)
        for i, j in self.cells:
            stream = entering.get(Site(starts[i], "resid_pre"))
            with self.grid.interventions[i].attach(self.model, self.grid.multipliers[j]):
                states = self._states(examples, None if stream is None else (starts[i], stream))
                # Read while it is attached: the unembedding may be changed.
                yield [(i, j)], of_examples(states, examples)[:, None]

    def _states(
        self, examples: Examples, entering: Entering | None
    ) -> Float[Tensor, "row out d_model"]:
        """The states under what is attached: without hooks where none are, as of changed weights."""
        batch = examples.batch
        start = 0 if entering is None else entering[0]
        kernel = None if self.model.attached else self.model.kernel(start)
        if kernel is None:
            return self.model.states(batch, entering)
        columns = Columns.of(batch)
        resid = (
            kernel.embed(batch.tokens[:, None], columns.positions)
            if entering is None
            else entering[1][:, None]
        )
        resid = kernel.climb(resid, columns, first=start, tail=examples.read)
        return kernel.states(resid[:, 0])

    def starts_at(self, i: int) -> int:
        return self._start(self.grid.interventions[i])

    def _start(self, intervention: Intervention) -> int:
        """The block from which a cell's own pass starts, with the stream that all cells share.

        It is the block before the first that changes: the stream that enters a block can also be
        edited as what leaves the one before it.
        """
        if self.model.is_bridge or self.model.attached:
            return 0
        return max(0, first_block(intervention) - 1)


def chosen_tokens(edit: ResidualEdit | StreamEdit, batch: TokenBatch) -> Bool[Tensor, "batch pos"]:
    """The tokens of each text that an edit changes.

    Raises:
        SteeringError: If there is none in some text.
    """
    chosen = edit.positions.mask(batch)
    empty = ~chosen.any(-1)
    if bool(empty.any()):
        raise SteeringError(
            f"{edit.positions} chooses no token of text {int(empty.nonzero()[0])}, so steering "
            f"at {edit.site} would do nothing there. {Positions.generated()} needs answers of "
            "two or more tokens, and Positions.all() leaves out BOS and other special tokens; use "
            "Positions.from_prompt_end()."
        )
    return chosen


def chosen_by_rule(
    edits: Sequence[ResidualEdit | StreamEdit], batch: TokenBatch
) -> dict[Positions, Bool[Tensor, "batch pos"]]:
    """The tokens that each rule of the edits chooses. Many edits with one rule are one question.

    Raises:
        SteeringError: If there is none in some text.
    """
    found: dict[Positions, Tensor] = {}
    for edit in edits:
        if edit.positions not in found:
            found[edit.positions] = chosen_tokens(edit, batch)
    return found


def shared_columns(batch: TokenBatch, shared: int, variants: int) -> Columns:
    """The columns after the prompts' shared ones, for the variants of each prompt."""
    index = torch.arange(shared, batch.width, device=batch.tokens.device)
    return Columns(
        positions=batch.positions[:, shared:].unflatten(0, (-1, variants)),
        index=index,
        own_keys=batch.mask[:, shared:].unflatten(0, (-1, variants)),
        own_index=index,
        shared_keys=batch.mask[::variants, :shared] if shared else None,
    )


def of_examples(
    states: Float[Tensor, "row pos d_model"], examples: Examples
) -> Float[Tensor, "example variant read d_model"]:
    """The columns that are read, by example and variant."""
    return states[:, -examples.read :].unflatten(0, (-1, examples.variants))
