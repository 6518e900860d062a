"""Textbook Bayesian linear regression with dense float64 matrices. Nothing here imports sggp."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def block_diagonal(blocks: Tensor) -> Tensor:  # (n, o, o) -> (no, no)
    return torch.block_diag(*blocks)


@dataclass(frozen=True)
class Dense:
    """H = A + ΦᵀBΦ and what follows from it, for stacked Φ (n·o, D) and B (n·o, n·o)."""

    phi: Tensor
    b: Tensor
    a: Tensor  # (D,)

    @property
    def hessian(self) -> Tensor:
        return torch.diag(self.a) + self.phi.T @ self.b @ self.phi

    @property
    def covariance(self) -> Tensor:
        return torch.linalg.inv(self.hessian)

    def mean(self, y: Tensor) -> Tensor:
        return torch.linalg.solve(self.hessian, self.phi.T @ self.b @ y.reshape(-1))

    @property
    def effective_dimension(self) -> float:
        return float(torch.trace(self.covariance @ self.phi.T @ self.b @ self.phi))


def log_marginal_likelihood(phi: Tensor, y: Tensor, log_alpha: Tensor, log_sigma2: Tensor) -> Tensor:
    """log N(y | 0, ΦΦᵀ/α + σ²I), in function space: no determinant of H and no weights."""
    n = len(y)
    k = phi @ phi.T / log_alpha.exp() + log_sigma2.exp() * torch.eye(n, dtype=phi.dtype)
    factor = torch.linalg.cholesky(k)
    fit = y @ torch.cholesky_solve(y[:, None], factor)[:, 0]
    return -0.5 * fit - factor.diagonal().log().sum() - 0.5 * n * math.log(2 * math.pi)


def spd_blocks(n: int, o: int, seed: int) -> Tensor:
    """(n, o, o) symmetric positive definite, different at every point."""
    half = draw(n, o, o, seed=seed)
    return half @ half.mT + 0.3 * torch.eye(o, dtype=torch.float64)
