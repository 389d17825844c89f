"""The errors of training and of its files."""

from __future__ import annotations


class TrainingError(ValueError):
    """Training that cannot be done as asked, or a file of a trained intervention that is damaged."""


class TrainingWarning(UserWarning):
    """Training that ended without having learnt what was asked."""


class DivergedError(TrainingError, FloatingPointError):
    """A loss or a gradient that is NaN or infinite."""
