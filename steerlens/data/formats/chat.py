"""Prompts in the form that a chat model expects, rendered by its tokenizer's own chat template.

A template is a program that comes with a model. Here it runs with a bound on its steps and on the
length of its texts, and the date that it asks for is always the same, so that a set made today and
one made tomorrow are equal.
"""

from __future__ import annotations

import ast
import datetime
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import FrameType
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jinja2 import Environment
from jinja2.utils import Namespace

from steerlens.data.formats.text import ContrastError, bos_text, chat_markers, shortened

CHAT_DATE = datetime.date(2024, 7, 26)
"""The date that templates get instead of today's: the one that Llama 3 falls back to."""

MAX_STEPS = 100_000
"""Lines that one rendering may execute. Templates with tools execute a few thousand."""
MAX_LENGTH = 2_000_000
"""Characters that one text, or items that one list of a template may have."""
_PATIENCE = 20.0  # seconds of processor time for what is not counted in steps: filters
_MAX_DIGITS = 7  # of a number in a template
_CHECKED_EVERY = 8  # steps


@runtime_checkable
class ChatTokenizer(Protocol):
    """What `chat_prompt` needs of a tokenizer; those of transformers have it."""

    chat_template: Any
    bos_token: Any

    def apply_chat_template(self, conversation: Any, **kwargs: Any) -> Any: ...


@runtime_checkable
class HasTokenizer(Protocol):
    """A model that knows its tokenizer: `Model`."""

    @property
    def tokenizer(self) -> Any: ...


class ChatPrompt(NamedTuple):
    """A prompt rendered by a tokenizer's chat template."""

    text: str
    has_bos: bool
    """Whether the text starts with the BOS token; if so, tokenize it without adding one."""
    lead: str
    """What the template puts between this text and an answer: usually nothing or one space."""
    dated: bool = False
    """Whether the template asked for today's date and got the fixed one."""


def chat_tokenizer(owner: ChatTokenizer | HasTokenizer) -> ChatTokenizer:
    """The tokenizer with a chat template, from itself or from a model.

    Raises:
        ContrastError: If there is no tokenizer, or it has no chat template.
    """
    found = owner
    if not isinstance(found, ChatTokenizer) and isinstance(owner, HasTokenizer):
        found = owner.tokenizer
    if not isinstance(found, ChatTokenizer):
        raise ContrastError(
            f"{type(owner).__name__} is neither a tokenizer with apply_chat_template nor a model "
            "that has one. Pass the model, or its tokenizer: with_chat(model)."
        )
    if found.chat_template is None:
        raise ContrastError(
            f"{type(found).__name__} has no chat template: this is not a chat model. Use "
            "a plain template instead: with_template('Question: {prompt}\\nAnswer:')."
        )
    return found


def chat_prompt(
    tokenizer: ChatTokenizer | HasTokenizer,
    user: str,
    system: str | None = None,
    *,
    date: datetime.date = CHAT_DATE,
) -> ChatPrompt:
    """Applies the tokenizer's own chat template to one user turn, up to where the answer starts.

    Args:
        tokenizer: A tokenizer, or the model that it belongs to.
        user: The text of the user's turn.
        system: The text of the system's turn; without it there is none, unless the template writes
            its own.
        date: What a template that writes today's date gets.

    Raises:
        ContrastError: If the tokenizer has no chat template, the user text is empty or already has
            chat markers, or the template cannot take the system text, fails, or does not end.
    """
    tokenizer = chat_tokenizer(tokenizer)
    if not user.strip():
        raise ContrastError("The user text is empty, so there is no turn to write. Give a prompt.")
    for text in (user, system or ""):
        if present := (*chat_markers(text), *filter(None, [bos_text(text)])):
            raise ContrastError(
                f"{shortened(text)!r} already has chat markers ({', '.join(present)}), and a "
                "template would add others around them. Use the text without with_chat, or remove "
                "the markers first."
            )
    turns = turns_of(user, system)
    answer = "ANSWER"
    text, dated = _rendered(tokenizer, turns, True, date)
    answered = [*turns, {"role": "assistant", "content": answer}]
    whole, _ = _rendered(tokenizer, answered, False, date)
    for role, given in (("user", user), ("system", system or "")):
        if given.strip() not in text:
            raise ContrastError(
                f"The tokenizer's chat template drops or changes the {role} text "
                f"{shortened(given)!r}. Put it into the user text."
            )
    between = whole[len(text) : whole.rfind(answer)] if whole.startswith(text) else ""
    bos = tokenizer.bos_token
    return ChatPrompt(
        text=text,
        has_bos=bool(bos) and text.startswith(str(bos)),
        lead=between if not between.strip() else "",
        dated=dated,
    )


def turns_of(user: str, system: str | None = None) -> list[dict[str, str]]:
    """A chat of one user turn, after a system turn where there is a text for it."""
    first = [] if system is None else [{"role": "system", "content": system}]
    return [*first, {"role": "user", "content": user}]


