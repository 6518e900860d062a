"""tr log S of a symmetric positive definite S that is known by its products: stochastic Lanczos quadrature."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["TraceEstimate", "trace_of_log"]

_CHECK_EVERY = 5
_SETTLED = 0.1
"""Steps end once the last five have moved the mean by less than this share of its standard error."""
_TINY = 1e-12


@dataclass(frozen=True)
class TraceEstimate:
    """An estimate of tr log S, its standard error over the probes, and the work: steps and probes."""

    value: float
    error: float
    steps: int
    num_probes: int


def trace_of_log(
    multiply: Callable[[Tensor], Tensor],
    signs: Tensor,
    max_steps: int,
    *,
    exact_trace: bool,
    memory_budget: float,
) -> TraceEstimate:
    """The mean of uᵀ log(S) u over random signs u.

    Gauss quadrature from k Lanczos steps is exact for polynomials up to degree 2k − 1. With `exact_trace` tr S = n, and
    a·(uᵀSu − n) is subtracted, a the slope of the straight line closest to the logarithm on the eigenvalues of S (their
    distribution comes from the same quadrature): what is left of the variance is that of the logarithm's curvature.

    Args:
        multiply: S times (n, s) columns in float64.
        signs: (n, s) columns u of random signs, float64. They are taken in as many blocks as memory asks for; the first
            block decides the number of steps.
        max_steps: at most n are taken.
        memory_budget: bytes for the Lanczos vectors.

    Source: Ubaru, Chen and Saad 2017, algorithm 1. Departures: see `log_marginal_likelihood`.
    """
    n, num_probes = signs.shape
    most = min(max_steps, n)
    width = int(max(1, min(num_probes, memory_budget // (16 * n * (most + 6)))))
    logs, firsts, measures, steps = [], [], [], most
    trace = n if exact_trace else None
    for k, block in enumerate(signs.split(width, dim=1)):
        process = _Lanczos(multiply, block, steps)
        while process.steps < steps:
            process.advance()
            if k == 0 and process.steps % _CHECK_EVERY == 0 and process.settled(num_probes, trace):
                break
        steps = process.steps
        logs.append(process.logarithm())
        firsts.append(process.first())
        measures.append(process.measure())
    nodes, weights = (torch.cat([part.flatten() for part in parts]) for parts in zip(*measures, strict=True))
    terms = controlled(torch.cat(logs), torch.cat(firsts), (nodes, weights), trace)
    error = float(terms.std()) / len(terms) ** 0.5
    return TraceEstimate(float(terms.mean()), error, steps, num_probes)


def controlled(
    logs: Tensor, firsts: Tensor, measure: tuple[Tensor, Tensor], trace: int | None
) -> Tensor:  # (s,)
    """uᵀ log(S) u − a·(uᵀSu − tr S) with a from weighted least squares; `logs` as they are where tr S is unknown."""
    if trace is None:
        return logs
    nodes, weights = measure
    weights = weights / weights.sum()
    centred = nodes - (weights * nodes).sum()
    spread = (weights * centred.square()).sum()
    slope = (weights * centred * nodes.log()).sum() / spread if float(spread) > _TINY else spread.new_ones(())
    return logs - slope * (firsts - trace)


class _Lanczos:
    """The Lanczos process from several starts at once, all vectors kept and kept orthogonal."""

    def __init__(self, multiply: Callable[[Tensor], Tensor], start: Tensor, most: int) -> None:
        self._multiply = multiply
        self._size = start.square().sum(dim=0)  # (s,)
        self._basis = start.new_empty(most, *start.shape)
        self._basis[0] = start / self._size.sqrt()
        self._most = most
        self.steps = 0
        self._diagonal: list[Tensor] = []
        self._beside: list[Tensor] = []
        self._before = torch.inf

    def advance(self) -> None:
        """One product with S."""
        k = self.steps
        own = self._basis[k]
        alive = own.square().sum(dim=0) > 0.5
        # w = S q_k; α_k = q_kᵀw; w ← w − α_k q_k − β_k q_{k−1}; β_{k+1} = ‖w‖; q_{k+1} = w/β_{k+1}
        w = self._multiply(own)
        # where a start is exhausted, an eigenvalue of 1 and weight 0 stands in for what is not there
        self._diagonal.append(torch.where(alive, (own * w).sum(dim=0), torch.ones_like(self._size)))
        self.steps += 1
        if self.steps == self._most:
            return
        known = self._basis[: k + 1]
        for _ in range(2):  # against all of them, twice: α_k q_k and β_k q_{k−1} are among what is taken away
            w = w - torch.einsum("kns,ks->ns", known, torch.einsum("kns,ns->ks", known, w))
        length = w.norm(dim=0)
        length = torch.where(alive & (length > _TINY * self._diagonal[0].abs()), length, 0.0)
        self._beside.append(length)
        self._basis[k + 1] = torch.where(length > 0, w / length.clamp_min(1e-300), 0.0)

    def measure(self) -> tuple[Tensor, Tensor]:  # (s, k), (s, k)
        """Nodes and weights of the distribution of eigenvalues: Gauss quadrature, from T = QᵀSQ."""
        k = self.steps
        small = torch.diag_embed(torch.stack(self._diagonal, dim=1))
        if k > 1:
            beside = torch.stack(self._beside[: k - 1], dim=1)
            small = small + torch.diag_embed(beside, offset=1) + torch.diag_embed(beside, offset=-1)
        nodes, vectors = torch.linalg.eigh(small)
        return nodes.clamp_min(_TINY), vectors[:, 0].square()

    def logarithm(self) -> Tensor:  # (s,)
        """uᵀ log(S) u ≈ ‖u‖² Σ_i τ_i² log θ_i, θ_i the eigenvalues of T and τ_i the first entries of its vectors."""
        nodes, weights = self.measure()
        return self._size * (weights * nodes.log()).sum(dim=1)

    def first(self) -> Tensor:  # (s,)
        """uᵀSu."""
        return self._size * self._diagonal[0]

    def settled(self, num_probes: int, trace: int | None) -> bool:
        """Whether the last steps moved the mean by little beside its standard error over all probes."""
        terms = controlled(self.logarithm(), self.first(), self.measure(), trace)
        mean, before = float(terms.mean()), self._before
        self._before = mean
        error = float(terms.std()) / num_probes**0.5 if len(terms) > 1 else 0.0
        exhausted = self.steps == self._most or not bool(self._basis[self.steps].any())
        return exhausted or abs(mean - before) <= _SETTLED * error
