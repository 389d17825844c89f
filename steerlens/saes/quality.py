"""Quality of an SAE: sparsity, explained variance, added loss, dead features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from steerlens.models.model import Model, as_model
from steerlens.progress_bar import progress_bar
from steerlens.saes.corpus import Corpus, batches, streams
from steerlens.saes.sae import SAE
from steerlens.sites import Positions, TokenBatch
from steerlens.stats import Interval, bootstrap_means

_ORDINARY = Positions.all()


@dataclass(frozen=True, eq=False)
class SAEQuality:
    """How well an SAE reconstructs a stream, measured on tokens that it was not trained on."""

    l0: float
    """Mean number of features that fire at a token."""
    explained_variance: float
    """1 minus the squared error over the squared distance from the mean, summed over tokens."""
    dead: int
    """Features that fired at no token."""
    d_sae: int
    tokens: int
    """Tokens that were encoded: all but padding and special ones."""
    nats: Float[Tensor, "run row"]
    """Summed loss of each row: unedited, reconstructed, stream at its mean, stream at zero."""
    predicted: Float[Tensor, " row"]
    """Predicted tokens of each row."""

    @property
    def loss(self) -> float:
        """Cross-entropy of the unedited model, nats per token."""
        return float(self.nats[0].sum() / self.predicted.sum())

    @property
    def loss_added(self) -> float:
        """Nats per token that reconstructing the stream adds to the loss."""
        return float((self.nats[1] - self.nats[0]).sum() / self.predicted.sum())

    @property
    def recovered(self) -> Interval:
        """Share of the cross-entropy recovered, compared with a stream of zeros.

        This is sae_lens's measure. A stream of zeros is an easy baseline; see
        `recovered_from_mean`.
        """
        return self._share(3)

    @property
    def recovered_from_mean(self) -> Interval:
        """The same, compared with a stream that is its mean at every token."""
        return self._share(2)

    def _share(self, baseline: int) -> Interval:
        draws = bootstrap_means(self.nats).double()
        shares = (draws[:, baseline] - draws[:, 1]) / (draws[:, baseline] - draws[:, 0])
        low, high = torch.quantile(shares, shares.new_tensor([0.025, 0.975])).tolist()
        clean, spliced, base = (float(self.nats[i].double().mean()) for i in (0, 1, baseline))
        return Interval((base - spliced) / (base - clean), low, high)

    @property
    def row(self) -> dict[str, float | int]:
        """The numbers by name, for a table or a manifest."""
        return {
            "l0": self.l0,
            "explained_variance": self.explained_variance,
            "loss": self.loss,
            "loss_added": self.loss_added,
            "loss_recovered": self.recovered.value,
            "loss_recovered_from_mean": self.recovered_from_mean.value,
            "dead": self.dead,
            "d_sae": self.d_sae,
            "tokens": self.tokens,
        }

    def __str__(self) -> str:
        return (
            f"L0 {self.l0:.1f}, explained variance {self.explained_variance:.4f}, "
            f"loss + {self.loss_added:.4f} nats, recovered {self.recovered}, "
            f"dead {self.dead}/{self.d_sae} on {self.tokens} tokens"
        )


@torch.no_grad()
def quality(
    sae: SAE,
    model: Model,
    corpus: Corpus,
    *,
    rows: int = 32,
    progress: bool = True,
) -> SAEQuality:
    """Measures an SAE on a corpus that it was not trained on.

    The loss is of the next token, over all tokens but the first. The reconstruction replaces the
    stream at ordinary tokens; special tokens such as BOS keep theirs, as in training.

    Raises:
        SAEError: If the SAE was not made for the model's stream.
        ValueError: If the corpus has fewer than two rows.
    """
    model = as_model(model)
    sae.require_fits(model)
    if len(corpus) < 2:
        raise ValueError(f"{len(corpus)} rows give no interval. Give at least two.")
    site = sae.site
    fired = torch.zeros(sae.d_sae, device=sae.device)
    count, error = 0, 0.0
    total = torch.zeros(sae.d_model, dtype=torch.float64, device=sae.device)
    squares = 0.0
    for batch in _shown(model, corpus, rows, "SAE variance", progress):
        resid = streams(model, batch, [site])[site]
        features = sae.encode(resid)
        fired += (features != 0).sum(0)
        error += float((resid - sae.decode(features, resid)).double().square().sum())
        total += resid.double().sum(0)
        squares += float(resid.double().square().sum())
        count += len(resid)
    mean = (total / count).float()
    edits = (
        None,
        lambda resid, strength: sae.reconstruct(resid),
        lambda resid, strength: mean.to(resid).expand_as(resid),
        lambda resid, strength: torch.zeros_like(resid),
    )
    nats: list[list[Tensor]] = [[] for _ in edits]
    predicted = []
    for batch in _shown(model, corpus, rows, "SAE losses", progress):
        for kept, edit in zip(nats, edits, strict=True):
            if edit is None:
                loss, counted = _losses(model, batch)
                predicted.append(counted)
            else:
                with model.hooked(site, edit, _ORDINARY, 1.0):
                    loss, _ = _losses(model, batch)
            kept.append(loss)
    return SAEQuality(
        l0=float(fired.sum()) / count,
        explained_variance=1 - error / (squares - count * float((total / count).square().sum())),
        dead=int((fired == 0).sum()),
        d_sae=sae.d_sae,
        tokens=count,
        nats=torch.stack([torch.cat(run) for run in nats]),
        predicted=torch.cat(predicted),
    )


def _shown(
    model: Model, corpus: Corpus, rows: int, label: str, progress: bool
) -> Iterator[TokenBatch]:
    total = -(-len(corpus) // rows)
    found = batches(model, corpus, rows=rows)
    yield from progress_bar(progress, found, total=total, desc=label, unit="batch")


def _losses(model: Model, batch: TokenBatch) -> tuple[Tensor, Tensor]:
    """Summed nats of each row's predicted tokens, and how many these are."""
    logits = model.logits(batch)[:, :-1].float()
    real = batch.mask[:, :-1] & batch.mask[:, 1:]
    nats = F.cross_entropy(logits.transpose(1, 2), batch.tokens[:, 1:], reduction="none")
    return (nats * real).sum(-1).cpu(), real.sum(-1).float().cpu()


