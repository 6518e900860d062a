"""The type that numbers come in decides the type of the answer and nothing else: float32 input is float64 input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gpytorch
import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from sggp import GPRegressor, condition
from sggp.arrays import working_dtype
from sggp.bayesopt import Campaign, Pool, fit_surrogate
from sggp.errors import DtypeError
from sggp.hyperparameters import learn_hyperparameters, log_marginal_likelihood

EPS = torch.finfo(torch.float32).eps
HOUSE = [torch.float32, torch.float64]


def _table(n: int = 20, queries: int = 60) -> tuple[Tensor, Tensor, Tensor]:
    """A quadratic without noise: what is left to know near its optimum is far below float32's share of it."""
    x = torch.rand(n + queries, 2, generator=torch.Generator().manual_seed(0))
    y = 10 - (x[:, 0] - 0.3) ** 2 - (x[:, 1] - 0.6) ** 2
    return x[:n], y[:n], x[n:]


def _condition(x: Tensor, y: Tensor, q: Tensor) -> list[Tensor]:
    kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel()).double()
    kernel.outputscale, kernel.base_kernel.lengthscale = 1e9, 30.0
    posterior = condition(kernel, x, y - 10, noise_variance=1e-4, num_samples=3, num_features=64, generator=0)
    assert posterior.solution.converged
    paired = q.expand(3, -1, -1)
    updated = posterior.update(q[:2], (q[:2].sum(1) - 1), generator=1)
    return [
        posterior.mean(q),
        posterior.variance(q, method="solve"),
        posterior.variance(q),
        posterior.samples(q),
        posterior.samples.paired(paired),
        posterior.covariance_matrix(q),
        updated.mean(q),
        updated.samples(q),
    ]


def _regressor(x: Tensor, y: Tensor, q: Tensor) -> list[Tensor]:
    model = GPRegressor(random_state=0, num_samples=3).fit(x.numpy(), y.numpy())
    mean, std = model.predict(q.numpy(), return_std=True)
    return [torch.from_numpy(v) for v in (mean, std, model.sample_y(q.numpy(), 2))]


def _surrogate(x: Tensor, y: Tensor, q: Tensor) -> list[Tensor]:
    model = fit_surrogate(x, y, num_samples=3, generator=0)
    return [*model.predict(q), *model.leave_one_out(), model.posterior.samples(q)]


def _learnt(x: Tensor, y: Tensor, q: Tensor) -> list[Tensor]:
    kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel(ard_num_dims=2))
    found = [learn_hyperparameters(kernel, x, y, optimizer=name, generator=0) for name in ("exact", "subset")]
    value = log_marginal_likelihood(kernel, x, y, noise_variance=0.1, generator=0).value
    numbers = [value, *(v for fit in found for v in (fit.noise_variance, fit.mean))]
    return [
        torch.tensor(numbers, dtype=torch.float64),
        *(fit.kernel.base_kernel.lengthscale for fit in found),
    ]


def _botorch(**settings: Any) -> Callable[[Tensor, Tensor, Tensor], list[Tensor]]:
    def answers(x: Tensor, y: Tensor, q: Tensor) -> list[Tensor]:
        pytest.importorskip("botorch", reason="the extra botorch is not installed")
        from botorch.models.transforms import Normalize
        from botorch.sampling.pathwise import draw_matheron_paths

        from sggp.botorch import PathwiseGPModel

        transform = Normalize(2) if settings.get("normalised") else None
        kept = {name: value for name, value in settings.items() if name != "normalised"}
        model = PathwiseGPModel(x, y[:, None], num_samples=3, generator=0, input_transform=transform, **kept)
        posterior = model.posterior(q)
        assert posterior.dtype == x.dtype
        later = model.condition_on_observations(q[:2], q[:2, :1]).posterior(q)
        return [
            posterior.mean,
            posterior.variance,
            posterior.rsample(torch.Size([2])),
            later.mean,
            model.posterior(q, observation_noise=True).variance,
            draw_matheron_paths(model, torch.Size([2]))(q),
            model.train_inputs[0],
            model.train_targets,
        ]

    return answers


FACES = {
    "condition": _condition,
    "estimator": _regressor,
    "surrogate": _surrogate,
    "hyperparameters": _learnt,
    "botorch": _botorch(),
    "botorch, normalised inputs": _botorch(normalised=True),
    "botorch, raw outcomes": _botorch(outcome_transform=None),
}


