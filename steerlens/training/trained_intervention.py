"""What training made: an intervention that saves with everything needed to attach it again."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from jaxtyping import Float
from torch import Tensor

from steerlens import forms
from steerlens.forms import Form
from steerlens.interventions.changes import Change, Composed, StreamEdit
from steerlens.models.model import Model, as_model
from steerlens.models.wrapped_state import weights_state
from steerlens.protocols import Hookable, Strength
from steerlens.results import ResultError
from steerlens.results.encoding import decode, encode, hints_of
from steerlens.sites import Positions, Site
from steerlens.store.documents import read_document, write_document
from steerlens.store.files import DamagedFile, expanded
from steerlens.store.tensors import read_with_checksum, write_tensors
from steerlens.training.training_errors import TrainingError
from steerlens.training.training_history import TrainingHistory

if TYPE_CHECKING:
    import plotly.graph_objects as go

FORMAT = "steerlens.trained/1"
KIND = "trained"
_ELSEWHERE = {"FeatureAdapter": "steerlens.saes.feature_adapter"}
"""Forms of packages that need an extra: they are imported where a file states them."""
_NOT_DECISIVE = ("path", "revision")
"""Facts in which two equal trainings may differ."""


@dataclass(frozen=True, eq=False, repr=False)
class TrainedIntervention:
    """A form with its trained parameters: an intervention for every analysis.

    It fits the model that it was trained on, and is refused on another. Multiplier 1 is what was
    trained.
    """

    form: Form
    params: dict[str, Tensor]
    intervention: Composed
    """The form's intervention at these parameters."""
    history: TrainingHistory

    @classmethod
    def of(
        cls, form: Form, model: Model, params: dict[str, Tensor], history: TrainingHistory
    ) -> TrainedIntervention:
        """A trained intervention of these parameters; a `TrainedEdit` where it edits one stream."""
        held = {name: value.detach() for name, value in params.items()}
        intervention = form.intervention(model, held)
        changes = intervention.changes(model)
        made = TrainedIntervention(form, held, intervention, history)
        if len(changes) == 1 and isinstance(edit := changes[0], StreamEdit):
            made = TrainedEdit(form, held, intervention, history, edit)
        if model.fingerprint == history.made_by["fingerprint"]:
            made._remember(model)
        return made

    @property
    def made_by(self) -> dict[str, Any]:
        """How it was trained: model, data, objective, settings."""
        return self.history.made_by

    # As an intervention

    def changes(self, model: Model) -> tuple[Change, ...]:
        """What multiplier 1 changes."""
        return self.intervention.changes(model)

    @property
    def first_block(self) -> int:
        """The first block that it changes."""
        return self.intervention.first_block

    @property
    def per_row(self) -> bool:
        """Whether it takes one multiplier per row of a batch."""
        return self.intervention.per_row

    def attach(self, model: Hookable, multiplier: Strength) -> AbstractContextManager[None]:
        """Changes the model until the `with` ends.

        Raises:
            TrainingError: If it was trained on another model.
        """
        if isinstance(model, Model) and model.wrapped not in self._known:
            self.require_fits(model)
        return self.intervention.attach(model, multiplier)

    def require_fits(self, model: Model) -> None:
        """Raises TrainingError if it was trained on another model, or under another processing.

        Weights are compared, by their fingerprint. It is computed once for each state of the weights.
        """
        model = as_model(model)
        facts, known = self.made_by, self._known.get(model.wrapped)
        if known == weights_state(model.wrapped):
            return
        if model.processing != facts["processing"]:
            raise TrainingError(
                f"{self!r} was trained under weight processing {facts['processing']!r}, and "
                f"{model.name!r} is {model.processing!r}. Load the model the same way, or train it "
                "on this one."
            )
        if (found := model.fingerprint) != facts["fingerprint"]:
            raise TrainingError(
                f"{self!r} was trained on {facts['model']!r} with weights "
                f"{facts['fingerprint'][:12]}, and {model.name!r} has {found[:12]}. Train it on this "
                "model. If other weight changes are attached now, call require_fits(model) before "
                "they are."
            )
        self._remember(model)

    @property
    def _known(self) -> WeakKeyDictionary[Any, int]:
        """The models on which its fit was found, with the state of their weights."""
        if "_models" not in self.__dict__:
            object.__setattr__(self, "_models", WeakKeyDictionary())
        return self.__dict__["_models"]

    def _remember(self, model: Model) -> None:
        self._known[model.wrapped] = weights_state(model.wrapped)

    # On disk

    def save(self, folder: Path | str) -> Path:
        """Writes `trained.safetensors`, the history, and last `trained.json` into a folder.

        Raises:
            TypeError: If the form is no dataclass of plain fields. Nothing is written then.
            StorageError: If a file cannot be written.
        """
        folder = expanded(folder)
        stated = _stated_form(self.form)
        self.history.save(folder)
        digest = write_tensors(folder / f"{KIND}.safetensors", self.params, states={"kind": KIND})
        write_document(
            folder / f"{KIND}.json",
            {"format": FORMAT, "tensors": digest, "form": stated, "made_by": self.made_by},
        )
        return folder

    @classmethod
    def load(
        cls, folder: Path | str, model: Any, *, form: Form | None = None
    ) -> TrainedIntervention:
        """Reads what `save` wrote, for the model that it was trained on.

        Args:
            form: The form, where it is one of your own; a file cannot name code to run.

        Raises:
            TrainingError: If the folder holds none, a file is damaged, the form is not known, or it
                was trained on another model.
            StorageError: If a file cannot be read.
        """
        folder, model = expanded(folder), as_model(model)
        try:
            described = read_document(folder / f"{KIND}.json")
            if described.get("format") != FORMAT:
                raise TrainingError(
                    f"{folder / KIND}.json is of format {described.get('format')!r:.60}, and this "
                    f"steerlens reads {FORMAT!r}. Update steerlens, or train again."
                )
            params, digest = read_with_checksum(folder / f"{KIND}.safetensors", {"kind": KIND})
            if described["tensors"] != digest:
                raise DamagedFile(f"The files in {folder} are of different trained interventions.")
            history = TrainingHistory.load(folder)
            if history.made_by != described["made_by"]:
                raise DamagedFile(f"The history in {folder} is of another training.")
            given = _form_of(described["form"], form)
        except FileNotFoundError as error:
            raise TrainingError(
                f"{folder} holds no trained intervention ({error.filename} is missing). Save one "
                "there, or train with folder=… again: it goes on where it stopped."
            ) from None
        except (DamagedFile, ResultError, KeyError, TypeError) as error:
            raise TrainingError(
                f"The trained intervention in {folder} cannot be read: {error} Save it again, or "
                "train again."
            ) from error
        _require_model(described["made_by"], model, folder)
        return cls.of(given, model, params, history)

    def require_same(self, facts: dict[str, Any]) -> None:
        """Raises TrainingError if it was trained in another way."""
        mine = {name: str(value) for name, value in self.made_by.items()}
        theirs = {name: str(value) for name, value in facts.items()}
        names = [
            name
            for name in sorted({*mine, *theirs})
            if name not in _NOT_DECISIVE and mine.get(name) != theirs.get(name)
        ]
        if names:
            differing = ", ".join(
                f"{name} {mine.get(name, 'nothing')!r:.60} instead of "
                f"{theirs.get(name, 'nothing')!r:.60}"
                for name in names
            )
            raise TrainingError(
                f"The folder holds another training: {differing}. Give another folder for this one."
            )

    # In words and pictures

    def plot(self) -> go.Figure:
        """The learning curve."""
        return self.history.plot()

    def summary(self) -> str:
        """What was trained on what, and how far the loss fell."""
        facts = self.made_by
        return (
            f"{self.form!r} of {facts['model']!r}, trained on {facts['pairs']} pairs of "
            f"{facts['data_name']!r}\n{self.history.summary()}"
        )

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        return self.plot()._repr_mimebundle_(include, exclude)

    def __repr__(self) -> str:
        return f"Trained({self.form!r} by {self.made_by['objective']})"


