"""What the report page says of how long an effect lasts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from steerlens.analyses.survival.survival_numbers import SurvivalNumbers
from steerlens.report.numbers import (
    format_interval,
    format_number,
    format_percent,
    format_signed,
)
from steerlens.report.section import Figure, Folded, Heading, Paragraph, Section, Table, Texts
from steerlens.stats.kaplan_meier import SurvivalCurve

SHOWN = 3
"""Prompts whose texts stand on the page."""


def survival_section(found: SurvivalNumbers, draw: Callable[[], Any]) -> Section:
    """The section of a `SurvivalNumbers`.

    Args:
        draw: Draws its figure.
    """
    caption = (
        "Means over the texts that are there; texts that ended are left out. A text is broken when a "
        "window exceeds a limit that unsteered texts of other prompts set. 95% intervals on hover."
    )
    blocks = (
        Paragraph(_how(found)),
        Figure(draw, caption),
        _parts(found),
        _events(found),
        Folded(f"Texts after the first {min(SHOWN, len(found.prompts))} prompts", _texts(found)),
    )
    return Section(
        "How long does an effect last?", blocks, short="Lasting", answer=_answer(found),
        question="How long does the effect last, and does the text hold?", limits=(*_limits(found),),
    )  # fmt: skip


def _answer(found: SurvivalNumbers) -> tuple[str, ...]:
    """What became of the first cell's texts."""
    first, base = found.find("steered"), found.find("unsteered")
    if first is None or base is None:
        return ()
    held = (
        f"Of the texts written at {found.writers[first]}, "
        f"{format_interval(found.left(first), format_percent)} are not broken after {found.tokens} "
        f"tokens, and of unsteered texts {format_interval(found.left(base), format_percent)}."
    )
    shares = [(found.span(part), found.share(first, part)) for part in found.parts]
    known = [(span, share) for span, share in shares if not math.isnan(share.value)]
    if not known:
        return (held,)
    written = " and ".join(
        f"{format_interval(share, format_percent)} in tokens {span}"
        for span, share in dict([known[0], known[-1]]).items()
    )
    return held, f"Of what the context itself writes, {written} is written under steering."


def _how(found: SurvivalNumbers) -> str:
    limits = found.limits
    text = (
        f"The model continues {len(found.prompts)} prompts by up to {found.tokens} tokens, steered and "
        f"unsteered, with the same random draws. Every {found.window} tokens are read by "
        f"{found.reader}. The **share** is (steered − unsteered) / (written under the context − "
        "unsteered) in the same tokens. "
    )
    source = (
        f"which {limits.texts} unsteered texts of other prompts set" if limits.texts else "as given"
    )
    text += (
        f"A text is **broken** at the first window with a surprisal above "
        f"{format_number(limits.surprisal)} nats per token or more than "
        f"{format_percent(limits.repetition)} repeated n-grams, {source}. An effect is **lost** where "
        "the reader's mean over four windows in a row is not above that of the unsteered text."
    )
    if found.steered is not None:
        text += (
            f" Some texts are steered for {found.steered} tokens only; the rest is written with the "
            "cache kept, or recomputed from the text."
        )
    return text + (f" No shares: {why}." if (why := found.why_not()) else "")


def _parts(found: SurvivalNumbers) -> Table:
    """Share, surprisal and repetition in each part of the texts."""
    head = (
        Heading("texts", number=False), Heading("tokens", number=False), Heading("texts there"),
        Heading("change", found.unit) if found.why_not() else Heading("share"),
        Heading("surprisal", "nats above unsteered"), Heading("repeated n-grams", "above unsteered"),
    )  # fmt: skip
    rows = []
    for k in found.shown:
        for part in found.parts:
            wanted = (
                format_interval(found.change(k, part), format_signed)
                if found.why_not()
                else format_interval(found.share(k, part), format_percent)
            )
            rows.append(
                (
                    str(found.writers[k]),
                    found.span(part),
                    str(int(found.there[k, :, part].any(-1).sum())),
                    wanted,
                    format_interval(found.extra_surprisal(k, part), format_signed),
                    format_interval(found.extra_repetition(k, part), format_percent),
                )
            )
    return Table(head, tuple(rows))


def _events(found: SurvivalNumbers) -> Table:
    """What is left at the end, and the median, of both events."""
    head = (
        Heading("texts", number=False), Heading("not broken at the end"), Heading("median", "tokens"),
        Heading("mean until the end", "tokens"), Heading("log-rank p"),
        Heading("effect not lost at the end"), Heading("median", "tokens"), Heading("log-rank p"),
    )  # fmt: skip
    base = [found.find("unsteered"), found.find("other draws")]
    rows = []
    for k in [*found.shown, *(b for b in base if b is not None)]:
        broken, lost = found.survival(k, "broken"), found.survival(k, "lost")
        never = found.writers[k].cell is None
        same = never and found.writers[k].role == "unsteered"  # it has no effect to lose
        rows.append(
            (
                str(found.writers[k]),
                format_interval(found.left(k), format_percent),
                _median(broken),
                "–" if broken is None else format_interval(broken.mean_until(found.tokens)),
                "–" if never else format_number(found.against(k)),
                "–" if same else format_interval(found.left(k, "lost"), format_percent),
                "–" if same else _median(lost),
                "–" if never else format_number(found.against(k, "lost")),
            )
        )
    caption = (
        "Kaplan and Meier; texts that end are censored. The log-rank test is against unsteered texts, "
        "and of lost effects against unsteered texts with other random draws."
    )
    return Table(head, tuple(rows), caption)


def _median(curve: SurvivalCurve | None) -> str:
    if curve is None:
        return "–"
    return f"> {curve.times[-1]:.0f}" if math.isinf(curve.median) else f"{curve.median:.0f}"


def _texts(found: SurvivalNumbers) -> tuple[Texts, ...]:
    """The first prompts with all that was written after them."""
    chosen = [k for k, one in enumerate(found.writers) if one.role != "other draws"]
    return tuple(
        Texts(
            prompt,
            tuple((str(found.writers[k]), found.texts[k][p]) for k in chosen),
            f"prompt {p + 1}",
            0,
        )
        for p, prompt in enumerate(found.prompts[:SHOWN])
    )


def _limits(found: SurvivalNumbers) -> Iterator[str]:
    yield (
        f"**Lasting was measured on {len(found.prompts)} prompts.** Texts end at different lengths, "
        "and late windows are of the texts that go on, which may be of another kind. A text that ends "
        "counts as one that might have gone on unbroken."
    )
