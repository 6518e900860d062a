"""Lower Cholesky factors by panels: half the memory of a square."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["LowerTriangle", "factor_panels", "panels_of"]

_WHOLE, _PANEL = 2048, 512
"""Rows up to which the factor is one square, and rows of a panel beyond."""


@dataclass(frozen=True)
class LowerTriangle:
    """A lower triangular L (n, n) as panels of successive rows, each with the columns up to its last row.

    What stands above the diagonal of a panel's last, square block is never read.
    """

    panels: tuple[Tensor, ...]

    def diagonal(self) -> Tensor:  # (n,)
        """The diagonal of L."""
        return torch.cat([_square(panel).diagonal() for panel in self.panels])

    def half(self, v: Tensor, transposed: bool = False) -> Tensor:  # (n, s) -> (n, s)
        """L⁻¹v, or L⁻ᵀv; differentiable in v. Cost: n²·s flops."""
        if len(self.panels) == 1:
            lower = self.panels[0]
            return torch.linalg.solve_triangular(lower.mT if transposed else lower, v, upper=transposed)
        found: Tensor = _Substituted.apply(v, self, transposed)
        return found

    def solve(self, v: Tensor) -> Tensor:  # (n, s) -> (n, s)
        """(LLᵀ)⁻¹v by two substitutions: `torch.cholesky_solve` would copy the factor."""
        return self.half(self.half(v), transposed=True)

    def substituted(self, v: Tensor, transposed: bool) -> Tensor:
        """`half` without derivatives, panel by panel."""
        out = v.clone()
        for panel in reversed(self.panels) if transposed else self.panels:
            size, stop = panel.shape
            first, rest, before = _square(panel), slice(stop - size, stop), slice(0, stop - size)
            if not transposed:
                out[rest].addmm_(panel[:, before], out[before], alpha=-1)
            own = first.mT if transposed else first
            out[rest] = torch.linalg.solve_triangular(own, out[rest], upper=transposed)
            if transposed:
                out[before].addmm_(panel[:, before].mT, out[rest], alpha=-1)
        return out


def panels_of(n: int) -> list[tuple[int, int]]:
    """The rows, from and to, of the panels of a factor of this order."""
    if n <= _WHOLE:
        return [(0, n)]
    return [(start, min(start + _PANEL, n)) for start in range(0, n, _PANEL)]


def factor_panels(rows: Callable[[int, int], Tensor], n: int, added: float) -> LowerTriangle | None:
    """The Cholesky factor of a matrix (n, n) plus `added` on its diagonal, or None where it has none.

    Args:
        rows: (start, stop) -> the rows from `start` to before `stop` of the matrix, columns up to `stop`: a new tensor,
            which its panel takes the place of.

    Cost: n³/3 flops; n·(n + 512)/2 numbers, and what `rows` takes.
    """
    done: list[Tensor] = []
    for start, stop in panels_of(n):
        panel = rows(start, stop)
        place = 0
        for other in done:
            # X Lᵀ = what is left of A once the columns before have been accounted for
            part = panel[:, place : place + len(other)]
            part.addmm_(panel[:, :place], other[:, :place].mT, alpha=-1)
            part.copy_(torch.linalg.solve_triangular(_square(other).mT, part, upper=True, left=False))
            place += len(other)
        square = panel[:, start:]
        square.addmm_(panel[:, :start], panel[:, :start].mT, alpha=-1)
        square.diagonal().add_(added)
        lower, info = torch.linalg.cholesky_ex(square)
        if int(info) or not bool(torch.isfinite(lower.diagonal()).all()):
            return None
        square.copy_(lower)
        done.append(panel)
    return LowerTriangle(tuple(done))


def _square(panel: Tensor) -> Tensor:
    """The last block of a panel."""
    return panel[:, panel.shape[1] - len(panel) :]


class _Substituted(torch.autograd.Function):
    """L⁻¹v or L⁻ᵀv, whose derivative is the other of the two."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, factor: LowerTriangle, transposed: bool) -> Tensor:
        ctx.factor, ctx.transposed = factor, transposed
        return factor.substituted(v, transposed)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        return ctx.factor.half(upstream[0], not ctx.transposed), None, None
