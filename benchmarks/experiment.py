"""Where does the time of a whole experiment go, and how far is each part from its arithmetic?

    python benchmarks/experiment.py                        # SmolLM2-135M-Instruct, sentiment
    python benchmarks/experiment.py --on reviews           # the reference model
    python benchmarks/experiment.py --on gpt2-small        # random weights of that shape
    python benchmarks/experiment.py --on pythia-410m
    python benchmarks/experiment.py --dtype bfloat16       # SmolLM2 with weights in bfloat16
    python benchmarks/experiment.py --on gemma-2-2b --device cuda --dtype bfloat16
    python benchmarks/experiment.py --on gemma-2-2b --tiny # the same program on the CPU, small

One process runs the experiment twice, each time in a new folder. The first run is timed. In the second
every matrix product is counted with its shape; the floor of a part is its multiply-adds over the
rates that the same process measures at these shapes. Norms, activations, softmax and memory traffic
are not in it. The loop of TransformerLens is a hooked forward pass for each cell and a generation with
hooks for each batch of texts: a few of each are timed, and multiplied by how many the experiment needs.
On a GPU every time is synchronised, and memory is what is allocated there.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

STARTED = time.perf_counter(), time.process_time()

import gpu  # noqa: E402
import psutil  # noqa: E402
import torch  # noqa: E402 (its import is part of what is timed)
import tyro  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from steerlens import Model, SteerabilityExperiment  # noqa: E402

IMPORTED = time.perf_counter(), time.process_time()

On = Literal["smollm2", "reviews", "gpt2-small", "pythia-410m", "gemma-2-2b", "llama-3.1-8b"]
DATA = Path(__file__).parents[1] / "experiments" / "data"
FIT = "steerlens.analyses.steerability.measure_steerability"
MAP = "steerlens.analyses.steerability.map_of_arms"
RUN = "steerlens.experiment.steerability_experiment"
PARTS = {
    f"{RUN}:SteerabilityExperiment.load": "data: load and checks",
    "steerlens.experiment.workplace:Workplace.activations": "activations",
    f"{RUN}:probe": "probe",
    f"{FIT}:given_or_written": "ordinary texts, written by the model",
    f"{FIT}:fit_family": "directions, and their lengths at equal KL",
    f"{MAP}:sweep": "sweep",
    f"{MAP}:divergence": "cost (KL)",
    f"{MAP}:null_gains": "null maps",
    f"{MAP}:direct_gain": "direct gain",
    f"{MAP}:confirm": "the chosen cell, held out",
    f"{RUN}:predict_layers": "predictors of each layer",
    f"{RUN}:written_effect": "confirmed in writing",
    f"{RUN}:writing": "writing",
    f"{RUN}:attribute_gain": "what carries the gain",
    f"{RUN}:shifted": "shifted questions",
    f"{RUN}:decay": "validity curves",
    f"{RUN}:spillover": "other concepts",
    f"{RUN}:dose_response": "samples",
    "steerlens.experiment.experiment:page": "page",
}
"""What is timed, and the line of the table that it is in. An inner part is not in the outer one."""
REST = "files, and what is between"
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2-small": {
        "n_layers": 12, "d_model": 768, "n_heads": 12, "d_head": 64, "d_mlp": 3072,
        "d_vocab": 50257, "act_fn": "gelu_new", "normalization_type": "LN",
    },
    "pythia-410m": {
        "n_layers": 24, "d_model": 1024, "n_heads": 16, "d_head": 64, "d_mlp": 4096,
        "d_vocab": 50304, "act_fn": "gelu", "normalization_type": "LN", "parallel_attn_mlp": True,
        "positional_embedding_type": "rotary", "rotary_dim": 16,
    },
    **{name: {**gpu.COMMON, **shape} for name, shape in gpu.SHAPES.items()},
}  # fmt: skip
PRODUCTS = {"mm": (0, 1), "addmm": (1, 2)}
"""Products by weights, and which of their arguments are multiplied."""


@dataclass
class Part:
    """What one line of the table took."""

    wall: float = 0.0
    cpu: float = 0.0
    peak: int = 0
    """Bytes at the most above those of the process with its model (of the load: without it): resident,
    or allocated on a GPU."""
    cells: int = 0
    """Cells x examples whose states were computed."""
    written: int = 0
    """Texts x tokens."""
    products: Counter[tuple[Any, ...]] = field(default_factory=Counter)
    """How often each shape of product by weights occurred."""
    other: int = 0
    """Multiply-adds of attention."""


class Clock:
    """Adds time to the part that is running, and to no other."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.parts: dict[str, Part] = defaultdict(Part)
        self.running = [REST]
        self.since = time.perf_counter(), time.process_time()
        self.base = 0

    def start_counting_memory(self) -> None:
        """Counts from what the process holds now."""
        _peak_memory(self.device)
        self.base = (
            torch.cuda.memory_allocated(self.device)
            if self.device.type == "cuda"
            else psutil.Process().memory_info().rss
        )

    @property
    def now(self) -> Part:
        return self.parts[self.running[-1]]

    def turn(self) -> None:
        """Gives the time since the last turn to the part that is running."""
        gpu.wait(self.device)
        at = time.perf_counter(), time.process_time()
        self.now.wall += at[0] - self.since[0]
        self.now.cpu += at[1] - self.since[1]
        self.now.peak = max(self.now.peak, _peak_memory(self.device) - self.base)
        self.since = at

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self.turn()
        self.running.append(name)
        try:
            yield
        finally:
            self.turn()
            self.running.pop()


