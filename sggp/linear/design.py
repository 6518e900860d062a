"""The design of the linear model in coordinates where noise and prior are isotropic."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sggp.errors import DtypeError, InputError, ShapeError
from sggp.linear.features import Features, RowIndex, batches

__all__ = ["Design", "precision_root"]

_FLOOR = 1e-6
"""A diagonal entry of the Fisher matrix below this share of their mean counts as this share."""


def precision_root(precision: Any, n: int, o: int) -> Tensor | None:
    """L with L Lᵀ = B, per point: (n, 1) or (n, o) where B is diagonal, (n, o, o) where it is not.

    Args:
        precision: None for B = I, or a tensor (n,), (n, o) or (n, o, o); symmetric positive semi-definite.
        n, o: points, and outputs of each.

    Raises:
        ShapeError, DtypeError, InputError: B has another shape or type, or is no precision.
    """
    if precision is None:
        return None
    if not isinstance(precision, Tensor) or not precision.is_floating_point():
        raise DtypeError(f"precision must be a floating-point torch.Tensor, got {type(precision).__name__}.")
    shape = tuple(precision.shape)
    if shape not in ((n,), (n, o), (n, o, o)):
        raise ShapeError(f"precision must be ({n},), ({n}, {o}) or ({n}, {o}, {o}), got {shape}.")
    b = precision.detach().double()
    if not bool(torch.isfinite(b).all()):
        raise InputError("precision holds NaN or infinity.")
    if b.ndim < 3:
        if bool((b < 0).any()):
            raise InputError("precision must not be negative.")
        return b.sqrt().reshape(n, -1)
    scale = b.abs().amax().clamp_min(torch.finfo(torch.float64).tiny)
    values, vectors = torch.linalg.eigh((b + b.mT) / 2)
    if bool((values < -1e-6 * scale).any()) or float((b - b.mT).abs().max()) > 1e-5 * float(scale):
        raise InputError("precision must be symmetric positive semi-definite at every point.")
    return vectors * values.clamp_min(0).sqrt()[:, None, :]


class Design:
    """Φ̃ = LᵀΦS: one (o, D) block LᵢᵀφᵢS per point, with B_i = LᵢLᵢᵀ and S = diag(s).

    In w = S⁻¹θ and ỹ = Lᵀy the model is ỹ = Φ̃w + N(0, σ²I) with w ~ N(0, I/α), whatever B and s are.
    """

    def __init__(self, features: Features, root: Tensor | None = None, scale: Tensor | None = None) -> None:
        self.features = features
        device, dtype = features.device, features.dtype
        self.root = None if root is None else root.to(device, dtype)
        self.scale = None if scale is None else scale.to(device, dtype)[:, None]

    @property
    def num_weights(self) -> int:
        return self.features.num_weights

    @property
    def num_observations(self) -> int:
        """n·o, or the number of positive eigenvalues of B, beside the largest of each point, where that is less."""
        present = self._present()
        if present is None:
            return self.features.num_rows * self.features.num_outputs
        return int(present.sum()) * (self.features.num_outputs if present.shape[1] == 1 else 1)

    def _present(self) -> Tensor | None:  # -> (n, 1) or (n, o)
        """Which columns of every Lᵢ are not zero; None for all."""
        if self.root is None:
            return None
        if self.root.ndim == 2:
            return self.root > 0
        sizes = self.root.double().square().sum(1)
        return (sizes > 1e-10 * sizes.amax(1, keepdim=True)) & (sizes > 0)

    def apply(self, w: Tensor, rows: RowIndex) -> Tensor:  # (D, s) -> (b, o, s)
        """Φ̃w for the rows asked for."""
        out = self.features.apply(w if self.scale is None else self.scale * w, rows)
        return self.whiten(out, rows)

    def adjoint(self, v: Tensor, rows: RowIndex) -> Tensor:  # (b, o, s) -> (D, s)
        """Φ̃ᵀv over the rows asked for."""
        return self.pull(self.colour(v, rows), rows)

    def pull(self, v: Tensor, rows: RowIndex) -> Tensor:  # (b, o, s) -> (D, s)
        """SΦᵀv, without L."""
        out = self.features.adjoint(v, rows)
        return out if self.scale is None else self.scale * out

    def whiten(self, v: Tensor, rows: RowIndex) -> Tensor:
        """Lᵀv."""
        if self.root is None:
            return v
        root = self.root[rows]
        return root[..., None] * v if root.ndim == 2 else root.mT @ v

    def colour(self, v: Tensor, rows: RowIndex) -> Tensor:
        """L v."""
        if self.root is None:
            return v
        root = self.root[rows]
        return root[..., None] * v if root.ndim == 2 else root @ v

    def noise(self, columns: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:  # -> (D, k), (k,)
        """Φ̃ᵀε for ε ~ N(0, I), and ‖ε‖² over the observations there are: one pass over the data, batch by batch."""
        features, present = self.features, self._present()
        total = torch.zeros(self.num_weights, columns, dtype=torch.float64, device=features.device)
        squares = torch.zeros(columns, dtype=torch.float64)
        for rows in batches(features):
            shape = (rows.stop - rows.start, features.num_outputs, columns)
            draw = torch.randn(shape, generator=generator, dtype=torch.float64)
            total += self.adjoint(draw.to(device=features.device, dtype=features.dtype), rows)
            kept = draw.square() if present is None else draw.square() * present[rows, :, None].cpu()
            squares += kept.sum((0, 1))
        return total, squares

    def fisher_diagonal(self, probes: int, generator: torch.Generator) -> Tensor:  # -> (D,)
        """diag(Φ̃ᵀΦ̃) = Σ_i [φᵢᵀB_iφᵢ]_dd, unbiased, as the mean square of `probes` columns Φ̃ᵀε.

        Its relative standard error is √(2/probes) for every weight.
        """
        return self.noise(probes, generator)[0].square().mean(1)

    def normalised(self, probes: int, generator: torch.Generator) -> Design:
        """The design whose columns have unit length: s_d = (diag(Φ̃ᵀΦ̃)_d)^(-1/2), the scale of the g-prior.

        Raises:
            InputError: every feature is zero.
        """
        diagonal = self.fisher_diagonal(probes, generator)
        mean = float(diagonal.mean())
        if not 0 < mean < float("inf"):
            raise InputError("the features, weighted by the precision, are all zero or not finite.")
        return Design(self.features, self.root, diagonal.clamp_min(_FLOOR * mean).rsqrt())
