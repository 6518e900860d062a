"""A table in other units gets the same model in those units: exactly for powers of two, else to rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gpytorch
import numpy as np
import pytest
import torch
from gpytorch.priors import GammaPrior, LogNormalPrior

from sggp import GPRegressor
from sggp.bayesopt import fit_surrogate
from sggp.errors import InputError
from sggp.fitting import ModelSettings, fit_model
from sggp.hyperparameters import exact_log_marginal_likelihood, learn_hyperparameters
from sggp.hyperparameters.units import is_relative
from tests.fitting.tables import QUERIES, SEARCHED, TRUTH, X, Y

POWER = 2.0**-400
UNITS = [1e150]
"""No power of two, and far from one: what a smaller factor changes this one does."""
BEYOND = [1e-170, 1e200, 1e300]


def _free() -> gpytorch.kernels.Kernel:
    return gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel()).double()


def _sum() -> gpytorch.kernels.Kernel:
    return (_free() + gpytorch.kernels.ScaleKernel(_free() * gpytorch.kernels.PeriodicKernel())).double()


def _regressor(**settings: Any) -> Callable[[float], list[np.ndarray]]:
    def answers(c: float) -> list[np.ndarray]:
        model = GPRegressor(random_state=0, num_samples=3, num_features=64, **settings).fit(X, c * Y)
        mean, std = model.predict(QUERIES, return_std=True)
        noisy = model.predict(QUERIES, return_std=True, include_noise=True)[1]
        return [mean, std, noisy, model.sample_y(QUERIES, 2)]

    return answers


def _surrogate(c: float) -> list[np.ndarray]:
    model = fit_surrogate(torch.from_numpy(X), torch.from_numpy(c * Y), num_samples=2, generator=0)
    noisy = model.predict(torch.from_numpy(QUERIES), observation_noise=True)[1]
    mean, std = model.predict(torch.from_numpy(QUERIES))
    return [v.numpy() for v in (mean, std, noisy, *model.leave_one_out())]


def _botorch(**settings: Any) -> Callable[[float], list[np.ndarray]]:
    def answers(c: float) -> list[np.ndarray]:
        pytest.importorskip("botorch", reason="the extra botorch is not installed")
        from sggp.botorch import PathwiseGPModel

        x, y = torch.from_numpy(X), torch.from_numpy(c * Y)[:, None]
        model = PathwiseGPModel(x, y, num_samples=3, num_features=64, generator=0, **settings)
        posterior = model.posterior(torch.from_numpy(QUERIES))
        parts = posterior.mean, posterior.variance.sqrt(), posterior.rsample(torch.Size([2]))
        return [part.detach().numpy() for part in parts]

    return answers


FACES = {
    "estimator": _regressor(),
    "estimator, not normalised": _regressor(normalize_y=False),
    "estimator, rbf, not normalised": _regressor(kernel="rbf", normalize_y=False),
    "estimator, free kernel, not normalised": _regressor(kernel=_free(), normalize_y=False),
    "estimator, sum, not normalised": _regressor(kernel=_sum(), normalize_y=False),
    "surrogate": _surrogate,
    "botorch": _botorch(),
    "botorch, raw outcomes": _botorch(outcome_transform=None),
    "botorch, free kernel, raw outcomes": _botorch(outcome_transform=None, covar_module=_free()),
}
TO_ROUNDING = {"botorch, raw outcomes", "botorch, free kernel, raw outcomes"}
"""Their kernels are kept in the units of y, as logarithms where they are small."""


@pytest.mark.parametrize("name", FACES)
def test_targets_in_other_units(name: str) -> None:
    expected = FACES[name](1.0)
    assert np.abs(expected[0].reshape(-1) - TRUTH).max() < 0.1
    for found, own in zip(FACES[name](POWER), expected, strict=True):
        if name in TO_ROUNDING:
            np.testing.assert_allclose(found / POWER, own, rtol=1e-9, atol=1e-9)
        else:
            assert np.array_equal(found / POWER, own)
    for c in UNITS:
        for found, own in zip(FACES[name](c), expected, strict=True):
            assert np.abs(found / c - own).max() <= SEARCHED * np.abs(own).max()


def test_the_nearest_neighbour_likelihood_in_other_units() -> None:
    def learnt(c: float) -> list[float]:
        settings = ModelSettings(
            kernel="rbf", optimizer="nearest-neighbour", normalise=False, options={"max_steps": 10}
        )
        found = fit_model(torch.from_numpy(X), torch.from_numpy(c * Y)[:, None], settings, 0).told()
        root = float(found.kernel.outputscale) ** 0.5
        return [root / c, float(found.noise_variance) ** 0.5 / c, float(found.mean) / c, found.gradient_norm]

    expected = learnt(1.0)
    for c in (2.0**40, 1e150):
        np.testing.assert_allclose(learnt(c), expected, rtol=1e-9)


@pytest.mark.parametrize("face", [_regressor(), _surrogate])
def test_units_whose_squares_leave_float64(face: Callable[[float], list[np.ndarray]]) -> None:
    expected = face(1.0)
    for c in BEYOND:
        for found, own in zip(face(c), expected, strict=True):
            assert np.abs(found / c - own).max() <= SEARCHED * np.abs(own).max()


@pytest.mark.parametrize("c", BEYOND)
def test_what_has_no_place_in_float64_is_refused_by_name(c: float) -> None:
    shown = f"{c * Y.std():.3g}"
    model = GPRegressor(num_samples=2).fit(X, c * Y)
    with pytest.raises(InputError, match="return_cov") as refused:
        model.predict(QUERIES, return_cov=True)
    assert shown in str(refused.value)
    kernels = [None, _free(), gpytorch.kernels.RBFKernel()]
    for kernel in kernels:
        with pytest.raises(InputError) as refused:
            GPRegressor(kernel, normalize_y=False).fit(X, c * Y)
        assert shown in str(refused.value)
    with pytest.raises(InputError) as refused:
        learn_hyperparameters(_free(), torch.from_numpy(X), torch.from_numpy(c * Y))
    assert shown in str(refused.value)


def test_botorch_refuses_variances_that_have_no_place_in_the_type_of_its_answers() -> None:
    pytest.importorskip("botorch", reason="the extra botorch is not installed")
    from sggp.botorch import PathwiseGPModel

    x, y = torch.from_numpy(X), torch.from_numpy(Y)[:, None]
    for c, dtype in (
        (1e200, torch.float64),
        (1e-170, torch.float64),
        (1e25, torch.float32),
        (1e-25, torch.float32),
    ):
        for transform in ({}, {"outcome_transform": None}):
            with pytest.raises(InputError, match=f"spread of .*{dtype}"):
                PathwiseGPModel(x.to(dtype), (c * y).to(dtype), **transform)


def test_what_is_learnt_is_told_in_the_units_of_the_targets() -> None:
    """Kernel, noise and likelihood with normalize_y=False are those of y: an oracle in y's own units says so."""
    for c in (1.0, 1e6, 1e-9):
        model = GPRegressor(_free(), normalize_y=False, num_samples=0).fit(X, c * Y)
        assert (model.y_scale_.tolist(), model.y_offset_.tolist()) == ([1.0], [0.0])
        fit, x, y = model.fit_result_, torch.from_numpy(X), torch.from_numpy(c * Y)
        value = exact_log_marginal_likelihood(
            model.kernel_, x, y, noise_variance=model.noise_variance_, mean=float(fit.mean)
        )
        assert model.log_marginal_likelihood_value_ == pytest.approx(value, rel=1e-6)
        assert model.noise_variance_ == fit.noise_variance == model.hyperparameters_["noise_variance"]
        gram = model.kernel_(x).to_dense() + model.noise_variance_ * torch.eye(40, dtype=torch.float64)
        cross = model.kernel_(torch.from_numpy(QUERIES), x).to_dense()
        mean = float(fit.mean) + cross @ torch.linalg.solve(gram, y - float(fit.mean))
        np.testing.assert_allclose(model.predict(QUERIES), mean.detach().numpy(), rtol=1e-6, atol=1e-6 * c)
        last = model.trace_[-1]["values"]
        assert last["outputscale"] == pytest.approx(model.hyperparameters_["outputscale"], rel=1e-2)


