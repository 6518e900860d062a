"""Direct solve by a dense Cholesky factor, with a jitter that escalates only if it must and is reported."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sggp.errors import InputError, SolverFailure, UnsupportedOperator
from sggp.linalg import JITTERS
from sggp.operators.base import Forwarded, Operator, completed
from sggp.solvers.conjugate_gradients import ConjugateGradients
from sggp.solvers.core.base import Setup, Solver
from sggp.solvers.core.limits import Limits
from sggp.solvers.core.problem import Problem, check_system
from sggp.solvers.core.run import Run, begin, solution
from sggp.solvers.core.solution import Solution, Status
from sggp.solvers.triangle import LowerTriangle, factor_panels, panels_of

__all__ = ["Cholesky", "factorise"]


def require_dense(operator: Any) -> Any:
    """The operator with the defaults of `Operator`; raises `UnsupportedOperator` unless it can be made dense."""
    operator = completed(operator)
    if operator.dense is None:
        raise UnsupportedOperator(
            f"Cholesky needs operator.dense(), which {type(operator).__name__} does not offer; use ConjugateGradients."
        )
    return operator


def factorise(operator: Any, dtype: torch.dtype = torch.float64) -> tuple[LowerTriangle, float]:
    """Lower Cholesky factor of the operator and the jitter that was added to its diagonal.

    The jitter is that of `sggp.linalg`; the matrix is built anew for each, so that there is only one at a time.

    Args:
        operator: offers `dense(dtype)`, a new tensor at each call: the factor takes its place. One that offers
            `dense_rows` as well has its lower triangle evaluated alone.
        dtype: precision of the matrix and its factor.

    Raises:
        UnsupportedOperator: the operator cannot be made dense.
        MemoryBudgetError: it does not fit the operator's budget.
        SolverFailure: no factor exists even with the largest jitter.

    Cost:
        n² entries and n³/3 flops for each jitter tried, 8·n² bytes in float64, 4·n² in float32; beyond 2,048 rows of an
        operator with `dense_rows` half of these entries and bytes.
    """
    operator = require_dense(operator)
    n = operator.shape[0]
    by_rows = operator.dense_rows is not None and len(panels_of(n)) > 1
    mean = added = 0.0
    for relative in JITTERS[dtype]:
        if by_rows:
            mean = float(operator.diagonal().double().mean()) if relative else 0.0
            added = relative * mean
            factor = factor_panels(partial(operator.dense_rows, dtype=dtype), n, added)
        else:
            factor, mean = _square_factor(operator.dense(dtype), relative)
            added = relative * mean
        if factor is not None:
            return factor, added
        if not math.isfinite(mean):
            break
    raise SolverFailure(
        f"no Cholesky factor even with jitter {added:.1e} on the diagonal (mean diagonal {mean:.1e}): the matrix is "
        "not positive semi-definite. Check the kernel, and that noise_variance is positive."
    )


def _square_factor(matrix: Tensor, relative: float) -> tuple[LowerTriangle | None, float]:
    """The factor in place of the matrix, with this share of the mean diagonal added, and that mean."""
    factor = matrix.mT  # by columns, as LAPACK wants it, so that the factor can overwrite the matrix; A = Aᵀ
    mean = float(factor.diagonal().double().mean())
    factor.diagonal().add_(relative * mean)
    info = torch.empty((), dtype=torch.int32, device=factor.device)
    torch.linalg.cholesky_ex(factor, out=(factor, info))
    if int(info) == 0 and bool(torch.isfinite(factor.diagonal()).all()):
        return LowerTriangle((factor,)), mean
    return None, mean


class _Float64Operator(Operator):
    """An operator seen in float64, with the products that iterative refinement measures with."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.shape, self.device, self.dtype = inner.shape, inner.device, torch.float64

    entries_evaluated, entries_per_epoch = Forwarded("inner"), Forwarded("inner")
    workers = Forwarded("inner")

    def matmul(self, v: Tensor) -> Tensor:
        if self.inner.matmul_wide is not None:
            return self.inner.matmul_wide(v)
        return self.inner.matmul(v.to(self.inner.dtype)).double()

    def diagonal(self) -> Tensor:
        return self.inner.diagonal().double()