@pytest.mark.parametrize("face", FACES.values(), ids=FACES)
def test_float32_input_gives_the_answers_of_float64_input(face: Callable[..., list[Tensor]]) -> None:
    narrow, wide = (face(*(part.to(dtype) for part in _table())) for dtype in HOUSE)
    for found, expected in zip(narrow, wide, strict=True):
        if found.dtype == torch.float32:
            assert torch.equal(found, expected.float())
        else:
            assert torch.equal(found, expected)


def test_the_next_picks_are_those_of_float64(tmp_path: Path) -> None:
    axes = [torch.linspace(0, 1, 11), torch.linspace(0, 1, 11), torch.linspace(0, 1, 3)]
    grid = torch.cartesian_prod(*axes)
    values = (15 - 40 * (grid[:, 0] - 0.31) ** 2 - 40 * (grid[:, 1] - 0.62) ** 2 - grid[:, 2]).tolist()
    picks = []
    for dtype in HOUSE:
        campaign = Campaign(Pool(grid.to(dtype)), tmp_path / f"{dtype}.db", maximize=True, seed=0)
        campaign.attach_many([(row, values[row]) for row in range(0, 363, 18)])
        picks.append([trial.index for trial in campaign.ask(4)])
    assert picks[0] == picks[1]
    assert min(values[row] for row in picks[0]) > 10


def test_botorch_picks_are_those_of_float64() -> None:
    pytest.importorskip("botorch", reason="the extra botorch is not installed")
    from botorch.generation import MaxPosteriorSampling

    from sggp.botorch import PathwiseGPModel

    picks = []
    for dtype in HOUSE:
        x, y, q = (part.to(dtype) for part in _table())
        model = PathwiseGPModel(x, y[:, None], num_samples=8, generator=0)
        torch.manual_seed(0)
        picks.append(MaxPosteriorSampling(model)(q, 8))
    assert torch.equal(picks[0].double(), picks[1])


def test_a_mixture_of_types_is_float64() -> None:
    pytest.importorskip("botorch", reason="the extra botorch is not installed")
    from sggp.botorch import PathwiseGPModel

    x, y, q = _table()
    for first, second in ((torch.float32, torch.float64), (torch.float64, torch.float32)):
        model = PathwiseGPModel(x.to(first), y.to(second)[:, None], num_samples=2, generator=0)
        same = PathwiseGPModel(x.double(), y.double()[:, None], num_samples=2, generator=0)
        found = model.posterior(q.to(first)).mean
        assert found.dtype == first
        assert torch.equal(found, same.posterior(q.double()).mean.to(first))
        posteriors = [
            condition(model.covar_module, x.to(a), y.to(b), noise_variance=0.1, num_samples=0)
            for a, b in ((first, second), (torch.float64, torch.float64))
        ]
        assert torch.equal(*(posterior.mean(q.double()) for posterior in posteriors))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rows_are_the_numbers_that_they_hold(dtype: torch.dtype) -> None:
    kernel = gpytorch.kernels.RBFKernel().double()
    x, y, q = (part.to(dtype) for part in _table())
    found, expected = (
        condition(kernel, a, b, noise_variance=1e-3, num_samples=2, num_features=64, generator=0)
        for a, b in ((x, y), (x.double(), y.double()))
    )
    for one, other in (
        (found.mean, expected.mean),
        (found.variance, expected.variance),
        (found.samples, expected.samples),
    ):
        assert one(q).dtype == dtype
        assert torch.equal(one(q), other(q.double()).to(dtype))
    tables = (x, y), (x.double(), y.double())
    models = [fit_surrogate(*table, num_samples=1, generator=0) for table in tables]
    assert torch.equal(*(model.predict(q)[0] for model in models))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_estimator_takes_tensors(dtype: torch.dtype) -> None:
    x, y, q = (part.to(dtype) for part in _table())
    found = GPRegressor(num_samples=0).fit(x.clone().requires_grad_(), y).predict(q, return_std=True)
    plain = [part.double().numpy() for part in (x, y, q)]
    expected = GPRegressor(num_samples=0).fit(*plain[:2]).predict(plain[2], return_std=True)
    assert all(np.array_equal(one, own) for one, own in zip(found, expected, strict=True))


