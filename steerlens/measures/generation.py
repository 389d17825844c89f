"""Writing text, steered or not: batched, with a key-value cache, the same numbers as without."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, SupportsFloat, SupportsIndex

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.arguments import ArgumentError, as_float, as_int
from steerlens.data.formats.chat import render_chat, turns_of
from steerlens.measures.random_draws import RandomDraws as _Draws
from steerlens.measures.random_draws import require_finite
from steerlens.measures.random_draws import sampled as _sample
from steerlens.models.kernel import Kernel
from steerlens.models.model import Model, as_model
from steerlens.models.prompts import AttachedPrompt, Inserted
from steerlens.models.stepping import Stepping
from steerlens.progress_bar import progress_bar
from steerlens.sites import TokenBatch

LEAVING = 0.25
"""Texts that have ended leave the batch once they are this part of it."""

Turn = Mapping[str, str]
"""A turn of a chat: {"role": "user", "content": "…"}."""
Step = Callable[[TokenBatch, int], Float[Tensor, "batch d_vocab"]]
"""Logits after the last column of a batch whose columns from the second argument on are new."""


@torch.no_grad()
def generate(
    model: Model,
    prompts: str | Sequence[str | Turn | Sequence[Turn]],
    *,
    chat: bool = False,
    system: str | None = None,
    max_new_tokens: SupportsIndex = 32,
    temperature: SupportsFloat = 0.0,
    seed: SupportsIndex = 0,
    stop_at_eos: bool = True,
    use_cache: bool = True,
    draws: Iterable[SupportsIndex] | None = None,
    progress: bool = False,
) -> str | list[str]:
    """Continuations of prompts, under whatever steering is attached to the model.

    Args:
        prompts: A text, a chat as a list of turns `{"role": "user", "content": "…"}`, or a list
            of texts or of chats. Chats are put into the model's own chat template, and the
            continuation is the answer to the last turn.
        chat: Makes each text the user's turn of a chat.
        system: The text of a system turn before it; with `chat`.
        temperature: 0 takes the likeliest token; else samples.
        seed: Seeds the sampling; each row has a stream of its own, so that a row's text does not
            depend on what else is in the batch.
        draws: The random stream of each row, by default its index. Rows with the same number
            have the same random draws, so that their texts differ by the steering alone.
        stop_at_eos: Ends a text at any of the model's `end_ids`.
        use_cache: False recomputes everything at every token: slow, and the same.

    Returns:
        One string for one prompt or one chat, else a list; without the prompt, with the blank that
        separates them: prompt and continuation join to the text of all tokens.

    Raises:
        ValueError: If the prompt and the new tokens do not fit the context.
        ContrastError: If the model has no chat template, or it refuses the turns.
        SteeringError: If attached steering edits no token.
    """
    model = as_model(model)
    if not isinstance(prompts, str | Sequence):
        raise ArgumentError(
            f"prompts={prompts!r:.80} is neither a text nor a list of texts or of chats. Write "
            'e.g. "The soup was".'
        )
    one = isinstance(prompts, str) or _is_chat(prompts)
    each: Sequence[Any] = [prompts] if one else prompts
    texts = [_text(model, prompt, chat, system) for prompt in each]
    tokens = generated_tokens(
        model, texts, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed,
        stop_at_eos=stop_at_eos, use_cache=use_cache, draws=draws, progress=progress,
    )  # fmt: skip
    written = continuations(model, texts, tokens, stop_at_eos=stop_at_eos)
    return written[0] if one else written


def _is_chat(prompts: Sequence[Any]) -> bool:
    return len(prompts) > 0 and all(isinstance(turn, Mapping) for turn in prompts)


def _text(model: Model, prompt: str | Turn | Sequence[Turn], chat: bool, system: str | None) -> str:
    """A prompt as the text that the model reads."""
    if not isinstance(prompt, str):
        if chat or system is not None:
            raise ValueError(
                "chat= and system= are for prompts that are texts, and this one is a list of "
                "turns. Write the system text as its first turn: "
                "{'role': 'system', 'content': '…'}."
            )
        return render_chat(model, [prompt] if isinstance(prompt, Mapping) else prompt)
    if not chat:
        if system is not None:
            raise ValueError(
                f"system={system!r} is the text of a turn in a chat. Use chat=True too."
            )
        return prompt
    return render_chat(model, turns_of(prompt, system))


def continuations(
    model: Model,
    prompts: Sequence[str],
    tokens: Int[Tensor, "batch new"],
    *,
    stop_at_eos: bool = True,
) -> list[str]:
    """Generated tokens as texts that follow their prompts, each up to its end."""
    written = []
    for prompt, row in zip(prompts, tokens, strict=True):
        ends = model.is_end(row).nonzero() if stop_at_eos else []
        new = row[: int(ends[0]) + 1] if len(ends) else row
        written.append(model.texts.continuation(model.ids(prompt), new.tolist()))
    return written


@torch.no_grad()
def generated_tokens(
    model: Model,
    prompts: Sequence[str],
    *,
    max_new_tokens: SupportsIndex = 32,
    temperature: SupportsFloat = 0.0,
    seed: SupportsIndex = 0,
    stop_at_eos: bool = True,
    use_cache: bool = True,
    draws: Iterable[SupportsIndex] | None = None,
    progress: bool = False,
) -> Int[Tensor, "batch new"]:
    """`generate`, as token ids; padded after the end of a text."""
    model = as_model(model)
    max_new_tokens = as_int("max_new_tokens", max_new_tokens, least=1)
    temperature, seed = as_float("temperature", temperature), as_int("seed", seed)
    if temperature < 0:
        raise ValueError(f"temperature={temperature} is negative. Use 0 for the likeliest token.")
    batch = model.tokens(prompts, padding_side="left")
    longest = batch.width + sum(len(prompt.tokens) for prompt in model.attached.prompts)
    if longest + max_new_tokens > model.n_ctx:
        raise ValueError(
            f"The longest prompt has {longest} tokens; with {max_new_tokens} new ones that is "
            f"more than the context of {model.name!r}, {model.n_ctx}. "
            f"Use max_new_tokens={max(0, model.n_ctx - longest)} or shorter prompts."
        )
    model.forward.require_readable(batch, max_new_tokens)
    given = range(len(batch)) if draws is None else draws
    streams = [as_int("draws", stream) for stream in given]
    if len(streams) != len(batch):
        raise ValueError(f"{len(streams)} draws for {len(batch)} prompts. Give one per prompt.")
    pad = model.tokenizer.pad_token_id or 0
    if parts := model.attached.parts(batch, idle=True):  # rows that need other runs, apart
        written = []
        for part in parts:
            rows = part.tolist()
            with model.attached.of_rows(part):
                some = generated_tokens(
                    model, [str(prompts[i]) for i in rows], max_new_tokens=max_new_tokens,
                    temperature=temperature, seed=seed, stop_at_eos=stop_at_eos,
                    use_cache=use_cache, draws=[streams[i] for i in rows], progress=progress,
                )  # fmt: skip
            written.append(some)
        longest = max(some.shape[1] for some in written)
        padded = [F.pad(some, (0, longest - some.shape[1]), value=pad) for some in written]
        return torch.cat(padded)[torch.cat(parts).argsort()]
    draw, new = _Draws.of(seed, streams), 0
    written = torch.full((len(batch), max_new_tokens), pad, device=model.device)
    rows = torch.arange(len(batch), device=model.device)  # those that are in the batch
    going = torch.ones_like(rows, dtype=torch.bool)
    start = 0
    with model.attached.running(batch), ExitStack() as fewer:
        step = _stepper(model, use_cache, batch.width + max_new_tokens)
        for new in progress_bar(progress, range(1, max_new_tokens + 1), desc="tokens"):
            model.attached.computing(batch, start)
            logits = step(batch, start).float()
            require_finite(logits)
            chosen = _sample(logits, temperature, draw)
            chosen = torch.where(going, chosen, pad)
            written[rows, new - 1] = chosen
            real = going[:, None].clone()
            if stop_at_eos:
                going = going & ~model.is_end(chosen)
            start = batch.width
            special = model.is_special(chosen)[:, None] & real
            batch = batch.extended(chosen[:, None], special, real)
            left = int(going.sum())
            if left == 0:
                break
            ended = left <= len(going) * (1 - LEAVING)
            if ended and isinstance(step, _KernelSteps) and step.alike:
                stay = going.nonzero()[:, 0]
                step.stepping.keep(stay)
                fewer.enter_context(model.attached.of_rows(stay))
                batch, draw, rows, going = (
                    batch.rows(stay),
                    draw.rows(stay),
                    rows[stay],
                    going[stay],
                )
    return written[:, :new]


def _stepper(model: Model, use_cache: bool, width: int) -> Step:
    bridged = model.is_bridge and model.attached.prompts  # its cache gives logits and no states
    if not use_cache or not model.forward.caches or bridged:
        return lambda batch, start: _full(model, batch)
    kernel = model.kernel()
    if kernel is not None and all(attached.site.entry is not None for attached in model.attached):
        return _KernelSteps(model, kernel, width)
    return _BridgeSteps(model) if model.is_bridge else _HookedSteps(model)


def _full(model: Model, batch: TokenBatch) -> Tensor:
    model.attached.computing(batch, 0)
    return model.unembed(model.stream(batch)[:, -1])


class _HookedSteps:
    """Decoding through the hooked forward pass of a HookedTransformer."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.caches: dict[tuple[AttachedPrompt, ...], Any] = {}
        """One for the texts with each choice of prompts in them."""

    def __call__(self, batch: TokenBatch, start: int) -> Tensor:
        last = self.model.attached.mixed(batch, self._run, start)[0]
        return self.model.unembed(last[:, 0])

    def _run(
        self, texts: TokenBatch, start: int, inserted: tuple[Inserted, ...]
    ) -> list[Float[Tensor, "row 1 d_model"]]:
        """The normed last column of texts, of which some prompts are a part."""
        model, key = self.model, tuple(one.prompt for one in inserted)
        if key not in self.caches:
            self.caches[key] = model.forward.new_cache(len(texts))
        if start == 0 and (cut := model.attached.cut(texts)) is not None:
            with model.forward.entered(inserted, start):
                model.forward.prefill(texts, self.caches[key], cut, model.n_layers)
            start = cut.column
        with model.forward.entered(inserted, start):
            resid = model.wrapped(
                texts.tokens[:, start:],
                attention_mask=texts.mask[:, start:].long(),
                past_kv_cache=self.caches[key],
                stop_at_layer=model.n_layers,
            )
        return [model.readout.norm(resid[:, -1:])]


