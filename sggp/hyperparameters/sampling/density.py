"""The posterior density of hyperparameters in the coordinates that samplers move, with its gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sggp.errors import InputError, UnsupportedKernel
from sggp.hyperparameters.coordinates import Coordinates, lengthscale_columns
from sggp.hyperparameters.gram import LOG_TWO_PI, GramFunction, gram_function
from sggp.hyperparameters.problem import FitProblem

_SPREAD, _NOISE_SPREAD = 2.0, 3.0  # of the default priors, in natural logarithms
_NOISE_SHARE = 0.02  # median of the default prior on the noise variance, as a share of the variance of y


@dataclass(frozen=True)
class MeanMoments:
    """The mean given everything else: N(centre, variance); variance 0 where it is known."""

    centre: float
    variance: float


class LogDensity:
    """log p(y | u) + log p(u) over coordinates u (p,), up to a constant, with its gradient.

    p(y | u) is the exact marginal likelihood; an unknown constant mean is integrated out under a flat prior.
    GPyTorch priors are densities of constrained values and enter with the Jacobian of u -> value; coordinates that no
    prior covers get a normal one, see `default_priors`. Zero density outside the coordinates' bounds and where K +
    Sigma has no Cholesky factor in float64.

    Args:
        problem: of one target.
    """

    def __init__(self, problem: FitProblem) -> None:
        self.coordinates = problem.coordinates()
        if self.coordinates.size == 0:
            raise InputError("kernel and noise have nothing to learn, so there is nothing to draw.")
        self.x, self.y, self.noise, self.mean = problem.x, problem.y, problem.noise, problem.mean
        self.gram: GramFunction = gram_function(self.coordinates.kernel)
        self.covered = _covered(self.coordinates)
        self.centre, self.spread = default_priors(self.coordinates, problem.x, problem.scale)
        self.jacobian = self._jacobian()
        self.evaluations = 0

    def __call__(self, u: Tensor) -> tuple[float, Tensor]:
        """Value and gradient (p,) at u (p,); (-inf, zeros) where the density is zero."""
        nothing = -math.inf, torch.zeros_like(u)
        self.evaluations += 1
        lower, upper = self.coordinates.bounds()
        if not bool(((u >= lower) & (u <= upper)).all()):
            return nothing
        self.coordinates.assign(u)
        with torch.enable_grad():
            gram = self.gram(self.x)
            noise = self.coordinates.noise() if self.noise is None else self.noise
        value, sensitivity, _ = self._likelihood(gram, noise)
        if sensitivity is None:
            return nothing
        with torch.enable_grad():
            if gram.requires_grad:
                torch.autograd.backward(gram, sensitivity)
            if self.noise is None:
                torch.autograd.backward(noise, sensitivity.diagonal().sum())
            gradient = self.coordinates.gradient(u)
        prior, slope = self.coordinates.log_prior(u)
        distance = torch.where(self.covered, 0.0, (u - self.centre) / self.spread)
        jacobian = torch.where(self.covered, self.jacobian, 0.0)
        value += prior - 0.5 * float(distance.square().sum()) + float((jacobian * u).sum())
        gradient = gradient + slope - distance / self.spread + jacobian
        return (value, gradient) if math.isfinite(value) and bool(gradient.isfinite().all()) else nothing

    def _jacobian(self) -> Tensor:  # (p,)
        """d log|d value / d u| / du: one for logarithms, zero for coordinates that are values themselves."""
        logs = [torch.full((i.parameter.numel(),), math.isfinite(i.lower)) for i in self.coordinates.items]
        constraints = {n: c for n, _, c in self.coordinates.kernel.named_parameters_and_constraints()}
        covered = self.covered.split([len(log) for log in logs])
        for item, log, prior in zip(self.coordinates.items, logs, covered, strict=True):
            if constraints.get(item.name) is not None and bool((prior & ~log).any()):
                raise UnsupportedKernel(
                    f"{item.name} has a prior and a constraint that is neither a lower bound nor an interval of "
                    "positive numbers: use gpytorch.constraints.GreaterThan or Interval(lower >= 0), or drop the prior."
                )
        return torch.cat(logs).to(torch.float64)

    def moments(self, u: Tensor) -> MeanMoments:
        """Of the constant mean given u."""
        if self.mean is not None:
            return MeanMoments(float(self.mean), 0.0)
        self.coordinates.assign(u)
        with torch.no_grad():
            noise = self.coordinates.noise() if self.noise is None else self.noise
            return self._likelihood(self.gram(self.x), noise)[2]

    @torch.no_grad()
    def _likelihood(self, gram: Tensor, noise: Tensor) -> tuple[float, Tensor | None, MeanMoments]:
        """log p(y | u), d value / d H (None where there is no factor), and the moments of the mean."""
        covariance = gram.detach().clone()
        covariance.diagonal().add_(noise.detach())
        factor, info = torch.linalg.cholesky_ex(covariance)
        if int(info) != 0:
            return -math.inf, None, MeanMoments(0.0, 0.0)
        ones = torch.ones_like(self.y)
        solved = torch.cholesky_solve(torch.cat([ones, self.y], dim=1), factor)
        weight = float(solved[:, 0].sum())
        centre = float(solved[:, 1].sum()) / weight if self.mean is None else float(self.mean)
        alpha = solved[:, 1:] - centre * solved[:, :1]
        n = len(self.y)
        value = -0.5 * float(((self.y - centre) * alpha).sum()) - float(factor.diagonal().log().sum())
        value -= 0.5 * n * LOG_TWO_PI
        # ∂/∂H of −½ (y − m)ᵀH⁻¹(y − m) − ½ log|H| is ½ (ααᵀ − H⁻¹)
        sensitivity = torch.cholesky_inverse(factor).mul_(-0.5)
        sensitivity.addmm_(alpha, alpha.T, alpha=0.5)
        if self.mean is not None:
            return value, sensitivity, MeanMoments(centre, 0.0)
        # ∫ N(y; m1, H) dm adds ½ log(2π / 1ᵀH⁻¹1): Rasmussen & Williams 2006, equation 2.45 for one constant
        value += 0.5 * (LOG_TWO_PI - math.log(weight))
        sensitivity.addmm_(solved[:, :1], solved[:, :1].T, alpha=0.5 / weight)
        return value, sensitivity, MeanMoments(centre, 1.0 / weight)


def default_priors(coordinates: Coordinates, x: Tensor, scale: float) -> tuple[Tensor, Tensor]:  # (p,), (p,)
    """Centre and standard deviation, in log coordinates, of the priors of parameters that have none of their own.

    Log-normal, of log-spread 2: a length scale's median is the root of the summed variances of the m columns it acts on
    (of one column of several: of m columns like it), an output scale's the mean square of y about its mean, any other
    parameter's its starting value. The noise variance: median 0.02 of that mean square, log-spread 3.

    Args:
        coordinates: of the kernel at its starting values. x: (n, d). scale: mean square of y about its mean.
    """
    centre = coordinates.vector()
    spread = torch.full_like(centre, _SPREAD)
    columns = lengthscale_columns(coordinates.kernel, list(range(x.shape[1])))
    variance = x.to(torch.float64).var(dim=0, correction=0).cpu()
    start = 0
    for item in coordinates.items:
        stop = start + item.parameter.numel()
        entries = columns.get(id(item.parameter))
        if item.parameter is coordinates.raw_noise:
            centre[start], spread[start] = math.log(_NOISE_SHARE * scale), _NOISE_SPREAD
        elif entries is not None:
            several = len(entries) if len(entries[0]) == 1 else 1
            total = torch.stack([several * variance[own].sum() for own in entries])
            centre[start:stop] = 0.5 * torch.where(total > 0, total, 1.0).log()
        elif item.name.endswith("raw_outputscale"):
            centre[start:stop] = math.log(scale)
        start = stop
    return centre, spread


def _covered(coordinates: Coordinates) -> Tensor:  # (p,) bool
    """Which coordinates a GPyTorch prior speaks about."""
    parameters = [item.parameter for item in coordinates.items]
    covered = [p is coordinates.raw_noise and coordinates.noise_prior is not None for p in parameters]
    with torch.enable_grad():
        for _, module, _, closure, _ in coordinates.kernel.named_priors():
            value = closure(module)
            if value.requires_grad:
                found = torch.autograd.grad(value.sum(), parameters, allow_unused=True)
                covered = [c or g is not None for c, g in zip(covered, found, strict=True)]
    return torch.cat([torch.full((p.numel(),), c) for p, c in zip(parameters, covered, strict=True)])
