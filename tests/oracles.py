"""Textbook formulas, dense, in float64 or better, in numpy. Nothing here imports sggp.

Stationary kernels are evaluated in extended precision from differences of coordinates, so that they are a reference
for entries of near-duplicates and of data far from the origin.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

LONG = np.longdouble


def to_numpy(x: torch.Tensor) -> np.ndarray:
    """The values of a tensor, exactly."""
    return x.detach().cpu().numpy()


def distances(x: np.ndarray, z: np.ndarray, lengthscale: np.ndarray) -> np.ndarray:
    """|(x_i − z_j)/ℓ| in extended precision, (n, m)."""
    squared = np.zeros((len(x), len(z)), dtype=LONG)
    scales = np.broadcast_to(np.asarray(lengthscale, dtype=LONG).reshape(-1), (x.shape[1],))
    for k in range(x.shape[1]):
        squared += ((x[:, None, k].astype(LONG) - z[None, :, k].astype(LONG)) / scales[k]) ** 2
    return np.sqrt(squared)


def rbf(r: np.ndarray) -> np.ndarray:
    """exp(−r²/2)"""
    return np.exp(-(r**2) / 2)


def matern12(r: np.ndarray) -> np.ndarray:
    """exp(−r)"""
    return np.exp(-r)


def matern32(r: np.ndarray) -> np.ndarray:
    """(1 + √3 r) exp(−√3 r)"""
    t = np.sqrt(LONG(3)) * r
    return (1 + t) * np.exp(-t)


def matern52(r: np.ndarray) -> np.ndarray:
    """(1 + √5 r + 5r²/3) exp(−√5 r)"""
    t = np.sqrt(LONG(5)) * r
    return (1 + t + t**2 / 3) * np.exp(-t)


def rational_quadratic(r: np.ndarray, alpha: float) -> np.ndarray:
    """(1 + r²/2α)^−α"""
    return (1 + r**2 / (2 * LONG(alpha))) ** (-LONG(alpha))


def tanimoto_minmax(x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Σ min / Σ max, 1 for two empty rows, one pair of rows at a time."""
    x, z = x.astype(np.float64), z.astype(np.float64)
    out = np.ones((len(x), len(z)))
    for i, a in enumerate(x):
        bottom = np.maximum(a, z).sum(1)
        used = bottom > 0
        out[i, used] = np.minimum(a, z).sum(1)[used] / bottom[used]
    return out


def tanimoto_dot_product(x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """⟨x, z⟩/(|x|² + |z|² − ⟨x, z⟩), 1 for two empty rows, one pair of rows at a time."""
    x, z = x.astype(np.float64), z.astype(np.float64)
    out = np.ones((len(x), len(z)))
    for i, a in enumerate(x):
        dot = (a * z).sum(1)
        bottom = (a**2).sum() + (z**2).sum(1) - dot
        out[i, bottom > 0] = dot[bottom > 0] / bottom[bottom > 0]
    return out


def periodic(x: np.ndarray, z: np.ndarray, lengthscale: np.ndarray, period: np.ndarray) -> np.ndarray:
    """exp(−2 Σ_k sin²(π(x_k − z_k)/p_k)/ℓ_k), GPyTorch's convention (ℓ, not ℓ²)."""
    phase = np.pi * (x[:, None].astype(np.float64) - z[None].astype(np.float64)) / period.reshape(-1)
    return np.exp(-2 * (np.sin(phase) ** 2 / lengthscale.reshape(-1)).sum(-1))


def kernel_matrix(kernel: Any, x: torch.Tensor, z: torch.Tensor) -> np.ndarray:
    """K(x, z) of a GPyTorch kernel as float64 (n, m), from the hyperparameters and the formulas above.

    Kernels are told apart by the name of their class, so that this file needs no kernel package.
    """
    return np.asarray(_matrix(kernel, to_numpy(x), to_numpy(z)), dtype=np.float64)


def _matrix(kernel: Any, x: np.ndarray, z: np.ndarray, *, select: bool = True) -> np.ndarray:
    if select and kernel.active_dims is not None:
        columns = kernel.active_dims.numpy()
        x, z = x[:, columns], z[:, columns]
    name = type(kernel).__name__
    if name == "ScaleKernel":
        return LONG(kernel.outputscale.item()) * _matrix(kernel.base_kernel, x, z, select=False)
    if name == "AdditiveKernel":
        return sum(_matrix(part, x, z) for part in kernel.kernels)
    if name == "ProductKernel":
        return np.prod([_matrix(part, x, z) for part in kernel.kernels], axis=0)
    if name == "TanimotoMinMax":
        return tanimoto_minmax(x, z)
    if name == "TanimotoDotProduct":
        return tanimoto_dot_product(x, z)
    if name == "LinearKernel":
        return kernel.variance.item() * (x.astype(np.float64) @ z.astype(np.float64).T)
    if name == "ConstantKernel":
        return np.full((len(x), len(z)), LONG(kernel.constant.item()))
    lengthscale = to_numpy(kernel.lengthscale)
    if name == "PeriodicKernel":
        return periodic(
            x, z, lengthscale.astype(np.float64), to_numpy(kernel.period_length).astype(np.float64)
        )
    return STATIONARY[name](kernel, distances(x, z, lengthscale))


STATIONARY: dict[str, Callable[[Any, np.ndarray], np.ndarray]] = {
    "RBFKernel": lambda kernel, r: rbf(r),
    "MaternKernel": lambda kernel, r: {0.5: matern12, 1.5: matern32, 2.5: matern52}[kernel.nu](r),
    "RQKernel": lambda kernel, r: rational_quadratic(r, kernel.alpha.item()),
}
"""Correlations at distances in length scales, by the name of the kernel's class; tests/catalogue.py may add to it."""
