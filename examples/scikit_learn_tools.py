"""`GPRegressor` among scikit-learn's tools, and our Tanimoto kernel in scikit-learn's own Gaussian process.

    python examples/scikit_learn_tools.py            # half a minute
    python examples/scikit_learn_tools.py --quick    # some seconds

* A search over kernels and over a value in one, in a pipeline, by cross-validation.
* Noise that is known for each row, which cross-validation splits with the rows.
* Rows that arrive later (`partial_fit`), and a file that gives the same predictions (`save`, `load`).
* `TanimotoKernel` in scikit-learn's `GaussianProcessRegressor`.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import sklearn
from gpytorch.kernels import RBFKernel, ScaleKernel
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import WhiteKernel
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sggp import GPRegressor
from sggp.estimator import TanimotoKernel


def table(n, seed=0):
    """Inputs (n, 3), noisy targets, and the noise variance of every row."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(0, 3, (n, 3))
    variance = rng.choice([0.01, 0.25], size=n)
    return X, np.sin(2 * X[:, 0]) + X[:, 1] + np.sqrt(variance) * rng.standard_normal(n), variance


def search(X, y):
    """The kernel, and a length scale that stays where it is put."""
    pipeline = make_pipeline(StandardScaler(), GPRegressor(random_state=0, num_samples=4))
    kernels = GridSearchCV(pipeline, {"gpregressor__kernel": ["rbf", "matern12"]}, cv=3).fit(X, y)
    print(f"kernels:    {kernels.best_params_}, R² {kernels.best_score_:.3f}")
    fixed = GPRegressor(ScaleKernel(RBFKernel()), optimizer=None, noise_variance=0.1, num_samples=4)
    grid = {"kernel__base_kernel__lengthscale": [0.1, 1.0, 10.0]}
    values = GridSearchCV(fixed, grid, cv=3).fit(X, y)
    print(f"a value:    {values.best_params_}, R² {values.best_score_:.3f}")


def noise_of_rows(X, y, variance):
    """Cross-validation with and without what is known of the noise."""
    plain = cross_validate(GPRegressor(random_state=0, num_samples=4), X, y, cv=3)
    with sklearn.config_context(enable_metadata_routing=True):
        model = GPRegressor(random_state=0, num_samples=4).set_fit_request(noise_variance=True)
        known = cross_validate(model, X, y, cv=3, params={"noise_variance": variance})
    scores = [found["test_score"].mean() for found in (plain, known)]
    print(
        f"noise:      R² {scores[0]:.3f} where it is learnt, {scores[1]:.3f} where it is known for each row"
    )


def later_rows_and_files(X, y):
    """Half of the rows, then the others, then a file."""
    half = len(X) // 2
    model = GPRegressor(random_state=0, num_samples=8).fit(X[:half], y[:half])
    before = model.predict(X, return_std=True)[1].mean()
    after = model.partial_fit(X[half:], y[half:]).predict(X, return_std=True)[1].mean()
    print(f"more rows:  mean standard deviation {before:.3f}, then {after:.3f}")
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model.gp")
        again = GPRegressor.load(Path(folder) / "model.gp")
    print(f"a file:     the same predictions: {np.array_equal(again.predict(X), model.predict(X))}")


def tanimoto(rows):
    """Counts such as fingerprints, in scikit-learn's Gaussian process."""
    rng = np.random.default_rng(0)
    X = rng.poisson(0.5, (rows, 20))
    y = X[:, :8].sum(1) + rng.standard_normal(rows)
    model = GaussianProcessRegressor(1.0 * TanimotoKernel() + WhiteKernel(0.1), normalize_y=True)
    model.fit(X[: rows // 2], y[: rows // 2])
    print(
        f"Tanimoto:   R² {model.score(X[rows // 2 :], y[rows // 2 :]):.3f} by scikit-learn, {model.kernel_}"
    )


def main():
    """Run all four."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few rows")
    rows = 60 if parser.parse_args().quick else 300
    X, y, variance = table(rows)
    search(X, y)
    noise_of_rows(X, y, variance)
    later_rows_and_files(X, y)
    tanimoto(2 * rows)


if __name__ == "__main__":
    main()
