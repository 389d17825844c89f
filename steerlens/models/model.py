"""`Model`: a handle over a HookedTransformer (or TransformerBridge) that never guesses.

Padding, masks and BOS are explicit at every call; steering is attached as hooks and is gone after
the `with`; a steering call that edited no token raises.
"""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import Any, Literal, get_args
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import TransformerLensKeyValueCache

from steerlens.data import ContrastPair
from steerlens.directions import Direction, DirectionError
from steerlens.models import checkpoints
from steerlens.models.kernel import Kernel, soft_cap, why_not
from steerlens.protocols import Edit, Strength
from steerlens.sites import Positions, Site, TokenBatch

PRETRAINED = Path(__file__).parents[1] / "pretrained"
PaddingSide = Literal["left", "right"]


class SteeringError(ValueError):
    """Steering that did nothing, or could not be applied to what was run."""


@dataclass(eq=False)
class Attached:
    """One edit attached to the model, and how many tokens it edited in the current run."""

    site: Site
    edit: Edit
    positions: Positions
    multiplier: Strength
    edited: int = 0
    ever_ran: bool = False

    def apply(
        self, resid: Float[Tensor, "batch pos d_model"], chosen: Tensor
    ) -> Float[Tensor, "batch pos d_model"]:
        """The stream after the edit, at the chosen tokens; the very same tensor at strength 0."""
        self.ever_ran = True
        self.edited += int(chosen.sum())
        if not isinstance(self.multiplier, Tensor) and self.multiplier == 0:
            return resid
        if isinstance(self.multiplier, Tensor) and len(self.multiplier) != resid.shape[0]:
            raise SteeringError(
                f"{len(self.multiplier)} multipliers for a batch of {resid.shape[0]} rows. "
                "Give one number, or one per row."
            )
        edited = self.edit(resid, self.multiplier)
        if edited.shape != resid.shape:
            raise SteeringError(
                f"{self.edit!r} turned a stream of shape {tuple(resid.shape)} into "
                f"{tuple(edited.shape)}. An edit must keep the shape."
            )
        return torch.where(chosen[..., None], edited, resid)


@dataclass(frozen=True)
class _Window:
    """The columns that the wrapped model is computing right now."""

    batch: TokenBatch
    start: int

    def chosen(self, positions: Positions, width: int) -> Tensor:
        return positions.mask(self.batch)[:, self.start : self.start + width]