@dataclass(frozen=True, eq=False, repr=False)
class TrainedEdit(TrainedIntervention):
    """A trained edit of one stream, which analyses compute from shared work (a `ResidualEdit`)."""

    edit: StreamEdit
    """All that it changes."""

    @property
    def site(self) -> Site:
        return self.edit.site

    @property
    def positions(self) -> Positions:
        return self.edit.positions

    def __call__(
        self, resid: Float[Tensor, "batch pos d_model"], strength: Strength
    ) -> Float[Tensor, "batch pos d_model"]:
        return self.edit.edit(resid, strength)


def _stated_form(form: Form) -> dict[str, Any]:
    if not is_dataclass(form) or isinstance(form, type):
        raise TypeError(
            f"{form!r:.80} is no dataclass, so it is not known how to make it again. Write "
            "@dataclass(frozen=True) above its class."
        )
    tensors: dict[str, Tensor] = {}
    stated = encode(form, type(form), "form", tensors)
    if tensors:
        raise TypeError(
            f"{form!r:.80} holds tensors ({', '.join(tensors)}). Let `begin` make what is trained."
        )
    return {"class": type(form).__name__, "fields": stated}


def _form_of(stated: Any, given: Form | None) -> Form:
    """The form that a file states: one of steerlens's own, or the given one if it is the same."""
    name, values = stated["class"], stated["fields"]
    if given is not None:
        if _stated_form(given) != stated:
            raise TrainingError(
                f"The file states a form {name} with {values}, and form={given!r:.200} is another. "
                "Give the form that was trained."
            )
        return given
    made: Any = getattr(forms, name, None) if isinstance(name, str) else None
    if made is None and name in _ELSEWHERE:
        made = getattr(import_module(_ELSEWHERE[name]), name)
    if not (isinstance(made, type) and is_dataclass(made)):
        raise TrainingError(
            f"The file states a form {name!r:.60}, which steerlens does not have. If it is one of "
            "your own, give it: TrainedIntervention.load(folder, model, form=MyForm(…))."
        )
    hints = hints_of(made)
    if unknown := sorted(values.keys() - {f.name for f in fields(made)}):
        raise TypeError(f"{name} has no field {unknown[0]!r}.")
    form: Any = made(**{key: decode(value, hints[key], key, {}) for key, value in values.items()})
    return form


def _require_model(facts: dict[str, Any], model: Model, folder: Path) -> None:
    same = ("fingerprint", "processing")
    differing = [name for name in same if model.facts[name] != facts[name]]
    if differing:
        raise TrainingError(
            f"What is in {folder} was trained on {facts['model']!r}, and this is {model.name!r}: "
            f"their {' and '.join(differing)} {'differ' if len(differing) > 1 else 'differs'} "
            f"({', '.join(f'{facts[n]} and {model.facts[n]}' for n in differing)}). Load it for the "
            "model that it was trained on, or train it on this one."
        )
