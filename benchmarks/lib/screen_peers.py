"""The other ways to choose molecules in `screening.py`: chance, a random forest, Gaussian processes of other libraries.

All see the same count fingerprints (Morgan, radius 2, 2,048 counts), the same known molecules and the same batches. A
peer is a function of the library, the measured rows and a seed, and gives the next rows. Values are turned so that
larger is better.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from gpytorch.kernels import ScaleKernel
from gpytorch.mlls import ExactMarginalLogLikelihood
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import (
    ConstantKernel,
    GenericKernelMixin,
    Kernel,
    NormalizedKernelMixin,
    WhiteKernel,
)

from lib.common import seeded
from lib.screen_libraries import Library
from sggp.kernels import as_covariance
from sggp.kernels.tanimoto import TanimotoMinMax

__all__ = ["PEERS", "Peer"]

TREES = 200
BLOCK = 4096
WIDTH = 2.0
"""Standard deviations above the mean, as measured best for such a process by hand."""
SHORT, DRAWS = 10_000, 10_000
"""qPO as published: the rows of the largest means whose joint samples are drawn, and how many of them."""

SIMILARITY = as_covariance(TanimotoMinMax(), dtype=torch.float64)
"""Our blocks of the kernel for scikit-learn, which has none: its process is then as fast as it can be."""

Peer = Callable[[Library, list[int], int], list[int]]
Array = NDArray[np.float64]


def blocks(count: int) -> Iterator[slice]:
    return (slice(start, start + BLOCK) for start in range(0, count, BLOCK))


def upward(library: Library, rows: list[int]) -> Array:
    """(n,) values turned so that larger is better."""
    values = library.values[rows].numpy()
    return values if library.maximize else -values


def best(score: Array, rows: list[int], batch: int) -> list[int]:
    """The largest scores beside the measured rows."""
    score = score.copy()
    score[rows] = -np.inf
    return np.argsort(-score, kind="stable")[:batch].tolist()


def chance(library: Library, rows: list[int], seed: int) -> list[int]:
    order = torch.randperm(len(library), generator=seeded(seed)).tolist()
    known = set(rows)
    return [row for row in order if row not in known][: library.batch]


def forest(library: Library, rows: list[int], seed: int) -> list[int]:
    """The best means of a random forest."""
    x = library.counts
    model = RandomForestRegressor(TREES, n_jobs=1, random_state=seed).fit(x[rows], upward(library, rows))
    return best(np.concatenate([model.predict(x[part]) for part in blocks(len(x))]), rows, library.batch)


class MinMax(NormalizedKernelMixin, GenericKernelMixin, Kernel):  # type: ignore[misc]
    """The min-max similarity of counts as a kernel of scikit-learn, without parameters."""

    def __init__(self) -> None:  # scikit-learn reads a kernel's parameters from here
        pass

    def __call__(self, X: Any, Y: Any = None, eval_gradient: bool = False) -> Any:
        x = torch.as_tensor(np.asarray(X))
        gram = SIMILARITY.block(x, x if Y is None else torch.as_tensor(np.asarray(Y))).numpy()
        return (gram, np.empty((*gram.shape, 0))) if eval_gradient else gram

    def is_stationary(self) -> bool:
        return False


def process(library: Library, rows: list[int]) -> GaussianProcessRegressor:
    kernel = ConstantKernel(1.0, (1e-2, 1e2)) * MinMax() + WhiteKernel(0.1, (1e-4, 1e1))
    model = GaussianProcessRegressor(kernel, normalize_y=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(library.counts[rows].numpy(), upward(library, rows))


def exact(library: Library, rows: list[int], seed: int, *, width: float) -> list[int]:
    """Mean + width · std of scikit-learn's exact process, the largest of them."""
    model, x = process(library, rows), library.counts.numpy()
    scores = []
    for part in blocks(len(x)):
        mean, std = model.predict(x[part], return_std=True)
        scores.append(mean + width * std)
    return best(np.concatenate(scores), rows, library.batch)


def qpo(library: Library, rows: list[int], seed: int) -> list[int]:
    """The rows that are most often the best of a joint sample, among the `SHORT` best means."""
    model, x = process(library, rows), library.counts.numpy()
    mean = np.concatenate([model.predict(x[part]) for part in blocks(len(x))])
    short = np.asarray(best(mean, rows, SHORT))[: len(x) - len(rows)]
    noise = float(np.exp(model.kernel_.theta[-1]))
    center, joint = model.predict(x[short], return_cov=True)
    joint -= noise * float(model._y_train_std) ** 2 * np.eye(len(short))  # of values without noise
    jitter = 1e-6 * float(np.trace(joint)) / len(short)
    factor = torch.linalg.cholesky(torch.from_numpy(joint).float() + jitter * torch.eye(len(short)))
    wins, generator = torch.zeros(len(short)), seeded(seed)
    for _ in range(0, DRAWS, 500):
        drawn = factor @ torch.randn(len(short), 500, generator=generator)
        top = (torch.from_numpy(center).float()[:, None] + drawn).argmax(0)
        wins += torch.bincount(top, minlength=len(short))
    order = np.lexsort((-center, -wins.numpy()))  # by wins, then by mean
    return short[order[: library.batch]].tolist()


def botorch(library: Library, rows: list[int], seed: int) -> list[int]:
    """BoTorch's model with its own fit, and its upper confidence bound at every molecule."""
    from botorch.acquisition import UpperConfidenceBound
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP

    x = library.counts
    y = torch.from_numpy(upward(library, rows))[:, None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that counts are not in the unit cube
        model = SingleTaskGP(x[rows].double(), y, covar_module=ScaleKernel(TanimotoMinMax()))
        fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
        rule = UpperConfidenceBound(model, beta=WIDTH**2)
        step = max(1, math.floor(2e8 / (len(rows) * x.shape[1])))
        with torch.no_grad():
            parts = [rule(part.double()[:, None]) for part in x.split(step)]
    return best(torch.cat(parts).numpy(), rows, library.batch)


PEERS: dict[str, Peer] = {
    "random": chance,
    "forest": forest,
    "exact-greedy": functools.partial(exact, width=0.0),
    "exact-ucb": functools.partial(exact, width=WIDTH),
    "botorch": botorch,
    "qpo": qpo,
}
