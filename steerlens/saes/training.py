"""Training SAEs with sae_lens on any model and any tokens: offline, several layers at a time.

The activations are read by steerlens (one text per row, BOS and padding left out). The SAEs, their
losses and their optimiser are sae_lens's. Nothing is logged to a service, no signal handler is
installed, and the global random state is not changed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.directions.basis import KNOWN
from steerlens.models.checkpoints import unchanged_rng
from steerlens.models.model import Model, as_model
from steerlens.progress_bar import progress_bar
from steerlens.saes.corpus import Corpus, batches, first_rows, streams
from steerlens.saes.quality import observe_together
from steerlens.saes.sae import SAE
from steerlens.saes.sae_config import FACTS
from steerlens.saes.sae_errors import SAEError
from steerlens.saes.sae_lens_library import sae_lens
from steerlens.sites import Site

OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "topk": {"k": 16},
    "batchtopk": {"k": 16},
    "abstopk": {"k": 16},
    "standard": {"l1_coefficient": 5.0},
    "gated": {"l1_coefficient": 5.0},
    "jumprelu": {"l0_coefficient": 5.0},
    "matching_pursuit": {"residual_threshold": 1.0},
}
"""Settings of each architecture where none are given, chosen for scaled activations."""
_SCALE_BATCHES = 8
_OBSERVED_TOKENS = 50_000


def train_saes(
    model: Model,
    corpus: Corpus,
    sites: Sequence[Site] | None = None,
    *,
    d_sae: int,
    architecture: str = "topk",
    options: Mapping[str, Any] | None = None,
    tokens: int = 1_000_000,
    batch_tokens: int = 1024,
    buffer_tokens: int = 16_384,
    lr: float = 1e-3,
    seed: int = 0,
    progress: bool = True,
) -> list[SAE]:
    """One SAE per site, all from the same forward passes.

    Args:
        corpus: Texts or rows of token ids; repeated in another order until `tokens` are reached.
        sites: By default resid_post of every layer.
        d_sae: Features of each SAE.
        architecture: sae_lens's name: "topk", "batchtopk", "jumprelu", "standard", "gated", …
        options: Settings of sae_lens's training config for the architecture, e.g. ``{"k": 32}``.
        tokens: Ordinary tokens to train on: padding and special ones do not count.
        batch_tokens: Tokens per step.
        buffer_tokens: Tokens that are shuffled together before they are served.
        lr: Peak of Adam's learning rate; it warms up over the first 2% and falls to zero over the
            last 20% of the steps.
        seed: Seeds the initial weights and the order of the tokens.

    Returns:
        SAEs in the order of `sites`, with the largest activations and the median norm on
        the corpus's first 50,000 tokens. Measure them with `quality` on other texts.

    Raises:
        SAEError: For an architecture that sae_lens cannot train, or settings it refuses.
        ValueError: If the corpus is empty, or there are fewer tokens than one step takes.
        FloatingPointError: If a loss becomes infinite or NaN.
    """
    model = as_model(model)
    sites = tuple(dict.fromkeys(sites or model.sites()))
    for site in sites:
        model.require_site(site)
    if tokens < batch_tokens or batch_tokens < 2:
        raise ValueError(
            f"tokens={tokens} is less than one step of batch_tokens={batch_tokens}. Give more "
            "tokens, or a smaller batch_tokens of at least 2."
        )
    steps = tokens // batch_tokens
    with unchanged_rng():
        torch.manual_seed(seed)
        trainers = {
            site: _trainer(model, d_sae, architecture, options, steps, batch_tokens, lr)
            for site in sites
        }
        served = _served(model, corpus, sites, batch_tokens, buffer_tokens, seed)
        served = _scaled(trainers, served)
        with progress_bar(
            progress, total=steps * batch_tokens, unit="token", desc=f"training {len(sites)} SAEs",
        ) as bar:  # fmt: skip
            for step in range(steps):
                batch = next(served)
                outputs = {site: t.step(batch[site]) for site, t in trainers.items()}
                for trainer in trainers.values():
                    trainer.n_training_steps += 1
                if step % 50 == 0 or step == steps - 1:
                    _report(outputs, step, bar)
                bar.update(batch_tokens)
        about = {"corpus_rows": len(corpus), "training_tokens": steps * batch_tokens, "seed": seed}
        fingerprint = model.fingerprint
        found = [_finished(model, s, t, fingerprint, about) for s, t in trainers.items()]
    observed = first_rows(model, corpus, _OBSERVED_TOKENS)
    return observe_together(found, model, observed, progress=progress)


def _trainer(
    model: Model,
    d_sae: int,
    architecture: str,
    options: Mapping[str, Any] | None,
    steps: int,
    batch_tokens: int,
    lr: float,
) -> Any:
    lens = sae_lens()
    from sae_lens.config import SAETrainerConfig
    from sae_lens.registry import SAE_TRAINING_CLASS_REGISTRY

    if architecture not in SAE_TRAINING_CLASS_REGISTRY:
        raise SAEError(
            f"sae_lens trains no architecture {architecture!r}. "
            f"Use one of {', '.join(sorted(SAE_TRAINING_CLASS_REGISTRY))}."
        )
    sae_class, config_class = SAE_TRAINING_CLASS_REGISTRY[architecture]
    settings = {
        "normalize_activations": "expected_average_only_in",
        **_settling(config_class, steps),
        **(OPTIONS.get(architecture, {}) if options is None else options),
    }
    try:
        config = config_class(d_in=model.d_model, d_sae=d_sae, device=str(model.device), **settings)
        sae = sae_class(config)
    except (TypeError, ValueError) as error:
        raise SAEError(
            f"sae_lens refuses {settings} for {architecture!r} with d_sae={d_sae}: {error}. "
            f"Its settings are those of sae_lens.{config_class.__name__}."
        ) from error
    return lens.SAETrainer(
        cfg=SAETrainerConfig(
            total_training_samples=steps * batch_tokens,
            train_batch_size_samples=batch_tokens,
            lr=lr,
            lr_end=0.0,
            lr_warm_up_steps=max(1, steps // 50),
            lr_decay_steps=steps // 5,
            device=str(model.device),
            dead_feature_window=max(20, min(1000, steps // 10)),
            logger=lens.LoggingConfig(log_to_wandb=False),
        ),
        sae=sae,
        data_provider=iter(()),
    )


def _settling(config_class: type, steps: int) -> dict[str, float]:
    """A rate at which the running threshold of a short training converges."""
    if "topk_threshold_lr" not in config_class.__dataclass_fields__:
        return {}
    return {"topk_threshold_lr": min(1.0, max(0.01, 10 / steps))}


@torch.no_grad()
def _served(
    model: Model,
    corpus: Corpus,
    sites: Sequence[Site],
    batch_tokens: int,
    buffer_tokens: int,
    seed: int,
) -> Iterator[dict[Site, Float[Tensor, "token d_model"]]]:
    """Shuffled activations, endlessly: the same tokens for all sites."""
    generator = torch.Generator().manual_seed(seed)
    held: dict[Site, list[Tensor]] = {site: [] for site in sites}
    count = 0
    while True:
        before = count
        for batch in batches(model, corpus, generator=generator):
            for site, resid in streams(model, batch, sites).items():
                held[site].append(resid)
            count += len(held[sites[0]][-1])
            if count < max(buffer_tokens, batch_tokens):
                continue
            order = torch.randperm(count, generator=generator)
            whole = {site: torch.cat(parts)[order] for site, parts in held.items()}
            used = count - count % batch_tokens
            for start in range(0, used, batch_tokens):
                yield {site: x[start : start + batch_tokens] for site, x in whole.items()}
            held = {site: [x[used:]] for site, x in whole.items()}
            count -= used
            before = -1
        if count == before:
            raise ValueError("The corpus has no ordinary tokens, only special ones such as BOS.")


def _scaled(trainers: Mapping[Site, Any], served: Iterator) -> Iterator:
    """Estimates each SAE's input scale on the first batches, and serves them again."""
    first = [next(served) for _ in range(_SCALE_BATCHES)]
    for site, trainer in trainers.items():
        kind = trainer.sae.cfg.normalize_activations
        seen = [batch[site] for batch in first]
        if kind == "expected_average_only_in":
            mean = torch.cat(seen).norm(dim=-1).mean()
            trainer.activation_scaler.scaling_factor = trainer.sae.cfg.d_in**0.5 / float(mean)
        elif kind == "covariance_whitening":
            trainer.activation_scaler.estimate_whitening(
                trainer.sae.cfg.d_in, iter(seen), n_batches_for_norm_estimate=len(seen)
            )

    def again() -> Iterator:
        yield from first
        yield from served

    return again()


