"""Other libraries without their side effects: random state, prints, questions, and requests."""

from __future__ import annotations

import contextlib
import io
import random
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from steerlens.models.checkpoints.errors import CheckpointError


@contextlib.contextmanager
def unchanged_rng() -> Iterator[None]:
    """Puts the python, numpy and torch random states back as they were.

    Building a model consumes or re-seeds them: `HookedTransformerConfig(seed=...)` re-seeds all
    three, and every Hugging Face model draws its initial weights even when they are overwritten.
    """
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


class _NoAnswers(io.TextIOBase):
    """A standard input that nobody can answer through: a question is an error."""

    def read(self, *_: Any) -> str:
        raise CheckpointError(
            "A library asked a question while a checkpoint was read (whether to run its code, "
            "perhaps). It is not answered, and no code of a checkpoint is run. Use a checkpoint "
            "in an architecture that transformers has."
        )

    readline = read


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No prints, questions, progress bars or notices that `HookedTransformer` is deprecated.

    What is printed is not shown, so no question that it asks may be answered either.
    """
    from transformers.utils import logging

    bar, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    stdin = sys.stdin
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    sys.stdin = _NoAnswers()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            # Messages are matched from their start; any other warning still gets through.
            warnings.filterwarnings("ignore", r"HookedTransformer", DeprecationWarning)
            yield
    finally:
        sys.stdin = stdin
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


@contextlib.contextmanager
def no_network() -> Iterator[None]:
    """Hugging Face's own offline mode, for as long as a local model is read.

    Without it even a local path can cause requests, and without a network these are retried for
    minutes.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
