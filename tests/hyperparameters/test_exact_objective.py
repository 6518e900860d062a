"""The exact likelihood's parts: merged repeats, closed-form derivatives, the search from a part of the rows."""

import gpytorch
import numpy as np
import pytest
import torch
from gpytorch.kernels import MaternKernel, RBFKernel, RQKernel, ScaleKernel
from gpytorch.priors import LogNormalPrior

from sggp.hyperparameters import exact_log_marginal_likelihood, fit_exact, named_kernel
from sggp.hyperparameters.coordinates import Coordinates, copy_kernel
from sggp.hyperparameters.exact import fit as exact
from sggp.hyperparameters.exact.gram_matrix import GramMatrix, Sensitivity
from sggp.hyperparameters.exact.objective import Best, Objective
from sggp.hyperparameters.exact.quasi_newton import (
    Box,
    StoppingRule,
    descend,
    differenced_hessian,
    positive_part,
)
from sggp.hyperparameters.problem import CommonOptions, FitProblem
from sggp.hyperparameters.values import backward
from tests.oracles import kernel_matrix


def _rows(n, d=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=g, dtype=torch.float64)
    y = torch.sin(2 * x[:, 0]) + 0.3 * x[:, -1] + 0.2 * torch.randn(n, generator=g, dtype=torch.float64)
    return x, y


def _nested():
    inner = ScaleKernel(MaternKernel(nu=2.5, ard_num_dims=3))
    inner.outputscale = 0.7
    return ScaleKernel(inner)


KERNELS = [
    ScaleKernel(RBFKernel(ard_num_dims=3)),
    MaternKernel(nu=0.5, ard_num_dims=3),
    ScaleKernel(MaternKernel(nu=1.5)),
    _nested(),
    ScaleKernel(RQKernel(ard_num_dims=3)),
    ScaleKernel(gpytorch.kernels.PeriodicKernel()) + RBFKernel(),
]


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: type(getattr(k, "base_kernel", k)).__name__)
@pytest.mark.parametrize("tile_entries", [32_768, 300])
def test_gram_matrix_and_its_derivatives_agree_with_autograd(kernel, tile_entries, monkeypatch):
    monkeypatch.setattr("sggp.hyperparameters.exact.gram_matrix._TILE_ENTRIES", tile_entries)
    x, y = _rows(57)
    x[5] = x[40]
    ours, theirs = copy_kernel(kernel), copy_kernel(kernel)
    gram, found = GramMatrix(ours, x), x.new_empty(57, 57)
    gram.evaluate(found)
    with gpytorch.settings.lazily_evaluate_kernels(False):
        dense = theirs(x).to_dense()
    exact = torch.from_numpy(kernel_matrix(theirs, x, x))
    torch.testing.assert_close(found.tril(), exact.tril(), rtol=0, atol=1e-12)
    if getattr(kernel, "nu", None) == 0.5:
        return  # theirs has a slope where rows coincide; ours: test_gradient_agrees_with_finite_differences
    inverse = torch.linalg.inv(dense.detach() + 0.1 * torch.eye(57))
    columns = torch.stack([y, y**2, y**3], dim=1)
    backward(gram.pulled(Sensitivity(inverse, columns, 2)))
    dense.backward(0.5 * (columns @ columns.T - 2 * inverse))
    for (name, own), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-9, atol=1e-9, msg=name)


