"""steerlens on one GPU: seconds, the share of the card's measured matmul rate, and peak memory.

    python benchmarks/gpu.py                                  # bfloat16, two random models
    python benchmarks/gpu.py --shapes gemma-2-2b --profile
    python benchmarks/gpu.py --device cpu --tiny --repeats 1  # the same program, small, without a GPU

Models have random weights in the shapes of Gemma-2-2B and Llama-3.1-8B, made on the device. Every time
is the median of synchronised repeats after a warm-up. The rate is that of matrix products measured
in the same run, at 8192 x 8192 x 8192 and at the shapes that occur; the multiply-adds are those of
`floor.py`. Results are in `results/<name>.md` and `results/<name>.json`.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from floor import Counts
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig

from steerlens.data import ContrastPair, ContrastSet
from steerlens.directions import Direction
from steerlens.interventions import Add
from steerlens.measures.divergence import divergence
from steerlens.measures.generation import generated_tokens
from steerlens.measures.reading import diffmean
from steerlens.measures.sweep import sweep
from steerlens.models.checkpoints import word_tokenizer
from steerlens.models.model import Model
from steerlens.sites import Positions

N_CTX = 1024
SHAPES: dict[str, dict[str, Any]] = {
    "gemma-2-2b": {
        "n_layers": 26, "d_model": 2304, "n_heads": 8, "n_key_value_heads": 4, "d_head": 256,
        "d_mlp": 9216, "d_vocab": 256_000, "act_fn": "gelu_pytorch_tanh", "rotary_base": 10_000,
        "attn_scores_soft_cap": 50.0, "output_logits_soft_cap": 30.0, "rotary_dim": 256,
        "use_normalization_before_and_after": True, "use_local_attn": True, "window_size": 4096,
        "attn_types": ["global", "local"] * 13, "attn_scale": 16.0,
    },
    "llama-3.1-8b": {
        "n_layers": 32, "d_model": 4096, "n_heads": 32, "n_key_value_heads": 8, "d_head": 128,
        "d_mlp": 14336, "d_vocab": 128_256, "act_fn": "silu", "rotary_base": 500_000,
        "rotary_dim": 128,
    },
}  # fmt: skip
COMMON = {
    "n_ctx": N_CTX, "gated_mlp": True, "normalization_type": "RMS", "eps": 1e-5, "final_rms": True,
    "positional_embedding_type": "rotary", "init_weights": False,
}  # fmt: skip
TINY = {
    "n_layers": 4, "d_model": 64, "n_heads": 4, "n_key_value_heads": 2, "d_head": 16, "d_mlp": 128,
    "d_vocab": 500, "rotary_dim": 16,
}  # fmt: skip
MULTIPLIERS = (-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0)
STEERED = len(MULTIPLIERS) - 1
LENGTH = 0.3
"""What multiplier 1 adds, in median norms of the stream."""
SPECIAL = 4
"""Ids of the tokenizer that are no words."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much work is timed."""

    tokens: int = 40
    """Tokens of a prompt, BOS included."""
    pairs: int = 256
    prompts: int = 24
    """Of the sweep at all positions."""
    last_prompts: int = 96
    """Of the sweep from the last token on."""
    texts: int = 12
    null_prompts: int = 24
    nulls: int = 20
    writers: int = 64
    new: int = 32
    naive_cells: int = 4
    slice_layers: int = 4
    slice_prompts: int = 3


@dataclass(kw_only=True)
class Row:
    """One timed task."""

    task: str
    seconds: float
    spread: list[float] = field(default_factory=list)
    work: float = 0.0
    """Multiply-adds of the most economical schedule."""
    share: float | None = None
    """Of the rate at 8192 x 8192 x 8192."""
    share_at_shapes: float | None = None
    """Of the rate at the shapes that occur."""
    peak_gib: float | None = None
    note: str = ""


