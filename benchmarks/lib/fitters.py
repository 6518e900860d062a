"""One timed fit and prediction of each regressor on a table, for a process of its own.

Everyone gets the same standardised rows and nothing else: no published value, no tuned setting. The clock runs from
the arrays to the predictive means and variances (noise included) of the test rows; imports and a warm-up on a few rows
come before it. Peers are written as their own documentation writes them.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gpytorch
import numpy as np
import torch
from torch import Tensor

from sggp import GPRegressor
from sggp.datasets import uci
from sggp.predictive import PredictiveDistribution

__all__ = [
    "INDUCING",
    "Scores",
    "Task",
    "gpboost_run",
    "gpytorch_exact_run",
    "gpytorch_svgp_run",
    "measured",
    "ours_run",
    "scikit_learn_run",
]

WARM_ROWS, INDUCING, BATCH, EXACT_STEPS = 60, 1024, 1024, 300
Fit = Callable[[np.ndarray, np.ndarray], tuple[Any, str]]
Predict = Callable[
    [Any, np.ndarray], tuple[Any, ...]
]  # mean, variance and, where it is not normal, a density


@dataclass(frozen=True)
class Task:
    """A table's split; `rows` cuts training and test rows."""

    name: str
    rows: int | None
    split: int = 0

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:  # (n, d), (n,), (m, d), (m,)
        data = uci(self.name, self.split)
        return tuple(a[: self.rows] for a in (data.x_train, data.y_train, data.x_test, data.y_test))


@dataclass(frozen=True)
class Scores:
    """Seconds, and how good the predictions are on standardised test targets."""

    fit_seconds: float
    predict_seconds: float
    cpu_seconds: float
    rmse: float
    nll: float
    note: str

    @property
    def seconds(self) -> float:
        return self.fit_seconds + self.predict_seconds


def measured(task: Task, fit: Fit, predict: Predict) -> Scores:
    """Seconds of fitting on a task's training rows and of predicting its test rows, and the scores."""
    x, y, xs, ys = task.arrays()
    begin, cpu = time.perf_counter(), time.process_time()
    model, note = fit(x, y)
    between = time.perf_counter()
    mean, variance, *law = predict(model, xs)
    end, spent = time.perf_counter(), time.process_time() - cpu
    nll = 0.5 * np.mean(np.log(2 * math.pi * variance) + np.square(ys - mean) / variance)
    if law:  # a density of its own, not a normal one
        nll = -np.mean(law[0].logpdf(ys))
    rmse = math.sqrt(np.mean(np.square(ys - mean)))
    return Scores(between - begin, end - between, spent, rmse, float(nll), note)


def ours_run(task: Task, recipe: str, seed: int) -> Scores:
    """`GPRegressor` as it comes."""

    def fit(x: np.ndarray, y: np.ndarray) -> tuple[GPRegressor, str]:
        model = GPRegressor(optimizer=recipe, random_state=seed).fit(x, y)
        found = model.fit_result_
        return model, f"{found.method}, {found.steps} steps in {found.seconds:.1f} s; {model.solution_!r}"

    def predict(model: GPRegressor, xs: np.ndarray) -> tuple[np.ndarray, np.ndarray, PredictiveDistribution]:
        law = model.predict_dist(xs)
        return law.mean(), law.std() ** 2, law

    x, y, xs, _ = task.arrays()
    predict(GPRegressor(random_state=0).fit(x[:WARM_ROWS], y[:WARM_ROWS]), xs[:5])
    return measured(task, fit, predict)


def scikit_learn_run(task: Task, seed: int) -> Scores:
    """Matérn-3/2 with one length scale per input and white noise, one start of L-BFGS."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    def fit(x: np.ndarray, y: np.ndarray) -> tuple[Any, str]:
        kernel = ConstantKernel(1.0) * Matern(np.ones(x.shape[1]), nu=1.5) + WhiteKernel(0.1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # length scales at their bounds
            model = GaussianProcessRegressor(kernel, normalize_y=True, random_state=seed).fit(x, y)
        return model, ""

    def predict(model: Any, xs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean, std = model.predict(xs, return_std=True)  # WhiteKernel is in it
        return mean, std**2

    return measured(task, fit, predict)


def gpboost_run(task: Task, seed: int) -> Scores | str:
    """Vecchia's likelihood with 20 neighbours, as gpboost chooses and optimises it."""
    try:
        import gpboost
    except ImportError:
        return "gpboost is not installed"

    def fit(x: np.ndarray, y: np.ndarray) -> tuple[Any, str]:
        model = gpboost.GPModel(
            gp_coords=x,
            cov_function="matern_ard",
            cov_fct_shape=1.5,
            likelihood="gaussian",
            gp_approx="vecchia",
            num_neighbors=20,
            seed=seed,
        )
        model.fit(y=y)
        return model, ""

    def predict(model: Any, xs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = model.predict(gp_coords_pred=xs, predict_var=True, predict_response=True)
        return found["mu"], found["var"]

    return measured(task, fit, predict)


def _kernel(d: int) -> gpytorch.kernels.Kernel:
    return gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(nu=1.5, ard_num_dims=d))


