"""Variances by solving: one right-hand side for each query point."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sggp.errors import InputError
from sggp.kernels.covariance import Covariance, Points
from sggp.posterior.data import Data
from sggp.posterior.solving import Process
from sggp.posterior.variance import CONTROL_ROWS, local_control
from sggp.solvers import Cholesky
from sggp.solvers.cholesky import factorise, substitute

_EXCESS = 0.05
"""Share by which a variance found by solving may exceed the true one at worst; the bound is loose by far."""
_LEAST_VARIANCE = 1e-8
"""Share of the prior variance below which a variance need not be resolved further."""
_LEAST_TOLERANCE = 1e-10
_ROUNDS = 3


class QueryWeights:
    """w ≈ H⁻¹k for query points; a Cholesky factor is kept once there is one, but goes into no pickle.

    Args:
        process, data: of the posterior. covariance: its kernel. points: its prepared inputs.
    """

    def __init__(self, process: Process, data: Data, covariance: Covariance, points: Points) -> None:
        self.process, self.data, self.covariance, self.points = process, data, covariance, points
        self._factor: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_factor": None}

    def __call__(self, queries: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # (q, d) -> (n, q) three times
        """k = K(x, queries), w ≈ H⁻¹k and Hw, where w's excess variance ‖k − Hw‖²_{H⁻¹} is at most 5 % of the variance.

        Raises:
            InputError: the posterior is one on centres.
        """
        options = self.process.options
        if options.centres is not None:
            raise InputError(
                "variances and covariances by solving are those of the exact Gaussian process, which this posterior on "
                f'{len(options.centres)} centres is not: use variance(method="samples"), or condition without centres.'
            )
        cross = self.covariance.block(
            self.points, self.covariance.prepare(queries, self.points.centre)
        ).double()
        operator, own = self.process.operator(self.data), self.covariance.diagonal(queries).double()
        solver = options.solver_for(len(self.points))
        if isinstance(solver, Cholesky):
            if self._factor is None:
                self._factor = factorise(operator)[0]
            weights = substitute(self._factor, cross)
            return cross, weights, operator.matmul_wide(weights)
        # ‖r‖²_{H⁻¹} ≤ ‖r‖²/σ²; the variance given the nearest rows tells beforehand how small the residual has to be
        start, noise = None, self.data.merged_noise
        none, least = cross.new_zeros(len(self.points), 0), float(noise.min())
        no_draws = cross.new_zeros(len(queries), 0)
        local = local_control(self.covariance, self.points, noise, none, queries, no_draws, CONTROL_ROWS)[0]
        asked = options.tolerances(0, True)
        allowed = _EXCESS * least * (0.5 * local).clamp_min(_LEAST_VARIANCE * own)
        for _ in range(_ROUNDS):
            tolerance = (allowed.sqrt() / cross.norm(dim=0)).cpu().clamp_min(_LEAST_TOLERANCE).minimum(asked)
            weights = solver.solve(
                operator, cross, start, tolerance=tolerance, generator=0, on_failure=options.on_failure
            ).x.double()
            product = operator.matmul_wide(weights)
            variance = own - (weights * (2 * cross - product)).sum(0)
            allowed = _EXCESS * least * variance.clamp_min(_LEAST_VARIANCE * own)
            if bool(((cross - product).square().sum(0) <= 2 * allowed).all()):
                break
            start = weights
        return cross, weights, product
