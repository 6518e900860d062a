"""A function of two columns, and how far a search may be from where rounding sends it.

Its noise, of a deviation of .01, keeps condition numbers, and so what rounding becomes, below 1e7.
"""

from __future__ import annotations

import numpy as np

RNG = np.random.default_rng(0)
X, QUERIES = RNG.random((40, 2)), RNG.random((25, 2))
Y, TRUTH = (np.sin(5 * x[:, 0]) + x[:, 1] for x in (X, QUERIES))
Y = Y + 0.01 * RNG.standard_normal(40)
SEARCHED = 1e-4
"""Relative: a search stops where its gradient per row is below 1e-5, where rounding decides; the curvature per row of a
log parameter that matters is a tenth or more, so two ends are within 1e-4 of each other."""