def render_chat(
    tokenizer: ChatTokenizer | HasTokenizer,
    turns: Sequence[Mapping[str, str]],
    *,
    date: datetime.date = CHAT_DATE,
) -> str:
    """Several turns in the tokenizer's own chat template, up to where the next answer starts.

    Args:
        turns: Mappings with "role" ("system", "user" or "assistant") and "content".
        date: What a template that writes today's date gets.

    Raises:
        ContrastError: If there is no chat template, or it refuses the turns, fails or does not end.
    """
    for i, turn in enumerate(turns):
        if not isinstance(turn, Mapping) or not {"role", "content"} <= set(turn):
            raise ContrastError(
                f"turns[{i}] is {shortened(repr(turn))}. A turn is "
                "{'role': 'user', 'content': '…'}."
            )
    if not turns:
        raise ContrastError("There are no turns. Give at least {'role': 'user', 'content': '…'}.")
    return _rendered(chat_tokenizer(tokenizer), [dict(turn) for turn in turns], True, date)[0]


class _Endless(Exception):
    """A template that runs or grows beyond the bounds."""


def _rendered(
    tokenizer: ChatTokenizer, turns: list[dict[str, Any]], prompt: bool, date: datetime.date
) -> tuple[str, bool]:
    """The turns as text, and whether the template asked for the date."""
    given: dict[str, Any] = {"tokenize": False}
    if prompt:
        given["add_generation_prompt"] = True
    dates: list[str] = []
    try:
        template = _template_of(tokenizer)
        _require_small_numbers(template)
        if "strftime_now" in template:
            given["chat_template"], dates = _with_fixed_date(template, date)
        text = _bounded(lambda: tokenizer.apply_chat_template(turns, **given))
    except _Endless as error:
        raise ContrastError(
            f"The tokenizer's chat template {error}. It is broken or hostile: do not use this "
            "tokenizer's template; write one with with_template('Question: {prompt}\\nAnswer:')."
        ) from error
    except Exception as error:  # a template's program raises whatever it does wrong
        raise ContrastError(
            f"The tokenizer's chat template refuses these turns: {type(error).__name__}: "
            f"{shortened(str(error), 300).rstrip('.')}. If there is a system text, put it before the "
            "user text instead; otherwise repair the template."
        ) from error
    if not isinstance(text, str) or len(text) > MAX_LENGTH:
        raise ContrastError(
            f"The tokenizer's chat template gives {type(text).__name__} instead of a text of at "
            f"most {MAX_LENGTH} characters. Repair the template."
        )
    return text, any(written in text for written in dates)


def _template_of(tokenizer: ChatTokenizer) -> str:
    """The source of the template; tokenizers with several call one of them "default"."""
    found = tokenizer.chat_template
    found = found.get("default") if isinstance(found, Mapping) else found
    return found if isinstance(found, str) else ""


def _require_small_numbers(template: str) -> None:
    """Refuses numbers and powers that could fill the memory before anything is rendered."""
    for _, kind, value in Environment().lex(template):
        if kind == "operator" and value == "**":
            raise _Endless("computes powers, which no chat needs")
        if kind in ("integer", "float") and len(value) > _MAX_DIGITS:
            raise _Endless(f"holds the number {value[:20]}, larger than any chat needs")


def _with_fixed_date(template: str, date: datetime.date) -> tuple[str, list[str]]:
    """The template with a macro in the place of `strftime_now`, and the dates that it may write.

    A macro cannot call Python, so it holds the date in every format that the template names.
    """
    written: dict[str, str] = {}
    for _, kind, value in Environment().lex(template):
        if kind == "string" and "%" in value:
            with suppress(ValueError, SyntaxError):
                format = ast.literal_eval(value)
                written[format] = date.strftime(format)
    known, other = json.dumps(written), json.dumps(date.isoformat())
    # The line break belongs to the block, so that the template starts at the start of a line.
    macro = f"{{% macro strftime_now(format) %}}{{{{ {known}.get(format, {other}) }}}}"
    return f"{macro}{{% endmacro %}}\n{template}", [*written.values(), date.isoformat()]


def _bounded(render: Callable[[], Any]) -> Any:
    """What `render` returns, if a jinja template inside it stays within the bounds.

    The lines of a compiled template are counted by a trace function, which can stop it anywhere.
    """
    deadline = time.thread_time() + _PATIENCE
    steps = 0

    def line(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps > MAX_STEPS:
            raise _Endless(f"does not end: it was stopped after {MAX_STEPS} steps")
        if steps % _CHECKED_EVERY == 0 and any(map(_too_long, frame.f_locals.values())):
            raise _Endless(f"makes texts of more than {MAX_LENGTH} characters")
        return line

    def call(frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename == "<template>":
            return line(frame, event, argument)
        if time.thread_time() > deadline:
            raise _Endless(f"does not end: it was stopped after {_PATIENCE:.0f} seconds")
        return None

    before = sys.gettrace()
    sys.settrace(call)
    try:
        return render()
    finally:
        sys.settrace(before)


def _too_long(value: object) -> bool:
    if isinstance(value, Namespace):
        held = object.__getattribute__(value, "_Namespace__attrs")
        return any(_too_long(inner) for inner in held.values() if not isinstance(inner, Namespace))
    return isinstance(value, str | list | tuple | dict) and len(value) > MAX_LENGTH
