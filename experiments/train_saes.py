"""Trains an SAE at every layer of a model; by default those that ship with the reference model.

    python experiments/train_saes.py                                   # into results/reviews-saes
    python experiments/train_saes.py --install                         # also replaces the shipped ones
    python experiments/train_saes.py --model gpt2 --texts corpus.txt --layers 6 8 --tokens 20000000

About 15 minutes on one core for the reference model. The output folder appears only when everything
is done: a folder per layer, which `SAE.load` and sae_lens read, and a manifest with the
hashes, the settings, and how good each SAE is, as stored, on texts that it was not trained on.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import tyro
from train_reviews import replace_folder

from steerlens.models.loading import PRETRAINED
from steerlens.models.model import Model
from steerlens.saes import SAE
from steerlens.saes.quality import quality
from steerlens.saes.training import train_saes
from steerlens.sites import Site
from steerlens.store.files import write_text
from steerlens.testbed.reviews import neutral_texts

REVIEWS = "reviews"
SHIPPED = PRETRAINED / f"{REVIEWS}-saes"


@dataclass(frozen=True, kw_only=True)
class TrainSAEs:
    """Trains one SAE per layer, all from the same forward passes."""

    model: str = REVIEWS
    """The reference model, a local folder, or a name on the hub."""
    texts: Path | None = None
    """A file with one text per line; without it, documents of the reference model's grammar."""
    layers: tuple[int, ...] = ()
    """Layers whose resid_post is read; by default all."""
    architecture: str = "topk"
    """sae_lens's name of the kind of SAE."""
    options: tuple[str, ...] = ("k=16",)
    """Settings of that kind, as name=number."""
    d_sae: int = 512
    """Features of each SAE."""
    tokens: int = 1_024_000
    """Training tokens, BOS and its like not counted."""
    batch_tokens: int = 1024
    """Tokens per step."""
    lr: float = 3e-3
    """Peak learning rate of Adam."""
    documents: int = 27_000
    """Documents of the grammar to train on, where no texts are given (about 38 tokens each)."""
    check_documents: int = 600
    """Fresh documents, or lines at the end of the texts, on which the SAEs are measured."""
    seed: int = 0
    """Seeds the documents, the initial weights and the order of the tokens."""
    threads: int = 1
    """CPU threads."""
    output: Path = Path("results/reviews-saes")
    """Folder to write; one from an earlier training is replaced."""
    install: bool = False
    """Also replace the SAEs that ship with steerlens."""

    def __post_init__(self) -> None:
        if self.install and (self.model != REVIEWS or self.layers or self.texts):
            raise ValueError(
                "--install replaces the SAEs of the reference model, of all its layers, trained on "
                "its own grammar. Drop --model, --layers and --texts."
            )
        if self.texts is None and self.model != REVIEWS:
            raise ValueError(f"{self.model!r} needs texts to read. Give --texts file.txt.")
        if self.output.exists() and not (self.output / "manifest.json").is_file():
            raise FileExistsError(
                f"{str(self.output)!r} exists and is not from an earlier training, so it is not "
                "replaced. Choose a new folder with --output."
            )

    def settings(self) -> dict[str, Any]:
        """The options as sae_lens takes them.

        Raises:
            ValueError: If one is not name=number.
        """
        try:
            pairs = [option.split("=", 1) for option in self.options]
            return {name: json.loads(value) for name, value in pairs}
        except ValueError as error:
            raise ValueError(
                f"--options {' '.join(self.options)} is not name=number. Write --options k=16."
            ) from error

    def corpora(self) -> tuple[list[str], list[str]]:
        """Texts to train on, and others to measure on."""
        if self.texts is None:
            return (
                neutral_texts(self.documents, self.seed),
                neutral_texts(self.check_documents, self.seed + 1),
            )
        lines = [line for line in self.texts.read_text(encoding="utf-8").splitlines() if line]
        if len(lines) <= self.check_documents:
            raise ValueError(
                f"{self.texts} has {len(lines)} lines and --check-documents takes "
                f"{self.check_documents} of them. Lower it, or give more texts."
            )
        return lines[: -self.check_documents], lines[-self.check_documents :]


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Adds manifest.json, which names every other file with its hash."""
    files = {
        path.relative_to(folder).as_posix(): sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    text = json.dumps({"files": files, **content}, indent=1, default=str)
    write_text(folder / "manifest.json", text + "\n")


def main(settings: TrainSAEs) -> None:
    """Trains, rounds, measures what was rounded, and writes."""
    torch.set_num_threads(settings.threads)
    model = Model.load(settings.model)
    train, held_out = settings.corpora()
    layers = settings.layers or tuple(range(model.n_layers))
    started = time.monotonic()
    found = train_saes(
        model,
        train,
        [Site(layer) for layer in layers],
        d_sae=settings.d_sae,
        architecture=settings.architecture,
        options=settings.settings(),
        tokens=settings.tokens,
        batch_tokens=settings.batch_tokens,
        lr=settings.lr,
        seed=settings.seed,
    )
    minutes = (time.monotonic() - started) / 60
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "saes"
        checks = {}
        for layer, sae in zip(layers, found, strict=True):
            sae.save(folder / str(layer), dtype=torch.float16)
            measured = quality(SAE.load(folder / str(layer)), model, held_out)
            checks[layer] = measured.row
            print(f"layer {layer}: {measured}")
        training = asdict(settings)
        write_manifest(
            folder,
            {
                "training": {k: v for k, v in training.items() if k not in ("output", "install")},
                "training_minutes": round(minutes, 1),
                "model": model.name,
                "fingerprint": model.fingerprint,
                "torch": torch.__version__,
                "sae_lens": version("sae-lens"),
                "check": checks,
            },
        )
        for target in (settings.output, SHIPPED) if settings.install else (settings.output,):
            replace_folder(folder, target)
    print(f"{minutes:.1f} minutes: {settings.output}")


if __name__ == "__main__":
    main(tyro.cli(TrainSAEs))
