"""Retrains the reference model "reviews" on the grammar of `steerlens.testbed`.

    python experiments/train_reviews.py                # into results/reviews
    python experiments/train_reviews.py --install      # also replaces the shipped one

About 15 minutes on 2 cores. The output folder appears only when everything is done: the weights,
and a manifest with their hashes, the settings, and the loss on fresh documents beside the lowest
loss that any model could have on them.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from tqdm.auto import tqdm
from transformer_lens import HookedTransformer

import steerlens.testbed
from steerlens.models.checkpoints import build_hooked, load_hooked, save_hooked, word_tokenizer
from steerlens.models.kernel import Columns, Kernel
from steerlens.store.files import write_text
from steerlens.testbed.grammar import Document, Grammar
from steerlens.testbed.oracle import Oracle
from steerlens.testbed.review_grammar import review_grammar

SHIPPED = Path(steerlens.testbed.__file__).parents[1] / "pretrained" / "reviews"


@dataclass(frozen=True, kw_only=True)
class TrainReviews:
    """Trains the reference model; every field but the folders changes the weights."""

    documents: int = 120_000
    """Training documents, each sampled once (about 40 tokens each)."""
    plain: float = 0.3
    """Share of the training, at its beginning, on documents without slips and negations.

    Sharper evidence, so that the model discovers early that concepts persist."""
    truthful: float = 0.08
    """Share, at the very beginning, on truthful narrators only: first the facts, then the lies."""
    batch: int = 32
    """Documents per step."""
    lr: float = 2e-3
    """Peak learning rate of AdamW, after a linear warm-up and before a cosine decay to zero."""
    warmup: float = 0.04
    """Share of the steps that warm up."""
    weight_decay: float = 0.02
    """On matrices only."""
    n_layers: int = 8
    """Transformer blocks."""
    d_model: int = 128
    """Width of the residual stream; heads are 32 wide and the MLP is 4 times as wide."""
    n_ctx: int = 96
    """Positions."""
    seed: int = 0
    """Seeds the initial weights, the documents and their order."""
    check_documents: int = 4000
    """Fresh documents on which the finished model is compared with the optimum."""
    threads: int = 2
    """CPU threads."""
    output: Path = Path("results/reviews")
    """Folder to write; one from an earlier training is replaced."""
    install: bool = False
    """Also replace the model that ships with steerlens."""

    def __post_init__(self) -> None:
        if min(self.documents, self.batch, self.check_documents, self.threads) < 1:
            raise ValueError("documents, batch, check_documents and threads must be at least 1.")
        longest = review_grammar().longest_document
        if self.n_ctx < longest:
            raise ValueError(
                f"n_ctx={self.n_ctx} is too short: documents have up to {longest} tokens. "
                f"Use at least {longest}."
            )
        if self.d_model % 32:
            raise ValueError(f"d_model={self.d_model} is not a multiple of the head width 32.")
        if self.output.exists() and not (self.output / "manifest.json").is_file():
            raise FileExistsError(
                f"{str(self.output)!r} exists and is not from an earlier training, so it is not "
                "replaced. Choose a new folder with --output."
            )


def build(settings: TrainReviews, grammar: Grammar) -> HookedTransformer:
    """The untrained model with its tokenizer."""
    tokenizer = word_tokenizer(grammar.vocabulary)
    config = {
        "n_layers": settings.n_layers,
        "d_model": settings.d_model,
        "n_heads": settings.d_model // 32,
        "d_head": 32,
        "d_mlp": 4 * settings.d_model,
        "n_ctx": settings.n_ctx,
        "d_vocab": len(tokenizer),
        "act_fn": "gelu_new",
        "normalization_type": "LN",
        "model_name": "reviews",
    }
    return build_hooked(config, tokenizer, seed=settings.seed)


def encode(model: HookedTransformer, documents: list[Document]) -> torch.Tensor:
    """Token ids, right-padded to the longest document."""
    vocabulary, pad = model.tokenizer.get_vocab(), model.tokenizer.pad_token_id
    rows = [[vocabulary[token] for token in document.tokens] for document in documents]
    width = max(map(len, rows))
    return torch.tensor([row + [pad] * (width - len(row)) for row in rows])


def losses(model: HookedTransformer, tokens: torch.Tensor) -> torch.Tensor:
    """Nats for every predicted token of a right-padded batch, padding left out.

    By the forward pass without hooks, which is differentiable, and twice as fast.
    """
    kernel, inputs, targets = Kernel(model), tokens[:, None, :-1], tokens[:, 1:]
    index = torch.arange(inputs.shape[2])
    columns = Columns(
        positions=index.expand(len(tokens), 1, -1),
        index=index,
        own_keys=torch.ones_like(inputs, dtype=torch.bool),  # causality hides what is padded
        own_index=index,
    )
    resid = kernel.embed(inputs, columns.positions)
    resid = kernel.climb(resid, columns)
    real = targets != model.tokenizer.pad_token_id
    logits = kernel.logits(kernel.states(resid[:, 0][real]))
    return F.cross_entropy(logits, targets[real], reduction="none")


def batches(settings: TrainReviews, grammar: Grammar) -> Iterator[list[Document]]:
    """Fresh documents, those of similar length together so that little is padded."""
    rng = np.random.default_rng([settings.seed, 0])
    easy = grammar.without_negation()
    drawn = 0
    while drawn < settings.documents:
        done = drawn / settings.documents
        source = easy if done < settings.plain else grammar
        pool = []
        for _ in range(min(settings.documents - drawn, 40 * settings.batch)):
            latents = grammar.states[int(rng.integers(len(grammar.states)))]
            if done < settings.truthful:
                latents = latents.with_pole("truth", True)
            pool.append(source.sample(rng, latents))
        drawn += len(pool)
        pool.sort(key=lambda document: len(document.tokens))
        chunks = [pool[i : i + settings.batch] for i in range(0, len(pool), settings.batch)]
        for i in rng.permutation(len(chunks)):
            yield chunks[i]


def train(settings: TrainReviews, grammar: Grammar) -> HookedTransformer:
    """Trains from scratch, with a progress bar."""
    model = build(settings, grammar).train()
    matrices = [p for name, p in model.named_parameters() if ".W_" in name]
    others = [p for name, p in model.named_parameters() if ".W_" not in name]
    optimizer = torch.optim.AdamW(
        [{"params": matrices}, {"params": others, "weight_decay": 0.0}],
        lr=settings.lr, betas=(0.9, 0.98), weight_decay=settings.weight_decay, fused=True,
    )  # fmt: skip
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _share_of_peak(step * settings.batch / settings.documents, settings)
    )
    with tqdm(
        total=settings.documents, unit="doc", desc="training", smoothing=0.02, disable=None
    ) as bar:
        recent = math.nan
        for documents in batches(settings, grammar):
            loss = losses(model, encode(model, documents)).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            value = loss.item()
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"The loss became {value} after {bar.n} documents. Lower --lr."
                )
            recent = value if math.isnan(recent) else 0.98 * recent + 0.02 * value
            bar.set_postfix(loss=f"{recent:.4f}", refresh=False)
            bar.update(len(documents))
    return model.eval()


def _share_of_peak(progress: float, settings: TrainReviews) -> float:
    if progress < settings.warmup:
        return (progress + 1e-3) / (settings.warmup + 1e-3)
    rest = min(1.0, (progress - settings.warmup) / (1 - settings.warmup))
    return 0.5 * (1 + math.cos(math.pi * rest))


def check(model: HookedTransformer, grammar: Grammar, seed: list[int], count: int) -> dict:
    """Loss and lowest possible loss, per predicted token, on documents never trained on."""
    rng = np.random.default_rng(seed)
    documents = sorted((grammar.sample(rng) for _ in range(count)), key=lambda d: len(d.tokens))
    oracle = Oracle(grammar)
    with torch.no_grad():
        nats = torch.cat(
            [losses(model, encode(model, documents[i : i + 64])) for i in range(0, count, 64)]
        )
    loss, optimum = float(nats.double().mean()), oracle.loss_floor(documents)
    return {
        "seed": seed, "documents": count, "tokens": nats.numel(), "unit": "nats per token",
        "loss": loss, "optimal_loss": optimum, "excess_loss": loss - optimum,
    }  # fmt: skip


def write_manifest(folder: Path, content: dict) -> None:
    """Adds manifest.json, which names every other file with its hash."""
    files = {p.name: sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}
    text = json.dumps({"files": files, **content}, indent=1, default=str)
    write_text(folder / "manifest.json", text + "\n")


def replace_folder(source: Path, target: Path) -> None:
    """Puts a copy of `source` at `target`; an older folder there stays until the copy is whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        shutil.copytree(source, scratch / "new")
        if target.exists():
            target.rename(scratch / "old")
        (scratch / "new").rename(target)
    finally:
        shutil.rmtree(scratch)


def main(settings: TrainReviews) -> None:
    """Trains, rounds, checks what was rounded, and writes."""
    torch.set_num_threads(settings.threads)
    grammar = review_grammar()
    started = time.monotonic()
    model = train(settings, grammar)
    minutes = (time.monotonic() - started) / 60
    with tempfile.TemporaryDirectory() as scratch:
        folder = save_hooked(model, Path(scratch) / "reviews", dtype=torch.float16)
        rounded = load_hooked(folder)
        found = check(rounded, grammar, [settings.seed, 1], settings.check_documents)
        training = {k: v for k, v in asdict(settings).items() if k not in ("output", "install")}
        write_manifest(
            folder,
            {
                "training": training,
                "training_minutes": round(minutes, 1),
                "torch": torch.__version__,
                "grammar": grammar.digest,
                "check": found,
            },
        )
        for target in (settings.output, SHIPPED) if settings.install else (settings.output,):
            replace_folder(folder, target)
    print(
        f"loss {found['loss']:.4f}, optimum {found['optimal_loss']:.4f}, "
        f"excess {found['excess_loss']:.4f} nats per token, {minutes:.1f} minutes: "
        f"{settings.output}"
    )


if __name__ == "__main__":
    main(tyro.cli(TrainReviews))