@dataclass(eq=False)
class Model:
    """A language model to look into and to steer.

    Takes a `HookedTransformer` or `TransformerBridge` as it is and does not change it. Names,
    layers and hooks are TransformerLens's own.
    """

    wrapped: Any
    """The user's own object."""
    name: str = ""
    revision: str | None = None
    prepend_bos: bool | None = None
    """Whether texts start with BOS; by default as the model's config says. Recorded with results."""
    _attached: list[Attached] = field(default_factory=list, init=False, repr=False)
    _window: _Window | None = field(default=None, init=False, repr=False)
    _untrusted: dict[str, str] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.wrapped, Model):
            raise TypeError("This is a steerlens Model already; use it as it is.")
        if not (hasattr(self.wrapped, "hook_dict") and hasattr(self.wrapped, "cfg")):
            raise TypeError(
                f"Model() wraps a HookedTransformer or a TransformerBridge, not "
                f"{type(self.wrapped).__name__}. For a name or a folder write Model.load(…)."
            )
        if self.wrapped.tokenizer is None:
            raise ValueError(
                "The model has no tokenizer, so texts cannot be read. "
                "Call hooked.set_tokenizer(tokenizer) first."
            )
        if self.prepend_bos is None:
            self.prepend_bos = bool(getattr(self.cfg, "default_prepend_bos", True))
        self.name = self.name or str(getattr(self.cfg, "model_name", "") or "model")
        self._untrusted = _untrusted_streams(self.wrapped)
        for reason in set(self._untrusted.values()):
            warnings.warn(reason, stacklevel=3)

    @classmethod
    def load(cls, source: Any, **options: Any) -> Model:
        """A model from wherever it is.

        Args:
            source: ``"reviews"`` (the reference model that ships with steerlens), a local folder
                (a Hugging Face checkpoint, or one saved by `save`), the name of a model on the
                hub, or a HookedTransformer, TransformerBridge or Model, taken as it is.
            options: `device`, `dtype`, and for the hub `revision`.

        Raises:
            CheckpointError: If the folder or name cannot be loaded, or the device is not there;
                without a network a hub name fails within seconds.
        """
        if isinstance(source, Model):
            return source
        if "device" in options:
            _require_device(options["device"])
        if not isinstance(source, (str, Path)):
            return cls(source, **options)
        path = PRETRAINED / source if (PRETRAINED / str(source)).is_dir() else Path(source)
        if path.is_dir():
            is_ours = json.loads(_read(path / "config.json")).get("kind") == "hooked_transformer"
            load = checkpoints.load_hooked if is_ours else checkpoints.load_hf_directory
            return cls(load(path, **options), name=path.name)
        wrapped = checkpoints.load_hub(str(source), **options)
        return cls(wrapped, name=str(source), revision=options.get("revision"))

    def save(self, folder: Path | str) -> Path:
        """Saves weights, config and tokenizer without pickle; `load` reads the folder."""
        return checkpoints.save_hooked(self.wrapped, Path(folder))

    # What it is

    @property
    def cfg(self) -> Any:
        """The wrapped model's own config."""
        return self.wrapped.cfg

    @property
    def tokenizer(self) -> Any:
        """The wrapped model's own tokenizer."""
        return self.wrapped.tokenizer

    @property
    def n_layers(self) -> int:
        return self.cfg.n_layers

    @property
    def d_model(self) -> int:
        return self.cfg.d_model

    @property
    def n_ctx(self) -> int:
        return self.cfg.n_ctx

    @property
    def is_bridge(self) -> bool:
        """Whether a TransformerBridge is wrapped rather than a HookedTransformer."""
        return hasattr(self.wrapped, "original_model")

    @property
    def device(self) -> torch.device:
        return next(self.wrapped.parameters()).device

    @cached_property
    def processing(self) -> str:
        """Weight processing of the residual basis: "raw", or what was folded and centred."""
        return checkpoints.weights_processing(self.wrapped)

    @property
    def dtype(self) -> str:
        """Precision of the weights, e.g. "float32"."""
        return str(self.cfg.dtype).removeprefix("torch.")

    @property
    def fingerprint(self) -> str:
        """Content hash of the weights and config, computed anew at every call."""
        return checkpoints.fingerprint(self.wrapped)

    @property
    def facts(self) -> dict[str, Any]:
        """What a result states about the model that it was measured on."""
        return {
            "model": self.name,
            "revision": self.revision,
            "fingerprint": self.fingerprint,
            "processing": self.processing,
            "dtype": self.dtype,
            "bos": self.prepend_bos,
        }

    def sites(self, stream: str = "resid_post") -> tuple[Site, ...]:
        """One site per layer."""
        return tuple(Site(layer, stream) for layer in range(self.n_layers))  # type: ignore[arg-type]

    def require_site(self, site: Site) -> None:
        """Raises ValueError if this model has no such site."""
        if site.layer >= self.n_layers:
            raise ValueError(
                f"Layer {site.layer} is not in {self.name!r}, which has layers 0-"
                f"{self.n_layers - 1}. Use layer={self.n_layers - 1} for the last."
            )
        if self.is_bridge and site.stream == "resid_mid":
            raise ValueError(
                "resid_mid means the whole stream on a HookedTransformer but only the MLP's branch "
                "on a TransformerBridge, so steering there would differ silently. "
                "Use attn_out, which means the same on both."
            )
        if site.hook not in self.wrapped.hook_dict:
            raise ValueError(
                f"{self.name!r} has no hook {site.hook!r} (its blocks have "
                f"{', '.join(self._streams())}). Use one of these streams."
            )
        if site.stream in self._untrusted:
            raise ValueError(self._untrusted[site.stream])

    def _streams(self) -> list[str]:
        start = "blocks.0.hook_"
        return [
            name.removeprefix(start) for name in self.wrapped.hook_dict if name.startswith(start)
        ]

    def require(self, direction: Direction) -> None:
        """Raises if a direction does not fit this model: its site, its width or its basis."""
        self.require_site(direction.site)
        if direction.vector.shape[0] != self.d_model:
            raise DirectionError(
                f"The direction has d_model={direction.vector.shape[0]} and {self.name!r} has "
                f"{self.d_model}: it was made on another model ({direction.model or 'not stated'}). "
                "Fit it on this one."
            )
        if direction.processing is not None and direction.processing != self.processing:
            raise DirectionError(
                f"The direction was made under weight processing {direction.processing!r} and "
                f"{self.name!r} is {self.processing!r}: the residual bases differ. Where it is "
                f"exact, convert it: direction.converted({self.processing!r}); else load the model "
                "the same way, or fit the direction on this one."
            )

    def adopt(self, direction: Direction, *, other_weights: bool = False) -> Direction:
        """The direction for this very model: checked, and converted where that is exact.

        Args:
            other_weights: Take a direction of another model on purpose (a fine-tune of the same
                base, say); site, width and basis must fit all the same.

        Raises:
            DirectionError: If the direction was made on another model, does not state under which
                weight processing it was made, or cannot be converted to this one's exactly.
        """
        if direction.processing is None:
            raise DirectionError(
                f"The direction at {direction.site} does not state under which weight processing "
                f"it was made, so it is not known to fit {self.name!r} ({self.processing!r}). "
                "State it: dataclasses.replace(direction, processing='raw')."
            )
        if not other_weights:
            self._require_origin(direction)
        if direction.processing != self.processing:
            direction = direction.converted(self.processing)
        self.require(direction)
        return direction

    def _require_origin(self, direction: Direction) -> None:
        """Raises if the direction was made on another model, as far as it says.

        Weights are compared where both were stored alike; converted or cast ones have another
        fingerprint, and then the names and revisions decide.
        """
        same = direction.processing == self.processing and direction.converted_from is None
        if same and direction.fingerprint and direction.dtype in ("", self.dtype):
            differs = direction.fingerprint != (mine := self.fingerprint)
            what, theirs = "weights", direction.fingerprint
        elif direction.model and direction.model != self.name:
            differs, what, theirs, mine = True, "name", direction.model, self.name
        else:
            what, theirs, mine = "revision", direction.revision, self.revision
            differs = bool(theirs and mine and theirs != mine)
        if differs:
            raise DirectionError(
                f"The direction was made on {direction.model or 'a model without a name'!r} and "
                f"this is {self.name!r}: their {what} differ ({theirs} and {mine}). Fit it on this "
                "model, or say that it is meant: model.adopt(direction, other_weights=True)."
            )

    # Text to tokens

    def ids(self, text: str) -> list[int]:
        """Token ids of a text, with one BOS in front if this model's texts start with one."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        bos = self.tokenizer.bos_token_id
        if self.prepend_bos and bos is not None and (not ids or ids[0] != bos):
            ids = [bos, *ids]
        return ids

    @cached_property
    def _special_ids(self) -> Tensor:
        t = self.tokenizer
        functional = {t.bos_token_id, t.eos_token_id, t.pad_token_id}
        words = {t.unk_token_id} - functional  # an unknown word is still a word
        return torch.tensor(sorted(set(t.all_special_ids) - words), dtype=torch.long)

    @property
    def special_ids(self) -> list[int]:
        """Ids of BOS, EOS, padding and a chat template's markers."""
        return self._special_ids.tolist()

    def is_special(self, tokens: Tensor) -> Tensor:
        """Which tokens are BOS, EOS, padding or a chat template's markers."""
        return torch.isin(tokens, self._special_ids.to(tokens.device))

    def tokens(
        self, texts: str | Sequence[str], *, padding_side: PaddingSide = "left"
    ) -> TokenBatch:
        """Tokens of prompts: all of each text is prompt.

        Raises:
            ValueError: If there is no text, a text is empty, or one is longer than the context.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        rows = [self.ids(text) for text in texts]
        return self._batch(rows, [len(row) for row in rows], padding_side=padding_side)

    def answered(
        self,
        prompts: Sequence[str],
        answers: Sequence[str],
        *,
        padding_side: PaddingSide = "left",
    ) -> TokenBatch:
        """Tokens of prompts with an answer after each; `prompt_end` is where the answer starts."""
        split = [self.split(p, a) for p, a in zip(prompts, answers, strict=True)]
        return self._batch(
            [p + a for p, a in split], [len(p) for p, _ in split], padding_side=padding_side
        )

    def split(self, prompt: str, answer: str) -> tuple[list[int], list[int]]:
        """Token ids of a prompt and of the answer that follows it.

        Raises:
            ValueError: If the tokenizer merges the end of the prompt with the answer's start.
        """
        before, whole = self.ids(prompt), self.ids(prompt + answer)
        if whole[: len(before)] != before or len(whole) == len(before):
            raise ValueError(
                f"The tokens of prompt {_short(prompt)!r} change when the answer {answer!r} is "
                "appended, so it is not plain where the answer starts. End the prompt without a "
                "space and start the answer with one."
            )
        return before, whole[len(before) :]

    def pair_batch(
        self, pairs: Sequence[ContrastPair], *, padding_side: PaddingSide = "left"
    ) -> tuple[TokenBatch, TokenBatch]:
        """Both sides of pairs, for reading activations.

        With a prompt, a row is prompt and answer, and `answer` marks the first token in which the
        two answers differ. Without one, the two sides are texts by themselves: all prompt.
        """
        if all(pair.prompt == "" for pair in pairs):
            positive = self.tokens([p.positive for p in pairs], padding_side=padding_side)
            negative = self.tokens([p.negative for p in pairs], padding_side=padding_side)
            return positive, negative
        rows: tuple[list[list[int]], list[list[int]]] = ([], [])
        ends: tuple[list[int], list[int]] = ([], [])
        reads: list[int] = []
        for pair in pairs:
            sides = [self.split(pair.prompt, text) for text in (pair.positive, pair.negative)]
            reads.append(len(sides[0][0]) + self._first_difference(pair, sides[0][1], sides[1][1]))
            for side, (prompt, answer) in enumerate(sides):
                rows[side].append(prompt + answer)
                ends[side].append(len(prompt))
        return (
            self._batch(rows[0], ends[0], reads, padding_side=padding_side),
            self._batch(rows[1], ends[1], reads, padding_side=padding_side),
        )

    def _first_difference(self, pair: ContrastPair, one: list[int], other: list[int]) -> int:
        for i, (a, b) in enumerate(zip(one, other, strict=False)):
            if a != b:
                return i
        raise ValueError(
            f"The answers {pair.positive!r} and {pair.negative!r} have no token in which they "
            "differ (one is the start of the other). Give answers that differ at some token."
        )

    def _batch(
        self,
        rows: list[list[int]],
        prompt_ends: list[int],
        answers: list[int] | None = None,
        *,
        padding_side: PaddingSide,
    ) -> TokenBatch:
        if padding_side not in get_args(PaddingSide):
            raise ValueError(f"padding_side={padding_side!r} is not a side. Use 'left' or 'right'.")
        if not rows:
            raise ValueError("There are no texts. Pass at least one.")
        for i, row in enumerate(rows):
            if not row:
                raise ValueError(
                    f"Text {i} is empty: it has no tokens. Drop it or write something."
                )
            if len(row) > self.n_ctx:
                raise ValueError(
                    f"Text {i} has {len(row)} tokens and the context of {self.name!r} is "
                    f"{self.n_ctx}. Shorten it: {_short(self.tokenizer.decode(row))!r}."
                )
        width = max(map(len, rows))
        pad = self.tokenizer.pad_token_id or 0
        tokens = torch.full((len(rows), width), pad, dtype=torch.long)
        mask = torch.zeros(len(rows), width, dtype=torch.bool)
        offsets = []
        for i, row in enumerate(rows):
            offset = width - len(row) if padding_side == "left" else 0
            tokens[i, offset : offset + len(row)] = torch.tensor(row)
            mask[i, offset : offset + len(row)] = True
            offsets.append(offset)
        self._warn_of_unknown(tokens, mask)
        shift = torch.tensor(offsets)
        device = self.device
        return TokenBatch(
            tokens=tokens.to(device),
            mask=mask.to(device),
            special=(self.is_special(tokens) & mask).to(device),
            prompt_end=(torch.tensor(prompt_ends) + shift).to(device),
            answer=None if answers is None else (torch.tensor(answers) + shift).to(device),
        )

    def _warn_of_unknown(self, tokens: Tensor, mask: Tensor) -> None:
        unknown = self.tokenizer.unk_token_id
        if unknown is None or unknown in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            return
        count = int(((tokens == unknown) & mask).sum())
        if count:
            warnings.warn(
                f"{count} of {int(mask.sum())} tokens are unknown to the tokenizer of "
                f"{self.name!r}; the model cannot tell such words apart.",
                stacklevel=4,
            )

    # Running

    @contextmanager
    def hooked(
        self, site: Site, edit: Edit, positions: Positions, multiplier: Strength
    ) -> Iterator[None]:
        """Applies an edit at a site until the `with` ends. Interventions call this.

        Raises:
            ValueError: If the model has no such site, or the multiplier is NaN or infinite.
            SteeringError: At the end of the `with`, if no forward pass ran the edit.
        """
        self.require_site(site)
        _require_strength(multiplier)
        attached = Attached(site, edit, positions, multiplier)

        def fire(resid: Tensor, hook: Any) -> Tensor:
            if self._window is None:
                raise SteeringError(
                    "The wrapped model was run directly while steering is attached, so it is not "
                    "known where its prompts end and which tokens are padding. Run it through the "
                    "Model: model.logits(…), model.cache(…), model.generate(…)."
                )
            return attached.apply(resid, self._window.chosen(positions, resid.shape[1]))

        self._attached.append(attached)
        try:
            with self.wrapped.hooks(fwd_hooks=[(site.hook, fire)]):
                yield
        finally:
            self._attached.remove(attached)
        if not attached.ever_ran:
            raise SteeringError(
                f"Steering at {site} never fired: no forward pass of {self.name!r} reached that "
                "layer inside the `with`. Run the model inside it."
            )

    @property
    def attached(self) -> tuple[Attached, ...]:
        """The edits attached to the model now, in order."""
        return tuple(self._attached)

    @property
    def foreign_hooks(self) -> list[str]:
        """Hook points that carry forward hooks besides the edits of `attached`."""
        known = Counter(attached.site.hook for attached in self._attached)
        points = self.wrapped.hook_dict.items()
        return [name for name, point in points if len(point.fwd_hooks) > known[name]]

    @contextmanager
    def running(self, batch: TokenBatch, stop_at: int | None = None) -> Iterator[None]:
        """One run over a batch, after which every edit must have edited some token."""
        for attached in self._attached:
            attached.edited = 0
        try:
            yield
        finally:
            self._window = None
        for attached in self._attached:
            entry = attached.site.layer if stop_at is None else attached.site.layer - stop_at
            if attached.edited == 0 and (stop_at is None or entry < 0):
                raise SteeringError(
                    f"{attached.positions} chose no token of these texts, so steering at "
                    f"{attached.site} did nothing. Positions.generated() needs tokens after the prompt."
                )

    def computing(self, batch: TokenBatch, start: int = 0) -> None:
        """Tells the hooks which columns come next."""
        self._window = _Window(batch, start)

    def states(self, batch: TokenBatch) -> Float[Tensor, "batch pos d_model"]:
        """The normed final stream, which the unembedding reads, with whatever is attached."""
        with self.running(batch):
            self.computing(batch)
            return self.stream(batch)

    def stream(self, batch: TokenBatch) -> Float[Tensor, "batch pos d_model"]:
        """`states`, as part of a longer run."""
        mask = batch.mask.long()
        if not self.is_bridge:
            resid = self.wrapped(batch.tokens, attention_mask=mask, stop_at_layer=self.n_layers)
        else:
            # A bridge returns logits whatever stop_at_layer says: read the last stream instead.
            kept: list[Tensor] = []
            last = Site(self.n_layers - 1).hook
            with self.wrapped.hooks(fwd_hooks=[(last, lambda resid, hook: kept.append(resid))]):
                self.wrapped(batch.tokens, attention_mask=mask, logits_to_keep=1)
            resid = kept[0]
        return self.final_norm(resid)

    def final_norm(self, resid: Tensor) -> Tensor:
        """What the unembedding reads, of the stream after the last block."""
        return self.wrapped.ln_final(resid) if self.cfg.normalization_type is not None else resid

    def unembed(
        self, states: Float[Tensor, "*rows d_model"], targets: Tensor | None = None
    ) -> Tensor:
        """Logits of the asked tokens, without copying the unembedding matrix."""
        weight, bias = self.wrapped.unembed.W_U, self.wrapped.unembed.b_U
        if targets is not None:
            weight, bias = weight[:, targets], bias[targets]
        return soft_cap(states @ weight + bias, self.cfg.output_logits_soft_cap)

    @torch.no_grad()
    def logits(self, texts: TokenBatch | str | Sequence[str]) -> Float[Tensor, "batch pos d_vocab"]:
        """Logits at every position, in the model's own dtype, with whatever steering is attached."""
        batch = texts if isinstance(texts, TokenBatch) else self.tokens(texts)
        return self.unembed(self.states(batch))

    @torch.no_grad()
    def cache(
        self, texts: TokenBatch | str | Sequence[str], sites: Sequence[Site]
    ) -> dict[Site, Float[Tensor, "batch pos d_model"]]:
        """The stream at the asked sites, for all tokens, after whatever steering is attached.

        Layers above the last asked one are not computed.
        """
        batch = texts if isinstance(texts, TokenBatch) else self.tokens(texts)
        for site in sites:
            self.require_site(site)
        kept: dict[Site, Tensor] = {}

        def keep(site: Site) -> Callable[..., None]:
            def hook_fn(resid: Tensor, hook: Any) -> None:
                kept[site] = resid.detach().clone()

            return hook_fn

        stop = max(site.layer for site in sites) + 1
        with self.running(batch, stop):
            self.computing(batch)
            with self.wrapped.hooks(fwd_hooks=[(site.hook, keep(site)) for site in sites]):
                self.wrapped(batch.tokens, attention_mask=batch.mask.long(), stop_at_layer=stop)
        return kept

    def kernel(self) -> Kernel | None:
        """The fast forward pass, or None where the model (or a foreign hook) needs the hooked one.

        It does not apply attached steering: the caller applies `attached`.
        """
        known = Counter(attached.site.hook for attached in self._attached)
        if self.is_bridge or why_not(self.wrapped, known) is not None:
            return None
        return Kernel(self.wrapped, known)

    def new_cache(self, rows: int) -> TransformerLensKeyValueCache:
        """An empty key-value cache for the wrapped HookedTransformer."""
        return TransformerLensKeyValueCache.init_cache(self.cfg, self.device, rows)

    def text(self, tokens: Int[Tensor, " pos"] | list[int]) -> str:
        """Tokens as text, special ones included."""
        return self.tokenizer.decode(tokens)

    def __repr__(self) -> str:
        kind = "TransformerBridge" if self.is_bridge else "HookedTransformer"
        return (
            f"Model({self.name!r}: {kind}, {self.n_layers} layers, d_model {self.d_model}, "
            f"{self.processing} weights, {'with' if self.prepend_bos else 'without'} BOS)"
        )