def test_learn_hyperparameters_is_the_same_in_other_units() -> None:
    x, y = torch.from_numpy(X), torch.from_numpy(Y)
    for optimizer, options in (("exact", {}), ("iterative", {"max_steps": 8})):
        one, other = (
            learn_hyperparameters(_free(), x, c * y, optimizer=optimizer, generator=0, **options)
            for c in (1.0, 2.0**30)
        )
        assert float(other.kernel.outputscale) == pytest.approx(
            2.0**60 * float(one.kernel.outputscale), rel=1e-12
        )
        assert torch.equal(one.kernel.base_kernel.lengthscale, other.kernel.base_kernel.lengthscale)
        assert other.noise_variance == 2.0**60 * one.noise_variance
        assert other.mean == 2.0**30 * one.mean
        assert other.log_marginal_likelihood == pytest.approx(
            one.log_marginal_likelihood - 40 * 30 * np.log(2)
        )
        if one.posterior is not None:
            for posterior, c in ((one.posterior, 1.0), (other.posterior, 2.0**30)):
                gram = posterior.kernel(x).to_dense() + posterior.noise_variance.diag()
                left = gram @ posterior.mean_weights + posterior.prior_mean - c * y
                assert float(left.norm()) <= 1e-3 * c * float(y.norm())  # the tolerance of a mean
            paths = [fit.posterior.samples(torch.from_numpy(QUERIES)) for fit in (one, other)]
            torch.testing.assert_close(paths[0], paths[1] / 2.0**30, rtol=1e-9, atol=1e-9)


