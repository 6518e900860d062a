"""Random Fourier features: RBF, Matérn, rational quadratic and periodic kernels, and their products.

A stationary kernel with k(0) = 1 is the characteristic function of its spectral law, k(x − z) = E cos(ωᵀ(x −
z)) (Bochner). With F draws of ω the pairs (cos ωᵀx, sin ωᵀx)/√F give φ(x)·φ(z) = F⁻¹ Σ cos(ω_fᵀ(x − z)):
unbiased, exactly 1 on the diagonal, and of variance at most (1 + k(2δ) − 2k(δ)²)/(2F) at δ = x − z, which is what
makes the pairs better than as many random-phase cosines when k(2δ) is small or δ is near 0.

Sources: Rahimi & Recht (NeurIPS 2007) Algorithm 1; Sutherland & Schneider (UAI 2015) on pairs against phases.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
import torch
from gpytorch.kernels import MaternKernel, PeriodicKernel, RBFKernel, RQKernel
from scipy.special import gammaincinv
from torch import Tensor

from sggp.errors import NoRandomFeatures, ShapeError
from sggp.kernels.features.base import ScaledMap
from sggp.kernels.features.registry import draw_features
from sggp.kernels.stationary import profile_of
from sggp.random import streams


@dataclass(frozen=True, eq=False)
class PhaseTerm:
    """One summand of the phases: frequenciesᵀ(x[columns] − shift), or of the points put on circles of `period`.

    Args:
        frequencies: (d', F) float64; (2d', F) with a period, for the coordinates (cos 2πx/period, sin 2πx/period).
        columns: (d',) long, or None for all columns.
        shift: (d',) float64, or None.
        period: (d',) float64, or None.
    """

    frequencies: Tensor
    columns: Tensor | None = None
    shift: Tensor | None = None
    period: Tensor | None = None

    def phases(self, x: Tensor) -> Tensor:  # (…, n, F)
        if self.columns is not None:
            x = x[..., self.columns]
        if self.period is not None:
            angle = x * (2 * math.pi / self.period).to(x.dtype)
            x = torch.cat((angle.cos(), angle.sin()), -1)
        elif self.shift is not None:
            x = x - self.shift.to(x.dtype)
        return x @ self.frequencies.to(x.dtype)


@dataclass(frozen=True, eq=False)
class FourierMap(ScaledMap):
    """φ(x) = √(scale/F) · (cos θ_1 … cos θ_F, sin θ_1 … sin θ_F) with phases θ = Σ_terms term.phases(x)."""

    terms: tuple[PhaseTerm, ...]
    input_dim: int
    scale: float = 1.0
    dtype: torch.dtype = torch.float32

    group_size = 2

    @property
    def num_frequencies(self) -> int:
        """F."""
        return self.terms[0].frequencies.shape[-1]

    @property
    def num_features(self) -> int:
        """p = 2F."""
        return 2 * self.num_frequencies

    def _pair(self, x: Tensor) -> tuple[Tensor, Tensor]:
        phases = reduce(torch.add, (term.phases(self._floating(x)) for term in self.terms))
        return phases.cos(), phases.sin()

    def _evaluate(self, x: Tensor) -> Tensor:
        return torch.cat(self._pair(x), -1) * math.sqrt(self.scale / self.num_frequencies)

    def _grouped(self, x: Tensor) -> Tensor:
        return torch.stack(self._pair(x), -1) * math.sqrt(self.scale / self.num_frequencies)

    def on_columns(self, columns: Tensor, input_dim: int) -> FourierMap:
        terms = tuple(
            replace(t, columns=columns if t.columns is None else columns[t.columns]) for t in self.terms
        )
        return replace(self, terms=terms, input_dim=input_dim)

    def centred(self, at: Tensor) -> FourierMap:
        """The map of x − `at`, (d,); periodic terms stay where they are."""
        if at.shape != (self.input_dim,):
            raise ShapeError(f"expected a centre of shape ({self.input_dim},), got {tuple(at.shape)}.")
        at = at.detach().to(torch.float64)
        terms = []
        for term in self.terms:
            shift = at if term.columns is None else at[term.columns]
            terms.append(term if term.period is not None else replace(term, shift=shift))
        return replace(self, terms=tuple(terms))

    def times(self, other: FourierMap) -> FourierMap:
        """The map of the product kernel: independent frequencies add, one by one.

        E cos(ωᵀδ + ω'ᵀδ) = E cos(ωᵀδ) · E cos(ω'ᵀδ) for independent symmetric ω, ω'. Both maps must have been
        drawn independently, with the same number of frequencies.
        """
        return replace(self, terms=self.terms + other.terms, scale=self.scale * other.scale)


def per_column(value: Tensor, input_dim: int, what: str) -> Tensor:
    """A kernel parameter as (d,) float64, detached, on the CPU; one value is repeated over the columns."""
    flat = value.detach().to(device="cpu", dtype=torch.float64).reshape(-1)
    if flat.numel() == 1:
        return flat.expand(input_dim).clone()
    if flat.numel() != input_dim:
        raise ShapeError(
            f"the kernel has {flat.numel()} {what} values but sees {input_dim} columns: "
            f"set ard_num_dims={input_dim}."
        )
    return flat.clone()


def _normal(rows: int, num_features: int, generator: torch.Generator) -> Tensor:
    frequencies = max(1, num_features // 2)
    return torch.randn(rows, frequencies, generator=generator, dtype=torch.float64)


def _directions(rows: int, num_features: int, generator: torch.Generator) -> Tensor:
    """Uniform directions, one a frequency, (d, F)."""
    z = _normal(rows, num_features, generator)
    return z / z.norm(dim=0)


def _strata(count: int, generator: torch.Generator) -> np.ndarray:
    """One uniform number in each of `count` equal parts of (0, 1), in random order: each alone is uniform."""
    place = torch.randperm(count, generator=generator).double()
    uniform = torch.rand(count, generator=generator, dtype=torch.float64)
    return ((place + uniform) / count).clamp(1e-15, 1 - 1e-15).numpy()


def _fourier(kernel: Any, frequencies: Tensor, input_dim: int) -> FourierMap:
    lengthscale = per_column(kernel.lengthscale, input_dim, "length scale")
    return FourierMap((PhaseTerm(frequencies / lengthscale[:, None]),), input_dim)


@draw_features.register(RBFKernel)
@draw_features.register(MaternKernel)
def stationary_features(
    kernel: Any, num_features: int, *, input_dim: int, generator: torch.Generator
) -> FourierMap:
    """ω in uniform directions at stratified radii, quantiles of the spectral law of |ω|² of the kernel's family.

    One radius is shared by the d coordinates; coordinates with radii of their own are the spectral law of a product of
    one-dimensional kernels instead. Stratified radii matter most for the heavy tails of Matérn kernels: the few
    frequencies there carry all that a path has between the data; drawn independently, their number differs from map to
    map by its square root, and so does every sampled variance. Each frequency keeps its exact law.
    """
    profile = profile_of(kernel)
    if profile is None or profile.kind.spectrum is None:
        raise NoRandomFeatures(
            f"the family of {type(kernel).__name__} has no spectrum in sggp.native.families; state its quantiles there."
        )
    name = profile.family.rstrip("0123456789")
    normal, radial = streams(generator, f"{name} frequencies", f"{name} radii")
    directions = _directions(input_dim, num_features, normal)
    squared = profile.kind.spectrum(_strata(directions.shape[1], radial), input_dim)
    return _fourier(kernel, directions * torch.from_numpy(squared).sqrt(), input_dim)


@draw_features.register(RQKernel)
def _rational_quadratic(
    kernel: RQKernel, num_features: int, *, input_dim: int, generator: torch.Generator
) -> FourierMap:
    """ω = z √τ, τ ~ Gamma(α, rate α): (1 + r²/2α)^{−α} = E exp(−τ r²/2), a scale mixture of RBFs.

    τ is a quantile of stratified uniform numbers, so that the features of one seed move smoothly with α.
    """
    normal, mixing = streams(generator, "rq frequencies", "rq gamma")
    z = _normal(input_dim, num_features, normal)
    alpha = float(kernel.alpha.detach())
    gamma = gammaincinv(alpha, _strata(z.shape[1], mixing))
    return _fourier(kernel, z * torch.from_numpy(gamma / alpha).sqrt(), input_dim)


@draw_features.register(PeriodicKernel)
def _periodic(
    kernel: PeriodicKernel, num_features: int, *, input_dim: int, generator: torch.Generator
) -> FourierMap:
    """RBF features of the points put on one circle per column; every feature is exactly periodic.

    GPyTorch's kernel is exp(−2 Σ_k sin²(π δ_k/p_k) / ℓ_k), with ℓ_k not squared. The chord between two points
    of the unit circle has squared length 4 sin²(π δ/p), so this is an RBF on the circles with length scale
    √ℓ_k.
    """
    (normal,) = streams(generator, "periodic frequencies")
    spread = per_column(kernel.lengthscale, input_dim, "length scale").sqrt().repeat(2)
    period = per_column(kernel.period_length, input_dim, "period")
    frequencies = _normal(2 * input_dim, num_features, normal) / spread[:, None]
    return FourierMap((PhaseTerm(frequencies, period=period),), input_dim)
