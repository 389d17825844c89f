"""A steered model as a model of Inspect, so that its evaluations score steering as well.

    inspect eval task.py --model steerlens/smollm2-135m-instruct -M vector=weddings -M multiplier=1

Inspect finds it by the entry point of the package (`steerlens.inspect_registry`), where both are
installed: `steerlens[inspect]`.
"""

from __future__ import annotations

import hashlib
import threading
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import anyio
import anyio.to_thread
import torch
from inspect_ai.model import ChatMessage, GenerateConfig, ModelAPI, ModelOutput, ModelUsage
from inspect_ai.tool import ToolChoice, ToolInfo

from steerlens.analyses.writing.text_batches import batch_rows
from steerlens.arguments import as_float
from steerlens.data.formats.chat import render_chat
from steerlens.directions import Direction
from steerlens.interventions.intended import intended
from steerlens.measures.generation import continuations, generated_tokens
from steerlens.models.memory import in_chunks
from steerlens.models.model import Model, as_model
from steerlens.protocols import Intervention
from steerlens.sharing.shared_folder import load_shared
from steerlens.store.files import expanded

NEW_TOKENS = 256
"""Tokens of an answer at most, where Inspect asks for no number."""
TOGETHER, WAIT = 64, 0.02
"""Answers that are written as one batch at most, and the seconds in which they gather."""
KNOWN = {
    "max_tokens", "temperature", "seed", "stop_seqs", "max_retries", "timeout", "attempt_timeout",
    "stream_idle_timeout", "max_connections", "adaptive_connections", "system_message", "cache",
    "cache_prompt", "batch", "max_tool_output", "internal_tools", "parallel_tool_calls",
    "fallback_models", "fail_on_refusal",
}  # fmt: skip
"""Settings of Inspect that are heeded here, by Inspect itself, or say nothing of an answer."""
HARMLESS: dict[str, Any] = {"num_choices": 1, "logprobs": False, "top_p": 1.0, "best_of": 1}
"""Others that may have these values."""
LOADING = ("device", "dtype", "prepend_bos", "revision")
"""Options of `Model.load`."""
ROLES = ("system", "user", "assistant")
_writing: WeakKeyDictionary[Any, threading.Lock] = WeakKeyDictionary()
"""A lock for each wrapped model: what is attached to it acts on every text that it writes."""


@dataclass(eq=False)
class _Request:
    """An answer that is asked for."""

    prompt: str
    tokens: int
    """Of the prompt."""
    stream: int
    """Its random numbers, which depend on nothing else in the batch."""
    options: tuple[int, float, int]
    """New tokens at most, temperature and seed: those of a batch are equal."""
    cut: bool
    """Whether the context leaves room for fewer new tokens than were asked for."""
    ends: Sequence[str]
    answer: ModelOutput | None = None
    error: Exception | None = field(default=None)


