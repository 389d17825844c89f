"""Whether a direction fits a model: its site, its width, its basis, and on which model it was made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from steerlens.directions import Direction, DirectionError
from steerlens.sites import Site


@dataclass(frozen=True, eq=False)
class Fitting:
    """What one model states about itself, against which directions are checked."""

    name: str
    revision: str | None
    processing: str
    """Weight processing of its residual basis."""
    dtype: str
    width: Callable[[Site], int]
    """How wide a site is; raises ValueError if the model has no such site."""
    fingerprint: Callable[[], str]
    """Computes the hash of its weights, which takes a while."""

    def require(self, direction: Direction) -> None:
        """Raises if a direction does not fit: its site, its width or its basis.

        Raises:
            ValueError: If the model has no such site.
            DirectionError: If the width or the weight processing differs.
        """
        width, name = self.width(direction.site), "width" if direction.site.is_inside else "d_model"
        if direction.vector.shape[0] != width:
            raise DirectionError(
                f"The direction has {name}={direction.vector.shape[0]} and {self.name!r} has "
                f"{width}: it was made on another model ({direction.model or 'not stated'}). "
                "Fit it on this one."
            )
        if direction.processing is not None and direction.processing != self.processing:
            raise DirectionError(
                f"The direction was made under weight processing {direction.processing!r} and "
                f"{self.name!r} is {self.processing!r}: the residual bases differ. Where it is "
                f"exact, convert it: direction.converted({self.processing!r}); else load the model "
                "the same way, or fit the direction on this one."
            )

    def adopt(self, direction: Direction, *, other_weights: bool = False) -> Direction:
        """The direction for this model: checked, and converted where that is exact.

        Raises:
            DirectionError: If the direction was made on another model (unless `other_weights`), does
                not state under which weight processing it was made, or cannot be converted exactly.
        """
        if direction.processing is None:
            raise DirectionError(
                f"The direction at {direction.site} does not state under which weight processing "
                f"it was made, so it is not known to fit {self.name!r} ({self.processing!r}). "
                "State it: dataclasses.replace(direction, processing='raw')."
            )
        if not other_weights:
            self._require_origin(direction)
        if direction.processing != self.processing:
            direction = direction.converted(self.processing)
        self.require(direction)
        return direction

    def _require_origin(self, direction: Direction) -> None:
        """Raises if the direction states that it was made on another model.

        Weights are compared where both were stored alike; converted or cast ones have another
        fingerprint, and then the names and revisions decide.
        """
        same = direction.processing == self.processing and direction.converted_from is None
        if same and direction.fingerprint and direction.dtype in ("", self.dtype):
            differs = direction.fingerprint != (mine := self.fingerprint())
            what, theirs = "weights", direction.fingerprint
        elif direction.model and direction.model != self.name:
            differs, what, theirs, mine = True, "name", direction.model, self.name
        else:
            what, theirs, mine = "revision", direction.revision, self.revision
            differs = bool(theirs and mine and theirs != mine)
        if differs:
            raise DirectionError(
                f"The direction was made on {direction.model or 'a model without a name'!r} and "
                f"this is {self.name!r}: their {what} differ ({theirs} and {mine}). Fit it on this "
                "model, or say that it is meant: model.adopt(direction, other_weights=True)."
            )
