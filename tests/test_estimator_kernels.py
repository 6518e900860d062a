"""scikit-learn's kernels in GPRegressor: their values, what is learnt of them, and their samples."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process import kernels as sk
from sklearn.svm import SVR

from sggp import GPRegressor, TanimotoMinMax, draw_features
from sggp.errors import NoRandomFeatures, UnlearntKernel
from sggp.estimator import TanimotoKernel
from sggp.fitting.scikit_bridge import ScikitLearnKernel
from sggp.fitting.scikit_kernels import from_scikit_learn


def waves(n=50, d=1, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.uniform(0, 6, (n, d))
    y = np.sin(2 * np.pi * X[:, 0] / 2.3) + 0.3 * X[:, -1] + 0.1 * rng.standard_normal(n)
    return X, (y - y.mean()) / y.std()


class Decay(sk.StationaryKernelMixin, sk.NormalizedKernelMixin, sk.Kernel):
    """exp(−rate |δ|) of a user who wrote no gradient."""

    def __init__(self, rate=1.0, rate_bounds=(1e-3, 1e3)):
        self.rate = rate
        self.rate_bounds = rate_bounds

    @property
    def hyperparameter_rate(self):
        return sk.Hyperparameter("rate", "numeric", self.rate_bounds)

    def __call__(self, X, Y=None, eval_gradient=False):
        if eval_gradient:
            raise NotImplementedError("no gradient")
        Y = X if Y is None else Y
        return np.exp(-self.rate * np.abs(X[:, None] - Y[None]).sum(-1))


EVERY = [
    (sk.ExpSineSquared(1.3, 2.0), 1),
    (sk.ExpSineSquared(1.3, 2.0), 2),
    (sk.DotProduct(0.5), 2),
    (sk.DotProduct(0.5) ** 3, 2),
    ((0.5 * sk.RBF(2.0) + sk.DotProduct()) ** 2, 2),
    (sk.RBF(1.5) ** 1.5, 2),
    (sk.PairwiseKernel(metric="linear"), 2),
    (sk.PairwiseKernel(0.7, metric="rbf"), 2),
    (sk.PairwiseKernel(0.7, metric="laplacian"), 1),
    (sk.PairwiseKernel(0.7, metric="laplacian"), 2),
    (sk.PairwiseKernel(0.2, metric="polynomial", pairwise_kernels_kwargs={"degree": 2}), 2),
    (sk.Matern([0.8, 1.5], nu=1.2), 2),
    (2.0 * sk.ExpSineSquared(1.0, 2.0) * sk.RBF(3.0), 1),
    (Decay(0.4), 1),
]


@pytest.mark.parametrize(("kernel", "d"), EVERY, ids=str)
def test_values_are_those_of_scikit_learn(kernel, d):
    X, _ = waves(12, d)
    found = from_scikit_learn(kernel, d).kernel
    x = torch.from_numpy(X)
    for rows, others in ((X, X), (X, X[:5])):
        theirs = torch.from_numpy(kernel(rows, others))
        values = found(torch.from_numpy(rows), torch.from_numpy(others)).to_dense()
        torch.testing.assert_close(values, theirs, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(found(x, diag=True), torch.from_numpy(kernel.diag(X)), rtol=1e-7, atol=1e-9)


LEARNT = [
    (sk.ExpSineSquared(1.0, 2.0), 1),
    (sk.DotProduct() ** 2 + sk.RBF(), 1),
    (sk.DotProduct(), 2),
    (sk.RBF(2.0) ** 2, 1),
    (sk.RBF(2.0) ** 1.5, 1),
    (sk.PairwiseKernel(metric="rbf"), 2),
    (sk.PairwiseKernel(metric="laplacian"), 2),
    (sk.Matern(1.0, nu=1.2), 1),
    (1.0 * sk.Matern([1.0, 1.0], nu=2.0), 2),
]


@pytest.mark.parametrize(("kernel", "d"), LEARNT, ids=str)
@pytest.mark.filterwarnings("ignore:The optimal value found")  # scikit-learn's, of bounds
@pytest.mark.filterwarnings("ignore:lbfgs failed to converge")  # its search ends in rounding on some machines
def test_every_kernel_is_learnt_as_well_as_scikit_learn_does(kernel, d):
    """ExpSineSquared ended at −86 here, where it started, and an RBF's square at −89."""
    X, y = waves(40, d)
    kernel = kernel + sk.WhiteKernel(0.1)
    theirs = GaussianProcessRegressor(kernel).fit(X, y)
    ours = GPRegressor(kernel, random_state=0, num_samples=0).fit(X, y)
    assert ours.log_marginal_likelihood_value_ > theirs.log_marginal_likelihood_value_ - 0.01