class _Exact(gpytorch.models.ExactGP):
    def __init__(self, x: Tensor, y: Tensor, likelihood: Any) -> None:
        super().__init__(x, y, likelihood)
        self.mean_module = gpytorch.means.ConstantMean()
        self.covar_module = _kernel(x.shape[1])

    def forward(self, x: Tensor) -> Any:
        return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))


class _Variational(gpytorch.models.ApproximateGP):
    def __init__(self, centres: Tensor) -> None:
        distribution = gpytorch.variational.CholeskyVariationalDistribution(len(centres))
        strategy = gpytorch.variational.VariationalStrategy(self, centres, distribution)
        super().__init__(strategy)
        self.mean_module = gpytorch.means.ConstantMean()
        self.covar_module = _kernel(centres.shape[1])

    def forward(self, x: Tensor) -> Any:
        return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))


def _gpytorch_predict(
    pair: tuple[Any, Any], xs: np.ndarray, rows: int = 10**9
) -> tuple[np.ndarray, np.ndarray]:
    model, likelihood = (part.eval() for part in pair)
    means, variances = [], []
    with torch.no_grad(), gpytorch.settings.fast_pred_var(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # conjugate gradients that stop early
        for tile in torch.as_tensor(xs, dtype=torch.float32).split(rows):
            found = likelihood(model(tile))
            means.append(found.mean)
            variances.append(found.variance)
    return torch.cat(means).double().numpy(), torch.cat(variances).double().numpy()


def gpytorch_exact_run(task: Task, cap_seconds: float, seed: int) -> Scores:
    """Adam (0.1) on the exact marginal likelihood at GPyTorch's own settings, 300 steps or until the cap."""
    torch.manual_seed(seed)

    def fit(x: np.ndarray, y: np.ndarray) -> tuple[tuple[Any, Any], str]:
        inputs, targets = torch.as_tensor(x, dtype=torch.float32), torch.as_tensor(y, dtype=torch.float32)
        likelihood = gpytorch.likelihoods.GaussianLikelihood()
        model = _Exact(inputs, targets, likelihood)
        value = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        begin, steps = time.perf_counter(), 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            while steps < EXACT_STEPS and (steps == 0 or time.perf_counter() - begin < cap_seconds):
                optimizer.zero_grad()
                loss = -value(model(inputs), targets)
                loss.backward()
                optimizer.step()
                steps += 1
        return (model, likelihood), f"{steps} steps of Adam"

    return measured(task, fit, _gpytorch_predict)


def gpytorch_svgp_run(task: Task, cap_seconds: float, seed: int) -> Scores:
    """Variational inducing points (1,024, rows to start from), minibatches of 1,024, Adam (0.01) until the cap."""
    torch.manual_seed(seed)

    def fit(x: np.ndarray, y: np.ndarray) -> tuple[tuple[Any, Any], str]:
        inputs, targets = torch.as_tensor(x, dtype=torch.float32), torch.as_tensor(y, dtype=torch.float32)
        likelihood = gpytorch.likelihoods.GaussianLikelihood()
        model = _Variational(inputs[torch.randperm(len(inputs))[:INDUCING]].clone())
        value = gpytorch.mlls.VariationalELBO(likelihood, model, num_data=len(inputs))
        optimizer = torch.optim.Adam([*model.parameters(), *likelihood.parameters()], lr=0.01)
        begin, steps = time.perf_counter(), 0
        while True:
            for rows in torch.randperm(len(inputs)).split(BATCH):
                optimizer.zero_grad()
                loss = -value(model(inputs[rows]), targets[rows])
                loss.backward()
                optimizer.step()
                steps += 1
                if time.perf_counter() - begin > cap_seconds:
                    return (model, likelihood), f"{steps} steps of Adam, {steps * BATCH / len(x):.0f} epochs"

    def predict(pair: tuple[Any, Any], xs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _gpytorch_predict(pair, xs, rows=1024)

    return measured(task, fit, predict)
