"""Preconditioned conjugate gradients, one scalar recurrence per column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from sggp.checks import whole_number
from sggp.errors import InputError, UnsupportedOperator
from sggp.operators.base import NeighbourOperator
from sggp.parallel import Workers
from sggp.preconditioners import Balanced, Built, Preconditioner, Unfinished
from sggp.preconditioners.recomputed import Recomputed
from sggp.running import OutOfTime
from sggp.solvers.core.base import column_norms
from sggp.solvers.core.driver import IterativeSolver, State
from sggp.solvers.core.problem import Problem
from sggp.solvers.core.solution import Status
from sggp.solvers.core.stagnation import count_idle, keep_best
from sggp.typing import ResidualKind

__all__ = ["ConjugateGradients", "automatic"]

_PLAIN_BELOW = 256
_MEMORY_SHARE = 0.5
_HARMLESS = 0.01
"""Of the noise's part of a product: what the product may be wrong by."""
_PATIENCE = 150
"""Steps without the residual falling by a tenth, after which a column starts again from its measured residual."""


@dataclass
class _State(State):
    built: Built | None  # P
    x: Tensor
    r: Tensor
    p: Tensor
    rz: Tensor  # (s,) float64
    best: Tensor  # (n, s) iterate of least residual
    least: Tensor  # (s,)
    mark: Tensor  # (s,) least residual when it last fell by a tenth
    idle: Tensor  # (s,) steps since then
    residual: Tensor  # (s,)
    broken: Tensor  # (s,) bool
    steps: int = 0

    per_column: ClassVar = ("x", "r", "p", "rz", "best", "least", "mark", "idle", "residual", "broken")


