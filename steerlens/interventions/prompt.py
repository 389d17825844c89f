"""A prompt as an intervention: text in front of every text, with a dial."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from steerlens.data.formats.chat import render_chat, turns_of
from steerlens.interventions.changes import Change, PromptChange
from steerlens.interventions.composition import attached, require_changes_fit
from steerlens.models.model import Model
from steerlens.protocols import Hookable, Strength


@dataclass(frozen=True)
class Prompt:
    """Text in front of every text, after its BOS, at a strength.

    The final states are mixed, base + m · (prompted - base): 0 is the text alone, 1 exactly the text
    after the prompt, and other strengths weaken, strengthen or turn round what the prompt does. It
    takes two passes, one with and one without the prompt. Edits of the stream that are attached
    beside it act on the texts and not on the prompt.

    The prompt is tokenised by itself. End it with a line break, so that its tokens are the same as
    in the joined text.

    Source: mixing logits of a prompted and an unprompted pass is context-aware decoding,
    arXiv:2305.14739, with m = 1 + α.

    >>> Prompt.few_shot([("It was lovely.", "good"), ("It was awful.", "bad")]).text
    'It was lovely. good\\n\\nIt was awful. bad\\n\\n'
    """

    text: str

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not self.text:
            raise ValueError(
                f"text={self.text!r:.80} is no text to put in front. Write e.g. "
                "Prompt('Answer politely.\\n')."
            )

    @classmethod
    def few_shot(
        cls, examples: Sequence[tuple[str, str]], *, joint: str = " ", between: str = "\n\n"
    ) -> Prompt:
        """Questions with their answers, one after the other.

        Args:
            examples: Pairs of a question and its answer.
            joint: What stands between a question and its answer.
            between: What stands after each answer.
        """
        if not examples:
            raise ValueError("There are no examples to put in front. Give at least one.")
        return cls("".join(f"{q}{joint}{a}{between}" for q, a in examples))

    @classmethod
    def system(cls, model: Model, text: str) -> Prompt:
        """A system turn of a chat model, as its own template writes it before the user's turn.

        It is put in front of chats without one. Where the template writes a system turn of its own
        into such chats, that turn stays, after this one.

        Raises:
            ContrastError: If the model has no chat template, or it has no system turns.
        """
        user = "USER"
        with_it = render_chat(model, turns_of(user, text))
        without = render_chat(model, turns_of(user))
        same = 0
        while same < len(without) and with_it[-1 - same] == without[-1 - same]:
            same += 1
        start = with_it.index(user) - (without.index(user) - max(0, len(without) - same))
        lead = model.text(model.texts.lead) if model.texts.lead else ""
        return cls(with_it[:start].removeprefix(lead))

    def tokens(self, model: Model) -> Int[Tensor, " new"]:
        """The prompt's token ids, without BOS."""
        ids = model.ids(self.text)[len(model.texts.lead) :]
        return torch.tensor(ids, dtype=torch.long, device=model.device)

    def changes(self, model: Model) -> tuple[Change, ...]:
        """The prompt, in this model's tokens."""
        return (PromptChange(self.tokens(model)),)

    @property
    def first_block(self) -> int:
        """0: all blocks see other keys."""
        return 0

    @property
    def per_row(self) -> bool:
        """True: a batch may have one multiplier per row."""
        return True

    def require_fits(self, model: Model) -> None:
        """Raises ValueError if the prompt leaves no room for text in the model's context."""
        changes = self.changes(model)
        require_changes_fit(model, changes, repr(self))
        if (length := len(self.tokens(model))) >= model.n_ctx - 1:
            raise ValueError(
                f"The prompt has {length} tokens, and the context of {model.name!r} is "
                f"{model.n_ctx}: there is no room for text. Use a shorter prompt."
            )

    def attach(self, model: Hookable, multiplier: Strength) -> AbstractContextManager[None]:
        """Puts the prompt in front until the `with` ends."""
        if not isinstance(model, Model):
            raise TypeError(
                f"A prompt is attached to a steerlens Model; got {type(model).__name__}. Wrap it "
                "once: model = Model(hooked)."
            )
        return attached(model, self.changes(model), multiplier, repr(self))
