"""One self-contained page from a finished run: it opens offline and says what its numbers mean."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib.resources import files
from typing import Any, NamedTuple

import torch
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from steerlens import plots
from steerlens.analyses.features.comparison_arms import (
    BY_EFFECT,
    DIFFMEAN,
    RANDOM_FEATURE,
    SEARCHED,
)
from steerlens.analyses.features.feature_comparison import FeatureComparison
from steerlens.analyses.generalisation.shifted_map import ShiftedMap
from steerlens.analyses.probe.probe_map import ProbeMap
from steerlens.analyses.side_effects.spillover_map import SpilloverMap
from steerlens.analyses.steerability.steerability_map import SteerabilityMap
from steerlens.analyses.validity.validity_fit import ValidityFit
from steerlens.analyses.writing.quantities import Quantity
from steerlens.analyses.writing.writing_map import WritingMap
from steerlens.directions import methods
from steerlens.measures.dose_response import DoseResponse
from steerlens.report.numbers import (
    format_interval,
    format_layers,
    format_number,
    format_p_value,
    format_percent,
    format_share,
    format_signed,
    with_minus,
)
from steerlens.stats import Interval

UNITS = {
    "resid_norm": "the median length of the residual stream at that layer",
    "direction": "the length of the direction as it was fitted",
    "projection_std": "one standard deviation of the fitting texts along the direction",
    "equal_kl": "costs the budget at that layer",
}
POSITIONS = {
    "all": "every token",
    "last": "the last token of the prompt",
    "from_prompt_end": "the last token of the prompt and every token after it",
    "generated": "every token after the prompt",
}
PARTS = {
    "fit": "makes the directions and the probes",
    "choose": "fills the map and chooses the cell",
    "report": "measures the chosen cell once; had no part in the above",
}


def page(
    manifest: dict[str, Any],
    map: SteerabilityMap | None,
    probe: ProbeMap | None,
    samples: DoseResponse | None,
    summary: str,
    *,
    writing: WritingMap | None = None,
    decay: ValidityFit | None = None,
    shift: ShiftedMap | None = None,
    spillover: SpilloverMap | None = None,
    comparison: FeatureComparison | None = None,
) -> str:
    """The report page of a run, as HTML.

    Everything is in the one string: figures, plotly.js, styles. The page forbids itself the
    network, so that nothing in a prompt or a name can reach it.

    Args:
        manifest: What the run wrote before it started: fields, model, data, versions.
        summary: What the run printed; shown as it is.

    Raises:
        ValueError: If there is neither a map nor a probe.
    """
    if map is None and probe is None:
        raise ValueError(
            "The run has neither a map nor a probe, so there is nothing to report. "
            "Pass what `SteerabilityMap.load` or `ProbeMap.load` read from its folder."
        )
    cell = None if map is None else map.recommend().cell
    return _template().render(
        manifest=manifest,
        question=_question(manifest, map, probe),
        map=map,
        probe=probe,
        samples=samples,
        writing=writing,
        written=None if map is None or writing is None else _written(map, writing),
        decay=decay,
        shift=shift,
        spillover=spillover,
        comparison=comparison,
        arms=None
        if comparison is None
        else Markup("<pre>{}</pre>").format(comparison.run_summary({})),
        summary=summary,
        cell=cell,
        answer=None if map is None else _answer(map),
        reading=None if probe is None else _reading(probe, map),
        compared=None if comparison is None else _compared(comparison),
        figures=_figures(map, probe, writing, decay, shift, spillover, comparison),
        rows=_layer_rows(map, probe),
        rerun=rerun_source(manifest["fields"]),
        unit=UNITS.get(_unit(map), _unit(map)),
        where=POSITIONS.get(manifest["fields"].get("positions", ""), "the steered tokens"),
        parts=PARTS,
        made_by={**_plain(probe), **_plain(map)},
        font=Markup(plots.FONT),
        mono=Markup(plots.MONO),
    )


def _template() -> Any:
    world = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    world.filters |= {
        "number": format_number, "signed": format_signed, "percent": format_percent,
        "words": format_layers,
    }  # fmt: skip
    return world.from_string(
        files(__package__ or "steerlens").joinpath("report.html.jinja").read_text(encoding="utf-8")
    )


# The answer ---------------------------------------------------------------------------------------


class Fact(NamedTuple):
    """One number of the answer: what it is, what it came to, and what that means."""

    term: str
    value: str
    meaning: str


class Answer(NamedTuple):
    """What the map says, for somebody who reads nothing else."""

    responding: tuple[int, ...]
    """Layers with a cell above the null, within the budget, towards more of the behaviour."""
    costly: tuple[int, ...]
    """Layers whose cells above the null are all over the budget."""
    gain: Interval | None
    odds: Interval | None
    """The gain as a factor on the odds of the positive answer."""
    n: int
    held_out: bool
    cost: str
    wrong_way: str
    chance: str
    facts: tuple[Fact, ...]


def _answer(map: SteerabilityMap) -> Answer:
    found, held = map.recommend(), map.confirmation
    asked = map.multipliers > 0
    real = map.exceeds & asked
    assert map.layers and map.label_null and map.direction_null
    responding = (real & map.within_budget).any(-1)
    costly = real.any(-1) & ~responding
    gain = found.gain if held is None else held.gain
    return Answer(
        responding=_chosen(map.layers, responding),
        costly=_chosen(map.layers, costly),
        gain=gain,
        odds=None if gain is None else Interval(*(math.exp(min(x, 700.0)) for x in gain)),
        n=map.gains.shape[-1] if held is None else len(held.gains),
        held_out=held is not None,
        cost=format_number(found.cost) if held is None else format_interval(held.cost),
        wrong_way="" if held is None else format_share(held.wrong_way),
        chance=(
            "The best of all cells would stand out as much with probability "
            f"p = {format_number(map.label_null.p_value)} if the labels meant nothing, and "
            f"p = {format_number(map.direction_null.p_value)} with random directions."
        ),
        facts=tuple(_facts(map)),
    )


def _facts(map: SteerabilityMap) -> list[Fact]:
    found, held = map.recommend(), map.confirmation
    cells, examples = map.cost.numel(), map.gains.shape[-1]
    assert map.label_null and map.direction_null
    facts = []
    if held is not None:
        facts += [
            Fact(
                "Gain, held out",
                f"{format_interval(held.gain)} nats",
                "How much steering raises the log-odds of the positive answer over the negative "
                f"one, with its 95% interval, on {len(held.gains)} examples that had no part in "
                "the choice. One nat multiplies the odds by 2.72.",
            ),
            Fact(
                "Steered the wrong way",
                format_share(held.wrong_way),
                f"Share of those {len(held.gains)} examples whose gain is below zero, with its "
                "95% interval: a good mean can hide examples that steering harms.",
            ),
            Fact(
                "Cost, held out",
                f"{format_interval(held.cost)} nats per token",
                "KL divergence: how far the predictions of the next token move on ordinary text "
                f"that steering should leave alone. 0 is unchanged; {map.budget:g} was allowed.",
            ),
            Fact(
                "Change of utility, held out",
                f"{format_interval(held.utility, format_signed)} nats",
                "Log-odds of giving either answer rather than anything else. Below zero, the model "
                "begins to lose the question.",
            ),
        ]
    if found.cell is not None and found.gain is not None:
        facts.append(
            Fact(
                "Gain where it was chosen",
                f"{format_interval(found.gain)} nats",
                f"The same on the {examples} examples that chose this cell out of {cells}. "
                "It flatters, as the best of many does.",
            )
        )
        if held is None:
            i, j = map.index(found.cell)
            facts.append(
                Fact(
                    "Cost",
                    f"{format_number(map.cost[i, j])} nats per token",
                    "KL divergence: how far the predictions of the next token move on ordinary "
                    f"text. 0 is unchanged; {map.budget:g} was allowed.",
                )
            )
    facts += [
        Fact(
            "Is it the labels?",
            format_p_value(map.label_null.p_value, len(map.label_null.outstanding)),
            f"Chance that the best of all {cells} cells would stand out as much if the labels "
            f"meant nothing, from {len(map.label_null.outstanding)} maps with directions fitted to "
            "shuffled labels.",
        ),
        Fact(
            "Is it this direction?",
            format_p_value(map.direction_null.p_value, len(map.direction_null.outstanding)),
            f"The same against {len(map.direction_null.outstanding)} maps of random directions just as "
            "long: would any push do it?",
        ),
    ]
    if bool((map.multipliers < 0).any()):
        facts.append(Fact("Towards less of it", *_less(map)))
    return facts


def _less(map: SteerabilityMap) -> tuple[str, str]:
    found = map.recommend(towards=-1)
    if found.cell is None:
        return "nothing", (
            "No cell with a negative multiplier is both above the null and within the budget."
        )
    return f"{format_interval(found.gain)} nats", (
        f"How far a negative multiplier lowers the log-odds, at the best cell for that: "
        f"{with_minus(str(found.cell))}, for {format_number(found.cost)} nats of KL per token. "
        "On the examples that chose it."
    )


def _written(map: SteerabilityMap, writing: WritingMap) -> dict[str, str] | None:
    """What the chosen cell does to texts."""
    cell = map.recommend().cell
    if cell is None:
        return None
    i, j = writing.index(cell)

    def change(kind: Quantity) -> str:
        return format_interval(
            Interval(*(float(x[i, j]) for x in writing.change(kind)[:3])), format_signed
        )

    return {"surprisal": change("surprisal"), "repeated": change("repeated")}


def _reading(probe: ProbeMap, map: SteerabilityMap | None) -> dict[str, Any]:
    best = probe.sites.index(probe.best)
    correlation = None
    if map is not None and _covers(probe, map):
        correlation = map.probe_correlation(probe)
    return {
        "site": probe.best,
        "auroc": format_interval(Interval(*(float(x[best]) for x in probe.auroc_interval))),
        "accuracy": format_share(Interval(*(float(x[best]) for x in probe.accuracy_interval))),
        "control": (probe.control_auroc.min(), probe.control_auroc.max()),
        "pairs": probe.scores.shape[1],
        "covers": map is not None and _covers(probe, map),
        "correlation": None
        if correlation is None or math.isnan(correlation.value)
        else format_interval(correlation, format_signed),
    }


def _compared(comparison: FeatureComparison) -> dict[str, Any] | None:
    """What a feature does that was found by effect, and what else does as much."""
    rows = {row.arm: row for row in comparison.compared("kl")}
    feature, diffmean, searched = (rows[name] for name in (BY_EFFECT, DIFFMEAN, SEARCHED))
    over = feature.over_diffmean
    if math.isnan(feature.gain.value):
        return None
    assert feature.site is not None and diffmean.site is not None  # only controls have no site
    verdict = None
    if not math.isnan(over.value):
        verdict = (
            "more than DiffMean"
            if over.low > 0
            else "less than DiffMean"
            if over.high < 0
            else "not distinguishable from DiffMean"
        )
    return {
        "feature": feature.feature,
        "layer": feature.site.layer,
        "gain": format_interval(feature.gain),
        "kl": format_interval(feature.kl),
        "diffmean": format_interval(diffmean.gain),
        "diffmean_kl": format_interval(diffmean.kl),
        "diffmean_layer": diffmean.site.layer,
        "over": format_interval(over, format_signed),
        "verdict": verdict,
        "random": format_interval(comparison.at_equal_kl.gain(RANDOM_FEATURE)),
        "searched": format_interval(searched.gain),
        "n": comparison.at_equal_kl.gains.shape[-1],
    }


def _question(manifest: dict[str, Any], map: SteerabilityMap | None, probe: ProbeMap | None) -> str:
    if map is not None and "question" in map.made_by:
        return str(map.made_by["question"])
    if manifest["fields"].get("experiment") == "SAEExperiment":
        return f"Which SAE features steer {manifest['fields'].get('contrast', 'the contrast')}?"
    name = (probe.made_by if probe is not None else {}).get("data_name")
    name = name or manifest["fields"].get("contrast", "the contrast")
    return f"At which layers can {name} be read?"


# Figures and tables -------------------------------------------------------------------------------


def _figures(
    map: SteerabilityMap | None,
    probe: ProbeMap | None,
    writing: WritingMap | None,
    decay: ValidityFit | None,
    shift: ShiftedMap | None,
    spillover: SpilloverMap | None,
    comparison: FeatureComparison | None,
) -> dict[str, Markup]:
    """Divs in the order of the page, since plotly.js comes with the first one."""
    wanted: dict[str, Callable[[], Any]] = {}
    if map is not None:
        wanted["map"] = map.plot
        wanted["doses"] = map.plot_dose_response
        wanted["tradeoff"] = map.plot_tradeoff
        wanted["slopes"] = map.plot_slopes
    if decay is not None:
        wanted["decay"] = decay.plot
        wanted["balance"] = decay.plot_tradeoff
    if writing is not None:
        wanted["writing"] = writing.plot
    if spillover is not None:
        wanted["spillover"] = spillover.plot_lines
    if shift is not None:
        wanted["shift"] = shift.plot
    if comparison is not None:
        wanted["at_kl"] = lambda: comparison.plot("kl")
        wanted["at_utility"] = lambda: comparison.plot("utility")
        wanted["candidates"] = comparison.plot_candidates
    if probe is not None:
        wanted["probe"] = probe.plot
        if map is not None and _covers(probe, map):
            wanted["against"] = lambda: map.plot_against_probe(probe)
    return {
        name: Markup(plots.to_html_div(draw(), first=i == 0, div_id=f"figure-{name}"))
        for i, (name, draw) in enumerate(wanted.items())
    }


def _layer_rows(map: SteerabilityMap | None, probe: ProbeMap | None) -> list[dict[str, Any]]:
    """A row for each site, last layer first as in the heatmap; None where it was not measured."""
    if map is None and probe is None:
        return []
    sites = (map or probe).sites  # type: ignore[union-attr]
    return [
        {"site": site, **_steered(map, i), **_read(probe, site)} for i, site in enumerate(sites)
    ][::-1]


def _steered(map: SteerabilityMap | None, i: int) -> dict[str, Any]:
    if map is None:
        return {}
    within = map.oriented.mean(-1)[i].masked_fill(~map.within_budget[i], -torch.inf)
    j = int(within.argmax())
    gains = bool(within[j] > 0)
    rank = map.monotonicity[i]
    return {
        "slope": format_interval(Interval(*(float(x[i]) for x in map.slope_interval))),
        "anti": map.anti_steerable[i],
        # Constant examples have no rank correlation.
        "monotonicity": rank[~rank.isnan()].mean(),
        "gain": format_interval(Interval(*(float(x[i, j]) for x in map.gain_interval)))
        if gains
        else None,
        "multiplier": map.multipliers[j] if gains else None,
        "kl": map.cost[i, j] if gains else None,
        "real": gains and bool(map.exceeds[i, j]),
    }


def _read(probe: ProbeMap | None, site: Any) -> dict[str, Any]:
    if probe is None or site not in probe.sites:
        return {"auroc": None, "accuracy": None}
    i = probe.sites.index(site)
    return {
        "auroc": format_interval(Interval(*(float(x[i]) for x in probe.auroc_interval))),
        "accuracy": format_share(Interval(*(float(x[i]) for x in probe.accuracy_interval))),
    }


def _covers(probe: ProbeMap, map: SteerabilityMap) -> bool:
    return set(map.sites) <= set(probe.sites)


def _chosen(layers: tuple[int, ...], mask: torch.Tensor) -> tuple[int, ...]:
    return tuple(layer for layer, yes in zip(layers, mask.tolist(), strict=True) if yes)


def _unit(map: SteerabilityMap | None) -> str:
    return "" if map is None else str(map.made_by.get("unit", "direction"))


def _plain(result: SteerabilityMap | ProbeMap | None) -> dict[str, Any]:
    return {} if result is None else dict(result.made_by)


# Running it again ---------------------------------------------------------------------------------


def rerun_source(fields: dict[str, Any]) -> str:
    """An experiment file that states every field, so that later defaults change nothing.

    Args:
        fields: The manifest's `fields`: the class's name under "experiment", then its fields.

    >>> kind = "ProbingExperiment"
    >>> print(rerun_source({"experiment": kind, "method": "LDA()", "layers": [0, 1]}))
    from steerlens.experiment import ProbingExperiment
    from steerlens.directions.methods import LDA
    <BLANKLINE>
    experiment = ProbingExperiment(
        method=LDA(),
        layers=(0, 1),
    )
    """
    kind = fields["experiment"]
    lines = [f"from steerlens.experiment import {kind}"]
    method = str(fields.get("method", "")).partition("(")[0]
    if method and hasattr(methods, method):
        lines.append(f"from steerlens.directions.methods import {method}")
    elif method:
        lines.append(f"# {method} is not part of steerlens: import it from where it is defined.")
    lines += ["", f"experiment = {kind}("]
    for name, value in fields.items():
        if name != "experiment":
            lines.append(f"    {name}={value if name == 'method' else _literal(value)},")
    return "\n".join([*lines, ")"])


def _literal(value: Any) -> str:
    return repr(tuple(value) if isinstance(value, list) else value)
