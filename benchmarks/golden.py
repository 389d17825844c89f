"""Are the numbers still the same bits? Keeps the numbers of small runs, and runs them again.

    python benchmarks/golden.py check              # every part, one to two minutes on two cores
    python benchmarks/golden.py check mini demo    # some parts
    python benchmarks/golden.py record sae         # keeps the numbers of the present code

A change that should leave every number as it is (a module that moves, a file that is laid out
differently) is checked by running the same experiments before and after it. The numbers kept are
the raw tensors of the results, and what is derived from them (intervals, p-values, fitted curves);
where they come from (versions, hashes, dates) is not compared. There are four parts:

mini   a map of 2 layers x 3 multipliers x 8 questions with 19 nulls: a few seconds
demo   experiments/sentiment_layers.py as `make demo` runs it
sae    experiments/sae_features.py with 2 layers and few questions
trust  two repeats of studies/coverage.py, and two layers of studies/proxies.py

A part is `golden/<part>.safetensors` (the arrays) and `golden/<part>.json` (texts, names, and the
environment of the recording). Of an array above 200 kB only a checksum, the mean and the first
numbers are kept. `check` prints a line for each array and exits with 1 when integers or strings
differ, or numbers by more than 1e-4 of the largest one of their array.

The bits may differ between processors, numbers of threads and versions of torch, since these decide
in which order a product is summed; numbers should then agree to about 1e-6, and a sampled text may
differ where two tokens were nearly as likely. Two threads are therefore set here. The free memory
that sweeps and writing see is held fixed, since they derive from it how many rows they compute at
once.

On one processor nothing was found that is not deterministic: fresh processes and other global seeds
give the same bits in every part, and 2 or 64 GiB of free memory the same in demo. With one thread
instead of two, all arrays of mini and demo and of an sae with fewer questions were the same bits,
but those of the fitted curves (`decay.*.fitted`), which differ by 1e-14.

The functions that read the results are the only place that knows what steerlens calls things. When
something is renamed, they change, and the names on their left stay.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import platform
import runpy
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import psutil
import torch
import tyro
from safetensors.torch import load_file, save
from threadpoolctl import threadpool_limits
from torch import Tensor

ROOT = Path(__file__).parents[1]
FOLDER = Path(__file__).parent / "golden"
THREADS = 2
FREE = 16 * 2**30
"""Bytes of memory that are said to be free."""
LARGE = 200_000
"""Bytes above which an array is not kept whole."""
KEPT = 1000
"""Numbers that are kept of a large array."""
TOLERANCE = 1e-4
"""Of the largest number of an array."""
PACKAGES = (
    "torch", "numpy", "scipy", "scikit-learn", "transformer-lens", "transformers", "tokenizers",
    "sae-lens",
)  # fmt: skip


@dataclass(frozen=True)
class Numbers:
    """The arrays of a part by name, and everything that is no array: texts, names, whether."""

    arrays: dict[str, Tensor]
    words: dict[str, Any]

    def __or__(self, other: Numbers) -> Numbers:
        return Numbers(self.arrays | other.arrays, self.words | other.words)

    def under(self, name: str) -> Numbers:
        """The same, with a name before every name."""
        parts = (self.arrays, self.words)
        return Numbers(*({f"{name}.{key}": value for key, value in x.items()} for x in parts))


# Reading results. What is on the left stays; what is on the right follows steerlens.


def of_map(found: Any) -> Numbers:
    """A map of layers and multipliers (SteerabilityMap)."""
    chosen = found.recommend()
    arrays = {
        "multipliers": found.multipliers,
        "propensities": found.propensities,
        "utilities": found.utilities,
        "kl": found.kl,
        "shuffled": found.shuffled,
        "random": found.random,
        "lengths": numbers(found.lengths),
        "budget": numbers(found.budget),
        "slopes": found.slopes,
        "slope_interval": torch.stack(found.slope_interval),
        "gain_interval": torch.stack(found.gain_interval),
        "p_values": numbers([found.label_null.p_value, found.direction_null.p_value]),
    }
    words = {"sites": hooks(found.sites), "chosen": cell(chosen.cell)}
    if chosen.gain is not None:
        arrays["chosen_gain"] = numbers(chosen.gain)
    confirmed = found.confirmation
    words["confirmed"] = None if confirmed is None else cell(confirmed.cell)
    if confirmed is not None:
        arrays |= {
            "confirmed.gains": confirmed.gains,
            "confirmed.utilities": confirmed.utilities,
            "confirmed.kl": confirmed.kl,
            "confirmed.intervals": numbers(
                [confirmed.gain, confirmed.utility, confirmed.cost, confirmed.wrong_way]
            ),
        }
    return Numbers(arrays, words)


def of_probe(found: Any) -> Numbers:
    """Where a contrast can be read (ProbeMap)."""
    arrays = {
        "scores": found.scores,
        "control": found.control,
        "accuracy_interval": torch.stack(found.accuracy_interval),
        "auroc_interval": torch.stack(found.auroc_interval),
        "control_auroc": found.control_auroc,
    }
    return Numbers(arrays, {"sites": hooks(found.sites)})


def stripped(texts: Any) -> Any:
    """Texts without the blank that separates them from their prompts, as they were recorded."""
    return texts.strip() if isinstance(texts, str) else tuple(map(stripped, texts))


def of_writing(found: Any) -> Numbers:
    """Texts of every cell (WritingMap)."""
    arrays = {
        "multipliers": found.multipliers,
        "tokens": found.tokens,
        "ended": found.ended,
        "surprisals": found.surprisals,
    }
    for quantity in found.quantities:
        change = found.change(quantity)
        arrays[f"change.{quantity}"] = torch.stack([change.mean, change.low, change.high])
    words = {"sites": hooks(found.sites), "prompts": found.prompts, "texts": stripped(found.texts)}
    return Numbers(arrays, words)


def of_decay(found: Any) -> Numbers:
    """Preference and utility over many strengths (ValidityFit)."""
    arrays = {
        "multipliers": found.multipliers,
        "preferences": found.preferences,
        "utilities": found.utilities,
        "clamped": numbers(found.clamped),
    }
    for name, curve in {"preference": found.preference, "utility": found.utility}.items():
        arrays[f"{name}.fitted"] = curve.at(found.multipliers)
        arrays[f"{name}.r2"] = numbers(curve.r2)
    return Numbers(arrays, {})


def of_answers(found: Any) -> Numbers:
    """Propensities of several sets of questions (Answers)."""
    arrays = {f"propensities.{name}": found.propensities[name] for name in found.sets}
    words = {"rows": found.rows, "sites": hooks(found.sites), "sets": found.sets}
    return Numbers({"multipliers": found.multipliers, **arrays}, words)


def of_shift(found: Any) -> Numbers:
    """Slopes in other surroundings (ShiftedMap)."""
    arrays = {}
    for name in found.shifted:
        arrays[f"slope_interval.{name}"] = torch.stack(found.slope_interval(name))
        arrays[f"ratio.{name}"] = torch.stack(found.ratio(name))
    words = {"home": found.in_distribution, "away": found.shifted, "matched": found.matched}
    return of_answers(found) | Numbers(arrays, words)


def of_spillover(found: Any) -> Numbers:
    """What steering does to other concepts (SpilloverMap)."""
    arrays = {
        "null_gains": found.null_gains,
        "gain_interval": torch.stack(found.gain_interval),
        "size_interval": torch.stack(found.size_interval),
        "selectivity": torch.stack(found.selectivity),
        "p_value": numbers(found.null.p_value),
    }
    words = {"homes": found.targets, "matched": found.matched}
    return of_answers(found) | Numbers(arrays, words)


def of_samples(found: Any) -> Numbers:
    """Texts at several strengths (DoseResponse)."""
    words = {"prompts": found.prompts, "texts": stripped(found.texts)}
    return Numbers({"multipliers": numbers(found.multipliers)}, words)


def of_comparison(found: Any) -> Numbers:
    """Features against DiffMean and chance (FeatureComparison)."""
    made = Numbers(
        {
            "norms": found.norms,
            "candidates": found.candidates,
            "candidate_gains": found.candidate_gains,
            "found_p": found.found_p,
            "costs": numbers([found.budget, found.utility_drop]),
        },
        {"sites": hooks(found.sites)},
    )
    for cost, paired in {"kl": found.at_equal_kl, "utility": found.at_equal_utility}.items():
        arrays = {
            "features": paired.features,
            "senses": paired.signs,
            "gains": paired.gains,
            "utilities": paired.utilities,
            "kl": paired.kl,
            "lengths": paired.lengths,
            "chosen_gains": paired.chosen_gains,
            "control_gains": paired.control_gains,
            "control_utilities": paired.control_utilities,
            "control_kl": paired.control_kl,
            "control_lengths": paired.control_lengths,
            "control_chosen_gains": paired.control_chosen_gains,
        }
        words: dict[str, Any] = {"arms": paired.arms, "controls": paired.controls}
        words["best"] = []
        for i, row in enumerate(found.compared(cost)):
            words["best"].append([row.arm, row.site.hook, row.feature])
            arrays[f"row.{i}"] = numbers(
                [
                    *row.gain, *row.kl, *row.utility, *row.over_diffmean,
                    *row.over_random_feature, *row.over_searched, row.length,
                    row.p_random_feature, row.p_random_direction,
                ]
            )  # fmt: skip
        made |= Numbers(arrays, words).under(f"equal_{cost}")
    return made


READERS: dict[str, Callable[[Any], Numbers]] = {
    "probe": of_probe,
    "map": of_map,
    "writing": of_writing,
    "decay": of_decay,
    "shift": of_shift,
    "spillover": of_spillover,
    "samples": of_samples,
    "comparison": of_comparison,
}


def of_run(run: Any) -> Numbers:
    """Every result that a run has."""
    made = Numbers({}, {})
    for name, reader in READERS.items():
        if name in run.results:
            made |= reader(run.results[name]).under(name)
    return made


# Parts


def mini(folder: Path) -> Numbers:
    """A map small enough for a test."""
    experiment = replace(
        loaded("sentiment_layers"), layers=(2, 6), multipliers=(-0.5, 0.0, 0.5), n_fit=64,
        n_choose=8, n_report=8, n_neutral=8, nulls=19, written=0, strengths=0, samples=0,
        shifts=(), others=(),
    )  # fmt: skip
    return of_run(experiment.run(folder, progress=False))


def demo(folder: Path) -> Numbers:
    """What `make demo` runs."""
    return of_run(loaded("sentiment_layers").run(folder, progress=False))


def sae(folder: Path) -> Numbers:
    """A small comparison of features, with every arm."""
    experiment = replace(
        loaded("sae_features"), layers=(2, 4), n_fit=64, n_choose=20, n_report=20, n_neutral=12,
        nulls=19, targeted=10, k=2, utility_drop=0.2,
    )  # fmt: skip
    return of_run(experiment.run(folder, progress=False))


def trust(folder: Path) -> Numbers:
    """A few repeats of the studies behind docs/trust.md."""
    coverage, proxies = script("coverage"), script("proxies")
    covered = coverage.Coverage(
        concepts=("sentiment", "register"), repeats=2, n_fit=24, n_choose=8, n_report=8,
        n_neutral=32, nulls=19, draws=4, again=4, threads=THREADS, output=folder / "coverage",
    )  # fmt: skip
    made = of_tree(covered.run()).under("coverage.summary")
    for concept in covered.concepts:
        for kind in ("real", "shuffled"):
            for i, found in covered.maps(kind, concept):
                made |= of_map(found).under(f"coverage.{kind}.{concept}.{i}")
        for i in range(covered.repeats):
            path = covered.truth_file(concept, i)
            if path.exists():
                made |= Numbers(load_file(path), {}).under(f"coverage.truth.{concept}.{i}")
    written = proxies.Proxies(
        concepts=("sentiment", "truth"), layers=(1, 6), multipliers=(-2.0, 0.25, 0.5), n_fit=24,
        n_questions=12, n_texts=8, prompts=6, draws=1, new_tokens=14, resamples=20,
        threads=THREADS, output=folder / "proxies",
    )  # fmt: skip
    made |= of_tree(written.run()).under("proxies.summary")
    for path in sorted(written.output.glob("*-*.json")):
        found = json.loads(path.read_text("utf-8"))
        made |= of_tree(found).under(f"proxies.{path.stem}")
    return made


PartName = Literal["mini", "demo", "sae", "trust"]
PARTS: dict[PartName, Callable[[Path], Numbers]] = {
    "mini": mini,
    "demo": demo,
    "sae": sae,
    "trust": trust,
}


def loaded(name: str) -> Any:
    """The experiment that a file of experiments/ defines."""
    return runpy.run_path(str(ROOT / "experiments" / f"{name}.py"))["experiment"]


def script(name: str) -> ModuleType:
    """A file of studies/ as a module."""
    whole = f"studies.{name}"
    if whole not in sys.modules:
        path = ROOT / "studies" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(whole, path)
        assert spec is not None and spec.loader is not None
        sys.modules[whole] = importlib.util.module_from_spec(spec)
        sys.path.insert(0, str(path.parent))
        try:
            spec.loader.exec_module(sys.modules[whole])
        finally:
            sys.path.remove(str(path.parent))
    return sys.modules[whole]


def numbers(values: Any) -> Tensor:
    """Plain numbers as a tensor that loses no bit of them."""
    return torch.tensor(values, dtype=torch.float64)


def hooks(sites: Any) -> list[str | None]:
    """What TransformerLens calls the sites."""
    return [None if site is None else site.hook for site in sites]


def cell(found: Any) -> list[Any] | None:
    """A cell as a hook and a multiplier."""
    return None if found is None else [found.site.hook, found.multiplier]


def of_tree(found: Any) -> Numbers:
    """Nested dictionaries and lists: all their numbers as one array, and the path of each."""
    leaves = list(_leaves(found, ""))
    values = [value for _, value in leaves if not isinstance(value, str)]
    paths = [path for path, value in leaves if not isinstance(value, str)]
    texts = {path: value for path, value in leaves if isinstance(value, str)}
    return Numbers({"numbers": numbers(values)}, {"paths": _runs(paths), "texts": texts})


def _leaves(found: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(found, Mapping):
        for key, value in found.items():
            yield from _leaves(value, f"{path}/{key}")
    elif isinstance(found, list | tuple):
        for value in found:
            yield from _leaves(value, path)
    elif found is not None:
        yield path, found


def _runs(paths: list[str]) -> list[list[Any]]:
    """Each path once, with how many numbers in a row have it."""
    found: list[list[Any]] = []
    for path in paths:
        if found and found[-1][0] == path:
            found[-1][1] += 1
        else:
            found.append([path, 1])
    return found


@contextmanager
def held_fixed(threads: int = THREADS) -> Iterator[None]:
    """A number of threads, and always the same free memory, however much there is."""
    before, memory = torch.get_num_threads(), psutil.virtual_memory
    torch.set_num_threads(threads)
    psutil.virtual_memory = lambda: memory()._replace(available=FREE)
    try:
        with threadpool_limits(threads):
            yield
    finally:
        psutil.virtual_memory = memory
        torch.set_num_threads(before)


def collect(part: PartName, threads: int = THREADS) -> Numbers:
    """Runs a part in a temporary folder and reads its results."""
    with tempfile.TemporaryDirectory() as folder, held_fixed(threads):
        made = PARTS[part](Path(folder))
    arrays = {name: x.detach().cpu().contiguous() for name, x in sorted(made.arrays.items())}
    return Numbers(arrays, json.loads(json.dumps(made.words)))


# Files


class Stored(NamedTuple):
    """What was recorded of a part."""

    numbers: Numbers
    """Of a large array its first numbers only."""
    large: dict[str, dict[str, Any]]
    """Checksum, mean and shape of every large array."""
    environment: dict[str, Any]


def write(part: str, made: Numbers, folder: Path = FOLDER) -> int:
    """Keeps a part. Returns the bytes written."""
    large = {name: _digest(x) for name, x in made.arrays.items() if x.nbytes > LARGE}
    arrays = {n: x.flatten()[:KEPT].clone() if n in large else x for n, x in made.arrays.items()}
    said = {"environment": environment(), "large": large, "words": made.words}
    folder.mkdir(exist_ok=True)
    tensors, texts = folder / f"{part}.safetensors", folder / f"{part}.json"
    tensors.write_bytes(save(arrays))
    texts.write_text(json.dumps(said, indent=1, sort_keys=True) + "\n", "utf-8")
    return tensors.stat().st_size + texts.stat().st_size


def read(part: str, folder: Path = FOLDER) -> Stored:
    """What `write` kept."""
    said = json.loads((folder / f"{part}.json").read_text("utf-8"))
    arrays = load_file(folder / f"{part}.safetensors")
    return Stored(Numbers(arrays, said["words"]), said["large"], said["environment"])


def environment() -> dict[str, Any]:
    """What the bits may depend on."""
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": THREADS,
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def _digest(x: Tensor) -> dict[str, Any]:
    mean = float(x.double().nanmean())
    return {"sha256": hashlib.sha256(_bytes(x)).hexdigest(), "mean": mean, "shape": list(x.shape)}


def _bytes(x: Tensor) -> bytes:
    return x.contiguous().numpy().tobytes()


# Comparing


class Line(NamedTuple):
    """How one array or text compares."""

    name: str
    verdict: str
    agrees: bool
    """Within the tolerance; of integers and strings, equal."""


def compare(stored: Stored, made: Numbers) -> list[Line]:
    """A line for each array and text, of the recording or of now."""
    out = []
    for name in sorted({*stored.numbers.arrays, *made.arrays}):
        if name not in made.arrays or name not in stored.numbers.arrays:
            out.append(_only(name, name in made.arrays))
        elif name in stored.large:
            kept = stored.numbers.arrays[name]
            out.append(_compare_large(name, stored.large[name], kept, made.arrays[name]))
        else:
            out.append(_compare(name, stored.numbers.arrays[name], made.arrays[name]))
    for name in sorted({*stored.numbers.words, *made.words}):
        if name not in made.words or name not in stored.numbers.words:
            out.append(_only(name, name in made.words))
        else:
            same = stored.numbers.words[name] == made.words[name]
            out.append(Line(name, "identical" if same else "DIFFERENT words", same))
    return out


def _only(name: str, now: bool) -> Line:
    return Line(name, "is NEW, not recorded" if now else "is MISSING now", False)


def _compare(name: str, before: Tensor, now: Tensor) -> Line:
    kinds = [(str(x.dtype).removeprefix("torch."), tuple(x.shape)) for x in (before, now)]
    if kinds[0] != kinds[1]:
        return Line(name, f"DIFFERENT: was {kinds[0]}, is {kinds[1]}", False)
    if _bytes(before) == _bytes(now):
        return Line(name, "identical bits", True)
    if not before.is_floating_point():
        return Line(name, f"DIFFERENT in {int((before != now).sum())} of {before.numel()}", False)
    one, other = before.double().numpy(), now.double().numpy()
    fine = np.isfinite(one) & np.isfinite(other)
    if not np.array_equal(one[~fine], other[~fine], equal_nan=True):
        return Line(name, "DIFFERENT numbers are missing or infinite", False)
    off, scale = np.abs(one - other)[fine].max(initial=0), np.abs(one[fine]).max(initial=0)
    agrees = bool(off <= TOLERANCE * scale)
    how = "close" if agrees else "DIFFERENT"
    return Line(name, f"{how}: max abs difference {off:.3g}, largest number {scale:.3g}", agrees)


def _compare_large(name: str, was: dict[str, Any], kept: Tensor, now: Tensor) -> Line:
    found = _digest(now)
    if found == was:
        return Line(name, "identical bits", True)
    if found["shape"] != was["shape"]:
        return Line(name, f"DIFFERENT: was {was['shape']}, is {found['shape']}", False)
    line = _compare(name, kept, now.flatten()[:KEPT])
    scale = float(kept.double().abs().nan_to_num().max())
    moved = abs(found["mean"] - was["mean"])
    agrees = line.agrees and moved <= TOLERANCE * scale and kept.is_floating_point()
    how = "close" if agrees else "DIFFERENT"
    words = f"{how}: first {len(kept)}: {line.verdict}; mean moved by {moved:.3g}"
    return Line(name, words, agrees)


# Command line


class Clock:
    """Seconds since it was made, on the wall and of all cores."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def __str__(self) -> str:
        wall, cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu
        return f"{wall:.1f} s ({cpu:.1f} s of CPU time)"


