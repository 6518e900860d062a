"""Small Gram matrices and posteriors given a few rows, many at once, in C++."""

from __future__ import annotations

import torch
from torch import Tensor

from sggp.errors import DtypeError, ShapeError
from sggp.native import library
from sggp.native.families import Profile

__all__ = ["local_posteriors", "small_stationary"]


def small_stationary(x: Tensor, weights: Tensor, profile: Profile, *, isa: str | None = None) -> Tensor:
    """Many small Gram matrices scale · φ(|w ∘ (x_i − x_j)|²): (b, m, d) float64 rows → (b, m, m) float64.

    Differences from the first row of each are taken before anything is rounded, so that rows far from the origin lose
    nothing. Diagonals are exactly the scale.

    Args:
        x: (b, m, d) float64 rows. weights: (d,) float64 inverse length scales. profile: φ and the scale.
        isa: one of `instruction_sets()`; None takes the best.

    Cost: b·m²·(d + some ten)/2 multiply-adds, m·(m + d) numbers a thread.
    """
    if x.ndim != 3 or weights.shape != x.shape[2:]:
        raise ShapeError(
            f"expected x (b, m, d) and weights (d,), got {tuple(x.shape)}, {tuple(weights.shape)}."
        )
    _check_float64(x, weights)
    out = torch.empty(x.shape[0], x.shape[1], x.shape[1], dtype=torch.float64)
    if out.numel():
        library.run("small_stationary", *profile.numbers, x, weights, *x.shape, out, isa=isa)
    return out


def local_posteriors(
    blocks: Tensor, index: Tensor, noise: Tensor, targets: Tensor, prior: Tensor, *, isa: str | None = None
) -> tuple[Tensor, Tensor]:
    """k − k_NᵀH_NN⁻¹k_N and f₀ − k_NᵀH_NN⁻¹z_N of queries given their own few rows N, H = K + noise.

    Args:
        blocks: (q, m + 1, m + 1) float64 covariance of the m rows of each query and, last, the query.
        index: (q, m) int64 which rows of `noise` (n,) and `targets` (n, s) these are; both float64.
        prior: (q, s) f₀.
        isa: one of `instruction_sets()`; None takes the best.

    Returns:
        (q,) variances, never below zero, and (q, s) deviations, float64; those of the prior where H_NN has no factor
        even with the jitters of `sggp.linalg`.

    Raises:
        InputError: an index that names no row.

    Cost: q·(m³/3 + m·s) multiply-adds, m² numbers a thread.
    """
    _check_float64(blocks, noise, targets)
    (q, m), (n, s) = index.shape, targets.shape
    if blocks.shape != (q, m + 1, m + 1) or noise.shape != (n,) or prior.shape != (q, s):
        raise ShapeError(
            f"expected blocks (q, m + 1, m + 1), index (q, m), noise (n,), targets (n, s) and prior (q, s), got "
            f"{tuple(blocks.shape)}, {tuple(index.shape)}, {tuple(noise.shape)}, {tuple(targets.shape)} and "
            f"{tuple(prior.shape)}."
        )
    variance = torch.empty(q, dtype=torch.float64)
    deviations = prior.detach().to(torch.float64, copy=True).contiguous()
    given = (blocks, index, q, m, noise, n, targets, s)
    refusal = f"index must name rows of targets, 0 to {n - 1}."
    library.run("local_posteriors", *given, variance, deviations, isa=isa, refusal=refusal)
    return variance, deviations


def _check_float64(*tensors: Tensor) -> None:
    if any(x.dtype != torch.float64 for x in tensors):
        raise DtypeError(f"expected float64, got {', '.join(str(x.dtype) for x in tensors)}.")
