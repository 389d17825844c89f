"""What does a start cost: an import, a model from a folder, a command whose run is finished?

    python benchmarks/start.py                      # a random model of GPT-2 small's size
    python benchmarks/start.py --folder my-model    # a Hugging Face folder of your own

Each line is a new process, the median of some; the time to import is not in the time to load. The bars:
an import below 0.1 s, a load at most 1.3 times Hugging Face's own, and an answer of a finished run
within 1 s.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tyro
from model_directory import Shape, build_model

HERE = Path(__file__).parent
IMPORT = "import time; a = time.perf_counter(); import steerlens; print(time.perf_counter() - a)"
LOADS = {
    "Hugging Face: model and tokenizer": (
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "AutoModelForCausalLM.from_pretrained({folder!r}); AutoTokenizer.from_pretrained({folder!r})",
    ),
    "steerlens: Model.load, checked": (
        "import steerlens as sl; sl.Model\nimport transformers.models.gpt2.modeling_gpt2",
        "sl.Model.load({folder!r})",
    ),
}
"""What is imported first, and what is timed."""
FINISHED = """\
from steerlens.experiment import SteerabilityExperiment
experiment = SteerabilityExperiment(
    layers=(4,), n_fit=40, n_choose=8, n_report=8, n_neutral=8, nulls=0, written=0, confirmed=0,
    attributed=0, strengths=0, samples=0, shifts=(), others=(),
)
"""


def seconds_of(code: str) -> float:
    """What a process with this code prints."""
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    )
    return float(ran.stdout.split()[-1])


def load_seconds(imports: str, load: str, folder: str) -> float:
    timed = (
        f"{imports}\nimport time; a = time.perf_counter()\n{load.format(folder=folder)}\n"
        "print(time.perf_counter() - a)"
    )
    return seconds_of(timed)


def finished_seconds(repeats: int) -> float:
    """Of `steerlens run` where the run is finished."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.py"
        path.write_text(FINISHED)
        command = [sys.executable, "-m", "steerlens", "run", str(path), "--results", folder]
        subprocess.run(command, capture_output=True, check=True)
        found = []
        for _ in range(repeats):
            start = time.perf_counter()
            subprocess.run(command, capture_output=True, check=True)
            found.append(time.perf_counter() - start)
    return statistics.median(found)


def main(folder: Path | None = None, repeats: int = 5) -> None:
    """Prints a table.

    Args:
        folder: Of a GPT-2 in Hugging Face's format; by default a random one, made below `.env`.
        repeats: Processes for each line.
    """
    where = str(build_model(Shape(), HERE / ".env") if folder is None else folder)
    print("| start | median, s | over Hugging Face's own |")
    print("|---|---|---|")
    took = statistics.median(seconds_of(IMPORT) for _ in range(repeats))
    print(f"| import steerlens | {took:.3f} | |", flush=True)
    own = 0.0
    for name, (imports, load) in LOADS.items():
        took = statistics.median(load_seconds(imports, load, where) for _ in range(repeats))
        own = own or took
        print(f"| {name} | {took:.2f} | {took / own:.2f} |", flush=True)
    print(f"| steerlens run, of a finished run | {finished_seconds(repeats):.2f} | |", flush=True)


if __name__ == "__main__":
    tyro.cli(main, args=sys.argv[1:])