@pytest.mark.parametrize("case", ["learnt", "known", "per point", "zero"])
def test_merged_repeats_change_neither_value_nor_gradient(case, monkeypatch):
    x, y = _rows(40)
    x = torch.cat([x, x[:15], x[:4]])
    y = torch.cat([y, y[:15] + 0.1, y[:4] - 0.3])
    y = torch.stack([y, y.square()], dim=1)
    n = len(x)
    noise = {
        "learnt": None,
        "known": torch.tensor(0.2, dtype=torch.float64),
        "per point": torch.linspace(0.1, 0.6, n, dtype=torch.float64),
        "zero": torch.linspace(0.0, 0.6, n, dtype=torch.float64),
    }[case]

    def objective():
        kernel = copy_kernel(named_kernel("matern32", 3))
        start = 0.1 if noise is None else None
        problem = FitProblem.checked(kernel, x, y, CommonOptions(noise_variance=noise))
        return Objective(Coordinates(kernel, initial_noise=start, noise_floor=1e-6), problem, problem.trace())

    merged = objective()
    monkeypatch.setattr("sggp.hyperparameters.exact.objective._Rows._merge", lambda *_: None)
    plain = objective()
    assert (merged.size, plain.size) == (n if case == "zero" else 40, n)
    u = merged.coordinates.vector().numpy() + 0.1
    value, gradient = merged(u)
    expected, slope = plain(u)
    assert value == pytest.approx(expected, abs=1e-10)
    np.testing.assert_allclose(gradient, slope, atol=1e-9)
    torch.testing.assert_close(merged.best.mean, plain.best.mean, rtol=1e-8, atol=1e-9)
    assert merged.best.value == pytest.approx(plain.best.value, abs=1e-8)


def test_fit_of_repeated_rows_reports_the_likelihood_of_all_of_them():
    x, y = _rows(60)
    x, y = torch.cat([x, x]), torch.cat([y, y + 0.1])
    fit = fit_exact(named_kernel("matern32", 3), x, y)
    value = exact_log_marginal_likelihood(fit.kernel, x, y, noise_variance=fit.noise_variance, mean=fit.mean)
    assert fit.log_marginal_likelihood == pytest.approx(value, abs=1e-6)


def _fits(x, y, monkeypatch, **settings):
    """The fit that starts on a part of the rows, and the one that does not."""
    kernel = named_kernel("matern32", x.shape[1])
    first = fit_exact(kernel, x, y, **settings)
    monkeypatch.setattr(exact, "_PART_ROWS", 10**9)
    return first, fit_exact(kernel, x, y, **{**settings, "tolerance": 1e-7})


def _height(fit):
    """The largest value of all rows, in nats."""
    n = fit.trace[-1]["rows"]
    return n * max(record["value"] for record in fit.trace if record["rows"] == n)


def test_a_search_that_starts_on_a_part_ends_at_the_same_optimum(monkeypatch):
    x, y = _rows(520)
    found, plain = _fits(x, y, monkeypatch)
    assert found.converged
    assert {record["rows"] for record in found.trace} == {156, 520}
    assert {record["rows"] for record in plain.trace} == {520}
    assert _height(found) == pytest.approx(_height(plain), abs=0.02)
    full = [record for record in found.trace if record["rows"] == 520]
    assert len(full) < len(plain.trace)
    assert found.gradient_norm == pytest.approx(
        min(full, key=lambda record: -record["value"])["gradient_norm"]
    )


def test_a_tighter_tolerance_ends_nearer(monkeypatch):
    x, y = _rows(520)
    found, plain = _fits(x, y, monkeypatch, tolerance=1e-7)
    assert _height(found) == pytest.approx(_height(plain), abs=1e-4)
    assert found.gradient_norm < 1e-5


def test_known_noise_per_point_and_repeats_go_with_their_part(monkeypatch):
    x, y = _rows(510)
    x, y = torch.cat([x, x[:50]]), torch.cat([y, y[:50]])
    noise = torch.linspace(0.02, 0.2, 560, dtype=torch.float64)
    fit = fit_exact(named_kernel("matern32", 3), x, y, noise_variance=noise)
    monkeypatch.setattr(exact, "_PART_ROWS", 10**9)
    plain = fit_exact(named_kernel("matern32", 3), x, y, noise_variance=noise, tolerance=1e-7)
    assert fit.log_marginal_likelihood == pytest.approx(plain.log_marginal_likelihood, abs=0.05)


