"""Vecchia's likelihood where the covariances are known up to a scale: every evaluation after the first is cheap.

With a base kernel that has nothing to learn (Tanimoto), the covariance among a row and its neighbours N is a·B plus
noise, B known. One eigendecomposition B_NN = Q diag(λ) Qᵀ per row turns every later conditional into sums over its m
neighbours: with p = Qᵀ B_Ni and D = aλ + σ²,

    variance  v = a B_ii + σ² − a² Σ p²/D,      error  e = (y_i − μ) − a Σ p (Qᵀ(y_N − μ))/D,

so that all rows are used at once, without minibatches, and L-BFGS finds the optimum itself.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from sggp.hyperparameters.exact.quasi_newton import Box, lbfgs
from sggp.hyperparameters.gram import LOG_TWO_PI, frozen_base, total_scale
from sggp.hyperparameters.nearest_neighbour.minibatches import MinibatchLikelihood
from sggp.hyperparameters.nearest_neighbour.neighbourhoods import Neighbourhoods
from sggp.hyperparameters.result import Trace

_CHUNK = 512  # rows decomposed at once


class FixedBase:
    """Log conditionals of some rows as a function of scale, noise variance and mean.

    Args:
        neighbourhoods: with `rows` opened, of a kernel in which only scales are learnt.
        rows: (r,) positions. y: (n, t) targets.

    Cost: r·m³ flops at first, then r·m per evaluation; memory 8·r·m·(3 + t) bytes.
    """

    def __init__(self, neighbourhoods: Neighbourhoods, rows: Tensor, y: Tensor) -> None:
        parts = [self._decomposed(neighbourhoods, part, y) for part in torch.arange(len(rows)).split(_CHUNK)]
        columns = zip(*parts, strict=True)
        self.spectrum, self.cross, self.ones, self.targets, self.own, self.y = map(torch.cat, columns)

    @staticmethod
    def _decomposed(neighbourhoods: Neighbourhoods, selection: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        """λ (b, m), p (b, m), Qᵀ1 (b, m), Qᵀy_N (b, m, t), B_ii (b,), y_i (b, t)."""
        index, valid = neighbourhoods.members(selection)
        base = neighbourhoods.base(selection)
        there = valid[:, :-1].to(base)
        block = base[:, :-1, :-1] * there[:, :, None] * there[:, None, :]
        spectrum, q = torch.linalg.eigh(block)
        turned = q.transpose(1, 2)
        columns = torch.stack([base[:, :-1, -1] * there, there], dim=2)
        columns = torch.cat([columns, y[index[:, :-1]] * there[:, :, None]], dim=2)
        columns = turned @ columns
        last = index[:, -1]
        return (
            spectrum.clamp_min(0.0),
            columns[:, :, 0],
            columns[:, :, 1],
            columns[:, :, 2:],
            base[:, -1, -1],
            y[last],
        )

    def terms(self, scale: Tensor, noise: Tensor, mean: Tensor) -> Tensor:  # (r,)
        """log N(y_i | y_N(i)), summed over targets; differentiable in scale, noise (scalars) and mean (t,)."""
        weight = scale * self.cross / (scale * self.spectrum + noise)
        variance = scale * self.own + noise - scale * (self.cross * weight).sum(dim=1)
        variance = torch.maximum(variance, 1e-14 * scale * self.own)
        predicted = (weight[:, :, None] * (self.targets - self.ones[:, :, None] * mean)).sum(dim=1)
        error = self.y - mean - predicted
        logs = self.y.shape[1] * (variance.log() + LOG_TWO_PI)
        return -0.5 * (error.square().sum(dim=1) / variance + logs)


def total(terms: Tensor, n: int) -> tuple[float, float]:
    """n times the mean of the terms of some rows, and its standard error."""
    error = float(terms.std()) * n / math.sqrt(len(terms)) if 1 < len(terms) < n else 0.0
    return float(terms.mean()) * n, error * math.sqrt(max(0.0, 1 - len(terms) / n))


class FixedBaseAscent:
    """L-BFGS on all rows of a pool; leaves the optimum in the kernel.

    Attributes:
        trace: a record per evaluation. step_count: how many. settled: whether it converged. message: why it ended.
    """

    def __init__(self, likelihood: MinibatchLikelihood, conditionals: FixedBase, trace: Trace) -> None:
        self.likelihood, self.conditionals, self.trace = likelihood, conditionals, trace
        self.scales, _ = frozen_base(likelihood.coordinates.kernel) or ([], None)
        self.settled, self.message = True, "nothing to learn"

    @property
    def step_count(self) -> int:
        """Evaluations."""
        return len(self.trace.records)

    def terms(self) -> Tensor:  # (r,)
        """Log conditionals at the present values, differentiable in the raw parameters."""
        scale, learnt = total_scale(self.scales, self.conditionals.y), self.likelihood.coordinates.raw_mean
        mean = self.likelihood.mean if learnt is None else learnt
        return self.conditionals.terms(
            scale, self.likelihood.shared_noise(), torch.zeros_like(scale) if mean is None else mean
        )

    def run(self, n: int, max_steps: int) -> None:
        """Climb from the present values; n rows altogether, for the weight of the priors."""
        coordinates, targets = self.likelihood.coordinates, self.conditionals.y.shape[1]

        def objective(u: np.ndarray) -> tuple[float, np.ndarray]:
            vector = torch.as_tensor(u, dtype=torch.float64)
            coordinates.assign(vector)
            with torch.enable_grad():
                value = self.terms().mean() / targets
                value.backward()
            prior, slope = coordinates.log_prior(vector)
            gradient = coordinates.gradient(vector) + slope / (n * targets)
            height = float(value.detach()) + prior / (n * targets)
            self.trace.add(self.step_count + 1, height, float(gradient.abs().max()), coordinates.values())
            return -height, -gradient.numpy()

        start, box = coordinates.vector().numpy(), Box.of(coordinates)
        found = lbfgs(objective, start, box, self.trace.report, maxiter=max_steps, gtol=1e-6, ftol=1e-12)
        objective(found.x)  # leaves the best values in place, and their gradient in the trace
        self.settled, self.message = bool(found.success), f"{self.step_count} evaluations; {found.message}"
