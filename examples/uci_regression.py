"""Regression on the UCI tables of the SGD and SDD papers, from raw data, with nothing tuned by hand.

    python examples/uci_regression.py                      # POL, ELEVATORS, BIKE, split 0
    python examples/uci_regression.py --sets pol protein --split 1
    python examples/uci_regression.py --quick              # scikit-learn's diabetes table, no download

RMSE and NLL are on the standardised scale of the targets, NLL with the noise of a measurement included. Beside them
is the column that Lin et al. (ICLR 2024) publish for stochastic dual descent with hyperparameters fitted to subsets.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from sggp import GPRegressor

PUBLISHED = {  # RMSE, NLL; tables of arXiv 2310.20581
    "pol": (0.08, -1.18),
    "elevators": (0.35, 0.38),
    "bike": (0.04, -2.49),
    "protein": (0.50, None),
    "keggdirected": (0.08, None),
}


def load(name: str, split: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Train and test rows; y on the scale of the training part."""
    if name == "diabetes":
        from sklearn.datasets import load_diabetes

        x, y = load_diabetes(return_X_y=True)
        test = np.arange(len(x)) % 10 == split
        y = (y - y[~test].mean()) / y[~test].std()
        return x[~test], y[~test], x[test], y[test]
    from sggp.datasets import uci

    data = uci(name, split)
    return data.x_train, data.y_train, data.x_test, data.y_test


def evaluate(name: str, split: int, seed: int, verbose: int) -> dict[str, float]:
    """Fit on the training rows, predict the test rows."""
    x_train, y_train, x_test, y_test = load(name, split)
    started = time.perf_counter()
    model = GPRegressor(random_state=seed, verbose=verbose).fit(x_train, y_train)
    fitted = time.perf_counter()
    mean, std = model.predict(x_test, return_std=True, include_noise=True)
    done = time.perf_counter()
    nll = 0.5 * np.log(2 * np.pi * std**2) + 0.5 * ((y_test - mean) / std) ** 2
    return {
        "n": len(x_train),
        "rmse": float(np.sqrt(np.mean((y_test - mean) ** 2))),
        "nll": float(np.mean(nll)),
        "learning": model.fit_result_.seconds,
        "fit": fitted - started,
        "predict": done - fitted,
        "residual": float(model.solution_.residual[0]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sets", nargs="+", default=["pol", "elevators", "bike"], help="names of UCI tables")
    parser.add_argument("--split", type=int, default=0, help="which of the ten test folds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="the diabetes table only: seconds, no download")
    parser.add_argument("--verbose", action="store_true", help="report progress of the fits")
    arguments = parser.parse_args()
    names = ["diabetes"] if arguments.quick else arguments.sets
    print(
        f"{'set':<13}{'rows':>7}{'RMSE':>8}{'(SDD)':>8}{'NLL':>8}{'(SDD)':>8}{'learn':>9}{'fit':>9}{'predict':>9}"
    )
    for name in names:
        found = evaluate(name, arguments.split, arguments.seed, int(arguments.verbose))
        rmse, nll = PUBLISHED.get(name, (None, None))
        print(
            f"{name:<13}{found['n']:>7.0f}{found['rmse']:>8.4f}{'' if rmse is None else f'{rmse:.2f}':>8}"
            f"{found['nll']:>8.3f}{'' if nll is None else f'{nll:.2f}':>8}"
            f"{found['learning']:>8.1f}s{found['fit']:>8.1f}s{found['predict']:>8.1f}s",
            flush=True,
        )


if __name__ == "__main__":
    main()