_measured: WeakKeyDictionary[Any, dict[str, str]] = WeakKeyDictionary()
"""What `checkpoints.measure_hooks` found of each wrapped model: it is asked once."""


def _require_device(device: torch.device | str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        if torch.backends.mps.is_available():
            there.append("mps")
        raise checkpoints.CheckpointError(
            f"device={str(device)!r} cannot be used here ({str(error).splitlines()[0]}). "
            f"There is: {', '.join(there)}."
        ) from error


def _untrusted_streams(wrapped: Any) -> dict[str, str]:
    """Streams whose hooks mean something else. Not measured while other hooks are on it."""
    if wrapped in _measured:
        return _measured[wrapped]
    if any(point.fwd_hooks for point in wrapped.hook_dict.values()):
        return {}
    return _measured.setdefault(wrapped, checkpoints.measure_hooks(wrapped).untrusted)


def as_model(model: Any) -> Model:
    """The Model of whatever a public function was given."""
    return model if isinstance(model, Model) else Model(model)


def _require_strength(multiplier: Strength) -> None:
    per_row = isinstance(multiplier, Tensor)
    if not (multiplier.ndim == 1 if per_row else isinstance(multiplier, Real)):
        raise TypeError(
            f"multiplier={multiplier!r} is not a strength. Give one number, or a tensor with one "
            "number per row of the batch."
        )
    if not bool(torch.as_tensor(multiplier).isfinite().all()):
        raise ValueError(
            f"multiplier={multiplier} would fill the stream with NaN. Give finite strengths."
        )


def _short(text: str, width: int = 60) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise checkpoints.CheckpointError(
            f"{path.parent} holds no {path.name}, so it is not a checkpoint. "
            "Give the folder with config.json, the weights and the tokenizer."
        ) from None