@dataclass(frozen=True)
class _Factor:
    """A lower Cholesky factor and the jitter that it took: A⁻¹, or nearly so in float32."""

    lower: LowerTriangle
    jitter: float

    @property
    def log_det(self) -> float:
        return float(2 * self.lower.diagonal().double().log().sum())

    def apply(self, v: Tensor) -> Tensor:
        return self.lower.solve(v.to(self.lower.panels[0].dtype)).to(v.dtype)


@dataclass(frozen=True)
class _Refinement(ConjugateGradients):
    """Conjugate gradients on float64 products, preconditioned by a float32 factor."""

    def setup(self, operator: Any, columns: int, generator: torch.Generator) -> _Factor:
        return _Factor(*factorise(operator.inner, torch.float32))

    def start(self, problem: Problem, setup: Any = None) -> Any:
        state, jitter = super().start(problem, setup), setup.jitter
        if jitter:
            state.notes.append(f"added jitter {jitter:.1e} to the float32 factor, which only preconditions.")
        return state


@dataclass(frozen=True)
class Cholesky(Solver):
    """Solve by a dense Cholesky factor: exact, n³/3 flops, 8·n² bytes in float64 and 4·n² in float32.

    Beyond 2,048 rows of a `KernelOperator` it is half of these bytes: only the lower triangle is ever there.

    If the matrix is singular to the factor's precision, a jitter is added to its diagonal and reported in
    `Solution.notes`; the residual is measured against the matrix without it. A float64 factor then refines once. A
    float32 factor is refined by conjugate gradients on float64 products that it preconditions, so that the answer
    depends neither on the jitter nor on float32: the same as by a float64 factor, for half the memory and about half
    the time, at a few passes.

    Args:
        factor_dtype: torch.float64 or torch.float32.

    A float64 solve has no iterations: start, budgets, generator, callback and checkpoint change nothing. The
    refinement of a float32 factor heeds them, but for the checkpoint.

    Source: Rasmussen and Williams 2006, algorithm 2.1; refinement by a preconditioned iteration: Carson and Higham
        2018.
    """

    factor_dtype: torch.dtype = torch.float64

    def __post_init__(self) -> None:
        if self.factor_dtype not in JITTERS:
            raise InputError(f"factor_dtype must be torch.float64 or torch.float32, got {self.factor_dtype}.")

    def setup(self, operator: Any, columns: int, generator: torch.Generator) -> Any:
        if self.factor_dtype == torch.float32:
            return _Refinement().setup(operator, columns, generator)
        return _Factor(*factorise(operator))

    def _solve(
        self, operator: Any, rhs: Tensor, x0: Tensor | None, limits: Limits, setup: Setup | None = None
    ) -> Solution:
        operator = require_dense(operator)
        if self.factor_dtype == torch.float32:
            limits = replace(limits, checkpoint=None)
            found = _Refinement()._solve(_Float64Operator(operator), rhs, x0, limits, setup)
            return replace(found, method=self.describe())
        system = check_system(operator, rhs, x0, limits.tolerance, limits.generator)
        run = begin(replace(system, x0=None))
        run.wide, run.both = operator.matmul_wide is not None, True
        columns = torch.arange(len(system.columns))
        setup = Setup() if setup is None else setup
        if len(columns):
            factor = setup.of(self, operator, len(columns), system.generator)
            run.x = factor.apply(system.rhs.take())
            run.measure(columns)
            if factor.jitter:
                run.notes.append(
                    f"added jitter {factor.jitter:.1e} to the diagonal: the matrix is singular to float64."
                )
                _refine(run, factor, columns)
        run.iterations = 1
        run.record(run.residual, "true")
        for i, met in enumerate((run.residual <= system.tolerance).tolist()):
            run.status[i] = Status.CONVERGED if met else Status.STAGNATED
        run.break_down(columns)
        return solution(run, self.describe())


def _refine(run: Run, factor: _Factor, columns: Tensor) -> None:
    """One step of iterative refinement, for the columns that it serves."""
    x, residual, whole = run.x, run.residual.clone(), run.whole.clone()
    run.x = x + factor.apply(run.remainder * run.system.norms.to(x))
    run.measure(columns)
    worse = ~(run.residual < residual)
    run.x[:, worse], run.residual[worse], run.whole[worse] = x[:, worse], residual[worse], whole[worse]
