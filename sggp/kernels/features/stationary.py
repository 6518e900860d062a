"""Random Fourier features: RBF, Matérn, rational quadratic and periodic kernels, and their products.

A stationary kernel with k(0) = 1 is the characteristic function of its spectral law, k(x − z) = E cos(ωᵀ(x −
z)) (Bochner). With F frequencies ω and their weights w, the pairs √(w/F)·(cos ωᵀx, sin ωᵀx) give φ(x)·φ(z) =
F⁻¹ Σ w_f cos(ω_fᵀ(x − z)): unbiased, the same at all x = z, and of smaller variance than as many random-phase cosines
when k(2δ) is small or δ = x − z is near 0. The frequencies of a product of such kernels are the sums of its factors'.

Sources: Rahimi & Recht (NeurIPS 2007) Algorithm 1; Sutherland & Schneider (UAI 2015) on pairs against phases.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial, reduce
from typing import Any

import numpy as np
import scipy
import torch
from gpytorch.kernels import MaternKernel, PeriodicKernel, RBFKernel, RQKernel
from scipy.special import expit, gammainc, gammaincc, gammainccinv
from torch import Tensor

from sggp.errors import NoRandomFeatures, ShapeError
from sggp.kernels.features.base import ScaledMap
from sggp.kernels.features.registry import draw_features
from sggp.kernels.features.spectral import Radius, SpectralLaw, draw_frequencies
from sggp.kernels.stationary import profile_of
from sggp.native.families import normal_spectrum

_CACHED_ROWS = 256


@dataclass(frozen=True, eq=False)
class PhaseTerm:
    """One summand of the phases: frequenciesᵀ(x[columns] − shift), or of the points put on circles of `period`.

    Args:
        frequencies: (d', F) float64; (2d', F) with a period, for the coordinates (cos 2πx/period, sin 2πx/period).
        columns: (d',) long, or None for all columns.
        shift: (d',) float64, or None.
        period: (d',) float64, or None.
        law: what the frequencies were drawn from, so that a product of kernels can draw jointly; None where the kernel
            has no `SpectralLaw`, and is then multiplied pair by pair.
    """

    frequencies: Tensor
    columns: Tensor | None = None
    shift: Tensor | None = None
    period: Tensor | None = None
    law: SpectralLaw | None = None

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
    """φ(x) = √(scale/F) · √w ∘ (cos θ_1 … cos θ_F, sin θ_1 … sin θ_F) with phases θ = Σ_terms term.phases(x).

    Args:
        weights: (F,) w, float64; None for ones.
        narrow: cosines in float32 of phases that are found in the precision of the points.
    """

    terms: tuple[PhaseTerm, ...]
    input_dim: int
    scale: float = 1.0
    dtype: torch.dtype = torch.float32
    weights: Tensor | None = None
    narrow: bool = False

    group_size = 2

    @property
    def num_frequencies(self) -> int:
        """F."""
        return self.terms[0].frequencies.shape[-1]

    @property
    def num_features(self) -> int:
        """p = 2F."""
        return 2 * self.num_frequencies

    def _phases(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """θ, (…, n, F), and the sizes √(w scale/F), a number or (F,), in the precision of features."""
        phases = reduce(torch.add, (term.phases(self._floating(x)) for term in self.terms))
        phases = phases.float() if self.narrow else phases
        size = torch.tensor(self.scale / self.num_frequencies, dtype=torch.float64, device=phases.device)
        return phases, (size if self.weights is None else self.weights * size).sqrt().to(phases.dtype)

    def _pair(self, x: Tensor) -> tuple[Tensor, Tensor]:
        phases, size = self._phases(x)
        return phases.cos() * size, phases.sin() * size

    def _times(self, x: Tensor, weights: Tensor) -> Tensor:
        """φ(x) @ weights by few rows at a time, whose features stay in the cache."""
        if weights.ndim != 2 or x.shape[-1] != self.input_dim:
            return super()._times(x, weights)
        parts: list[Tensor] = []
        for rows in x.split(_CACHED_ROWS):
            phases, size = self._phases(rows)
            if not parts:
                cosine, sine = (size.reshape(-1, 1) * w.to(phases.dtype) for w in weights.chunk(2))
            parts.append(torch.addmm(phases.cos() @ cosine, phases.sin(), sine))
        return torch.cat(parts)

    def _evaluate(self, x: Tensor) -> Tensor:
        return torch.cat(self._pair(x), -1)

    def _grouped(self, x: Tensor) -> Tensor:
        return torch.stack(self._pair(x), -1)

    def narrowed(self) -> FourierMap:
        return replace(self, narrow=True)

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


def fourier_map(
    terms: Sequence[PhaseTerm], num_features: int, input_dim: int, generator: torch.Generator
) -> FourierMap:
    """The map of a product of stationary kernels with spectral laws, its frequencies drawn jointly."""
    laws = [term.law for term in terms if term.law is not None]
    drawn, weights = draw_frequencies(laws, max(1, num_features // 2), generator)
    drawn_terms = tuple(replace(term, frequencies=f) for term, f in zip(terms, drawn, strict=True))
    return FourierMap(drawn_terms, input_dim, weights=weights)


def _radial(
    kernel: Any, radii: tuple[Radius, ...], num_features: int, input_dim: int, generator: torch.Generator
) -> FourierMap:
    """Uniform directions at radii of these factors, over the kernel's length scales."""
    spread = per_column(kernel.lengthscale, input_dim, "length scale").reciprocal()
    term = PhaseTerm(torch.empty(input_dim, 0), law=SpectralLaw(radii, spread))
    return fourier_map([term], num_features, input_dim, generator)


@draw_features.register(RBFKernel)
@draw_features.register(MaternKernel)
def stationary_features(
    kernel: Any, num_features: int, *, input_dim: int, generator: torch.Generator
) -> FourierMap:
    """ω in uniform directions at radii of the family's spectral law; see `sggp.kernels.features.spectral`.

    One radius is shared by the d coordinates; coordinates with radii of their own are the spectral law of a product of
    one-dimensional kernels instead.
    """
    profile = profile_of(kernel)
    if profile is None or profile.kind.spectrum is None:
        raise NoRandomFeatures(
            f"the family of {type(kernel).__name__} has no spectrum in sggp.native.families; state its quantiles there."
        )
    radius = partial(profile.kind.spectrum, d=input_dim)
    return _radial(kernel, (radius,), num_features, input_dim, generator)


@draw_features.register(RQKernel)
def _rational_quadratic(
    kernel: RQKernel, num_features: int, *, input_dim: int, generator: torch.Generator
) -> FourierMap:
    """ω = z √τ, τ ~ Gamma(α, rate α): (1 + r²/2α)^{−α} = E exp(−τ r²/2), a scale mixture of RBFs."""
    quantiles = _gamma_mixture(float(kernel.alpha.detach()), input_dim)
    return _radial(kernel, (quantiles,), num_features, input_dim, generator)


@dataclass(frozen=True)
class Tabulated:
    """Upper quantiles of a positive variable, between tabulated ones: log value against logit of the probability."""

    logit: np.ndarray
    log_value: np.ndarray

    def __call__(self, t: np.ndarray) -> np.ndarray:
        logit = np.clip(np.log(t) - np.log1p(-t), self.logit[0], self.logit[-1])
        return np.exp(self._between(logit))

    @cached_property
    def _between(self) -> Any:
        return scipy.interpolate.PchipInterpolator(self.logit, self.log_value)


@lru_cache(maxsize=16)
def _gamma_mixture(alpha: float, d: int) -> Tabulated:
    """|ω|² = τ χ², χ² ~ χ²(d) and τ ~ Gamma(α, rate α), by the midpoint rule over τ's quantiles in log odds.

    The table ends where a tail is 1e-18 or a frequency 1e-15; relative errors of tail probabilities are below 1e-4.
    """
    odds = np.linspace(-46.0, 46.0, 400)
    tau = gammainccinv(alpha, expit(odds)) / alpha
    mass = expit(odds) * expit(-odds) * (odds[1] - odds[0])
    zero, tau, mass = mass[tau <= 1e-200].sum(), tau[tau > 1e-200], mass[tau > 1e-200]
    low, high = -70.0, math.log(tau[0] * 2 * (d + 100))
    for size in (200, 400):
        log_square = np.linspace(low, high, size)
        ratio = np.exp(log_square[:, None]) / (2 * tau)
        above, below = (f(d / 2, ratio) @ mass for f in (gammaincc, gammainc))
        inside = np.flatnonzero((above > 1e-18) & (below > 1e-18 + 1e-3 * zero))
        first, last = max(inside[0] - 1, 0), min(inside[-1] + 1, size - 1)
        low, high = log_square[first], log_square[last]
    logit, kept = np.unique(np.log(above[inside]) - np.log(below[inside] + zero), return_index=True)
    return Tabulated(logit, log_square[inside][kept])


@draw_features.register(PeriodicKernel)
def _periodic(
    kernel: PeriodicKernel, num_features: int, *, input_dim: int, generator: torch.Generator
) -> FourierMap:
    """RBF features of the points put on one circle per column; every feature is exactly periodic.

    GPyTorch's kernel is exp(−2 Σ_k sin²(π δ_k/p_k) / ℓ_k), with ℓ_k not squared. The chord between two points
    of the unit circle has squared length 4 sin²(π δ/p), so this is an RBF on the circles with length scale
    √ℓ_k.
    """
    spread = per_column(kernel.lengthscale, input_dim, "length scale").rsqrt().repeat(2)
    law = SpectralLaw((partial(normal_spectrum, d=2 * input_dim),), spread)
    period = per_column(kernel.period_length, input_dim, "period")
    term = PhaseTerm(torch.empty(2 * input_dim, 0), period=period, law=law)
    return fourier_map([term], num_features, input_dim, generator)
