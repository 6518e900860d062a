"""Direct solve by a dense Cholesky factor, with a jitter that escalates only if it must and is reported."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sggp.errors import SolverFailure, UnsupportedOperator
from sggp.solvers.base import Solver, column_norms
from sggp.solvers.driver import Limits
from sggp.solvers.problem import prepare
from sggp.solvers.solution import Record, Solution, Status

__all__ = ["Cholesky", "factorise"]

_JITTERS = (0.0, 1e-12, 1e-10, 1e-8, 1e-6, 1e-4)


def factorise(operator: Any) -> tuple[Tensor, float]:
    """Lower Cholesky factor of the operator in float64 and the jitter that was added to its diagonal.

    The jitter tries 0, then 1e-12 … 1e-4 times the mean of the diagonal.

    Raises:
        UnsupportedOperator: the operator cannot be made dense.
        MemoryBudgetError: it does not fit the operator's budget.
        SolverFailure: no factor exists even with the largest jitter.

    Cost:
        n² entries, n³/3 flops, 8·n² bytes twice.
    """
    if not hasattr(operator, "dense"):
        raise UnsupportedOperator(
            f"Cholesky needs operator.dense(), which {type(operator).__name__} does not offer; use ConjugateGradients."
        )
    dense = operator.dense(torch.float64)
    mean = float(dense.diagonal().mean())
    added = 0.0
    for relative in _JITTERS:
        dense.diagonal().add_(relative * mean - added)
        added = relative * mean
        factor, info = torch.linalg.cholesky_ex(dense)
        if int(info) == 0 and bool(torch.isfinite(factor.diagonal()).all()):
            return factor, added
    raise SolverFailure(
        f"no Cholesky factor even with jitter {added:.1e} on the diagonal (mean diagonal {mean:.1e}): the matrix is "
        "not positive semi-definite. Check the kernel, and that noise_variance is positive."
    )


@dataclass(frozen=True)
class Cholesky(Solver):
    """Solve by a dense float64 Cholesky factor: exact, n³/3 flops, 16·n² bytes.

    If the matrix is singular to float64, a jitter is added to its diagonal and reported in `Solution.notes`; the
    residual is measured against the matrix without it, refined once.

    Source: Rasmussen and Williams 2006, algorithm 2.1.
    """

    def _solve(self, operator: Any, rhs: Tensor, x0: Tensor | None, limits: Limits) -> Solution:
        # a direct solve has no iterations: the start, the budgets, the generator and the callback change nothing
        problem = prepare(operator, rhs, x0, limits.tolerance, limits.generator)
        begin, entries0 = time.perf_counter(), operator.entries_evaluated
        total = len(problem.norms)
        norms = problem.norms[problem.columns].to(problem.rhs.device)
        wide = problem.rhs * norms
        lower, jitter = factorise(operator)
        notes = []
        found = torch.cholesky_solve(wide, lower)
        residual = torch.zeros(total, dtype=torch.float64)
        if jitter:
            notes.append(f"added jitter {jitter:.1e} to the diagonal: the matrix is singular to float64.")
        product = getattr(operator, "matmul_wide", operator.matmul)
        gap = wide - product(found)
        if jitter:
            refined = found + torch.cholesky_solve(gap, lower)
            after = wide - product(refined)
            better = column_norms(after) < column_norms(gap)
            found[:, better], gap[:, better] = refined[:, better], after[:, better]
        residual[problem.columns] = column_norms(gap) / norms.double().cpu()
        finite = torch.isfinite(problem.norms)
        residual[~finite] = float("nan")
        x = torch.zeros(problem.n, total, dtype=problem.dtype, device=problem.rhs.device)
        x[:, problem.columns] = found.to(x)
        x[:, ~finite] = float("nan")
        seconds = time.perf_counter() - begin
        epochs = (operator.entries_evaluated - entries0) / problem.n**2
        return Solution(
            x=x[:, 0] if problem.vector else x,
            status=_status(finite, residual, problem.all_tolerances),
            residual=residual,
            residual_kind="true",
            tolerance=problem.all_tolerances,
            history=(Record(epochs, seconds, residual, "true"),),
            epochs=epochs,
            seconds=seconds,
            iterations=1,
            method=self.describe(),
            notes=tuple(notes),
        )


def _status(finite: Tensor, residual: Tensor, tolerance: Tensor) -> tuple[Status, ...]:
    out = []
    for ok, value, limit in zip(finite.tolist(), residual.tolist(), tolerance.tolist(), strict=True):
        if not ok:
            out.append(Status.NONFINITE_INPUT)
        else:
            out.append(Status.CONVERGED if value <= limit else Status.STAGNATED)
    return tuple(out)
