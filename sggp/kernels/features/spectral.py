"""Frequencies of stationary kernels, drawn so that every scale of the spectrum has its share.

A Gaussian process given data close together is known at the frequencies below those of the data, and its variance is
what the spectrum holds above them: 10⁻⁶ of a Matérn-3/2's after thirty values on a line. Of so many frequencies drawn
from the spectral law none is there, and paths made of them vary too little, or too much, by any factor. So frequencies
come from a proposal instead: the spectral law mixed with one that is uniform in the *logarithm of the tail probability*
t = P(|ω| > r), which gives each factor of t, hence each size that a posterior variance may have, the same number; each
frequency carries its weight p/q (importance sampling), at most 1/(1 − λ), so that the features stay unbiased. Uniform
numbers are those of a scrambled Sobol' sequence (Owen 1995): each point alone is uniform, together they leave no gap.

Sources: Rahimi & Recht (NeurIPS 2007); Owen, Monte Carlo theory, methods and examples, chapters 9 and 17.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy
import torch
from torch import Tensor

from sggp.random import draw_seed

TAIL_SHARE = 2 / 3
"""λ, the share of the frequencies that is uniform in log t."""
_LEAST_TAIL = 1e-12
_LARGEST_SQUARE = 1e12
"""|ω|², in units of the length scale, beyond which nothing is resolved: in float32 rows are further apart."""
_NEWTON_STEPS = 60

Radius = Callable[[np.ndarray], np.ndarray]
"""From upper tail probabilities t to the values of one factor of |ω|²."""


@dataclass(frozen=True, eq=False)
class SpectralLaw:
    """ω = spread ∘ (a uniform direction) · √(Π radii), the spectral law of one stationary kernel.

    Args:
        radii: the independent factors of |ω|², by their upper quantiles.
        spread: (d',) float64, inverse length scales.
    """

    radii: tuple[Radius, ...]
    spread: Tensor

    def frequencies(self, squares: Sequence[np.ndarray], normal: np.ndarray) -> Tensor:  # -> (d', F)
        """From the values of the factors, (F,) each, and standard normal numbers (F, d')."""
        radius = torch.from_numpy(np.sqrt(np.prod(squares, axis=0)))
        direction = torch.from_numpy(normal.T.copy())
        return self.spread[:, None] * direction * (radius / direction.norm(dim=0))


def draw_frequencies(
    laws: Sequence[SpectralLaw], count: int, generator: torch.Generator
) -> tuple[list[Tensor], Tensor]:
    """F joint draws of independent frequencies, one a law, and their weights.

    For several factors in all, of one kernel or of a product's, each draw lets one of them, chosen at random, come from
    its mixture and the others from their laws.

    Returns:
        (d', F) float64 for each law, and weights (F,) float64 of expectation one.

    Cost: Σd' + the number of factors columns of a Sobol' sequence, at most 21,201 of them; independent numbers beyond.
    """
    radii = [radius for law in laws for radius in law.radii]
    sizes = [len(law.spread) for law in laws]
    uniform = _uniform(count, (len(radii) > 1) + len(radii) + sum(sizes), generator)
    chosen = np.zeros(count, dtype=int)
    if len(radii) > 1:
        chosen, uniform = (uniform[:, 0] * len(radii)).astype(int), uniform[:, 1:]
    ratio, values = np.zeros(count), []
    for number, radius in enumerate(radii):
        span = -math.log(_least_tail(radius))
        plain = uniform[:, number]
        tail = np.where(chosen == number, _mixture_quantile(plain, span), plain)
        ratio += (1 - TAIL_SHARE) + TAIL_SHARE * np.where(np.log(tail) > -span, 1 / (tail * span), 0.0)
        values.append(radius(tail))
    normal, frequencies = scipy.special.ndtri(uniform[:, len(radii) :]), []
    for law, size in zip(laws, sizes, strict=True):
        own, values = values[: len(law.radii)], values[len(law.radii) :]
        frequencies.append(law.frequencies(own, normal[:, :size]))
        normal = normal[:, size:]
    return frequencies, torch.from_numpy(len(radii) / ratio)


def _uniform(count: int, columns: int, generator: torch.Generator) -> np.ndarray:  # -> (count, columns)
    """Points inside the unit cube, each alone uniform."""
    rng = np.random.default_rng(draw_seed(generator))
    if columns > scipy.stats.qmc.Sobol.MAXDIM:
        points = rng.random((count, columns))
    else:
        sequence = scipy.stats.qmc.Sobol(columns, rng=rng)
        points = sequence.random_base2(math.ceil(math.log2(max(count, 1))))[:count]
    return np.clip(points, 1e-15, 1 - 1e-15)


def _mixture_quantile(u: np.ndarray, span: float) -> np.ndarray:
    """t with (1 − λ)t + λ(1 + log(t)/span)₊ = u, by Newton steps in log t from above, where they cannot overshoot."""
    least = (1 - TAIL_SHARE) * math.exp(-span)  # of u that belongs to the logarithmic part
    log_t = np.zeros_like(u)
    for _ in range(_NEWTON_STEPS):
        t = np.exp(log_t)
        excess = (1 - TAIL_SHARE) * t + TAIL_SHARE * (1 + log_t / span) - u
        step = excess / ((1 - TAIL_SHARE) * t + TAIL_SHARE / span)
        log_t = np.maximum(log_t - step, -span)
        if np.abs(step).max(initial=0.0) < 1e-12:
            break
    return np.where(u < least, u / (1 - TAIL_SHARE), np.exp(log_t))


def _least_tail(radius: Radius) -> float:
    """Where the logarithmic part of the proposal ends."""
    tails = np.logspace(math.log10(_LEAST_TAIL), math.log10(0.1), 67)
    resolved = tails[radius(tails) <= _LARGEST_SQUARE]
    return float(resolved[0]) if len(resolved) else 0.1
