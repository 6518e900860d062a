"""The posterior against dense Gaussian-process algebra, and its samples against it within their Monte Carlo error."""

from __future__ import annotations

import copy
import pickle

import gpytorch
import pytest
import torch

from sggp.errors import (
    DataFileError,
    DtypeError,
    InputError,
    NoRandomFeatures,
    NotConverged,
    NotSaved,
    ShapeError,
)
from sggp.kernels import TanimotoDotProduct, TanimotoMinMax
from sggp.posterior import Posterior, condition
from sggp.solvers import Cholesky, ConjugateGradients, StochasticDualDescent

NOISE = 0.02
MEAN = 0.3


def matern(nu: float = 1.5) -> gpytorch.kernels.Kernel:
    kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(nu=nu, ard_num_dims=2)).double()
    kernel.outputscale = 0.7
    kernel.base_kernel.lengthscale = torch.tensor([0.8, 1.6], dtype=torch.float64)
    return kernel


def scaled(base: gpytorch.kernels.Kernel) -> gpytorch.kernels.Kernel:
    kernel = gpytorch.kernels.ScaleKernel(base).double()
    kernel.outputscale = 1.7
    return kernel


def dense(kernel, a, b) -> torch.Tensor:
    with gpytorch.settings.lazily_evaluate_kernels(False):
        return kernel(a.double(), b.double()).to_dense().detach()


class Exact:
    """Mean and covariance of the exact posterior by dense float64 algebra, repeats and all."""

    def __init__(self, kernel, x, y, noise) -> None:
        self.kernel, self.x = kernel, x
        noise = torch.as_tensor(noise, dtype=torch.float64).expand(len(x))
        self.h = dense(kernel, x, x) + torch.diag(noise)
        self.weights = torch.linalg.solve(self.h, y - MEAN)

    def mean(self, q):
        return MEAN + dense(self.kernel, q, self.x) @ self.weights

    def covariance(self, q):
        cross = dense(self.kernel, q, self.x)
        return dense(self.kernel, q, q) - cross @ torch.linalg.solve(self.h, cross.T)


@pytest.fixture
def data(generator: torch.Generator):
    x = torch.rand(150, 2, generator=generator, dtype=torch.float64) * 4
    y = (
        torch.sin(2 * x[:, 0])
        + 0.3 * x[:, 1]
        + 0.1 * torch.randn(150, generator=generator, dtype=torch.float64)
    )
    q = torch.rand(12, 2, generator=generator, dtype=torch.float64) * 5 - 0.5
    return x, y, q


def solved(data, kernel=None, **options):
    x, y, _ = data
    settings = {
        "noise_variance": NOISE,
        "mean": MEAN,
        "generator": 0,
        "tolerance": 1e-9,
        "num_samples": 16,
    } | options
    return condition(matern() if kernel is None else kernel, x, y, **settings)


@pytest.mark.parametrize(
    "solver", [None, Cholesky(), ConjugateGradients()], ids=["default", "cholesky", "cg"]
)
def test_mean_and_exact_variance(data, solver):
    x, y, q = data
    exact = Exact(matern(), x, y, NOISE)
    posterior = solved(data, solver=solver)
    torch.testing.assert_close(posterior.mean(q), exact.mean(q), rtol=0, atol=1e-6)
    variance = posterior.variance(q, method="solve")
    torch.testing.assert_close(variance, exact.covariance(q).diagonal(), rtol=0, atol=1e-6)
    torch.testing.assert_close(posterior.covariance_matrix(q), exact.covariance(q), rtol=0, atol=1e-6)
    noisy = posterior.variance(q, observation_noise=True, method="solve")
    torch.testing.assert_close(noisy - variance, torch.full((12,), NOISE, dtype=torch.float64))


def test_dual_descent_gives_the_same_mean(data):
    x, y, q = data
    posterior = solved(data, solver=StochasticDualDescent(), tolerance=1e-3)
    torch.testing.assert_close(posterior.mean(q), Exact(matern(), x, y, NOISE).mean(q), rtol=0, atol=2e-2)


FINGERPRINTS = {"min-max": TanimotoMinMax, "dot product": TanimotoDotProduct}


