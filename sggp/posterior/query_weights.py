"""Variances by solving: one right-hand side for each query point."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sggp.autograd import full_precision, undisturbed
from sggp.defaults import DIRECT_ROWS
from sggp.errors import InputError
from sggp.kernels.covariance import Covariance, Points
from sggp.kernels.derivatives import differentiated_once
from sggp.linalg import cholesky
from sggp.posterior.data import Data
from sggp.posterior.solving import Process
from sggp.posterior.variance import CONTROL_ROWS, local_control
from sggp.solvers import Cholesky, Solver
from sggp.solvers.cholesky import factorise
from sggp.solvers.triangle import LowerTriangle

_EXCESS = 0.05
"""Share by which a variance found by solving may exceed the true one at worst; the bound is loose by far."""
_LEAST_VARIANCE = 1e-8
"""Share of the prior variance below which a variance need not be resolved further."""
_LEAST_TOLERANCE = 1e-10
_ROUNDS = 3
_TOGETHER = 128
"""Points whose prior covariances are evaluated in one block, whatever batches they belong to."""
_TILE_BYTES = 512 * 2**20
_FACTOR_TILE_BYTES = 64 * 2**20
"""Tiles for substitution are small, so that the next one finds the memory of the last, but at least so many wide:"""
_FACTOR_WIDTH = 256
_BOUND_ROWS = 256
"""Rows whose information alone bounds a variance from above."""
_BOUND_WIDTH = 2048
_ROUNDING = 1e-3
"""Share of the noise's standard deviation that rounding may move a mean by where it only has to be near."""

_FIRST_ORDER = "second derivatives of variances are there only where a Cholesky factor without jitter solves"


