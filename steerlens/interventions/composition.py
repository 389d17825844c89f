"""Interventions made of stated changes, and how any tuple of changes is attached."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import Protocol, cast, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from steerlens.interventions.changes import (
    CacheEdit,
    Change,
    NudgeChange,
    PromptChange,
    StreamEdit,
    WeightChange,
    bare,
    factors_of,
    first_block_of,
    rows_of,
)
from steerlens.models.attached import strength_of
from steerlens.models.cache_edits import AttachedCache
from steerlens.models.exchanged import parameter_shapes
from steerlens.models.factors import GatedWeights
from steerlens.models.model import Model
from steerlens.protocols import Edit, Hookable, Strength
from steerlens.sites import Positions, Site


@runtime_checkable
class _Wide(Protocol):
    """An edit that knows how wide a stream it edits."""

    @property
    def d_model(self) -> int: ...


@dataclass(frozen=True, eq=False)
class Composition:
    """An intervention that is a tuple of changes, applied together under one multiplier.

    Its weights are exchanged for others and put back, so that what is left is the model's own to
    the last bit. With a change of weights it takes one multiplier for all rows of a batch.
    """

    made_of: tuple[Change, ...]
    label: str = "Composition"
    """What its repr says; it names the intervention in results."""

    def __post_init__(self) -> None:
        if not self.made_of:
            raise ValueError("Composition(()) changes nothing. Give at least one change.")

    def changes(self, model: Model) -> tuple[Change, ...]:
        """The changes; the same on every model that it fits."""
        return self.made_of

    @property
    def first_block(self) -> int:
        """The first block that any of the changes touches."""
        return first_block_of(self.made_of)

    @property
    def per_row(self) -> bool:
        """Whether it takes one multiplier per row of a batch: no weights are changed."""
        return rows_of(self.made_of)

    def require_fits(self, model: Model) -> None:
        """Raises ValueError if the model has no such site or parameter, or of another shape."""
        require_changes_fit(model, self.made_of, self.label)

    def attach(self, model: Hookable, multiplier: Strength) -> AbstractContextManager[None]:
        """Changes the model until the `with` ends.

        Raises:
            ValueError: If it does not fit the model.
            TypeError: If weights are changed and the multiplier is one per row.
        """
        return attached(model, self.made_of, multiplier, self.label)

    def __repr__(self) -> str:
        return self.label


class OneEdit:
    """What interventions share that are one edit at one site: by default they are that edit."""

    site: Site
    positions: Positions

    @property
    def stated(self) -> StreamEdit:
        """The one edit."""
        return StreamEdit(self.site, cast(Edit, self), self.positions)

    def changes(self, model: Model) -> tuple[Change, ...]:
        """The one edit, as all that it changes."""
        return (self.stated,)

    @property
    def first_block(self) -> int:
        """The first block that it changes."""
        return self.stated.block

    @property
    def per_row(self) -> bool:
        """True: a batch may have one multiplier per row."""
        return True

    def require_fits(self, model: Model) -> None:
        """Raises ValueError if the model has no such site, or another width."""
        require_changes_fit(model, self.changes(model), repr(self))

    def attach(self, model: Hookable, multiplier: Strength) -> AbstractContextManager[None]:
        """Changes the model until the `with` ends."""
        return attached(model, (self.stated,), multiplier, repr(self))


@dataclass(frozen=True, eq=False)
class EditAtSite(OneEdit):
    """An intervention that is one edit at one site: a `ResidualEdit` and `Composed`."""

    site: Site
    edit: Edit
    positions: Positions
    label: str = "EditAtSite"

    def __call__(
        self, resid: Float[Tensor, "batch pos d_model"], strength: Strength
    ) -> Float[Tensor, "batch pos d_model"]:
        return self.edit(resid, strength)

    @property
    def stated(self) -> StreamEdit:
        """The one edit, without this around it."""
        return StreamEdit(self.site, self.edit, self.positions)

    def __repr__(self) -> str:
        return self.label


def composed(changes: Sequence[Change], label: str) -> Composition | EditAtSite:
    """An intervention of some changes; one that is an edit at one site says so."""
    if len(changes) == 1 and isinstance(only := changes[0], StreamEdit):
        return EditAtSite(only.site, only.edit, only.positions, label)
    return Composition(tuple(changes), label)


def require_changes_fit(model: Model, changes: Sequence[Change], label: str) -> None:
    """Raises ValueError, with what does not fit, if a model cannot be changed so."""
    shapes: dict[str, tuple[int, ...]] | None = None
    for change in map(bare, changes):
        if isinstance(change, StreamEdit):
            model.require_site(change.site)
            _require_width(model, change, label)
        elif isinstance(change, WeightChange):
            shapes = parameter_shapes(model.wrapped) if shapes is None else shapes
            _require_parameter(change, shapes, model.name, label)
        elif isinstance(change, CacheEdit):
            _require_heads(model, change, label)
        elif isinstance(change, NudgeChange):
            model.require_nudges(change.nudge.site)
        elif change.entering is not None and change.entering.shape[-1] != model.d_model:
            raise ValueError(
                f"{label} has a prefix of width {change.entering.shape[-1]}, and d_model of "
                f"{model.name!r} is {model.d_model}. It was made for another model."
            )
        elif change.tokens.numel() and int(change.tokens.max()) >= model.cfg.d_vocab:
            raise ValueError(
                f"{label} has token {int(change.tokens.max())}, and {model.name!r} has "
                f"{model.cfg.d_vocab} tokens. Make it with this model's tokenizer."
            )


def _require_width(model: Model, change: StreamEdit, label: str) -> None:
    if isinstance(change.edit, _Wide) and change.edit.d_model != model.width(change.site):
        what = f"the width of {change.site}" if change.site.is_inside else "d_model"
        raise ValueError(
            f"{label} edits a stream of width {change.edit.d_model}, and {what} of {model.name!r} is "
            f"{model.width(change.site)}. It was made for another model."
        )


def _require_heads(model: Model, change: CacheEdit, label: str) -> None:
    if model.is_bridge:
        raise ValueError(
            f"{label} edits cached keys and values, which a TransformerBridge keeps as Hugging Face "
            "does, keys rotated by position. Use a HookedTransformer: Model.load(…)."
        )
    cfg = model.cfg
    shape = (cfg.n_key_value_heads or cfg.n_heads, cfg.d_head)
    for layer, vectors in [*change.keys.items(), *change.values.items()]:
        model.require_site(Site(layer))
        if tuple(vectors.shape) != shape:
            raise ValueError(
                f"{label} has vectors of shape {tuple(vectors.shape)} for layer {layer}, and the "
                f"keys and values of {model.name!r} are {shape} for each token. It was made for "
                "another model."
            )


def _require_parameter(
    change: WeightChange, shapes: dict[str, tuple[int, ...]], name: str, label: str
) -> None:
    shape = shapes.get(change.name)
    if shape is None:
        near = get_close_matches(change.name, shapes, n=6, cutoff=0.0)
        raise ValueError(
            f"{label} changes the parameter {change.name!r}, and {name!r} has none of that name. "
            f"The nearest of its {len(shapes)} are {', '.join(near)}."
        )
    if shape != change.delta.shape:
        raise ValueError(
            f"{label} changes {change.name} of shape {change.delta.shape}, and in {name!r} it has "
            f"the shape {shape}. It was made for another model."
        )


def attached(
    model: Hookable, changes: Sequence[Change], multiplier: Strength, label: str = "The changes"
) -> AbstractContextManager[None]:
    """Applies changes to a model until the `with` ends, exactly and without a trace afterwards.

    Raises:
        ValueError: If a change does not fit the model, or the multiplier is NaN or infinite.
        TypeError: If weights are changed and the multiplier is one per row.
    """
    if not isinstance(model, Model):
        raise TypeError(
            f"{label} is attached to a steerlens Model; got {type(model).__name__}. Wrap it once, "
            "model = Model(hooked), and run it through the Model inside the `with`."
        )
    multiplier = strength_of(multiplier)
    require_changes_fit(model, changes, label)
    return _attached(model, changes, multiplier, label)


@contextmanager
def _attached(
    model: Model, changes: Sequence[Change], multiplier: Strength, label: str
) -> Iterator[None]:
    weights = [change for change in changes if isinstance(change, WeightChange)]
    with ExitStack() as stack:
        if weights:
            one = one_multiplier(multiplier, label)
            if one != 0:
                stack.enter_context(model.reweighted(new_weights(weights, one)))
        for change, factors in ((bare(change), factors_of(change)) for change in changes):
            if isinstance(change, StreamEdit):
                stack.enter_context(
                    model.hooked(change.site, change.edit, change.positions, multiplier, factors)
                )
            elif isinstance(change, PromptChange):
                strength = multiplier * change.weight
                stack.enter_context(
                    model.prompted(change.tokens, strength, change.entering, factors)
                )
            elif isinstance(change, CacheEdit):
                strength = multiplier * change.weight
                stack.enter_context(
                    model.recached(
                        AttachedCache(
                            change.keys, change.values, change.positions, strength, factors
                        )
                    )
                )
            elif isinstance(change, NudgeChange):
                strength = multiplier * change.weight
                stack.enter_context(model.nudged(change.nudge, strength, factors))
            elif isinstance(change, WeightChange) and factors:
                one = one_multiplier(multiplier, label)
                if one != 0:
                    gated = GatedWeights(partial(_changed_by, change, one), factors)
                    stack.enter_context(model.attached.gated(gated))
        yield


def _changed_by(
    change: WeightChange, multiplier: float, factor: float
) -> dict[str, Callable[[Tensor], Tensor]]:
    return new_weights([change], multiplier * factor)


def one_multiplier(multiplier: Strength, label: str) -> float:
    """The one multiplier of all rows.

    Raises:
        TypeError: If the rows have several.
    """
    if not isinstance(multiplier, Tensor):
        return float(multiplier)
    if len(multiplier) and bool((multiplier == multiplier[0]).all()):
        return float(multiplier[0])
    raise TypeError(
        f"{label} changes weights, which all rows of a batch share, so it takes one multiplier "
        f"and not {len(multiplier)}. Run the rows of each multiplier as a batch of their own."
    )


def new_weights(
    changes: Sequence[WeightChange], multiplier: float
) -> dict[str, Callable[[Tensor], Tensor]]:
    """By the name of each changed parameter: its value as a function of the one that is there."""
    by_name: dict[str, list[WeightChange]] = {}
    for change in changes:
        by_name.setdefault(change.name, []).append(change)
    return {name: partial(_sum, some, multiplier) for name, some in by_name.items()}


def _sum(changes: Sequence[WeightChange], multiplier: float, weight: Tensor) -> Tensor:
    for change in changes:
        weight = change.delta.added(weight, multiplier)
    return weight
