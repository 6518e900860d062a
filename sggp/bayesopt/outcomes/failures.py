"""Where measurements fail: a probit Gaussian process on the trials that ended, as measured or as failed.

P(success at x) = Φ(g(x)), g ~ GP. By expectation propagation every trial becomes a pseudo-measurement of g
(`sggp.bayesopt.outcomes.sites`), so g has sample paths and variances like any posterior. Its kernel is not the
objective's, which may ignore the very input that makes trials fail: it is the likeliest of a few, by the evidence of
expectation propagation.

Source: Rasmussen & Williams 2006, sections 3.6 and 5.4.1; Gelbart, Snoek & Adams 2014 (unknown constraints).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gpytorch
import torch
from torch import Tensor

from sggp.bayesopt.outcomes.sites import Sites, one_sided_sites
from sggp.bayesopt.outcomes.tables import BeliefSettings
from sggp.bayesopt.surrogate import fit_surrogate
from sggp.posterior import Posterior, condition
from sggp.random import streams

_PRIOR_SUCCESSES, _PRIOR_TRIALS = 2.0, 2.5  # what is believed of places of which nothing is known
_REACHES = (0.1, 0.2, 0.4, 0.8)  # length scales, in widths of the inputs times root of their number
_VARIANCES = (1.0, 4.0, 16.0)  # of g
_LEARN_FROM = 8  # trials of either kind for a kernel learnt from them
_COMPARED, _ROWS = 300, 2000


@dataclass(frozen=True)
class Failures:
    """What the ended trials say about where measurements fail.

    Attributes:
        posterior: of h, with g = mean + scale·h and P(success) = Φ(g). failed: how many trials failed.
    """

    posterior: Posterior
    mean: float
    scale: float
    failed: int

    def probability(self, points: Tensor) -> Tensor:  # (q, d) -> (q,)
        """Of success, Φ(E g/√(1 + var g)); float64."""
        mean, variance = self.posterior.mean_and_variance(points)
        spread = (1.0 + self.scale**2 * variance.double()).sqrt()
        return torch.special.ndtr((self.mean + self.scale * mean.double()) / spread)

    def of_paths(self, h: Tensor) -> Tensor:
        """Φ(g) of values of paths of h."""
        return torch.special.ndtr(self.mean + self.scale * h)


def fit_failures(
    x: Tensor, failed: Tensor, settings: BeliefSettings, objective_kernel: Any, generator: torch.Generator
) -> Failures | None:
    """The model of failures; None where nothing failed.

    Args:
        x: (n, d) inputs of the ended trials. failed: (n,) bool.
        settings: of the posterior.
        objective_kernel: the objective's learnt kernel, one of those compared where the inputs are counts; or None.

    Cost: k³ flops for some ten sweeps over at most 300 rows for each of a dozen kernels, then over at most 2,000 rows,
        which are the failures and successes drawn at random.
    """
    if not bool(failed.any()):
        return None
    pick, learn, draw = streams(generator, "rows", "kernel", "posterior")
    number = int(failed.sum())
    success = (len(x) - number + _PRIOR_SUCCESSES) / (len(x) + _PRIOR_TRIALS)
    rows = _subset(failed, _ROWS, pick)
    x, side = x[rows], 1.0 - 2.0 * failed[rows].double()
    part = _subset(side < 0, _COMPARED, pick)
    _, kernel, variance = max(
        (
            (_probit(kernel, x[part], side[part], variance, success)[0].log_evidence, kernel, variance)
            for kernel in _kernels(x[part], side[part], settings, objective_kernel, learn)
            for variance in _VARIANCES
        ),
        key=lambda found: found[0],
    )
    sites, mean, scale = _probit(kernel, x, side, variance, success)
    posterior = condition(
        kernel,
        x,
        (sites.value - mean) / scale,
        noise_variance=sites.noise / scale**2,
        num_samples=settings.num_samples,
        num_features=settings.num_features,
        generator=draw,
    )
    return Failures(posterior, mean, scale, number)


def _subset(failed: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """At most so many rows, in order: failures first, up to half of them."""
    order = torch.randperm(len(failed), generator=generator)
    bad, good = order[failed[order]], order[~failed[order]]
    kept = bad[: max(most // 2, most - len(good))]
    return torch.cat([kept, good[: most - len(kept)]]).sort().values


def _kernels(
    x: Tensor, side: Tensor, settings: BeliefSettings, objective_kernel: Any, generator: torch.Generator
) -> Iterator[Any]:
    """Kernels to compare."""
    floating = x.is_floating_point()
    if floating:
        width = 12.0**0.5 * x.std(0, correction=0)  # that of uniform inputs
        width = torch.where(width > 0, width, torch.ones_like(width))
        for reach in _REACHES:
            kernel = gpytorch.kernels.MaternKernel(nu=2.5, ard_num_dims=x.shape[1]).double()
            kernel.lengthscale = reach * x.shape[1] ** 0.5 * width
            yield kernel.requires_grad_(False)
    elif objective_kernel is not None:
        yield objective_kernel
    both = min(int((side > 0).sum()), int((side < 0).sum()))
    if both >= _LEARN_FROM or (not floating and objective_kernel is None):
        options = {**settings.of_model, "kernel": None}
        yield fit_surrogate(x, side, num_samples=0, generator=generator, **options).kernel


def _probit(
    kernel: Any, x: Tensor, side: Tensor, variance: float, success: float
) -> tuple[Sites, float, float]:
    """The sites of g, its prior mean, and its scale: the kernel's own variance becomes `variance`."""
    gram = condition(kernel, x[:1], torch.zeros(1), noise_variance=1.0, num_samples=0).covariance.block(x)
    gram = gram.detach().double()
    scale = math.sqrt(variance / float(gram.diagonal().mean()))
    mean = math.sqrt(1.0 + variance) * float(torch.special.ndtri(torch.tensor(success, dtype=torch.float64)))
    prior = torch.full((len(x),), mean, dtype=torch.float64)
    one, zero = torch.ones_like(prior), torch.zeros_like(prior)
    return one_sided_sites(prior, scale**2 * gram, zero, side, one), mean, scale
