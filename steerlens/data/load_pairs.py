"""A file or a dataset of the hub, in any of the formats of docs/formats.md, as pairs.

The format is recognised by content. Nothing is dropped or chosen silently.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

from steerlens.data.formats.drafts import Content, FileFacts, Reading
from steerlens.data.formats.hub_datasets import is_hub_name, read_hub
from steerlens.data.formats.pairs import count_unusable
from steerlens.data.formats.read import read_content
from steerlens.data.formats.recognise import as_rows, recognised, uses_template
from steerlens.data.formats.text import ContrastError, unescaped
from steerlens.data.pair import ContrastPair


class LoadOptions(TypedDict, total=False):
    """Options of `ContrastSet.load`. One that the file's format does not use is refused."""

    template: str | None
    """See `ContrastSet.with_template`. For relations `{}` is the input; for personas it holds
    `{persona}` and `{suffix}`."""
    min_confidence: float | None
    """Least label_confidence (Anthropic) or absolute mean (lexicon) to keep."""
    positive: str | None
    """Column, list or label that is positive, where names do not say."""
    negative: str | None
    """Its counterpart."""
    prompt: str | None
    """Column that both sides share, or the input if only `positive` is named."""
    negatives: str | os.PathLike[str] | None
    """A second file that holds the other class."""
    paired: bool | None
    """Pair two lists by position (True), or match them at random (False)."""
    concept: str | int | None
    """AxBench concept, by id or text."""
    personas: tuple[str, str] | None
    """Two opposite personas for a list of suffixes."""
    unescape: bool
    """Decode literal backslash-u escapes left by double encoding."""
    encoding: str | None
    """Text encoding if it is not UTF-8."""
    seed: int
    """Decides which texts of unpaired classes meet, and the negatives of relations."""
    split: str
    """Split of a hub dataset."""
    config: str | None
    """Configuration of a hub dataset."""
    revision: str | None
    """Revision of a hub dataset."""


@dataclass(frozen=True)
class Loaded:
    """The pairs of a file, and what the file says of them."""

    pairs: tuple[ContrastPair, ...]
    name: str
    source: str
    paired: bool
    notes: tuple[str, ...]
    facts: FileFacts
    stated_hash: str | None
    """The hash that a saved set states in its header."""
    template: str | None
    """A template that the format did not use itself and that is still to be applied."""
    where: str
    """Path or hub name, for messages."""


def load_pairs(path: str | os.PathLike[str], format: str | None, options: LoadOptions) -> Loaded:
    """Reads the pairs of a file or hub dataset; see `ContrastSet.load`.

    Raises:
        ContrastError: If the file cannot be read, has no known format, or holds no pairs; the
            text says why and what to write instead.
    """
    _require_known(options)
    encoding = options.get("encoding")
    content = as_rows(
        _content(
            path, encoding, options.get("split", "train"), options.get("config"),
            options.get("revision"),
        )
    )  # fmt: skip
    negatives = options.get("negatives")
    reading = Reading(
        template=options.get("template"),
        min_confidence=options.get("min_confidence"),
        positive=options.get("positive"),
        negative=options.get("negative"),
        prompt=options.get("prompt"),
        negatives=None if negatives is None else read_content(Path(negatives), encoding),
        paired=options.get("paired"),
        concept=options.get("concept"),
        personas=options.get("personas"),
        seed=options.get("seed", 0),
    )
    found = recognised(content, reading, format)
    drafted = found.read(content, reading)
    usable, unusable = count_unusable(drafted.drafts)
    dropped = (*drafted.facts.dropped, *((why, n) for why, n in unusable.items() if n))
    if not usable:
        reasons = ", ".join(f"{n} {why}" for why, n in dropped) or "none were there"
        raise ContrastError(
            f"{content.where} ({found.name}) gives no pair out of {drafted.facts.rows} rows: "
            f"{reasons}. Loosen the filters, or repair the file."
        )
    unescape = options.get("unescape", False)
    pairs = []
    for row, draft in enumerate(usable, start=1):
        fields = draft._asdict()
        if unescape:
            fields |= {k: unescaped(fields[k]) for k in ("prompt", "positive", "negative")}
        try:
            pairs.append(ContrastPair(**fields))
        except ContrastError as error:
            raise ContrastError(f"{content.where}, usable row {row}: {error}") from error
    header = drafted.header
    stated = header.get("hash")
    decoded = ("backslash-u escapes decoded",) if unescape else ()
    used = reading.template is None or uses_template(found, reading)
    return Loaded(
        pairs=tuple(pairs),
        name=_text(header, "name") or drafted.name or _default_name(content.where),
        source=_text(header, "source") or content.where,
        paired=drafted.paired,
        notes=(*_texts(header, "notes"), *drafted.notes, *decoded),
        facts=replace(drafted.facts, dropped=dropped),
        stated_hash=None if stated is None else str(stated),
        template=None if used else reading.template,
        where=content.where,
    )


def _require_known(options: Mapping[str, Any]) -> None:
    """Raises TypeError for an option that there is not, naming the likeliest one."""
    known = list(LoadOptions.__annotations__)
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"Did you mean {close[0]!r}? " if close else ""
            raise TypeError(
                f"ContrastSet.load has no option {name!r}. {hint}Use format, flip, name, "
                f"{', '.join(known)}."
            )


def _content(
    path: str | os.PathLike[str],
    encoding: str | None,
    split: str,
    config: str | None,
    revision: str | None,
) -> Content:
    text = os.fspath(path)
    if not isinstance(text, str) or not text or "\x00" in text:
        raise ContrastError(
            f"path={path!r} is neither a path nor a hub name. Give the path of a data file."
        )
    local = Path(os.path.expanduser(text))
    there = os.path.exists(local)  # unlike Path.exists, False for names that no file can have
    hub = text.removeprefix("hub:")
    if not text.startswith("hub:") and (there or not is_hub_name(hub)):
        asked = [("split", split != "train"), ("config", config), ("revision", revision)]
        if wrong := [option for option, given in asked if given]:
            raise ContrastError(
                f"{text} is a local path, where {wrong} have no meaning: omit them."
            )
        if not there:
            raise ContrastError(
                f"There is no file {text!r} here (looked in {Path.cwd()}), and it is no hub name "
                "of the form owner/name. Check the path."
            )
        return read_content(local, encoding)
    if not is_hub_name(hub):
        raise ContrastError(f"{hub!r} is no hub name. Write owner/name.")
    return read_hub(hub, split, config, revision)


_GENERIC = {"generate_dataset", "test_dataset_ab", "train", "test", "test_infer", "train_data",
            "act_steer", "data", "pairs", "dataset", "latent_eval_data"}  # fmt: skip


def _default_name(where: str) -> str:
    path = Path(where.removeprefix("hub:"))
    if path.stem in _GENERIC and path.parent.name:
        return f"{path.parent.name}/{path.stem}"
    return path.stem or where


def _text(header: Mapping[str, Any], key: str) -> str:
    value = header.get(key, "")
    return value if isinstance(value, str) else ""


def _texts(header: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = header.get(key, ())
    return tuple(map(str, value)) if isinstance(value, (list, tuple)) else ()
