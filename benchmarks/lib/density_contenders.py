"""Who takes part in `densities.py`: from training rows to predictive distributions at the test rows.

Everyone gets the same standardised rows and as many threads as torch has, and keeps its defaults otherwise; what is not
a default is written here.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch

from lib.density_quantiles import LEVELS, QuantileDistribution
from sggp import GPRegressor
from sggp.predictive import PredictiveDistribution

__all__ = ["CONTENDERS", "COVERAGE", "OURS", "REFERENCE", "Contender", "Predicted", "contender"]

SEED, WARM_ROWS, SCIKIT_ROWS, COVERAGE = 0, 60, 2500, 0.95


class Distribution(Protocol):
    """What is scored: log densities, continuous ranked probability scores and central intervals."""

    def logpdf(self, y: np.ndarray) -> np.ndarray: ...

    def crps(self, y: np.ndarray) -> np.ndarray: ...

    def interval(self, coverage: float = 0.95) -> tuple[np.ndarray, np.ndarray]: ...


@dataclass(frozen=True)
class Predicted:
    """Predictions of m test rows: means (m,), distributions of measurements, and a remark on the fit.

    `conformal` gives the ends of conformal 95 % intervals, outside of what is timed; only ours have them.
    """

    mean: np.ndarray
    distribution: Distribution
    note: str = ""
    conformal: Callable[[], tuple[np.ndarray, np.ndarray]] | None = None

    @staticmethod
    def normal(mean: np.ndarray, variance: np.ndarray, note: str = "") -> Predicted:
        distribution = PredictiveDistribution(mean, np.sqrt(variance))
        return Predicted(distribution.mean(), distribution, note)


Call = Callable[[np.ndarray, np.ndarray, np.ndarray], Predicted]


@dataclass(frozen=True)
class Contender:
    """A way from (x_train, y_train, x_test) to `Predicted`.

    Attributes:
        label: its name in tables. call: the way. packages: imported before the clock starts.
        most_rows: larger tables are left out. warm: a fit of a few rows comes before the clock starts.
    """

    label: str
    call: Call
    packages: tuple[str, ...] = ()
    most_rows: int | None = None
    warm: bool = False

    def prepare(self, x: np.ndarray, y: np.ndarray, xs: np.ndarray) -> str:
        """Imports and the warm-up; says what is missing."""
        try:
            for package in self.packages:
                importlib.import_module(package)
        except ImportError as error:
            return f"not installed ({error})"
        if self.warm:
            self.call(x[:WARM_ROWS], y[:WARM_ROWS], xs[:5])
        return ""


def ours(settings: dict[str, Any]) -> Call:
    """`GPRegressor` with these settings, those left out that it does not have."""
    known = inspect.signature(GPRegressor).parameters
    kept = {name: value for name, value in settings.items() if name in known}

    def call(x: np.ndarray, y: np.ndarray, xs: np.ndarray) -> Predicted:
        model = GPRegressor(**{"random_state": SEED, **kept}).fit(x, y)
        found = model.predict_dist(xs)
        fit = model.fit_result_
        note = f"{fit.method}, {fit.steps} steps; {model.solution_!r}; df {found.df:.3g}"
        left_out = sorted(set(settings) - set(kept))
        note += f"; without {', '.join(left_out)}" if left_out else ""
        return Predicted(
            found.mean(), found, note, partial(model.predict_interval, xs, COVERAGE, conformal=True)
        )

    return call


def catboost(x: np.ndarray, y: np.ndarray, xs: np.ndarray) -> Predicted:
    """Its mean and variance, normal; iterations (1,000) and learning rate as it chooses them."""
    from catboost import CatBoostRegressor

    model = CatBoostRegressor(
        loss_function="RMSEWithUncertainty",
        random_seed=SEED,
        thread_count=torch.get_num_threads(),
        verbose=False,
        allow_writing_files=False,
    ).fit(x, y)
    mean, variance = model.predict(xs).T
    rate = model.get_all_params()["learning_rate"]
    return Predicted.normal(mean, variance, f"{model.tree_count_} iterations, learning rate {rate:.3g}")


def lightgbm(x: np.ndarray, y: np.ndarray, xs: np.ndarray) -> Predicted:
    """A quantile regression per level and one of the mean, 100 rounds each as it comes."""
    from lightgbm import LGBMRegressor

    common = {"random_state": SEED, "n_jobs": torch.get_num_threads(), "verbose": -1}
    mean = LGBMRegressor(**common).fit(x, y).predict(xs)
    models = (LGBMRegressor(objective="quantile", alpha=level, **common) for level in LEVELS)
    quantiles = np.stack([model.fit(x, y).predict(xs) for model in models])
    return Predicted(mean, QuantileDistribution(quantiles), f"{len(LEVELS)} levels and the mean")


def ngboost(x: np.ndarray, y: np.ndarray, xs: np.ndarray) -> Predicted:
    """Normal distributions by natural gradients, 500 rounds as it comes."""
    from ngboost import NGBRegressor

    model = NGBRegressor(random_state=SEED, verbose=False).fit(x, y)
    found = model.pred_dist(xs).params
    return Predicted.normal(found["loc"], found["scale"] ** 2, f"{len(model.base_models)} rounds")


def gpboost(x: np.ndarray, y: np.ndarray, xs: np.ndarray) -> Predicted:
    """Vecchia's likelihood with 20 neighbours, Matérn-3/2 with one length scale per column."""
    import gpboost

    model = gpboost.GPModel(
        gp_coords=x,
        cov_function="matern_ard",
        cov_fct_shape=1.5,
        likelihood="gaussian",
        gp_approx="vecchia",
        num_neighbors=20,
        num_parallel_threads=torch.get_num_threads(),
        seed=SEED,
    )
    model.fit(y=y)
    found = model.predict(gp_coords_pred=xs, predict_var=True, predict_response=True)
    return Predicted.normal(found["mu"], found["var"])


