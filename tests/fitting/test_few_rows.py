"""Models of a few rows: what the data do not say is not claimed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from botorch.test_functions import Ackley, Hartmann, Michalewicz
from gpytorch.kernels import MaternKernel, ScaleKernel

from sggp import GPRegressor
from sggp.bayesopt.surrogate import fit_surrogate
from sggp.botorch import PathwiseGPModel
from sggp.errors import UnidentifiedColumns
from sggp.fitting import with_unknown_constant
from sggp.hyperparameters import named_kernel
from sggp.hyperparameters.defaults import log_normal, noise_floor, noise_prior
from sggp.solvers import ConjugateGradients
from tests.oracles import kernel_matrix


@pytest.mark.parametrize(("mode", "spread"), [(0.25, 2.0), (3.0, 1.0)])
def test_a_log_normal_prior_is_highest_at_its_mode(mode: float, spread: float) -> None:
    prior = log_normal(mode, spread).double()
    at = torch.tensor([0.99 * mode, mode, 1.01 * mode], dtype=torch.float64)
    density = prior.log_prob(at)
    assert density[1] > density[0]
    assert density[1] > density[2]


@pytest.mark.parametrize("d", [1, 4, 30])
def test_a_search_starts_where_its_priors_are_highest(d: int) -> None:
    kernel = named_kernel("matern52", d)
    prior = kernel.base_kernel.lengthscale_prior
    centre = float(torch.as_tensor(prior.loc - prior.scale**2).exp())
    assert centre == pytest.approx(kernel.base_kernel.lengthscale[0, 0].item(), rel=1e-6)
    assert centre == pytest.approx(0.6 * d**0.5, rel=1e-6)
    noise = noise_prior()
    assert float(torch.as_tensor(noise.loc - noise.scale**2).exp()) == pytest.approx(2.5e-3, rel=1e-6)


@pytest.mark.parametrize(
    "function", [Hartmann(6), Ackley(5), Michalewicz(5)], ids=["hartmann", "ackley", "michalewicz"]
)
def test_twenty_points_do_not_make_white_noise(function) -> None:
    """Priors that are highest at a sixtieth of the cube made every length scale .012: a bound of a tenth tells them."""
    d = function.dim
    x = torch.quasirandom.SobolEngine(d, scramble=True, seed=0).draw(20, dtype=torch.float64)
    low, high = function.bounds.double()
    model = PathwiseGPModel(
        x, -function(low + (high - low) * x)[:, None].double(), num_samples=2, generator=0
    )
    assert model.covar_module.base_kernel.lengthscale.min().item() > 0.1


@pytest.mark.parametrize("n", [4, 6])
@pytest.mark.parametrize("seed", range(3))
def test_a_few_molecules_leave_the_spread_of_the_values(n: int, seed: int) -> None:
    """Rows that share nothing: a new one is as uncertain as values are, to a factor that n values know it by."""
    rng = np.random.default_rng(seed)
    known, new = np.split(np.kron(np.eye(n + 3, dtype=np.uint8), np.ones((1, 5), dtype=np.uint8)), [n])
    y = 3.3 * rng.normal(size=n) + 5
    std = GPRegressor(kernel="tanimoto", random_state=0).fit(known, y).predict(new, return_std=True)[1]
    assert np.all(std > 0.5 * y.std())
    assert np.all(std < 3 * y.std())


def test_the_uncertainty_of_a_learnt_mean_is_in_every_variance() -> None:
    """k − cᵀH⁻¹c + (1 − 1ᵀH⁻¹c)²/(1ᵀH⁻¹1 + 1/τ²), with τ² = 4 k(x, x) about the mean that was learnt."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(12, 2, generator=generator, dtype=torch.float64)
    queries = 3 * torch.rand(40, 2, generator=generator, dtype=torch.float64) - 1
    surrogate = fit_surrogate(x, torch.sin(3 * x.sum(1)) + 4, num_samples=4096, generator=0)
    posterior = surrogate.posterior
    learned, noise = posterior.kernel.kernels[0], float(posterior.noise_variance[0])
    matrix = kernel_matrix(learned, x, x) + noise * np.eye(len(x))
    cross, one = kernel_matrix(learned, x, queries), np.ones(len(x))
    solved = np.linalg.solve(matrix, np.column_stack([one, cross]))
    own = np.diag(kernel_matrix(learned, queries, queries))
    plain = own - (cross * solved[:, 1:]).sum(0)
    extra = (1 - solved[:, 0] @ cross) ** 2 / (solved[:, 0].sum() + 1 / (4 * own))
    np.testing.assert_allclose(posterior.variance(queries), plain + extra, rtol=1e-6)
    assert np.median(extra / plain) > 0.01
    # samples know it too: 4,096 of them a variance to 2.2 %
    ratio = posterior.samples(queries).var(0).numpy() / (plain + extra)
    assert np.abs(np.median(ratio) - 1) < 4 * (2 / 4096) ** 0.5


