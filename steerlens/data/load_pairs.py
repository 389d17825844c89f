"""Pairs from a file or a dataset of the hub, in any of the formats of docs/formats.md.

The format is recognised by content, and what is left out or chosen is counted.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

from steerlens.arguments import ArgumentError, as_bool, as_float, as_int
from steerlens.data.formats.drafts import Content, FileFacts, Reading
from steerlens.data.formats.hub_datasets import is_hub_name, read_hub
from steerlens.data.formats.pairs import count_unusable
from steerlens.data.formats.read import read_content
from steerlens.data.formats.recognise import as_rows, recognised, uses_template
from steerlens.data.formats.text import ContrastError, shortened, unescaped
from steerlens.data.pair import ContrastPair


class LoadOptions(TypedDict, total=False):
    """Options of `ContrastSet.load`. One that the file's format does not use is refused."""

    template: str | None
    """See `ContrastSet.with_template`. For relations `{}` is the input; for personas it holds
    `{persona}` and `{suffix}`."""
    min_confidence: float | None
    """Smallest label_confidence (Anthropic) or absolute mean (lexicon) to keep."""
    positive: str | None
    """Column, list or label that is positive, if the names do not say."""
    negative: str | None
    """Column, list or label that is negative."""
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
    """Determines which texts of unpaired classes form pairs, and the negatives of relations."""
    split: str
    """Split of a hub dataset."""
    config: str | None
    """Configuration of a hub dataset."""
    revision: str | None
    """Revision of a hub dataset."""


@dataclass(frozen=True)
class Loaded:
    """The pairs of a file, and what the file states about them."""

    pairs: tuple[ContrastPair, ...]
    name: str
    source: str
    paired: bool
    notes: tuple[str, ...]
    facts: FileFacts
    stated_hash: str | None
    """The hash that a saved set states in its header."""
    template: str | None
    """A template that the format does not use itself, and that is to be applied to the set."""
    where: str
    """Path or hub name, for messages."""


def load_pairs(path: str | os.PathLike[str], format: str | None, options: LoadOptions) -> Loaded:
    """Reads the pairs of a file or hub dataset; see `ContrastSet.load`.

    Raises:
        ContrastError: If the file cannot be read, has no known format, or holds no pairs; the
            message says why and what to write instead.
    """
    _require_known(options)
    options = _normalised(options)
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
        negatives=None if negatives is None else read_content(_local(negatives), encoding),
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
        reasons = ", ".join(f"{n} {why}" for why, n in dropped) or "it holds none"
        raise ContrastError(
            f"{content.where} ({found.name}) gives no pair out of {drafted.facts.rows} rows: "
            f"{reasons}. Relax the filters, or repair the file."
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
    """Raises TypeError for an unknown option, with the most similar known one."""
    known = list(LoadOptions.__annotations__)
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"Did you mean {close[0]!r}? " if close else ""
            raise TypeError(
                f"ContrastSet.load has no option {name!r}. {hint}Use format, flip, name, "
                f"{', '.join(known)}."
            )


def _normalised(options: LoadOptions) -> LoadOptions:
    """The options with Python's numbers."""
    out: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    try:
        if "min_confidence" in out:
            out["min_confidence"] = as_float("min_confidence", out["min_confidence"])
        if "seed" in out:
            out["seed"] = as_int("seed", out["seed"])
        for name in ("paired", "unescape"):
            if name in out:
                out[name] = as_bool(name, out[name])
        if not isinstance(out.get("concept", ""), str):
            out["concept"] = as_int("concept", out["concept"])
    except ArgumentError as error:
        raise ContrastError(str(error)) from error
    for name in ("template", "positive", "negative", "prompt", "encoding", "split"):
        if not isinstance(out.get(name, ""), str):
            raise ContrastError(f"{name}={out[name]!r:.80} is not text. Write {name}='…'.")
    return out  # type: ignore[return-value]


def _local(path: object) -> str:
    """A path as text.

    Raises:
        ContrastError: If it is neither text nor a path.
    """
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str) or not text or "\x00" in text:
        raise ContrastError(
            f"path={path!r:.80} is neither a path nor a hub name. Give the path of a data file."
        )
    return text


def _content(
    path: str | os.PathLike[str],
    encoding: str | None,
    split: str,
    config: str | None,
    revision: str | None,
) -> Content:
    text = _local(path)
    there = os.path.lexists(os.path.expanduser(text))  # also a link that leads nowhere
    hub = text.removeprefix("hub:")
    if not text.startswith("hub:") and (there or not is_hub_name(hub)):
        asked = [("split", split != "train"), ("config", config), ("revision", revision)]
        if wrong := [option for option, given in asked if given]:
            raise ContrastError(
                f"{text} is a local path, and {', '.join(wrong)} apply to datasets of the hub "
                "only. Omit them."
            )
        if not there:
            raise ContrastError(
                f"The file {shortened(text, 300)!r} does not exist (looked in {Path.cwd()}), and "
                "this is not a hub name of the form owner/name. Check the path."
            )
        return read_content(text, encoding)
    if not is_hub_name(hub):
        raise ContrastError(
            f"{shortened(hub, 300)!r} is not the name of a dataset on the hub. Write owner/name."
        )
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
