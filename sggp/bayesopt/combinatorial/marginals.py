"""Which reagents the model likes best, whatever their partners: where a search may begin."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_SWEEPS = 20
_SHRINK = 1.0


def additive_effects(values: np.ndarray, rows: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray]:
    """Ridge regression of values on a sum of one effect per reagent, by backfitting.

    Args:
        values: (m,) of products.
        rows: (m, components) their reagents.
        sizes: how many reagents each component has.

    Returns:
        (size,) for each component: how far its products lie above the average of all; 0 for reagents without one.
    """
    rest = values - values.mean()
    effects = [np.zeros(size) for size in sizes]
    counts = [np.bincount(column, minlength=size) for column, size in zip(rows.T, sizes, strict=True)]
    for _ in range(_SWEEPS):
        for own, column, count in zip(effects, rows.T, counts, strict=True):
            rest += own[column]
            own[:] = np.bincount(column, rest, minlength=len(own)) / (count + _SHRINK)
            rest -= own[column]
    return effects


def best_combinations(effects: Sequence[np.ndarray], count: int) -> np.ndarray:
    """(count^components, components): all combinations of the best few reagents of each component."""
    best = [np.argsort(-own, kind="stable")[:count] for own in effects]
    grid = np.meshgrid(*best, indexing="ij")
    return np.stack([axis.ravel() for axis in grid], axis=1)
