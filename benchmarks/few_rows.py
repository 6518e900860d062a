"""What a model of a few rows claims: log densities and coverage of held-out rows, beside scikit-learn and BoTorch.

UCI tables, n training rows drawn at random from split 0 of each, up to 500 of the others as test rows; all models get
the same rows. Molecules: Morgan counts (radius 2), values measured or docked, the same way. NLL is per test row in
units of the standard deviation of all values; "behind sggp" is the paired difference over tables and draws with its
standard error. "95 %" is the share of test rows inside the central interval.

    sggp          GPRegressor(); GPRegressor(kernel="tanimoto") for molecules
    scikit-learn  GaussianProcessRegressor, Matérn-5/2 with a length scale per column and a WhiteKernel, normalize_y,
                  standardised inputs, 2 restarts
    BoTorch       SingleTaskGP with its defaults on inputs scaled to the unit cube; for molecules with a scaled Tanimoto
                  kernel (sggp's) and BoTorch's noise prior
    constant      mean and standard deviation of the training values

    python benchmarks/few_rows.py [--sets yacht ...] [--molecules esol ...] [--rows 6 20 60 200] [--draws 4]
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from gpytorch.kernels import ScaleKernel
from gpytorch.mlls import ExactMarginalLogLikelihood
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from sklearn.preprocessing import StandardScaler

from lib.common import header, print_table
from sggp import GPRegressor
from sggp.datasets import molecules, uci
from sggp.kernels import TanimotoMinMax
from sggp.molecules import FingerprintTable, SmilesFingerprinter

TABLES = ("yacht", "energy", "concrete", "wine", "pol", "bike", "elevators", "protein")
MOLECULES = ("esol", "freesolv", "lipophilicity")
TEST_ROWS = 500
Predicted = tuple[np.ndarray, np.ndarray]
Model = Callable[[np.ndarray, np.ndarray, np.ndarray, bool], Predicted]


def ours(x: np.ndarray, y: np.ndarray, xs: np.ndarray, fingerprint: bool) -> Predicted:
    model = GPRegressor(kernel="tanimoto" if fingerprint else None, random_state=0).fit(x, y)
    mean, std = model.predict(xs, return_std=True)
    return mean, np.sqrt(std**2 + model.noise_variance_)


def scikit_learn(x: np.ndarray, y: np.ndarray, xs: np.ndarray, fingerprint: bool) -> Predicted:
    scaler = StandardScaler().fit(x)
    kernel = ConstantKernel() * Matern(np.ones(x.shape[1]), nu=2.5) + WhiteKernel(0.1)
    model = GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=2, random_state=0)
    return model.fit(scaler.transform(x), y).predict(scaler.transform(xs), return_std=True)


def botorch(x: np.ndarray, y: np.ndarray, xs: np.ndarray, fingerprint: bool) -> Predicted:
    kernel = ScaleKernel(TanimotoMinMax()) if fingerprint else None
    low, span = x.min(0), np.ptp(x, axis=0)
    scaled = [v.astype(float) if fingerprint else (v - low) / np.where(span > 0, span, 1.0) for v in (x, xs)]
    inputs, queries = (torch.from_numpy(v) for v in scaled)
    model = SingleTaskGP(inputs, torch.from_numpy(y)[:, None], covar_module=kernel)
    fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
    with torch.no_grad():
        posterior = model.posterior(queries, observation_noise=True)
        return posterior.mean[:, 0].numpy(), posterior.variance[:, 0].sqrt().numpy()


def constant(x: np.ndarray, y: np.ndarray, xs: np.ndarray, fingerprint: bool) -> Predicted:
    return np.full(len(xs), y.mean()), np.full(len(xs), y.std(ddof=1))


MODELS: dict[str, Model] = {
    "sggp": ours,
    "scikit-learn": scikit_learn,
    "BoTorch": botorch,
    "constant": constant,
}


@dataclass
class Scores:
    """One model at one number of rows, over tables and draws."""

    nll: list[float] = field(default_factory=list)
    rmse: list[float] = field(default_factory=list)
    inside: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def cells(self, best: Scores) -> list[str]:
        behind = np.array(self.nll) - np.array(best.nll)
        error = behind.std(ddof=1) / math.sqrt(len(behind)) if len(behind) > 1 else math.nan
        return [
            f"{np.mean(self.nll):.3f}",
            f"{np.mean(behind):+.3f} ± {error:.3f}",
            f"{np.mean(self.rmse):.3f}",
            f"{100 * np.mean(self.inside):.0f}",
            f"{np.median(self.seconds):.2f}",
        ]


def score(model: Model, part: tuple[np.ndarray, ...], fingerprint: bool, unit: float, into: Scores) -> None:
    x, y, xs, ys = part
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mean, std = model(x, y, xs, fingerprint)
    into.seconds.append(time.perf_counter() - start)
    std = np.maximum(std, 1e-6 * unit)
    error = ys - mean
    into.nll.append(
        float(np.mean(0.5 * (error / std) ** 2 + np.log(std / unit) + 0.5 * math.log(2 * math.pi)))
    )
    into.rmse.append(float(np.sqrt(np.mean(error**2)) / unit))
    into.inside.append(float(np.mean(np.abs(error) < 1.96 * std)))


def tables(names: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
    out = []
    for name in names:
        split = uci(name)
        out.append(
            (np.concatenate([split.x_train, split.x_test]), np.concatenate([split.y_train, split.y_test]))
        )
    return out


def molecule_sets(names: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
    out = []
    for name in names:
        data = getattr(molecules, name)()
        (values,) = data.values.values()
        order = np.random.default_rng(0).permutation(len(data))[:1000]
        table = FingerprintTable.from_smiles([data.smiles[i] for i in order], SmilesFingerprinter())
        out.append((table.dense(slice(None)).numpy(), values[order][table.source_rows]))
    return out


def compare(
    sets: list[tuple[np.ndarray, np.ndarray]], fingerprint: bool, rows: list[int], draws: int
) -> None:
    lines = []
    for n in rows:
        scores = {name: Scores() for name in MODELS if not (fingerprint and name == "scikit-learn")}
        for x, y in sets:
            for draw in range(draws if n <= 60 else 1):
                order = np.random.default_rng(draw).permutation(len(y))
                if len(y) < n + 50 or np.ptp(y[order[:n]]) == 0:
                    continue
                train, test = order[:n], order[n : n + TEST_ROWS]
                part = x[train], y[train], x[test], y[test]
                for name, result in scores.items():
                    score(MODELS[name], part, fingerprint, float(y.std()), result)
        for name, result in scores.items():
            lines.append([str(n), name, *result.cells(scores["sggp"])])
    print_table(["rows", "model", "NLL", "behind sggp", "RMSE", "95 %", "s"], lines)
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="*", default=list(TABLES))
    parser.add_argument("--molecules", nargs="*", default=list(MOLECULES))
    parser.add_argument("--rows", nargs="+", type=int, default=[6, 20, 60, 200])
    parser.add_argument("--draws", type=int, default=4)
    arguments = parser.parse_args()
    header("models of a few rows", ("torch", "gpytorch", "botorch", "scikit-learn"))
    for title, sets, fingerprint in (
        ("tables", tables(arguments.sets), False),
        ("molecules", molecule_sets(arguments.molecules), True),
    ):
        if sets:
            print(f"{title}, draws 0-{arguments.draws - 1} (0 at more than 60 rows)\n")
            compare(sets, fingerprint, arguments.rows, arguments.draws)


if __name__ == "__main__":
    main()
