"""The two Tanimoto kernels of molecular fingerprints, as GPyTorch kernels."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import gpytorch
import torch
from torch import Tensor

from sggp.errors import InputError
from sggp.native.thermometer import tanimoto_block

__all__ = ["TanimotoDotProduct", "TanimotoMinMax", "as_counts", "check_counts"]

_PIECE = 2**15 - 1
"""Numbers taken at a time: they stay in the caches, and are too few for torch to wake other threads for."""
EXACT = 2**24
"""Whole numbers up to here are exact in float32."""


class _Tanimoto(gpytorch.kernels.Kernel):
    """What both kernels share: one frozen parameter, input checks, batches.

    GPyTorch finds the batch shape, dtype and device of a kernel in its parameters. The frozen `_tracker`, of shape
    batch_shape + (1,), makes indexing, `expand_batch` and `.to()` work for a kernel that has nothing to learn.
    """

    has_lengthscale = False
    is_stationary = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        tracker = torch.zeros(*self.batch_shape, 1)
        self.register_parameter("_tracker", torch.nn.Parameter(tracker, requires_grad=False))

    def forward(
        self, x1: Tensor, x2: Tensor, diag: bool = False, last_dim_is_batch: bool = False, **params: Any
    ) -> Tensor:
        """The similarities of (…, n, d) and (…, m, d) rows: (…, n, m), or (…, n) with `diag`.

        Raises:
            InputError: negative counts.
        """
        same = x1 is x2
        x1 = self._floating(x1)
        x2 = x1 if same else self._floating(x2)
        if last_dim_is_batch:
            x1, x2 = x1.transpose(-1, -2).unsqueeze(-1), x2.transpose(-1, -2).unsqueeze(-1)
        out = self._elementwise(x1, x2) if diag else self._pairwise(x1, x2)
        plain = 1 if diag else 2
        batch = torch.broadcast_shapes(out.shape[:-plain], self.batch_shape) if not last_dim_is_batch else ()
        return out.expand(*batch, *out.shape[-plain:]) if batch else out

    def _floating(self, x: Tensor) -> Tensor:
        """Counts as floats, before any arithmetic in which a small integer type would wrap."""
        check_counts(x, type(self).__name__, signed=self._signed)
        return x if x.dtype.is_floating_point else x.to(self.dtype)

    _signed = False

    @abstractmethod
    def _pairwise(self, x1: Tensor, x2: Tensor) -> Tensor:
        """(…, n, d), (…, m, d) → (…, n, m)."""

    @abstractmethod
    def _elementwise(self, x1: Tensor, x2: Tensor) -> Tensor:
        """(…, n, d), (…, n, d) → (…, n)."""


class TanimotoMinMax(_Tanimoto):
    """The min-max Tanimoto kernel (weighted Jaccard, Ruzicka) of fingerprints.

    T_MM(x, z) = Σ_i min(x_i, z_i) / Σ_i max(x_i, z_i), and T_MM(0, 0) = 1.

    Bits, counts and non-negative numbers of any dtype are legal. Numbers of both signs are read as their positive
    and negative parts side by side, which keeps the kernel positive definite; negative *counts* (whole numbers
    only, one of them negative) are refused. No parameter to learn: put a `ScaleKernel` around it.

    Args:
        active_dims: columns that the kernel looks at.
        batch_shape: as for any GPyTorch kernel.

    Raises:
        InputError: negative counts.

    Cost: O(n·m·W) for counts up to 255, W ≤ Σ_i max_i; O(n·m·d) with a large constant otherwise.

    Source: Ralaivola et al. 2005; Tripp et al. 2023 (arXiv 2306.14809), section 2.

    Example:
        >>> import torch
        >>> TanimotoMinMax()(torch.tensor([[1, 3, 0]]), torch.tensor([[2, 1, 2]])).to_dense()
        tensor([[0.2857]])
    """

    def _pairwise(self, x1: Tensor, x2: Tensor) -> Tensor:
        if x1.ndim == 2 and x2.ndim == 2 and not (x1.requires_grad or x2.requires_grad):
            counts1, counts2 = as_counts(x1), as_counts(x2)
            if counts1 is not None and counts2 is not None:
                return tanimoto_block(counts1, counts2, dtype=x1.dtype)
        return minmax_similarity(x1, x2)

    def _elementwise(self, x1: Tensor, x2: Tensor) -> Tensor:
        total = x1.abs().sum(-1) + x2.abs().sum(-1)
        distance = (x1 - x2).abs().sum(-1)
        return _ratio(total - distance, total + distance)


class TanimotoDotProduct(_Tanimoto):
    """The dot-product Tanimoto kernel of real vectors.

    T_DP(x, z) = ⟨x, z⟩ / (|x|² + |z|² − ⟨x, z⟩), and T_DP(0, 0) = 1; in [−1/3, 1].

    Equal to `TanimotoMinMax` on bits, different on counts. Positive definite on all real vectors; integer input
    with negative entries is refused as counts gone wrong. No parameter to learn: put a `ScaleKernel` around it.

    Args:
        active_dims: columns that the kernel looks at.
        batch_shape: as for any GPyTorch kernel.

    Raises:
        InputError: negative entries in integer input.

    Source: Tripp et al. 2023 (arXiv 2306.14809), section 2 (definiteness on R^d).

    Example:
        >>> import torch
        >>> TanimotoDotProduct()(torch.tensor([[1, 1, 0]]), torch.tensor([[0, 1, 1]])).to_dense()
        tensor([[0.3333]])
    """

    _signed = True

    def _pairwise(self, x1: Tensor, x2: Tensor) -> Tensor:
        return dot_similarity(x1, x2)

    def _elementwise(self, x1: Tensor, x2: Tensor) -> Tensor:
        dot = (x1 * x2).sum(-1)
        return _ratio(dot, x1.square().sum(-1) + x2.square().sum(-1) - dot)


def minmax_similarity(x: Tensor, z: Tensor) -> Tensor:
    """T_MM of float rows (…, n, d), (…, m, d) → (…, n, m) from L1 distances: (s − δ)/(s + δ), s = |x|₁ + |z|₁."""
    total = x.abs().sum(-1).unsqueeze(-1) + z.abs().sum(-1).unsqueeze(-2)
    distance = torch.cdist(x, z, p=1.0)
    return _ratio(total - distance, total + distance)


def dot_similarity(x: Tensor, z: Tensor) -> Tensor:
    """T_DP of float rows (…, n, d), (…, m, d) → (…, n, m)."""
    dot = x @ z.transpose(-1, -2)
    norms = x.square().sum(-1).unsqueeze(-1) + z.square().sum(-1).unsqueeze(-2)
    return _ratio(dot, norms - dot)


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """numerator/denominator, 1 where the denominator is 0, with gradients that are never NaN."""
    empty = denominator == 0
    ratio = numerator / denominator.masked_fill(empty, 1.0)
    return ratio.masked_fill(empty, 1.0)


def as_counts(x: Tensor, squares: Tensor | None = None) -> Tensor | None:
    """Whole numbers in 0..255 as uint8 of the same shape (uint8 at no cost); None for other numbers.

    Args:
        x: (…, n, d) rows.
        squares: (… · n,) float64, to be filled with Σ_k x_k² of every row, exactly, while its numbers are at hand.

    Cost: one pass over the data, up to the first piece that holds another number.
    """
    if x.dtype == torch.uint8 and squares is None:
        return x
    if x.dtype == torch.int8:  # -1 and 255 are the same byte
        x = x.to(torch.int16)
    rows = x.detach().flatten(0, -2) if x.ndim > 1 else x.detach().reshape(1, -1)
    counts = rows if x.dtype == torch.uint8 else torch.empty(rows.shape, dtype=torch.uint8, device=x.device)
    size = max(1, _PIECE // max(1, rows.shape[1])) if x.device.type == "cpu" else max(1, len(rows))
    for start in range(0, len(rows), size):
        piece, to = rows[start : start + size], counts[start : start + size]
        # whatever becomes of fractions, NaN and numbers outside 0..255, it is one of 0..255 and not what it was
        back = piece if counts is rows else to.copy_(piece).to(piece.dtype)
        if counts is not rows and not torch.equal(back, piece):
            return None
        if squares is not None:
            squares[start : start + size] = torch.linalg.vector_norm(back.float(), dim=1)
    if squares is not None:
        # float32 sums of whole numbers are exact below 2^24, and their roots tell those below a quarter of it apart
        for some in (squares.square_().round_() >= EXACT // 4).nonzero()[:, 0].split(size):
            squares[some] = counts[some].double().square_().sum(1)
    return counts.reshape(x.shape)


def check_counts(x: Tensor, name: str, *, signed: bool = False) -> None:
    """Refuse negative counts: integers below zero, and floats that are all whole with one below zero.

    Args:
        x: rows of any shape and dtype.
        name: of the kernel, for the message.
        signed: whether floats may be whole and negative.

    Raises:
        InputError: negative counts.
    """
    if x.dtype in (torch.uint8, torch.bool) or x.numel() == 0 or (signed and x.dtype.is_floating_point):
        return
    values = x.detach()
    lowest = values.min()
    if not bool(lowest < 0):
        return
    if not x.dtype.is_floating_point or bool((values == values.round()).all()):
        raise InputError(
            f"{name} got counts as low as {lowest.item():g}; expected counts >= 0. A negative count is often an "
            "8-bit count that wrapped: store fingerprints as uint8 or a wider type."
        )
