"""Edits that are attached to a model, and which columns of which batch it computes now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from steerlens.models.attached_edit import Attached, Window, by_row
from steerlens.models.attached_edit import Chosen as Chosen
from steerlens.models.attached_edit import SteeringError as SteeringError
from steerlens.models.attached_edit import edited_stream as edited_stream
from steerlens.models.attached_edit import edits_by_block as edits_by_block
from steerlens.models.attached_edit import strength_of as strength_of
from steerlens.models.cache_edits import AttachedCache, CacheChange, require_some
from steerlens.models.exchanged import exchanged
from steerlens.models.factors import (
    Factor,
    GatedWeights,
    TextFactor,
    TokenFactor,
    groups_of,
    product_by_text,
)  # fmt: skip
from steerlens.models.forward import Forward
from steerlens.models.nudges import AttachedNudge
from steerlens.models.prompts import AttachedPrompt, Inserted, Run, mixed
from steerlens.models.wrapped_state import evaluating
from steerlens.protocols import Edit, ResidualEdit, Strength
from steerlens.sites import Positions, Site, TokenBatch, require_positions


@runtime_checkable
class _Ran(Protocol):
    """What is attached for whole runs."""

    ever_ran: bool


class AttachedEdits:
    """The edits attached to one wrapped model, in order; a sequence of `Attached`.

    Prompts are attached too. The length counts both.
    """

    def __init__(self, wrapped: Any, name: str) -> None:
        self._wrapped, self._name = wrapped, name
        self._edits: list[Attached] = []
        self.prompts: list[AttachedPrompt] = []
        """Prompts in front of all texts, in the order in which they were attached."""
        self._gated: list[GatedWeights] = []
        self._caches: list[AttachedCache] = []
        self._nudges: list[AttachedNudge] = []
        self._window: Window | None = None
        self._by_text: dict[int, Float[Tensor, " batch"]] = {}
        """The factors by text of the current run, by the id of each."""
        self._known: dict[int, Float[Tensor, " batch"]] | None = None
        """The same of the batch that is being divided into runs."""
        self._silent = False

    def __iter__(self) -> Iterator[Attached]:
        return iter(tuple(self._edits))

    def __len__(self) -> int:
        others = (self.prompts, self._gated, self._caches, self._nudges)
        return len(self._edits) + sum(map(len, others))

    @property
    def hooks(self) -> Counter[str]:
        """How many hooks the attached edits have at each hook point."""
        return Counter(attached.site.hook for attached in self._edits)

    @property
    def foreign_hooks(self) -> list[str]:
        """Hook points that carry forward hooks besides those of the attached edits."""
        known, points = self.hooks, self._wrapped.hook_dict.items()
        return [name for name, point in points if len(point.fwd_hooks) > known[name]]

    @contextmanager
    def attach(
        self,
        site: Site,
        edit: Edit,
        positions: Positions,
        multiplier: Strength,
        factors: tuple[Factor, ...] = (),
    ) -> Iterator[None]:
        """Applies an edit at a site until the `with` ends.

        Args:
            factors: What the multiplier is multiplied by, for each text or token.

        Raises:
            ArgumentError: If the positions are no rule.
            ValueError: If the multiplier is NaN or infinite.
            SteeringError: At the end of the `with`, if no forward pass ran the edit.
        """
        multiplier = strength_of(multiplier)
        require_positions(positions)
        attached = Attached(site, edit, positions, multiplier, factors=factors)

        def fire(resid: Tensor, hook: Any) -> Tensor:
            if self._silent:
                return resid
            if self._window is None:
                raise SteeringError(
                    "The wrapped model was run directly while steering is attached, so it is not "
                    "known where its prompts end and which tokens are padding. Run it through the "
                    "Model: model.logits(…), model.cache(…), model.generate(…)."
                )
            chosen = self._window.chosen(positions, resid.shape[1])
            # All heads of a token are one vector, [batch, pos, head * d_head].
            factor = self.factor(factors, resid.shape[1])
            return attached.apply(resid.flatten(2), chosen, factor).view_as(resid)

        self._edits.append(attached)
        try:
            with self._wrapped.hooks(fwd_hooks=[(site.hook, fire)]):
                attached.handle = next(reversed(self._handles(attached)), None)
                yield
        finally:
            self._edits.remove(attached)
        if not attached.ever_ran:
            raise SteeringError(
                f"Steering at {site} never fired: no forward pass of {self._name!r} reached that "
                "layer inside the `with`. Run the model inside it."
            )

    def prompted(self, prompt: AttachedPrompt) -> AbstractContextManager[None]:
        """Puts a prompt in front of all texts until the `with` ends.

        Raises:
            SteeringError: At the end of the `with`, if no forward pass ran.
        """
        return self._held(self.prompts, prompt, f"A prompt was attached to {self._name!r}")

    def gated(self, weights: GatedWeights) -> AbstractContextManager[None]:
        """Changes weights as each text asks for, until the `with` ends.

        Raises:
            SteeringError: At the end of the `with`, if no text was run.
        """
        what = f"Changes of weights were attached to {self._name!r} under a condition,"
        return self._held(self._gated, weights, what)

    def caching(self, edit: AttachedCache) -> AbstractContextManager[None]:
        """Edits the kept keys and values of every text until the `with` ends.

        Raises:
            SteeringError: At the end of the `with`, if no text was run.
        """
        what = f"An edit of keys and values was attached to {self._name!r}"
        return self._held(self._caches, edit, what)

    def nudging(self, nudge: AttachedNudge) -> AbstractContextManager[None]:
        """Nudges the chosen tokens of every text until the `with` ends.

        Raises:
            SteeringError: At the end of the `with`, if no text was run.
        """
        return self._held(self._nudges, nudge, f"A nudge was attached to {self._name!r}")

    @contextmanager
    def _held(self, held: list[Any], one: _Ran, what: str) -> Iterator[None]:
        """Keeps one of a kind in its list until the `with` ends, in which it must have run."""
        held.append(one)
        try:
            yield
        finally:
            held.remove(one)
        if not one.ever_ran:
            raise SteeringError(
                f"{what} and no text was run inside the `with`. Run the model inside it, through the "
                "Model."
            )

    @property
    def only_edits(self) -> bool:
        """Whether all that is attached are edits of a stream that know nothing of a row but its
        strength: `of_rows` is then all that rows need to leave a batch."""
        others = (self.prompts, self._gated, self._caches, self._nudges)
        alike = all(isinstance(one.edit, ResidualEdit) and not one.factors for one in self._edits)
        return alike and not any(others)

    @property
    def nudges(self) -> list[AttachedNudge]:
        """The nudges that change some row."""
        return [nudge for nudge in self._nudges if not nudge.is_off]

    def cuts(self, batch: TokenBatch) -> bool:
        """Whether a run is cut in two, at the prompts' ends, for an edit of keys and values."""
        on = [edit for edit in self._caches if not edit.is_off]
        if not on or not all(edit.factors for edit in on):
            return bool(on)
        values = self._read_factors(batch)
        factors = [product_by_text(edit.factors, values) for edit in on]
        return any(one is not None and bool(one.any()) for one in factors)

    def cut(self, texts: TokenBatch) -> CacheChange | None:
        """What happens to the keys and values of texts that are computed from the start.

        Args:
            texts: With the prompts that stand in them; all prompts end in one column.

        Raises:
            SteeringError: If there is no token to edit.
        """
        if all(edit.is_off for edit in self._caches):
            return None
        window = self._window
        assert window is not None
        base, column = window.batch, int(texts.prompt_end[0]) - 1
        before = torch.arange(base.width, device=base.tokens.device) < base.prompt_end[:, None] - 1
        edits = []
        for edit in self._caches:
            chosen = edit.positions.mask(base) & before
            require_some(edit.positions, chosen)
            for prompt in window.inserted:
                chosen = prompt.spread(chosen, False)
            strength = by_row(edit.multiplier, len(base)).to(next(self._wrapped.parameters()))
            factor = self.factor(edit.factors, base.width)
            strength = strength if factor is None else strength * factor[:, 0].to(strength)
            edits.append((edit, chosen[:, :column], strength))
        if not any(bool(strength.any()) for _, _, strength in edits):
            for edit in self._caches:  # a condition holds for none of the texts
                edit.edited = edit.ever_ran = True
            return None
        return CacheChange(edits, column, lambda: self.go_on(column))

    def go_on(self, start: int) -> None:
        """States that the columns from `start` on come next, of the texts with their prompts."""
        assert self._window is not None
        self._window = replace(self._window, start=start)

    @contextmanager
    def running(self, batch: TokenBatch, stop_at: int | None = None) -> Iterator[None]:
        """One run over a batch, after which every edit must have edited some token.

        The wrapped model is in evaluation mode for as long.

        Args:
            stop_at: The run ends before this block; edits above it need not have run.

        Raises:
            SteeringError: If an edit that the run reached has edited no token, or its hook was
                removed.
        """
        for cache in self._caches:
            cache.edited = False
        for nudge in self._nudges:
            nudge.edited = 0
        for attached in self._edits:
            attached.edited = 0
            hooks = self._handles(attached)
            if attached.handle and not any(handle is attached.handle for handle in hooks):
                raise SteeringError(
                    f"The hook that steers {self._name!r} at {attached.site} was removed inside "
                    "the `with` (reset_hooks, perhaps), so the model would run without it. Leave "
                    "the `with` to end steering, and do not reset hooks inside it."
                )
        try:
            with evaluating(self._wrapped), ExitStack() as stack:
                self._by_text = self._read_factors(batch)
                for nudge in self._nudges:
                    factor = product_by_text(nudge.factors, self._by_text)
                    nudge.closed = factor is not None and not bool(factor.any())
                for weights in self._gated:
                    weights.ever_ran = True
                    factor = product_by_text(weights.factors, self._by_text)
                    assert factor is not None
                    if bool((factor != factor[0]).any()):
                        raise SteeringError(
                            "The texts of this batch need different weights. Run them through "
                            "model.states, model.cache or generate, or those of each kind apart."
                        )
                    if float(factor[0]) != 0:
                        changes = weights.change(float(factor[0]))
                        stack.enter_context(exchanged(self._wrapped, changes))
                yield
        finally:
            self._window, self._by_text = None, {}
        for nudge in self._nudges:
            if nudge.is_off or (stop_at is not None and nudge.entry > stop_at):
                nudge.ever_ran = True
            elif nudge.edited == 0:
                raise SteeringError(
                    f"A nudge at {nudge.nudge.site} has moved no token of these texts: its "
                    f"{nudge.nudge.positions} chose none, or the run was not one of model.states, "
                    "model.logits, model.cache or generate."
                )
        for cache in self._caches:
            if cache.is_off or (stop_at is not None and min(cache.layers) >= stop_at):
                cache.ever_ran = True
            elif not cache.edited:
                raise SteeringError(
                    f"An edit of keys and values of {self._name!r} was not made: this run does not "
                    "cut texts where their prompts end. Run them through model.states, "
                    "model.logits, model.cache or generate."
                )
        for attached in self._edits:
            if stop_at is not None and attached.site.layer >= stop_at:
                attached.ever_ran = True
            elif int(attached.edited) == 0:
                raise SteeringError(
                    f"{attached.positions} chose no token of these texts, so steering at "
                    f"{attached.site} did nothing. Positions.generated() needs tokens after the "
                    "prompt."
                )

    def _read_factors(self, batch: TokenBatch) -> dict[int, Float[Tensor, " batch"]]:
        """The factors by text of whatever is attached, by the id of each."""
        if self._known is not None:
            return self._known
        owners = [*self._edits, *self.prompts, *self._gated, *self._caches, *self._nudges]
        factors = (factor for one in owners for factor in one.factors)
        asked = {id(factor): factor for factor in factors if isinstance(factor, TextFactor)}
        if not asked:
            return {}
        with torch.no_grad(), evaluating(self._wrapped):
            return {key: one.of_texts(batch, self._unedited) for key, one in asked.items()}

    @contextmanager
    def reading(self, batch: TokenBatch) -> Iterator[None]:
        """Reads the factors by text once for all runs over rows of a batch, until the `with` ends.

        The runs are of the whole batch, or of the rows of `of_rows`.
        """
        before, self._known = self._known, None
        try:
            self._known = self._read_factors(batch)
            yield
        finally:
            self._known = before

    def _unedited(self, batch: TokenBatch, sites: Sequence[Site]) -> dict[Site, Tensor]:
        """Streams of texts as they are without the attached edits and prompts."""
        self._silent = True
        try:
            stop = max(site.layer for site in sites) + 1
            return Forward(self._wrapped).streams(batch, sites, stop)
        finally:
            self._silent = False

    def parts(self, batch: TokenBatch, *, idle: bool = False) -> list[Int[Tensor, " row"]]:
        """Rows that need the same weights, where a batch has several kinds of them; else nothing.

        Args:
            idle: Rows of which no cache is edited and that are not nudged are a part of their own.
        """
        resting = self.idle(batch) if idle else None
        if not self._gated and resting is None:
            return []
        values = self._read_factors(batch)
        found = [product_by_text(weights.factors, values) for weights in self._gated]
        columns = [one for one in found if one is not None]
        if resting is not None:
            columns.append(resting.float())
        groups = groups_of(torch.stack(columns, 1))
        return groups if len(groups) > 1 else []

    def idle(self, batch: TokenBatch) -> Bool[Tensor, " batch"] | None:
        """Rows of which no cache is edited and that are not nudged, where others are.

        They are the unsteered model's to the last bit if they are computed as it is, and not as those.
        """
        on = [one for one in (*self._caches, *self._nudges) if not one.is_off]
        fits = [not isinstance(m := one.multiplier, Tensor) or len(m) == len(batch) for one in on]
        if not on or not all(fits):
            return None
        values = self._read_factors(batch)
        moved = torch.zeros(len(batch), dtype=torch.bool, device=batch.tokens.device)
        for one in on:
            m, factor = one.multiplier, product_by_text(one.factors, values)
            own = m.to(moved.device) != 0 if isinstance(m, Tensor) else torch.ones_like(moved)
            moved |= own if factor is None else own & (factor != 0)
        return None if bool(moved.all()) or not bool(moved.any()) else ~moved

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Edits no cache and nudges nothing until the `with` ends."""
        kept = self._caches, self._nudges
        for one in (*self._caches, *self._nudges):
            one.ever_ran = True
        self._caches, self._nudges = [], []
        try:
            yield
        finally:
            self._caches, self._nudges = kept

    @contextmanager
    def of_rows(self, index: Int[Tensor, " row"]) -> Iterator[None]:
        """What is one per row, strengths and factors, is that of some rows until the `with` ends."""
        owners = [*self._edits, *self.prompts, *self._caches, *self._nudges]
        kept = [(one, m) for one in owners if isinstance(m := one.multiplier, Tensor) and m.ndim]
        known = self._known
        try:
            for one, m in kept:
                one.multiplier = m[index.to(m.device)]
            if known is not None:
                self._known = {key: x[index.to(x.device)] for key, x in known.items()}
            yield
        finally:
            self._known = known
            for one, m in kept:
                one.multiplier = m

    def factor(self, factors: Sequence[Factor], width: int) -> Float[Tensor, "batch _"] | None:
        """The product of factors at each of the `width` columns that come next; None for none.

        One column where no factor differs between the tokens of a text.
        """
        found = product_by_text(factors, self._by_text)
        product = None if found is None else found[:, None]
        for one in factors:
            if isinstance(one, TokenFactor):
                assert self._window is not None
                own = self._window.factor(one, width)
                product = own if product is None else product * own
        return product

    def _handles(self, attached: Attached) -> list[Any]:
        return self._wrapped.hook_dict[attached.site.hook].fwd_hooks

    def computing(
        self, batch: TokenBatch, start: int = 0, inserted: tuple[Inserted, ...] = ()
    ) -> None:
        """States which columns of the batch come next: those from `start` on.

        Args:
            inserted: Prompts that stand in the texts, in the order in which they were put there.
        """
        self._window = Window(batch, start, inserted)

    def chosen(self, positions: Positions, width: int) -> Tensor:
        """Which tokens a rule chooses among the `width` columns that come next."""
        assert self._window is not None
        return self._window.chosen(positions, width)

    def mixed(self, batch: TokenBatch, run: Run, start: int = 0) -> list[Tensor]:
        """What a run gives for a batch, mixed over the attached prompts by their dials.

        Args:
            run: Computes streams [batch, pos, d_model] of all columns from its second argument on
                of the texts in its first, in which the prompts of its third stand.
            start: The first column that is computed; those before it were computed before.
        """
        if not self.prompts:
            return run(batch, start, ())
        for prompt in self.prompts:
            self.computing(batch, start)
            prompt.factor = self.factor(prompt.factors, batch.width - start)
        found = mixed(batch, tuple(self.prompts), self._counted(batch, run), start)
        self.computing(batch, start)
        return found

    def _counted(self, batch: TokenBatch, run: Run) -> Run:
        """The same run, with the rules of positions counted in the texts without the prompts."""

        def counted(texts: TokenBatch, start: int, inserted: tuple[Inserted, ...]) -> list[Tensor]:
            self.computing(batch, start, inserted)
            return run(texts, start, inserted)

        return counted
