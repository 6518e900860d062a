"""A function of two columns without noise, and how far a search may be from where rounding sends it."""

from __future__ import annotations

import numpy as np

RNG = np.random.default_rng(0)
X, QUERIES = RNG.random((40, 2)), RNG.random((25, 2))
Y, TRUTH = (np.sin(5 * x[:, 0]) + x[:, 1] for x in (X, QUERIES))
SEARCHED = 1e-6
"""Relative: a search stops where its gradient per row is below 1e-5, and rounding decides its last steps."""
