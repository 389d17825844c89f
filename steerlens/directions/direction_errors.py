"""The error of directions and of their files."""

from __future__ import annotations


class DirectionError(ValueError):
    """A direction with the wrong site, width or basis, or a file of one that is damaged."""
