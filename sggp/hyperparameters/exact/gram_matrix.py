"""The Gram matrix of all rows with its derivative: closed form for stationary kernels, autograd for all others."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from sggp.hyperparameters.gram import gram_function, profile, stationary_parts
from sggp.hyperparameters.values import Value

__all__ = ["GramMatrix", "Sensitivity"]

_TILE_ENTRIES = 32_768  # 256 KiB of float64, so that a tile's temporaries stay in the second-level cache


@dataclass(frozen=True)
class Sensitivity:
    """The derivative of a log likelihood in H = K + noise, S = ½ (U Uᵀ − t H⁻¹), formed by tiles.

    Attributes:
        inverse: (n, n) H⁻¹. columns: (n, k) U. targets: t.
    """

    inverse: Tensor
    columns: Tensor
    targets: int

    def tile(self, rows: slice, cols: slice) -> Tensor:
        """The entries of some rows and columns."""
        own, other = self.columns[rows], self.columns[cols]
        return torch.addmm(self.inverse[rows, cols], own, other.T, beta=-0.5 * self.targets, alpha=0.5)

    def diagonal(self) -> Tensor:  # (n,)
        """The derivative in the noise variance of every row."""
        return 0.5 * (self.columns.square().sum(dim=1) - self.targets * self.inverse.diagonal())


class GramMatrix:
    """K(x, x) at the present values of a kernel's parameters, and what a derivative in K is in them.

    (Scaled) RBF and Matérn kernels take one pass over half of the entries for the value and one for all derivatives:
    with W = S ∘ dφ/dr² and z = x/ℓ, dℓ_j = −2/ℓ_j Σ_ab W_ab (z_aj − z_bj)². Other kernels go through autograd.

    Args:
        kernel: any GPyTorch kernel. x: (n, d) rows; float64 unless they are fingerprints.

    Cost: n²(d + 10) flops for either; two (n, n) matrices, with autograd as many as it keeps.
    """

    def __init__(self, kernel: Kernel, x: Tensor) -> None:
        self.x = x
        parts = stationary_parts(kernel)
        self.parts = None if parts is None or not x.is_floating_point() else parts
        self.phi = None if self.parts is None else profile(self.parts[1])
        if self.phi is not None and self.parts is not None:
            self._scales = [Value(scale, "outputscale") for scale in self.parts[0]]
            self._lengthscale = Value(self.parts[1], "lengthscale")
        self.gram = gram_function(kernel)
        self._autograd: Tensor | None = None
        self._value, self._slope = x.new_empty(0), x.new_empty(0)
        self._points, self._scale = x, 1.0

    def evaluate(self, out: Tensor) -> None:
        """Write K to `out`, (n, n), of which the lower triangle counts."""
        if self.phi is None or self.parts is None:
            with torch.enable_grad():
                self._autograd = self.gram(self.x)
            out.copy_(self._autograd.detach())
            return
        n = len(self.x)
        with torch.no_grad():
            if len(self._slope) != n:
                self._value, self._slope = self.x.new_zeros(n, n), self.x.new_zeros(n, n)
            self._scale = math.prod(float(scale.now()) for scale in self._scales)
            z = (self.x - self.x[-1:]) / self._lengthscale.now().reshape(-1)
            norms = z.square().sum(dim=1)
            for rows, cols in self._tiles():
                square = torch.addmm(norms[cols], z[rows], z[cols].T, alpha=-2.0)
                value, slope = self.phi(square.add_(norms[rows, None]).clamp_min_(0.0))
                value.diagonal(offset=rows.start).fill_(1.0)
                slope.diagonal(offset=rows.start).zero_()
                torch.mul(value, self._scale, out=self._value[rows, cols])
                self._slope[rows, cols] = slope
            self._points = z
            out.copy_(self._value)

    def pulled(self, sensitivity: Sensitivity) -> list[tuple[Tensor, Tensor]]:
        """Tensors on which K depends and, of a function with ∂/∂H = S, the derivatives in them: for `values.backward`.

        Belongs to the last `evaluate`, whose parameters must not have moved since; once.
        """
        everything = slice(None)
        if self.phi is None or self.parts is None:
            gram, self._autograd = self._autograd, None
            if gram is None or not gram.requires_grad:
                return []
            return [(gram, sensitivity.tile(everything, everything))]
        with torch.no_grad():
            total, moments = self._moments(sensitivity)
            lengthscale = self._lengthscale.now()
            pulled = (
                moments.mul_(-2.0 * self._scale).sum_to_size(lengthscale.numel()).reshape(lengthscale.shape)
            )
            known = [(scale, total / scale.now()) for scale in self._scales]
            known.append((self._lengthscale, pulled / lengthscale))
        return [value.height(slope) for value, slope in known if value.raw.requires_grad]

    def _moments(self, sensitivity: Sensitivity) -> tuple[Tensor, Tensor]:  # (), (d,)
        """Σ_ab S_ab K_ab and Σ_ab S_ab (dφ/dr²)_ab (z_a − z_b)², over all a and b."""
        z = self._points
        total, moments = z.new_zeros(()), z.new_zeros(z.shape[1])
        for rows, cols in self._tiles():
            weight = sensitivity.tile(rows, cols)
            weight[:, : rows.start] *= 2.0  # what lies above the diagonal as well
            total += torch.vdot(weight.reshape(-1), self._value[rows, cols].reshape(-1))
            weight.mul_(self._slope[rows, cols])
            own, other = z[rows], z[cols]
            moments += (own * (own * weight.sum(dim=1, keepdim=True) - 2.0 * (weight @ other))).sum(dim=0)
            moments += weight.sum(dim=0) @ other.square()
        return total, moments

    def _tiles(self) -> Iterator[tuple[slice, slice]]:
        """Rows [a, b) with columns [0, b): the lower triangle, and the square blocks on the diagonal whole."""
        n, start = len(self.x), 0
        while start < n:
            # height · (start + height) entries
            height = (math.sqrt(start**2 + 4 * _TILE_ENTRIES) - start) / 2
            stop = min(n, start + max(8, round(height)))
            yield slice(start, stop), slice(0, stop)
            start = stop
