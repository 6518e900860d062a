"""Features where little is left to know: the variance that data leave, by features, against the exact one.

Given data, the variance of a path at a query is |φ(q) − Φ(X)ᵀa|² + aᵀΣa with a = (K + Σ)⁻¹k, an estimate of the exact
posterior variance that depends on the map alone: no path has to be drawn.
"""

from __future__ import annotations

from typing import Any

import gpytorch.kernels as gk
import numpy as np
import pytest
import torch
from scipy import integrate, stats
from scipy.special import gammaincc
from torch import Tensor

from sggp.kernels import TanimotoDotProduct, TanimotoMinMax, draw_features
from sggp.kernels.features import spectral
from sggp.kernels.features.stationary import _gamma_mixture
from sggp.native.families import FAMILIES
from tests.oracles import kernel_matrix

SIZES = {1: 0.5, 2: 0.7, 6: 1.5}


def kernel_of(name: str, d: int) -> Any:
    base = {
        "matern12": lambda: gk.MaternKernel(0.5),
        "matern32": lambda: gk.MaternKernel(1.5),
        "matern52": lambda: gk.MaternKernel(2.5),
        "rbf": gk.RBFKernel,
        "rq": gk.RQKernel,
        "periodic": gk.PeriodicKernel,
    }
    if name in base:
        kernel = base[name]()
        kernel.lengthscale = SIZES[d]
        return kernel.double()
    if name == "sum":
        rough = gk.ScaleKernel(kernel_of("matern12", d))
        rough.outputscale = 0.02
        return (kernel_of("matern52", d) + rough).double()
    first, rest = (
        gk.RBFKernel(active_dims=[0]),
        gk.MaternKernel(2.5, active_dims=list(range(min(1, d - 1), d))),
    )
    first.lengthscale = rest.lengthscale = SIZES[d]
    return (first * rest).double()


