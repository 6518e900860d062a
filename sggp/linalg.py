"""Cholesky factors with one policy for matrices that rounding has made indefinite.

The diagonal is raised by the smallest share of its mean that gives a factor: 0, then 1e-12, 1e-10 … 1e-4. The first is
where float64 rounds; beyond the last the matrix is no covariance. In float32 the same begins at 1e-7. Each share is
tried on the matrix as given, never on one that was raised before. What has no factor then is an error, or is marked
as lost, and its factor is NaN: it cannot be used by mistake.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sggp.errors import InputError

__all__ = ["JITTERS", "cholesky", "try_cholesky"]

JITTERS = {
    torch.float64: (0.0, 1e-12, 1e-10, 1e-8, 1e-6, 1e-4),
    torch.float32: (0.0, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3),
}
"""Shares of the mean diagonal, by the precision of the factor."""


def try_cholesky(
    blocks: Tensor, *, scale: Tensor | float | None = None, least: float = 0.0, out: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Lower factors L of symmetric blocks, LLᵀ = block + jitter·scale·1.

    Args:
        blocks: (…, n, n), float32 or float64, of which the lower triangles are read; they stay as they are.
        scale: (…) what jitters are shares of; default the mean of each diagonal. Give the diagonal that a block had
            before a part was subtracted from it: the rounding is that one's.
        least: the smallest jitter. Semi-definite blocks of low rank take 1e-11 or so: where rounding gives them a
            factor without, its last columns are that rounding.
        out: where the factors go; None takes new memory.

    Returns:
        Factors (…, n, n), NaN for a block that has none, and the jitters taken (…), infinity for such a block.

    Cost: n³/3 flops for each block and each jitter that it takes.
    """
    first, *others = (j for j in (least, *JITTERS[blocks.dtype]) if j == least or j > least)
    begin = _raised(blocks, first * _size(blocks, scale)) if first else blocks
    if out is None:
        factor, info = torch.linalg.cholesky_ex(begin)
    else:
        factor, info = out, torch.empty(blocks.shape[:-2], dtype=torch.int32, device=blocks.device)
        torch.linalg.cholesky_ex(begin, out=(factor, info))
    lost = _lost(factor, info)
    taken = blocks.new_full(blocks.shape[:-2], first)
    if not bool(lost.any()):
        return factor, taken
    size = _size(blocks, scale)
    for jitter in others:
        again, info = torch.linalg.cholesky_ex(_raised(blocks[lost], jitter * size[lost]))
        factor[lost], taken[lost] = again, jitter
        lost[lost.clone()] = _lost(again, info)
        if not bool(lost.any()):
            return factor, taken
    factor[lost], taken[lost] = torch.nan, torch.inf
    return factor, taken


def cholesky(
    blocks: Tensor,
    what: str,
    *,
    scale: Tensor | float | None = None,
    least: float = 0.0,
    out: Tensor | None = None,
) -> Tensor:
    """The factors of `try_cholesky`, all of them; `what` names the matrix in the error.

    Raises:
        InputError: a block has no factor, even with the largest jitter.
    """
    factor, jitter = try_cholesky(blocks, scale=scale, least=least, out=out)
    if bool((jitter == torch.inf).any()):
        raise InputError(
            f"{what} is not positive definite even with a jitter of {JITTERS[blocks.dtype][-1]:.0e} of its diagonal: "
            "the kernel returned NaN or is not a covariance function on these inputs."
        )
    return factor


def _size(blocks: Tensor, scale: Tensor | float | None) -> Tensor:  # (…)
    """What jitters are shares of."""
    mean = blocks.diagonal(dim1=-2, dim2=-1).mean(-1) if scale is None else scale
    return torch.as_tensor(mean, dtype=blocks.dtype, device=blocks.device).expand(blocks.shape[:-2])


def _raised(blocks: Tensor, amount: Tensor) -> Tensor:
    raised = blocks.clone()
    raised.diagonal(dim1=-2, dim2=-1).add_(amount[..., None])
    return raised


def _lost(factor: Tensor, info: Tensor) -> Tensor:
    """Which factors do not exist; LAPACK does not always say so where the matrix holds NaN."""
    total = factor.diagonal(dim1=-2, dim2=-1).sum(-1)  # of roots, so finite where all of them are
    return (info != 0) | (total - total != 0)
