"""The grid of interventions x multipliers x examples, from shared work.

Residual-stream edits on a HookedTransformer take the *wavefront*: each prompt's unedited prefix is
computed once and its keys and values are shared by all rows; the unedited last columns run through
the blocks once, and at every block the edited copies that start there join the batch, so that no
cell repeats what another has done. Anything else takes the general path: attach, run, detach.
Both give the numbers of a full forward pass per cell; callers never choose.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from steerlens.data import ContrastPair, ContrastSet
from steerlens.models.kernel import Columns, Kernel, KeysValues, soft_cap
from steerlens.models.memory import free_bytes, is_out_of_memory
from steerlens.models.model import Model, SteeringError, as_model
from steerlens.protocols import Intervention, ResidualEdit
from steerlens.sites import TokenBatch
from steerlens.store.cells import Cells, cells_or_none

_log = logging.getLogger("steerlens.sweep")

MAX_TOKENS = 8192
"""Columns computed at once on a CPU; more does not get faster, only larger."""


@dataclass(frozen=True)
class Plan:
    """What a sweep will do and need, known before it starts."""

    path: str
    """"wavefront", "rows" (a bridge: one hook per row) or "general"."""
    examples: int
    cells: int
    """Cells that must be computed: multiplier 0 is shared and costs nothing."""
    columns: int
    """Columns per row that the cells compute (the rest is each prompt's shared prefix)."""
    bytes_per_example: int
    """Peak working memory for one example, with all cells in one batch."""
    budget: int = field(compare=False)
    """Bytes that may be used."""
    examples_per_chunk: int
    cells_per_chunk: int

    def __str__(self) -> str:
        need = self.bytes_per_example * self.examples_per_chunk * self.cells_per_chunk / self.cells
        return (
            f"{self.examples} examples x {self.cells} cells by the {self.path} path, "
            f"{self.columns} columns per row; {self.examples_per_chunk} examples and "
            f"{self.cells_per_chunk} cells at a time, about {need / 2**20:.0f} MiB of "
            f"{self.budget / 2**20:.0f} MiB"
        )


@dataclass(frozen=True, eq=False)
class Questions:
    """Prompts with two answers each, tokenised: what a sweep is asked about."""

    batch: TokenBatch
    """[example * variants] rows: prompts left-padded, answers (but their last token) after them."""
    variants: int
    """1 when every answer is one token (both are read from the prompt's last column), else 2."""
    prompt_width: int
    targets: Int[Tensor, "example 2 read"]
    """Token ids of the positive and negative answers, padded with 0."""
    counted: Bool[Tensor, "example 2 read"]
    """Which of the targets are real."""

    def __len__(self) -> int:
        return self.targets.shape[0]

    @property
    def read(self) -> int:
        """How many of the last columns are read out."""
        return self.targets.shape[2]

    def rows(self, index: slice) -> Questions:
        """Some of the examples."""
        v = self.variants
        start, stop, _ = index.indices(len(self))
        return replace(
            self,
            batch=self.batch.rows(slice(start * v, stop * v)),
            targets=self.targets[index],
            counted=self.counted[index],
        )


def questions(model: Model, pairs: Sequence[ContrastPair] | ContrastSet) -> Questions:
    """Tokenises prompts and answers for scoring.

    Raises:
        ValueError: If a prompt is empty, too long, merges with its answer, or two answers are the
            same or one is the start of the other.
    """
    pairs = list(pairs)
    for i, pair in enumerate(pairs):
        if not pair.prompt:
            raise ValueError(
                f"Pair {i} has no prompt, so there is no question whose answers could be scored "
                f"({pair.positive!r} / {pair.negative!r}). Such pairs can fit a direction; score "
                "pairs with a prompt and two answers."
            )
    split = [
        [model.split(pair.prompt, text) for text in (pair.positive, pair.negative)]
        for pair in pairs
    ]
    for pair, ((_, one), (_, other)) in zip(pairs, split, strict=True):
        short = min(len(one), len(other))
        if one[:short] == other[:short]:
            raise ValueError(
                f"The answers {pair.positive!r} and {pair.negative!r} have the same tokens as far "
                "as the shorter one goes, so no token tells them apart. Give answers that differ "
                "at some token before the shorter one ends."
            )
    read = max(len(answer) for sides in split for _, answer in sides)
    variants = 1 if read == 1 else 2
    prompts = [sides[0][0] for sides in split]
    width = max(map(len, prompts))
    if width + read - 1 > model.n_ctx:
        raise ValueError(
            f"The longest prompt has {width} tokens and the longest answer {read}, and the context "
            f"of {model.name!r} is {model.n_ctx}. Shorten the prompts."
        )
    batch = model.tokens([pair.prompt for pair in pairs], padding_side="left")
    targets = torch.zeros(len(pairs), 2, read, dtype=torch.long)
    counted = torch.zeros(len(pairs), 2, read, dtype=torch.bool)
    for i, sides in enumerate(split):
        for side, (_, answer) in enumerate(sides):
            targets[i, side, : len(answer)] = torch.tensor(answer)
            counted[i, side, : len(answer)] = True
    targets, counted = targets.to(model.device), counted.to(model.device)
    if variants == 2:
        given, real = targets[..., :-1].flatten(0, 1), counted[..., 1:].flatten(0, 1)
        batch = batch.repeated(2).extended(given, torch.zeros_like(real), real)
    return Questions(batch, variants, width, targets, counted)


@dataclass(frozen=True, eq=False)
class Swept:
    """Log-probabilities of both answers in every cell."""

    positive: Float[Tensor, "intervention multiplier example"]
    """Summed log-probability of the positive answer's tokens, in nats; with `log_odds_only` it is
    the log-odds, and `negative` is zero."""
    negative: Float[Tensor, "intervention multiplier example"]
    multipliers: tuple[float, ...]
    log_odds_only: bool
    plan: Plan
    lengths: Int[Tensor, "example 2"]
    """How many tokens the positive and the negative answer have."""

    @property
    def log_odds(self) -> Float[Tensor, "intervention multiplier example"]:
        """Log-odds of the positive over the negative answer, in nats: the propensity."""
        return self.positive - self.negative


def plan(
    model: Model,
    pairs: Sequence[ContrastPair] | ContrastSet,
    interventions: Sequence[Intervention],
    multipliers: Sequence[float],
    *,
    log_odds_only: bool = False,
    memory: int | None = None,
) -> Plan:
    """What `sweep` would do with these arguments, and what memory it would need."""
    return _prepared(model, pairs, interventions, multipliers, log_odds_only, memory)[2]


def _prepared(
    model: Model,
    pairs: Sequence[ContrastPair] | ContrastSet,
    interventions: Sequence[Intervention],
    multipliers: Sequence[float],
    log_odds_only: bool,
    memory: int | None,
) -> tuple[Questions, _Engine, Plan]:
    """Everything that can be refused, before any work."""
    model = as_model(model)
    asked = questions(model, pairs)
    engine = _Engine(model, interventions, multipliers, memory, full=not log_odds_only)
    return asked, engine, engine.plan(asked.batch, asked.variants, asked.prompt_width, asked.read)


@torch.no_grad()
def sweep(
    model: Model,
    pairs: Sequence[ContrastPair] | ContrastSet,
    interventions: Sequence[Intervention],
    multipliers: Sequence[float],
    *,
    log_odds_only: bool = False,
    memory: int | None = None,
    progress: bool = True,
    cells: Cells | None = None,
    label: str = "sweep",
    done: Callable[[slice, Tensor], None] | None = None,
    have: Callable[[slice], Tensor | None] | None = None,
) -> Swept:
    """Scores every pair's two answers under every intervention at every multiplier.

    Args:
        interventions: Typically one per layer; rows of the grid.
        multipliers: Columns of the grid; 0 is computed once for all interventions.
        log_odds_only: Skip the normaliser over the vocabulary. Enough for propensities; utility
            needs the log-probabilities themselves.
        memory: Bytes of working memory; by default a quarter of what is free.
        cells: Where finished units of examples are kept and found; by default nowhere.
        label: What the progress bar calls this sweep.
        done: Called with each finished slice of examples and its numbers
            [intervention, multiplier, example, 2], for a caller that saves them.
        have: Gives the numbers of a slice that a former run finished, or None.

    Raises:
        ValueError: For questions that cannot be scored, or a site the model does not have.
        SteeringError: If an intervention would edit no token of some prompt.
    """
    asked, engine, planned = _prepared(
        model, pairs, interventions, multipliers, log_odds_only, memory
    )
    cells = cells_or_none(cells, label, progress)
    _log.info("%s: %s", cells.name, planned)
    out = torch.full((len(interventions), len(multipliers), len(asked), 2), torch.nan)
    with cells.bar(len(asked) * planned.cells, "cell") as bar:
        for start in range(0, len(asked), planned.examples_per_chunk):
            chunk = slice(start, min(start + planned.examples_per_chunk, len(asked)))
            unit = f"{chunk.start:06d}-{chunk.stop:06d}"
            ready = None if have is None else have(chunk)
            if ready is None and (kept := cells.load(unit)) is not None:
                ready = kept["values"]
            if ready is None:
                ready = _halving(
                    lambda c: engine.answers(asked.rows(c), planned, log_odds_only), chunk
                )
                if not bool(torch.isfinite(ready).all()):
                    raise ValueError(
                        f"{cells.name}: some log-probabilities of examples {chunk.start} to "
                        f"{chunk.stop - 1} are NaN or infinite. Use float32 or bfloat16, and "
                        "smaller multipliers."
                    )
                cells.save(unit, {"values": ready})
                if done is not None:
                    done(chunk, ready)
            out[:, :, chunk] = ready
            bar.update((chunk.stop - chunk.start) * planned.cells)
    return Swept(
        positive=out[..., 0],
        negative=out[..., 1],
        multipliers=tuple(multipliers),
        log_odds_only=log_odds_only,
        plan=planned,
        lengths=asked.counted.sum(-1).cpu(),
    )


@torch.no_grad()
def divergence(
    model: Model,
    texts: Sequence[str],
    interventions: Sequence[Intervention],
    multipliers: Sequence[float],
    *,
    prompt_share: float = 0.5,
    memory: int | None = None,
    progress: bool = True,
    cells: Cells | None = None,
) -> Float[Tensor, "intervention multiplier example"]:
    """What steering costs on ordinary text: KL from the unsteered to the steered model.

    The first part of each text is the prompt, the rest is continued as it stands; the KL divergence
    KL(unsteered ‖ steered) of the next-token distribution is averaged over the tokens from the
    prompt's end on, in nats per token.

    Args:
        prompt_share: How much of each text is prompt.
        cells: Where finished units of texts are kept and found; by default nowhere.
    """
    model = as_model(model)
    batch = halved(model, texts, prompt_share)
    engine = _Engine(model, interventions, multipliers, memory, full=True)
    read = int((batch.width - batch.prompt_end + 1).max())
    plan = engine.plan(batch, 1, batch.width - read + 1, read)
    out = torch.full((len(interventions), len(multipliers), len(batch)), torch.nan)
    cells = cells_or_none(cells, "cost", progress)

    def computed(chunk: slice) -> dict[str, Tensor]:
        return {"values": _halving(lambda c: engine.divergence(batch.rows(c), plan, read), chunk)}

    with cells.bar(len(batch), "text") as bar:
        for start in range(0, len(batch), plan.examples_per_chunk):
            chunk = slice(start, min(start + plan.examples_per_chunk, len(batch)))
            unit = f"{chunk.start:06d}-{chunk.stop:06d}"
            out[:, :, chunk] = cells.compute(unit, partial(computed, chunk))["values"][..., 0]
            bar.update(chunk.stop - chunk.start)
    return out


def halved(model: Model, texts: Sequence[str], share: float = 0.5) -> TokenBatch:
    """Texts whose first part is the prompt and whose rest continues it.

    Raises:
        ValueError: If a text has fewer than 4 tokens, or more than the context.
    """
    batch = model.tokens(list(texts), padding_side="left")
    lengths = batch.mask.sum(-1)
    if int(lengths.min()) < 4:
        raise ValueError("A text for measuring cost has fewer than 4 tokens. Use longer texts.")
    kept = (lengths * share).long().clamp(min=2)
    return replace(batch, prompt_end=batch.width - lengths + kept)


CellList = list[tuple[int, list[int]]]
"""Interventions by index, each with the indices of its multipliers that are not 0."""


class _Engine:
    """One model, one grid: how its rows are computed and how many fit at a time."""

    def __init__(
        self,
        model: Model,
        interventions: Sequence[Intervention],
        multipliers: Sequence[float],
        memory: int | None,
        *,
        full: bool,
    ) -> None:
        if not interventions or not multipliers:
            raise ValueError("Nothing to sweep: give at least one intervention and one multiplier.")
        self.model = model
        # Where a cell's own stream is edited its intervention is a ResidualEdit: `path` says so.
        self.interventions: list[Any] = list(interventions)
        self.multipliers = [float(m) for m in multipliers]
        self.full = full
        for intervention in self.interventions:
            if isinstance(intervention, ResidualEdit):
                model.require_site(intervention.site)
                direction = getattr(intervention, "direction", None)
                if direction is not None:
                    model.require(direction)
                fits = getattr(intervention, "require_fits", None)
                if fits is not None:  # an SAE's edit knows its model, too
                    fits(model)
        edits = all(isinstance(i, ResidualEdit) for i in self.interventions)
        in_stream = edits and all(i.site.entry is not None for i in self.interventions)
        self.kernel: Kernel | None = model.kernel() if in_stream and not model.attached else None
        self.path = (
            "wavefront" if self.kernel else "rows" if edits and model.is_bridge else "general"
        )
        self.memory = memory or free_bytes(model.device) // 4
        steered = [j for j, m in enumerate(self.multipliers) if m != 0]
        self.cells: CellList = (
            [(i, steered) for i in range(len(self.interventions))] if steered else []
        )

    # Planning

    def plan(self, batch: TokenBatch, variants: int, prompt_width: int, read: int) -> Plan:
        """States what will be computed and what it needs; refuses what would steer nothing."""
        for i, intervention in enumerate(self.interventions):
            if isinstance(intervention, ResidualEdit):
                self._chosen(i, batch)
        cells = sum(len(ms) for _, ms in self.cells)
        columns = batch.width - self._shared(batch, prompt_width)
        per_example = self._bytes(max(1, cells) * variants, columns, batch.width, read)
        fit = max(1, self.memory // per_example)
        if self.model.device.type == "cpu":
            fit = min(fit, max(1, MAX_TOKENS // (max(1, cells) * variants * columns)))
        n = batch.tokens.shape[0] // variants
        cells_fit = cells
        if fit == 1 and per_example > self.memory:
            cells_fit = max(1, int(cells * self.memory / per_example))
        return Plan(
            self.path, n, max(1, cells), columns, per_example, self.memory, min(n, fit),
            max(1, cells_fit),
        )  # fmt: skip

    def _bytes(self, rows: int, columns: int, width: int, read: int) -> int:
        cfg, size = self.model.cfg, next(self.model.wrapped.parameters()).element_size()
        streams = 4 * cfg.d_model + 2 * (cfg.d_mlp or 0) + 3 * cfg.n_heads * cfg.d_head
        attention = 3 * cfg.n_heads * width
        vocabulary = (2 * 4 * cfg.d_vocab * read) if self.full else 0
        prefix = width * streams * size
        return prefix + rows * (columns * (streams + attention) * size + vocabulary)

    def _shared(self, batch: TokenBatch, prompt_width: int) -> int:
        """Columns before the first edited one (and before the first that is read)."""
        if self.path != "wavefront":
            return 0
        first = min(
            (int(self._chosen(i, batch).any(0).int().argmax()) for i, _ in self.cells),
            default=prompt_width,
        )
        return min(first, prompt_width - 1)

    def _chosen(self, i: int, batch: TokenBatch) -> Bool[Tensor, "batch pos"]:
        edit = self.interventions[i]
        chosen = edit.positions.mask(batch)
        empty = ~chosen.any(-1)
        if bool(empty.any()):
            raise SteeringError(
                f"{edit.positions} chooses no token of text {int(empty.nonzero()[0])}, so steering "
                f"at {edit.site} would do nothing there. Positions.generated() needs answers of "
                "two or more tokens; use Positions.from_prompt_end()."
            )
        return chosen

    # Reading out

    def answers(
        self, asked: Questions, plan: Plan, log_odds_only: bool
    ) -> Float[Tensor, "intervention multiplier example 2"]:
        """Both answers' log-probabilities for a chunk of examples."""
        out = self._empty(len(asked), 2)
        runs = self._runs(asked.batch, asked.variants, asked.prompt_width, asked.read, plan)
        for cells, states in runs:
            self._place(out, cells, self._score(states, asked, log_odds_only).cpu())
        return out

    def divergence(
        self, batch: TokenBatch, plan: Plan, read: int
    ) -> Float[Tensor, "intervention multiplier example 1"]:
        """KL per text for a chunk of texts."""
        out = self._empty(len(batch), 1)
        columns = torch.arange(batch.width, device=batch.tokens.device)
        counted = (columns >= batch.prompt_end[:, None] - 1)[:, -read:] & batch.mask[:, -read:]
        weight = counted / counted.sum(-1, keepdim=True)
        base = torch.empty(0)
        for cells, states in self._runs(batch, 1, batch.width - read + 1, read, plan):
            log_p = torch.log_softmax(self.model.unembed(states[:, :, 0]).float(), -1)
            if not cells:
                base = log_p  # [prompt, 1, read, d_vocab]
            kl = (base.exp() * (base - log_p)).sum(-1).clamp(min=0)
            self._place(out, cells, (kl * weight[:, None]).sum(-1, keepdim=True).cpu())
        return out

    def _empty(self, examples: int, values: int) -> Tensor:
        shape = (len(self.interventions), len(self.multipliers), examples, values)
        return torch.full(shape, torch.nan)

    def _place(
        self, out: Tensor, cells: CellList, values: Float[Tensor, "prompt cell value"]
    ) -> None:
        """Puts the values of a run's cells where they belong; a run of no cells is multiplier 0."""
        if not cells:
            for j, m in enumerate(self.multipliers):
                if m == 0:
                    out[:, j] = values[:, 0]
            return
        k = 0
        for i, ms in cells:
            for j in ms:
                out[i, j] = values[:, k]
                k += 1

    def _score(
        self,
        states: Float[Tensor, "prompt cell variant read d_model"],
        asked: Questions,
        odds: bool,
    ) -> Float[Tensor, "prompt cell 2"]:
        both = asked.targets.expand(-1, 2, -1)
        if asked.variants == 1:
            states = states.expand(-1, -1, 2, -1, -1)
        # In float32: a difference of two large half-precision logits is mostly rounding.
        states = states.float()
        weight = self.model.wrapped.unembed.W_U.T[both].float()  # [prompt, 2, read, d_model]
        cap = self.model.cfg.output_logits_soft_cap
        bias = self.model.wrapped.unembed.b_U[both]
        logits = torch.einsum("pcvrd,pvrd->pcvr", states, weight) + bias[:, None]
        log_probs = soft_cap(logits.float(), cap)
        if asked.variants == 2 or not odds:
            distinct = states[:, :, : asked.variants]
            log_probs = log_probs - self._normaliser(distinct)
        sums = (log_probs * asked.counted[:, None]).sum(-1)
        if odds:
            return torch.stack([sums[..., 0] - sums[..., 1], torch.zeros_like(sums[..., 0])], -1)
        return sums

    def _normaliser(self, states: Tensor) -> Tensor:
        """logsumexp over the vocabulary, a few rows at a time."""
        flat = states.flatten(0, -2)
        rows = max(1, min(self.memory // 8, 2**28) // (4 * self.model.cfg.d_vocab))
        parts = [torch.logsumexp(self.model.unembed(x).float(), -1) for x in flat.split(rows)]
        return torch.cat(parts).view(states.shape[:-1])

    # Running

    def _runs(
        self, batch: TokenBatch, variants: int, prompt_width: int, read: int, plan: Plan
    ) -> Iterator[tuple[CellList, Float[Tensor, "prompt cell variant read d_model"]]]:
        """First the unsteered states (no cells), then all cells in as many runs as memory asks."""
        if self.path == "wavefront":
            yield from self._wavefront(batch, variants, prompt_width, read, plan)
            return
        prompts = len(batch) // variants
        shape = (prompts, variants, read, self.model.d_model)
        yield [], self.model.states(batch)[:, -read:].view(shape)[:, None]
        if self.path == "rows":
            for cells in _split(self.cells, plan.cells_per_chunk):
                yield cells, self._by_rows(batch, cells, read, shape)
            return
        for i, ms in self.cells:
            for j in ms:
                with self.interventions[i].attach(self.model, self.multipliers[j]):
                    states = self.model.states(batch)[:, -read:]
                yield [(i, [j])], states.view(shape)[:, None]

    def _by_rows(
        self, batch: TokenBatch, cells: CellList, read: int, shape: tuple[int, ...]
    ) -> Tensor:
        """All cells as rows of one batch; a row has strength 0 in all edits but its own."""
        flat = [(i, j) for i, ms in cells for j in ms]
        rows = batch.repeated(len(flat))
        with ExitStack() as stack:
            for i in {i for i, _ in flat}:
                own = [self.multipliers[j] if i == k else 0.0 for k, j in flat]
                strengths = torch.tensor(own, device=self.model.device).repeat(len(batch))
                stack.enter_context(self.interventions[i].attach(self.model, strengths))
            states = self.model.states(rows)[:, -read:]
        return states.view(shape[0], shape[1], len(flat), *shape[2:]).transpose(1, 2)

    def _wavefront(
        self, batch: TokenBatch, variants: int, prompt_width: int, read: int, plan: Plan
    ) -> Iterator[tuple[CellList, Tensor]]:
        kernel = self.kernel
        assert kernel is not None
        prompts, shared = len(batch) // variants, self._shared(batch, prompt_width)
        chosen = {i: self._chosen(i, batch)[:, shared:] for i, _ in self.cells}
        prefix = self._prefix(batch.rows(slice(None, None, variants)), shared)
        columns = self._columns(batch, shared, prompts, variants)
        tokens = batch.tokens[:, shared:].view(prompts, variants, -1)
        base = kernel.embed(tokens, columns.positions)
        for k, part in enumerate(_split(self.cells, plan.cells_per_chunk) or [[]]):
            order, states = self._climb(kernel, base, columns, prefix, part, chosen, variants, read)
            states = states.unflatten(1, (-1, variants))
            if k == 0:
                yield [], states[:, :1]
            if order:
                yield order, states[:, 1:]

    def _prefix(self, prompts: TokenBatch, shared: int) -> list[KeysValues | None]:
        """Keys and values of each prompt's unedited columns, layer by layer."""
        kernel = self.kernel
        assert kernel is not None
        if shared == 0:
            return [None] * self.model.n_layers
        index = torch.arange(shared, device=prompts.tokens.device)
        columns = Columns(
            positions=prompts.positions[:, None, :shared],
            index=index,
            own_keys=prompts.mask[:, None, :shared],
            own_index=index,
        )
        resid = kernel.embed(prompts.tokens[:, None, :shared], columns.positions)
        kept: list[KeysValues | None] = []
        for layer in range(self.model.n_layers):
            last = layer == self.model.n_layers - 1
            resid, (k, v) = kernel.block(layer, resid, columns, tail=1 if last else None)
            kept.append((k[:, 0], v[:, 0]))
        return kept

    def _columns(self, batch: TokenBatch, shared: int, prompts: int, variants: int) -> Columns:
        index = torch.arange(shared, batch.width, device=batch.tokens.device)
        return Columns(
            positions=batch.positions[:, shared:].view(prompts, variants, -1),
            index=index,
            own_keys=batch.mask[:, shared:].view(prompts, variants, -1),
            own_index=index,
            shared_keys=batch.mask[::variants, :shared] if shared else None,
        )

    def _climb(
        self,
        kernel: Kernel,
        base: Float[Tensor, "prompt variant pos d_model"],
        columns: Columns,
        prefix: list[KeysValues | None],
        cells: CellList,
        chosen: dict[int, Tensor],
        variants: int,
        read: int,
    ) -> tuple[CellList, Float[Tensor, "prompt row read d_model"]]:
        """Through all blocks; the edited copies join at the block that first reads them."""
        resid, order = base, []
        for entry in range(self.model.n_layers + 1):
            last = entry == self.model.n_layers - 1
            starting = [(i, ms) for i, ms in cells if self.interventions[i].site.entry == entry]
            if starting:
                bare, tail = resid[:, :variants], resid.shape[2]
                joining = [self._edited(i, ms, bare, chosen[i][:, -tail:]) for i, ms in starting]
                resid = torch.cat([resid, *joining], 1)  # once: each copy is of all rows
            order += starting
            if entry < self.model.n_layers:
                wide = _per_row(columns, resid.shape[1] // variants)
                resid, _ = kernel.block(
                    entry, resid, wide, shared=prefix[entry], tail=read if last else None
                )
        return order, kernel.states(resid[:, :, -read:])

    def _edited(
        self, i: int, ms: list[int], base: Float[Tensor, "prompt variant pos d_model"], mask: Tensor
    ) -> Float[Tensor, "prompt row pos d_model"]:
        prompts, variants, width, d = base.shape
        rows = base[:, None].expand(-1, len(ms), -1, -1, -1).reshape(-1, width, d)
        strengths = torch.tensor([self.multipliers[j] for j in ms], device=base.device)
        strengths = strengths[None, :, None].expand(prompts, -1, variants).reshape(-1)
        where = mask.view(prompts, 1, variants, width).expand(-1, len(ms), -1, -1)
        edited = self.interventions[i](rows, strengths)
        edited = torch.where(where.reshape(-1, width, 1), edited, rows)
        return edited.view(prompts, len(ms) * variants, width, d)


def _per_row(columns: Columns, times: int) -> Columns:
    """The columns of one prompt's variants, for `times` copies of them."""
    if columns.positions.shape[1] == 1:
        return columns  # one variant: broadcasts over the rows
    return replace(
        columns,
        positions=columns.positions.repeat(1, times, 1),
        own_keys=columns.own_keys.repeat(1, times, 1),
    )


def _halving(run: Callable[[slice], Tensor], chunk: slice) -> Tensor:
    """Runs a chunk of examples; when memory is out, its two halves."""
    try:
        return run(chunk)
    except RuntimeError as error:
        if not is_out_of_memory(error) or chunk.stop - chunk.start == 1:
            raise
    middle = (chunk.start + chunk.stop) // 2
    halves = (slice(chunk.start, middle), slice(middle, chunk.stop))
    return torch.cat([_halving(run, half) for half in halves], 2)


def _split(cells: CellList, size: int) -> list[CellList]:
    flat = [(i, j) for i, ms in cells for j in ms]
    parts = []
    for start in range(0, len(flat), size):
        part: dict[int, list[int]] = {}
        for i, j in flat[start : start + size]:
            part.setdefault(i, []).append(j)
        parts.append(list(part.items()))
    return parts
