"""The default choice of solver, as a documented function of the problem."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sggp.operators.base import NeighbourOperator
from sggp.solvers.base import Solver
from sggp.solvers.cholesky import Cholesky
from sggp.solvers.conjugate_gradients import ConjugateGradients
from sggp.solvers.driver import Limits
from sggp.solvers.solution import Solution, Status

__all__ = ["Auto", "choose"]

_DENSE_BYTES_PER_ENTRY = 16  # the matrix and its factor in float64


def choose(operator: Any, direct_rows: int) -> Solver:
    """The first choice for an operator.

    | rows and operator | solver |
    |---|---|
    | n ≤ direct_rows, can be made dense within its byte budget | `Cholesky` |
    | offers small blocks and neighbours | `ConjugateGradients` with low rank plus neighbours |
    | offers products only | `ConjugateGradients` without preconditioner |
    """
    n = operator.shape[0]
    budget = getattr(operator, "memory_budget", float("inf"))
    if n <= direct_rows and hasattr(operator, "dense") and _DENSE_BYTES_PER_ENTRY * n * n <= budget:
        return Cholesky()
    return ConjugateGradients("auto" if isinstance(operator, NeighbourOperator) else None)


@dataclass(frozen=True)
class Auto(Solver):
    """Chooses the solver by `choose`, and falls back to a dense factor where the first choice fails and one fits.

    Args:
        direct_rows: up to this many rows a dense factor comes first.

    Cost: that of the solver chosen; `Solution.method` names it, `Solution.notes` tells a change of mind.
    """

    direct_rows: int = 3000

    def _solve(self, operator: Any, rhs: Tensor, x0: Tensor | None, limits: Limits) -> Solution:
        first = choose(operator, self.direct_rows)
        solution = first._solve(operator, rhs, x0, limits)
        lost = {Status.STAGNATED, Status.BREAKDOWN, Status.DIVERGED} & set(solution.status)
        budget = getattr(operator, "memory_budget", float("inf"))
        fits = hasattr(operator, "dense") and _DENSE_BYTES_PER_ENTRY * operator.shape[0] ** 2 <= budget
        if lost and fits and not isinstance(first, Cholesky):
            second = Cholesky()._solve(operator, rhs, None, limits)
            if float(torch.nan_to_num(second.residual).max()) < float(
                torch.nan_to_num(solution.residual).max()
            ):
                story = f"{first.describe()} ended as {', '.join(sorted(map(str, lost)))}; a dense factor took over."
                solution = replace(
                    second,
                    notes=(*solution.notes, story, *second.notes),
                    epochs=solution.epochs + second.epochs,
                    seconds=solution.seconds + second.seconds,
                    iterations=solution.iterations + second.iterations,
                )
        return replace(solution, method=f"{self.describe()} → {solution.method}")
