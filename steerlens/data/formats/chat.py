"""Prompts in the form a chat model expects, written by its own tokenizer."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

from steerlens.data.formats.text import ContrastError, bos_text, chat_markers, shortened


@runtime_checkable
class ChatTokenizer(Protocol):
    """What `chat_prompt` needs of a tokenizer; those of transformers have it."""

    chat_template: Any
    bos_token: Any

    def apply_chat_template(self, conversation: Any, **kwargs: Any) -> Any: ...


class ChatPrompt(NamedTuple):
    """A prompt written by a tokenizer's chat template."""

    text: str
    has_bos: bool
    """Whether the text starts with the BOS token: then tokenize without adding one."""
    lead: str
    """What the template puts between this text and an answer: usually nothing or one space."""


def chat_prompt(tokenizer: ChatTokenizer, user: str, system: str | None = None) -> ChatPrompt:
    """Applies the tokenizer's own chat template to one user turn, up to where the answer starts.

    Raises:
        ContrastError: If the tokenizer has no chat template, the user text is empty or already has
            chat markers, or the template cannot take the system text.
    """
    if not user.strip():
        raise ContrastError("The user text is empty, so there is no turn to write. Give a prompt.")
    if getattr(tokenizer, "chat_template", None) is None:
        raise ContrastError(
            f"{type(tokenizer).__name__} has no chat template, so the model has no chat form. Use "
            "a plain one: with_template('Question: {prompt}\\nAnswer:')."
        )
    for text in (user, system or ""):
        if present := (*chat_markers(text), *filter(None, [bos_text(text)])):
            raise ContrastError(
                f"{shortened(text)!r} already has chat markers ({', '.join(present)}). Applying a "
                "template again would nest them: use the text as it is, or strip them first."
            )
    from jinja2.exceptions import TemplateError  # a dependency of every chat template

    turns = [{"role": "system", "content": system}] if system is not None else []
    turns.append({"role": "user", "content": user})
    answer = "ANSWER"
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template(
            [*turns, {"role": "assistant", "content": answer}], tokenize=False
        )
    except TemplateError as error:
        raise ContrastError(
            f"The tokenizer's chat template refuses these turns: {error}. Without system=… it may "
            "work; put its text before the user text instead."
        ) from error
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
    )
