"""A run: one folder with the manifest first, cells as they are finished, results and a page."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import platform
import re
import subprocess
import time
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steerlens.analyses.features.feature_comparison import FeatureComparison
from steerlens.analyses.generalisation.shifted_map import ShiftedMap
from steerlens.analyses.probe.probe_map import ProbeMap
from steerlens.analyses.side_effects.spillover_map import SpilloverMap
from steerlens.analyses.steerability.steerability_map import SteerabilityMap
from steerlens.analyses.validity.validity_fit import ValidityFit
from steerlens.analyses.writing.writing_map import WritingMap
from steerlens.data import ContrastSet
from steerlens.experiment.former_experiment import Experiment
from steerlens.measures.generation import DoseResponse
from steerlens.models.model import Model
from steerlens.report import page as report
from steerlens.sites import Site
from steerlens.stats import Interval
from steerlens.store.files import write_text
from steerlens.store.result_files import ResultError
from steerlens.store.tensors import DamagedFile, read_tensors, write_tensors

LAST = {
    "ProbingExperiment": ("probe",),
    "SteerabilityExperiment": ("probe", "map"),
    "SAEExperiment": ("probe", "comparison"),
}
"""What a finished run of each kind has written."""


@dataclass(frozen=True)
class Run:
    """A finished run: where it is, and what came out."""

    folder: Path
    manifest: dict[str, Any]
    probe: ProbeMap | None = None
    map: SteerabilityMap | None = None
    samples: DoseResponse | None = None
    writing: WritingMap | None = None
    """What steering does to written text, in every cell."""
    decay: ValidityFit | None = None
    """Preference and utility over many strengths at the chosen layer."""
    shift: ShiftedMap | None = None
    """Slopes in other surroundings."""
    spillover: SpilloverMap | None = None
    """What the chosen layer does to other concepts."""
    comparison: FeatureComparison | None = None
    """SAE features against DiffMean and chance."""

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
        readers = {
            "probe": ProbeMap.load,
            "map": SteerabilityMap.load,
            "samples": _load_samples,
            "writing": WritingMap.load,
            "decay": ValidityFit.load,
            "shift": ShiftedMap.load,
            "spillover": SpilloverMap.load,
            "comparison": FeatureComparison.load,
        }
        there = {name: read for name, read in readers.items() if (folder / f"{name}.json").exists()}
        return cls(folder, manifest, **{name: read(folder) for name, read in there.items()})

    def summary(self) -> str:
        """What was found, in a few lines."""
        lines = []
        if self.map is not None:
            lines.append(self.map.summary())
        if self.comparison is not None:
            lines += [self.comparison.summary("kl"), self.comparison.summary("utility")]
        if self.probe is not None:
            best = self.probe.sites.index(self.probe.best)
            value, low, high = (float(x[best]) for x in self.probe.auroc_interval)
            control = self.probe.control_auroc
            lines.append(
                f"  probe           best at {self.probe.best}: AUROC {value:.3f} "
                f"[{low:.3f}, {high:.3f}]; shuffled labels {float(control.min()):.2f} to "
                f"{float(control.max()):.2f}"
            )
        lines += self._costs()
        lines.append(f"  report          {self.page}")
        return "\n".join(lines)

    def _costs(self) -> list[str]:
        """What else the chosen cell does, a line for each thing that was looked at."""
        cell = None if self.map is None else self.map.recommend().cell
        if cell is None:
            return []
        lines = []
        if self.writing is not None:
            i, j = self.writing.index(cell)
            surprisal, repeated = (
                Interval(*(float(x[i, j]) for x in self.writing.change(kind)[:3]))
                for kind in ("surprisal", "repeated")
            )
            lines += _indented(
                "writing",
                f"surprisal of the texts {surprisal} nats per token against the unsteered ones\n"
                f"repeated 4-grams {repeated}",
            )
        if self.decay is not None:
            told = self.decay.valid_interval()
            lines.append(
                f"  how far         utility holds {told}; fitted with R² {self.decay.utility.r2:.2f}"
            )
        if self.shift is not None and cell.site is not None:
            lines.append(f"  elsewhere       {self._least_shifted(cell.site)}")
        if self.spillover is not None:
            said = self.spillover.summary(cell.multiplier).splitlines()[2:]
            lines += _indented("other concepts", "\n".join(line.strip() for line in said))
        return lines

    def _least_shifted(self, site: Site) -> str:
        """Where steering carries over least."""
        assert self.shift is not None
        i = self.shift.find(site)

        def slope(name: str) -> Interval:
            assert self.shift is not None
            return Interval(*(float(x[i]) for x in self.shift.slope_interval(name)))

        least = min(self.shift.shifted, key=lambda name: slope(name).value)
        ratio = Interval(*(float(x[i]) for x in self.shift.ratio(least)))
        return (
            f"slope {slope(self.shift.in_distribution)} nats per unit multiplier at home, least of "
            f"{len(self.shift.shifted)} other sets {slope(least)} on {least} ({ratio} of home's)"
        )

    def __repr__(self) -> str:
        return self.summary()

    def _repr_html_(self) -> str:
        return f"<pre>{self.summary()}</pre>"


def _indented(name: str, text: str) -> list[str]:
    return [f"  {name if i == 0 else '':15s} {line}" for i, line in enumerate(text.splitlines())]


def begin(
    experiment: Experiment,
    model: Model,
    data: dict[str, ContrastSet],
    results: Path | str,
    name: str | None,
    **more: dict[str, Any],
) -> Path:
    """The run's folder, with its manifest written or found to be the same.

    Args:
        more: Whatever else decides the numbers.
    """
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
        **more,
    }
    if (folder / "manifest.json").exists():
        before = read_manifest(folder)
        for key, value in json.loads(json.dumps(inputs)).items():
            if differing := _differing(before.get(key), value):
                raise ResultError(
                    f"{folder} holds a run with other {key}: {differing}. "
                    "Its numbers are kept. Give the new run another name or results folder."
                )
        _warn_of_other_code(folder, before)
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


def _warn_of_other_code(folder: Path, before: dict[str, Any]) -> None:
    """A run that goes on under other code keeps what is there, which may not be what it would be."""
    now = {"versions": versions(), "commit": _commit()}
    changed = _differing({name: before.get(name) for name in now}, now)
    if changed and not is_finished(folder, before):
        warnings.warn(
            f"The unfinished run in {folder} was begun by other code: {changed}. What it has "
            "computed is kept; for numbers of one code, give it another results folder.",
            stacklevel=3,
        )


def _differing(before: Any, now: Any, of: str = "") -> str:
    """Where two parts of a manifest differ, and how; "" where they do not."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return "" if before == now else f"{of or 'it'} was {before!r} and is {now!r}"
    names = list(dict.fromkeys([*before, *now]))
    each = [_differing(before.get(n), now.get(n), f"{of}.{n}".lstrip(".")) for n in names]
    return ", ".join(part for part in each if part)


def finish(folder: Path) -> Run:
    run = Run.load(folder)
    page = report.page(
        run.manifest, run.map, run.probe, run.samples, run.summary(),
        writing=run.writing, decay=run.decay, shift=run.shift, spillover=run.spillover,
        comparison=run.comparison,
    )  # fmt: skip
    write_text(run.page, page)
    return run


def cells(folder: Path) -> dict[str, Any]:
    """Saving and finding finished cells, a file for each slice of examples: `done` and `have`."""

    def path(name: str, where: slice) -> Path:
        plain = name
        if not re.fullmatch(r"[\w-]+", name):  # a file's name, or a template
            plain = hashlib.sha256(name.encode()).hexdigest()[:16]
        return folder / f"{plain}-{where.start:06d}-{where.stop:06d}.safetensors"

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

    return {"done": done, "have": have}


def part(name: str, both: dict[str, Any]) -> dict[str, Any]:
    """`cells` for something that gives its slices no name."""
    return {which: partial(call, name) for which, call in both.items()}


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


def save_samples(folder: Path, samples: DoseResponse) -> None:
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
