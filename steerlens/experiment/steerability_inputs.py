"""What a steerability experiment works on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from steerlens.data import ContrastSet
from steerlens.experiment.experiment_data import Shifts
from steerlens.experiment.workplace import Inputs


@dataclass(frozen=True, kw_only=True)
class Questions(Inputs):
    """What a steerability experiment works on."""

    fit: ContrastSet
    choose: ContrastSet
    report: ContrastSet
    neutral: list[str] | None
    """Ordinary texts for the cost; None for those that the unsteered model writes."""
    ordinary: str
    """What they are, in words."""
    shifts: Shifts
    others: Mapping[str, ContrastSet]
    """Questions about other concepts, by name."""
    prompts: list[str]
    """What is continued in every cell."""
    confirming: list[str]
    """What is continued at the recommended cell and its runners-up."""