class QueryWeights:
    """What the data explain at query points, K(q, x)H⁻¹K(x, q), as a product AᵀB.

    With a Cholesky factor H = LLᵀ, which is kept once there is one but goes into no pickle, A = B = L⁻¹k: one
    substitution, n² flops a point. The factor's backward error is about that of rounding H, so a product with H in
    float64 would correct nothing. Where a jitter was needed, or the weights come from iterations, A = w ≈ H⁻¹k and
    B = 2k − Hw, with a true product Hw: k(x, x) − AᵀB is then the variance of f − wᵀy, whatever w, so never below the
    posterior's, and equal to it to second order in w's error.

    Args:
        process, data: of the posterior. covariance: its kernel. points: its prepared inputs.
    """

    def __init__(self, process: Process, data: Data, covariance: Covariance, points: Points) -> None:
        self.process, self.data, self.covariance, self.points = process, data, covariance, points
        self._factor: tuple[LowerTriangle, float] | None = None
        self._few: tuple[Points, Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_factor": None, "_few": None}

    @property
    def factorises(self) -> bool:
        """Whether systems are solved by a factor of H, so that one serves all queries."""
        options = self.process.options
        return options.centres is None and isinstance(options.solver_for(len(self.points)), Cholesky)

    @property
    def direct(self) -> bool:
        """Whether H is factorised: the default up to `DIRECT_ROWS` distinct rows without centres."""
        return self.factorises and len(self.points) <= DIRECT_ROWS

    @full_precision()
    def variance(
        self, queries: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor]:  # (q, d), (n, c) -> (q, c), (q,)
        """K(q, x)·weights and k(x, x) − AᵀB, float64, of one K(q, x).

        In tiles: the memory does not grow with q, nor does that of the derivatives.
        """
        tiles, function = queries.split(self._width()), partial(self._tile_variance, weights)
        if len(tiles) > 1 and queries.requires_grad and torch.is_grad_enabled():
            found = torch.cat([_Recomputed.apply(function, tile) for tile in tiles])
        else:
            found = torch.cat([function(tile) for tile in tiles])
        return found[:, :-1], found[:, -1]

    @full_precision()
    def bounded(
        self, queries: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor]:  # (q, d), (n, c) -> (q, c), (q,)
        """K(q, x)·weights, and no less than the variance: that given some of the rows alone, evenly spread.

        Further rows only take away. It is exact, but for rounding, where there are no more rows than are taken.

        Cost: n·q entries as in a product, 256 q of them as blocks, and 256² q flops.
        """
        few, lower = self._some_rows()
        points, parts = self.points.astype(self._narrow(weights)), []
        for tile in queries.split(_BOUND_WIDTH):
            asked = self.covariance.prepare(tile, self.points.centre)
            products = self.covariance.matmul(asked.astype(points.dtype), points, weights).double()
            wide = asked.astype(torch.float64)
            half = torch.linalg.solve_triangular(lower, self._block(wide, few).T, upper=False)
            variance = self.covariance.diagonal(wide).double() - half.square_().sum(0)
            parts.append(torch.cat([products, variance.clamp_min_(0)[:, None]], 1))
        found = torch.cat(parts)
        return found[:, :-1], found[:, -1]

    def _narrow(self, weights: Tensor) -> torch.dtype:
        """float32 for fingerprints where rounding moves a product with these weights by next to nothing."""
        if self.points.raw.is_floating_point() or not weights.numel():
            return self.points.dtype
        scale = float(self.covariance.diagonal(self.points[:1]).max())
        moved = torch.finfo(torch.float32).eps * scale * float(weights.norm(dim=0).max())
        least = float(self.data.merged_noise.min()) ** 0.5
        return torch.float32 if moved <= _ROUNDING * least else self.points.dtype

    def _some_rows(self) -> tuple[Points, Tensor]:
        """Evenly spread rows, and the factor of their part of H; a jitter there keeps a bound a bound."""
        if self._few is None:
            n = len(self.points)
            rows = torch.linspace(0, n - 1, min(n, _BOUND_ROWS), dtype=torch.float64).round().long()
            few = self.points[rows.to(self.points.device)].astype(torch.float64)
            matrix = self._block(few)
            matrix.diagonal().add_(self.data.merged_noise[rows])
            self._few = few, cholesky(matrix, "K + noise of some rows")
        return self._few

    @full_precision()
    def covariance_matrices(self, queries: Tensor, q: int) -> Tensor:  # (b·q, d) -> (b, q, q)
        """K(x, x) − AᵀB of each q successive points, float64, in tiles of the b batches."""
        if not len(queries):
            return queries.new_zeros(0, q, q, dtype=torch.float64)
        parts = []
        for batch in queries.reshape(-1, q, queries.shape[1]).split(max(1, self._width() // q)):
            _, *halves = self(batch.flatten(0, 1))
            left, right = (half.T.reshape(len(batch), q, -1) for half in halves)
            parts.append(self._prior_matrices(batch) - left @ right.mT)
        joint = torch.cat(parts)
        return 0.5 * (joint + joint.mT)

    def _prior_matrices(self, batches: Tensor) -> Tensor:  # (b, q, d) -> (b, q, q)
        """K(x, x) of each batch: the diagonal blocks of those of many, since a call costs more than small blocks."""
        q, parts = batches.shape[1], []
        for group in batches.split(max(1, _TOGETHER // q)):
            points = self._prepared(group.flatten(0, 1))
            blocks = self._block(points).reshape(len(group), q, len(group), q)
            parts.append(blocks.diagonal(dim1=0, dim2=2).movedim(-1, 0))
        return torch.cat(parts)

    def _tile_variance(self, weights: Tensor, tile: Tensor) -> Tensor:  # -> (q, c + 1)
        cross, left, right = self(tile)
        variance = (self._diagonal(tile) - (left * right).sum(0)).clamp_min(0)
        return torch.cat([cross.T @ weights, variance[:, None]], 1)

    def _width(self) -> int:
        """Query points of a tile: some eight columns of n numbers for each."""
        n = len(self.points)
        width = _TILE_BYTES // (64 * n)
        if isinstance(self.process.options.solver_for(n), Cholesky):
            width = min(width, max(_FACTOR_WIDTH, _FACTOR_TILE_BYTES // (64 * n)))
        return max(1, width)

    def _prepared(self, queries: Tensor) -> Points:
        return self.covariance.prepare(queries, self.points.centre).astype(torch.float64)

    def _block(self, x: Points, z: Points | None = None) -> Tensor:
        return self.covariance.block(x, z).double()

    def _diagonal(self, queries: Tensor) -> Tensor:
        return self.covariance.diagonal(self._prepared(queries)).double()

    def __call__(self, queries: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # (q, d) -> (n, q) three times
        """K(x, q), A and B, differentiable in the queries.

        Raises:
            InputError: the posterior is one on centres.

        Cost:
            by a factor n·q entries and n²·q flops, and n³/3 once. Otherwise a block solve of q columns to an excess
            variance ‖k − Hw‖²_{H⁻¹} of at most 5 % of the variance.
        """
        options = self.process.options
        if options.centres is not None:
            raise InputError(
                "variances and covariances by solving are those of the exact Gaussian process, which this posterior on "
                f'{len(options.centres)} centres is not: use variance(method="samples"), or condition without centres.'
            )
        points, solver = self.points.astype(torch.float64), options.solver_for(len(self.points))
        if not isinstance(solver, Cholesky):
            cross = self._block(points, self._prepared(queries))
            return cross, *self._iterated(solver, queries, cross)
        cross = self._block(
            self._prepared(queries), points
        ).T  # column by column, as LAPACK takes it: no copy
        if self._factor is None:
            with undisturbed():
                self._factor = factorise(self.process.operator(self.data))
        lower, jitter = self._factor
        if not jitter:
            half = lower.half(cross)
            return cross, half, half
        weights = lower.solve(cross.detach())
        product = self.process.operator(self.data).matmul_wide(weights)
        return cross, weights, differentiated_once(2 * cross - product, _FIRST_ORDER, cross)

    def _iterated(self, solver: Solver, queries: Tensor, cross: Tensor) -> tuple[Tensor, Tensor]:
        """A and B by iterations.

        ‖r‖²_{H⁻¹} ≤ ‖r‖²/σ²; the variance given the nearest rows tells beforehand how small the residual has to be.
        """
        options, operator = self.process.options, self.process.operator(self.data)
        queries, right = queries.detach(), cross.detach()
        own, start, noise = self._diagonal(queries), None, self.data.merged_noise
        none, least = right.new_zeros(len(self.points), 0), float(noise.min())
        no_draws = right.new_zeros(len(queries), 0)
        local = local_control(self.covariance, self.points, noise, none, queries, no_draws, CONTROL_ROWS)[0]
        asked = options.tolerances(0, True)
        allowed = _EXCESS * least * (0.5 * local).clamp_min(_LEAST_VARIANCE * own)
        for _ in range(_ROUNDS):
            tolerance = (allowed.sqrt() / right.norm(dim=0)).cpu().clamp_min(_LEAST_TOLERANCE).minimum(asked)
            weights = solver.solve(
                operator, right, start, tolerance=tolerance, generator=0, on_failure=options.on_failure
            ).x.double()
            product = operator.matmul_wide(weights)
            variance = own - (weights * (2 * right - product)).sum(0)
            allowed = _EXCESS * least * variance.clamp_min(_LEAST_VARIANCE * own)
            if bool(((right - product).square().sum(0) <= 2 * allowed).all()):
                break
            start = weights
        return weights, differentiated_once(2 * cross - product, _FIRST_ORDER, cross)


class _Recomputed(torch.autograd.Function):
    """function(rows), of which nothing is kept: it is evaluated once more for its derivative."""

    @staticmethod
    def forward(ctx: Any, function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        ctx.function = function
        ctx.save_for_backward(rows)
        return function(rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        (rows,) = ctx.saved_tensors
        twice = torch.is_grad_enabled()  # a gradient of the gradient is wanted
        again = rows if twice else rows.detach().requires_grad_()
        with torch.enable_grad():
            value = ctx.function(again)
        return None, torch.autograd.grad(value, again, grad, create_graph=twice)[0]
