"""Operators that are found on data: pairs of texts in, an intervention out."""

from steerlens.operators.sadi import sadi as sadi