def wait(device: torch.device) -> None:
    """Until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Card:
    """The device: its clock, its memory, its rate."""

    def __init__(self, device: str, dtype: torch.dtype) -> None:
        self.device, self.dtype = torch.device(device), dtype
        self.is_cuda = self.device.type == "cuda"

    @property
    def name(self) -> str:
        return torch.cuda.get_device_name(self.device) if self.is_cuda else "CPU"

    def wait(self) -> None:
        wait(self.device)

    def seconds(self, run: Callable[[], Any], repeats: int) -> tuple[list[float], float | None]:
        """Synchronised seconds of every repeat, and the peak of allocated memory in GiB."""
        if self.is_cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
        found = []
        for _ in range(repeats):
            self.wait()
            start = time.perf_counter()
            run()
            self.wait()
            found.append(time.perf_counter() - start)
        peak = torch.cuda.max_memory_allocated(self.device) / 2**30 if self.is_cuda else None
        return found, peak

    def rate(self, rows: int, inner: int, columns: int) -> float:
        """Multiply-adds per second of a product of random matrices: the best of five times 10."""
        left = torch.randn(rows, inner, device=self.device).to(self.dtype)
        right = torch.randn(inner, columns, device=self.device).to(self.dtype)
        left @ right
        times = 10 if self.is_cuda else 1

        def run() -> None:
            for _ in range(times):
                left @ right

        return times * rows * inner * columns / min(self.seconds(run, 5)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--name", default="gpu")
    parser.add_argument("--out", default=str(Path(__file__).parent / "results"))
    parser.add_argument("--tiny", action="store_true", help="small shapes and little work")
    parser.add_argument("--profile", action="store_true", help="print where the sweep's time goes")
    for name, value in asdict(Sizes()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_float32_matmul_precision("highest")
    sizes = Sizes(**{name: getattr(args, name) for name in asdict(Sizes())})
    if args.tiny:
        sizes = Sizes(tokens=8, pairs=4, prompts=2, last_prompts=3, texts=4, null_prompts=2,
                      nulls=2, writers=3, new=3, naive_cells=1, slice_layers=2)  # fmt: skip
    card = Card(args.device, getattr(torch, args.dtype))
    found: dict[str, Any] = {"device": card.name, "dtype": args.dtype, "sizes": asdict(sizes)}
    edge = 256 if args.tiny else 8192
    found["rate"] = card.rate(edge, edge, edge)
    print(f"{card.name}: {2e-12 * found['rate']:.4g} TFLOP/s at {edge}^3", flush=True)
    texts = [f"# One GPU\n\n{card.name}, {args.dtype}, torch {torch.__version__}"]
    texts.append(f"{2e-12 * found['rate']:.4g} TFLOP/s at {edge} x {edge} x {edge}.")
    place = Path(args.out)
    place.mkdir(parents=True, exist_ok=True)
    for name in args.shapes:
        shape = {**COMMON, **SHAPES[name], **(TINY if args.tiny else {})}
        if args.tiny and "attn_types" in shape:
            shape["attn_types"] = ["global", "local"] * (shape["n_layers"] // 2)
        made = measure(card, shape, sizes, args.repeats, found["rate"], args.profile)
        found[name] = made
        texts.append(table(name, made))
        print(texts[-1], flush=True)
        (place / f"{args.name}.md").write_text("\n\n".join(texts) + "\n", encoding="utf-8")
        (place / f"{args.name}.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
        gc.collect()
        if card.is_cuda:
            torch.cuda.empty_cache()


@torch.no_grad()
def build(
    shape: dict[str, Any],
    device: torch.device,
    dtype: torch.dtype,
    tokenizer: Any,
    weights: dict[str, Tensor] | None = None,
) -> Any:
    """A model made on the device, by default random: matrices keep the size of what they read."""
    cfg = HookedTransformerConfig(**shape, device=str(device), dtype=dtype, model_name="random")
    with torch.device(device):
        hooked = HookedTransformer(cfg, tokenizer=tokenizer, default_padding_side="left")
    if weights is not None:
        hooked.load_state_dict(weights, strict=False)
        return hooked.eval().requires_grad_(False)
    generator = torch.Generator(device).manual_seed(0)
    for name, weight in hooked.named_parameters():
        last = name.rsplit(".", 1)[-1]
        if last.startswith("W_"):
            read = cfg.n_heads * cfg.d_head if last == "W_O" else weight.shape[-2]
            std = 1.0 if last == "W_E" else read**-0.5
            weight.normal_(0, std, generator=generator)
        else:
            weight.fill_(1.0 if last == "w" else 0.0)
    return hooked.eval().requires_grad_(False)


class Words:
    """Random texts of one token per word."""

    def __init__(self, d_vocab: int) -> None:
        self.draw, self.d_vocab = random.Random(1), d_vocab

    def __call__(self, count: int) -> str:
        return " ".join(f"w{self.draw.randrange(SPECIAL, self.d_vocab)}" for _ in range(count))

    def questions(self, count: int, tokens: int) -> list[ContrastPair]:
        return [ContrastPair(self(tokens - 1), " " + self(1), " " + self(1)) for _ in range(count)]


def measure(
    card: Card, shape: dict[str, Any], sizes: Sizes, repeats: int, rate: float, profile: bool
) -> dict[str, Any]:
    d_vocab, t = shape["d_vocab"], sizes.tokens
    tokenizer = word_tokenizer([f"w{i}" for i in range(SPECIAL, d_vocab)])
    card.wait()
    start = time.perf_counter()
    model = Model(build(shape, card.device, card.dtype, tokenizer), "random")
    card.wait()
    rows = [Row(task="build the random model on the device", seconds=time.perf_counter() - start)]
    counts = Counts(
        n_layers=shape["n_layers"], d_model=shape["d_model"], d_vocab=d_vocab,
        queries=shape["n_heads"] * shape["d_head"], d_mlp=shape["d_mlp"], gated=True,
        keys=shape["n_key_value_heads"] * shape["d_head"],
    )  # fmt: skip
    at_shapes = shapes_rate(card, counts, 64 if sizes.pairs < 9 else 8192)
    words = Words(d_vocab)

    def timed(task: str, run: Callable[[], Any], work: float = 0.0, note: str = "") -> Row:
        spread, peak = card.seconds(run, repeats)
        row = Row(task=task, seconds=median(spread), spread=spread, work=work, peak_gib=peak)
        if work:
            row.share = work / row.seconds / rate
            row.share_at_shapes = work / row.seconds / at_shapes
        row.note = note
        if profile and card.is_cuda:
            print_profile(run)
        rows.append(row)
        print(f"  {task}: {row.seconds:.4g} s", row.share and f"{row.share:.0%}", flush=True)
        return row

    spread, _ = card.seconds(lambda: model.kernel(), 1)
    rows.append(Row(task="its checks when first used", seconds=spread[0]))
    timed("the hash of its weights", lambda: model.fingerprint)

    pairs = ContrastSet("random", tuple(
        ContrastPair("", words(t - 1), words(t - 1)) for _ in range(sizes.pairs)
    ))  # fmt: skip
    made: list[Direction] = diffmean(model, pairs[:2], progress=False)
    timed(
        f"DiffMean at every layer, {sizes.pairs} pairs",
        lambda: made.__setitem__(slice(None), diffmean(model, pairs, progress=False)),
        2 * sizes.pairs * counts.directions(t), "the hash of the weights included",
    )  # fmt: skip
    cells = counts.n_layers * STEERED
    everywhere, last = edits(made, Positions.all()), edits(made, Positions.from_prompt_end())

    asked = words.questions(max(sizes.prompts, sizes.last_prompts), t)
    swept: dict[str, Tensor] = {}

    def sweeps(name: str, arms: list[Add], count: int) -> Callable[[], None]:
        def run() -> None:
            found = sweep(
                model, asked[:count], arms, MULTIPLIERS, log_odds_only=True, progress=False
            )
            swept[name] = found.log_odds

        return run

    sweeps("all", everywhere, 2)()
    timed(
        f"sweep, all positions, {cells} cells x {sizes.prompts} prompts",
        sweeps("all", everywhere, sizes.prompts), sizes.prompts * counts.sweep_all(t, STEERED),
    )  # fmt: skip
    timed(
        f"sweep, last token on, {cells} cells x {sizes.last_prompts} prompts",
        sweeps("last", last, sizes.last_prompts),
        sizes.last_prompts * counts.sweep_last(t, STEERED),
    )  # fmt: skip
    whole = [words(t - 1) for _ in range(sizes.texts)]
    new = t - t // 2 + 1
    timed(
        f"KL, {cells} cells x {sizes.texts} texts of {t} tokens",
        lambda: divergence(model, whole, last, MULTIPLIERS, progress=False),
        sizes.texts * counts.cost(t, new, STEERED),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    others = [
        replace(edit, direction=replace(edit.direction, vector=like(edit.direction, generator)))
        for _ in range(sizes.nulls)
        for edit in last
    ]
    timed(
        f"{sizes.nulls} null maps, {sizes.nulls * cells} cells x {sizes.null_prompts} prompts",
        lambda: sweep(
            model, asked[: sizes.null_prompts], others, MULTIPLIERS, log_odds_only=True,
            progress=False,
        ),
        sizes.null_prompts * counts.sweep_last(t, STEERED * sizes.nulls),
    )  # fmt: skip
    prompts = [words(t - 1) for _ in range(sizes.writers)]

    def write() -> None:
        with last[counts.n_layers // 2].attach(model, 0.5):
            generated_tokens(model, prompts, max_new_tokens=sizes.new, stop_at_eos=False)

    write()
    blocks, unembedding = counts.decode(t, sizes.new)
    timed(
        f"writing, {sizes.writers} texts x {sizes.new} tokens, one layer steered", write,
        sizes.writers * (counts.prefill(t) + blocks + unembedding),
    )  # fmt: skip
    rows += naive(card, model, everywhere, asked, sizes, swept["all"], rate)
    return {
        "parameters": sum(p.numel() for p in model.wrapped.parameters()),
        "rate_at_shapes": at_shapes,
        "rows": [asdict(row) for row in rows],
        "same": same_numbers(card, shape, sizes),
    }


def shapes_rate(card: Card, counts: Counts, rows: int) -> float:
    """The rate of one block's own products, one after the other, at this number of rows."""
    d, queries, keys, mlp = counts.d_model, counts.queries, counts.keys, counts.d_mlp
    shapes = ((d, queries + 2 * keys), (queries, d), (d, mlp), (d, mlp), (mlp, d))
    work = [rows * inner * columns for inner, columns in shapes]
    spent = [w / card.rate(rows, *s) for w, s in zip(work, shapes, strict=True)]
    return sum(work) / sum(spent)


