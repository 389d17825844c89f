"""The base of every experiment: its fields, and the whole life of a run.

An experiment is one file. It states its fields, what its runs hold, and how that is measured; this
class loads the model, writes the manifest first and the marker of a finished run last, and keeps
in between whatever is finished.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from steerlens.data import ContrastError, ContrastSet
from steerlens.directions.methods import DiffMean, as_method
from steerlens.experiment import manifest
from steerlens.experiment.experiment_data import (
    Data,
    ExperimentError,
    load_pairs,
    remarks_on,
    warn_of_data,
)
from steerlens.experiment.field_values import as_json, is_object, place_of, plain_fields
from steerlens.experiment.fields import (
    MethodField,
    require_at_least,
    require_examples,
    require_layers,
)
from steerlens.experiment.forecast import Forecast
from steerlens.experiment.run import PAGE, SUMMARY, Run, load_results, text_of
from steerlens.experiment.workplace import Inputs, Workplace
from steerlens.models.model import Model
from steerlens.report.page import RESERVED, page
from steerlens.results import Result, headline_of
from steerlens.sites import Site, Stream
from steerlens.store.cells import Cells
from steerlens.store.files import expanded, sha256_of, write_text
from steerlens.store.headline import write_headline
from steerlens.store.run_folder import RunFolder, is_finished

_FILES = RESERVED | {"manifest", "finished", "report", "summary", "folder", "results", "text"} | {
    "headline", "commands",
}  # fmt: skip
"""Names that no kind of result can have: files of every run, anchors of every page, fields of Run."""


@dataclass(frozen=True, kw_only=True)
class Experiment(ABC):
    """What every experiment states. A subclass adds its own fields, `results` and `measure`."""

    model: str = "reviews"
    """"reviews" (ships with steerlens), "smollm2-135m-instruct" (from a package), a local
    checkpoint folder, a GGUF file, or a name on the hub."""
    prepend_bos: bool | None = None
    """Whether texts start with BOS; None leaves it to the checkpoint."""
    contrast: str = "reviews/sentiment"
    """"reviews/<concept>", or a file of contrastive pairs: what directions are fitted on."""
    method: MethodField = DiffMean()
    """How a direction is found: a name of steerlens.directions.methods, or module:Name; with
    arguments as in "Logistic(c=0.1)"."""
    stream: Stream = "resid_post"
    """The residual stream that is read and steered."""
    layers: tuple[int, ...] | None = None
    """Layers to look at; all by default."""
    n_fit: int = 200
    """Most pairs to fit on."""
    seed: int = 0
    """Seeds the data, the splits, the controls and the sampling; nothing else is random."""
    device: str = "cpu"
    """Where the model runs."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the model's weights."""
    chat: bool = False
    """Whether each prompt is put into the model's own chat template, as the user's turn."""
    system: str | None = None
    """The text of a system turn before each prompt; with `chat`."""

    kind: ClassVar[str] = "experiment"
    """Names the folders of its runs, where no other name is given."""
    results: ClassVar[tuple[type[Result], ...]]
    """What a finished run may hold, in the order of its page."""
    parts: ClassVar[Mapping[str, str]] = {}
    """What each part of the data is for, for the page."""

    def __post_init__(self) -> None:
        if isinstance(self.system, os.PathLike):
            raise ExperimentError(
                f"system={str(self.system)!r} is a path, and the text of a turn is needed. Write "
                "system=Path(…).read_text()."
            )
        for name, value in plain_fields(self).items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "method", as_method(self.method))
        require_at_least(0, seed=self.seed)
        require_examples(n_fit=self.n_fit)
        require_layers(self.layers)
        if self.system is not None and not self.chat:
            raise ExperimentError(
                f"system={self.system!r} is the text of a turn in a chat. Set chat=True too, or "
                "write the text into the prompts."
            )

    # What a subclass writes

    def load(self, model: Model) -> Inputs:
        """What the experiment works on: by default the pairs of `contrast`, as the part "fit".

        Whatever cannot work is refused here, before anything is written.
        """
        pairs = load_pairs(self.contrast, self.n_fit, self.seed)
        return Inputs(data={"fit": self.in_chat(model, pairs)})

    def in_chat(self, model: Model, pairs: ContrastSet) -> ContrastSet:
        """The pairs in the model's chat template with `chat`, else as they are.

        Pairs of whole texts, without a prompt, have no turn of a user, and stay as they are.

        Raises:
            ExperimentError: If the model has no chat template, or it refuses the prompts.
        """
        if not self.chat or not any(pair.prompt for pair in pairs):
            return pairs
        try:
            return pairs.with_chat(model, self.system)
        except ContrastError as error:
            raise ExperimentError(f"chat=True, and {pairs.name!r}: {error}") from error

    def data_in_chat(self, model: Model, data: Data) -> Data:
        """The three parts of the data as `in_chat` gives them; ordinary texts as they are."""
        fit, choose, report = (self.in_chat(model, part) for part in data[:3])
        return data._replace(fit=fit, choose=choose, report=report)

    def forecast(self, model: Model | None = None) -> Forecast | None:
        """How long a run would take on this machine; None where the experiment does not say.

        Args:
            model: What `load_model` gave, where it is in memory.
        """
        return None

    @abstractmethod
    def measure(self, run: Workplace[Any]) -> None:
        """Computes results and keeps them: `run.compute(ProbeMap, lambda: probe(…))`.

        Called again after a kill, with the same inputs. It must give the same numbers then.
        """

    # The life of a run

    def run(
        self,
        results: Path | str = "results",
        *,
        name: str | None = None,
        progress: bool = True,
        model: Model | None = None,
    ) -> Run:
        """Measures into a folder of its own, or goes on where a killed run stopped.

        Args:
            results: The folder that holds the runs.
            name: What the run's folder is called, before its digest; by default the kind of
                experiment.
            model: What `load_model` of an experiment with the same model, device, dtype and BOS
                gave, where it is still in memory; by default it is loaded.

        Raises:
            ValueError: For data or a model that cannot be used, and for a folder that holds
                something else; nothing is written then.
            OSError: If files cannot be written, or another process works in the folder.
        """
        kinds = self._kinds()
        model = self.load_model() if model is None else self._with_sites(model)
        inputs = self.load(model)
        stated = self._stated(model, inputs)
        path = self.run_folder(results, name)
        manifest.require_same_inputs(path, stated)
        if not is_finished(path):
            with RunFolder.open(path) as folder:
                if not folder.finished:  # nor has another process just finished it
                    self._work(folder, model, inputs, stated, kinds, progress)
        return Run.load(path, kinds.values())

    def run_folder(self, results: Path | str, name: str | None = None) -> Path:
        """Where `run` with these arguments keeps what it measures."""
        return expanded(results) / f"{name or self.kind}-{self.digest}"

    def _work(
        self,
        folder: RunFolder,
        model: Model,
        inputs: Inputs,
        stated: dict[str, Any],
        kinds: dict[str, type[Result]],
        progress: bool,
    ) -> None:
        """Everything that is written, in its order."""
        path, sources = folder.path, self._sources()
        remarks = remarks_on(inputs.data)
        warn_of_data(remarks)
        if manifest.require_same_inputs(path, stated):
            manifest.warn_of_other_code(path, sources)
        else:
            more = {
                "results": {kind: place_of(of) for kind, of in kinds.items()},
                "parts": dict(self.parts),
                "defined": self.defined(),
                "device": self.device,
                "remarks": remarks,
            }
            manifest.write_manifest(path, stated, more, sources)
        folder.reopen()
        cells = Cells(path / "cells", facts={"run": manifest.digest_of(stated)}, progress=progress)
        self.measure(Workplace(model, inputs, path, cells, kinds, progress))
        found = load_results(path, kinds)
        if not found:
            raise ExperimentError(
                f"{type(self).__name__}.measure kept no result. Keep one with run.keep(result) or "
                "run.compute(Class, make)."
            )
        text = text_of(found)
        write_text(path / SUMMARY, text + "\n")
        write_headline(path, headline_of(found.values()))
        write_text(path / PAGE, page(manifest.read_manifest(path), found.values(), text))
        folder.finish()

    def _kinds(self) -> dict[str, type[Result]]:
        """The classes of results by kind, checked."""
        name, given = type(self).__name__, getattr(self, "results", ())
        kinds = {of.kind: of for of in given}
        if not kinds or len(kinds) < len(given):
            raise ExperimentError(
                f"{name}.results={given}: state the classes of what a run may hold, each of its "
                "own kind."
            )
        for kind, of in kinds.items():
            if not kind.isidentifier() or kind in _FILES or kind.startswith("_"):
                raise ExperimentError(
                    f"{of.__name__}.kind={kind!r} cannot name a result: it must be an identifier "
                    f"and none of {', '.join(sorted(_FILES))}."
                )
        return kinds

    # What identifies a run

    @property
    def digest(self) -> str:
        """Names the run: changes with every field."""
        return hashlib.sha256(json.dumps(self.fields(), sort_keys=True).encode()).hexdigest()[:10]

    def fields(self) -> dict[str, Any]:
        """Every field as JSON can hold it; a path is its name, any other object its repr.

        Raises:
            ExperimentError: If a repr names a place in memory, so that it differs in each process.
        """
        out: dict[str, Any] = {"experiment": type(self).__name__}
        for f in dataclasses.fields(self):
            out[f.name] = as_json(f.name, getattr(self, f.name))
        return out

    def defined(self) -> dict[str, str]:
        """Where the class of the experiment, and of each field that is an object, is defined."""
        out = {"experiment": place_of(type(self))}
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if is_object(value):
                out[f.name] = place_of(type(value))
        return out

    def _stated(self, model: Model, inputs: Inputs) -> dict[str, Any]:
        """Every input that decides the numbers."""
        return {
            "fields": self.fields(),
            "model": {
                "name": model.name,
                "revision": model.revision,
                "fingerprint": model.fingerprint,
                "processing": model.processing,
                "bos": model.prepend_bos,
            },
            "data": {
                part: {"name": s.name, "source": s.source, "hash": s.hash, "pairs": len(s)}
                for part, s in inputs.data.items()
            },
            **inputs.stated,
        }

    def _sources(self) -> dict[str, str]:
        """The SHA-256 of the file that defines the experiment, if it is not part of steerlens."""
        if type(self).__module__.startswith("steerlens."):
            return {}
        try:
            path = inspect.getsourcefile(type(self))
        except (TypeError, OSError):
            path = None
        return {Path(path).name: sha256_of(Path(path))} if path and Path(path).is_file() else {}

    # The model

    def load_model(self) -> Model:
        """The model, checked to have the asked layers."""
        return self._with_sites(
            Model.load(
                self.model, device=self.device, dtype=getattr(torch, self.dtype),
                prepend_bos=self.prepend_bos,
            )
        )  # fmt: skip

    def _with_sites(self, model: Model) -> Model:
        """The model, checked to have the asked layers."""
        for site in self.sites(model):
            model.require_site(site)
        return model

    def sites(self, model: Model) -> tuple[Site, ...]:
        """The sites that are looked at."""
        if self.layers is None:
            return model.sites(self.stream)
        return tuple(Site(layer, self.stream) for layer in self.layers)