def record(parts: tuple[PartName, ...]) -> int:
    """Runs parts and keeps their numbers."""
    for part in parts:
        clock = Clock()
        made = collect(part)
        size = write(part, made)
        print(
            f"{part}: {len(made.arrays)} arrays and {len(made.words)} texts and names, "
            f"{size / 1000:.0f} kB, in {clock}"
        )
    return 0


def check(parts: tuple[PartName, ...]) -> int:
    """Runs parts again and prints how they compare. 1 if something differs, else 0."""
    wrong = 0
    for part in parts:
        stored = read(part)
        now = environment()
        for name, value in stored.environment.items():
            if value != now[name]:
                print(f"{part}: recorded with {name} {value}, and here it is {now[name]}")
        clock = Clock()
        lines = compare(stored, collect(part))
        took = str(clock)
        width = max(len(line.name) for line in lines)
        for line in lines:
            print(f"{part}  {line.name:{width}}  {line.verdict}")
        same = sum(line.verdict.startswith("identical") for line in lines)
        off = [line.name for line in lines if not line.agrees]
        wrong += len(off)
        told = "identical bits" if same == len(lines) else f"{same} of {len(lines)} identical"
        print(f"{part}: {told}, {len(off)} different, in {took}")
    return int(wrong > 0)


def main(
    verb: Annotated[Literal["record", "check"], tyro.conf.Positional],
    parts: Annotated[tuple[PartName, ...], tyro.conf.Positional] = (),
) -> int:
    """Keeps the numbers of small runs, or runs them again and compares.

    Args:
        verb: "record" keeps the numbers of the present code; "check" compares with what was kept.
        parts: Some of mini, demo, sae and trust; all by default.
    """
    chosen = parts or tuple(PARTS)
    return record(chosen) if verb == "record" else check(chosen)


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