class Counting(TorchDispatchMode):
    """Counts matrix products in the part that is running."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name, part = func.overloadpacket.__name__, self.clock.now
        if name in PRODUCTS:
            left, right = (args[k] for k in PRODUCTS[name])
            turned = right.stride(0) < right.stride(1)
            part.products[(left.shape[0], *right.shape, turned, right.dtype)] += 1
        elif name == "bmm":
            part.other += math.prod(args[0].shape) * args[1].shape[-1]
        elif "scaled_dot_product" in name and "backward" not in name:
            queries, keys = args[0].shape, args[1].shape
            part.other += 2 * math.prod(queries) * keys[-2]
        return out


class Rates:
    """Multiply-adds per second of wall time at a shape, the best of some repeats."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.known: dict[tuple[Any, ...], float] = {}

    def of(self, rows: int, inner: int, columns: int, turned: bool, dtype: torch.dtype) -> float:
        """At the power of two of rows that is nearest above."""
        rows = 2 ** min(13, math.ceil(math.log2(max(1, rows))))
        key = rows, inner, columns, turned, dtype
        if key not in self.known:
            left = torch.randn(rows, inner, dtype=dtype, device=self.device)
            right = torch.randn(columns, inner, dtype=dtype, device=self.device).T
            right = right if turned else right.contiguous()
            enough = 3e8 if self.device.type == "cpu" else 1e12
            times = max(1, min(1000, int(enough / (rows * inner * columns))))

            def multiply() -> None:
                for _ in range(times):
                    left @ right

            multiply()
            self.known[key] = times * rows * inner * columns / _best(multiply, 5, self.device)
        return self.known[key]

    def floor(self, part: Part) -> float:
        """Seconds of a part's products; attention at the best rate."""
        seconds = 0.0
        for (rows, inner, columns, turned, dtype), times in part.products.items():
            if rows * inner * columns:
                work = times * rows * inner * columns
                seconds += work / self.of(rows, inner, columns, turned, dtype)
        return seconds + (part.other / max(self.known.values()) if self.known else 0.0)