class _BridgeSteps:
    """Decoding through a TransformerBridge, with Hugging Face's own cache."""

    def __init__(self, model: Model) -> None:
        self.model, self.past = model, None

    def __call__(self, batch: TokenBatch, start: int) -> Tensor:
        past = {} if self.past is None else {"past_key_values": self.past}
        logits, self.past = self.model.wrapped(
            batch.tokens[:, start:],
            attention_mask=batch.mask.long(),
            return_type="logits_and_cache",
            use_cache=True,
            logits_to_keep=1,
            **past,
        )
        return logits[:, -1]


class _KernelSteps:
    """Decoding without hooks; attached edits of the stream are applied between the blocks."""

    def __init__(self, model: Model, kernel: Kernel, width: int) -> None:
        self.model, self.kernel = model, kernel
        self.stepping = Stepping(model.attached, kernel, width)
        self.alike = model.attached.only_edits
        """Whether rows can leave the batch."""

    def __call__(self, batch: TokenBatch, start: int) -> Tensor:
        last = self.model.attached.mixed(batch, self._run, start)[0]
        return self.kernel.logits(last[:, 0])

    def _run(
        self, texts: TokenBatch, start: int, inserted: tuple[Inserted, ...]
    ) -> list[Float[Tensor, "row 1 d_model"]]:
        """The normed last column of texts, of which some prompts are a part."""
        return [self.stepping.run(texts, start, inserted, last_only=True)]
