"""Edits that are attached to a model, and which columns of which batch it computes now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.models.attached_edit import Attached, Window
from steerlens.models.attached_edit import Chosen as Chosen
from steerlens.models.attached_edit import SteeringError as SteeringError
from steerlens.models.attached_edit import edited_stream as edited_stream
from steerlens.models.attached_edit import edits_by_block as edits_by_block
from steerlens.models.attached_edit import require_strength as require_strength
from steerlens.models.cache_edits import AttachedCache, CacheChange
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
from steerlens.protocols import Edit, Strength
from steerlens.sites import Positions, Site, TokenBatch


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
            ValueError: If the multiplier is NaN or infinite.
            SteeringError: At the end of the `with`, if no forward pass ran the edit.
        """
        require_strength(multiplier)
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

    @contextmanager
    def prompted(self, prompt: AttachedPrompt) -> Iterator[None]:
        """Puts a prompt in front of all texts until the `with` ends.

        Raises:
            SteeringError: At the end of the `with`, if no forward pass ran.
        """
        self.prompts.append(prompt)
        try:
            yield
        finally:
            self.prompts.remove(prompt)
        if not prompt.ever_ran:
            raise SteeringError(
                f"A prompt was attached to {self._name!r} and no text was run inside the `with`. "
                "Run the model inside it, through the Model."
            )

    @contextmanager
    def gated(self, weights: GatedWeights) -> Iterator[None]:
        """Changes weights as each text asks for, until the `with` ends.

        Raises:
            SteeringError: At the end of the `with`, if no text was run.
        """
        self._gated.append(weights)
        try:
            yield
        finally:
            self._gated.remove(weights)
        if not weights.ever_ran:
            raise SteeringError(
                f"Changes of weights were attached to {self._name!r} under a condition, and no "
                "text was run inside the `with`. Run the model inside it, through the Model."
            )

    @contextmanager
    def caching(self, edit: AttachedCache) -> Iterator[None]:
        """Edits the kept keys and values of every text until the `with` ends.

        Raises:
            SteeringError: At the end of the `with`, if no text was run.
        """
        self._caches.append(edit)
        try:
            yield
        finally:
            self._caches.remove(edit)
        if not edit.ever_ran:
            raise SteeringError(
                f"An edit of keys and values was attached to {self._name!r} and no text was run "
                "inside the `with`. Run the model inside it, through the Model."
            )

    @contextmanager
    def nudging(self, nudge: AttachedNudge) -> Iterator[None]:
        """Nudges the chosen tokens of every text until the `with` ends.

        Raises:
            SteeringError: At the end of the `with`, if no text was run.
        """
        self._nudges.append(nudge)
        try:
            yield
        finally:
            self._nudges.remove(nudge)
        if not nudge.ever_ran:
            raise SteeringError(
                f"A nudge was attached to {self._name!r} and no text was run inside the `with`. Run "
                "the model inside it, through the Model."
            )

    @property
    def nudges(self) -> list[AttachedNudge]:
        """The nudges that change some row."""
        return [nudge for nudge in self._nudges if not nudge.is_off]

    def cuts(self, batch: TokenBatch) -> bool:
        """Whether a run is cut in two, at the prompts' ends, for an edit of keys and values."""
        on = [edit for edit in self._caches if not edit.is_off]
        if not on or not all(edit.factors for edit in on):
            return bool(on)
        with evaluating(self._wrapped):
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
            if bool((empty := ~chosen.any(-1)).any()):
                raise SteeringError(
                    f"{edit.positions} chooses no token before the last one of prompt "
                    f"{int(empty.nonzero()[0])}, and only those have keys and values to edit when "
                    "the last one is read. Use longer prompts, or Positions.all(special=True)."
                )
            for prompt in window.inserted:
                chosen = prompt.spread(chosen, False)
            m, weight = edit.multiplier, next(self._wrapped.parameters())
            strength = m if isinstance(m, Tensor) else torch.full((len(base),), float(m))
            if len(strength) != len(base):
                raise SteeringError(
                    f"{len(strength)} multipliers for a batch of {len(base)} rows. Give one number, "
                    "or one per row."
                )
            factor = self.factor(edit.factors, base.width)
            strength = strength.to(weight)
            strength = strength if factor is None else strength * factor[:, 0].to(weight)
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
        owners = [*self._edits, *self.prompts, *self._gated, *self._caches, *self._nudges]
        asked = {id(factor): factor for one in owners for factor in one.factors}
        with torch.no_grad():
            return {
                key: factor.of_texts(batch, self._unedited)
                for key, factor in asked.items()
                if isinstance(factor, TextFactor)
            }

    def _unedited(self, batch: TokenBatch, sites: Sequence[Site]) -> dict[Site, Tensor]:
        """Streams of texts as they are without the attached edits and prompts."""
        self._silent = True
        try:
            stop = max(site.layer for site in sites) + 1
            return Forward(self._wrapped).streams(batch, sites, stop)
        finally:
            self._silent = False

    def parts(self, batch: TokenBatch) -> list[Int[Tensor, " row"]]:
        """Rows that can be run together, where conditions of a batch ask for several runs.

        Those are texts that need other weights, and texts whose cache is edited, or which are nudged,
        or not. Empty where one run will do.
        """
        others = [
            one
            for one in (*self._caches, *self._nudges)
            if any(isinstance(factor, TextFactor) for factor in one.factors)
            and bool(torch.as_tensor(one.multiplier).any())
        ]
        apart = [*self._gated, *others]
        if not apart:
            return []
        with evaluating(self._wrapped):
            values = self._read_factors(batch)
        found = [product_by_text(one.factors, values) for one in apart]
        groups = groups_of(torch.stack([one for one in found if one is not None], 1))
        return groups if len(groups) > 1 else []

    @contextmanager
    def of_rows(self, index: Int[Tensor, " row"]) -> Iterator[None]:
        """Strengths that are one per row are those of some rows, until the `with` ends."""
        owners = [*self._edits, *self.prompts, *self._caches, *self._nudges]
        kept = [(one, m) for one in owners if isinstance(m := one.multiplier, Tensor) and m.ndim]
        try:
            for one, m in kept:
                one.multiplier = m[index.to(m.device)]
            yield
        finally:
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