def edits(directions: list[Direction], positions: Positions) -> list[Add]:
    return [Add(d, positions, LENGTH * float(d.resid_norm or 1.0)) for d in directions]


def like(direction: Direction, generator: torch.Generator) -> Tensor:
    return torch.randn(direction.vector.shape, generator=generator) * direction.norm


def naive(
    card: Card, model: Model, arms: list[Add], asked: list[ContrastPair], sizes: Sizes,
    swept: Tensor, rate: float,
) -> list[Row]:  # fmt: skip
    """`run_with_hooks`, one forward pass per cell, all prompts in one batch: a few cells."""
    some = asked[: sizes.prompts]
    batch = model.tokens([pair.prompt for pair in some])
    targets = torch.tensor(
        [[model.split(p.prompt, a)[1][0] for a in (p.positive, p.negative)] for p in some],
        device=model.device,
    )
    layers = [round(k * (len(arms) - 1) / max(1, sizes.naive_cells - 1)) for k in
              range(sizes.naive_cells)]  # fmt: skip
    column = MULTIPLIERS.index(0.5)
    gaps, cells = [], len(arms) * STEERED + 1

    def cell(layer: int) -> Tensor:
        step = (0.5 * arms[layer].step).to(model.device, card.dtype)
        ordinary = (~batch.special)[..., None]

        def add(resid: Tensor, hook: Any) -> Tensor:
            return torch.where(ordinary, resid + step, resid)

        logits = model.wrapped.run_with_hooks(
            batch.tokens, fwd_hooks=[(arms[layer].site.hook, add)]
        )
        picked = logits[:, -1].float().gather(1, targets)
        return picked[:, 0] - picked[:, 1]

    cell(0)

    def run() -> None:
        gaps.clear()
        gaps.extend(cell(layer).cpu() - swept[layer, column] for layer in layers)

    spread, peak = card.seconds(run, 2)
    whole = min(spread) / len(layers) * cells
    gap, size = float(torch.stack(gaps).abs().max()), float(swept[layers, column].std())
    note = (
        f"extrapolated from {len(layers)} cells; log-odds differ by at most {gap:.2g} nats, both in "
        f"{str(card.dtype).removeprefix('torch.')} (their own spread is {size:.2g})"
    )
    return [
        Row(
            task=f"naive TransformerLens loop, all positions, {sizes.prompts} prompts in a batch",
            seconds=whole, spread=spread, peak_gib=peak, note=note,
        )
    ]  # fmt: skip


