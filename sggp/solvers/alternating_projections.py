"""Alternating projections: exact solves on blocks of rows, the block with the largest residual first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sggp.checks import whole_number
from sggp.errors import InputError
from sggp.linalg import try_cholesky
from sggp.solvers.core.base import column_norms
from sggp.solvers.core.driver import IterativeSolver, State
from sggp.solvers.core.problem import Problem, require_rows
from sggp.solvers.core.solution import Status
from sggp.solvers.core.stagnation import keep_best
from sggp.typing import ResidualKind

__all__ = ["AlternatingProjections"]

_GROWTH = 1e4
"""A residual this many times the least one so far is rounding at work: in exact arithmetic the energy norm never grows,
and the 2-norm by no more than the root of the condition number."""


@dataclass(frozen=True)
class _Blocks:
    """The rows of each block, and the factors of those that were visited and are kept."""

    rows: tuple[Tensor, ...]
    factors: dict[int, Tensor]


@dataclass
class _State(State):
    setup: _Blocks
    x: Tensor
    r: Tensor  # (n, s) residual, kept up to date
    residual: Tensor  # (s,) its norms
    best: Tensor  # (n, s) iterate of least residual
    least: Tensor  # (s,)
    broken: bool = False

    per_column: ClassVar[tuple[str, ...]] = ("x", "r", "residual", "best", "least")


@dataclass(frozen=True)
class AlternatingProjections(IterativeSolver):
    """Greedy block Gauss–Southwell: solve the block b of rows with the largest residual exactly, and go on.

    Δ = (K_bb + Σ_b)⁻¹ R_b, A_b ← A_b + Δ, R ← R − (K + Σ)_{:,b} Δ.

    Args:
        block_size: rows of a block.
        memory_budget: bytes for the Cholesky factors of blocks that are kept between visits.

    Cost:
        block_size·n entries, 2·block_size·n·s flops a step and block_size³/3 for a block's first visit; n·block_size
        numbers for all factors.

    Source: Wu, Kim, Chen, Weinberger and Gardner 2024 (AISTATS), algorithm 1. Departures: 1. blocks are cut from a
        random order, not from the order of the file; 2. the kept residual is checked by a product before a column
        counts as converged; 3. factors are kept within a byte budget only; 4. the iterate of least residual is
        returned, since the steps shrink the error in the energy norm and may raise the residual on the way; 5. where
        it grows ten thousandfold, which rounding alone does, the column is measured again at its best iterate.
    """

    block_size: int = 1000
    memory_budget: float = 2**30

    def __post_init__(self) -> None:
        whole_number(self.block_size, "block_size")
        if self.memory_budget < 0:
            raise InputError(f"memory_budget must not be negative, got {self.memory_budget}.")

    def setup(self, operator: Any, columns: int, generator: torch.Generator) -> _Blocks:
        require_rows(operator, self)
        order = torch.randperm(operator.shape[0], generator=generator).to(operator.device)
        return _Blocks(order.split(self.block_size), {})

    def start(self, problem: Problem, setup: _Blocks) -> _State:
        norms = column_norms(problem.rhs)
        return _State(
            problem=problem,
            setup=setup,
            x=torch.zeros_like(problem.rhs),
            r=problem.rhs.clone(),
            residual=norms,
            best=torch.zeros_like(problem.rhs),
            least=norms.clone(),
        )

    def step(self, state: _State) -> None:
        # columns count by how far they are from their tolerance, so that the last ones are not drowned
        weight = (1.0 / state.problem.tolerance).to(state.r)
        sizes = (state.r * weight).square().sum(1)
        chosen = int(torch.stack([sizes[block].sum() for block in state.setup.rows]).argmax())
        rows = state.setup.rows[chosen]
        factor = self._factor(state, chosen)
        if factor is None:
            state.broken = True
            return
        change = torch.cholesky_solve(state.r[rows].double(), factor).to(state.r)
        state.x.index_add_(0, rows, change)
        state.r -= state.problem.operator.columns_matmul(rows, change)
        state.residual = column_norms(state.r)
        keep_best(state)

    def _factor(self, state: _State, chosen: int) -> Tensor | None:
        """The Cholesky factor of a block; None where it is not positive definite even with jitter."""
        factors = state.setup.factors
        if chosen in factors:
            return factors[chosen]
        rows = state.setup.rows[chosen]
        dense = state.problem.operator.block(rows, rows).double()
        factor, jitter = try_cholesky(dense)
        if bool(torch.isinf(jitter)):
            return None
        if 8 * len(rows) ** 2 * (len(factors) + 1) <= self.memory_budget:
            factors[chosen] = factor
        return factor

    def iterate(self, state: _State) -> Tensor:
        return state.best

    def stalled(self, state: _State) -> Tensor:
        lost = ~(state.residual <= _GROWTH * state.least)
        note = "rounding made the residual grow: went on from the best iterate."
        if bool(lost.any()) and note not in state.notes:
            state.notes.append(note)
        return lost

    def residual(self, state: _State) -> tuple[Tensor, ResidualKind]:
        return state.residual, "recursive"

    def failures(self, state: _State) -> list[Status | None]:
        return [Status.BREAKDOWN if state.broken else None] * state.problem.rhs.shape[1]