def rows_and_queries(n: int, d: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows on a line or in the cube; queries at rows, midway between neighbours, inside and around the cube."""
    draw = lambda count: torch.rand(count, d, generator=generator, dtype=torch.float64)  # noqa: E731
    x = torch.linspace(0, 1, n, dtype=torch.float64)[:, None] if d == 1 else draw(n)
    distance = torch.cdist(x, x).fill_diagonal_(torch.inf)
    chosen = torch.randint(n, (125,), generator=generator)
    midway = 0.5 * (x[chosen] + x[distance.argmin(1)[chosen]])
    return x, torch.cat([x[chosen], midway, draw(125), 1.6 * draw(125) - 0.3])


def ratios(kernel: Any, x: Tensor, queries: Tensor, noises: tuple[float, ...], features: Any) -> list[Tensor]:
    """Variance by features over the dense float64 one, for every noise; of kernels with one prior variance."""
    matrix, cross = (torch.from_numpy(kernel_matrix(kernel, x, other)) for other in (x, queries))
    own = float(kernel_matrix(kernel, queries[:1], queries[:1])[0, 0])
    at_queries, at_rows, found = features.phi(queries), features.phi(x), []
    for noise in noises:
        weights = torch.linalg.solve(matrix + noise * torch.eye(len(x), dtype=torch.float64), cross)
        left = at_queries - weights.T @ at_rows
        variance = left.square().sum(1) + noise * weights.square().sum(0)
        found.append(variance / (own - (weights * cross).sum(0)))
    return found


def quantiles(values: Tensor) -> tuple[float, float, float]:
    """Of 1 %, 50 % and 99 %; `within` says how near one they have to be."""
    low, middle, high = torch.quantile(values, torch.tensor([0.01, 0.5, 0.99], dtype=torch.float64)).tolist()
    return low, middle, high


def within(low: float, middle: float, high: float) -> bool:
    return low > 0.75 and 0.9 < middle < 1.1 and high < 1.3


@pytest.mark.parametrize("n", [30, 300])
@pytest.mark.parametrize("d", [1, 6])
@pytest.mark.parametrize(
    "name", ["matern12", "matern32", "matern52", "rbf", "rq", "periodic", "sum", "product"]
)
def test_the_variance_that_data_leave(name: str, d: int, n: int, generator: torch.Generator) -> None:
    kernel = kernel_of(name, d)
    x, queries = rows_and_queries(n, d, generator)
    # two factors in six dimensions, known to 1e-6, need more
    size = 4096 if (name, d) == ("product", 6) else 2048
    features = draw_features(kernel, size, input_dim=d, generator=generator)
    for found in map(quantiles, ratios(kernel, x, queries, (1e-6, 1e-2), features)):
        assert within(*found), found


@pytest.mark.parametrize("base", [TanimotoMinMax, TanimotoDotProduct])
@pytest.mark.parametrize(("n", "noise"), [(100, 0.01), (100, 0.2), (400, 0.01)])
def test_the_variance_that_molecules_leave(
    base: Any, n: int, noise: float, generator: torch.Generator
) -> None:
    rates = torch.rand(20, 200, generator=generator, dtype=torch.float64).pow(6) * 4
    scaffold = torch.randint(20, (n + 200,), generator=generator)
    counts = torch.poisson(rates[scaffold], generator=generator)
    features = draw_features(base(), 2048, input_dim=200, generator=generator)
    (found,) = ratios(base().double(), counts[:n], counts[n:], (noise,), features)
    assert within(*quantiles(found)), quantiles(found)


def test_frequencies_of_the_spectral_law_alone_fail(monkeypatch, generator: torch.Generator) -> None:
    """Thirty values on a line, as measured: a median of .03 to .06."""
    monkeypatch.setattr(spectral, "TAIL_SHARE", 0.0)
    kernel = kernel_of("matern32", 1)
    x, queries = rows_and_queries(30, 1, generator)
    features = draw_features(kernel, 2048, input_dim=1, generator=generator)
    (found,) = ratios(kernel, x, queries, (1e-6,), features)
    assert float(found.median()) < 0.5


@pytest.mark.parametrize("name", ["matern32", "matern52", "rbf", "rq", "product"])
@pytest.mark.parametrize("d", [1, 2])
def test_the_variance_of_slopes_that_data_leave(name: str, d: int, generator: torch.Generator) -> None:
    """By difference quotients over a hundredth of the length scale, along the first column."""
    kernel, noise = kernel_of(name, d), 1e-4
    x, queries = rows_and_queries(30, d, generator)
    step = torch.zeros(d, dtype=torch.float64)
    step[0] = 0.01 * SIZES[d]
    ends = torch.cat([queries + step, queries - step])
    matrix = torch.from_numpy(kernel_matrix(kernel, x, x)) + noise * torch.eye(30, dtype=torch.float64)
    cross = torch.from_numpy(kernel_matrix(kernel, x, ends))
    cross = cross[:, : len(queries)] - cross[:, len(queries) :]
    apart = torch.from_numpy(kernel_matrix(kernel, step[None], -step[None]))
    own = 2 * (torch.from_numpy(kernel_matrix(kernel, step[None], step[None])) - apart)[0, 0]
    weights = torch.linalg.solve(matrix, cross)
    features = draw_features(kernel, 2048, input_dim=d, generator=generator)
    upper, lower = features.phi(ends).chunk(2)
    left = upper - lower - weights.T @ features.phi(x)
    left_open = left.square().sum(1) + noise * weights.square().sum(0)
    found = quantiles(left_open / (own - (weights * cross).sum(0)))
    assert within(*found), found


@pytest.mark.parametrize("d", [1, 2, 6, 50])
@pytest.mark.parametrize("name", ["rbf", "matern12", "matern32", "matern52"])
def test_quantiles_of_the_spectral_laws(name: str, d: int) -> None:
    tails = np.array([1e-12, 1e-6, 1e-3, 0.1, 0.5, 0.999])
    law = FAMILIES[name].spectrum
    assert law is not None
    squares = law(tails, d)
    nu = FAMILIES[name].nu
    found = stats.chi2.sf(squares, d) if name == "rbf" else stats.f.sf(squares / d, d, 2 * nu)
    np.testing.assert_allclose(found, tails, rtol=1e-8)


@pytest.mark.parametrize("alpha", [0.3, 2.0, 30.0])
@pytest.mark.parametrize("d", [1, 6])
def test_quantiles_of_the_gamma_mixture(alpha: float, d: int) -> None:
    for tail in (0.9, 0.5, 1e-2, 1e-6, 1e-11):
        square = float(_gamma_mixture(alpha, d)(np.array([tail]))[0])

        def density(log_tau: float, square: float = square) -> float:
            tau = np.exp(log_tau)
            return gammaincc(d / 2, square / (2 * tau)) * stats.gamma.pdf(tau, alpha, scale=1 / alpha) * tau

        found = integrate.quad(
            density, -40, 6, limit=2000, epsabs=0, epsrel=1e-9, points=[-1, -0.2, 0.2, 1, 2, 3]
        )[0]
        assert abs(found / tail - 1) < 1e-3


@pytest.mark.parametrize("laws", [1, 2, 5])
def test_weights_have_expectation_one_and_a_bound(laws: int, generator: torch.Generator) -> None:
    law = spectral.SpectralLaw((lambda t: -2 * np.log(t),), torch.ones(2, dtype=torch.float64))
    weights = torch.cat([spectral.draw_frequencies([law] * laws, 512, generator)[1] for _ in range(40)])
    assert float(weights.max()) <= 1 / (1 - spectral.TAIL_SHARE) + 1e-12
    # independent draws would know it to the standard error of their mean, and a scrambled net knows it better
    assert abs(float(weights.mean()) - 1) < 4 * float(weights.std()) / len(weights) ** 0.5


def test_more_columns_than_the_sequence_has(generator: torch.Generator) -> None:
    kernel = gk.RBFKernel()
    kernel.lengthscale = 100.0
    x = torch.randn(3, 21_300, generator=generator, dtype=torch.float64) * 0.3
    phi = draw_features(kernel, 512, input_dim=21_300, generator=generator).phi(x)
    expected = torch.from_numpy(kernel_matrix(kernel, x, x))
    assert float((phi @ phi.T - expected).abs().max()) < 5 * (3 / 256) ** 0.5