def same_numbers(card: Card, shape: dict[str, Any], sizes: Sizes) -> dict[str, dict[str, float]]:
    """Log-odds of a few layers of the shape on the device, against float32 on the CPU."""
    few = {**shape, "n_layers": sizes.slice_layers, "d_vocab": min(shape["d_vocab"], 8192)}
    tokenizer = word_tokenizer([f"w{i}" for i in range(SPECIAL, few["d_vocab"])])
    if "attn_types" in few:
        few["attn_types"] = few["attn_types"][: sizes.slice_layers]
    words = Words(few["d_vocab"])
    asked = words.questions(sizes.slice_prompts, sizes.tokens)
    weights = build(few, card.device, torch.bfloat16, tokenizer).state_dict()
    generator = torch.Generator().manual_seed(0)
    found: dict[str, Tensor] = {}
    length = 0.0
    for device, dtype in (("cpu", torch.float32), (str(card.device), torch.float32),
                          (str(card.device), torch.bfloat16)):  # fmt: skip
        hooked = build(few, torch.device(device), dtype, tokenizer, weights)
        model = Model(hooked, "random")
        if not length:
            read = diffmean(model, [("", words(12), words(12)) for _ in range(2)], progress=False)
            length = LENGTH * float(read[0].resid_norm or 1.0)
        generator.manual_seed(0)
        arms = {
            where: [
                Add(Direction(torch.randn(model.d_model, generator=generator), site,
                              processing=model.processing), Positions(where), length)
                for site in model.sites()
            ]
            for where in ("all", "from_prompt_end")
        }  # fmt: skip
        found[f"{torch.device(device).type} {str(dtype).removeprefix('torch.')}"] = torch.stack([
            sweep(model, asked, edits, MULTIPLIERS, log_odds_only=True, progress=False).log_odds
            for edits in arms.values()
        ])  # fmt: skip
        del model, hooked
    (reference, *_), out = found.values(), {}
    for name, odds in list(found.items())[1:]:
        gap = (odds - reference).abs()
        out[name] = {"largest": float(gap.max()), "mean": float(gap.mean()),
                     "spread": float(reference.std())}  # fmt: skip
    return out