def _peak_memory(device: torch.device) -> int:
    """The peak of memory since the last call, in bytes: resident (0 off Linux), or on the GPU."""
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return peak
    try:
        status = Path("/proc/self/status").read_text()
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return 0
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def _timed(clock: Clock, name: str, run: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(run)
    def timed(*args: Any, **kwargs: Any) -> Any:
        with clock.part(name):
            return run(*args, **kwargs)

    return timed


def _counted(clock: Clock, stack: ExitStack) -> None:
    """Has the clock count cells and written tokens."""
    engine = import_module("steerlens.measures.engine").Engine
    measure = engine.measure

    def measured(self: Any, examples: Any, reading: Any, *args: Any, **kwargs: Any) -> Any:
        clock.now.cells += self.plan(examples, reading).cells * len(examples)
        return measure(self, examples, reading, *args, **kwargs)

    stack.enter_context(patch.object(engine, "measure", measured))
    for place in ("steerlens.measures.generation", "steerlens.analyses.writing.text_batches"):
        module = import_module(place)

        def written(
            *args: Any, make: Callable[..., Any] = module.generated_tokens, **kwargs: Any
        ) -> Any:
            out = make(*args, **kwargs)
            clock.now.written += out.numel()
            return out

        stack.enter_context(patch.object(module, "generated_tokens", written))


def run(
    experiment: SteerabilityExperiment, model: Model, count: bool
) -> tuple[dict[str, Part], str]:
    """Runs it in a new folder, and says what was found."""
    clock = Clock(model.device)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        for place, name in PARTS.items():
            module, _, path = place.partition(":")
            owner, _, attribute = path.rpartition(".")
            holder = import_module(module)
            holder = getattr(holder, owner) if owner else holder
            timed = _timed(clock, name, getattr(holder, attribute))
            stack.enter_context(patch.object(holder, attribute, timed))
        _counted(clock, stack)
        if count:
            stack.enter_context(Counting(clock))
        clock.start_counting_memory()
        made = experiment.run(folder, progress=False, model=model)
        clock.turn()
    return clock.parts, made.text


def prepared(
    on: On, device: str, dtype: torch.dtype, tiny: bool
) -> tuple[SteerabilityExperiment, Model | None]:
    """The experiment, and a model that is not loaded by its name."""
    if on == "reviews":
        return SteerabilityExperiment(), None
    if on == "smollm2":
        return SteerabilityExperiment(
            model="smollm2-135m-instruct",
            contrast=str(DATA / "sentiment_fit.jsonl"),
            questions=str(DATA / "sentiment_questions.jsonl"),
            multipliers=(-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5),
        ), None
    shape = {"n_ctx": 512, "eps": 1e-5, **SHAPES[on]}
    if tiny:
        shape |= {name: size for name, size in gpu.TINY.items() if name in shape}
        if "attn_types" in shape:
            shape["attn_types"] = shape["attn_types"][: shape["n_layers"]]
    return random_experiment(shape, device, dtype)


def random_experiment(
    shape: dict[str, Any], device: str, dtype: torch.dtype
) -> tuple[SteerabilityExperiment, Model]:
    """A random model, and pairs, questions and ordinary texts of random words."""
    import random

    from transformer_lens import HookedTransformer, HookedTransformerConfig

    from steerlens.models.checkpoints import word_tokenizer

    vocabulary = [f"w{i}" for i in range(shape["d_vocab"] - gpu.SPECIAL)]
    tokenizer = word_tokenizer(vocabulary)
    torch.manual_seed(0)
    if "init_weights" in shape:
        hooked = gpu.build(shape, torch.device(device), dtype, tokenizer)
    else:
        hooked = HookedTransformer(
            HookedTransformerConfig(seed=0, device=device, dtype=dtype, **shape),
            tokenizer=tokenizer,
        )
    draw, folder = random.Random(0), Path(tempfile.mkdtemp(prefix="steerlens-benchmark-"))

    def words(count: int) -> str:
        return " ".join(draw.choice(vocabulary) for _ in range(count))

    pairs = [{"positive": words(12), "negative": words(12)} for _ in range(24)]
    asked = [
        {"prompt": words(12), "positive": " " + words(1), "negative": " " + words(1)}
        for _ in range(48)
    ]
    for name, rows in (("fit", pairs), ("questions", asked)):
        lines = "\n".join(json.dumps(row) for row in rows)
        (folder / f"{name}.jsonl").write_text(lines)
    (folder / "neutral.txt").write_text("\n".join(words(16) for _ in range(64)))
    experiment = SteerabilityExperiment(
        contrast=str(folder / "fit.jsonl"), questions=str(folder / "questions.jsonl"),
        neutral=str(folder / "neutral.txt"),
        multipliers=(-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5),
    )  # fmt: skip
    return experiment, Model(hooked)


@dataclass(frozen=True)
class Loop:
    """Wall seconds of a plain TransformerLens loop: for a cell and a question, and for a token."""

    cell: float
    token: float

    @classmethod
    def of(cls, model: Model, prompts: list[str], new: int, rows: int = 24) -> Loop:
        """Times a few hooked passes and one generation of a batch."""
        hooked = model.wrapped
        batch = model.tokens(prompts[:rows], padding_side="left")
        tokens = batch.tokens
        step = 0.01 * torch.randn(model.cfg.d_model, dtype=model.cfg.dtype, device=model.device)
        hook = f"blocks.{model.n_layers // 2}.hook_resid_post"

        def edit(resid: torch.Tensor, hook: Any) -> torch.Tensor:
            resid[:, -1:] += step
            return resid

        def passes() -> None:
            hooked.run_with_hooks(tokens, fwd_hooks=[(hook, edit)])

        def generation() -> None:
            with hooked.hooks(fwd_hooks=[(hook, edit)]):
                hooked.generate(
                    tokens, max_new_tokens=new, stop_at_eos=False, do_sample=False, verbose=False
                )

        with torch.no_grad():
            seconds = [_best(run, 3, model.device) for run in (passes, generation)]
        return cls(seconds[0] / len(tokens), seconds[1] / (len(tokens) * new))


def _best(run: Callable[[], object], repeats: int, device: torch.device) -> float:
    best = math.inf
    for _ in range(repeats):
        gpu.wait(device)
        start = time.perf_counter()
        run()
        gpu.wait(device)
        best = min(best, time.perf_counter() - start)
    return best


def main(
    on: On = "smollm2",
    threads: int = 2,
    floor: bool = True,
    null_products: Literal["bfloat16"] | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
    device: str = "cpu",
    tiny: bool = False,
) -> None:
    """Prints a table.

    Args:
        on: The model and its data.
        threads: Of torch.
        floor: Whether the second run, which counts, is made.
        null_products: Precision of the products of null maps, as of the experiment.
        dtype: Precision of the model.
        device: Where the model is.
        tiny: Whether a random model is small, to try the program.
    """
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    place = torch.device(device)
    if null_products is not None and dtype != "float32":
        raise SystemExit("--null-products rounds the factors of a float32 model. Leave one out.")
    clock = Clock(place)
    clock.start_counting_memory()
    with clock.part("model: load and checks"):
        experiment, model = prepared(on, device, getattr(torch, dtype), tiny)
        experiment = replace(experiment, null_products=null_products, dtype=dtype, device=device)
        model = experiment.load_model() if model is None else model
    loading = clock.parts["model: load and checks"]
    forecast = experiment.forecast(model)
    parts, found = run(experiment, model, count=False)
    counted = run(experiment, model, count=True)[0] if floor else {}
    rates = Rates(place)
    asked = [pair.prompt for pair in experiment.load(model).data["choose"]]
    loop = Loop.of(model, asked, experiment.new_tokens)
    start = Part(wall=IMPORTED[0] - STARTED[0], cpu=IMPORTED[1] - STARTED[1])
    rows = {"import of torch and steerlens": start, "model: load and checks": loading, **parts}
    total = Part(
        wall=sum(part.wall for part in rows.values()), cpu=sum(part.cpu for part in rows.values()),
        peak=max(part.peak for part in parts.values()),
    )  # fmt: skip
    where = torch.cuda.get_device_name(place) if place.type == "cuda" else f"{threads} threads"
    print(f"{on}: {model!r}".splitlines()[0], where, sep="; ")
    print(
        "| part | wall, s | of all | processor, s | floor, s | times the floor | memory above the "
        "model, MiB | cells x examples | tokens written | TransformerLens loop, s (extrapolated) |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    floors, loops = 0.0, 0.0
    for name, part in sorted(rows.items(), key=lambda item: -item[1].wall):
        least = rates.floor(counted[name]) if name in counted else 0.0
        naive = part.cells * loop.cell + part.written * loop.token
        floors, loops = floors + least, loops + naive
        print(_line(name, part, total, least, naive))
    print(_line("all", total, total, floors, loops))
    print(f"\nIt found:\n\n{found}")
    print(f"\nBefore the run it was said to take:\n\n{forecast}")
    fast = max(rates.known.values(), default=0.0)
    print(
        f"\nThe best rate of a product here is {fast / 1e9:.0f} G multiply-adds per second. One "
        f"hooked pass of the loop takes {1e3 * loop.cell:.2f} ms for a question, and one token of a "
        f"text {1e3 * loop.token:.2f} ms."
    )


def _line(name: str, part: Part, total: Part, least: float, naive: float) -> str:
    cells = [
        name, f"{part.wall:.1f}", f"{part.wall / total.wall:.0%}", f"{part.cpu:.1f}",
        f"{least:.1f}" if least >= 0.05 else "–",
        f"{part.wall / least:.1f}x" if least >= 0.05 else "–",
        f"{part.peak / 2**20:.0f}", f"{part.cells:,}" if part.cells else "–",
        f"{part.written:,}" if part.written else "–",
        f"{naive:.0f}" if naive else "–",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    tyro.cli(main, args=sys.argv[1:])
