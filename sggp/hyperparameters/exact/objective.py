"""The exact log marginal likelihood with its gradient, on all rows or on some of them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sggp.errors import InputError
from sggp.hyperparameters.coordinates import Coordinates
from sggp.hyperparameters.exact.gram_matrix import GramMatrix, Sensitivity
from sggp.hyperparameters.gram import log_two_pi
from sggp.hyperparameters.merged import MergedData
from sggp.linalg import cholesky

__all__ = ["Best", "Evaluation", "Objective", "Trace", "evaluate"]


@dataclass(frozen=True)
class Evaluation:
    """log N(y; mean, H), summed over t targets, and what its derivatives are made of."""

    value: float
    mean: Tensor  # (t,)
    weights: Tensor  # (n, t) H^-1 (y - mean)
    factor: Tensor  # (n, n) Cholesky factor


@dataclass(frozen=True)
class Best:
    """The lowest objective of a fit, where it is and what goes with it."""

    objective: float
    u: np.ndarray  # (p,)
    gradient: np.ndarray  # (p,)
    value: float  # log marginal likelihood, summed over targets
    mean: Tensor  # (t,)


@dataclass
class Trace:
    """Records of all evaluations of one fit."""

    records: list[dict[str, Any]] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)


def evaluate(covariance: Tensor, y: Tensor, mean: Tensor | None, out: Tensor | None = None) -> Evaluation:
    """log N(y; mean, covariance), the mean by generalised least squares where it is not given; factor in `out`."""
    factor = cholesky(covariance, "K + noise", out=out)
    right = y - mean if mean is not None else torch.cat([torch.ones_like(y[:, :1]), y], dim=1)
    halved = torch.linalg.solve_triangular(factor, right, upper=False)
    solved = torch.linalg.solve_triangular(factor.mT, halved, upper=True)
    if mean is None:
        mean = solved[:, 1:].sum(dim=0) / solved[:, 0].sum()
        solved = solved[:, 1:] - solved[:, :1] * mean
    n, t = y.shape
    value = (
        -0.5 * ((y - mean) * solved).sum() - t * factor.diagonal().log().sum() - 0.5 * n * t * log_two_pi()
    )
    return Evaluation(float(value), mean, solved, factor)


class _Rows:
    """Distinct inputs with their mean targets; or all rows where a known noise variance is zero."""

    def __init__(self, x: Tensor, y: Tensor, noise: Tensor | None) -> None:
        self.merged: MergedData | None = None
        self.x, self.y, self.known = x, y, noise
        self.shares = y.new_ones(len(y))  # of a noise variance that all rows share
        self._within = 0.0
        if noise is None or bool((noise > 0).all()):
            self._merge()

    def _merge(self) -> None:
        merged = MergedData(self.x, self.y)
        if merged.groups.trivial:
            return
        own = merged.row_noise(self.y.new_ones(()) if self.known is None else self.known)
        self.merged, self.x, self.y = merged, merged.rows, merged.means(self.y, own)
        self.shares = merged.counts.to(self.y).reciprocal()
        if self.known is not None:
            self.known, self._within = merged.groups.noise(own), merged.within(own)

    def noise(self, shared: Tensor | None) -> Tensor:
        """Noise variances, (g,) or a scalar."""
        if shared is not None:
            return shared * self.shares
        if self.known is None:
            raise InputError("a noise variance is neither known nor learnt.")
        return self.known

    def within(self, shared: Tensor | None) -> tuple[float, float]:
        """What the likelihood of distinct inputs lacks, and its derivative in the shared noise variance."""
        if self.merged is None:
            return 0.0, 0.0
        if shared is None:
            return self._within, 0.0
        return self.merged.within(self.merged.row_noise(shared)), self.merged.within_slope(float(shared))


class Objective:
    """Minus (log marginal likelihood + log prior) per value, with its gradient, for minimisers.

    Repeated inputs are merged, see `MergedData`: the same likelihood from a smaller matrix.

    Args:
        coordinates: moved by every call, but one at `best`.
        x: (n, d). y: (n, t). noise: known, a scalar or (n,), or None to learn one. mean: known (t,) or None.
        trace: where evaluations are recorded.
        whole: number of values the log prior is divided by; None is those of y. Some rows of a table get those of all.

    Attributes:
        best: the lowest so far; None before the first call.
        recording: whether evaluations enter the trace.
    """

    def __init__(
        self,
        coordinates: Coordinates,
        x: Tensor,
        y: Tensor,
        noise: Tensor | None,
        mean: Tensor | None,
        *,
        trace: Trace | None = None,
        whole: int | None = None,
    ) -> None:
        self.coordinates, self.mean = coordinates, mean
        self.learns_noise = noise is None
        self.count = y.numel()
        self.whole = self.count if whole is None else whole
        self.rows = _Rows(x, y, noise)
        self.gram = GramMatrix(coordinates.kernel, self.rows.x)
        self.trace = Trace() if trace is None else trace
        self.best: Best | None = None
        self.recording = True
        self._space: list[Tensor] = []  # covariance, factor and inverse of the last call

    @property
    def size(self) -> int:
        """Order of the matrix that is factorised."""
        return len(self.rows.x)

    def _memory(self) -> list[Tensor]:
        """Three (n, n) tensors, the last two in the order in which LAPACK works."""
        if not self._space:
            empty = [self.rows.y.new_empty(self.size, self.size) for _ in range(3)]
            self._space = [empty[0], empty[1].mT, empty[2].mT]
        return self._space

    def value_only(self) -> tuple[float, Tensor]:
        """The likelihood, and the mean, at the present values, where there is nothing to differentiate."""
        with torch.no_grad():
            shared = self.coordinates.noise() if self.learns_noise else None
            covariance, factor, _ = self._memory()
            self.gram.evaluate(covariance)
            covariance.diagonal().add_(self.rows.noise(shared))
            found = evaluate(covariance, self.rows.y, self.mean, factor)
            return found.value + self.rows.within(shared)[0], found.mean

    def __call__(self, u: np.ndarray) -> tuple[float, np.ndarray]:
        if self.best is not None and np.array_equal(u, self.best.u):
            return self.best.objective, self.best.gradient.copy()
        coordinates = self.coordinates
        vector = torch.as_tensor(u, dtype=torch.float64)
        coordinates.assign(vector)
        covariance, factor, inverse = self._memory()
        self.gram.evaluate(covariance)
        with torch.enable_grad():
            shared = coordinates.noise() if self.learns_noise else None
        with torch.no_grad():
            noise = None if shared is None else shared.detach()
            covariance.diagonal().add_(self.rows.noise(noise))
            try:
                found = evaluate(covariance, self.rows.y, self.mean, factor)
            except InputError:
                if self.best is None:
                    raise
                # a trial step out to where the matrix has no factor: worse than all so far, so the step is cut
                return 1e6 + self.best.objective, np.zeros_like(u)
            within, slope = self.rows.within(noise)
            torch.cholesky_inverse(found.factor, out=inverse)
            sensitivity = Sensitivity(inverse, found.weights, self.rows.y.shape[1])
        self.gram.backward(sensitivity)
        with torch.enable_grad():
            if shared is not None:
                slope += float((sensitivity.diagonal() * self.rows.shares).sum())
                torch.autograd.backward(shared, torch.full_like(shared, slope))
            prior = coordinates.log_prior()
            if prior.requires_grad:
                prior.backward(torch.full_like(prior, self.count / self.whole))
        gradient = coordinates.gradient(vector) / self.count
        likelihood = found.value + within
        value = likelihood / self.count + float(prior.detach()) / self.whole
        if self.best is None or -value < self.best.objective:
            self.best = Best(-value, u.copy(), -gradient.numpy(), likelihood, found.mean)
        self._record(value, gradient)
        return -value, -gradient.numpy()

    def _record(self, value: float, gradient: Tensor) -> None:
        if self.recording:
            self.trace.records.append(
                {
                    "step": len(self.trace.records),
                    "value": value,
                    "gradient_norm": float(gradient.abs().max()),
                    "seconds": time.perf_counter() - self.trace.started,
                    "rows": self.count // self.rows.y.shape[1],
                    "values": self.coordinates.values(),
                }
            )
