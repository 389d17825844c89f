"""`Direction`: a vector at a site, with the facts about its origin and its intended use."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol, SupportsFloat, SupportsIndex, get_args, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from steerlens.arguments import ArgumentError, as_float, as_int
from steerlens.directions import basis, direction_facts
from steerlens.directions.direction_errors import DirectionError
from steerlens.directions.direction_facts import Operation
from steerlens.directions.top_tokens import TopTokens, Unembeds
from steerlens.sites import Positions, Site, as_positions, as_site
from steerlens.store.files import expanded, require_file, write_bytes
from steerlens.units import StrengthUnit, require_unit

FORMAT = "steerlens.directions/2"
OLDER = ("steerlens.directions/1",)
"""Older formats that can still be read; they state fewer facts."""

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
"""The types in which a vector may be stored."""


@runtime_checkable
class Adopter(Protocol):
    """A model that checks whether a direction was made for it: `Model`."""

    def adopt(self, direction: Direction) -> Direction: ...


@dataclass(frozen=True, eq=False)
class Direction:
    """A vector at a site of the residual stream, with all facts that its use depends on.

    It does not have unit length in general; `unit()` gives it. NumPy arrays and numbers, the number
    of a layer, the name of a hook, and the name of a rule become what the fields below say.

    Raises:
        DirectionError: If the vector is not one axis of finite numbers, is zero, or a fact has the
            wrong type or an impossible value.
    """

    vector: Float[Tensor, " d_model"]
    site: Site
    method: str = "given"
    """The method that found it, as its repr."""
    resid_norm: float | None = None
    """Median norm of the residual stream at the site over ordinary tokens: the strength unit."""
    projection_std: float | None = None
    """Standard deviation of the fitted activations along the direction: another strength unit."""
    processing: str | None = None
    """Weight processing of the model it was made on ("raw", "fold_ln", …); None if unknown."""
    read_at: str = ""
    """The position rule with which the activations were read."""
    model: str = ""
    fingerprint: str = ""
    """Content hash of the model's weights."""
    data: str = ""
    """Content hash of the contrast set."""
    pairs: int = 0
    operation: Operation = "add"
    """The intervention that it is made for. Other interventions along it are possible as well."""
    apply_at: Positions | None = None
    """The tokens at which it is to be applied; None if unknown."""
    strength_unit: StrengthUnit | None = None
    """The intended unit of `Add`'s multiplier; by default the stream's norm, if that is known."""
    value: float | None = None
    """The projection that a clamp sets, in units of the stream."""
    dtype: str = ""
    """Precision of the model with which it was made, e.g. "float32"."""
    revision: str = ""
    """Revision of the model on the hub."""
    converted_from: str | None = None
    """The weight processing it was made under, if it was converted to another one. The strength
    units are converted with it, so that a multiplier keeps its effect, not measured again."""

    def __post_init__(self) -> None:
        self._normalise()
        require_vector(self.vector, "A direction")
        wide = self.vector.float()
        if not bool(torch.isfinite(wide).all()):
            raise DirectionError(
                f"The direction at {self.site} holds NaN or infinite numbers, so steering with it "
                "would destroy the stream. Look for overflow (float16?) or empty examples."
            )
        if not bool(wide.any()):
            raise DirectionError(
                f"The direction at {self.site} is all zeros, so adding it has no effect. "
                "The two sides of the contrast were equal at the tokens that were read. "
                "Read where they differ, e.g. Positions.answer()."
            )
        for name, unit in (
            ("resid_norm", self.resid_norm),
            ("projection_std", self.projection_std),
        ):
            if unit is not None and not (unit > 0 and math.isfinite(unit)):
                raise DirectionError(
                    f"{name}={unit} of the direction at {self.site} cannot be a unit of strength. "
                    "Give a positive number, or None where it is not known."
                )
        if self.strength_unit is None and self.resid_norm is not None:
            object.__setattr__(self, "strength_unit", "resid_norm")  # as in Add
        if (self.operation == "clamp") != (self.value is not None):
            raise DirectionError(
                f"operation={self.operation!r} with value={self.value}: a clamp moves the "
                "projection to a value, and other operations have none. Give both or neither."
            )
        if self.value is not None and not math.isfinite(self.value):
            raise DirectionError(
                f"value={self.value} would fill the stream with NaN. Give a finite number."
            )

    def _normalise(self) -> None:
        """Makes plain Python of NumPy and torch numbers, and sites and rules of their names.

        Raises:
            DirectionError: If a fact has another type.
        """
        facts: dict[str, Any] = {}
        try:
            if isinstance(self.vector, np.ndarray):
                facts["vector"] = torch.tensor(self.vector)
            facts["site"] = as_site(self.site)
            facts["pairs"] = as_int("pairs", self.pairs, least=0)
            for name in ("resid_norm", "projection_std", "value"):
                number = getattr(self, name)
                facts[name] = None if number is None else as_float(name, number, finite=False)
            if self.apply_at is not None:
                facts["apply_at"] = as_positions(self.apply_at)
            if self.strength_unit is not None:
                require_unit(self.strength_unit)
        except (ArgumentError, TypeError) as error:  # a TypeError is NumPy's or torch's
            raise DirectionError(f"This is not a fact of a direction: {error}") from error
        if self.operation not in get_args(Operation):
            raise DirectionError(
                f"operation={self.operation!r:.80} is not something that a direction can be for. "
                f"Use one of {', '.join(get_args(Operation))}."
            )
        for name in direction_facts.TEXTS:
            text = getattr(self, name)
            if not isinstance(text, str) and not (text is None and name in direction_facts.OPEN):
                raise DirectionError(
                    f"{name}={text!r:.80} of a direction is not text. Write e.g. {name}='…', or "
                    "str(…) of what it is."
                )
        for name, value in facts.items():
            object.__setattr__(self, name, value)

    @property
    def norm(self) -> float:
        """Euclidean length, in the units of the residual stream."""
        return float(self.vector.norm())

    def unit(self) -> Direction:
        """The direction with length 1."""
        return replace(self, vector=self.vector / self.vector.norm())

    def __neg__(self) -> Direction:
        return self * -1.0

    def __mul__(self, factor: SupportsFloat) -> Direction:
        number = as_float("factor", factor)
        # A clamp sets the projection on the unit vector, whose sign changes with the factor's.
        value = None if self.value is None else math.copysign(1, number) * self.value
        return replace(self, vector=self.vector * number, value=value)

    __rmul__ = __mul__
    __array_ufunc__ = None  # so that NumPy leaves `numpy_number * direction` to `__rmul__`

    def __add__(self, other: Direction) -> Direction:
        if other.site != self.site:
            raise DirectionError(
                f"Cannot add a direction at {other.site} to one at {self.site}: they belong to "
                "different streams. Attach both interventions, one inside the other."
            )
        self._require_same_width(other)
        if None not in (both := {self.processing, other.processing}) and len(both) > 1:
            raise DirectionError(
                f"Cannot add a direction made under weight processing {other.processing!r} to one "
                f"under {self.processing!r}. Convert one: other.converted({self.processing!r})."
            )
        if self.operation != "add" or other.operation != "add":
            raise DirectionError(
                f"Cannot add directions that are made to {self.operation} and {other.operation}: "
                "the sum of two vectors has the effect of both only if both are added. Attach "
                "both interventions, e.g. with Together."
            )
        return replace(
            self,
            vector=self.vector + other.vector,
            method=f"{self.method} + {other.method}",
            projection_std=None,
        )

    def cosine(self, other: Direction) -> float:
        """Cosine of the angle to another direction, in [-1, 1]."""
        self._require_same_width(other)
        return float(torch.cosine_similarity(self.vector, other.vector, dim=0))

    def top_tokens(self, model: Unembeds, k: SupportsIndex = 10) -> TopTokens:
        """The tokens that the direction raises and lowers most: its logit lens.

        Args:
            model: The `Model` that it was made on.
            k: Tokens of each end.

        Raises:
            ValueError: If the direction does not fit the model.
            TypeError: If it is no `Model`.

        Source: the logit lens (nostalgebraist, 2020), of a direction instead of a stream: the final
        norm without its bias, and the unembedding.
        """
        if not isinstance(model, Unembeds):
            raise TypeError(
                f"top_tokens reads the direction by a steerlens Model; got {type(model).__name__}. "
                "Wrap it: Model(hooked)."
            )
        model.require(self)
        return TopTokens.of_vector(self.vector, model, as_int("k", k, least=1), repr(self))

    def _require_same_width(self, other: Direction) -> None:
        if len(self.vector) != len(other.vector):
            raise DirectionError(
                f"The directions have d_model {len(self.vector)} and {len(other.vector)}: they "
                "belong to different models. Use directions of one model."
            )

    # Between weight processings

    def converted(self, to: str) -> Direction:
        """The direction with the same effect on the model under another weight processing.

        For adding, the conversion is exact in both directions. To centred writing weights the
        vector loses its mean, which every LayerNorm subtracts in any case, and `resid_norm` and
        `projection_std` shrink in proportion, so that a multiplier keeps its effect in each unit (a
        length given as a number does not). Ablating and clamping read the stream along the vector,
        and a centred stream has no mean: the conversion is exact only if the vector has none.

        Args:
            to: Weight processing as in `Model.processing`, e.g. "fold_ln".

        Raises:
            DirectionError: If the conversion is not exact, or one of the two is not known.
        """
        if self.processing is None:
            raise DirectionError(
                f"The direction at {self.site} does not state under which weight processing it was "
                f"made, so it cannot be converted to {to!r}. State it: "
                "dataclasses.replace(direction, processing='raw')."
            )
        before, after = basis.is_centred(self.processing), basis.is_centred(to)
        if to == self.processing:
            return self
        if self.site.is_inside:
            raise DirectionError(
                f"The direction is at {self.site}, inside a sublayer, where folding changes what "
                f"heads and neurons hold: it is not converted from {self.processing!r} to {to!r}. "
                f"Load the model as {self.processing!r}, or fit the direction on this one."
            )
        origin = self.converted_from or self.processing
        moved = replace(self, processing=to, converted_from=None if origin == to else origin)
        if before == after or not basis.has_mean(self.vector):
            return moved
        if self.operation != "add":
            raise DirectionError(
                f"The direction at {self.site} is made to {self.operation}, and its vector has a "
                f"mean, so there is no exact conversion between {self.processing!r} and {to!r}: "
                "one stream has a mean and the other has none. Load the model as "
                f"{self.processing!r}, or fit the direction on this one."
            )
        if before:
            return moved
        vector = basis.without_mean(self.vector)
        if float(vector.norm()) <= basis.ROUNDING * self.norm:
            raise DirectionError(
                f"The direction at {self.site} is constant over d_model, and every LayerNorm "
                "subtracts the constant, so it has no effect on this model. Fit another direction."
            )
        kept = float(vector.norm()) / self.norm
        return replace(
            moved,
            vector=vector,
            resid_norm=None if self.resid_norm is None else self.resid_norm * kept,
            projection_std=None if self.projection_std is None else self.projection_std * kept,
        )

    def require_operation(self, operation: Operation) -> None:
        """Raises DirectionError if the direction was converted so that only adding is exact."""
        if operation == "add" or self.converted_from is None or self.processing is None:
            return
        # A conversion is exact for ablating if and only if it is exact for clamping.
        if self.operation == "add" and basis.is_centred(self.processing) != basis.is_centred(
            self.converted_from
        ):
            raise DirectionError(
                f"The direction at {self.site} was converted from {self.converted_from!r} to "
                f"{self.processing!r} so that adding it keeps its effect; to {operation} along it "
                f"does not. Load the model as {self.converted_from!r}, or state the operation "
                f"before the conversion: replace(direction, operation={operation!r})."
            )

    # On disk

    def facts(self) -> dict[str, Any]:
        """All fields but the vector."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "vector"}

    def save(self, path: Path | str) -> Path:
        """Writes a safetensors file with the vector and all facts, atomically.

        Raises:
            StorageError: If it cannot be written.
        """
        vector = self.vector.detach().cpu().contiguous()
        stated = direction_facts.to_json(self.facts())
        meta = {"format": FORMAT, "direction": stated, "sha256": _checksum(stated, vector)}
        return write_bytes(expanded(path), save({"vector": vector}, metadata=meta))

    @classmethod
    def load(cls, path: Path | str, model: Adopter | None = None) -> Direction:
        """Reads a file written by `save`.

        Args:
            model: The model to use it on. A direction of another model is refused; one made under
                another weight processing is converted if that is exact.

        Raises:
            DirectionError: If the file is damaged, lacks the facts, or does not fit the model.
            StorageError: If the path is not that of a regular file, or it cannot be read.
            FileNotFoundError: If there is no such file.
        """
        path = require_file(path)
        try:
            with safe_open(path, framework="pt") as file:
                meta = file.metadata() or {}
                vector = file.get_tensor("vector") if "vector" in file.keys() else None  # noqa: SIM118
        except SafetensorError as error:
            raise DirectionError(
                f"{path} is not a readable safetensors file: {error}. Copy or save it again."
            ) from error
        if vector is None or "direction" not in meta or meta.get("format") not in (FORMAT, *OLDER):
            raise DirectionError(
                f"{path} does not say at which site, in which basis and how it was made "
                f"(format {meta.get('format')!r:.80}, expected {FORMAT!r}). Vectors from other "
                "software are read by steerlens.directions.exchange, with the facts as arguments: "
                "exchange.plain.load(path, site=Site(layer), processing='raw', model='name')."
            )
        require_vector(vector, str(path))
        direction = cls(vector=vector, **direction_facts.from_json(meta["direction"], str(path)))
        if meta["format"] == FORMAT and meta.get("sha256") != _checksum(meta["direction"], vector):
            raise DirectionError(
                f"{path} is damaged or was edited: its checksum does not match its content. "
                "Save the direction again."
            )
        return direction if model is None else model.adopt(direction)

    def __repr__(self) -> str:
        parts = [f"{self.method} at {self.site}", f"norm {self.norm:.3g}"]
        if self.resid_norm is not None:
            parts.append(f"{self.norm / self.resid_norm:.2g} of the median residual norm")
        if self.operation != "add":
            parts.append(f"to {self.operation}")
        return f"Direction({', '.join(parts)})"


def require_vector(vector: Tensor, source: str) -> Tensor:
    """The vector, if it is one axis of floating point numbers.

    Raises:
        DirectionError: If it is not.
    """
    if not isinstance(vector, Tensor):
        raise DirectionError(
            f"{source} must be one axis (d_model) of floating point numbers; got "
            f"{type(vector).__name__}. Pass a tensor or a NumPy array: torch.tensor([…])."
        )
    if vector.ndim != 1 or vector.dtype not in DTYPES:
        raise DirectionError(
            f"{source} must be one axis (d_model) of floating point numbers; got shape "
            f"{tuple(vector.shape)} of {vector.dtype}. Pass one row of it as floats: tensor.float()."
        )
    return vector


def _checksum(stated: str, vector: Tensor) -> str:
    found = hashlib.sha256(f"{stated} {vector.dtype} {tuple(vector.shape)} ".encode())
    found.update(vector.contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