def test_a_part_has_the_noise_of_its_rows():
    x, y = _rows(520)
    noise = x[:, 0].exp()
    problem = FitProblem.checked(named_kernel("matern32", 3), x, y, CommonOptions(noise_variance=noise))
    part = exact._part(Objective(problem.coordinates(), problem, problem.trace()), problem)
    assert part.size == 156
    torch.testing.assert_close(part.rows.known, part.rows.x[:, 0].exp())


def test_only_searches_are_recorded(monkeypatch):
    x, y = _rows(520)
    calls, original = [], GramMatrix.evaluate
    monkeypatch.setattr(
        GramMatrix, "evaluate", lambda self, out: (calls.append(len(out)), original(self, out))
    )
    fit = fit_exact(named_kernel("matern32", 3), x, y)
    recorded = [record["rows"] for record in fit.trace]
    assert calls.count(520) == recorded.count(520)
    assert calls.count(156) == recorded.count(156) + 5  # one more for each of the parameters


def test_the_best_of_several_starts_is_what_is_returned():
    x, y = _rows(60)
    fit = fit_exact(named_kernel("matern32", 3), x, y, restarts=5, max_iterations=1, generator=0)
    values = [record["value"] for record in fit.trace]
    assert max(values) > values[-1] + 0.01
    found = exact_log_marginal_likelihood(fit.kernel, x, y, noise_variance=fit.noise_variance, mean=fit.mean)
    assert found == pytest.approx(fit.log_marginal_likelihood, abs=1e-6)
    best = fit.trace[int(np.argmax(values))]["values"]
    assert best["noise_variance"] == pytest.approx(fit.noise_variance, rel=1e-9)


def test_a_part_without_noise_does_not_decide_for_all_rows(monkeypatch):
    g = torch.Generator().manual_seed(4)
    x = torch.randn(600, 4, generator=g, dtype=torch.float64)
    kernel = named_kernel("matern32", 4)
    kernel.base_kernel.lengthscale = 0.8
    factor = torch.linalg.cholesky(kernel(x).to_dense().detach() + 1e-8 * torch.eye(600))
    y = factor @ torch.randn(600, generator=g, dtype=torch.float64)
    y = y + 0.1**0.5 * torch.randn(600, generator=g, dtype=torch.float64)
    y, floor = (y - y.mean()) / y.std(), 1e-5
    weak = LogNormalPrior(-4.0, 3.0).double()
    found, plain = _fits(x, y, monkeypatch, noise_floor=floor, noise_prior=weak)
    last = [record for record in found.trace if record["rows"] < 600][-1]
    assert last["values"]["noise_variance"] < 2 * floor  # what is to be survived
    assert found.noise_variance == pytest.approx(float(plain.noise_variance), rel=0.02)
    assert _height(found) == pytest.approx(_height(plain), abs=0.02)


# the minimiser


def _bowl(matrix, centre):
    return lambda u: (0.5 * (u - centre) @ matrix @ (u - centre), matrix @ (u - centre))


def test_a_known_hessian_needs_one_step_and_bounds_hold():
    matrix, centre = np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([0.3, -0.4])
    calls = []

    def counted(u):
        calls.append(u)
        return _bowl(matrix, centre)(u)

    wide = np.full(2, 9.0)
    found = descend(counted, np.zeros(2), matrix, Box(-wide, wide), StoppingRule(1e-12, 0.0, 9))
    np.testing.assert_allclose(found.u, centre, atol=1e-12)
    assert found.converged
    assert len(calls) == 2
    low = np.array([0.5, -9.0])
    held = descend(_bowl(matrix, centre), np.ones(2), np.eye(2), Box(low, wide), StoppingRule(1e-10, 0.0, 50))
    assert held.converged
    np.testing.assert_allclose(held.u, [0.5, -0.5], atol=1e-8)  # -0.4 - 0.5 · 0.2 along the bound