@dataclass(frozen=True)
class ConjugateGradients(IterativeSolver):
    """Conjugate gradients on P⁻¹A x = P⁻¹b, all columns sharing each product with A.

    Args:
        preconditioner: "auto" (`Balanced`, within half the operator's memory budget, where it offers small blocks; none
            for fewer than 256 rows), None, or one of `sggp.preconditioners`.
        replace_every: steps between replacements of the recursive residual by the true one, at one product each.
        float64_products: multiply in float64 though the operator works in float32: for matrices that rounding makes
            indefinite. Two to three times the time of a product.

    Cost:
        One product (n² entries, 2·n²·s flops) a step; memory 5·n·s beside the preconditioner.

    Source: Hestenes and Stiefel 1952; preconditioned form of Golub and Van Loan 2013, algorithm 11.5.1. Departures:
        1. Scalars and norms in float64 whatever the working precision. 2. The iterate of least residual is returned,
        since the residual is not monotone. 3. A claim of convergence by the recursive residual is
        checked by a product; a column that fails the check goes on from its true residual.
    """

    preconditioner: Preconditioner | Literal["auto"] | None = "auto"
    replace_every: int = 50
    float64_products: bool = False

    whole_passes: ClassVar = True

    def __post_init__(self) -> None:
        whole_number(self.replace_every, "replace_every")
        if isinstance(self.preconditioner, str) and self.preconditioner != "auto":
            raise InputError(
                f'preconditioner must be None, "auto" or one of sggp.preconditioners, got {self.preconditioner!r}.'
            )

    def setup(self, operator: Any, columns: int, generator: torch.Generator) -> Built | None:
        chosen = self.preconditioner
        if isinstance(chosen, str):
            neighbourly = isinstance(operator, NeighbourOperator)
            chosen = automatic(operator.shape[0], columns, operator.memory_budget) if neighbourly else None
        try:
            return None if chosen is None else chosen.build(operator, generator)
        except OutOfTime as over:
            if over.stopped:
                raise
            return Unfinished(None, f"no preconditioner: {over}.")

    def start(self, problem: Problem, setup: Built | None = None) -> _State:
        if self.float64_products and problem.operator.matmul_wide is None:
            raise UnsupportedOperator(
                f"float64_products needs matmul_wide, which {type(problem.operator).__name__} does not offer; "
                "leave it out."
            )
        r = problem.rhs.to(torch.float64 if self.float64_products else problem.rhs.dtype, copy=True)
        x = torch.zeros_like(r)
        norms = column_norms(r)
        s = r.shape[1]
        z = _solved(setup, r, problem.operator.workers)
        return _State(
            notes=[setup.note] if isinstance(setup, Unfinished) else [],
            problem=problem,
            built=setup,
            x=x,
            r=r,
            p=z.clone(),
            rz=_dots(r, z),
            best=x.clone(),
            least=norms,
            mark=norms.clone(),
            idle=torch.zeros(s, dtype=torch.long),
            residual=norms,
            broken=torch.zeros(s, dtype=torch.bool),
        )

    def step(self, state: _State) -> None:
        operator = state.problem.operator
        h = self._product(operator, state.p)
        curvature = _dots(state.p, h)
        state.broken |= ~(curvature > 0) | ~torch.isfinite(state.rz)
        # α = rᵀz / pᵀAp; x ← x + αp; r ← r − αAp
        alpha = torch.where(state.broken, torch.zeros_like(curvature), state.rz / curvature)
        state.x.addcmul_(alpha.to(state.x)[None], state.p)
        state.steps += 1
        if state.steps % self.replace_every == 0:
            state.r = state.problem.rhs - self._product(operator, state.x)
        else:
            state.r.addcmul_(alpha.to(state.r)[None], h, value=-1.0)
        state.residual = column_norms(state.r)
        keep_best(state)
        count_idle(state)
        # z = P⁻¹r; β = rᵀz / (rᵀz before); p ← z + βp
        z = _solved(state.built, state.r, operator.workers)
        rz = _dots(state.r, z)
        beta = torch.where(state.rz > 0, rz / state.rz, torch.zeros_like(rz))
        state.p.mul_(beta.to(z)[None]).add_(z)
        state.rz = rz

    def _product(self, operator: Any, v: Tensor) -> Tensor:
        """A v; in float64 a far field may add a hundredth of Σv, with which A is a matrix of a little other noise."""
        if v.dtype == torch.float64 and operator.approximates:
            noise = operator.noise_variance[:, None] * v
            return operator.product_within(v, _HARMLESS * torch.linalg.vector_norm(noise, dim=0))[0]
        return operator.matmul_wide(v) if self.float64_products else operator.matmul(v)

    def iterate(self, state: _State) -> Tensor:
        return state.best

    def residual(self, state: _State) -> tuple[Tensor, ResidualKind]:
        return state.residual, "recursive"

    def stalled(self, state: _State) -> Tensor:
        return state.idle >= _PATIENCE

    def failures(self, state: _State) -> list[Status | None]:
        return [Status.BREAKDOWN if broken else None for broken in state.broken.tolist()]


def automatic(n: int, columns: int, memory_budget: float) -> Balanced | None:
    """What "auto" stands for on n rows with small blocks, for so many right-hand sides; None for few rows."""
    if n < _PLAIN_BELOW:
        return None
    return Balanced(columns=columns, memory_budget=memory_budget * _MEMORY_SHARE)


def _solved(built: Built | None, v: Tensor, workers: Workers) -> Tensor:  # (n, s) -> (n, s)
    """P⁻¹v, a new tensor; of several ranks, each solves for some of the columns, or all share the rows of a product."""
    if built is None:
        return v.clone()
    if workers.ranks == 1 or v.shape[1] < workers.ranks or isinstance(built, Recomputed):
        return built.apply(v)
    columns = workers.gather(v.shape[1], lambda part: built.apply(v[:, part.rows].contiguous()).T, (v,))
    return columns.T.contiguous()


def _dots(a: Tensor, b: Tensor) -> Tensor:  # (n, s), (n, s) -> (s,) float64
    return torch.einsum("ns,ns->s", a.double(), b.double()).cpu()
