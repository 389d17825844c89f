"""What is wrong with a direction or a file of one."""

from __future__ import annotations


class DirectionError(ValueError):
    """A direction that does not fit: wrong site, wrong width, wrong basis, or a broken file."""