def print_profile(run: Callable[[], None]) -> None:
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as seen:
        run()
    averages = seen.key_averages()
    print(averages.table(sort_by="self_cuda_time_total", row_limit=16, max_name_column_width=60))


def table(name: str, made: dict[str, Any]) -> str:
    lines = [
        f"## {name}'s shape, {made['parameters'] / 1e9:.2f} thousand million random weights",
        "",
        f"{2e-12 * made['rate_at_shapes']:.4g} TFLOP/s in its own products at 8,192 rows.",
        "",
        "| task | seconds | TFLOP | of the rate at 8192^3 | of the rate at its shapes | peak GiB |",
        "|---|---|---|---|---|---|",
    ]
    notes = []
    for row in made["rows"]:
        mark = ""
        if row["note"]:
            notes.append(row["note"])
            mark = f" ({len(notes)})"
        cells = [
            row["task"] + mark,
            f"{row['seconds']:.3g}",
            f"{2e-12 * row['work']:.4g}" if row["work"] else "–",
            f"{row['share']:.0%}" if row["share"] else "–",
            f"{row['share_at_shapes']:.0%}" if row["share_at_shapes"] else "–",
            "–" if row["peak_gib"] is None else f"{row['peak_gib']:.3g}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *(f"({k}) {note}." for k, note in enumerate(notes, 1)), ""]
    for where, gap in made["same"].items():
        lines.append(
            f"- {where} against float32 on the CPU, a few layers of the shape: log-odds differ by "
            f"{gap['mean']:.2g} nats in the mean and {gap['largest']:.2g} at most; their own "
            f"standard deviation is {gap['spread']:.2g}."
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
