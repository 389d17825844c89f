"""The format of a file, recognised by its content, and the arguments that each format uses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

from steerlens.data.formats import lists, pairs, questions, relations, statements
from steerlens.data.formats.drafts import Content, Drafted, Reading
from steerlens.data.formats.sides import SIDES
from steerlens.data.formats.text import ContrastError


class Format(NamedTuple):
    """One layout of contrast data."""

    name: str
    matches: Callable[[Content], bool]
    read: Callable[[Content, Reading], Drafted]
    uses: frozenset[str] = frozenset()
    """The fields of `Reading` that change what is read."""


_SIDES = frozenset({"positive", "negative"})
_CONFIDENCE = frozenset({"min_confidence"})
_TEMPLATE = frozenset({"template"})
_TWO_FILES = frozenset({"negatives", "paired", "personas"})
FORMATS = (
    Format("saved", pairs.is_saved, pairs.read_saved),
    Format("steering-bench", questions.is_steering_bench, questions.read_steering_bench),
    Format("anthropic", questions.is_anthropic, questions.read_anthropic, _CONFIDENCE),
    Format("caa", questions.is_caa, questions.read_caa, _CONFIDENCE),
    Format("open-ended", questions.is_open_ended, questions.read_open_ended),
    Format("truthfulqa", questions.is_truthfulqa, questions.read_truthfulqa),
    Format("free-form", questions.is_free_form, questions.read_free_form),
    Format("axbench", statements.is_axbench, statements.read_axbench, frozenset({"concept"})),
    Format("axbench-metadata", statements.is_axbench_metadata, statements.read_axbench_metadata),
    Format("labelled", statements.is_labelled, statements.read_labelled, _SIDES | {"negatives"}),
    Format("feature-circuits", pairs.is_feature_circuits, pairs.read_feature_circuits),
    Format("instruction", pairs.is_instruction, pairs.read_instruction),
    Format("traits", lists.is_traits, lists.read_traits),
    Format("pairs", pairs.is_pairs, pairs.read_pairs),
    Format("known-facts", relations.is_known_facts, relations.read_known_facts),
    Format("input-output", relations.is_input_output, relations.read_input_output, _TEMPLATE),
    Format("relation", relations.is_relation, relations.read_relation, _TEMPLATE),
    Format("lexicon", statements.is_lexicon, statements.read_lexicon, _CONFIDENCE),
    Format("tuples", pairs.is_tuples, pairs.read_tuples),
    Format("lists", lists.is_lists, lists.read_lists, _SIDES | {"paired"}),
    Format("texts", lists.is_texts, lists.read_texts, _TWO_FILES),
    Format("columns", pairs.is_columns, pairs.read_columns, _SIDES | {"prompt"}),
)
"""In the order in which they are tried; the first that matches the content is taken."""


_LOOSE = {"lists", "texts", "columns"}


def as_rows(content: Content) -> Content:
    """The content; a single object becomes a table of one row unless a format consists of one."""
    if not isinstance(content.value, Mapping):
        return content
    row = replace(content, value=[content.value])
    if any(f.matches(row) for f in FORMATS if f.name not in _LOOSE):
        return row
    for sides in SIDES:
        if set(sides) <= row.columns and any(row.has_text(side, numbers=True) for side in sides):
            return row
    return content if any(f.matches(content) for f in FORMATS) else row


def recognised(content: Content, reading: Reading, name: str | None = None) -> Format:
    """The format of a file: the named one, or the first that its content matches.

    Raises:
        ContrastError: If no format matches, the named one does not exist or does not match, or an
            argument is given that this format does not use.
    """
    if name is not None:
        found = next((f for f in FORMATS if f.name == name), None)
        if found is None:
            known = ", ".join(f.name for f in FORMATS)
            raise ContrastError(f"format={name!r} is unknown. Known formats: {known}.")
        if not found.matches(content):
            raise ContrastError(
                f"{content.where} is not in the format {name!r}: {_described(content)}. Omit "
                "format=…, and it is recognised by content."
            )
    elif {
        reading.positive,
        reading.negative or reading.positive,
    } <= content.columns and not pairs.is_saved(content):
        found = next(f for f in FORMATS if f.name == "columns")
    else:
        found = next((f for f in FORMATS if f.matches(content)), None)
        if found is None:
            raise ContrastError(
                f"{content.where} has no known format: {_described(content)}. docs/formats.md "
                "lists the formats; the simplest is .jsonl with prompt, positive and negative."
            )
    _refuse_unused(found, content, reading)
    return found


def _refuse_unused(found: Format, content: Content, reading: Reading) -> None:
    for option in ("min_confidence", "positive", "negative", "prompt", "negatives", "paired",
                   "concept", "personas"):  # fmt: skip
        if getattr(reading, option) is not None and option not in found.uses:
            usable = sorted(found.uses - {"template"}) or "none"
            raise ContrastError(
                f"{content.where} is in the format {found.name!r} ({_described(content)}), where "
                f"{option}=… has no meaning. Omit it; this format uses {usable}."
            )


def uses_template(found: Format, reading: Reading) -> bool:
    """Whether the format fills the template itself instead of `ContrastSet.with_template`."""
    if found.name == "columns":
        return reading.prompt is not None and reading.negative is None
    return "template" in found.uses or reading.personas is not None


def _described(content: Content) -> str:
    if content.records:
        columns = sorted(content.columns)[:12]
        return f"{content.container} with {len(content.records)} rows of {columns}"
    value = content.value
    if content.container == "tsv":
        return f"a table of {len(value)} lines whose first is {value[0][:12]}"
    if isinstance(value, dict):
        return f"{content.container} object with the keys {sorted(map(str, value))[:12]}"
    if isinstance(value, list) and value:
        kinds = sorted({type(x).__name__ for x in value})
        return f"{content.container} with {len(value)} items of type {', '.join(kinds)}"
    return f"{content.container} holding {value!r:.60}"
