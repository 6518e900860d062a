"""Terms of Vecchia's likelihood with their gradients, in C++: one small system at a time, in the caches of one core."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sggp.errors import DtypeError, ShapeError
from sggp.native import library
from sggp.native.families import Profile

__all__ = ["Rows", "Terms", "TermsOf", "log_conditionals"]

_MEMBERS, _TARGETS = 4096, 2**18  # at most, of a row


class Rows(NamedTuple):
    """Rows of x whose conditional densities are wanted, with their neighbours.

    Args:
        members: (b, k) int64 rows of x: neighbours, -1 where one is missing, and the row itself last.
        residuals: (b, k, t) float64 targets less the mean, in the same order; unread where a neighbour is missing.
        noise: float64 noise variance, a scalar or (b, k).
    """

    members: Tensor
    residuals: Tensor
    noise: Tensor


class Terms(NamedTuple):
    """Values of some rows and their derivatives, row by row; None where these were not asked for."""

    value: Tensor  # (b,)
    lengthscale: Tensor | None  # (b, d)
    scale: Tensor | None  # (b,)
    noise: Tensor | None  # (b,) for a shared noise, else (b, k)
    residuals: Tensor | None  # (b, k, t)


Wanted = tuple[bool, bool, bool, bool]  # derivatives: length scales, scale, noise, residuals
TermsOf = Callable[[Tensor, float, Rows, Wanted], Terms]  # of length scales and a scale


def log_conditionals(
    x: Tensor,
    lengthscale: Tensor,
    profile: Profile,
    rows: Rows,
    *,
    wanted: Wanted = (True, True, True, True),
    isa: str | None = None,
) -> Terms:
    """log N(y_i | y_N(i)) of rows given their neighbours under scale · φ(|x_a − x_b|²/ℓ²) + noise, summed over targets.

    Args:
        x: (n, d) float64 rows as they are: differences are taken before they are divided by the length scales.
        lengthscale: (d,) float64. profile: φ and the scale k(a, a), of a family without a shape.
        rows: the rows, their neighbours, residuals and noise.
        wanted: which derivatives: in the length scales, the scale, the noise and the residuals.

    Returns:
        Terms. NaN for a row whose neighbours have no factor even with a jitter of 1e-4 of the diagonal.

    Raises:
        ShapeError, DtypeError, InputError: arguments that cannot be used. UnsupportedKernel: a family with a shape.

    Cost: per row k²·d multiply-adds, twice that with the length scales, and k³/3; (3k + d)·k numbers a thread.

    Source: Vecchia 1988; the gradient is that of `sggp.hyperparameters.nearest_neighbour.conditionals`.
    """
    _check(x, lengthscale, rows)
    index, residuals, noise = rows
    weights = lengthscale.detach().reciprocal()
    (b, k), t, d = index.shape, residuals.shape[2], x.shape[1]
    shapes = ((b, d), (b,), (b,) if noise.dim() == 0 else (b, k), (b, k, t))
    value = x.new_empty(b)
    gradients = [x.new_empty(shape) if want else None for shape, want in zip(shapes, wanted, strict=True)]
    given = (x, len(x), weights, d, index, b, k, residuals, t, noise, int(noise.dim() == 0))
    refusal = f"index must hold rows below {len(x)}, the row itself last; others do not exist."
    kernel = profile.numbers[:2]
    library.run("conditionals", *kernel, *given, value, *gradients, isa=isa, refusal=refusal)
    return Terms(value, *gradients)


def _check(x: Tensor, lengthscale: Tensor, rows: Rows) -> None:
    index, residuals, noise = rows
    floats = (x, lengthscale, residuals, noise)
    if any(v.dtype != torch.float64 for v in floats) or index.dtype != torch.int64:
        raise DtypeError("x, lengthscale, residuals and noise must be float64, and index int64.")
    if x.dim() != 2 or index.dim() != 2 or lengthscale.shape != x.shape[1:]:
        raise ShapeError(
            f"expected x (n, d), lengthscale (d,) and index (b, k), got {tuple(x.shape)}, "
            f"{tuple(lengthscale.shape)} and {tuple(index.shape)}."
        )
    if residuals.dim() != 3 or residuals.shape[:2] != index.shape or noise.shape not in ((), index.shape):
        raise ShapeError(
            f"expected residuals {(*index.shape, 't')} and noise () or {tuple(index.shape)}, got "
            f"{tuple(residuals.shape)} and {tuple(noise.shape)}."
        )
    if not (1 <= index.shape[1] <= _MEMBERS and residuals.shape[2] <= _TARGETS):
        raise ShapeError(f"a row may have 1 to {_MEMBERS} members and at most {_TARGETS} targets.")