def scikit_learn(x: np.ndarray, y: np.ndarray, xs: np.ndarray) -> Predicted:
    """Matérn-3/2 with one length scale per column and white noise, two restarts."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    kernel = ConstantKernel(1.0) * Matern(np.ones(x.shape[1])) + WhiteKernel(0.1)
    model = GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=2, random_state=SEED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # length scales at their bounds
        mean, std = model.fit(x, y).predict(xs, return_std=True)  # WhiteKernel is in it
    return Predicted.normal(mean, std**2)


OURS, REFERENCE = "ours", "homoscedastic"
CONTENDERS = {
    OURS: Contender("GPRegressor()", ours({}), warm=True),
    REFERENCE: Contender(
        "GPRegressor, Matérn-3/2, one noise",
        ours({"kernel": "matern32", "noise": "constant"}),
        warm=True,
    ),
    "catboost": Contender("CatBoost, RMSEWithUncertainty", catboost, ("catboost",)),
    "lightgbm": Contender("LightGBM, quantiles", lightgbm, ("lightgbm",)),
    "ngboost": Contender("NGBoost, normal", ngboost, ("ngboost",)),
    "gpboost": Contender("gpboost, Vecchia", gpboost, ("gpboost",)),
    "scikit-learn": Contender("scikit-learn GP", scikit_learn, ("sklearn.gaussian_process",), SCIKIT_ROWS),
}


def contender(name: str) -> Contender:
    """One of `CONTENDERS`, or ours with settings of one's own, written "GPRegressor(kernel='matern52')".

    Raises:
        ValueError: neither.
    """
    if name in CONTENDERS:
        return CONTENDERS[name]
    try:
        written = ast.parse(name, mode="eval").body
        assert isinstance(written, ast.Call)
        assert not written.args
        assert ast.unparse(written.func) == "GPRegressor"
        settings = {str(word.arg): ast.literal_eval(word.value) for word in written.keywords}
    except (SyntaxError, AssertionError, ValueError) as error:
        known = ", ".join(CONTENDERS)
        raise ValueError(f"unknown contender {name!r}: one of {known}, or GPRegressor(...)") from error
    return Contender(name, ours(settings), warm=True)