@torch.no_grad()
def _report(outputs: Mapping[Site, Any], step: int, bar: Any) -> None:
    shares = []
    for site, out in outputs.items():
        if not math.isfinite(float(out.loss)):
            raise FloatingPointError(
                f"The loss of the SAE at {site} became {float(out.loss)} at step {step}. Lower lr."
            )
        spread = (out.sae_in - out.sae_in.mean(0)).square().sum()
        shares.append(1 - float((out.sae_out - out.sae_in).square().sum() / spread))
    bar.set_postfix(explained=f"{min(shares):.3f}-{max(shares):.3f}", refresh=False)


def _finished(
    model: Model, site: Site, trainer: Any, fingerprint: str, about: Mapping[str, Any]
) -> SAE:
    """The trained SAE for inference: its scale folded in, with all that it must state."""
    sae, scaler = trainer.sae, trainer.activation_scaler
    if scaler.scaling_factor is not None:
        sae.fold_activation_norm_scaling_factor(scaler.scaling_factor)
    if scaler.whitening is not None:
        sae.fold_activation_whitening(
            mean=scaler.whitening.mean,
            whitening_matrix=scaler.whitening.matrix,
            unwhitening_matrix=scaler.whitening.inverse_matrix,
        )
    meta = sae.cfg.metadata
    meta.hook_name = site.hook
    meta.model_name = model.name
    meta.model_class_name = type(model.wrapped).__name__
    meta.prepend_bos = model.prepend_bos
    meta.exclude_special_tokens = True
    # The arguments by which sae_lens would load the model like this: none, when it is raw.
    processing = [name for name in KNOWN if name in model.processing.split("+")]
    meta.model_from_pretrained_kwargs = dict.fromkeys(processing, True)
    meta[FACTS] = {"processing": model.processing, "fingerprint": fingerprint, **about}
    state = {name: value.detach().clone() for name, value in sae.state_dict().items()}
    sae.process_state_dict_for_saving_inference(state)
    inference = sae_lens().SAE.from_dict(sae.cfg.get_inference_sae_cfg_dict())
    inference.process_state_dict_for_loading(state)
    inference.load_state_dict(state)
    return SAE.of(inference.to(model.device), name=f"{model.name} {site}")
