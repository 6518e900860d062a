"""The documented constants: what a default is, it is here."""

from __future__ import annotations

NUM_SAMPLES = 64
"""Posterior functions drawn with a posterior: a sampled variance has a relative error of √(2/64) = 18 %."""
NUM_FEATURES = 2048
"""Random features behind a prior function."""
DIRECT_ROWS = 3000
"""Up to so many distinct rows systems are solved by a dense Cholesky factor in float64, and variances are exact."""
FACTOR_ROWS = 8192
"""Up to so many measured molecules a campaign's systems are solved by a dense Cholesky factor, of 4 n² bytes."""
MEMORY_BUDGET = 4 * 2**30
"""Bytes that a kernel matrix, and the tiles of products with it, may take."""
