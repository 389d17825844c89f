"""The facts that a file lacks, as an error that names them; and facts from and to files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from torch import Tensor

from steerlens.directions import Direction, DirectionError, direction_facts, require_vector
from steerlens.sites import Positions, Site

EVERYWHERE = Positions.all(special=True)
"""Where llama.cpp, repeng and steering-vectors steer: at every token, BOS included."""

_EXAMPLES = {"site": "Site(12)", "processing": "'raw'", "model": "'gpt2'", "post_norms": "False"}
_MEANINGS = {
    "site": "the layer and stream it is added to",
    "processing": "the weight processing of the model it was made on ('raw' for Hugging Face)",
    "model": "the model it was made on",
    "post_norms": "whether that model norms a sub-block's output before adding it (Gemma 2 does)",
}
_FIELDS = {f.name for f in fields(Direction)} - {"vector"}


class MissingFacts(DirectionError):
    """A file lacks facts that the use of its vector depends on; the message says what to pass."""


def ask(source: str, call: str, **needed: object) -> None:
    """Raises MissingFacts that names all facts that are None, with an example of the call.

    >>> ask("v.pt", "plain.load('v.pt'", site=Site(3), model=None)
    Traceback (most recent call last):
    ...
    steerlens.directions.exchange.required_facts.MissingFacts: v.pt does not state model (the model it \
was made on). \
Pass it: plain.load('v.pt', model='gpt2').
    """
    if missing := [name for name, value in needed.items() if value is None]:
        named = ", ".join(f"{name} ({_MEANINGS[name]})" for name in missing)
        example = ", ".join(f"{name}={_EXAMPLES[name]}" for name in missing)
        raise MissingFacts(
            f"{source} does not state {named}. Pass {'it' if len(missing) == 1 else 'them'}: "
            f"{call}, {example})."
        )


def state(vector: Tensor, site: Site, facts: Mapping[str, Any], source: str) -> Direction:
    """A direction from a vector of other software, with exactly the given facts.

    Raises:
        DirectionError: If it is not a vector, or there is no such fact.
    """
    if unknown := facts.keys() - _FIELDS:
        raise DirectionError(
            f"{', '.join(sorted(unknown))} is not a fact of a direction. "
            f"Use some of {', '.join(sorted(_FIELDS))}."
        )
    return Direction(vector=require_vector(vector, source), site=site, **facts)


def write_facts(directions: Mapping[str, Direction]) -> str:
    """The facts of several directions by the names of their tensors, as one line."""
    return json.dumps({name: direction_facts.to_json(d.facts()) for name, d in directions.items()})


def read_facts(text: str, vectors: Mapping[str, Tensor], source: str) -> dict[str, Direction]:
    """Directions from their vectors and what `write_facts` wrote.

    Raises:
        DirectionError: If the facts are not those of these tensors, or cannot be read.
    """
    try:
        stated = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DirectionError(
            f"The facts in {source} cannot be read: {error}. Export it again."
        ) from error
    if not isinstance(stated, dict) or stated.keys() != vectors.keys():
        raise DirectionError(
            f"The facts in {source} are not those of its tensors "
            f"({', '.join(sorted(vectors)):.200}), so it was edited. Export it again, or remove the "
            "facts and pass your own."
        )
    texts = {name: text if isinstance(text, str) else "null" for name, text in stated.items()}
    return {
        name: Direction(
            vector=require_vector(vector, source), **direction_facts.from_json(texts[name], source)
        )
        for name, vector in vectors.items()
    }


def in_raw_basis(directions: Direction | Sequence[Direction], reader: str) -> list[Direction]:
    """Directions for a reader that runs the weights without processing.

    Raises:
        DirectionError: If there is none, or one is not made to be added or cannot be converted.
    """
    several = [directions] if isinstance(directions, Direction) else list(directions)
    if not several:
        raise DirectionError(f"There are no directions to export to {reader}. Pass at least one.")
    for direction in several:
        if direction.operation != "add":
            raise DirectionError(
                f"The direction at {direction.site} is made to {direction.operation}, and {reader} "
                "only adds. Share it as a steerlens file: direction.save(path)."
            )
    return [direction.converted("raw") for direction in several]
