"""Gaussian stand-ins for one-sided observations: expectation propagation with probit factors.

An observation that says "above c" of a value with normal noise has the likelihood Φ((f − c)/σ); a success or a failure
has Φ(±f). Both are log-concave, so the moments are found reliably, and each factor then counts as one more measurement:
a pseudo-value with a pseudo-noise. With these, a posterior is one like any other: its mean, variance and sample paths
come from the same solve at any scale.

Source: Minka 2001; Rasmussen & Williams 2006, section 3.6 and algorithm 3.5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sggp.linalg import cholesky

_SWEEPS = 100
_DAMPING = 0.8
_CLOSE = 1e-7  # of the prior variance's precision: changes of sites below it are none
_LEAST = 1e-9  # precision of a site, in units of 1/prior variance, below which it says nothing
_LOG_ROOT = 0.5 * math.log(2.0 * math.pi)


@dataclass(frozen=True)
class Sites:
    """What the observations say, as measurements of f.

    Attributes:
        value, noise: (k,) pseudo-values and their variances; one that says nothing has a huge variance.
        mean, covariance: (k,), (k, k) of f given the prior and all sites.
        log_evidence: log of the probability of the observations, approximate.
    """

    value: Tensor
    noise: Tensor
    mean: Tensor
    covariance: Tensor
    log_evidence: float


def inverse_mills(z: Tensor) -> Tensor:
    """φ(z)/Φ(z), also far out where both vanish."""
    return torch.exp(-0.5 * z.square() - _LOG_ROOT - torch.special.log_ndtr(z))


def tilted_moments(
    mean: Tensor, variance: Tensor, limit: Tensor, side: Tensor, noise: Tensor
) -> tuple[Tensor, ...]:
    """Moments of N(f; mean, variance)·Φ(side·(f − limit)/√noise): log of its mass, mean and variance, each (k,).

    With noise 0 these are those of a normal truncated at the limit.

    Args:
        side: 1 for "above", -1 for "below".

    Source: Rasmussen & Williams 2006, equation 3.58.
    """
    spread = (variance + noise).sqrt()
    z = side * (mean - limit) / spread
    ratio = inverse_mills(z)
    moved = mean + side * variance * ratio / spread
    left = variance - variance.square() * ratio * (z + ratio) / (variance + noise)
    return torch.special.log_ndtr(z), moved, left.clamp_min(1e-12 * variance)


def one_sided_sites(mean: Tensor, covariance: Tensor, limit: Tensor, side: Tensor, noise: Tensor) -> Sites:
    """Expectation propagation for factors Φ(side·(f − limit)/√noise) under f ~ N(mean, covariance).

    Args:
        mean, limit, side, noise: (k,) float64. covariance: (k, k).

    Cost: k³ flops for each of some ten sweeps.
    """
    prior = covariance.diagonal()
    precision, shift = torch.zeros_like(mean), torch.zeros_like(mean)
    now, matrix = mean, covariance
    for _ in range(_SWEEPS):
        cavity = (matrix.diagonal().reciprocal() - precision).clamp_min(1e-12 / prior)
        centre = (now / matrix.diagonal() - shift) / cavity
        _, moved, left = tilted_moments(centre, cavity.reciprocal(), limit, side, noise)
        target = (left.reciprocal() - cavity).clamp_min(0.0)
        change = target - precision
        shift = shift + _DAMPING * (moved / left - cavity * centre - shift)
        precision = precision + _DAMPING * change
        now, matrix = _posterior(mean, covariance, precision, shift)
        if bool((change.abs() * prior <= _CLOSE * (1.0 + precision * prior)).all()):
            break
    silent = precision * prior < _LEAST
    kept = torch.where(silent, _LEAST / prior, precision)
    value = torch.where(silent, mean, shift / kept)
    evidence = _log_evidence((mean, covariance), (now, matrix), (precision, shift), (limit, side, noise))
    return Sites(value, kept.reciprocal(), now, matrix, evidence)


def _posterior(mean: Tensor, covariance: Tensor, precision: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """N(mean, covariance) times sites exp(shift·f − precision·f²/2): mean and covariance."""
    root = precision.sqrt()
    inner = root[:, None] * covariance * root
    inner.diagonal().add_(1.0)
    factor = cholesky(inner, "1 + the sites' share of the covariance")
    half = torch.linalg.solve_triangular(factor, root[:, None] * covariance, upper=False)
    left = covariance - half.T @ half
    return mean + left @ (shift - precision * mean), left


def _log_evidence(prior: tuple, posterior: tuple, sites: tuple, factors: tuple) -> float:
    """log Z of expectation propagation, by the normalisers of exponential families.

    log Z = Ψ(posterior) − Ψ(prior) + Σ_i (log Ẑ_i + Ψ(cavity_i) − Ψ(marginal_i)), with Ψ the log normaliser of a normal
    in its natural parameters; at the fixed point of the sweeps its gradient in the sites vanishes.
    """
    (mean, covariance), (now, matrix), (precision, shift) = prior, posterior, sites
    marginal = matrix.diagonal()
    cavity = (marginal.reciprocal() - precision).clamp_min(1e-300)
    centre = (now / marginal - shift) / cavity
    mass = tilted_moments(centre, cavity.reciprocal(), *factors)[0]
    local = mass + _normaliser(centre, cavity.reciprocal()) - _normaliser(now, marginal)
    root = precision.sqrt()
    inner = root[:, None] * covariance * root
    inner.diagonal().add_(1.0)
    factor = cholesky(inner, "1 + the sites' share of the covariance")
    # Ψ(posterior) − Ψ(prior) = −½ log|1 + Σ T| + ½ (shiftᵀ now + meanᵀ(shift − T now))
    joint = 0.5 * (shift @ now + mean @ (shift - precision * now)) - float(factor.diagonal().log().sum())
    return float(joint + local.sum())


def _normaliser(mean: Tensor, variance: Tensor) -> Tensor:
    return 0.5 * (mean.square() / variance + variance.log())
