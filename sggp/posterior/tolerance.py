"""How far the systems of a posterior are solved: until what is left open is small beside what is not known anyway."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sggp.autograd import undisturbed
from sggp.defaults import DIRECT_ROWS
from sggp.kernels import as_covariance
from sggp.posterior.data import Data
from sggp.solvers import Cholesky, Solver

__all__ = ["noise_tolerances", "posterior_tolerances"]

MEAN_TOLERANCE = 1e-3
SAMPLE_RATIO = 3.0
"""Tolerance of samples, in that of the mean. With ten, variances were wrong by up to 10 % (3,300 rows in the unit
square, Matérn-3/2, length scale .3, a signal of 630 and 63,000 times the noise), with three by 1 %, in as many steps,
since the mean has to go further anyway."""
LEAST_TOLERANCE = 1e-6
NOISE_SHARE = 0.1
"""The residual of the mean is kept below this share of the noise, where that is less than `MEAN_TOLERANCE`."""
LATENT_SHARE = 0.25
"""Residuals are kept below this share of the posterior standard deviation at the rows: it adds 6 % to a variance at
most. Where rows say much of few directions it is far below the noise: 3,100 rows of an RBF on a line of three length
scales, noise of 1 % of the signal, had variances three times the true ones, and paths eleven times."""
_PART = 512
_HEED = 0.75
"""Of the exponent by which directions grow from half of the part to the part: they grow slower with more rows. Against
dense matrices of 4,000 rows (four kernels in 1, 3 and 8 columns, three noises) the number came out .6 to 2.3 times."""


def noise_tolerances(data: Data, mean: float) -> Tensor:  # -> (2,)
    """Relative residuals of the mean and of samples that drown in the noise."""
    size = float((data.y - mean).square().mean().sqrt())
    share = NOISE_SHARE * float(data.noise_variance.mean().sqrt()) / size if size > 0 else MEAN_TOLERANCE
    first = min(MEAN_TOLERANCE, max(LEAST_TOLERANCE, share))
    return torch.tensor([first, first * SAMPLE_RATIO], dtype=torch.float64)


def posterior_tolerances(kernel: Any, data: Data, mean: float, solver: Solver | None) -> Tensor:  # -> (2,)
    """Those, or less, so that they are small beside the posterior standard deviation: the defaults of `condition`.

    A residual r moves K α at the rows by K(K + Σ)⁻¹r, no longer than r. What it is compared with needs no solve where
    a factor solves, and none is looked for then.

    Args:
        kernel, data, mean: of the process. solver: as given, None for the default one.

    Cost: the eigenvalues of 512 rows of K.
    """
    found = noise_tolerances(data, mean)
    if isinstance(solver, Cholesky) or (solver is None and len(data.rows) <= DIRECT_ROWS):
        return found
    unknown, signal = _latent_variance(kernel, data)
    sizes = [float((data.y - mean).square().mean()), signal + float(data.noise_variance.mean())]
    latent = LATENT_SHARE * (unknown / torch.tensor(sizes, dtype=torch.float64)).sqrt()
    return found.minimum(latent.nan_to_num(nan=1.0, posinf=1.0).clamp_min(LEAST_TOLERANCE))


@undisturbed()
def _latent_variance(kernel: Any, data: Data) -> tuple[float, float]:
    """The mean posterior variance at the rows, σ²γ/n with γ = tr K(K + σ²)⁻¹, from some rows, and that of the prior.

    m of n rows with the noise mσ²/n see as many of the directions that all rows see; with more rows more are seen, as
    many more as half of the m rows tell.
    """
    rows, noise = data.rows, float(data.merged_noise.mean())
    n = len(rows)
    chosen = torch.randperm(n, generator=torch.Generator().manual_seed(0))[:_PART].to(rows.device)
    block, m = as_covariance(kernel, dtype=torch.float64).block(rows[chosen]).double(), len(chosen)
    if m < 2 or not bool(torch.isfinite(block).all()):
        return torch.inf, 1.0
    signal, half = float(block.diagonal().mean()), m // 2
    counts = [_directions(block[:k, :k], noise * k / n) for k in (half, m)]
    if not counts[0] > 0:
        return torch.inf, signal
    growth = (counts[1] / counts[0]) ** (_HEED * math.log2(n / m))
    return noise * min(1.0, counts[1] * growth / n), signal


def _directions(block: Tensor, noise: float) -> float:
    values = torch.linalg.eigvalsh(block).clamp_min(0)
    return float((values / (values + noise)).nan_to_num(nan=0.0).sum())