def test_what_a_user_says_in_units_of_y_stays_in_them() -> None:
    """Bounds, priors and fixed values of a kernel hold for y itself, whatever its spread."""
    bounded = gpytorch.kernels.ScaleKernel(
        gpytorch.kernels.RBFKernel(), outputscale_constraint=gpytorch.constraints.Interval(1.0, 2.0)
    )
    prior = gpytorch.kernels.ScaleKernel(
        gpytorch.kernels.RBFKernel(), outputscale_prior=GammaPrior(2.0, 0.15)
    )
    fixed = _free()
    fixed.outputscale = 3.0
    fixed.raw_outputscale.requires_grad_(False)
    assert [is_relative(k) for k in (_free(), _sum(), bounded, prior, fixed, gpytorch.kernels.RBFKernel())] == [
        True, True, False, False, False, False,
    ]  # fmt: skip
    low = GPRegressor(bounded, normalize_y=False, num_samples=0).fit(X, 1e-3 * Y).kernel_.outputscale
    high = GPRegressor(bounded, normalize_y=False, num_samples=0).fit(X, 1e3 * Y).kernel_.outputscale
    assert float(low) == pytest.approx(1.0, rel=1e-5)
    assert 1.0 <= float(high) <= 2.0
    assert float(GPRegressor(fixed, normalize_y=False, num_samples=0).fit(X, 50 * Y).kernel_.outputscale) == (
        pytest.approx(3.0)
    )
    x, y = torch.from_numpy(X), torch.from_numpy(1e4 * Y)
    tight = LogNormalPrior(np.log(5e6), 1e-3)
    assert learn_hyperparameters(_free(), x, y, noise_prior=tight).noise_variance == pytest.approx(
        5e6, rel=0.01
    )
    other = GammaPrior(5e6, 1.0)  # mean 5e6, standard deviation 2,236
    assert learn_hyperparameters(_free(), x, y, noise_prior=other).noise_variance == pytest.approx(
        5e6, rel=0.01
    )
    known = learn_hyperparameters(_free(), x, y, mean=7e3, noise_floor=4e6)
    assert known.mean == pytest.approx(7e3)
    assert known.noise_variance >= 4e6


@pytest.mark.parametrize("normalize_y", [True, False])
def test_noise_that_is_given_counts_in_squared_units_of_y(normalize_y: bool) -> None:
    settings = {"num_samples": 0, "normalize_y": normalize_y}
    expected = GPRegressor(noise_variance=0.01, **settings).fit(X, Y).predict(QUERIES, return_std=True)
    for c in (1e-140, 1e5, 1e140):
        model = GPRegressor(noise_variance=0.01 * c * c, **settings).fit(X, c * Y)
        for found, own in zip(model.predict(QUERIES, return_std=True), expected, strict=True):
            assert np.abs(found / c - own).max() <= SEARCHED * np.abs(own).max()
    with pytest.raises(
        InputError, match=r"noise_variance is 1e\+300 .*8e-21|noise_variance is 1e\+300 .*e-21"
    ):
        GPRegressor(noise_variance=1e300, **settings).fit(X, 1e-20 * Y)


@pytest.mark.parametrize("normalize_y", [True, False])
@pytest.mark.parametrize("offset", [1e3, 1e12])
def test_a_spread_far_below_the_offset(offset: float, normalize_y: bool) -> None:
    """y = offset + f is the model of what float64 holds of f, and the offset."""
    y = offset + Y
    expected = GPRegressor(random_state=0, num_samples=2).fit(X, y - offset)
    model = GPRegressor(random_state=0, num_samples=2, normalize_y=normalize_y).fit(X, y)
    rounding = 8 * np.spacing(offset)
    mean, std = model.predict(QUERIES, return_std=True)
    own, spread = expected.predict(QUERIES, return_std=True)
    assert np.abs(mean - offset - own).max() <= rounding + SEARCHED
    np.testing.assert_allclose(std, spread, rtol=SEARCHED)
    assert (
        np.abs(model.sample_y(QUERIES, 2) - offset - expected.sample_y(QUERIES, 2)).max()
        <= rounding + SEARCHED
    )