@pytest.mark.parametrize("name", ["matern32", "matern52", "rbf", *FINGERPRINTS])
def test_samples_have_the_exact_mean_and_covariance(name, data, generator):
    """Over independent posteriors (fresh features each), moments agree within 5 standard errors of their own spread."""
    x, y, q = data
    if name in FINGERPRINTS:
        kernel = scaled(FINGERPRINTS[name]())
        x = torch.poisson(torch.full((60, 24), 0.4), generator=generator).to(torch.uint8)
        q, y = torch.poisson(torch.full((6, 24), 0.4), generator=generator).to(torch.uint8), y[:60]
    else:
        kernel = scaled(gpytorch.kernels.RBFKernel()) if name == "rbf" else matern(float(name[-2]) / 2)
        q = q[:6]
    exact = Exact(kernel, x, y, NOISE)
    covariances, means = [], []
    for seed in range(40):
        posterior = condition(
            kernel, x, y, noise_variance=NOISE, mean=MEAN, generator=seed, num_samples=32, num_features=256
        )
        gap = posterior.samples(q).double() - exact.mean(q)
        means.append(gap.mean(0))
        covariances.append(gap.T @ gap / len(gap))
    for values, wanted in ((torch.stack(means), 0.0), (torch.stack(covariances), exact.covariance(q))):
        error = values.std(0) / 40**0.5
        assert bool(((values.mean(0) - wanted).abs() < 5 * error + 1e-6).all())


def test_variance_far_from_the_data_is_the_prior_one(data):
    """Where no row says anything, the local posterior is the prior, and nothing is left to sample."""
    _, _, q = data
    far = torch.tensor([[40.0, -40.0]], dtype=torch.float64)
    posterior = solved(data, num_samples=64)
    assert float(posterior.variance(far)[0]) == pytest.approx(0.7, rel=1e-6)
    assert float(posterior.variance_error(far)[0]) == pytest.approx(0.0, abs=1e-6)
    assert bool((posterior.variance(q) >= 0).all())
    assert bool((posterior.variance(q, method="solve") >= 0).all())