def test_many_rows_and_iterative_solvers_keep_the_kernel() -> None:
    kernel = ScaleKernel(MaternKernel(2.5))
    assert with_unknown_constant(kernel, 3001) is kernel
    assert with_unknown_constant(kernel, 10, ConjugateGradients()) is kernel
    assert with_unknown_constant(kernel, 10) is not kernel


def test_a_given_mean_is_certain() -> None:
    x = torch.rand(10, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    given = {"covar_module": ScaleKernel(MaternKernel(2.5)), "noise_variance": 0.1}
    model = PathwiseGPModel(x, x.sin(), num_samples=2, optimizer=None, generator=0, **given)
    assert isinstance(model.posteriors[0].kernel, ScaleKernel)


def test_the_smoother_kernel_stays_unless_the_rougher_wins_by_a_nat() -> None:
    x = np.linspace(0, 1, 60)[:, None]
    smooth = GPRegressor(random_state=0).fit(x, np.sin(6 * x[:, 0]))
    walk = np.random.default_rng(0).normal(size=60).cumsum()
    rough = GPRegressor(random_state=0).fit(x, walk)
    assert smooth.kernel_.base_kernel.nu == 2.5
    assert rough.kernel_.base_kernel.nu == 1.5
    assert "nats beside" in rough.fit_result_.message


def test_columns_without_a_change_say_nothing() -> None:
    """A length scale's prior grows with the columns that distances have a part of."""
    generator = np.random.default_rng(0)
    x, queries = generator.random((12, 3)), generator.random((5, 3))
    y = np.sin(5 * x[:, 0]) + x[:, 1]

    def wider(rows: np.ndarray) -> np.ndarray:
        return np.hstack([rows[:, :1], np.full((len(rows), 4), 7.3), rows[:, 1:]])

    plain = GPRegressor(random_state=0).fit(x, y).predict(queries, return_std=True)
    with pytest.warns(UnidentifiedColumns, match="1 .constant."):
        model = GPRegressor(random_state=0).fit(wider(x), y)
    found = model.predict(wider(queries), return_std=True)
    np.testing.assert_allclose(found, plain, atol=1e-9)


@pytest.mark.parametrize(("again", "floor"), [(None, 1e-8), (0.0, 1e-5), (1e-9, 1e-5), (1e-3, 1e-8)])
def test_little_noise_is_learnt_where_no_rows_repeat(again: float | None, floor: float) -> None:
    """A few repeats with equal targets would say that there is no noise, whatever the others say."""
    x = torch.linspace(0, 1, 40, dtype=torch.float64)[:, None]
    if again is not None:
        x = torch.cat([x, x[:1] + again])
    y = torch.sin(6 * x)
    assert noise_floor(7.0 * x + 3.0) == floor
    assert noise_floor(x, "iterative") == 1e-5
    model = GPRegressor(random_state=0).fit(x.numpy(), y[:, 0].numpy())
    relative = model.noise_variance_ / float(y.var(correction=0))
    assert (relative >= 0.99e-5) if floor == 1e-5 else (relative < 2e-6)
    between = x[:40].numpy() + 0.5 / 39
    np.testing.assert_allclose(model.predict(between[:-1]), np.sin(6 * between[:-1, 0]), atol=3e-4)
