"""Exact min-max Tanimoto GP on 5,000 docked molecules: five R² values that any correct fingerprint reproduces."""

import numpy as np
import pytest

pytest.importorskip("rdkit")

from scipy.linalg import cho_factor, cho_solve

from sggp.datasets import dockstring_small
from sggp.molecules import FingerprintTable, SmilesFingerprinter

# target: outputscale, noise variance, mean, R²; hyperparameters fitted by others on other molecules of the same set
pytestmark = (
    pytest.mark.slow
)  # published numbers of published data; condition on a table has tests of its own
ANCHORS = {
    "ESR2": (0.635, 0.272, -6.80, 0.506),
    "F2": (0.396, 0.085, -6.34, 0.811),
    "KIT": (0.852, 0.130, -6.03, 0.676),
    "PARP1": (0.574, 0.080, -6.91, 0.842),
    "PGR": (0.856, 0.316, -6.65, 0.366),
}


def min_max(a, b):
    """Σ min / Σ max by thermometer codes: one 0/1 column per position and level, so Σ min is a matrix product."""
    codes_a, codes_b = [], []
    for level in range(1, int(max(a.max(), b.max())) + 1):
        used = (a >= level).any(0) | (b >= level).any(0)
        codes_a.append(a[:, used] >= level)
        codes_b.append(b[:, used] >= level)
    codes_a, codes_b = (np.concatenate(codes, axis=1).astype(np.float32) for codes in (codes_a, codes_b))
    smaller = (codes_a @ codes_b.T).astype(np.float64)
    return smaller / (codes_a.sum(1)[:, None] + codes_b.sum(1)[None, :] - smaller)


@pytest.fixture(scope="module")
def docking(data_dir):
    data = dockstring_small()
    table = FingerprintTable.from_smiles(data.smiles, SmilesFingerprinter(radius=1, fp_size=1024))
    counts = table[:].numpy()
    train = np.array([label == "train" for label in data.split])
    return data, train, min_max(counts[train], counts[train]), min_max(counts[~train], counts[train]), table


@pytest.mark.parametrize("target", ANCHORS)
def test_exact_gp_reproduces_the_known_r2(docking, target):
    data, train, kernel, cross, _ = docking
    assert train.sum() == 2500
    scale, noise, mean, expected = ANCHORS[target]
    y = data.values[target]
    weights = cho_solve(cho_factor(scale * kernel + noise * np.eye(len(kernel)), lower=True), y[train] - mean)
    error = y[~train] - mean - scale * cross @ weights
    r2 = 1 - (error**2).mean() / y[~train].var()
    assert r2 == pytest.approx(expected, abs=0.002)


def test_condition_on_a_table_agrees_with_the_dense_gp(docking, data_dir):
    import torch
    from gpytorch.kernels import ScaleKernel

    from sggp import Cholesky, TanimotoMinMax, condition

    data, train, kernel, cross, table = docking
    scale, noise, mean, expected = ANCHORS["F2"]
    y = data.values["F2"]
    dense = mean + scale * cross @ cho_solve(
        cho_factor(scale * kernel + noise * np.eye(2500), lower=True), y[train] - mean
    )
    prior = ScaleKernel(TanimotoMinMax()).double()
    prior.outputscale = scale
    posterior = condition(
        prior,
        table[train],
        torch.as_tensor(y[train]),
        noise_variance=noise,
        mean=mean,
        solver=Cholesky(),
        num_samples=0,
        dtype=torch.float64,
    )
    found = posterior.mean(table[~train]).numpy()
    np.testing.assert_allclose(found, dense, atol=1e-8)
    assert 1 - ((y[~train] - found) ** 2).mean() / y[~train].var() == pytest.approx(expected, abs=0.002)
