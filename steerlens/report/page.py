"""One self-contained page from a finished run: it opens offline and says what its numbers mean.

The page lays out the sections of results (`report/section.py`) in their order and knows no result.
Every text goes through Jinja's autoescape; a section's texts have the markup of `prose` and no
other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from steerlens import plots
from steerlens.report.rerun import rerun_source
from steerlens.report.section import Block, Facts, Figure, Folded, Section
from steerlens.results import Result

OWN_PARTS = {"data": "Data", "rerun": "Run it again", "limits": "Limits"}
"""The sections that every page has after those of its results."""
LOOK = {"font": Markup(plots.FONT), "mono": Markup(plots.MONO)}
"""The fonts that every template needs."""
RESERVED = frozenset({"answer", *OWN_PARTS})
"""Names in the page that no result can have."""
OF_ANY_DATA = (
    "**The data may hold more than the contrast.** Whatever else differs between the two sides of "
    "the pairs is in the direction as well."
)
"""A limit that every run has."""


def page(manifest: Mapping[str, Any], results: Iterable[Result], summary: str) -> str:
    """The report page of a run, as HTML.

    Everything is in the one string: figures, plotly.js, styles. The page forbids itself the
    network, so that nothing in a prompt or a name can reach it.

    Args:
        manifest: What the run wrote before it started: fields, model, data, versions.
        results: What it measured, in the order of the page.
        summary: What the run printed; shown as it is.

    Raises:
        ValueError: If there is no result.
    """
    by_kind = {result.kind: result for result in results}
    if not by_kind:
        raise ValueError("The run has no results, so there is nothing to report.")
    sections: dict[str, Section] = {}
    for kind, result in by_kind.items():
        beside = {name: other for name, other in by_kind.items() if name != kind}
        if (section := result.section(beside)) is not None:
            sections[kind] = section
    drawing = Drawing()
    every = list(sections.values())
    parts = list(parts_of(sections))
    return environment().get_template("page.html.jinja").render(
        manifest=manifest,
        question=next((s.question for s in every if s.question), _question(manifest)),
        contents=[("answer", "Answer"), *((p.anchor, p.name) for p in parts), *OWN_PARTS.items()],
        answer=[sentence for s in every for sentence in s.answer],
        introduction=[text for s in every for text in s.introduction],
        facts=drawing.html(Facts(tuple(f for s in every for f in s.facts)), "answer"),
        sections=[
            {
                "anchor": part.anchor,
                "title": part.title,
                "blocks": [drawing.html(block, part.anchor) for block in part.blocks],
            }
            for part in parts
        ],
        limits=[*(limit for s in every for limit in s.limits), OF_ANY_DATA],
        rerun=rerun_source(manifest["fields"], manifest.get("defined", {})),
        model=properties(_model(manifest)),
        fields=properties(manifest["fields"]),
        provenance=properties(_provenance(manifest)),
        results=[(k, properties(r.made_by)) for k, r in by_kind.items() if r.made_by],
        roles=manifest.get("parts", {}),
        remarks=_remarks(manifest.get("remarks", {})),
        summary=summary,
        **LOOK,
    )  # fmt: skip


def prose(text: str) -> Markup:
    """Text as HTML: `code` and **bold** are set so, and everything else stands as it is written.

    >>> print(prose("**Use** `a<b>` & c"))
    <strong>Use</strong> <code>a&lt;b&gt;</code> &amp; c
    """
    # Every second part stood between backticks.
    parts = re.split(r"`([^`\n]+)`", text)
    for i, part in enumerate(parts):
        safe = str(escape(part))
        if i % 2:
            parts[i] = f"<code>{safe}</code>"
        else:
            parts[i] = re.sub(r"\*\*([^*\n]+)\*\*", r"<strong>\1</strong>", safe)
    return Markup("".join(parts))


# The sections -------------------------------------------------------------------------------------


class _Part(NamedTuple):
    """A section as it stands on the page."""

    anchor: str
    name: str
    title: str
    blocks: tuple[Block, ...]


def parts_of(sections: Mapping[str, Section]) -> Iterator[_Part]:
    """The sections in their order, each followed by its parts; every anchor once."""
    seen = set(RESERVED)
    for kind, section in sections.items():
        for one in (section, *section.parts):
            name = one.short or one.title
            anchor = kind if one is section else f"{kind}-{_slug(name)}"
            while anchor in seen:
                anchor += "-"
            seen.add(anchor)
            yield _Part(anchor, name, one.title, one.blocks)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


class Drawing:
    """Blocks as HTML. It counts figures: the first brings plotly.js, and each has its own id."""

    def __init__(self) -> None:
        self.drawn: list[str] = []

    def html(self, block: Block, anchor: str) -> Markup:
        """A block as HTML, by the macro that has its name."""
        macro = getattr(_blocks(), type(block).__name__.lower())
        if isinstance(block, Figure):
            return macro(block, self._figure(block, anchor))
        if isinstance(block, Folded):
            return macro(block, [self.html(one, anchor) for one in block.blocks])
        if isinstance(block, Facts) and not block.facts:
            return Markup("")
        return macro(block)

    def _figure(self, block: Figure, anchor: str) -> Markup:
        name = f"figure-{anchor}"
        while name in self.drawn:
            name += "-"
        self.drawn.append(name)
        first = len(self.drawn) == 1
        return Markup(plots.to_html_div(block.draw(), first=first, div_id=name))


@cache
def environment() -> Environment:
    """Where the templates are, with what they can call."""
    found = Environment(
        loader=PackageLoader("steerlens", "report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    found.filters["prose"] = prose
    found.globals["none_written"] = Markup('<span class="quiet">(no text)</span>')
    return found


@cache
def _blocks() -> Any:
    return environment().get_template("blocks.html.jinja").module


# What the page itself states ----------------------------------------------------------------------


def _question(manifest: Mapping[str, Any]) -> str:
    fields = manifest["fields"]
    return f"{fields['experiment']} of {fields.get('contrast', 'a model')}"


def properties(stated: Mapping[str, Any]) -> Markup:
    """Names and values as a table."""
    return _blocks().properties([(name, _shown(value)) for name, value in stated.items()])


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_shown(one)}" for name, one in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_shown, value))
    return str(value)


def _model(manifest: Mapping[str, Any]) -> dict[str, Any]:
    model = manifest["model"]
    chosen = manifest["fields"].get("prepend_bos") is not None
    starts = ("yes" if model["bos"] else "no") + (", chosen" if chosen else ", by default")
    return {
        "name": model["name"],
        "revision": model["revision"] or "–",
        "fingerprint of the weights": model["fingerprint"],
        "weight processing": model["processing"],
        "BOS token before each text": starts,
    }


def _remarks(by_part: Mapping[str, Mapping[str, Sequence[str]]]) -> list[tuple[Markup, str]]:
    """Warnings and notes about the data, each once, with the parts that it is about."""
    found: dict[Markup, list[str]] = {}
    for part, remarks in by_part.items():
        for text in remarks.get("warnings", ()):
            found.setdefault(prose(f"**Warning:** {text}"), []).append(part)
        for text in remarks.get("notes", ()):
            found.setdefault(prose(text), []).append(part)
    return [(text, ", ".join(parts)) for text, parts in found.items()]


def _provenance(manifest: Mapping[str, Any]) -> dict[str, Any]:
    seed = manifest["fields"].get("seed", "–")
    return {
        "seed": f"{seed} (data, splits, controls, sampling; intervals are resampled with seed 0)",
        "started": manifest["started"],
        "commit": manifest["commit"] or "not run from a checkout",
        "platform": f"{manifest['platform']}, device {manifest['device']}",
        "versions": manifest["versions"],
    }