def test_the_gradient_is_that_of_the_parameters_also_between_different_rows(generator):
    kernel = ScikitLearnKernel(sk.ConstantKernel(1.5) * sk.Matern([0.8, 1.5], nu=1.2), 2).double()
    assert kernel.names == ["k1__constant_value", "k2__length_scale"]
    x, z = torch.rand(2, 8, 2, dtype=torch.float64, generator=generator).split([5, 3], dim=1)
    parameters = [p for p in kernel.parameters() if p.requires_grad]

    def value(*raw):
        return torch.func.functional_call(kernel, dict(zip(names, raw, strict=True)), (x, z)).to_dense()

    names = [n for n, p in kernel.named_parameters() if p.requires_grad]
    # scikit-learn itself differentiates this one by steps of 1e-10: its last five digits are rounding
    assert torch.autograd.gradcheck(value, parameters, eps=1e-5, atol=1e-4)


def test_bounds_and_fixed_values_are_kept():
    X, y = waves()
    kernel = sk.ExpSineSquared(1.0, 2.0, "fixed", (1.9, 2.1)) + sk.Matern(1.0, (0.5, 0.6), nu=1.2)
    found = GPRegressor(kernel + sk.WhiteKernel(), num_samples=0).fit(X, y).hyperparameters_
    assert found["kernels.0.lengthscale"] == pytest.approx(1.0)
    assert 1.9 <= found["kernels.0.period_length"] <= 2.1
    assert 0.5 <= found["kernels.1.length_scale"] <= 0.6


def test_what_cannot_be_learnt_is_named():
    X, y = waves()
    with pytest.warns(UnlearntKernel, match=r"rate of .*Decay.* stay as given"):
        model = GPRegressor(1.0 * Decay() + sk.WhiteKernel()).fit(X, y)
    assert model.hyperparameters_["outputscale"] != 1.0


@pytest.mark.parametrize("kernel", [1.0 * Decay() + sk.WhiteKernel(), Decay(1.0, "fixed") + sk.WhiteKernel()])
def test_nothing_is_said_where_nothing_was_to_be_learnt(kernel, recwarn):
    X, y = waves()
    fixed = isinstance(kernel.k1, Decay)
    GPRegressor(kernel, optimizer="auto" if fixed else None).fit(X, y)
    assert [str(w.message) for w in recwarn if issubclass(w.category, UnlearntKernel)] == []


@pytest.mark.parametrize(
    ("kernel", "d"),
    [
        (sk.ExpSineSquared(1.0, 2.0), 1),
        (sk.RBF(1.5) ** 2, 2),
        (sk.DotProduct(), 2),
        (sk.Matern(0.8, nu=1.2), 2),
    ],
    ids=str,
)
def test_random_features_have_the_kernel_as_their_mean(kernel, d):
    X, _ = waves(6, d)
    x = torch.from_numpy(X)
    features = draw_features(from_scikit_learn(kernel, d).kernel, 20_000, input_dim=d, generator=0)
    phi = features.phi(x.double())
    size = float(kernel.diag(X).max())
    torch.testing.assert_close(phi @ phi.T, torch.from_numpy(kernel(X)), rtol=0, atol=0.04 * size)


def test_kernels_without_features_say_so():
    X, y = waves()
    model = GPRegressor(sk.RBF(2.0) ** 1.5 + sk.WhiteKernel(0.1)).fit(X, y)
    with pytest.raises(NoRandomFeatures, match=r"RBF"):
        model.sample_y(X)


