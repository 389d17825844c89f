"""What `proxies.py` found: correlations, tables and the picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from plotly.subplots import make_subplots
from scipy.stats import rankdata

from steerlens import stats
from steerlens.plots.look import PALETTE, QUIET, SYMBOLS, house
from steerlens.testbed.grammar import CONCEPTS
from steerlens.units import BUDGET

Grid = Float[np.ndarray, "draw layer multiplier"]
"""One number per cell: first as measured, then from resampled prompts, questions and texts."""


class Study(Protocol):
    """What is needed of the study that found the numbers (`proxies.Proxies`)."""

    @property
    def concepts(self) -> tuple[str, ...]: ...
    @property
    def depth(self) -> tuple[int, ...]: ...
    @property
    def multipliers(self) -> tuple[float, ...]: ...
    @property
    def prompts(self) -> int: ...
    @property
    def n_questions(self) -> int: ...
    @property
    def resamples(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def settings(self) -> dict[str, Any]: ...


class Pair(NamedTuple):
    """A proxy and what it should predict."""

    proxy: str
    outcome: str
    words: str
    sign: int = 1
    """-1 where more of the proxy should mean less of the outcome."""


PAIRS = (
    Pair("gain", "rise", "preference gain → rise of the wanted pole, of clauses that take a side"),
    Pair("gain", "rise_of_all", "preference gain → rise of the wanted pole, of all clauses"),
    Pair("kl", "good", "KL → well-formed, on-topic clauses", -1),
    Pair("utility", "good", "utility → well-formed, on-topic clauses"),
    Pair("perplexity", "good", "perplexity of the text → well-formed, on-topic clauses", -1),
)
COLUMNS = {
    "gain": "gain, nats", "wanted": "wanted pole, of clauses that take a side",
    "wanted_of_all": "wanted pole, of all clauses", "good": "well-formed, on topic",
    "formed": "well-formed", "kl": "KL, nats", "utility": "utility, nats",
    "perplexity": "perplexity",
}  # fmt: skip


def cells(study: Study, records: dict[str, dict[str, Any]], concept: str) -> dict[str, Grid]:
    """Every quantity of every cell of a concept, with resamplings."""
    layers = [records[f"{concept}-{layer}"] for layer in study.depth]
    sign = np.sign(study.multipliers)
    rng = np.random.default_rng([study.seed, CONCEPTS.index(concept)])

    def drawn(n: int) -> np.ndarray:
        counts = rng.multinomial(n, np.full(n, 1 / n), size=study.resamples)
        return np.concatenate([np.ones((1, n)), counts])

    by_prompt, by_question = drawn(study.prompts), drawn(study.n_questions)
    by_text = drawn(len(layers[0]["kl"][0]))

    def summed(name: str) -> tuple[np.ndarray, np.ndarray]:
        steered = np.array([layer["written"][name] for layer in layers])
        plain = np.array(records[f"{concept}-unsteered"]["written"][name])
        return steered @ by_prompt.T, plain @ by_prompt.T

    def mean(name: str, weights: np.ndarray) -> Grid:
        values = np.array([layer[name] for layer in layers])
        return np.moveaxis(values @ weights.T, -1, 0) / weights.shape[1]

    def share(part: str, whole: tuple[str, ...]) -> tuple[Grid, np.ndarray]:
        (a, plain_a), bs = summed(part), [summed(name) for name in whole]
        steered = a / np.maximum(sum(b for b, _ in bs), 1e-9)
        return np.moveaxis(steered, -1, 0), (plain_a / sum(b for _, b in bs))[0, :, None, None]

    def wanted(whole: tuple[str, ...]) -> tuple[Grid, Grid]:
        """The wanted pole's share, and its rise over unsteered text."""
        poles = [share(pole, whole) for pole in ("positive", "negative")]
        steered = np.where(sign > 0, poles[0][0], poles[1][0])
        return steered, steered - np.where(sign > 0, poles[0][1], poles[1][1])

    sided, rise = wanted(("positive", "negative"))
    of_all, rise_of_all = wanted(("clauses",))
    return {
        "gain": mean("gain", by_question) * sign,
        "utility": mean("utility", by_question),
        "kl": mean("kl", by_text),
        "wanted": sided,
        "rise": rise,
        "wanted_of_all": of_all,
        "rise_of_all": rise_of_all,
        "good": share("good", ("texts",))[0],
        "formed": share("formed", ("texts",))[0],
        "perplexity": np.exp(share("nats", ("tokens",))[0]),
    }


def spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Rank correlation along the last axis; NaN where a side is constant."""
    ranks = [rankdata(side, axis=-1) for side in (x, y)]
    a, b = (r - r.mean(-1, keepdims=True) for r in ranks)
    norm = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    return np.divide((a * b).sum(-1), norm, out=np.full(norm.shape, np.nan), where=norm > 0)


def interval(draws: np.ndarray) -> list[float]:
    """The measured correlation with an interval from resampling.

    On Fisher's scale and by the spread alone: resampled data are noisier than the data, so their
    correlations are all a little lower, and their percentiles would be as well.
    """
    z = np.arctanh(np.clip(draws, -0.9999, 0.9999))
    known = z[1:][np.isfinite(z[1:])]
    reach = 1.96 * float(known.std()) if len(known) > 1 else math.nan
    return [float(draws[0]), float(np.tanh(z[0] - reach)), float(np.tanh(z[0] + reach))]


def correlations(grids: Sequence[dict[str, Grid]], pair: Pair) -> dict[str, Any]:
    """Over all cells, within layers (are strengths ranked?), within strengths (are layers?)."""
    x = np.stack([pair.sign * grid[pair.proxy] for grid in grids], 1)
    y = np.stack([grid[pair.outcome] for grid in grids], 1)
    flat = x.reshape(len(x), -1), y.reshape(len(y), -1)
    cheap = np.stack([grid["kl"][0] for grid in grids]).ravel() <= BUDGET
    naive = stats.rank_correlation(torch.tensor(flat[0][0]), torch.tensor(flat[1][0]))

    def within(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        r = spearman(a, b).reshape(len(a), -1)
        known = np.isfinite(r)
        some = known.sum(-1)
        total = np.where(known, r, 0.0).sum(-1)
        return np.divide(total, some, out=np.full(len(r), np.nan), where=some > 0)

    return {
        "cells": int(cheap.size),
        "all": interval(spearman(*flat)),
        "as_if_independent": list(naive),
        "within_layer": interval(within(x, y)),
        "within_multiplier": interval(within(x.swapaxes(-1, -2), y.swapaxes(-1, -2))),
        "within_budget": interval(spearman(flat[0][:, cheap], flat[1][:, cheap])),
        "cells_within_budget": int(cheap.sum()),
    }


def summary(study: Study, records: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Correlations, means by strength, and what the recommended cell writes."""
    grids = {concept: cells(study, records, concept) for concept in study.concepts}
    groups = {c: [grids[c]] for c in study.concepts} | {"all": list(grids.values())}
    sizes = sorted({abs(m) for m in study.multipliers})
    strength = np.abs(study.multipliers)
    out: dict[str, Any] = {"settings": study.settings, "correlations": {}, "by_strength": {}}
    for name, group in groups.items():
        out["correlations"][name] = {
            f"{pair.proxy}-{pair.outcome}": correlations(group, pair) for pair in PAIRS
        }
        out["by_strength"][name] = {
            f"{size:g}": {
                column: float(np.mean([grid[column][0][:, strength == size] for grid in group]))
                for column in COLUMNS
            }
            for size in sizes
        }
    out["choices"] = [
        {"concept": concept, **choice}
        for concept in study.concepts
        for choice in choices(study, grids[concept])
    ]
    out["cells"] = {
        concept: {
            column: np.round(grid[column][0], 5).tolist()
            for column in (*COLUMNS, "rise", "rise_of_all")
        }
        for concept, grid in grids.items()
    }
    out["layers"], out["multipliers"] = list(study.depth), list(study.multipliers)
    return out


def choices(study: Study, grid: dict[str, Grid]) -> list[dict[str, Any]]:
    """The cell that the map's rule picks, and the one with most of what is wanted in its texts.

    The rule: the largest gain within the budget. The best cell is the best as read in these same
    texts, so its number is biased upwards.
    """
    plain = {name: grid[name][0] for name in grid}
    signs = np.broadcast_to(np.sign(study.multipliers), plain["kl"].shape)
    found = []
    for sign in sorted(set(np.sign(study.multipliers).tolist()), reverse=True):
        rule = np.where((signs == sign) & (plain["kl"] <= BUDGET), plain["gain"], -np.inf)
        best = np.where(signs == sign, plain["wanted_of_all"], -np.inf)
        for name, score in (("the map's", rule), ("the best in the texts", best)):
            i, j = np.unravel_index(int(score.argmax()), score.shape)
            found.append(
                {
                    "towards": int(sign), "cell": name, "layer": study.depth[i],
                    "multiplier": study.multipliers[j],
                    **{c: float(plain[c][i, j]) for c in COLUMNS},
                    "unsteered": float((plain["wanted_of_all"] - plain["rise_of_all"])[i, j]),
                }
            )  # fmt: skip
    return found


# Showing