def observe(
    sae: SAE, model: Model, corpus: Corpus, *, rows: int = 32, progress: bool = True
) -> SAE:
    """The same SAE, with each feature's largest activation and the stream's median norm.

    Both are measured on the corpus. They are the units in which features are clamped and added.

    Raises:
        SAEError: If the SAE was not made for the model's stream.
    """
    return observe_together([sae], model, corpus, rows=rows, progress=progress)[0]


@torch.no_grad()
def observe_together(
    saes: Sequence[SAE],
    model: Model,
    corpus: Corpus,
    *,
    rows: int = 32,
    progress: bool = True,
) -> list[SAE]:
    """`observe` for SAEs at several sites, from the same forward passes."""
    model = as_model(model)
    for sae in saes:
        sae.require_fits(model)
    largest = [d.wrapped.W_dec.new_zeros(d.d_sae) for d in saes]
    norms: list[list[Tensor]] = [[] for _ in saes]
    sites = [sae.site for sae in saes]
    for batch in _shown(model, corpus, rows, "SAE maxima", progress):
        resids = streams(model, batch, sites)
        for i, sae in enumerate(saes):
            resid = resids[sae.site]
            features = sae.encode(resid)
            strongest = features.gather(0, features.abs().argmax(0, keepdim=True))[0]  # has a sign
            largest[i] = torch.where(strongest.abs() > largest[i].abs(), strongest, largest[i])
            norms[i].append(resid.norm(dim=-1))
    return [
        replace(d, max_activation=most, resid_norm=float(torch.cat(found).median()))
        for d, most, found in zip(saes, largest, norms, strict=True)
    ]