def test_powers_keep_their_values_in_the_units_of_y():
    X, y = waves()
    kernel = (2.0 * sk.RBF(1.0)) ** 2 + sk.WhiteKernel(0.1)
    theirs = GaussianProcessRegressor(kernel).fit(X, 5 * y)
    ours = GPRegressor(kernel, normalize_y=False, num_samples=0).fit(X, 5 * y)
    assert ours.log_marginal_likelihood_value_ > theirs.log_marginal_likelihood_value_ - 0.01


def test_learnt_kernels_are_cloned_and_pickled():
    X, y = waves()
    model = clone(GPRegressor(sk.Matern(1.0, nu=1.2) + sk.WhiteKernel(0.1), num_samples=2)).fit(X, y)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    assert model.kernel_.learnt().length_scale == pytest.approx(model.hyperparameters_["length_scale"])
    assert model.sample_y(X, 2).shape == (50, 2)


# Tanimoto kernels as scikit-learn kernels

SMILES = ["CCO", "CCN", "CCC", "c1ccccc1", "c1ccccc1O", "CC(=O)O", "CCOC", "CCCl", "c1ccncc1", "CC(C)O"]


def _counts(n=30, d=40, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.poisson(0.5, (n, d))
    return X, X[:, :4].sum(1) + 0.1 * rng.standard_normal(n)


@pytest.mark.parametrize("kind", ["minmax", "dot"])
def test_tanimoto_values_are_those_of_their_definition(kind):
    X, _ = _counts(6)
    low, high = (np.array([[f(a, b).sum() for b in X] for a in X]) for f in (np.minimum, np.maximum))
    dots = X @ X.T
    norms = np.diag(dots)
    expected = low / high if kind == "minmax" else dots / (norms[:, None] + norms[None] - dots)
    kernel = TanimotoKernel(kind)
    for rows in (X, X.astype(float), sparse.csr_array(X)):
        np.testing.assert_allclose(kernel(rows), expected, rtol=1e-12)
    np.testing.assert_allclose(kernel(X, X[:2]), expected[:, :2], rtol=1e-12)
    np.testing.assert_allclose(kernel.diag(X), np.ones(6))
    assert kernel(X, eval_gradient=True)[1].shape == (6, 6, 0)
    assert clone(2.0 * kernel).k2 == kernel


def test_scikit_learns_own_models_take_a_tanimoto_kernel():
    X, y = _counts()
    kernel = 1.0 * TanimotoKernel() + sk.WhiteKernel(0.1, "fixed")
    theirs = GaussianProcessRegressor(kernel, normalize_y=True).fit(X, y)
    ours = GPRegressor(kernel, random_state=0).fit(X, y)
    assert ours.log_marginal_likelihood_value_ > theirs.log_marginal_likelihood_value_ - 0.01
    assert isinstance(ours.kernel_.base_kernel, TanimotoMinMax)
    machine = SVR(kernel=TanimotoKernel(), C=100.0).fit(X, y)
    by_hand = SVR(kernel="precomputed", C=100.0).fit(TanimotoKernel()(X), y)
    np.testing.assert_allclose(machine.predict(X), by_hand.predict(TanimotoKernel()(X)), rtol=1e-9)


def test_smiles_are_rows_of_a_tanimoto_kernel():
    molecules = pytest.importorskip("sggp.molecules", reason="RDKit is not installed")
    pytest.importorskip("rdkit", reason="RDKit is not installed")
    counts = molecules.SmilesFingerprinter().transform(SMILES)
    np.testing.assert_allclose(TanimotoKernel()(SMILES), TanimotoKernel()(counts), rtol=1e-12)
    y = np.array([s.count("c") + 0.5 * s.count("O") for s in SMILES])
    model = GaussianProcessRegressor(
        1.0 * TanimotoKernel() + sk.WhiteKernel(0.01, "fixed"), normalize_y=True
    ).fit(SMILES, y)
    mean, std = model.predict(["c1ccccc1N", "CCCC"], return_std=True)
    assert mean[0] > mean[1] + 1
    assert (std > 0).all()
    short = molecules.SmilesFingerprinter(fp_size=512)
    assert TanimotoKernel(fingerprinter=short)(SMILES).shape == (10, 10)