def tables(found: dict[str, Any]) -> list[str]:
    """The tables of docs/trust.md."""
    first = [
        "| proxy → what is written | concept | all cells | within a layer | within a strength | "
        "cells within the budget |",
        "|---|---|---|---|---|---|",
    ]
    for pair in PAIRS:
        for concept, values in found["correlations"].items():
            c = values[f"{pair.proxy}-{pair.outcome}"]
            columns = ("all", "within_layer", "within_multiplier", "within_budget")
            numbers = " | ".join(_r(c[name]) for name in columns)
            first.append(f"| {pair.words} | {concept} | {numbers} |")
    second = ["| strength | " + " | ".join(COLUMNS.values()) + " |", "|---" * 9 + "|"]
    for size, means in found["by_strength"]["all"].items():
        second.append(f"| ±{size} | " + " | ".join(_number(c, means[c]) for c in COLUMNS) + " |")
    shown = ("wanted_of_all", "good", "gain", "kl")
    third = [
        "| concept, towards | cell | layer, multiplier | wanted pole, unsteered | "
        + " | ".join(COLUMNS[c] for c in shown)
        + " |",
        "|---" * 8 + "|",
    ]
    for c in found["choices"]:
        numbers = [_number("wanted", c["unsteered"]), *(_number(name, c[name]) for name in shown)]
        third.append(
            f"| {c['concept']}, {c['towards']:+d} | {c['cell']} | {c['layer']}, "
            f"{c['multiplier']:+g} | {' | '.join(numbers)} |"
        )
    return ["\n".join(first), "\n".join(second), "\n".join(third)]


def _number(column: str, value: float) -> str:
    """Shares in percent."""
    if column.startswith("wanted") or column in ("good", "formed"):
        return f"{value:.0%}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _r(found: Sequence[float]) -> str:
    if found[0] is None or math.isnan(found[0]):
        return ""
    return "{:.2f} [{:.2f}, {:.2f}]".format(*found)


PANELS = (
    (
        "gain",
        "rise",
        "preference gain, nats",
        "rise, points",
        "wanted pole, of clauses with a side",
    ),
    ("gain", "rise_of_all", "preference gain, nats", "rise, points", "wanted pole, of all clauses"),
    ("kl", "good", "KL, nats per token", "share, %", "well-formed, on-topic clauses"),
)


def draw(found: dict[str, Any]) -> go.Figure:
    """Proxies against what is written, a point for each cell."""
    figure = make_subplots(1, len(PANELS), horizontal_spacing=0.09)
    names = [f"layer {a}, multiplier {m:+g}" for a in found["layers"] for m in found["multipliers"]]
    for number, (concept, grid) in enumerate(found["cells"].items()):
        whole = np.ravel(grid["good"]) >= 0.5
        for column, (proxy, outcome, *_) in enumerate(PANELS, start=1):
            x, y = np.ravel(grid[proxy]), 100 * np.ravel(grid[outcome])
            for part, fill in ((whole, PALETTE[number]), (~whole, "white")):
                at = np.flatnonzero(part)
                figure.add_scatter(
                    x=x[at], y=y[at], mode="markers", name=concept, row=1, col=column,
                    showlegend=column == 1 and fill != "white",
                    hovertext=[f"{concept}, {names[i]}<br>{x[i]:.3g} → {y[i]:.1f}" for i in at],
                    marker={"size": 7, "symbol": SYMBOLS[number], "color": fill,
                            "line": {"width": 1.3, "color": PALETTE[number]}},
                )  # fmt: skip
    house(
        figure,
        title="Preference says which pole is written, KL whether it is still a text",
        note="a point for each layer and strength; hollow where most clauses are broken",
        height=430,
    )
    figure.update_layout(margin={"t": 96})
    for column, (proxy, _, across, up, words) in enumerate(PANELS, start=1):
        kind = {"type": "log", "dtick": 1} if proxy == "kl" else {}
        figure.update_xaxes(title_text=across, row=1, col=column, **kind)
        figure.update_yaxes(title_text=up, row=1, col=column)
        number = "" if column == 1 else str(column)
        figure.add_annotation(
            x=0, y=1, xref=f"x{number} domain", yref=f"y{number} domain", text=words,
            showarrow=False, xanchor="left", yanchor="bottom", yshift=4,
        )  # fmt: skip
    figure.add_vline(BUDGET, row=1, col=3, line={"dash": "dash", "color": QUIET, "width": 1})  # type: ignore[arg-type]
    figure.add_annotation(
        x=math.log10(BUDGET), y=20, text="budget ", showarrow=False, xanchor="right", row=1, col=3,
        font={"color": QUIET},
    )  # fmt: skip
    return figure
