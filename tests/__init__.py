"""Tests. `typechecker` checks the annotations of steerlens while they run."""

from tests.annotations import check as typechecker  # noqa: F401
