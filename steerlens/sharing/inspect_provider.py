"""A steered model as a model of Inspect, so that its evaluations score steering as well.

    inspect eval task.py --model steerlens/smollm2-135m-instruct -M vector=weddings -M multiplier=1

Inspect finds it by the entry point of the package, where both are installed: `steerlens[inspect]`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from inspect_ai.model import (
    ChatMessage,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    modelapi,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from steerlens.arguments import as_float
from steerlens.data.formats.chat import render_chat
from steerlens.directions import Direction
from steerlens.interventions import Add
from steerlens.measures.generation import continuations, generated_tokens
from steerlens.models.model import Model, as_model
from steerlens.protocols import Intervention
from steerlens.sharing.shared_folder import load_shared

NEW_TOKENS = 256
"""Tokens of an answer at most, where Inspect asks for no number."""
TOGETHER, WAIT = 64, 0.02
"""Answers that are written as one batch at most, and the seconds in which they gather."""
UNKNOWN = (
    "top_p", "top_k", "best_of", "frequency_penalty", "presence_penalty", "logit_bias", "logprobs",
    "top_logprobs", "prompt_logprobs", "num_choices", "response_schema",
)  # fmt: skip
"""Settings of Inspect that change an answer and that are not known here."""
ROLES = ("system", "user", "assistant")


@dataclass(eq=False)
class _Request:
    """An answer that is asked for."""

    prompt: str
    stream: int
    """Its random numbers, which depend on nothing else in the batch."""
    options: tuple[int, float, int]
    """New tokens at most, temperature and seed: those of a batch are equal."""
    ends: Sequence[str]
    answer: ModelOutput | None = None
    error: Exception | None = field(default=None)


@modelapi(name="steerlens")
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
            ValueError: If both `vector` and `steering` are given, or a multiplier without any.
        """
        super().__init__(model_name, base_url, api_key, [], config)
        if vector is not None and steering is not None:
            raise ValueError("vector and steering are both given. Use one of them.")
        self.multiplier = as_float("multiplier", multiplier)
        if vector is None and steering is None and self.multiplier not in (0, 1):
            raise ValueError(
                f"multiplier={multiplier} steers nothing: there is no vector. Give one, as in "
                "-M vector=weddings."
            )
        self.model = Model.load(model_name, **options) if loaded is None else as_model(loaded)
        given: Any = _read(vector, self.model) if vector is not None else steering
        self.steering: Any = Add(given) if isinstance(given, Direction) else given
        self._seen: Counter[str] = Counter()
        self._waiting: list[_Request] = []
        self._writing = anyio.Lock()

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
        if tools:
            raise ValueError("This provider has no tools. Use a task without tools.")
        asked = [name for name in UNKNOWN if getattr(config, name, None) is not None]
        if asked:
            raise ValueError(f"This provider does not know {', '.join(asked)}. Leave it out.")
        request = self._request(input, config)
        self._waiting.append(request)
        await anyio.sleep(WAIT)
        async with self._writing:
            if request.answer is None and request.error is None:
                same = [one for one in self._waiting if one.options == request.options]
                batch = [request, *(one for one in same if one is not request)][:TOGETHER]
                self._waiting = [one for one in self._waiting if one not in batch]
                try:
                    answers = await anyio.to_thread.run_sync(self._write, batch)
                except Exception as error:
                    for one in batch:
                        one.error = error
                else:
                    for one, answer in zip(batch, answers, strict=True):
                        one.answer = answer
        if request.error is not None:
            raise request.error
        assert request.answer is not None
        return request.answer

    def _request(self, messages: Sequence[ChatMessage], config: GenerateConfig) -> _Request:
        turns = [{"role": one.role, "content": one.text} for one in messages]
        if unknown := {turn["role"] for turn in turns} - set(ROLES):
            raise ValueError(f"A message of the role {unknown.pop()!r} is none of {ROLES}.")
        prompt = self._prompt(turns)
        left = self.model.n_ctx - len(self.model.ids(prompt))
        number = min(config.max_tokens or NEW_TOKENS, max(1, left))
        stream = int(hashlib.sha256(prompt.encode()).hexdigest()[:12], 16) + self._seen[prompt]
        self._seen[prompt] += 1  # another epoch has other random numbers
        options = (number, config.temperature or 0.0, config.seed or 0)
        return _Request(prompt, stream, options, config.stop_seqs or ())

    def _prompt(self, turns: Sequence[Mapping[str, str]]) -> str:
        plain = getattr(self.model.tokenizer, "chat_template", None) is None
        if plain and [turn["role"] for turn in turns] == ["user"]:
            return turns[0]["content"]
        return render_chat(self.model, turns)

    def _write(self, batch: Sequence[_Request]) -> list[ModelOutput]:
        number, temperature, seed = batch[0].options
        prompts = [one.prompt for one in batch]
        options: Any = {"max_new_tokens": number, "temperature": temperature, "seed": seed}
        streams = [one.stream for one in batch]
        if self.steering is None:
            tokens = generated_tokens(self.model, prompts, draws=streams, **options)
        else:
            with self.steering.attach(self.model, self.multiplier):
                tokens = generated_tokens(self.model, prompts, draws=streams, **options)
        texts = continuations(self.model, prompts, tokens)
        return [self._output(*one) for one in zip(batch, texts, tokens, strict=True)]

    def _output(self, request: _Request, text: str, row: Any) -> ModelOutput:
        ends = self.model.is_end(row).nonzero()
        written = int(ends[0]) + 1 if len(ends) else len(row)
        ended = len(ends) > 0
        for end in request.ends:
            before, found, _ = text.partition(end)
            text, ended = before, ended or bool(found)
        reason = "stop" if ended else "max_tokens"
        output = ModelOutput.from_content(self.model_name, text, stop_reason=reason)
        read = len(self.model.ids(request.prompt))
        output.usage = ModelUsage(
            input_tokens=read, output_tokens=written, total_tokens=read + written
        )
        return output


def _read(vector: str, model: Model) -> Any:
    """What a file or a folder holds, for a model."""
    path = Path(vector).expanduser()
    return load_shared(path, model) if path.is_dir() else Direction.load(path, model)
