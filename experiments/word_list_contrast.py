"""Contrastive prompts from real word lists, for a model that knows review-like sentences.

    python experiments/word_list_contrast.py --words prompts.yaml --model path/to/checkpoint \\
        --positive positive_adjectives_train --negative negative_adjectives_train \\
        --output results/words
    steerlens run experiments/sentiment_layers.py --model path/to/checkpoint \\
        --contrast results/words/contexts.jsonl --questions results/words/questions.jsonl

Two files: `contexts.jsonl`, pairs of texts that differ in one adjective and end where another is
due ("the food was awful . the waitress was"), to fit directions on; and `questions.jsonl`, such
prompts with two adjectives as answers. No adjective is used in both.
"""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from steerlens.data import ContrastPair, ContrastSet
from steerlens.models.model import Model

SUBJECTS = (
    "food", "service", "place", "waitress", "pizza", "salad", "room", "staff", "chicken", "burger",
    "store", "manager", "coffee", "menu", "price", "bread", "atmosphere", "owner", "hotel", "sauce",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class WordListContrast:
    """Writes contexts.jsonl and questions.jsonl from two lists of words."""

    words: Path
    """A file of word lists: YAML with named lists, or a lexicon with a score per word."""
    model: str
    """The model whose tokenizer must know every word as one token."""
    output: Path
    """Folder to write."""
    positive: str | None = None
    """Name of the list of positive words, where lists have names."""
    negative: str | None = None
    """Name of the list of negative words."""
    min_confidence: float | None = None
    """For a lexicon: least absolute score."""
    template: str = "the {subject} was {word} . the {other} was"
    """A sentence with a word, and the start of a sentence that is about to have one."""
    opening: str = "the {other} was"
    """The same without the first sentence, for a third of the questions."""
    subjects: tuple[str, ...] = SUBJECTS
    """What the sentences are about."""
    n_contexts: int = 200
    """Pairs to fit on."""
    n_questions: int = 200
    """Questions to score."""
    seed: int = 0
    """Seeds everything that is drawn."""

    def __post_init__(self) -> None:
        if len(self.subjects) < 2:
            raise ValueError(f"subjects={self.subjects}: two sentences need two subjects.")

    def write(self) -> None:
        """Writes both files and says what is in them."""
        rng = random.Random(self.seed)
        told, asked = self._halves(rng)
        contexts = {}
        while len(contexts) < self.n_contexts:
            subject, other = rng.sample(self.subjects, 2)
            sides = [
                self.template.format(subject=subject, other=other, word=rng.choice(words))
                for words in told
            ]
            contexts[tuple(sides)] = ContrastPair("", *sides)
        questions = {}
        while len(questions) < self.n_questions:
            subject, other = rng.sample(self.subjects, 2)
            kind = rng.randrange(3)
            word = rng.choice(told[kind]) if kind < 2 else ""
            form = self.template if kind < 2 else self.opening
            prompt = form.format(subject=subject, other=other, word=word)
            answers = [" " + rng.choice(words) for words in asked]
            questions[(prompt, *answers)] = ContrastPair(prompt, *answers, group=prompt)
        for name, pairs in (("contexts", contexts), ("questions", questions)):
            made = ContrastSet(f"{self.words.stem} {name}", tuple(pairs.values()), str(self.words))
            print(f"{made.save(self.output / f'{name}.jsonl')}: {len(made)} pairs")
        print(
            f"words told: {len(told[0])} + {len(told[1])}, asked: {len(asked[0])} + {len(asked[1])}"
        )

    def _halves(self, rng: random.Random) -> tuple[list[list[str]], list[list[str]]]:
        """Positive and negative words for the sentences, and other ones for the answers."""
        loaded = ContrastSet.load(
            self.words, positive=self.positive, negative=self.negative,
            min_confidence=self.min_confidence,
        )  # fmt: skip
        model = Model.load(self.model)
        halves = []
        for side in ("positive", "negative"):
            listed = sorted({getattr(pair, side).strip() for pair in loaded})
            known = [word for word in listed if self._is_one_token(model, word)]
            print(f"{side}: {len(known)} of {len(listed)} words are one token of {model.name}")
            if len(known) < 4:
                raise ValueError(
                    f"Only {known} of the {side} words are single tokens of {model.name!r}; at "
                    "least four are needed. Use another list or model."
                )
            rng.shuffle(known)
            halves.append((known[::2], known[1::2]))
        (told_p, asked_p), (told_n, asked_n) = halves
        return [told_p, told_n], [asked_p, asked_n]

    def _is_one_token(self, model: Model, word: str) -> bool:
        ids = model.tokenizer(" " + word, add_special_tokens=False)["input_ids"]
        return len(ids) == 1 and ids[0] != model.tokenizer.unk_token_id


if __name__ == "__main__":
    try:
        tyro.cli(WordListContrast).write()
    except ValueError as error:
        sys.exit(f"word_list_contrast: {error}")