def test_variance_between_the_data_does_not_hang_on_the_draw_of_features(data):
    """Where data are dense the variance comes from the tail of the spectrum: every draw of features must cover it.

    Independent frequencies miss by a factor between 0.6 and 1.4 here, and more samples do not help.
    """
    x, y, q = data
    inside = torch.rand(30, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 4
    dense_x = torch.rand(400, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 4
    posteriors = [solved((dense_x, dense_x[:, 0], q), generator=seed, num_samples=512) for seed in range(6)]
    exact = posteriors[0].variance(inside, method="solve")
    ratios = torch.stack([(p.variance(inside) / exact).mean() for p in posteriors])
    assert bool(((ratios - 1).abs() < 0.08).all())


def test_repeats_are_merged_exactly(data, generator):
    """Repeated inputs, with different targets and noise: the merged posterior is the posterior of all rows."""
    x, y, q = data
    pick = torch.randint(150, (90,), generator=generator)
    x2 = torch.cat([x, x[pick]])
    y2 = torch.cat([y, y[pick] + torch.randn(90, generator=generator, dtype=torch.float64)])
    noise = torch.rand(240, generator=generator, dtype=torch.float64) * 0.1 + 0.01
    posterior = solved((x2, y2, q), noise_variance=noise)
    exact = Exact(matern(), x2, y2, noise)
    assert len(posterior.x) == 150
    torch.testing.assert_close(posterior.mean(q), exact.mean(q), rtol=0, atol=1e-8)
    torch.testing.assert_close(
        posterior.variance(q, method="solve"), exact.covariance(q).diagonal(), rtol=0, atol=1e-8
    )
    with pytest.raises(InputError, match="observation_noise"):
        posterior.variance(q, observation_noise=True)


def test_minus_zero_repeats_zero(data):
    _, _, q = data
    x = torch.tensor([[0.0, 1.0], [-0.0, 1.0]], dtype=torch.float64)
    assert len(solved((x, torch.ones(2), q)).x) == 1


def test_paths_are_functions(data):
    _, _, q = data
    paths = solved(data).samples
    values = paths(q)
    assert values.shape == (16, 12)
    assert torch.equal(values, paths(q))
    # whatever the blocking: one by one, in any leading shape, or among others
    torch.testing.assert_close(torch.cat([paths(p[None]) for p in q], 1), values, rtol=0, atol=1e-11)
    torch.testing.assert_close(paths(q.reshape(3, 4, 2)), values.reshape(16, 3, 4), rtol=0, atol=1e-11)
    crowd = torch.cat([q, torch.rand(5000, 2, dtype=torch.float64)])
    torch.testing.assert_close(paths(crowd)[:, :12], values, rtol=0, atol=1e-11)
    torch.testing.assert_close(paths.select([3, 1])(q), values[[3, 1]], rtol=0, atol=1e-11)


@pytest.mark.parametrize("at_once", [0, 2**22])
def test_paired_equals_evaluating_each_sample_alone(data, generator, monkeypatch, at_once):
    monkeypatch.setattr("sggp.posterior.paths._AT_ONCE", at_once)
    paths = solved(data).samples
    own = torch.rand(16, 3, 5, 2, generator=generator, dtype=torch.float64)
    alone = torch.stack([paths(own[i])[i] for i in range(16)])
    torch.testing.assert_close(paths.paired(own), alone, rtol=0, atol=1e-11)


@pytest.mark.parametrize("how", ["shared", "paired", "paired in turn", "mean"])
def test_gradients(data, how, monkeypatch):
    _, _, q = data
    posterior = solved(data, num_samples=3)
    if how == "paired in turn":
        monkeypatch.setattr("sggp.posterior.paths._AT_ONCE", 0)
    paired = how.startswith("paired")
    call = posterior.samples.paired if paired else {"shared": posterior.samples, "mean": posterior.mean}[how]
    points = q[:6].reshape(3, 2, 2) if paired else q[:2]
    assert torch.autograd.gradcheck(call, points.clone().requires_grad_())


def test_update_is_the_posterior_of_all_data(data, generator):
    x, y, q = data
    first = condition(
        matern(), x[:100], y[:100], noise_variance=NOISE, mean=MEAN, generator=0, tolerance=1e-9
    )
    # new points, and a repeat of an old one
    more_x, more_y = torch.cat([x[100:], x[:1]]), torch.cat([y[100:], y[:1] + 1])
    updated = first.update(more_x, more_y, generator=1)
    exact = Exact(matern(), torch.cat([x[:100], more_x]), torch.cat([y[:100], more_y]), NOISE)
    torch.testing.assert_close(updated.mean(q), exact.mean(q), rtol=0, atol=1e-6)
    far = torch.tensor([[60.0, 60.0]], dtype=torch.float64)
    # far from all data a sample is its prior function, which an update keeps
    torch.testing.assert_close(updated.samples(far), first.samples(far), rtol=0, atol=1e-6)


def test_update_starts_warm(generator):
    x = torch.rand(900, 2, generator=generator, dtype=torch.float64) * 4
    y = torch.sin(x).sum(1)
    options = {
        "noise_variance": NOISE,
        "solver": ConjugateGradients(None),
        "tolerance": 1e-4,
        "num_samples": 2,
    }
    first = condition(matern(), x[:890], y[:890], generator=0, **options)
    warm = first.update(x[890:], y[890:], generator=1).solution
    cold = condition(matern(), x, y, generator=0, **options).solution
    assert warm.converged
    assert warm.iterations < cold.iterations


def test_more_samples_are_new(data):
    _, _, q = data
    posterior = solved(data)
    more = posterior.more_samples(5, generator=3)
    assert more(q).shape == (5, 12)
    assert not bool(torch.isclose(more(q)[:, None], posterior.samples(q)[None]).all(-1).any())
    again = posterior.more_samples(5, generator=3)
    assert torch.equal(more(q), again(q))


def test_more_samples_join_the_first_ones(data):
    _, _, q = data
    posterior = solved(data)
    first, more = posterior.samples, posterior.more_samples(5, generator=3)
    both = first.joined(more)
    assert both.num_samples == first.num_samples + 5
    torch.testing.assert_close(both(q), torch.cat([first(q), more(q)]), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(both.select(range(2, 7))(q), both(q)[2:7], rtol=1e-12, atol=1e-12)
    none = solved(data, num_samples=0)  # of a posterior without samples, each set has features of its own
    with pytest.raises(InputError, match="samples can be joined"):
        none.more_samples(2, generator=0).joined(none.more_samples(2, generator=1))


def test_saved_and_loaded(data, tmp_path):
    _, _, q = data
    posterior = solved(data)
    path = tmp_path / "posterior.pt"
    posterior.save(path)
    loaded = Posterior.load(path)
    torch.testing.assert_close(loaded.samples(q), posterior.samples(q), rtol=0, atol=1e-12)
    torch.testing.assert_close(loaded.variance(q, method="solve"), posterior.variance(q, method="solve"))
    assert loaded.solution.status == posterior.solution.status
    assert [p.name for p in tmp_path.iterdir()] == ["posterior.pt"]
    (tmp_path / "other").write_bytes(b"not a posterior")
    with pytest.raises(DataFileError, match="not a file written by sggp"):
        Posterior.load(tmp_path / "other")
    with pytest.raises(DataFileError, match="no file"):
        Posterior.load(tmp_path / "none")


class OwnKernel(gpytorch.kernels.RBFKernel):
    """A type that no file names."""


def test_a_kernel_without_a_description_is_asked_for(data, tmp_path):
    x, y, q = data
    kernel = gpytorch.kernels.ScaleKernel(OwnKernel()).double()
    posterior = condition(kernel, x, y, noise_variance=NOISE, num_samples=0)
    with pytest.warns(NotSaved, match=r"OwnKernel is not a type .*Posterior\.load\(path, kernel="):
        posterior.save(tmp_path / "p")
    with pytest.raises(InputError, match=r"OwnKernel is not a type .*pass kernel="):
        Posterior.load(tmp_path / "p")
    torch.testing.assert_close(Posterior.load(tmp_path / "p", kernel=kernel).mean(q), posterior.mean(q))


@pytest.mark.parametrize(
    "copier", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))], ids=["deepcopy", "pickle"]
)
def test_copies(data, copier):
    _, _, q = data
    posterior = solved(data)
    posterior.variance(q, method="solve")
    torch.testing.assert_close(copier(posterior).samples(q), posterior.samples(q), rtol=0, atol=1e-12)


