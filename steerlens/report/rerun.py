"""The source of an experiment file that repeats a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OURS = "steerlens."
"""How the modules begin from which a rerun file can import as it stands."""


def rerun_source(fields: Mapping[str, Any], defined: Mapping[str, str] | None = None) -> str:
    """An experiment file that states every field, so that later defaults change nothing.

    Args:
        fields: The manifest's `fields`: the class's name under "experiment", then its fields.
        defined: Where the class of the experiment ("experiment") and the classes of fields that
            are objects (by the field's name) are defined, each as "module:Name".

    >>> print(rerun_source(
    ...     {"experiment": "ProbingExperiment", "method": "LDA()", "layers": [0, 1]},
    ...     {"experiment": "steerlens.experiment:ProbingExperiment",
    ...      "method": "steerlens.directions.methods:LDA"},
    ... ))
    from steerlens.directions.methods import LDA
    from steerlens.experiment import ProbingExperiment
    <BLANKLINE>
    experiment = ProbingExperiment(
        method=LDA(),
        layers=(0, 1),
    )
    """
    defined = dict(defined or {})
    imports, foreign = [], []
    for place in sorted(set(defined.values())):
        module, _, name = place.rpartition(":")
        if module.startswith(OURS):
            imports.append(f"from {module} import {name}")
        elif module == "__main__":
            foreign.append(f"# {name} was defined in a script or a notebook: define it here.")
        else:
            foreign += [
                f"# {name} is not part of steerlens: put {module}.py beside this file.",
                f"from {module} import {name}",
            ]
    lines = [*imports, *foreign, "", f"experiment = {fields['experiment']}("]
    for name, value in fields.items():
        if name != "experiment":
            lines.append(f"    {name}={value if name in defined else repr(_tuples(value))},")
    return "\n".join([*lines, ")"])


def _tuples(value: Any) -> Any:
    """JSON has lists where an experiment has tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