def test_descent_of_a_curved_valley_and_what_it_says_when_it_ends():
    def valley(u):
        a, b = 1 - u[0], u[1] - u[0] ** 2
        return a * a + 100 * b * b, np.array([-2 * a - 400 * u[0] * b, 200 * b])

    wide, start = np.full(2, np.inf), np.array([-1.2, 1.0])
    everywhere = Box(-wide, wide)
    found = descend(valley, start, np.eye(2), everywhere, StoppingRule(1e-8, 0.0, 200))
    assert found.converged
    np.testing.assert_allclose(found.u, 1.0, atol=1e-6)
    few = StoppingRule(1e-8, 0.0, 3)
    cut = descend(valley, start, np.eye(2), everywhere, few)
    assert (cut.converged, cut.stuck) == (False, False)
    wrong = descend(lambda u: (valley(u)[0], -valley(u)[1]), start, np.eye(2), everywhere, few)
    assert (wrong.converged, wrong.stuck) == (False, True)


def test_little_promise_on_a_steep_slope_is_not_believed():
    matrix, wide = np.diag([1.0, 1.0]), np.full(2, np.inf)
    stiff = np.diag([1e6, 1e6])  # of which every step promises next to nothing
    found = descend(
        _bowl(matrix, np.zeros(2)), np.ones(2), stiff, Box(-wide, wide), StoppingRule(1e-5, 1e-3, 100)
    )
    assert found.converged
    assert np.abs(found.u).max() <= 1e-3


def test_much_promised_on_a_flat_slope_is_pursued():
    everywhere = Box(np.full(2, -np.inf), np.full(2, np.inf))
    flat = np.diag([1e-2, 1e-2])
    for gain, reached in ((1e-3, True), (1e3, False)):
        rule = StoppingRule(1e-2, gain, 100)
        found = descend(_bowl(flat, np.zeros(2)), np.full(2, 30.0), flat, everywhere, rule)
        assert found.converged
        assert (found.value <= 1e-2) == reached


def test_differenced_hessian_is_symmetric_and_its_positive_part_definite():
    matrix = np.array([[2.0, 0.5, 0.0], [0.5, -1.0, 0.2], [0.0, 0.2, 1e-9]])
    objective, upper = _bowl(matrix, np.zeros(3)), np.array([0.0, 9.0, 9.0])
    start = np.array([0.0, 1.0, 2.0])
    found = differenced_hessian(objective, start, objective(start)[1], upper)
    np.testing.assert_allclose(found, matrix, atol=1e-9)
    size = np.abs(np.linalg.eigvalsh(matrix))
    values = np.linalg.eigvalsh(positive_part(matrix))
    np.testing.assert_allclose(values, np.sort(np.maximum(size, 1e-4 * size.max())), rtol=1e-9)


@pytest.mark.parametrize(
    ("ends", "kept"), [([1.0, 1.0 - 1e-12], 0), ([1.0, 2.0], 0), ([1.0, 1.0 - 1e-12, 0.5], 2)]
)
def test_a_further_start_wins_only_by_more_than_rounding(ends, kept, monkeypatch):
    """Two starts that end at one optimum differ by rounding: the first of them is kept on every machine."""
    places = iter(enumerate(ends))

    def search(self, whole, part, u):
        number, value = next(places)
        best = Best(value, np.full(len(u), 0.1 * number), np.zeros(len(u)), -value, torch.zeros(1))
        whole.best = best if whole.best is None or value < whole.best.objective else whole.best
        return True, f"start {number}"

    monkeypatch.setattr(exact._Search, "through", search)
    fit = fit_exact(
        named_kernel("rbf", 3), *_rows(20), noise_variance=0.1, restarts=len(ends) - 1, generator=0
    )
    assert fit.message == f"start {kept}"
    assert fit.hyperparameters["outputscale"] == pytest.approx(np.exp(0.1 * kept))
