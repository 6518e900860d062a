"""Fits whose searches end early, for tests that ask what is done with a model and not how well it was learnt."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock


def shortened() -> AbstractContextManager[Any]:
    """A search of the exact marginal likelihood ends, converged, where a step wins less than a hundredth."""
    return mock.patch.multiple("sggp.hyperparameters.exact.fit", _PROGRESS=1e-2, _STEEP=math.inf)