class SteeredModel(ModelAPI):
    """Answers of a model under steering.

    Messages are put into the model's own chat template. A model without one gets the text of a single
    user's message as it is. Without a temperature, the likeliest token is taken.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 (Inspect's own default)
        *,
        vector: str | None = None,
        steering: Intervention | Direction | None = None,
        multiplier: float = 1.0,
        loaded: Model | None = None,
        **options: Any,
    ) -> None:
        """
        Args:
            model_name: What `Model.load` takes.
            vector: A file of `Direction.save`, or a folder of `save_shared`.
            steering: Instead of it, from Python: any intervention.
            multiplier: Of the steering; at 0 the model is the unsteered one.
            loaded: A model that is loaded already, from Python.
            options: Of `Model.load`.

        Raises:
            ValueError: If both `vector` and `steering` are given, a multiplier without any, a vector
                that is not there, or an option that is not known.
        """
        if unknown := sorted(set(options) - set(LOADING)):
            raise ValueError(
                f"-M {unknown[0]}=… is no option of a steered model. There are vector, multiplier, "
                f"{', '.join(LOADING)}."
            )
        if vector is not None and steering is not None:
            raise ValueError("vector and steering are both given. Use one of them.")
        self.multiplier = as_float("multiplier", multiplier)
        if vector is None and steering is None and self.multiplier not in (0, 1):
            raise ValueError(
                f"multiplier={multiplier} steers nothing: there is no vector. Give one, as in "
                "-M vector=weddings."
            )
        if vector is not None and not expanded(vector).exists():
            raise ValueError(
                f"vector={vector!r} is not there. Give a file of Direction.save, or a folder of "
                "save_shared."
            )
        # Inspect's cache of answers knows a model by its name and its address alone.
        what = uuid.uuid4().hex if vector is None else _digest(expanded(vector))
        address = base_url or f"steerlens:{what}:{self.multiplier:.9g}"
        super().__init__(model_name, address, api_key, [], config)
        self.model = Model.load(model_name, **options) if loaded is None else as_model(loaded)
        given: Any = _read(vector, self.model) if vector is not None else steering
        self.steering: Any = intended(given) if isinstance(given, Direction) else given
        self._seen: Counter[tuple[Any, ...]] = Counter()
        self._waiting: list[_Request] = []
        self._turn = anyio.Lock()

    def max_connections(self) -> int:
        return TOGETHER

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput:
        """One answer; those that are asked for at the same time are written as one batch.

        Raises:
            ValueError: If Inspect asks for what is not known here, such as tools.
        """
        request = self._request(input, tools, config)
        if request.tokens >= self.model.n_ctx:
            return ModelOutput.from_content(self.model_name, "", stop_reason="model_length")
        self._waiting.append(request)
        try:
            await anyio.sleep(WAIT)
            async with self._turn:
                if request.answer is None and request.error is None:
                    await self._answer(request)
        finally:
            if request in self._waiting:  # cancelled
                self._waiting.remove(request)
        if request.error is not None:
            raise request.error
        assert request.answer is not None
        return request.answer

    async def _answer(self, request: _Request) -> None:
        """Answers a request, and those that wait with the same options."""
        others = [one for one in self._waiting if one.options == request.options]
        batch = [request, *(one for one in others if one is not request)][:TOGETHER]
        try:
            answers = await anyio.to_thread.run_sync(self._write, batch)
        except Exception as error:
            for one in batch:
                one.error = error
        else:
            for one, answer in zip(batch, answers, strict=True):
                one.answer = answer
        self._waiting = [one for one in self._waiting if one not in batch]

    def _request(
        self, messages: Sequence[ChatMessage], tools: Sequence[ToolInfo], config: GenerateConfig
    ) -> _Request:
        if tools:
            raise ValueError("This provider has no tools. Use a task without tools.")
        asked = {k: v for k, v in config.model_dump(exclude_none=True).items() if k not in KNOWN}
        unknown = [k for k, v in asked.items() if k not in HARMLESS or v != HARMLESS[k]]
        if unknown:
            raise ValueError(f"This provider does not know {', '.join(unknown)}. Leave it out.")
        for one in messages:
            if one.role not in ROLES:
                raise ValueError(f"A message of the role {one.role!r} is none of {ROLES}.")
            if not isinstance(one.content, str) and any(x.type != "text" for x in one.content):
                raise ValueError("A message holds more than text. This provider reads text alone.")
        prompt = self._prompt([{"role": one.role, "content": one.text} for one in messages])
        read, number = len(self.model.ids(prompt)), config.max_tokens or NEW_TOKENS
        left = max(1, self.model.n_ctx - read)
        options = (min(number, left), config.temperature or 0.0, config.seed or 0)
        stream = int(hashlib.sha256(prompt.encode()).hexdigest()[:12], 16)
        if options[1] > 0:  # another epoch has other random numbers
            stream += self._seen[prompt, options]
            self._seen[prompt, options] += 1
        ends = [end for end in config.stop_seqs or () if end]
        return _Request(prompt, read, stream, options, left < number, ends)

    def _prompt(self, turns: Sequence[Mapping[str, str]]) -> str:
        plain = getattr(self.model.tokenizer, "chat_template", None) is None
        if plain and [turn["role"] for turn in turns] == ["user"]:
            return turns[0]["content"]
        return render_chat(self.model, turns)

    def _write(self, batch: Sequence[_Request]) -> list[ModelOutput]:
        number, temperature, seed = batch[0].options
        prompts = [one.prompt for one in batch]

        def run(chunk: slice) -> torch.Tensor:
            some = batch[chunk]
            tokens = generated_tokens(
                self.model, [one.prompt for one in some], max_new_tokens=number, seed=seed,
                temperature=temperature, draws=[one.stream for one in some],
            )  # fmt: skip
            pad = self.model.tokenizer.pad_token_id or 0
            return torch.nn.functional.pad(tokens, (0, number - tokens.shape[1]), value=pad)

        with _writing.setdefault(self.model.wrapped, threading.Lock()):
            rows = batch_rows(self.model, prompts, number)
            if self.steering is None:
                tokens = in_chunks(run, len(batch), rows)
            else:
                with self.steering.attach(self.model, self.multiplier):
                    tokens = in_chunks(run, len(batch), rows)
        texts = continuations(self.model, prompts, tokens)
        return [self._output(*one) for one in zip(batch, texts, tokens, strict=True)]

    def _output(self, request: _Request, text: str, row: torch.Tensor) -> ModelOutput:
        ends = self.model.is_end(row).nonzero()
        written = int(ends[0]) + 1 if len(ends) else len(row)
        ended = len(ends) > 0
        for end in request.ends:
            text, found, _ = text.partition(end)
            ended = ended or bool(found)
        reason = "stop" if ended else "model_length" if request.cut else "max_tokens"
        output = ModelOutput.from_content(self.model_name, text, stop_reason=reason)
        output.usage = ModelUsage(
            input_tokens=request.tokens, output_tokens=written,
            total_tokens=request.tokens + written,
        )  # fmt: skip
        return output


def _digest(path: Path) -> str:
    """Of all files of a vector."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    found = hashlib.sha256()
    for file in files:
        if file.is_file():
            found.update(file.read_bytes())
    return found.hexdigest()[:16]


def _read(vector: str, model: Model) -> Any:
    """What a file or a folder holds, for a model."""
    path = expanded(vector)
    return load_shared(path, model) if path.is_dir() else Direction.load(path, model)
