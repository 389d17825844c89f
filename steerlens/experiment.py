"""Experiments as values: every input that changes the numbers, frozen, hashed, and resumable.

An experiment is the arguments of the functions below it, and holds no logic of its own. `run()`
puts everything into one folder: the manifest first, then activations and cells as they are
finished, then results and a report page. A killed run goes on where it was.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.metadata
import itertools
import json
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, get_args

import torch
import tyro
from torch import Tensor

from steerlens import methods, report
from steerlens.contrast import ContrastPair, ContrastSet
from steerlens.files import write_text
from steerlens.generation import DoseResponse, dose_response
from steerlens.interventions.residual import Add, Unit
from steerlens.mapping import BUDGET, MULTIPLIERS, check_multipliers, steerability
from steerlens.methods import DiffMean, Logistic
from steerlens.model import Model
from steerlens.probing import probe
from steerlens.protocols import Method
from steerlens.results import ProbeMap, ResultError, SteerabilityMap
from steerlens.sites import Positions, Rule, Site, Stream
from steerlens.store import ActivationStore
from steerlens.tensors import DamagedFile, read_tensors, write_tensors
from steerlens.testbed import reviews

WORLD = "reviews/"
"""Contrasts of the reference world are named "reviews/sentiment", "reviews/register", …"""


LAST = {"ProbingExperiment": ("probe",), "SteerabilityExperiment": ("probe", "map")}
"""What a finished run of each kind has written."""


class ExperimentError(ValueError):
    """An experiment that cannot be run as it is written."""


def method_named(name: str) -> Method:
    """A method by name: one of steerlens's, or `module:Name` for anybody else's.

    >>> method_named("DiffMean")
    DiffMean()
    """
    module, _, attribute = name.rpartition(":")
    try:
        found = getattr(importlib.import_module(module) if module else methods, attribute)
    except (ImportError, AttributeError) as error:
        known = ", ".join(sorted(n for n in vars(methods) if n[0].isupper()))
        raise ExperimentError(
            f"There is no method {name!r} ({error}). Use one of {known}, or module:Name."
        ) from error
    return found() if isinstance(found, type) else found


# What the command line makes of a method: its name.
MethodField = Annotated[
    Method,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="NAME|MODULE:NAME",
        instance_from_str=lambda given: method_named(given[0]),
        is_instance=lambda instance: isinstance(instance, Method),
        str_from_instance=lambda instance: [type(instance).__name__],
    ),
]


class Data(NamedTuple):
    """Three parts that share no question, and ordinary texts for the cost."""

    fit: ContrastSet
    choose: ContrastSet
    report: ContrastSet
    neutral: list[str]


def load_data(
    contrast: str, questions: str | None, sizes: tuple[int, int, int], n_neutral: int, seed: int
) -> Data:
    """The three parts of an experiment's data.

    Args:
        contrast: "reviews/<concept>", or a file that `ContrastSet.load` reads. Directions are
            fitted on it.
        questions: A second file, whose prompts are scored; None to split `contrast` in three.
        sizes: Most pairs to fit, choose and report on.

    Raises:
        ContrastError: If a file cannot be read or has too few questions.
        ExperimentError: If nothing in the data has a prompt with two answers.
    """
    if contrast.startswith(WORLD):
        return _from_the_world(contrast.removeprefix(WORLD), sizes, n_neutral, seed)
    pairs = ContrastSet.load(contrast)
    if questions is None:
        if not all(pair.prompt for pair in pairs):
            raise ExperimentError(
                f"The pairs of {contrast} are texts without a prompt: they can fit a direction, but "
                "have no question whose answers could be scored. Give questions=<file> as well."
            )
        parts = pairs.split(seed)
    else:
        asked = ContrastSet.load(questions)
        known = {text for p in pairs for text in (*p.keys, p.prompt, p.positive, p.negative)}
        fresh = _without(asked, known)
        parts = (pairs, *fresh.halved(seed))
    fit, choose, held = (
        part.subset(min(n, len(part)), seed) for part, n in zip(parts, sizes, strict=True)
    )
    neutral = [pair.prompt + pair.positive for pair in (*choose, *held)]
    return Data(fit, choose, held, neutral[:n_neutral])


def load_pairs(contrast: str, n: int, seed: int) -> ContrastSet:
    """What `load_data` fits on, where nothing needs to be scored."""
    if contrast.startswith(WORLD):
        fit = reviews.contexts(contrast.removeprefix(WORLD), n, seed=3 * seed)
        return dataclasses.replace(fit, name=f"{contrast.removeprefix(WORLD)} in reviews")
    pairs = ContrastSet.load(contrast)
    return pairs.subset(min(n, len(pairs)), seed)


def _from_the_world(concept: str, sizes: tuple[int, int, int], n_neutral: int, seed: int) -> Data:
    fit = load_pairs(WORLD + concept, sizes[0], seed)
    asked = sum(sizes[1:])
    known = {text for pair in fit for text in (pair.positive, pair.negative)}
    fresh = _without(reviews.questions(concept, 3 * asked, seed=3 * seed + 1), known)
    pairs = fresh.pairs[:asked]
    return Data(
        fit,
        dataclasses.replace(fresh, name=fit.name, pairs=pairs[: sizes[1]]),
        dataclasses.replace(fresh, name=fit.name, pairs=pairs[sizes[1] :]),
        reviews.neutral_texts(n_neutral, seed=3 * seed + 2),
    )


def _without(asked: ContrastSet, known: set[str]) -> ContrastSet:
    """The questions, each prompt once, that no known text gives away."""
    kept: dict[str, ContrastPair] = {}
    for pair, group in zip(asked.pairs, asked.groups, strict=True):
        if group not in known and pair.prompt not in known:
            kept.setdefault(pair.prompt, pair)
    return dataclasses.replace(asked, pairs=tuple(kept.values()))


@dataclass(frozen=True, kw_only=True)
class _Experiment:
    """What every experiment states."""

    model: str = "reviews"
    """"reviews" (ships with steerlens), a local checkpoint folder, or a name on the hub."""
    contrast: str = "reviews/sentiment"
    """"reviews/<concept>", or a file of contrastive pairs: what directions are fitted on."""
    method: MethodField = DiffMean()
    """How a direction is found: a name of steerlens.methods, or module:Name."""
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

    kind: ClassVar[str] = "experiment"

    def __post_init__(self) -> None:
        least = {"seed": 0, "samples": 0, "new_tokens": 2, "budget": 0}
        for name, bound in least.items():
            if getattr(self, name, bound) < bound:
                raise ExperimentError(
                    f"{name}={getattr(self, name)} is below the least that makes sense, {bound}."
                )
        if getattr(self, "n_neutral", 4) < 4:
            raise ExperimentError(
                "n_neutral: at least 4 ordinary texts are needed, half of them to report on."
            )
        for name in ("n_fit", "n_choose", "n_report"):
            if getattr(self, name, 2) < 2:
                raise ExperimentError(
                    f"{name}={getattr(self, name)}: an interval needs at least two examples."
                )
        if self.layers is not None and (not self.layers or min(self.layers) < 0):
            raise ExperimentError(
                f"layers={self.layers}: name at least one layer, counted from 0; or None for all."
            )

    @property
    def digest(self) -> str:
        """Names the run: changes with every field."""
        return hashlib.sha256(json.dumps(self.fields(), sort_keys=True).encode()).hexdigest()[:10]

    def fields(self) -> dict[str, Any]:
        """Every field as JSON can hold it; a method is its repr."""
        out = {"experiment": type(self).__name__}
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            out[f.name] = repr(value) if f.name == "method" else value
        return out

    def load_model(self) -> Model:
        """The model, checked to have the asked layers."""
        model = Model.load(self.model, device=self.device, dtype=getattr(torch, self.dtype))
        for site in self.sites(model):
            model.require_site(site)
        return model

    def sites(self, model: Model) -> tuple[Site, ...]:
        """The sites that are looked at."""
        if self.layers is None:
            return model.sites(self.stream)
        return tuple(Site(layer, self.stream) for layer in self.layers)


@dataclass(frozen=True)
class Run:
    """A finished run: where it is, and what came out."""

    folder: Path
    manifest: dict[str, Any]
    probe: ProbeMap | None = None
    map: SteerabilityMap | None = None
    samples: DoseResponse | None = None

    @property
    def page(self) -> Path:
        """The report page."""
        return self.folder / "report.html"

    @classmethod
    def load(cls, folder: Path | str) -> Run:
        """Reads a finished run.

        Raises:
            ResultError: If the folder is not one, or the run in it was not finished.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        if not is_finished(folder, manifest):
            raise ResultError(
                f"The run in {folder} is not finished. Run the experiment again: it goes on where "
                "it stopped."
            )
        mapped = (folder / "map.json").exists()
        return cls(
            folder=folder,
            manifest=manifest,
            probe=ProbeMap.load(folder),
            map=SteerabilityMap.load(folder) if mapped else None,
            samples=_load_samples(folder) if (folder / "samples.json").exists() else None,
        )

    def summary(self) -> str:
        """What was found, in a few lines."""
        lines = []
        if self.map is not None:
            lines.append(self.map.summary())
        if self.probe is not None:
            best = self.probe.sites.index(self.probe.best)
            value, low, high = (float(x[best]) for x in self.probe.auroc_interval)
            control = self.probe.control_auroc
            lines.append(
                f"  probe           best at {self.probe.best}: AUROC {value:.3f} "
                f"[{low:.3f}, {high:.3f}]; shuffled labels {float(control.min()):.2f} to "
                f"{float(control.max()):.2f}"
            )
        lines.append(f"  report          {self.page}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return self.summary()

    def _repr_html_(self) -> str:
        return f"<pre>{self.summary()}</pre>"


@dataclass(frozen=True, kw_only=True)
class ProbingExperiment(_Experiment):
    """At which layers can a contrast be read? Cross-validated by question, with a control."""

    folds: int = 5
    """Folds of the cross-validation."""
    controls: int = 5
    """Repetitions with shuffled labels."""
    method: MethodField = Logistic()
    """How the probe's direction is fitted."""

    kind: ClassVar[str] = "probing"

    def run(
        self, results: Path | str = "results", *, name: str | None = None, progress: bool = True
    ) -> Run:
        """Reads, probes, and writes a folder with results and a report page."""
        model = self.load_model()
        pairs = load_pairs(self.contrast, self.n_fit, self.seed)
        folder = _begin(self, model, {"fit": pairs}, results, name)
        store = ActivationStore(folder / "activations")
        read = store.activations(model, pairs, self.sites(model), progress=progress)
        found = probe(
            read, self.method, folds=self.folds, controls=self.controls, seed=self.seed,
            progress=progress,
        )  # fmt: skip
        named = {**found.made_by, "data_name": pairs.name}
        dataclasses.replace(found, made_by=named).save(folder)
        return _finish(folder)


@dataclass(frozen=True, kw_only=True)
class SteerabilityExperiment(_Experiment):
    """Which layers respond to steering towards a contrast, how strongly, and at what cost?"""

    questions: str | None = None
    """A file of prompts with two answers to score; None takes them from `contrast`."""
    multipliers: tuple[float, ...] = MULTIPLIERS
    """Steering strengths, in `unit`s; with 0."""
    unit: Unit = "resid_norm"
    """What multiplier 1 adds: the median residual norm at the layer ("resid_norm"), the direction
    as fitted ("direction"), or a standard deviation along it ("projection_std")."""
    positions: Rule = "from_prompt_end"
    """Which tokens are steered."""
    budget: float = BUDGET
    """KL to the unsteered model that steering may cost, in nats per token of ordinary text."""
    nulls: int = 20
    """Maps of nothing, of either kind; at least 19 for a threshold at 5%."""
    n_choose: int = 64
    """Most questions to choose the cell on."""
    n_report: int = 64
    """Most questions to report on."""
    n_neutral: int = 32
    """Most ordinary texts for the cost; half choose and half report."""
    samples: int = 3
    """Prompts that are continued at several strengths, for the report."""
    new_tokens: int = 16
    """Tokens written for each sample."""

    kind: ClassVar[str] = "steerability"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_multipliers(self.multipliers)
        if self.positions not in get_args(Rule) or self.positions in ("answer", "span"):
            raise ExperimentError(
                f"positions={self.positions!r} cannot be steered by name. "
                "Use all, last, from_prompt_end or generated."
            )
        if self.nulls < 19:
            raise ExperimentError(f"nulls={self.nulls}: a threshold at 5% needs at least 19.")

    def run(
        self, results: Path | str = "results", *, name: str | None = None, progress: bool = True
    ) -> Run:
        """Reads, fits, sweeps, chooses, reports, and writes a folder with a report page."""
        model = self.load_model()
        data = load_data(
            self.contrast, self.questions, (self.n_fit, self.n_choose, self.n_report),
            self.n_neutral, self.seed,
        )  # fmt: skip
        parts = {"fit": data.fit, "choose": data.choose, "report": data.report}
        folder = _begin(self, model, parts, results, name)
        if not is_finished(folder, read_manifest(folder)):
            self._measure(model, data, folder, progress)
        return _finish(folder)

    def _measure(self, model: Model, data: Data, folder: Path, progress: bool) -> None:
        sites, rule = self.sites(model), getattr(Positions, self.positions)()
        store = ActivationStore(folder / "activations")
        read = store.activations(model, data.fit, sites, progress=progress)
        found = probe(read, seed=self.seed, progress=progress)
        named = {**found.made_by, "data_name": data.fit.name}
        dataclasses.replace(found, made_by=named).save(folder)
        done, have = _cells(folder / "cells")
        made = steerability(
            model, read, data.choose, data.report, method=self.method, sites=sites,
            multipliers=self.multipliers, positions=rule, unit=self.unit, neutral=data.neutral,
            budget=self.budget, nulls=self.nulls, seed=self.seed, progress=progress,
            done=done, have=have,
        )  # fmt: skip
        cell = made.recommend().cell
        if self.samples and cell is not None:
            edit = Add(read.direction(cell.site, self.method), rule, self.unit)
            self._write_samples(model, edit, cell.multiplier, data.report, folder)
        made.save(folder)

    def _write_samples(
        self, model: Model, edit: Add, multiplier: float, asked: ContrastSet, folder: Path
    ) -> None:
        """Continues the first few prompts that leave room for it, at several strengths."""
        fitting = (p.prompt for p in asked if len(model.ids(p.prompt)) + 2 <= model.n_ctx)
        prompts = list(itertools.islice(fitting, self.samples))
        if not prompts:
            return
        room = model.n_ctx - model.tokens(prompts).width
        strengths = sorted({0.0, multiplier, -multiplier, 2 * multiplier})
        written = dose_response(
            model, edit, prompts, strengths, max_new_tokens=max(2, min(self.new_tokens, room)),
            # A text that ends at once has no generated token to steer.
            stop_at_eos=self.positions != "generated",
        )  # fmt: skip
        _save_samples(folder, written)


def _begin(
    experiment: _Experiment,
    model: Model,
    data: dict[str, ContrastSet],
    results: Path | str,
    name: str | None,
) -> Path:
    """The run's folder, with its manifest written or found to be the same."""
    folder = Path(results) / f"{name or experiment.kind}-{experiment.digest}"
    inputs = {
        "fields": experiment.fields(),
        "model": {
            "name": model.name,
            "revision": model.revision,
            "fingerprint": model.fingerprint,
            "processing": model.processing,
            "bos": model.prepend_bos,
        },
        "data": {
            part: {"name": s.name, "source": s.source, "hash": s.hash, "pairs": len(s)}
            for part, s in data.items()
        },
    }
    if (folder / "manifest.json").exists():
        before = read_manifest(folder)
        for key, value in inputs.items():
            if before.get(key) != json.loads(json.dumps(value)):
                raise ResultError(
                    f"{folder} holds a run with other {key}: {before.get(key)} there, {value} now. "
                    "Its numbers are kept. Give the new run another name or results folder."
                )
        return folder
    if folder.exists() and any(folder.iterdir()):
        raise ResultError(
            f"{folder} holds files but no manifest.json, so it is not a run of steerlens. "
            "Nothing was written. Give the run another name or results folder."
        )
    manifest = {
        **inputs,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": versions(),
        "commit": _commit(),
        "platform": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads",
        "device": experiment.device,
    }
    write_text(folder / "manifest.json", json.dumps(manifest, indent=1))
    return folder


def _finish(folder: Path) -> Run:
    run = Run.load(folder)
    page = report.page(run.manifest, run.map, run.probe, run.samples, run.summary())
    write_text(run.page, page)
    return run


def _cells(
    folder: Path,
) -> tuple[Callable[[str, slice, Tensor], None], Callable[[str, slice], Tensor | None]]:
    """Saving and finding finished cells, a file for each slice of examples."""

    def path(name: str, where: slice) -> Path:
        return folder / f"{name}-{where.start:06d}-{where.stop:06d}.safetensors"

    def done(name: str, where: slice, values: Tensor) -> None:
        write_tensors(path(name, where), {"values": values})

    def have(name: str, where: slice) -> Tensor | None:
        file = path(name, where)
        if not file.exists():
            return None
        try:
            return read_tensors(file)["values"]
        except DamagedFile as error:
            raise ResultError(
                f"{error} Delete this file; only its cells are computed again."
            ) from error

    return done, have


def read_manifest(folder: Path | str) -> dict[str, Any]:
    """The manifest of a run's folder.

    Raises:
        ResultError: If there is none, or it cannot be read.
    """
    path = Path(folder) / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest["fields"]["experiment"] not in LAST:
            raise ValueError("it names no experiment of steerlens")
    except FileNotFoundError:
        raise ResultError(
            f"{folder} is not a run: it has no manifest.json. `steerlens list` shows the runs."
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise ResultError(
            f"{path} is broken ({error}). Move the folder away and run again."
        ) from error
    return manifest


def is_finished(folder: Path, manifest: dict[str, Any]) -> bool:
    """Whether the files that this kind of run writes are all there."""
    kinds = LAST[manifest["fields"]["experiment"]]
    names = [f"{kind}.{ending}" for kind in kinds for ending in ("json", "safetensors")]
    return all((folder / name).exists() for name in names)


def _save_samples(folder: Path, samples: DoseResponse) -> None:
    write_text(folder / "samples.json", json.dumps(dataclasses.asdict(samples), indent=1))


def _load_samples(folder: Path) -> DoseResponse:
    path = folder / "samples.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        rows = tuple(map(tuple, raw["texts"]))
        return DoseResponse(tuple(raw["prompts"]), tuple(raw["multipliers"]), rows)
    except (ValueError, KeyError, TypeError) as error:
        raise ResultError(
            f"{path} is broken ({error}). Delete it; the numbers are whole."
        ) from error


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    names = ("steerlens", "torch", "transformer-lens", "transformers", "scikit-learn", "numpy")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _commit() -> str | None:
    """The commit of the code that ran, where it runs from a checkout."""
    root = Path(__file__).parent
    try:
        asked = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
        found = subprocess.run(asked, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None
