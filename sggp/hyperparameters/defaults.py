"""Kernels by name, with starting values and priors for standardised data."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
from gpytorch.constraints import Positive
from gpytorch.kernels import Kernel, MaternKernel, RBFKernel, ScaleKernel
from gpytorch.priors import LogNormalPrior
from torch import Tensor

from sggp.defaults import DIRECT_ROWS
from sggp.errors import InputError
from sggp.kernels import TanimotoMinMax
from sggp.kernels.generic import copied
from sggp.native.families import FAMILIES
from sggp.posterior.merge import group_rows

_SMOOTHNESS = {f.name: f.nu for f in FAMILIES.values() if f.nu in (0.5, 1.5, 2.5)}  # those of MaternKernel
_NEAR = 1e-6  # of the spread of a column, up to which rows are repeats for a learnt noise
_MANY = 500  # rows from which on searches begin on a part of them, and lose their way at less noise than 1e-7
KERNEL_NAMES = ("rbf", *_SMOOTHNESS, "tanimoto")


def named_kernel(
    name: str,
    input_dim: int,
    *,
    many_rows: bool = False,
    blocks: tuple[tuple[int, ...], ...] = (),
    varying: int | None = None,
) -> Kernel:
    """A scaled kernel with one length scale per column, for inputs of unit spread and targets of unit variance.

    Log-normal priors of log-spread 1, their densities highest where a search starts: at .6·sqrt(d) for length scales,
    which grow with the dimension as distances do (Hvarfner et al. 2024), and at 2 for the output scale, 1 for
    "tanimoto". A few rows cannot overrule them, a hundred do. For many rows the log-spread is 2, so that columns
    without influence can leave. Chosen by `benchmarks/small_bo.py` and by held-out
    densities, see docs/hyperparameters.md.

    Args:
        name: "rbf", "matern12", "matern32", "matern52", or "tanimoto" (min-max, no length scales).
        input_dim: d.
        blocks: columns that code one category each; they share a length scale, see `Coordinates`.
        varying: columns that distances have a part of, a block as one; by default all are.

    Raises:
        InputError: unknown name.
    """
    if name not in KERNEL_NAMES:
        raise InputError(
            f"unknown kernel {name!r}; expected one of {', '.join(KERNEL_NAMES)}, or a kernel object."
        )
    counted = input_dim - sum(len(block) - 1 for block in blocks) if varying is None else varying
    return copied(_template(name, input_dim, many_rows, tuple(map(tuple, blocks)), counted))


@lru_cache(maxsize=64)
def _template(
    name: str, input_dim: int, many_rows: bool, blocks: tuple[tuple[int, ...], ...], counted: int
) -> Kernel:
    """A named kernel to copy, which takes a quarter of the time of making one."""
    spread = 2.0 if many_rows else 1.0
    if name == "tanimoto":
        base: Kernel = TanimotoMinMax()
    else:
        size = 0.6 * math.sqrt(counted)
        ard: dict[str, Any] = {
            "ard_num_dims": input_dim,
            "lengthscale_prior": log_normal(size, spread),
            "lengthscale_constraint": Positive(),
        }
        base = (RBFKernel(**ard) if name == "rbf" else MaternKernel(nu=_SMOOTHNESS[name], **ard)).double()
        base.lengthscale = torch.tensor(
            size, dtype=torch.float64
        )  # GPyTorch rounds floats to torch's default
        if blocks:
            base.lengthscale_groups = blocks
    kernel = ScaleKernel(
        base, outputscale_prior=log_normal(1.0 if name == "tanimoto" else 2.0, spread)
    ).double()
    kernel.outputscale = 1.0
    return kernel


def log_normal(mode: float, spread: float) -> LogNormalPrior:
    """The log-normal prior whose density is highest at `mode`, in float64; its median lies e^(spread²) above.

    A density of the quantity itself, as GPyTorch's priors are: one of median m would pull towards m·e^(−spread²).
    """
    loc = torch.tensor(math.log(mode) + spread**2, dtype=torch.float64)
    return LogNormalPrior(loc, torch.tensor(spread, dtype=torch.float64))


def noise_prior(name: str = "matern32") -> LogNormalPrior:
    """A log-normal prior on the noise variance of targets of unit variance, for a kernel of that name.

    Highest at 0.0025, log-spread 2; for "tanimoto" at 0.22 with 1: without length scales to learn, similar fingerprints
    with different targets hardly differ from noise, and a prior density that grows towards zero would win.
    """
    return log_normal(0.22, 1.0) if name == "tanimoto" else log_normal(2.5e-3, 2.0)


def noise_floor(x: Tensor, optimizer: str | None = "auto") -> float:
    """Share of the variance of y that a noise learnt from rows x (n, d) by such a recipe stays above.

    Up to 3,000 rows 1e-5, since a few repeated rows with equal targets would say that there is no noise; 1e-7 where
    none are equal to a millionth of each column's spread, 1e-8 below 500 rows. 1e-10 beyond 3,000, where it takes a
    function without noise to get there. "iterative", whose solves multiply in float32, stays above 1e-5 and 1e-6.
    """
    if len(x) > DIRECT_ROWS:
        return 1e-6 if optimizer == "iterative" else 1e-10
    if optimizer == "iterative":
        return 1e-5
    x = x.detach().cpu().double()
    unit = _NEAR * x.std(dim=0, correction=0)
    apart = group_rows(torch.where(unit > 0, (x - x.mean(dim=0)) / unit, 0.0).round()).trivial
    if not apart:
        return 1e-5
    return 1e-8 if len(x) < _MANY else 1e-7