def test_near_duplicates_in_float32_do_not_break_the_factor() -> None:
    """Rows one rounding apart and next to no noise: mean and variance of the dense float64 posterior."""
    x = torch.rand(30, 2, generator=torch.Generator().manual_seed(1))
    x = torch.cat([x, torch.nextafter(x, torch.ones(()))])
    y = torch.sin(3 * x.double()).sum(1)
    kernel = gpytorch.kernels.MaternKernel(nu=2.5).double()
    posterior = condition(kernel, x, y.float(), noise_variance=1e-6, num_samples=0)
    q = torch.rand(20, 2, generator=torch.Generator().manual_seed(2))
    gram = kernel(x.double()).to_dense().detach() + 1e-6 * torch.eye(60, dtype=torch.float64)
    cross = kernel(x.double(), q.double()).to_dense().detach()
    weights = torch.cholesky_solve(cross, torch.linalg.cholesky(gram))
    # κ(K + Σ) ≤ 60/1e-6, so that float64 loses 60/1e-6·ε of the largest number and float32 all of it
    lost = 60 / 1e-6 * torch.finfo(torch.float64).eps * 60
    mean, variance = weights.T @ y.float().double(), 1 - (cross * weights).sum(0)
    assert float((posterior.mean(q.double()) - mean).abs().max()) <= lost
    assert float((posterior.variance(q.double(), method="solve") - variance).abs().max()) <= lost
    assert bool((posterior.variance(q, method="solve") > 0).all())


def test_targets_whose_squares_overflow_float32() -> None:
    x, y, q = _table()
    for c in (1e30, 1e-30):
        found = fit_surrogate(x, (c * y.double()).float(), num_samples=1, generator=0).predict(q)
        expected = fit_surrogate(x, (c * y.double()).float().double(), num_samples=1, generator=0).predict(q)
        assert all(torch.equal(one, own) for one, own in zip(found, expected, strict=True))
        assert bool((found[1] > 1e-6 * c).all())


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int8, np.uint8, bool, ">f8"])
def test_columns_of_any_type_are_the_numbers_that_they_hold(dtype: Any, short_searches: None) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2, size=(40, 3)) if np.dtype(dtype) == bool else 4 * rng.random((40, 3))
    y = x.sum(axis=1) + rng.normal(size=40)
    given, plain = x.astype(dtype), x.astype(dtype).astype(np.float64)
    assert_same(given, plain, y, y)
    assert_same(plain, plain, y.round().astype(dtype), y.round().astype(dtype).astype(np.float64))


def test_frames_of_mixed_types_are_the_numbers_that_they_hold() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "a": rng.random(40).astype(np.float32),
            "b": rng.integers(0, 9, 40),
            "d": pd.array(rng.integers(0, 3, 40), dtype="Int64"),
            "e": pd.array(rng.random(40), dtype="Float32"),
        }
    )
    plain = pd.DataFrame({name: frame[name].to_numpy(dtype=np.float64) for name in frame})
    y = plain.sum(axis=1).to_numpy()
    assert_same(frame, plain, pd.Series(y.astype(np.float32)), y.astype(np.float32).astype(np.float64))


def assert_same(x: Any, plain_x: Any, y: Any, plain_y: Any) -> None:
    given, plain = (
        GPRegressor(random_state=0, num_samples=2).fit(a, b) for a, b in ((x, y), (plain_x, plain_y))
    )
    for found, expected in zip(given.predict(x, True), plain.predict(plain_x, True), strict=True):
        assert found.dtype == np.float64
        assert np.array_equal(found, expected)
    assert np.array_equal(given.sample_y(x, 2), plain.sample_y(plain_x, 2))


def test_beyond_the_direct_rows_the_types_work_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """float32 products, refined: float32-representable rows give the same bits, whatever type holds them."""
    monkeypatch.setattr("sggp.arrays.DIRECT_ROWS", 15)
    x, y, q = _table()
    kernel = gpytorch.kernels.MaternKernel(nu=1.5).double()
    posteriors = [
        condition(kernel, x.to(d), y.to(d), noise_variance=1e-2, num_samples=2, num_features=64, generator=0)
        for d in HOUSE
    ]
    assert [p.options.dtype for p in posteriors] == [torch.float32, torch.float32]
    assert torch.equal(*(p.solution.x for p in posteriors))
    assert torch.equal(*(p.mean(q.double()) for p in posteriors))


def test_the_rule_is_one_function_of_the_number_of_rows() -> None:
    assert [working_dtype(n) for n in (1, 3000, 3001)] == [torch.float64, torch.float64, torch.float32]
    assert working_dtype(10, torch.float32) == torch.float32
    with pytest.raises(DtypeError, match="float16"):
        working_dtype(10, torch.float16)
