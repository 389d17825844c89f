"""What each kind of intervention costs: in a sweep, in generation, in training, in memory.

    python benchmarks/kinds.py reviews smollm2-135m-instruct

Processor seconds of one thread; every kind is timed in turn with the vector, and the median ratio of
the repeats is printed. A cell is one multiplier of one intervention on all questions. The vector
acts at all tokens of the same block as what it is compared with. Training is by the LM objective on
batches of 4 of the same questions: seconds of one more step, and the peak of the memory beside what
was there before (Linux only).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from statistics import median
from typing import Any

import torch
from worker import resident_bytes, start_of_peak

import steerlens as sl
from steerlens.forms import Form
from steerlens.measures.engine import Engine
from steerlens.measures.tokenised import questions
from steerlens.protocols import first_block

MULTIPLIERS = (-1.0, 0.5, 1.0, 2.0)
QUESTIONS, TOKENS, REPEATS = 16, 24, 5
STEPS = (2, 6)


def forms(layer: int) -> dict[str, Form]:
    """One form of each kind that is trained."""
    site = sl.Site(layer)
    return {
        "vector": sl.VectorForm(site),
        "LoReFT, rank 4": sl.LoReFT(site),
        "one-layer adapter, rank 4": sl.LowRankAdapter(site),
        "post-block adapters, rank 8": sl.PostBlock(8),
        "LoRA of q and v, rank 8": sl.LoRA(8),
        "LoRA of one block": sl.LoRA(8, layers=(layer + 1,)),
        "local weight": sl.LocalWeight(layer + 1),
        "full weights": sl.FullWeights(),
        "soft prefix of 8": sl.SoftPrefix(8),
    }


def kinds(model: sl.Model, fitted: dict[str, Form]) -> dict[str, tuple[Any, int]]:
    """One intervention of each kind with parameters at random, and how many it has."""
    generator = torch.Generator().manual_seed(0)
    found: dict[str, tuple[Any, int]] = {}
    for name, form in fitted.items():
        params = form.begin(model, generator)
        size = sum(p.numel() for p in params.values())
        for tensor in params.values():
            noise = torch.randn(tensor.shape, generator=generator)
            tensor.add_(1e-3 * noise)
        form.after_step(params)
        found[name] = (form.intervention(model, params), size)
    found["prompt"] = (sl.Prompt("It was a wonderful evening.\n"), 0)
    return found


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def ratio(one: Callable[[], object], other: Callable[[], object]) -> float:
    """The median of one's time over the other's, timed in turn."""
    one(), other()
    return median(seconds(one) / seconds(other) for _ in range(REPEATS))


def at_block(model: sl.Model, block: int) -> sl.Add:
    """A vector at all tokens of what enters a block."""
    site = sl.Site(block, "resid_pre") if block < model.n_layers else sl.Site(block - 1)
    vector = torch.randn(model.d_model, generator=torch.Generator().manual_seed(1))
    return sl.Add(sl.Direction(vector, site), sl.Positions.all(), "direction")


def trained(model: sl.Model, pairs: list[sl.ContrastPair], form: Form) -> str:
    """Seconds of one more step, and MiB at the peak beside what was there before."""

    def fit(steps: int) -> object:
        trainer = sl.Trainer(sl.LM(), steps=steps, batch=4)
        return trainer.fit(form, model, sl.ContrastSet("asked", tuple(pairs)), progress=False)

    fit(1)
    before = start_of_peak()
    few, many = (seconds(partial(fit, steps)) for steps in STEPS)
    extra = None if before is None else (resident_bytes("VmHWM") - before) / 2**20
    step = (many - few) / (STEPS[1] - STEPS[0])
    return f"{step:>9.3f} {'?' if extra is None else f'{max(0.0, extra):.0f}':>9}"


def measure(model: sl.Model, layer: int) -> None:
    """Prints a line for each kind."""
    pairs = [
        sl.ContrastPair(f"The {noun} was served at {hour} and everybody said that it was",
                        " good .", " bad .")
        for noun in ("soup", "bread", "wine", "cake") for hour in ("one", "two", "six", "ten")
    ][:QUESTIONS]  # fmt: skip
    prompts = [pair.prompt for pair in pairs[:4]]

    def swept(one: Any) -> object:
        return sl.sweep(model, pairs, [one], MULTIPLIERS, progress=False)

    def written(one: Any) -> object:
        with nullcontext() if one is None else one.attach(model, 1.0):
            return sl.generate(model, prompts, max_new_tokens=TOKENS, stop_at_eos=False)

    fitted = forms(layer)
    for kind, (intervention, size) in kinds(model, fitted).items():
        vector = at_block(model, max(1, first_block(intervention)))
        path = Engine(model, [intervention], MULTIPLIERS).plan(questions(model, pairs)).path
        cell = ratio(partial(swept, intervention), partial(swept, vector))
        token = ratio(partial(written, intervention), partial(written, None))
        training = trained(model, pairs, fitted[kind]) if kind in fitted else ""
        row = f"{kind:28} {size:>11,} {path:>10} {cell:>14.2f} {token:>7.2f} {training}"
        print(row.rstrip(), flush=True)


def main() -> None:
    torch.set_num_threads(1)
    for name in sys.argv[1:] or ["reviews"]:
        model = sl.Model.load(name)
        layer = model.n_layers // 2
        print(f"\n{name}, block {layer} of {model.n_layers}, one thread")
        print(f"{'kind':28} {'parameters':>11} {'path':>10} {'cell / vector':>14} {'token':>7} "
              f"{'step, s':>9} {'peak, MiB':>9}")  # fmt: skip
        measure(model, layer)


if __name__ == "__main__":
    main()
