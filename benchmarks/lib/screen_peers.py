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
from torch import Tensor

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
"""qPO as published: the rows of the largest means that are sampled together, and how many samples are counted."""

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


def shortlist(mean: Array, rows: list[int]) -> NDArray[np.int64]:
    """The largest `SHORT` means beside the measured rows."""
    return np.asarray(best(mean, rows, min(SHORT, len(mean) - len(rows))))


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
    """The rows that are most often the best of a joint sample, among the `SHORT` best means; equal ones by their mean.

    A sample of scikit-learn's process is a joint sample of its prior that was moved to the values by Matheron's rule.
    Those of the prior serve for all batches where the library is not much longer than the cut. One Cholesky factor of
    the posterior's covariance for each batch, as in the authors' code, has the same distribution and takes longer.
    """
    model, x = process(library, rows), library.counts.numpy()
    mean = np.concatenate([model.predict(x[part]) for part in blocks(len(x))])
    short = shortlist(mean, rows)
    every = np.arange(len(x)) if len(x) <= 1.2 * SHORT else np.sort(np.concatenate([short, rows]))
    variance, noise = np.exp(model.kernel_.theta)
    prior = math.sqrt(variance) * prior_samples(library, every.tobytes())
    known, open_rows = np.searchsorted(every, rows), np.searchsorted(every, short)
    errors = torch.randn(len(rows), prior.shape[1], generator=seeded(seed))
    told = torch.from_numpy((upward(library, rows) - model._y_train_mean) / model._y_train_std)
    weights = torch.cholesky_solve(
        told[:, None] - (prior[known] + math.sqrt(noise) * errors).double(), torch.from_numpy(model.L_)
    )
    across = variance * SIMILARITY.block(library.counts[short].double(), library.counts[rows].double())
    top = (prior[open_rows] + across.float() @ weights.float()).argmax(0)
    wins = torch.bincount(top, minlength=len(short))
    order = np.lexsort((-mean[short], -wins.numpy()))  # by wins, then by mean
    return short[order[: library.batch]].tolist()


@functools.lru_cache(maxsize=1)
def prior_samples(library: Library, rows: bytes) -> Tensor:
    """(m, `DRAWS`) joint samples of a process of variance one with the min-max kernel, at these rows."""
    x = library.counts[np.frombuffer(rows, dtype=np.int64).copy()].double()
    gram = SIMILARITY.block(x, x).float()
    gram.diagonal().add_(1e-4)
    return torch.linalg.cholesky(gram) @ torch.randn(len(x), DRAWS, generator=seeded(0))


def botorch_model(library: Library, rows: list[int]) -> Any:
    """BoTorch's `SingleTaskGP` with its own noise prior, scaling of values and fit, and the kernel that it lacks."""
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP

    y = torch.from_numpy(upward(library, rows))[:, None]
    model = SingleTaskGP(library.counts[rows].double(), y, covar_module=ScaleKernel(TanimotoMinMax()))
    fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
    return model.eval()


def moments(model: Any, x: Tensor) -> tuple[Array, Array]:
    """Mean and std (N,) of the function at all rows, a posterior for each block.

    The numbers of `UpperConfidenceBound`, which asks for a posterior of each row by itself and takes far longer.
    """
    found = []
    with torch.no_grad():
        for part in x.split(1024):
            posterior = model.posterior(part.double())
            found.append(torch.cat([posterior.mean, posterior.variance.sqrt()], 1))
    mean, std = torch.cat(found).numpy().T
    return mean, std


def botorch(library: Library, rows: list[int], seed: int, *, paths: bool) -> list[int]:
    """Mean + 2 std of BoTorch's model; or `MaxPosteriorSampling`, for each of the batch the best of a joint sample."""
    from botorch.generation import MaxPosteriorSampling

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that counts are not in the unit cube
        model = botorch_model(library, rows)
        mean, std = moments(model, library.counts)
        if not paths:
            return best(mean + WIDTH * std, rows, library.batch)
        short = shortlist(mean, rows)
        x = library.counts[short].double()
        torch.manual_seed(seed)  # read by no argument of BoTorch's
        with torch.no_grad():
            drawn = MaxPosteriorSampling(model, replacement=False)(x, num_samples=library.batch)
    free = torch.ones(len(short), dtype=torch.bool)
    for row in drawn:  # rows are given by their counts, which twins share
        free[int(((x == row).all(1) & free).nonzero()[0])] = False
    return short[~free.numpy()].tolist()


PEERS: dict[str, Peer] = {
    "random": chance,
    "forest": forest,
    "exact-greedy": functools.partial(exact, width=0.0),
    "exact-ucb": functools.partial(exact, width=WIDTH),
    "botorch-ucb": functools.partial(botorch, paths=False),
    "botorch-ts": functools.partial(botorch, paths=True),
    "qpo": qpo,
}
