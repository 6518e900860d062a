"""Checks and data summaries shared by all fits."""

from __future__ import annotations

import math
from typing import Any

import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from sggp.errors import DtypeError, InputError, ShapeError
from sggp.hyperparameters.gram import stationary_parts


def check_data(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """x (n, d) as it is (float64 if floating), y as float64 (n, t); finite, of one length, at least one row."""
    for name, value in (("x", x), ("y", y)):
        if not isinstance(value, Tensor):
            raise DtypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}.")
    if x.dim() != 2:
        raise ShapeError(f"x must have shape (n, d), got {tuple(x.shape)}.")
    if y.dim() not in (1, 2) or y.shape[0] != x.shape[0]:
        raise ShapeError(f"y must have shape ({x.shape[0]},) or ({x.shape[0]}, t), got {tuple(y.shape)}.")
    if x.shape[0] == 0:
        raise ShapeError("x has no rows; at least one is needed.")
    y = y.detach().to(torch.float64)
    y = y.unsqueeze(-1) if y.dim() == 1 else y
    if x.is_floating_point():
        x = x.detach().to(torch.float64)
        if not bool(torch.isfinite(x).all()):
            raise InputError("x contains NaN or infinity; drop or impute those rows first.")
    if not bool(torch.isfinite(y).all()):
        raise InputError("y contains NaN or infinity; drop those rows first.")
    return x, y


def check_noise(noise_variance: float | Tensor | None, n: int) -> Tensor | None:
    """A given noise variance as a float64 scalar or (n,) tensor; None stays None."""
    if noise_variance is None:
        return None
    noise = torch.as_tensor(noise_variance, dtype=torch.float64).detach()
    if noise.dim() > 1 or (noise.dim() == 1 and noise.shape[0] != n):
        raise ShapeError(f"noise_variance must be a number or have shape ({n},), got {tuple(noise.shape)}.")
    if not bool(torch.isfinite(noise).all()) or bool((noise < 0).any()):
        raise InputError("noise_variance must be finite and not negative.")
    return noise


def unidentified_columns(kernel: Kernel, x: Tensor) -> dict[int, str]:
    """Input columns whose length scales the likelihood cannot tell: constant ones, and copies of another column.

    A column that is an affine copy of an earlier one (|correlation| = 1 to rounding) shares its influence
    with it: only the combination is identified. Empty for kernels without one length scale per column, and for fewer
    than three rows, of which every column is a copy of every other.
    """
    parts = stationary_parts(kernel)
    if parts is None or not x.is_floating_point() or x.shape[0] < 3:
        return {}
    if parts[1].lengthscale.numel() != x.shape[1]:
        return {}
    x = x.to(torch.float64)
    centred = x - x.mean(dim=0)
    deviation = centred.square().mean(dim=0).sqrt()
    size = x.abs().amax(dim=0)
    constant = deviation <= 1e-14 * size
    out = {int(j): "constant" for j in torch.nonzero(constant).reshape(-1)}
    unit = centred / torch.where(constant, torch.ones_like(deviation), deviation) / math.sqrt(x.shape[0])
    correlation = (unit.T @ unit).abs()
    for j in range(x.shape[1]):
        if j in out:
            continue
        copies = torch.nonzero(correlation[j, :j] > 1 - 1e-12).reshape(-1)
        first = next((int(c) for c in copies if int(c) not in out), None)
        if first is not None:
            out[j] = f"copy of column {first}"
    return out


def target_scale(y: Tensor, mean: Tensor | None) -> float:
    """Mean square of y (n, t) about `mean` (or about its own mean): the unit of variances."""
    centre = y.mean(dim=0) if mean is None else mean
    return float((y - centre).square().mean())


def check_mean(mean: float | Tensor | None, t: int) -> Tensor | None:
    """A given constant mean as a float64 (t,) tensor; None stays None."""
    if mean is None:
        return None
    value = torch.as_tensor(mean, dtype=torch.float64).detach().reshape(-1)
    if value.numel() not in (1, t) or not bool(torch.isfinite(value).all()):
        raise InputError(f"mean must be a finite number or {t} of them, got {mean!r}.")
    return value.expand(t).clone()


def public_mean(mean: Tensor) -> float | Tensor:
    """A float for one target, the (t,) tensor for several."""
    return float(mean) if mean.numel() == 1 else mean


def public_noise(noise: Any) -> float | Tensor:
    """A float for a shared noise variance, the (n,) tensor for per-point noise."""
    return float(noise) if not isinstance(noise, Tensor) or noise.dim() == 0 else noise
