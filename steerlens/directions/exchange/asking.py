"""Asking for what a file does not state, and stating what is known of its directions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from torch import Tensor

from steerlens.directions import Direction, DirectionError, direction_facts, require_vector
from steerlens.sites import Positions, Site

EVERYWHERE = Positions.all(special=True)
"""Where the peers and llama.cpp steer: every token, BOS as well."""

_EXAMPLES = {"site": "Site(12)", "processing": "'raw'", "model": "'gpt2'", "post_norms": "False"}
_MEANINGS = {
    "site": "the layer and stream it is added to",
    "processing": "the weight processing of the model it was made on ('raw' for Hugging Face)",
    "model": "the model it was made on",
    "post_norms": "whether that model norms a sub-block's output before adding it (Gemma 2 does)",
}
_FIELDS = {f.name for f in fields(Direction)} - {"vector"}


class MissingFacts(DirectionError):
    """A file does not state what is needed to use its vector; the message says what to pass."""


def ask(source: str, call: str, **needed: object) -> None:
    """Raises MissingFacts with all facts that are None, and an example of the call.

    >>> ask("v.pt", "plain.load('v.pt'", site=Site(3), model=None)
    Traceback (most recent call last):
    ...
    steerlens.directions.exchange.asking.MissingFacts: v.pt does not state model (the model it \
was made on). \
Pass it: plain.load('v.pt', model='gpt2').
    """
    if missing := [name for name, value in needed.items() if value is None]:
        told = ", ".join(f"{name} ({_MEANINGS[name]})" for name in missing)
        example = ", ".join(f"{name}={_EXAMPLES[name]}" for name in missing)
        raise MissingFacts(
            f"{source} does not state {told}. Pass {'it' if len(missing) == 1 else 'them'}: "
            f"{call}, {example})."
        )


def state(vector: Tensor, site: Site, facts: Mapping[str, Any], source: str) -> Direction:
    """A direction of a foreign vector: all facts that are given, and no others."""
    if unknown := facts.keys() - _FIELDS:
        raise DirectionError(
            f"{', '.join(sorted(unknown))} is no fact of a direction. "
            f"Known are {', '.join(sorted(_FIELDS))}."
        )
    return Direction(vector=require_vector(vector, source), site=site, **facts)


def write_facts(directions: Mapping[str, Direction]) -> str:
    """The facts of the directions of a file, by the names of their tensors, as one line."""
    return json.dumps({name: direction_facts.to_json(d.facts()) for name, d in directions.items()})


def read_facts(text: str, vectors: Mapping[str, Tensor], source: str) -> dict[str, Direction]:
    """Directions that `write_facts` stated.

    Raises:
        DirectionError: If the facts are not those of these tensors, or cannot be read.
    """
    try:
        stated = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DirectionError(f"The facts in {source} cannot be read: {error}.") from error
    if not isinstance(stated, dict) or stated.keys() != vectors.keys():
        raise DirectionError(
            f"The facts in {source} are not those of its tensors ({', '.join(sorted(vectors))}): "
            "it was edited. Remove the facts and pass your own, or export it again."
        )
    texts = {name: text if isinstance(text, str) else "null" for name, text in stated.items()}
    return {
        name: Direction(
            vector=require_vector(vector, source), **direction_facts.from_json(texts[name], source)
        )
        for name, vector in vectors.items()
    }


def in_raw_basis(directions: Direction | Sequence[Direction], reader: str) -> list[Direction]:
    """Directions as a reader without weight processing must have them.

    Raises:
        DirectionError: If there is none, one is not made to be added, or cannot be converted.
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
