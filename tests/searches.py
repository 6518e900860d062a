"""Fits whose searches end early, for tests that ask what is done with a model and not how well it was learnt."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import pytest


@contextlib.contextmanager
def shortened() -> Iterator[None]:
    """A search of the exact marginal likelihood ends, converged, where a step wins less than a hundredth."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sggp.hyperparameters.exact.fit._PROGRESS", 1e-2)
        patch.setattr("sggp.hyperparameters.exact.fit._STEEP", math.inf)
        yield
