"""The exact log marginal likelihood with its gradient, on all rows or on some of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sggp.errors import InputError
from sggp.hyperparameters.coordinates import Coordinates
from sggp.hyperparameters.exact.gram_matrix import GramMatrix, Sensitivity
from sggp.hyperparameters.gram import LOG_TWO_PI
from sggp.hyperparameters.merged import MergedData, mean_and_weights, right_sides
from sggp.hyperparameters.problem import FitProblem
from sggp.hyperparameters.result import Trace
from sggp.hyperparameters.values import backward
from sggp.linalg import cholesky

__all__ = ["Best", "Evaluation", "Objective", "evaluate"]


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


def evaluate(covariance: Tensor, y: Tensor, mean: Tensor | None, out: Tensor | None = None) -> Evaluation:
    """log N(y; mean, covariance), the mean by generalised least squares where it is not given; factor in `out`."""
    factor = cholesky(covariance, "K + noise", out=out)
    halved = torch.linalg.solve_triangular(factor, right_sides(y, mean), upper=False)
    mean, solved = mean_and_weights(torch.linalg.solve_triangular(factor.mT, halved, upper=True), mean)
    n, t = y.shape
    # Rasmussen & Williams 2006, equation 2.30: −½ (y − m)ᵀH⁻¹(y − m) − ½ log|H| − ½ n log 2π, for every target
    value = -0.5 * ((y - mean) * solved).sum() - t * factor.diagonal().log().sum() - 0.5 * n * t * LOG_TWO_PI
    return Evaluation(float(value), mean, solved, factor)


class _Rows:
    """Distinct inputs with their mean targets; or all rows where a known noise variance is zero."""

    def __init__(self, problem: FitProblem) -> None:
        self.merged: MergedData | None = None
        self.x, self.y, self.known = problem.x, problem.y, problem.noise
        self.shares = self.y.new_ones(len(self.y))  # of a noise variance that all rows share
        self._within = self.y.new_zeros(())
        if self.known is None or bool((self.known > 0).all()):
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

    def within(self, shared: Tensor | None) -> Tensor:
        """What the likelihood of distinct inputs lacks, differentiable in the shared noise variance."""
        return self._within if self.merged is None or shared is None else self.merged.within(shared)


class Objective:
    """Minus (log marginal likelihood + log prior) per value, with its gradient, for minimisers.

    Repeated inputs are merged, see `MergedData`: the same likelihood from a smaller matrix.

    Args:
        coordinates: moved by every call, but one at `best`.
        problem: the rows, and what is known of noise and mean.
        trace: where evaluations are recorded.
        whole: number of values the log prior is divided by; None is those of y. Some rows of a table get those of all.

    Attributes:
        best: the lowest so far; None before the first call.
        recording: whether evaluations enter the trace.
    """

    def __init__(
        self, coordinates: Coordinates, problem: FitProblem, trace: Trace, *, whole: int | None = None
    ) -> None:
        self.coordinates, self.mean, self.trace = coordinates, problem.mean, trace
        self.learns_noise = problem.noise is None
        self.count = problem.y.numel()
        self.whole = self.count if whole is None else whole
        self.rows = _Rows(problem)
        self.gram = GramMatrix(coordinates.kernel, self.rows.x)
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
            return found.value + float(self.rows.within(shared)), found.mean

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
            within = self.rows.within(shared)
        with torch.no_grad():
            covariance.diagonal().add_(self.rows.noise(shared))
            try:
                found = evaluate(covariance, self.rows.y, self.mean, factor)
            except InputError:
                if self.best is None:
                    raise
                # a trial step out to where the matrix has no factor: worse than all so far, so the step is cut
                return 1e6 + self.best.objective, np.zeros_like(u)
            torch.cholesky_inverse(found.factor, out=inverse)
            sensitivity = Sensitivity(inverse, found.weights, self.rows.y.shape[1])
        heights = self.gram.pulled(sensitivity)
        if shared is not None:
            # dL/dσ² = Σ_g S_gg/r_g over distinct inputs, and that of what merging left behind
            heights.append(coordinates.noise_height(torch.dot(sensitivity.diagonal(), self.rows.shares)))
            if within.requires_grad:
                heights.append((within, torch.ones_like(within)))
        backward(heights)
        prior, pulled = coordinates.log_prior(vector)
        gradient = coordinates.gradient(vector) / self.count + pulled / self.whole
        likelihood = found.value + float(within.detach())
        value = likelihood / self.count + prior / self.whole
        if self.best is None or -value < self.best.objective:
            self.best = Best(-value, u.copy(), -gradient.numpy(), likelihood, found.mean)
        if self.recording:
            step, slope = len(self.trace.records), float(gradient.abs().max())
            rows = self.count // self.rows.y.shape[1]
            self.trace.add(step, value, slope, coordinates.values(), rows=rows)
        return -value, -gradient.numpy()
