"""The card of a shared vector: what it is, how it is used, how it was made, what it does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeAlias

from steerlens.analyses.steerability.steerability_map import SteerabilityMap
from steerlens.directions import Direction
from steerlens.experiment import Run
from steerlens.training import TrainedIntervention

Shareable: TypeAlias = Direction | TrainedIntervention
"""What can be shared."""
Effect: TypeAlias = SteerabilityMap | Run
"""Where the numbers of a card come from."""
NOT_MEASURED = (
    "The card was made without a measured effect: what steering with it does is not known."
)
LIMITS = (
    "The vector holds whatever else differed between the two sides of its data.",
    "The numbers hold for the model, the data and the tokens that are named here, and for no others.",
    "A gain in the log-odds of two answers need not show in what the model writes.",
)


class CardError(ValueError):
    """A card that would say something wrong."""


def vector_card(
    shared: Shareable,
    *,
    name: str,
    license: str | None = None,
    effect: Effect | None = None,
    notes: str = "",
) -> str:
    """The text of README.md, with the metadata that the hub reads.

    Args:
        shared: A direction, or a trained intervention.
        name: The title, and the repository in the example of use.
        license: As the hub names it, e.g. "mit"; None where it is not stated.
        effect: A map, or a finished run that holds one, at whose recommended cell the direction
            acts: its held-out gain, its cost and what is written are on the card. None for a card
            that says it was not measured.
        notes: A paragraph of your own, e.g. what the vector is for.

    Raises:
        CardError: If the map is of another model or contrast, or recommends another site.
    """
    made = _facts(shared)
    measured = None if effect is None else _measured(shared, effect)
    lines = [
        "---",
        *_metadata(made, license),
        "---",
        "",
        f"# {name}",
        "",
        *([notes.strip(), ""] if notes.strip() else []),
        f"{_what(shared)} for `{made.get('model') or 'a model that is not stated'}`, made with "
        "steerlens.",
        "",
        "## Use",
        "",
        "```python",
        *_use(shared, name, made),
        "```",
        "",
        "## What it does",
        "",
        *([NOT_MEASURED] if measured is None else _table(measured)),
        "",
        "## How it was made",
        "",
        *_table(made),
        "",
        "## Limits",
        "",
        *(f"- {limit}" for limit in LIMITS),
        "",
    ]
    return "\n".join(lines)


def _what(shared: Shareable) -> str:
    if isinstance(shared, Direction):
        return f"A steering vector at `{shared.site}`"
    return f"A trained intervention ({shared.form})"


def _use(shared: Shareable, name: str, made: Mapping[str, str]) -> list[str]:
    model = made.get("model") or "MODEL"
    lines = ["import steerlens as sl", ""]
    lines += [f'model = sl.Model.load("{model}")', f'shared = sl.from_hub("{name}", model)']
    if isinstance(shared, Direction):
        lines.insert(1, "from steerlens.interventions.intended import intended")
        lines += ["with intended(shared).attach(model, multiplier=1.0):"]
    else:
        lines += ["with shared.attach(model, multiplier=1.0):"]
    return [*lines, '    print(sl.generate(model, "…", max_new_tokens=20))']


def _facts(shared: Shareable) -> dict[str, str]:
    """What is known of its making, in words; what is not known is left out."""
    if isinstance(shared, Direction):
        stated = {
            "model": shared.model,
            "revision": shared.revision,
            "site": shared.site.hook,
            "layer": str(shared.site.layer),
            "method": shared.method,
            "operation": shared.operation,
            "length": f"{shared.norm:.4g}",
            "median norm of the stream": _number(shared.resid_norm),
            "strength unit": shared.strength_unit,
            "applied at": None if shared.apply_at is None else str(shared.apply_at),
            "read at": shared.read_at,
            "weight processing": shared.processing,
            "precision": shared.dtype,
            "data (hash)": shared.data,
            "pairs": str(shared.pairs or ""),
            "weights (hash)": shared.fingerprint,
        }
    else:
        stated = {"form": str(shared.form)} | {k: str(v) for k, v in shared.made_by.items()}
    return {name: text for name, text in stated.items() if text}


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.4g}"


def _measured(shared: Shareable, effect: Effect) -> dict[str, str]:
    """Numbers of the recommended cell."""
    found = effect if isinstance(effect, SteerabilityMap) else _map_of(effect)
    made = _facts(shared)
    of = str(found.made_by.get("model", ""))
    if made.get("model") and of and made["model"] != of:
        raise CardError(
            f"The map is of {of!r}, and the vector of {made['model']!r}. Give a map of the same model."
        )
    advice = found.recommend()
    if advice.cell is None:
        return {
            "result": "no cell gains more than chance within the budget: "
            "steering with it showed no effect"
        }
    site = advice.cell.site
    if isinstance(shared, Direction) and site is not None and site != shared.site:
        raise CardError(
            f"The map recommends {advice.cell}, and the vector is at {shared.site}. Share the vector "
            "of that site, or give a map of this one."
        )
    held = found.confirmation
    out = {"measured on": str(found.made_by.get("question", "")) or "the questions of the map"}
    out["cell"] = str(advice.cell)
    out["multiplier 1 is"] = str(found.made_by.get("unit", ""))
    if held is None:
        out["gain (choosing examples)"] = f"{advice.gain} nats"
        out["cost"] = f"{advice.cost:.3g} nats of KL per token"
    else:
        out["gain, held out"] = f"{held.gain} nats on {held.examples}"
        out["cost, held out"] = f"{held.cost} nats of KL per token of ordinary text"
        out["moved the wrong way"] = str(held.wrong_way)
    if found.nulls:
        out["p against null maps"] = f"{found.p_value:.3g}"
    out["in writing"] = str(advice.written or "not looked at")
    return {name: text for name, text in out.items() if text}


def _map_of(run: Run) -> SteerabilityMap:
    for result in run.results.values():
        if isinstance(result, SteerabilityMap):
            return result
    raise CardError(
        f"The run in {run.folder} holds no steerability map, so it has no effect to state. Give the "
        "run of a SteerabilityExperiment, or a map."
    )


def _table(rows: Mapping[str, str]) -> list[str]:
    lines = ["| | |", "|---|---|"]
    return lines + [f"| {name} | {_cell(text)} |" for name, text in rows.items()]


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _metadata(made: Mapping[str, str], license: str | None) -> list[str]:
    """The front matter, in YAML: JSON text is YAML."""
    stated: dict[str, Any] = {
        "library_name": "steerlens",
        "tags": ["steerlens", "steering-vector", "activation-steering"],
    }
    if license is not None:
        stated["license"] = license
    if "/" in made.get("model", ""):  # the hub links it, and a name without an owner is none of its
        stated["base_model"] = made["model"]
    return [f"{name}: {json.dumps(value)}" for name, value in stated.items()]