def test_working_precision_is_an_argument(data):
    _, _, q = data
    single = solved(data, dtype=torch.float32, tolerance=1e-4)
    assert single.options.dtype == torch.float32
    assert single.mean(q).dtype == torch.float64
    torch.testing.assert_close(single.mean(q), solved(data).mean(q), rtol=0, atol=1e-3)


def test_default_tolerance_follows_the_noise(data):
    """What the solve leaves open stays below a tenth of the noise, and a quarter of the latent deviation."""
    x, y, _ = data
    size = float(y.square().mean().sqrt())
    for noise in (1.0, 1e-4, 1e-20):
        exact = condition(matern(), x, y, noise_variance=noise, num_samples=0)
        latent = 0.25 * float(exact.variance(x).mean().sqrt())
        prior = float(exact.covariance.diagonal(x).mean() + noise) ** 0.5
        drowned = min(1e-3, max(1e-6, 0.1 * noise**0.5 / size))
        expected = [max(1e-6, min(drowned, latent / size))] + [
            max(1e-6, min(3 * drowned, latent / prior))
        ] * 3
        found = condition(matern(), x, y, noise_variance=noise, solver=ConjugateGradients(), num_samples=3)
        assert found.solution.tolerance.tolist() == pytest.approx(expected)


def test_unconverged_solves_are_told(data):
    with pytest.warns(NotConverged, match="17 of 17|columns missed"):
        posterior = solved(data, solver=ConjugateGradients(None), max_epochs=1)
    assert not posterior.solution.converged


def test_no_samples(data):
    x, y, q = data
    kernel = gpytorch.kernels.PolynomialKernel(power=2).double()
    with pytest.raises(NoRandomFeatures):
        condition(kernel, x, y, noise_variance=NOISE)
    posterior = condition(kernel, x, y, noise_variance=NOISE, num_samples=0, mean=MEAN)
    torch.testing.assert_close(posterior.mean(q), Exact(kernel, x, y, NOISE).mean(q), rtol=1e-6, atol=1e-6)
    with pytest.raises(InputError, match="num_samples"):
        posterior.variance(q, method="samples")
    assert torch.equal(posterior.variance(q), posterior.variance(q, method="solve"))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"y": torch.ones(3)}, ShapeError),
        ({"y": torch.full((150,), float("nan"))}, InputError),
        ({"x": torch.full((150, 2), float("inf"))}, InputError),
        ({"x": torch.ones(150)}, ShapeError),
        ({"x": torch.ones(0, 2), "y": torch.ones(0)}, ShapeError),
        ({"x": [[1.0]]}, DtypeError),
        ({"noise_variance": -1.0}, InputError),
        ({"noise_variance": torch.ones(3)}, ShapeError),
        ({"num_samples": -1}, InputError),
        ({"tolerance": torch.ones(5)}, ShapeError),
    ],
)
def test_bad_data(data, change, error):
    x, y, _ = data
    arguments = {"x": x, "y": y, "noise_variance": NOISE, **change}
    with pytest.raises(error):
        condition(matern(), arguments.pop("x"), arguments.pop("y"), **arguments)


def test_bad_points(data):
    posterior = solved(data)
    for call in (posterior.mean, posterior.samples, posterior.variance):
        with pytest.raises(ShapeError, match="d = 2"):
            call(torch.ones(4, 3))
    with pytest.raises(ShapeError, match="one set of points per sample"):
        posterior.samples.paired(torch.ones(4, 1, 2))
    with pytest.raises(InputError, match="method"):
        posterior.variance(torch.ones(1, 2), method="guess")
    with pytest.raises(InputError, match="indices"):
        posterior.samples.select([99])


def test_constant_targets_and_one_row(data):
    x, _, q = data
    flat = condition(matern(), x, torch.full((150,), 2.5), noise_variance=NOISE, mean=2.5, num_samples=2)
    torch.testing.assert_close(flat.mean(q), torch.full((12,), 2.5, dtype=torch.float64))
    one = condition(matern(), x[:1], torch.ones(1), noise_variance=NOISE, num_samples=2)
    assert float(one.mean(x[:1])[0]) == pytest.approx(0.7 / 0.72)
