"""Direct solve by a dense Cholesky factor, with a jitter that escalates only if it must and is reported."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sggp.errors import InputError, SolverFailure, UnsupportedOperator
from sggp.linalg import JITTERS
from sggp.preconditioners import Preconditioner
from sggp.solvers.conjugate_gradients import ConjugateGradients
from sggp.solvers.core.base import Solver
from sggp.solvers.core.driver import Limits
from sggp.solvers.core.problem import prepare
from sggp.solvers.core.run import Run, begin, solution
from sggp.solvers.core.solution import Solution, Status

__all__ = ["Cholesky", "factorise", "substitute"]


def factorise(operator: Any, dtype: torch.dtype = torch.float64) -> tuple[Tensor, float]:
    """Lower Cholesky factor of the operator and the jitter that was added to its diagonal.

    The jitter is that of `sggp.linalg`; the matrix is built anew for each, so that there is only one at a time.

    Args:
        operator: offers `dense(dtype)`, a new tensor at each call: the factor takes its place.
        dtype: precision of the matrix and its factor.

    Raises:
        UnsupportedOperator: the operator cannot be made dense.
        MemoryBudgetError: it does not fit the operator's budget.
        SolverFailure: no factor exists even with the largest jitter.

    Cost:
        n² entries and n³/3 flops for each jitter tried, 8·n² bytes in float64, 4·n² in float32.
    """
    if not hasattr(operator, "dense"):
        raise UnsupportedOperator(
            f"Cholesky needs operator.dense(), which {type(operator).__name__} does not offer; use ConjugateGradients."
        )
    mean = added = 0.0
    for relative in JITTERS[dtype]:
        # by columns, as LAPACK wants it, so that the factor can overwrite the matrix; A = Aᵀ
        factor = operator.dense(dtype).mT
        mean = float(factor.diagonal().double().mean())
        added = relative * mean
        factor.diagonal().add_(added)
        info = torch.empty((), dtype=torch.int32, device=factor.device)
        torch.linalg.cholesky_ex(factor, out=(factor, info))
        if int(info) == 0 and bool(torch.isfinite(factor.diagonal()).all()):
            return factor, added
        del factor
        if not math.isfinite(mean):
            break
    raise SolverFailure(
        f"no Cholesky factor even with jitter {added:.1e} on the diagonal (mean diagonal {mean:.1e}): the matrix is "
        "not positive semi-definite. Check the kernel, and that noise_variance is positive."
    )


def substitute(lower: Tensor, v: Tensor) -> Tensor:
    """(LLᵀ)⁻¹v by two substitutions: `torch.cholesky_solve` would copy the factor."""
    half = torch.linalg.solve_triangular(lower, v, upper=False)
    return torch.linalg.solve_triangular(lower.mT, half, upper=True)


class _Wide:
    """An operator seen in float64, with the products that iterative refinement measures with."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.shape, self.device, self.dtype = inner.shape, inner.device, torch.float64
        self.entries_per_epoch = getattr(inner, "entries_per_epoch", inner.shape[0] ** 2)

    @property
    def entries_evaluated(self) -> int:
        return self.inner.entries_evaluated

    @entries_evaluated.setter
    def entries_evaluated(self, value: int) -> None:
        self.inner.entries_evaluated = value

    def matmul(self, v: Tensor) -> Tensor:
        if hasattr(self.inner, "matmul_wide"):
            return self.inner.matmul_wide(v)
        return self.inner.matmul(v.to(self.inner.dtype)).double()

    def diagonal(self) -> Tensor:
        return self.inner.diagonal().double()


class _Narrow(Preconditioner):
    """The float32 factor as a preconditioner, kept with the jitter that it took."""

    jitter = 0.0
    log_det = 0.0

    def build(self, operator: Any, generator: torch.Generator) -> _Narrow:
        self.lower, self.jitter = factorise(operator.inner, torch.float32)
        self.log_det = float(2 * self.lower.diagonal().double().log().sum())
        return self

    def apply(self, v: Tensor) -> Tensor:
        return substitute(self.lower, v.float()).double()


@dataclass(frozen=True)
class Cholesky(Solver):
    """Solve by a dense Cholesky factor: exact, n³/3 flops, 8·n² bytes in float64 and 4·n² in float32.

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

    def _refined(self, operator: Any, rhs: Tensor, x0: Tensor | None, limits: Limits) -> Solution:
        if not hasattr(operator, "dense"):
            factorise(operator)
        narrow = _Narrow()
        inner = ConjugateGradients(narrow)
        found = inner._solve(_Wide(operator), rhs, x0, replace(limits, checkpoint=None))
        notes = found.notes
        if narrow.jitter:
            note = f"added jitter {narrow.jitter:.1e} to the float32 factor, which only preconditions."
            notes = (note, *notes)
        return replace(found, method=self.describe(), notes=notes)

    def _solve(self, operator: Any, rhs: Tensor, x0: Tensor | None, limits: Limits) -> Solution:
        if self.factor_dtype == torch.float32:
            return self._refined(operator, rhs, x0, limits)
        problem = prepare(operator, rhs, x0, limits.tolerance, limits.generator)
        run = begin(replace(problem, x0=None))
        run.wide, run.both = hasattr(operator, "matmul_wide"), True
        columns = torch.arange(len(problem.columns))
        lower, jitter = factorise(operator)
        run.x = substitute(lower, problem.rhs)
        run.measure(columns)
        if jitter:
            run.notes.append(f"added jitter {jitter:.1e} to the diagonal: the matrix is singular to float64.")
            _refine(run, lower, columns)
        run.iterations = 1
        run.record(run.residual, "true")
        for i, met in enumerate((run.residual <= problem.tolerance).tolist()):
            lost = Status.STAGNATED if math.isfinite(run.residual[i]) else Status.BREAKDOWN
            run.status[i] = Status.CONVERGED if met else lost
        return solution(run, self.describe())


def _refine(run: Run, lower: Tensor, columns: Tensor) -> None:
    """One step of iterative refinement, for the columns that it serves."""
    first = replace(run, x=run.x, gap=run.gap.clone(), residual=run.residual.clone(), whole=run.whole.clone())
    run.x = run.x + substitute(lower, run.gap * run.problem.norms.to(run.gap))
    run.measure(columns)
    worse = ~(run.residual < first.residual)
    run.x[:, worse], run.residual[worse], run.whole[worse] = (
        first.x[:, worse],
        first.residual[worse],
        first.whole[worse],
    )
